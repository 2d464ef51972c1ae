//! What is told of nodes that are not simply up or down.

use super::*;

const TOLD_WITHIN_MS: u64 = 1_000;
/// A report counts for so long.
const GOOD_FOR_MS: u64 = 15_000;

fn suspect(rig: &mut Rig, name: &str, reporter: &str) {
    let (name, reporter) = (name.to_owned(), reporter.to_owned());
    rig.hear(AgentBusMessage::NodeSuspect { name, reporter, reason: "no answer".to_owned() });
}

#[test]
fn a_node_that_only_a_proxy_cannot_use_stays_up_and_is_told_of_with_the_proxy() {
    let mut rig = Rig::with(options(), &["a", "b"]);
    rig.wait(TOLD_WITHIN_MS);
    assert!(rig.notes.is_empty());
    let since = rig.now().unix_ms;
    rig.pings.clear();
    suspect(&mut rig, "a", "p1");
    assert_eq!(rig.pings["a"], 1, "it is looked at at once");
    rig.wait(TOLD_WITHIN_MS);
    suspect(&mut rig, "a", "p1");
    suspect(&mut rig, "a", "p2");
    rig.wait(TOLD_WITHIN_MS + options().ping_interval_ms);
    let note = &rig.notes["a"];
    assert_eq!(note.unreachable_from.keys().collect::<Vec<_>>(), ["p1", "p2"]);
    assert_eq!((note.unreachable_from["p1"].since, &*note.unreachable_from["p1"].reason), (since, "no answer"));
    assert!(rig.notes.len() == 1 && note.unreachable.is_none() && rig.shown_up("a"));
    for _ in 0..4 {
        rig.wait(GOOD_FOR_MS / 4);
        suspect(&mut rig, "a", "p2");
        rig.announce("a");
        rig.announce("b");
    }
    rig.wait(TOLD_WITHIN_MS);
    assert_eq!(rig.notes["a"].unreachable_from.keys().collect::<Vec<_>>(), ["p2"], "p1 has not said so for long");
    rig.wait(GOOD_FOR_MS);
    assert!(rig.notes.is_empty());
}

#[test]
fn a_node_that_nobody_can_use_is_down_and_its_proxies_are_not_named() {
    let mut rig = Rig::with(options(), &["a", "b"]);
    suspect(&mut rig, "a", "p1");
    rig.kill("a");
    rig.flushed("b");
    rig.wait(TOLD_WITHIN_MS);
    suspect(&mut rig, "a", "p1");
    rig.wait(TOLD_WITHIN_MS);
    assert!(!rig.shown_up("a") && rig.notes.is_empty(), "its agent has said nothing since: {:?}", rig.notes);
}

#[test]
fn a_node_whose_agent_says_that_it_is_up_and_that_only_we_cannot_reach_is_told_of() {
    let mut rig = Rig::with(options(), &["a", "b"]);
    rig.mute.insert("a".to_owned());
    rig.wait(options().ping_interval_ms + options().ping_timeout_ms + 300);
    rig.flushed("b");
    assert!(!rig.shown_up("a"));
    rig.announce("a");
    rig.wait(TOLD_WITHIN_MS);
    let trouble = rig.notes["a"].unreachable.as_ref().expect("it is told of");
    assert!(trouble.reason.contains("no answer"), "{trouble:?}");
    // It died after all.
    rig.hear(AgentBusMessage::NodeDown { name: "a".to_owned(), run_id: Some("a1".to_owned()), reason: "died".to_owned() });
    rig.wait(TOLD_WITHIN_MS);
    assert!(rig.notes.is_empty());
    // So is one that no map has.
    rig.announce("c");
    rig.lose("c", Loss::Refused);
    rig.wait(100);
    rig.announce("c");
    rig.wait(TOLD_WITHIN_MS);
    assert!(rig.notes["c"].unreachable.is_some());
}

#[test]
fn a_node_that_is_held_back_is_told_of_until_when() {
    let mut rig = Rig::with(Options { flap_pause_ms: 5_000, ..options() }, &["a", "b"]);
    for process in 2..4 {
        rig.kill("a");
        rig.flushed("b");
        rig.announce("a");
        rig.open("a", &format!("a{process}"));
        rig.wait(options_settled());
        if process == 2 {
            rig.flushed("a");
            rig.wait(options_settled());
        }
    }
    rig.wait(TOLD_WITHIN_MS);
    let note = &rig.notes["a"];
    let left_ms = note.held_back_until.expect("it is held back") - rig.now().unix_ms;
    assert!((3_000..6_000).contains(&left_ms) && note.times == Some(2), "{note:?}");
    rig.wait(5_000);
    rig.flushed("a");
    rig.wait(TOLD_WITHIN_MS);
    assert!(rig.shown_up("a") && rig.notes.is_empty());
}

#[test]
fn what_strangers_say_is_bounded() {
    let mut rig = Rig::with(options(), &["a"]);
    for number in 0..1_000 {
        suspect(&mut rig, "a", &format!("p{number}{}\n", "x".repeat(1_000)));
        suspect(&mut rig, &format!("nobody{number}"), "p");
    }
    rig.wait(TOLD_WITHIN_MS + options().ping_interval_ms);
    let from = &rig.notes["a"].unreachable_from;
    assert_eq!((rig.notes.len(), from.len()), (1, 16));
    assert!(from.keys().all(|name| name.len() == 160 && !name.contains('\n')));
}
