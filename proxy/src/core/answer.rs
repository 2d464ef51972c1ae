//! Answers, on their way to the sessions that wait for them.

use std::collections::VecDeque;

use vrc_cluster::resp::encode;

use super::{
    Core, Effect,
    backend::Waiter,
    session::{SessionId, Slot},
};
use crate::limits::{CLIENT_OUTPUT_MAX_BYTES, KEEP_BYTES};

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
        if self.is_open(id) && matches!(self.sessions[id.index as usize].slot(sequence), Some(Slot::Waiting | Slot::Muted)) {
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
            return;
        }
        if reply.len() > KEEP_BYTES {
            session.borrow_output(reply.len(), &mut self.spare);
        }
        if !session.answer_waiting(waiter.sequence, reply) {
            match session.slot(waiter.sequence) {
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
        if session.generation == waiter.generation && session.slot(waiter.sequence) == Some(Slot::Waiting) {
            session.answer_owned(waiter.sequence, reply);
            self.answered(waiter.session);
        } else {
            self.deliver(waiter, &reply);
        }
    }

    pub(super) fn deliver_part(&mut self, waiter: Waiter, join: u32, reply: &[u8]) {
        let gathered = &mut self.joins[join as usize];
        if gathered.add(waiter.part, reply) {
            self.sessions[waiter.session as usize].answer(waiter.sequence, |out| gathered.finish(out));
            self.free_joins.push(join);
        }
    }

    #[inline(always)]
    pub(super) fn answered(&mut self, index: u32) {
        self.mark_session(index);
        let session = &self.sessions[index as usize];
        if session.unread_bytes() > CLIENT_OUTPUT_MAX_BYTES {
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
