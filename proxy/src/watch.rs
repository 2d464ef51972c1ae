//! Where the topology comes from: a master's node map, or a fixed list. Only this replaces the topology.

use std::{collections::HashMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use redis::{RedisError, aio::MultiplexedConnection};
use tokio::{
    sync::{mpsc, watch as signal},
    task::JoinHandle,
    time::{Instant, timeout},
};
use vrc_cluster::{
    client::{MasterUrl, TopologyWatch, WatchOptions},
    contract::{AGENT_BUS, AgentBusMessage, Epoch, Node, NodeMap},
    topology::{PlacementOptions, Topology},
};

use crate::config::{FixedNode, Source};

/// Suspicions that may wait to be told; more than that says nothing new.
pub(crate) const SUSPICIONS_MAX: usize = 64;

/// How long a node that was told of is not told of again: the coordinator looks at once, and once is enough.
const TELL_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Longest that telling may take.
const TELL_TIMEOUT: Duration = Duration::from_secs(3);

/// A worker could not use a node.
#[derive(Debug)]
pub(crate) struct Suspicion {
    pub(crate) node: Arc<str>,
    pub(crate) reason: String,
}

/// The topology as it is kept up to date.
pub(crate) struct Watched {
    pub(crate) topology: Arc<ArcSwap<Topology>>,
    /// The epoch of `topology`; changes whenever that does.
    pub(crate) changes: signal::Receiver<Epoch>,
    /// What follows the master, if there is one.
    pub(crate) follower: Option<Arc<TopologyWatch>>,
    pub(crate) tasks: Vec<JoinHandle<()>>,
}

/// Starts to follow a source.
pub(crate) fn start(source: &Source, placement: &PlacementOptions, suspected: mpsc::Receiver<Suspicion>) -> Watched {
    match source {
        Source::Nodes(nodes) => fixed(nodes, placement, suspected),
        Source::Master(master) => followed(master, placement, suspected),
    }
}

/// The topology that a master's node map gives.
fn followed(master: &MasterUrl, placement: &PlacementOptions, suspected: mpsc::Receiver<Suspicion>) -> Watched {
    let options = WatchOptions { placement: placement.clone(), ..WatchOptions::default() };
    let watch = Arc::new(TopologyWatch::start(master.clone(), options));
    let (topology, changes) = (watch.shared(), watch.changes());
    let reporter =
        Reporter { master: master.clone(), name: format!("proxy of process {}", std::process::id()), told: HashMap::new() };
    let kept = watch.clone();
    let task = tokio::spawn(async move {
        reporter.run(suspected).await;
        drop(kept);
    });
    Watched { topology, changes, follower: Some(watch), tasks: vec![task] }
}

/// Tells the coordinator of nodes that could not be used.
struct Reporter {
    master: MasterUrl,
    name: String,
    /// When each node was last told of.
    told: HashMap<Arc<str>, Instant>,
}

impl Reporter {
    async fn run(mut self, mut suspected: mpsc::Receiver<Suspicion>) {
        let mut connection = None;
        while let Some(suspicion) = suspected.recv().await {
            if self.told.get(&suspicion.node).is_some_and(|told| told.elapsed() < TELL_AGAIN_AFTER) {
                continue;
            }
            tracing::warn!(node = %suspicion.node, "cannot be used: {}", suspicion.reason);
            self.told.insert(suspicion.node.clone(), Instant::now());
            if let Err(error) = timeout(TELL_TIMEOUT, self.tell(&mut connection, &suspicion))
                .await
                .unwrap_or_else(|_| Err(RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut))))
            {
                tracing::debug!("the coordinator could not be told: {error}");
                connection = None;
            }
        }
    }

    async fn tell(&self, connection: &mut Option<MultiplexedConnection>, suspicion: &Suspicion) -> redis::RedisResult<()> {
        let connection = match connection {
            Some(connection) => connection,
            None => connection.insert(self.master.client()?.get_multiplexed_async_connection().await?),
        };
        let message = AgentBusMessage::NodeSuspect {
            name: suspicion.node.to_string(),
            reporter: self.name.clone(),
            reason: suspicion.reason.clone(),
        };
        let text = serde_json::to_string(&message).expect("a message of strings");
        redis::cmd("PUBLISH").arg(AGENT_BUS).arg(text).exec_async(connection).await
    }
}

/// A topology that never changes.
fn fixed(nodes: &[FixedNode], placement: &PlacementOptions, mut suspected: mpsc::Receiver<Suspicion>) -> Watched {
    let map: NodeMap = nodes.iter().map(|node| (node.name.clone(), known(node))).collect();
    let topology = Arc::new(ArcSwap::from_pointee(Topology::build(&map, 0, placement, 0)));
    let (changed, changes) = signal::channel(0);
    // Nobody is there to be told, but the log has it.
    let task = tokio::spawn(async move {
        let _changed = changed;
        while let Some(suspicion) = suspected.recv().await {
            tracing::warn!(node = %suspicion.node, "{}", suspicion.reason);
        }
    });
    Watched { topology, changes, follower: None, tasks: vec![task] }
}

fn known(node: &FixedNode) -> Node {
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
