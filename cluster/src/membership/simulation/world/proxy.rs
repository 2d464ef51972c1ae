//! Proxies, and clients that write and read through them.

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use super::{HEAL_MS, Profile, SLOTS, What, World, homes};
use crate::{
    client::held::{Held, Ignored},
    contract::{Confirmation, Epoch, MapDelta, Node, NodeMap},
    flaw::{self, Flaw},
    membership::{
        Scope,
        options::PROXIES_IDLE_INTERVAL_MS,
        simulation::{
            homes::ByKey,
            reads::{Began, Ending, KEYS, Place, Places, Seq},
        },
    },
};

/// One that missed a delta reads the map within this.
const GAP_PAUSE_MS: u64 = 20;
/// One that heard of a later map than it goes by goes by that after this at the latest, if the master answers.
pub(super) const BEHIND_MAX_MS: u64 = 200;

/// For how long one that was out of touch says by what it went: leaders that wait for nobody look only now and then.
const TELL_BEFORE_MS: u64 = PROXIES_IDLE_INTERVAL_MS + 1_000;

/// A published map, on its way.
#[derive(Debug, Clone)]
pub(super) enum Bulletin {
    /// What it changed.
    Delta(Rc<MapDelta>),
    /// The answer to a read.
    Whole(Rc<(Epoch, NodeMap)>),
}

pub(super) struct Proxy {
    /// Another life, another number.
    life: u64,
    running: bool,
    held: Held,
    /// It missed a delta, and is going to read the map.
    is_behind: bool,
    places: Option<Places>,
    pub(super) paused_until_ms: u64,
    pub(super) cut_from_master_until_ms: u64,
    pub(super) cut_from_node_until_ms: Vec<u64>,
    /// Until then what it sends to nodes takes its time.
    pub(super) slow_until_ms: u64,
    /// The processes that connections lead to.
    links: Vec<Option<String>>,
    beat: u64,
    /// What was last confirmed, and when.
    said: Option<(Epoch, u64)>,
    /// When it spoke again after it had been silent for so long that nobody waited for it: the map that it went by, or the last before the
    /// one that stood, whichever is later. By all up to that it may yet do what nobody has waited for.
    given_up: Epoch,
    /// What had been confirmed before it was out of touch, or lagged for as long, and until when that is told.
    before: Option<(Epoch, u64)>,
    /// Since when it cannot confirm the map that it goes by.
    lags_since_ms: Option<u64>,
}

/// What a node's redis holds of clients' keys.
#[derive(Debug, Clone, Default)]
pub(super) struct Store {
    own: [Seq; KEYS],
    guests: [Seq; KEYS],
}

impl Store {
    pub(super) fn flush(&mut self, scope: Scope) {
        if flaw::has(Flaw::FlushesOneDatabase) {
            // Half of the keys are in another of the clients' databases.
            return self.own[..KEYS / 2].fill(0);
        }
        match scope {
            Scope::Guests | Scope::GuestsButCoordination => self.guests = Default::default(),
            Scope::Clients | Scope::ClientsButCoordination => self.own = Default::default(),
            _ => *self = Store::default(),
        }
    }

    pub(super) fn remove(&mut self, key: usize) {
        self.own[key] = 0;
    }

    fn slot(&mut self, key: usize, guest: bool) -> &mut Seq {
        if guest && !flaw::has(Flaw::GuestsAmongOwn) { &mut self.guests[key] } else { &mut self.own[key] }
    }
}

/// What a client asks.
#[derive(Debug, Clone, Copy)]
pub(super) enum Op {
    Read { key: usize, began: Began },
    Write { key: usize, seq: Seq, deletes: bool },
    Flush { began: [Began; KEYS] },
}

/// A command that was not answered yet.
pub(super) struct Asked {
    op: Op,
    proxy: usize,
    /// Of the map by which it was sent.
    epoch: Epoch,
    /// It was done where it should not have been any more.
    strayed: bool,
    until_ms: u64,
    /// Nodes whose answers are awaited.
    awaited: Vec<usize>,
}

/// Commands under way, by number.
#[derive(Default)]
pub(super) struct Clients {
    asked: HashMap<u64, Asked>,
    next: u64,
    /// Each key's writer waits for a reply before it goes on.
    writing: [bool; KEYS],
}

impl Proxy {
    pub(super) fn new(life: u64, nodes: usize) -> Self {
        Proxy {
            life,
            running: true,
            held: Held::default(),
            is_behind: false,
            places: None,
            paused_until_ms: 0,
            cut_from_master_until_ms: 0,
            cut_from_node_until_ms: vec![0; nodes],
            slow_until_ms: 0,
            links: vec![None; nodes],
            beat: 0,
            said: None,
            given_up: 0,
            before: None,
            lags_since_ms: None,
        }
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.held.epoch()
    }

    /// The name under which it confirms.
    fn said_by(&self, number: usize) -> String {
        format!("p{number}.{}", self.life)
    }
}

impl World {
    // ---- maps ----

    /// A map is published. It may be lost on its way, or come twice, or after a later one.
    pub(super) fn tell_proxies(&mut self, map: &NodeMap, delta: &Rc<MapDelta>) {
        let truth = self.proxies.len();
        self.reads.looks(truth, Some(places(map)), self.now_ms);
        for proxy in 0..self.proxies.len() {
            if self.proxies[proxy].cut_from_master_until_ms > self.now_ms {
                continue;
            }
            let copies = if self.faulty() { [1, 1, 1, 1, 1, 1, 1, 1, 0, 2][self.random.below(10) as usize] } else { 1 };
            for _ in 0..copies {
                self.bring(proxy, Bulletin::Delta(delta.clone()));
            }
        }
    }

    fn bring(&mut self, proxy: usize, bulletin: Bulletin) {
        let (at_ms, life) = (self.now_ms + self.latency(), self.proxies[proxy].life);
        self.after(at_ms, 0, What::ProxyHears { proxy, life, bulletin });
    }

    /// It reads although nothing was said.
    pub(super) fn proxy_reads(&mut self, proxy: usize) {
        let every_ms = self.paces.read_every_ms;
        let at_ms = self.now_ms + self.random.between(every_ms - every_ms / 8, every_ms + every_ms / 8);
        self.after(at_ms, 0, What::ProxyReads { proxy });
        if self.proxy_asks(proxy) {
            self.confirm(proxy);
        }
    }

    /// It reads since it has missed something.
    pub(super) fn proxy_catches_up(&mut self, proxy: usize, life: u64) {
        if self.proxies[proxy].life == life {
            self.proxies[proxy].is_behind = false;
            self.proxy_asks(proxy);
        }
    }

    /// Whether the master hears it. What it holds already is not sent again, and of what it can be led to only the last delta.
    fn proxy_asks(&mut self, proxy: usize) -> bool {
        if flaw::has(Flaw::ReaderOnlyListens) && self.proxies[proxy].epoch() > 0 {
            return false;
        }
        let (reader, master) = (&self.proxies[proxy], &self.master);
        let held_ms = reader.cut_from_master_until_ms.max(reader.paused_until_ms).max(master.hung_until_ms);
        if !reader.running || !master.up || held_ms > self.now_ms {
            return false;
        }
        if let Some(epoch) = master.epoch.filter(|epoch| *epoch != reader.held.epoch()) {
            let leads_there = |delta: &&Rc<MapDelta>| delta.epoch == epoch && reader.held.fits(delta).is_ok();
            let bulletin = match master.delta.as_ref().filter(leads_there) {
                Some(delta) => Bulletin::Delta(delta.clone()),
                None => Bulletin::Whole(Rc::new((epoch, master.hash.clone()))),
            };
            self.bring(proxy, bulletin);
        }
        true
    }

    pub(super) fn proxy_hears(&mut self, proxy: usize, life: u64, bulletin: Bulletin) {
        let reader = &mut self.proxies[proxy];
        if reader.life != life || !reader.running {
            return;
        }
        if reader.paused_until_ms > self.now_ms {
            let until_ms = reader.paused_until_ms;
            return self.after(until_ms, 0, What::ProxyHears { proxy, life, bulletin });
        }
        let held = |reader: &Proxy| (reader.held.epoch(), reader.held.map().len());
        let before = held(reader);
        let (epoch, outcome) = match &bulletin {
            Bulletin::Delta(delta) => (delta.epoch, reader.held.apply(delta)),
            Bulletin::Whole(read) => (read.0, reader.held.offer(read.1.clone(), Some(read.0), self.now_ms)),
        };
        if let Err(why) = outcome {
            if matches!(why, Ignored::Unfit(_)) {
                self.is_behind(proxy, epoch);
            }
            return;
        }
        let after = held(reader);
        let outcome = self.checker.reader_took(before, after, reader.held.map());
        self.check(outcome);
        self.look(proxy);
        self.note(|| format!("p{proxy} goes by {}", after.0));
        self.confirm(proxy);
    }

    /// It has heard of a map that it cannot go by.
    fn is_behind(&mut self, proxy: usize, epoch: Epoch) {
        let reader = &mut self.proxies[proxy];
        let life = reader.life;
        let is_known = std::mem::replace(&mut reader.is_behind, true);
        if !is_known && !flaw::has(Flaw::GapNotReread) {
            let at_ms = self.now_ms + self.random.below(GAP_PAUSE_MS);
            self.after(at_ms, 0, What::ProxyCatchesUp { proxy, life });
        }
        // Somebody emptied it, or a replica took over that lacks it. Until the leader has written it back there is nothing to catch up with.
        if self.master.hash.is_empty() || self.master.epoch.is_none_or(|stored| stored < epoch) {
            return;
        }
        let what = What::ProxyIsBehind { proxy, life, epoch, process: self.master.process, since_ms: self.now_ms };
        self.after(self.now_ms + BEHIND_MAX_MS, 0, what);
    }

    /// A while ago it has heard of a map that it could not go by.
    pub(super) fn proxy_is_behind(&mut self, proxy: usize, life: u64, epoch: Epoch, process: u64, since_ms: u64) {
        let (reader, master) = (&self.proxies[proxy], &self.master);
        let is_hindered = reader.life != life
            || !reader.running
            || reader.cut_from_master_until_ms.max(reader.paused_until_ms) > since_ms
            || !master.up
            || master.process != process
            || master.hung_until_ms > since_ms
            || (since_ms..=self.now_ms).contains(&HEAL_MS)
            || !self.checker.has_nodes(epoch)
            || master.hash.is_empty()
            || master.emptied_at_ms.is_some_and(|at_ms| at_ms >= since_ms);
        if !is_hindered && reader.held.epoch() < epoch {
            let what = format!("p{proxy} heard of map {epoch} at {since_ms} ms, and still goes by {}", reader.held.epoch());
            self.check(Err(what));
        }
    }

    /// Says by which map it routes, unless something that was sent by an earlier one has not been answered.
    fn confirm(&mut self, proxy: usize) {
        let epoch = self.proxies[proxy].held.epoch();
        // See [`crate::contract::CONFIRM_EVERY_MS`]; it confirms whenever it reads.
        let out_of_touch_ms = 2 * self.paces.read_every_ms;
        let is_of_earlier = |asked: &Asked| asked.proxy == proxy && (1..epoch).contains(&asked.epoch);
        let reader = &mut self.proxies[proxy];
        // A master that cannot be reached is not told.
        let held_ms = reader.cut_from_master_until_ms.max(reader.paused_until_ms).max(self.master.hung_until_ms);
        let unsettled = self.clients.asked.values().any(is_of_earlier) && !flaw::has(Flaw::ConfirmsUnsettled);
        if epoch == 0 || !self.master.up || held_ms > self.now_ms || !reader.running || (unsettled && reader.said.is_none()) {
            return;
        }
        let epoch = match reader.said {
            Some((said, _)) if unsettled => said,
            _ => epoch,
        };
        let lagged = reader.lags_since_ms.is_some_and(|since_ms| self.now_ms > since_ms + out_of_touch_ms)
            && !unsettled
            && !flaw::has(Flaw::LagUntold);
        if unsettled {
            reader.lags_since_ms.get_or_insert(self.now_ms);
        } else {
            reader.lags_since_ms = None;
        }
        if let Some((said, at_ms)) = reader.said
            && (self.now_ms > at_ms + out_of_touch_ms || lagged)
        {
            if self.now_ms >= at_ms + self.options.proxy_grace_ms {
                reader.given_up = reader.held.epoch().max(self.checker.published().0.saturating_sub(1));
            }
            let least = reader.before.map_or(said, |(before, _)| before.min(said));
            reader.before = Some((least, self.now_ms + TELL_BEFORE_MS));
        }
        reader.before = reader.before.filter(|(_, until_ms)| self.now_ms < *until_ms);
        let least = reader.before.map_or(epoch, |(before, _)| before);
        reader.beat += 1;
        reader.said = Some((epoch, self.now_ms));
        let confirmation = Confirmation { epoch, beat: reader.beat, least };
        let said_by = reader.said_by(proxy);
        self.key_homes.said(said_by.clone(), epoch, self.now_ms);
        self.master.proxies.insert(said_by, confirmation);
    }

    fn look(&mut self, proxy: usize) {
        let reader = &mut self.proxies[proxy];
        reader.places = reader.running.then(|| places(reader.held.map())).filter(|_| reader.held.epoch() > 0);
        let places = reader.places;
        self.reads.looks(proxy, places, self.now_ms);
    }

    pub(super) fn proxy_dies(&mut self, proxy: usize, until_ms: u64) {
        if !self.proxies[proxy].running {
            return;
        }
        self.note(|| format!("p{proxy} dies until {until_ms}"));
        self.proxies[proxy].running = false;
        self.look(proxy);
        let mut lost: Vec<u64> =
            self.clients.asked.iter().filter(|(_, asked)| asked.proxy == proxy).map(|(number, _)| *number).collect();
        lost.sort_unstable();
        for number in lost {
            self.command_fails(number);
        }
        self.after(until_ms, 0, What::ProxyStarts { proxy });
    }

    pub(super) fn proxy_starts(&mut self, proxy: usize) {
        self.numbers += 1;
        self.note(|| format!("p{proxy} starts"));
        self.proxies[proxy] = Proxy::new(self.numbers, self.nodes.len());
    }

    // ---- commands ----

    /// Clients begin some commands, and give up others.
    pub(super) fn clients_act(&mut self) {
        let at_ms = self.now_ms + self.random.between(self.paces.clients_ms / 2, self.paces.clients_ms * 3 / 2);
        self.after(at_ms, 0, What::ClientsAct);
        let now_ms = self.now_ms;
        let mut late: Vec<u64> =
            self.clients.asked.iter().filter(|(_, asked)| asked.until_ms <= now_ms).map(|(number, _)| *number).collect();
        late.sort_unstable();
        for number in late {
            self.command_fails(number);
        }
        let key = self.random.below(KEYS as u64) as usize;
        if !self.clients.writing[key] && self.random.below(2) == 0 {
            self.clients.writing[key] = true;
            let deletes = self.random.below(8) == 0;
            let seq = self.reads.write_begins(key, deletes, now_ms);
            self.ask_proxy(Op::Write { key, seq, deletes });
        } else if self.random.below(60) == 0 && self.profile != Profile::ControlOnly {
            let began = std::array::from_fn(|key| self.reads.begins(key, now_ms));
            self.ask_proxy(Op::Flush { began });
        }
        for _ in 0..2 {
            let key = self.random.below(KEYS as u64) as usize;
            let began = self.reads.begins(key, now_ms);
            self.ask_proxy(Op::Read { key, began });
        }
    }

    fn ask_proxy(&mut self, op: Op) {
        let proxy = self.random.below(self.proxies.len() as u64) as usize;
        self.clients.next += 1;
        let number = self.clients.next;
        let until_ms = self.now_ms + self.paces.patience_ms;
        self.clients.asked.insert(number, Asked { op, proxy, epoch: 0, strayed: false, until_ms, awaited: Vec::new() });
        self.at_proxy(number);
    }

    /// A command arrives at its proxy and is sent where the proxy's map wants it.
    pub(super) fn at_proxy(&mut self, number: u64) {
        let Some(asked) = self.clients.asked.get(&number) else { return };
        let (proxy, op) = (asked.proxy, asked.op);
        let Proxy { running, paused_until_ms, places, .. } = &self.proxies[proxy];
        if *paused_until_ms > self.now_ms {
            let until_ms = *paused_until_ms;
            return self.after(until_ms, 0, What::AtProxy { number });
        }
        let Some(places) = places.filter(|_| *running) else { return self.command_fails(number) };
        let targets: Vec<Place> = match op {
            Op::Read { key, .. } | Op::Write { key, .. } => places[key].into_iter().collect(),
            Op::Flush { .. } => {
                let map = self.proxies[proxy].held.map();
                let up = map.values().filter(|node| node.up).filter_map(|node| node_number(&node.name));
                up.map(|node| (node as u8, false)).collect()
            }
        };
        let linked = targets.iter().all(|(node, _)| self.link(proxy, usize::from(*node)));
        if targets.is_empty() || !linked {
            return self.command_fails(number);
        }
        if let Some(asked) = self.clients.asked.get_mut(&number) {
            asked.epoch = self.proxies[proxy].held.epoch();
            asked.awaited = targets.iter().map(|(node, _)| usize::from(*node)).collect();
        }
        for (node, guest) in targets {
            let node = usize::from(node);
            let Some(run_id) = self.proxies[proxy].links[node].clone() else { continue };
            let is_slow = self.proxies[proxy].slow_until_ms > self.now_ms;
            let slow_ms = if is_slow { self.random.below(self.paces.patience_ms) } else { 0 };
            let at_ms = self.now_ms + slow_ms + self.latency();
            self.after(at_ms, 0, What::CommandAtNode { number, proxy, node, run_id, op, guest });
        }
    }

    /// A connection of a proxy to a node's process of now, if there can be one.
    fn link(&mut self, proxy: usize, node: usize) -> bool {
        let (Some(there), now_ms) = (self.nodes.get(node), self.now_ms) else { return false };
        // Only to the process that the map speaks of.
        let meant = self.proxies[proxy].held.map().get(&there.name).and_then(|node| node.run_id.clone());
        if meant.is_some() && meant != there.run_id && !flaw::has(Flaw::SpeaksToAnyProcess) {
            self.proxies[proxy].links[node] = None;
            return false;
        }
        let link = &mut self.proxies[proxy].links[node];
        if link.is_none() || *link != there.run_id {
            let reachable = self.proxies[proxy].cut_from_node_until_ms[node] <= now_ms;
            self.proxies[proxy].links[node] = there.run_id.clone().filter(|_| reachable);
        }
        self.proxies[proxy].links[node].is_some()
    }

    pub(super) fn command_at_node(&mut self, number: u64, proxy: usize, node: usize, run_id: String, op: Op, guest: bool) {
        let there = &mut self.nodes[node];
        if there.run_id.as_ref() != Some(&run_id) {
            // The connection is reset.
            return self.command_fails(number);
        }
        let held_ms = there.held_until_ms().max(self.proxies[proxy].cut_from_node_until_ms[node]);
        if held_ms > self.now_ms {
            return self.after(held_ms, 0, What::CommandAtNode { number, proxy, node, run_id, op, guest });
        }
        let mut value = 0;
        match op {
            Op::Read { key, .. } => value = *there.store.slot(key, guest),
            Op::Write { key, seq, deletes } => *there.store.slot(key, guest) = if deletes { 0 } else { seq },
            Op::Flush { .. } => {
                there.store.flush(Scope::All);
                self.key_homes.emptied(node as u8);
                self.may_lose_keys(node);
            }
        }
        self.note(|| format!("n{node} does {op:?} guest={guest} -> {value}"));
        let epoch = self.clients.asked.get(&number).map(|asked| asked.epoch);
        let strays = epoch.is_some_and(|epoch| self.strays(proxy, epoch, op, node, guest));
        if let Op::Write { key, deletes, .. } = op
            && !guest
        {
            // Who lost the maps before does not know who goes by them; and what is given up may be done at any time.
            if deletes || epoch.is_none_or(|epoch| epoch < self.lost_epoch) {
                self.key_homes.removed(node as u8, key);
            } else {
                let said_by = self.proxies[proxy].said_by(proxy);
                self.key_homes.written(node as u8, key, said_by, self.now_ms);
            }
        }
        if let Some(asked) = self.clients.asked.get_mut(&number) {
            asked.strayed |= strays;
            let at_ms = self.now_ms + 1;
            self.after(at_ms, 0, What::CommandAnswered { number, node, value });
        }
    }

    pub(super) fn command_answered(&mut self, number: u64, node: usize, value: Seq) {
        let Some(asked) = self.clients.asked.get_mut(&number) else { return };
        let paused_until_ms = self.proxies[asked.proxy].paused_until_ms;
        if paused_until_ms > self.now_ms {
            return self.after(paused_until_ms, 0, What::CommandAnswered { number, node, value });
        }
        asked.awaited.retain(|awaited| *awaited != node);
        if !asked.awaited.is_empty() {
            return;
        }
        let (op, strayed) = (asked.op, asked.strayed);
        self.clients.asked.remove(&number);
        match op {
            Op::Read { key, began } => {
                let outcome = self.reads.read_ends(key, began, value, self.now_ms);
                self.check(outcome);
            }
            Op::Write { key, seq, .. } if strayed => self.write_ends(key, seq, Ending::Strayed),
            Op::Write { key, seq, .. } => self.write_ends(key, seq, Ending::Done),
            Op::Flush { began } => (0..KEYS).for_each(|key| self.reads.flush_ends(key, began[key])),
        }
    }

    /// A command that is done now went by a map that readers should have left by now, and may have written where nobody reads, and where
    /// no flush follows any more. Nobody waits for proxies before guests are flushed, nor for one that has been silent for its grace period.
    fn strays(&self, proxy: usize, epoch: Epoch, op: Op, node: usize, guest: bool) -> bool {
        let (published, at_ms) = self.checker.published();
        let (Op::Write { key, .. } | Op::Read { key, .. }) = op else { return false };
        let is_heard = self.proxies[proxy].said.is_some_and(|(_, at_ms)| self.now_ms < at_ms + self.options.proxy_grace_ms);
        let is_heard = is_heard && epoch > self.proxies[proxy].given_up;
        // One that has been silent for that long has not left the maps before the last either.
        let is_old = epoch != published && (self.now_ms > at_ms + self.options.settle_ms || !is_heard);
        let is_waited_for = is_heard && (self.is_purged_later(node, key) || self.is_emptied_later(node));
        // Who lost the maps before does not know who goes by them.
        epoch < self.lost_epoch || is_old && (guest || !is_waited_for)
    }

    /// What was written there, not as a guest, by an older map must not turn up again: the node is to be purged of the key, and not before
    /// proxies have confirmed that it lost it, or their grace period has passed.
    fn is_purged_later(&self, node: usize, key: usize) -> bool {
        let name = &self.nodes[node].name;
        let is_up = self.master.hash.get(name).is_some_and(|node| node.up);
        let graced = self.now_ms >= self.rehomed_at_ms + self.options.proxy_grace_ms;
        is_up && !graced && home(&self.master.hash, key) != Some(name)
    }

    /// Nor if the node is shown down: it is emptied before it is up again, and not before proxies have confirmed that it is down.
    fn is_emptied_later(&self, node: usize) -> bool {
        let down_since_ms = self.checker.down_since_ms(&self.nodes[node].name);
        let is_graced = |since_ms| self.now_ms >= since_ms + self.options.proxy_grace_ms;
        down_since_ms.is_some_and(|since_ms| !is_graced(since_ms))
    }

    fn write_ends(&mut self, key: usize, seq: Seq, ending: Ending) {
        self.clients.writing[key] = false;
        self.reads.write_ends(key, seq, ending, self.now_ms);
    }

    /// The proxy gives it up; what was sent of it may still be done.
    fn command_fails(&mut self, number: u64) {
        let Some(asked) = self.clients.asked.remove(&number) else { return };
        for node in asked.awaited {
            self.proxies[asked.proxy].links[node] = None;
        }
        if let Op::Write { key, seq, .. } = asked.op {
            self.write_ends(key, seq, Ending::Failed);
        }
    }
}

/// Nodes of the world are called `n0:1`, `n1:1` and so on.
fn node_number(name: &str) -> Option<usize> {
    name.strip_prefix('n')?.split_once(':')?.0.parse().ok()
}

/// The key's home by this map.
pub(super) fn home(map: &NodeMap, key: usize) -> Option<&String> {
    let names: Vec<_> = map.keys().collect();
    let nodes: Vec<_> = map.values().map(|node| (node.name.as_str(), node.weight)).collect();
    let home = homes(&nodes).get(slot(key)).copied();
    home.and_then(|home| names.get(usize::from(home)).copied())
}

/// Each key's home by this map.
pub(super) fn key_homes(map: &NodeMap) -> ByKey {
    std::array::from_fn(|key| {
        let home = home(map, key)?;
        Some((u8::try_from(node_number(home)?).ok()?, map[home].up))
    })
}

fn slot(key: usize) -> usize {
    key * SLOTS as usize / KEYS
}

/// Where a map's readers look for each key. Follows from which nodes are there, which are up, and their weights.
fn places(map: &NodeMap) -> Places {
    type Shape = Vec<(String, bool, u64)>;
    thread_local!(static KNOWN: RefCell<HashMap<Shape, Places>> = RefCell::default());
    let shape: Shape = map.values().map(|node| (node.name.clone(), node.up, node.weight.to_bits())).collect();
    KNOWN.with_borrow_mut(|known| {
        *known.entry(shape).or_insert_with(|| {
            let lent = |only_up: bool| move |node: &&Node| node.up || !only_up;
            let owners = |only_up: bool| -> Vec<&str> {
                let nodes: Vec<_> = map.values().filter(lent(only_up)).map(|node| (node.name.as_str(), node.weight)).collect();
                if nodes.is_empty() {
                    Vec::new()
                } else {
                    homes(&nodes).iter().map(|index| nodes[usize::from(*index)].0).collect()
                }
            };
            let (homes, holders) = (owners(false), owners(true));
            std::array::from_fn(|key| {
                let slot = slot(key);
                let holder = holders.get(slot)?;
                Some((u8::try_from(node_number(holder)?).ok()?, homes[slot] != *holder))
            })
        })
    })
}
