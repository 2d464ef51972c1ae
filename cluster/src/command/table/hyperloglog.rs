//! HyperLogLog.

use super::prelude::*;

#[rustfmt::skip]
pub(super) const ROWS: &[Command] = &[
    keyed("pfadd",         -2, WRITE | DENYOOM | FAST,   HYPERLOGLOG, &[at(1, RW | INSERT)]),
    keyed("pfcount",       -2, READONLY | MAY_REPLICATE, HYPERLOGLOG, &[all(1, RW | ACCESS)]),
    keyed("pfdebug",        3, WRITE | DENYOOM | ADMIN,  HYPERLOGLOG, &[at(2, RW | ACCESS)]),
    keyed("pfmerge",       -2, WRITE | DENYOOM,          HYPERLOGLOG, &[at(1, RW | ACCESS | INSERT), all(2, RO | ACCESS)]),
    any_node("pfselftest",  1, ADMIN,                    HYPERLOGLOG),
];
