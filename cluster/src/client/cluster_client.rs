//! For programs that talk to the nodes themselves rather than through a proxy: which node has a key, and how to reach it.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use redis::RedisError;
use tokio::{sync::watch, time::timeout};

use crate::{
    contract::{CLIENT_DATABASES, Endpoint, Epoch},
    topology::{NodeIndex, PlacementOptions, Topology, Unowned},
};

use super::{MasterUrl, TopologyWatch, WatchOptions, node_client};

/// How a [`ClusterClient`] follows its master.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Placement and times. All programs of a cluster, its proxies included, must give keys to nodes alike: the same placement,
    /// the same expiry of down nodes, and guest databases in all or in none.
    pub watch: WatchOptions,
    /// How long [`ClusterClient::ready`] waits for the first node map.
    pub ready_timeout: Duration,
}

impl Default for ClientOptions {
    /// What proxies go by unless told otherwise: slots, guest databases, keys of a down node move at once.
    fn default() -> Self {
        let placement = PlacementOptions { guest_databases: true, ..PlacementOptions::default() };
        ClientOptions { watch: WatchOptions { placement, ..WatchOptions::default() }, ready_timeout: Duration::from_secs(10) }
    }
}

/// Knows which node has which key, by the node map in a master. Dropped, it stops to follow it.
///
/// Ask anew for each piece of work: an answer holds only until the map [changes](ClusterClient::changes), and a key that was
/// written where it no longer belongs is not found, or is found stale later.
///
/// ```
/// # use vrc_agent::spawn::{RedisProcess, SpawnOptions};
/// # use vrc_cluster::contract::{Endpoint, NODE_SET_KEY};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let master = RedisProcess::start(&SpawnOptions::default()).await?;
/// # let node = RedisProcess::start(&SpawnOptions::default()).await?;
/// # let (name, port) = (format!("127.0.0.1:{}", node.port()), node.port());
/// # let map = format!(r#"{{"config":{{"host":"127.0.0.1","port":{port}}},"weight":1,"up":true,"name":"{name}"}}"#);
/// # let mut connection = redis::Client::open(("127.0.0.1", master.port()))?.get_multiplexed_async_connection().await?;
/// # redis::cmd("HSET").arg(NODE_SET_KEY).arg(&name).arg(map).exec_async(&mut connection).await?;
/// # let master = format!("127.0.0.1:{}", master.port());
/// use redis::AsyncCommands;
/// use vrc_cluster::client::{ClientOptions, ClusterClient};
///
/// let cluster = ClusterClient::connect(master.parse()?, ClientOptions::default());
/// cluster.ready().await?;
///
/// let shard = cluster.owner_of("user:1000")?;
/// println!("user:1000 is on {} at {}", shard.name(), shard.address());
/// let mut node = shard.client(0)?.get_multiplexed_async_connection().await?;
/// let () = node.set("user:1000", "Ada").await?;
/// # assert_eq!(node.get::<_, String>("user:1000").await?, "Ada");
/// # assert_eq!(shard.name(), name);
///
/// let mut changes = cluster.changes();
/// tokio::spawn(async move {
///     while changes.changed().await.is_ok() {
///         println!("the node map has epoch {}", *changes.borrow_and_update());
///     }
/// });
/// # Ok(())
/// # }
/// ```
pub struct ClusterClient {
    master: MasterUrl,
    watch: TopologyWatch,
    ready_timeout: Duration,
}

/// No node map came in time. The client goes on trying.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no node map from the master {master} within {} ms{}", .waited.as_millis(), .trouble.as_ref().map(|text| format!(": {text}")).unwrap_or_default())]
pub struct NotReady {
    /// The master.
    pub master: MasterUrl,
    /// How long it was waited for.
    pub waited: Duration,
    /// What is in the way, if that is known.
    pub trouble: Option<String>,
}

/// Why a key cannot be used now.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// No node map has been read yet.
    #[error("no node map has been read yet")]
    NoMap,
    /// Nodes are known, but none is up.
    #[error("no node is up")]
    NoNodeUp,
    /// The key's node changed its state too short a while ago, and the key is not moved until its expiry.
    #[error("the key's node {node} went down or came up lately; its keys stay unused for another {} ms", .wait.as_millis())]
    Withheld {
        /// That node.
        node: Arc<str>,
        /// For how much longer.
        wait: Duration,
    },
    /// Programs have the databases 0 to 7 where guest databases are used: the others are those.
    #[error("database {0} is not one of the databases 0 to {last}", last = CLIENT_DATABASES - 1)]
    Database(u8),
    /// The client library refuses what the node map says of the node.
    #[error("the client library refuses the node's address: {0}")]
    Client(#[from] RedisError),
}

/// The node that has a key, as of the topology in which it was looked up.
#[derive(Clone)]
pub struct Shard {
    topology: Arc<Topology>,
    node: NodeIndex,
    guest: bool,
}

impl ClusterClient {
    /// Starts to follow a master, on the current tokio runtime. Returns at once; see [`ClusterClient::ready`].
    pub fn connect(master: MasterUrl, options: ClientOptions) -> Self {
        let watch = TopologyWatch::start(master.clone(), options.watch);
        ClusterClient { master, watch, ready_timeout: options.ready_timeout }
    }

    /// Waits for the first node map.
    ///
    /// # Errors
    /// If none came within [`ClientOptions::ready_timeout`]; waiting again may well succeed.
    pub async fn ready(&self) -> Result<(), NotReady> {
        timeout(self.ready_timeout, self.watch.ready()).await.map_err(|_| NotReady {
            master: self.master.clone(),
            waited: self.ready_timeout,
            trouble: self.watch.trouble(),
        })
    }

    /// Who has a key now.
    ///
    /// # Errors
    /// If nobody has.
    pub fn owner_of(&self, key: impl AsRef<[u8]>) -> Result<Shard, ShardError> {
        let topology = self.watch.topology();
        match topology.owner(topology.place(key.as_ref())) {
            Ok(owner) => Ok(Shard { node: owner.node, guest: owner.guest, topology }),
            Err(Unowned::NoNodeUp) => Err(nobody(&topology)),
            Err(Unowned::Withheld { node, until_ms }) => {
                let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64);
                let wait = Duration::from_millis(until_ms.saturating_sub(now_ms));
                Err(ShardError::Withheld { node: topology.nodes()[usize::from(node)].name.clone(), wait })
            }
        }
    }

    /// A client for the node that has a key now, and for that one of its databases that holds the key for users of `database`.
    ///
    /// # Errors
    /// If nobody has the key, or the database is not for use.
    pub fn client_for(&self, key: impl AsRef<[u8]>, database: u8) -> Result<redis::Client, ShardError> {
        self.owner_of(key)?.client(database)
    }

    /// The node of a number: of those that are up, in order, the `number`-th modulo their count. It depends on all nodes that are
    /// up, so what is kept this way is as good as lost whenever a node comes or goes.
    ///
    /// # Errors
    /// If no node is up.
    pub fn by_number(&self, number: i64) -> Result<Shard, ShardError> {
        let topology = self.watch.topology();
        match topology.by_number(number) {
            Some(node) => Ok(Shard { topology, node, guest: false }),
            None => Err(nobody(&topology)),
        }
    }

    /// The topology as it is now: all nodes, their shares, and more about keys.
    pub fn topology(&self) -> Arc<Topology> {
        self.watch.topology()
    }

    /// Changes whenever the topology does; holds its epoch, which is 0 where an old coordinator gives none.
    pub fn changes(&self) -> watch::Receiver<Epoch> {
        self.watch.changes()
    }
}

fn nobody(topology: &Topology) -> ShardError {
    if topology.nodes().is_empty() { ShardError::NoMap } else { ShardError::NoNodeUp }
}

impl Shard {
    /// The node's name, which decides which keys are its.
    pub fn name(&self) -> &str {
        &self.topology.nodes()[usize::from(self.node)].name
    }

    /// Where its redis listens, with its credentials.
    pub fn endpoint(&self) -> &Endpoint {
        &self.topology.nodes()[usize::from(self.node)].endpoint
    }

    /// `host:port` of its redis.
    pub fn address(&self) -> String {
        self.endpoint().address()
    }

    /// Whether the node only stands in for the key's home, which is down.
    pub fn is_guest(&self) -> bool {
        self.guest
    }

    /// The node's database that holds the key for users of `database`: the same, or 8 more while the node only stands in.
    ///
    /// # Errors
    /// If `database` is one of those for guests.
    pub fn database(&self, database: u8) -> Result<u8, ShardError> {
        match (self.topology.options().guest_databases, self.guest) {
            (true, _) if database >= CLIENT_DATABASES => Err(ShardError::Database(database)),
            (_, true) => Ok(database + CLIENT_DATABASES),
            (_, false) => Ok(database),
        }
    }

    /// A client of the `redis` crate for [that database](Shard::database) of the node; opens no connection itself.
    ///
    /// # Errors
    /// If `database` is one of those for guests, or the node's endpoint is not one that the library can use.
    pub fn client(&self, database: u8) -> Result<redis::Client, ShardError> {
        Ok(node_client(self.endpoint(), self.database(database)?)?)
    }
}

// Neither shows the nodes' passwords, which the topology holds.
impl fmt::Debug for ClusterClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterClient").field("master", &self.master).finish_non_exhaustive()
    }
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard").field("name", &self.name()).field("address", &self.address()).field("guest", &self.guest).finish()
    }
}
