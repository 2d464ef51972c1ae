//! Which maps there were, and which one each proxy went by at what time.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::StreamExt;
use redis::{AsyncConnectionConfig, RedisResult, aio::MultiplexedConnection};
use tokio::time::{sleep, timeout};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use vrc_cluster::contract::{CLIENT_BUS, ClientBusMessage, EPOCH_KEY, Epoch, LEASE_KEY, NODE_SET_KEY, Node, NodeMap};

use crate::history::Clock;

const POLL_PAUSE: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(10);

/// A proxy said which map it goes by: no earlier than `sent_us`, no later than `got_us`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) sent_us: u64,
    pub(crate) got_us: u64,
    pub(crate) epoch: Epoch,
}

/// A map that was published, and when it was first seen.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SeenMap {
    pub(crate) seen_us: u64,
    pub(crate) map: NodeMap,
}

/// What was observed.
#[derive(Debug, Default, Clone)]
pub(crate) struct Observed {
    pub(crate) maps: BTreeMap<Epoch, SeenMap>,
    /// For each proxy, in order.
    pub(crate) samples: Vec<Vec<Sample>>,
    /// Whose the lease was seen to be from when on.
    pub(crate) leaders: Vec<(u64, String)>,
}

/// Looks on until it is dropped.
pub(crate) struct Observer {
    observed: Arc<Mutex<Observed>>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl Observer {
    pub(crate) fn start(master: &Path, proxies: &[PathBuf], clock: Clock, stop: &CancellationToken) -> Self {
        let observed = Arc::new(Mutex::new(Observed { samples: vec![Vec::new(); proxies.len()], ..Observed::default() }));
        let watch = Watch { observed: observed.clone(), clock, stop: stop.clone() };
        let spawn = |task| AbortOnDropHandle::new(tokio::spawn(task));
        let mut tasks = vec![
            AbortOnDropHandle::new(tokio::spawn(watch.clone().listen(master.to_owned()))),
            AbortOnDropHandle::new(tokio::spawn(watch.clone().read_maps(master.to_owned()))),
        ];
        tasks.extend(proxies.iter().enumerate().map(|(index, proxy)| spawn(watch.clone().sample(index, proxy.clone()))));
        Observer { observed, _tasks: tasks }
    }

    /// What was observed so far.
    pub(crate) fn observed(&self) -> Observed {
        self.observed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All proxies go by the last map, and it shows so many nodes, all up.
    pub(crate) fn all_is_well(&self, nodes: usize, since_us: u64) -> bool {
        let observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((epoch, last)) = observed.maps.last_key_value() else { return false };
        let agrees = |sample: &Sample| sample.epoch == *epoch && sample.sent_us >= since_us;
        last.map.len() == nodes
            && last.map.values().all(|node| node.up)
            && observed.samples.iter().all(|samples| samples.last().is_some_and(agrees))
    }
}

/// A connection to a unix socket, whose answers have no time limit of the library's own.
pub(crate) async fn connect(socket: &Path) -> RedisResult<MultiplexedConnection> {
    let client = redis::Client::open(format!("redis+unix://{}", socket.display()))?;
    let config = AsyncConnectionConfig::new().set_connection_timeout(Some(Duration::from_secs(2))).set_response_timeout(None);
    client.get_multiplexed_async_connection_with_config(&config).await
}

#[derive(Clone)]
struct Watch {
    observed: Arc<Mutex<Observed>>,
    clock: Clock,
    stop: CancellationToken,
}

impl Watch {
    fn saw_map(&self, map: NodeMap, epoch: Option<Epoch>) {
        if let Some(epoch) = epoch.filter(|_| !map.is_empty()) {
            let seen_us = self.clock.now_us();
            let mut observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
            observed.maps.entry(epoch).or_insert(SeenMap { seen_us, map });
        }
    }

    fn saw_leader(&self, token: Option<String>) {
        // A token is of an instance's term.
        let Some(instance) = token.and_then(|token| Some(token.split_once(':')?.0.to_owned())) else { return };
        let seen_us = self.clock.now_us();
        let mut observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        if observed.leaders.last().is_none_or(|(_, last)| *last != instance) {
            observed.leaders.push((seen_us, instance));
        }
    }

    async fn listen(self, master: PathBuf) {
        while !self.stop.is_cancelled() {
            let _ = self.listen_once(&master).await;
            sleep(POLL_PAUSE).await;
        }
    }

    async fn listen_once(&self, master: &Path) -> RedisResult<()> {
        let client = redis::Client::open(format!("redis+unix://{}", master.display()))?;
        let mut pubsub = client.get_async_pubsub().await?;
        pubsub.subscribe(CLIENT_BUS).await?;
        let mut messages = pubsub.into_on_message();
        while let Some(message) = messages.next().await {
            if let Ok(ClientBusMessage::UpdateNodes { node_map, epoch }) = serde_json::from_slice(message.get_payload_bytes()) {
                self.saw_map(node_map, epoch);
            }
        }
        Ok(())
    }

    async fn read_maps(self, master: PathBuf) {
        while !self.stop.is_cancelled() {
            if let Ok(mut connection) = connect(&master).await {
                while let Ok(Ok((map, epoch, token))) = timeout(PATIENCE, read_map(&mut connection)).await {
                    self.saw_map(map, epoch);
                    self.saw_leader(token);
                    sleep(POLL_PAUSE).await;
                }
            }
            sleep(POLL_PAUSE).await;
        }
    }

    async fn sample(self, index: usize, proxy: PathBuf) {
        while !self.stop.is_cancelled() {
            if let Ok(Ok(mut connection)) = timeout(PATIENCE, connect(&proxy)).await {
                loop {
                    let sent_us = self.clock.now_us();
                    let Ok(Ok(epoch)) = timeout(PATIENCE, read_epoch(&mut connection)).await else { break };
                    let sample = Sample { sent_us, got_us: self.clock.now_us(), epoch };
                    self.observed.lock().unwrap_or_else(PoisonError::into_inner).samples[index].push(sample);
                    sleep(POLL_PAUSE).await;
                }
            }
            sleep(POLL_PAUSE).await;
        }
    }
}

async fn read_map(connection: &mut MultiplexedConnection) -> RedisResult<(NodeMap, Option<Epoch>, Option<String>)> {
    let mut pipe = redis::pipe();
    pipe.atomic().hgetall(NODE_SET_KEY).get(EPOCH_KEY).get(LEASE_KEY);
    let (fields, epoch, token): (Vec<(String, String)>, Option<Epoch>, Option<String>) = pipe.query_async(connection).await?;
    let map = fields.into_iter().filter_map(|(name, text)| Some((name, serde_json::from_str::<Node>(&text).ok()?))).collect();
    Ok((map, epoch, token))
}

/// The proxies here have one worker each: the one that answers is the one that serves.
async fn read_epoch(connection: &mut MultiplexedConnection) -> RedisResult<Epoch> {
    let info: String = redis::cmd("INFO").arg("vrc").query_async(connection).await?;
    Ok(info.lines().find_map(|line| line.trim_end().strip_prefix("vrc_epoch:")?.parse().ok()).unwrap_or(0))
}
