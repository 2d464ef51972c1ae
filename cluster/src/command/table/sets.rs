//! Sets.
//!
//! Set algebra stays on one slot: its inputs could be fetched from several nodes, but not as one atomic step.

use super::prelude::*;

#[rustfmt::skip]
pub(super) const ROWS: &[Command] = &[
    keyed("sadd",        -3, WRITE | DENYOOM | FAST, SET, &[at(1, RW | INSERT)]),
    keyed("scard",        2, READONLY | FAST,        SET, &[at(1, RO)]),
    keyed("sdiff",       -2, READONLY,               SET, &[all(1, RO | ACCESS)]).tips(&[UNORDERED]),
    keyed("sdiffstore",  -3, WRITE | DENYOOM,        SET, &[at(1, OW | UPDATE), all(2, RO | ACCESS)]),
    keyed("sinter",      -2, READONLY,               SET, &[all(1, RO | ACCESS)]).tips(&[UNORDERED]),
    keyed("sintercard",  -3, READONLY,               SET, &[counted(1, RO | ACCESS)]),
    keyed("sinterstore", -3, WRITE | DENYOOM,        SET, &[at(1, RW | UPDATE), all(2, RO | ACCESS)]),
    keyed("sismember",    3, READONLY | FAST,        SET, &[at(1, RO)]),
    keyed("smembers",     2, READONLY,               SET, &[at(1, RO | ACCESS)]).tips(&[UNORDERED]),
    keyed("smismember",  -3, READONLY | FAST,        SET, &[at(1, RO | ACCESS)]),
    keyed("smove",        4, WRITE | FAST,           SET, &[at(1, RW | ACCESS | DELETE), at(2, RW | INSERT)]),
    keyed("spop",        -2, WRITE | FAST,           SET, &[at(1, RW | ACCESS | DELETE)]).tips(&[RANDOM]),
    keyed("srandmember", -2, READONLY,               SET, &[at(1, RO | ACCESS)]).tips(&[RANDOM]),
    keyed("srem",        -3, WRITE | FAST,           SET, &[at(1, RW | DELETE)]),
    keyed("sscan",       -3, READONLY,               SET, &[at(1, RO | ACCESS)]).tips(&[RANDOM]),
    keyed("sunion",      -2, READONLY,               SET, &[all(1, RO | ACCESS)]).tips(&[UNORDERED]),
    keyed("sunionstore", -3, WRITE | DENYOOM,        SET, &[at(1, OW | UPDATE), all(2, RO | ACCESS)]),
];
