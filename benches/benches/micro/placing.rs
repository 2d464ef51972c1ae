//! Which node a key belongs to, and what it takes to work that out for all of them.

use std::hint::black_box;

use criterion::{BenchmarkId, Throughput};
use vrc_benches::{KEY_BYTES, node_map, numbered, topology};
use vrc_cluster::topology::{NodeIndex, PlacementKind};

use crate::cpu_time::Criterion;

const KINDS: [PlacementKind; 2] = [PlacementKind::Slots, PlacementKind::Legacy];
/// Keys that take turns, so that no branch is learned by heart and the table is read all over.
const KEYS: usize = 1_024;

pub(crate) fn look_up(c: &mut Criterion) {
    let mut group = c.benchmark_group("look-up");
    group.throughput(Throughput::Bytes(KEY_BYTES as u64));
    let keys: Vec<String> = numbered(KEYS).collect();
    for kind in KINDS {
        for nodes in [4, 100] {
            let topology = topology(&node_map(nodes), kind);
            let mut turn = 0;
            group.bench_function(BenchmarkId::new(kind.to_string(), nodes), |b| {
                b.iter(|| {
                    turn = (turn + 1) % KEYS;
                    topology.owner(topology.place(black_box(keys[turn].as_bytes()))).map_or(NodeIndex::MAX, |owner| owner.node)
                });
            });
        }
    }
    // What the turn of the keys itself takes, to be subtracted from the above.
    let mut turn = 0;
    group.bench_function("keys-alone", |b| {
        b.iter(|| {
            turn = (turn + 1) % KEYS;
            black_box(keys[turn].as_bytes()).first().copied()
        });
    });
    let topology = topology(&node_map(4), PlacementKind::Slots);
    let key = "session:{user-1000}:cart";
    group.throughput(Throughput::Bytes(key.len() as u64));
    group.bench_function("slots-hash-tag/4", |b| {
        b.iter(|| topology.owner(topology.place(black_box(key.as_bytes()))).map_or(NodeIndex::MAX, |owner| owner.node))
    });
}

pub(crate) fn build(c: &mut Criterion) {
    let mut group = c.benchmark_group("topology");
    group.sample_size(20);
    for kind in KINDS {
        for nodes in [4, 16, 100, 1_000] {
            let map = node_map(nodes);
            // Of the map as it stands in the master.
            let bytes: usize = map.values().map(|node| serde_json::to_string(node).expect("plain data").len()).sum();
            group.throughput(Throughput::Bytes(bytes as u64));
            group.bench_function(BenchmarkId::new(kind.to_string(), nodes), |b| b.iter(|| topology(black_box(&map), kind)));
        }
    }
    for nodes in [4, 100, 1_000] {
        let mut map = node_map(nodes);
        let before = topology(&map, PlacementKind::Slots);
        if let Some(node) = map.values_mut().next() {
            node.up = false;
        }
        group.bench_function(BenchmarkId::new("slots-one-down", nodes), |b| b.iter(|| before.successor(black_box(&map), 2, 0)));
    }
}
