//! The proxies of one master, as far as they announce themselves: clients in cluster mode are told of all of them, and go on with
//! another when one is gone.
//!
//! A proxy with an address to announce writes it into the master and reads the others' in the same script, again and again; an address
//! that is not written again expires. While the master is away the last list stands.

use std::{convert::Infallible, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use redis::{AsyncConnectionConfig, RedisResult, Script, aio::MultiplexedConnection};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use vrc_cluster::{client::MasterUrl, contract::ANNOUNCED_KEY};

use crate::config::ProxyAddress;

/// How often a proxy says that it is there.
const ANNOUNCE_EVERY: Duration = Duration::from_millis(500);
/// How long an address is good that is not announced again: a proxy that was killed is listed for so long.
const GOOD_FOR: Duration = Duration::from_secs(3);
/// Longest that the master may take for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Most proxies that are listed, the first by their addresses.
const PEERS_MAX: usize = 1_000;

const _: () = assert!(ANNOUNCE_EVERY.as_millis() * 2 < GOOD_FOR.as_millis());

// KEYS: proxies. ARGV: own address, how long it is good in ms, most addresses to return.
const ANNOUNCE: &str = "
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], string.format('%.0f', now_ms + ARGV[2]), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now_ms))
local all = redis.call('ZRANGE', KEYS[1], 0, -1)
table.sort(all)
return {unpack(all, 1, math.min(#all, tonumber(ARGV[3])))}";

/// The addresses of all proxies that announce themselves, this one among them; empty for one that does not.
pub(crate) type Peers = Arc<ArcSwap<Vec<ProxyAddress>>>;

/// Announces this proxy, and keeps the list of all that do, until told to stop.
pub(crate) fn start(master: MasterUrl, own: ProxyAddress, stop: CancellationToken) -> (Peers, JoinHandle<()>) {
    let peers = Peers::new(ArcSwap::from_pointee(vec![own.clone()]));
    let announcer = Announcer { master, own, peers: peers.clone(), connection: None };
    (peers, tokio::spawn(announcer.run(stop)))
}

struct Announcer {
    master: MasterUrl,
    own: ProxyAddress,
    peers: Peers,
    connection: Option<MultiplexedConnection>,
}

impl Announcer {
    async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            never = self.announce_for_ever() => match never {},
            () = stop.cancelled() => {}
        }
        // The others learn of it at their next look; if this fails it expires.
        if let Some(connection) = &mut self.connection {
            let mut leave = redis::cmd("ZREM");
            let _ = timeout(ANSWER_TIMEOUT, leave.arg(ANNOUNCED_KEY).arg(self.own.to_string()).exec_async(connection)).await;
        }
    }

    async fn announce_for_ever(&mut self) -> Infallible {
        loop {
            if let Err(error) = self.announce().await {
                // What follows the node map complains of a master that is away.
                tracing::debug!("cannot announce this proxy as {}: {error}", self.own);
                self.connection = None;
            }
            sleep(ANNOUNCE_EVERY).await;
        }
    }

    async fn announce(&mut self) -> RedisResult<()> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => {
                let limit = Some(ANSWER_TIMEOUT);
                let config = AsyncConnectionConfig::new().set_connection_timeout(limit).set_response_timeout(limit);
                none.insert(self.master.client()?.get_multiplexed_async_connection_with_config(&config).await?)
            }
        };
        let all: Vec<String> = Script::new(ANNOUNCE)
            .key(ANNOUNCED_KEY)
            .arg(self.own.to_string())
            .arg(GOOD_FOR.as_millis() as u64)
            .arg(PEERS_MAX)
            .invoke_async(connection)
            .await?;
        let mut all: Vec<ProxyAddress> = all.iter().filter_map(|text| text.parse().ok()).collect();
        all.push(self.own.clone());
        all.sort_unstable();
        all.dedup();
        if **self.peers.load() != all {
            tracing::info!(proxies = all.len(), "the proxies that announce themselves have changed");
            self.peers.store(Arc::new(all));
        }
        Ok(())
    }
}
