//! One node connection as the core sees it: bytes to write, who waits for the replies, and what has been sent.
//!
//! Replies come in the order of the requests, so a queue of who asked is all that is needed to hand them out. The same queue tells
//! what was sent when the connection is lost: only that decides whether a command may be tried elsewhere.

use std::{collections::VecDeque, sync::Arc};

use vrc_cluster::{
    contract::Endpoint,
    resp::{Proto, ReplyFramer},
};

use crate::limits::{GUEST_OFFSET, NODE_BACKLOG_BYTES, NODE_PENDING_MAX};

use super::{
    private::Hold,
    script::Noted,
    session::{Sequence, SessionId, empty},
    tracked::Tracked,
};

/// Which of a node's connections: nothing is translated on the way, so each protocol and each database has one of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Lane {
    pub(crate) proto: Proto,
    /// The node's database: a guest database's number where it is one.
    pub(crate) db: u8,
    pub(crate) tracking: TrackingLane,
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
    pub(crate) const COUNT: usize = 128;

    #[inline]
    pub(crate) fn new(proto: Proto, db: u8, guest: bool) -> Self {
        Lane { proto, db: if guest { db + GUEST_OFFSET } else { db }, tracking: TrackingLane::Off }
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
        Lane { tracking: self.tracking, ..Lane::new(self.proto, self.db, guest) }
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
        Some(shared << 5 | (self.proto as usize) << 4 | usize::from(self.db & 15))
    }
}

/// Who waits for one reply.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiter {
    pub(crate) session: u32,
    pub(crate) generation: u32,
    pub(crate) sequence: Sequence,
    /// The request's length in bytes.
    pub(crate) len: u32,
    /// When the command came.
    pub(crate) since_ms: u64,
    /// Which part of a split command.
    pub(crate) part: u16,
    /// How many replies come before the one that counts: those to the commands of a transaction's block, and to scripts that were
    /// taken along.
    pub(crate) skip: u32,
}

/// No session: the reply is for nobody.
const NOBODY: u32 = u32::MAX;
/// The generation of nobody where the reply does matter.
const ASKING: u32 = 1;

impl Waiter {
    #[inline]
    pub(crate) fn new(session: SessionId, sequence: Sequence, since_ms: u64) -> Self {
        Waiter { session: session.index, generation: session.generation, sequence, len: 0, since_ms, part: 0, skip: 0 }
    }

    /// For a request of the proxy's own whose reply does not matter.
    pub(crate) fn nobody(since_ms: u64) -> Self {
        Waiter::new(SessionId { index: NOBODY, generation: 0 }, 0, since_ms)
    }

    /// For the question whether a backend's node is busy.
    pub(crate) fn asking(backend: u32, since_ms: u64) -> Self {
        Waiter::new(SessionId { index: NOBODY, generation: ASKING }, backend, since_ms)
    }

    /// The backend whose node was asked whether it is busy.
    pub(crate) fn asked_of(&self) -> Option<u32> {
        (self.is_nobody() && self.generation == ASKING).then_some(self.sequence)
    }

    #[inline]
    pub(crate) fn is_nobody(&self) -> bool {
        self.session == NOBODY
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Nobody has asked for it, or it was lost while nobody waited.
    Idle,
    /// An attempt to connect is under way, or waits for its pause to end.
    Connecting,
    Up,
    /// No longer in use: its node left the map, went down or moved. What was sent may still be answered until then.
    Retired {
        until_ms: u64,
    },
    /// Its place in the list is free.
    Free,
}

#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) node: Arc<str>,
    pub(crate) endpoint: Endpoint,
    pub(crate) lane: Lane,
    pub(crate) state: State,
    /// Counts the connections and attempts, so that news of an old one is known as such.
    pub(crate) incarnation: u32,
    /// Attempts that failed since the last that did not.
    pub(crate) failures: u32,
    /// Since when it could not be connected to, and why not.
    pub(crate) unreachable: Option<(u64, Box<str>)>,
    /// By which number the node knows this connection, if it said so.
    pub(crate) client_id: Option<u64>,
    /// What it is held for, if it is one session's alone.
    pub(crate) hold: Option<Hold>,
    /// What was read over it, if its lane is told of changes.
    pub(crate) tracked: Option<Box<Tracked>>,
    /// What it was sent waits behind a script, as far as is known: it takes no more.
    pub(crate) is_stuck: bool,
    /// When it was last asked whether it is there.
    pub(crate) pinged_ms: u64,
    /// Stands in the worker's list of backends with output.
    pub(crate) dirty: bool,
    /// An unfinished reply.
    pub(crate) input: Vec<u8>,
    pub(crate) framer: ReplyFramer,
    /// The scripts that the node was given.
    pub(crate) noted: Noted,
    waiters: VecDeque<Waiter>,
    /// A time before which none of the waiters came that moved here from another node: they may stand behind newer ones. Any time
    /// if there are none.
    moved_since_ms: u64,
    /// Replies of the first waiter that were skipped.
    skipped: u32,
    out: Vec<u8>,
    out_at: usize,
    /// Bytes that the driver has taken out and that are not sent yet.
    in_flight: usize,
}

impl Backend {
    pub(crate) fn new(node: Arc<str>, endpoint: Endpoint, lane: Lane) -> Self {
        Backend {
            node,
            endpoint,
            lane,
            state: State::Idle,
            incarnation: 0,
            failures: 0,
            unreachable: None,
            client_id: None,
            hold: None,
            tracked: None,
            is_stuck: false,
            pinged_ms: 0,
            dirty: false,
            input: Vec::new(),
            framer: ReplyFramer::default(),
            noted: Noted::default(),
            waiters: VecDeque::new(),
            moved_since_ms: u64::MAX,
            skipped: 0,
            out: Vec::new(),
            out_at: 0,
            in_flight: 0,
        }
    }

    /// Gives this place in the list to another connection. The incarnation goes on, so that late news of the old one is known as such.
    pub(crate) fn become_another(&mut self, other: Backend) {
        debug_assert_eq!(self.state, State::Free);
        *self = Backend { incarnation: self.incarnation, dirty: self.dirty, ..other };
    }

    /// Queues a request, which `write` appends, for `waiter`, whose `len` is set here.
    #[inline]
    pub(crate) fn push(&mut self, mut waiter: Waiter, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.out.len();
        write(&mut self.out);
        waiter.len = (self.out.len() - before) as u32;
        self.waiters.push_back(waiter);
    }

    /// The output buffer and, once whole requests were appended to it in turn, [`Backend::note`] for each.
    #[inline]
    pub(crate) fn out_mut(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Notes who waits for the request that was just appended.
    #[inline]
    pub(crate) fn note(&mut self, waiter: Waiter) {
        self.waiters.push_back(waiter);
    }

    /// A waiter that came at `since_ms` is about to be queued out of turn.
    pub(crate) fn expect_moved(&mut self, since_ms: u64) {
        self.moved_since_ms = self.moved_since_ms.min(since_ms);
    }

    /// Whether somebody waits who came before `deadline_ms`.
    pub(crate) fn is_overdue(&mut self, deadline_ms: u64) -> bool {
        if self.moved_since_ms < deadline_ms {
            // Whoever moved here may have been answered since; only looking at all tells.
            self.moved_since_ms = self.waiters.iter().map(|waiter| waiter.since_ms).min().unwrap_or(u64::MAX);
        }
        self.front().map_or(u64::MAX, |first| first.since_ms).min(self.moved_since_ms) < deadline_ms
    }

    /// Whether the next reply is one that does not count, without counting it off.
    pub(crate) fn would_skip(&self) -> bool {
        self.waiters.front().is_some_and(|waiter| waiter.skip > self.skipped)
    }

    /// Whether the next reply is one that does not count; if so, it is counted off.
    #[inline]
    pub(crate) fn skips(&mut self) -> bool {
        let skips = self.would_skip();
        self.skipped += u32::from(skips);
        skips
    }

    /// Who waits for the next reply.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Waiter> {
        self.skipped = 0;
        self.waiters.pop_front()
    }

    pub(crate) fn front(&self) -> Option<&Waiter> {
        self.waiters.front()
    }

    pub(crate) fn pending(&self) -> usize {
        self.waiters.len()
    }

    #[inline]
    fn backlog_bytes(&self) -> usize {
        self.out.len() - self.out_at + self.in_flight
    }

    /// Whether another request may be queued.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        !self.is_stuck && self.backlog_bytes() < NODE_BACKLOG_BYTES && self.waiters.len() < NODE_PENDING_MAX
    }

    /// Whether so much has been taken off that those who waited may go on.
    pub(crate) fn has_ample_room(&self) -> bool {
        self.backlog_bytes() <= NODE_BACKLOG_BYTES / 2 && self.waiters.len() <= NODE_PENDING_MAX / 2
    }

    /// What is to be written: nothing unless connected.
    #[inline]
    pub(crate) fn output(&self) -> &[u8] {
        match self.state {
            State::Up | State::Retired { .. } => &self.out[self.out_at..],
            State::Idle | State::Connecting | State::Free => &[],
        }
    }

    /// Takes the output out, to be sent elsewhere: a buffer, and where in it the output starts. `next` goes on collecting. What was
    /// taken counts as sent.
    pub(crate) fn take_output(&mut self, next: Vec<u8>) -> (Vec<u8>, usize) {
        let at = std::mem::take(&mut self.out_at);
        let taken = std::mem::replace(&mut self.out, next);
        self.in_flight = taken.len() - at;
        (taken, at)
    }

    /// What was taken out has been sent.
    pub(crate) fn sent(&mut self) {
        self.in_flight = 0;
    }

    /// `len` bytes of the output have been written.
    #[inline]
    pub(crate) fn written(&mut self, len: usize) {
        self.out_at += len;
        if self.out_at == self.out.len() {
            // A node's connection is busy as a rule: it keeps more than a client's.
            if self.out.capacity() > 256 * 1024 {
                self.out = Vec::new();
            } else {
                self.out.clear();
            }
            self.out_at = 0;
        } else if self.out_at > NODE_BACKLOG_BYTES / 4 && self.out_at > self.out.len() / 2 {
            // No more bytes are moved than were written, so that a large value is not moved again and again.
            self.out.drain(..self.out_at);
            self.out_at = 0;
        }
    }

    /// Takes back the requests of which no byte was written, in order, each with its waiter.
    pub(crate) fn take_unsent(&mut self) -> Unsent {
        // Scripts may be among them.
        self.noted.tear_up();
        let mut bytes = self.out.len() - self.out_at;
        let mut count = 0;
        for waiter in self.waiters.iter().rev() {
            match bytes.checked_sub(waiter.len as usize) {
                Some(rest) => bytes = rest,
                None => break,
            }
            count += 1;
        }
        // `bytes` is what is left of a request that was written in part.
        let waiters = self.waiters.split_off(self.waiters.len() - count);
        let requests = self.out.split_off(self.out_at + bytes);
        Unsent { waiters, requests }
    }

    /// Whether something may be queued that relies on scripts which the node was given over this connection.
    pub(crate) fn relies_on_scripts(&self) -> bool {
        !self.noted.is_empty()
    }

    /// Puts back what [`Backend::take_unsent`] took.
    pub(crate) fn put_unsent(&mut self, mut unsent: Unsent) {
        self.waiters.append(&mut unsent.waiters);
        self.out.extend_from_slice(&unsent.requests);
    }

    /// The connection is gone: everything that was sent, in part or whole, is lost. What was not sent stays queued.
    pub(crate) fn lose_sent(&mut self) -> VecDeque<Waiter> {
        let unsent = self.take_unsent();
        let lost = std::mem::take(&mut self.waiters);
        self.skipped = 0;
        self.out.clear();
        self.out_at = 0;
        self.in_flight = 0;
        empty(&mut self.input);
        self.framer = ReplyFramer::default();
        self.put_unsent(unsent);
        lost
    }

    /// Gives up everybody who waits, sent or not.
    pub(crate) fn take_waiters(&mut self) -> VecDeque<Waiter> {
        self.noted.tear_up();
        self.skipped = 0;
        empty(&mut self.out);
        self.out_at = 0;
        self.in_flight = 0;
        std::mem::take(&mut self.waiters)
    }

    /// Forgets all of the connection that is gone.
    pub(crate) fn forget_all(&mut self) {
        self.take_waiters();
        empty(&mut self.input);
        self.framer = ReplyFramer::default();
    }

    /// Takes back the requests that came before `deadline_ms`. Only for a connection that nothing has been sent on.
    pub(crate) fn expire_unsent(&mut self, deadline_ms: u64) -> VecDeque<Waiter> {
        debug_assert_eq!(self.out_at, 0);
        let unsent = self.take_unsent();
        let mut expired = VecDeque::new();
        let mut at = 0;
        for waiter in unsent.waiters {
            let request = &unsent.requests[at..at + waiter.len as usize];
            at += request.len();
            if waiter.since_ms < deadline_ms {
                expired.push_back(waiter);
            } else {
                self.push(waiter, |out| out.extend_from_slice(request));
            }
        }
        expired
    }
}

/// Requests that were not sent, and who waits for them.
#[derive(Debug, Default)]
pub(crate) struct Unsent {
    pub(crate) waiters: VecDeque<Waiter>,
    /// The requests' bytes one after the other, [`Waiter::len`] each.
    pub(crate) requests: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend() -> Backend {
        let mut backend = Backend::new("n".into(), Endpoint::new("127.0.0.1", 1), Lane::new(Proto::Resp2, 0, false));
        backend.state = State::Up;
        for (sequence, request) in ["aaaa", "bbb", "cc"].into_iter().enumerate() {
            let waiter = Waiter::new(SessionId { index: 0, generation: 0 }, sequence as u32, 0);
            backend.push(waiter, |out| out.extend_from_slice(request.as_bytes()));
        }
        backend
    }

    fn sequences(waiters: &VecDeque<Waiter>) -> Vec<u32> {
        waiters.iter().map(|waiter| waiter.sequence).collect()
    }

    #[test]
    fn only_what_no_byte_was_written_of_is_unsent() {
        for (written, lost, kept) in [
            (0, vec![], "aaaabbbcc"),
            (1, vec![0], "bbbcc"),
            (4, vec![0], "bbbcc"),
            (5, vec![0, 1], "cc"),
            (7, vec![0, 1], "cc"),
            (8, vec![0, 1, 2], ""),
            (9, vec![0, 1, 2], ""),
        ] {
            let mut backend = backend();
            backend.written(written);
            assert_eq!(sequences(&backend.lose_sent()), lost, "{written} written");
            assert_eq!(backend.output(), kept.as_bytes(), "{written} written");
        }
    }

    #[test]
    fn unsent_requests_can_be_taken_from_a_live_connection() {
        let mut backend = backend();
        backend.written(5);
        let unsent = backend.take_unsent();
        assert_eq!((sequences(&unsent.waiters), unsent.requests.as_slice()), (vec![2], b"cc".as_slice()));
        assert_eq!(backend.output(), b"bb", "the rest of a request that was begun is still to be written");
        assert_eq!(backend.pending(), 2);
    }

    #[test]
    fn a_large_request_is_not_moved_at_every_write() {
        let mut backend = backend();
        backend.push(Waiter::nobody(0), |out| out.resize(4 * NODE_BACKLOG_BYTES, b'x'));
        for _ in 0..4 {
            backend.written(NODE_BACKLOG_BYTES / 4 + 1);
        }
        assert!(backend.out_at > NODE_BACKLOG_BYTES);
        backend.written(2 * NODE_BACKLOG_BYTES);
        assert_eq!(backend.out_at, 0);
    }

    #[test]
    fn lanes_are_distinct() {
        let mut seen = std::collections::BTreeSet::new();
        for proto in [Proto::Resp2, Proto::Resp3] {
            for db in 0..16 {
                for tracking in [TrackingLane::Off, TrackingLane::Shared, TrackingLane::Noted, TrackingLane::Beside] {
                    let index = Lane { proto, db, tracking }.index().unwrap();
                    assert!(index < Lane::COUNT && seen.insert(index));
                }
            }
        }
        let guest = Lane::new(Proto::Resp2, 3, true);
        assert_eq!((guest.db, guest.of_client(true).db, guest.of_client(false).db), (11, 3, 11));
    }
}
