//! The npm package `volatile-redis-cluster`, which this project succeeds: a fleet moves over piece by piece, so each of our parts
//! works beside each of its parts.
//!
//! Coordinator and agents are started by the flags that they have in common.

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use tokio::process::{Child, Command};
use vrc_agent::spawn::RedisProcess;
use vrc_cluster::{
    client::MasterUrl,
    topology::{PlacementKind, PlacementOptions},
};
use vrc_proxy::{Config, Proxy, Source};

use crate::{
    program::{client_libraries, run, script},
    servers::{any_port, connect, plain_redis, port_of, start_proxy},
};

const KEYS: usize = 2000;
/// Far longer than it takes: the old agents speak every 5 s, and the old coordinator notices a death within 8 s.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq)]
enum By {
    Us,
    Them,
}

impl By {
    /// The coordinator or an agent, killed when dropped.
    fn start(self, part: &str, flags: &str, libraries: &Path) -> Child {
        let mut command = match (self, part) {
            (By::Us, _) => Command::new(env!("CARGO_BIN_EXE_vrc")),
            (By::Them, _) => Command::new("node"),
        };
        match (self, part) {
            (By::Us, _) => command.arg(part),
            (By::Them, "coordinator") => command.arg(libraries.join("node_modules/volatile-redis-cluster/lib/coordinator.js")),
            (By::Them, _) => command.arg(libraries.join("node_modules/volatile-redis-cluster/lib/slave.js")),
        };
        command.args(flags.split(' ')).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        command.spawn().unwrap()
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A cluster whose coordinator and agents are whose; clients are the old one and our proxy.
async fn check(coordinator: By, agents: By) {
    let Some(libraries) = client_libraries("node").await else { return };
    let (master, n1, n2, n3) = tokio::join!(plain_redis(), plain_redis(), plain_redis(), plain_redis());
    let (mut nodes, mut processes) = (vec![n1, n2, n3], Vec::new());
    processes.push(coordinator.start("coordinator", &coordinator_flags(coordinator, &master), &libraries));
    for (node, weight) in nodes.iter().zip(["1", "2", "0.5"]) {
        let flags = format!("-h 127.0.0.1 -p {} -w {weight} -H 127.0.0.1 -P {}", node.port(), master.port());
        processes.push(agents.start("agent", &flags, &libraries));
    }

    let source = Source::Master(MasterUrl::new("127.0.0.1", master.port()).unwrap());
    let placement = PlacementOptions { kind: PlacementKind::Legacy, guest_databases: false, ..PlacementOptions::default() };
    let proxy = start_proxy(Config { placement, ..Config::new(source, any_port()) }).await;

    until_up(&proxy, 3).await;
    if coordinator == By::Them {
        // It shows a node up before it has emptied it.
        for node in &nodes {
            until("the node is emptied", async || has_run(node, "flushdb").await).await;
        }
    }
    each_reads_the_others(&proxy, &master, 3, "first").await;

    // The keys of a node that went away have the same new owners for both.
    drop(nodes.remove(1));
    until_up(&proxy, 2).await;
    each_reads_the_others(&proxy, &master, 2, "second").await;
    proxy.stop().await;
}

fn coordinator_flags(by: By, master: &RedisProcess) -> String {
    let placement = if by == By::Us { " --placement legacy" } else { "" };
    format!("-h 127.0.0.1 -p {}{placement}", master.port())
}

async fn until_up(proxy: &Proxy, count: usize) {
    let up = async || proxy.topology().nodes().iter().filter(|node| node.up).count() == count;
    until("the proxy sees as many nodes up as there are", up).await;
}

/// Whether the server has carried out this command.
async fn has_run(server: &RedisProcess, command: &str) -> bool {
    let stats: String = redis::cmd("INFO").arg("commandstats").query_async(&mut connect(server.port()).await).await.unwrap();
    stats.contains(&format!("cmdstat_{command}:"))
}

async fn each_reads_the_others(proxy: &Proxy, master: &RedisProcess, nodes_up: usize, round: &str) {
    let old_client = async |what: &str, prefix: &str| {
        let (master, nodes, count) = (master.port().to_string(), nodes_up.to_string(), KEYS.to_string());
        let args = [script("old_client.js").display().to_string(), master, nodes, what.to_owned(), prefix.to_owned(), count];
        assert_eq!(run("node", &args, "").await.out, "all well\n");
    };
    let mut connection = connect(port_of(proxy)).await;
    // Nothing in a key means anything to the old ring: neither braces nor letters of several bytes.
    let (by_them, by_us) = (format!("{{{round}}} ключ by the old client"), format!("{{{round}}} ключ by the proxy"));

    old_client("write", &by_them).await;
    let (keys, values) = keys_and_values(&by_them);
    let found: Vec<Option<String>> = redis::cmd("MGET").arg(&keys).query_async(&mut connection).await.unwrap();
    assert!(found.into_iter().eq(values.into_iter().map(Some)), "what the old client wrote is not what the proxy reads");

    let (keys, values) = keys_and_values(&by_us);
    let pairs: Vec<_> = keys.into_iter().zip(values).collect();
    redis::cmd("MSET").arg(&pairs).exec_async(&mut connection).await.unwrap();
    old_client("read", &by_us).await;
}

fn keys_and_values(prefix: &str) -> (Vec<String>, Vec<String>) {
    (0..KEYS).map(|number| (format!("{prefix}:{number}"), format!("value of {prefix}:{number}"))).unzip()
}

#[tokio::test]
async fn our_coordinator_and_agents() {
    check(By::Us, By::Us).await;
}

#[tokio::test]
async fn our_coordinator_and_their_agents() {
    check(By::Us, By::Them).await;
}

#[tokio::test]
async fn their_coordinator_and_our_agents() {
    check(By::Them, By::Us).await;
}

#[tokio::test]
async fn their_coordinator_and_agents() {
    check(By::Them, By::Them).await;
}
