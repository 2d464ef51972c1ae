//! What the `slots` placement promises: balance, and that only what must move does.

use std::collections::BTreeMap;

use proptest::prelude::*;
use vrc_cluster::{
    contract::{Endpoint, Node, NodeMap},
    placement::slots::{Bidder, Bids, SLOTS, hash_tag, slot_of},
    topology::{PlacementKind, PlacementOptions, Topology, Unowned, WEIGHT_MAX, WEIGHT_MIN},
};

fn node(name: &str, weight: f64, up: bool) -> Node {
    Node {
        config: Endpoint::new(name, 1),
        weight,
        up,
        state_change_time: 1,
        name: name.to_owned(),
        last_ping: None,
        run_id: None,
        version: None,
        upkeep: Default::default(),
        other: Default::default(),
    }
}

fn map<'a>(nodes: impl IntoIterator<Item = (&'a str, f64, bool)>) -> NodeMap {
    nodes.into_iter().map(|(name, weight, up)| (name.to_owned(), node(name, weight, up))).collect()
}

fn build(map: &NodeMap) -> Topology {
    Topology::build(map, 1, &PlacementOptions { guest_databases: true, ..Default::default() }, 0)
}

/// The holder of each slot and whether it is a guest there, by name.
fn holders(map: &NodeMap) -> Vec<Option<(String, bool)>> {
    let topology = build(map);
    (0..SLOTS as u16)
        .map(|slot| topology.slot_owner(slot).ok())
        .map(|owner| owner.map(|owner| (topology.nodes()[usize::from(owner.node)].name.to_string(), owner.guest)))
        .collect()
}

fn names(family: usize, count: usize) -> Vec<String> {
    (0..count)
        .map(|n| match family {
            0 => format!("127.0.0.1:{}", 7001 + n),
            1 => format!("10.0.{}.{}:6379", n / 250, n % 250),
            2 => format!("node-{n}"),
            3 => format!("cache{n}.eu-west-1.internal:6379"),
            seed => format!("n{}", (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ seed as u64)),
        })
        .collect()
}

#[test]
fn balance_at_equal_weights() {
    for family in 0..24 {
        for (count, limit) in [(4, 1.05), (16, 1.10), (100, 1.25)] {
            let names = names(family, count);
            let topology = build(&map(names.iter().map(|name| (name.as_str(), 1.0, true))));
            let fullest = topology.shares().into_iter().fold(0.0, f64::max) * count as f64;
            assert!(fullest <= limit, "{count} nodes of family {family}: the fullest holds {fullest:.3} times its share");
        }
    }
}

#[test]
fn shares_follow_weights() {
    let nodes = [("a", 0.01), ("b", 1.0), ("c", 2.0), ("d", 100.0), ("e", 25.5)];
    let topology = build(&map(nodes.map(|(name, weight)| (name, weight, true))));
    let total: f64 = nodes.iter().map(|(_, weight)| weight).sum();
    for ((name, weight), share) in nodes.iter().zip(topology.shares()) {
        let fair = weight / total;
        assert!((share - fair).abs() < 0.002 + fair * 0.1, "{name}: {share} for a fair {fair}");
    }
}

#[test]
fn the_same_names_give_the_same_slots_on_every_machine_and_in_every_version() {
    let names = names(0, 5);
    let topology = build(&map(names.iter().enumerate().map(|(n, name)| (name.as_str(), 1.0 + n as f64 / 2.0, true))));
    let found: Vec<_> = (0..SLOTS as u16).step_by(1024).map(|slot| topology.slot_owner(slot).unwrap().node).collect();
    assert_eq!(found, VECTOR);
}

/// A change here moves the keys of every cluster that is upgraded.
const VECTOR: [u16; 16] = [1, 2, 3, 4, 0, 3, 1, 3, 1, 3, 3, 4, 2, 1, 4, 4];

/// All slots at once, and with equal weights, where many bids are equal and names decide. The checksums are those of a second
/// implementation, in another language, that compares every bid with every other.
#[test]
fn every_slot_is_where_it_was_in_every_version() {
    for (family, count, expect) in
        [(0, 4, [2065742493, 1557860069]), (1, 100, [851008292, 3697184166]), (3, 1_000, [2804842485, 1407638654])]
    {
        let names = names(family, count);
        let bidders: Vec<_> = names.iter().map(|name| Bidder { name, weight: 1.0 }).collect();
        let bids = Bids::hear(&bidders);
        let found = [bids.homes().into(), bids.holders(&bidders, |bidder| bidder % 3 != 1)]
            .map(|table| crc32fast::hash(&table.iter().flat_map(|node| node.to_le_bytes()).collect::<Vec<_>>()));
        assert_eq!(found, expect, "{count} nodes of family {family}");
    }
}

/// States change most often, then names, then weights; and a topology follows on one of whatever came before.
#[test]
fn a_successor_is_what_is_built_from_nothing() {
    let (own, legacy) = (PlacementKind::Slots, PlacementKind::Legacy);
    let maps = [
        map([]),
        map([("a", 1.0, true)]),
        map([("a", 1.0, true), ("b", 1.0, true), ("c", 2.0, true)]),
        map([("a", 1.0, true), ("b", 1.0, false), ("c", 2.0, true)]),
        map([("a", 1.0, false), ("b", 1.0, false), ("c", 2.0, false)]),
        map([("a", 1.0, true), ("b", 1.0, true), ("d", 2.0, true)]),
        map([("a", 1.0, true), ("b", 1.5, true), ("d", 2.0, true)]),
        map([("a", 1.0, true), ("b", 1.5, true)]),
    ];
    for kind in [own, legacy] {
        let options = PlacementOptions { kind, guest_databases: kind == own, ..Default::default() };
        let mut topology = Topology::build(&maps[0], 0, &options, 0);
        for (epoch, map) in (1..).zip(&maps) {
            let fresh = Topology::build(map, epoch, &options, 0);
            topology = topology.successor(map, epoch, 0);
            assert_eq!((topology.epoch(), topology.nodes()), (epoch, fresh.nodes()));
            for number in 0..1_000 {
                let key = number.to_string();
                assert_eq!(topology.locate(key.as_bytes()), fresh.locate(key.as_bytes()), "{key} in {map:?}");
            }
        }
    }
}

#[test]
fn hash_tags_are_those_of_redis_cluster() {
    assert_eq!(slot_of(b"123456789"), 0x31C3);
    for (key, tag) in [
        ("{user1000}.following", "user1000"),
        ("foo{}{bar}", "foo{}{bar}"),
        ("foo{{bar}}zap", "{bar"),
        ("foo{bar}{zap}", "bar"),
        ("foo{bar", "foo{bar"),
        ("foo}bar{", "foo}bar{"),
        ("{}", "{}"),
        ("", ""),
        ("0123456{89}", "89"),
        ("01234567{9}", "9"),
        ("012345678{0123456789}", "0123456789"),
        ("zz|}~zz|}~", "zz|}~zz|}~"),
    ] {
        assert_eq!(hash_tag(key.as_bytes()), tag.as_bytes(), "{key}");
    }
}

#[test]
fn a_slot_whose_home_is_down_is_a_guest_elsewhere_and_nothing_else_moves() {
    let all = map([("a", 1.0, true), ("b", 1.0, true), ("c", 1.0, true)]);
    let mut one_down = all.clone();
    one_down.get_mut("b").unwrap().up = false;
    for (slot, (before, after)) in holders(&all).into_iter().zip(holders(&one_down)).enumerate() {
        let ((home, guest), (holder, is_guest)) = (before.unwrap(), after.unwrap());
        assert!(!guest);
        assert_eq!(is_guest, home == "b", "slot {slot}");
        assert_eq!(holder == home, home != "b", "slot {slot}");
    }
}

#[test]
fn a_down_node_keeps_its_keys_until_its_expiry() {
    let mut nodes = map([("a", 1.0, true), ("b", 1.0, false)]);
    nodes.get_mut("b").unwrap().state_change_time = 10_000;
    let options = PlacementOptions { down_node_expiry_ms: 5_000, guest_databases: true, ..Default::default() };
    let at = |now_ms| Topology::build(&nodes, 1, &options, now_ms);
    let (down, expired) = (at(10_000), at(15_000));
    let of_b = (0..SLOTS as u16).find(|slot| down.slot_owner(*slot).is_err()).unwrap();
    assert_eq!(at(14_999).slot_owner(of_b), Err(Unowned::Withheld { node: 1, until_ms: 15_000 }));
    assert_eq!(at(14_999).next_change_ms(), Some(15_000));
    assert!(expired.slot_owner(of_b).is_ok_and(|owner| owner.node == 0 && owner.guest));
    assert_eq!(expired.next_change_ms(), None);
    // Nobody else's keys are withheld.
    assert_eq!(
        (0..SLOTS as u16).filter(|slot| down.slot_owner(*slot).is_err()).count(),
        (0..SLOTS as u16).filter(|slot| expired.slot_owner(*slot).is_ok_and(|owner| owner.guest)).count()
    );
}

#[test]
fn without_nodes_nobody_owns_anything() {
    for nodes in [map([]), map([("a", 1.0, false)])] {
        let topology = build(&nodes);
        assert_eq!(topology.owner(topology.place(b"k")), Err(Unowned::NoNodeUp));
        assert_eq!(topology.by_number(3), None);
    }
}

/// As long as for one that went down; a change that was planned has the time 1, and withholds nothing.
#[test]
fn a_node_that_came_up_lately_has_its_keys_only_after_the_expiry() {
    for kind in [PlacementKind::Slots, PlacementKind::Legacy] {
        let options = PlacementOptions { kind, down_node_expiry_ms: 5_000, ..Default::default() };
        let at = |changed_ms, now_ms| {
            let mut nodes = map([("a", 1.0, true)]);
            nodes.get_mut("a").unwrap().state_change_time = changed_ms;
            let topology = Topology::build(&nodes, 1, &options, now_ms);
            (topology.owner(topology.place(b"k")).map(|owner| owner.node), topology.next_change_ms())
        };
        assert_eq!(at(10_000, 14_999), (Err(Unowned::Withheld { node: 0, until_ms: 15_000 }), Some(15_000)), "{kind}");
        assert_eq!(at(10_000, 15_000), (Ok(0), None), "{kind}");
        assert_eq!(at(1, 1_795_000_000_000), (Ok(0), None), "{kind}");
        // By a clock that is ahead of ours.
        assert_eq!(at(20_000, 12_000), (Err(Unowned::Withheld { node: 0, until_ms: 25_000 }), Some(25_000)), "{kind}");
    }
}

#[test]
fn odd_weights_are_taken_for_the_nearest_that_is_allowed() {
    for (weight, expect) in [
        (f64::NAN, WEIGHT_MIN),
        (-3.0, WEIGHT_MIN),
        (0.0, WEIGHT_MIN),
        (f64::NEG_INFINITY, WEIGHT_MIN),
        (1.5, 1.5),
        (1e9, WEIGHT_MAX),
        (f64::INFINITY, WEIGHT_MAX),
    ] {
        let topology = build(&map([("a", 1.0, true), ("b", weight, true)]));
        assert_eq!(topology.nodes()[1].weight, expect, "{weight}");
        assert_eq!(topology.shares(), build(&map([("a", 1.0, true), ("b", expect, true)])).shares(), "{weight}");
    }
}

/// The old system makes max(1, round(16 w)) buckets of any weight.
#[test]
fn the_old_ring_takes_weights_as_they_are() {
    for (weight, buckets) in [(-3.0, 1), (0.0, 1), (0.03, 1), (0.09375, 2), (1.0, 16), (150.0, 2_400)] {
        let options = PlacementOptions { kind: PlacementKind::Legacy, ..Default::default() };
        let topology = Topology::build(&map([("a", weight, true)]), 1, &options, 0);
        assert_eq!((topology.legacy_buckets().count(), topology.nodes()[0].weight), (buckets, weight));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A node that comes, goes, or changes its weight moves slots to itself or from itself, and no others.
    #[test]
    fn only_slots_of_the_changed_node_move(
        weights in prop::collection::vec(0.01f64..100.0, 2..12),
        family in 0usize..6,
        at in any::<prop::sample::Index>(),
        change in prop_oneof![Just(None), (0.01f64..100.0).prop_map(Some)],
    ) {
        let names = names(family, weights.len());
        let before = map(names.iter().zip(&weights).map(|(name, weight)| (name.as_str(), *weight, true)));
        let changed = names[at.index(names.len())].as_str();
        let mut after: BTreeMap<_, _> = before.clone();
        match change {
            Some(weight) => after.get_mut(changed).unwrap().weight = weight,
            None => drop(after.remove(changed)),
        }
        let heavier = change.is_some_and(|weight| weight >= before[changed].weight);
        for (old, new) in holders(&before).into_iter().zip(holders(&after)) {
            let (old, new) = (old.unwrap().0, new.unwrap().0);
            if old != new {
                prop_assert_eq!(if heavier { &new } else { &old }, changed);
            }
        }
    }

    /// A node that goes down, whoever else is down already, moves only what it held, and no home. What is elsewhere than at home
    /// is there as a guest.
    #[test]
    fn going_down_moves_only_what_the_node_held_and_no_home(
        nodes in prop::collection::vec((0.01f64..100.0, any::<bool>()), 2..12),
        family in 0usize..6,
        at in any::<prop::sample::Index>(),
    ) {
        let names = names(family, nodes.len());
        let changed = at.index(names.len());
        let state = |is_up: bool| {
            map(names.iter().zip(&nodes).enumerate().map(|(n, (name, (weight, up)))| {
                (name.as_str(), *weight, if n == changed { is_up } else { *up })
            }))
        };
        let homes = holders(&map(names.iter().zip(&nodes).map(|(name, (weight, _))| (name.as_str(), *weight, true))));
        for ((with, without), home) in holders(&state(true)).into_iter().zip(holders(&state(false))).zip(homes) {
            let ((with, _), (home, _)) = (with.unwrap(), home.unwrap());
            if with != names[changed] {
                prop_assert_eq!(without.as_ref().map(|(holder, _)| holder), Some(&with));
            }
            if let Some((holder, guest)) = without {
                prop_assert_eq!(guest, holder != home);
            }
        }
    }
}
