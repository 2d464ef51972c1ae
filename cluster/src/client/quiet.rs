//! Lines that may come a thousand times a second and are wanted once in a while.

use std::{
    collections::HashMap,
    fmt,
    time::{Duration, Instant},
};

const PAUSE: Duration = Duration::from_secs(60);
const KINDS_MAX: usize = 1_000;

/// Remembers which kinds of lines were logged, and how many were not.
#[derive(Debug, Default)]
pub struct Quiet {
    told: HashMap<String, (Instant, u64)>,
}

/// How many lines of a kind were not logged since the last that was: to be put behind the next one, where it says nothing if there are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeftOut(u64);

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            count => write!(f, " ({count} more like it)"),
        }
    }
}

impl Quiet {
    /// Whether a line is to be logged: `None` if one of its kind was a short while ago.
    pub fn may_say(&mut self, kind: &str) -> Option<LeftOut> {
        self.may_say_at(kind, Instant::now())
    }

    fn may_say_at(&mut self, kind: &str, now: Instant) -> Option<LeftOut> {
        match self.told.get_mut(kind) {
            Some((since, left_out)) if now.duration_since(*since) < PAUSE => {
                *left_out += 1;
                None
            }
            Some((since, left_out)) => {
                *since = now;
                Some(LeftOut(std::mem::take(left_out)))
            }
            None => {
                if self.told.len() >= KINDS_MAX {
                    self.told.clear();
                }
                self.told.insert(kind.to_owned(), (now, 0));
                Some(LeftOut(0))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_kind_one_a_minute_is_said_and_how_many_were_not() {
        let (mut quiet, start) = (Quiet::default(), Instant::now());
        let mut said =
            |kind: &str, s| quiet.may_say_at(kind, start + Duration::from_secs(s)).map(|left_out| left_out.to_string());
        assert_eq!((said("a", 0), said("a", 1), said("a", 59)), (Some(String::new()), None, None));
        assert_eq!(said("b", 59), Some(String::new()));
        assert_eq!(said("a", 60), Some(" (2 more like it)".to_owned()));
        assert_eq!((said("a", 61), said("a", 120)), (None, Some(" (1 more like it)".to_owned())));
    }

    #[test]
    fn kinds_are_bounded() {
        let (mut quiet, now) = (Quiet::default(), Instant::now());
        (0..3 * KINDS_MAX).for_each(|kind| assert!(quiet.may_say_at(&kind.to_string(), now).is_some()));
        assert!(quiet.told.len() <= KINDS_MAX);
    }
}
