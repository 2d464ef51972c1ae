//! CLUSTER and INFO.

use super::*;

#[test]
fn info_adds_up_the_nodes_and_names_the_one_that_is_silent() {
    let mut rig = Rig::new(&THREE);
    for key in 0..10 {
        rig.ask(request(&format!("SET k{key} v")));
    }
    let all = rig.ask(request("INFO"));
    for line in ["redis_mode:standalone", "used_memory:300", "db0:keys=10,expires=0,avg_ttl=0", "vrc_nodes_up:3", "role:master"] {
        assert!(all.contains(&format!("\r\n{line}\r\n")), "{line} is not in {all}");
    }
    assert!(!all.contains("vrc_silent_nodes"), "{all}");
    // Several sections, in redis's order.
    let some = rig.ask(request("INFO keyspace memory"));
    assert!(some.contains("\r\n# Memory\r\nused_memory:300\r\n\r\n# Keyspace\r\ndb0:keys=10"), "{some}");
    assert_eq!(rig.ask(request("INFO nonsense")), "$0\r\n\r\n");

    rig.kill("b");
    let client = rig.client();
    rig.say(client, request("INFO memory"));
    rig.settle_as_far_as_it_goes();
    rig.pass(TIMEOUT_MS * 2);
    rig.settle_as_far_as_it_goes();
    assert!(rig.got(client).contains("used_memory:200\r\nvrc_silent_nodes:b\r\n"));
    // Known to be gone, it is not waited for.
    rig.say(client, request("INFO memory"));
    rig.settle_as_far_as_it_goes();
    assert!(rig.got(client).contains("used_memory:200\r\nvrc_silent_nodes:b\r\n"));
    // A map without it, while it is asked, ends the wait.
    rig.core.set_topology(topology(2, &[("a", true), ("b", false), ("c", true)]));
    assert!(!rig.ask(request("INFO memory")).contains("vrc_silent_nodes"));
    rig.core.set_topology(topology(3, &[("a", false)]));
    assert_eq!(rig.ask(request("INFO memory")), "-CLUSTERDOWN no node of the cluster is up\r\n");
    assert!(rig.ask(request("INFO")).contains("vrc_nodes_up:0"));
}

#[test]
fn info_that_was_not_sent_names_the_node_that_left() {
    let mut rig = Rig::new(&THREE);
    let client = rig.client();
    rig.say(client, request("INFO memory"));
    rig.core.set_topology(topology(2, &[("a", true), ("b", false), ("c", true)]));
    rig.settle();
    assert!(rig.got(client).contains("used_memory:200\r\nvrc_silent_nodes:b\r\n"));
}
