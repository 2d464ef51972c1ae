//! The proxy's settings, checked: nothing behind [`Config`] parses strings.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use vrc_cluster::{client::MasterUrl, contract::Endpoint, topology::PlacementOptions};

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
    /// Longest that a command may wait for its node's answer, connecting included.
    pub timeout: Duration,
    /// What clients must give to AUTH, if anything.
    pub password: Option<String>,
    /// Whether clients may read and set the nodes' own settings by CONFIG, on all nodes at once.
    pub allow_node_config: bool,
    /// Where metrics and health are served over HTTP, if anywhere.
    pub admin: Option<SocketAddr>,
    /// Most client connections at a time, over all workers.
    pub clients_max: usize,
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
            admin: None,
            clients_max: 10_000,
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

/// Why a text is no [`FixedNode`] or [`ListenAddr`].
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
        if host.is_empty() || !(0.01..=100.0).contains(&weight) {
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
        for text in ["127.0.0.1:7379", "[::1]:7379", "unix:/run/vrc.sock"] {
            assert_eq!(text.parse::<ListenAddr>().unwrap().to_string(), text);
        }
        assert_eq!(":7379".parse::<ListenAddr>().unwrap().to_string(), "0.0.0.0:7379");
        for text in ["", "7379", "unix:", "host:x"] {
            assert!(text.parse::<ListenAddr>().is_err(), "{text}");
        }
    }
}
