//! The requests that a node has been sent and has not answered, kept for whoever wants to know of a slow one what it was.
//!
//! Of small requests nothing is copied for that as a rule: a buffer that has been written changes places with the one that was written
//! before it, whose requests are answered by then. Of large ones no more is kept than will be shown.

use std::{collections::VecDeque, mem};

use crate::limits::{NODE_BUFFER_KEEP_BYTES, SENT_BYTES_MAX, SENT_CHUNK_BYTES, SENT_LARGE_BYTES, SENT_SMALL_BYTES};

use super::{slow::write_shown, waiter::Waiter};

/// What was written to one connection. Requests are numbered in the order in which they were queued; the numbers wrap.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// What was written last.
    last: Kept,
    /// What was written before and is unanswered in part.
    earlier: VecDeque<Kept>,
    earlier_bytes: usize,
}

/// Requests that follow each other.
#[derive(Debug, Default)]
struct Kept {
    /// Empty if it was too much to keep.
    bytes: Vec<u8>,
    /// The number behind the last of them.
    end: u32,
    /// Where in `bytes` each starts of which only what is shown was kept; it may lack the first ones. Empty if all are whole.
    starts: Vec<u32>,
}

/// A request that was sent.
#[derive(Debug, PartialEq)]
pub(crate) enum Request<'a> {
    /// As it was sent.
    Whole(&'a [u8]),
    /// As the slow log shows it.
    Shown(&'a [u8]),
}

fn is_before(number: u32, end: u32) -> bool {
    end.wrapping_sub(number) as i32 > 0
}

/// The first of requests in a row that end with `bytes`: `len` bytes long, and so many are `behind` it.
pub(super) fn whole(bytes: &[u8], len: usize, behind: usize) -> Option<Request<'_>> {
    let end = bytes.len().checked_sub(behind)?;
    Some(Request::Whole(&bytes[end.checked_sub(len)?..end]))
}

impl Kept {
    fn clear(&mut self) {
        self.bytes.clear();
        self.starts.clear();
    }

    /// The request of this number, `len` bytes long; `waiters` are those who wait for the ones behind it.
    fn request<'a>(&'a self, number: u32, len: usize, waiters: &VecDeque<Waiter>) -> Option<Request<'a>> {
        let behind = self.end.wrapping_sub(number) as usize - 1;
        if self.starts.is_empty() {
            return whole(&self.bytes, len, bytes_of(waiters, 0, behind));
        }
        let at = self.starts.len().checked_sub(behind + 1)?;
        let end = self.starts.get(at + 1).map_or(self.bytes.len(), |next| *next as usize);
        let shown = &self.bytes[self.starts[at] as usize..end];
        (!shown.is_empty()).then_some(Request::Shown(shown))
    }

    /// Takes in what follows, if that is possible. Whole requests are found from the end of their buffer, so they may follow what was not
    /// kept, but not the other way round.
    fn append(&mut self, next: &Kept) -> bool {
        let is_shown = !next.starts.is_empty();
        let may = if next.bytes.is_empty() {
            self.bytes.is_empty()
        } else {
            let lacks_none = !is_shown || next.starts.len() == next.end.wrapping_sub(self.end) as usize;
            is_shown != self.starts.is_empty() && lacks_none && self.bytes.len() + next.bytes.len() <= SENT_CHUNK_BYTES
        };
        if may {
            self.starts.extend(next.starts.iter().map(|start| start + self.bytes.len() as u32));
            self.bytes.extend_from_slice(&next.bytes);
            self.end = next.end;
        }
        may
    }
}

/// How many bytes the requests of `count` waiters have, from the one at `from` on.
pub(super) fn bytes_of(waiters: &VecDeque<Waiter>, from: usize, count: usize) -> usize {
    waiters.iter().skip(from).take(count).map(|waiter| waiter.len as usize).sum()
}

impl Sent {
    /// `out` has been written whole, up to the request before `end`, and leaves as an empty buffer. `answered` is the number of the first
    /// request that is not answered, for which the first of `waiters` waits.
    #[inline]
    pub(super) fn keep(&mut self, out: &mut Vec<u8>, end: u32, answered: u32, waiters: &VecDeque<Waiter>) {
        if is_before(answered, self.last.end) {
            self.set_aside(answered);
        }
        if out.capacity() > SENT_SMALL_BYTES {
            self.keep_of_much(out, end, answered, waiters);
        } else {
            mem::swap(out, &mut self.last.bytes);
            out.clear();
            self.last.starts.clear();
        }
        self.last.end = end;
    }

    /// Likewise of a buffer that may be worth being used again at once.
    #[cold]
    #[inline(never)]
    fn keep_of_much(&mut self, out: &mut Vec<u8>, end: u32, answered: u32, waiters: &VecDeque<Waiter>) {
        self.last.clear();
        let count = end.wrapping_sub(self.last.end) as usize;
        if out.len() > SENT_LARGE_BYTES.saturating_mul(count) {
            self.keep_shown(out, end, answered, waiters);
        } else if out.capacity() <= NODE_BUFFER_KEEP_BYTES {
            mem::swap(out, &mut self.last.bytes);
        }
        if out.capacity() > NODE_BUFFER_KEEP_BYTES {
            *out = Vec::new();
        }
        out.clear();
    }

    /// Keeps of each request that is not answered what would be shown of it.
    fn keep_shown(&mut self, out: &[u8], end: u32, answered: u32, waiters: &VecDeque<Waiter>) {
        let first = if is_before(answered, self.last.end) { self.last.end } else { answered };
        let (from, count) = (first.wrapping_sub(answered) as usize, end.wrapping_sub(first) as usize);
        // What was written long before the rest may not be there any more.
        let mut at = out.len() as isize - bytes_of(waiters, from, count) as isize;
        for waiter in waiters.iter().skip(from).take(count) {
            let next = at + waiter.len as isize;
            if at >= 0 {
                self.last.starts.push(self.last.bytes.len() as u32);
                write_shown(&out[at as usize..next as usize], waiter.skip, &mut self.last.bytes);
            }
            at = next;
        }
    }

    /// Makes room for what was written just now, while what was written before is unanswered.
    #[cold]
    fn set_aside(&mut self, answered: u32) {
        while let Some(kept) = self.earlier.front()
            && !is_before(answered, kept.end)
        {
            self.earlier_bytes -= kept.bytes.len();
            self.earlier.pop_front();
        }
        if self.earlier_bytes + self.last.bytes.len() > SENT_BYTES_MAX {
            self.last.clear();
        }
        self.earlier_bytes += self.last.bytes.len();
        if !self.earlier.back_mut().is_some_and(|kept| kept.append(&self.last)) {
            let Kept { bytes, end, starts } = &self.last;
            self.earlier.push_back(Kept { bytes: bytes.as_slice().into(), end: *end, starts: starts.as_slice().into() });
        }
    }

    /// The request of this number, `len` bytes long, if it was kept; `None` within if it was not, and without for one that was not written
    /// yet. `waiters` are those who wait for the ones behind it.
    pub(super) fn request(&self, number: u32, len: usize, waiters: &VecDeque<Waiter>) -> Option<Option<Request<'_>>> {
        let mut all = self.earlier.iter().chain([&self.last]);
        all.find(|kept| is_before(number, kept.end)).map(|kept| kept.request(number, len, waiters))
    }

    /// Nothing that was sent will be answered; `next` is the number of the next request.
    pub(super) fn forget(&mut self, next: u32) {
        self.last.clear();
        self.last.end = next;
        self.earlier = VecDeque::new();
        self.earlier_bytes = 0;
    }

    /// Bytes of requests that are kept.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.earlier_bytes + self.last.bytes.len()
    }
}
