//! The proxies of one master, as far as they announce themselves: clients in cluster mode are told of all of them, and go on with
//! another when one is gone.
//!
//! A proxy with an address to announce writes it into the master and reads the others' in the same script, again and again, unless they
//! are those that it knows; an address that is not written again expires. While the master is away the last list stands.

use std::{convert::Infallible, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use redis::{RedisResult, Script};
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use vrc_cluster::{
    client::{MasterConnection, MasterUrl},
    contract::{ANNOUNCED_KEY, ANNOUNCED_VERSION_KEY},
};

use crate::{config::ProxyAddress, vigil::Vigil};

/// How often a proxy says that it is there.
const ANNOUNCE_EVERY: Duration = Duration::from_millis(500);
/// How long an address is good that is not announced again: a proxy that was killed is listed for so long.
const GOOD_FOR: Duration = Duration::from_secs(3);
/// Longest that the master may take for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Most proxies that are listed, the first by their addresses.
const PEERS_MAX: usize = 1_000;

const _: () = assert!(ANNOUNCE_EVERY.as_millis() * 2 < GOOD_FOR.as_millis());

// Answers with the list's version and, if that is another than is known, the list.
// KEYS: proxies, version. ARGV: own address, how long it is good in ms, most addresses to return, version that is known or ''.
const ANNOUNCE: &str = "
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local came = redis.call('ZADD', KEYS[1], string.format('%.0f', now_ms + ARGV[2]), ARGV[1])
local went = redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now_ms))
local version = redis.call('GET', KEYS[2])
if came + went > 0 or not version then
  version = string.format('%.0f', math.max(now_ms, (tonumber(version) or 0) + 1))
  redis.call('SET', KEYS[2], version)
end
if version == ARGV[4] then return {version} end
local all = redis.call('ZRANGE', KEYS[1], 0, -1)
table.sort(all)
return {version, unpack(all, 1, math.min(#all, tonumber(ARGV[3])))}";

/// The addresses of all proxies that announce themselves, this one among them; empty for one that does not.
pub(crate) type Peers = Arc<ArcSwap<Vec<ProxyAddress>>>;

/// What announces this proxy.
pub(crate) struct Announcing {
    pub(crate) peers: Peers,
    /// Comes when the others are known.
    pub(crate) known: oneshot::Receiver<()>,
    /// Ends by itself when told to stop, having said so to the others.
    pub(crate) task: JoinHandle<()>,
}

/// Announces this proxy, and keeps the list of all that do, until told to stop.
pub(crate) fn start(master: MasterUrl, own: ProxyAddress, stop: CancellationToken, vigil: &Vigil) -> Announcing {
    let peers = Peers::new(ArcSwap::from_pointee(vec![own.clone()]));
    let connection = MasterConnection::new(master, ANSWER_TIMEOUT);
    let (first, known) = oneshot::channel();
    let announcer = Announcer { own, peers: peers.clone(), version: String::new(), connection, first: Some(first) };
    Announcing { peers, known, task: vigil.spawn("what announces this proxy", announcer.run(stop)) }
}

struct Announcer {
    own: ProxyAddress,
    peers: Peers,
    /// Of the list that is known.
    version: String,
    connection: MasterConnection,
    /// Waits for the first list.
    first: Option<oneshot::Sender<()>>,
}

impl Announcer {
    async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            never = self.announce_for_ever() => match never {},
            () = stop.cancelled() => {}
        }
        // The others learn of it at their next look; if this fails it expires.
        if let Some(connection) = self.connection.get_open() {
            let mut leave = redis::pipe();
            leave.atomic().zrem(ANNOUNCED_KEY, self.own.to_string()).incr(ANNOUNCED_VERSION_KEY, 1);
            let _ = timeout(ANSWER_TIMEOUT, leave.exec_async(connection)).await;
        }
    }

    async fn announce_for_ever(&mut self) -> Infallible {
        loop {
            if let Err(error) = self.announce().await {
                // What follows the node map complains of a master that is away.
                tracing::debug!("cannot announce this proxy as {}: {error}", self.own);
                self.connection.give_up();
            }
            sleep(ANNOUNCE_EVERY).await;
        }
    }

    async fn announce(&mut self) -> RedisResult<()> {
        let connection = self.connection.get().await?;
        let mut all: Vec<String> = Script::new(ANNOUNCE)
            .key(ANNOUNCED_KEY)
            .key(ANNOUNCED_VERSION_KEY)
            .arg(self.own.to_string())
            .arg(GOOD_FOR.as_millis() as u64)
            .arg(PEERS_MAX)
            .arg(&self.version)
            .invoke_async(connection)
            .await?;
        let version = if all.is_empty() { String::new() } else { all.remove(0) };
        if std::mem::replace(&mut self.version, version) == self.version {
            return Ok(());
        }
        let mut all: Vec<ProxyAddress> = all.iter().filter_map(|text| text.parse().ok()).collect();
        all.push(self.own.clone());
        all.sort_unstable();
        all.dedup();
        if **self.peers.load() != all {
            tracing::info!(proxies = all.len(), "the proxies that announce themselves have changed");
            self.peers.store(Arc::new(all));
        }
        if let Some(first) = self.first.take() {
            // Whoever waited may have lost patience.
            let _ = first.send(());
        }
        Ok(())
    }
}
