//! How nodes go down, and what is flushed for that.

use super::*;

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
