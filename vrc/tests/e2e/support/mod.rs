//! What the tests stand on. Everything that is started ends with the value that stands for it, also when a test fails.

mod cluster;
mod load;
mod process;
mod redis_server;
mod relay;

use std::{
    thread,
    time::{Duration, Instant},
};

pub(crate) use cluster::{Cluster, Fleet, PATIENT, PATIENT_AGENT, Proxy, locate};
pub(crate) use load::Load;
pub(crate) use process::{Process, is_running, pid, vrc};
pub(crate) use redis_server::{RedisServer, redis_program};
pub(crate) use relay::{Relay, Way};

/// Generous: for what has no limit of its own on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(120);

/// Waits till `condition` gives something, and returns that; fails the test after `limit`.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A port that nobody listens at, and that nobody else in this process is given: not even while its server is restarted.
pub(crate) fn free_port() -> u16 {
    vrc_agent::spawn::free_port("127.0.0.1").expect("a free port")
}

/// See [`free_port`].
pub(crate) fn free_address() -> String {
    format!("127.0.0.1:{}", free_port())
}

/// A connection. Its commands have no time limit of their own, for a socket with one fails whenever the system so much as pauses
/// the test (EINTR); but no process that could leave one waiting lives long: see [`Process`].
pub(crate) fn connect(port: u16) -> redis::Connection {
    try_connect(port).unwrap_or_else(|error| panic!("cannot connect to port {port}: {error}"))
}

/// See [`connect`].
pub(crate) fn try_connect(port: u16) -> redis::RedisResult<redis::Connection> {
    redis::Client::open(("127.0.0.1", port))?.get_connection_with_timeout(LONG)
}

/// Random numbers that are the same in every run (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
