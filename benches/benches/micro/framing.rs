//! Framing, and redis-protocol's range decoder for the same bytes.

use std::hint::black_box;

use criterion::Throughput;
use redis_protocol::resp2::decode::decode_range;
use vrc_benches::{VALUE_BYTES, array_reply, bulk_reply, key, numbered, request};
use vrc_cluster::resp::{ReplyFramer, RequestFramer};

use crate::cpu_time::Criterion;

pub(crate) fn requests(c: &mut Criterion) {
    let value = "v".repeat(VALUE_BYTES);
    let mget: Vec<String> = ["MGET".to_owned()].into_iter().chain(numbered(10)).collect();
    let big = "v".repeat(16 * 1024);
    let mut group = c.benchmark_group("request");
    for (name, bytes) in [
        ("get", request(["GET", &key(1)])),
        ("set-64", request(["SET", &key(1), &value])),
        ("set-16k", request(["SET", &key(1), &big])),
        ("mget-10", request(mget)),
    ] {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        let mut framer = RequestFramer::default();
        group.bench_function(format!("frame/{name}"), |b| {
            b.iter(|| {
                let frame = framer.advance(black_box(&bytes));
                black_box(framer.args());
                framer.reset();
                frame
            });
        });
        group.bench_function(format!("redis-protocol/{name}"), |b| b.iter(|| decode_range(black_box(&bytes))));
    }
}

pub(crate) fn replies(c: &mut Criterion) {
    let mut group = c.benchmark_group("reply");
    for (name, bytes) in [
        ("ok", b"+OK\r\n".to_vec()),
        ("null", b"$-1\r\n".to_vec()),
        ("bulk-64", bulk_reply(VALUE_BYTES)),
        ("bulk-16k", bulk_reply(16 * 1024)),
        ("array-10", array_reply(10)),
    ] {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        let mut framer = ReplyFramer::default();
        group.bench_function(format!("frame/{name}"), |b| b.iter(|| framer.advance(black_box(&bytes))));
        group.bench_function(format!("redis-protocol/{name}"), |b| b.iter(|| decode_range(black_box(&bytes))));
    }
}
