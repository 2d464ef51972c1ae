//! Which workers have clients that listen by MONITOR, and how much is on its way to them from the other workers.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use crate::limits::MONITOR_UNDER_WAY_BYTES_MAX;

/// One worker's.
#[derive(Debug, Default)]
struct Listeners {
    count: AtomicUsize,
    /// Bytes that others have handed to the worker and that it has not taken yet.
    under_way: AtomicUsize,
    /// Something was left out, since too much was under way.
    missed: AtomicBool,
}

/// Those of all workers.
#[derive(Debug)]
pub(crate) struct Monitors(Vec<Listeners>);

impl Monitors {
    pub(crate) fn new(workers: usize) -> Self {
        Monitors((0..workers).map(|_| Listeners::default()).collect())
    }

    /// A client of this worker listens from now on.
    pub(crate) fn join(&self, worker: usize) {
        self.0[worker].count.fetch_add(1, Relaxed);
    }

    /// A client of this worker listens no more.
    pub(crate) fn leave(&self, worker: usize) {
        self.0[worker].count.fetch_sub(1, Relaxed);
    }

    /// The workers with clients that listen.
    pub(crate) fn workers(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().filter(|(_, of)| of.count.load(Relaxed) > 0).map(|(worker, _)| worker)
    }

    /// Whether another worker may be handed so many bytes. If not, it will hear that it missed some.
    pub(crate) fn may_hand(&self, worker: usize, bytes: usize) -> bool {
        let of = &self.0[worker];
        if of.under_way.fetch_add(bytes, Relaxed) + bytes <= MONITOR_UNDER_WAY_BYTES_MAX {
            return true;
        }
        of.under_way.fetch_sub(bytes, Relaxed);
        of.missed.store(true, Relaxed);
        false
    }

    /// A worker has taken what it was handed.
    pub(crate) fn taken(&self, worker: usize, bytes: usize) {
        self.0[worker].under_way.fetch_sub(bytes, Relaxed);
    }

    /// Whether a worker missed something since it was last asked.
    pub(crate) fn has_missed(&self, worker: usize) -> bool {
        self.0[worker].missed.swap(false, Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_is_bounded_for_each_worker() {
        let monitors = Monitors::new(3);
        monitors.join(1);
        monitors.join(2);
        monitors.leave(1);
        assert_eq!(monitors.workers().collect::<Vec<_>>(), [2]);
        assert!(monitors.may_hand(2, MONITOR_UNDER_WAY_BYTES_MAX) && !monitors.may_hand(2, 1) && monitors.may_hand(1, 1));
        assert!(monitors.has_missed(2) && !monitors.has_missed(2) && !monitors.has_missed(1));
        monitors.taken(2, 1);
        assert!(monitors.may_hand(2, 1));
    }
}
