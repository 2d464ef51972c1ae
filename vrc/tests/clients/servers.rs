//! Servers to test against: plain redis servers, and a proxy in front of a fixed list of them.

use std::time::Duration;

use redis::{AsyncConnectionConfig, IntoConnectionInfo, RedisConnectionInfo, aio::MultiplexedConnection};
use vrc_agent::spawn::{RedisProcess, SpawnOptions};
use vrc_proxy::{Config, FixedNode, ListenAddr, Proxy, Source};

/// A plain redis server, as applications know it.
pub(crate) async fn plain_redis() -> RedisProcess {
    redis_with(None).await
}

/// Likewise one that asks for a password.
pub(crate) async fn redis_with(password: Option<&str>) -> RedisProcess {
    let options = SpawnOptions { password: password.map(str::to_owned), ..SpawnOptions::default() };
    RedisProcess::start(&options).await.expect("a redis-server or valkey-server that starts")
}

pub(crate) async fn connect(port: u16) -> MultiplexedConnection {
    connect_with(port, RedisConnectionInfo::default()).await
}

pub(crate) async fn connect_with(port: u16, info: RedisConnectionInfo) -> MultiplexedConnection {
    let client = redis::Client::open(("127.0.0.1", port).into_connection_info().unwrap().set_redis_settings(info)).unwrap();
    // Without a limit of the library's own: a busy machine is no error.
    let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    client.get_multiplexed_async_connection_with_config(&config).await.unwrap()
}

pub(crate) async fn flush(server: &RedisProcess, password: Option<&str>) {
    let info = password.into_iter().fold(RedisConnectionInfo::default(), RedisConnectionInfo::set_password);
    redis::cmd("FLUSHALL").exec_async(&mut connect_with(server.port(), info).await).await.unwrap();
}

/// A proxy and the nodes that it serves. Dropping it ends the nodes.
pub(crate) struct FixedCluster {
    pub(crate) port: u16,
    proxy: Proxy,
    nodes: Vec<RedisProcess>,
}

impl FixedCluster {
    /// Four nodes, and two workers so that clients of different workers meet.
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    /// Likewise with a password that clients must give.
    pub(crate) async fn start_with(password: Option<&str>) -> Self {
        let mut nodes = Vec::new();
        for _ in 0..4 {
            nodes.push(plain_redis().await);
        }
        let list = nodes.iter().map(|node| format!("{}:{}", node.host(), node.port()).parse::<FixedNode>().unwrap()).collect();
        let proxy =
            start_proxy(Config { password: password.map(str::to_owned), ..Config::new(Source::Nodes(list), any_port()) }).await;
        FixedCluster { port: port_of(&proxy), proxy, nodes }
    }

    /// Empties the nodes.
    pub(crate) async fn flush(&self) {
        for node in &self.nodes {
            flush(node, None).await;
        }
    }

    /// The nodes' own ports.
    pub(crate) fn node_ports(&self) -> Vec<u16> {
        self.nodes.iter().map(RedisProcess::port).collect()
    }

    /// Ends one of the nodes.
    pub(crate) async fn stop_node(&mut self) {
        self.nodes.pop().expect("there are some").stop().await.unwrap();
    }

    pub(crate) async fn stop(self) {
        self.proxy.stop().await;
        for node in self.nodes {
            node.stop().await.unwrap();
        }
    }
}

pub(crate) fn any_port() -> ListenAddr {
    "127.0.0.1:0".parse().unwrap()
}

pub(crate) async fn start_proxy(config: Config) -> Proxy {
    // How long nodes take depends on the machine; but some things end by this limit alone, and take as long.
    Proxy::start(Config { workers: 2, timeout: Duration::from_secs(20), ..config }).await.unwrap()
}

pub(crate) fn port_of(proxy: &Proxy) -> u16 {
    match &proxy.listening()[0] {
        ListenAddr::Tcp(address) => address.port(),
        ListenAddr::Unix(path) => panic!("{path:?} has no port"),
    }
}
