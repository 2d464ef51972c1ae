//! Keeps a topology up to date with the node map in a master.
//!
//! It subscribes first, then reads the map, so that no change falls in between; and it reads again every few seconds, since pub/sub
//! may lose messages. What changes comes as deltas. Where one does not lead on from the map that is held, the map is read: soon, but
//! not by all readers at the same moment. A coordinator that sends no deltas is listened to where it sends maps whole. While the
//! master is away the last good map stands: an empty one, a torn one or an older one never takes its place.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::StreamExt;
use redis::{
    AsyncConnectionConfig, Msg, RedisError,
    aio::{MultiplexedConnection, PubSubSink},
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    contract::{
        CLIENT_BUS, ClientBusMessage, DELTA_BUS, DELTA_KEY, EPOCH_KEY, Epoch, MapDelta, NODE_SET_KEY, Node, NodeMap,
        PLACEMENT_KEY,
    },
    topology::{PlacementOptions, Topology},
};

use super::{
    Backoff, MasterUrl,
    held::{Change, Held, Ignored},
};

/// First pause after a connection was lost, at most; doubled up to [`WatchOptions::reconnect_pause_max`].
const RECONNECT_PAUSE: Duration = Duration::from_millis(250);
/// How long a reader that missed a delta waits at most before it reads the map, for each node in that: where maps are large not all
/// readers ask for them at one moment, and where they are small all go on at once.
const GAP_PAUSE_A_NODE: Duration = Duration::from_micros(200);
/// The longest such wait.
const GAP_PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long it counts what a coordinator has said of its placement, though none says anything any more: leading may pass to another.
const PLACEMENT_KEPT: Duration = Duration::from_secs(60);

/// How a master is followed.
#[derive(Debug, Clone)]
pub struct WatchOptions {
    /// How keys are given to nodes.
    pub placement: PlacementOptions,
    /// How often it is looked whether there is another map although nothing was said, more or less.
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
    disagreement: Trouble,
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
        let (trouble, disagreement) = (Trouble::default(), Trouble::default());
        let believer = Arc::new(Mutex::new(Believer {
            held: Held::default(),
            current: current.clone(),
            changed,
            said: Complaint::default(),
        }));
        let follower = Follower {
            master,
            options,
            believer: believer.clone(),
            lost: Complaint::default(),
            said: Complaint::default(),
            trouble: trouble.clone(),
            placement: None,
            disagreement: disagreement.clone(),
        };
        // Side by side, so that time goes on for the topology while the master is waited for.
        let time = keep_time(believer, current.clone(), changes.clone());
        let task = tokio::spawn(async move {
            tokio::join!(follower.run(), time);
        });
        TopologyWatch { current, changes, trouble, disagreement, task }
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

    /// That the coordinator which leads has been told of another placement, in an operator's words: then keys are looked for where nobody
    /// else puts them, and what is found may be long out of date.
    pub fn disagreement(&self) -> Option<String> {
        self.disagreement.load().as_deref().cloned()
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

    /// Returns whether there was one.
    fn is_over(&mut self) -> bool {
        self.0.take().is_some()
    }
}

/// Gets maps from the master.
struct Follower {
    master: MasterUrl,
    options: WatchOptions,
    believer: Arc<Mutex<Believer>>,
    /// That the master cannot be followed.
    lost: Complaint,
    /// That something it holds or says is not taken.
    said: Complaint,
    trouble: Trouble,
    /// The last that a leading coordinator said of its placement, and when.
    placement: Option<(String, Instant)>,
    disagreement: Trouble,
}

/// The connections to the master.
struct Link {
    sink: PubSubSink,
    commands: MultiplexedConnection,
    /// Maps are listened for where they are sent whole.
    hears_whole: bool,
}

/// What was read.
struct Read {
    map: NodeMap,
    epoch: Option<Epoch>,
    /// The epoch that the last delta leads to.
    delta: Option<Epoch>,
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
    #[error("another redis is the master now")]
    Moved,
}

impl Follower {
    async fn run(mut self) {
        let longest = self.options.reconnect_pause_max;
        let mut backoff = Backoff::new(RECONNECT_PAUSE.min(longest / 4), longest);
        loop {
            let Err(lost) = self.follow(&mut backoff).await;
            self.trouble.store(Some(Arc::new(lost.to_string())));
            self.lost.say(format!("cannot follow the master {}: {lost}; going on with what is known", self.master));
            sleep(backoff.pause()).await;
        }
    }

    /// Follows the master over one pair of connections until they are lost.
    async fn follow(&mut self, backoff: &mut Backoff) -> Result<std::convert::Infallible, Lost> {
        let limit = self.options.answer_timeout;
        let client = self.master.client().await?;
        let (sink, mut messages) = within(limit, async {
            let mut pubsub = client.get_async_pubsub().await?;
            pubsub.subscribe(DELTA_BUS).await?;
            Ok(pubsub.split())
        })
        .await?;
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(limit)).set_response_timeout(Some(limit));
        let commands = within(limit, client.get_multiplexed_async_connection_with_config(&config)).await?;
        let mut link = Link { sink, commands, hears_whole: false };
        self.read(&mut link).await?;
        backoff.reset();
        if self.lost.is_over() {
            tracing::info!("the master answers again");
        }

        let mut next_read = Instant::now() + self.until_read();
        let mut is_behind = false;
        loop {
            tokio::select! {
                () = self.master.moved(&client) => return Err(Lost::Moved),
                message = messages.next() => {
                    let leads_on = self.hear(&message.ok_or(Lost::Closed)?);
                    // However many are missed, the map is read once.
                    if !leads_on && !std::mem::replace(&mut is_behind, true) {
                        let nodes = self.believer().held.map().len();
                        next_read = next_read.min(Instant::now() + gap_pause(nodes, rand::random()));
                    }
                    if !self.believer().held.needs_whole() {
                        self.stop_hearing_whole(&mut link).await?;
                    }
                }
                () = sleep_until(next_read) => {
                    // A subscription that is confirmed anew shows that messages still come through.
                    within(limit, link.sink.subscribe(DELTA_BUS)).await?;
                    self.read(&mut link).await?;
                    is_behind = false;
                    next_read = Instant::now() + self.until_read();
                }
            }
        }
    }

    /// Readers that were started together do not go on to read together.
    fn until_read(&self) -> Duration {
        self.options.read_every.mul_f64(rand::random_range(0.75..=1.0))
    }

    fn believer(&self) -> MutexGuard<'_, Believer> {
        self.believer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what is new in the master: its epoch, and only if that is another one the last delta, and only if that does not lead to
    /// it the map.
    async fn read(&mut self, link: &mut Link) -> Result<(), Lost> {
        let limit = self.options.answer_timeout;
        let placement = within(limit, redis::cmd("GET").arg(PLACEMENT_KEY).query_async(&mut link.commands)).await;
        // If that cannot be read, nor can the epoch; or the master permits all keys but this one, which older versions do not know.
        self.compare_placement(placement.ok().flatten());
        let held = self.believer().held.known_epoch();
        if let Some(held) = held {
            let epoch: Option<String> = within(limit, redis::cmd("GET").arg(EPOCH_KEY).query_async(&mut link.commands)).await?;
            if epoch == Some(held.to_string()) {
                self.believer().holds_last();
                self.trouble.store(None);
                return Ok(());
            }
            let mut ask = redis::pipe();
            ask.atomic().get(EPOCH_KEY).get(DELTA_KEY);
            let (epoch, delta): (Option<String>, Option<Vec<u8>>) = within(limit, ask.query_async(&mut link.commands)).await?;
            let leads_there = |delta: &MapDelta| epoch == Some(delta.epoch.to_string());
            let delta = delta.and_then(|text| serde_json::from_slice(&text).ok()).filter(leads_there);
            if delta.is_some_and(|delta| self.believer().weigh_delta(&delta)) {
                self.trouble.store(None);
                return self.stop_hearing_whole(link).await;
            }
        }
        let Some(mut read) = self.read_whole(link).await? else { return Ok(()) };
        self.believer().held.learn_ways(read.map.is_empty(), read.epoch, read.delta);
        if !self.believer().held.needs_whole() {
            self.stop_hearing_whole(link).await?;
        } else if !link.hears_whole {
            within(limit, link.sink.subscribe(CLIENT_BUS)).await?;
            link.hears_whole = true;
            // Subscribed first, then read.
            let Some(again) = self.read_whole(link).await? else { return Ok(()) };
            self.believer().held.learn_ways(again.map.is_empty(), again.epoch, again.delta);
            read = again;
        }
        self.trouble.store(read.map.is_empty().then(|| Arc::new("it has no node map".to_owned())));
        self.believer().weigh(read.map, read.epoch);
        Ok(())
    }

    /// What a coordinator says that leads just now. Where nobody says anything for long, there is one of the old system, or none.
    fn compare_placement(&mut self, said: Option<String>) {
        let ours = self.options.placement.kind.to_string();
        match said {
            Some(theirs) => self.placement = Some((theirs, Instant::now())),
            None => _ = self.placement.take_if(|(_, at)| at.elapsed() > PLACEMENT_KEPT),
        }
        let theirs = self.placement.as_ref().map(|(theirs, _)| theirs).filter(|theirs| **theirs != ours);
        if theirs.is_some() == self.disagreement.load().is_some() {
            return;
        }
        let text = theirs.map(|theirs| {
            format!("keys are given to nodes by --placement {ours} here, and by --placement {theirs} as the coordinator has it")
        });
        match &text {
            Some(text) => tracing::error!("{text}: give all proxies and coordinators of a cluster the same"),
            None => tracing::info!("the coordinator goes by the same placement now"),
        }
        self.disagreement.store(text.map(Arc::new));
    }

    /// `None` if the map is torn.
    async fn read_whole(&mut self, link: &mut Link) -> Result<Option<Read>, Lost> {
        #[derive(serde::Deserialize)]
        struct LeadsTo {
            epoch: Epoch,
        }
        let mut ask = redis::pipe();
        ask.atomic().hgetall(NODE_SET_KEY).get(EPOCH_KEY).get(DELTA_KEY);
        type Answer = (Vec<(String, String)>, Option<String>, Option<Vec<u8>>);
        let (fields, epoch, delta): Answer = within(self.options.answer_timeout, ask.query_async(&mut link.commands)).await?;
        match parse_fields(fields) {
            Ok(map) => {
                self.said.is_over();
                let delta = delta.and_then(|text| serde_json::from_slice::<LeadsTo>(&text).ok()).map(|delta| delta.epoch);
                Ok(Some(Read { map, epoch: epoch.and_then(|epoch| epoch.parse().ok()), delta }))
            }
            Err(error) => {
                self.trouble.store(Some(Arc::new(error.clone())));
                self.said.say(format!("the node map in the master is not taken: {error}"));
                Ok(None)
            }
        }
    }

    async fn stop_hearing_whole(&self, link: &mut Link) -> Result<(), Lost> {
        if std::mem::take(&mut link.hears_whole) {
            within(self.options.answer_timeout, link.sink.unsubscribe(CLIENT_BUS)).await?;
        }
        Ok(())
    }

    /// Whether what was heard leads on from what is held, or at least is nothing that has to be read.
    fn hear(&mut self, message: &Msg) -> bool {
        let (channel, payload) = (message.get_channel_name(), message.get_payload_bytes());
        let complain = |error: serde_json::Error| format!("a message on {channel} is not taken: {error}");
        if channel == DELTA_BUS {
            match serde_json::from_slice(payload) {
                Ok(delta) => {
                    let leads_on = self.believer().weigh_delta(&delta);
                    if leads_on {
                        self.trouble.store(None);
                    }
                    return leads_on;
                }
                Err(error) => self.said.say(complain(error)),
            }
            return false;
        }
        match serde_json::from_slice(payload) {
            Ok(ClientBusMessage::UpdateNodes { node_map, epoch }) => {
                if !node_map.is_empty() {
                    self.trouble.store(None);
                }
                self.believer().weigh(node_map, epoch);
            }
            Err(error) => self.said.say(complain(error)),
        }
        true
    }
}

/// How long to wait before a map of so many nodes is read, where the delta that led to it was missed. `chance` is drawn from 0 to 1.
fn gap_pause(nodes: usize, chance: f64) -> Duration {
    GAP_PAUSE_A_NODE.mul_f64(nodes as f64).min(GAP_PAUSE_MAX).mul_f64(chance)
}

/// Holds the map that is believed, and keeps the topology what map and time make it.
struct Believer {
    held: Held,
    current: Arc<ArcSwap<Topology>>,
    changed: watch::Sender<Epoch>,
    said: Complaint,
}

impl Believer {
    fn weigh(&mut self, map: NodeMap, epoch: Option<Epoch>) {
        let outcome = self.held.offer(map, epoch, now_ms());
        self.take(outcome, epoch);
    }

    /// Whether it leads on from what is held, or is nothing new.
    fn weigh_delta(&mut self, delta: &MapDelta) -> bool {
        let outcome = self.held.apply(delta);
        if let Err(Ignored::Unfit(why)) = outcome {
            tracing::debug!(epoch = delta.epoch, held = self.held.epoch(), "what changed cannot be applied: {why}");
            return false;
        }
        if matches!(outcome, Ok(_) | Err(Ignored::Same)) {
            self.held.learn_ways(false, Some(delta.epoch), Some(delta.epoch));
        }
        self.take(outcome, Some(delta.epoch));
        true
    }

    /// The map that is held is the one that stands.
    fn holds_last(&mut self) {
        self.held.holds_last();
        self.said.is_over();
    }

    fn take(&mut self, outcome: Result<Change, Ignored>, epoch: Option<Epoch>) {
        match outcome {
            Ok(change) => {
                let (known, up) = (self.held.map().len(), self.held.map().values().filter(|node| node.up).count());
                tracing::info!(epoch = self.held.epoch(), "{up} of {known} nodes are up: {change}");
                self.said.is_over();
                self.rebuild();
            }
            Err(Ignored::Same) => {
                self.said.is_over();
            }
            Err(why) => {
                self.said.say(format!("a node map (epoch {epoch:?}) is not taken: {why} ({})", self.held.epoch()));
            }
        }
    }

    fn rebuild(&mut self) {
        let topology = self.current.load().successor(self.held.map(), self.held.epoch(), now_ms());
        self.current.store(Arc::new(topology));
        self.changed.send_replace(self.held.epoch());
    }
}

/// Has the topology built anew when it changes with time alone.
async fn keep_time(believer: Arc<Mutex<Believer>>, current: Arc<ArcSwap<Topology>>, mut changes: watch::Receiver<Epoch>) {
    loop {
        changes.mark_unchanged();
        let next_change = current.load().next_change_ms().map(|at_ms| Duration::from_millis(at_ms.saturating_sub(now_ms())));
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = sleep(next_change.unwrap_or_default()), if next_change.is_some() => {
                believer.lock().unwrap_or_else(PoisonError::into_inner).rebuild();
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_delta_is_made_up_for_soon_but_not_by_all_at_once() {
        assert_eq!(gap_pause(0, 1.0), Duration::ZERO);
        assert_eq!(gap_pause(10, 1.0), Duration::from_millis(2));
        assert_eq!((gap_pause(1_000, 0.0), gap_pause(1_000, 0.5)), (Duration::ZERO, Duration::from_millis(100)));
        assert_eq!(gap_pause(1_000_000, 1.0), GAP_PAUSE_MAX);
    }
}
