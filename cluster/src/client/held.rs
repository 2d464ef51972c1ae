//! Which node map a reader believes.

use crate::contract::{EPOCH_MAX, Epoch, MapDelta, NodeMap};
use crate::delta::{Unfit, check};
use crate::flaw::{self, Flaw};

/// How long a reader that holds a map with an epoch waits before it believes one without, in ms.
///
/// A map has no epoch where an old coordinator wrote it, or where the master lost its memory and an agent of the old system was
/// quicker than our coordinator to write to it. The second is over within seconds; the first is a fleet that moves back.
const NO_EPOCH_TRUSTED_AFTER_MS: u64 = 30_000;

/// How maps come to a reader.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Ways {
    /// Whoever writes the map has not been seen yet: by either way.
    #[default]
    Unknown,
    /// As deltas.
    Deltas,
    /// Whole: it was written by a coordinator that sends no deltas.
    Whole,
}

/// The map that a reader holds, and the rules by which another takes its place.
#[derive(Debug, Default)]
pub(crate) struct Held {
    map: NodeMap,
    /// The map's [`check`].
    check: u32,
    epoch: Option<Epoch>,
    ways: Ways,
    /// Since when only maps without an epoch were seen, in ms.
    no_epoch_since_ms: Option<u64>,
}

/// Why a map was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Ignored {
    #[error("it is the one that is held")]
    Same,
    #[error("its epoch is older than that of the one that is held")]
    Older,
    #[error("it has no nodes")]
    Empty,
    #[error("it has no epoch, and the one that is held has")]
    NoEpoch,
    #[error("{0}")]
    Unfit(Unfit),
}

impl Held {
    pub(crate) fn map(&self) -> &NodeMap {
        &self.map
    }

    /// The epoch of the map; 0 where it has none.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch.unwrap_or(0)
    }

    /// The epoch of the map, if it has one.
    pub(crate) fn known_epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    /// The map that is held was seen to be the one that stands.
    pub(crate) fn holds_last(&mut self) {
        self.no_epoch_since_ms = None;
    }

    /// Whether maps have to be listened for where they are sent whole.
    pub(crate) fn needs_whole(&self) -> bool {
        self.ways != Ways::Deltas
    }

    /// Learns from a read how maps come: whether there is one, its epoch, and the epoch that the last delta leads to. Of a master
    /// that has forgotten everything nothing is learned: whoever wrote its map before will most likely do so again.
    pub(crate) fn learn_ways(&mut self, is_empty: bool, epoch: Option<Epoch>, delta: Option<Epoch>) {
        if !is_empty || epoch.is_some() {
            self.ways = if epoch.is_some() && delta == epoch { Ways::Deltas } else { Ways::Whole };
        }
    }

    /// Takes the map that a delta leads to, if it leads there from the one that is held. Otherwise there is something to be read,
    /// unless it was older.
    pub(crate) fn apply(&mut self, delta: &MapDelta) -> Result<Change, Ignored> {
        if delta.epoch > EPOCH_MAX {
            return Err(Ignored::NoEpoch);
        }
        match self.epoch() {
            held if delta.epoch == held => return Err(Ignored::Same),
            held if delta.epoch < held && !flaw::has(Flaw::ReaderTakesOlder) => return Err(Ignored::Older),
            _ => {}
        }
        self.fits(delta).map_err(Ignored::Unfit)?;
        let empties = delta.changed.is_empty() && self.map.keys().all(|name| delta.removed.contains(name));
        if empties && !self.map.is_empty() && !flaw::has(Flaw::ReaderTakesEmpty) {
            return Err(Ignored::Empty);
        }
        let names = delta.removed.iter().chain(delta.changed.keys());
        let before = names.filter_map(|name| Some((name.clone(), self.map.get(name)?.clone()))).collect();
        let change = Change::between(&before, &delta.changed);
        delta.apply_to(&mut self.map);
        self.check = delta.check;
        self.epoch = Some(delta.epoch);
        self.no_epoch_since_ms = None;
        Ok(change)
    }

    /// Whether a delta applies to the map that is held.
    pub(crate) fn fits(&self, delta: &MapDelta) -> Result<(), Unfit> {
        delta.fits(&self.map, self.epoch(), self.check)
    }

    /// Takes a map that was read or received, if it is to be believed. Returns what changed.
    pub(crate) fn offer(&mut self, mut map: NodeMap, epoch: Option<Epoch>, now_ms: u64) -> Result<Change, Ignored> {
        // Changes at every message of an agent, and nobody's keys move for it.
        map.values_mut().for_each(|node| node.last_ping = None);
        let epoch = epoch.filter(|epoch| *epoch <= EPOCH_MAX);
        if map.is_empty() && !self.map.is_empty() && !flaw::has(Flaw::ReaderTakesEmpty) {
            return Err(Ignored::Empty);
        }
        match (self.epoch, epoch) {
            (Some(held), Some(offered)) if offered < held && !flaw::has(Flaw::ReaderTakesOlder) => return Err(Ignored::Older),
            (Some(held), Some(offered)) if offered == held => {
                self.no_epoch_since_ms = None;
                return Err(Ignored::Same);
            }
            (Some(_), None) => {
                let since_ms = *self.no_epoch_since_ms.get_or_insert(now_ms);
                if now_ms.saturating_sub(since_ms) < NO_EPOCH_TRUSTED_AFTER_MS {
                    return Err(Ignored::NoEpoch);
                }
            }
            (None, None) if map == self.map => return Err(Ignored::Same),
            _ => {}
        }
        self.no_epoch_since_ms = None;
        self.epoch = epoch;
        self.check = check(&map);
        let before = std::mem::replace(&mut self.map, map);
        Ok(Change::between(&before, &self.map))
    }
}

/// What is different in a new map, for the log.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) came: Vec<String>,
    pub(crate) went: Vec<String>,
    pub(crate) other: Vec<String>,
}

impl Change {
    fn between(before: &NodeMap, after: &NodeMap) -> Self {
        let is_up_in = |map: &NodeMap, name: &str| map.get(name).is_some_and(|node| node.up);
        let mut change = Change::default();
        for (name, node) in after.iter().filter(|(_, node)| node.up) {
            match before.get(name).filter(|before| before.up) {
                None => change.came.push(name.clone()),
                Some(before) => {
                    let is_same = before.config == node.config
                        && before.weight.to_bits() == node.weight.to_bits()
                        && before.run_id == node.run_id;
                    if !is_same {
                        change.other.push(name.clone());
                    }
                }
            }
        }
        let went = before.iter().filter(|(name, node)| node.up && !is_up_in(after, name));
        change.went.extend(went.map(|(name, _)| name.clone()));
        change
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut first = true;
        for (names, what) in [(&self.came, "came up"), (&self.went, "went down"), (&self.other, "changed")] {
            if !names.is_empty() {
                write!(f, "{}{} {what}", if first { "" } else { "; " }, names.join(", "))?;
                first = false;
            }
        }
        if first { f.write_str("no node that is up is concerned") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{Endpoint, Node};

    fn map(nodes: &[(&str, bool)]) -> NodeMap {
        nodes
            .iter()
            .map(|(name, up)| {
                let node = Node {
                    config: Endpoint::new(*name, 1),
                    weight: 1.0,
                    up: *up,
                    state_change_time: 1,
                    name: (*name).to_owned(),
                    last_ping: Some(7),
                    run_id: None,
                    version: None,
                    upkeep: Default::default(),
                    other: Default::default(),
                };
                ((*name).to_owned(), node)
            })
            .collect()
    }

    #[test]
    fn only_a_newer_map_is_taken() {
        let mut held = Held::default();
        assert_eq!(held.offer(map(&[("a", true)]), Some(5), 0).unwrap().came, ["a"]);
        for (nodes, epoch, expect) in [
            (map(&[("b", true)]), Some(4), Ignored::Older),
            (map(&[("b", true)]), Some(5), Ignored::Same),
            (map(&[]), Some(6), Ignored::Empty),
            (map(&[("b", true)]), None, Ignored::NoEpoch),
            (map(&[("b", true)]), Some(EPOCH_MAX + 1), Ignored::NoEpoch),
        ] {
            assert_eq!(held.offer(nodes, epoch, 0), Err(expect));
        }
        let change = held.offer(map(&[("a", false), ("b", true)]), Some(6), 0).unwrap();
        assert_eq!(change.to_string(), "b came up; a went down");
        assert_eq!(held.epoch(), 6);
    }

    /// A delta that leads from the map `before` of epoch `from` to the map `after` of the next one.
    fn delta(before: &[(&str, bool)], from: Epoch, after: &[(&str, bool)]) -> MapDelta {
        MapDelta::between(&map(before), from, &map(after), from + 1)
    }

    const ONE: &[(&str, bool)] = &[("a", true)];
    const TWO: &[(&str, bool)] = &[("a", true), ("b", true)];
    const DOWN: &[(&str, bool)] = &[("a", false), ("b", true)];

    #[test]
    fn deltas_are_taken_one_after_the_other() {
        let mut held = Held::default();
        assert_eq!(held.apply(&delta(&[], 0, ONE)).unwrap().came, ["a"], "from nothing");
        assert_eq!(held.apply(&delta(ONE, 1, TWO)).unwrap().came, ["b"]);
        assert_eq!(held.apply(&delta(TWO, 2, DOWN)).unwrap().went, ["a"]);
        assert_eq!((held.epoch(), held.map().len()), (3, 2));
        // One that says nothing but a new epoch.
        assert_eq!(held.apply(&delta(DOWN, 3, DOWN)), Ok(Change::default()));
        // Epochs jump by the time of day.
        let jump = MapDelta { epoch: 1_795_000_000_000, ..delta(DOWN, 4, ONE) };
        assert!(held.apply(&jump).is_ok());
        assert_eq!((held.epoch(), held.map().len()), (1_795_000_000_000, 1));
    }

    #[test]
    fn a_delta_is_taken_upon_its_base_alone() {
        const GAP: Ignored = Ignored::Unfit(Unfit::Gap);
        for (what, delta, expect) in [
            ("twice", delta(&[], 4, ONE), Ignored::Same),
            ("late", delta(&[], 3, TWO), Ignored::Older),
            ("one was lost", delta(TWO, 6, DOWN), GAP),
            ("from nothing", MapDelta { from: 0, ..delta(TWO, 6, DOWN) }, GAP),
            ("of another base", delta(TWO, 5, DOWN), Ignored::Unfit(Unfit::Check)),
            ("nothing is left", delta(ONE, 5, &[]), Ignored::Empty),
            ("of no epoch that there is", MapDelta { epoch: EPOCH_MAX + 1, ..delta(ONE, 5, TWO) }, Ignored::NoEpoch),
        ] {
            let mut held = Held::default();
            held.offer(map(ONE), Some(5), 0).unwrap();
            assert_eq!(held.apply(&delta), Err(expect), "{what}");
            assert_eq!((held.epoch(), held.map().len()), (5, 1), "{what}");
            // It goes on with what is right.
            assert!(held.apply(&self::delta(ONE, 5, TWO)).is_ok());
        }
        // Out of order, the later one waits for nobody: the map is read, and the earlier one is old by then.
        let mut held = Held::default();
        assert_eq!(held.apply(&delta(ONE, 5, TWO)), Err(GAP), "before the map was read");
        held.offer(map(TWO), Some(6), 0).unwrap();
        assert_eq!(held.apply(&delta(ONE, 5, TWO)), Err(Ignored::Same));
        assert!(held.apply(&delta(TWO, 6, DOWN)).is_ok());
    }

    #[test]
    fn whole_maps_are_listened_for_only_where_no_deltas_come() {
        let mut held = Held::default();
        assert!(held.needs_whole());
        for (what, is_empty, epoch, delta, expect) in [
            ("an empty master", true, None, None, true),
            ("an old coordinator", false, None, None, true),
            ("one that sends deltas", false, Some(7), Some(7), false),
            ("a master that lost its memory", true, None, None, false),
            ("one that sends none", false, Some(8), Some(7), true),
            ("an old coordinator beside what one that does has left", false, None, Some(7), true),
            ("no nodes, as deltas say", true, Some(9), Some(9), false),
        ] {
            held.learn_ways(is_empty, epoch, delta);
            assert_eq!(held.needs_whole(), expect, "{what}");
        }
    }

    #[test]
    fn without_epochs_every_difference_counts() {
        let mut held = Held::default();
        assert!(held.offer(map(&[("a", true)]), None, 0).is_ok());
        let mut later = map(&[("a", true)]);
        later.get_mut("a").unwrap().last_ping = Some(99);
        assert_eq!(held.offer(later, None, 0), Err(Ignored::Same));
        assert!(held.offer(map(&[("a", false)]), None, 0).is_ok());
        assert!(held.offer(map(&[("a", true)]), Some(3), 0).is_ok());
    }

    #[test]
    fn a_fleet_that_moves_back_to_an_old_coordinator_is_followed_after_a_while() {
        let mut held = Held::default();
        held.offer(map(&[("a", true)]), Some(5), 0).unwrap();
        assert_eq!(held.offer(map(&[("b", true)]), None, 1_000), Err(Ignored::NoEpoch));
        assert_eq!(held.offer(map(&[("b", true)]), None, 30_999), Err(Ignored::NoEpoch));
        assert!(held.offer(map(&[("b", true)]), None, 31_000).is_ok());
        // One map with an epoch in between starts the count again.
        let mut held = Held::default();
        held.offer(map(&[("a", true)]), Some(5), 0).unwrap();
        held.offer(map(&[("b", true)]), None, 1_000).unwrap_err();
        held.offer(map(&[("a", true)]), Some(5), 20_000).unwrap_err();
        assert_eq!(held.offer(map(&[("b", true)]), None, 40_000), Err(Ignored::NoEpoch));
    }
}
