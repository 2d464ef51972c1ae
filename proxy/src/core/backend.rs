//! One node connection as the core sees it: bytes to write, who waits for the replies, and what has been sent.
//!
//! Replies come in the order of the requests, so a queue of who asked is all that is needed to hand them out. The same queue tells
//! what was sent when the connection is lost: only that decides whether a command may be tried elsewhere.

use std::{collections::VecDeque, sync::Arc};

use vrc_cluster::{contract::Endpoint, resp::ReplyFramer};

use crate::limits::{NODE_BACKLOG_BYTES, NODE_PENDING_MAX, WRITE_SOON_BYTES};

use super::{
    buffers::empty,
    lane::Lane,
    private::Hold,
    script::Noted,
    sent::{Request, Sent, bytes_of, whole},
    tracked::Tracked,
    waiter::Waiter,
};

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
    /// The run id of the process that it was found to lead to when it was opened, if the map named one.
    pub(crate) process: Option<Box<str>>,
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
    /// So many bytes more belong to the reply for the first waiter, who gets it as it comes.
    pub(crate) passing: usize,
    /// When more of a reply that is not whole yet came last, or a part of the output was taken that leaves a rest: the node is at
    /// work, and what it is at takes long only because there is much of it.
    pub(crate) flowed_us: u64,
    /// The scripts that the node was given.
    pub(crate) noted: Noted,
    waiters: VecDeque<Waiter>,
    /// A time before which none of the waiters came that moved here from another node: they may stand behind newer ones. Any time
    /// if there are none.
    moved_since_us: u64,
    /// How many were popped; wraps. The number of the first that waits.
    answered: u32,
    /// Replies of the first waiter that were skipped.
    skipped: u32,
    out: Vec<u8>,
    out_at: usize,
    /// What is to be written behind that, each with the number of its first request.
    behind: VecDeque<(Vec<u8>, u32)>,
    /// The last of all these buffers came with a large request in it, and nothing else is to be moved there.
    is_sealed: bool,
    /// `out` is sealed or has something behind it, which is rare.
    is_chained: bool,
    /// Bytes that the driver has taken out and that are not sent yet.
    in_flight: usize,
    /// The number behind the last request of those.
    in_flight_end: u32,
    sent: Sent,
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
            process: None,
            client_id: None,
            hold: None,
            tracked: None,
            is_stuck: false,
            pinged_ms: 0,
            dirty: false,
            input: Vec::new(),
            framer: ReplyFramer::default(),
            passing: 0,
            flowed_us: 0,
            noted: Noted::default(),
            waiters: VecDeque::new(),
            moved_since_us: u64::MAX,
            answered: 0,
            skipped: 0,
            out: Vec::new(),
            out_at: 0,
            behind: VecDeque::new(),
            is_sealed: false,
            is_chained: false,
            in_flight: 0,
            in_flight_end: 0,
            sent: Sent::default(),
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
        let out = self.out_mut();
        let before = out.len();
        write(out);
        waiter.len = (out.len() - before) as u32;
        self.waiters.push_back(waiter);
    }

    /// As [`Backend::push`], of a request so large that its buffer is kept rather than its bytes moved.
    pub(crate) fn push_whole(&mut self, mut waiter: Waiter, request: Vec<u8>) {
        waiter.len = request.len() as u32;
        if self.out.is_empty() {
            self.out = request;
        } else {
            self.behind.push_back((request, self.next()));
        }
        (self.is_sealed, self.is_chained) = (true, true);
        self.waiters.push_back(waiter);
    }

    /// The output buffer and, once whole requests were appended to it in turn, [`Backend::note`] for each.
    #[inline]
    pub(crate) fn out_mut(&mut self) -> &mut Vec<u8> {
        if self.is_chained { self.last_mut() } else { &mut self.out }
    }

    #[cold]
    fn last_mut(&mut self) -> &mut Vec<u8> {
        if self.is_sealed {
            self.is_sealed = false;
            self.behind.push_back((Vec::new(), self.next()));
        }
        self.behind.back_mut().map_or(&mut self.out, |(buffer, _)| buffer)
    }

    /// Notes who waits for the request that was just appended.
    #[inline]
    pub(crate) fn note(&mut self, waiter: Waiter) {
        self.waiters.push_back(waiter);
    }

    /// A waiter that came at `since_us` is about to be queued out of turn.
    pub(crate) fn expect_moved(&mut self, since_us: u64) {
        self.moved_since_us = self.moved_since_us.min(since_us);
    }

    /// Whether somebody waits who came before `deadline_ms`.
    pub(crate) fn is_overdue(&mut self, deadline_ms: u64) -> bool {
        let deadline_us = deadline_ms.saturating_mul(1000);
        if self.moved_since_us < deadline_us {
            // Whoever moved here may have been answered since; only looking at all tells.
            self.moved_since_us = self.waiters.iter().map(|waiter| waiter.since_us).min().unwrap_or(u64::MAX);
        }
        self.front().map_or(u64::MAX, |first| first.since_us).min(self.moved_since_us) < deadline_us
    }

    /// Whether somebody waits who came before `deadline_ms`, and nothing large has been on its way since. Those who came before
    /// `excused_from_ms` are not excused by that.
    pub(crate) fn has_timed_out(&mut self, deadline_ms: u64, excused_from_ms: u64) -> bool {
        let flows = self.state == State::Up && self.flowed_us >= deadline_ms.saturating_mul(1000);
        self.is_overdue(if flows { deadline_ms.min(excused_from_ms) } else { deadline_ms })
    }

    /// Whether a part of the output has been written, and the rest has not.
    #[inline]
    pub(crate) fn is_partly_written(&self) -> bool {
        self.out_at > 0
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
        let waiter = self.waiters.pop_front();
        self.answered = self.answered.wrapping_add(u32::from(waiter.is_some()));
        waiter
    }

    /// The request whose waiter was popped last, if it was kept.
    pub(crate) fn request_of(&self, popped: &Waiter) -> Option<Request<'_>> {
        let len = popped.len as usize;
        self.sent.request(self.answered.wrapping_sub(1), len, &self.waiters).unwrap_or_else(|| {
            let behind = self.end_of_out().wrapping_sub(self.answered) as usize;
            whole(&self.out, len, bytes_of(&self.waiters, 0, behind))
        })
    }

    /// The number of the next request.
    #[inline]
    fn next(&self) -> u32 {
        self.answered.wrapping_add(self.waiters.len() as u32)
    }

    /// The number behind the last request in `out`.
    #[inline]
    fn end_of_out(&self) -> u32 {
        if self.is_chained { self.behind.front().map_or_else(|| self.next(), |(_, first)| *first) } else { self.next() }
    }

    #[inline]
    pub(crate) fn front(&self) -> Option<&Waiter> {
        self.waiters.front()
    }

    pub(crate) fn pending(&self) -> usize {
        self.waiters.len()
    }

    #[inline]
    fn unwritten_bytes(&self) -> usize {
        let behind = if self.is_chained { self.behind.iter().map(|(buffer, _)| buffer.len()).sum() } else { 0 };
        self.out.len() - self.out_at + behind
    }

    #[inline]
    fn backlog_bytes(&self) -> usize {
        self.unwritten_bytes() + self.in_flight
    }

    /// Whether replies are for clients that share it, and of no interest to anybody else.
    #[inline]
    pub(crate) fn is_shared_plainly(&self) -> bool {
        self.hold.is_none() && self.tracked.is_none()
    }

    /// Whether the next reply begins with the next byte, and is nothing but the answer to who waits for it.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.is_shared_plainly() && self.framer.is_fresh()
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

    /// What is to be written next: nothing unless connected. More may come behind it.
    #[inline]
    pub(crate) fn output(&self) -> &[u8] {
        match self.state {
            State::Up | State::Retired { .. } => &self.out[self.out_at..],
            State::Idle | State::Connecting | State::Free => &[],
        }
    }

    /// Whether what is to be written had better be before more comes.
    pub(crate) fn has_much_output(&self) -> bool {
        self.unwritten_bytes() >= WRITE_SOON_BYTES
    }

    /// Takes the output out, to be sent elsewhere: a buffer, and where in it the output starts. `next` goes on collecting. What was
    /// taken counts as sent.
    pub(crate) fn take_output(&mut self, next: Vec<u8>) -> (Vec<u8>, usize) {
        let at = std::mem::take(&mut self.out_at);
        self.in_flight_end = self.end_of_out();
        let taken = std::mem::replace(&mut self.out, next);
        self.in_flight = taken.len() - at;
        self.go_on_behind();
        (taken, at)
    }

    /// What was taken out has been sent: this buffer. Leaves it empty.
    pub(crate) fn sent(&mut self, buffer: &mut Vec<u8>) {
        self.in_flight = 0;
        self.sent.keep(buffer, self.in_flight_end, self.answered, &self.waiters);
    }

    /// `len` bytes of the output have been written.
    #[inline]
    pub(crate) fn written(&mut self, len: usize) {
        self.out_at += len;
        if self.out_at == self.out.len() {
            if len > 0 {
                let end = self.end_of_out();
                self.sent.keep(&mut self.out, end, self.answered, &self.waiters);
            }
            self.out_at = 0;
            self.go_on_behind();
        } else if !self.is_chained && self.out_at > NODE_BACKLOG_BYTES / 4 && self.out_at > self.out.len() / 2 {
            // No more bytes are moved than were written, so that a large value is not moved again and again.
            self.out.drain(..self.out_at);
            self.out_at = 0;
        }
    }

    /// `out` is empty: what comes behind it takes its place.
    #[inline]
    fn go_on_behind(&mut self) {
        if self.is_chained {
            match self.behind.pop_front() {
                Some((buffer, _)) => self.out = buffer,
                None => self.is_sealed = false,
            }
            self.is_chained = self.is_sealed || !self.behind.is_empty();
        }
    }

    /// Takes back the requests of which no byte was written, in order, each with its waiter.
    pub(crate) fn take_unsent(&mut self) -> Unsent {
        // Scripts may be among them.
        self.noted.tear_up();
        let mut bytes = self.unwritten_bytes();
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
        let mut requests = self.out.split_off(self.out_at + bytes);
        self.behind.drain(..).for_each(|(buffer, _)| requests.extend_from_slice(&buffer));
        (self.is_sealed, self.is_chained) = (false, false);
        Unsent { waiters, requests }
    }

    /// Whether something may be queued that relies on scripts which the node was given over this connection.
    pub(crate) fn relies_on_scripts(&self) -> bool {
        !self.noted.is_empty()
    }

    /// Whether it is not known yet to be what its lane says.
    pub(crate) fn is_setting_up(&self) -> bool {
        self.waiters.iter().any(Waiter::sets_up)
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
        self.sent.forget(self.answered);
        empty(&mut self.input);
        self.framer = ReplyFramer::default();
        self.passing = 0;
        self.put_unsent(unsent);
        lost
    }

    /// Gives up everybody who waits, sent or not.
    pub(crate) fn take_waiters(&mut self) -> VecDeque<Waiter> {
        self.noted.tear_up();
        self.skipped = 0;
        empty(&mut self.out);
        self.out_at = 0;
        self.behind = VecDeque::new();
        (self.is_sealed, self.is_chained) = (false, false);
        self.in_flight = 0;
        self.sent.forget(self.answered);
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
            if waiter.since_us < deadline_ms.saturating_mul(1000) {
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
    use vrc_cluster::{
        command::CommandId,
        resp::{Proto, encode},
    };

    use super::{
        super::{session::SessionId, slow::write_shown},
        *,
    };
    use crate::limits::{NODE_BUFFER_KEEP_BYTES, SENT_BYTES_MAX};

    fn backend() -> Backend {
        let mut backend = Backend::new("n".into(), Endpoint::new("127.0.0.1", 1), Lane::new(Proto::Resp2, 0, false));
        backend.state = State::Up;
        for (sequence, request) in ["aaaa", "bbb", "cc"].into_iter().enumerate() {
            let waiter = Waiter::new(SessionId { index: 0, generation: 0 }, sequence as u32, CommandId::NONE, 0);
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
    fn a_request_is_known_until_it_is_answered_however_it_was_written() {
        let request = |number: usize, len: usize| {
            let mut bytes = Vec::new();
            encode::request(&mut bytes, &["SET", &number.to_string(), &".".repeat(len)]);
            bytes
        };
        // How many requests are queued, how many are written and a part of the next (all if none are given), and how many are answered, in
        // turn.
        let steps: [(usize, Option<usize>, usize); 9] = [
            (1, None, 1),
            (3, None, 1),
            (2, None, 0),
            (4, Some(0), 0),
            (0, None, 6),
            (5, Some(2), 4),
            (0, Some(0), 0),
            (0, None, 0),
            (1, None, 4),
        ];
        let large_len = 2 * NODE_BUFFER_KEEP_BYTES;
        for large in [None, Some(4), Some(11)] {
            let len_of = |number: usize| match number % 40 {
                at if large.is_some_and(|large| (large..large + 8).contains(&at)) => [large_len, 4_000][at % 2],
                at => at % 7,
            };
            let mut backend = Backend::new("n".into(), Endpoint::new("127.0.0.1", 1), Lane::new(Proto::Resp2, 0, false));
            backend.state = State::Up;
            let (mut queued, mut answered) = (0, 0);
            // Where each request ends in all that is written.
            let (mut ends, mut bytes_written) = (Vec::new(), 0);
            for _ in 0..50 {
                for (count, written, pops) in steps {
                    for _ in 0..count {
                        let bytes = request(queued, len_of(queued));
                        ends.push(ends.last().unwrap_or(&0) + bytes.len());
                        if bytes.len() > large_len {
                            backend.push_whole(Waiter::nobody(0), bytes);
                        } else {
                            backend.push(Waiter::nobody(0), |out| out.extend(bytes));
                        }
                        queued += 1;
                    }
                    let whole = ends.iter().take_while(|end| **end <= bytes_written).count();
                    let upto = written.map_or(queued, |count| whole + count);
                    let until = upto.checked_sub(1).map_or(0, |last| ends[last]) + if upto < queued { 5 } else { 0 };
                    while bytes_written < until {
                        let len = backend.output().len().min(until - bytes_written);
                        backend.written(len);
                        bytes_written += len;
                    }
                    for _ in 0..pops {
                        let waiter = backend.pop().unwrap();
                        let sent = request(answered, len_of(answered));
                        let mut expect = Vec::new();
                        write_shown(&sent, 0, &mut expect);
                        match backend.request_of(&waiter) {
                            Some(Request::Whole(bytes)) => assert_eq!(bytes, sent, "{answered}"),
                            Some(Request::Shown(shown)) => assert_eq!(shown, expect, "{answered}"),
                            None => panic!("{answered}"),
                        }
                        answered += 1;
                    }
                }
            }
            assert!(answered > 700 && backend.pending() == 0, "{answered} of {queued}");
        }
    }

    #[test]
    fn requests_to_a_node_that_does_not_answer_are_kept_only_up_to_a_bound() {
        let mut backend = backend();
        for _ in 0..2 * SENT_BYTES_MAX / 1000 {
            backend.push(Waiter::nobody(0), |out| out.resize(1000, b'x'));
            backend.written(backend.output().len());
            assert!(backend.sent.bytes() <= SENT_BYTES_MAX + 1000);
        }
        assert!(backend.sent.bytes() > SENT_BYTES_MAX / 2);
        let first = backend.pop().unwrap();
        assert_eq!(backend.request_of(&first), Some(Request::Whole(b"aaaa")));
        while let Some(waiter) = backend.pop() {
            let is_whole = |request| matches!(request, Request::Whole(bytes) if bytes.len() == waiter.len as usize);
            assert!(backend.request_of(&waiter).is_none_or(is_whole));
        }
    }

    #[test]
    fn of_large_requests_to_a_node_that_does_not_answer_next_to_nothing_is_kept() {
        let mut backend = backend();
        for number in 0..1_000 {
            for _ in 0..3 {
                let value = "x".repeat(10 * 1024);
                backend.push(Waiter::nobody(0), |out| encode::request(out, &["SET", &number.to_string(), &value]));
            }
            backend.written(backend.output().len());
            assert!(backend.out.capacity() <= NODE_BUFFER_KEEP_BYTES && backend.sent.bytes() <= (number + 1) * 3 * 256);
        }
        for name in ["aaaa", "bbb", "cc"] {
            let waiter = backend.pop().unwrap();
            assert_eq!(backend.request_of(&waiter), None, "{name} is no request that could be shown");
        }
        for number in (0..1_000).flat_map(|number| [number; 3]) {
            let waiter = backend.pop().unwrap();
            let Some(Request::Shown(shown)) = backend.request_of(&waiter) else { panic!("{number} is not known") };
            let start = format!("*3\r\n$3\r\nSET\r\n${}\r\n{number}\r\n", number.to_string().len());
            assert!(shown.starts_with(start.as_bytes()) && shown.ends_with(b"x... (10112 more bytes)\r\n"), "{number}");
        }
    }
}
