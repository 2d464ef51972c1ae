//! What a request costs in the command table: its row, and its keys.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use vrc_cluster::command::{find_keys, lookup, lookup_subcommand, resolve};
use vrc_cluster::resp::{ArgRange, Args};

/// A request's arguments, and where they are.
fn request(args: &[&str]) -> (Vec<u8>, Vec<ArgRange>) {
    let (mut bytes, mut ranges) = (Vec::new(), Vec::new());
    for arg in args {
        bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        ranges.push(ArgRange { start: bytes.len() as u32, len: arg.len() as u32 });
        bytes.extend_from_slice(arg.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    (bytes, ranges)
}

fn look_up(c: &mut Criterion) {
    let mut group = c.benchmark_group("command/lookup");
    for name in ["GET", "set", "ZRANGEBYSCORE", "georadiusbymember_ro", "nonsense"] {
        group.bench_function(name, |b| b.iter(|| lookup(black_box(name.as_bytes()))));
    }
    // The last of its container's rows.
    let cluster = lookup(b"cluster").unwrap();
    group.bench_function("cluster slots", |b| b.iter(|| lookup_subcommand(cluster, black_box(b"SLOTS"))));
    group.finish();

    let mut group = c.benchmark_group("command/resolve");
    for words in [&["GET", "key"][..], &["OBJECT", "ENCODING", "key"]] {
        let (bytes, ranges) = request(words);
        let args = Args::new(&bytes, &ranges);
        group.bench_function(words[0], |b| b.iter(|| resolve(black_box(args))));
    }
    group.finish();
}

fn keys(c: &mut Criterion) {
    let mut group = c.benchmark_group("command/find_keys");
    let mset: Vec<&str> = std::iter::once("MSET").chain(std::iter::repeat_n("key:000000012345", 20)).collect();
    for (name, words) in [
        ("GET", &["GET", "key"][..]),
        ("SET", &["SET", "key", "value", "EX", "10"]),
        ("MSET 10", &mset),
        ("EVAL 2", &["EVAL", "return KEYS[1]", "2", "a", "b", "c"]),
        ("XREAD", &["XREAD", "COUNT", "10", "BLOCK", "0", "STREAMS", "a", "b", "0", "0"]),
        ("PING", &["PING"]),
    ] {
        let (bytes, ranges) = request(words);
        let args = Args::new(&bytes, &ranges);
        let command = lookup(words[0].as_bytes()).unwrap();
        let mut keys = Vec::with_capacity(16);
        group.bench_function(name, |b| {
            b.iter(|| {
                keys.clear();
                find_keys(black_box(command), black_box(args), &mut keys)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, look_up, keys);
criterion_main!(benches);
