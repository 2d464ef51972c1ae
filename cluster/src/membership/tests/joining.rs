//! How nodes come in.

use super::*;

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

fn announce_process(rig: &mut Rig, name: &str, run_id: &str) {
    let mut node = rig.announcement(name);
    node.run_id = Some(run_id.to_owned());
    rig.hear(AgentBusMessage::NodeUp { node });
}

fn reason(rig: &Rig, name: &str) -> Option<String> {
    rig.membership.status(rig.now()).nodes.into_iter().find(|node| node.name == name).expect("a known node").reason
}

/// An agent on another host announces an address of its own, say, at which a redis of this host answers.
fn meets_a_stranger() -> Rig {
    let mut rig = Rig::with(options(), &[]);
    announce_process(&mut rig, "a", "a1");
    rig.open("a", "stranger");
    rig.wait(options_settled());
    rig
}

#[test]
fn a_redis_that_is_not_the_one_its_agent_watches_is_left_alone() {
    let mut rig = meets_a_stranger();
    assert!(rig.flushes.is_empty() && !rig.stored.0.contains_key("a"));
    assert!(reason(&rig, "a").unwrap().starts_with("the redis at host:7097 is not the one that its agent watches: check"));
    assert!(!rig.told("is not the one"), "it may have been restarted, and its agent not have seen it yet");
    rig.wait(5_000);
    announce_process(&mut rig, "a", "a1");
    assert!(rig.told(
        "node a: the redis at host:7097 is not the one that its agent watches (run id stranger there, a1 announced), and is left alone: \
         check the agent's -h, --announce-host and --announce-port"
    ));
    rig.wait(1_000);
    let trouble = rig.notes["a"].unreachable.as_ref().expect("trouble");
    assert!(trouble.reason.starts_with("the redis at host:7097 is not the one"), "{trouble:?}");
    for _ in 0..4 {
        rig.wait(5_000);
        announce_process(&mut rig, "a", "a1");
    }
    assert!(rig.flushes.is_empty() && !rig.stored.0.contains_key("a"));

    let rig = flaw::with(Flaw::EmptiesStrangers, meets_a_stranger);
    assert!(rig.flushes.contains_key("a"));
}

#[test]
fn a_restart_that_is_seen_before_its_agent_says_so_waits_for_that() {
    let mut rig = meets_a_stranger();
    announce_process(&mut rig, "a", "stranger");
    assert_eq!(rig.flushed("a"), Scope::All);
    assert!(rig.shown_up("a") && !rig.told("is not the one"));
}

#[test]
fn a_restart_of_which_the_agent_says_before_it_is_seen_ends_the_flush_of_the_former_process() {
    let mut rig = Rig::with(options(), &[]);
    announce_process(&mut rig, "a", "a1");
    rig.open("a", "a1");
    let (former, _) = rig.flushes.remove("a").expect("a flush");
    announce_process(&mut rig, "a", "a2");
    rig.step(Event::Flushed { name: "a".to_owned(), flush: former });
    assert!(!rig.stored.0.contains_key("a"));
    rig.open("a", "a2");
    rig.flushed("a");
    assert_eq!(rig.shown("a").run_id.as_deref(), Some("a2"));
    assert!(!rig.told("is not the one"));
}

#[test]
fn a_flush_counts_for_nothing_when_an_agent_speaks_of_another_process_meanwhile() {
    let mut rig = Rig::with(options(), &[]);
    announce_process(&mut rig, "a", "a1");
    rig.open("a", "a1");
    announce_process(&mut rig, "a", "b1");
    rig.open("a", "a1");
    rig.flushes.clear();
    announce_process(&mut rig, "a", "a1");
    assert!(rig.flushes.contains_key("a"));
    announce_process(&mut rig, "a", "b1");
    // It was looked for a moment ago, and is not again.
    rig.flushed("a");
    assert!(!rig.stored.0.contains_key("a"));
}

#[test]
fn a_process_that_an_old_map_may_speak_of_is_not_the_nodes_if_its_agent_watches_another() {
    for (announced, is_kept) in [("a1", true), ("a2", false)] {
        let mut rig = Rig::idle(options());
        let seen = UNIX_MS - 10_000;
        let old = Node { state_change_time: seen, last_ping: Some(seen), ..node("a", true, None) };
        rig.stored = (map(&[old]), None);
        announce_process(&mut rig, "a", announced);
        rig.connect_master();
        rig.open_server("a", Server { run_id: "a1".to_owned(), version: None, uptime_ms: Some(60_000) });
        rig.wait(options_settled());
        assert_eq!((rig.shown_up("a"), rig.flushes.is_empty()), (is_kept, true), "{announced}");
    }
}

#[test]
fn an_agent_that_watches_another_redis_of_the_same_name_costs_the_node_nothing() {
    let mut rig = Rig::with(options(), &["a"]);
    for _ in 0..4 {
        announce_process(&mut rig, "a", "a1");
        rig.wait(2_500);
        announce_process(&mut rig, "a", "b1");
        if rig.links.contains_key("a") && rig.state("a") == NodeState::Doubtful {
            rig.open("a", "a1");
        }
        rig.wait(2_500);
    }
    assert!(rig.shown_up("a") && rig.flushes.is_empty());
    assert!(rig.told("and that no other agent announces this name"));
}

#[test]
fn an_agent_that_does_not_say_which_process_it_watches_is_taken_at_its_word() {
    let mut rig = meets_a_stranger();
    rig.announce("a");
    assert_eq!(rig.flushed("a"), Scope::All);
}
