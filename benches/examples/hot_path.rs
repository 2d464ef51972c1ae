//! A fixed script of requests through the hot path, `cluster`'s parts of it and a proxy's whole core, for tools that count instructions: `hot_path SCENARIO ROUNDS`.
//! Without arguments it names the scenarios. See `guard.py`.

use std::{env, hint::black_box, process::ExitCode};

use vrc_benches::{Pass, VALUE_BYTES, array_reply, bulk_reply, node_map, numbered, request, topology};
use vrc_cluster::topology::{PlacementKind, Topology};
use vrc_proxy::bench::HotPath;

/// Requests or replies a round: what one read brings at -P 16.
const DEPTH: usize = 16;
const MGET_KEYS: usize = 10;

/// One thing that is counted: a name, and what a round of it does.
type Scenario = (&'static str, fn() -> Box<dyn FnMut()>);

const SCENARIOS: &[Scenario] = &[
    ("get", || requests(slots(), |key| vec!["GET".into(), key])),
    ("get-lower-case", || requests(slots(), |key| vec!["get".into(), key])),
    ("get-legacy", || requests(topology(&node_map(4), PlacementKind::Legacy), |key| vec!["GET".into(), key])),
    ("set-64", || requests(slots(), |key| vec!["SET".into(), key, "v".repeat(VALUE_BYTES)])),
    ("hset-tag", || requests(slots(), |key| vec!["HSET".into(), format!("cart:{{{key}}}:items"), "field".into(), "1".into()])),
    ("eval-2-keys", || requests(slots(), |key| vec!["EVAL".into(), "return 1".into(), "2".into(), key.clone(), key, "x".into()])),
    ("mget-10", mget),
    ("reply-ok", || replies(b"+OK\r\n")),
    ("reply-bulk-64", || replies(&bulk_reply(VALUE_BYTES))),
    ("reply-array-10", || replies(&array_reply(MGET_KEYS))),
    ("core-get", || core(1, |keys| vec!["GET".into(), keys[0].clone()])),
    ("core-set-64", || core(1, |keys| vec!["SET".into(), keys[0].clone(), "v".repeat(VALUE_BYTES)])),
    ("core-mget-10", || core(MGET_KEYS, |keys| ["MGET".to_owned()].into_iter().chain(keys.iter().cloned()).collect())),
];

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => SCENARIOS.iter().for_each(|(name, _)| println!("{name} {DEPTH}")),
        [name, rounds] => {
            let scenario = SCENARIOS.iter().find(|scenario| scenario.0 == name);
            let (Some((_, make)), Ok(rounds)) = (scenario, rounds.parse::<u32>()) else {
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

/// The whole of a proxy's core: 4 clients with a quarter of the round's requests each, 4 nodes.
fn core(keys_each: usize, words: fn(&[String]) -> Vec<String>) -> Box<dyn FnMut()> {
    let keys: Vec<_> = numbered(DEPTH * keys_each).collect();
    let all: Vec<_> = keys.chunks(keys_each).map(|keys| request(words(keys))).collect();
    let pipelines = all.chunks(DEPTH / 4).map(|requests| requests.concat()).collect();
    let mut path = HotPath::new(slots(), pipelines, |request| match &request[0] {
        b"GET" => bulk_reply(VALUE_BYTES),
        b"MGET" => array_reply(request.len() - 1),
        _ => b"+OK\r\n".to_vec(),
    });
    Box::new(move || {
        black_box(path.round());
    })
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
