//! The replies of a request's parts made into one.

use std::hint::black_box;

use criterion::Throughput;
use vrc_benches::array_reply;
use vrc_cluster::{command::Split, merge::Join};

use crate::cpu_time::Criterion;

/// Ten keys over four nodes.
const PART_OF_KEY: [u16; 10] = [0, 1, 2, 3, 0, 1, 2, 3, 0, 1];
const PARTS: usize = 4;

pub(crate) fn merge(c: &mut Criterion) {
    let arrays: Vec<Vec<u8>> =
        (0..PARTS as u16).map(|part| array_reply(PART_OF_KEY.iter().filter(|of| **of == part).count())).collect();
    let integers = vec![b":3\r\n".to_vec(); PARTS];
    let mut group = c.benchmark_group("merge");
    for (name, split, replies) in [("mget-10-of-4", Split::ArrayByKey, arrays), ("sum-of-4", Split::SumByKey, integers)] {
        group.throughput(Throughput::Bytes(replies.iter().map(|reply| reply.len() as u64).sum()));
        let mut join = Join::default();
        let mut out = Vec::new();
        group.bench_function(name, |b| {
            b.iter(|| {
                join.start_split(split, PARTS, black_box(&PART_OF_KEY));
                for (part, reply) in replies.iter().enumerate() {
                    join.add(part as u16, black_box(reply));
                }
                out.clear();
                join.finish(&mut out);
                out.len()
            });
        });
    }
}
