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

// ---- joining ----

#[test]
fn a_node_is_shown_up_when_its_flush_is_acknowledged_and_not_before() {
    let mut rig = Rig::with(options(), &[]);
    rig.announce("a");
    rig.open("a", "a1");
    assert_eq!(rig.flushes["a"].1, Scope::All);
    rig.wait(5_000);
    assert!(!rig.stored.0.contains_key("a"));
    rig.flushed("a");
    let shown = rig.shown("a");
    assert_eq!((shown.up, shown.state_change_time, shown.run_id.as_deref()), (true, 1, Some("a1")));
    assert_eq!(shown.version.as_deref(), Some("7.0.15"));
}

/// Readers take no empty map: so they may have used it by the map of one whose memory is lost.
#[test]
fn a_node_that_was_emptied_before_the_first_map_is_emptied_again() {
    let mut rig = Rig::with(options(), &[]);
    for name in ["a", "b"] {
        rig.announce(name);
        rig.open(name, &format!("{name}1"));
    }
    let (first, _) = rig.flushes["b"];
    rig.flushed("a");
    assert!(rig.shown_up("a"));
    rig.step(Event::Flushed { name: "b".to_owned(), flush: first });
    assert!(!rig.stored.0.contains_key("b"));
    rig.wait(options_settled());
    assert_ne!(rig.flushes["b"].0, first);
    rig.flushed("b");
    assert!(rig.shown_up("b"));
}

#[test]
fn a_node_that_cannot_be_emptied_stays_out_and_is_tried_with_growing_pauses() {
    let mut rig = Rig::with(options(), &[]);
    rig.announce("a");
    rig.open("a", "a1");
    for pause_ms in [200, 400, 800, 1_600] {
        rig.flush_failed("a");
        rig.wait(pause_ms - 1);
        assert!(!rig.flushes.contains_key("a"), "{pause_ms}");
        rig.wait(1);
        assert!(rig.flushes.contains_key("a"), "{pause_ms}");
    }
    assert!(!rig.shown_up("a"));
    assert!(rig.told("node a stays out: it could not be emptied: MISCONF"));
    rig.flushed("a");
    assert!(rig.shown_up("a"));
}

#[test]
fn a_flush_that_is_never_acknowledged_is_given_up_with_its_connection() {
    let mut rig = Rig::with(options(), &[]);
    rig.announce("a");
    rig.open("a", "a1");
    let flush = rig.flushes["a"].0;
    for _ in 0..12 {
        rig.announce("a");
        rig.wait(5_000);
    }
    rig.announce("a");
    rig.step(Event::Flushed { name: "a".to_owned(), flush });
    assert!(!rig.shown_up("a"), "an answer to what was given up");
}

#[test]
fn announcements_that_make_no_sense_change_nothing() {
    let mut rig = Rig::with(options(), &["a"]);
    let (written, good) = (rig.written.len(), rig.announcement("b"));
    let with = |alter: &dyn Fn(&mut Announcement)| {
        let mut announcement = good.clone();
        alter(&mut announcement);
        announcement
    };
    for bad in [
        with(&|node| node.weight = 0.0),
        with(&|node| node.weight = -1.0),
        with(&|node| node.weight = 100.1),
        with(&|node| node.weight = f64::NAN),
        with(&|node| node.weight = f64::INFINITY),
        with(&|node| node.config.port = 0),
        with(&|node| node.config.host = String::new()),
        with(&|node| node.name = Some(String::new())),
        with(&|node| node.name = Some("b\n".to_owned())),
        with(&|node| node.name = Some("b".repeat(256))),
    ] {
        rig.notices.clear();
        rig.hear(AgentBusMessage::NodeUp { node: bad.clone() });
        assert!(rig.told("is ignored"), "{bad:?}");
        assert!(!rig.links.contains_key("b"), "{bad:?}");
    }
    assert_eq!(rig.written.len(), written);
}

#[test]
fn a_stray_agent_cannot_register_nodes_without_bound() {
    let mut rig = Rig::idle(options());
    for number in 0..NODES_MAX + 10 {
        let mut node = rig.announcement("x");
        node.name = Some(format!("x{number}"));
        rig.hear(AgentBusMessage::NodeUp { node });
    }
    assert_eq!(rig.membership.status(rig.now()).nodes.len(), NODES_MAX);
    assert!(rig.told("there are too many nodes"));
}

#[test]
fn the_master_itself_is_refused() {
    let mut rig = Rig::with(options(), &["a"]);
    rig.announce("b");
    rig.open("b", "master");
    assert_eq!(rig.state("b"), NodeState::Refused);
    assert!(rig.told("node b is refused: it is the master redis itself") && !rig.flushes.contains_key("b"));
    // Its agent goes on announcing, which changes nothing.
    for _ in 0..10 {
        rig.announce("b");
        rig.wait(5_000);
        rig.announce("a");
    }
    assert!(!rig.stored.0.contains_key("b") && !rig.flushes.contains_key("b"));
}

#[test]
fn the_master_itself_may_serve_where_allowed_and_keeps_the_coordination() {
    let mut rig = Rig::with(Options { allow_master: true, ..options() }, &["a"]);
    rig.announce("b");
    rig.open("b", "master");
    assert_eq!(rig.flushed("b"), Scope::AllButCoordination);
    assert!(rig.shown_up("b"));
    rig.wait(options_settled());
    rig.kill("a");
    assert_eq!(rig.flushed("b"), Scope::GuestsButCoordination);
    assert!(!rig.shown_up("a"));
}

// ---- going down ----

#[test]
fn a_dead_node_is_shown_down_when_the_guests_of_all_others_are_flushed() {
    let mut rig = Rig::with(options(), &["a", "b", "c"]);
    rig.kill("a");
    assert!(rig.shown_up("a"), "nothing is flushed yet");
    assert_eq!(rig.flushed("b"), Scope::Guests);
    assert!(rig.shown_up("a"), "c is not flushed yet");
    rig.flushed("c");
    assert!(!rig.shown_up("a") && rig.shown_up("b") && rig.shown_up("c"));
    assert_eq!(rig.shown("a").state_change_time, UNIX_MS + rig.now_ms);
    assert!(rig.told("node a is down: refused; the keys move to 2 others"));
    let [.., before, write] = &rig.written[..] else { panic!("{:?}", rig.written) };
    assert_eq!((&write.changed[..], write.expected), (&["a".to_owned()][..], Some(3)), "one field, of a hash of three");
    assert_eq!(write.known, before.epoch, "what it changes is that map");
}

#[test]
fn without_guest_databases_a_dead_node_is_shown_down_at_once() {
    let mut rig = Rig::with(Options { guest_databases: false, ..options() }, &["a", "b"]);
    rig.kill("a");
    assert!(!rig.shown_up("a") && rig.flushes.is_empty());
}

#[test]
fn a_node_whose_guests_cannot_be_flushed_goes_down_with_it() {
    let mut rig = Rig::with(options(), &["a", "b", "c"]);
    rig.kill("a");
    rig.flushed("b");
    rig.wait(options().guest_flush_timeout_ms);
    // What b flushed was not meant for c.
    rig.flushed("b");
    assert!(!rig.shown_up("a") && rig.shown_up("b") && !rig.shown_up("c"));
    assert!(rig.told("node c is down: its guest databases could not be flushed: no answer in time"));
}

#[test]
fn guests_are_flushed_again_for_a_node_that_went_down_meanwhile() {
    let mut rig = Rig::with(options(), &["a", "b", "c"]);
    rig.kill("a");
    rig.flushed("b");
    rig.kill("c");
    assert!(rig.shown_up("a"));
    rig.flushed("b");
    assert!(!rig.shown_up("a") && rig.shown_up("b") && !rig.shown_up("c"));
}

#[test]
fn guests_are_flushed_late_enough_for_a_node_that_was_only_just_shown_up() {
    let mut rig = Rig::with(options(), &["b"]);
    rig.join("a");
    rig.kill("a");
    rig.wait(options().settle_ms - 1);
    assert!(rig.flushes.is_empty(), "readers may still write to the guest database what belongs to a");
    rig.wait(1);
    rig.flushed("b");
    assert!(!rig.shown_up("a"));
}

#[test]
fn guests_are_not_flushed_while_a_map_is_on_its_way_that_shows_the_node_up() {
    let mut rig = Rig::with(options(), &["b"]);
    rig.hold_writes = true;
    rig.announce("a");
    rig.open("a", "a1");
    rig.flushed("a");
    rig.kill("a");
    rig.wait(options_settled());
    assert!(rig.flushes.is_empty());
    rig.release_write();
    assert!(rig.shown_up("a"));
    rig.wait(options_settled());
    rig.flushed("b");
    assert!(!rig.shown_up("a"));
}

#[test]
fn a_node_that_restarts_while_a_map_is_on_its_way_that_shows_it_up_is_emptied_after_the_map_that_shows_it_down() {
    let mut rig = Rig::with(options(), &["b"]);
    rig.hold_writes = true;
    rig.announce("a");
    rig.open("a", "a1");
    rig.flushed("a");
    rig.lose("a", Loss::Broken);
    rig.open("a", "a2");
    rig.release_write();
    assert!(rig.shown_up("a") && rig.flushes.is_empty());
    rig.wait(options_settled());
    rig.flushed("b");
    assert!(!rig.shown_up("a"));
    rig.wait(options_settled());
    rig.flushed("a");
    assert!(rig.shown_up("a") && rig.shown("a").run_id.as_deref() == Some("a2"));
}

/// Node `a` is drained and let back while a map is on its way that shows it up: whether it is emptied though readers may use it by now.
fn is_emptied_while_it_is_being_shown_up() -> bool {
    let mut rig = Rig::with(options(), &["b"]);
    rig.hold_writes = true;
    rig.announce("a");
    rig.open("a", "a1");
    rig.flushed("a");
    for wish in [Wish::Drain { force: false }, Wish::Undrain] {
        rig.hear(AgentBusMessage::NodeWish { id: format!("{wish:?}"), name: "a".to_owned(), wish });
    }
    rig.wait(options_settled());
    let is_emptied = rig.flushes.contains_key("a");
    rig.release_write();
    assert!(rig.shown_up("a"));
    rig.wait(options_settled());
    rig.flushed("b");
    assert!(!rig.shown_up("a") || flaw::has(Flaw::OldFlushCounts));
    if !is_emptied {
        rig.wait(options_settled());
        rig.flushed("a");
        assert!(rig.shown_up("a"));
    }
    is_emptied
}

#[test]
fn a_node_is_not_emptied_while_a_map_is_on_its_way_that_shows_it_up() {
    assert!(!is_emptied_while_it_is_being_shown_up());
    assert!(flaw::with(Flaw::OldFlushCounts, is_emptied_while_it_is_being_shown_up));
}

#[test]
fn a_connection_that_is_merely_cut_is_opened_anew_and_nothing_else() {
    let mut rig = Rig::with(options(), &["a", "b"]);
    let written = rig.written.len();
    rig.lose("a", Loss::Broken);
    assert_eq!(rig.state("a"), NodeState::Doubtful);
    rig.open("a", "a1");
    assert_eq!((rig.state("a"), rig.written.len()), (NodeState::Up, written));
    assert!(rig.flushes.is_empty());
    // One that answers nothing on the new connection is given little time.
    rig.lose("a", Loss::Broken);
    rig.wait(options().recheck_ms);
    rig.flushed("b");
    assert!(!rig.shown_up("a"));
}

#[test]
fn a_connection_that_is_cut_again_and_again_is_a_node_that_is_down() {
    let mut rig = Rig::with(options(), &["a", "b"]);
    for _ in 0..3 {
        rig.lose("a", Loss::Broken);
        rig.open("a", "a1");
    }
    rig.lose("a", Loss::Broken);
    rig.flushed("b");
    assert!(!rig.shown_up("a"));
}

#[test]
fn a_stalled_node_is_down_after_the_ping_timeout() {
    let mut rig = Rig::with(options(), &["a", "b"]);
    rig.mute.insert("a".to_owned());
    let began_ms = rig.now_ms;
    while !rig.flushes.contains_key("b") {
        rig.wait(10);
        rig.announce("a");
    }
    let took_ms = rig.now_ms - began_ms;
    assert!((3_000..=4_010).contains(&took_ms), "{took_ms}");
    rig.flushed("b");
    assert!(!rig.shown_up("a") && rig.told("no answer to PING for 30"));
}

#[test]
fn a_node_that_answers_ping_with_errors_is_down_as_if_it_did_not() {
    let mut rig = Rig::with(options(), &["a", "b"]);
    rig.mute.insert("a".to_owned());
    while !rig.flushes.contains_key("b") {
        rig.wait(1_000);
        if let Some(link) = rig.links.get("a").copied() {
            rig.step(Event::PingRefused { name: "a".to_owned(), link, reason: "LOADING".to_owned() });
        }
    }
    assert!(rig.pings["a"] > 3, "it is asked again and again");
    rig.flushed("b");
    assert!(!rig.shown_up("a") && rig.told("answers PING with an error: LOADING"));
}

#[test]
fn a_thousand_reports_make_one_look() {
    let mut rig = Rig::with(options(), &["a"]);
    rig.mute.insert("a".to_owned());
    rig.pings.clear();
    for number in 0..1_000 {
        let suspect =
            AgentBusMessage::NodeSuspect { name: "a".to_owned(), reporter: format!("p{number}"), reason: String::new() };
        rig.hear(suspect);
    }
    assert_eq!(rig.pings["a"], 1);
}

#[test]
fn the_silence_of_all_nodes_at_once_is_not_believed_until_their_agents_are_silent_too() {
    let mut rig = Rig::with(options(), &["a", "b", "c"]);
    for name in ["a", "b", "c"] {
        rig.mute.insert(name.to_owned());
    }
    let announce_all = |rig: &mut Rig| ["a", "b", "c"].iter().for_each(|name| rig.announce(name));
    for _ in 0..4 {
        rig.wait(2_000);
        announce_all(&mut rig);
    }
    assert!(["a", "b", "c"].iter().all(|name| rig.shown_up(name)));
    assert!(rig.told("all 3 nodes went silent at once"));
    // The network is back: nothing had been said, so nothing is lost.
    rig.mute.clear();
    rig.wait(5_000);
    announce_all(&mut rig);
    for name in ["a", "b", "c"] {
        rig.open(name, &format!("{name}1"));
    }
    assert!(rig.flushes.values().all(|(_, scope)| *scope == Scope::Guests));
    assert!(["a", "b", "c"].iter().all(|name| rig.state(name) == NodeState::Up && rig.shown_up(name)));
    // Once more, and the agents with them.
    for name in ["a", "b", "c"] {
        rig.mute.insert(name.to_owned());
    }
    rig.wait(50_000);
    assert!(!["a", "b", "c"].iter().any(|name| rig.shown_up(name)));
}

#[test]
fn the_silence_of_all_that_were_up_is_believed_when_anybody_else_answers() {
    for process in ["a2", "c1"] {
        let mut rig = Rig::with(options(), &["a", "b"]);
        rig.mute.extend(["a".to_owned(), "b".to_owned()]);
        for _ in 0..4 {
            rig.wait(1_500);
            rig.announce("a");
            rig.announce("b");
        }
        assert!(rig.told("all 2 nodes went silent") && rig.shown_up("a") && rig.shown_up("b"));
        // One of them as another process, or one that was never in.
        rig.announce(&process[..1]);
        rig.open(&process[..1], process);
        assert!(!rig.shown_up("a") && !rig.shown_up("b"), "{process}");
    }
}

#[test]
fn a_silent_agent_takes_its_node_down() {
    let mut rig = Rig::with(options(), &["a", "b"]);
    for _ in 0..9 {
        rig.announce("b");
        rig.wait(4_900);
    }
    assert!(rig.flushes.is_empty());
    rig.announce("b");
    rig.wait(1_500);
    rig.flushed("b");
    assert!(!rig.shown_up("a") && rig.shown_up("b") && rig.told("its agent is silent"));
    // It is back when its agent speaks.
    rig.wait(10_000);
    assert!(rig.flushes.is_empty());
    rig.announce("a");
    assert_eq!(rig.flushed("a"), Scope::All);
    assert!(rig.shown_up("a"));
}

#[test]
fn agents_are_not_silent_while_they_cannot_be_heard() {
    for (gone, back) in [
        (Event::BusDown, Event::BusUp),
        (Event::MasterDown { reason: "cut".to_owned() }, Event::MasterUp { run_id: Some("master".to_owned()) }),
    ] {
        let mut rig = Rig::with(options(), &["a", "b"]);
        rig.step(gone);
        rig.wait(100_000);
        rig.step(back);
        rig.wait(40_000);
        assert!(rig.shown_up("a") && rig.shown_up("b"));
    }
}

#[test]
fn a_node_is_forgotten_when_it_has_been_down_for_long() {
    let mut rig = Rig::with(options(), &["a", "b"]);
    rig.kill("a");
    rig.flushed("b");
    let down_ms = rig.now_ms;
    while rig.stored.0.contains_key("a") {
        rig.announce("b");
        rig.wait(5_000);
        assert!(rig.now_ms < down_ms + 1_300_000);
    }
    assert!(rig.now_ms - down_ms >= 20 * 60_000 && rig.told("node a is no longer in the map: down for 20 minutes"));
    assert_eq!(rig.written.last().unwrap().removed, ["a"]);
    // A new one by its name has only ever been up. Nobody goes by the map any more that had the old one.
    rig.live(20_000);
    rig.announce("a");
    rig.open("a", "a2");
    rig.wait(options_settled());
    rig.flushed("a");
    assert_eq!(rig.shown("a").state_change_time, 1);
}

#[test]
fn an_agents_word_is_taken_but_not_one_about_a_former_process() {
    let mut rig = Rig::with(options(), &["a", "b"]);
    let died = |run_id: Option<&str>| AgentBusMessage::NodeDown {
        name: "a".to_owned(),
        run_id: run_id.map(str::to_owned),
        reason: "it was killed".to_owned(),
    };
    rig.hear(died(Some("a0")));
    assert!(rig.flushes.is_empty());
    rig.hear(died(Some("a1")));
    rig.flushed("b");
    assert!(!rig.shown_up("a") && rig.told("its agent says: it was killed"));
    rig.wait(10_000);
    assert!(!rig.links.contains_key("a"), "it is not back until its agent says so");
}

// ---- coming back ----

#[test]
fn a_node_that_comes_back_is_emptied_after_readers_were_told_that_it_is_down() {
    let mut rig = Rig::with(options(), &["a", "b"]);
    rig.kill("a");
    rig.announce("a");
    rig.open("a", "a2");
    assert!(!rig.flushes.contains_key("a"), "readers may still use it");
    rig.flushed("b");
    assert!(!rig.shown_up("a"));
    rig.wait(options().settle_ms - 1);
    assert!(!rig.flushes.contains_key("a"), "some may not have heard yet");
    rig.wait(1);
    assert_eq!(rig.flushed("a"), Scope::All);
    assert!(rig.shown_up("a") && rig.told("node a is back: emptied and up"));
    assert_eq!(rig.shown("a").state_change_time, UNIX_MS + rig.now_ms);
}

#[test]
fn a_redis_that_restarted_faster_than_anybody_noticed_is_shown_down_and_emptied() {
    let mut rig = Rig::with(options(), &["a", "b"]);
    rig.lose("a", Loss::Broken);
    rig.open("a", "a2");
    rig.flushed("b");
    assert!(!rig.shown_up("a") && rig.told("its redis was restarted"));
    rig.wait(options_settled());
    rig.flushed("a");
    assert_eq!((rig.shown_up("a"), rig.shown("a").run_id.as_deref()), (true, Some("a2")));
}

#[test]
fn an_agent_that_sees_another_process_makes_us_look() {
    let mut rig = Rig::with(options(), &["a", "b"]);
    let mut node = rig.announcement("a");
    node.run_id = Some("a2".to_owned());
    rig.hear(AgentBusMessage::NodeUp { node: node.clone() });
    // It was wrong, and says it again and again.
    rig.open("a", "a1");
    rig.hear(AgentBusMessage::NodeUp { node });
    assert!(rig.actions.is_empty() && rig.shown_up("a"));
}

#[test]
fn a_down_that_no_map_has_shown_is_taken_back() {
    let mut rig = Rig::with(options(), &["a", "b"]);
    let written = rig.written.len();
    rig.kill("a");
    rig.wait(150);
    rig.open("a", "a1");
    assert_eq!((rig.state("a"), rig.written.len()), (NodeState::Up, written));
    rig.flushed("b");
    assert_eq!(rig.written.len(), written, "there is nothing to say");
    // A map that shows it is on its way: too late.
    rig.hold_writes = true;
    rig.kill("a");
    rig.flushed("b");
    rig.wait(250);
    rig.open("a", "a1");
    assert_ne!(rig.state("a"), NodeState::Up);
    rig.release_write();
    assert!(!rig.shown_up("a"));
}

#[test]
fn a_flapping_node_is_held_back_with_growing_pauses_and_forgiven_in_time() {
    let mut rig = Rig::with(options(), &["a", "b"]);
    let mut process = 1;
    let mut flap = |rig: &mut Rig| {
        rig.kill("a");
        rig.flushed("b");
        let down_ms = rig.now_ms;
        rig.announce("a");
        process += 1;
        rig.open("a", &format!("a{process}"));
        while !rig.flushes.contains_key("a") {
            rig.wait(100);
            rig.announce("a");
            rig.announce("b");
        }
        let held_ms = rig.now_ms - down_ms;
        rig.flushed("a");
        rig.wait(options_settled());
        held_ms
    };
    for expected_ms in [100, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000] {
        let held_ms = flap(&mut rig);
        assert!((expected_ms..expected_ms + 200).contains(&held_ms), "{held_ms} for {expected_ms}");
    }
    assert!(rig.told("node a went down 9 times of late"));
    for _ in 0..70 {
        rig.announce("a");
        rig.announce("b");
        rig.wait(5_000);
    }
    assert!(flap(&mut rig) < 200);
}

/// Who leads anew goes by the map, which still shows up what went down and could not be published.
#[test]
fn a_death_that_is_found_again_at_each_new_lead_counts_once() {
    let mut rig = Rig::with(options(), &["a", "b"]);
    rig.kill("a");
    for _ in 0..3 {
        rig.lease = LeaseReply::Theirs;
        rig.wait(1_000);
        rig.lease = LeaseReply::Ours;
        rig.wait(1_000);
        rig.open("b", "b1");
        rig.lose("a", Loss::Refused);
    }
    rig.flushed("b");
    assert!(!rig.shown_up("a") && !rig.told("went down"));
    rig.announce("a");
    rig.open("a", "a2");
    rig.wait(options_settled());
    rig.flushed("a");
    rig.kill("a");
    assert!(rig.told("node a went down 2 times"));
}

#[test]
fn leaving_in_good_order_is_no_flapping() {
    let mut rig = Rig::with(options(), &["a", "b"]);
    for _ in 0..5 {
        rig.hear(AgentBusMessage::NodeLeaving { name: "a".to_owned(), run_id: None });
        rig.flushed("b");
        assert_eq!((rig.shown_up("a"), rig.state("a")), (false, NodeState::Left));
        rig.wait(options_settled());
        assert!(!rig.flushes.contains_key("a"));
        rig.announce("a");
        rig.open("a", "a1");
        rig.flushed("a");
        rig.wait(options_settled());
    }
    assert!(!rig.told("of late"));
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

// ---- leading ----

#[test]
fn a_new_leader_keeps_what_it_can_vouch_for() {
    let mut rig = Rig::idle(options());
    rig.stored = (map(&[node("a", true, Some("a1")), node("b", true, Some("b1")), node("c", true, Some("c1"))]), Some(7));
    rig.connect_master();
    assert!(rig.written.is_empty(), "first it looks");
    rig.open("a", "a1");
    rig.open("b", "b2");
    rig.lose("c", Loss::Refused);
    assert!(rig.written.is_empty());
    rig.wait(options_settled());
    assert_eq!(rig.flushed("a"), Scope::Guests);
    assert!(rig.shown_up("a") && !rig.shown_up("b") && !rig.shown_up("c"));
    let write = &rig.written[0];
    assert_eq!((write.expected, write.epoch > UNIX_MS), (None, true), "whole, and newer");
    rig.announce("b");
    rig.wait(options_settled());
    assert_eq!(rig.flushed("b"), Scope::All);
    assert!(rig.shown_up("b"));
}

#[test]
fn nodes_of_an_old_map_are_kept_if_their_process_is_older_than_it() {
    let seen_ms = UNIX_MS - 100_000;
    for (state_change_time, last_ping, uptime_ms, kept) in [
        (1, Some(seen_ms), Some(200_000), true),
        (seen_ms, None, Some(200_000), true),
        (1, Some(seen_ms), Some(50_000), false),
        (seen_ms - 900_000, Some(seen_ms), Some(200_000), true),
        // Too near to tell.
        (1, Some(seen_ms), Some(103_000), false),
        (1, Some(seen_ms), None, false),
        (1, None, Some(200_000), false),
    ] {
        let mut rig = Rig::idle(options());
        let old = Node { state_change_time, last_ping, ..node("a", true, None) };
        rig.stored = (map(&[old]), None);
        rig.connect_master();
        rig.open_server("a", Server { run_id: "a1".to_owned(), version: None, uptime_ms });
        let case = format!("{state_change_time} {last_ping:?} {uptime_ms:?}");
        assert_eq!(rig.shown_up("a"), kept, "{case}");
        assert_eq!(rig.shown("a").run_id.as_deref() == Some("a1"), kept, "{case}");
    }
}

#[test]
fn a_master_that_restarts_empty_gets_the_map_back_at_once_and_nothing_is_flushed() {
    let mut rig = Rig::with(options(), &["a", "b"]);
    let last = rig.written.last().unwrap().clone();
    rig.step(Event::MasterDown { reason: "reset".to_owned() });
    rig.stored = (NodeMap::new(), None);
    rig.wait(20_000);
    rig.step(Event::MasterUp { run_id: Some("master2".to_owned()) });
    rig.wait(100);
    let back = &rig.stored.0;
    assert!(back.values().all(|node| node.up) && back.len() == 2);
    assert!(rig.stored.1 > Some(last.epoch));
    assert!(rig.flushes.is_empty() && rig.told("the last known one is written back: 2 nodes"));
}

#[test]
fn what_happens_while_the_master_is_gone_is_published_when_it_is_back() {
    let mut rig = Rig::with(options(), &["a", "b"]);
    rig.step(Event::MasterDown { reason: "reset".to_owned() });
    rig.lose("a", Loss::Broken);
    rig.wait(500);
    assert!(rig.shown_up("a"));
    rig.step(Event::MasterUp { run_id: Some("master".to_owned()) });
    rig.lose("a", Loss::Refused);
    rig.wait(options_settled());
    rig.flushed("b");
    assert!(!rig.shown_up("a"));
}

#[test]
fn a_write_of_unknown_outcome_is_fenced_and_then_the_master_is_asked_what_became_of_it() {
    let lost_write = || {
        let mut rig = Rig::with(options(), &["a", "b"]);
        rig.hold_writes = true;
        rig.kill("a");
        rig.flushed("b");
        let lost = rig.write.take().expect("a write");
        rig.step(Event::MasterDown { reason: "no answer".to_owned() });
        rig.hold_writes = false;
        (rig, lost)
    };
    let back_at = |rig: &mut Rig, lost: &MapWrite, master: &str| {
        rig.step(Event::MasterUp { run_id: Some(master.to_owned()) });
        rig.wait(100);
        rig.open("a", "a1");
        let write = rig.written.last().unwrap();
        assert!(write.token != lost.token && write.epoch > lost.epoch);
    };
    let back = |rig: &mut Rig, lost: &MapWrite| back_at(rig, lost, "master");
    // It was not done, and cannot be any more: the very process that was up still is.
    let (mut rig, lost) = lost_write();
    back(&mut rig, &lost);
    assert!(rig.shown_up("a") && rig.flushes.is_empty());
    // It was done.
    let (mut rig, lost) = lost_write();
    rig.stored = (lost.map.clone(), Some(lost.epoch));
    rig.announce("a");
    back(&mut rig, &lost);
    assert!(!rig.shown_up("a"));
    rig.wait(options_settled());
    assert_eq!(rig.flushed("a"), Scope::All);
    // It was done, or not, and the master has lost all that it knew: to assume that it was is right either way.
    let (mut rig, lost) = lost_write();
    rig.stored = (NodeMap::new(), None);
    rig.announce("a");
    back(&mut rig, &lost);
    assert!(!rig.shown_up("a") && rig.shown_up("b"));
    rig.wait_for_proxies();
    assert_eq!(rig.flushed("a"), Scope::All);
    // It was done, or not, and a replica that lacks it, and nothing else, took the master's place.
    let (mut rig, lost) = lost_write();
    rig.announce("a");
    back_at(&mut rig, &lost, "its replica");
    assert!(!rig.shown_up("a") && rig.shown_up("b"));
    rig.wait_for_proxies();
    assert_eq!(rig.flushed("a"), Scope::All);
}

#[test]
fn a_map_in_doubt_yields_to_one_that_another_leader_wrote() {
    let mut rig = Rig::with(options(), &["a", "b"]);
    rig.hold_writes = true;
    rig.kill("a");
    rig.flushed("b");
    let lost = rig.write.take().expect("a write");
    rig.step(Event::MasterDown { reason: "no answer".to_owned() });
    (rig.hold_writes, rig.lease) = (false, LeaseReply::Theirs);
    rig.step(Event::MasterUp { run_id: Some("master".to_owned()) });
    rig.step(Event::MapHeard { map: map(&[node("b", true, Some("b1"))]), epoch: Some(lost.epoch + 1) });
    rig.stored = (NodeMap::new(), None);
    rig.lease = LeaseReply::Ours;
    rig.wait(1_000);
    assert_eq!(rig.stored.0.keys().collect::<Vec<_>>(), ["b"]);
}

#[test]
fn a_standby_watches_nothing_and_remembers_the_map() {
    let mut rig = Rig::idle(options());
    rig.lease = LeaseReply::Theirs;
    rig.stored = (map(&[node("a", true, Some("a1"))]), Some(7));
    rig.connect_master();
    rig.announce("b");
    assert!(rig.links.is_empty() && rig.written.is_empty() && rig.told("this one stands by"));
    assert_eq!(rig.membership.status(rig.now()).epoch, 7);
    // The leader dies and the master forgets everything; the last map that was heard comes back.
    rig.step(Event::MapHeard { map: map(&[node("a", true, Some("a1")), node("c", true, Some("c1"))]), epoch: Some(9) });
    rig.step(Event::MapHeard { map: map(&[]), epoch: Some(8) });
    rig.stored = (NodeMap::new(), None);
    rig.lease = LeaseReply::Ours;
    rig.wait(500);
    assert_eq!(rig.stored.0.keys().collect::<Vec<_>>(), ["a", "c"]);
}

#[test]
fn an_empty_map_replaces_nothing_and_a_memory_that_is_behind_vouches_for_nobody() {
    let mut rig = Rig::idle(options());
    rig.lease = LeaseReply::Theirs;
    rig.stored = (map(&[node("a", true, Some("a1"))]), Some(7));
    rig.connect_master();
    // Somebody deleted the hash, and there had been a map that was not heard here.
    rig.stored = (NodeMap::new(), Some(8));
    rig.lease = LeaseReply::Ours;
    rig.announce("a");
    rig.wait(600);
    rig.open("a", "a1");
    assert!(rig.stored.0.contains_key("a") && !rig.shown_up("a"));
    rig.wait_for_proxies();
    assert_eq!(rig.flushed("a"), Scope::All);
    assert!(rig.shown_up("a"));
}

#[test]
fn a_standby_follows_deltas_and_reads_the_map_where_one_was_missed() {
    let (first, second) = (map(&[node("a", true, Some("a1"))]), map(&[node("a", true, Some("a1")), node("c", true, Some("c1"))]));
    let standby = || {
        let mut rig = Rig::idle(options());
        rig.lease = LeaseReply::Theirs;
        rig.stored = (first.clone(), Some(7));
        rig.connect_master();
        rig.step(Event::DeltaHeard(MapDelta::between(&first, 7, &second, 9)));
        assert_eq!(rig.membership.status(rig.now()).epoch, 9);
        rig
    };
    let mut rig = standby();
    // Old ones say nothing.
    rig.step(Event::DeltaHeard(MapDelta::between(&second, 9, &first, 9)));
    rig.step(Event::DeltaHeard(MapDelta::between(&second, 9, &first, 8)));
    rig.stored = (NodeMap::new(), None);
    rig.lease = LeaseReply::Ours;
    rig.wait(500);
    assert_eq!(rig.stored.0.keys().collect::<Vec<_>>(), ["a", "c"], "what it had been led to is written back");
    assert!(rig.shown_up("a") && rig.flushes.is_empty());

    let mut rig = standby();
    rig.stored = (first.clone(), Some(12));
    rig.step(Event::DeltaHeard(MapDelta::between(&second, 11, &first, 12)));
    assert_eq!(rig.membership.status(rig.now()).epoch, 12, "it was read at once");

    // It is missed, and gone before it could be read: what it said is not known.
    let mut rig = standby();
    rig.stored = (NodeMap::new(), None);
    rig.step(Event::DeltaHeard(MapDelta::between(&second, 11, &first, 12)));
    rig.lease = LeaseReply::Ours;
    rig.announce("a");
    rig.wait(600);
    rig.open("a", "a1");
    assert!(rig.stored.0.contains_key("a") && !rig.shown_up("a"));
    rig.wait_for_proxies();
    assert_eq!(rig.flushed("a"), Scope::All);
}

#[test]
fn a_deposed_leader_lets_go_of_everything() {
    let mut rig = Rig::with(options(), &["a", "b"]);
    rig.lease = LeaseReply::Theirs;
    rig.wait(600);
    assert!(rig.links.is_empty() && rig.told("no longer leads"));
    let written = rig.written.len();
    rig.announce("c");
    rig.wait(10_000);
    assert!(rig.links.is_empty() && rig.flushes.is_empty() && rig.written.len() == written);
}

#[test]
fn nobody_is_flushed_and_nothing_written_when_the_lease_may_have_run_out() {
    let mut rig = Rig::with(options(), &["a", "b"]);
    rig.lease = LeaseReply::None;
    rig.wait(options().lease_ms + 1);
    let written = rig.written.len();
    rig.kill("a");
    rig.announce("c");
    rig.open("c", "c1");
    rig.wait(1_000);
    assert!(rig.flushes.is_empty() && rig.written.len() == written);
}

#[test]
fn a_map_that_somebody_changed_is_written_again() {
    for change in [
        |stored: &mut (NodeMap, Option<Epoch>)| stored.0.clear(),
        |stored: &mut (NodeMap, Option<Epoch>)| stored.1 = Some(EPOCH_MAX - 5),
        |stored: &mut (NodeMap, Option<Epoch>)| stored.1 = None,
    ] {
        let mut rig = Rig::with(options(), &["a", "b"]);
        change(&mut rig.stored);
        let greatest = rig.stored.1.max(rig.written.last().map(|write| write.epoch));
        rig.wait(600);
        assert_eq!((rig.stored.0.len(), rig.written.last().unwrap().expected), (2, None));
        assert!(rig.stored.1 > greatest && rig.flushes.is_empty() && rig.told("somebody else changed it"));
    }
}

#[test]
fn a_coordinator_of_the_old_system_beside_us_is_told_of() {
    let mut rig = Rig::with(options(), &["a"]);
    rig.step(Event::MapHeard { map: NodeMap::new(), epoch: None });
    assert!(rig.told("a coordinator of the old system runs beside this one") && rig.shown_up("a"));
}

#[test]
fn a_leader_that_stops_gives_the_lease_back_and_a_standby_takes_it_at_once() {
    let mut rig = Rig::with(options(), &["a"]);
    rig.step(Event::Shutdown);
    assert!(rig.actions.iter().any(|action| matches!(action, Action::Release { token } if token == "me:1")));
    assert!(rig.links.is_empty());
    rig.step(Event::Tick);
    assert!(rig.actions.is_empty());

    let mut standby = Rig::idle(options());
    standby.lease = LeaseReply::Theirs;
    standby.connect_master();
    standby.wait(20);
    standby.lease = LeaseReply::Ours;
    standby.hear(AgentBusMessage::LeaderLeft {});
    assert!(standby.membership.status(standby.now()).leading);
}

#[test]
fn answers_to_nobodys_questions_change_nothing() {
    let mut rig = Rig::with(options(), &["a"]);
    let (status, stored) = (rig.membership.status(rig.now()), rig.stored.clone());
    let (name, request): (String, RequestId) = ("a".to_owned(), 999);
    for event in [
        Event::LinkLost { name: name.clone(), link: 999, reason: String::new(), loss: Loss::Refused },
        Event::LinkOpened {
            name: name.clone(),
            link: 999,
            server: Server { run_id: "x".into(), version: None, uptime_ms: None },
        },
        Event::LinkLost { name: "nobody".into(), link: 1, reason: String::new(), loss: Loss::Refused },
        Event::Ponged { name: name.clone(), link: 999 },
        Event::Flushed { name: name.clone(), flush: 999 },
        Event::FlushFailed { name, flush: 999, reason: String::new() },
        Event::Leased { request, answer: LeaseAnswer::Other { left_ms: None } },
        Event::MapRead { request, map: NodeMap::new(), epoch: Some(EPOCH_MAX), rehomed: Some(EPOCH_MAX) },
        Event::Wrote { request, answer: WriteAnswer::Fenced },
        Event::RequestFailed { request, reason: String::new() },
    ] {
        rig.step(event.clone());
        assert!(rig.actions.is_empty(), "{event:?}");
    }
    assert_eq!((rig.membership.status(rig.now()), &rig.stored), (status, &stored));
}

#[test]
fn a_coordinator_that_stood_still_blames_nobody() {
    let mut rig = Rig::with(options(), &["a", "b"]);
    rig.mute.extend(["a".to_owned(), "b".to_owned()]);
    rig.wait(1_100);
    // The answers lie in the sockets' buffers.
    rig.now_ms += 60_000;
    rig.step(Event::Tick);
    assert!(rig.told("did not run for 59") && rig.flushes.is_empty());
    for name in ["a", "b"] {
        let link = rig.links[name];
        rig.step(Event::Ponged { name: name.to_owned(), link });
    }
    rig.mute.clear();
    rig.wait(3_000);
    assert!(rig.shown_up("a") && rig.shown_up("b"));
}

/// Node `a` is looked at anew since its connection was cut, and the coordinator stands still until the time for that is over: whether it is
/// believed to be gone.
fn is_gone_after_a_short_pause_of_our_own() -> bool {
    let mut rig = Rig::with(options(), &["a", "b"]);
    rig.wait(options_settled());
    rig.lose("a", Loss::Broken);
    rig.wait(10);
    rig.now_ms += options().recheck_ms;
    rig.step(Event::Tick);
    let is_gone = rig.flushes.contains_key("b");
    if !is_gone {
        rig.open("a", "a1");
        rig.wait(3_000);
        assert!(rig.shown_up("a") && rig.flushes.is_empty());
    }
    is_gone
}

#[test]
fn however_short_it_stood_still() {
    assert!(!is_gone_after_a_short_pause_of_our_own());
    assert!(flaw::with(Flaw::BlamesOthers, is_gone_after_a_short_pause_of_our_own));
}

#[test]
fn fields_of_other_writers_survive() {
    let mut rig = Rig::idle(options());
    let mut old = node("a", true, Some("a1"));
    old.other.insert("colour".to_owned(), json!("red"));
    rig.stored = (map(&[old]), Some(7));
    rig.connect_master();
    rig.open("a", "a1");
    assert_eq!(rig.shown("a").other["colour"], "red");
}

#[test]
fn bad_news_is_told_as_such() {
    let mut rig = Rig::with(options(), &["a", "b"]);
    rig.kill("a");
    rig.flushed("b");
    let down = rig.notices.iter().find(|notice| notice.to_string().contains("is down")).unwrap();
    assert_eq!((down.level(), down.repeats()), (Level::Warn, None));
    assert_eq!(Notice::MasterBack.level(), Level::Info);
    assert!(Notice::ForeignWriter.repeats().is_some());
}
