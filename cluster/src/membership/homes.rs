//! Homes that change for good, and what stays behind: a node that lost slots keeps their keys until they are purged, and must not be
//! given such a slot back before.
//!
//! A slot's *foreign* keys are those on a node that is not its home any more. They are done away with by a purge or a flush that
//! began when no proxy could write there any more: when all had confirmed the map by which the node lost the slot.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    contract::{Epoch, NodeMap},
    flaw::{self, Flaw},
    placement::slots::{Bidder, Bids},
    topology,
};

/// Gives every slot to one of these nodes, each with its weight: indexes into the list, as many as there are slots.
pub type AssignHomes = fn(&[(&str, f64)]) -> Box<[u16]>;

/// By the `slots` placement.
pub(super) fn by_slots(nodes: &[(&str, f64)]) -> Box<[u16]> {
    let bidders: Vec<_> = nodes.iter().map(|(name, weight)| Bidder { name, weight: *weight }).collect();
    Bids::hear(&bidders).homes().into()
}

/// Follows the homes from map to map.
#[derive(Debug)]
pub(super) struct Homes {
    assign: AssignHomes,
    /// Those of the map that is known to have been published.
    current: Assigned,
    /// Those of the map that is wanted next, kept while it must wait.
    proposed: Assigned,
    /// The epoch of the last map that gave keys new homes, or is treated as if it had; 0 if none is known.
    changed: Epoch,
    nodes: BTreeMap<String, Foreign>,
    /// Nodes that must be flushed before the map that is wanted next may be published.
    pub(super) unclean: BTreeSet<String>,
}

/// What is known of the foreign keys on one node.
#[derive(Debug, Default)]
struct Foreign {
    slots: SlotSet,
    /// The epoch of the map by which it last lost a slot.
    since: Epoch,
    /// When that was published, as far as is known.
    since_ms: u64,
    /// The greatest epoch up to which its losses were made up for.
    cleared_through: Epoch,
    /// When it was last told to purge.
    ordered_at_ms: Option<u64>,
    /// It may have begun to do away with what it lost up to `since`, at our word or at that of another leader.
    is_begun: bool,
    /// Somebody wrote by an old map after all was thought to be done: what it lost is lost by the next map again.
    again: bool,
}

/// Names and weights, and the homes that follow from them.
#[derive(Debug, Default)]
struct Assigned {
    nodes: Vec<(String, f64)>,
    homes: Box<[u16]>,
}

impl Assigned {
    fn is_of(&self, map: &NodeMap) -> bool {
        self.nodes.len() == map.len()
            && self.nodes.iter().zip(map).all(|((name, weight), (other, node))| {
                name == other && weight.to_bits() == topology::slots_weight(node.weight).to_bits()
            })
    }

    fn of(map: &NodeMap, assign: AssignHomes) -> Self {
        let nodes: Vec<_> = map.iter().map(|(name, node)| (name.clone(), topology::slots_weight(node.weight))).collect();
        let lent: Vec<_> = nodes.iter().map(|(name, weight)| (name.as_str(), *weight)).collect();
        let homes = if lent.is_empty() { Box::default() } else { assign(&lent) };
        Assigned { nodes, homes }
    }

    fn home(&self, slot: usize) -> Option<&str> {
        self.homes.get(slot).map(|index| self.nodes[usize::from(*index)].0.as_str())
    }

    /// Each slot that has another home in `other`, with the two.
    fn moves<'a>(&'a self, other: &'a Assigned) -> impl Iterator<Item = (usize, &'a str, &'a str)> {
        (0..self.homes.len()).filter_map(|slot| {
            let (from, to) = (self.home(slot)?, other.home(slot)?);
            (from != to).then_some((slot, from, to))
        })
    }
}

impl Homes {
    pub(super) fn new(assign: AssignHomes) -> Self {
        Homes {
            assign,
            current: Assigned::default(),
            proposed: Assigned::default(),
            changed: 0,
            nodes: BTreeMap::new(),
            unclean: BTreeSet::new(),
        }
    }

    /// Whether this map's homes are those of the last.
    pub(super) fn is_of(&self, map: &NodeMap) -> bool {
        self.current.is_of(map)
    }

    /// The epoch of the last map that gave keys new homes, if the one of this epoch has been published too: what was lost by the one before
    /// may be lost by this one again, and whoever leads next has to know.
    pub(super) fn changed_with(&self, map: &NodeMap, epoch: Epoch) -> Epoch {
        let moves = !self.current.is_of(map) && !self.current.nodes.is_empty();
        if moves || self.lose_by_next_map() { epoch } else { self.changed }
    }

    /// Whether some lose by the next map what they have lost before, whatever it says.
    pub(super) fn lose_by_next_map(&self) -> bool {
        self.nodes.values().any(|foreign| foreign.again)
    }

    /// This map was published next, and `changed` as the epoch of the last that gave keys new homes.
    pub(super) fn follow(&mut self, map: &NodeMap, epoch: Epoch, changed: Epoch, now_ms: u64) {
        for foreign in self.nodes.values_mut().filter(|foreign| foreign.again && changed == epoch) {
            foreign.again = false;
            foreign.loses(epoch, now_ms);
            self.changed = epoch;
        }
        if self.current.is_of(map) {
            return;
        }
        let next = if self.proposed.is_of(map) { std::mem::take(&mut self.proposed) } else { Assigned::of(map, self.assign) };
        if !self.current.nodes.is_empty() {
            self.changed = epoch;
        }
        // Also those of nodes that are down: they are emptied before they are up, but somebody may still write there by an old map.
        for (slot, from, _) in self.current.moves(&next) {
            let foreign = self.nodes.entry(from.to_owned()).or_default();
            foreign.slots.insert(slot, next.homes.len());
            foreign.loses(epoch, now_ms);
        }
        self.current = next;
    }

    /// This map stands, and what stood before is not known, but that keys last got new homes by the map of epoch `changed`.
    pub(super) fn resume(&mut self, map: &NodeMap, changed: Epoch, now_ms: u64) {
        if self.current.is_of(map) && self.changed == changed {
            return;
        }
        if !self.current.is_of(map) {
            self.current = Assigned::of(map, self.assign);
        }
        self.changed = changed;
        if changed == 0 {
            // They are as they were when the first nodes came, and those were empty.
            return;
        }
        for index in 0..self.current.nodes.len() {
            let name = self.current.nodes[index].0.clone();
            let foreign = self.nodes.entry(name).or_default();
            foreign.fill(&self.current.homes, index as u16);
            foreign.loses(foreign.since.max(changed), now_ms);
        }
    }

    /// Another may have led until now, and told nodes to purge.
    pub(super) fn others_led(&mut self) {
        self.nodes.values_mut().for_each(|foreign| foreign.is_begun = true);
    }

    /// Somebody may have written by the map of epoch `by` until now: whatever was cleared of later losses has to be cleared again, and what is
    /// being cleared of them once more.
    /// Returns whether there is any such; then the map is to be published once more, so that it has an epoch to be confirmed.
    pub(super) fn mistrust(&mut self, by: Epoch) -> bool {
        let mut any = false;
        for (name, foreign) in self.nodes.iter_mut().filter(|(_, foreign)| foreign.may_lack_writes_by(by) && !foreign.again) {
            // One that was forgotten, and is about to come back, has no slots of its own.
            let own = self.current.nodes.binary_search_by(|(other, _)| other.cmp(name));
            foreign.fill(&self.current.homes, own.map_or(u16::MAX, |index| index as u16));
            foreign.again = true;
            // Whatever it was, it does not count any more.
            foreign.cleared_through = 0;
            any = true;
        }
        any
    }

    /// Later maps may have been lost, and some may route by them until they see the next: nothing is known of what anybody has lost.
    pub(super) fn distrust(&mut self, map: &NodeMap) {
        if !self.current.is_of(map) {
            self.current = Assigned::of(map, self.assign);
        }
        for (index, (name, _)) in self.current.nodes.iter().enumerate() {
            let foreign = self.nodes.entry(name.clone()).or_default();
            foreign.fill(&self.current.homes, index as u16);
            foreign.again = true;
        }
    }

    /// Finds the nodes that this map would give slots back whose keys they may still have, but for those that it does not show up:
    /// they are emptied before they are.
    pub(super) fn propose(&mut self, map: &NodeMap) -> BTreeSet<String> {
        if self.current.is_of(map) {
            return BTreeSet::new();
        }
        if !self.proposed.is_of(map) {
            self.proposed = Assigned::of(map, self.assign);
        }
        let mut unclean = BTreeSet::new();
        for (slot, _, to) in self.current.moves(&self.proposed) {
            let has_it = self.nodes.get(to).is_some_and(|foreign| foreign.slots.contains(slot));
            if has_it && !unclean.contains(to) && map.get(to).is_some_and(|node| node.up) {
                unclean.insert(to.to_owned());
            }
        }
        unclean
    }

    /// By which map the node lost what it has foreign keys of, and when; `None` if it has none.
    pub(super) fn lost(&self, name: &str) -> Option<(Epoch, u64)> {
        let foreign = self.nodes.get(name)?;
        (!foreign.slots.is_empty() && !foreign.again).then_some((foreign.since, foreign.since_ms))
    }

    /// Nodes with foreign keys, with when they were last told to purge them.
    pub(super) fn unpurged(&self) -> impl Iterator<Item = (&str, Option<u64>)> {
        let unpurged = self.nodes.iter().filter(|(_, foreign)| !foreign.slots.is_empty() && !foreign.again);
        unpurged.map(|(name, foreign)| (name.as_str(), foreign.ordered_at_ms))
    }

    /// A flush or a purge of the node begins.
    pub(super) fn begun(&mut self, name: &str) {
        if let Some(foreign) = self.nodes.get_mut(name) {
            foreign.is_begun = true;
        }
    }

    pub(super) fn ordered(&mut self, name: &str, now_ms: u64) {
        if let Some(foreign) = self.nodes.get_mut(name) {
            foreign.ordered_at_ms = Some(now_ms);
        }
    }

    /// The node has no key any more of what it lost up to this epoch, and none can come.
    pub(super) fn cleared(&mut self, name: &str, through: Epoch) -> bool {
        let Some(foreign) = self.nodes.get_mut(name) else { return false };
        if foreign.again || foreign.slots.is_empty() || foreign.since > through {
            return false;
        }
        foreign.slots = SlotSet::default();
        foreign.cleared_through = foreign.cleared_through.max(through);
        foreign.ordered_at_ms = None;
        true
    }

    /// Nobody speaks of these any more.
    pub(super) fn retain(&mut self, is_known: impl Fn(&str) -> bool) {
        self.nodes.retain(|name, _| is_known(name));
    }
}

impl Foreign {
    /// It loses slots by the map of this epoch.
    fn loses(&mut self, epoch: Epoch, now_ms: u64) {
        (self.since, self.since_ms) = (epoch, now_ms);
        (self.ordered_at_ms, self.is_begun) = (None, false);
    }

    /// What it lost by later maps than this was done away with, or is being: perhaps before somebody wrote by this one.
    fn may_lack_writes_by(&self, epoch: Epoch) -> bool {
        let is_being_cleared = self.is_begun && !self.slots.is_empty() && !flaw::has(Flaw::BegunCounts);
        self.cleared_through > epoch || is_being_cleared && self.since > epoch
    }

    /// All slots but the node's own.
    fn fill(&mut self, homes: &[u16], own: u16) {
        for slot in (0..homes.len()).filter(|slot| homes[*slot] != own) {
            self.slots.insert(slot, homes.len());
        }
    }
}

/// A set of slots.
#[derive(Debug, Default)]
struct SlotSet(Box<[u64]>);

impl SlotSet {
    fn insert(&mut self, slot: usize, count: usize) {
        if self.0.is_empty() {
            self.0 = vec![0; count.div_ceil(64)].into_boxed_slice();
        }
        self.0[slot / 64] |= 1 << (slot % 64);
    }

    fn contains(&self, slot: usize) -> bool {
        self.0.get(slot / 64).is_some_and(|bits| bits & 1 << (slot % 64) != 0)
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|bits| *bits == 0)
    }
}
