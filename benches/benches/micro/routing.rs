//! From bytes to nodes: routing alone, and with the framing and resolving before it.

use std::hint::black_box;

use criterion::Throughput;
use vrc_benches::{Pass, VALUE_BYTES, node_map, numbered, request, topology};
use vrc_cluster::{
    command::resolve,
    resp::{Args, RequestFramer},
    route::Router,
    topology::PlacementKind,
};

use crate::cpu_time::Criterion;

/// Requests a pipeline.
const DEPTH: usize = 16;

pub(crate) fn route(c: &mut Criterion) {
    let topology = topology(&node_map(4), PlacementKind::Slots);
    let mget: Vec<String> = ["MGET".to_owned()].into_iter().chain(numbered(10)).collect();
    let mut group = c.benchmark_group("route");
    for (name, bytes) in [("get", request(["GET".to_owned(), numbered(1).collect()])), ("mget-10", request(mget))] {
        let mut framer = RequestFramer::default();
        framer.advance(&bytes).expect("a request").expect("whole");
        let args = Args::new(&bytes, framer.args());
        let command = resolve(args).expect("known");
        let mut router = Router::default();
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |b| b.iter(|| router.route(black_box(command), black_box(args), black_box(&topology))));
    }

    let value = "v".repeat(VALUE_BYTES);
    let gets: Vec<u8> = numbered(DEPTH).flat_map(|key| request(["GET".to_owned(), key])).collect();
    let sets: Vec<u8> = numbered(DEPTH).flat_map(|key| request(["SET".to_owned(), key, value.clone()])).collect();
    let mut pass = Pass::default();
    for (name, bytes) in [("get", gets), ("set-64", sets)] {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(format!("frame-resolve-route/{DEPTH}-{name}"), |b| {
            b.iter(|| pass.requests(black_box(&bytes), black_box(&topology)));
        });
    }
}
