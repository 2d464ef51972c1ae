//! Who leads, what a new leader goes by, and what becomes of writes.

use super::*;

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
    // It is tried again and again, for as long as the node cannot be emptied.
    let failed = |name: &str| Notice::FlushFailed { name: name.into(), reason: "READONLY".into(), retry_ms: 1_000 }.repeats();
    assert!(failed("a").is_some() && failed("a") != failed("b"));
}

fn unwell(rig: &Rig) -> Option<String> {
    rig.membership.status(rig.now()).unwell
}

/// The master says this to every request for the lease.
fn refuses(rig: &mut Rig, reason: &str, ms: u64) {
    rig.lease = LeaseReply::None;
    let until_ms = rig.now_ms + ms;
    while rig.now_ms < until_ms {
        rig.wait(100);
        if let Some(request) = rig.asked.take() {
            rig.step(Event::RequestFailed { request, reason: reason.to_owned() });
        }
    }
}

#[test]
fn a_coordinator_is_not_well_that_neither_leads_nor_sees_another_lead() {
    let mut rig = Rig::idle(options());
    rig.step(Event::BusUp);
    rig.step(Event::MasterDown { reason: "refused".to_owned() });
    assert_eq!(unwell(&rig).as_deref(), Some("the master does not answer"));
    refuses(&mut rig, "MISCONF", 10_000);
    rig.lease = LeaseReply::Ours;
    rig.connect_master();
    rig.wait(1_000);
    assert_eq!(unwell(&rig), None, "it leads");
    refuses(&mut rig, "MISCONF", 5_000);
    assert_eq!(unwell(&rig), None, "that may pass");
    rig.membership.take_touched();
    refuses(&mut rig, "MISCONF", 2_000);
    let reason = "it neither leads nor sees another lead: the master answers with an error: MISCONF";
    assert_eq!(unwell(&rig).as_deref(), Some(reason));
    for lease in [LeaseReply::Theirs, LeaseReply::Ours] {
        refuses(&mut rig, "MISCONF", 10_000);
        assert!(unwell(&rig).is_some());
        rig.lease = lease;
        rig.wait(2_000);
        assert_eq!(unwell(&rig), None);
    }
}

/// Each time it leads the map is written anew, and refused.
#[test]
fn a_coordinator_is_not_well_that_gets_the_lease_and_writes_in_vain() {
    let mut rig = Rig::with(options(), &["a"]);
    rig.hold_writes = true;
    rig.step(Event::MasterDown { reason: "reset".to_owned() });
    rig.step(Event::MasterUp { run_id: Some("master".to_owned()) });
    for _ in 0..100 {
        rig.wait(100);
        if let Some(write) = rig.write.take() {
            rig.step(Event::RequestFailed { request: write.request, reason: "OOM".to_owned() });
        }
    }
    assert!(unwell(&rig).is_some_and(|reason| reason.ends_with("OOM")));
    rig.hold_writes = false;
    rig.live(2_000);
    assert_eq!(unwell(&rig), None);
}

#[test]
fn a_coordinator_is_not_well_that_does_not_hear_agents() {
    let mut rig = Rig::with(options(), &["a"]);
    rig.step(Event::BusDown);
    rig.live(5_000);
    assert_eq!(unwell(&rig), None, "that may pass");
    rig.membership.take_touched();
    rig.live(2_000);
    assert!(unwell(&rig).is_some_and(|reason| reason.starts_with("it cannot hear agents")));
    assert!(rig.membership.take_touched(), "who looks is told");
    rig.step(Event::BusUp);
    assert_eq!(unwell(&rig), None);
}
