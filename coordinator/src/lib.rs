//! Watches the nodes and publishes who is in.
//!
//! What is decided is decided by [`vrc_cluster::membership`]; this crate feeds it with what happens on sockets and carries out
//! what it says. Several coordinators may run against one master: one leads, and the others stand by.
//!
//! A coordinator of the old system knows no lease, so it must not run beside this one: each would write over what the other wrote.
//! This one says so in its log when it hears the other. Nodes of an old map are kept as they are if their redis has been
//! running since that map was written, and are emptied otherwise.

mod bus;
mod config;
mod driver;
mod master;
mod node;
mod redis_link;

pub use config::Config;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;
pub use vrc_cluster::membership::{NodeState, NodeStatus, Status};

/// A coordinator at work.
#[derive(Debug)]
pub struct Coordinator {
    status: watch::Receiver<Status>,
    task: JoinHandle<()>,
}

impl Coordinator {
    /// Starts one, which runs until `shutdown` is cancelled and then gives the lease back so that a standby leads at once.
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If the settings contradict each other. A master that cannot be reached is no error: it is tried again and again.
    pub fn start(config: &Config, shutdown: CancellationToken) -> anyhow::Result<Self> {
        config.check()?;
        let (sender, status) = watch::channel(Status::default());
        let driver = driver::Driver::new(config, sender);
        Ok(Coordinator { status, task: tokio::spawn(driver.run(shutdown)) })
    }

    /// What it knows, now and as it changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Ends it without a word, as a crash would: the lease runs out by itself.
    pub fn abort(&self) {
        self.task.abort();
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// If it panicked or was aborted.
    pub async fn finished(self) -> anyhow::Result<()> {
        Ok(self.task.await?)
    }
}

/// Coordinates until `shutdown` is cancelled.
///
/// # Errors
/// As [`Coordinator::start`].
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    Coordinator::start(&config, shutdown)?.finished().await
}
