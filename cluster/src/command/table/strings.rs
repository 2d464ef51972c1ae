//! Strings.
//!
//! MSETNX is all or nothing, so unlike MSET it is never split.

use super::prelude::*;

#[rustfmt::skip]
pub(super) const ROWS: &[Command] = &[
    keyed("append",       3, WRITE | DENYOOM | FAST, STRING, &[at(1, RW | INSERT)]),
    keyed("decr",         2, WRITE | DENYOOM | FAST, STRING, &[at(1, RW | ACCESS | UPDATE)]),
    keyed("decrby",       3, WRITE | DENYOOM | FAST, STRING, &[at(1, RW | ACCESS | UPDATE)]),
    keyed("get",          2, READONLY | FAST,        STRING, &[at(1, RO | ACCESS)]),
    keyed("getdel",       2, WRITE | FAST,           STRING, &[at(1, RW | ACCESS | DELETE)]),
    keyed("getex",       -2, WRITE | FAST,           STRING, &[at(1, RW | ACCESS | UPDATE)]),
    keyed("getrange",     4, READONLY,               STRING, &[at(1, RO | ACCESS)]),
    keyed("getset",       3, WRITE | DENYOOM | FAST, STRING, &[at(1, RW | ACCESS | UPDATE)]),
    keyed("incr",         2, WRITE | DENYOOM | FAST, STRING, &[at(1, RW | ACCESS | UPDATE)]),
    keyed("incrby",       3, WRITE | DENYOOM | FAST, STRING, &[at(1, RW | ACCESS | UPDATE)]),
    keyed("incrbyfloat",  3, WRITE | DENYOOM | FAST, STRING, &[at(1, RW | ACCESS | UPDATE)]),
    keyed("lcs",         -3, READONLY,               STRING, &[two(1, RO | ACCESS)]),
    split("mget",        -2, READONLY | FAST,        STRING, &[all(1, RO | ACCESS)], ArrayByKey).tips(&[MULTI_SHARD]),
    split("mset",        -3, WRITE | DENYOOM,        STRING, &[pairs(1, OW | UPDATE)], OkByPair).tips(&[MULTI_SHARD, ALL_SUCCEEDED]),
    keyed("msetnx",      -3, WRITE | DENYOOM,        STRING, &[pairs(1, OW | INSERT)]).tips(&[MULTI_SHARD, AGG_MIN]),
    keyed("psetex",       4, WRITE | DENYOOM,        STRING, &[at(1, OW | UPDATE)]),
    keyed("set",         -3, WRITE | DENYOOM,        STRING, &[at(1, RW | ACCESS | UPDATE | VARIABLE_FLAGS)]).rule(Rule::Set),
    keyed("setex",        4, WRITE | DENYOOM,        STRING, &[at(1, OW | UPDATE)]),
    keyed("setnx",        3, WRITE | DENYOOM | FAST, STRING, &[at(1, OW | INSERT)]),
    keyed("setrange",     4, WRITE | DENYOOM,        STRING, &[at(1, RW | UPDATE)]),
    keyed("strlen",       2, READONLY | FAST,        STRING, &[at(1, RO)]),
    keyed("substr",       4, READONLY,               STRING, &[at(1, RO | ACCESS)]),
];
