//! Hashes.

use super::prelude::*;

#[rustfmt::skip]
pub(super) const ROWS: &[Command] = &[
    keyed("hdel",         -3, WRITE | FAST,           HASH, &[at(1, RW | DELETE)]),
    keyed("hexists",       3, READONLY | FAST,        HASH, &[at(1, RO)]),
    keyed("hget",          3, READONLY | FAST,        HASH, &[at(1, RO | ACCESS)]),
    keyed("hgetall",       2, READONLY,               HASH, &[at(1, RO | ACCESS)]).tips(&[UNORDERED]),
    keyed("hincrby",       4, WRITE | DENYOOM | FAST, HASH, &[at(1, RW | ACCESS | UPDATE)]),
    keyed("hincrbyfloat",  4, WRITE | DENYOOM | FAST, HASH, &[at(1, RW | ACCESS | UPDATE)]),
    keyed("hkeys",         2, READONLY,               HASH, &[at(1, RO | ACCESS)]).tips(&[UNORDERED]),
    keyed("hlen",          2, READONLY | FAST,        HASH, &[at(1, RO)]),
    keyed("hmget",        -3, READONLY | FAST,        HASH, &[at(1, RO | ACCESS)]),
    keyed("hmset",        -4, WRITE | DENYOOM | FAST, HASH, &[at(1, RW | UPDATE)]),
    keyed("hrandfield",   -2, READONLY,               HASH, &[at(1, RO | ACCESS)]).tips(&[RANDOM]),
    keyed("hscan",        -3, READONLY,               HASH, &[at(1, RO | ACCESS)]).tips(&[RANDOM]),
    keyed("hset",         -4, WRITE | DENYOOM | FAST, HASH, &[at(1, RW | UPDATE)]),
    keyed("hsetnx",        4, WRITE | DENYOOM | FAST, HASH, &[at(1, RW | INSERT)]),
    keyed("hstrlen",       3, READONLY | FAST,        HASH, &[at(1, RO)]),
    keyed("hvals",         2, READONLY,               HASH, &[at(1, RO | ACCESS)]).tips(&[UNORDERED]),
];
