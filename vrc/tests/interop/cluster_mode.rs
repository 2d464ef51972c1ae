//! Clients in cluster mode: to them the proxies are the nodes of a Redis Cluster.
//!
//! Each program first works against a real cluster, of one node that has all slots.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use redis::aio::MultiplexedConnection;
use vrc_agent::spawn::{RedisProcess, SpawnOptions, free_port};
use vrc_cluster::{
    client::MasterUrl,
    contract::{EPOCH_KEY, Endpoint, NODE_SET_KEY},
};
use vrc_proxy::{Config, Proxy, ProxyAddress, Source};

use crate::{
    program::{ClientProgram, run},
    servers::{FixedCluster, connect, flush, plain_redis, start_proxy},
};

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a proxy waits for its first look at the master before it takes clients.
const FIRST_LOOK: Duration = Duration::from_secs(2);

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn ask(connection: &mut MultiplexedConnection, words: &str) -> String {
    let mut words = words.split(' ');
    let mut command = redis::cmd(words.next().unwrap());
    for word in words {
        command.arg(word);
    }
    command.query_async(connection).await.unwrap()
}

fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port("127.0.0.1").unwrap()))
}

/// A redis in cluster mode that has all slots.
async fn real_cluster() -> RedisProcess {
    let directive = |name: &str, value: &str| (name.to_owned(), vec![value.to_owned()]);
    let directives = vec![
        directive("cluster-enabled", "yes"),
        directive("cluster-announce-ip", "127.0.0.1"),
        directive("cluster-port", &free_address().port().to_string()),
    ];
    let redis = RedisProcess::start(&SpawnOptions { directives, ..SpawnOptions::default() }).await.unwrap();
    let mut connection = connect(redis.port()).await;
    ask(&mut connection, "CLUSTER ADDSLOTSRANGE 0 16383").await;
    until("the cluster is up", async || ask(&mut connection, "CLUSTER INFO").await.contains("cluster_state:ok")).await;
    redis
}

/// Two proxies that announce themselves through one master, and their nodes.
struct Announced {
    master: MasterUrl,
    proxies: Vec<(u16, Proxy)>,
    servers: Vec<RedisProcess>,
}

impl Announced {
    async fn start() -> Self {
        let (master, mut servers) = (plain_redis().await, Vec::new());
        let mut map = redis::pipe();
        for _ in 0..3 {
            let node = plain_redis().await;
            let config = Endpoint::new(node.host(), node.port());
            let name = config.default_name();
            let text = serde_json::json!({ "config": config, "weight": 1, "up": true, "name": name, "stateChangeTime": 1 });
            map.hset(NODE_SET_KEY, name, text.to_string()).ignore();
            servers.push(node);
        }
        map.set(EPOCH_KEY, 1).ignore();
        map.exec_async(&mut connect(master.port()).await).await.unwrap();
        let url = MasterUrl::new("127.0.0.1", master.port()).unwrap();
        servers.push(master);
        let mut announced = Announced { master: url, proxies: Vec::new(), servers };
        for _ in 0..2 {
            let proxy = announced.another_proxy().await;
            announced.proxies.push(proxy);
        }
        for (port, _) in &announced.proxies {
            announced.await_known(*port, 2).await;
        }
        announced
    }

    /// Starts one more, and says where.
    async fn another_proxy(&self) -> (u16, Proxy) {
        let free = free_address();
        let announce = ProxyAddress { host: "127.0.0.1".to_owned(), port: free.port() };
        let config = Config::new(Source::Master(self.master.clone()), format!("{free}").parse().unwrap());
        (free.port(), start_proxy(Config { announce: Some(announce), ..config }).await)
    }

    /// Waits until the proxy at `port` lists so many.
    async fn await_known(&self, port: u16, count: usize) {
        let mut connection = connect(port).await;
        let what = format!("{count} proxies are known");
        until(&what, async || ask(&mut connection, "CLUSTER NODES").await.lines().count() == count).await;
        until("the nodes are up", async || ask(&mut connection, "CLUSTER INFO").await.contains("cluster_state:ok")).await;
    }

    async fn stop(self) {
        for (_, proxy) in self.proxies {
            proxy.stop().await;
        }
        for server in self.servers {
            server.stop().await.unwrap();
        }
    }
}

/// Whoever connects to a proxy the moment that it listens finds the nodes and the other proxies all the same.
#[tokio::test]
async fn a_proxy_that_has_just_started() {
    let mut cluster = Announced::start().await;
    for _ in 0..5 {
        for attempt in 1.. {
            let (known, began) = (cluster.proxies.len() + 1, Instant::now());
            let (port, proxy) = cluster.another_proxy().await;
            let mut connection = connect(port).await;
            let set = redis::cmd("SET").arg("key").arg(known as u64).query_async::<String>(&mut connection).await;
            let seen = ask(&mut connection, "CLUSTER NODES").await.lines().count();
            let took = began.elapsed();
            cluster.proxies.push((port, proxy));
            if set.as_deref() == Ok("OK") && seen == known {
                break;
            }
            // One that a busy machine keeps from its master opens without, but not sooner, nor each time.
            assert!(took >= FIRST_LOOK && attempt < 3, "{set:?}, and {seen} of {known} proxies after {took:?}");
        }
    }
    cluster.stop().await;
}

async fn check(program: &str, protocols: &[&str]) {
    let Some(program) = ClientProgram::ready(program).await else { return };
    let (real, cluster) = tokio::join!(real_cluster(), FixedCluster::start());
    for protocol in protocols {
        flush(&real, None).await;
        cluster.flush().await;
        for port in [real.port(), cluster.port] {
            let said = program.run(&[&port.to_string(), *protocol]).await;
            assert_eq!((said.out.as_str(), said.err.as_str()), ("all well\n", ""));
        }
    }
    cluster.stop().await;
    real.stop().await.unwrap();
}

/// A client that knows of two proxies goes on with the other when the one that it works with goes away.
async fn check_loss(program: &str) {
    let Some(program) = ClientProgram::ready(program).await else { return };
    let mut cluster = Announced::start().await;
    let (port, lost) = cluster.proxies.remove(0);
    let lose = async || {
        lost.stop().await;
        cluster.await_known(cluster.proxies[0].0, 1).await;
    };
    let said = program.run_around(&[&port.to_string(), "3", "lose"], lose).await;
    assert_eq!(said, "all well");
    cluster.stop().await;
}

#[tokio::test]
async fn redis_py() {
    check("redis_py_cluster.py", &["2", "3"]).await;
}

#[tokio::test]
async fn redis_py_loses_a_proxy() {
    check_loss("redis_py_cluster.py").await;
}

#[tokio::test]
async fn ioredis() {
    check("ioredis_cluster.js", &["2", "3"]).await;
}

#[tokio::test]
async fn ioredis_loses_a_proxy() {
    check_loss("ioredis_cluster.js").await;
}

#[tokio::test]
async fn node_redis() {
    check("node_redis_cluster.js", &["2", "3"]).await;
}

#[tokio::test]
async fn jedis() {
    check("JedisClusterClient.java", &["2", "3"]).await;
}

#[tokio::test]
async fn jedis_loses_a_proxy() {
    check_loss("JedisClusterClient.java").await;
}

#[tokio::test]
async fn redis_cli() {
    let (real, cluster) = tokio::join!(real_cluster(), FixedCluster::start());
    for port in [real.port(), cluster.port].map(|port| port.to_string()) {
        let cli = async |words: &str| {
            let args: Vec<_> = ["-p", &port, "-c", "-e"].into_iter().chain(words.split(' ')).collect();
            run("redis-cli", &args, "").await.out
        };
        for number in 0..5 {
            assert_eq!(cli(&format!("set key{number} {number}")).await, "OK\n");
            assert_eq!(cli(&format!("get key{number}")).await, format!("{number}\n"));
        }
        assert_eq!(cli("cluster keyslot {user1000}.following").await, "3443\n");
        for words in ["readonly", "readwrite", "asking"] {
            assert_eq!(cli(words).await, "OK\n");
        }
        let id = cli("cluster myid").await.trim().to_owned();
        assert_eq!(id.len(), 40);
        assert_eq!(cli(&format!("cluster replicas {id}")).await.trim(), "");
        let nodes = cli("cluster nodes").await;
        assert!(nodes.starts_with(&id) && nodes.contains("myself,master") && nodes.contains("0-16383"), "{nodes}");
        assert!(cli("cluster shards").await.contains(&id));
    }
    cluster.stop().await;
    real.stop().await.unwrap();
}
