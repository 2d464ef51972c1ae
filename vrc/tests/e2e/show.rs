//! `vrc status` and `vrc where`.

use rustix::process::Signal;
use serde_json::Value;
use vrc_cluster::contract::{AGENT_BUS, AgentBusMessage};

use crate::support::{Cluster, Fleet, LONG, Process, RedisServer, connect, eventually};

fn run(args: &[&str]) -> (Option<i32>, String) {
    let mut process = Process::vrc(args);
    let code = process.end(LONG).code();
    (code, process.output())
}

fn json(args: &[&str]) -> Value {
    let (code, output) = run(args);
    assert_eq!(code, Some(0), "{output}");
    serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"))
}

#[test]
fn status_shows_every_node_and_who_is_gone() {
    let mut cluster = Cluster::start(&Fleet { weights: vec![1.0, 3.0], proxies: 1, ..Fleet::default() });
    let mut client = connect(cluster.port());
    for number in 0..400 {
        redis::cmd("SET").arg(format!("key:{number}")).arg(number).exec(&mut client).unwrap();
    }
    let url = format!("redis://127.0.0.1:{}", cluster.master.port());
    let report = eventually("a leader", LONG, || {
        let report = json(&["status", "--master", &url, "--json"]);
        report["leader"].is_string().then_some(report)
    });
    assert_eq!((&report["nodes_up"], &report["master"]), (&2.into(), &url.as_str().into()));
    assert!(report["epoch"].is_u64(), "{report}");
    let nodes = report["nodes"].as_array().unwrap();
    assert_eq!(nodes.iter().map(|node| node["keys"].as_u64().unwrap()).sum::<u64>(), 400, "{report}");
    let shares: Vec<f64> = nodes.iter().map(|node| node["share"].as_f64().unwrap()).collect();
    assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-6);
    for (node, share) in nodes.iter().zip(shares) {
        assert!((share - node["weight"].as_f64().unwrap() / 4.0).abs() < 0.05, "{report}");
        assert!(node["memory_bytes"].as_u64().unwrap() > 100_000 && node["unreachable"].is_null(), "{report}");
    }

    let victim = nodes[0]["name"].as_str().unwrap().to_owned();
    cluster.nodes.get_mut(&victim).unwrap().redis.kill();
    cluster.await_up(1);
    let (code, text) = run(&["status", "-p", &cluster.master.port().to_string()]);
    assert_eq!(code, Some(0));
    assert!(text.contains("2, 1 up"), "{text}");
    let line = text.lines().find(|line| line.starts_with(&victim)).unwrap();
    assert!(line.contains("down") && line.contains("0.0 %") && line.contains("unreachable: Connection refused"), "{text}");
    // Every row's state stands under its heading.
    let column = text.lines().find_map(|line| line.find("STATE")).unwrap();
    assert!(line[column..].starts_with("down"), "{text}");
}

#[test]
fn status_shows_whom_only_some_can_reach_and_who_is_held_back() {
    let fleet = Fleet { weights: vec![1.0; 2], coordinator: vec!["--flap-pause", "60s"], ..Fleet::default() };
    let mut cluster = Cluster::start(&fleet);
    let names: Vec<String> = cluster.nodes.keys().cloned().collect();
    let master = cluster.master.port().to_string();
    let shown = |what: &str, pointer: &str| {
        eventually(what, LONG, || {
            let report = json(&["status", "-p", &master, "--json"]);
            report.pointer(pointer).filter(|value| !value.is_null()).cloned()
        })
    };
    // As a proxy does that cannot reach the node.
    let suspect = AgentBusMessage::NodeSuspect {
        name: names[0].clone(),
        reporter: "proxy far away".to_owned(),
        reason: "no answer within 5000 ms".to_owned(),
    };
    let message = serde_json::to_string(&suspect).unwrap();
    redis::cmd("PUBLISH").arg(AGENT_BUS).arg(message).exec(&mut connect(cluster.master.port())).unwrap();
    let trouble = shown("a node that a proxy cannot reach", "/nodes/0/unreachable_from/proxy far away");
    assert!(trouble["since"].is_u64() && trouble["reason"] == "no answer within 5000 ms", "{trouble}");
    let (_, text) = run(&["status", "-p", &master]);
    let line = text.lines().find(|line| line.starts_with(&names[0])).unwrap();
    assert!(line.contains(" up ") && line.contains("unreachable from proxy far away since "), "{text}");

    // Its agent reaches it, and the coordinator does not.
    let redis = RedisServer::start();
    let port = redis.port().to_string();
    let agent = ["agent", "-h", "127.0.0.1", "-p", &port, "--announce-port", "1", "-P", &master, "--announce-interval", "200ms"];
    let _agent = Process::vrc(&agent);
    let trouble = shown("a node that the coordinator cannot reach", "/others/127.0.0.1:1/unreachable");
    assert_eq!(trouble["reason"], "connection refused");
    let (_, text) = run(&["status", "-p", &master]);
    assert!(text.contains("not in the map: 127.0.0.1:1, unreachable from the coordinator since "), "{text}");

    for up in [1, 2, 1] {
        if up == 1 {
            cluster.nodes.get_mut(&names[1]).unwrap().redis.kill();
        } else {
            cluster.nodes.get_mut(&names[1]).unwrap().redis.restart();
        }
        cluster.await_up(up);
    }
    cluster.nodes.get_mut(&names[1]).unwrap().redis.restart();
    assert_eq!(shown("a node that is held back", "/nodes/1/held_back_after"), 2);
    let (_, text) = run(&["status", "-p", &master]);
    assert!(text.contains("held back for ") && text.contains("it went down 2 times"), "{text}");
}

#[test]
fn where_tells_home_holder_and_database() {
    let mut cluster = Cluster::start(&Fleet { weights: vec![1.0, 1.0], proxies: 1, ..Fleet::default() });
    let master = cluster.master.port().to_string();
    let before = json(&["where", "123456789", "{123456789}:x", "-p", &master, "-n", "2", "--json"]);
    assert_eq!((&before[0]["slot"], &before[1]["slot"]), (&0x31c3.into(), &0x31c3.into()));
    assert_eq!((&before[0]["holder"], &before[0]["database"]), (&before[0]["home"], &2.into()));
    let home = before[0]["home"].as_str().unwrap().to_owned();

    cluster.nodes.get_mut(&home).unwrap().redis.kill();
    cluster.await_up(1);
    let after = json(&["where", "123456789", "-p", &master, "--json"]);
    assert_eq!((&after[0]["home"], &after[0]["database"]), (&home.as_str().into(), &8.into()));
    assert_ne!(after[0]["holder"], after[0]["home"]);
    let (_, text) = run(&["where", "123456789", "-p", &master]);
    assert!(text.starts_with("KEY ") && text.contains("12739"), "{text}");

    cluster.nodes.values_mut().for_each(|node| node.redis.kill());
    eventually("nobody up", LONG, || {
        let nowhere = json(&["where", "123456789", "-p", &master, "--json"]);
        (nowhere[0]["unowned"] == "no node is up" && nowhere[0]["holder"].is_null()).then_some(())
    });
}

#[test]
fn an_agent_that_spawns_brings_its_nodes_and_takes_them_along() {
    let master = RedisServer::start();
    let port = master.port().to_string();
    let _coordinator = Process::vrc(&["coordinator", "-p", &port]);
    let mut agent = Process::vrc(&["agent", "--spawn", "2", "--name", "cache", "--maxmemory", "64mb", "-w", "2", "-P", &port]);
    let report = eventually("two nodes", LONG, || {
        let report = json(&["status", "-p", &port, "--json"]);
        (report["nodes_up"] == 2).then_some(report)
    });
    for (node, name) in report["nodes"].as_array().unwrap().iter().zip(["cache-1", "cache-2"]) {
        assert_eq!((&node["name"], &node["weight"]), (&name.into(), &2.0.into()));
        assert_eq!(node["maxmemory_bytes"], 64 << 20);
    }
    agent.signal(Signal::TERM);
    assert_eq!(agent.end(LONG).code(), Some(0));
    let report = eventually("that they left", LONG, || {
        let report = json(&["status", "-p", &port, "--json"]);
        (report["nodes_up"] == 0).then_some(report)
    });
    assert!(report["nodes"].as_array().unwrap().iter().all(|node| node["unreachable"].is_string()), "{report}");
}

#[test]
fn without_a_master_they_say_so_in_one_line() {
    for args in [&["status", "-p", "1"][..], &["where", "key", "-p", "1"]] {
        let (code, output) = run(args);
        assert_eq!(code, Some(1));
        assert_eq!(output.lines().count(), 1, "{output}");
        assert!(
            output.starts_with("vrc: ") && output.contains("127.0.0.1:1") && output.contains("onnection refused"),
            "{output}"
        );
    }
}

#[test]
fn nonsense_is_a_usage_error() {
    for args in [
        &["status", "--master", "http://127.0.0.1"][..],
        &["proxy"],
        &["proxy", "--nodes", "127.0.0.1:1@1000"],
        &["agent", "-w", "0"],
        &["coordinator", "--lease", "soon"],
        &["up", "--nodes", "0"],
        &["where"],
        &["dance"],
    ] {
        let (code, output) = run(args);
        assert_eq!(code, Some(2), "{args:?}: {output}");
    }
    let (code, output) = run(&["proxy", "--help"]);
    assert_eq!(code, Some(0));
    assert!(output.contains("--listen") && output.contains("VRC_LISTEN"), "{output}");
}
