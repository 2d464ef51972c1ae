//! Lists.

use super::prelude::*;

#[rustfmt::skip]
pub(super) const ROWS: &[Command] = &[
    blocking("blmove",      6, WRITE | DENYOOM | NOSCRIPT | BLOCKING, LIST, &[at(1, RW | ACCESS | DELETE), at(2, RW | INSERT)]),
    blocking("blmpop",     -5, WRITE | BLOCKING,                      LIST, &[counted(2, RW | ACCESS | DELETE)]),
    blocking("blpop",      -3, WRITE | NOSCRIPT | BLOCKING,           LIST, &[all_but_last(1, RW | ACCESS | DELETE)]),
    blocking("brpop",      -3, WRITE | NOSCRIPT | BLOCKING,           LIST, &[all_but_last(1, RW | ACCESS | DELETE)]),
    blocking("brpoplpush",  4, WRITE | DENYOOM | NOSCRIPT | BLOCKING, LIST, &[at(1, RW | ACCESS | DELETE), at(2, RW | INSERT)]),
    keyed("lindex",         3, READONLY,                              LIST, &[at(1, RO | ACCESS)]),
    keyed("linsert",        5, WRITE | DENYOOM,                       LIST, &[at(1, RW | INSERT)]),
    keyed("llen",           2, READONLY | FAST,                       LIST, &[at(1, RO)]),
    keyed("lmove",          5, WRITE | DENYOOM,                       LIST, &[at(1, RW | ACCESS | DELETE), at(2, RW | INSERT)]),
    keyed("lmpop",         -4, WRITE,                                 LIST, &[counted(1, RW | ACCESS | DELETE)]),
    keyed("lpop",          -2, WRITE | FAST,                          LIST, &[at(1, RW | ACCESS | DELETE)]),
    keyed("lpos",          -3, READONLY,                              LIST, &[at(1, RO | ACCESS)]),
    keyed("lpush",         -3, WRITE | DENYOOM | FAST,                LIST, &[at(1, RW | INSERT)]),
    keyed("lpushx",        -3, WRITE | DENYOOM | FAST,                LIST, &[at(1, RW | INSERT)]),
    keyed("lrange",         4, READONLY,                              LIST, &[at(1, RO | ACCESS)]),
    keyed("lrem",           4, WRITE,                                 LIST, &[at(1, RW | DELETE)]),
    keyed("lset",           4, WRITE | DENYOOM,                       LIST, &[at(1, RW | UPDATE)]),
    keyed("ltrim",          4, WRITE,                                 LIST, &[at(1, RW | DELETE)]),
    keyed("rpop",          -2, WRITE | FAST,                          LIST, &[at(1, RW | ACCESS | DELETE)]),
    keyed("rpoplpush",      3, WRITE | DENYOOM,                       LIST, &[at(1, RW | ACCESS | DELETE), at(2, RW | INSERT)]),
    keyed("rpush",         -3, WRITE | DENYOOM | FAST,                LIST, &[at(1, RW | INSERT)]),
    keyed("rpushx",        -3, WRITE | DENYOOM | FAST,                LIST, &[at(1, RW | INSERT)]),
];
