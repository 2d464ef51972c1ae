//! The settings that can be changed while the proxy runs, by CONFIG SET. See `core/parameters.rs` for their names.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use arc_swap::ArcSwap;

/// The settings at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Live {
    /// What clients must give to AUTH, if anything.
    pub(crate) password: Option<Vec<u8>>,
    /// Most client connections at a time, over all workers.
    pub(crate) clients_max: usize,
    /// A client that says nothing for so long is closed; 0: none is.
    pub(crate) idle_s_max: u64,
    /// Commands that take at least so long get into the slow log: 0 for all, negative for none.
    pub(crate) slower_than_us: i64,
    /// How many of them the slow log keeps.
    pub(crate) slow_max: usize,
    /// What takes at least so long is kept for LATENCY; 0 for nothing.
    pub(crate) latency_ms: u64,
    /// How long each command takes is counted for LATENCY HISTOGRAM.
    pub(crate) latency_tracking: bool,
}

impl Default for Live {
    fn default() -> Self {
        Live {
            password: None,
            clients_max: 10_000,
            idle_s_max: 0,
            slower_than_us: 10_000,
            slow_max: 128,
            latency_ms: 0,
            latency_tracking: false,
        }
    }
}

/// The settings of all workers, and of who lets clients in.
#[derive(Debug, Default)]
pub(crate) struct LiveSettings {
    current: ArcSwap<Live>,
    /// Counts the changes, so that a worker sees at little cost whether there was one.
    version: AtomicU64,
}

impl LiveSettings {
    pub(crate) fn new(live: Live) -> Self {
        LiveSettings { current: ArcSwap::from_pointee(live), version: AtomicU64::new(0) }
    }

    pub(crate) fn load(&self) -> Arc<Live> {
        self.current.load_full()
    }

    /// How many changes there were.
    #[inline]
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Relaxed)
    }

    /// Changes some of them; others may be changed at the same time.
    pub(crate) fn change(&self, change: impl Fn(&mut Live)) {
        self.current.rcu(|live| {
            let mut changed = Live::clone(live);
            change(&mut changed);
            changed
        });
        self.version.fetch_add(1, Relaxed);
    }
}
