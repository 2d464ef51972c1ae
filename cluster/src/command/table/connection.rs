//! Commands about the connection, all answered by the proxy: what a client says here is about its connection to the proxy,
//! never about one of those to the nodes, which it shares with others.

use super::prelude::*;

#[rustfmt::skip]
const CLIENT_ROWS: &[Command] = &[
    local("client|caching",       3, NOSCRIPT | LOADING | STALE,         CONNECTION),
    local("client|getname",       2, NOSCRIPT | LOADING | STALE,         CONNECTION),
    local("client|getredir",      2, NOSCRIPT | LOADING | STALE,         CONNECTION),
    local("client|id",            2, NOSCRIPT | LOADING | STALE,         CONNECTION),
    local("client|info",          2, NOSCRIPT | LOADING | STALE,         CONNECTION).tips(&[RANDOM]),
    local("client|kill",         -3, ADMIN | NOSCRIPT | LOADING | STALE, CONNECTION),
    local("client|list",         -2, ADMIN | NOSCRIPT | LOADING | STALE, CONNECTION).tips(&[RANDOM]),
    local("client|no-evict",      3, ADMIN | NOSCRIPT | LOADING | STALE, CONNECTION),
    local("client|pause",        -3, ADMIN | NOSCRIPT | LOADING | STALE, CONNECTION),
    local("client|reply",         3, NOSCRIPT | LOADING | STALE,         CONNECTION),
    local("client|setname",       3, NOSCRIPT | LOADING | STALE,         CONNECTION),
    local("client|tracking",     -3, NOSCRIPT | LOADING | STALE,         CONNECTION),
    local("client|trackinginfo",  2, NOSCRIPT | LOADING | STALE,         CONNECTION),
    local("client|unblock",      -3, ADMIN | NOSCRIPT | LOADING | STALE, CONNECTION),
    local("client|unpause",       2, ADMIN | NOSCRIPT | LOADING | STALE, CONNECTION),
    any_node("client|help",       2, LOADING | STALE,                    CONNECTION),
];

#[rustfmt::skip]
pub(super) const ROWS: &[Command] = &[
    local("auth",   -2, NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY, CONNECTION),
    local("echo",    2, LOADING | STALE | FAST,                                   CONNECTION),
    local("hello",  -1, NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY, CONNECTION),
    local("ping",   -1, FAST,                                                     CONNECTION).tips(&[ALL_SHARDS, ALL_SUCCEEDED]),
    local("quit",   -1, NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY, CONNECTION),
    local("reset",   1, NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY, CONNECTION),
    local("select",  2, LOADING | STALE | FAST,                                   CONNECTION),
    container("client", CLIENT_ROWS),
];
