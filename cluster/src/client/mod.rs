//! The small client: what talks to the master redis, and what tells programs which node to talk to.

mod backoff;
mod cluster_client;
mod connection;
pub(crate) mod held;
mod master;
mod node;
mod quiet;
mod sentinel;
mod url;
mod watch;
mod within;

pub use backoff::Backoff;
pub use cluster_client::{ClientOptions, ClusterClient, NotReady, Shard, ShardError};
pub use connection::{MasterConnection, connect};
pub use master::{MasterUrl, MasterUrlError};
pub use node::node_client;
pub use quiet::{LeftOut, Quiet};
pub use url::{RedisUrl, RedisUrlError};
pub use watch::{TopologyWatch, WatchOptions};
pub use within::within;
