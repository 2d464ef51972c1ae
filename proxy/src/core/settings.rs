//! What a worker's core is given to go by.

use std::sync::Arc;

use crate::{
    acl_log::AclLog, busy::Busy, config::ProxyAddress, latency::LatencyLog, live::LiveSettings, peers::Peers, scripts::Scripts,
    slowlog::SlowLog,
};

/// What a worker's core goes by.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Longest that a command may wait for its answer, in ms.
    pub(crate) timeout_ms: u64,
    /// What CONFIG SET changes.
    pub(crate) live: Arc<LiveSettings>,
    /// What all workers write down.
    pub(crate) logs: Arc<Logs>,
    /// CONFIG reaches the nodes.
    pub(crate) allow_node_config: bool,
    /// How many databases clients may select.
    pub(crate) databases: u8,
    /// The nodes are a fixed list: waiting for another map is no use.
    pub(crate) fixed_nodes: bool,
    /// What INFO says of the proxy.
    pub(crate) identity: Arc<Identity>,
    /// Where clients reach this proxy, if it was told.
    pub(crate) announce: Option<ProxyAddress>,
    /// The proxies that announce themselves.
    pub(crate) peers: Peers,
    /// The nodes that are busy with a script.
    pub(crate) busy: Arc<Busy>,
    /// The scripts that clients have handed to any worker.
    pub(crate) scripts: Arc<Scripts>,
}

/// See the logs themselves.
#[derive(Debug, Default)]
pub(crate) struct Logs {
    pub(crate) slow: SlowLog,
    pub(crate) latency: LatencyLog,
    pub(crate) acl: AclLog,
}

/// What the proxy says of itself.
#[derive(Debug)]
pub(crate) struct Identity {
    /// 40 hexadecimal digits, new at each start.
    pub(crate) run_id: String,
    /// The port of the first TCP listener, 0 if there is none.
    pub(crate) port: u16,
    pub(crate) placement: &'static str,
    pub(crate) workers: usize,
    pub(crate) started_at: std::time::SystemTime,
}
