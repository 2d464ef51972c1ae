//! The parts of a cluster on this machine: redis servers as processes of their own, all else as tasks of this one.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use vrc_agent::spawn::{SpawnEvent, SpawnOptions, Supervised};
use vrc_proxy::Proxy;

/// Something happened to a part. A few a second at the most, when servers die in turn.
#[derive(Debug)]
pub(super) enum Event {
    /// To a redis server that had been started.
    Server { name: String, event: SpawnEvent },
    /// A part that should have gone on has ended.
    Ended { name: String, outcome: anyhow::Result<()> },
}

/// What runs.
#[derive(Debug)]
pub(super) struct Parts {
    dir: PathBuf,
    events: UnboundedSender<Event>,
    keepers: JoinSet<()>,
    stop_servers: CancellationToken,
    members: JoinSet<()>,
    stop_members: CancellationToken,
    proxy: Option<Proxy>,
}

impl Parts {
    /// None yet. Servers keep their directories in `dir`.
    pub(super) fn new(dir: &Path) -> (Self, UnboundedReceiver<Event>) {
        let (events, received) = unbounded_channel();
        let parts = Parts {
            dir: dir.to_owned(),
            events,
            keepers: JoinSet::new(),
            stop_servers: CancellationToken::new(),
            members: JoinSet::new(),
            stop_members: CancellationToken::new(),
            proxy: None,
        };
        (parts, received)
    }

    /// `options` for a server of this cluster.
    pub(super) fn server_options(&self, options: &SpawnOptions) -> SpawnOptions {
        SpawnOptions { parent_dir: Some(self.dir.clone()), ..options.clone() }
    }

    /// Keeps a server running from now on.
    pub(super) fn keep(&mut self, name: &str, server: Supervised) {
        let (events, name) = (self.events.clone(), name.to_owned());
        let mut is_first = true;
        self.keepers.spawn(server.keep(self.stop_servers.clone(), move |event| {
            // That it runs, the caller knows.
            if !std::mem::take(&mut is_first) {
                let _ = events.send(Event::Server { name: name.clone(), event });
            }
        }));
    }

    /// Runs an agent or a coordinator from now on. `start` is given the token that will tell it to end.
    pub(super) fn run<F>(&mut self, name: &str, start: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let (events, name, work) = (self.events.clone(), name.to_owned(), start(self.stop_members.clone()));
        let stopping = self.stop_members.clone();
        self.members.spawn(async move {
            let outcome = work.await;
            if !stopping.is_cancelled() {
                let _ = events.send(Event::Ended { name, outcome });
            }
        });
    }

    /// Starts the proxy.
    pub(super) async fn start_proxy(&mut self, config: vrc_proxy::Config) -> anyhow::Result<&Proxy> {
        let proxy = Proxy::start(config).await.context("the proxy cannot start")?;
        Ok(self.proxy.insert(proxy))
    }

    /// The proxy, once it has been started.
    pub(super) fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref()
    }

    /// Stops everything: clients first, so that nobody sees the cluster come apart; the servers last.
    pub(super) async fn stop(mut self) {
        if let Some(proxy) = self.proxy.take() {
            proxy.stop().await;
        }
        self.stop_members.cancel();
        while self.members.join_next().await.is_some() {}
        self.stop_servers.cancel();
        while self.keepers.join_next().await.is_some() {}
    }
}
