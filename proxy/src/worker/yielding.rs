//! Lets others run before a worker waits, where that is worth it.
//!
//! Where clients, proxy and nodes share cores, a worker that waits is woken by the first socket that is ready, and does little in that turn.
//! Once it has let those run who have something to do (`sched_yield`), more is ready, and the system calls of a turn serve more requests.
//! That is worth nothing where nobody else wants the core, and where strangers do, they take it for as long as the scheduler lets them. So
//! what a yield has cost says when the next is due: after some that brought nothing only now and then, and after a long one not for a
//! multiple of it, so that strangers take no more than that part of the time.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::skips::Skips;

/// A yield that takes less brought nothing: nobody ran meanwhile. (The call itself takes 1 to 3 us.)
const EMPTY: Duration = Duration::from_micros(5);
/// Longer than clients and nodes that share the core take to do what there is, and as long as the scheduler leaves a core to one who
/// never waits.
const LONG: Duration = Duration::from_millis(2);
/// What is longer says that all stood still (SIGSTOP, a machine that was paused), and nothing of others.
const LONG_MAX: Duration = Duration::from_millis(100);
/// By how much longer than a long yield none follows it.
const PAUSE_FACTOR: u32 = 256;

/// See the module.
#[derive(Debug)]
pub(super) struct Yielding {
    /// Not before then.
    not_before: Instant,
    skips: Skips,
}

impl Yielding {
    pub(super) fn new(now: Instant) -> Self {
        Yielding { not_before: now, skips: Skips::default() }
    }

    /// Lets others run, if that is due. To be called between turns that served somebody.
    #[inline]
    pub(super) fn yield_if_due(&mut self) {
        if self.skips.is_due() {
            let now = Instant::now();
            if self.may_yield(now) {
                let took = self.yield_now(now) - now;
                self.skips.was(took >= EMPTY);
            }
        }
    }

    /// Whether nobody is known to keep the core once it has it.
    pub(super) fn may_yield(&self, now: Instant) -> bool {
        now >= self.not_before
    }

    /// Lets others run; returns the time after that.
    pub(super) fn yield_now(&mut self, began: Instant) -> Instant {
        thread::yield_now();
        let now = Instant::now();
        self.yielded(now - began, now);
        now
    }

    fn yielded(&mut self, time: Duration, now: Instant) {
        if time > LONG {
            self.not_before = now + time.min(LONG_MAX) * PAUSE_FACTOR;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_that_keep_the_core_get_a_small_part_of_the_time() {
        let began = Instant::now();
        let kept = Duration::from_millis(4);
        let mut yielding = Yielding::new(began);
        yielding.yielded(kept, began);
        assert!(!yielding.may_yield(began + kept * 255));
        let later = began + kept * PAUSE_FACTOR;
        assert!(yielding.may_yield(later));
        // Those that a turn's work is for are given way to at any time.
        yielding.yielded(Duration::from_micros(100), later);
        assert!(yielding.may_yield(later));
    }

    #[test]
    fn who_was_stopped_for_long_does_not_blame_others_for_days() {
        let began = Instant::now();
        let mut yielding = Yielding::new(began);
        yielding.yielded(Duration::from_secs(600), began);
        assert!(yielding.may_yield(began + LONG_MAX * PAUSE_FACTOR));
    }
}
