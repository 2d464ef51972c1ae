//! Pauses between attempts: growing, capped, and jittered so that many who wait for the same server do not come back in step.

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

    /// The next pause: between half of the current step and the whole of it.
    pub fn pause(&mut self) -> Duration {
        let step = self.next;
        self.next = step.saturating_mul(2).min(self.cap);
        step.mul_f64(rand::random_range(0.5..=1.0))
    }

    /// Begins again; called once an attempt has succeeded for good.
    pub fn reset(&mut self) {
        self.next = self.first.min(self.cap);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_cap_and_begins_again() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        for step_ms in [100, 200, 350, 350] {
            let pause = backoff.pause();
            let step = Duration::from_millis(step_ms);
            assert!(pause >= step / 2 && pause <= step, "{pause:?} of {step:?}");
        }
        backoff.reset();
        assert!(backoff.pause() <= Duration::from_millis(100));
    }
}
