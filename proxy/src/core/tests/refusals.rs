//! Nodes that run a script for too long, and refuse what they are asked about topics meanwhile.

use super::*;

const BUSY: &str = "-BUSY Redis is busy running a script.\r\n";

/// The node's connection for topics.
fn listener(rig: &Rig, node: &str) -> u32 {
    let is_it = |backend: &Backend| backend.hold == Some(Hold::Subscriber) && &*backend.node == node;
    rig.core.backends.iter().position(is_it).expect("the node has a connection for topics") as u32
}

fn lose_listener(rig: &mut Rig, node: &str) {
    let listener = listener(rig, node);
    rig.nodes.remove(&listener);
    rig.core.backend_lost(listener, rig.core.backend_incarnation(listener), "gone");
}

/// The node says something on its connection for topics.
fn push(rig: &mut Rig, node: &str, parts: &[&str]) {
    let listener = listener(rig, node);
    encode::request(&mut rig.nodes.get_mut(&listener).unwrap().replies, parts);
    rig.settle();
}

/// What the node was told on it about topics.
fn told(rig: &Rig, node: &str) -> String {
    let all = &rig.nodes[&listener(rig, node)].seen;
    all.iter().filter(|name| *name != "ping").cloned().collect::<Vec<_>>().join(" ")
}

/// As long as the longest pause.
fn wait(rig: &mut Rig) {
    for _ in 0..crate::limits::RECONNECT_MS_MAX / TICK_MS {
        rig.pass(TICK_MS);
        rig.settle();
    }
}

#[test]
fn who_was_told_that_he_listens_goes_on_although_a_node_refuses() {
    for (subscribe, message) in [("SUBSCRIBE", "message"), ("PSUBSCRIBE", "pmessage")] {
        let mut rig = Rig::new(&THREE);
        let channel = rig.key_of("a", 0);
        let parts = match message {
            "message" => vec!["message", &channel, "hi"],
            _ => vec!["pmessage", &channel, &channel, "hi"],
        };
        let (told, late) = (rig.client(), rig.client());
        rig.say(told, request(&format!("{subscribe} {channel}")));
        rig.settle();
        rig.got(told);
        rig.busy.insert("a".into());
        lose_listener(&mut rig, "a");
        rig.settle();
        if message == "pmessage" {
            push(&mut rig, "b", &parts);
            assert!(rig.got(told).ends_with("$2\r\nhi\r\n"), "the other nodes are heard");
        }
        // Whoever comes now is refused as the node does.
        rig.say(late, request(&format!("{subscribe} {channel}")));
        wait(&mut rig);
        assert_eq!((rig.got(told), rig.got(late)), (String::new(), BUSY.into()));
        rig.busy.clear();
        wait(&mut rig);
        push(&mut rig, "a", &parts);
        assert!(rig.got(told).ends_with("$2\r\nhi\r\n"));
        assert_eq!(rig.got(late), "");
        rig.core.session_closed(told);
        rig.settle();
        assert_eq!(rig.core.topics.len(), 0);
    }
}

#[test]
fn a_subscription_that_is_refused_leaves_nothing_behind() {
    let mut rig = Rig::new(&THREE);
    rig.busy.insert("a".into());
    for subscribe in ["SUBSCRIBE", "PSUBSCRIBE"] {
        let channel = rig.key_of("a", 0);
        assert_eq!(rig.ask(request(&format!("{subscribe} {channel}"))), BUSY);
        assert_eq!(rig.core.topics.len(), 0);
        assert_eq!(told(&rig, "a").split(' ').next_back(), Some(subscribe.to_lowercase().as_str()), "there is nothing to end");
    }
}

#[test]
fn a_publisher_is_answered_although_the_node_refuses_a_ping() {
    let mut rig = Rig::new(&THREE);
    let channel = rig.key_of("a", 0);
    let client = rig.client();
    rig.say(client, [request("HELLO 3"), request(&format!("SUBSCRIBE {channel}"))].concat());
    rig.settle();
    rig.got(client);
    rig.say(client, request(&format!("PUBLISH {channel} hi")));
    rig.turn();
    assert_eq!(rig.got(client), "", "the node is asked whether it has told all");
    rig.busy.insert("a".into());
    rig.settle();
    assert_eq!(rig.got(client), ":1\r\n");
    push(&mut rig, "a", &["message", &channel, "hi"]);
    assert!(rig.got(client).ends_with("$2\r\nhi\r\n"), "no topic is lost by that, whatever its number");
}

#[test]
fn a_topic_whose_end_is_refused_ends_later_unless_it_is_wanted_again() {
    for again in [false, true] {
        let mut rig = Rig::new(&THREE);
        let channel = rig.key_of("a", 0);
        let workers = |rig: &Rig| {
            rig.core.all_stats.subscriber_counts.surplus_of_message(crate::core::TopicKind::Channel, channel.as_bytes())
        };
        rig.ask(request(&format!("SUBSCRIBE {channel}")));
        rig.busy.insert("a".into());
        rig.settle();
        assert_eq!(workers(&rig), -1, "the node counts it still");
        rig.busy.clear();
        let client = rig.client();
        if again {
            rig.say(client, request(&format!("SUBSCRIBE {channel}")));
            rig.settle();
            rig.got(client);
        }
        wait(&mut rig);
        assert_eq!(workers(&rig), 0);
        let expect = if again { "subscribe unsubscribe subscribe" } else { "subscribe unsubscribe unsubscribe" };
        assert_eq!(told(&rig, "a"), expect);
        if !again {
            rig.say(client, request(&format!("SUBSCRIBE {channel}")));
            rig.settle();
            rig.got(client);
        }
        push(&mut rig, "a", &["message", &channel, "hi"]);
        assert!(rig.got(client).ends_with("$2\r\nhi\r\n"));
    }
}

#[test]
fn what_is_refused_is_forgotten_with_its_connection() {
    let mut rig = Rig::new(&THREE);
    let (kept, ended) = (rig.key_of("a", 0), rig.key_of("a", 1));
    let client = rig.client();
    rig.say(client, request(&format!("SUBSCRIBE {kept}")));
    rig.ask(request(&format!("SUBSCRIBE {ended}")));
    rig.busy.insert("a".into());
    rig.settle();
    lose_listener(&mut rig, "a");
    rig.busy.clear();
    wait(&mut rig);
    assert_eq!(told(&rig, "a"), "subscribe");
    let subscriber_counts = &rig.core.all_stats.subscriber_counts;
    assert_eq!(subscriber_counts.surplus_of_message(crate::core::TopicKind::Channel, ended.as_bytes()), 0);
}
