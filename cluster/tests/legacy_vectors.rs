//! The legacy placement against what the old system's own package answered.

use serde::Deserialize;
use vrc_cluster::{
    contract::{Endpoint, Node, NodeMap},
    topology::{PlacementKind, PlacementOptions, Topology, Unowned},
};

const NOW_MS: u64 = 1_800_000_000_000;

#[derive(Deserialize)]
struct Vectors {
    topologies: Vec<Case>,
    keys: Vec<String>,
    crc32: Vec<(String, u32)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Case {
    name: String,
    buckets_per_node: u32,
    down_node_expiry_seconds: u64,
    nodes: Vec<CaseNode>,
    #[serde(default)]
    buckets: Vec<(u32, usize)>,
    owners: Vec<Option<usize>>,
    by_number: Vec<(i64, Option<usize>)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CaseNode {
    name: String,
    weight: f64,
    up: bool,
    down_for_ms: Option<u64>,
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("fixtures/legacy-vectors.json")).unwrap()
}

fn topology(case: &Case) -> Topology {
    let map: NodeMap = case
        .nodes
        .iter()
        .map(|node| {
            let entry = Node {
                config: Endpoint::new(&node.name, 1),
                weight: node.weight,
                up: node.up,
                state_change_time: node.down_for_ms.map_or(1, |ms| NOW_MS - ms),
                name: node.name.clone(),
                last_ping: None,
                run_id: None,
                version: None,
                upkeep: Default::default(),
                other: Default::default(),
            };
            (node.name.clone(), entry)
        })
        .collect();
    let options = PlacementOptions {
        kind: PlacementKind::Legacy,
        down_node_expiry_ms: case.down_node_expiry_seconds * 1000,
        guest_databases: false,
        legacy_buckets_per_node: case.buckets_per_node,
    };
    Topology::build(&map, 0, &options, NOW_MS)
}

#[test]
fn every_owner_is_that_of_the_old_system() {
    let vectors = vectors();
    assert!(vectors.topologies.len() >= 9 && vectors.keys.len() >= 413);
    for case in &vectors.topologies {
        let topology = topology(case);
        let name = |index: u16| topology.nodes()[usize::from(index)].name.to_string();
        for (key, expect) in vectors.keys.iter().zip(&case.owners) {
            // Where the old client finds a node but withholds it (and hands out null), the vectors name that node.
            let owner = match topology.owner(topology.place(key.as_bytes())) {
                Ok(owner) => Some(name(owner.node)),
                Err(Unowned::Withheld { node, until_ms }) => {
                    assert!(case.down_node_expiry_seconds > 0 && until_ms > NOW_MS);
                    Some(name(node))
                }
                Err(Unowned::NoNodeUp) => None,
            };
            assert_eq!(owner, expect.map(|index| case.nodes[index].name.clone()), "{}: {key:?}", case.name);
        }
        for (number, expect) in &case.by_number {
            let found = topology.by_number(*number).map(name);
            assert_eq!(found, expect.map(|index| case.nodes[index].name.clone()), "{}: {number}", case.name);
        }
    }
}

#[test]
fn every_bucket_is_that_of_the_old_system() {
    let vectors = vectors();
    for case in vectors.topologies.iter().filter(|case| !case.buckets.is_empty()) {
        let topology = topology(case);
        let found: Vec<_> = topology
            .legacy_buckets()
            .map(|(value, node)| (value, topology.nodes()[usize::from(node)].name.to_string()))
            .collect();
        let expect: Vec<_> = case.buckets.iter().map(|(value, node)| (*value, case.nodes[*node].name.clone())).collect();
        assert_eq!(found, expect, "{}", case.name);
    }
}

#[test]
fn keys_are_hashed_as_the_old_system_hashes_them() {
    for (key, expect) in vectors().crc32 {
        assert_eq!(crc32fast::hash(key.as_bytes()), expect, "{key:?}");
    }
}
