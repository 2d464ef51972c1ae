//! What membership is told, and what it wants done.

use std::collections::BTreeMap;

use super::Notice;
use crate::contract::{AgentBusMessage, Confirmation, Endpoint, Epoch, MapDelta, NodeMap, Notes, WishAnswer};

/// The time of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds on a clock that never jumps: all waiting is measured by it.
    pub mono_ms: u64,
    /// Milliseconds since the Unix epoch. May be wrong, may jump: only written down, and lifts epochs.
    pub unix_ms: u64,
}

/// One connection, or attempt at one, to a node. Never used twice, so that what a lost one says late is known as such.
pub type LinkId = u64;
/// One flush of a node.
pub type FlushId = u64;
/// One request to the master. The driver answers each, or says [`Event::MasterDown`], which stands for all of them.
pub type RequestId = u64;

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Time passed.
    Tick,
    /// The master answers on a new connection.
    MasterUp {
        /// `run_id` of its redis, where it would say.
        run_id: Option<String>,
    },
    /// The master's connection is lost, or could not be opened. What was asked on it will not be answered.
    MasterDown {
        /// What was seen.
        reason: String,
    },
    /// The agents' channel is heard.
    BusUp,
    /// The agents' channel is not heard.
    BusDown,
    /// [`Action::Lease`] was answered.
    Leased {
        /// Which one.
        request: RequestId,
        /// Who has the lease now.
        answer: LeaseAnswer,
    },
    /// [`Action::ReadMap`] was answered.
    MapRead {
        /// Which one.
        request: RequestId,
        /// The hash.
        map: NodeMap,
        /// The epoch beside it, where there is one.
        epoch: Option<Epoch>,
        /// The epoch of the last map that gave keys new homes, where there is one.
        rehomed: Option<Epoch>,
    },
    /// [`Action::ReadProxies`] was answered.
    ProxiesRead {
        /// Which one.
        request: RequestId,
        /// What proxies confirm, by their ids.
        proxies: BTreeMap<String, Confirmation>,
    },
    /// [`Action::Write`] was answered.
    Wrote {
        /// Which one.
        request: RequestId,
        /// What became of it.
        answer: WriteAnswer,
    },
    /// The master answered a request with an error. What it did of it is not known.
    RequestFailed {
        /// Which one.
        request: RequestId,
        /// The error.
        reason: String,
    },
    /// A map was heard on the clients' channel: our own, another leader's, or an old coordinator's.
    MapHeard {
        /// The map.
        map: NodeMap,
        /// Its epoch; old coordinators give none.
        epoch: Option<Epoch>,
    },
    /// What a map changed, heard on the deltas' channel: our own, or another leader's.
    DeltaHeard(MapDelta),
    /// A message on the agents' channel.
    Heard(AgentBusMessage),
    /// A node answers on a new connection.
    LinkOpened {
        /// The node's name.
        name: String,
        /// The connection.
        link: LinkId,
        /// What answered there.
        server: Server,
    },
    /// A connection is lost, or could not be opened.
    LinkLost {
        /// The node's name.
        name: String,
        /// The connection.
        link: LinkId,
        /// What was seen.
        reason: String,
        /// How it was lost.
        loss: Loss,
    },
    /// The node answered PING.
    Ponged {
        /// The node's name.
        name: String,
        /// The connection.
        link: LinkId,
    },
    /// The node answered PING with an error.
    PingRefused {
        /// The node's name.
        name: String,
        /// The connection.
        link: LinkId,
        /// The error.
        reason: String,
    },
    /// The node acknowledged a flush.
    Flushed {
        /// The node's name.
        name: String,
        /// Which flush.
        flush: FlushId,
    },
    /// The node answered a flush with an error.
    FlushFailed {
        /// The node's name.
        name: String,
        /// Which flush.
        flush: FlushId,
        /// The error.
        reason: String,
    },
    /// The coordinator is asked to stop.
    Shutdown,
}

/// How a connection was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Nobody listens there, or who does will not have us.
    Refused,
    /// It was closed or reset. A process that died does that, but not it alone.
    Broken,
    /// Nobody answered in time: perhaps our own network fails.
    Silent,
}

/// A redis process, as `INFO server` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its `run_id`: another one is another process.
    pub run_id: String,
    /// Its version.
    pub version: Option<String>,
    /// How long it has been running.
    pub uptime_ms: Option<u64>,
}

/// What the lease's key holds, and every write names.
pub fn lease_token(instance: &str, term: u64) -> String {
    format!("{instance}:{term}")
}

/// What the lease script found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseAnswer {
    /// The lease is ours.
    Held {
        /// It was nobody's, or our former token's, before.
        gained: bool,
        /// The epoch that stands in the master.
        epoch: Option<Epoch>,
        /// How many nodes the hash has.
        nodes: usize,
    },
    /// Somebody else has it.
    Other {
        /// When theirs runs out unless they renew it.
        left_ms: Option<u64>,
    },
}

/// What the write script did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteAnswer {
    /// The map stands and was published.
    Done,
    /// Nothing: the lease is not ours.
    Fenced,
    /// Nothing: the epoch that stands is not smaller, or the hash is not what it was taken for.
    Stale {
        /// That epoch.
        stored: Epoch,
    },
}

/// What a flush removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Every key of every database.
    All,
    /// Every key but those of the coordination, which stand in the master's database.
    AllButCoordination,
    /// The clients' databases.
    Clients,
    /// The clients' databases of the master's own redis: the coordination's keys may stand in one of them.
    ClientsButCoordination,
    /// The guest databases.
    Guests,
    /// The guest databases of the master's own redis: the coordination's keys may stand in one of them.
    GuestsButCoordination,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Open a connection, learn what answers there, and keep it open until [`Action::Disconnect`]: however long that takes, since only
    /// membership knows how much of the time it did not run itself.
    Connect {
        /// The node's name.
        name: String,
        /// The connection's number.
        link: LinkId,
        /// Where to.
        endpoint: Endpoint,
    },
    /// Close a connection, or give up opening it. Nothing more is wanted from it.
    Disconnect {
        /// The node's name.
        name: String,
        /// The connection.
        link: LinkId,
    },
    /// Send PING.
    Ping {
        /// The node's name.
        name: String,
        /// On which connection.
        link: LinkId,
    },
    /// Flush.
    Flush {
        /// The node's name.
        name: String,
        /// On which connection.
        link: LinkId,
        /// The flush's number.
        flush: FlushId,
        /// What.
        scope: Scope,
    },
    /// Take the lease or renew it: if the key is absent, or holds a token of this instance and of no later term, it is to hold
    /// the token of this term. So whatever was sent in the name of an earlier one is fenced from then on.
    Lease {
        /// The request's number.
        request: RequestId,
        /// Who we are. Has no colon.
        instance: String,
        /// Which of our tokens it is to be.
        term: u64,
        /// The key's time to live.
        ttl_ms: u64,
    },
    /// Read what proxies confirm.
    ReadProxies {
        /// The request's number.
        request: RequestId,
    },
    /// These proxies are gone: remove what they confirmed. Nobody answers this.
    DropProxies {
        /// Their ids.
        ids: Vec<String>,
    },
    /// Tell the agents of these nodes to purge, if the lease is ours. Nobody answers this.
    OrderPurge {
        /// Whom the lease must belong to.
        token: String,
        /// Which nodes, and the order: see [`PURGE_KEY`](crate::contract::PURGE_KEY).
        orders: Vec<(String, Epoch)>,
        /// Nodes that are gone, whose orders and progress are to be removed.
        forgotten: Vec<String>,
    },
    /// Let this be read by those who ask, if the lease is ours. Nobody answers this.
    TellNotes {
        /// Whom the lease must belong to.
        token: String,
        /// What there is to tell; where it is nothing, what was told before is to be gone.
        notes: Notes,
        /// For how long, in ms.
        kept_ms: u64,
    },
    /// Give the lease up, if it is ours, and say so on the agents' channel.
    Release {
        /// Who we are.
        token: String,
    },
    /// Read hash and epoch in one go.
    ReadMap {
        /// The request's number.
        request: RequestId,
    },
    /// Write to the master.
    Write(MapWrite),
    /// Tell the operator who has this wish what becomes of it. Nobody answers this.
    Answer {
        /// The wish's name.
        id: String,
        /// What becomes of it.
        answer: WishAnswer,
    },
    /// Tell the operator.
    Notice(Notice),
}

/// A write: done whole by the master if the lease is still ours and no map stands that is not known to us.
#[derive(Debug, Clone, PartialEq)]
pub struct MapWrite {
    /// The request's number.
    pub request: RequestId,
    /// Whom the lease must belong to.
    pub token: String,
    /// The new epoch.
    pub epoch: Epoch,
    /// The greatest epoch that may stand there, or else nothing is done: behind it another has written, and what it wrote is not known here.
    /// A request may come so late that the lease which it names has been taken anew by one that was as late.
    pub known: Epoch,
    /// How many fields the hash must have, or else nothing is done; `None` where what stands there is not known, and
    /// the hash is to be emptied first.
    pub expected: Option<usize>,
    /// Fields to set, by name; their values are in `map`.
    pub changed: Vec<String>,
    /// Fields to remove.
    pub removed: Vec<String>,
    /// The whole map, as the hash is to hold it afterwards.
    pub map: NodeMap,
    /// What it changed of the one that was published before, to be published.
    pub delta: MapDelta,
    /// The epoch of the last map that gave keys new homes, or has to be treated as if it had: perhaps this one.
    pub rehomed: Epoch,
}
