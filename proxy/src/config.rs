//! The proxy's settings, checked: nothing behind [`Config`] parses strings.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use vrc_cluster::{
    client::MasterUrl,
    contract::{Endpoint, Node, WEIGHTS},
    topology::PlacementOptions,
};

/// The shortest time that nodes are given to answer: with less, every connection that is asked anything would be given up.
pub const TIMEOUT_MIN: Duration = Duration::from_millis(10);

/// What one proxy does.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the topology comes from.
    pub source: Source,
    /// Where clients connect; at least one. Port 0 takes a free port.
    pub listen: Vec<ListenAddr>,
    /// Worker threads; at least 1.
    pub workers: usize,
    /// How keys are given to nodes.
    pub placement: PlacementOptions,
    /// Longest that a command may wait for its node's answer, connecting included; at least [`TIMEOUT_MIN`].
    pub timeout: Duration,
    /// What clients must give to AUTH, if anything.
    pub password: Option<String>,
    /// Whether clients may read and set the nodes' own settings by CONFIG, on all nodes at once.
    pub allow_node_config: bool,
    /// Commands that take at least so many microseconds get into the slow log; negative: none.
    pub slowlog_slower_than_us: i64,
    /// How many commands the slow log keeps.
    pub slowlog_max: usize,
    /// Count how long each command takes, for LATENCY HISTOGRAM and the metrics.
    pub latency_tracking: bool,
    /// Where metrics and health are served over HTTP, if anywhere.
    pub admin: Option<SocketAddr>,
    /// Move bytes through an io_uring rather than by epoll, where the kernel allows it.
    pub io_uring: bool,
    /// How long a worker with one client alone looks for the next reply or request before it sleeps, at most 1 ms; 0: not at all.
    pub busy_poll: Duration,
    /// Most client connections at a time, over all workers.
    pub clients_max: usize,
    /// Where clients reach this proxy, as CLUSTER SLOTS and its kin tell it, and as the other proxies of the same master learn it.
    /// Without, each client is told the address that it connected to, and this proxy as the only one.
    pub announce: Option<ProxyAddress>,
}

impl Config {
    /// The defaults for a source and one listener: a worker a core, 5 s timeout, 10,000 clients.
    pub fn new(source: Source, listen: ListenAddr) -> Self {
        let guest_databases = matches!(source, Source::Master(_));
        Config {
            source,
            listen: vec![listen],
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            placement: PlacementOptions { guest_databases, ..PlacementOptions::default() },
            timeout: Duration::from_secs(5),
            password: None,
            allow_node_config: false,
            slowlog_slower_than_us: 10_000,
            slowlog_max: 128,
            latency_tracking: false,
            admin: None,
            io_uring: false,
            busy_poll: Duration::from_micros(50),
            clients_max: 10_000,
            announce: None,
        }
    }
}

/// Where the topology comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// The node map that a coordinator publishes through this master.
    Master(MasterUrl),
    /// These nodes, always: no master, no coordinator.
    Nodes(Vec<FixedNode>),
}

/// One node of a fixed list: `host:port`, `host:port@weight`.
#[derive(Debug, Clone, PartialEq)]
pub struct FixedNode {
    /// What decides the node's place.
    pub name: String,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// Its share relative to the others, 0.01 to 100.
    pub weight: f64,
}

/// As a node map would have it.
impl From<&FixedNode> for Node {
    fn from(node: &FixedNode) -> Node {
        Node {
            config: node.endpoint.clone(),
            weight: node.weight,
            up: true,
            state_change_time: 1,
            name: node.name.clone(),
            last_ping: None,
            run_id: None,
            version: None,
            upkeep: Default::default(),
            other: Default::default(),
        }
    }
}

/// Where clients reach a proxy: `host:port`. Ordered, so that all proxies list themselves in the same order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProxyAddress {
    /// Host name or address, an IPv6 address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Longest host of a [`ProxyAddress`]: a DNS name has no more.
const HOST_BYTES_MAX: usize = 253;

impl FromStr for ProxyAddress {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError { text: text.to_owned(), expected: "an address for clients (host:port)" };
        let (host, port) = text.rsplit_once(':').ok_or_else(error)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(error)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_v6 = |host: &str| host.parse::<std::net::Ipv6Addr>().is_ok();
        // It stands in lines and between spaces and commas of CLUSTER NODES.
        let is_name = |host: &str| {
            (1..=HOST_BYTES_MAX).contains(&host.len())
                && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
        };
        match bare.unwrap_or(host) {
            host if is_v6(host) || (bare.is_none() && is_name(host)) => Ok(ProxyAddress { host: host.to_owned(), port }),
            _ => Err(error()),
        }
    }
}

impl fmt::Display for ProxyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Why a text is no [`FixedNode`], [`ListenAddr`] or [`ProxyAddress`].
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct ParseError {
    text: String,
    expected: &'static str,
}

impl FromStr for FixedNode {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError {
            text: text.to_owned(),
            expected: "a node (host:port, or host:port@weight with a weight from 0.01 to 100)",
        };
        let (address, weight) = match text.rsplit_once('@') {
            Some((address, weight)) => (address, weight.parse::<f64>().map_err(|_| error())?),
            None => (text, 1.0),
        };
        let (host, port) = address.rsplit_once(':').ok_or_else(error)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(error)?;
        if host.is_empty() || !WEIGHTS.contains(&weight) {
            return Err(error());
        }
        let endpoint = Endpoint::new(host, port);
        Ok(FixedNode { name: endpoint.default_name(), endpoint, weight })
    }
}

/// Where clients connect: `host:port` or `unix:/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddr {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A unix socket's path.
    Unix(PathBuf),
}

impl FromStr for ListenAddr {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError { text: text.to_owned(), expected: "an address to listen on (IP:PORT, :PORT, or unix:/path)" };
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(error()) } else { Ok(ListenAddr::Unix(path.into())) };
        }
        let spelled = match text.strip_prefix(':') {
            Some(port) => format!("0.0.0.0:{port}"),
            None => text.replacen("localhost:", "127.0.0.1:", 1),
        };
        spelled.parse().map(ListenAddr::Tcp).map_err(|_| error())
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddr::Tcp(address) => address.fmt(f),
            ListenAddr::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_and_addresses() {
        let node: FixedNode = "10.0.0.1:7401@2.5".parse().unwrap();
        assert_eq!((node.name.as_str(), node.weight), ("10.0.0.1:7401", 2.5));
        assert_eq!("[::1]:7401".parse::<FixedNode>().unwrap().endpoint.host, "::1");
        for text in ["", "h", "h:0", "h:99999", ":7401", "h:7401@0", "h:7401@nan", "h:7401@101", "h:7401@"] {
            assert!(text.parse::<FixedNode>().is_err(), "{text}");
        }
        for text in ["10.0.0.1:7379", "[::1]:7379", "proxy-1.cache.internal:1"] {
            assert_eq!(text.parse::<ProxyAddress>().unwrap().to_string(), text);
        }
        for text in ["", "h", "h:0", ":7379", "h:99999", "a b:1", "a,b:1", "h\r\n:1", "[h]:1", "a:b:1"] {
            assert!(text.parse::<ProxyAddress>().is_err(), "{text}");
        }
        for text in ["127.0.0.1:7379", "[::1]:7379", "unix:/run/vrc.sock"] {
            assert_eq!(text.parse::<ListenAddr>().unwrap().to_string(), text);
        }
        assert_eq!(":7379".parse::<ListenAddr>().unwrap().to_string(), "0.0.0.0:7379");
        for text in ["", "7379", "unix:", "host:x"] {
            assert!(text.parse::<ListenAddr>().is_err(), "{text}");
        }
    }
}
