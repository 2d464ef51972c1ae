//! Removes keys from a node whose slot has another home now, when the coordinator orders it.
//!
//! The guests' databases are left alone: what is in them is at home elsewhere on purpose, and they are flushed when it matters.
//! The pace is limited, so that clients do not notice.

use std::time::Duration;

use redis::{ErrorKind, RedisError, RedisResult, aio::MultiplexedConnection};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tracing::{debug, info};
use vrc_cluster::{
    client::{MasterConnection, connect},
    contract::{
        CLIENT_DATABASES, COORDINATION_KEYS, EPOCH_KEY, Epoch, NODE_SET_KEY, Node, NodeMap, PURGE_KEY, PURGED_KEY, PurgeProgress,
    },
    topology::{NodeIndex, PlacementOptions, Topology},
};

use crate::{config::Config, info::Info, watcher::Sighting};

/// Keys that one step looks at, more or less: short enough that the node serves others in between.
const STEP_KEYS: u32 = 200;
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// The last order that was carried out, and on which process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Purged {
    pub(crate) run_id: String,
    pub(crate) order: Epoch,
}

/// Looks for orders as often as the node is announced, and carries them out, for ever.
pub(crate) async fn run(config: &Config, seen: watch::Receiver<Sighting>, purged: watch::Sender<Option<Purged>>) {
    let mut master = MasterConnection::new(config.master.clone(), config.connect_timeout);
    loop {
        sleep(config.announce_interval).await;
        let Sighting::Up { run_id: Some(run_id), .. } = seen.borrow().clone() else { continue };
        let done = purged.borrow().as_ref().filter(|purged| purged.run_id == run_id).map(|purged| purged.order);
        match obey(config, &mut master, &run_id, done).await {
            Ok(None) => {}
            Ok(Some(order)) => _ = purged.send_replace(Some(Purged { run_id, order })),
            Err(error) => {
                // It is begun anew, from the start: what was removed is gone.
                debug!(node = %config.node, %error, "cannot purge now");
                master.give_up();
            }
        }
    }
}

/// Carries out the order that stands, if there is one later than `done`.
async fn obey(config: &Config, master: &mut MasterConnection, run_id: &str, done: Option<Epoch>) -> RedisResult<Option<Epoch>> {
    let master = master.get().await?;
    let order: Option<Epoch> = redis::cmd("HGET").arg(PURGE_KEY).arg(config.node_name()).query_async(master).await?;
    let Some(order) = order.filter(|order| done.is_none_or(|done| done < *order)) else { return Ok(None) };
    let mut node = connect(&config.node.client()?, config.connect_timeout).await?;
    let info = Info::query(&mut node).await?;
    if info.run_id() != Some(run_id) {
        return Ok(None);
    }
    let keys = info.keyspace().filter(|(database, _)| *database < u32::from(CLIENT_DATABASES)).map(|(_, keys)| keys).sum();
    let progress = PurgeProgress { order, keys, ..PurgeProgress::default() };
    let name = config.node_name();
    let Some(homes) = Homes::read(master, &name, order).await? else { return Ok(None) };
    info!(node = %config.node, order, keys, "purging keys that have another home now");
    let mut purge = Purge { config, name, master, node, homes, progress, told_at: None };
    purge.run().await?;
    info!(node = %config.node, order, removed = purge.progress.removed, "purged");
    Ok(Some(order))
}

/// Which slots are at home on the node.
struct Homes {
    epoch: Epoch,
    topology: Topology,
    own: NodeIndex,
}

impl Homes {
    /// By the map that stands; `None` if it is older than `at_least`, or does not have the node.
    async fn read(master: &mut MultiplexedConnection, name: &str, at_least: Epoch) -> RedisResult<Option<Self>> {
        let (fields, epoch): (Vec<(String, String)>, Option<Epoch>) =
            redis::pipe().atomic().hgetall(NODE_SET_KEY).get(EPOCH_KEY).query_async(master).await?;
        let Some(epoch) = epoch.filter(|epoch| *epoch >= at_least) else { return Ok(None) };
        let torn =
            |error: serde_json::Error| RedisError::from((ErrorKind::Client, "the node map cannot be read", error.to_string()));
        let nodes = fields.into_iter().map(|(name, text)| Ok((name, serde_json::from_str::<Node>(&text)?)));
        let map = nodes.collect::<serde_json::Result<NodeMap>>().map_err(torn)?;
        let topology = Topology::build(&map, epoch, &PlacementOptions::default(), 0);
        Ok(topology.index_of(name).map(|own| Homes { epoch, own, topology }))
    }

    fn has(&self, key: &[u8]) -> bool {
        self.topology.locate(key).home == Some(self.own)
    }
}

struct Purge<'a> {
    config: &'a Config,
    name: String,
    master: &'a mut MultiplexedConnection,
    node: MultiplexedConnection,
    homes: Homes,
    progress: PurgeProgress,
    told_at: Option<Instant>,
}

impl Purge<'_> {
    async fn run(&mut self) -> RedisResult<()> {
        self.tell().await?;
        for database in 0..CLIENT_DATABASES {
            redis::cmd("SELECT").arg(database).exec_async(&mut self.node).await?;
            let mut cursor = 0_u64;
            loop {
                let began = Instant::now();
                let scanned_before = self.progress.scanned;
                cursor = self.step(cursor).await?;
                if self.told_at.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
                    self.tell().await?;
                }
                if cursor == 0 {
                    break;
                }
                let looked_at = self.progress.scanned - scanned_before;
                sleep_until(began + Duration::from_secs_f64(looked_at as f64 / f64::from(self.config.purge_keys_per_s))).await;
            }
        }
        self.progress.done = true;
        self.tell().await
    }

    /// Looks at some keys, and removes those that are not at home. Returns the next cursor.
    async fn step(&mut self, cursor: u64) -> RedisResult<u64> {
        let mut scan = redis::cmd("SCAN");
        let (next, keys): (u64, Vec<Vec<u8>>) = scan.arg(cursor).arg("COUNT").arg(STEP_KEYS).query_async(&mut self.node).await?;
        self.progress.scanned += keys.len() as u64;
        // A slot may have come home meanwhile, and its keys must stay: so the map is looked at last.
        self.follow_map().await?;
        let foreign: Vec<_> = keys.iter().filter(|key| !self.homes.has(key) && !is_coordination(key)).collect();
        if !foreign.is_empty() {
            let removed: u64 = redis::cmd("UNLINK").arg(&foreign).query_async(&mut self.node).await?;
            self.progress.removed += removed;
        }
        Ok(next)
    }

    async fn follow_map(&mut self) -> RedisResult<()> {
        let epoch: Option<Epoch> = redis::cmd("GET").arg(EPOCH_KEY).query_async(self.master).await?;
        if epoch != Some(self.homes.epoch) {
            let homes = Homes::read(self.master, &self.name, self.progress.order).await?;
            self.homes = homes.ok_or_else(|| RedisError::from((ErrorKind::Client, "the map does not have the node any more")))?;
        }
        Ok(())
    }

    async fn tell(&mut self) -> RedisResult<()> {
        self.told_at = Some(Instant::now());
        let text = serde_json::to_string(&self.progress)
            .map_err(|error| RedisError::from((ErrorKind::Client, "cannot write progress", error.to_string())))?;
        redis::cmd("HSET").arg(PURGED_KEY).arg(&self.name).arg(text).exec_async(self.master).await
    }
}

/// The master's own redis may be a node.
fn is_coordination(key: &[u8]) -> bool {
    COORDINATION_KEYS.iter().any(|name| name.as_bytes() == key)
}

#[cfg(test)]
mod tests {
    use vrc_cluster::contract::Endpoint;

    use super::*;
    use crate::{
        NodeTarget,
        spawn::{RedisProcess, SpawnOptions},
    };

    async fn publish(master: &mut MultiplexedConnection, names: &[&str], epoch: Epoch) {
        let mut write = redis::pipe();
        write.atomic().del(NODE_SET_KEY).set(EPOCH_KEY, epoch);
        for name in names {
            let node = Node {
                config: Endpoint::new("127.0.0.1", 1),
                weight: 1.0,
                up: true,
                state_change_time: 1,
                name: (*name).to_owned(),
                last_ping: None,
                run_id: None,
                version: None,
                upkeep: Default::default(),
                other: Default::default(),
            };
            write.hset(NODE_SET_KEY, name, serde_json::to_string(&node).unwrap());
        }
        write.exec_async(master).await.unwrap();
    }

    #[tokio::test]
    async fn what_comes_home_while_it_is_under_way_stays() {
        let (node, redis) = (
            RedisProcess::start(&SpawnOptions::default()).await.unwrap(),
            RedisProcess::start(&SpawnOptions::default()).await.unwrap(),
        );
        let master_url = vrc_cluster::client::MasterUrl::new(redis.host(), redis.port()).unwrap();
        let config = Config::new(NodeTarget::new(node.host(), node.port()), master_url.clone());
        let timeout = config.connect_timeout;
        let mut master = connect(&master_url.client().await.unwrap(), timeout).await.unwrap();
        let mut connection = connect(&config.node.client().unwrap(), timeout).await.unwrap();
        let keys: Vec<_> = (0..10 * STEP_KEYS).map(|number| (format!("key:{number}"), number)).collect();
        redis::cmd("MSET").arg(&keys).exec_async(&mut connection).await.unwrap();

        publish(&mut master, &["here", "there"], 5).await;
        assert!(Homes::read(&mut master, "here", 6).await.unwrap().is_none(), "the map is older than the order");
        let homes = Homes::read(&mut master, "here", 5).await.unwrap().expect("a map with the node");
        let foreign = keys.iter().filter(|(key, _)| !homes.has(key.as_bytes())).count() as u64;
        let progress = PurgeProgress { order: 5, ..PurgeProgress::default() };
        let name = "here".to_owned();
        let mut purge =
            Purge { config: &config, name, master: &mut master, node: connection.clone(), homes, progress, told_at: None };
        let mut cursor = purge.step(0).await.unwrap();
        let removed = purge.progress.removed;
        assert!(cursor != 0 && removed > 0 && removed < foreign, "{removed} of {foreign}");

        publish(purge.master, &["here"], 6).await;
        while cursor != 0 {
            cursor = purge.step(cursor).await.unwrap();
        }
        assert_eq!(purge.progress.removed, removed, "all are at home by now");
        let left: u64 = redis::cmd("DBSIZE").query_async(&mut connection).await.unwrap();
        assert_eq!(left, keys.len() as u64 - removed);
        node.stop().await.unwrap();
        redis.stop().await.unwrap();
    }
}
