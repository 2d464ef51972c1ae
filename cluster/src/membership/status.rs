//! What a coordinator knows, for those who ask it.

use crate::contract::Epoch;

/// A coordinator's view at one moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Status {
    /// It holds the lease and knows the map.
    pub leading: bool,
    /// The master answers.
    pub master_up: bool,
    /// Why it is of no use: for longer than a few leases it has neither led nor seen another lead, or not heard agents. `None` where it is well.
    pub unwell: Option<String>,
    /// Epoch of the last map that was acknowledged, read or heard; 0 before any.
    pub epoch: Epoch,
    /// All nodes it knows of, by name. Only a leader's are up to date.
    pub nodes: Vec<NodeStatus>,
}

impl Status {
    /// How many nodes the last acknowledged map shows up.
    pub fn published_up(&self) -> usize {
        self.nodes.iter().filter(|node| node.published_up).count()
    }
}

/// One node of a [`Status`].
#[derive(Debug, Clone, PartialEq)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Where the map says it listens.
    pub address: String,
    /// Its weight.
    pub weight: f64,
    /// What the coordinator makes of it.
    pub state: NodeState,
    /// Why, where there is something to say.
    pub reason: Option<String>,
    /// The last acknowledged map shows it up.
    pub published_up: bool,
}

/// What a coordinator makes of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    /// Announced, and not emptied yet.
    Joining,
    /// Up.
    Up,
    /// Up, while a new connection to it is being opened.
    Doubtful,
    /// Down.
    Down,
    /// It went down too often of late, and waits.
    HeldBack,
    /// An operator drained it.
    Drained,
    /// Went in good order.
    Left,
    /// It is the master itself.
    Refused,
}
