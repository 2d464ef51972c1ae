//! Commands about the server.

use super::prelude::*;

// The nodes' users are the proxy's own affair: they say how it logs in there. Clients have one user.
#[rustfmt::skip]
const ACL_ROWS: &[Command] = &[
    local("acl|cat",        -2, NOSCRIPT | LOADING | STALE,         0),
    local("acl|deluser",    -3, ADMIN | NOSCRIPT | LOADING | STALE, 0),
    local("acl|dryrun",     -4, ADMIN | NOSCRIPT | LOADING | STALE, 0),
    local("acl|genpass",    -2, NOSCRIPT | LOADING | STALE,         0),
    local("acl|getuser",     3, ADMIN | NOSCRIPT | LOADING | STALE, 0),
    local("acl|list",        2, ADMIN | NOSCRIPT | LOADING | STALE, 0),
    local("acl|load",        2, ADMIN | NOSCRIPT | LOADING | STALE, 0),
    local("acl|log",        -2, ADMIN | NOSCRIPT | LOADING | STALE, 0),
    local("acl|save",        2, ADMIN | NOSCRIPT | LOADING | STALE, 0),
    local("acl|setuser",    -3, ADMIN | NOSCRIPT | LOADING | STALE, 0),
    local("acl|users",       2, ADMIN | NOSCRIPT | LOADING | STALE, 0),
    local("acl|whoami",      2, NOSCRIPT | LOADING | STALE,         0),
    any_node("acl|help",     2, LOADING | STALE,                    0),
];

// Told from this table; the long texts of DOCS and HELP a node knows.
#[rustfmt::skip]
const COMMAND_ROWS: &[Command] = &[
    local("command|count",            2, LOADING | STALE, CONNECTION),
    any_node("command|docs",         -2, LOADING | STALE, CONNECTION).tips(&[UNORDERED]),
    local("command|getkeys",         -4, LOADING | STALE, CONNECTION),
    local("command|getkeysandflags", -4, LOADING | STALE, CONNECTION),
    local("command|info",            -2, LOADING | STALE, CONNECTION).tips(&[UNORDERED]),
    local("command|list",            -2, LOADING | STALE, CONNECTION).tips(&[UNORDERED]),
    any_node("command|help",          2, LOADING | STALE, CONNECTION),
];

// The proxy has settings of its own, and no file.
#[rustfmt::skip]
const CONFIG_ROWS: &[Command] = &[
    local("config|get",       -3, ADMIN | NOSCRIPT | LOADING | STALE, 0),
    local("config|resetstat",  2, ADMIN | NOSCRIPT | LOADING | STALE, 0),
    local("config|rewrite",    2, ADMIN | NOSCRIPT | LOADING | STALE, 0),
    local("config|set",       -4, ADMIN | NOSCRIPT | LOADING | STALE, 0).tips(&[ALL_NODES, ALL_SUCCEEDED]),
    any_node("config|help",    2, LOADING | STALE,                    0),
];

// Latency as a client sees it is the proxy's to tell.
#[rustfmt::skip]
const LATENCY_ROWS: &[Command] = &[
    local("latency|doctor",     2, ADMIN | NOSCRIPT | LOADING | STALE, 0).tips(&[RANDOM, ALL_NODES, SPECIAL_RESPONSE]),
    local("latency|graph",      3, ADMIN | NOSCRIPT | LOADING | STALE, 0).tips(&[RANDOM, ALL_NODES, SPECIAL_RESPONSE]),
    local("latency|histogram", -2, ADMIN | NOSCRIPT | LOADING | STALE, 0).tips(&[RANDOM, ALL_NODES, SPECIAL_RESPONSE]),
    local("latency|history",    3, ADMIN | NOSCRIPT | LOADING | STALE, 0).tips(&[RANDOM, ALL_NODES, SPECIAL_RESPONSE]),
    local("latency|latest",     2, ADMIN | NOSCRIPT | LOADING | STALE, 0).tips(&[RANDOM, ALL_NODES, SPECIAL_RESPONSE]),
    local("latency|reset",     -2, ADMIN | NOSCRIPT | LOADING | STALE, 0).tips(&[ALL_NODES, ALL_SUCCEEDED]),
    any_node("latency|help",    2, LOADING | STALE,                    0),
];

// What only makes a text, each node says for itself.
#[rustfmt::skip]
const MEMORY_ROWS: &[Command] = &[
    local("memory|doctor",          2, 0,               0).tips(&[RANDOM, ALL_SHARDS, SPECIAL_RESPONSE]),
    local("memory|malloc-stats",    2, 0,               0).tips(&[RANDOM, ALL_SHARDS, SPECIAL_RESPONSE]),
    all_nodes("memory|purge",       2, 0,               0, AllOk).tips(&[ALL_SHARDS, ALL_SUCCEEDED]),
    local("memory|stats",           2, 0,               0).tips(&[RANDOM, ALL_SHARDS, SPECIAL_RESPONSE]),
    keyed("memory|usage",          -3, READONLY,        0, &[at(2, RO)]),
    any_node("memory|help",         2, LOADING | STALE, 0),
];

// All nodes are expected to have the same modules, loaded by their configuration.
#[rustfmt::skip]
const MODULE_ROWS: &[Command] = &[
    any_node("module|list",   2, ADMIN | NOSCRIPT,                                0).tips(&[UNORDERED]),
    refused("module|load",   -3, ADMIN | NOSCRIPT | NO_ASYNC_LOADING | PROTECTED, 0),
    refused("module|loadex", -3, ADMIN | NOSCRIPT | NO_ASYNC_LOADING | PROTECTED, 0),
    refused("module|unload",  3, ADMIN | NOSCRIPT | NO_ASYNC_LOADING | PROTECTED, 0),
    any_node("module|help",   2, LOADING | STALE,                                 0),
];

// The proxy's own log.
#[rustfmt::skip]
const SLOWLOG_ROWS: &[Command] = &[
    local("slowlog|get",     -2, ADMIN | LOADING | STALE, 0).tips(&[ALL_NODES, RANDOM]),
    local("slowlog|len",      2, ADMIN | LOADING | STALE, 0).tips(&[ALL_NODES, AGG_SUM, RANDOM]),
    local("slowlog|reset",    2, ADMIN | LOADING | STALE, 0).tips(&[ALL_NODES, ALL_SUCCEEDED]),
    any_node("slowlog|help",  2, LOADING | STALE,         0),
];

// Whatever saves, stops or replicates one server has no meaning for many: SWAPDB would swap what a node keeps for others, too.
// LASTSAVE, ROLE and TIME say what a single server without persistence would.
#[rustfmt::skip]
pub(super) const ROWS: &[Command] = &[
    refused("bgrewriteaof",  1, ADMIN | NOSCRIPT | NO_ASYNC_LOADING,                        0),
    refused("bgsave",       -1, ADMIN | NOSCRIPT | NO_ASYNC_LOADING,                        0),
    local("command",        -1, LOADING | STALE,                                            CONNECTION).subcommands(COMMAND_ROWS).tips(&[UNORDERED]),
    all_nodes("dbsize",      1, READONLY | FAST,                                            KEYSPACE,             Sum).tips(&[ALL_SHARDS, AGG_SUM]),
    refused("debug",        -2, ADMIN | NOSCRIPT | LOADING | STALE | PROTECTED,             0),
    refused("failover",     -1, ADMIN | NOSCRIPT | STALE,                                   0),
    all_nodes("flushall",   -1, WRITE,                                                      KEYSPACE | DANGEROUS, AllOk).tips(&[ALL_SHARDS, ALL_SUCCEEDED]),
    all_nodes("flushdb",    -1, WRITE,                                                      KEYSPACE | DANGEROUS, AllOk).tips(&[ALL_SHARDS, ALL_SUCCEEDED]),
    local("info",           -1, LOADING | STALE,                                            DANGEROUS).tips(&[RANDOM, ALL_SHARDS, SPECIAL_RESPONSE]),
    local("lastsave",        1, LOADING | STALE | FAST,                                     CATEGORY_ADMIN | DANGEROUS).tips(&[RANDOM]),
    any_node("lolwut",      -1, READONLY | FAST,                                            0),
    local("monitor",         1, ADMIN | NOSCRIPT | LOADING | STALE,                         0),
    refused("psync",        -3, ADMIN | NOSCRIPT | NO_ASYNC_LOADING | NO_MULTI,             0),
    refused("replconf",     -1, ADMIN | NOSCRIPT | LOADING | STALE | ALLOW_BUSY,            0),
    refused("replicaof",     3, ADMIN | NOSCRIPT | STALE | NO_ASYNC_LOADING,                0),
    keyed("restore-asking", -4, WRITE | DENYOOM | ASKING,                                   KEYSPACE | DANGEROUS, &[at(1, OW | UPDATE)]),
    local("role",            1, NOSCRIPT | LOADING | STALE | FAST,                          CATEGORY_ADMIN | DANGEROUS),
    refused("save",          1, ADMIN | NOSCRIPT | NO_ASYNC_LOADING | NO_MULTI,             0),
    refused("shutdown",     -1, ADMIN | NOSCRIPT | LOADING | STALE | NO_MULTI | ALLOW_BUSY, 0),
    refused("slaveof",       3, ADMIN | NOSCRIPT | STALE | NO_ASYNC_LOADING,                0),
    refused("swapdb",        3, WRITE | FAST,                                               KEYSPACE | DANGEROUS),
    refused("sync",          1, ADMIN | NOSCRIPT | NO_ASYNC_LOADING | NO_MULTI,             0),
    local("time",            1, LOADING | STALE | FAST,                                     0).tips(&[RANDOM]),
    container("acl", ACL_ROWS),
    container("config", CONFIG_ROWS),
    container("latency", LATENCY_ROWS),
    container("memory", MEMORY_ROWS),
    container("module", MODULE_ROWS),
    container("slowlog", SLOWLOG_ROWS),
];
