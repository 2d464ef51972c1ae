//! From a framed request to its row of the command table, and to its keys.

use std::hint::black_box;

use criterion::Throughput;
use vrc_benches::{numbered, request};
use vrc_cluster::{
    command::{find_keys, lookup, lookup_subcommand, resolve},
    resp::{ArgRange, Args, RequestFramer},
};

use crate::cpu_time::Criterion;

pub(crate) fn resolving(c: &mut Criterion) {
    let mut group = c.benchmark_group("command");
    for name in ["GET", "set", "ZREVRANGEBYSCORE", "georadiusbymember_ro", "nosuchcommand"] {
        group.throughput(Throughput::Bytes(name.len() as u64));
        group.bench_function(format!("lookup/{name}"), |b| b.iter(|| lookup(black_box(name.as_bytes()))));
    }
    // The last of its container's rows.
    let cluster = lookup(b"cluster").expect("a row of the table");
    group.throughput(Throughput::Bytes("SLOTS".len() as u64));
    group.bench_function("lookup/cluster slots", |b| b.iter(|| lookup_subcommand(cluster, black_box(b"SLOTS"))));
    for words in [&["GET", "key"][..], &["OBJECT", "ENCODING", "key"]] {
        let (bytes, ranges) = framed(words);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(format!("resolve/{}", words.join(" ").to_lowercase()), |b| {
            b.iter(|| resolve(black_box(Args::new(&bytes, &ranges))).is_ok());
        });
    }
}

pub(crate) fn keys(c: &mut Criterion) {
    let mut group = c.benchmark_group("keys");
    let mset: Vec<String> = ["MSET".to_owned()].into_iter().chain(numbered(10).flat_map(|key| [key, "v".into()])).collect();
    for (name, words) in [
        ("get", vec!["GET".to_owned(), "key".into()]),
        ("set-ex", ["SET", "key", "value", "EX", "10"].map(str::to_owned).to_vec()),
        ("mset-10", mset),
        ("eval-2", ["EVAL", "return 1", "2", "{a}1", "{a}2", "x"].map(str::to_owned).to_vec()),
        ("xread-2", ["XREAD", "COUNT", "5", "BLOCK", "0", "STREAMS", "{a}1", "{a}2", "0", "0"].map(str::to_owned).to_vec()),
    ] {
        let (bytes, ranges) = framed(words);
        let args = Args::new(&bytes, &ranges);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        let command = resolve(args).expect("known");
        let mut keys = Vec::new();
        group.bench_function(name, |b| {
            b.iter(|| {
                keys.clear();
                find_keys(black_box(command), black_box(args), &mut keys)
            });
        });
    }
}

fn framed<A: AsRef<[u8]>>(words: impl IntoIterator<Item = A>) -> (Vec<u8>, Vec<ArgRange>) {
    let bytes = request(words);
    let mut framer = RequestFramer::default();
    framer.advance(&bytes).expect("a request").expect("whole");
    let ranges = framer.args().to_vec();
    (bytes, ranges)
}
