//! What the operator is told, in words that make sense at three in the morning.

use std::fmt;

use crate::contract::{Epoch, Wish};

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The course of things.
    Info,
    /// Somebody should look at this.
    Warn,
}

/// Something the operator should know.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// The lease is ours and the map is known.
    Leads {
        /// Nodes in the map.
        nodes: usize,
        /// Its epoch.
        epoch: Epoch,
        /// The map came from our memory: the master's was gone or older.
        from_memory: bool,
    },
    /// Another coordinator leads.
    StandsBy,
    /// We led, and no longer do.
    Deposed,
    /// The master is gone.
    MasterLost {
        /// What was seen.
        reason: String,
    },
    /// The master answers again.
    MasterBack,
    /// A request to the master failed.
    MasterRefuses {
        /// The error.
        reason: String,
    },
    /// What stands in the master is not what was written there.
    MasterChanged,
    /// A map without an epoch was published: an old coordinator is at work too.
    ForeignWriter,
    /// A map was written and published.
    Published {
        /// Its epoch.
        epoch: Epoch,
        /// What is new in it.
        changes: Vec<Change>,
        /// Nodes that are up in it.
        up: usize,
        /// All nodes in it.
        nodes: usize,
    },
    /// A node was found to be the master.
    IsMaster {
        /// The node's name.
        name: String,
    },
    /// A node could not be emptied.
    FlushFailed {
        /// The node's name.
        name: String,
        /// Why.
        reason: String,
        /// When it is tried again.
        retry_ms: u64,
    },
    /// A node keeps going down and is not let back at once.
    HeldBack {
        /// The node's name.
        name: String,
        /// For how long.
        pause_ms: u64,
        /// How often it went down.
        times: u32,
    },
    /// A node cannot be connected to, while its agent says that it is up.
    Unreachable {
        /// The node's name.
        name: String,
        /// What was seen.
        reason: String,
    },
    /// What answers at a node's address is not what its agent watches.
    Stranger {
        /// The node's name.
        name: String,
        /// The address.
        address: String,
        /// The run id that answers there.
        found: String,
        /// The run id that the agent announces.
        announced: String,
    },
    /// An announcement that cannot be taken.
    BadAnnouncement {
        /// The node's name, as far as it is one.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A node gets slots back before it was purged of their keys, and is flushed first.
    Cleared {
        /// The node's name.
        name: String,
    },
    /// That flush failed.
    ClearFailed {
        /// The node's name.
        name: String,
        /// Why.
        reason: String,
    },
    /// A node has purged the keys that are not its any more.
    Purged {
        /// The node's name.
        name: String,
    },
    /// A proxy was out of touch, and may have written where keys are not at home any more.
    Laggard {
        /// By which map it may have routed.
        epoch: Epoch,
    },
    /// A proxy goes by a map of which nothing is known here.
    Outdone {
        /// The map's epoch.
        epoch: Epoch,
    },
    /// An operator wants something, and gets it.
    Wished {
        /// The node's name.
        name: String,
        /// What is wanted.
        wish: Wish,
    },
    /// Every node went silent at once; that is not published.
    AllSilent {
        /// How many nodes.
        nodes: usize,
    },
    /// We did not run for a while.
    StoodStill {
        /// How long.
        late_ms: u64,
    },
}

/// What is new about one node in a published map.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The node's name.
    pub name: String,
    /// What is new.
    pub what: What,
    /// From the moment it was decided until the master had published it.
    pub took_ms: u64,
}

/// What is new about a node.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// It is up.
    Up {
        /// For the first time.
        joined: bool,
    },
    /// It is down.
    Down {
        /// Why.
        cause: String,
    },
    /// It is no longer in the map.
    Forgotten {
        /// Why.
        cause: String,
    },
    /// Its weight or address is new.
    Altered,
}

impl Notice {
    /// How much it matters.
    pub fn level(&self) -> Level {
        match self {
            Notice::Leads { .. }
            | Notice::StandsBy
            | Notice::MasterBack
            | Notice::StoodStill { .. }
            | Notice::Wished { .. }
            | Notice::Purged { .. } => Level::Info,
            Notice::Published { changes, .. } => {
                let bad = changes.iter().any(|change| matches!(change.what, What::Down { .. }));
                if bad { Level::Warn } else { Level::Info }
            }
            _ => Level::Warn,
        }
    }

    /// Of the notices with the same text of this, one in a while is enough; `None` where each counts.
    pub fn repeats(&self) -> Option<String> {
        match self {
            Notice::MasterLost { .. } | Notice::MasterRefuses { .. } | Notice::MasterChanged | Notice::ForeignWriter => {
                Some(format!("{:?}", std::mem::discriminant(self)))
            }
            Notice::IsMaster { name } => Some(format!("master {name}")),
            Notice::Unreachable { name, .. } => Some(format!("unreachable {name}")),
            Notice::Stranger { name, .. } => Some(format!("stranger {name}")),
            Notice::FlushFailed { name, .. } => Some(format!("flush {name}")),
            Notice::ClearFailed { name, .. } => Some(format!("clear {name}")),
            Notice::BadAnnouncement { name, .. } => Some(format!("bad {name}")),
            _ => None,
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Leads { nodes, epoch, from_memory: false } => {
                write!(f, "this coordinator leads; the master's map has {nodes} nodes (epoch {epoch})")
            }
            Notice::Leads { nodes, epoch, from_memory: true } => write!(
                f,
                "this coordinator leads; the master's map is gone or older, so the last known one is written back: {nodes} nodes (epoch {epoch})"
            ),
            Notice::StandsBy => write!(f, "another coordinator leads; this one stands by"),
            Notice::Deposed => write!(f, "this coordinator no longer leads: another holds the lease"),
            Notice::MasterLost { reason } => {
                write!(f, "the master is lost: {reason}; nodes are still watched, changes are published when it is back")
            }
            Notice::MasterBack => write!(f, "the master answers again"),
            Notice::MasterRefuses { reason } => write!(f, "the master answered with an error: {reason}; trying again"),
            Notice::MasterChanged => write!(
                f,
                "the node map in the master is not the one that was written there: somebody else changed it; writing it again"
            ),
            Notice::ForeignWriter => write!(
                f,
                "a map without an epoch was published: a coordinator of the old system runs beside this one; stop one of the two"
            ),
            Notice::Published { epoch, changes, up, nodes } => {
                if changes.is_empty() {
                    return write!(f, "map published: {up} of {nodes} nodes up (epoch {epoch})");
                }
                for (index, change) in changes.iter().enumerate() {
                    if index > 0 {
                        write!(f, "; ")?;
                    }
                    write!(f, "node {}", change.name)?;
                    match &change.what {
                        What::Up { joined: true } => write!(f, " joined: emptied and up")?,
                        What::Up { joined: false } => write!(f, " is back: emptied and up")?,
                        What::Down { cause } => write!(f, " is down: {cause}")?,
                        What::Forgotten { cause } => write!(f, " is no longer in the map: {cause}")?,
                        What::Altered => write!(f, " has a new weight or address")?,
                    }
                }
                if changes.iter().any(|change| matches!(change.what, What::Down { .. })) {
                    match up {
                        0 => write!(f, "; no node is left")?,
                        1 => write!(f, "; the keys move to the one remaining node")?,
                        _ => write!(f, "; the keys move to {up} others")?,
                    }
                }
                let took_ms = changes.iter().map(|change| change.took_ms).max().unwrap_or(0);
                write!(f, " (epoch {epoch}, published after {took_ms} ms, {up} of {nodes} nodes up)")
            }
            Notice::IsMaster { name } => write!(
                f,
                "node {name} is refused: it is the master redis itself, which holds the node map and no sharded data; give it another redis, or start the coordinator with --allow-master"
            ),
            Notice::FlushFailed { name, reason, retry_ms } => {
                write!(f, "node {name} stays out: it could not be emptied: {reason}; trying again in {retry_ms} ms")
            }
            Notice::HeldBack { name, pause_ms, times } => {
                write!(f, "node {name} went down {times} times of late; it is let back in {pause_ms} ms at the earliest")
            }
            Notice::Unreachable { name, reason } => {
                write!(f, "node {name} cannot be reached from here, though its agent announces it: {reason}")
            }
            Notice::Stranger { name, address, found, announced } => write!(
                f,
                "node {name}: the redis at {address} is not the one that its agent watches (run id {found} there, {announced} announced), and is \
                 left alone: check the agent's -h, --announce-host and --announce-port, and that no other agent announces this name"
            ),
            Notice::BadAnnouncement { name, reason } => write!(f, "an announcement of {name:?} is ignored: {reason}"),
            Notice::Cleared { name } => {
                write!(f, "node {name} gets slots back before it was purged of their keys, and was flushed first")
            }
            Notice::ClearFailed { name, reason } => {
                write!(f, "node {name} cannot be flushed before it gets slots back, which is tried again: {reason}")
            }
            Notice::Purged { name } => write!(f, "node {name} has purged the keys that are not its any more"),
            Notice::Laggard { epoch } => {
                write!(
                    f,
                    "a proxy was out of touch and may have routed by the map of epoch {epoch} until now; nodes are purged once more"
                )
            }
            Notice::Outdone { epoch } => {
                write!(
                    f,
                    "a proxy goes by the map of epoch {epoch}, of which the master knows nothing: another coordinator wrote it to a \
                     master that was cut off or has lost it; all nodes are emptied"
                )
            }
            Notice::Wished { name, wish } => match wish {
                Wish::Drain { .. } => write!(f, "an operator drains node {name}"),
                Wish::Undrain => write!(f, "an operator lets node {name} be up again"),
                Wish::Weight { weight } => write!(f, "an operator gives node {name} the weight {weight}"),
                Wish::Forget { .. } => write!(f, "an operator forgets node {name}"),
            },
            Notice::AllSilent { nodes } => write!(
                f,
                "all {nodes} nodes went silent at once: that is rather this host's network; nothing is published until one answers or their agents are silent too"
            ),
            Notice::StoodStill { late_ms } => {
                write!(f, "this coordinator did not run for {late_ms} ms; waiting anew for answers")
            }
        }
    }
}
