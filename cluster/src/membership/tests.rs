//! Each rule by itself, told as a short story: what happens, and what is done about it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, json};

use super::{
    Action, Event, FlushId, LeaseAnswer, Level, LinkId, Loss, MapWrite, Membership, NODES_MAX, NodeState, Notice, Now, Options,
    RequestId, STEP_AT_LEAST_EVERY_MS, Scope, Server, WriteAnswer,
};
use crate::contract::{
    AgentBusMessage, Announcement, Confirmation, EPOCH_MAX, Endpoint, Epoch, MapDelta, Node, NodeMap, Notes, Wish, WishAnswer,
};
use crate::flaw::{self, Flaw};

mod coming_back;
mod going_down;
mod joining;
mod leading;
mod moves;
mod notes;
mod purge;
mod rare;

const UNIX_MS: u64 = 1_795_000_000_000;

/// A coordinator whose master answers at once, and nodes that answer PING. Everything else a test says itself.
struct Rig {
    membership: Membership,
    now_ms: u64,
    clock_ms: i64,
    links: BTreeMap<String, LinkId>,
    pings: BTreeMap<String, usize>,
    flushes: BTreeMap<String, (FlushId, Scope)>,
    /// Nodes that answer no PING.
    mute: BTreeSet<String>,
    /// The write that waits for its answer.
    write: Option<MapWrite>,
    hold_writes: bool,
    /// The request for the lease that was not answered.
    asked: Option<RequestId>,
    /// The read of the map that waits for its answer.
    read: Option<RequestId>,
    hold_reads: bool,
    written: Vec<MapWrite>,
    stored: (NodeMap, Option<Epoch>),
    rehomed: Option<Epoch>,
    /// What proxies confirm: the epoch and how often they have said something.
    proxies: BTreeMap<String, Confirmation>,
    /// The last order of each node.
    orders: BTreeMap<String, Epoch>,
    lease: LeaseReply,
    notices: Vec<Notice>,
    answers: Vec<WishAnswer>,
    notes: Notes,
    actions: Vec<Action>,
}

#[derive(Clone, Copy, PartialEq)]
enum LeaseReply {
    Ours,
    Theirs,
    None,
}

fn options() -> Options {
    Options { settle_ms: 100, yield_ms: 0, ..Options::default() }
}

impl Rig {
    /// Not connected to anything.
    fn idle(options: Options) -> Self {
        Rig {
            membership: Membership::new("me", options),
            now_ms: 1_000,
            clock_ms: 0,
            links: BTreeMap::new(),
            pings: BTreeMap::new(),
            flushes: BTreeMap::new(),
            mute: BTreeSet::new(),
            write: None,
            hold_writes: false,
            asked: None,
            read: None,
            hold_reads: false,
            written: Vec::new(),
            stored: (NodeMap::new(), None),
            rehomed: None,
            proxies: BTreeMap::new(),
            orders: BTreeMap::new(),
            lease: LeaseReply::Ours,
            notices: Vec::new(),
            answers: Vec::new(),
            notes: Notes::new(),
            actions: Vec::new(),
        }
    }

    /// Leads, and all of these are up: node `a` as the process `a1`, and so on.
    fn with(options: Options, names: &[&str]) -> Self {
        let mut rig = Rig::idle(options);
        rig.connect_master();
        for name in names {
            rig.join(name);
        }
        rig.wait(options_settled());
        rig
    }

    fn connect_master(&mut self) {
        self.step(Event::BusUp);
        self.step(Event::MasterUp { run_id: Some("master".to_owned()) });
        self.wait(options_settled());
    }

    fn join(&mut self, name: &str) {
        self.announce(name);
        self.open(name, &format!("{name}1"));
        if !self.flushes.contains_key(name) {
            self.wait(options_settled());
        }
        self.flushed(name);
        assert!(self.shown_up(name), "{name}");
    }

    fn now(&self) -> Now {
        Now { mono_ms: self.now_ms, unix_ms: (UNIX_MS as i64 + self.now_ms as i64 + self.clock_ms) as u64 }
    }

    /// Steps, and answers for the master and for those who answer PING until nothing is left to answer.
    fn step(&mut self, event: Event) {
        self.actions.clear();
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for action in self.membership.step(self.now(), event) {
                events.extend(self.answer(&action));
                self.actions.push(action);
            }
        }
        // As the driver does before it waits.
        self.membership.deadline_ms(self.now());
    }

    fn answer(&mut self, action: &Action) -> Option<Event> {
        match action {
            Action::Connect { name, link, .. } => _ = self.links.insert(name.clone(), *link),
            Action::Disconnect { name, link } if self.links.get(name) == Some(link) => _ = self.links.remove(name),
            Action::Disconnect { .. } | Action::Release { .. } => {}
            Action::Ping { name, link } => {
                *self.pings.entry(name.clone()).or_default() += 1;
                return (!self.mute.contains(name)).then(|| Event::Ponged { name: name.clone(), link: *link });
            }
            Action::Flush { name, flush, scope, .. } => _ = self.flushes.insert(name.clone(), (*flush, *scope)),
            Action::Lease { request, .. } => {
                let (epoch, nodes) = (self.stored.1, self.stored.0.len());
                let answer = match self.lease {
                    LeaseReply::Ours => LeaseAnswer::Held { gained: false, epoch, nodes },
                    LeaseReply::Theirs => LeaseAnswer::Other { left_ms: Some(100) },
                    LeaseReply::None => {
                        self.asked = Some(*request);
                        return None;
                    }
                };
                return Some(Event::Leased { request: *request, answer });
            }
            Action::ReadMap { request } if self.hold_reads => self.read = Some(*request),
            Action::ReadMap { request } => {
                let (map, epoch) = self.stored.clone();
                return Some(Event::MapRead { request: *request, map, epoch, rehomed: self.rehomed });
            }
            Action::Write(write) => {
                self.rehomed = Some(write.rehomed);
                self.write = Some(write.clone());
                return (!self.hold_writes).then(|| self.wrote());
            }
            Action::ReadProxies { request } => {
                return Some(Event::ProxiesRead { request: *request, proxies: self.proxies.clone() });
            }
            Action::DropProxies { ids } => self.proxies.retain(|id, _| !ids.contains(id)),
            Action::OrderPurge { orders, .. } => self.orders.extend(orders.iter().cloned()),
            Action::TellNotes { notes, .. } => self.notes.clone_from(notes),
            Action::Answer { answer, .. } => self.answers.push(answer.clone()),
            Action::Notice(notice) => self.notices.push(notice.clone()),
        }
        None
    }

    /// The master has forgotten the proxies: those that live have time to say so.
    fn wait_for_proxies(&mut self) {
        self.wait(options().proxy_grace_ms - 1_000);
        assert!(self.flushes.is_empty(), "{:?}", self.flushes);
        self.wait(1_000 + options_settled());
    }

    /// The answer to the write that waits.
    fn wrote(&mut self) -> Event {
        let write = self.write.take().expect("a write");
        self.stored = (write.map.clone(), Some(write.epoch));
        self.written.push(write.clone());
        Event::Wrote { request: write.request, answer: WriteAnswer::Done }
    }

    fn release_write(&mut self) {
        self.hold_writes = false;
        let event = self.wrote();
        self.step(event);
    }

    /// Lets time pass, in steps as the driver takes them.
    fn wait(&mut self, ms: u64) {
        let until_ms = self.now_ms + ms;
        while self.now_ms < until_ms {
            let deadline_ms = self.membership.deadline_ms(self.now());
            assert!(deadline_ms > self.now_ms && deadline_ms <= self.now_ms + STEP_AT_LEAST_EVERY_MS);
            self.now_ms = deadline_ms.min(until_ms);
            self.step(Event::Tick);
        }
    }

    fn announcement(&self, name: &str) -> Announcement {
        Announcement {
            config: Endpoint::new("host", 7_000 + u16::from(name.as_bytes()[0])),
            weight: 1.0,
            name: Some(name.to_owned()),
            run_id: None,
            version: None,
            purged: None,
            other: Map::new(),
        }
    }

    fn announce(&mut self, name: &str) {
        let node = self.announcement(name);
        self.hear(AgentBusMessage::NodeUp { node });
    }

    fn hear(&mut self, message: AgentBusMessage) {
        self.step(Event::Heard(message));
    }

    fn open(&mut self, name: &str, run_id: &str) {
        self.open_server(name, Server { run_id: run_id.to_owned(), version: Some("7.0.15".to_owned()), uptime_ms: None });
    }

    fn open_server(&mut self, name: &str, server: Server) {
        let link = *self.links.get(name).unwrap_or_else(|| panic!("{name} is not being connected to"));
        self.step(Event::LinkOpened { name: name.to_owned(), link, server });
    }

    fn lose(&mut self, name: &str, loss: Loss) {
        let link = self.links.remove(name).unwrap_or_else(|| panic!("{name} is not connected to"));
        self.step(Event::LinkLost { name: name.to_owned(), link, reason: format!("{loss:?}").to_lowercase(), loss });
    }

    /// The node's redis died: its connection breaks, and a new one is refused.
    fn kill(&mut self, name: &str) {
        self.lose(name, Loss::Broken);
        self.lose(name, Loss::Refused);
    }

    fn flushed(&mut self, name: &str) -> Scope {
        let (flush, scope) = self.flushes.remove(name).unwrap_or_else(|| panic!("{name} is not being flushed"));
        self.step(Event::Flushed { name: name.to_owned(), flush });
        scope
    }

    fn flush_failed(&mut self, name: &str) {
        let (flush, _) = self.flushes.remove(name).unwrap_or_else(|| panic!("{name} is not being flushed"));
        self.step(Event::FlushFailed { name: name.to_owned(), flush, reason: "MISCONF".to_owned() });
    }

    /// What the last map says.
    fn shown_up(&self, name: &str) -> bool {
        self.stored.0.get(name).is_some_and(|node| node.up)
    }

    fn shown(&self, name: &str) -> &Node {
        &self.stored.0[name]
    }

    fn state(&self, name: &str) -> NodeState {
        let status = self.membership.status(self.now());
        status.nodes.into_iter().find(|node| node.name == name).expect("a known node").state
    }

    fn told(&self, part: &str) -> bool {
        self.notices.iter().any(|notice| notice.to_string().contains(part))
    }
}

fn options_settled() -> u64 {
    options().settle_ms + 1
}

fn node(name: &str, up: bool, run_id: Option<&str>) -> Node {
    Node {
        config: Endpoint::new("host", 7_000 + u16::from(name.as_bytes()[0])),
        weight: 1.0,
        up,
        state_change_time: 1,
        name: name.to_owned(),
        last_ping: None,
        run_id: run_id.map(str::to_owned),
        version: None,
        upkeep: Default::default(),
        other: Map::new(),
    }
}

fn map(nodes: &[Node]) -> NodeMap {
    nodes.iter().map(|node| (node.name.clone(), node.clone())).collect()
}

// ---- what is written ----

#[test]
fn the_epoch_is_the_time_of_day_and_grows_whatever_the_clock_says() {
    let mut rig = Rig::with(options(), &["a"]);
    let first = rig.written.last().unwrap().epoch;
    assert!((UNIX_MS..=UNIX_MS + rig.now_ms).contains(&first));
    rig.clock_ms = -10_000_000;
    rig.join("b");
    assert_eq!(rig.written.last().unwrap().epoch, first + 1);
    // A clock gone wild cannot use the numbers up.
    rig.clock_ms = i64::MAX / 2;
    rig.join("c");
    assert!(rig.written.last().unwrap().epoch <= EPOCH_MAX / 2);
}

#[test]
fn an_announcement_alone_is_nothing_to_write() {
    let mut rig = Rig::with(options(), &["a"]);
    let written = rig.written.len();
    for _ in 0..20 {
        rig.announce("a");
        rig.wait(5_000);
    }
    assert_eq!(rig.written.len(), written);
    rig.join("b");
    assert!(rig.shown("a").last_ping >= Some(UNIX_MS + 90_000), "it is written along");
}

#[test]
fn a_new_weight_is_published_and_moves_no_process() {
    let mut rig = Rig::with(options(), &["a"]);
    let mut node = rig.announcement("a");
    node.weight = 2.5;
    rig.hear(AgentBusMessage::NodeUp { node });
    assert_eq!((rig.shown("a").weight, rig.shown_up("a")), (2.5, true));
    assert!(rig.flushes.is_empty() && rig.told("node a has a new weight or address"));
}

#[test]
fn a_node_may_move_to_another_address_with_its_data_or_without() {
    for (run_id, kept) in [("a1", true), ("a2", false)] {
        let mut rig = Rig::with(options(), &["a", "b"]);
        let mut node = rig.announcement("a");
        node.config.host = "elsewhere".to_owned();
        let announce = |rig: &mut Rig| rig.hear(AgentBusMessage::NodeUp { node: node.clone() });
        announce(&mut rig);
        assert_eq!(rig.shown("a").config.host, "host", "not before it is known what answers there");
        rig.open("a", run_id);
        if !kept {
            rig.flushed("b");
            assert!(!rig.shown_up("a"));
            rig.wait(options_settled());
            rig.flushed("a");
        }
        assert_eq!((rig.shown_up("a"), rig.shown("a").config.host.as_str()), (true, "elsewhere"));
        assert!(!rig.flushes.contains_key("a"));
    }
}
