//! Streams.
//!
//! XREAD and XREADGROUP only wait when told to: see [`Command::waits`].

use super::prelude::*;

#[rustfmt::skip]
const XGROUP_ROWS: &[Command] = &[
    keyed("xgroup|create",         -5, WRITE | DENYOOM, STREAM, &[at(2, RW | INSERT)]),
    keyed("xgroup|createconsumer",  5, WRITE | DENYOOM, STREAM, &[at(2, RW | INSERT)]),
    keyed("xgroup|delconsumer",     5, WRITE,           STREAM, &[at(2, RW | DELETE)]),
    keyed("xgroup|destroy",         4, WRITE,           STREAM, &[at(2, RW | DELETE)]),
    keyed("xgroup|setid",          -5, WRITE,           STREAM, &[at(2, RW | UPDATE)]),
    any_node("xgroup|help",         2, LOADING | STALE, STREAM),
];

#[rustfmt::skip]
const XINFO_ROWS: &[Command] = &[
    keyed("xinfo|consumers",  4, READONLY,        STREAM, &[at(2, RO | ACCESS)]).tips(&[RANDOM]),
    keyed("xinfo|groups",     3, READONLY,        STREAM, &[at(2, RO | ACCESS)]),
    keyed("xinfo|stream",    -3, READONLY,        STREAM, &[at(2, RO | ACCESS)]),
    any_node("xinfo|help",    2, LOADING | STALE, STREAM),
];

#[rustfmt::skip]
pub(super) const ROWS: &[Command] = &[
    keyed("xack",          -4, WRITE | FAST,           STREAM, &[at(1, RW | UPDATE)]),
    keyed("xadd",          -5, WRITE | DENYOOM | FAST, STREAM, &[at(1, RW | UPDATE)]).tips(&[RANDOM]),
    keyed("xautoclaim",    -6, WRITE | FAST,           STREAM, &[at(1, RW | DELETE)]).tips(&[RANDOM]),
    keyed("xclaim",        -6, WRITE | FAST,           STREAM, &[at(1, RW | UPDATE)]).tips(&[RANDOM]),
    keyed("xdel",          -3, WRITE | FAST,           STREAM, &[at(1, RW | DELETE)]),
    keyed("xlen",           2, READONLY | FAST,        STREAM, &[at(1, RO)]),
    keyed("xpending",      -3, READONLY,               STREAM, &[at(1, RO | ACCESS)]).tips(&[RANDOM]),
    keyed("xrange",        -4, READONLY,               STREAM, &[at(1, RO | ACCESS)]),
    blocking("xread",      -4, READONLY | BLOCKING,    STREAM, &[half_after("STREAMS", 1, RO | ACCESS)]).rule(Rule::Streams),
    blocking("xreadgroup", -7, WRITE | BLOCKING,       STREAM, &[half_after("STREAMS", 4, RO | ACCESS)]).rule(Rule::Streams),
    keyed("xrevrange",     -4, READONLY,               STREAM, &[at(1, RO | ACCESS)]),
    keyed("xsetid",        -3, WRITE | DENYOOM | FAST, STREAM, &[at(1, RW | UPDATE)]),
    keyed("xtrim",         -4, WRITE,                  STREAM, &[at(1, RW | DELETE)]).tips(&[RANDOM]),
    container("xgroup", XGROUP_ROWS),
    container("xinfo", XINFO_ROWS),
];
