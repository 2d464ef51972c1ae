//! What a client is owed, and the order in which it gets it.
//!
//! Every command of a client takes the next place in its row of reply slots. Replies come back from many nodes in any order; one whose
//! turn it is goes straight to the output, one out of turn waits in the stash. Nothing else orders replies.

use std::collections::VecDeque;

use super::buffers::{append, give_back};
use crate::limits::{
    CLIENT_OUTPUT_MAX_BYTES, CLIENT_OUTPUT_PAUSE_BYTES, CLIENT_PENDING_MAX, GATHER_BYTES_MAX, KEEP_BYTES, SPARE_BUFFERS_MAX,
};

/// The number of a command within its session; wraps.
pub(crate) type Sequence = u32;

/// What waits in a place of the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    /// For the reply of one node.
    Waiting,
    /// For the parts of a split command, gathered in this join.
    Join(u32),
    /// For its turn: these bytes of the stash.
    Ready { start: u32, len: u32 },
    /// For the reply to a transaction's block, behind which other commands of the transaction come: see `aside`.
    Exec,
    /// For the reply of one node, which the client does not want: see `mute`.
    Muted,
    /// For the reply to a PUBLISH, which comes after the message to the publisher itself: see `pubsub`.
    Publish,
}

/// The row of a session's commands that are under way, the replies among them that wait for their turn, and the output.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    first: Sequence,
    /// Behind the last command of a batch: what one read brought. Replies wait for those up to here, to leave in one write.
    batch_end: Sequence,
    slots: VecDeque<Slot>,
    stash: Vec<u8>,
    stash_live: usize,
    /// Bytes of replies to parts of commands that are not whole yet.
    parts_bytes: usize,
    out: Vec<u8>,
    out_at: usize,
    /// Of the first reply a part is in `out`; the rest goes there as it comes.
    passing: bool,
    /// What was told meanwhile.
    told: Vec<u8>,
    /// Bytes of messages and the like that the client has not taken. Of what it takes they count as the first, so that this is nothing
    /// that a client gathers which reads as fast as it is told.
    told_unread: usize,
    /// Bytes that the driver has taken out and that are not sent yet.
    in_flight: usize,
    /// The client has taken some of its output since this was last looked at.
    took_output: bool,
}

impl Replies {
    /// Takes the next place in the row.
    #[inline]
    pub(crate) fn push(&mut self, slot: Slot) -> Sequence {
        let sequence = self.first.wrapping_add(self.slots.len() as u32);
        self.slots.push_back(slot);
        sequence
    }

    /// The number of the next command that takes a place in the row.
    pub(crate) fn next_sequence(&self) -> Sequence {
        self.first.wrapping_add(self.slots.len() as u32)
    }

    /// The number of the first command that is not answered yet.
    pub(crate) fn first_sequence(&self) -> Sequence {
        self.first
    }

    /// What waits in a place of the row waits for something else now.
    pub(crate) fn set_slot(&mut self, sequence: Sequence, slot: Slot) {
        let place = sequence.wrapping_sub(self.first) as usize;
        self.slots[place] = slot;
    }

    /// What waits in a place, `None` for one that the row does not have.
    #[inline]
    pub(crate) fn slot(&self, sequence: Sequence) -> Option<Slot> {
        self.slots.get(sequence.wrapping_sub(self.first) as usize).copied()
    }

    /// A read brought commands. Unless an earlier batch is still unanswered, they are the next.
    #[inline]
    pub(crate) fn begin_batch(&mut self) {
        if self.batch_left() <= 0 {
            self.batch_end = self.first.wrapping_add(self.slots.len() as u32);
        }
    }

    /// How many commands of the batch are unanswered; not positive if none.
    #[inline]
    fn batch_left(&self) -> i32 {
        self.batch_end.wrapping_sub(self.first) as i32
    }

    /// Whether what is to be written had better wait: the rest of the batch is on its way.
    #[inline]
    pub(crate) fn gathers(&self) -> bool {
        self.batch_left() > 0 && !self.passing && self.out.len() - self.out_at < GATHER_BYTES_MAX && !self.out.is_empty()
    }

    /// What was gathered is to be written, whole or not.
    pub(crate) fn end_batch(&mut self) {
        self.batch_end = self.first;
    }

    /// Takes buffers that the worker has to spare for the replies to a pipeline.
    #[inline]
    pub(crate) fn borrow_buffers(&mut self, spare: &mut Vec<Vec<u8>>) {
        if self.slots.len() > 1 {
            for buffer in [&mut self.out, &mut self.stash] {
                if buffer.capacity() == 0
                    && let Some(lent) = spare.pop()
                {
                    *buffer = lent;
                }
            }
        }
    }

    /// Takes a buffer that the worker has to spare for a reply of so many bytes.
    pub(crate) fn borrow_output(&mut self, bytes: usize, spare: &mut Vec<Vec<u8>>) {
        if self.out.is_empty()
            && self.out.capacity() < bytes
            && let Some(lent) = spare.pop()
        {
            self.out = lent;
        }
    }

    /// Gives back the larger of the buffers that are empty, so that an idle connection costs little.
    #[inline]
    pub(crate) fn return_buffers(&mut self, spare: &mut Vec<Vec<u8>>) {
        if self.passing {
            return;
        }
        for buffer in [&mut self.out, &mut self.stash] {
            if buffer.is_empty() && buffer.capacity() > KEEP_BYTES {
                give_back(std::mem::take(buffer), spare, SPARE_BUFFERS_MAX);
            }
        }
    }

    /// Answers the command at `sequence` if that waits for the reply of one node, and tells whether it did.
    #[inline]
    pub(crate) fn answer_waiting(&mut self, sequence: Sequence, reply: &[u8]) -> bool {
        let place = sequence.wrapping_sub(self.first) as usize;
        let Some(slot @ Slot::Waiting) = self.slots.get_mut(place) else { return false };
        if place == 0 {
            self.out.extend_from_slice(reply);
            self.pass_turn();
        } else {
            let start = self.stash.len();
            self.stash.extend_from_slice(reply);
            self.stash_live += reply.len();
            *slot = ready(start, self.stash.len());
        }
        true
    }

    /// Commands that are not answered yet.
    pub(crate) fn pending(&self) -> usize {
        self.slots.len()
    }

    /// Answers the command at `sequence`: `write` appends the reply.
    #[inline]
    pub(crate) fn answer(&mut self, sequence: Sequence, write: impl FnOnce(&mut Vec<u8>)) {
        let place = sequence.wrapping_sub(self.first) as usize;
        debug_assert!(place < self.slots.len());
        debug_assert!(!matches!(self.slots[place], Slot::Ready { .. }), "a command is answered once");
        if place == 0 {
            write(&mut self.out);
            self.pass_turn();
        } else {
            let start = self.stash.len();
            write(&mut self.stash);
            self.stash_live += self.stash.len() - start;
            self.slots[place] = ready(start, self.stash.len());
        }
    }

    /// Counts the command at `sequence` as answered without a reply.
    pub(crate) fn leave_out(&mut self, sequence: Sequence) {
        let place = sequence.wrapping_sub(self.first) as usize;
        debug_assert!(place < self.slots.len());
        debug_assert!(!matches!(self.slots[place], Slot::Ready { .. }), "a command is answered once");
        if place == 0 {
            self.pass_turn();
        } else {
            // It counts as a byte, so that something is known to wait for its turn.
            self.slots[place] = Slot::Ready { start: 0, len: 0 };
            self.stash_live += 1;
        }
    }

    /// Answers the command that is at hand, before any later one has been taken.
    #[inline]
    pub(crate) fn answer_now(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.slots.is_empty() {
            write(&mut self.out);
        } else {
            let sequence = self.push(Slot::Waiting);
            self.answer(sequence, write);
        }
    }

    /// Hands over a whole buffer as the reply, without a copy where the output is empty and it is this command's turn.
    pub(crate) fn answer_owned(&mut self, sequence: Sequence, reply: Vec<u8>) {
        if sequence == self.first && self.out.is_empty() {
            self.answer(sequence, |out| *out = reply);
        } else {
            self.answer(sequence, |out| out.extend_from_slice(&reply));
        }
    }

    /// The first command of the row has been answered: it is the next one's turn.
    #[inline]
    fn pass_turn(&mut self) {
        self.slots.pop_front();
        self.first = self.first.wrapping_add(1);
        if self.stash_live > 0 {
            self.release();
        }
    }

    /// Says something that answers no command: a message, say. It comes behind every reply that was here before it and answers a
    /// command up to `behind` (any, if that is `None`), and waits for none that was not.
    pub(crate) fn tell(&mut self, behind: Option<Sequence>, write: impl FnOnce(&mut Vec<u8>)) {
        let places = match behind.map(|behind| behind.wrapping_sub(self.first) as i32) {
            None => self.slots.len(),
            Some(place) => (place.saturating_add(1).max(0) as usize).min(self.slots.len()),
        };
        let is_ready = |slot: &Slot| matches!(slot, Slot::Ready { .. });
        let last = if self.stash_live > 0 { self.slots.range(..places).rposition(is_ready) } else { None };
        let Some(place) = last else {
            let out = if self.passing { &mut self.told } else { &mut self.out };
            let before = out.len();
            write(out);
            self.told_unread += out.len() - before;
            self.end_batch();
            return;
        };
        let (start, len) = self.move_to_end(place);
        write(&mut self.stash);
        let told = self.stash.len() - start - len;
        self.told_unread += told;
        // An empty reply counts as a byte, until it is not empty any more.
        self.stash_live += told - usize::from(len == 0);
        self.slots[place] = ready(start, self.stash.len());
    }

    /// Moves the reply that waits in a place of the row to the end of the stash, for more to come behind it. Returns where it begins
    /// there, and its length.
    fn move_to_end(&mut self, place: usize) -> (usize, usize) {
        let reply = |slot: &Slot| match *slot {
            Slot::Ready { start, len } => (start as usize, len as usize),
            _ => unreachable!("it is ready"),
        };
        let (start, len) = reply(&self.slots[place]);
        if start + len == self.stash.len() {
            return (start, len);
        }
        // What is moved leaves as much behind: were that not dropped in time, every message might leave one more copy of a large reply.
        self.compact_if_sparse();
        let (start, len) = reply(&self.slots[place]);
        let end = self.stash.len();
        self.stash.extend_from_within(start..start + len);
        (end, len)
    }

    /// Has the reply to the command at `sequence` written as it comes, of which this is the beginning: if it is that command's turn, and
    /// it waits for nothing but the reply of one node.
    pub(crate) fn begin_passing(&mut self, sequence: Sequence, begun: &[u8]) -> bool {
        let may = sequence == self.first && self.slots.front() == Some(&Slot::Waiting);
        if may {
            self.passing = true;
            self.out.extend_from_slice(begun);
        }
        may
    }

    /// More of the reply that is written as it comes, of which so many bytes are still `left`.
    pub(crate) fn pass(&mut self, bytes: &[u8], left: usize) {
        debug_assert!(self.passing);
        // A client that reads as fast as its reply comes needs no more room than for a piece of it.
        let wanted = if self.output().is_empty() { 0 } else { self.out.len() + bytes.len() + left };
        append(&mut self.out, bytes, wanted);
        if left == 0 {
            self.passing = false;
            self.out.append(&mut std::mem::take(&mut self.told));
            self.pass_turn();
        }
    }

    /// Moves what has waited for its turn to the output.
    fn release(&mut self) {
        while let Some(&Slot::Ready { start, len }) = self.slots.front() {
            self.out.extend_from_slice(&self.stash[start as usize..start as usize + len as usize]);
            self.stash_live -= len.max(1) as usize;
            self.slots.pop_front();
            self.first = self.first.wrapping_add(1);
        }
        if self.stash_live == 0 {
            self.stash.clear();
        } else {
            self.compact_if_sparse();
        }
    }

    #[inline]
    fn compact_if_sparse(&mut self) {
        if self.stash.len() > 64 * 1024 && self.stash_live < self.stash.len() / 2 {
            self.compact();
        }
    }

    /// Drops the stash's bytes that have had their turn, or were moved; paid for by at least as many that were.
    fn compact(&mut self) {
        let mut kept = Vec::with_capacity(self.stash_live);
        for slot in &mut self.slots {
            if let Slot::Ready { start, len } = slot {
                let from = *start as usize;
                *start = kept.len() as u32;
                kept.extend_from_slice(&self.stash[from..from + *len as usize]);
            }
        }
        self.stash = kept;
    }

    /// Output that is not written yet.
    #[inline]
    pub(crate) fn output(&self) -> &[u8] {
        &self.out[self.out_at..]
    }

    /// `len` bytes of the output have been written.
    #[inline]
    pub(crate) fn written(&mut self, len: usize) {
        self.out_at += len;
        self.took_output |= len > 0;
        self.told_unread = self.told_unread.saturating_sub(len);
        if self.out_at == self.out.len() {
            self.out.clear();
            self.out_at = 0;
        } else if self.out_at > CLIENT_OUTPUT_PAUSE_BYTES && self.out_at > self.out.len() / 2 {
            // No more bytes are moved than were written, so that a large value is not moved again and again.
            self.out.drain(..self.out_at);
            self.out_at = 0;
        }
    }

    /// Takes the output out, to be sent elsewhere: a buffer, and where in it the output starts. `next` goes on collecting.
    pub(crate) fn take_output(&mut self, next: Vec<u8>) -> (Vec<u8>, usize) {
        let at = std::mem::take(&mut self.out_at);
        let taken = std::mem::replace(&mut self.out, next);
        self.in_flight = taken.len() - at;
        (taken, at)
    }

    /// What was taken out has been sent.
    pub(crate) fn sent(&mut self) {
        self.told_unread = self.told_unread.saturating_sub(self.in_flight);
        self.in_flight = 0;
        self.took_output = true;
    }

    /// Whether there is output of which the client has taken nothing since the last look.
    pub(crate) fn is_stalled(&mut self) -> bool {
        !std::mem::take(&mut self.took_output) && (self.in_flight > 0 || !self.output().is_empty())
    }

    /// Of the parts of some command so many bytes are kept now, rather than so many before.
    pub(crate) fn gathers_parts(&mut self, before: usize, now: usize) {
        self.parts_bytes = (self.parts_bytes + now).saturating_sub(before);
    }

    /// Bytes that are held for the client until it takes them.
    #[inline]
    pub(crate) fn unread_bytes(&self) -> usize {
        self.out.len() - self.out_at + self.stash.len() + self.parts_bytes + self.told.len() + self.in_flight
    }

    /// Those of them that it was told beside its replies.
    pub(crate) fn told_unread_bytes(&self) -> usize {
        self.told_unread
    }

    /// Whether what is unanswered and unread leaves room for another command.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        self.slots.len() < CLIENT_PENDING_MAX && self.unread_bytes() < CLIENT_OUTPUT_PAUSE_BYTES
    }

    /// Whether there is so much room again that a paused session may go on; half of the limits, so that it does not stop at every step.
    pub(crate) fn has_ample_room(&self) -> bool {
        self.slots.len() <= CLIENT_PENDING_MAX / 2 && self.unread_bytes() <= CLIENT_OUTPUT_PAUSE_BYTES / 2
    }

    /// Whether nothing is owed any more, nor on its way out.
    pub(crate) fn is_settled(&self) -> bool {
        self.slots.is_empty() && self.output().is_empty() && self.in_flight == 0
    }

    /// What still waited for something.
    pub(crate) fn into_slots(self) -> VecDeque<Slot> {
        self.slots
    }

    /// Gives back all that is not needed while nothing happens.
    pub(crate) fn let_go(&mut self) {
        for buffer in [&mut self.out, &mut self.stash] {
            if buffer.is_empty() {
                *buffer = Vec::new();
            }
        }
        if self.slots.is_empty() {
            self.slots = VecDeque::new();
        }
    }

    /// Gives back what is more than is likely to be needed again soon.
    pub(crate) fn trim(&mut self) {
        if self.slots.is_empty() && self.slots.capacity() > 64 {
            self.slots = VecDeque::new();
        }
    }

    /// Bytes of memory that its buffers take.
    #[cfg(test)]
    pub(crate) fn held_bytes(&self) -> usize {
        self.out.capacity() + self.stash.capacity() + self.told.capacity() + self.slots.capacity() * size_of::<Slot>()
    }
}

/// What waits for its turn between these two places of the stash. What is too far behind to be named never gets it: the row ends there,
/// and the client is cut off, since it left that much unread.
#[inline]
fn ready(start: usize, end: usize) -> Slot {
    const _: () = assert!(CLIENT_OUTPUT_MAX_BYTES < u32::MAX as usize);
    if u32::try_from(end).is_ok() { Slot::Ready { start: start as u32, len: (end - start) as u32 } } else { Slot::Waiting }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(replies: &Replies) -> &str {
        std::str::from_utf8(replies.output()).unwrap()
    }

    #[test]
    fn replies_come_out_in_the_order_of_the_commands() {
        let mut replies = Replies::default();
        let sequences: Vec<_> = (0..4).map(|_| replies.push(Slot::Waiting)).collect();
        for (at, expect) in [(2, ""), (0, "0"), (3, "0"), (1, "0123")] {
            replies.answer(sequences[at], |out| out.extend_from_slice(at.to_string().as_bytes()));
            assert_eq!(text(&replies), expect);
        }
        assert_eq!((replies.pending(), replies.stash.len()), (0, 0));
        replies.answer_now(|out| out.push(b'4'));
        assert_eq!(text(&replies), "01234");
    }

    #[test]
    fn a_stash_that_is_never_empty_does_not_grow_for_ever() {
        let mut replies = Replies::default();
        let mut front = replies.push(Slot::Waiting);
        for _ in 0..10_000 {
            let next = replies.push(Slot::Waiting);
            let last = replies.push(Slot::Waiting);
            replies.answer(next, |out| out.extend_from_slice(&[b'x'; 100]));
            replies.answer(last, |out| out.extend_from_slice(&[b'y'; 100]));
            let after = replies.push(Slot::Waiting);
            replies.answer(front, |out| out.push(b'.'));
            replies.written(replies.output().len());
            front = after;
        }
        assert!(replies.stash.len() < 128 * 1024, "{}", replies.stash.len());
    }

    #[test]
    fn what_is_told_comes_behind_the_replies_that_were_there_and_waits_for_no_other() {
        let mut replies = Replies::default();
        let sequences: Vec<_> = (0..4).map(|_| replies.push(Slot::Waiting)).collect();
        let put = |text: &'static str| move |out: &mut Vec<u8>| out.extend_from_slice(text.as_bytes());
        replies.tell(None, put("<"));
        assert_eq!(text(&replies), "<");
        replies.answer(sequences[1], put("1"));
        replies.answer(sequences[3], put("3"));
        replies.tell(None, put("[a"));
        replies.tell(None, put("b]"));
        replies.tell(Some(sequences[2]), put("~"));
        replies.tell(Some(sequences[0].wrapping_sub(1)), put("^"));
        replies.answer(sequences[2], put("2"));
        replies.tell(None, put("!"));
        assert_eq!(text(&replies), "<^");
        replies.answer(sequences[0], put("0"));
        assert_eq!(text(&replies), "<^01~23[ab]!");
        assert_eq!(replies.stash_live, 0);
        replies.tell(Some(sequences[3]), put(">"));
        assert_eq!(text(&replies), "<^01~23[ab]!>");
    }

    #[test]
    fn messages_leave_no_copies_of_a_large_reply_behind() {
        const LARGE: usize = 256 * 1024;
        let mut replies = Replies::default();
        let sequences: Vec<_> = (0..100).map(|_| replies.push(Slot::Waiting)).collect();
        replies.answer(sequences[99], |out| out.resize(LARGE, b'x'));
        for sequence in &sequences[1..99] {
            replies.answer(*sequence, |out| out.push(b'.'));
            replies.tell(None, |out| out.push(b'!'));
            assert!(replies.stash.len() < 4 * LARGE, "{}", replies.stash.len());
            assert!(replies.unread_bytes() >= replies.stash.len());
        }
        replies.answer(sequences[0], |out| out.push(b'0'));
        assert_eq!(text(&replies), format!("0{}{}{}", ".".repeat(98), "x".repeat(LARGE), "!".repeat(98)));
        assert_eq!((replies.stash.len(), replies.stash_live), (0, 0));
    }

    #[test]
    fn what_is_told_while_a_value_is_passed_on_counts_as_unread() {
        let mut replies = Replies::default();
        let sequence = replies.push(Slot::Waiting);
        assert!(replies.begin_passing(sequence, b"$5\r\n"));
        replies.tell(None, |out| out.extend_from_slice(b"told"));
        assert_eq!((text(&replies), replies.unread_bytes()), ("$5\r\n", 8));
        replies.pass(b"value\r\n", 0);
        assert_eq!((text(&replies), replies.unread_bytes()), ("$5\r\nvalue\r\ntold", 15));
    }

    #[test]
    fn what_cannot_be_named_in_the_stash_never_has_its_turn() {
        let max = u32::MAX as usize;
        assert_eq!(ready(max - 3, max), Slot::Ready { start: u32::MAX - 3, len: 3 });
        assert_eq!(ready(max - 3, max + 1), Slot::Waiting);
        assert_eq!(ready(max + 1, max + 2), Slot::Waiting);
    }

    #[test]
    fn a_large_reply_is_not_moved_at_every_write() {
        let mut replies = Replies::default();
        replies.answer_now(|out| out.resize(16 * CLIENT_OUTPUT_PAUSE_BYTES, b'x'));
        for _ in 0..4 {
            replies.written(CLIENT_OUTPUT_PAUSE_BYTES + 1);
        }
        assert!(replies.out_at > 4 * CLIENT_OUTPUT_PAUSE_BYTES);
        replies.written(8 * CLIENT_OUTPUT_PAUSE_BYTES);
        assert_eq!(replies.out_at, 0);
    }

    #[test]
    fn sequence_numbers_wrap() {
        let mut replies = Replies { first: u32::MAX, ..Replies::default() };
        let (a, b) = (replies.push(Slot::Waiting), replies.push(Slot::Waiting));
        assert_eq!((a, b), (u32::MAX, 0));
        replies.answer(b, |out| out.push(b'b'));
        replies.answer(a, |out| out.push(b'a'));
        assert_eq!(text(&replies), "ab");
    }
}
