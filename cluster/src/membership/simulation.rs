//! Membership under faults: coordinators, a master, nodes and their agents in a world of made-up time.
//!
//! A seed decides everything, so a failing one can be played again: `VRC_SEED=17 cargo test -p vrc-cluster simulation`, and
//! `VRC_SEEDS=100000` plays that many. What must hold is checked where it can be seen: at the master, when a write is
//! carried out there, against what was really done to the processes that the map speaks of.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Map;

use super::{
    Action, Event, FlushId, LeaseAnswer, LinkId, Loss, MapWrite, Membership, Now, Options, RequestId, Scope, Server, WriteAnswer,
    lease_token,
};
use crate::contract::{AgentBusMessage, Announcement, Endpoint, Epoch, Node as MapNode, NodeMap};

const COORDINATORS: usize = 2;
const NODES: usize = 4;
const START_UNIX_MS: i64 = 1_795_000_000_000;
const CALM_MS: u64 = 1_500;
const FAULTS_MS: u64 = 8_000;
const HEALING_MS: u64 = 9_000;
const MASTER_TIMEOUT_MS: u64 = 300;

fn options() -> Options {
    Options {
        ping_interval_ms: 250,
        ping_timeout_ms: 600,
        recheck_ms: 250,
        agent_timeout_ms: 2_500,
        forget_after_ms: 4_000,
        lease_ms: 900,
        lease_interval_ms: 250,
        join_flush_timeout_ms: 1_000,
        guest_flush_timeout_ms: 300,
        settle_ms: 30,
        flap_pause_ms: 50,
        flap_pause_max_ms: 800,
        flap_forgiven_after_ms: 3_000,
        ..Options::default()
    }
}

/// Which faults a seed plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Profile {
    /// Everything, with clocks that are right.
    Anything,
    /// Clocks are wrong and jump. Nothing loses its memory: the clock is what such a loss is made up for with.
    WrongClocks,
    /// Master, coordinators and the channels fail, and no node does: then nothing may happen to the nodes.
    ControlOnly,
}

#[derive(Debug, Clone)]
enum What {
    Step(Event),
    Tick(u64),
    AtMaster { connection: u64, process: u64, request: Request },
    MasterAnswers { connection: u64, request: RequestId, event: Event },
    MasterSilent { connection: u64, request: RequestId },
    ConnectMaster,
    BusBack,
    Connecting { node: usize, link: LinkId, until_ms: u64 },
    AtNode { node: usize, link: LinkId, run_id: String, command: Command },
    NodeAnswers { link: LinkId, event: Event },
    LinkReset { link: LinkId },
    Announce { node: usize },
    Restart { node: usize },
    MasterStarts,
    CoordinatorStarts,
    Fault,
}

#[derive(Debug, Clone)]
enum Request {
    Lease { request: RequestId, instance: String, term: u64, ttl_ms: u64 },
    Read { request: RequestId },
    Write(MapWrite),
    Release { token: String },
}

#[derive(Debug, Clone)]
enum Command {
    Ping,
    Flush { flush: FlushId, scope: Scope },
}

struct Coordinator {
    /// Another life, another number: what was meant for the one before does not reach it.
    life: u64,
    membership: Membership,
    running: bool,
    paused_until_ms: u64,
    cut_from_master_until_ms: u64,
    clock_offset_ms: i64,
    master: Option<u64>,
    asked: BTreeSet<RequestId>,
    bus: bool,
    links: HashMap<LinkId, (usize, String)>,
    ticks: u64,
    /// Messages on one connection arrive in their order.
    last_to_master_ms: u64,
}

struct Node {
    name: String,
    run_id: Option<String>,
    paused_until_ms: u64,
    cut_until_ms: [u64; COORDINATORS],
    silent_until_ms: u64,
}

#[derive(Default)]
struct Process {
    emptied_at_ms: Option<u64>,
    guests_flushed_at_ms: Option<u64>,
}

struct Master {
    up: bool,
    process: u64,
    hung_until_ms: u64,
    lease: Option<(String, u64)>,
    hash: NodeMap,
    epoch: Option<Epoch>,
}

/// What readers may hold: the greatest epoch that was ever published, and what its map says.
#[derive(Default)]
struct Published {
    epoch: Epoch,
    map: NodeMap,
    /// Which coordinator wrote it, in which of its lives.
    author: (usize, u64),
    /// Since when each node has been shown up without a break, or not up.
    since_ms: BTreeMap<String, u64>,
}

struct World {
    seed: u64,
    random: Random,
    profile: Profile,
    now_ms: u64,
    queue: BTreeMap<(u64, u64), (usize, u64, What)>,
    sequence: u64,
    numbers: u64,
    coordinators: Vec<Coordinator>,
    nodes: Vec<Node>,
    processes: HashMap<String, Process>,
    master: Master,
    published: Published,
    flushes: usize,
    writes: usize,
    lost_maps: usize,
    log: Vec<String>,
    logging: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let profile = match random.below(4) {
            0 => Profile::WrongClocks,
            1 => Profile::ControlOnly,
            _ => Profile::Anything,
        };
        let mut world = World {
            seed,
            profile,
            random,
            now_ms: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            numbers: 0,
            coordinators: Vec::new(),
            nodes: Vec::new(),
            processes: HashMap::new(),
            master: Master { up: true, process: 1, hung_until_ms: 0, lease: None, hash: NodeMap::new(), epoch: None },
            published: Published::default(),
            flushes: 0,
            writes: 0,
            lost_maps: 0,
            log: Vec::new(),
            logging: std::env::var_os("VRC_SEED").is_some(),
        };
        for number in 0..COORDINATORS {
            let coordinator = world.coordinator(number);
            world.coordinators.push(coordinator);
            world.after(world.now_ms, number, What::ConnectMaster);
            world.after(world.now_ms, number, What::BusBack);
            world.after(world.now_ms, number, What::Tick(0));
        }
        for node in 0..NODES {
            let run_id = world.new_process();
            world.nodes.push(Node {
                name: format!("n{node}:1"),
                run_id: Some(run_id),
                paused_until_ms: 0,
                cut_until_ms: [0; COORDINATORS],
                silent_until_ms: 0,
            });
            let at_ms = world.random.below(200);
            world.after(at_ms, 0, What::Announce { node });
        }
        world.after(CALM_MS, 0, What::Fault);
        world
    }

    fn coordinator(&mut self, number: usize) -> Coordinator {
        self.numbers += 1;
        let clock_offset_ms = if self.profile == Profile::WrongClocks { self.random.signed(100_000) } else { 0 };
        Coordinator {
            life: self.numbers,
            membership: Membership::new(format!("c{number}.{}", self.numbers), options()),
            running: true,
            paused_until_ms: 0,
            cut_from_master_until_ms: 0,
            clock_offset_ms,
            master: None,
            asked: BTreeSet::new(),
            bus: false,
            links: HashMap::new(),
            ticks: 0,
            last_to_master_ms: 0,
        }
    }

    fn new_process(&mut self) -> String {
        self.numbers += 1;
        let run_id = format!("run{}", self.numbers);
        self.processes.insert(run_id.clone(), Process::default());
        run_id
    }

    fn after(&mut self, at_ms: u64, coordinator: usize, what: What) {
        let life = self.coordinators.get(coordinator).map_or(0, |coordinator| coordinator.life);
        self.sequence += 1;
        self.queue.insert((at_ms.max(self.now_ms), self.sequence), (coordinator, life, what));
    }

    fn latency(&mut self) -> u64 {
        match self.random.below(20) {
            0 => self.random.below(100),
            _ => 1 + self.random.below(3),
        }
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if self.logging {
            let line = format!("{:>6} {}", self.now_ms, line());
            self.log.push(line);
        }
    }

    fn fail(&self, what: &str) -> ! {
        for line in &self.log {
            println!("{line}");
        }
        panic!("seed {} ({:?}) at {} ms: {what}\nplay it again: VRC_SEED={}", self.seed, self.profile, self.now_ms, self.seed);
    }

    // ---- the course of time ----

    fn run(&mut self) {
        let end_ms = CALM_MS + FAULTS_MS + HEALING_MS;
        while let Some(((at_ms, _), (coordinator, life, what))) = self.queue.pop_first() {
            if at_ms > end_ms {
                break;
            }
            self.now_ms = at_ms;
            self.happen(coordinator, life, what);
        }
        self.check_healed();
    }

    fn happen(&mut self, number: usize, life: u64, what: What) {
        let of_world = matches!(
            what,
            What::Announce { .. } | What::Restart { .. } | What::MasterStarts | What::CoordinatorStarts | What::Fault
        );
        let on_its_way = matches!(what, What::AtMaster { .. } | What::AtNode { .. });
        if !of_world && !on_its_way {
            let coordinator = &self.coordinators[number];
            if coordinator.life != life || !coordinator.running {
                return;
            }
            if coordinator.paused_until_ms > self.now_ms {
                // It lies in a socket's buffer until the process runs again.
                let until_ms = coordinator.paused_until_ms;
                return self.after(until_ms, number, what);
            }
        }
        match what {
            What::Step(event) => self.step(number, event),
            What::Tick(ticks) => {
                if self.coordinators[number].ticks == ticks {
                    self.step(number, Event::Tick);
                }
            }
            What::ConnectMaster => self.connect_master(number),
            What::BusBack => {
                if self.reaches_master(number) {
                    self.coordinators[number].bus = true;
                    self.step(number, Event::BusUp);
                } else {
                    self.after(self.now_ms + 150, number, What::BusBack);
                }
            }
            What::AtMaster { connection, process, request } => self.at_master(number, life, connection, process, request),
            What::MasterAnswers { connection, request, event } => {
                let coordinator = &mut self.coordinators[number];
                if coordinator.master == Some(connection) && coordinator.asked.remove(&request) {
                    self.step(number, event);
                }
            }
            What::MasterSilent { connection, request } => {
                let coordinator = &self.coordinators[number];
                if coordinator.master == Some(connection) && coordinator.asked.contains(&request) {
                    self.lose_master(number, "no answer");
                }
            }
            What::Connecting { node, link, until_ms } => self.connecting(number, node, link, until_ms),
            What::AtNode { node, link, run_id, command } => self.at_node(number, life, node, link, run_id, command),
            What::NodeAnswers { link, event } => {
                if self.coordinators[number].links.contains_key(&link) {
                    self.step(number, event);
                }
            }
            What::LinkReset { link } => {
                if let Some((node, _)) = self.coordinators[number].links.remove(&link) {
                    let name = self.nodes[node].name.clone();
                    self.step(number, Event::LinkLost { name, link, reason: "reset".to_owned(), loss: Loss::Broken });
                }
            }
            What::Announce { node } => self.announce(node),
            What::Restart { node } => {
                if self.nodes[node].run_id.is_none() {
                    let run_id = self.new_process();
                    self.note(|| format!("n{node} starts as {run_id}"));
                    self.nodes[node].run_id = Some(run_id);
                }
            }
            What::MasterStarts => {
                self.note(|| "master starts".to_owned());
                self.master.up = true;
            }
            What::CoordinatorStarts => {
                if !self.coordinators[number].running {
                    self.note(|| format!("c{number} starts"));
                    self.coordinators[number] = self.coordinator(number);
                    self.after(self.now_ms, number, What::ConnectMaster);
                    self.after(self.now_ms, number, What::BusBack);
                    self.after(self.now_ms, number, What::Tick(0));
                }
            }
            What::Fault => self.fault(),
        }
    }

    fn step(&mut self, number: usize, event: Event) {
        let coordinator = &mut self.coordinators[number];
        let unix_ms = START_UNIX_MS + self.now_ms as i64 + coordinator.clock_offset_ms;
        let now = Now { mono_ms: self.now_ms, unix_ms: unix_ms as u64 };
        let shown = self.logging.then(|| shown_event(&event));
        let actions = coordinator.membership.step(now, event);
        coordinator.ticks += 1;
        let (ticks, deadline_ms) = (coordinator.ticks, coordinator.membership.deadline_ms(now));
        assert!(deadline_ms > self.now_ms);
        if let Some(shown) = shown
            && !actions.iter().all(|action| matches!(action, Action::Ping { .. } | Action::Lease { .. }))
        {
            let actions: Vec<String> = actions.iter().map(shown_action).collect();
            self.note(|| format!("c{number} {shown:.300} -> {}", actions.join(", ")));
        }
        self.after(deadline_ms, number, What::Tick(ticks));
        for action in actions {
            self.act(number, action);
        }
    }

    fn act(&mut self, number: usize, action: Action) {
        match action {
            Action::Connect { name, link, timeout_ms, .. } => {
                let node = self.nodes.iter().position(|node| node.name == name).expect("a node of this world");
                let (at_ms, until_ms) = (self.now_ms + self.latency(), self.now_ms + timeout_ms);
                // Known from here on, so that its end can be told.
                self.coordinators[number].links.insert(link, (node, String::new()));
                self.after(at_ms, number, What::Connecting { node, link, until_ms });
            }
            Action::Disconnect { link, .. } => _ = self.coordinators[number].links.remove(&link),
            Action::Ping { link, .. } => self.tell(number, link, Command::Ping),
            Action::Flush { link, flush, scope, .. } => self.tell(number, link, Command::Flush { flush, scope }),
            Action::Lease { request, instance, term, ttl_ms } => {
                self.ask(number, request, Request::Lease { request, instance, term, ttl_ms });
            }
            Action::ReadMap { request } => self.ask(number, request, Request::Read { request }),
            Action::Write(write) => self.ask(number, write.request, Request::Write(write)),
            Action::Release { token } => self.ask(number, 0, Request::Release { token }),
            Action::Notice(_) => {}
        }
    }

    // ---- the master ----

    fn reaches_master(&self, number: usize) -> bool {
        self.master.up
            && self.master.hung_until_ms <= self.now_ms
            && self.coordinators[number].cut_from_master_until_ms <= self.now_ms
    }

    fn connect_master(&mut self, number: usize) {
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
        self.coordinators[number].asked.clear();
        self.step(number, Event::MasterUp { run_id });
    }

    fn lose_master(&mut self, number: usize, reason: &str) {
        if self.coordinators[number].master.take().is_none() {
            return;
        }
        self.coordinators[number].asked.clear();
        self.after(self.now_ms, number, What::Step(Event::MasterDown { reason: reason.to_owned() }));
        let at_ms = self.now_ms + self.random.below(50);
        self.after(at_ms, number, What::ConnectMaster);
    }

    fn ask(&mut self, number: usize, id: RequestId, request: Request) {
        let latency = self.latency();
        let (now_ms, process) = (self.now_ms, self.master.process);
        let coordinator = &mut self.coordinators[number];
        let Some(connection) = coordinator.master else { return };
        coordinator.asked.insert(id);
        coordinator.last_to_master_ms = coordinator.last_to_master_ms.max(now_ms + latency);
        let at_ms = coordinator.last_to_master_ms;
        self.after(at_ms, number, What::AtMaster { connection, process, request });
        self.after(now_ms + MASTER_TIMEOUT_MS, number, What::MasterSilent { connection, request: id });
    }

    /// A request arrives, perhaps long after its sender gave up on it.
    fn at_master(&mut self, number: usize, life: u64, connection: u64, process: u64, request: Request) {
        if !self.master.up || self.master.process != process {
            return;
        }
        let held_ms = self.master.hung_until_ms.max(self.coordinators[number].cut_from_master_until_ms);
        if held_ms > self.now_ms {
            // In order still: what was sent later is held up as long, and comes after it in the queue. What was sent on a
            // connection that was given up may well come after what is sent on the next.
            let given_up = self.coordinators[number].master != Some(connection);
            let late_ms = if given_up { connection % 8 * 60 } else { 0 };
            self.sequence += 1;
            let what = What::AtMaster { connection, process, request };
            self.queue.insert((held_ms + late_ms, self.sequence), (number, life, what));
            return;
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
                    self.master.lease = Some((token, self.now_ms + ttl_ms));
                    LeaseAnswer::Held { gained, epoch: self.master.epoch, nodes: self.master.hash.len() }
                } else {
                    let left_ms = self.master.lease.as_ref().map(|(_, until_ms)| until_ms - self.now_ms);
                    LeaseAnswer::Other { left_ms }
                };
                (request, Event::Leased { request, answer })
            }
            Request::Read { request } => {
                (request, Event::MapRead { request, map: self.master.hash.clone(), epoch: self.master.epoch })
            }
            Request::Write(write) => {
                let (request, stored) = (write.request, self.master.epoch.unwrap_or(0));
                let answer = if holder.as_ref() != Some(&write.token) {
                    WriteAnswer::Fenced
                } else if write.epoch <= stored || write.expected.is_some_and(|nodes| nodes != self.master.hash.len()) {
                    WriteAnswer::Stale { stored }
                } else {
                    self.write(number, write);
                    WriteAnswer::Done
                };
                (request, Event::Wrote { request, answer })
            }
            Request::Release { token } => {
                if holder == Some(token) {
                    self.master.lease = None;
                }
                return;
            }
        };
        let (answer, coordinator) = (What::MasterAnswers { connection, request: id, event }, &self.coordinators[number]);
        if coordinator.life == life {
            // Answers keep their order too, near enough: latencies are added to ever later moments.
            let at_ms = self.now_ms + 1;
            self.after(at_ms, number, answer);
        }
    }

    /// A write is carried out: the one place where everybody sees what was decided.
    fn write(&mut self, number: usize, write: MapWrite) {
        self.writes += 1;
        let mut hash = match write.expected {
            Some(_) => std::mem::take(&mut self.master.hash),
            None => NodeMap::new(),
        };
        for name in &write.changed {
            hash.insert(name.clone(), write.map[name].clone());
        }
        for name in &write.removed {
            hash.remove(name);
        }
        // Fields that did not change are as they were, but for the time of the last announcement.
        let plain = |map: &NodeMap| map.values().map(|node| MapNode { last_ping: None, ..node.clone() }).collect::<Vec<_>>();
        if plain(&hash) != plain(&write.map) {
            self.fail(&format!("hash and message differ: {hash:?} and {:?}", write.map));
        }
        self.check_epoch(&write);
        let author = (number, self.coordinators[number].life);
        if self.master.epoch.is_none()
            && write.expected.is_none()
            && self.published.author != author
            && plain(&write.map) != plain(&self.published.map)
        {
            // The master lost its memory, and whoever had the last map is not there to write it back. A map from the memory of
            // one who was out of touch is the best there is; what it gets wrong cannot be known.
            self.lost_maps += 1;
            self.published.map = write.map.clone();
            self.published.since_ms.clear();
        }
        self.check_emptied(&write.map);
        self.check_guests(&write.map);
        self.note(|| format!("written: {} {:?}", write.epoch, plain_map(&write.map)));
        for name in write.map.keys().chain(self.published.map.keys()).cloned().collect::<BTreeSet<_>>() {
            let up = |map: &NodeMap| map.get(&name).is_some_and(|node| node.up);
            if up(&write.map) != up(&self.published.map) {
                self.published.since_ms.insert(name.clone(), self.now_ms);
            }
        }
        self.master.hash = hash;
        self.master.epoch = Some(write.epoch);
        self.published.epoch = write.epoch;
        self.published.map = write.map;
        self.published.author = author;
        for number in 0..COORDINATORS {
            if self.coordinators[number].bus {
                let at_ms = self.now_ms + self.latency();
                let heard = Event::MapHeard { map: self.published.map.clone(), epoch: Some(write.epoch) };
                self.after(at_ms, number, What::Step(heard));
            }
        }
    }

    // ---- what must hold ----

    fn check_epoch(&self, write: &MapWrite) {
        if write.epoch <= self.published.epoch {
            self.fail(&format!("epoch {} after {}", write.epoch, self.published.epoch));
        }
    }

    /// A node is shown up only as a process that was emptied, and emptied after readers had been told not to use it.
    fn check_emptied(&self, map: &NodeMap) {
        for node in map.values().filter(|node| node.up) {
            let run_id = node.run_id.as_deref().unwrap_or("");
            let emptied_at_ms = self.processes.get(run_id).and_then(|process| process.emptied_at_ms);
            let Some(emptied_at_ms) = emptied_at_ms else {
                self.fail(&format!("{} is shown up as {run_id}, which was never emptied", node.name))
            };
            let was_up = self.published.map.get(&node.name).is_some_and(|node| node.up);
            let down_since_ms = self.published.since_ms.get(&node.name).filter(|_| !was_up);
            if down_since_ms.is_some_and(|since_ms| emptied_at_ms < since_ms + options().settle_ms) {
                self.fail(&format!("{} is shown up as it was before readers moved its keys", node.name));
            }
        }
    }

    /// A node is shown down only when all that stay have flushed their guests since readers began to use it.
    fn check_guests(&self, map: &NodeMap) {
        let up = |map: &NodeMap, name: &str| map.get(name).is_some_and(|node| node.up);
        for name in self.published.map.keys().filter(|name| up(&self.published.map, name) && !up(map, name)) {
            let since_ms = self.published.since_ms.get(name).copied().unwrap_or(0);
            for guest in map.values().filter(|node| node.up) {
                let process = &self.processes[guest.run_id.as_deref().unwrap_or("")];
                if process.guests_flushed_at_ms.is_none_or(|at_ms| at_ms < since_ms + options().settle_ms) {
                    self.fail(&format!("{name} is shown down before the guests of {} were flushed", guest.name));
                }
            }
        }
    }

    fn check_healed(&self) {
        let leading: Vec<bool> = self
            .coordinators
            .iter()
            .map(|coordinator| coordinator.membership.status(Now { mono_ms: self.now_ms, unix_ms: 0 }).leading)
            .collect();
        if leading.iter().filter(|leading| **leading).count() != 1 {
            self.fail(&format!("leading: {leading:?}"));
        }
        for node in &self.nodes {
            let shown = self.master.hash.get(&node.name);
            let truth = (true, node.run_id.clone());
            if shown.map(|node| (node.up, node.run_id.clone())) != Some(truth) {
                self.fail(&format!("{} is up as {:?}, and shown as {shown:?}", node.name, node.run_id));
            }
        }
        if self.master.epoch != Some(self.published.epoch) || self.master.hash.len() != NODES {
            self.fail("the master does not have the last map");
        }
        if self.profile == Profile::ControlOnly && self.flushes > NODES {
            self.fail(&format!("{} flushes, and only {NODES} nodes ever joined", self.flushes));
        }
    }

    // ---- the nodes ----

    fn connecting(&mut self, number: usize, node: usize, link: LinkId, until_ms: u64) {
        if !self.coordinators[number].links.contains_key(&link) {
            return;
        }
        let name = self.nodes[node].name.clone();
        let held_ms = self.nodes[node].paused_until_ms.max(self.nodes[node].cut_until_ms[number]);
        let event = match &self.nodes[node].run_id {
            _ if held_ms > self.now_ms && held_ms < until_ms => {
                return self.after(held_ms, number, What::Connecting { node, link, until_ms });
            }
            _ if held_ms > self.now_ms => {
                let event = Event::LinkLost { name, link, reason: "no answer".to_owned(), loss: Loss::Silent };
                return self.after(until_ms, number, What::NodeAnswers { link, event });
            }
            None => {
                self.coordinators[number].links.remove(&link);
                Event::LinkLost { name, link, reason: "connection refused".to_owned(), loss: Loss::Refused }
            }
            Some(run_id) => {
                let run_id = run_id.clone();
                self.coordinators[number].links.insert(link, (node, run_id.clone()));
                Event::LinkOpened { name, link, server: Server { run_id, version: None, uptime_ms: None } }
            }
        };
        self.step(number, event);
    }

    fn tell(&mut self, number: usize, link: LinkId, command: Command) {
        let Some((node, run_id)) = self.coordinators[number].links.get(&link).cloned() else { return };
        let at_ms = self.now_ms + self.latency();
        self.after(at_ms, number, What::AtNode { node, link, run_id, command });
    }

    fn at_node(&mut self, number: usize, life: u64, node: usize, link: LinkId, run_id: String, command: Command) {
        if self.nodes[node].run_id.as_ref() != Some(&run_id) {
            return;
        }
        let held_ms = self.nodes[node].paused_until_ms.max(self.nodes[node].cut_until_ms[number]);
        if held_ms > self.now_ms {
            self.sequence += 1;
            let what = What::AtNode { node, link, run_id, command };
            self.queue.insert((held_ms, self.sequence), (number, life, what));
            return;
        }
        let name = self.nodes[node].name.clone();
        let event = match command {
            Command::Ping => Event::Ponged { name, link },
            Command::Flush { flush, .. } if self.nodes_fail() && self.random.below(20) == 0 => {
                Event::FlushFailed { name, flush, reason: "MISCONF".to_owned() }
            }
            Command::Flush { flush, scope } => {
                let now_ms = self.now_ms;
                let process = self.processes.get_mut(&run_id).expect("a process of this world");
                process.guests_flushed_at_ms = Some(now_ms);
                if scope == Scope::All {
                    process.emptied_at_ms = Some(now_ms);
                    self.flushes += 1;
                }
                Event::Flushed { name, flush }
            }
        };
        if self.coordinators[number].life == life {
            let at_ms = self.now_ms + self.latency();
            self.after(at_ms, number, What::NodeAnswers { link, event });
        }
    }

    fn announce(&mut self, node: usize) {
        let next_ms = self.now_ms + 300 + self.random.below(100);
        self.after(next_ms, 0, What::Announce { node });
        let Node { name, run_id: Some(run_id), silent_until_ms, paused_until_ms, .. } = &self.nodes[node] else { return };
        if !self.master.up || self.master.hung_until_ms.max(*silent_until_ms).max(*paused_until_ms) > self.now_ms {
            return;
        }
        let (host, port) = name.split_once(':').expect("host:port");
        let announcement = Announcement {
            config: Endpoint::new(host, port.parse().expect("a port")),
            weight: 1.0,
            name: None,
            // Old agents do not say.
            run_id: (node != 0).then(|| run_id.clone()),
            version: None,
            other: Map::new(),
        };
        self.say(&AgentBusMessage::NodeUp { node: announcement });
    }

    fn say(&mut self, message: &AgentBusMessage) {
        for number in 0..COORDINATORS {
            if self.coordinators[number].bus && self.coordinators[number].cut_from_master_until_ms <= self.now_ms {
                let at_ms = self.now_ms + self.latency();
                self.after(at_ms, number, What::Step(Event::Heard(message.clone())));
            }
        }
    }

    fn reset_links(&mut self, wanted: impl Fn(usize, usize) -> bool) {
        for number in 0..COORDINATORS {
            let links: Vec<(LinkId, usize)> =
                self.coordinators[number].links.iter().map(|(link, (node, _))| (*link, *node)).collect();
            let mut links: Vec<_> = links.into_iter().filter(|(_, node)| wanted(number, *node)).collect();
            links.sort_unstable();
            for (link, node) in links {
                // A reset does not come through a cut.
                let at_ms = (self.now_ms + self.latency()).max(self.nodes[node].cut_until_ms[number]);
                self.after(at_ms, number, What::LinkReset { link });
            }
        }
    }

    // ---- faults ----

    fn nodes_fail(&self) -> bool {
        self.faulty() && self.profile != Profile::ControlOnly
    }

    fn faulty(&self) -> bool {
        (CALM_MS..CALM_MS + FAULTS_MS).contains(&self.now_ms)
    }

    fn fault(&mut self) {
        if !self.faulty() {
            return self.heal();
        }
        let next_ms = self.now_ms + self.random.below(600);
        self.after(next_ms.min(CALM_MS + FAULTS_MS), 0, What::Fault);
        let left_ms = CALM_MS + FAULTS_MS - self.now_ms;
        let until_ms = self.now_ms + 1 + self.random.below(2_500).min(left_ms);
        let (number, node) = (self.random.below(COORDINATORS as u64) as usize, self.random.below(NODES as u64) as usize);
        let loses_memory = self.profile != Profile::WrongClocks;
        match self.random.below(16) {
            0..=5 if self.profile == Profile::ControlOnly => {}
            0 | 1 => self.kill(node, until_ms),
            2 => {
                // Faster than anybody notices.
                let at_ms = self.now_ms + self.random.below(3);
                self.kill(node, at_ms);
            }
            3 => {
                self.note(|| format!("n{node} is paused until {until_ms}"));
                lengthen(&mut self.nodes[node].paused_until_ms, until_ms);
            }
            4 => {
                self.note(|| format!("c{number} is cut from n{node} until {until_ms}"));
                lengthen(&mut self.nodes[node].cut_until_ms[number], until_ms);
            }
            5 => {
                self.note(|| format!("agent of n{node} is silent until {until_ms}"));
                lengthen(&mut self.nodes[node].silent_until_ms, until_ms);
                if self.random.below(2) == 0 {
                    let (name, run_id) = (self.nodes[node].name.clone(), self.nodes[node].run_id.clone());
                    self.say(&AgentBusMessage::NodeLeaving { name, run_id });
                }
            }
            6 => {
                self.note(|| format!("connections to n{node} are cut"));
                self.reset_links(|_, other| other == node);
            }
            7 | 8 => {
                self.note(|| format!("c{number} is paused until {until_ms}"));
                lengthen(&mut self.coordinators[number].paused_until_ms, until_ms);
            }
            9 if loses_memory && self.profile != Profile::ControlOnly => {
                self.note(|| format!("c{number} dies until {until_ms}"));
                self.coordinators[number].running = false;
                self.after(until_ms, number, What::CoordinatorStarts);
            }
            10 => {
                self.note(|| format!("c{number} is cut from the master until {until_ms}"));
                lengthen(&mut self.coordinators[number].cut_from_master_until_ms, until_ms);
            }
            11 => {
                self.note(|| format!("the master hangs until {until_ms}"));
                lengthen(&mut self.master.hung_until_ms, until_ms);
            }
            12 if loses_memory => {
                let at_ms = if self.random.below(2) == 0 { self.now_ms } else { until_ms };
                self.note(|| format!("the master dies until {at_ms}, and loses everything"));
                self.master.up = false;
                self.master.process += 1;
                (self.master.lease, self.master.hash, self.master.epoch) = (None, NodeMap::new(), None);
                self.after(at_ms, 0, What::MasterStarts);
                for number in 0..COORDINATORS {
                    self.lose_master(number, "reset");
                    self.lose_bus(number);
                }
            }
            13 => {
                self.note(|| format!("c{number} loses its connection to the master"));
                self.lose_master(number, "reset");
            }
            14 => self.lose_bus(number),
            15 if self.profile == Profile::WrongClocks => {
                self.coordinators[number].clock_offset_ms = self.random.signed(100_000);
            }
            _ if self.profile == Profile::ControlOnly => {}
            _ => {
                self.note(|| "somebody empties the node set".to_owned());
                self.master.hash.clear();
            }
        }
    }

    fn kill(&mut self, node: usize, until_ms: u64) {
        if let Some(run_id) = self.nodes[node].run_id.take() {
            self.note(|| format!("n{node} dies, {run_id}, until {until_ms}"));
            self.after(until_ms, 0, What::Restart { node });
            self.reset_links(|_, other| other == node);
            if self.random.below(2) == 0 {
                let (name, reason) = (self.nodes[node].name.clone(), "died".to_owned());
                self.say(&AgentBusMessage::NodeDown { name, run_id: Some(run_id), reason });
            }
        }
    }

    fn lose_bus(&mut self, number: usize) {
        if std::mem::take(&mut self.coordinators[number].bus) {
            self.after(self.now_ms, number, What::Step(Event::BusDown));
            let at_ms = self.now_ms + self.random.below(400);
            self.after(at_ms, number, What::BusBack);
        }
    }

    fn heal(&mut self) {
        self.note(|| "everything is well again".to_owned());
        for number in 0..COORDINATORS {
            self.coordinators[number].paused_until_ms = 0;
            self.coordinators[number].cut_from_master_until_ms = 0;
        }
        for node in 0..NODES {
            self.nodes[node].paused_until_ms = 0;
            self.nodes[node].silent_until_ms = 0;
            self.nodes[node].cut_until_ms = [0; COORDINATORS];
        }
        self.master.hung_until_ms = 0;
    }
}

/// What was held up until then stays so: nothing overtakes it.
fn lengthen(until_ms: &mut u64, to_ms: u64) {
    *until_ms = to_ms.max(*until_ms);
}

fn shown_event(event: &Event) -> String {
    match event {
        Event::MapRead { map, epoch, .. } => format!("MapRead {epoch:?} {:?}", plain_map(map)),
        Event::MapHeard { map, epoch } => format!("MapHeard {epoch:?} {:?}", plain_map(map)),
        Event::Heard(AgentBusMessage::NodeUp { node }) => format!("NodeUp {} {:?}", node.node_name(), node.run_id),
        event => format!("{event:?}"),
    }
}

fn shown_action(action: &Action) -> String {
    match action {
        Action::Write(write) => format!("Write {} {} {:?}", write.token, write.epoch, plain_map(&write.map)),
        Action::Connect { name, link, .. } => format!("Connect {name} {link}"),
        action => format!("{action:?}"),
    }
}

fn plain_map(map: &NodeMap) -> Vec<String> {
    map.values().map(|node| format!("{}={}:{}", node.name, node.up, node.run_id.as_deref().unwrap_or("-"))).collect()
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn signed(&mut self, bound: u64) -> i64 {
        self.below(2 * bound) as i64 - bound as i64
    }
}

#[test]
fn simulation_holds_under_every_seed() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("VRC_SEED") {
        let mut world = World::new(seed);
        world.run();
        world.log.iter().for_each(|line| println!("{line}"));
        return;
    }
    let seeds = number("VRC_SEEDS").unwrap_or(2_000);
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let (mut writes, mut flushes, mut lost_maps) = (0, 0, 0);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    let mut sums = (0, 0, 0);
                    for seed in (thread..seeds).step_by(threads as usize) {
                        let mut world = World::new(seed);
                        world.run();
                        sums = (sums.0 + world.writes, sums.1 + world.flushes, sums.2 + world.lost_maps);
                    }
                    sums
                })
            })
            .collect();
        for worker in workers {
            let sums = worker.join().unwrap_or_else(|failure| std::panic::resume_unwind(failure));
            (writes, flushes, lost_maps) = (writes + sums.0, flushes + sums.1, lost_maps + sums.2);
        }
    });
    println!("{seeds} histories, {writes} maps, {flushes} nodes emptied, {lost_maps} maps lost");
    // A simulation in which nothing happens proves nothing.
    assert!(writes as u64 > seeds * 5 && flushes as u64 > seeds * 4);
    assert!((lost_maps as u64) < seeds / 4);
}

/// The same seed gives the same history: nothing is left to a hash map's order or a clock.
#[test]
fn simulation_is_determined_by_its_seed() {
    for seed in [1, 2, 3] {
        let play = || {
            let mut world = World::new(seed);
            world.logging = true;
            world.run();
            world.log
        };
        assert_eq!(play(), play());
    }
}
