//! The wire contract: what stands in the master redis, and what is said on its channels.
//!
//! Old Node.js clients, agents and coordinators read and write the same keys and channels, so the names and the shapes of the
//! fields here are fixed. What this system adds travels as extra fields, which old readers ignore, and in keys of its own.
//! A reader tolerates fields that it does not know and keeps them, so that a map written back has lost nothing.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use crate::delta::{MapDelta, check};

/// HASH in the master: field = node name, value = JSON of one [`Node`].
pub const NODE_SET_KEY: &str = "rvolcluster:nodeset";
/// Channel from the coordinator to the clients. Old clients raise an error on any message type but `update_nodes`.
pub const CLIENT_BUS: &str = "RedisVolatileClusterBus";
/// Channel from the coordinator to readers of this system: a [`MapDelta`] for each new map. Ours.
pub const DELTA_BUS: &str = "RedisVolatileClusterDeltas";
/// Channel on which nothing is said: who subscribes to it listens to [`CLIENT_BUS`] only to hear of strangers that write maps too, and
/// needs no maps sent there. Ours.
pub const STRANGERS_BUS: &str = "RedisVolatileClusterStrangers";
/// Channel from agents (and proxies) to the coordinator. Old coordinators ignore types that they do not know.
pub const AGENT_BUS: &str = "RedisVolatileClusterSlaveBus";
/// STRING in the master: the epoch of the node map that [`NODE_SET_KEY`] holds. Absent where only an old coordinator writes.
pub const EPOCH_KEY: &str = "rvolcluster:epoch";
/// STRING in the master: the last [`MapDelta`]. Where it leads to another epoch than [`EPOCH_KEY`] has, or is absent, whoever writes
/// the map sends no deltas. Ours.
pub const DELTA_KEY: &str = "rvolcluster:delta";
/// STRING in the master, with an expiry: the token of the coordinator that leads.
pub const LEASE_KEY: &str = "rvolcluster:leader";

/// STRING in the master, with an expiry: how keys are given to nodes as the coordinator that leads has been told, `slots` or `legacy`.
/// Whoever goes by another placement looks for keys where nobody has put them. Ours.
pub const PLACEMENT_KEY: &str = "rvolcluster:placement";

/// HASH in the master: field = a proxy's id, value = its [`Confirmation`]. Ours.
pub const PROXIES_KEY: &str = "rvolcluster:proxies";
/// How often a proxy confirms anew although nothing changed, in ms: so it is known to live.
pub const CONFIRM_EVERY_MS: u64 = 2_000;
/// How many proxies tell at once that they cannot use a node. Of a larger fleet about so many do, drawn by chance; the others only if
/// the map still shows it up a while later.
pub const TELLERS: u64 = 16;
/// STRING in the master: the epoch of the last map that gave keys new homes. Ours.
pub const REHOMED_KEY: &str = "rvolcluster:rehomed";
/// HASH in the master: field = node name, value = an epoch: the node's agent is to purge it of keys that have another home by a map as
/// new as that. Ours.
pub const PURGE_KEY: &str = "rvolcluster:purge";
/// HASH in the master: field = node name, value = JSON of a [`PurgeProgress`], written by the node's agent. Ours.
pub const PURGED_KEY: &str = "rvolcluster:purged";
/// STRING in the master, with an expiry: JSON of [`Notes`], what the leading coordinator has to say of nodes that the map does not. Ours.
pub const NOTES_KEY: &str = "rvolcluster:notes";
/// Channel on which the leading coordinator answers one [`AgentBusMessage::NodeWish`]: this, and the wish's `id`. Ours.
pub const ANSWER_BUS_PREFIX: &str = "RedisVolatileClusterAnswer:";
/// ZSET in the master: the addresses that proxies announce for clients in cluster mode, each with the time in ms since the Unix epoch
/// by the master's clock until which it is good. Only proxies read and write it.
pub const ANNOUNCED_KEY: &str = "rvolcluster:announced";
/// STRING in the master: another number each time the addresses in [`ANNOUNCED_KEY`] are others than before.
pub const ANNOUNCED_VERSION_KEY: &str = "rvolcluster:announced:version";

/// All keys in the master that hold the cluster together, as opposed to data.
pub const COORDINATION_KEYS: [&str; 12] = [
    NODE_SET_KEY,
    EPOCH_KEY,
    DELTA_KEY,
    LEASE_KEY,
    PLACEMENT_KEY,
    PROXIES_KEY,
    ANNOUNCED_KEY,
    ANNOUNCED_VERSION_KEY,
    REHOMED_KEY,
    PURGE_KEY,
    PURGED_KEY,
    NOTES_KEY,
];

/// Counts the changes of the node map. It only grows; a reader that holds a map ignores one with a smaller epoch.
pub type Epoch = u64;
/// The greatest epoch: what a JavaScript or Lua number holds exactly. A greater one is nobody's and counts as absent.
pub const EPOCH_MAX: Epoch = (1 << 53) - 1;
/// Clients have the databases 0 to 7; the guests of database d live in d + 8.
pub const CLIENT_DATABASES: u8 = 8;
/// The weights that a node may have.
pub const WEIGHTS: std::ops::RangeInclusive<f64> = 0.01..=100.0;

/// All known nodes by name, those that are down included.
pub type NodeMap = BTreeMap<String, Node>;

/// Where a node's redis listens. Old clients hand this to their redis library as it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// ACL user, where the node wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Password, where the node wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Whatever else the writer put there.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Endpoint {
    /// An endpoint without credentials.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Endpoint { host: host.into(), port, username: None, password: None, other: Map::new() }
    }

    /// `host:port`, with an IPv6 address in brackets: the form that sockets are opened by.
    pub fn address(&self) -> String {
        if self.host.contains(':') { format!("[{}]:{}", self.host, self.port) } else { format!("{}:{}", self.host, self.port) }
    }

    /// Whether it speaks TLS: the option `tls` of the old clients' redis libraries, an object that may be empty, or what else counts as
    /// true in JavaScript.
    pub fn tls(&self) -> bool {
        match self.other.get("tls") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(tls)) => *tls,
            Some(Value::Number(number)) => number.as_f64() != Some(0.0),
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Object(_) | Value::Array(_)) => true,
        }
    }

    /// Says whether it speaks TLS.
    pub fn set_tls(&mut self, tls: bool) {
        if !tls {
            self.other.remove("tls");
        } else if !self.tls() {
            self.other.insert("tls".to_owned(), Value::Object(Map::new()));
        }
    }

    /// `host:port` as the old system joins them: a node's name unless it was given another.
    pub fn default_name(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// One node, as the hash and the `update_nodes` message hold it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Where its redis listens.
    pub config: Endpoint,
    /// Its share of the keys relative to the other nodes.
    pub weight: f64,
    /// Whether keys may be sent to it.
    pub up: bool,
    /// When `up` last changed, in ms since the Unix epoch; 1 for a node that has only ever been up.
    #[serde(default)]
    pub state_change_time: u64,
    /// Decides where its keys live; `host:port` unless the agent was told otherwise.
    pub name: String,
    /// The last message of its agent, in ms since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_ping: Option<u64>,
    /// `run_id` of the redis that was emptied when the node joined. Ours; absent from old writers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// Version of its redis. Ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What operators said of it, and what was planned. Ours.
    #[serde(flatten)]
    pub upkeep: Upkeep,
    /// Fields of other writers.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// What operators said of a node, and what was planned. It stands in the map, and so outlasts agents, coordinators and the master's memory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Upkeep {
    /// When it was drained, in ms since the Unix epoch: it is not to be up until an operator says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drained: Option<u64>,
    /// When it left in good order, in ms since the Unix epoch; until it is up again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<u64>,
    /// The weight that its agent announces, where an operator has given it another. That one stands for as long as the agent
    /// goes on to announce this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announced_weight: Option<f64>,
}

/// What an agent says of its node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Announcement {
    /// Where the node's redis listens.
    pub config: Endpoint,
    /// The node's weight.
    pub weight: f64,
    /// The node's name, where it is not `host:port`. Ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `run_id` of its redis. Ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// Version of its redis. Ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The last order to purge (see [`PURGE_KEY`]) that was carried out on the process of `run_id`. Ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purged: Option<Epoch>,
    /// Fields of other writers.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// How far a purge has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PurgeProgress {
    /// The order that is carried out.
    pub order: Epoch,
    /// Keys that there were when it began.
    pub keys: u64,
    /// Keys that were looked at; a little more than `keys` where some came meanwhile.
    pub scanned: u64,
    /// Keys that were removed.
    pub removed: u64,
    /// It is over.
    pub done: bool,
}

/// What the leading coordinator has to say of nodes, by their names: of those only that are not simply up or down. See [`NOTES_KEY`].
pub type Notes = BTreeMap<String, NodeNote>;

/// What the leading coordinator has to say of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeNote {
    /// Its agent says that it is up, and the coordinator cannot use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreachable: Option<Trouble>,
    /// It is fine from where the coordinator is, and these proxies say that they cannot use it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unreachable_from: BTreeMap<String, Trouble>,
    /// It went down too often of late, and may not be up again before then, in ms since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_back_until: Option<u64>,
    /// How often it went down of late, if it is held back for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
}

/// What keeps somebody from using a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// Since when, in ms since the Unix epoch.
    pub since: u64,
    /// What was seen last.
    pub reason: String,
}

impl Announcement {
    /// The name under which the node is registered.
    pub fn node_name(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.config.default_name())
    }
}

/// A message on [`CLIENT_BUS`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum ClientBusMessage {
    /// The whole node map.
    UpdateNodes {
        /// All known nodes.
        node_map: NodeMap,
        /// The map's epoch; absent from an old coordinator.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        epoch: Option<Epoch>,
    },
}

/// A message on [`AGENT_BUS`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum AgentBusMessage {
    /// The node's redis answers PING. Sent every 5 s, and at once when it comes up.
    NodeUp {
        /// The node.
        node: Announcement,
    },
    /// The agent saw its redis die. Ours.
    NodeDown {
        /// The node's name.
        name: String,
        /// `run_id` of the redis that died, so that a late message cannot hit its successor.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        run_id: Option<String>,
        /// What was seen, for the log.
        reason: String,
    },
    /// The node goes away in good order. Ours.
    NodeLeaving {
        /// The node's name.
        name: String,
        /// `run_id` of the redis that leaves.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        run_id: Option<String>,
    },
    /// A proxy cannot use a node; the coordinator should look at once. Ours.
    NodeSuspect {
        /// The node's name.
        name: String,
        /// Which proxy says so.
        reporter: String,
        /// What was seen, for the log.
        reason: String,
    },
    /// An operator wants something of a node. Said again and again under the same id until it is answered, since the leader may
    /// change. Ours.
    NodeWish {
        /// Names the wish, and the channel of its answers: see [`ANSWER_BUS_PREFIX`].
        id: String,
        /// The node's name.
        name: String,
        /// What is wanted.
        wish: Wish,
    },
    /// The leading coordinator stops; another may take the lease at once. Ours.
    LeaderLeft {},
}

/// That a proxy routes by the map of an epoch, and that all it had sent by an earlier one has been answered. Written as
/// `EPOCH BEAT LEAST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confirmation {
    /// The map's epoch.
    pub epoch: Epoch,
    /// Another one each time it is written: a confirmation that stands still is of a proxy that is gone.
    pub beat: u64,
    /// The epoch that it confirmed before it was out of touch, or could confirm no later one for as long, for a while after that; otherwise the
    /// same as `epoch`.
    pub least: Epoch,
}

impl fmt::Display for Confirmation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.epoch, self.beat, self.least)
    }
}

/// A text that is no [`Confirmation`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a confirmation: an epoch, a number and an epoch")]
pub struct NotAConfirmation;

impl FromStr for Confirmation {
    type Err = NotAConfirmation;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let numbers: Vec<u64> = text.split(' ').map(str::parse).collect::<Result<_, _>>().map_err(|_| NotAConfirmation)?;
        match numbers[..] {
            [epoch, beat, least] if epoch.max(least) <= EPOCH_MAX => Ok(Confirmation { epoch, beat, least }),
            _ => Err(NotAConfirmation),
        }
    }
}

/// What an operator wants of a node.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "move", rename_all = "snake_case")]
pub enum Wish {
    /// It is to hold no keys until it is undrained.
    Drain {
        /// Even if it is the only one that is up.
        force: bool,
    },
    /// It may be up again.
    Undrain,
    /// It is to have this weight, whatever its agent announces now.
    Weight {
        /// The weight.
        weight: f64,
    },
    /// It is gone for good, and its keys get new homes.
    Forget {
        /// Even if it is up, or its agent still announces it.
        force: bool,
    },
}

/// What the leading coordinator says to a [`Wish`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum WishAnswer {
    /// It is being carried out.
    Taken {
        /// What it waits for now.
        waits_for: String,
    },
    /// The master's map is as wanted.
    Done {
        /// The map's epoch.
        epoch: Epoch,
        /// From hearing the wish to the map being published; 0 if it was so already.
        took_ms: u64,
        /// What else there is to know.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
    /// It will not be.
    Refused {
        /// Why.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_node_of_the_old_system_and_keeps_what_it_does_not_know() {
        let text = r#"{"config":{"host":"127.0.0.1","port":7303,"family":4},"weight":3,"up":true,"stateChangeTime":1,"name":"127.0.0.1:7303","lastPing":1795402687451,"colour":"red"}"#;
        let node: Node = serde_json::from_str(text).unwrap();
        assert_eq!((node.weight, node.up, node.last_ping), (3.0, true, Some(1795402687451)));
        let back: Value = serde_json::to_value(&node).unwrap();
        assert_eq!(back["colour"], "red");
        assert_eq!(back["config"]["family"], 4);
        assert!(back.get("runId").is_none());
    }

    #[test]
    fn tls_is_what_the_old_libraries_take_for_it() {
        let tls = |text: &str| serde_json::from_str::<Endpoint>(&format!(r#"{{"host":"h","port":1{text}}}"#)).unwrap().tls();
        assert!(tls(r#","tls":{}"#) && tls(r#","tls":{"servername":"x"}"#) && tls(r#","tls":true"#));
        assert!(tls(r#","tls":1"#) && tls(r#","tls":"yes""#));
        assert!(!tls("") && !tls(r#","tls":false"#) && !tls(r#","tls":null"#) && !tls(r#","tls":0"#) && !tls(",\"tls\":\"\""));
        let mut endpoint = Endpoint::new("h", 1);
        endpoint.set_tls(true);
        assert_eq!(serde_json::to_string(&endpoint).unwrap(), r#"{"host":"h","port":1,"tls":{}}"#);
        endpoint.set_tls(false);
        assert_eq!(endpoint, Endpoint::new("h", 1));
    }

    #[test]
    fn a_confirmation_is_what_it_was_written_as_or_nothing() {
        let confirmation = Confirmation { epoch: 7, beat: 3, least: 5 };
        assert_eq!(confirmation.to_string().parse(), Ok(confirmation));
        for text in ["", "7", "7 1", " 7 1 1", "x 1 1", "7 x 1", "7 1 1 1", "-1 1 1", "9007199254740993 1 1"] {
            assert_eq!(text.parse::<Confirmation>(), Err(NotAConfirmation), "{text}");
        }
    }

    #[test]
    fn messages_have_the_old_forms() {
        let up: AgentBusMessage =
            serde_json::from_str(r#"{"type":"node_up","node":{"config":{"host":"h","port":7303},"weight":3}}"#).unwrap();
        let AgentBusMessage::NodeUp { node } = &up else { panic!("{up:?}") };
        assert_eq!(node.node_name(), "h:7303");
        let text = serde_json::to_string(&ClientBusMessage::UpdateNodes { node_map: NodeMap::new(), epoch: Some(7) }).unwrap();
        assert_eq!(text, r#"{"type":"update_nodes","nodeMap":{},"epoch":7}"#);
        assert!(serde_json::from_str::<AgentBusMessage>(r#"{"type":"node_dance"}"#).is_err());
    }
}
