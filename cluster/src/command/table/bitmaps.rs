//! Commands on strings as bit arrays.

use super::prelude::*;

#[rustfmt::skip]
pub(super) const ROWS: &[Command] = &[
    keyed("bitcount",    -2, READONLY,        BITMAP, &[at(1, RO | ACCESS)]),
    keyed("bitfield",    -2, WRITE | DENYOOM, BITMAP, &[at(1, RW | ACCESS | UPDATE | VARIABLE_FLAGS)]).rule(Rule::Bitfield),
    keyed("bitfield_ro", -2, READONLY | FAST, BITMAP, &[at(1, RO | ACCESS)]),
    keyed("bitop",       -4, WRITE | DENYOOM, BITMAP, &[at(2, OW | UPDATE), all(3, RO | ACCESS)]),
    keyed("bitpos",      -3, READONLY,        BITMAP, &[at(1, RO | ACCESS)]),
    keyed("getbit",       3, READONLY | FAST, BITMAP, &[at(1, RO | ACCESS)]),
    keyed("setbit",       4, WRITE | DENYOOM, BITMAP, &[at(1, RW | ACCESS | UPDATE)]),
];
