//! The master: a hash, an epoch and a lease, and connections to it.

use std::{collections::BTreeMap, rc::Rc};

use super::{BUS_TIMEOUT_MS, Coordinator, HEAL_MS, MASTER_TIMEOUT_MS, What, World, proxy::key_homes, shown};
use crate::{
    contract::{AgentBusMessage, Confirmation, Epoch, MapDelta, NodeMap},
    flaw::{self, Flaw},
    membership::simulation::{
        checker::{Stored, Violation},
        homes::AllHeard,
    },
    membership::{Event, LeaseAnswer, MapWrite, Now, RequestId, WriteAnswer, lease_token},
};

/// How far a replica may be behind.
const REPLICA_LAG_MS: u64 = 60;

#[derive(Clone)]
pub(super) struct Master {
    pub(super) up: bool,
    pub(super) process: u64,
    pub(super) hung_until_ms: u64,
    pub(super) lease: Option<(String, u64)>,
    /// By which request the one who holds it gained it, and when.
    gained: (RequestId, u64),
    /// Somebody has led since it started.
    was_led: bool,
    pub(super) started_at_ms: u64,
    pub(super) hash: NodeMap,
    pub(super) epoch: Option<Epoch>,
    /// The last one.
    pub(super) delta: Option<Rc<MapDelta>>,
    /// When the hash was last emptied, perhaps by somebody who had no business there.
    pub(super) emptied_at_ms: Option<u64>,
    pub(super) rehomed: Option<Epoch>,
    /// What proxies confirm.
    pub(super) proxies: BTreeMap<String, Confirmation>,
    /// Orders to purge, by node name.
    pub(super) orders: BTreeMap<String, Epoch>,
    /// When it last lost everything.
    pub(super) died_at_ms: Option<u64>,
    /// When a map was last written, and what stood there before.
    before: Option<(u64, Box<Master>)>,
}

#[derive(Debug, Clone)]
pub(super) enum Request {
    Lease {
        request: RequestId,
        instance: String,
        term: u64,
        ttl_ms: u64,
    },
    Read {
        request: RequestId,
    },
    Write {
        write: MapWrite,
        sent_ms: u64,
        /// What its sender had heard of proxies.
        heard: Rc<AllHeard>,
    },
    ReadProxies {
        request: RequestId,
    },
    DropProxies {
        ids: Vec<String>,
    },
    OrderPurge {
        token: String,
        orders: Vec<(String, Epoch)>,
    },
    Release {
        token: String,
    },
}

impl Master {
    pub(super) fn new() -> Self {
        Master {
            up: true,
            process: 1,
            hung_until_ms: 0,
            lease: None,
            gained: (0, 0),
            was_led: false,
            started_at_ms: 0,
            hash: NodeMap::new(),
            epoch: None,
            delta: None,
            emptied_at_ms: None,
            rehomed: None,
            proxies: BTreeMap::new(),
            orders: BTreeMap::new(),
            died_at_ms: None,
            before: None,
        }
    }

    pub(super) fn stored(&self) -> Stored<'_> {
        let lease = self.lease.as_ref().map(|(token, _)| token.as_str());
        Stored { hash: &self.hash, epoch: self.epoch, lease, gained: self.gained }
    }

    fn is_unexpected(&self, write: &MapWrite) -> bool {
        write.expected.is_some_and(|nodes| nodes != self.hash.len()) && !flaw::has(Flaw::WritesUponAnything)
    }

    /// A replica takes its place. Returns whether the last map had not reached it.
    pub(super) fn fail_over(&mut self, now_ms: u64) -> bool {
        let lost = self.before.take().filter(|(at_ms, _)| now_ms <= at_ms + REPLICA_LAG_MS);
        let is_lost = lost.is_some();
        if let Some((_, before)) = lost {
            *self = Master { process: self.process, ..*before };
        }
        self.process += 1;
        // The lease may have been given to another by what was lost.
        self.died_at_ms = Some(now_ms);
        is_lost
    }

    /// It dies, and loses everything.
    pub(super) fn die(&mut self, now_ms: u64) {
        *self = Master {
            up: false,
            process: self.process + 1,
            hung_until_ms: self.hung_until_ms,
            died_at_ms: Some(now_ms),
            ..Master::new()
        };
    }
}

impl World {
    pub(super) fn reaches_master(&self, number: usize) -> bool {
        self.master.up
            && self.master.hung_until_ms <= self.now_ms
            && self.coordinators[number].cut_from_master_until_ms <= self.now_ms
    }

    pub(super) fn connect_master(&mut self, number: usize) {
        if self.coordinators[number].master.is_some() {
            return;
        }
        if !self.reaches_master(number) {
            let again_ms = self.now_ms + 50 + self.random.below(100);
            return self.after(again_ms, number, What::ConnectMaster);
        }
        self.numbers += 1;
        let run_id = Some(format!("master{}", self.master.process));
        self.coordinators[number].master = Some(self.numbers);
        self.coordinators[number].connected_at_ms = self.now_ms;
        self.coordinators[number].asked.clear();
        self.step(number, Event::MasterUp { run_id });
    }

    pub(super) fn lose_master(&mut self, number: usize, reason: &str) {
        if self.coordinators[number].master.take().is_none() {
            return;
        }
        self.coordinators[number].asked.clear();
        self.after(self.now_ms, number, What::Step(Event::MasterDown { reason: reason.to_owned() }));
    }

    pub(super) fn ask(&mut self, number: usize, id: RequestId, request: Request) {
        let latency = self.latency();
        let (now_ms, process) = (self.now_ms, self.master.process);
        let coordinator = &mut self.coordinators[number];
        let Some(connection) = coordinator.master else { return };
        // Nobody waits for an answer to what has no number.
        if id > 0 {
            coordinator.asked.insert(id);
        }
        coordinator.last_to_master_ms = coordinator.last_to_master_ms.max(now_ms + latency);
        let at_ms = coordinator.last_to_master_ms;
        if let Request::Write { write, .. } = &request {
            self.strike_while_writing(write);
        }
        self.after(at_ms, number, What::AtMaster { connection, process, request, late: false });
        self.after(now_ms + MASTER_TIMEOUT_MS, number, What::MasterSilent { connection, request: id });
    }

    /// A request arrives, perhaps long after its sender gave up on it.
    pub(super) fn at_master(&mut self, number: usize, life: u64, connection: u64, process: u64, request: Request, late: bool) {
        if !self.master.up || self.master.process != process {
            return;
        }
        let held_ms = self.master.hung_until_ms.max(self.coordinators[number].cut_from_master_until_ms);
        if held_ms > self.now_ms {
            // In order still: what was sent later is held up as long, and comes after it in the queue. What was sent on a
            // connection that was given up may well come after what is sent on the next.
            let given_up = self.coordinators[number].master != Some(connection);
            let late_ms = if given_up { connection % 8 * 60 } else { 0 };
            let what = What::AtMaster { connection, process, request, late };
            self.queue.push(held_ms + late_ms, (number, life, what));
            return;
        }
        if self.coordinators[number].master != Some(connection) && !late && self.random.below(2) == 0 {
            // Given up, it may still lie in a buffer somewhere.
            let at_ms = self.now_ms + self.random.below(150);
            return self.queue.push(at_ms, (number, life, What::AtMaster { connection, process, request, late: true }));
        }
        if self.master.lease.as_ref().is_some_and(|(_, until_ms)| *until_ms <= self.now_ms) {
            self.master.lease = None;
        }
        let holder = self.master.lease.as_ref().map(|(token, _)| token.clone());
        let (id, event) = match request {
            Request::Lease { request, instance, term, ttl_ms } => {
                let token = lease_token(&instance, term);
                let gained = holder.as_ref() != Some(&token);
                let earlier = holder.as_ref().and_then(|holder| holder.split_once(':')).is_some_and(|(theirs, their_term)| {
                    theirs == instance && their_term.parse::<u64>().is_ok_and(|their_term| their_term < term)
                });
                let answer = if !gained || holder.is_none() || earlier {
                    if !std::mem::replace(&mut self.master.was_led, true) {
                        let outcome = self.goes_first(number, connection);
                        self.check(outcome);
                    }
                    self.master.lease = Some((token, self.now_ms + ttl_ms));
                    if gained {
                        self.master.gained = (request, self.now_ms);
                    }
                    LeaseAnswer::Held { gained, epoch: self.master.epoch, nodes: self.master.hash.len() }
                } else {
                    let left_ms = self.master.lease.as_ref().map(|(_, until_ms)| until_ms - self.now_ms);
                    LeaseAnswer::Other { left_ms }
                };
                (request, Event::Leased { request, answer })
            }
            Request::Read { request } => {
                let Master { hash, epoch, rehomed, .. } = &self.master;
                (request, Event::MapRead { request, map: hash.clone(), epoch: *epoch, rehomed: *rehomed })
            }
            Request::Write { write, sent_ms, heard } => {
                let (request, stored) = (write.request, self.master.epoch.unwrap_or(0));
                let is_fence_down = flaw::has(Flaw::NoFence) || flaw::has(Flaw::NoLease);
                let fenced = holder.as_ref() != Some(&write.token) && !is_fence_down;
                let answer = if fenced {
                    WriteAnswer::Fenced
                } else if write.known < stored || self.master.is_unexpected(&write) {
                    WriteAnswer::Stale { stored }
                } else {
                    self.write(number, write, sent_ms, &heard);
                    WriteAnswer::Done
                };
                (request, Event::Wrote { request, answer })
            }
            Request::ReadProxies { request } => (request, Event::ProxiesRead { request, proxies: self.master.proxies.clone() }),
            Request::DropProxies { ids } => return ids.iter().for_each(|id| _ = self.master.proxies.remove(id)),
            Request::OrderPurge { token, orders } => {
                if holder == Some(token) {
                    self.master.orders.extend(orders);
                }
                return;
            }
            Request::Release { token } => {
                if holder == Some(token) {
                    self.master.lease = None;
                }
                return;
            }
        };
        if self.coordinators[number].life == life {
            let answer = What::MasterAnswers { connection, request: id, event };
            let at_ms = (self.now_ms + self.latency()).max(self.coordinators[number].last_from_master_ms);
            self.coordinators[number].last_from_master_ms = at_ms;
            self.after(at_ms, number, answer);
        }
    }

    /// The first to lead since the master started, and has lost everything, is not one who remembers nothing, where another remembers the
    /// last map and could have connected as early.
    fn goes_first(&self, number: usize, connection: u64) -> Result<(), Violation> {
        let known = |coordinator: &Coordinator| coordinator.membership.status(Now { mono_ms: self.now_ms, unix_ms: 0 }).epoch;
        let (last, _) = self.checker.published();
        let early_ms = self.coordinators[number].connected_at_ms + 50;
        let could_have_come = |other: &Coordinator| {
            let held_ms = other.cut_from_master_until_ms.max(other.paused_until_ms).max(self.master.hung_until_ms);
            let healed_ms = if self.now_ms >= HEAL_MS { HEAL_MS } else { 0 };
            other.running && held_ms.max(self.master.started_at_ms).max(healed_ms) <= early_ms
        };
        let remembers =
            |(number, other): (usize, &Coordinator)| known(other) == last && self.checker.is_known_to((number, other.life));
        let who = self.coordinators.iter().enumerate().position(|other| remembers(other) && could_have_come(other.1));
        // What was asked on an earlier connection may have been held up for as long as anything.
        let is_timely = self.coordinators[number].master == Some(connection);
        match who.filter(|_| is_timely && self.master.epoch.is_none() && self.checker.has_nodes(last)) {
            Some(other) if known(&self.coordinators[number]) == 0 => {
                Err(format!("c{number} remembers nothing and leads at an empty master, and c{other} remembers map {last}"))
            }
            _ => Ok(()),
        }
    }

    /// A write is carried out: the one place where everybody sees what was decided.
    fn write(&mut self, number: usize, write: MapWrite, sent_ms: u64, heard: &AllHeard) {
        let mut hash = match write.expected {
            Some(_) => self.master.hash.clone(),
            None => NodeMap::new(),
        };
        for name in &write.changed {
            hash.insert(name.clone(), write.map[name].clone());
        }
        for name in &write.removed {
            hash.remove(name);
        }
        self.note(|| format!("written: {} {:?}", write.epoch, shown::map(&write.map)));
        let author = (number, self.coordinators[number].life);
        let lost_maps = self.checker.counts.lost_maps;
        // Readers take no empty map, so they go on by one of which its author knows as little as the master.
        let knows_nothing = self.master.epoch.is_none() && self.checker.published().0 > 0 && write.map.is_empty();
        let outcome = self.checker.wrote(&write, author, sent_ms, self.master.stored(), &hash, self.now_ms);
        self.check(outcome);
        if self.checker.counts.lost_maps > lost_maps {
            self.reads.begin_anew(self.now_ms);
            self.key_homes.begin_anew();
            self.lost_epoch = write.epoch;
            // What nodes hold is not known to anybody, so they may be emptied.
            self.reads.may_lose();
            self.end_blindness();
        }
        let outcome = self.key_homes.published(write.epoch, &key_homes(&write.map), heard);
        self.check(outcome);
        if knows_nothing {
            self.lost_epoch = write.epoch;
        }
        if write.rehomed == write.epoch {
            self.rehomed_at_ms = self.now_ms;
        }
        self.master.before = None;
        self.master.before = Some((self.now_ms, Box::new(self.master.clone())));
        if hash.is_empty() {
            self.master.emptied_at_ms = Some(self.now_ms);
        }
        self.master.hash = hash;
        self.master.epoch = Some(write.epoch);
        self.master.rehomed = Some(write.rehomed);
        let delta = Rc::new(write.delta);
        self.master.delta = Some(delta.clone());
        self.tell_proxies(&write.map, &delta);
        self.tell_coordinators(&Event::DeltaHeard(MapDelta::clone(&delta)));
    }

    // ---- its channels ----

    pub(super) fn open_bus(&mut self, number: usize) {
        if !self.reaches_master(number) {
            return self.after(self.now_ms + 150, number, What::BusBack);
        }
        let coordinator = &mut self.coordinators[number];
        coordinator.buses += 1;
        coordinator.bus = Some(coordinator.buses);
        self.step(number, Event::BusUp);
    }

    pub(super) fn lose_bus(&mut self, number: usize) {
        if self.coordinators[number].bus.take().is_some() {
            self.after(self.now_ms, number, What::Step(Event::BusDown));
        }
    }

    /// Nothing comes from the master any more: who listens there does not wait for ever.
    pub(super) fn bus_falls_silent(&mut self, number: usize) {
        if let Some(bus) = self.coordinators[number].bus {
            self.after(self.now_ms + BUS_TIMEOUT_MS, number, What::BusSilent { bus });
        }
    }

    pub(super) fn bus_silent(&mut self, number: usize, bus: u64) {
        if self.coordinators[number].bus == Some(bus) && !self.reaches_master(number) {
            self.note(|| format!("c{number} gives up its connection to the channels"));
            self.lose_bus(number);
        }
    }

    /// The master publishes it.
    pub(super) fn tell_coordinators(&mut self, event: &Event) {
        for number in 0..self.coordinators.len() {
            if let Some(bus) = self.coordinators[number].bus {
                let at_ms = self.now_ms + self.latency();
                self.after(at_ms, number, What::Published { bus, event: event.clone() });
            }
        }
    }

    /// What was published arrives. A cut holds it up; what was on its way when the connection ended is lost, and who has lost it knows.
    pub(super) fn published(&mut self, number: usize, life: u64, bus: u64, event: Event) {
        let coordinator = &self.coordinators[number];
        if coordinator.life != life || coordinator.bus != Some(bus) {
            return;
        }
        let held_ms = coordinator.cut_from_master_until_ms;
        if held_ms > self.now_ms {
            return self.after(held_ms, number, What::Published { bus, event });
        }
        self.happen(number, life, What::Step(event));
    }

    /// Somebody publishes something for coordinators. While the master hangs it lies in a socket's buffer there.
    pub(super) fn say(&mut self, message: AgentBusMessage) {
        let held_ms = self.master.hung_until_ms;
        if held_ms > self.now_ms {
            return self.after(held_ms, 0, What::Said { process: self.master.process, message });
        }
        self.tell_coordinators(&Event::Heard(message));
    }

    /// What was said to a master that hung.
    pub(super) fn said(&mut self, process: u64, message: AgentBusMessage) {
        if self.master.up && self.master.process == process {
            self.say(message);
        }
    }
}
