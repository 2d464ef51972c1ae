//! The differences that are known, each with its reason.

use crate::sequences::Words;

pub(crate) enum Difference {
    None,
    Known(&'static str),
    Unknown,
}

/// Requests whose answers may differ, word by word; `*` stands for any word, and a last `…` for any number of them.
const KNOWN: &[(&str, &str)] = &[
    ("command info …", "the notes on key specs, which are for people, are left out"),
    ("scan 0", "a cursor that goes on to the next node: a scan is over when it is 0, not when nothing came"),
    ("config set nonsense 1", "clients may not change the nodes' settings, so nobody looks which there are"),
    ("get / http/1.1 …", "redis drops what it has not written yet when it closes on HTTP, the proxy writes it first"),
    ("client reply off ping *1 $x", "without a reply to be written redis forgets to close on a protocol error"),
    ("cluster …", "clients in cluster mode are served: redis alone says that its cluster support is disabled"),
    ("readonly", "likewise"),
    ("readwrite", "likewise"),
    ("asking", "likewise"),
];

/// Commands that answer with elements in no particular order: redis hashes with a seed of its own in each process.
const UNORDERED: &[&str] =
    &["smembers", "sunion", "sinter", "sdiff", "sscan", "hscan", "zscan", "sort", "sort_ro", "hgetall", "hkeys", "hvals", "keys"];

pub(crate) fn explain(words: &[Vec<u8>], redis: &[u8], proxy: &[u8]) -> Difference {
    if redis == proxy || without_id(redis) == without_id(proxy) {
        return Difference::None;
    }
    let words: Vec<_> = words.iter().map(|word| String::from_utf8_lossy(word).to_ascii_lowercase()).collect();
    let name = words.first().map_or("", String::as_str);
    if UNORDERED.contains(&name) && sorted_lines(redis) == sorted_lines(proxy) {
        return Difference::None;
    }
    if proxy.starts_with(b"-ERR '") && proxy.ends_with(b"' is not supported by this proxy\r\n") {
        return Difference::Known("refused in so many words: it makes no sense in front of many nodes, or is not there yet");
    }
    let is_meant = |pattern: &str| {
        let pattern: Vec<_> = pattern.split(' ').collect();
        let (pattern, may_go_on) = match pattern.split_last() {
            Some((&"…", pattern)) => (pattern, true),
            _ => (&pattern[..], false),
        };
        let is_as_long = if may_go_on { words.len() >= pattern.len() } else { words.len() == pattern.len() };
        is_as_long && pattern.iter().zip(&words).all(|(part, word)| *part == "*" || part == word)
    };
    match KNOWN.iter().find(|(pattern, _)| is_meant(pattern)) {
        Some((_, reason)) => Difference::Known(reason),
        None => Difference::Unknown,
    }
}

/// Whether the answers to commands that were sent together are the same, but for the order of what has none.
pub(crate) fn are_alike<'a>(mut commands: impl Iterator<Item = &'a Words>, redis: &[u8], proxy: &[u8]) -> bool {
    let is_unordered = |command: &Words| {
        let name = String::from_utf8_lossy(&command[0]).to_ascii_lowercase();
        UNORDERED.contains(&name.as_str()) || name == "spop"
    };
    let (mut redis, mut proxy) = (without_greeting(redis), without_greeting(proxy));
    if commands.any(is_unordered) {
        redis.sort_unstable();
        proxy.sort_unstable();
    }
    redis == proxy
}

/// HELLO tells the connection's number.
fn without_id(reply: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<_> = reply.split(|byte| *byte == b'\n').collect();
    for at in 1..lines.len() {
        if lines[at - 1] == b"id\r" && lines[at].starts_with(b":") {
            lines[at] = b":some id\r";
        }
    }
    lines
}

/// HELLO tells also of the server; what that is called is for the table to compare.
fn without_greeting(reply: &[u8]) -> Vec<&[u8]> {
    let mut lines = without_id(reply);
    for at in 2..lines.len() {
        if matches!(lines[at - 2], b"server\r" | b"version\r") {
            (lines[at - 1], lines[at]) = (b"", b"");
        }
    }
    lines
}

fn sorted_lines(reply: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<_> = reply.split(|byte| *byte == b'\n').collect();
    lines.sort_unstable();
    lines
}
