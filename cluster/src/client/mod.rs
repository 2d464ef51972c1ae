//! The small client: what talks to the master redis.

mod backoff;
mod held;
mod master;
mod watch;

pub use backoff::Backoff;
pub use master::{MasterUrl, MasterUrlError};
pub use watch::{TopologyWatch, WatchOptions};
