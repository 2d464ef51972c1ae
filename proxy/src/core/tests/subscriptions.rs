//! Publish and subscribe.

use super::*;

#[test]
fn a_subscription_is_confirmed_in_the_protocol_that_it_was_asked_for_in() {
    let mut rig = Rig::new(&THREE);
    let client = rig.client();
    rig.say(client, ["SUBSCRIBE ch", "UNSUBSCRIBE ch", "HELLO 3", "PING"].map(request).concat());
    rig.settle();
    let got = rig.got(client);
    assert!(got.starts_with("*3\r\n$9\r\nsubscribe\r\n"), "{got}");
    assert!(got.ends_with("+PONG\r\n"), "{got}");
}

/// The node says something on each of its connections that subscribed to the channel.
fn publish(rig: &mut Rig, channel: &str, text: &str) {
    for node in rig.nodes.values_mut() {
        if node.seen.iter().any(|name| name == "subscribe") {
            encode::request(&mut node.replies, &["message", channel, text]);
        }
    }
}

#[test]
fn a_channel_has_one_subscription_upstream_however_many_listen() {
    let mut rig = Rig::new(&THREE);
    let clients: Vec<_> = (0..3).map(|_| rig.client()).collect();
    let channel = rig.key_of("a", 0);
    for client in &clients {
        rig.say(*client, request(&format!("SUBSCRIBE {channel}")));
    }
    assert_eq!(rig.got(clients[0]), "", "the node has not confirmed it");
    rig.settle();
    let confirmed = format!("*3\r\n$9\r\nsubscribe\r\n${}\r\n{channel}\r\n:1\r\n", channel.len());
    for client in &clients {
        assert_eq!(rig.got(*client), confirmed);
    }
    publish(&mut rig, &channel, "hi");
    rig.settle();
    let message = format!("*3\r\n$7\r\nmessage\r\n${}\r\n{channel}\r\n$2\r\nhi\r\n", channel.len());
    for client in &clients {
        assert_eq!(rig.got(*client), message);
    }
    let seen: Vec<_> = rig.nodes.values().map(|node| node.seen.clone()).collect();
    assert_eq!(seen, [["subscribe"]]);
    // The last who leaves ends it.
    for client in clients {
        rig.core.session_closed(client);
        rig.settle();
    }
    assert_eq!(rig.nodes.values().next().unwrap().seen, ["subscribe", "unsubscribe"]);
}

#[test]
fn subscriptions_move_with_the_map_and_outlive_a_lost_connection() {
    let mut rig = Rig::new(&THREE);
    let client = rig.client();
    let channel = rig.key_of("a", 0);
    rig.say(client, request(&format!("SUBSCRIBE {channel}")));
    rig.settle();
    rig.got(client);
    for change in 0..2 {
        rig.kill("a");
        if change == 0 {
            rig.reachable.insert("a".to_owned());
        } else {
            rig.core.set_topology(topology(2, &[("a", false), ("b", true), ("c", true)]));
        }
        rig.settle();
        publish(&mut rig, &channel, "hi");
        rig.settle();
        assert!(rig.got(client).ends_with("$2\r\nhi\r\n"), "change {change}");
        assert_eq!(rig.nodes.len(), 1);
    }
}

#[test]
fn a_subscriber_that_leaves_before_it_is_confirmed_leaves_nothing_behind() {
    let mut rig = Rig::new(&THREE);
    let client = rig.client();
    rig.say(client, request("SUBSCRIBE one"));
    rig.core.session_closed(client);
    let client = rig.client();
    rig.say(client, ["SUBSCRIBE two", "UNSUBSCRIBE two"].map(request).concat());
    rig.settle();
    assert_eq!(rig.core.topics.len(), 0);
    let client = rig.client();
    rig.reachable.clear();
    for name in THREE {
        rig.kill(name);
    }
    rig.say(client, request("SUBSCRIBE three"));
    rig.core.session_closed(client);
    rig.effects();
    rig.pass(TIMEOUT_MS + 1);
    rig.pass(1);
    assert_eq!(rig.core.topics.len(), 0);
}

#[test]
fn a_pattern_is_confirmed_once_the_node_that_did_not_answer_has_left_the_map() {
    let mut rig = Rig::new(&THREE);
    rig.reachable.remove("a");
    let client = rig.client();
    rig.say(client, request("PSUBSCRIBE *"));
    (0..3).for_each(|_| rig.turn());
    assert_eq!(rig.got(client), "");
    rig.core.set_topology(topology(2, &[("a", false), ("b", true), ("c", true)]));
    rig.settle();
    assert_eq!(rig.got(client), "*3\r\n$10\r\npsubscribe\r\n$1\r\n*\r\n:1\r\n");
}

#[test]
fn a_node_that_refuses_a_subscription_keeps_the_others() {
    let mut rig = Rig::new(&THREE);
    let (keen, refused) = (rig.client(), rig.client());
    let channel = rig.key_of("a", 0);
    rig.say(keen, request(&format!("SUBSCRIBE {channel}")));
    rig.settle();
    rig.got(keen);
    // As redis before 7.0 answers.
    rig.say(refused, request(&format!("SSUBSCRIBE {channel}")));
    rig.settle();
    assert_eq!(rig.got(refused), "-ERR unknown command 'ssubscribe'\r\n");
    assert_eq!(rig.core.topics.len(), 1);
    publish(&mut rig, &channel, "hi");
    rig.settle();
    assert!(rig.got(keen).ends_with("$2\r\nhi\r\n"));
}

#[test]
fn the_topics_of_a_node_that_moved_are_not_sent_to_where_it_was() {
    let mut rig = Rig::new(&THREE);
    let channel = rig.key_of("a", 0);
    rig.ask([request(&format!("SUBSCRIBE {channel}")), request(&format!("UNSUBSCRIBE {channel}"))].concat());
    let mut map: NodeMap = THREE.iter().map(|name| ((*name).to_owned(), node(name, true))).collect();
    map.get_mut("a").unwrap().config = Endpoint::new("elsewhere", 1);
    rig.reachable.insert("elsewhere".to_owned());
    rig.core.set_topology(Arc::new(Topology::build(&map, 2, &PlacementOptions::default(), 0)));
    rig.ask(request(&format!("SUBSCRIBE {channel}")));
    for &backend in rig.nodes.keys() {
        assert_ne!(rig.core.backends[backend as usize].endpoint.host, "a");
    }
}
