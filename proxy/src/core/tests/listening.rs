//! Publish and subscribe: counts, order, transactions, and what becomes of topics when nodes come and go.

use super::*;

/// The node of this name says something on its connection for topics.
fn push(rig: &mut Rig, node: &str, parts: &[&str]) {
    let mut message = Vec::new();
    encode::request(&mut message, parts);
    let listener = rig.nodes.iter_mut().find(|(backend, of)| {
        &*rig.core.backends[**backend as usize].node == node && of.seen.iter().any(|name| name.ends_with("subscribe"))
    });
    listener.expect("the node has a connection for topics").1.replies.extend(message);
}

/// What the nodes were told on their connections for topics, by node.
fn told(rig: &Rig, node: &str) -> Vec<String> {
    let of_node = rig.nodes.iter().filter(|(backend, _)| &*rig.core.backends[**backend as usize].node == node);
    of_node.flat_map(|(_, of)| of.seen.clone()).collect()
}

fn three(epoch: u64, a: bool) -> Arc<Topology> {
    topology(epoch, &[("a", a), ("b", true), ("c", true)])
}

#[test]
fn publish_counts_clients() {
    let mut rig = Rig::new(&THREE);
    let channel = rig.key_of("a", 0);
    assert_eq!(rig.ask(request(&format!("PUBLISH {channel} x"))), ":1\r\n", "somebody else's");
    let clients: Vec<_> = (0..3).map(|_| rig.client()).collect();
    for client in &clients {
        rig.say(*client, request(&format!("SUBSCRIBE {channel}")));
    }
    rig.settle();
    assert_eq!(rig.ask(request(&format!("PUBLISH {channel} x"))), ":3\r\n");
    rig.say(clients[0], request("UNSUBSCRIBE"));
    assert_eq!(rig.ask(request(&format!("PUBLISH {channel} x"))), ":2\r\n");
    for client in &clients[1..] {
        rig.core.session_closed(*client);
    }
    rig.settle();
    assert_eq!(rig.ask(request(&format!("PUBLISH {channel} x"))), ":1\r\n", "somebody else's");
}

#[test]
fn a_client_gets_its_own_message_before_the_reply() {
    for subscribe in ["SUBSCRIBE", "PSUBSCRIBE"] {
        let mut rig = Rig::new(&THREE);
        let channel = rig.key_of("a", 0);
        let client = rig.client();
        rig.say(client, [request("HELLO 3"), request(&format!("{subscribe} {channel}"))].concat());
        rig.settle();
        rig.got(client);
        rig.say(client, [request(&format!("PUBLISH {channel} hi")), request("PING")].concat());
        rig.turn();
        assert_eq!(rig.got(client), "", "the reply is there, the message is not");
        match subscribe {
            "SUBSCRIBE" => push(&mut rig, "a", &["message", &channel, "hi"]),
            _ => push(&mut rig, "a", &["pmessage", &channel, &channel, "hi"]),
        }
        rig.settle();
        let got = rig.got(client);
        assert!(got.starts_with(">") && got.ends_with("$2\r\nhi\r\n:1\r\n+PONG\r\n"), "{got}");
    }
}

#[test]
fn a_publisher_is_answered_although_its_listening_connection_is_lost() {
    for before_reply in [true, false] {
        let mut rig = Rig::new(&THREE);
        let channel = rig.key_of("a", 0);
        let client = rig.client();
        rig.say(client, [request("HELLO 3"), request(&format!("SUBSCRIBE {channel}"))].concat());
        rig.settle();
        rig.got(client);
        rig.say(client, request(&format!("PUBLISH {channel} hi")));
        rig.effects();
        rig.connect();
        rig.write_to_nodes(usize::MAX);
        if !before_reply {
            rig.answer(usize::MAX);
        }
        let listener = rig.core.backends.iter().position(|backend| backend.hold == Some(Hold::Subscriber)).unwrap() as u32;
        rig.nodes.remove(&listener);
        let incarnation = rig.core.backend_incarnation(listener);
        rig.core.backend_lost(listener, incarnation, "gone");
        rig.settle();
        assert_eq!(rig.got(client), ":1\r\n");
        assert_eq!(rig.core.topics.fences.len(), 0);
    }
}

#[test]
fn what_was_asked_for_a_publisher_that_has_left_answers_nothing_for_the_next_in_its_place() {
    let mut rig = Rig::new(&THREE);
    let channel = rig.key_of("a", 0);
    let other = rig.client();
    rig.say(other, request(&format!("SUBSCRIBE {channel}")));
    rig.settle();
    let publish =
        [request("HELLO 3"), request(&format!("SUBSCRIBE {channel}")), request(&format!("PUBLISH {channel} hi"))].concat();
    let first = rig.client();
    rig.say(first, &publish);
    // It is answered, and the listening connection is asked.
    rig.turn();
    rig.core.session_closed(first);
    let next = rig.client();
    assert_eq!(next.index, first.index);
    rig.say(next, &publish);
    let listener = rig.core.backends.iter().position(|backend| backend.hold == Some(Hold::Subscriber)).unwrap() as u32;
    assert_eq!(rig.core.backends[listener as usize].pending(), 1);
    rig.write_to_nodes(usize::MAX);
    let pong = std::mem::take(&mut rig.nodes.get_mut(&listener).unwrap().replies);
    assert_eq!(pong, b"+PONG\r\n");
    rig.core.backend_input(listener, rig.core.backend_incarnation(listener), &pong);
    rig.settle();
    assert!(rig.got(next).ends_with(":2\r\n"));
}

#[test]
fn messages_do_not_wait_behind_a_command_that_waits() {
    let mut rig = Rig::new(&THREE);
    let channel = rig.key_of("a", 0);
    let client = rig.client();
    rig.say(client, [request("HELLO 3"), request(&format!("SUBSCRIBE {channel}")), request("BLPOP {q} 0")].concat());
    rig.settle();
    rig.got(client);
    push(&mut rig, "a", &["message", &channel, "hi"]);
    rig.settle();
    assert!(rig.got(client).ends_with("$2\r\nhi\r\n"));
}

#[test]
fn what_is_published_in_a_transaction_is_published_once_that_is_done() {
    let mut rig = Rig::new(&THREE);
    let (key, channel) = (rig.key_of("a", 0), rig.key_of("b", 0));
    let script = [
        "MULTI".to_owned(),
        format!("PUBLISH {channel} 1"),
        format!("SET {key} 1"),
        format!("GET {key}"),
        format!("PUBLISH {channel} 2"),
        "EXEC".to_owned(),
        "PING".to_owned(),
    ];
    let queued = "+QUEUED\r\n".repeat(4);
    let bytes: Vec<u8> = script.iter().flat_map(|text| request(text)).collect();
    assert_eq!(rig.ask(bytes), format!("+OK\r\n{queued}*4\r\n:1\r\n+OK\r\n$1\r\n1\r\n:1\r\n+PONG\r\n"));
    assert_eq!((told(&rig, "a").join(" "), told(&rig, "b").join(" ")), ("multi set get exec".into(), "publish publish".into()));
    // Nothing but what is published.
    let script = ["MULTI".to_owned(), format!("PUBLISH {channel} 1"), "EXEC".to_owned()].map(|text| request(&text)).concat();
    assert_eq!(rig.ask(script), "+OK\r\n+QUEUED\r\n*1\r\n:1\r\n");
}

#[test]
fn nothing_is_published_by_a_transaction_that_fails() {
    let mut rig = Rig::new(&THREE);
    let (key, channel) = (rig.key_of("a", 0), rig.key_of("b", 0));
    let client = rig.client();
    rig.say(client, request(&format!("WATCH {key}")));
    rig.settle();
    rig.kill("a");
    rig.core.set_topology(three(2, false));
    let script = ["MULTI".to_owned(), format!("PUBLISH {channel} 1"), "EXEC".to_owned()];
    rig.say(client, script.map(|text| request(&text)).concat());
    rig.settle();
    assert_eq!(rig.got(client), "+OK\r\n+OK\r\n+QUEUED\r\n*-1\r\n");
    assert_eq!(told(&rig, "b"), [""; 0]);
}

#[test]
fn a_transaction_may_subscribe() {
    let mut rig = Rig::new(&THREE);
    let client = rig.client();
    rig.say(client, ["MULTI", "SUBSCRIBE one two", "PING", "EXEC"].map(request).concat());
    rig.settle();
    let got = rig.got(client);
    assert_eq!(
        got,
        "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n*3\r\n$9\r\nsubscribe\r\n$3\r\none\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n$3\r\ntwo\r\n:2\r\n+PONG\r\n"
    );
}

#[test]
fn a_message_that_was_not_sent_is_published_where_its_channel_is_now() {
    let mut rig = Rig::new(&THREE);
    let channel = rig.key_of("a", 0);
    rig.reachable.remove("a");
    let client = rig.client();
    rig.say(client, request(&format!("PUBLISH {channel} x")));
    rig.core.set_topology(three(2, false));
    rig.settle();
    assert_eq!(rig.got(client), ":1\r\n");
}

#[test]
fn a_channel_is_left_where_it_was_once_it_is_confirmed_where_it_is() {
    let mut rig = Rig::new(&THREE);
    rig.core.set_topology(three(2, false));
    let all = three(3, true);
    let moves = |key: &String| {
        let owner = all.owner(all.place(key.as_bytes())).unwrap();
        &*all.nodes()[usize::from(owner.node)].name == "a"
    };
    let channel = (0..).map(|n| rig.key_of("b", n)).find(moves).unwrap();
    let client = rig.client();
    rig.say(client, request(&format!("SUBSCRIBE {channel}")));
    rig.settle();
    rig.got(client);
    rig.core.set_topology(all.clone());
    rig.effects();
    rig.connect();
    rig.write_to_nodes(usize::MAX);
    assert_eq!(told(&rig, "b"), ["subscribe"]);
    push(&mut rig, "b", &["message", &channel, "old"]);
    rig.settle();
    assert_eq!(
        (told(&rig, "a"), told(&rig, "b")),
        (vec!["subscribe".to_owned()], vec!["subscribe".into(), "unsubscribe".into()])
    );
    push(&mut rig, "a", &["message", &channel, "new"]);
    rig.settle();
    let got = rig.got(client);
    assert_eq!(got.matches("message").count(), 2, "{got}");
}

#[test]
fn notifications_are_heard_from_every_node_and_those_of_guests_as_the_clients() {
    let mut rig = Rig::new(&THREE);
    let options = PlacementOptions { guest_databases: true, ..PlacementOptions::default() };
    let map: NodeMap = THREE.iter().map(|name| ((*name).to_owned(), node(name, *name != "a"))).collect();
    rig.core.set_topology(Arc::new(Topology::build(&map, 2, &options, 0)));
    let client = rig.client();
    rig.say(client, ["SUBSCRIBE __keyspace@1__:k", "PSUBSCRIBE __keyevent@*__:set __keyevent@1__:*"].map(request).concat());
    rig.settle();
    rig.got(client);
    // As the owner and as a's guest.
    assert_eq!((told(&rig, "b").len(), told(&rig, "c").len()), (5, 5));
    push(&mut rig, "b", &["message", "__keyspace@1__:k", "del"]);
    push(&mut rig, "c", &["message", "__keyspace@9__:k", "set"]);
    push(&mut rig, "c", &["pmessage", "__keyevent@*__:set", "__keyevent@9__:set", "k"]);
    push(&mut rig, "c", &["pmessage", "__keyevent@9__:*", "__keyevent@9__:set", "k"]);
    rig.settle();
    let expect = [
        vec!["message", "__keyspace@1__:k", "del"],
        vec!["message", "__keyspace@1__:k", "set"],
        vec!["pmessage", "__keyevent@*__:set", "__keyevent@1__:set", "k"],
        vec!["pmessage", "__keyevent@1__:*", "__keyevent@1__:set", "k"],
    ];
    let mut bytes = Vec::new();
    expect.iter().for_each(|parts| encode::request(&mut bytes, parts));
    assert_eq!(rig.got(client), String::from_utf8(bytes).unwrap());
}

#[test]
fn a_node_that_died_in_silence_is_noticed_by_those_who_only_listen() {
    let mut rig = Rig::new(&THREE);
    let channel = rig.key_of("a", 0);
    let client = rig.client();
    rig.say(client, request(&format!("SUBSCRIBE {channel}")));
    rig.settle();
    for _ in 0..3 {
        rig.pass(crate::limits::LISTENER_PING_MS);
        rig.settle();
    }
    assert_eq!(rig.suspects, [""; 0]);
    rig.pass(crate::limits::LISTENER_PING_MS);
    rig.pass(TIMEOUT_MS + 1);
    rig.effects();
    assert_eq!(rig.suspects, ["a"]);
}

/// Everybody's turn, while one node says nothing.
fn settle_without(rig: &mut Rig, silent: &str) {
    for _ in 0..3 {
        rig.effects();
        rig.connect();
        rig.write_to_nodes(usize::MAX);
        for node in THREE.iter().filter(|node| **node != silent) {
            rig.answer_from(node);
        }
        rig.write_to_clients(usize::MAX);
    }
}

#[test]
fn what_one_node_brings_before_all_have_confirmed_a_pattern_comes_behind_the_confirmation() {
    for hello in ["HELLO 2", "HELLO 3"] {
        let mut rig = Rig::new(&THREE);
        let channel = rig.key_of("a", 0);
        let client = rig.client();
        rig.say(client, request(hello));
        rig.settle();
        rig.got(client);
        rig.say(client, [request("PSUBSCRIBE *"), request("PING")].concat());
        settle_without(&mut rig, "b");
        // Whoever published this was told that there is one who receives it.
        let publisher = rig.client();
        rig.say(publisher, request(&format!("PUBLISH {channel} hi")));
        push(&mut rig, "a", &["pmessage", "*", &channel, "hi"]);
        settle_without(&mut rig, "b");
        assert_eq!(rig.got(publisher), ":1\r\n");
        assert_eq!(rig.got(client), "", "b has not confirmed it");
        rig.settle();
        let got = rig.got(client);
        let places = ["psubscribe", "pmessage", "hi"].map(|part| got.find(part));
        assert!(places.is_sorted() && places[0].is_some(), "{got}");
        assert!(!rig.core.topics.by_name.values().any(|topic| !topic.waiting.is_empty()));
    }
}

#[test]
fn a_pattern_counts_until_the_last_of_its_nodes_has_ended_it() {
    let mut rig = Rig::new(&THREE);
    let channel = rig.key_of("a", 0);
    let subscriber_counts =
        |rig: &Rig| rig.core.all_stats.subscriber_counts.surplus_of_message(crate::core::TopicKind::Channel, channel.as_bytes());
    let client = rig.client();
    rig.say(client, request("PSUBSCRIBE *"));
    rig.settle();
    assert_eq!(subscriber_counts(&rig), 0, "the nodes count it");
    rig.say(client, request("PUNSUBSCRIBE *"));
    settle_without(&mut rig, "a");
    assert_eq!(subscriber_counts(&rig), -1, "a counts it still, and nobody is there");
    rig.settle();
    assert_eq!(subscriber_counts(&rig), 0);
}
