//! Whether a redis may become a node.
//!
//! Joining empties a node, so a mistyped port must not cost somebody a database: a redis that holds keys is taken only if there
//! is reason to believe that they are the cluster's own, or if the operator said `--flush`. There are two such reasons.
//!
//! 1. **The marker**: an ACL user `vrc-node`, switched off and allowed nothing, which the agent creates in each redis it has
//!    taken. It lives in the server's process beside the data, survives FLUSHALL, is no key and is not evicted. Its only
//!    "password hash" is the server's run id, so that a marker which came along in an ACL file or a rewritten redis.conf does
//!    not vouch for what another process holds.
//! 2. **The node set** in the master: a node that is known by this address or with this run id. This covers a redis
//!    that restarted and loaded an RDB of our data, a node of the old system, and servers on which the agent may not use ACL.
//!
//! What neither can tell: keys that somebody else wrote into a server after it had served as a node (the marker still stands),
//! and a foreign redis that took over the address of a node within the time it takes the coordinator to forget that node.
//! A redis that this very agent has taken before is its own when it comes back.

use redis::{Cmd, ErrorKind, RedisError, RedisResult, ServerErrorKind, Value, aio::MultiplexedConnection};
use tracing::{info, warn};
use vrc_cluster::{
    client::connect,
    contract::{COORDINATION_KEYS, NODE_SET_KEY, Node},
};

use crate::{
    config::{Config, NodeTarget},
    info::Info,
};

/// Name of the ACL user that marks a redis as a node.
const MARKER: &str = "vrc-node";
/// The last of the 16 databases that a node needs: the eight of its clients and the eight guest databases.
const LAST_DATABASE: u32 = 15;

/// Why a redis must not become a node, for the operator.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Keys that the cluster did not put there.
    #[error(
        "the redis at {node} holds {keys} {} that this cluster did not put there, and joining would destroy them; if they \
         may go, start the agent with --flush", if *.keys == 1 { "key" } else { "keys" }
    )]
    ForeignKeys {
        /// Its address.
        node: String,
        /// How many, over all databases.
        keys: u64,
    },
    /// A replica: what is written to it is lost, or refused.
    #[error("the redis at {node} is a replica of {master}; a node must be a master (REPLICAOF NO ONE)")]
    Replica {
        /// Its address.
        node: String,
        /// Whose replica it is.
        master: String,
    },
    /// A member of a Redis Cluster, or a sentinel.
    #[error("the redis at {node} runs in {mode} mode; a node must be a plain redis server")]
    Mode {
        /// Its address.
        node: String,
        /// Its mode.
        mode: String,
    },
    /// Not all the databases that a node needs.
    #[error("the redis at {node} has fewer than 16 databases, which a node needs (`databases 16` in redis.conf, the default)")]
    Databases {
        /// Its address.
        node: String,
    },
    /// Wrong credentials, or none.
    #[error("the redis at {node} does not let the agent in: {said}")]
    Credentials {
        /// Its address.
        node: String,
        /// Its words.
        said: String,
    },
    /// The user it lets the agent be may not do what the agent needs to do.
    #[error("the redis at {node} does not permit what the agent needs (PING and INFO): {said}")]
    Permission {
        /// Its address.
        node: String,
        /// Its words.
        said: String,
    },
}

/// What keeps a redis from being a node.
#[derive(Debug)]
pub(crate) enum Hindrance {
    /// It will not do.
    Refused(Refused),
    /// It will not do now.
    NotYet(String),
    /// It did not answer in time.
    Silent(String),
    /// The connection was lost in the middle: that is no more than the first loss was.
    Broken(String),
}

impl From<Refused> for Hindrance {
    fn from(refused: Refused) -> Self {
        Hindrance::Refused(refused)
    }
}

/// Decides whether the redis behind `connection` may become a node, and marks it. `ours` says that this agent has taken it before.
pub(crate) async fn admit(
    config: &Config,
    connection: &mut MultiplexedConnection,
    info: &Info,
    ours: bool,
) -> Result<(), Hindrance> {
    let node = || config.node.to_string();
    if let Some(mode) = info.mode().filter(|mode| *mode != "standalone") {
        return Err(Refused::Mode { node: node(), mode: mode.to_owned() }.into());
    }
    if let Some(master) = info.replica_of() {
        return Err(Refused::Replica { node: node(), master }.into());
    }
    if info.is_loading() {
        return Err(Hindrance::NotYet("it is loading data".to_owned()));
    }
    // Asked by trying rather than by CONFIG, which is often forbidden or renamed.
    match redis::cmd("SELECT").arg(LAST_DATABASE).exec_async(connection).await {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) => {
            warn!(node = %config.node, %error, "cannot see whether it has the 16 databases that a node needs");
        }
        Err(error) if matches!(error.kind(), ErrorKind::Server(_)) => return Err(Refused::Databases { node: node() }.into()),
        Err(error) => return Err(hindrance(config, error)),
    }
    let keys: u64 = info.keyspace().map(|(_, keys)| keys).sum();
    if keys > 0 && !ours && !is_marked(connection, info).await.map_err(|error| hindrance(config, error))? {
        let foreign_keys = match look_up(config, info).await {
            Ok(Registration::Known) => 0,
            Ok(Registration::Unknown) => keys,
            Ok(Registration::MasterItself { coordination_keys }) => {
                warn!(node = %config.node, "this redis is the master itself; a coordinator takes it only with --allow-master");
                keys.saturating_sub(coordination_keys)
            }
            Err(_) if config.flush => keys,
            Err(error) => {
                return Err(Hindrance::NotYet(format!(
                    "it holds {keys} keys, and the master, which knows whether they are ours, cannot be asked: {error}"
                )));
            }
        };
        if foreign_keys > 0 && !config.flush {
            return Err(Refused::ForeignKeys { node: node(), keys: foreign_keys }.into());
        }
        if foreign_keys > 0 {
            warn!(node = %config.node, keys = foreign_keys, "its keys will be destroyed when it joins, as --flush allows");
        }
    }
    mark(config, connection, info).await;
    if info.refuses_writes_when_full() {
        warn!(node = %config.node, "its maxmemory-policy is noeviction: once full, it refuses writes");
    }
    Ok(())
}

/// What an error of the node stands for.
pub(crate) fn hindrance(config: &Config, error: RedisError) -> Hindrance {
    let node = config.node.to_string();
    match error.code() {
        Some("NOAUTH" | "WRONGPASS") => Refused::Credentials { node, said: error.to_string() }.into(),
        Some("NOPERM") => Refused::Permission { node, said: error.to_string() }.into(),
        _ if error.is_connection_dropped() => Hindrance::Broken(error.to_string()),
        _ if error.is_timeout() => Hindrance::Silent(error.to_string()),
        _ => Hindrance::NotYet(error.to_string()),
    }
}

/// What the redis itself says to these credentials. The client library says "authentication failed" to whatever it is
/// answered, also where redis had too many clients or is in protected mode, which may pass.
pub(crate) async fn credentials_error(config: &Config, failed: RedisError) -> RedisError {
    if failed.kind() != ErrorKind::AuthenticationFailed {
        return failed;
    }
    let target = &config.node;
    let answer = async {
        let anonymous = NodeTarget { username: None, password: None, ..target.clone() };
        let mut connection = connect(&anonymous.client()?, config.connect_timeout).await?;
        let mut auth = redis::cmd("AUTH");
        if let Some(username) = &target.username {
            auth.arg(username);
        }
        auth.arg(target.password.as_deref().unwrap_or_default()).exec_async(&mut connection).await
    };
    answer.await.err().unwrap_or(failed)
}

/// The hash under which the marker carries the run id: 64 hexadecimal digits, as ACL wants them.
fn marker_hash(info: &Info) -> Option<String> {
    let run_id = info.run_id()?;
    let is_plain = run_id.len() == 40 && run_id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_plain.then(|| format!("{run_id:0<64}"))
}

/// Whether the marker of this very process stands. `false` also where ACL is not there or not permitted.
async fn is_marked(connection: &mut MultiplexedConnection, info: &Info) -> RedisResult<bool> {
    let Some(hash) = marker_hash(info) else { return Ok(false) };
    match redis::cmd("ACL").arg("GETUSER").arg(MARKER).query_async::<Value>(connection).await {
        Ok(user) => Ok(mentions(&user, &hash)),
        Err(error) if matches!(error.kind(), ErrorKind::Server(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

fn mentions(value: &Value, text: &str) -> bool {
    match value {
        Value::BulkString(bytes) => bytes == text.as_bytes(),
        Value::SimpleString(string) => string == text,
        Value::Array(items) | Value::Set(items) => items.iter().any(|item| mentions(item, text)),
        Value::Map(pairs) => pairs.iter().any(|(_, value)| mentions(value, text)),
        _ => false,
    }
}

/// Sets the marker. That it could not be set costs nothing but the reliance on the node set.
async fn mark(config: &Config, connection: &mut MultiplexedConnection, info: &Info) {
    let Some(hash) = marker_hash(info) else { return };
    let mut command: Cmd = redis::cmd("ACL");
    command.arg("SETUSER").arg(MARKER).arg("reset").arg(format!("#{hash}"));
    if let Err(error) = command.exec_async(connection).await {
        info!(node = %config.node, %error, "cannot mark this redis as a node; the master's node set will vouch for it");
    }
}

/// What the master knows of the redis.
enum Registration {
    Known,
    Unknown,
    MasterItself { coordination_keys: u64 },
}

async fn look_up(config: &Config, info: &Info) -> RedisResult<Registration> {
    let mut master = connect(&config.master.client().await?, config.connect_timeout).await?;
    let endpoint = config.endpoint();
    let nodes: Vec<String> = redis::cmd("HVALS").arg(NODE_SET_KEY).query_async(&mut master).await?;
    // By address or process rather than by name: a name says where keys go, and may be given to any redis.
    let known = nodes.iter().filter_map(|text| serde_json::from_str::<Node>(text).ok()).any(|node| {
        let same_address = node.config.host == endpoint.host && node.config.port == endpoint.port;
        same_address || (node.run_id.is_some() && node.run_id.as_deref() == info.run_id())
    });
    if known {
        return Ok(Registration::Known);
    }
    // A user that may not say INFO there gives no answer, and the keys count as foreign.
    let of_master = Info::query(&mut master).await.unwrap_or_default();
    if of_master.run_id().is_some() && of_master.run_id() == info.run_id() {
        let coordination_keys = redis::cmd("EXISTS").arg(&COORDINATION_KEYS).query_async(&mut master).await?;
        return Ok(Registration::MasterItself { coordination_keys });
    }
    Ok(Registration::Unknown)
}
