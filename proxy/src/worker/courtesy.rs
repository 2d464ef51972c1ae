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

/// A yield that takes less brought nothing: nobody ran meanwhile. (The call itself takes 1 to 3 us.)
const EMPTY: Duration = Duration::from_micros(5);
/// Turns that pass without a yield after so many that brought nothing, at most.
const SKIPPED_MAX: u32 = 64;
/// Longer than clients and nodes that share the core take to do what there is, and as long as the scheduler leaves a core to one who
/// never waits.
const LONG: Duration = Duration::from_millis(2);
/// By how much longer than a long yield none follows it.
const PAUSE_FACTOR: u32 = 256;

/// See the module.
#[derive(Debug)]
pub(super) struct Courtesy {
    /// Not before then.
    not_before: Instant,
    /// So many turns to go without.
    skipped: u32,
    /// How many these are to be if the next yield brings nothing.
    skipped_next: u32,
}

impl Courtesy {
    pub(super) fn new(now: Instant) -> Self {
        Courtesy { not_before: now, skipped: 0, skipped_next: 1 }
    }

    /// Lets others run, if that is due. To be called between turns that served somebody.
    #[inline]
    pub(super) fn yield_if_due(&mut self) {
        let began = Instant::now();
        if self.is_due(began) {
            thread::yield_now();
            let now = Instant::now();
            self.took(now - began, now);
        }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        let skips = self.skipped > 0;
        self.skipped = self.skipped.saturating_sub(1);
        !skips && now >= self.not_before
    }

    fn took(&mut self, time: Duration, now: Instant) {
        if time < EMPTY {
            self.skipped = self.skipped_next;
            self.skipped_next = (self.skipped_next * 2).min(SKIPPED_MAX);
            return;
        }
        self.skipped_next = 1;
        if time > LONG {
            self.not_before = now + time * PAUSE_FACTOR;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USEFUL: Duration = Duration::from_micros(100);
    const NOTHING: Duration = Duration::from_micros(1);

    /// How many turns at that time pass until a yield is due.
    fn skips(courtesy: &mut Courtesy, now: Instant) -> usize {
        (0..).find(|_| courtesy.is_due(now)).expect("some turn")
    }

    #[test]
    fn where_nobody_runs_there_is_a_yield_now_and_then() {
        let now = Instant::now();
        let mut courtesy = Courtesy::new(now);
        let skipped = [(); 9].map(|()| {
            courtesy.took(NOTHING, now);
            skips(&mut courtesy, now)
        });
        assert_eq!(skipped, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
        // As soon as one brings something, they come with each turn.
        courtesy.took(USEFUL, now);
        assert_eq!(skips(&mut courtesy, now), 0);
        courtesy.took(NOTHING, now);
        assert_eq!(skips(&mut courtesy, now), 1);
    }

    #[test]
    fn strangers_that_keep_the_core_get_a_small_part_of_the_time() {
        let began = Instant::now();
        let kept = Duration::from_millis(4);
        let mut courtesy = Courtesy::new(began);
        courtesy.took(kept, began);
        assert!(!courtesy.is_due(began + kept * 255));
        let later = began + kept * PAUSE_FACTOR;
        assert!(courtesy.is_due(later));
        // Those that a turn's work is for are given way to at any time.
        courtesy.took(USEFUL, later);
        assert!(courtesy.is_due(later));
    }
}
