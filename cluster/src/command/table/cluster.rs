//! Redis Cluster's own commands: the proxies stand in for the cluster's nodes, and whatever would change a cluster is refused.

use super::prelude::*;

#[rustfmt::skip]
const CLUSTER_ROWS: &[Command] = &[
    refused("cluster|addslots",              -3, ADMIN | STALE | NO_ASYNC_LOADING, 0),
    refused("cluster|addslotsrange",         -4, ADMIN | STALE | NO_ASYNC_LOADING, 0),
    refused("cluster|bumpepoch",              2, ADMIN | STALE | NO_ASYNC_LOADING, 0).tips(&[RANDOM]),
    refused("cluster|count-failure-reports",  3, ADMIN | STALE,                    0).tips(&[RANDOM]),
    refused("cluster|countkeysinslot",        3, STALE,                            0),
    refused("cluster|delslots",              -3, ADMIN | STALE | NO_ASYNC_LOADING, 0),
    refused("cluster|delslotsrange",         -4, ADMIN | STALE | NO_ASYNC_LOADING, 0),
    refused("cluster|failover",              -2, ADMIN | STALE | NO_ASYNC_LOADING, 0),
    refused("cluster|flushslots",             2, ADMIN | STALE | NO_ASYNC_LOADING, 0),
    refused("cluster|forget",                 3, ADMIN | STALE | NO_ASYNC_LOADING, 0),
    refused("cluster|getkeysinslot",          4, STALE,                            0).tips(&[RANDOM]),
    local("cluster|info",                     2, STALE,                            0).tips(&[RANDOM]),
    local("cluster|keyslot",                  3, STALE,                            0),
    local("cluster|links",                    2, STALE,                            0).tips(&[RANDOM]),
    refused("cluster|meet",                  -4, ADMIN | STALE | NO_ASYNC_LOADING, 0),
    local("cluster|myid",                     2, STALE,                            0),
    local("cluster|nodes",                    2, STALE,                            0).tips(&[RANDOM]),
    local("cluster|replicas",                 3, ADMIN | STALE,                    0).tips(&[RANDOM]),
    refused("cluster|replicate",              3, ADMIN | STALE | NO_ASYNC_LOADING, 0),
    refused("cluster|reset",                 -2, ADMIN | NOSCRIPT | STALE,         0),
    refused("cluster|saveconfig",             2, ADMIN | STALE | NO_ASYNC_LOADING, 0),
    refused("cluster|set-config-epoch",       3, ADMIN | STALE | NO_ASYNC_LOADING, 0),
    refused("cluster|setslot",               -4, ADMIN | STALE | NO_ASYNC_LOADING, 0),
    local("cluster|shards",                   2, STALE,                            0).tips(&[RANDOM]),
    local("cluster|slaves",                   3, ADMIN | STALE,                    0).tips(&[RANDOM]),
    local("cluster|slots",                    2, STALE,                            0).tips(&[RANDOM]),
    local("cluster|help",                     2, LOADING | STALE,                  0),
];

#[rustfmt::skip]
pub(super) const ROWS: &[Command] = &[
    local("asking",    1, FAST,                   CONNECTION),
    local("readonly",  1, LOADING | STALE | FAST, CONNECTION),
    local("readwrite", 1, LOADING | STALE | FAST, CONNECTION),
    container("cluster", CLUSTER_ROWS),
];
