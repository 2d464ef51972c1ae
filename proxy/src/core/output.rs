//! What the driver takes out of the core: bytes to be written, and [`Effect`]s.

use super::{Core, Effect, buffers, session::SessionId};
use crate::limits::{SPARE_BUFFERS_MAX, SPARE_FOR_NODES_MAX, WRITE_LOOK_BYTES};

/// Whom a worker waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Awaited {
    Node,
    Client,
}

impl Core {
    /// Takes the list of backends that have output; give it back emptied to [`Core::reuse_dirty_backends`].
    pub(crate) fn take_dirty_backends(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.dirty_backends)
    }

    pub(crate) fn reuse_dirty_backends(&mut self, mut list: Vec<u32>) {
        list.clear();
        if self.dirty_backends.is_empty() {
            self.dirty_backends = list;
        }
    }

    /// Whether so much has come from clients since it last had that it is worth asking [`Core::take_much_output`].
    #[inline]
    pub(crate) fn has_heard_much(&mut self) -> bool {
        let has = self.counters.bytes_in - self.much_heard_at >= WRITE_LOOK_BYTES as u64;
        if has {
            self.much_heard_at = self.counters.bytes_in;
        }
        has
    }

    /// Takes those off that list that have much.
    pub(crate) fn take_much_output(&mut self) -> Vec<u32> {
        let backends = &self.backends;
        self.dirty_backends.extract_if(.., |index| backends[*index as usize].has_much_output()).collect()
    }

    pub(crate) fn take_dirty_sessions(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.dirty_sessions)
    }

    pub(crate) fn reuse_dirty_sessions(&mut self, mut list: Vec<u32>) {
        list.clear();
        if self.dirty_sessions.is_empty() {
            self.dirty_sessions = list;
        }
    }

    pub(crate) fn has_dirty(&self) -> bool {
        !self.dirty_backends.is_empty() || !self.dirty_sessions.is_empty() || !self.effects.is_empty() || self.has_lines()
    }

    /// Who is to say something once what there is is written; none if nobody is written to.
    pub(crate) fn awaited(&self) -> Option<Awaited> {
        if !self.dirty_backends.is_empty() {
            return Some(Awaited::Node);
        }
        (!self.dirty_sessions.is_empty()).then_some(Awaited::Client)
    }

    pub(crate) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// What is to be written to a backend.
    #[inline]
    pub(crate) fn backend_output(&mut self, index: u32) -> &[u8] {
        let backend = &mut self.backends[index as usize];
        backend.dirty = false;
        backend.output()
    }

    #[inline]
    pub(crate) fn backend_written(&mut self, index: u32, len: usize) {
        let backend = &mut self.backends[index as usize];
        backend.written(len);
        if len > 0 && backend.is_partly_written() {
            backend.flowed_us = self.now_us;
        }
    }

    /// A part of what was taken has been sent.
    pub(crate) fn backend_sent_part(&mut self, index: u32) {
        self.backends[index as usize].flowed_us = self.now_us;
    }

    pub(crate) fn backend_incarnation(&self, index: u32) -> u32 {
        self.backends[index as usize].incarnation
    }

    /// What is to be written to a session's client: nothing while it waits for the rest of a batch.
    #[inline]
    pub(crate) fn session_output(&mut self, index: u32) -> &[u8] {
        let session = &mut self.sessions[index as usize];
        session.dirty = false;
        if session.replies.gathers() {
            if !session.gathering {
                session.gathering = true;
                self.gathering.push(SessionId { index, generation: session.generation });
            }
            return &[];
        }
        session.replies.output()
    }

    /// Whether output waits for the rest of its batch; if so, [`Core::end_gathering`] is to be called after [`GATHER_MS`].
    ///
    /// [`GATHER_MS`]: crate::limits::GATHER_MS
    pub(crate) fn is_gathering(&self) -> bool {
        !self.gathering.is_empty()
    }

    /// Has everything written that waits for the rest of a batch.
    pub(crate) fn end_gathering(&mut self) {
        let mut list = std::mem::take(&mut self.gathering);
        for id in list.drain(..) {
            let session = &mut self.sessions[id.index as usize];
            if session.generation == id.generation {
                session.gathering = false;
                if session.replies.gathers() {
                    session.replies.end_batch();
                    self.mark_session(id.index);
                }
            }
        }
        self.gathering = list;
    }

    /// `len` bytes were written. If that was all that a closing session had to get, its connection is to be closed.
    #[inline]
    pub(crate) fn session_written(&mut self, index: u32, len: usize) {
        self.counters.bytes_out += len as u64;
        let session = &mut self.sessions[index as usize];
        session.replies.written(len);
        if session.is_done() && session.open {
            self.effects.push(Effect::Close { session: SessionId { index, generation: session.generation } });
        }
        session.replies.return_buffers(&mut self.spare);
        session.trim();
    }

    // ---- For a driver that sends from buffers of its own ----

    /// Takes what is to be sent to a backend, and where in the buffer it starts; `None` if nothing. [`Core::backend_sent`] comes before
    /// the next time.
    pub(crate) fn take_backend_output(&mut self, index: u32) -> Option<(Vec<u8>, usize)> {
        let backend = &mut self.backends[index as usize];
        backend.dirty = false;
        (!backend.output().is_empty()).then(|| backend.take_output(self.spare_for_backends.pop().unwrap_or_default()))
    }

    /// What was taken has been sent.
    pub(crate) fn backend_sent(&mut self, index: u32, mut buffer: Vec<u8>) {
        let backend = &mut self.backends[index as usize];
        backend.sent(&mut buffer);
        buffers::give_back(buffer, &mut self.spare_for_backends, SPARE_FOR_NODES_MAX);
        if !backend.output().is_empty() {
            self.mark_backend(index);
        }
    }

    /// As [`Core::take_backend_output`], for a session's client.
    pub(crate) fn take_session_output(&mut self, index: u32) -> Option<(Vec<u8>, usize)> {
        if self.session_output(index).is_empty() {
            return None;
        }
        let next = self.spare.pop().unwrap_or_default();
        Some(self.sessions[index as usize].replies.take_output(next))
    }

    /// As [`Core::take_session_output`] for a session that is to be closed, which waits for nothing more.
    pub(crate) fn take_last_output(&mut self, index: u32) -> Option<(Vec<u8>, usize)> {
        self.sessions[index as usize].replies.end_batch();
        self.take_session_output(index)
    }

    /// What was taken has been sent: `len` bytes. If that was all that a closing session had to get, its connection is to be closed.
    pub(crate) fn session_sent(&mut self, index: u32, buffer: Vec<u8>, len: usize) {
        self.counters.bytes_out += len as u64;
        buffers::give_back(buffer, &mut self.spare, SPARE_BUFFERS_MAX);
        let session = &mut self.sessions[index as usize];
        session.replies.sent();
        if session.replies.output().is_empty() {
            self.session_written(index, 0);
        } else {
            self.mark_session(index);
        }
    }
}
