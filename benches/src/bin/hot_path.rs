//! A fixed script of requests through the hot path, `cluster`'s parts of it and a proxy's whole core, for tools that count instructions: `hot_path SCENARIO ROUNDS`.
//! Without arguments it names the scenarios. See `guard.py`.

use std::{env, hint::black_box, process::ExitCode};

use vrc_benches::{Pass, VALUE_BYTES, array_reply, bulk_reply, node_map, numbered, request, topology};
use vrc_cluster::{
    resp::Args,
    topology::{PlacementKind, Topology},
};
use vrc_proxy::bench::HotPath;

/// Requests or replies a round where nothing else is said: what one read brings at -P 16.
const DEPTH: usize = 16;
/// Clients of a core, each with a pipeline of its own.
const CLIENTS: usize = 4;
const MGET_KEYS: usize = 10;

/// One thing that is counted: a name, the requests or replies of a round, and what a round of it does.
type Scenario = (&'static str, usize, fn() -> Box<dyn FnMut()>);

#[rustfmt::skip]
const SCENARIOS: &[Scenario] = &[
    ("get", DEPTH, || requests(slots(), |key| vec!["GET".into(), key])),
    ("get-lower-case", DEPTH, || requests(slots(), |key| vec!["get".into(), key])),
    ("get-legacy", DEPTH, || requests(topology(&node_map(4), PlacementKind::Legacy), |key| vec!["GET".into(), key])),
    ("set-64", DEPTH, || requests(slots(), |key| vec!["SET".into(), key, "v".repeat(VALUE_BYTES)])),
    ("hset-tag", DEPTH, || requests(slots(), |key| vec!["HSET".into(), format!("cart:{{{key}}}:items"), "field".into(), "1".into()])),
    ("eval-2-keys", DEPTH, || requests(slots(), |key| vec!["EVAL".into(), "return 1".into(), "2".into(), key.clone(), key, "x".into()])),
    ("mget-10", DEPTH, mget),
    ("reply-ok", DEPTH, || replies(b"+OK\r\n")),
    ("reply-null", DEPTH, || replies(b"$-1\r\n")),
    ("reply-integer", DEPTH, || replies(b":1234\r\n")),
    ("reply-error", DEPTH, || replies(b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n")),
    ("reply-bulk-64", DEPTH, || replies(&bulk_reply(VALUE_BYTES))),
    ("reply-array-10", DEPTH, || replies(&array_reply(MGET_KEYS))),
    ("reply-map-resp3", DEPTH, || replies(b"%2\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n,1.5\r\n")),
    ("core-get-p1", CLIENTS, || core(1, &[], 1, get)),
    ("core-get-p16", 16 * CLIENTS, || core(16, &[], 1, get)),
    ("core-get-p64", 64 * CLIENTS, || core(64, &[], 1, get)),
    ("core-get-resp3-p16", 16 * CLIENTS, || core(16, &["HELLO", "3"], 1, get)),
    ("core-set-64-p1", CLIENTS, || core(1, &[], 1, set)),
    ("core-set-64-p16", 16 * CLIENTS, || core(16, &[], 1, set)),
    ("core-set-64-p64", 64 * CLIENTS, || core(64, &[], 1, set)),
    ("core-mget-10-p1", CLIENTS, || core(1, &[], MGET_KEYS, |keys| several("MGET", keys))),
    ("core-mget-10-p16", 16 * CLIENTS, || core(16, &[], MGET_KEYS, |keys| several("MGET", keys))),
    ("core-del-10-p16", 16 * CLIENTS, || core(16, &[], MGET_KEYS, |keys| several("DEL", keys))),
    ("core-incr-p16", 16 * CLIENTS, || core(16, &[], 1, |keys| several("INCR", keys))),
    ("core-hget-null-p16", 16 * CLIENTS, || core(16, &[], 1, |keys| vec!["HGET".into(), keys[0].clone(), "f".into()])),
    ("core-lrange-10-p16", 16 * CLIENTS, || core(16, &[], 1, |keys| vec!["LRANGE".into(), keys[0].clone(), "0".into(), "9".into()])),
    ("core-getset-error-p16", 16 * CLIENTS, || core(16, &[], 1, |keys| vec!["GETSET".into(), keys[0].clone(), "v".into()])),
    ("core-ping-p16", 16 * CLIENTS, || core(16, &[], 1, |_| vec!["PING".into()])),
];

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => SCENARIOS.iter().for_each(|(name, each, _)| println!("{name} {each}")),
        [name, rounds] => {
            let scenario = SCENARIOS.iter().find(|scenario| scenario.0 == name);
            let (Some((_, _, make)), Ok(rounds)) = (scenario, rounds.parse::<u32>()) else {
                eprintln!("no scenario {name}, or not a number: {rounds}");
                return ExitCode::FAILURE;
            };
            let mut round = make();
            (0..rounds).for_each(|_| round());
        }
        _ => {
            eprintln!("usage: hot_path [SCENARIO ROUNDS]");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn slots() -> Topology {
    topology(&node_map(4), PlacementKind::Slots)
}

fn requests(topology: Topology, words: fn(String) -> Vec<String>) -> Box<dyn FnMut()> {
    let bytes: Vec<u8> = numbered(DEPTH).flat_map(|key| request(words(key))).collect();
    let mut pass = Pass::default();
    Box::new(move || {
        black_box(pass.requests(black_box(&bytes), black_box(&topology)));
    })
}

fn replies(one: &[u8]) -> Box<dyn FnMut()> {
    let bytes = one.repeat(DEPTH);
    let mut pass = Pass::default();
    Box::new(move || {
        black_box(pass.replies(black_box(&bytes)));
    })
}

fn get(keys: &[String]) -> Vec<String> {
    several("GET", keys)
}

fn set(keys: &[String]) -> Vec<String> {
    vec!["SET".into(), keys[0].clone(), "v".repeat(VALUE_BYTES)]
}

fn several(command: &str, keys: &[String]) -> Vec<String> {
    [command.to_owned()].into_iter().chain(keys.iter().cloned()).collect()
}

/// The whole of a proxy's core with 4 nodes: clients that have said `first`, and then say so many requests each a round.
fn core(depth: usize, first: &[&str], keys_each: usize, words: fn(&[String]) -> Vec<String>) -> Box<dyn FnMut()> {
    let keys: Vec<_> = numbered(CLIENTS * depth * keys_each).collect();
    let all: Vec<_> = keys.chunks(keys_each).map(|keys| request(words(keys))).collect();
    let pipelines = all.chunks(depth).map(|requests| requests.concat()).collect();
    let first = if first.is_empty() { Vec::new() } else { request(first) };
    let mut path = HotPath::new(slots(), &first, pipelines, node);
    let mut reply_bytes = path.round();
    Box::new(move || {
        let bytes = black_box(path.round());
        assert!(bytes > 0 && bytes == std::mem::replace(&mut reply_bytes, bytes), "a round is not like the one before: {bytes}");
    })
}

/// What a node answers.
fn node(request: Args<'_>) -> Vec<u8> {
    match &request[0] {
        b"GET" => bulk_reply(VALUE_BYTES),
        b"MGET" => array_reply(request.len() - 1),
        b"LRANGE" => array_reply(MGET_KEYS),
        b"DEL" => format!(":{}\r\n", request.len() - 1).into_bytes(),
        b"INCR" => b":1234\r\n".to_vec(),
        b"HGET" => b"$-1\r\n".to_vec(),
        b"GETSET" => b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n".to_vec(),
        _ => b"+OK\r\n".to_vec(),
    }
}

/// Split, its parts answered, merged.
fn mget() -> Box<dyn FnMut()> {
    let topology = slots();
    let keys: Vec<String> = numbered(DEPTH * MGET_KEYS).collect();
    let all: Vec<Vec<u8>> = keys.chunks(MGET_KEYS).map(|keys| request(["MGET".to_owned()].iter().chain(keys))).collect();
    let replies: Vec<Vec<u8>> = (0..=MGET_KEYS).map(array_reply).collect();
    let mut pass = Pass::default();
    Box::new(move || {
        for one in &all {
            black_box(pass.split_and_merge(black_box(one), black_box(&topology), black_box(&replies)));
        }
    })
}
