//! Lines that may come a thousand times a second and are wanted once in a while.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use tracing::warn;

const PAUSE: Duration = Duration::from_secs(60);
const KINDS_MAX: usize = 1_000;

/// Remembers which kinds of lines were logged, and how many were not.
#[derive(Debug, Default)]
pub(crate) struct Quiet {
    told: HashMap<String, (Instant, u64)>,
}

impl Quiet {
    /// Logs `line`, unless one of its kind was logged a short while ago.
    pub(crate) fn warn(&mut self, kind: &str, line: impl FnOnce() -> String) {
        let now = Instant::now();
        match self.told.get_mut(kind) {
            Some((since, left_out)) if now.duration_since(*since) < PAUSE => *left_out += 1,
            Some((since, left_out)) => {
                warn!("{} ({left_out} more like it)", line());
                (*since, *left_out) = (now, 0);
            }
            None => {
                if self.told.len() >= KINDS_MAX {
                    self.told.clear();
                }
                self.told.insert(kind.to_owned(), (now, 0));
                warn!("{}", line());
            }
        }
    }
}
