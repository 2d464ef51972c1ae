//! What takes too many mishaps at once for a random history.

use super::*;
use crate::flaw::{self, Flaw};

/// A map was on its way that showed `a` up, and the master died with it. The leader writes it to the empty master, and `a` dies
/// before that is acknowledged: whether the guests on `b` are flushed at once, while readers may still go by a map in which `a`
/// is down.
fn guests_are_flushed_while_writing() -> bool {
    let mut rig = Rig::with(options(), &["b"]);
    rig.hold_writes = true;
    rig.announce("a");
    rig.open("a", "a1");
    rig.flushed("a");
    rig.write.take().expect("a write");
    rig.step(Event::MasterDown { reason: "reset".to_owned() });
    rig.stored = (NodeMap::new(), None);
    rig.step(Event::MasterUp { run_id: Some("master".to_owned()) });
    rig.wait(1_000);
    assert!(rig.write.as_ref().is_some_and(|write| write.map["a"].up), "what may have been published is as good");
    rig.kill("a");
    rig.wait(options_settled());
    let flushed = rig.flushes.contains_key("b");
    rig.release_write();
    assert!(rig.shown_up("a"));
    if !flushed {
        rig.wait(options_settled());
        rig.flushed("b");
        assert!(!rig.shown_up("a"));
    }
    flushed
}

#[test]
fn guests_are_not_flushed_while_a_map_is_on_its_way() {
    assert!(!guests_are_flushed_while_writing());
    assert!(flaw::with(Flaw::GuestsFlushedWhileWriting, guests_are_flushed_while_writing));
}

#[test]
fn a_standby_does_not_take_the_death_of_a_former_process_for_that_of_the_present_one() {
    let mut rig = Rig::idle(options());
    rig.lease = LeaseReply::Theirs;
    rig.stored = (map(&[node("a", true, Some("a2")), node("b", true, Some("b1"))]), Some(7));
    rig.connect_master();
    rig.announce("a");
    let died = |run_id: &str| AgentBusMessage::NodeDown {
        name: "a".to_owned(),
        run_id: Some(run_id.to_owned()),
        reason: "died".to_owned(),
    };
    rig.hear(died("a1"));
    rig.lease = LeaseReply::Ours;
    rig.wait(500);
    for (name, run_id) in [("a", "a2"), ("b", "b1")] {
        rig.open(name, run_id);
    }
    rig.wait(options_settled());
    assert!(rig.shown_up("a") && rig.flushes.is_empty());
    rig.hear(died("a2"));
    rig.flushed("b");
    assert!(!rig.shown_up("a"));
}

/// A node dies when it has been emptied and the map that is to show it is not sent yet.
fn dies_before_its_first_map() -> Rig {
    let mut rig = Rig::with(options(), &["b"]);
    rig.hold_writes = true;
    rig.announce("c");
    rig.open("c", "c1");
    rig.flushed("c");
    rig.announce("a");
    rig.open("a", "a1");
    rig.flushed("a");
    rig.kill("a");
    rig.release_write();
    rig.wait(options_settled());
    assert!(rig.flushes.is_empty());
    rig
}

#[test]
fn a_node_that_dies_before_the_first_map_that_was_to_show_it_is_in_none() {
    let mut rig = dies_before_its_first_map();
    assert_eq!(rig.stored.0.keys().collect::<Vec<_>>(), ["b", "c"], "b and c may have kept keys for it when it was last there");
    // It is heard of no more, and then again.
    rig.wait(options().agent_timeout_ms);
    rig.join("a");
    let rig = flaw::with(Flaw::ComesInAsDown, dies_before_its_first_map);
    assert!(rig.stored.0.contains_key("a"));
}

#[test]
fn a_drained_node_of_which_the_map_knows_nothing_any_more_may_join() {
    let mut rig = Rig::with(options(), &["a", "b"]);
    rig.hear(AgentBusMessage::NodeWish { id: "1".to_owned(), name: "a".to_owned(), wish: Wish::Drain { force: false } });
    rig.wait(options_settled());
    rig.flushed("b");
    assert!(!rig.shown_up("a"));
    // Another leads, who found the master empty and no agent of a.
    rig.lease = LeaseReply::Theirs;
    rig.wait(1_000);
    rig.stored = (map(&[node("b", true, Some("b1"))]), rig.stored.1.map(|epoch| epoch + 1));
    rig.lease = LeaseReply::Ours;
    rig.wait(1_000);
    rig.open("b", "b1");
    rig.join("a");
}
