//! The topology: who owns which key, as one immutable value that is swapped whole when membership changes.
//!
//! It follows from the node map, the placement and the time alone, so that every reader of the same map comes to the same answer.

use std::{fmt, str::FromStr, sync::Arc};

use crate::{
    contract::{Endpoint, Epoch, Node, NodeMap},
    placement::{
        legacy::Ring,
        slots::{self, Bidder, Bids, SLOTS},
    },
};

/// Index of a node in [`Topology::nodes`]; stable only within one topology.
pub type NodeIndex = u16;

/// Least and greatest weight of a node under `slots`; others are taken for the nearest of these.
pub const WEIGHT_MIN: f64 = 0.01;
/// See [`WEIGHT_MIN`].
pub const WEIGHT_MAX: f64 = 100.0;

/// Most nodes that a topology holds; of a longer map the first by name.
pub const NODES_MAX: usize = 16_384;

/// How keys are given to nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PlacementKind {
    /// 16,384 slots by CRC16 of the hash tag; see [`crate::placement::slots`].
    #[default]
    Slots,
    /// The ring of the old system; see [`crate::placement::legacy`].
    Legacy,
}

impl FromStr for PlacementKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "slots" => Ok(PlacementKind::Slots),
            "legacy" => Ok(PlacementKind::Legacy),
            _ => Err(format!("{text:?} is not a placement (slots or legacy)")),
        }
    }
}

impl fmt::Display for PlacementKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PlacementKind::Slots => "slots",
            PlacementKind::Legacy => "legacy",
        })
    }
}

/// What a placement goes by besides the node map.
#[derive(Debug, Clone, PartialEq)]
pub struct PlacementOptions {
    /// How keys are given to nodes.
    pub kind: PlacementKind,
    /// For how long a node that went down keeps its keys, in ms: they have no owner until then. One that came up has them only after as
    /// long, too, as the old system's clients had it. 0: they move at once.
    pub down_node_expiry_ms: u64,
    /// Whether a node keeps the keys that are another's at home in a guest database. Needs a coordinator that flushes those; only
    /// the `slots` placement can.
    pub guest_databases: bool,
    /// `bucketsPerNode` of the old system.
    pub legacy_buckets_per_node: u32,
}

impl Default for PlacementOptions {
    fn default() -> Self {
        PlacementOptions {
            kind: PlacementKind::Slots,
            down_node_expiry_ms: 0,
            guest_databases: false,
            legacy_buckets_per_node: 16,
        }
    }
}

/// A node as the topology knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct TopologyNode {
    /// Decides where its keys live.
    pub name: Arc<str>,
    /// Where its redis listens.
    pub endpoint: Endpoint,
    /// Its share relative to the others; under `slots` from [`WEIGHT_MIN`] to [`WEIGHT_MAX`], under `legacy` whatever the map says.
    pub weight: f64,
    /// Whether keys may be sent to it.
    pub up: bool,
    /// When `up` last changed, in ms since the Unix epoch.
    pub state_change_time_ms: u64,
    /// `run_id` of its redis, if its writer told.
    pub run_id: Option<String>,
    /// Version of its redis, if its writer told.
    pub version: Option<String>,
}

/// What two keys must have in common for one command to use both: the slot under `slots`, the node under `legacy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(u32);

/// Who holds a key now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The node.
    pub node: NodeIndex,
    /// Whether it keeps the key as a guest: in database d + 8 for a client's database d.
    pub guest: bool,
}

/// Why nobody holds a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unowned {
    /// No node is up.
    NoNodeUp,
    /// Its node changed its state too short a while ago (`down_node_expiry_ms`).
    Withheld {
        /// That node.
        node: NodeIndex,
        /// Until when, in ms since the Unix epoch.
        until_ms: u64,
    },
}

/// All that the topology says of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// Its slot; none under `legacy`.
    pub slot: Option<u16>,
    /// Its owner among all known nodes, up or down.
    pub home: Option<NodeIndex>,
    /// Its owner among those that are up, or why there is none.
    pub owner: Result<Owner, Unowned>,
}

/// Who owns which key.
#[derive(Debug)]
pub struct Topology {
    epoch: Epoch,
    options: PlacementOptions,
    /// Each shared with the topologies before that have the same.
    nodes: Vec<Arc<TopologyNode>>,
    keys: Keys,
    next_change_ms: Option<u64>,
}

enum Keys {
    Slots {
        /// By slot; see [`pack`].
        owners: Box<[u16; SLOTS]>,
        /// Those of these nodes by their names and weights, whatever their state: the next topology may well have the same.
        bids: Arc<Bids>,
    },
    Legacy(Ring),
}

/// Without its tables, which nobody can read.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Keys::Slots { .. } => "Slots",
            Keys::Legacy(_) => "Legacy",
        };
        f.debug_struct(name).finish_non_exhaustive()
    }
}

/// A slot's owner in 16 bits: twice the node's index, plus one for a guest.
const NO_NODE_UP: u16 = u16::MAX;
/// The home of the slot went down or came up of late, and keeps its keys for a while.
const WITHHELD: u16 = u16::MAX - 1;

const _: () = assert!(NODES_MAX * 2 < WITHHELD as usize);

impl Topology {
    /// Works out who owns what. `now_ms` (ms since the Unix epoch) matters only with a `down_node_expiry_ms`; see
    /// [`Topology::next_change_ms`].
    pub fn build(map: &NodeMap, epoch: Epoch, options: &PlacementOptions, now_ms: u64) -> Topology {
        Self::build_after(None, map, epoch, options, now_ms)
    }

    /// What follows this one, by the same options: equal to what [`Topology::build`] gives, at a small part of its cost where the map
    /// has the same nodes with the same weights.
    pub fn successor(&self, map: &NodeMap, epoch: Epoch, now_ms: u64) -> Topology {
        Self::build_after(Some(self), map, epoch, &self.options, now_ms)
    }

    fn build_after(before: Option<&Topology>, map: &NodeMap, epoch: Epoch, options: &PlacementOptions, now_ms: u64) -> Topology {
        if map.len() > NODES_MAX {
            tracing::error!("the node map has {} nodes; those after the first {NODES_MAX} are left out", map.len());
        }
        let mut known_before = before.map_or(&[][..], |before| &before.nodes).iter().peekable();
        let nodes: Vec<_> = map
            .iter()
            .take(NODES_MAX)
            .map(|(name, node)| {
                // Both are in the order of their names.
                while known_before.next_if(|known| *known.name < **name).is_some() {}
                let known_before = known_before.next_if(|known| *known.name == **name && known.is_of(node, options.kind));
                known_before.map_or_else(|| Arc::new(known(name, node, options.kind)), Arc::clone)
            })
            .collect();
        let expiry_ms = options.down_node_expiry_ms;
        let ends = nodes.iter().map(|node| node.state_change_time_ms.saturating_add(expiry_ms));
        let next_change_ms = if expiry_ms == 0 { None } else { ends.filter(|end| *end > now_ms).min() };
        let keys = match options.kind {
            PlacementKind::Slots => by_slot(before, &nodes, options, now_ms),
            PlacementKind::Legacy => Keys::Legacy(Ring::build(&nodes, options.legacy_buckets_per_node, expiry_ms, now_ms)),
        };
        Topology { epoch, options: options.clone(), nodes, keys, next_change_ms }
    }

    /// The epoch of the map that this was built from; 0 where the map had none.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// What it was built by.
    pub fn options(&self) -> &PlacementOptions {
        &self.options
    }

    /// All known nodes by name, those that are down included.
    pub fn nodes(&self) -> &[Arc<TopologyNode>] {
        &self.nodes
    }

    /// The node of this name.
    pub fn index_of(&self, name: &str) -> Option<NodeIndex> {
        self.nodes.binary_search_by(|node| (*node.name).cmp(name)).ok().map(|index| index as NodeIndex)
    }

    /// When building it anew from the same map would give another result, in ms since the Unix epoch.
    pub fn next_change_ms(&self) -> Option<u64> {
        self.next_change_ms
    }

    /// What decides whether a key may be used together with another, and who owns it.
    #[inline(always)]
    pub fn place(&self, key: &[u8]) -> Place {
        match &self.keys {
            Keys::Slots { .. } => Place(u32::from(slots::slot_of(key))),
            Keys::Legacy(ring) => Place(ring.bucket_owner(key)),
        }
    }

    /// Who owns the keys of a place of this topology.
    ///
    /// # Errors
    /// If nobody does now.
    #[inline]
    pub fn owner(&self, place: Place) -> Result<Owner, Unowned> {
        match &self.keys {
            Keys::Slots { owners, .. } => match owners[place.0 as usize % SLOTS] {
                packed if packed < WITHHELD => Ok(Owner { node: packed >> 1, guest: packed & 1 != 0 }),
                packed => Err(self.unowned(place, packed)),
            },
            Keys::Legacy(ring) => ring.owner(place.0, &self.nodes, self.options.down_node_expiry_ms),
        }
    }

    #[cold]
    fn unowned(&self, place: Place, packed: u16) -> Unowned {
        let home = match &self.keys {
            Keys::Slots { bids, .. } => bids.homes().get(place.0 as usize % SLOTS).copied(),
            Keys::Legacy(_) => None,
        };
        match home {
            Some(node) if packed == WITHHELD => {
                let since_ms = self.nodes[usize::from(node)].state_change_time_ms;
                Unowned::Withheld { node, until_ms: since_ms.saturating_add(self.options.down_node_expiry_ms) }
            }
            _ => Unowned::NoNodeUp,
        }
    }

    /// Who owns a slot's keys. Only the `slots` placement has slots; under `legacy` nobody owns any.
    ///
    /// # Errors
    /// If nobody does now.
    pub fn slot_owner(&self, slot: u16) -> Result<Owner, Unowned> {
        match &self.keys {
            Keys::Slots { .. } => self.owner(Place(u32::from(slot))),
            Keys::Legacy(_) => Err(Unowned::NoNodeUp),
        }
    }

    /// All there is to say of a key.
    pub fn locate(&self, key: &[u8]) -> Location {
        let place = self.place(key);
        let owner = self.owner(place);
        match &self.keys {
            Keys::Slots { bids, .. } => {
                Location { slot: Some(place.0 as u16), home: bids.homes().get(place.0 as usize).copied(), owner }
            }
            Keys::Legacy(ring) => Location { slot: None, home: ring.home(key), owner },
        }
    }

    /// What part of all keys each node holds now, by [`NodeIndex`]; they add up to 1, or to less where keys are withheld.
    pub fn shares(&self) -> Vec<f64> {
        let mut shares = vec![0.0; self.nodes.len()];
        match &self.keys {
            Keys::Slots { .. } => {
                for owner in (0..SLOTS as u16).filter_map(|slot| self.slot_owner(slot).ok()) {
                    shares[usize::from(owner.node)] += 1.0 / SLOTS as f64;
                }
            }
            Keys::Legacy(ring) => ring.add_shares(&mut shares),
        }
        shares
    }

    /// For each node, whether it holds keys now that are another's at home, in its guest databases.
    pub fn hosts_of_guests(&self) -> Vec<bool> {
        let mut hosts = vec![false; self.nodes.len()];
        for owner in (0..SLOTS as u16).filter_map(|slot| self.slot_owner(slot).ok()).filter(|owner| owner.guest) {
            hosts[usize::from(owner.node)] = true;
        }
        hosts
    }

    /// The buckets of the old system's ring in order, each with its node; none under `slots`.
    pub fn legacy_buckets(&self) -> impl Iterator<Item = (u32, NodeIndex)> {
        match &self.keys {
            Keys::Slots { .. } => None,
            Keys::Legacy(ring) => Some(ring.buckets()),
        }
        .into_iter()
        .flatten()
    }

    /// The old system's choice by number: of the nodes that are up, in JavaScript's order of their names, the `number`-th modulo
    /// their count.
    pub fn by_number(&self, number: i64) -> Option<NodeIndex> {
        let mut up: Vec<_> = (0..self.nodes.len()).filter(|index| self.nodes[*index].up).collect();
        up.sort_by_key(|index| self.nodes[*index].name.encode_utf16().collect::<Vec<_>>());
        // The remainder's sign is dropped, not wrapped around.
        let chosen = number.unsigned_abs().checked_rem(up.len() as u64)?;
        Some(up[chosen as usize] as NodeIndex)
    }
}

/// The weight that the `slots` placement takes for this one.
pub(crate) fn slots_weight(weight: f64) -> f64 {
    if weight.is_nan() { WEIGHT_MIN } else { weight.clamp(WEIGHT_MIN, WEIGHT_MAX) }
}

impl TopologyNode {
    /// Whether it is what the topology knows of this node, which has its name.
    fn is_of(&self, node: &Node, kind: PlacementKind) -> bool {
        (self.up, self.state_change_time_ms) == (node.up, node.state_change_time)
            && self.weight.to_bits() == known_weight(node, kind).to_bits()
            && (&self.run_id, &self.version) == (&node.run_id, &node.version)
            && self.endpoint == node.config
    }
}

fn known_weight(node: &Node, kind: PlacementKind) -> f64 {
    match kind {
        PlacementKind::Slots => slots_weight(node.weight),
        // The old ring makes what it makes of any number, and must here too.
        PlacementKind::Legacy => node.weight,
    }
}

fn known(name: &str, node: &Node, kind: PlacementKind) -> TopologyNode {
    let weight = known_weight(node, kind);
    if weight != node.weight && kind == PlacementKind::Slots {
        tracing::warn!(node = name, "its weight of {} is taken for {weight}", node.weight);
    }
    TopologyNode {
        name: name.into(),
        endpoint: node.config.clone(),
        weight,
        up: node.up,
        state_change_time_ms: node.state_change_time,
        run_id: node.run_id.clone(),
        version: node.version.clone(),
    }
}

fn by_slot(before: Option<&Topology>, nodes: &[Arc<TopologyNode>], options: &PlacementOptions, now_ms: u64) -> Keys {
    let bidders: Vec<_> = nodes.iter().map(|node| Bidder { name: &node.name, weight: node.weight }).collect();
    let bids = match before {
        Some(Topology { nodes: same, keys: Keys::Slots { bids, .. }, .. }) if bid_alike(same, nodes) => bids.clone(),
        _ => Arc::new(Bids::hear(&bidders)),
    };
    let (homes, holders) = (bids.homes(), bids.holders(&bidders, |node| nodes[usize::from(node)].up));
    let withheld: Vec<bool> = nodes
        .iter()
        .map(|node| node.state_change_time_ms.saturating_add(options.down_node_expiry_ms) > now_ms)
        .map(|recent| recent && options.down_node_expiry_ms > 0)
        .collect();
    let mut owners = Box::new([NO_NODE_UP; SLOTS]);
    for (slot, owner) in owners.iter_mut().enumerate() {
        *owner = match (homes.get(slot), holders.get(slot)) {
            (Some(home), _) if withheld[usize::from(*home)] => WITHHELD,
            (Some(home), Some(holder)) => pack(*holder, options.guest_databases && home != holder),
            _ => NO_NODE_UP,
        };
    }
    Keys::Slots { owners, bids }
}

fn bid_alike(some: &[Arc<TopologyNode>], others: &[Arc<TopologyNode>]) -> bool {
    let bids_as = |(one, other): (&Arc<TopologyNode>, &Arc<TopologyNode>)| {
        Arc::ptr_eq(one, other) || (one.name == other.name && one.weight == other.weight)
    };
    some.len() == others.len() && some.iter().zip(others).all(bids_as)
}

fn pack(node: NodeIndex, guest: bool) -> u16 {
    node << 1 | u16::from(guest)
}
