//! Publish and subscribe.
//!
//! Channels of the sharded kind are no keys, yet they have a slot, and one request may only name channels of one slot.

use super::prelude::*;

#[rustfmt::skip]
const PUBSUB_ROWS: &[Command] = &[
    pubsub("pubsub|channels",      -2, PUBSUB | LOADING | STALE, 0),
    pubsub("pubsub|numpat",         2, PUBSUB | LOADING | STALE, 0),
    pubsub("pubsub|numsub",        -2, PUBSUB | LOADING | STALE, 0),
    pubsub("pubsub|shardchannels", -2, PUBSUB | LOADING | STALE, 0),
    pubsub("pubsub|shardnumsub",   -2, PUBSUB | LOADING | STALE, 0),
    any_node("pubsub|help",         2, LOADING | STALE,          0),
];

#[rustfmt::skip]
pub(super) const ROWS: &[Command] = &[
    pubsub("psubscribe",   -2, PUBSUB | NOSCRIPT | LOADING | STALE,             0),
    pubsub("publish",       3, PUBSUB | LOADING | STALE | FAST | MAY_REPLICATE, 0),
    pubsub("punsubscribe", -1, PUBSUB | NOSCRIPT | LOADING | STALE,             0),
    pubsub("spublish",      3, PUBSUB | LOADING | STALE | FAST | MAY_REPLICATE, 0).keys(&[at(1, NOT_KEY)]),
    pubsub("ssubscribe",   -2, PUBSUB | NOSCRIPT | LOADING | STALE,             0).keys(&[all(1, NOT_KEY)]),
    pubsub("subscribe",    -2, PUBSUB | NOSCRIPT | LOADING | STALE,             0),
    pubsub("sunsubscribe", -1, PUBSUB | NOSCRIPT | LOADING | STALE,             0).keys(&[all(1, NOT_KEY)]),
    pubsub("unsubscribe",  -1, PUBSUB | NOSCRIPT | LOADING | STALE,             0),
    container("pubsub", PUBSUB_ROWS),
];
