//! One client: who it is, what it has said, and in which modes it is. What it is owed, [`Replies`] know.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc};

use vrc_cluster::{
    command::Command,
    resp::{Proto, RequestFramer},
};

use super::{
    aside::Asides,
    buffers::{append, claim, empty},
    lane::{Lane, TrackingLane},
    mute::Mute,
    pubsub::Subscriptions,
    replies::{Replies, Sequence, Slot},
    tracking::Tracking,
    transaction::Transaction,
};
use crate::limits::READ_BYTES;

/// Names a session for as long as the process runs: an index that is used again, and a generation that is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SessionId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// Where a client came from.
#[derive(Debug, Clone)]
pub(crate) enum Peer {
    Tcp { peer: SocketAddr, local: SocketAddr },
    Unix { path: Arc<str> },
}

/// What stands in the way of taking more commands from a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pause {
    /// Too much is unanswered or unread.
    Answers,
    /// This backend's backlog is full.
    Backlog(u32),
    /// What follows must not be begun before all that came before is answered, and done to the session's own connections.
    Answered,
    /// A node is being asked which commands there are.
    Learning,
    /// CLIENT PAUSE, in its state at that round.
    HeldBack { round: u32 },
    /// A node is given the libraries of functions that the others have.
    Functions,
}

#[derive(Debug, Default)]
pub(crate) struct Session {
    pub(crate) generation: u32,
    pub(crate) open: bool,
    /// As `CLIENT ID` gives it; grows over all workers.
    pub(crate) id: u64,
    pub(crate) peer: Option<Peer>,
    pub(crate) opened_ms: u64,
    pub(crate) active_ms: u64,
    pub(crate) last_command: Option<&'static Command>,

    pub(crate) proto: Proto,
    pub(crate) db: u8,
    pub(crate) authenticated: bool,
    pub(crate) name: Box<str>,
    pub(crate) lib_name: Box<str>,
    pub(crate) lib_ver: Box<str>,

    /// Bytes that came and are not consumed: an unfinished request, or whatever came while the session is paused.
    input: Vec<u8>,
    /// Where in `input` they begin.
    input_at: usize,
    /// How far the unfinished request at the start of `input` has been framed.
    pub(crate) partial: Option<Box<RequestFramer>>,
    pub(crate) paused: Option<Pause>,
    /// What it says is read on and kept while it is paused, since it takes no answer before it has said all.
    pub(crate) heard_out: bool,
    /// Since MULTI.
    pub(crate) transaction: Option<Box<Transaction>>,
    /// What is to be done once the block of an EXEC is answered.
    pub(crate) asides: Option<Box<Asides>>,
    /// What it listens to.
    pub(crate) subscriptions: Option<Box<Subscriptions>>,
    /// What it is to be told of changes to what it has read.
    pub(crate) tracking: Option<Box<Tracking>>,
    /// Which node connections its commands take for that.
    pub(crate) tracking_lane: TrackingLane,
    /// Counts the times that it has forgotten all it had read: what it read before concerns it no more.
    pub(crate) tracking_epoch: u32,
    /// Which replies the client does not want, while there are any.
    pub(crate) mute: Option<Box<Mute>>,
    /// It asked by CLIENT NO-EVICT not to be closed to save memory.
    pub(crate) no_evict: bool,
    /// It asked by CLIENT NO-TOUCH that what it reads does not count as used.
    pub(crate) no_touch: bool,
    /// It is shown all clients' commands: MONITOR.
    pub(crate) monitors: bool,
    /// The node connection of its own that watches keys: WATCH.
    pub(crate) watching: Option<u32>,
    /// That over which a command of its waits for data: BLPOP and its kin.
    pub(crate) waiting: Option<u32>,
    /// What WATCH watched is gone with its node: the next EXEC must fail.
    pub(crate) watch_broken: bool,
    /// No more commands are taken; the connection is closed once everything is answered and written.
    pub(crate) closing: bool,
    /// Stands in the worker's list of sessions with output.
    pub(crate) dirty: bool,
    /// Stands in the list of those whose output waits for the rest of a batch.
    pub(crate) gathering: bool,

    /// What it is owed. It is answered by [`Session::answer`] and its kin, which know what the client does not want.
    pub(crate) replies: Replies,
}

impl Session {
    /// Gives the session's index to a new client.
    pub(crate) fn open(&mut self, id: u64, peer: Peer, authenticated: bool, now_ms: u64) {
        debug_assert!(!self.open);
        *self = Session {
            generation: self.generation,
            open: true,
            id,
            peer: Some(peer),
            authenticated,
            opened_ms: now_ms,
            active_ms: now_ms,
            ..Session::default()
        };
    }

    /// Forgets the client. Returns the slots that were still waiting, whose joins the caller frees.
    pub(crate) fn close(&mut self) -> VecDeque<Slot> {
        let generation = self.generation.wrapping_add(1);
        std::mem::replace(self, Session { generation, ..Session::default() }).replies.into_slots()
    }

    /// The lane of its commands.
    #[inline]
    pub(crate) fn lane(&self, guest: bool) -> Lane {
        Lane { tracking: self.tracking_lane, ..self.private_lane(guest) }
    }

    /// The lane of its commands that have a connection of their own.
    #[inline]
    pub(crate) fn private_lane(&self, guest: bool) -> Lane {
        Lane { no_touch: self.no_touch, ..Lane::new(self.proto, self.db, guest) }
    }

    /// Keeps bytes that could not be taken yet.
    pub(crate) fn keep(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            let wanted = self.partial.as_ref().map_or(0, |framer| self.input_at + framer.bytes_wanted());
            append(&mut self.input, bytes, wanted);
        }
    }

    /// How many of `len` bytes more belong to the unfinished request, all if that is not known: were what comes behind it put into its
    /// buffer, that would have to grow for it, and the bytes to be moved.
    pub(crate) fn share_of_unfinished(&self, len: usize) -> usize {
        let kept = self.kept_bytes();
        match self.partial.as_ref().and_then(|framer| framer.end()) {
            Some(end) if kept < end => len.min(end - kept),
            _ => len,
        }
    }

    /// The buffer of the unfinished request with room for more of it, if that is worth a read of its own.
    pub(crate) fn room(&mut self) -> Option<&mut Vec<u8>> {
        let wanted = self.input_at + self.partial.as_ref()?.bytes_wanted();
        if wanted < self.input.len() + READ_BYTES {
            return None;
        }
        if self.input.len() == self.input.capacity() {
            claim(&mut self.input, 1, wanted);
        }
        Some(&mut self.input)
    }

    /// Whether the unfinished request cannot be whole yet.
    pub(crate) fn wants_more(&self) -> bool {
        self.partial.as_ref().is_some_and(|framer| self.kept_bytes() < framer.bytes_wanted())
    }

    /// How many bytes came and are not consumed.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.input.len() - self.input_at
    }

    /// How many bytes more could be kept without taking memory.
    pub(crate) fn kept_bytes_free(&self) -> usize {
        self.input.capacity() - self.kept_bytes()
    }

    /// Takes out what came and is not consumed: a buffer, and where in it that begins.
    pub(crate) fn take_input(&mut self) -> (Vec<u8>, usize) {
        (std::mem::take(&mut self.input), std::mem::take(&mut self.input_at))
    }

    /// Puts back what was taken out, of which less may be left.
    pub(crate) fn put_input(&mut self, mut input: Vec<u8>, mut at: usize) {
        if at == input.len() {
            empty(&mut input);
            at = 0;
        } else if at >= input.len() - at {
            // No more bytes are moved than were consumed, so that much that is kept is not moved again and again.
            input.drain(..at);
            at = 0;
        }
        (self.input, self.input_at) = (input, at);
    }

    /// What came and is not consumed.
    #[cfg(test)]
    pub(crate) fn input(&self) -> &Vec<u8> {
        &self.input
    }

    /// Forgets what came and is not consumed.
    pub(crate) fn drop_input(&mut self) {
        drop(self.take_input());
        self.partial = None;
    }

    /// Whether it is in no mode in which a request may be more, or less, than it says.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.authenticated && self.transaction.is_none() && self.subscriptions.is_none() && self.tracking.is_none()
    }

    /// The command at `sequence` goes on in parts, gathered in `join`.
    pub(crate) fn split(&mut self, sequence: Sequence, join: u32) {
        let slot = self.replies.slot(sequence);
        debug_assert!(matches!(slot, Some(Slot::Waiting | Slot::Muted)));
        if slot == Some(Slot::Muted) {
            self.keep_muted(sequence);
        }
        self.replies.set_slot(sequence, Slot::Join(join));
    }

    /// What waits at `sequence` is now a plain reply.
    pub(crate) fn expect_reply(&mut self, sequence: Sequence) {
        if self.replies.slot(sequence).is_some() {
            let slot = if self.is_muted(sequence) { Slot::Muted } else { Slot::Waiting };
            self.replies.set_slot(sequence, slot);
        }
    }

    /// Answers the command at `sequence`, unless its client does not want that: `write` appends the reply.
    #[inline]
    pub(crate) fn answer(&mut self, sequence: Sequence, write: impl FnOnce(&mut Vec<u8>)) {
        if self.is_muted(sequence) {
            self.answer_muted(sequence);
        } else {
            self.replies.answer(sequence, write);
        }
    }

    /// As [`Replies::answer_owned`], unless the client does not want the reply.
    pub(crate) fn answer_owned(&mut self, sequence: Sequence, reply: Vec<u8>) {
        if self.is_muted(sequence) {
            self.answer_muted(sequence);
        } else {
            self.replies.answer_owned(sequence, reply);
        }
    }

    /// As [`Replies::answer_now`], unless the client does not want the reply.
    #[inline]
    pub(crate) fn answer_now(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.mute.is_none() || !self.is_mute_at_hand() {
            self.replies.answer_now(write);
        } else if self.replies.pending() > 0 {
            let sequence = self.replies.push(Slot::Waiting);
            self.answer_muted(sequence);
        }
    }

    /// As [`Replies::begin_passing`], but not for a client that does not want some replies.
    pub(crate) fn begin_passing(&mut self, sequence: Sequence, begun: &[u8]) -> bool {
        self.mute.is_none() && self.replies.begin_passing(sequence, begun)
    }

    /// Counts a command as answered whose reply is not wanted.
    #[cold]
    fn answer_muted(&mut self, sequence: Sequence) {
        self.unmute(sequence);
        self.replies.leave_out(sequence);
    }

    /// Whether a closing session has nothing more to get. One that is paused may have said more that is to be answered.
    pub(crate) fn is_done(&self) -> bool {
        self.closing && self.paused.is_none() && self.replies.is_settled()
    }

    /// Gives back all that a session does not need while nothing happens.
    pub(crate) fn let_go(&mut self) {
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        self.replies.let_go();
    }

    /// Bytes of memory that its buffers take.
    #[cfg(test)]
    pub(crate) fn held_bytes(&self) -> usize {
        self.input.capacity() + self.replies.held_bytes()
    }

    /// Gives back what is more than a session is likely to need again soon.
    pub(crate) fn trim(&mut self) {
        self.replies.trim();
        if self.input.is_empty() {
            empty(&mut self.input);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_behind_a_reply_that_is_not_wanted_leaves_nothing_behind() {
        let mut session = Session::default();
        let (first, muted) = (session.replies.push(Slot::Waiting), session.replies.push(Slot::Muted));
        session.keep_muted(muted);
        session.answer(muted, |_| {});
        session.replies.tell(None, |out| out.extend_from_slice(b"told"));
        session.answer(first, |out| out.push(b'0'));
        assert_eq!((session.replies.output(), session.replies.unread_bytes()), (&b"0told"[..], 5));
    }
}
