//! Scripts and functions.

use super::prelude::*;

// A library or script that was loaded must be known wherever its keys may be. KILL finds a running one on some node at most, and the
// others say that they run none.
#[rustfmt::skip]
const FUNCTION_ROWS: &[Command] = &[
    all_nodes("function|delete",   3, WRITE | NOSCRIPT,           SCRIPTING, AllOk).tips(&[ALL_SHARDS, ALL_SUCCEEDED]),
    any_node("function|dump",      2, NOSCRIPT,                   SCRIPTING),
    all_nodes("function|flush",   -2, WRITE | NOSCRIPT,           SCRIPTING, AllOk).tips(&[ALL_SHARDS, ALL_SUCCEEDED]),
    all_nodes("function|kill",     2, NOSCRIPT | ALLOW_BUSY,      SCRIPTING, OneOk).tips(&[ALL_SHARDS, ONE_SUCCEEDED]),
    any_node("function|list",     -2, NOSCRIPT,                   SCRIPTING).tips(&[UNORDERED]),
    all_nodes("function|load",    -3, WRITE | DENYOOM | NOSCRIPT, SCRIPTING, First).tips(&[ALL_SHARDS, ALL_SUCCEEDED]),
    all_nodes("function|restore", -3, WRITE | DENYOOM | NOSCRIPT, SCRIPTING, AllOk).tips(&[ALL_SHARDS, ALL_SUCCEEDED]),
    all_nodes("function|stats",    2, NOSCRIPT | ALLOW_BUSY,      SCRIPTING, First).tips(&[RANDOM, ALL_SHARDS, SPECIAL_RESPONSE]),
    any_node("function|help",      2, LOADING | STALE,            SCRIPTING),
];

#[rustfmt::skip]
const SCRIPT_ROWS: &[Command] = &[
    // It changes how its connection goes on, which is a shared one.
    refused("script|debug",     3, NOSCRIPT,              SCRIPTING),
    all_nodes("script|exists", -3, NOSCRIPT,              SCRIPTING, And).tips(&[ALL_SHARDS, AGG_LOGICAL_AND]),
    all_nodes("script|flush",  -2, NOSCRIPT,              SCRIPTING, AllOk).tips(&[ALL_NODES, ALL_SUCCEEDED]),
    all_nodes("script|kill",    2, NOSCRIPT | ALLOW_BUSY, SCRIPTING, OneOk).tips(&[ALL_SHARDS, ONE_SUCCEEDED]),
    all_nodes("script|load",    3, NOSCRIPT | STALE,      SCRIPTING, First).tips(&[ALL_NODES, ALL_SUCCEEDED]),
    any_node("script|help",     2, LOADING | STALE,       SCRIPTING),
];

#[rustfmt::skip]
pub(super) const ROWS: &[Command] = &[
    keyed("eval",       -3, RUNS_SCRIPT | MAY_REPLICATE, SCRIPTING, &[counted(2, RW | ACCESS | UPDATE)]),
    keyed("eval_ro",    -3, RUNS_SCRIPT | READONLY,      SCRIPTING, &[counted(2, RO | ACCESS)]),
    keyed("evalsha",    -3, RUNS_SCRIPT | MAY_REPLICATE, SCRIPTING, &[counted(2, RW | ACCESS | UPDATE)]),
    keyed("evalsha_ro", -3, RUNS_SCRIPT | READONLY,      SCRIPTING, &[counted(2, RO | ACCESS)]),
    keyed("fcall",      -3, RUNS_SCRIPT | MAY_REPLICATE, SCRIPTING, &[counted(2, RW | ACCESS | UPDATE)]),
    keyed("fcall_ro",   -3, RUNS_SCRIPT | READONLY,      SCRIPTING, &[counted(2, RO | ACCESS)]),
    container("function", FUNCTION_ROWS),
    container("script", SCRIPT_ROWS),
];

const RUNS_SCRIPT: u32 = NOSCRIPT | STALE | SKIP_MONITOR | NO_MANDATORY_KEYS;
