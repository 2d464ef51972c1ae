//! The agent: registers a redis server as a node of the cluster, and can start and watch such servers.
//!
//! [`run`] watches one redis over a connection that it keeps open, and tells the coordinator through the master what it sees.
//! It decides nothing about membership and writes nothing but its messages and, in the node itself, its marker (`admission`).
//! [`spawn`] runs redis servers; [`run_fleet`] joins the two.

mod admission;
mod announcer;
mod config;
mod fleet;
mod health;
mod info;
mod leaving;
mod link;
mod purger;
pub mod spawn;
mod standstill;
mod watcher;

pub use admission::Refused;
pub use config::{Config, ConfigError, NodeTarget};
pub use fleet::{FleetConfig, run_fleet};
pub use health::{Health, NodeHealth};

use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Watches and announces one node until `shutdown`, then says that it leaves, and waits till nobody uses it any more.
///
/// A redis or a master that is not there, or not yet, is waited for. `health` shows how the node does meanwhile.
///
/// # Errors
/// [`ConfigError`] for a configuration that makes no sense, and [`Refused`] for a redis that must not become a node: see
/// [`anyhow::Error::downcast_ref`].
pub async fn run(config: Config, health: Health, shutdown: CancellationToken) -> anyhow::Result<()> {
    config.check()?;
    config.doubts().iter().for_each(|doubt| warn!("{doubt}"));
    let (sightings, seen) = tokio::sync::watch::channel(watcher::Sighting::Nothing);
    let (purging, purged) = tokio::sync::watch::channel(None);
    let (telling, told) = tokio::sync::watch::channel(announcer::Told::default());
    health.show(&config, seen.clone(), told);
    tokio::select! {
        refused = watcher::watch(&config, sightings) => Err(refused.into()),
        announced = announcer::announce(&config, seen.clone(), purged, telling, shutdown) => Ok(announced?),
        () = purger::run(&config, seen, purging) => Ok(()),
    }
}

/// Whether only this machine reaches it.
fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}
