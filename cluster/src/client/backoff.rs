//! Pauses between attempts: growing, capped, and drawn from all of a step ("full jitter"), so that many who lost the same server at the
//! same moment come back evenly spread.

use std::time::Duration;

/// The pauses of one series of attempts.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    next: Duration,
}

impl Backoff {
    /// A series that starts at `first`, doubles, and stays at `cap`.
    pub fn new(first: Duration, cap: Duration) -> Self {
        Backoff { first, cap, next: first.min(cap) }
    }

    /// The next pause: anything up to the current step.
    pub fn pause(&mut self) -> Duration {
        self.pause_by(rand::random())
    }

    /// The next pause, of at least half the current step: for one who need not make way for others, but must not try too often.
    pub fn pause_alone(&mut self) -> Duration {
        self.pause_by(rand::random_range(0.5..=1.0))
    }

    /// The next pause, by a number that was drawn from 0 to 1.
    fn pause_by(&mut self, chance: f64) -> Duration {
        let step = self.next;
        self.next = step.saturating_mul(2).min(self.cap);
        step.mul_f64(chance)
    }

    /// Begins again; called once an attempt has succeeded for good.
    pub fn reset(&mut self) {
        self.next = self.first.min(self.cap);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(100);
    const CAP: Duration = Duration::from_millis(350);

    #[test]
    fn grows_to_its_cap_and_begins_again() {
        let mut backoff = Backoff::new(FIRST, CAP);
        for step_ms in [100, 200, 350, 350] {
            assert_eq!(backoff.pause_by(1.0), Duration::from_millis(step_ms));
        }
        backoff.reset();
        assert_eq!(backoff.pause_by(1.0), FIRST);
        assert_eq!(Backoff::new(CAP, FIRST).pause_by(1.0), FIRST);
    }

    #[test]
    fn a_thousand_who_begin_together_come_back_spread_over_all_of_a_step() {
        let pauses = (0..1_000).map(|number| Backoff::new(FIRST, CAP).pause_by(f64::from(number) / 1_000.0));
        let mut in_each_tenth = [0; 10];
        pauses.for_each(|pause| in_each_tenth[pause.as_millis() as usize / 10] += 1);
        assert_eq!(in_each_tenth, [100; 10]);
        // And what is drawn is drawn from all of it.
        let drawn: Vec<_> = (0..1_000).map(|_| Backoff::new(FIRST, CAP).pause()).collect();
        assert!(drawn.iter().any(|pause| *pause < FIRST / 4) && drawn.iter().any(|pause| *pause > FIRST * 3 / 4));
        assert!(drawn.iter().all(|pause| *pause <= FIRST));
        assert!((0..1_000).map(|_| Backoff::new(FIRST, CAP).pause_alone()).all(|pause| pause >= FIRST / 2 && pause <= FIRST));
    }
}
