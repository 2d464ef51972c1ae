//! SLOWLOG, LATENCY, CONFIG, MEMORY and ACL across workers, in front of real redis servers.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::support::{Client, Cluster, PATIENCE, until_reply};

/// A client of the node at hand, not of the proxy.
async fn direct(cluster: &Cluster, node: usize) -> Client {
    Client::connect((cluster.nodes[node].host(), cluster.nodes[node].port())).await
}

#[tokio::test]
async fn a_command_that_a_node_was_slow_with_is_logged_and_what_waited_for_data_is_not() {
    let cluster = Cluster::start(|_| {}).await;
    let (mut one, mut other) = (cluster.client().await, cluster.client().await);
    one.ask("CLIENT SETNAME bob").await;
    assert_eq!(other.ask("CONFIG SET slowlog-log-slower-than 50000 latency-monitor-threshold 50").await, "+OK\r\n");
    let mut nodes = [direct(&cluster, 0).await, direct(&cluster, 1).await];
    for node in &mut nodes {
        assert_eq!(node.ask("CLIENT PAUSE 100000 WRITE").await, "+OK\r\n");
    }
    one.say("INCR n").await;
    // From when its node has it and makes it wait.
    let deadline = Instant::now() + PATIENCE;
    while !nodes[0].ask("CLIENT LIST").await.contains(" flags=b ") && !nodes[1].ask("CLIENT LIST").await.contains(" flags=b ") {
        assert!(Instant::now() < deadline, "no node has the command");
    }
    sleep(Duration::from_millis(60)).await;
    for node in &mut nodes {
        assert_eq!(node.ask("CLIENT UNPAUSE").await, "+OK\r\n");
    }
    assert_eq!(one.hear().await, ":1\r\n");
    let log = other.ask("SLOWLOG GET").await;
    assert!(log.starts_with("*1\r\n*6\r\n:0\r\n:"), "{log}");
    assert!(log.contains("*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n$") && log.ends_with("$3\r\nbob\r\n"), "{log}");
    let took_us: u64 = log.split("\r\n:").nth(3).unwrap().split("\r\n").next().unwrap().parse().unwrap();
    assert!((50_000..20_000_000).contains(&took_us), "{took_us}");
    let latest = other.ask("LATENCY LATEST").await;
    assert!(latest.contains("$12\r\nfast-command\r\n:"), "{latest}");
    // What waits for data waits because it was told to.
    other.ask("SLOWLOG RESET").await;
    assert!(one.ask("BLPOP nothing 0.1").await.starts_with("*-1"));
    assert_eq!(other.ask("SLOWLOG LEN").await, ":0\r\n");
    // Whatever its worker, a command is logged if all are to be.
    assert_eq!(other.ask("CONFIG SET slowlog-log-slower-than 0").await, "+OK\r\n");
    one.ask("BLPOP nothing 0.1").await;
    one.ask("PING").await;
    let log = other.ask("SLOWLOG GET 2").await;
    assert!(log.contains("$4\r\nPING\r\n") && log.contains("*3\r\n$5\r\nBLPOP\r\n$7\r\nnothing\r\n$3\r\n0.1\r\n"), "{log}");
    // Its own words of help a node has.
    assert!(other.ask("SLOWLOG HELP").await.contains("SLOWLOG <subcommand>"));
    cluster.stop().await;
}

#[tokio::test]
async fn parameters_of_the_proxy_and_of_the_nodes_are_got_and_set_together() {
    let cluster = Cluster::start(|config| config.allow_node_config = true).await;
    let (mut one, mut other) = (cluster.client().await, cluster.client().await);
    assert_eq!(one.ask("CONFIG SET maxmemory 100mb slowlog-max-len 7").await, "+OK\r\n");
    for node in 0..2 {
        assert_eq!(
            direct(&cluster, node).await.ask("CONFIG GET maxmemory").await,
            "*2\r\n$9\r\nmaxmemory\r\n$9\r\n104857600\r\n"
        );
        assert!(direct(&cluster, node).await.ask("CONFIG GET slowlog-max-len").await.contains("\r\n128\r\n"));
    }
    assert_eq!(other.ask("CONFIG GET slowlog-max-len").await, "*2\r\n$15\r\nslowlog-max-len\r\n$1\r\n7\r\n");
    // The nodes refuse: nothing of it is done.
    let refused = one.ask("CONFIG SET slowlog-max-len 9 maxmemory nonsense").await;
    assert_eq!(
        refused,
        "-ERR CONFIG SET failed (possibly related to argument 'maxmemory') - argument must be a memory value\r\n"
    );
    assert!(one.ask("CONFIG SET slowlog-max-len 9 nonsense 1").await.starts_with("-ERR Unknown option or number of arguments"));
    assert!(one.ask("CONFIG GET slowlog-max-len").await.ends_with("\r\n7\r\n"));
    // Each name once, whosever it is.
    let all = one.ask("CONFIG GET *").await;
    for name in ["port", "maxclients", "slowlog-max-len", "maxmemory", "appendonly", "vrc-node-timeout-ms"] {
        assert_eq!(all.matches(&format!("\r\n{name}\r\n")).count(), 1, "{name}");
    }
    assert!(all.contains(&format!("\r\nport\r\n$5\r\n{}\r\n", cluster.address().port())), "{all}");
    let some = one.ask("CONFIG GET maxmemory slowlog-max-len").await;
    assert_eq!(some, "*4\r\n$9\r\nmaxmemory\r\n$9\r\n104857600\r\n$15\r\nslowlog-max-len\r\n$1\r\n7\r\n");
    one.ask("HELLO 3").await;
    assert!(one.ask("CONFIG GET maxmemory slowlog-max-len").await.starts_with("%2\r\n$9\r\nmaxmemory\r\n"));
    // The number of clients is the door's business.
    assert_eq!(one.ask("CONFIG SET maxclients 2").await, "+OK\r\n");
    assert_eq!(Client::connect(cluster.address()).await.hear().await, "-ERR max number of clients reached\r\n");
    assert_eq!(one.ask("CONFIG SET maxclients 100").await, "+OK\r\n");
    until_reply(&mut other, "INFO clients", |info| info.contains("maxclients:100\r\n")).await;
    assert_eq!(one.ask("CONFIG RESETSTAT").await, "+OK\r\n");
    cluster.stop().await;
}

#[tokio::test]
async fn memory_is_told_of_all_nodes() {
    let cluster = Cluster::start(|_| {}).await;
    let mut client = cluster.client().await;
    for key in 0..20 {
        client.ask(&format!("SET key{key} v")).await;
    }
    let stats = client.ask("MEMORY STATS").await;
    assert!(stats.contains("$10\r\nkeys.count\r\n:20\r\n") && stats.contains("$4\r\ndb.0\r\n*"), "{stats}");
    client.ask("HELLO 3").await;
    let stats = client.ask("MEMORY STATS").await;
    assert!(
        stats.starts_with('%') && stats.contains("$4\r\ndb.0\r\n%") && stats.contains("$13\r\nfragmentation\r\n,"),
        "{stats}"
    );
    assert!(client.ask("MEMORY DOCTOR").await.contains("Sam"));
    let malloc = client.ask("MEMORY MALLOC-STATS").await;
    assert!(malloc.starts_with('='), "{malloc}");
    assert_eq!(client.ask("MEMORY PURGE").await, "+OK\r\n");
    assert!(client.ask("MEMORY HELP").await.contains("MEMORY <subcommand>"));
    cluster.stop().await;
}

#[tokio::test]
async fn who_failed_to_log_in_is_seen_from_every_worker() {
    let cluster = Cluster::start(|config| config.password = Some("secret".to_owned())).await;
    let mut stranger = Client::connect(cluster.address()).await;
    assert!(stranger.ask("AUTH guess").await.starts_with("-WRONGPASS"));
    assert!(stranger.ask("HELLO 3 AUTH root guess").await.starts_with("-WRONGPASS"));
    for _ in 0..2 {
        let mut known = Client::connect(cluster.address()).await;
        known.ask("AUTH secret").await;
        let log = known.ask("ACL LOG").await;
        assert!(log.starts_with("*2\r\n*14\r\n") && log.contains("\r\nroot\r\n") && log.contains("\r\ndefault\r\n"), "{log}");
        assert!(known.ask("CONFIG GET requirepass").await.ends_with("$6\r\nsecret\r\n"));
    }
    cluster.stop().await;
}
