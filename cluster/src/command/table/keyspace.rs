//! Commands on keys whatever their type, and on the keyspace as a whole.

use super::prelude::*;

#[rustfmt::skip]
const OBJECT_ROWS: &[Command] = &[
    keyed("object|encoding", 3, READONLY,        KEYSPACE, &[at(2, RO)]).tips(&[RANDOM]),
    keyed("object|freq",     3, READONLY,        KEYSPACE, &[at(2, RO)]).tips(&[RANDOM]),
    keyed("object|idletime", 3, READONLY,        KEYSPACE, &[at(2, RO)]).tips(&[RANDOM]),
    keyed("object|refcount", 3, READONLY,        KEYSPACE, &[at(2, RO)]).tips(&[RANDOM]),
    any_node("object|help",  2, LOADING | STALE, KEYSPACE),
];

// DEL and its like count keys one by one anyway, so they may be split. RENAME and COPY move a value from key to key, which only the
// node that has both can do.
#[rustfmt::skip]
pub(super) const ROWS: &[Command] = &[
    keyed("copy",          -3, WRITE | DENYOOM, KEYSPACE,             &[at(1, RO | ACCESS), at(2, OW | UPDATE)]).rule(Rule::Copy),
    split("del",           -2, WRITE,           KEYSPACE,             &[all(1, RM | DELETE)], SumByKey).tips(&[MULTI_SHARD, AGG_SUM]),
    keyed("dump",           2, READONLY,        KEYSPACE,             &[at(1, RO | ACCESS)]).tips(&[RANDOM]),
    split("exists",        -2, READONLY | FAST, KEYSPACE,             &[all(1, RO)], SumByKey).tips(&[MULTI_SHARD, AGG_SUM]),
    keyed("expire",        -3, WRITE | FAST,    KEYSPACE,             &[at(1, RW | UPDATE)]),
    keyed("expireat",      -3, WRITE | FAST,    KEYSPACE,             &[at(1, RW | UPDATE)]),
    keyed("expiretime",     2, READONLY | FAST, KEYSPACE,             &[at(1, RO | ACCESS)]),
    keyed("move",           3, WRITE | FAST,    KEYSPACE,             &[at(1, RW | ACCESS | UPDATE)]).rule(Rule::Move),
    keyed("persist",        2, WRITE | FAST,    KEYSPACE,             &[at(1, RW | UPDATE)]),
    keyed("pexpire",       -3, WRITE | FAST,    KEYSPACE,             &[at(1, RW | UPDATE)]),
    keyed("pexpireat",     -3, WRITE | FAST,    KEYSPACE,             &[at(1, RW | UPDATE)]),
    keyed("pexpiretime",    2, READONLY | FAST, KEYSPACE,             &[at(1, RO | ACCESS)]),
    keyed("pttl",           2, READONLY | FAST, KEYSPACE,             &[at(1, RO | ACCESS)]).tips(&[RANDOM]),
    keyed("rename",         3, WRITE,           KEYSPACE,             &[at(1, RW | ACCESS | DELETE), at(2, OW | UPDATE)]),
    keyed("renamenx",       3, WRITE | FAST,    KEYSPACE,             &[at(1, RW | ACCESS | DELETE), at(2, OW | INSERT)]),
    keyed("restore",       -4, WRITE | DENYOOM, KEYSPACE | DANGEROUS, &[at(1, OW | UPDATE)]),
    keyed("sort",          -2, WRITE | DENYOOM, SORTABLE | DANGEROUS, SORTING).rule(Rule::Sort),
    keyed("sort_ro",       -2, READONLY,        SORTABLE | DANGEROUS, SORTING_READ_ONLY).rule(Rule::SortRo),
    split("touch",         -2, READONLY | FAST, KEYSPACE,             &[all(1, RO)], SumByKey).tips(&[MULTI_SHARD, AGG_SUM]),
    keyed("ttl",            2, READONLY | FAST, KEYSPACE,             &[at(1, RO | ACCESS)]).tips(&[RANDOM]),
    keyed("type",           2, READONLY | FAST, KEYSPACE,             &[at(1, RO)]),
    split("unlink",        -2, WRITE | FAST,    KEYSPACE,             &[all(1, RM | DELETE)], SumByKey).tips(&[MULTI_SHARD, AGG_SUM]),
    container("object", OBJECT_ROWS),

    all_nodes("keys",       2, READONLY,        KEYSPACE | DANGEROUS, Concat).tips(&[ALL_SHARDS, UNORDERED]),
    random_key("randomkey", 1, READONLY,        KEYSPACE).tips(&[ALL_SHARDS, RANDOM]),
    scan("scan",           -2, READONLY,        KEYSPACE).tips(&[RANDOM, SPECIAL_REQUEST]),
    // Where a key lives is decided by its name; a client cannot send it elsewhere.
    refused("migrate",     -6, WRITE,           KEYSPACE | DANGEROUS).keys(MIGRATING).tips(&[RANDOM]).rule(Rule::Migrate),
    // It waits for replicas, so it must not hold up a shared connection.
    blocking("wait",        3, NOSCRIPT,        CONNECTION,           &[]).tips(&[ALL_SHARDS, AGG_MIN]),
];

const SORTABLE: u32 = SET | SORTEDSET | LIST;
const SORTING: &[KeySpec] = &[at(1, RO | ACCESS), unknown(RO | ACCESS), unknown(OW | UPDATE)];
const SORTING_READ_ONLY: &[KeySpec] = &[at(1, RO | ACCESS), unknown(RO | ACCESS)];
const MIGRATING: &[KeySpec] = &[at(3, RW | ACCESS | DELETE), all_after("KEYS", -2, RW | ACCESS | DELETE | INCOMPLETE)];
