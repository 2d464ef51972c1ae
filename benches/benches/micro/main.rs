//! Micro-benchmarks of the hot path's parts: `cargo bench -p vrc-benches`, and a word behind `--` for some of them.
//!
//! One program, so that it is linked once. Each measures for a second or two; for figures to keep, run it on a quiet machine.

#![allow(missing_docs)] // criterion's macros

mod commands;
mod framing;
mod merging;
mod placing;
mod routing;

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

fn short() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_millis(1_000)).sample_size(50)
}

criterion_group! {
    name = all;
    config = short();
    targets = framing::requests, framing::replies, commands::resolving, commands::keys, placing::look_up, placing::build, routing::route,
        merging::merge
}
criterion_main!(all);
