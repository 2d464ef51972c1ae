//! Transactions with commands that are not one node's alone: carried out in parts, in order.

use super::*;

fn seen(rig: &Rig) -> Vec<String> {
    rig.nodes.values().map(|node| node.seen.join(" ")).filter(|seen| seen.contains("multi")).collect()
}

#[test]
fn what_comes_before_a_command_for_all_nodes_is_done_before_it_and_what_comes_after_it_after() {
    let mut rig = Rig::new(&THREE);
    for node in ["a", "b", "c"] {
        let key = rig.key_of(node, 1);
        rig.ask(request(&format!("SET {key} 1")));
    }
    let script = ["MULTI", "SET {t}a 1", "DBSIZE", "FLUSHALL", "DBSIZE", "SET {t}a 2", "GET {t}a", "EXEC", "GET {t}a"];
    let reply = rig.ask(script.map(request).concat());
    let queued = "+QUEUED\r\n".repeat(6);
    assert_eq!(reply, format!("+OK\r\n{queued}*6\r\n+OK\r\n:4\r\n+OK\r\n:0\r\n+OK\r\n$1\r\n2\r\n$1\r\n2\r\n"));
    let blocks = ["multi set exec", "multi set get exec"];
    assert!(blocks.iter().all(|block| seen(&rig).iter().any(|seen| seen.contains(block))), "{:?}", seen(&rig));
}

#[test]
fn what_comes_after_select_is_done_in_its_database() {
    let mut rig = Rig::new(&THREE);
    let client = rig.client();
    rig.say(client, ["MULTI", "SELECT 1", "GET {t}a", "SELECT 99", "PING", "EXEC", "CLIENT INFO"].map(request).concat());
    rig.settle();
    let got = rig.got(client);
    let answers = "*4\r\n+OK\r\n$-1\r\n-ERR DB index is out of range\r\n+PONG\r\n";
    assert!(got.contains(answers) && got.contains(" db=1 "), "{got}");
    let lanes: Vec<_> = rig.nodes.keys().map(|backend| rig.core.backends[*backend as usize].lane.db).collect();
    assert!(lanes.iter().all(|db| *db == 1), "{lanes:?}");
}

#[test]
fn a_publication_keeps_its_place_among_the_parts() {
    let mut rig = Rig::new(&THREE);
    let script = ["MULTI", "PUBLISH x 1", "SET {t}a 1", "FLUSHALL", "PUBLISH x 2", "EXEC"].map(request).concat();
    let reply = rig.ask(script);
    assert_eq!(reply, format!("+OK\r\n{}*4\r\n:1\r\n+OK\r\n+OK\r\n:1\r\n", "+QUEUED\r\n".repeat(4)));
}

#[test]
fn nothing_is_done_if_a_watched_key_was_touched_whatever_comes_first() {
    for script in [["WATCH {t}a", "MULTI", "FLUSHALL", "EXEC"], ["WATCH {t}a", "MULTI", "SELECT 1", "EXEC"]] {
        let mut rig = Rig::new(&THREE);
        let client = rig.client();
        rig.say(client, script.map(request).concat());
        rig.settle();
        assert_eq!(rig.got(client), "+OK\r\n+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n", "untouched");
        assert!(seen(&rig)[0].starts_with("watch multi exec"), "the watched keys' node is asked first: {:?}", seen(&rig));
    }
}

#[test]
fn a_part_whose_node_is_gone_fails_alone() {
    let mut rig = Rig::new(&THREE);
    let key = rig.key_of("a", 0);
    let client = rig.client();
    let script = ["MULTI", "DBSIZE", &format!("SET {key} 1"), &format!("GET {key}"), "DBSIZE"].map(request).concat();
    rig.say(client, script);
    rig.settle();
    rig.got(client);
    rig.say(client, request("EXEC"));
    rig.effects();
    rig.connect();
    rig.write_to_nodes(usize::MAX);
    rig.core.set_topology(topology(2, &[("a", false), ("b", false), ("c", false)]));
    rig.settle();
    let got = rig.got(client);
    assert_eq!(got.matches("CLUSTERDOWN no node of the cluster is up").count(), 3, "{got}");
    assert!(got.starts_with("*4\r\n"), "{got}");
}

#[test]
fn nothing_is_told_within_the_array() {
    let mut rig = Rig::new(&THREE);
    let client = rig.client();
    let key = rig.key_of("a", 0);
    rig.say(client, ["HELLO 3", "CLIENT TRACKING ON", &format!("GET {key}")].map(request).concat());
    rig.settle();
    rig.got(client);
    rig.say(client, ["MULTI", "DBSIZE", "DBSIZE", "EXEC"].map(request).concat());
    rig.effects();
    rig.connect();
    rig.write_to_nodes(usize::MAX);
    // The array has begun. Somebody changes what was read.
    rig.ask(request(&format!("SET {key} 1")));
    rig.settle();
    let got = rig.got(client);
    let (array, push) = got.split_at(got.find(">2").expect("it is told"));
    assert_eq!(array, "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n:0\r\n:1\r\n");
    assert!(push.contains(&key), "{got}");
}
