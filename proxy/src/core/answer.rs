//! Answers, on their way to the sessions that wait for them.

use std::collections::VecDeque;

use vrc_cluster::resp::encode;

use super::{
    Core, Effect,
    replies::{Sequence, Slot},
    session::SessionId,
    waiter::Waiter,
};
use crate::limits::{CLIENT_OUTPUT_MAX_BYTES, KEEP_BYTES};

/// A split command of a client that has left, whose replies are gathered all the same for what is to be done with them.
#[derive(Debug)]
pub(super) struct LeftBehind {
    session: SessionId,
    sequence: Sequence,
    join: u32,
}

impl LeftBehind {
    fn is_for(&self, waiter: &Waiter) -> bool {
        (self.session, self.sequence) == (waiter.session_id(), waiter.sequence)
    }
}

impl Core {
    /// Answers the command at hand with an error. `text` starts with the error's code.
    pub(super) fn refuse(&mut self, index: u32, text: impl AsRef<[u8]>) {
        self.counters.errors_total += 1;
        self.answer_now(index, |out| encode::error(out, text));
    }

    #[inline]
    pub(super) fn answer_now(&mut self, index: u32, write: impl FnOnce(&mut Vec<u8>)) {
        self.sessions[index as usize].answer_now(write);
        self.mark_session(index);
    }

    /// Answers a command whose answer had to be gathered.
    pub(crate) fn answer_later(&mut self, id: SessionId, sequence: u32, reply: &[u8]) {
        if self.is_open(id)
            && matches!(self.sessions[id.index as usize].replies.slot(sequence), Some(Slot::Waiting | Slot::Muted))
        {
            self.sessions[id.index as usize].answer(sequence, |out| out.extend_from_slice(reply));
            self.answered(id.index);
        }
    }

    /// Hands a node's reply to whoever waits for it.
    #[inline(always)]
    pub(super) fn deliver(&mut self, waiter: Waiter, reply: &[u8]) {
        if waiter.is_nobody() {
            self.node_asked(waiter, reply);
            return;
        }
        let session = &mut self.sessions[waiter.session as usize];
        if session.generation != waiter.generation {
            self.deliver_to_one_who_left(waiter, reply);
            return;
        }
        if reply.len() > KEEP_BYTES {
            session.replies.borrow_output(reply.len(), &mut self.spare);
        }
        if !session.replies.answer_waiting(waiter.sequence, reply) {
            match session.replies.slot(waiter.sequence) {
                Some(Slot::Join(join)) => self.deliver_part(waiter, join, reply),
                Some(Slot::Exec) => self.exec_answered(waiter, reply),
                Some(Slot::Publish) => self.publish_answered(waiter, reply),
                Some(Slot::Muted) => session.answer(waiter.sequence, |_| {}),
                Some(Slot::Waiting | Slot::Ready { .. }) | None => debug_assert!(false, "a command is answered once"),
            }
        }
        self.answered(waiter.session);
    }

    pub(super) fn deliver_owned(&mut self, waiter: Waiter, reply: Vec<u8>) {
        if waiter.is_nobody() {
            return;
        }
        let session = &mut self.sessions[waiter.session as usize];
        if session.generation == waiter.generation && session.replies.slot(waiter.sequence) == Some(Slot::Waiting) {
            session.answer_owned(waiter.sequence, reply);
            self.answered(waiter.session);
        } else {
            self.deliver(waiter, &reply);
        }
    }

    pub(super) fn deliver_part(&mut self, waiter: Waiter, join: u32, reply: &[u8]) {
        let (gathered, session) = (&mut self.joins[join as usize], &mut self.sessions[waiter.session as usize]);
        let before = gathered.held_bytes();
        let is_whole = gathered.add(waiter.part, reply);
        session.replies.gathers_parts(before, if is_whole { 0 } else { gathered.held_bytes() });
        if is_whole {
            if session.is_muted(waiter.sequence) {
                gathered.finish_unread();
                session.answer(waiter.sequence, |_| {});
            } else {
                session.answer(waiter.sequence, |out| gathered.finish(out));
            }
            self.free_joins.push(join);
        }
    }

    /// Lets go of what a client that leaves still waited for in this place of its row.
    pub(super) fn give_up(&mut self, session: SessionId, sequence: Sequence, slot: Slot) {
        let Slot::Join(join) = slot else { return };
        if self.joins[join as usize].acts() {
            self.left_behind.push(LeftBehind { session, sequence, join });
        } else {
            self.joins[join as usize].trim();
            self.free_joins.push(join);
        }
    }

    #[cold]
    fn deliver_to_one_who_left(&mut self, waiter: Waiter, reply: &[u8]) {
        let Some(at) = self.left_behind.iter().position(|left| left.is_for(&waiter)) else { return };
        let join = self.left_behind[at].join;
        if self.joins[join as usize].add(waiter.part, reply) {
            self.joins[join as usize].finish_unread();
            self.free_joins.push(join);
            self.left_behind.swap_remove(at);
        }
    }

    /// Whether a request of a client that has left is to be carried out all the same.
    pub(super) fn is_left_behind(&self, waiter: &Waiter) -> bool {
        self.left_behind.iter().any(|left| left.is_for(waiter))
    }

    #[inline(always)]
    pub(super) fn answered(&mut self, index: u32) {
        self.mark_session(index);
        let session = &self.sessions[index as usize];
        if session.replies.unread_bytes() > CLIENT_OUTPUT_MAX_BYTES {
            self.cut_off(index);
        }
    }

    #[cold]
    fn cut_off(&mut self, index: u32) {
        let session = &self.sessions[index as usize];
        tracing::warn!(client = session.id, "client cut off: it left more than {CLIENT_OUTPUT_MAX_BYTES} bytes unread");
        self.counters.cut_off_total += 1;
        self.effects.push(Effect::Close { session: SessionId { index, generation: session.generation } });
    }

    /// Answers whoever waits for it with an error of the proxy's own.
    pub(super) fn fail(&mut self, waiter: Waiter, text: &str) {
        self.counters.errors_total += 1;
        let mut reply = Vec::with_capacity(text.len() + 3);
        encode::error(&mut reply, text);
        self.deliver(waiter, &reply);
    }

    pub(super) fn fail_all(&mut self, waiters: VecDeque<Waiter>, text: &str) {
        for waiter in waiters {
            self.timed_in_vain(waiter);
            self.fail(waiter, text);
        }
    }
}
