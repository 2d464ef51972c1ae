//! Copies libraries of functions from nodes that have them to one that may not.

use std::{collections::HashMap, time::Duration};

use tokio::{spawn, time::timeout};
use vrc_cluster::contract::Endpoint;

use crate::{connect::ask, limits::ASKED_BYTES_MAX};

/// A dump of no library holds a version and a checksum only.
const EMPTY_DUMP_BYTES: usize = 10;

/// Gives `to` the libraries that most of the others have, unless it has some itself, within `limit`: a client waits for that. What cannot
/// be had is done without: the function's call then says so.
pub(crate) async fn copy(to: &Endpoint, from: &[Endpoint], limit: Duration) {
    if timeout(limit, give(to, from, limit)).await.is_err() {
        tracing::warn!(node = %to.address(), "could not be given the others' functions within {} ms", limit.as_millis());
    }
}

async fn give(to: &Endpoint, from: &[Endpoint], limit: Duration) {
    if !matches!(dump(to.clone(), limit).await, Some(dump) if dump.is_empty()) {
        return;
    }
    let asked: Vec<_> = from.iter().map(|node| spawn(dump(node.clone(), limit))).collect();
    let mut dumps = HashMap::<Vec<u8>, usize>::new();
    for dump in asked {
        if let Ok(Some(dump)) = dump.await
            && !dump.is_empty()
        {
            *dumps.entry(dump).or_default() += 1;
        }
    }
    let Some((dump, _)) = dumps.into_iter().max_by_key(|(dump, count)| (*count, dump.len())) else { return };
    match ask(to, &[b"FUNCTION".as_slice(), b"RESTORE", &dump], ASKED_BYTES_MAX, limit).await {
        Ok(reply) if reply.starts_with(b"+") => tracing::info!(node = %to.address(), "was given the others' functions"),
        // Another proxy, or another worker, has been faster.
        Ok(_) => {}
        Err(error) => tracing::warn!(node = %to.address(), "could not be given the others' functions: {error}"),
    }
}

/// A node's libraries, empty if it has none; `None` if it does not say.
async fn dump(node: Endpoint, limit: Duration) -> Option<Vec<u8>> {
    let reply = ask(&node, &["FUNCTION", "DUMP"], ASKED_BYTES_MAX, limit).await.ok()?;
    let body = reply.strip_prefix(b"$")?.strip_suffix(b"\r\n")?;
    let start = body.iter().position(|byte| *byte == b'\n')? + 1;
    let dump = &body[start..];
    Some(if dump.len() <= EMPTY_DUMP_BYTES { Vec::new() } else { dump.to_vec() })
}
