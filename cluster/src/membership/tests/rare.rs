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

/// Who knows of no map hears of a death, and then leads by a map that speaks of another process.
fn leads_having_heard_of_a_former_death() -> Rig {
    let mut rig = Rig::idle(options());
    rig.announce("a");
    rig.hear(AgentBusMessage::NodeDown { name: "a".to_owned(), run_id: Some("a1".to_owned()), reason: "died".to_owned() });
    rig.stored = (map(&[node("a", true, Some("a2")), node("b", true, Some("b1"))]), Some(7));
    rig.connect_master();
    rig.open("b", "b1");
    rig
}

#[test]
fn a_new_leader_does_not_take_the_death_of_a_former_process_for_that_of_the_present_one() {
    let mut rig = leads_having_heard_of_a_former_death();
    rig.open("a", "a2");
    rig.wait(options_settled());
    assert!(rig.shown_up("a") && rig.shown_up("b") && rig.flushes.is_empty());
    let mut rig = flaw::with(Flaw::BelievesOldDeaths, leads_having_heard_of_a_former_death);
    rig.wait(options_settled());
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

#[test]
fn a_map_of_readers_that_the_master_has_is_that_of_another_who_led_meanwhile() {
    let mut rig = Rig::with(options(), &["a", "b"]);
    rig.live(11_000);
    let later = rig.stored.1.expect("an epoch") + 1_000_000;
    rig.stored.1 = Some(later);
    rig.proxies.insert("q".to_owned(), Confirmation { epoch: later, beat: 1, least: later });
    rig.live(6_000);
    assert!(!rig.told("of which the master knows nothing"));
    assert!(rig.shown_up("a") && rig.shown_up("b") && rig.flushes.is_empty());
}

/// A proxy turns up that goes by a map which another leader wrote, to a master that was cut off from us or has lost it.
fn a_proxy_goes_by_a_later_map() -> (Rig, Epoch) {
    let mut rig = Rig::with(options(), &["a", "b"]);
    rig.live(11_000);
    let foreign = rig.stored.1.expect("an epoch") + 1_000_000;
    rig.proxies.insert("q".to_owned(), Confirmation { epoch: foreign, beat: 1, least: foreign });
    rig.wait(6_000);
    (rig, foreign)
}

#[test]
fn a_map_of_readers_that_is_later_than_ours_empties_all_nodes() {
    let (mut rig, foreign) = a_proxy_goes_by_a_later_map();
    assert!(rig.told("of which the master knows nothing"));
    assert!(!rig.shown_up("a") && !rig.shown_up("b"));
    assert!(rig.stored.1 > Some(foreign), "readers take no older map");
    for name in ["a", "b"] {
        rig.announce(name);
    }
    rig.wait(5_000);
    assert_eq!((rig.flushed("a"), rig.flushed("b")), (Scope::All, Scope::All));
    assert!(rig.shown_up("a") && rig.shown_up("b"));
    // Once.
    rig.live(20_000);
    assert!(rig.shown_up("a") && rig.flushes.is_empty());

    let (rig, foreign) = flaw::with(Flaw::TrustsForeignMaps, a_proxy_goes_by_a_later_map);
    assert!(rig.shown_up("a") && rig.stored.1 < Some(foreign), "its readers would go by it for ever");
}

/// Node `a` is drained and let back at once, and a proxy has not heard of it.
fn is_let_back_while_a_proxy_has_not_left_it() -> Rig {
    let mut rig = Rig::with(options(), &["a", "b"]);
    rig.live(1_000);
    let wish = |wish| AgentBusMessage::NodeWish { id: format!("{wish:?}"), name: "a".to_owned(), wish };
    rig.hear(wish(Wish::Drain { force: false }));
    rig.wait(options_settled());
    rig.flushed("b");
    assert!(!rig.shown_up("a"));
    rig.hear(wish(Wish::Undrain));
    rig.wait(2_000);
    rig
}

#[test]
fn a_process_that_proxies_have_used_is_emptied_when_all_have_left_it() {
    let mut rig = is_let_back_while_a_proxy_has_not_left_it();
    assert!(rig.flushes.is_empty());
    rig.hear(AgentBusMessage::NodeWish { id: format!("{:?}", Wish::Undrain), name: "a".to_owned(), wish: Wish::Undrain });
    let Some(WishAnswer::Taken { waits_for }) = rig.answers.last() else { panic!("{:?}", rig.answers) };
    assert_eq!(waits_for, "proxies to confirm that they have left a");
    rig.confirm();
    rig.wait(options_settled());
    assert_eq!(rig.flushed("a"), Scope::All);
    assert!(rig.shown_up("a"));
    // Whoever has been silent for so long is not waited for any more.
    let mut rig = is_let_back_while_a_proxy_has_not_left_it();
    rig.wait(options().proxy_grace_ms);
    assert_eq!(rig.flushed("a"), Scope::All);

    let rig = flaw::with(Flaw::EmptiedUnconfirmed, is_let_back_while_a_proxy_has_not_left_it);
    assert!(rig.flushes.contains_key("a"));
}

#[test]
fn a_process_that_no_map_has_shown_waits_for_nobody() {
    let mut rig = Rig::with(options(), &["a", "b"]);
    rig.live(1_000);
    rig.kill("a");
    rig.flushed("b");
    assert!(!rig.shown_up("a"));
    // The proxy has not heard of it.
    rig.announce("a");
    rig.open("a", "a2");
    rig.wait(options_settled());
    assert_eq!(rig.flushed("a"), Scope::All);
    assert!(rig.shown_up("a"));
}

/// Remembers nothing, and has just connected to a master that has lost everything.
fn begins_at_an_empty_master() -> Rig {
    let mut rig = Rig::idle(Options { yield_ms: 2_000, ..options() });
    rig.connect_master();
    rig.wait(1_500);
    rig
}

#[test]
fn one_who_remembers_nothing_lets_others_lead_first() {
    let mut rig = begins_at_an_empty_master();
    assert!(!rig.membership.status(rig.now()).leading);
    // Nobody comes.
    rig.wait(500);
    assert!(rig.membership.status(rig.now()).leading);
    assert!(flaw::with(Flaw::LeadsBeforeThoseWhoRemember, || {
        let rig = begins_at_an_empty_master();
        rig.membership.status(rig.now()).leading
    }));

    // Nodes that were started just now have nothing to lose.
    for (uptime_ms, leads) in [(3_000, true), (60_000, false)] {
        let mut rig = Rig::idle(Options { yield_ms: 2_000, ..options() });
        rig.connect_master();
        for (name, uptime_ms) in [("a", 1_000), ("b", uptime_ms)] {
            rig.announce(name);
            rig.open_server(name, Server { run_id: format!("{name}1"), version: None, uptime_ms: Some(uptime_ms) });
        }
        rig.wait(800);
        assert_eq!(rig.membership.status(rig.now()).leading, leads);
        rig.wait(1_200);
        assert!(rig.membership.status(rig.now()).leading && rig.flushes.contains_key("b"));
    }

    // Where a map stands there is nothing to wait for.
    let mut rig = Rig::idle(Options { yield_ms: 2_000, ..options() });
    rig.stored = (map(&[node("a", true, Some("a1"))]), Some(7));
    rig.connect_master();
    assert!(rig.membership.status(rig.now()).leading);

    // It remembers a map, but not the last: so it is with one who has missed that.
    let mut rig = Rig::idle(Options { yield_ms: 2_000, ..options() });
    rig.lease = LeaseReply::Theirs;
    rig.stored = (map(&[node("a", true, Some("a1"))]), Some(7));
    rig.connect_master();
    let last = map(&[node("b", true, Some("b1"))]);
    rig.step(Event::MasterDown { reason: "reset".to_owned() });
    rig.stored = (NodeMap::new(), None);
    rig.lease = LeaseReply::Ours;
    rig.step(Event::DeltaHeard(MapDelta::between(&last, 11, &last, 12)));
    rig.connect_master();
    rig.wait(1_500);
    assert!(!rig.membership.status(rig.now()).leading);
    // One who remembers the last map leads first.
    rig.step(Event::MapHeard { map: last, epoch: Some(13) });
    rig.wait(1_000);
    assert!(rig.membership.status(rig.now()).leading);
    assert!(rig.shown_up("b"));
}

/// Whether the leader publishes a death while the master has not said yet whose the lease is now.
fn writes_while_the_lease_is_in_doubt() -> bool {
    let mut rig = Rig::with(options(), &["a", "b"]);
    rig.lease = LeaseReply::None;
    // The time of the next renewal, to which there is no answer yet.
    rig.wait(600);
    rig.kill("a");
    rig.flushed("b");
    rig.wait(options_settled());
    !rig.shown_up("a")
}

#[test]
fn nothing_is_written_while_the_lease_is_in_doubt() {
    assert!(!writes_while_the_lease_is_in_doubt());
    assert!(flaw::with(Flaw::WritesWhileLeaseInDoubt, writes_while_the_lease_is_in_doubt));
}

#[test]
fn where_somebody_has_emptied_the_node_set_nodes_are_emptied_once_proxies_have_left_them() {
    let mut rig = Rig::idle(options());
    rig.stored = (NodeMap::new(), Some(7));
    rig.connect_master();
    rig.announce("a");
    rig.open("a", "a1");
    rig.wait(options_settled());
    assert!(rig.flushes.is_empty(), "proxies may go by a map that had it");
    rig.wait(options().proxy_grace_ms);
    rig.announce("a");
    rig.wait(options_settled());
    assert_eq!(rig.flushed("a"), Scope::All);
    assert!(rig.shown_up("a"));
}

/// The leader finds the master empty, stands still for longer than its lease, and comes to what was read before that: whether it writes
/// its memory back, while it has asked for the lease anew.
fn writes_by_what_was_read_under_an_earlier_lease() -> bool {
    let mut rig = Rig::with(options(), &["a"]);
    rig.step(Event::MasterDown { reason: "reset".to_owned() });
    rig.stored = (NodeMap::new(), None);
    rig.hold_reads = true;
    rig.step(Event::MasterUp { run_id: Some("master2".to_owned()) });
    let request = rig.read.take().expect("a read");
    rig.lease = LeaseReply::None;
    rig.wait(options().lease_ms + 1);
    let written = rig.written.len();
    rig.step(Event::MapRead { request, map: NodeMap::new(), epoch: None, rehomed: None });
    rig.written.len() > written
}

#[test]
fn memory_is_not_written_back_by_what_was_read_under_an_earlier_lease() {
    assert!(!writes_by_what_was_read_under_an_earlier_lease());
    assert!(flaw::with(Flaw::WritesWhileLeaseInDoubt, writes_by_what_was_read_under_an_earlier_lease));
}

#[test]
fn memory_is_written_back_as_soon_as_the_lease_is_known_to_be_ours_whoever_answers() {
    let mut rig = Rig::with(options(), &["a", "b"]);
    rig.step(Event::MasterDown { reason: "reset".to_owned() });
    rig.stored = (NodeMap::new(), None);
    rig.hold_reads = true;
    rig.step(Event::MasterUp { run_id: Some("master2".to_owned()) });
    let read = rig.read.take().expect("a read");
    for name in ["a", "b"] {
        rig.lose(name, Loss::Broken);
    }
    rig.lease = LeaseReply::None;
    rig.wait(options().lease_interval_ms);
    let (asked, written) = (rig.asked.take().expect("a request for the lease"), rig.written.len());
    rig.step(Event::MapRead { request: read, map: NodeMap::new(), epoch: None, rehomed: None });
    assert_eq!(rig.written.len(), written, "it may have been another's since");
    rig.step(Event::Leased { request: asked, answer: LeaseAnswer::Held { gained: false, epoch: None, nodes: 0 } });
    assert!(rig.written.len() > written && rig.shown_up("a") && rig.shown_up("b"));
}

/// Another has led meanwhile: a request that comes late must not change what is not known to the one who sent it.
#[test]
fn a_write_says_up_to_which_map_its_sender_knows() {
    let mut rig = Rig::idle(options());
    let stored = UNIX_MS + 3_600_000;
    rig.stored = (map(&[node("a", true, Some("a1"))]), Some(stored));
    rig.connect_master();
    rig.open("a", "a1");
    let first = rig.written.last().expect("a map").clone();
    assert_eq!((first.known, first.expected), (stored, None));
    rig.hear(AgentBusMessage::NodeWish { id: "1".to_owned(), name: "a".to_owned(), wish: Wish::Drain { force: true } });
    rig.wait(options_settled());
    let next = rig.written.last().expect("a map");
    assert_eq!((next.known, next.expected), (first.epoch, Some(1)));
}
