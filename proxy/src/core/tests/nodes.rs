//! What becomes of commands when a node is lost, or the map changes.

use super::*;

#[test]
fn what_was_sent_to_a_lost_node_gets_one_error_and_the_rest_goes_on() {
    let mut rig = Rig::new(&THREE);
    let (on_a, on_b) = (rig.key_of("a", 0), rig.key_of("b", 0));
    rig.ask(request(&format!("MSET {on_a} 1 {on_b} 2")));
    let client = rig.client();
    rig.say(client, [request(&format!("GET {on_b}")), request(&format!("GET {on_a}")), request(&format!("GET {on_b}"))].concat());
    rig.write_to_nodes(usize::MAX);
    rig.kill("a");
    rig.settle();
    assert_eq!(
        rig.got(client),
        "$1\r\n2\r\n-NODEDOWN node a was lost before it answered (connection closed); the command may have been carried out\r\n$1\r\n2\r\n"
    );
    assert_eq!(rig.suspects, ["a"]);
}

#[test]
fn what_was_not_sent_goes_to_the_new_owner_once_the_map_changes() {
    let mut rig = Rig::new(&THREE);
    rig.reachable.remove("a");
    let (key, other) = (rig.key_of("a", 0), rig.key_of("a", 1));
    let client = rig.client();
    rig.say(
        client,
        [request(&format!("SET {key} 1")), request(&format!("SET {key} 2")), request(&format!("GET {key}"))].concat(),
    );
    rig.say(client, request(&format!("MGET {other} {key} {}", rig.key_of("b", 0))));
    rig.turn();
    assert_eq!(rig.got(client), "");
    rig.core.set_topology(topology(2, &[("a", false), ("b", true), ("c", true)]));
    rig.settle();
    assert_eq!(rig.got(client), "+OK\r\n+OK\r\n$1\r\n2\r\n*3\r\n$-1\r\n$1\r\n2\r\n$-1\r\n");
}

#[test]
fn nothing_waits_longer_than_the_timeout() {
    let mut rig = Rig::new(&THREE);
    let (on_a, on_b) = (rig.key_of("a", 0), rig.key_of("b", 0));
    rig.ask(request(&format!("MSET {on_a} 1 {on_b} 2")));
    // A node that takes requests and never answers.
    let client = rig.client();
    rig.say(client, request(&format!("GET {on_a}")));
    rig.write_to_nodes(usize::MAX);
    rig.pass(TIMEOUT_MS);
    rig.write_to_clients(usize::MAX);
    assert_eq!(rig.got(client), "");
    rig.pass(1);
    rig.write_to_clients(usize::MAX);
    assert!(rig.got(client).starts_with("-NODEDOWN node a was lost before it answered (no answer within 1000 ms)"));
    // A node that cannot be reached at all.
    rig.kill("b");
    rig.say(client, request(&format!("GET {on_b}")));
    rig.effects();
    rig.pass(TIMEOUT_MS + 1);
    rig.write_to_clients(usize::MAX);
    assert!(rig.got(client).contains("nothing was sent"));
}

/// A large value is on its way for much longer than the timeout: towards the client, or towards the node.
#[test]
fn what_takes_long_because_there_is_much_of_it_is_not_overdue() {
    const LEN: usize = 600_000;
    const PIECE: usize = 50_000;
    let mut rig = Rig::new(&THREE);
    // The first map is no new one by then.
    rig.pass(TICK_MS);
    let (large, small) = (rig.key_of("a", 0), rig.key_of("a", 1));
    let (client, other) = (rig.client(), rig.client());
    rig.say(client, request(&format!("SET {large} {}", "x".repeat(LEN))));
    rig.effects();
    rig.connect();
    for _ in 0..LEN / PIECE {
        rig.write_to_nodes(PIECE);
        rig.pass(TIMEOUT_MS / 2);
    }
    rig.say(other, request(&format!("GET {small}")));
    rig.settle();
    assert_eq!((rig.got(client).as_str(), rig.got(other).as_str()), ("+OK\r\n", "$-1\r\n"));

    rig.say(client, request(&format!("GET {large}")).repeat(2));
    rig.say(other, request(&format!("GET {small}")));
    rig.write_to_nodes(usize::MAX);
    let mut got = 0;
    for _ in 0..LEN / PIECE {
        rig.answer(PIECE);
        rig.pass(TIMEOUT_MS / 2);
        rig.write_to_clients(usize::MAX);
        got += rig.got(client).len();
    }
    assert!(got > LEN / 2 && rig.got(other).is_empty());
    // Once nothing comes any more, it is overdue as everything else.
    rig.pass(TIMEOUT_MS + 1);
    rig.write_to_clients(usize::MAX);
    assert!(rig.got(other).starts_with("-NODEDOWN node a was lost before it answered (no answer within 1000 ms)"));
}

#[test]
fn a_new_map_waits_no_longer_than_the_timeout_for_a_large_value() {
    const PIECE: usize = 50_000;
    let mut rig = Rig::new(&THREE);
    rig.pass(TICK_MS);
    let large = rig.key_of("a", 0);
    let client = rig.client();
    rig.say(client, request(&format!("SET {large} {}", "x".repeat(40 * PIECE))));
    rig.settle();
    rig.say(client, request(&format!("GET {large}")));
    rig.write_to_nodes(usize::MAX);
    let some_more = |rig: &mut Rig| {
        rig.answer(PIECE);
        rig.pass(TIMEOUT_MS / 2);
        rig.core.settled()
    };
    (0..6).for_each(|_| assert_eq!(some_more(&mut rig), Some(1)));
    rig.core.set_topology(topology(2, &[("a", true), ("b", true), ("c", true)]));
    assert_eq!((some_more(&mut rig), some_more(&mut rig)), (None, None));
    // It is given up then, in the middle.
    assert!((0..2).any(|_| some_more(&mut rig) == Some(2)));
    assert!(rig.core.take_effects().iter().any(|effect| matches!(effect, Effect::Close { session } if *session == client)));
}

#[test]
fn a_fixed_node_that_is_gone_is_an_error_at_once_and_found_again() {
    let mut rig = Rig::with(&THREE, |settings| settings.fixed_nodes = true);
    let key = rig.key_of("a", 0);
    rig.reachable.remove("a");
    assert_eq!(rig.ask(request(&format!("GET {key}"))), "-NODEDOWN node a cannot be reached (refused); nothing was sent\r\n");
    rig.reachable.insert("a".to_owned());
    rig.ask(request(&format!("GET {key}")));
    assert_eq!(rig.ask(request(&format!("SET {key} 1"))), "+OK\r\n");
}

#[test]
fn without_any_node_every_command_says_so() {
    let mut rig = Rig::new(&[]);
    let expect = "-CLUSTERDOWN no node of the cluster is up\r\n";
    for text in ["GET k", "MGET a b", "DBSIZE"] {
        assert_eq!(rig.ask(request(text)), expect, "{text}");
    }
    assert_eq!(rig.ask(request("PING")), "+PONG\r\n");
}

/// What a node that leaves the map in good order was sent it still answers; and so long, the new map is not settled for.
#[test]
fn what_was_sent_before_a_planned_change_is_answered_before_it_is_settled_for() {
    for script in [
        vec!["SET {t}a 1"],
        vec!["MSET a 1 b 2 c 3 d 4 e 5"],
        vec!["MULTI", "SET {t}a 1", "EXEC"],
        vec!["WATCH {t}a"],
        vec!["WATCH {t}a", "MULTI", "SET {t}a 1", "EXEC"],
    ] {
        let mut rig = Rig::new(&THREE);
        rig.core.tick(0);
        assert_eq!(rig.core.settled(), Some(1));
        let client = rig.client();
        let (last, first) = script.split_last().unwrap();
        first.iter().for_each(|line| {
            rig.say(client, request(line));
            rig.settle();
        });
        rig.got(client);
        rig.say(client, request(last));
        rig.effects();
        rig.connect();
        rig.write_to_nodes(usize::MAX);
        let holder = rig.core.topology.owner(rig.core.topology.place(b"{t}a")).unwrap().node;
        let nodes: Vec<_> = THREE.iter().enumerate().map(|(at, name)| (*name, at != usize::from(holder))).collect();
        rig.core.set_topology(topology(2, &nodes));
        let is_watch = last.starts_with("WATCH");
        assert_eq!(rig.core.settled(), is_watch.then_some(2), "{script:?}");
        rig.settle();
        assert_eq!(rig.core.settled(), Some(2), "{script:?}");
        let got = rig.got(client);
        assert!(!got.is_empty() && !got.contains('-'), "{script:?}: {got:?}");
        assert_eq!(rig.core.private_count, 0, "{script:?}");
        if is_watch {
            rig.say(client, ["MULTI", "SET {t}a 1", "EXEC"].map(request).concat());
            rig.settle();
            assert_eq!(rig.got(client), "+OK\r\n+QUEUED\r\n*-1\r\n", "what it watches is touched");
        }
    }
}

#[test]
fn what_waits_for_a_node_keeps_its_database_when_the_map_changes() {
    let mut rig = Rig::new(&THREE);
    rig.reachable.remove("a");
    let key = rig.key_of("a", 0);
    let client = rig.client();
    let transaction = ["MULTI".to_owned(), format!("SET {key} 2"), "EXEC".to_owned()].map(|text| request(&text)).concat();
    rig.say(client, [request(&format!("SET {key} 1")), transaction, request("SELECT 1")].concat());
    rig.core.set_topology(topology(2, &[("a", false), ("b", true), ("c", true)]));
    rig.settle();
    assert_eq!(rig.got(client), "+OK\r\n+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n+OK\r\n");
    for &backend in rig.nodes.keys() {
        assert_eq!(rig.core.backends[backend as usize].lane, Lane::new(Proto::Resp2, 0, false));
    }
}

#[test]
fn nothing_waits_longer_for_having_moved_behind_a_newer_command() {
    let mut rig = Rig::new(&THREE);
    let (on_a, on_b) = (rig.key_of("a", 0), rig.key_of("b", 0));
    let (older, newer) = (rig.client(), rig.client());
    rig.ask(request(&format!("GET {on_b}")));
    for name in THREE {
        rig.kill(name);
    }
    rig.say(older, request(&format!("GET {on_a}")));
    rig.pass(TIMEOUT_MS - 100);
    rig.say(newer, request(&format!("GET {on_b}")));
    rig.core.set_topology(topology(2, &[("a", false), ("b", true), ("c", false)]));
    rig.pass(101);
    rig.write_to_clients(usize::MAX);
    assert!(rig.got(older).starts_with("-NODEDOWN"));
    assert_eq!(rig.got(newer), "");
}

/// One node that is up, as the process of this run id.
fn process(epoch: u64, run_id: Option<&str>) -> Arc<Topology> {
    let map: NodeMap = [("a".to_owned(), Node { run_id: run_id.map(str::to_owned), ..node("a", true) })].into_iter().collect();
    Arc::new(Topology::build(&map, epoch, &PlacementOptions::default(), 0))
}

#[test]
fn a_connection_to_another_process_than_the_map_speaks_of_is_used_no_more() {
    for (maps, stays) in [
        (&[Some("one"), Some("one")][..], true),
        (&[Some("one"), None], true),
        (&[Some("one"), None, Some("one")], true),
        (&[None, None], true),
        (&[Some("one"), Some("two")], false),
        (&[Some("one"), None, Some("two")], false),
        // To whom it leads was never asked.
        (&[None, Some("one")], false),
    ] {
        let mut rig = Rig::new(&["a"]);
        rig.core.set_topology(process(2, maps[0]));
        let [plain, watcher, waiter, listener, reader] = [0; 5].map(|_| rig.client());
        rig.tell(plain, "SET k v");
        rig.tell(watcher, "WATCH k");
        rig.tell(waiter, "BLPOP q 0");
        rig.tell(listener, "SUBSCRIBE ch");
        rig.tell(reader, "HELLO 3\nCLIENT TRACKING ON BCAST\nGET k");
        rig.say(plain, request("GET k"));
        rig.write_to_nodes(usize::MAX);
        let connections = |rig: &Rig| -> BTreeSet<(u32, u32)> {
            rig.nodes.keys().map(|backend| (*backend, rig.core.backend_incarnation(*backend))).collect()
        };
        let before = connections(&rig);
        for (at, run_id) in maps.iter().enumerate().skip(1) {
            rig.core.set_topology(process(2 + at as u64, *run_id));
        }
        rig.settle();
        assert_eq!(rig.got(plain), "$1\r\nv\r\n", "{maps:?}: what was sent is answered");
        let unblocked = "-UNBLOCKED the node that the command waited at does not hold its keys any more\r\n";
        assert_eq!(rig.got(waiter), if stays { "" } else { unblocked }, "{maps:?}");
        assert!(rig.got(reader).contains("invalidate"), "{maps:?}");
        assert_eq!(rig.tell(plain, "GET k"), "$1\r\nv\r\n", "{maps:?}");
        assert_eq!(rig.tell(watcher, "MULTI\nGET k\nEXEC").ends_with("*-1\r\n"), !stays, "{maps:?}");
        let subscribes = rig.nodes.values().flat_map(|node| &node.seen).filter(|seen| *seen == "subscribe").count();
        assert_eq!(subscribes, 1, "{maps:?}: over the connection that there is now");
        let after = connections(&rig);
        assert!(if stays { after == before } else { after.is_disjoint(&before) }, "{maps:?}: {before:?}, {after:?}");
    }
}
