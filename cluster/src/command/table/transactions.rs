//! Transactions.

use super::prelude::*;

#[rustfmt::skip]
pub(super) const ROWS: &[Command] = &[
    transaction("discard",  1, NOSCRIPT | LOADING | STALE | FAST | ALLOW_BUSY, TRANSACTION),
    transaction("exec",     1, NOSCRIPT | LOADING | STALE | SKIP_SLOWLOG,      TRANSACTION),
    transaction("multi",    1, NOSCRIPT | LOADING | STALE | FAST | ALLOW_BUSY, TRANSACTION),
    transaction("unwatch",  1, NOSCRIPT | LOADING | STALE | FAST | ALLOW_BUSY, TRANSACTION),
    transaction("watch",   -2, NOSCRIPT | LOADING | STALE | FAST | ALLOW_BUSY, TRANSACTION).keys(&[all(1, RO)]),
];
