//! What operators want.

use super::*;

const DRAIN: Wish = Wish::Drain { force: false };
const FORGET: Wish = Wish::Forget { force: false };

impl Rig {
    fn wish(&mut self, name: &str, wish: Wish) {
        self.answers.clear();
        self.hear(AgentBusMessage::NodeWish { id: format!("{name} {wish:?}"), name: name.to_owned(), wish });
    }

    fn is_done(&self) -> bool {
        matches!(self.answers.last(), Some(WishAnswer::Done { .. }))
    }

    fn refusal(&self) -> &str {
        match self.answers.last() {
            Some(WishAnswer::Refused { reason }) => reason,
            answer => panic!("{answer:?}"),
        }
    }

    /// Guests are flushed, and the map is written.
    fn flush_guests_of(&mut self, names: &[&str]) {
        for name in names {
            assert_eq!(self.flushed(name), Scope::Guests);
        }
    }

    fn announce_weight(&mut self, name: &str, weight: f64) {
        let node = Announcement { weight, ..self.announcement(name) };
        self.hear(AgentBusMessage::NodeUp { node });
    }
}

/// Readers take no empty map, so the first that has nodes makes all others join anew.
#[test]
fn a_node_that_was_drained_before_the_first_map_can_be_undrained() {
    let mut rig = Rig::with(options(), &[]);
    rig.hold_writes = true;
    for name in ["a", "b"] {
        rig.announce(name);
        rig.open(name, &format!("{name}1"));
    }
    rig.flushed("a");
    rig.flushed("b");
    rig.wish("b", DRAIN);
    rig.release_write();
    rig.wait(options_settled());
    assert!(rig.shown_up("a") && rig.is_done() && !rig.flushes.contains_key("b"));
    assert_eq!(rig.state("b"), NodeState::Drained);
    rig.wish("b", Wish::Undrain);
    rig.announce("b");
    rig.wait(options_settled());
    assert_eq!(rig.flushed("b"), Scope::All);
    assert!(rig.shown_up("b") && rig.is_done());
}

#[test]
fn a_drained_node_is_down_when_guests_were_flushed_and_stays_so() {
    let mut rig = Rig::with(options(), &["a", "b", "c"]);
    rig.wish("a", DRAIN);
    assert!(rig.shown_up("a") && rig.answers.is_empty());
    rig.flush_guests_of(&["b", "c"]);
    assert!(!rig.shown_up("a") && rig.is_done());
    let shown = rig.shown("a");
    assert_eq!(shown.state_change_time, 1, "readers need not withhold its keys");
    assert!(shown.upkeep.drained.is_some());
    assert_eq!(rig.state("a"), NodeState::Drained);
    // Longer than after which a node that is down is forgotten; and it has gone in the meantime.
    for _ in 0..30 {
        rig.announce("b");
        rig.announce("c");
        rig.wait(44_000);
    }
    rig.announce("a");
    rig.wait(1_000);
    assert!(!rig.shown_up("a") && !rig.flushes.contains_key("a"));
    assert!(rig.stored.0.contains_key("a"));
}

#[test]
fn an_undrained_node_is_emptied_and_up() {
    let mut rig = Rig::with(options(), &["a", "b"]);
    rig.wish("a", DRAIN);
    rig.flush_guests_of(&["b"]);
    rig.wait(1_000);
    rig.wish("a", Wish::Undrain);
    rig.wait(options_settled());
    assert!(!rig.is_done());
    assert_eq!(rig.flushed("a"), Scope::All);
    assert!(rig.shown_up("a") && rig.is_done());
    let shown = rig.shown("a");
    assert_eq!((shown.state_change_time, &shown.upkeep), (1, &Default::default()));
}

#[test]
fn a_node_that_was_drained_for_long_is_not_forgotten_when_it_is_undrained() {
    let mut rig = Rig::with(options(), &["a", "b"]);
    rig.wish("a", DRAIN);
    rig.flush_guests_of(&["b"]);
    for _ in 0..=options().forget_after_ms / 10_000 {
        rig.announce("a");
        rig.announce("b");
        rig.wait(10_000);
    }
    assert!(rig.stored.0.contains_key("a"));
    rig.wish("a", Wish::Undrain);
    rig.wait(1_000);
    assert!(rig.stored.0.contains_key("a"));
}

#[test]
fn an_undrained_node_that_cannot_be_up_is_said_to_be() {
    let mut rig = Rig::with(options(), &["a", "b"]);
    rig.wish("a", DRAIN);
    rig.flush_guests_of(&["b"]);
    rig.hear(AgentBusMessage::NodeLeaving { name: "a".to_owned(), run_id: None });
    rig.wish("a", Wish::Undrain);
    let Some(WishAnswer::Done { note: Some(note), .. }) = rig.answers.last() else { panic!("{:?}", rig.answers) };
    assert!(note.contains("its agent does not announce it"), "{note}");
    assert_eq!(rig.shown("a").upkeep.drained, None);
}

#[test]
fn a_node_that_is_being_emptied_can_be_drained() {
    let mut rig = Rig::with(options(), &["b"]);
    rig.stored.0.insert("a".to_owned(), node("a", false, None));
    rig.stored.1 = rig.stored.1.map(|epoch| epoch + 1);
    rig.step(Event::MasterDown { reason: "reset".to_owned() });
    rig.connect_master();
    rig.wait(1_000);
    rig.announce("a");
    rig.wait(options_settled());
    rig.open("a", "a1");
    rig.wait(options_settled());
    rig.wish("a", DRAIN);
    assert_eq!(rig.flushed("a"), Scope::All);
    rig.wait(1_000);
    assert!(!rig.shown_up("a") && rig.shown("a").upkeep.drained.is_some());
}

#[test]
fn a_drain_outlasts_the_leader_and_the_masters_memory() {
    let mut rig = Rig::with(options(), &["a", "b"]);
    rig.wish("a", DRAIN);
    rig.flush_guests_of(&["b"]);
    // The master loses its memory.
    rig.step(Event::MasterDown { reason: "reset".to_owned() });
    rig.stored = (NodeMap::new(), None);
    rig.connect_master();
    assert!(!rig.shown_up("a") && rig.shown("a").upkeep.drained.is_some());
    // Another coordinator.
    let mut other = Rig::idle(options());
    other.stored = rig.stored.clone();
    other.connect_master();
    other.open("b", "b1");
    other.announce("a");
    other.wait(options_settled());
    other.open("a", "a1");
    other.wait(1_000);
    assert!(!other.shown_up("a") && !other.flushes.contains_key("a"));
}

#[test]
fn only_force_drains_the_last_node() {
    let mut rig = Rig::with(options(), &["a"]);
    rig.wish("a", DRAIN);
    assert!(rig.refusal().contains("the only node that is up"), "{:?}", rig.answers);
    rig.wish("a", Wish::Drain { force: true });
    assert!(!rig.shown_up("a") && rig.is_done());
}

#[test]
fn an_operators_weight_stands_until_the_agent_says_another_than_before() {
    let mut rig = Rig::with(Options { guest_databases: false, ..options() }, &["a", "b"]);
    rig.wish("a", Wish::Weight { weight: 3.0 });
    assert!(rig.is_done());
    rig.announce_weight("a", 1.0);
    assert_eq!((rig.shown("a").weight, rig.shown("a").upkeep.announced_weight), (3.0, Some(1.0)));
    // Given again, it is overridden again.
    rig.wish("a", Wish::Weight { weight: 5.0 });
    assert_eq!((rig.shown("a").weight, rig.shown("a").upkeep.announced_weight), (5.0, Some(1.0)));
    rig.announce_weight("a", 2.0);
    assert_eq!((rig.shown("a").weight, rig.shown("a").upkeep.announced_weight), (2.0, None));
    // The agent's own.
    rig.wish("a", Wish::Weight { weight: 7.0 });
    rig.wish("a", Wish::Weight { weight: 2.0 });
    assert_eq!((rig.shown("a").weight, rig.shown("a").upkeep.announced_weight), (2.0, None));
    for weight in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e9] {
        rig.wish("b", Wish::Weight { weight });
        assert!(rig.refusal().contains("not a weight"), "{:?}", rig.answers);
    }
}

#[test]
fn a_node_that_is_there_is_forgotten_by_force_only() {
    let mut rig = Rig::with(options(), &["a", "b"]);
    rig.wish("a", FORGET);
    assert!(rig.refusal().contains("a is up"), "{:?}", rig.answers);
    rig.wish("a", DRAIN);
    rig.flush_guests_of(&["b"]);
    rig.wish("a", FORGET);
    assert!(rig.refusal().contains("still announces it"), "{:?}", rig.answers);
    rig.wish("a", Wish::Forget { force: true });
    assert!(rig.is_done() && !rig.stored.0.contains_key("a"));
    // Its agent does not know.
    rig.announce("a");
    rig.wait(5_000);
    assert!(!rig.stored.0.contains_key("a") && !rig.flushes.contains_key("a") && !rig.links.contains_key("a"));
    // It is stopped, and started again.
    rig.hear(AgentBusMessage::NodeLeaving { name: "a".to_owned(), run_id: None });
    rig.announce("a");
    rig.open("a", "a1");
    rig.wait(options_settled());
    rig.flushed("a");
    assert!(rig.shown_up("a"));
}

#[test]
fn a_node_that_is_up_is_forgotten_by_force_when_guests_were_flushed() {
    let mut rig = Rig::with(options(), &["a", "b"]);
    rig.wish("a", Wish::Forget { force: true });
    assert!(rig.shown_up("a"));
    rig.flush_guests_of(&["b"]);
    assert!(rig.is_done() && !rig.stored.0.contains_key("a"));
    rig.announce("a");
    // The operator has thought better of it.
    rig.wish("a", Wish::Undrain);
    rig.announce("a");
    rig.open("a", "a1");
    rig.wait(options_settled());
    // It had slots, and gets them back: there is no proxy that could write there by an older map.
    assert_eq!(rig.flushed("a"), Scope::All);
    assert!(rig.shown_up("a"));
}

/// Stands by while an operator forgets node `a` by force, and leads later. Whether the leader has done so.
fn leads_after_a_forget_by_force(is_done: bool) -> Rig {
    let mut rig = Rig::idle(options());
    rig.lease = LeaseReply::Theirs;
    let (a, b) = (node("a", true, Some("a1")), node("b", true, Some("b1")));
    rig.stored = (map(&[a, b.clone()]), Some(7));
    rig.connect_master();
    for name in ["a", "b", "c"] {
        rig.announce(name);
        rig.wish(name, Wish::Forget { force: name != "b" });
    }
    if is_done {
        rig.stored = (map(&[b]), Some(8));
        let (map, epoch) = rig.stored.clone();
        rig.step(Event::MapHeard { map, epoch });
    }
    rig.announce("a");
    rig.lease = LeaseReply::Ours;
    rig.wait(1_000);
    rig.open("b", "b1");
    rig
}

#[test]
fn a_node_that_was_forgotten_by_force_stays_out_when_another_leads() {
    let mut rig = leads_after_a_forget_by_force(true);
    rig.announce("a");
    rig.live(15_000);
    assert!(!rig.stored.0.contains_key("a") && !rig.links.contains_key("a"));
    assert!(rig.links.contains_key("c"), "the leader has no node of that name to forget");
    rig.hear(AgentBusMessage::NodeLeaving { name: "a".to_owned(), run_id: None });
    rig.join("a");

    let mut rig = leads_after_a_forget_by_force(true);
    rig.lease = LeaseReply::Theirs;
    rig.wait(1_000);
    rig.wish("a", Wish::Undrain);
    rig.lease = LeaseReply::Ours;
    rig.wait(1_000);
    rig.open("b", "b1");
    rig.live(15_000);
    rig.join("a");
}

#[test]
fn a_node_of_the_map_is_not_forgotten_whatever_was_wanted() {
    let mut rig = leads_after_a_forget_by_force(false);
    rig.open("a", "a1");
    rig.wait(options_settled());
    assert!(rig.shown_up("a"));
    rig.kill("a");
    rig.flushed("b");
    rig.announce("a");
    rig.open("a", "a2");
    rig.wait(options_settled());
    rig.flushed("a");
    assert!(rig.shown_up("a"));
}

#[test]
fn a_node_that_left_is_forgotten_at_once() {
    let mut rig = Rig::with(options(), &["a", "b"]);
    rig.hear(AgentBusMessage::NodeLeaving { name: "a".to_owned(), run_id: None });
    rig.flush_guests_of(&["b"]);
    assert_eq!(rig.shown("a").state_change_time, 1);
    assert!(rig.shown("a").upkeep.left.is_some());
    rig.wish("a", FORGET);
    assert!(rig.is_done() && !rig.stored.0.contains_key("a"));
}

#[test]
fn a_wish_is_answered_by_the_leader_alone_and_once_it_is_published() {
    let mut rig = Rig::idle(options());
    rig.step(Event::BusUp);
    rig.wish("a", DRAIN);
    assert!(rig.actions.is_empty());

    let mut rig = Rig::with(options(), &["a", "b"]);
    rig.wish("nobody", DRAIN);
    assert!(rig.refusal().contains("no node is called nobody"), "{:?}", rig.answers);
    rig.hold_writes = true;
    rig.wish("a", DRAIN);
    rig.wish("a", DRAIN);
    let Some(WishAnswer::Taken { waits_for }) = rig.answers.last() else { panic!("{:?}", rig.answers) };
    assert!(waits_for.contains("guest databases of b"), "{waits_for}");
    rig.flush_guests_of(&["b"]);
    rig.wait(500);
    rig.wish("a", DRAIN);
    assert_eq!(rig.answers, [WishAnswer::Taken { waits_for: "the master to take the new map".to_owned() }]);
    rig.release_write();
    assert!(rig.is_done());
    // Whoever asks again is told that it is so.
    rig.wish("a", DRAIN);
    assert!(matches!(rig.answers[..], [WishAnswer::Done { took_ms: 0, .. }]), "{:?}", rig.answers);
}
