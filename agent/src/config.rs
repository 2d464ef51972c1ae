//! What an agent is told.

use std::{fmt, time::Duration};

use redis::{ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, RedisResult, io::tcp::TcpSettings};
use vrc_cluster::{
    client::MasterUrl,
    contract::{Announcement, Endpoint, WEIGHTS},
    membership,
};

use crate::{is_loopback, standstill};

/// How the agent reaches a redis.
#[derive(Clone, PartialEq)]
pub struct NodeTarget {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// ACL user, where it wants one.
    pub username: Option<String>,
    /// Password, where it wants one.
    pub password: Option<String>,
    /// Whether it speaks TLS.
    pub tls: bool,
}

impl NodeTarget {
    /// A redis without credentials and TLS.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        NodeTarget { host: host.into(), port, username: None, password: None, tls: false }
    }

    /// A client for it; opens no connection itself.
    pub(crate) fn client(&self) -> RedisResult<redis::Client> {
        let address = if self.tls {
            ConnectionAddr::TcpTls { host: self.host.clone(), port: self.port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(self.host.clone(), self.port)
        };
        let mut redis = RedisConnectionInfo::default();
        if let Some(username) = &self.username {
            redis = redis.set_username(username);
        }
        if let Some(password) = &self.password {
            redis = redis.set_password(password);
        }
        // What is under way on a connection that is given up must not come later, when the keys that it removes may be others.
        let settings = TcpSettings::default().set_linger_time(Duration::ZERO);
        redis::Client::open(address.into_connection_info()?.set_tcp_settings(settings).set_redis_settings(redis))
    }
}

impl fmt::Display for NodeTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Endpoint::new(self.host.as_str(), self.port).address())
    }
}

impl fmt::Debug for NodeTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeTarget({self})")
    }
}

/// What an agent is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// The redis to watch.
    pub node: NodeTarget,
    /// The host by which others reach it, where that differs from the one the agent uses (as in a container).
    pub announced_host: Option<String>,
    /// The port by which others reach it, likewise.
    pub announced_port: Option<u16>,
    /// The name that decides where its keys live; the announced `host:port` unless given.
    pub name: Option<String>,
    /// Its share of the keys relative to the other nodes, from 0.01 to 100.
    pub weight: f64,
    /// The master.
    pub master: MasterUrl,
    /// Take the redis even if it holds keys that were not put there by the cluster. Joining destroys them.
    pub flush: bool,
    /// How often a node that answers is announced.
    pub announce_interval: Duration,
    /// How often it is asked whether it answers.
    pub ping_interval: Duration,
    /// How long an answer may take before the node counts as stalled.
    pub ping_timeout: Duration,
    /// How long opening a connection, and whatever is asked of the master, may take.
    pub connect_timeout: Duration,
    /// How long the one attempt to connect anew may take that confirms a death, where a connection to the node was lost; a longer one
    /// counts as `connect_timeout`. More than 400 ms, so that it is noticed when this process itself stood still meanwhile.
    pub confirm_timeout: Duration,
    /// How many keys a second are looked at where some have another home now, and are to be purged.
    pub purge_keys_per_s: u32,
    /// How long the good-bye may take.
    pub leave_timeout: Duration,
    /// How long it waits after that until no proxy uses the node any more: then its redis can be stopped unnoticed. Zero: not
    /// at all.
    pub leave_wait: Duration,
}

/// Half of what is longer is enough to notice a standstill in.
const CONFIRM_TIMEOUT_BOUND: Duration = Duration::from_millis(2 * standstill::NOTICED.as_millis() as u64);

/// A configuration that makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A weight out of bounds.
    #[error("a weight of {0} is not within 0.01 and 100")]
    Weight(f64),
    /// An empty host or name.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// Something that would happen without a pause, or fail at once.
    #[error("{0} is zero")]
    Zero(&'static str),
    /// A death that would be confirmed while this process stands still, and does not notice that.
    #[error("{0:?} to confirm a death are not more than {CONFIRM_TIMEOUT_BOUND:?}")]
    Confirm(Duration),
    /// An address that cannot be connected to.
    #[error("cannot connect to {0}: {1}")]
    Address(String, redis::RedisError),
}

impl Config {
    /// An agent for `node` with the usual times, a weight of 1, and nothing special.
    pub fn new(node: NodeTarget, master: MasterUrl) -> Self {
        Config {
            node,
            announced_host: None,
            announced_port: None,
            name: None,
            weight: 1.0,
            master,
            flush: false,
            announce_interval: Duration::from_secs(5),
            ping_interval: Duration::from_secs(1),
            ping_timeout: Duration::from_secs(3),
            connect_timeout: Duration::from_secs(3),
            confirm_timeout: Duration::from_millis(500),
            purge_keys_per_s: 20_000,
            leave_timeout: Duration::from_millis(1500),
            leave_wait: Duration::from_secs(5),
        }
    }

    /// Whether it makes sense; [`run`](crate::run) asks this first.
    ///
    /// # Errors
    /// The first thing that does not.
    pub fn check(&self) -> Result<(), ConfigError> {
        // NaN is within no range.
        if !WEIGHTS.contains(&self.weight) {
            return Err(ConfigError::Weight(self.weight));
        }
        let host = self.announced_host.as_deref().unwrap_or(&self.node.host);
        for (what, text) in [("the host", self.node.host.as_str()), ("the announced host", host), ("the name", &self.node_name())]
        {
            if text.trim().is_empty() {
                return Err(ConfigError::Empty(what));
            }
        }
        let times = [
            ("the announce interval", self.announce_interval),
            ("the ping interval", self.ping_interval),
            ("the ping timeout", self.ping_timeout),
            ("the connect timeout", self.connect_timeout),
        ];
        if let Some((what, _)) = times.into_iter().find(|(_, time)| time.is_zero()) {
            return Err(ConfigError::Zero(what));
        }
        if self.confirm_timeout <= CONFIRM_TIMEOUT_BOUND {
            return Err(ConfigError::Confirm(self.confirm_timeout));
        }
        if self.purge_keys_per_s == 0 {
            return Err(ConfigError::Zero("the pace of purging"));
        }
        self.node.client().map_err(|error| ConfigError::Address(self.node.to_string(), error))?;
        Ok(())
    }

    /// What makes sense, but perhaps not the one that was meant, in words for whoever runs the agent.
    pub(crate) fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        let host = self.endpoint().host;
        if is_loopback(&host) && !self.has_local_master() {
            doubts.push(format!(
                "announcing the loopback address {host}, which the other machines cannot reach: give -h, or --announce-host"
            ));
        }
        if self.node.tls {
            doubts.push(
                "this node speaks TLS, and NO PROXY CAN USE IT: commands for its keys will fail. Only programs that talk to nodes \
                 themselves (ClusterClient, the Node.js clients) can"
                    .to_owned(),
            );
        }
        let silence = Duration::from_millis(membership::Options::default().agent_timeout_ms);
        if self.announce_interval > silence / 2 {
            doubts.push(format!(
                "announcing the node every {:?} only: coordinators take a node down whose agent has been silent for their \
                 --agent-timeout, {:?} unless told otherwise; give at most half of that as --announce-interval",
                self.announce_interval, silence
            ));
        }
        doubts
    }

    /// Whether only this machine can be meant to reach the master.
    pub(crate) fn has_local_master(&self) -> bool {
        self.master.hosts().iter().all(|host| is_loopback(host))
    }

    /// Where others find the node.
    pub fn endpoint(&self) -> Endpoint {
        let host = self.announced_host.as_ref().unwrap_or(&self.node.host).clone();
        let mut endpoint = Endpoint::new(host, self.announced_port.unwrap_or(self.node.port));
        endpoint.username.clone_from(&self.node.username);
        endpoint.password.clone_from(&self.node.password);
        endpoint.set_tls(self.node.tls);
        endpoint
    }

    /// The name under which the node is registered.
    pub fn node_name(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.endpoint().default_name())
    }

    /// What is announced of a redis with this run id and version.
    pub(crate) fn announcement(&self, run_id: Option<String>, version: Option<String>) -> Announcement {
        let config = self.endpoint();
        let name = self.name.clone().filter(|name| *name != config.default_name());
        Announcement { config, weight: self.weight, name, run_id, version, purged: None, other: serde_json::Map::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config::new(NodeTarget::new("10.0.0.1", 7401), MasterUrl::new("10.0.0.9", 6379).unwrap())
    }

    #[test]
    fn weights_have_bounds() {
        for weight in [0.01, 1.0, 100.0] {
            Config { weight, ..config() }.check().unwrap();
        }
        for weight in [0.0, 0.009, 100.1, -1.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(Config { weight, ..config() }.check(), Err(ConfigError::Weight(_))), "{weight}");
        }
    }

    #[test]
    fn empty_names_and_zero_times_are_refused() {
        assert!(matches!(Config { name: Some(" ".into()), ..config() }.check(), Err(ConfigError::Empty("the name"))));
        assert!(matches!(Config { ping_interval: Duration::ZERO, ..config() }.check(), Err(ConfigError::Zero(_))));
    }

    #[test]
    fn a_standstill_is_noticed_before_a_death_is_confirmed() {
        config().check().unwrap();
        Config { confirm_timeout: CONFIRM_TIMEOUT_BOUND + Duration::from_millis(1), ..config() }.check().unwrap();
        let hasty = Config { confirm_timeout: CONFIRM_TIMEOUT_BOUND, ..config() }.check().unwrap_err();
        assert_eq!(hasty.to_string(), "400ms to confirm a death are not more than 400ms");
    }

    #[test]
    fn what_may_not_have_been_meant_is_doubted() {
        let doubts = |config: Config| config.doubts().join("\n");
        assert_eq!(doubts(config()), "");
        let local = |master: &str| Config::new(NodeTarget::new("127.0.0.1", 1), MasterUrl::new(master, 1).unwrap());
        assert_eq!(doubts(local("localhost")), "");
        assert!(doubts(local("10.0.0.9")).contains("loopback"));
        let tls = NodeTarget { tls: true, ..config().node };
        assert!(doubts(Config { node: tls, ..config() }).contains("NO PROXY CAN USE IT"));
        let every = |s| Config { announce_interval: Duration::from_secs(s), ..config() };
        assert_eq!(doubts(every(22)), "");
        assert!(doubts(every(23)).contains("every 23s") && doubts(every(23)).contains("--agent-timeout, 45s"));
    }

    #[test]
    fn what_is_announced_is_what_others_need() {
        let mut config = config();
        assert_eq!(
            serde_json::to_value(config.announcement(None, None)).unwrap(),
            serde_json::json!({"config": {"host": "10.0.0.1", "port": 7401}, "weight": 1.0})
        );
        config.announced_host = Some("cache.example".into());
        config.announced_port = Some(17401);
        config.node.password = Some("secret".into());
        config.node.tls = true;
        config.name = Some("left".into());
        assert_eq!(
            serde_json::to_value(config.announcement(Some("r".into()), Some("7.0.15".into()))).unwrap(),
            serde_json::json!({
                "config": {"host": "cache.example", "port": 17401, "password": "secret", "tls": {}},
                "weight": 1.0, "name": "left", "runId": "r", "version": "7.0.15"
            })
        );
        assert!(!format!("{config:?}").contains("secret"));
    }
}
