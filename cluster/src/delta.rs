//! What one node map changed of another, as it travels on a channel of its own.
//!
//! It says from which epoch it leads to which, and is good for nobody who does not hold just that map. A check over the map that it
//! leads to shows whether both ends really took the same one for their start: then it is applied, and otherwise the hash is read.

use serde::{Deserialize, Serialize};

use crate::{
    contract::{Epoch, Node, NodeMap},
    flaw::{self, Flaw},
};

/// A message on [`DELTA_BUS`](crate::contract::DELTA_BUS). Fields that a reader does not know it ignores; those of nodes it keeps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MapDelta {
    /// The epoch of the map that it applies to; 0 for a map without one, and for none at all.
    pub from: Epoch,
    /// The epoch of the map that it leads to.
    pub epoch: Epoch,
    /// Nodes that are new or other than before, whole.
    #[serde(default, skip_serializing_if = "NodeMap::is_empty")]
    pub changed: NodeMap,
    /// Names of nodes that are gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<String>,
    /// The [`check`] of the map that it leads to.
    pub check: u32,
}

/// Why a delta cannot be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("it applies to another map")]
    Gap,
    #[error("the map that it leads to is not the one that was written")]
    Check,
}

impl MapDelta {
    /// What leads from the one map to the other. When agents were last heard is nobody's business but the coordinator's.
    pub fn between(base: &NodeMap, from: Epoch, map: &NodeMap, epoch: Epoch) -> Self {
        let differs = |(name, node): &(&String, &Node)| base.get(*name).is_none_or(|before| !same_but_for_ping(before, node));
        MapDelta {
            from,
            epoch,
            changed: map.iter().filter(differs).map(|(name, node)| (name.clone(), without_ping(node))).collect(),
            removed: base.keys().filter(|name| !map.contains_key(*name)).cloned().collect(),
            check: check(map),
        }
    }

    /// The map that it leads to, if `map` with this epoch is the one that it applies to; `map_check` is its [`check`].
    pub(crate) fn applied_to(&self, map: &NodeMap, epoch: Epoch, map_check: u32) -> Result<NodeMap, Unfit> {
        self.fits(map, epoch, map_check)?;
        let mut map = map.clone();
        self.apply_to(&mut map);
        Ok(map)
    }

    /// Whether `map` with this epoch is the one that it applies to; `map_check` is its [`check`].
    pub(crate) fn fits(&self, map: &NodeMap, epoch: Epoch, map_check: u32) -> Result<(), Unfit> {
        if flaw::has(Flaw::DeltaUponAnything) {
            Ok(())
        } else if epoch != self.from {
            Err(Unfit::Gap)
        } else if self.check_upon(map, map_check) != self.check && !flaw::has(Flaw::DeltaUnchecked) {
            Err(Unfit::Check)
        } else {
            Ok(())
        }
    }

    /// Makes the map that it leads to of one that it [fits](Self::fits).
    pub(crate) fn apply_to(&self, map: &mut NodeMap) {
        for name in &self.removed {
            map.remove(name);
        }
        map.extend(self.changed.iter().map(|(name, node)| (name.clone(), without_ping(node))));
    }

    /// The check of what it makes of `map`, by the nodes that it names alone: a large map takes no longer.
    fn check_upon(&self, map: &NodeMap, map_check: u32) -> u32 {
        let mut text = String::new();
        let mut sum = map_check;
        for name in self.removed.iter().chain(self.changed.keys()) {
            if let Some(node) = map.get(name) {
                sum = sum.wrapping_sub(check_node(name, node, &mut text));
            }
        }
        self.changed.iter().fold(sum, |sum, (name, node)| sum.wrapping_add(check_node(name, node, &mut text)))
    }
}

/// The same for maps that say the same of who serves which keys: a sum over the nodes, so that their order does not matter.
///
/// It covers what routing goes by, and nothing that another version of this program may write or read in another way.
pub fn check(map: &NodeMap) -> u32 {
    let mut text = String::new();
    map.iter().fold(0, |sum: u32, (name, node)| sum.wrapping_add(check_node(name, node, &mut text)))
}

/// One node's part; `text` is room to work in.
fn check_node(name: &str, node: &Node, text: &mut String) -> u32 {
    use std::fmt::Write;
    text.clear();
    let Node { config, weight, up, state_change_time, run_id, .. } = node;
    // Into a string nothing fails.
    let _ = write!(
        text,
        "{name}\0{}\0{}\0{}\0{}\0{}\0{:x}\0{up}\0{state_change_time}\0{}",
        config.host,
        config.port,
        config.username.as_deref().unwrap_or_default(),
        config.password.as_deref().unwrap_or_default(),
        config.tls(),
        weight.to_bits(),
        run_id.as_deref().unwrap_or_default(),
    );
    crc32fast::hash(text.as_bytes())
}

/// When the agent was last heard of is written along, but is no reason to write.
pub(crate) fn same_but_for_ping(one: &Node, other: &Node) -> bool {
    Node { last_ping: other.last_ping, ..one.clone() } == *other
}

fn without_ping(node: &Node) -> Node {
    Node { last_ping: None, ..node.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Endpoint;

    fn node(name: &str, up: bool) -> Node {
        Node {
            config: Endpoint::new(name, 1),
            weight: 1.0,
            up,
            state_change_time: 1,
            name: name.to_owned(),
            last_ping: Some(7),
            run_id: None,
            version: None,
            upkeep: Default::default(),
            other: Default::default(),
        }
    }

    fn map(nodes: &[(&str, bool)]) -> NodeMap {
        nodes.iter().map(|(name, up)| ((*name).to_owned(), node(name, *up))).collect()
    }

    #[test]
    fn it_holds_what_changed_and_leads_there() {
        let (before, after) = (map(&[("a", true), ("b", true), ("c", true)]), map(&[("a", true), ("b", false), ("d", true)]));
        let delta = MapDelta::between(&before, 5, &after, 6);
        assert_eq!(delta.changed.keys().collect::<Vec<_>>(), ["b", "d"]);
        assert_eq!(delta.removed, ["c"]);
        let there = delta.applied_to(&before, 5, check(&before)).unwrap();
        assert!(
            there.iter().zip(&after).all(|((_, one), (_, other))| same_but_for_ping(one, other)) && there.len() == after.len()
        );
        assert_eq!(check(&there), delta.check);
        // From nothing on it is the whole map.
        assert_eq!(MapDelta::between(&NodeMap::new(), 0, &after, 1).applied_to(&NodeMap::new(), 0, 0).unwrap().len(), 3);
    }

    #[test]
    fn it_applies_to_no_other_map() {
        let (before, after) = (map(&[("a", true), ("b", true)]), map(&[("a", true), ("b", false)]));
        let delta = MapDelta::between(&before, 5, &after, 6);
        for epoch in [0, 4, 6, 7] {
            assert_eq!(delta.applied_to(&before, epoch, check(&before)), Err(Unfit::Gap));
        }
        // Of that epoch, but not what was written under it.
        for other in [map(&[]), map(&[("a", false), ("b", true)]), map(&[("a", true), ("b", true), ("c", false)])] {
            assert_eq!(delta.applied_to(&other, 5, check(&other)), Err(Unfit::Check));
        }
        assert_eq!(MapDelta { check: delta.check ^ 1, ..delta }.applied_to(&before, 5, check(&before)), Err(Unfit::Check));
    }

    #[test]
    fn an_announcement_alone_changes_nothing() {
        let (before, mut after) = (map(&[("a", true)]), map(&[("a", true)]));
        after.get_mut("a").unwrap().last_ping = Some(99);
        let delta = MapDelta::between(&before, 5, &after, 6);
        assert!(delta.changed.is_empty() && delta.removed.is_empty());
        assert_eq!(serde_json::to_string(&delta).unwrap(), format!(r#"{{"from":5,"epoch":6,"check":{}}}"#, check(&before)));
    }

    /// What other versions must come to as well.
    #[test]
    fn the_check_is_a_fixed_one() {
        assert_eq!(check(&NodeMap::new()), 0);
        let text = "a\0a\x001\0\0\0false\x003ff0000000000000\0true\x001\0";
        assert_eq!(check(&map(&[("a", true)])), crc32fast::hash(text.as_bytes()));
        let sum = check(&map(&[("a", true)])).wrapping_add(check(&map(&[("b", false)])));
        assert_eq!(check(&map(&[("a", true), ("b", false)])), sum);
    }

    #[test]
    fn fields_that_are_not_known_are_kept_where_they_are_a_nodes() {
        let mut after = map(&[("a", true)]);
        after.get_mut("a").unwrap().other.insert("colour".to_owned(), "red".into());
        let mut text = serde_json::to_value(MapDelta::between(&NodeMap::new(), 0, &after, 1)).unwrap();
        text["mood"] = "fair".into();
        let delta: MapDelta = serde_json::from_value(text).unwrap();
        assert_eq!(delta.applied_to(&NodeMap::new(), 0, 0).unwrap()["a"].other["colour"], "red");
        for torn in ["", "{", "[]", r#"{"from":1,"epoch":2}"#, r#"{"from":-1,"epoch":2,"check":0}"#, r#"{"epoch":2,"check":0}"#] {
            assert!(serde_json::from_str::<MapDelta>(torn).is_err(), "{torn}");
        }
    }
}
