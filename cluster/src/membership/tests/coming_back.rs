//! How nodes come back.

use super::*;

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
    assert!(matches!(rig.actions[..], [Action::Notice(Notice::Stranger { .. })]) && rig.shown_up("a"), "{:?}", rig.actions);
}

/// Its host's name leads to the former host for a while: how often it is looked for within a minute.
#[test]
fn a_node_is_looked_for_now_and_then_while_its_agent_sees_another_process() {
    let mut rig = Rig::with(options(), &["a", "b"]);
    let mut node = rig.announcement("a");
    node.run_id = Some("a2".to_owned());
    let mut looked = 0;
    for _ in 0..12 {
        rig.hear(AgentBusMessage::NodeUp { node: node.clone() });
        rig.announce("b");
        if rig.state("a") == NodeState::Doubtful {
            looked += 1;
            rig.open("a", "a1");
        }
        rig.wait(5_000);
    }
    assert_eq!(looked, 6);
    assert!(rig.shown_up("a"), "it is the process that the map speaks of");
    rig.hear(AgentBusMessage::NodeUp { node });
    rig.open("a", "a2");
    rig.flushed("b");
    assert!(!rig.shown_up("a"));
    rig.wait(options_settled());
    rig.flushed("a");
    assert_eq!((rig.shown_up("a"), rig.shown("a").run_id.as_deref()), (true, Some("a2")));
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
