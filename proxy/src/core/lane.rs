//! Which of a node's connections a client's commands take.

use vrc_cluster::resp::Proto;

use crate::limits::GUEST_OFFSET;

/// Which of a node's connections: nothing is translated on the way, so each protocol and each database has one of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Lane {
    pub(crate) proto: Proto,
    /// The node's database: a guest database's number where it is one.
    pub(crate) db: u8,
    pub(crate) tracking: TrackingLane,
    /// Reading over it is not to count as use of the keys (CLIENT NO-TOUCH).
    pub(crate) no_touch: bool,
}

/// Whether the node tells a connection which of the keys that were read over it have changed: see `tracked`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum TrackingLane {
    #[default]
    Off,
    /// It does, for all clients that share the lane.
    Shared,
    /// It does not, but replies are looked at: what these clients read is told of elsewhere, and must not be told of too early.
    Noted,
    /// It does not. Beside the others, for what must not wait behind a script: see `stuck`.
    Beside,
    /// It does, for this session alone: the node has to tell its writes from those of others.
    Own { session: u32 },
}

impl Lane {
    /// How many lanes a node can have that clients share.
    pub(crate) const COUNT: usize = 256;

    #[inline]
    pub(crate) fn new(proto: Proto, db: u8, guest: bool) -> Self {
        Lane { proto, db: if guest { db + GUEST_OFFSET } else { db }, tracking: TrackingLane::Off, no_touch: false }
    }

    /// See [`TrackingLane::Beside`].
    pub(crate) fn beside(proto: Proto) -> Self {
        Lane { tracking: TrackingLane::Beside, ..Lane::new(proto, 0, false) }
    }

    /// Whether it is beside those of clients.
    pub(crate) fn is_beside(self) -> bool {
        self.tracking == TrackingLane::Beside
    }

    /// The lane of the same clients at another owner of their keys; `self` is the lane as its clients know it.
    #[inline]
    pub(crate) fn at(self, guest: bool) -> Self {
        Lane { tracking: self.tracking, no_touch: self.no_touch, ..Lane::new(self.proto, self.db, guest) }
    }

    /// Whether it is a guest database, where there are any.
    pub(crate) fn is_guest(self) -> bool {
        self.db >= GUEST_OFFSET
    }

    /// The lane as its clients know it, with their database's number; `guests` says whether there are guest databases.
    pub(crate) fn of_client(self, guests: bool) -> Self {
        if guests && self.is_guest() { Lane { db: self.db - GUEST_OFFSET, ..self } } else { self }
    }

    /// 0 to [`Lane::COUNT`] - 1; `None` for a lane of one session's own.
    #[inline]
    pub(crate) fn index(self) -> Option<usize> {
        let shared = match self.tracking {
            TrackingLane::Off => 0,
            TrackingLane::Shared => 1,
            TrackingLane::Noted => 2,
            TrackingLane::Beside => 3,
            TrackingLane::Own { .. } => return None,
        };
        Some(usize::from(self.no_touch) << 7 | shared << 5 | (self.proto as usize) << 4 | usize::from(self.db & 15))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn lanes_are_distinct() {
        let mut seen = BTreeSet::new();
        for (proto, no_touch) in [Proto::Resp2, Proto::Resp3].into_iter().flat_map(|proto| [(proto, false), (proto, true)]) {
            for db in 0..16 {
                for tracking in [TrackingLane::Off, TrackingLane::Shared, TrackingLane::Noted, TrackingLane::Beside] {
                    let index = Lane { proto, db, tracking, no_touch }.index().unwrap();
                    assert!(index < Lane::COUNT && seen.insert(index));
                }
            }
        }
        let guest = Lane::new(Proto::Resp2, 3, true);
        assert_eq!((guest.db, guest.of_client(true).db, guest.of_client(false).db), (11, 3, 11));
    }
}
