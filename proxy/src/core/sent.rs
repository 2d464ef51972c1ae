//! The requests that a node has been sent and has not answered, kept for whoever wants to know of a slow one what it was.
//!
//! Nothing is copied for that as a rule: a buffer that has been written changes places with the one that was written before it, whose
//! requests are answered by then.

use std::{collections::VecDeque, mem};

use crate::limits::{NODE_BUFFER_KEEP_BYTES, SENT_BYTES_MAX, SENT_CHUNK_BYTES};

/// What was written to one connection. Requests are numbered in the order in which they were queued; the numbers wrap.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// What was written last, and the number behind its last request. Empty if it was too much to keep.
    last: Vec<u8>,
    last_end: u32,
    /// What was written before and is unanswered in part, likewise.
    earlier: VecDeque<(Vec<u8>, u32)>,
    earlier_bytes: usize,
}

fn is_before(number: u32, end: u32) -> bool {
    end.wrapping_sub(number) as i32 > 0
}

impl Sent {
    /// `out` has been written whole, up to the request before `end`, and leaves as an empty buffer. `answered` is the number of the first
    /// request that is not answered.
    #[inline]
    pub(super) fn keep(&mut self, out: &mut Vec<u8>, end: u32, answered: u32) {
        if is_before(answered, self.last_end) {
            self.set_aside(answered);
        }
        if out.capacity() > NODE_BUFFER_KEEP_BYTES {
            *out = Vec::new();
            self.last.clear();
        } else {
            mem::swap(out, &mut self.last);
            out.clear();
        }
        self.last_end = end;
    }

    /// Makes room for what was written just now, while what was written before is unanswered.
    #[cold]
    fn set_aside(&mut self, answered: u32) {
        while let Some((bytes, end)) = self.earlier.front()
            && !is_before(answered, *end)
        {
            self.earlier_bytes -= bytes.len();
            self.earlier.pop_front();
        }
        if self.earlier_bytes + self.last.len() > SENT_BYTES_MAX {
            self.last.clear();
        }
        self.earlier_bytes += self.last.len();
        match self.earlier.back_mut() {
            // Requests are found from the end of their buffer, so one may follow what was not kept, but not the other way round.
            Some((bytes, end)) if !self.last.is_empty() && bytes.len() + self.last.len() <= SENT_CHUNK_BYTES => {
                bytes.extend_from_slice(&self.last);
                *end = self.last_end;
            }
            Some((bytes, end)) if self.last.is_empty() && bytes.is_empty() => *end = self.last_end,
            _ => self.earlier.push_back((self.last.as_slice().into(), self.last_end)),
        }
    }

    /// The buffer that holds the request of this number, if it was kept, and the number behind its last; `None` for one that was not
    /// written yet.
    pub(super) fn buffer_of(&self, number: u32) -> Option<(&[u8], u32)> {
        let mut buffers = self.earlier.iter().map(|(bytes, end)| (&**bytes, *end)).chain([(&*self.last, self.last_end)]);
        buffers.find(|(_, end)| is_before(number, *end))
    }

    /// Nothing that was sent will be answered; `next` is the number of the next request.
    pub(super) fn forget(&mut self, next: u32) {
        self.last.clear();
        self.last_end = next;
        self.earlier = VecDeque::new();
        self.earlier_bytes = 0;
    }

    /// Bytes of requests that are kept.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.earlier_bytes + self.last.len()
    }
}
