//! Requests, replies and node maps, the same in every run.

use vrc_cluster::{
    contract::{Endpoint, Node, NodeMap},
    resp::encode,
    topology::{PlacementKind, PlacementOptions, Topology},
};

/// Length of [`key`]s: that of `redis-benchmark -r`.
pub const KEY_BYTES: usize = 16;
/// Length of values where nothing else is said: that of `redis-benchmark -d 64`.
pub const VALUE_BYTES: usize = 64;

/// The `number`-th key, spelled as `redis-benchmark` spells its keys.
pub fn key(number: usize) -> String {
    let key = format!("key:{number:012}");
    debug_assert_eq!(key.len(), KEY_BYTES);
    key
}

/// Keys `0..count` of a run, scattered over the keyspace.
pub fn numbered(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|number| key(number.wrapping_mul(7_919) % 100_000))
}

/// A request as it comes from a client.
pub fn request<A: AsRef<[u8]>>(args: impl IntoIterator<Item = A>) -> Vec<u8> {
    let args: Vec<A> = args.into_iter().collect();
    let mut bytes = Vec::new();
    encode::request(&mut bytes, &args);
    bytes
}

/// A bulk string as it comes from a node.
pub fn bulk_reply(value_bytes: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode::bulk(&mut bytes, &vec![b'v'; value_bytes]);
    bytes
}

/// The reply to an MGET of `values` keys.
pub fn array_reply(values: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode::array(&mut bytes, values);
    for _ in 0..values {
        bytes.extend_from_slice(&bulk_reply(VALUE_BYTES));
    }
    bytes
}

/// A map of `count` nodes of equal weight, all up.
pub fn node_map(count: usize) -> NodeMap {
    (0..count)
        .map(|number| {
            let host = format!("10.0.{}.{}", number / 250, number % 250 + 1);
            let name = format!("{host}:6379");
            let node = Node {
                config: Endpoint::new(&host, 6379),
                weight: 1.0,
                up: true,
                state_change_time: 1,
                name: name.clone(),
                last_ping: None,
                run_id: None,
                version: None,
                upkeep: Default::default(),
                other: Default::default(),
            };
            (name, node)
        })
        .collect()
}

/// The topology of a map, keys moving at once when a node goes down.
pub fn topology(map: &NodeMap, kind: PlacementKind) -> Topology {
    Topology::build(map, 1, &PlacementOptions { kind, ..Default::default() }, 0)
}
