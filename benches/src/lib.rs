//! What the benchmarks have in common: requests and replies as bytes, node maps, and a request's way through `cluster`.
//!
//! The load beside other proxies is not here: see `README.md` and `side-by-side`.

mod data;
mod pass;

pub use data::{KEY_BYTES, VALUE_BYTES, array_reply, bulk_reply, key, node_map, numbered, request, topology};
pub use pass::{Pass, Tally};
