//! What operators do to a cluster at work, and no client notices.

use serde_json::Value;

use crate::support::{Cluster, Fleet, LONG, Load, PATIENT, PATIENT_AGENT, Process, RedisServer, connect, eventually, locate};

/// Replies between two moves: enough that every key was read and written.
const BETWEEN: u64 = 5_000;

/// A coordinator that has nodes purged soon, so that nobody has to wait for that.
const SOON: [&str; 2] = ["--purge-after", "500ms"];

/// Agents that wait for proxies however busy these are.
const LEAVES_LATE: [&str; 2] = ["--leave-wait", "60s"];

/// An agent that is started later, as patient as those of the fleet.
fn start_agent(redis: &RedisServer, master: &str) -> Process {
    let port = redis.port().to_string();
    Process::vrc(&[&["agent", "-p", &port, "-P", master], &PATIENT_AGENT[..], &LEAVES_LATE[..]].concat())
}

fn run(args: &[&str]) -> (Option<i32>, String) {
    let mut process = Process::vrc(args);
    let code = process.end(LONG).code();
    (code, process.output())
}

/// Carries out a move, and returns what it said.
#[track_caller]
fn carry_out(cluster: &Cluster, args: &[&str]) -> String {
    let port = cluster.master.port().to_string();
    let (code, output) = run(&[args, &["-p", &port]].concat());
    assert_eq!(code, Some(0), "{args:?}: {output}");
    assert_eq!(output.lines().count(), 1, "{output}");
    output
}

#[track_caller]
fn refused(cluster: &Cluster, args: &[&str]) -> String {
    let port = cluster.master.port().to_string();
    let (code, output) = run(&[args, &["-p", &port]].concat());
    assert_eq!((code, output.lines().count()), (Some(1), 1), "{args:?}: {output}");
    assert!(output.starts_with("vrc: "), "{output}");
    output
}

fn status(cluster: &Cluster) -> Value {
    let (code, output) = run(&["status", "--json", "-p", &cluster.master.port().to_string()]);
    assert_eq!(code, Some(0), "{output}");
    serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"))
}

fn of_node<'a>(status: &'a Value, name: &str) -> &'a Value {
    status["nodes"].as_array().unwrap().iter().find(|node| node["name"] == name).expect("a known node")
}

#[test]
fn no_client_notices_what_operators_do() {
    let cluster = Cluster::start(&Fleet { proxies: 2, coordinator: SOON.to_vec(), ..Fleet::default() });
    let names: Vec<&str> = cluster.nodes.keys().map(String::as_str).collect();
    let ports: Vec<u16> = cluster.proxies.iter().map(|proxy| proxy.port).collect();
    let load = Load::start(&ports, 2);
    load.await_replies(BETWEEN);

    let told = carry_out(&cluster, &["drain", names[0]]);
    assert!(told.starts_with(&format!("node {} is drained: others hold its keys (epoch ", names[0])), "{told}");
    load.await_replies(BETWEEN);
    let shown = status(&cluster);
    let drained = of_node(&shown, names[0]);
    assert_eq!((&drained["up"], &drained["planned"], &drained["share"]), (&false.into(), &"drained".into(), &0.0.into()));
    assert!(drained["since_ms"].is_u64() && drained["unreachable"].is_null(), "its redis still runs: {drained}");
    assert!(carry_out(&cluster, &["drain", names[0]]).contains("already so"));

    let told = carry_out(&cluster, &["undrain", names[0]]);
    assert!(told.contains("was emptied and is up"), "{told}");
    load.await_replies(BETWEEN);
    cluster.await_up(4);

    carry_out(&cluster, &["weight", names[1], "3"]);
    load.await_replies(BETWEEN);
    let shown = status(&cluster);
    let heavy = of_node(&shown, names[1]);
    assert_eq!((&heavy["weight"], &heavy["announced_weight"]), (&3.0.into(), &1.0.into()));
    assert!((heavy["share"].as_f64().unwrap() - 0.5).abs() < 0.05, "{heavy}");

    carry_out(&cluster, &["forget", names[2], "--force"]);
    load.await_replies(BETWEEN);
    assert_eq!(status(&cluster)["nodes"].as_array().unwrap().len(), 3);

    let tally = load.finish();
    println!("{tally:?}");
    assert!(tally.errors.is_empty() && tally.stale.is_empty(), "{tally:?}");
}

#[test]
fn what_cannot_be_done_is_said_in_one_line() {
    let mut cluster = Cluster::start(&Fleet { weights: vec![1.0, 1.0], proxies: 0, ..Fleet::default() });
    let names: Vec<String> = cluster.nodes.keys().cloned().collect();
    let told = refused(&cluster, &["drain", "nobody"]);
    assert!(told.contains("no node is called nobody") && told.contains(&names[1]), "{told}");
    assert!(refused(&cluster, &["forget", &names[0]]).contains("is up; drain it"));
    carry_out(&cluster, &["drain", &names[0]]);
    assert!(refused(&cluster, &["drain", &names[1]]).contains("the only node that is up"));
    assert!(refused(&cluster, &["forget", &names[0]]).contains("still announces it"));
    for (args, text) in [(&["weight", "x", "0"][..], "not a weight"), (&["weight", "x"], "WEIGHT"), (&["drain"], "NODE")] {
        let (code, output) = run(args);
        assert!(code == Some(2) && output.contains(text), "{output}");
    }

    cluster.coordinator.kill();
    let told = refused(&cluster, &["undrain", &names[0], "--timeout", "1500ms"]);
    assert!(told.contains("no coordinator leads"), "{told}");
    cluster.master.kill();
    let told = refused(&cluster, &["undrain", &names[0]]);
    assert!(told.contains("onnection refused"), "{told}");
}

#[test]
fn a_forgotten_node_is_gone_until_its_agent_is_started_again() {
    let mut cluster = Cluster::start(&Fleet { weights: vec![1.0, 1.0, 1.0], proxies: 1, ..Fleet::default() });
    let name = cluster.nodes.keys().next().unwrap().clone();
    carry_out(&cluster, &["drain", &name]);
    let mut node = cluster.nodes.remove(&name).unwrap();
    node.agent.signal(rustix::process::Signal::TERM);
    assert_eq!(node.agent.end(LONG).code(), Some(0));
    let told = carry_out(&cluster, &["forget", &name]);
    assert!(told.contains("is forgotten: its keys have new homes"), "{told}");
    assert!(refused(&cluster, &["undrain", &name]).contains("no node is called"));
    let _agent = start_agent(&node.redis, &cluster.master.port().to_string());
    cluster.await_up(3);
}

/// The map carries what operators said, whoever is there to read it.
#[test]
fn what_operators_said_outlasts_agents_coordinators_and_the_master() {
    let mut cluster = Cluster::start(&Fleet { weights: vec![1.0, 1.0], proxies: 0, ..Fleet::default() });
    let names: Vec<String> = cluster.nodes.keys().cloned().collect();
    carry_out(&cluster, &["drain", &names[0]]);
    carry_out(&cluster, &["weight", &names[1], "2.5"]);
    let is_kept = |cluster: &Cluster| {
        let shown = status(cluster);
        let nodes = (of_node(&shown, &names[0]).clone(), of_node(&shown, &names[1]).clone());
        nodes.0["planned"] == "drained" && nodes.1["weight"] == 2.5 && nodes.1["up"] == true
    };
    let master = cluster.master.port().to_string();

    cluster.coordinator.kill();
    cluster.coordinator = Process::vrc(&[&["coordinator", "-p", &master], &PATIENT[..]].concat());
    cluster.coordinator.line_with("this coordinator leads", LONG);
    cluster.master.kill();
    cluster.master.restart();
    cluster.coordinator.line_with("is written back", LONG);
    eventually("the map", LONG, || (status_nodes(&cluster) == 2).then_some(()));
    assert!(is_kept(&cluster), "{}", status(&cluster));

    let node = cluster.nodes.get_mut(&names[1]).unwrap();
    node.agent.kill();
    node.agent = start_agent(&node.redis, &master);
    node.agent.line_with("connected to the master", LONG);
    // A node that comes in later shows that the announcement before was heard.
    let redis = RedisServer::start();
    let _agent = start_agent(&redis, &master);
    cluster.await_up(2);
    assert!(is_kept(&cluster), "{}", status(&cluster));
}

fn status_nodes(cluster: &Cluster) -> usize {
    let (_, output) = run(&["status", "--json", "-p", &cluster.master.port().to_string()]);
    let report: Value = serde_json::from_str(&output).unwrap_or_default();
    report["nodes"].as_array().map_or(0, Vec::len)
}

/// Each node in turn is stopped in good order, its redis killed the moment its agent has ended, and started again.
#[test]
fn no_client_notices_a_rolling_restart() {
    let fleet = Fleet { weights: vec![1.0; 3], proxies: 2, agent: LEAVES_LATE.to_vec(), ..Fleet::default() };
    let mut cluster = Cluster::start(&fleet);
    let ports: Vec<u16> = cluster.proxies.iter().map(|proxy| proxy.port).collect();
    let master = cluster.master.port().to_string();
    let load = Load::start(&ports, 2);
    load.await_replies(BETWEEN);
    for (name, node) in &mut cluster.nodes {
        node.agent.signal(rustix::process::Signal::TERM);
        assert_eq!(node.agent.end(LONG).code(), Some(0));
        assert!(node.agent.output().contains("nobody uses it any more"), "{}", node.agent.output());
        node.redis.kill();
        load.await_replies(BETWEEN);
        node.redis.restart();
        node.agent = start_agent(&node.redis, &master);
        eventually(&format!("{name} back"), LONG, || {
            let (_, output) = run(&["status", "--json", "-p", &master]);
            let report: Value = serde_json::from_str(&output).ok()?;
            (report["nodes_up"] == 3).then_some(())
        });
        load.await_replies(BETWEEN);
    }
    let tally = load.finish();
    println!("{tally:?}");
    assert!(tally.errors.is_empty() && tally.stale.is_empty(), "{tally:?}");
}

/// Nodes flip from one weight to another before anybody has purged anything: whoever gets slots back is flushed first.
#[test]
fn no_stale_value_comes_back_with_a_home() {
    let fleet = Fleet { weights: vec![1.0; 3], proxies: 2, coordinator: vec!["--purge-after", "10m"], ..Fleet::default() };
    let cluster = Cluster::start(&fleet);
    let names: Vec<&str> = cluster.nodes.keys().map(String::as_str).collect();
    let ports: Vec<u16> = cluster.proxies.iter().map(|proxy| proxy.port).collect();
    let load = Load::start(&ports, 2);
    load.await_replies(BETWEEN);
    for weight in ["5", "1", "5", "1"] {
        carry_out(&cluster, &["weight", names[0], weight]);
        load.await_replies(BETWEEN);
    }
    let tally = load.finish();
    println!("{tally:?}");
    assert!(tally.errors.is_empty() && tally.stale.is_empty(), "{tally:?}");
    assert!(cluster.coordinator.output().contains("was flushed first"), "{}", cluster.coordinator.output());
}

#[test]
fn keys_with_a_new_home_are_purged() {
    let fleet = Fleet {
        weights: vec![1.0; 3],
        coordinator: SOON.to_vec(),
        agent: vec!["--announce-interval", "300ms", "--purge-rate", "20000"],
        ..Fleet::default()
    };
    let cluster = Cluster::start(&fleet);
    let names: Vec<&str> = cluster.nodes.keys().map(String::as_str).collect();
    let all_purged = |what: &str| {
        // Told and done: the coordinator says so of each node that has lost slots.
        eventually(what, LONG, || {
            let shown = status(&cluster);
            let nodes = shown["nodes"].as_array().unwrap();
            nodes.iter().all(|node| node["purge"].is_null()).then_some(())
        });
    };
    // What a node lost before, it has purged with what it lost by the last weight.
    let await_purged = |losers: &[&str]| {
        eventually(&format!("{losers:?} are purged"), LONG, || {
            let output = cluster.coordinator.output();
            let since = output.rsplit_once("has a new weight or address")?.1;
            losers.iter().all(|name| since.contains(&format!("node {name} has purged the keys"))).then_some(())
        });
        all_purged("told and done");
    };
    let (first, others) = names.split_first().unwrap();
    // Those that came first lost slots when others came, each at its time, and may be flushed to get them back; nothing of that is under
    // way from here on.
    for (weight, losers) in [("2", others), ("1", &[*first])] {
        carry_out(&cluster, &["weight", first, weight]);
        await_purged(losers);
    }
    let flushed = || cluster.coordinator.output().matches("was flushed first").count();
    let flushed_before = flushed();

    let keys: Vec<String> = (0..4_000).map(|number| format!("key:{number}")).collect();
    let mut client = connect(cluster.port());
    for database in [0, 3] {
        redis::cmd("SELECT").arg(database).exec(&mut client).unwrap();
        let mut pipe = redis::pipe();
        keys.iter().for_each(|key| _ = pipe.set(key, "before").ignore());
        pipe.exec(&mut client).unwrap();
    }
    carry_out(&cluster, &["weight", first, "4"]);
    await_purged(others);
    let topology = cluster.topology();
    let mut left = 0;
    for (name, node) in &cluster.nodes {
        for database in [0, 3] {
            let here = node.redis.keys(database);
            let astray = here.iter().find(|key| locate(&topology, key).home != *name);
            assert_eq!(astray.map(|key| String::from_utf8_lossy(key)), None, "on {name}, database {database}");
            left += here.len();
        }
    }
    assert!((3_000..6_000).contains(&left), "{left} of 8000");
    let told: Vec<u64> = cluster
        .nodes
        .keys()
        .map(|name| {
            let text: Option<String> =
                redis::cmd("HGET").arg("rvolcluster:purged").arg(name).query(&mut connect(cluster.master.port())).unwrap();
            let progress: Value = serde_json::from_str(&text.unwrap_or_default()).unwrap_or_default();
            progress["removed"].as_u64().unwrap_or(0)
        })
        .collect();
    assert_eq!(told.iter().sum::<u64>(), 8_000 - left as u64);

    // What is written now is not met by what was there before, and nobody need be flushed.
    for (database, weight, losers) in [(0, "1", &[*first][..]), (3, "4", others)] {
        redis::cmd("SELECT").arg(database).exec(&mut client).unwrap();
        let mut pipe = redis::pipe();
        keys.iter().for_each(|key| _ = pipe.set(key, "meanwhile").ignore());
        pipe.exec(&mut client).unwrap();
        carry_out(&cluster, &["weight", first, weight]);
        cluster.await_served(&cluster.proxies[0], LONG);
        let values: Vec<Option<String>> = redis::cmd("MGET").arg(&keys).query(&mut client).unwrap();
        assert!(values.iter().flatten().all(|value| value == "meanwhile"));
        assert!(values.iter().flatten().count() > 1_500);
        await_purged(losers);
    }
    assert_eq!(flushed(), flushed_before, "{}", cluster.coordinator.output());
}
