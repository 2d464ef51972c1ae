//! Keeps a topology up to date with the node map in a master.
//!
//! It subscribes first, then reads the map, so that no change falls in between; and it reads the map again every few seconds, since
//! pub/sub may lose messages. While the master is away the last good map stands: an empty one, a torn one or an older one never
//! takes its place.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::StreamExt;
use redis::{AsyncConnectionConfig, RedisError, aio::MultiplexedConnection};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    contract::{CLIENT_BUS, ClientBusMessage, EPOCH_KEY, Epoch, NODE_SET_KEY, Node, NodeMap},
    topology::{PlacementOptions, Topology},
};

use super::{
    Backoff, MasterUrl,
    held::{Held, Ignored},
};

/// Maps that may wait to be looked at: each is looked at in microseconds.
const OFFERS_MAX: usize = 16;

/// How a master is followed.
#[derive(Debug, Clone)]
pub struct WatchOptions {
    /// How keys are given to nodes.
    pub placement: PlacementOptions,
    /// How often the map is read although nothing was said.
    pub read_every: Duration,
    /// Longest wait for an answer of the master before the connection is given up.
    pub answer_timeout: Duration,
    /// Longest pause between two attempts to connect.
    pub reconnect_pause_max: Duration,
}

impl Default for WatchOptions {
    fn default() -> Self {
        WatchOptions {
            placement: PlacementOptions::default(),
            read_every: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(3),
            reconnect_pause_max: Duration::from_secs(2),
        }
    }
}

/// A topology that follows a master. Dropped, it stops to.
#[derive(Debug)]
pub struct TopologyWatch {
    current: Arc<ArcSwap<Topology>>,
    changes: watch::Receiver<Epoch>,
    trouble: Trouble,
    task: JoinHandle<()>,
}

/// What keeps the follower from the map, in an operator's words.
type Trouble = Arc<ArcSwapOption<String>>;

impl Drop for TopologyWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl TopologyWatch {
    /// Starts to follow a master, on the current tokio runtime. Until the first map was read the topology has no nodes.
    pub fn start(master: MasterUrl, options: WatchOptions) -> Self {
        let empty = Topology::build(&NodeMap::new(), 0, &options.placement, now_ms());
        let current = Arc::new(ArcSwap::from_pointee(empty));
        let (changed, changes) = watch::channel(0);
        let (offers, offered) = mpsc::channel(OFFERS_MAX);
        let trouble = Trouble::default();
        let follower =
            Follower { master, options: options.clone(), offers, said: Complaint::default(), trouble: trouble.clone() };
        let believer = Believer {
            placement: options.placement,
            held: Held::default(),
            current: current.clone(),
            changed,
            said: Complaint::default(),
        };
        // Side by side, so that time goes on for the topology while the master is waited for.
        let task = tokio::spawn(async move {
            tokio::join!(follower.run(), believer.run(offered));
        });
        TopologyWatch { current, changes, trouble, task }
    }

    /// The topology as it is now.
    pub fn topology(&self) -> Arc<Topology> {
        self.current.load_full()
    }

    /// Where the topology stands and is swapped.
    pub fn shared(&self) -> Arc<ArcSwap<Topology>> {
        self.current.clone()
    }

    /// Changes whenever the topology does; holds its epoch.
    pub fn changes(&self) -> watch::Receiver<Epoch> {
        self.changes.clone()
    }

    /// Waits until a map was read that has nodes.
    pub async fn ready(&self) {
        // The sender lives as long as the task, and that as long as `self`.
        let _ = self.changes.clone().wait_for(|_| !self.current.load().nodes().is_empty()).await;
    }

    /// What keeps it from following the master now, in an operator's words; the last map stands meanwhile.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.load().as_deref().cloned()
    }
}

/// Says a thing once, not at every read for as long as it goes on.
#[derive(Debug, Default)]
struct Complaint(Option<String>);

impl Complaint {
    fn say(&mut self, text: String) {
        if self.0.as_ref() != Some(&text) {
            tracing::warn!("{text}");
            self.0 = Some(text);
        }
    }

    fn is_over(&mut self) {
        self.0 = None;
    }
}

/// Gets maps from the master.
struct Follower {
    master: MasterUrl,
    options: WatchOptions,
    offers: mpsc::Sender<(NodeMap, Option<Epoch>)>,
    said: Complaint,
    trouble: Trouble,
}

/// Why a connection to the master was given up.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("{0}")]
    Redis(#[from] RedisError),
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    #[error("the connection was closed")]
    Closed,
}

impl Follower {
    async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(50), self.options.reconnect_pause_max);
        loop {
            let Err(lost) = self.follow(&mut backoff).await;
            self.trouble.store(Some(Arc::new(lost.to_string())));
            self.said.say(format!("cannot follow the master {}: {lost}; going on with what is known", self.master));
            sleep(backoff.pause()).await;
        }
    }

    /// Follows the master over one pair of connections until they are lost.
    async fn follow(&mut self, backoff: &mut Backoff) -> Result<std::convert::Infallible, Lost> {
        let limit = self.options.answer_timeout;
        let client = self.master.client()?;
        let (mut sink, mut messages) = within(limit, async {
            let mut pubsub = client.get_async_pubsub().await?;
            pubsub.subscribe(CLIENT_BUS).await?;
            Ok(pubsub.split())
        })
        .await?;
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(limit)).set_response_timeout(Some(limit));
        let mut commands = within(limit, client.get_multiplexed_async_connection_with_config(&config)).await?;
        self.read(&mut commands).await?;
        backoff.reset();
        self.said.is_over();

        let mut next_read = Instant::now() + self.options.read_every;
        loop {
            tokio::select! {
                message = messages.next() => self.hear(message.ok_or(Lost::Closed)?.get_payload_bytes()).await,
                () = sleep_until(next_read) => {
                    // A subscription that is confirmed anew shows that messages still come through.
                    within(limit, sink.subscribe(CLIENT_BUS)).await?;
                    self.read(&mut commands).await?;
                    next_read = Instant::now() + self.options.read_every;
                }
            }
        }
    }

    async fn read(&mut self, commands: &mut MultiplexedConnection) -> Result<(), Lost> {
        let (fields, epoch): (Vec<(String, String)>, Option<String>) = within(
            self.options.answer_timeout,
            redis::pipe().atomic().hgetall(NODE_SET_KEY).get(EPOCH_KEY).query_async(commands),
        )
        .await?;
        match parse_fields(fields) {
            Ok(map) => {
                self.trouble.store(map.is_empty().then(|| Arc::new("it has no node map".to_owned())));
                self.offer(map, epoch.and_then(|epoch| epoch.parse().ok())).await;
            }
            Err(error) => {
                self.trouble.store(Some(Arc::new(error.clone())));
                self.said.say(format!("the node map in the master is not taken: {error}"));
            }
        }
        Ok(())
    }

    async fn hear(&mut self, payload: &[u8]) {
        match serde_json::from_slice(payload) {
            Ok(ClientBusMessage::UpdateNodes { node_map, epoch }) => {
                if !node_map.is_empty() {
                    self.trouble.store(None);
                }
                self.offer(node_map, epoch).await;
            }
            Err(error) => self.said.say(format!("a message on {CLIENT_BUS} is not taken: {error}")),
        }
    }

    async fn offer(&self, map: NodeMap, epoch: Option<Epoch>) {
        // The other end lives in the same task.
        let _ = self.offers.send((map, epoch)).await;
    }
}

/// Holds the map that is believed, and keeps the topology what map and time make it.
struct Believer {
    placement: PlacementOptions,
    held: Held,
    current: Arc<ArcSwap<Topology>>,
    changed: watch::Sender<Epoch>,
    said: Complaint,
}

impl Believer {
    async fn run(mut self, mut offers: mpsc::Receiver<(NodeMap, Option<Epoch>)>) {
        loop {
            let rebuild = self.until_rebuild();
            tokio::select! {
                offer = offers.recv() => match offer {
                    Some((map, epoch)) => self.weigh(map, epoch),
                    None => return,
                },
                () = sleep(rebuild.unwrap_or_default()), if rebuild.is_some() => self.rebuild(),
            }
        }
    }

    fn weigh(&mut self, map: NodeMap, epoch: Option<Epoch>) {
        match self.held.offer(map, epoch, now_ms()) {
            Ok(change) => {
                let (known, up) = (self.held.map().len(), self.held.map().values().filter(|node| node.up).count());
                tracing::info!(epoch = self.held.epoch(), "{up} of {known} nodes are up: {change}");
                self.said.is_over();
                self.rebuild();
            }
            Err(Ignored::Same) => self.said.is_over(),
            Err(why @ (Ignored::Older | Ignored::Empty | Ignored::NoEpoch)) => {
                self.said.say(format!("a node map (epoch {epoch:?}) is not taken: {why} ({})", self.held.epoch()));
            }
        }
    }

    fn rebuild(&mut self) {
        let topology = Topology::build(self.held.map(), self.held.epoch(), &self.placement, now_ms());
        self.current.store(Arc::new(topology));
        self.changed.send_replace(self.held.epoch());
    }

    /// How long until the topology changes with time alone.
    fn until_rebuild(&self) -> Option<Duration> {
        self.current.load().next_change_ms().map(|at_ms| Duration::from_millis(at_ms.saturating_sub(now_ms())))
    }
}

/// A map with one node that cannot be read is torn: leaving that node out would move its keys.
fn parse_fields(fields: Vec<(String, String)>) -> Result<NodeMap, String> {
    fields
        .into_iter()
        .map(|(name, value)| match serde_json::from_str::<Node>(&value) {
            Ok(node) => Ok((name, node)),
            Err(error) => Err(format!("node {name:?} cannot be read: {error}")),
        })
        .collect()
}

async fn within<T>(limit: Duration, work: impl Future<Output = redis::RedisResult<T>>) -> Result<T, Lost> {
    Ok(timeout(limit, work).await.map_err(|_| Lost::Timeout(limit))??)
}

/// Ms since the Unix epoch.
fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64)
}
