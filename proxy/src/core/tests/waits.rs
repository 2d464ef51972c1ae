//! Commands that wait for data, and where they wait when the map changes.

use super::*;

#[test]
fn what_waits_or_watches_goes_to_the_new_owner_if_its_node_cannot_be_reached() {
    let mut rig = Rig::new(&THREE);
    let (list, watched) = (rig.key_of("c", 0), rig.key_of("c", 1));
    rig.kill("c");
    let (waiter, watcher, late) = (rig.client(), rig.client(), rig.client());
    rig.say(waiter, request(&format!("BLPOP {list} 0")));
    rig.say(
        watcher,
        [format!("WATCH {watched}"), "MULTI".into(), format!("SET {watched} 1"), "EXEC".into()]
            .map(|text| request(&text))
            .concat(),
    );
    rig.say(late, request(&format!("BLPOP {list} 0")));
    rig.settle_as_far_as_it_goes();
    assert_eq!((rig.got(waiter), rig.got(watcher)), Default::default(), "a map may come that gives the keys to another node");
    assert!(rig.suspects.contains(&"c".to_owned()));
    rig.core.set_topology(topology(2, &[("a", true), ("b", true), ("c", false)]));
    rig.settle();
    assert_eq!(rig.got(watcher), "+OK\r\n+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n");
    let at = rig.core.sessions[waiter.index as usize].waiting.unwrap();
    let node = rig.core.backends[at as usize].node.to_string();
    assert!(node != "c" && rig.nodes[&at].seen.ends_with(&["blpop".to_owned()]));
    rig.nodes.get_mut(&at).unwrap().replies.extend(b"*2\r\n$1\r\nl\r\n$1\r\nv\r\n");
    rig.settle();
    assert_eq!(rig.got(waiter), "*2\r\n$1\r\nl\r\n$1\r\nv\r\n");
}

#[test]
fn what_waits_or_watches_is_told_in_time_that_its_node_cannot_be_reached() {
    let mut rig = Rig::new(&["a"]);
    rig.kill("a");
    let (waiter, watcher) = (rig.client(), rig.client());
    rig.say(waiter, request("BLPOP list 0"));
    rig.say(watcher, request("WATCH key"));
    rig.settle_as_far_as_it_goes();
    rig.pass(TIMEOUT_MS);
    rig.settle_as_far_as_it_goes();
    assert_eq!((rig.got(waiter), rig.got(watcher)), Default::default());
    rig.pass(1);
    rig.settle_as_far_as_it_goes();
    let error = "-NODEDOWN node a could not be reached within 1000 ms (refused); nothing was sent\r\n";
    assert_eq!((rig.got(waiter).as_str(), rig.got(watcher).as_str()), (error, error));
    assert_eq!(rig.core.private_count, 0);
    // Where no other map can come nobody waits for one.
    let mut rig = Rig::with(&["a"], |settings| settings.fixed_nodes = true);
    rig.kill("a");
    for text in ["BLPOP list 0", "WATCH key"] {
        assert_eq!(rig.ask(request(text)), "-NODEDOWN node a cannot be reached (refused); nothing was sent\r\n");
    }
}

#[test]
fn a_client_that_leaves_gives_up_its_wait_and_nobody_waits_behind_it() {
    let mut rig = Rig::new(&THREE);
    let waiting = rig.client();
    rig.say(waiting, [request("BLPOP {q} 0"), request("GET {q}")].concat());
    rig.settle();
    assert_eq!(rig.got(waiting), "");
    assert_eq!(rig.ask(request("SET {q}x 1")), "+OK\r\n");
    rig.pass(TIMEOUT_MS * 10);
    assert_eq!(rig.nodes.len(), 2);
    rig.core.session_ended(waiting);
    rig.settle();
    assert!(!rig.core.is_open(waiting));
    assert_eq!((rig.nodes.len(), rig.core.private_count), (1, 0));
}

#[test]
fn who_waits_at_a_node_that_loses_the_key_is_told() {
    let mut rig = Rig::new(&THREE);
    let key = rig.key_of("a", 0);
    let client = rig.client();
    rig.say(client, [request(&format!("BLPOP {key} 0")), request(&format!("GET {key}"))].concat());
    rig.settle();
    rig.core.set_topology(topology(2, &[("a", false), ("b", true), ("c", true)]));
    rig.settle();
    assert_eq!(rig.got(client), "-UNBLOCKED the node that the command waited at does not hold its keys any more\r\n$-1\r\n");
    assert_eq!(rig.core.private_count, 0);
}

#[test]
fn who_waits_for_data_at_the_right_node_does_not_keep_a_map_from_being_settled_for() {
    let mut rig = Rig::new(&THREE);
    let key = rig.key_of("a", 0);
    let client = rig.client();
    rig.say(client, request(&format!("BLPOP {key} 0")));
    rig.settle();
    rig.core.set_topology(topology(2, &[("a", true), ("b", false), ("c", true)]));
    assert_eq!(rig.core.settled(), Some(2));
    assert_eq!(rig.core.private_count, 1);
}

fn legacy(epoch: u64, nodes: &[(&str, bool)]) -> Arc<Topology> {
    let map: NodeMap = nodes.iter().map(|(name, up)| ((*name).to_owned(), node(name, *up))).collect();
    let options = PlacementOptions { kind: vrc_cluster::topology::PlacementKind::Legacy, ..PlacementOptions::default() };
    Arc::new(Topology::build(&map, epoch, &options, 0))
}

/// Two keys that one node has as long as c is out, and of which only the first stays there when c comes.
fn keys_that_part(rig: &Rig, all: &Topology) -> (String, String) {
    let owner = |topology: &Topology, key: &str| {
        let owner = topology.owner(topology.place(key.as_bytes())).unwrap();
        topology.nodes()[usize::from(owner.node)].name.to_string()
    };
    let key = |then: &str| {
        (0..).map(|n| format!("key{n}")).find(|key| owner(&rig.core.topology, key) == "a" && owner(all, key) == then).unwrap()
    };
    (key("a"), key("c"))
}

#[test]
fn under_legacy_a_watch_ends_when_any_of_its_keys_moves() {
    for on_watch in [true, false] {
        let mut rig = Rig::new(&THREE);
        rig.core.set_topology(legacy(2, &[("a", true), ("b", true), ("c", false)]));
        let all = legacy(3, &[("a", true), ("b", true), ("c", true)]);
        let (stays, moves) = keys_that_part(&rig, &all);
        let client = rig.client();
        let watch = if on_watch { format!("WATCH {stays} {moves}") } else { format!("WATCH {stays}") };
        rig.say(client, [request(&watch), request("MULTI"), request(&format!("SET {stays} 1"))].concat());
        if !on_watch {
            rig.say(client, request(&format!("SET {moves} 1")));
        }
        rig.settle();
        rig.got(client);
        rig.core.set_topology(all);
        rig.say(client, request("EXEC"));
        rig.settle();
        let expect = if on_watch { "*-1\r\n" } else { "-CROSSSLOT Keys in request don't hash to the same slot\r\n" };
        assert_eq!(rig.got(client), expect);
        assert!(rig.data.values().all(BTreeMap::is_empty));
    }
}

#[test]
fn under_legacy_a_wait_ends_when_any_of_its_keys_moves() {
    let mut rig = Rig::new(&THREE);
    rig.core.set_topology(legacy(2, &[("a", true), ("b", true), ("c", false)]));
    let all = legacy(3, &[("a", true), ("b", true), ("c", true)]);
    let (stays, moves) = keys_that_part(&rig, &all);
    let client = rig.client();
    rig.say(client, request(&format!("BLPOP {stays} {moves} 0")));
    rig.settle();
    rig.core.set_topology(all);
    rig.settle();
    assert!(rig.got(client).starts_with("-UNBLOCKED"));
}

#[test]
fn a_wait_with_an_end_ends_even_if_its_node_hangs() {
    for text in ["BLPOP {q} 0.5", "BLPOP {q} {q}p 0.25", "BLMPOP 0.5 1 {q} LEFT", "XREAD BLOCK 500 STREAMS {q} $"] {
        let mut rig = Rig::new(&THREE);
        let client = rig.client();
        rig.say(client, request(text));
        rig.effects();
        rig.connect();
        rig.pass(TIMEOUT_MS);
        rig.write_to_clients(usize::MAX);
        assert_eq!(rig.got(client), "", "{text}");
        rig.pass(501);
        rig.write_to_clients(usize::MAX);
        assert!(rig.got(client).starts_with("-NODEDOWN"), "{text}");
    }
}
