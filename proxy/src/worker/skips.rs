//! When to try again what was of no use.

/// Turns that pass between two tries, at most.
const SKIPPED_MAX: u32 = 64;

/// Something that may be done in each turn, and that is left out while it is of no use: after each time in vain for twice as many turns as
/// after the last.
#[derive(Debug)]
pub(super) struct Skips {
    /// So many turns to go without.
    left: u32,
    /// How many these are to be if the next time is in vain.
    next: u32,
}

impl Default for Skips {
    fn default() -> Self {
        Skips { left: 0, next: 1 }
    }
}

impl Skips {
    /// Whether it is to be done in this turn.
    #[inline]
    pub(super) fn is_due(&mut self) -> bool {
        let is_due = self.left == 0;
        self.left = self.left.saturating_sub(1);
        is_due
    }

    /// It was done, and this is whether it was of use.
    pub(super) fn was(&mut self, useful: bool) {
        if useful {
            (self.left, self.next) = (0, 1);
        } else {
            self.left = self.next;
            self.next = (self.next * 2).min(SKIPPED_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many turns pass until it is due.
    fn pass(skips: &mut Skips) -> usize {
        (0..).find(|_| skips.is_due()).expect("some turn")
    }

    #[test]
    fn what_is_of_no_use_is_tried_now_and_then() {
        let mut skips = Skips::default();
        let passed = [(); 9].map(|()| {
            skips.was(false);
            pass(&mut skips)
        });
        assert_eq!(passed, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
    }

    #[test]
    fn what_is_of_use_is_done_in_each_turn() {
        let mut skips = Skips::default();
        (0..9).for_each(|_| skips.was(false));
        skips.was(true);
        assert_eq!((pass(&mut skips), pass(&mut skips)), (0, 0));
        skips.was(false);
        assert_eq!(pass(&mut skips), 1);
    }
}
