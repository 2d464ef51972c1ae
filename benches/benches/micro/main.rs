//! Micro-benchmarks of the hot path's parts: `cargo bench -p vrc-benches`, and a word behind `--` for some of them.
//!
//! One program, so that it is linked once. Each measures a second or two of processor time; a busy machine disturbs that less than
//! time on the wall, but for figures to keep a quiet one is still better.

#![allow(missing_docs)] // criterion's macros

mod commands;
mod cpu_time;
mod framing;
mod merging;
mod placing;
mod routing;

use std::time::Duration;

use criterion::{criterion_group, criterion_main};

use cpu_time::{CpuTime, Criterion};

fn short() -> Criterion {
    let criterion = criterion::Criterion::default().with_measurement(CpuTime);
    criterion.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_millis(1_000)).sample_size(50)
}

criterion_group! {
    name = all;
    config = short();
    targets = framing::requests, framing::replies, commands::resolving, commands::keys, placing::look_up, placing::build, routing::route,
        merging::merge
}
criterion_main!(all);
