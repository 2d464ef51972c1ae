//! Busy polling: rather than sleep, a worker looks for a moment again and again whether something has come.
//!
//! To a client that waits for each reply before it asks anew, a proxy adds two times that a thread has to be woken, and on a core that had
//! gone to sleep, in a virtual machine above all, that takes most of the time. So a worker with one such client alone stays awake for as
//! long as the next reply, or request, usually takes to come; if it takes longer, that is found out now and then only (as KVM does with
//! a virtual processor that halts: Documentation/virt/kvm/halt-polling.rst in Linux's source). With several clients there is something to
//! do more often, a turn serves more of them, and looking would cost what it saves: it sleeps. It sleeps, too, where others want the core
//! for longer than a turn of a node or client takes.

use std::{
    io,
    time::{Duration, Instant},
};

use super::{skips::Skips, yielding::Yielding};
use crate::{core::Awaited, limits::BUSY_POLL_MAX};

/// See the module.
#[derive(Debug)]
pub(super) struct BusyPoll {
    /// How long to look, at most.
    limit: Duration,
    /// Nodes may be quick and clients slow, or the other way round.
    for_nodes: Skips,
    for_clients: Skips,
}

impl BusyPoll {
    /// With a limit of 0 it never looks; what is more than [`BUSY_POLL_MAX`] is less.
    pub(super) fn new(limit: Duration) -> Self {
        BusyPoll { limit: limit.min(BUSY_POLL_MAX), for_nodes: Skips::default(), for_clients: Skips::default() }
    }

    /// Looks until there is something, or for as long as is worth it; returns whether there is.
    ///
    /// # Errors
    /// Those of `look`.
    pub(super) fn look(
        &mut self,
        awaited: Awaited,
        yielding: &mut Yielding,
        mut look: impl FnMut() -> io::Result<bool>,
    ) -> io::Result<bool> {
        let skips = match awaited {
            Awaited::Node => &mut self.for_nodes,
            Awaited::Client => &mut self.for_clients,
        };
        if self.limit.is_zero() || !skips.is_due() {
            return Ok(false);
        }
        let began = Instant::now();
        if !yielding.may_yield(began) {
            return Ok(false);
        }
        let mut now = began;
        let found = loop {
            if look()? {
                break true;
            }
            if now - began >= self.limit || !yielding.may_yield(now) {
                break false;
            }
            now = yielding.yield_now(now);
        };
        skips.was(found);
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_micros(1);

    #[test]
    fn it_looks_until_something_has_come() {
        let (mut poll, mut yielding) = (BusyPoll::new(BUSY_POLL_MAX), Yielding::new(Instant::now()));
        let mut looks = 0;
        let found = poll.look(Awaited::Node, &mut yielding, || {
            looks += 1;
            Ok(looks == 3)
        });
        // Or until somebody else has kept the core for so long that it gives up.
        assert!(found.unwrap() == (looks == 3) && looks > 0);
    }

    #[test]
    fn who_takes_long_is_waited_for_in_sleep_and_that_says_nothing_of_the_others() {
        let (mut poll, mut yielding) = (BusyPoll::new(SHORT), Yielding::new(Instant::now()));
        assert!(!poll.look(Awaited::Client, &mut yielding, || Ok(false)).unwrap());
        let mut looks = 0;
        let mut look = |awaited| {
            let mut fresh = Yielding::new(Instant::now());
            poll.look(awaited, &mut fresh, || {
                looks += 1;
                Ok(true)
            })
        };
        assert!(!look(Awaited::Client).unwrap(), "not at once again");
        assert!(look(Awaited::Node).unwrap());
        assert!(look(Awaited::Client).unwrap(), "but after a while");
        assert_eq!(looks, 2);
    }

    #[test]
    fn without_a_limit_it_never_looks() {
        let (mut poll, mut yielding) = (BusyPoll::new(Duration::ZERO), Yielding::new(Instant::now()));
        assert!(!poll.look(Awaited::Node, &mut yielding, || panic!("it looks")).unwrap());
    }
}
