//! The proxy: what applications connect to as if it were one redis.
//!
//! [`Proxy::start`] binds the listeners, follows the node map, and starts the workers. A worker owns its clients and its own node
//! connections; no command that is only forwarded takes a lock. ARCHITECTURE.md says what workers share.

mod acl_log;
mod admin;
#[cfg(feature = "bench")]
pub mod bench;
mod busy;
mod config;
mod confirm;
mod connect;
mod core;
mod functions;
mod latency;
mod limits;
mod listen;
mod live;
mod metrics;
mod monitors;
mod open_files;
mod peers;
#[cfg(target_os = "linux")]
mod ring;
mod scripts;
mod slowlog;
mod socket;
mod stats;
mod subscriber_counts;
mod vigil;
mod watch;
mod worker;

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
    thread,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use arc_swap::ArcSwap;
use tokio::{
    sync::{mpsc, oneshot, watch as signal},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use vrc_cluster::{
    client::TopologyWatch,
    contract::Epoch,
    topology::{PlacementKind, Topology},
};

pub use config::{Config, FixedNode, ListenAddr, ParseError, ProxyAddress, Source, TIMEOUT_MIN};

use crate::{
    admin::Admin,
    core::{Identity, Settings},
    limits::{DATABASES, DATABASES_WITH_GUESTS, FIRST_LOOK_MS},
    listen::{Door, Listener},
    live::{Live, LiveSettings},
    peers::Peers,
    stats::AllStats,
    vigil::Vigil,
    worker::{Control, Shared, WorkerHandle},
};

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    listening: Vec<ListenAddr>,
    admin: Option<SocketAddr>,
    topology: Arc<ArcSwap<Topology>>,
    changes: signal::Receiver<Epoch>,
    workers: Vec<WorkerHandle>,
    threads: Vec<thread::JoinHandle<()>>,
    tasks: Vec<JoinHandle<()>>,
    confirming: Option<JoinHandle<()>>,
    /// Ends by itself when told to stop, having said so to the other proxies.
    announcer: Option<JoinHandle<()>>,
    stop: CancellationToken,
    vigil: Vigil,
}

impl Proxy {
    /// Starts a proxy: when this returns, clients can connect. They are heard once the proxy knows the cluster, as a rule at once. With a
    /// master that has no map yet, or cannot be reached, they are heard after two seconds and told so until it has; [`Proxy::changes`] tells
    /// when that is over.
    ///
    /// # Errors
    /// If an address cannot be listened on, the one for metrics included, or a thread cannot be started.
    pub async fn start(config: Config) -> anyhow::Result<Proxy> {
        anyhow::ensure!(!config.listen.is_empty(), "the proxy has no address to listen on");
        anyhow::ensure!(config.workers > 0, "the proxy needs at least one worker");
        anyhow::ensure!(config.timeout >= TIMEOUT_MIN, "nodes need {} ms or more to answer", TIMEOUT_MIN.as_millis());
        open_files::make_room(config.clients_max);
        let mut listeners = Vec::new();
        for address in &config.listen {
            listeners.push(Listener::bind(address).with_context(|| format!("cannot listen on {address}"))?);
        }
        let listening = listeners.iter().map(Listener::address).collect::<Result<Vec<_>, _>>()?;
        let admin = match config.admin {
            Some(address) => Some(admin::bind(address).await.with_context(|| format!("cannot serve metrics on {address}"))?),
            None => None,
        };

        let stop = CancellationToken::new();
        let vigil = Vigil::new(stop.clone());
        let (suspicions, suspected) = mpsc::channel(watch::SUSPICIONS_MAX);
        let mut watched = watch::start(&config.source, &config.placement, suspected, own_name(&config, &listening), &vigil);
        let stats = Arc::new(AllStats::new(config.workers));
        let (peers, peers_known, announcer) = match (&config.source, &config.announce) {
            (Source::Master(master), Some(own)) => {
                let announcing = peers::start(master.clone(), own.clone(), stop.clone(), &vigil);
                (announcing.peers, Some(announcing.known), Some(announcing.task))
            }
            _ => (Peers::default(), None, None),
        };
        let shared = Shared {
            settings: settings(&config, &listening, peers),
            topology: watched.topology.clone(),
            stats: stats.clone(),
            suspicions,
            io_uring: config.io_uring,
            busy_poll: config.busy_poll,
        };
        let (workers, threads) = worker::start(config.workers, &shared, &vigil).context("cannot start the workers")?;

        let mut tasks = std::mem::take(&mut watched.tasks);
        // It ends when nothing tells of maps any more.
        tasks.push(vigil.spawn("what follows the node map", tell_workers(workers.clone(), watched.changes.clone())));
        let confirming = match &config.source {
            Source::Master(master) => {
                let confirming = confirm::run(master.clone(), watched.changes.clone(), workers.clone(), stop.clone());
                Some(vigil.spawn("what confirms node maps", confirming))
            }
            Source::Nodes(_) => None,
        };
        let door = Door { workers: workers.clone(), live: shared.settings.live.clone(), next_id: Arc::new(AtomicU64::new(1)) };
        let (opener, open) = signal::channel(false);
        tasks.push(tokio::spawn(open_when_known(opener, watched.follower.clone(), peers_known)));
        let serving =
            |listener| vigil.spawn("what accepts clients", listen::serve(listener, door.clone(), open.clone(), stop.clone()));
        tasks.extend(listeners.into_iter().map(serving));
        let admin_address = admin.as_ref().map(|listener| listener.local_addr()).transpose()?;
        if let Some(listener) = admin {
            let state =
                Admin { topology: watched.topology.clone(), stats, follower: watched.follower.clone(), vigil: vigil.clone() };
            tasks.push(vigil.spawn("what serves metrics and health", admin::serve(listener, state, stop.clone())));
        }
        Ok(Proxy {
            listening,
            admin: admin_address,
            topology: watched.topology,
            changes: watched.changes,
            workers,
            threads,
            tasks,
            confirming,
            announcer,
            stop,
            vigil,
        })
    }

    /// Where clients can connect, with the ports that were found where 0 was asked for.
    pub fn listening(&self) -> &[ListenAddr] {
        &self.listening
    }

    /// Where metrics and health are served, with the port that was found where 0 was asked for.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// The topology that commands are routed by now.
    pub fn topology(&self) -> Arc<Topology> {
        self.topology.load_full()
    }

    /// Changes whenever the topology does; holds its epoch.
    pub fn changes(&self) -> signal::Receiver<Epoch> {
        self.changes.clone()
    }

    /// Waits until a worker, or another part that should live as long as the proxy, has ended by itself, and says which. What is left of
    /// the proxy is of little use then: it should be stopped, and another started.
    pub async fn failed(&self) -> anyhow::Error {
        anyhow::Error::msg(self.vigil.failed().await)
    }

    /// Stops: takes no more clients and commands, answers what is under way for at most a second, and closes everything.
    pub async fn stop(self) {
        self.stop.cancel();
        for worker in &self.workers {
            worker.tell(Control::Stop);
        }
        let threads = self.threads;
        let joined =
            tokio::task::spawn_blocking(move || threads.into_iter().map(thread::JoinHandle::join).collect::<Vec<_>>()).await;
        if joined.is_err() || joined.is_ok_and(|ended| ended.iter().any(Result::is_err)) {
            tracing::error!("a worker ended by a panic");
        }
        if let Some(confirming) = self.confirming {
            // It ends by itself, in bounded time.
            let _ = confirming.await;
        }
        if let Some(announcer) = self.announcer {
            // It takes its time only as long as the master does.
            let _ = announcer.await;
        }
        for task in self.tasks {
            task.abort();
            // Aborted or ended: either way it is gone, and with it its listener.
            let _ = task.await;
        }
    }
}

/// What the coordinator calls this proxy where it tells operators of it.
fn own_name(config: &Config, listening: &[ListenAddr]) -> String {
    let address = config.announce.as_ref().map(ToString::to_string).or_else(|| listening.first().map(ToString::to_string));
    // Known at this place on Linux; elsewhere the process has to do.
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("proxy {} (process {} on {})", address.unwrap_or_default(), std::process::id(), host.trim())
}

fn settings(config: &Config, listening: &[ListenAddr], peers: Peers) -> Settings {
    let port = listening.iter().find_map(|address| match address {
        ListenAddr::Tcp(address) => Some(address.port()),
        ListenAddr::Unix(_) => None,
    });
    let started_at = SystemTime::now();
    let nanos = started_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    Settings {
        timeout_ms: config.timeout.as_millis() as u64,
        live: Arc::new(LiveSettings::new(Live {
            password: config
                .password
                .as_ref()
                .map(|password| password.clone().into_bytes())
                .filter(|password| !password.is_empty()),
            clients_max: config.clients_max,
            slower_than_us: config.slowlog_slower_than_us,
            slow_max: config.slowlog_max,
            latency_tracking: config.latency_tracking,
            ..Live::default()
        })),
        logs: Arc::default(),
        allow_node_config: config.allow_node_config,
        databases: if config.placement.guest_databases { DATABASES_WITH_GUESTS } else { DATABASES },
        fixed_nodes: matches!(config.source, Source::Nodes(_)),
        identity: Arc::new(Identity {
            run_id: format!("{nanos:032x}{:08x}", std::process::id()),
            port: port.unwrap_or(0),
            placement: match config.placement.kind {
                PlacementKind::Slots => "slots",
                PlacementKind::Legacy => "legacy",
            },
            workers: config.workers,
            started_at,
        }),
        announce: config.announce.clone(),
        peers,
        busy: Arc::default(),
        scripts: Arc::default(),
    }
}

/// Lets clients in: who comes a moment after a restart is neither told that no node is up, nor that there is no other proxy.
async fn open_when_known(opener: signal::Sender<bool>, nodes: Option<Arc<TopologyWatch>>, peers: Option<oneshot::Receiver<()>>) {
    let known = async {
        if let Some(nodes) = nodes {
            nodes.ready().await;
        }
        if let Some(peers) = peers {
            // It is only dropped at the end.
            let _ = peers.await;
        }
    };
    if timeout(Duration::from_millis(FIRST_LOOK_MS), known).await.is_err() {
        tracing::info!("clients are let in, though the cluster is not known yet");
    }
    let _ = opener.send(true);
}

/// Wakes the workers at each new topology, so that what waits in them for it goes on.
async fn tell_workers(workers: Vec<WorkerHandle>, mut changes: signal::Receiver<Epoch>) {
    while changes.changed().await.is_ok() {
        for worker in &workers {
            worker.tell(Control::TopologyChanged);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let nodes = vec!["127.0.0.1:1".parse().unwrap()];
        Config { workers: 1, ..Config::new(Source::Nodes(nodes), "127.0.0.1:0".parse().unwrap()) }
    }

    #[tokio::test]
    async fn a_worker_that_panics_is_told_of() {
        let (config, vigil) = (config(), Vigil::new(CancellationToken::new()));
        let shared = Shared {
            settings: settings(&config, &config.listen, Peers::default()),
            topology: Arc::new(ArcSwap::from_pointee(Topology::build(&Default::default(), 0, &config.placement, 0))),
            // Where no worker can count, the first that wants to panics.
            stats: Arc::new(AllStats::new(0)),
            suspicions: mpsc::channel(1).0,
            io_uring: false,
            busy_poll: Duration::ZERO,
        };
        let (_workers, threads) = worker::start(1, &shared, &vigil).unwrap();
        assert_eq!(vigil.failed().await, "worker 0 has ended: it panicked");
        assert!(threads.into_iter().all(|thread| thread.join().is_err()));
    }

    #[tokio::test]
    async fn a_proxy_whose_map_is_followed_no_more_is_told_of() {
        let vigil = Vigil::new(CancellationToken::new());
        let (changed, changes) = signal::channel(0);
        let telling = vigil.spawn("what follows the node map", tell_workers(Vec::new(), changes));
        drop(changed);
        assert_eq!(vigil.failed().await, "what follows the node map has ended: nobody has told it to");
        telling.await.unwrap();
    }

    #[tokio::test]
    async fn a_proxy_that_is_stopped_has_lost_nothing() {
        let proxy = Proxy::start(config()).await.unwrap();
        let vigil = proxy.vigil.clone();
        proxy.stop().await;
        assert_eq!(vigil.failure(), None);
    }
}
