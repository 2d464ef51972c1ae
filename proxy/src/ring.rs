//! An io_uring with a pool of buffers to receive into: the unsafe part of it, behind a safe face.
//!
//! A receive is armed once and then goes on by itself (multishot), each time into a buffer that the kernel takes from the pool. What
//! is sent is owned by the ring until the kernel has done with it. So no memory that the kernel may still touch is ever anybody
//! else's, whatever the caller does; if the ring goes while something is under way, its memory stays.

#![allow(unsafe_code)]

use std::{
    alloc::{Layout, alloc_zeroed},
    io,
    mem::ManuallyDrop,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU16, Ordering::Release},
};

use io_uring::{
    IoUring, cqueue, opcode, squeue,
    types::{BufRingEntry, Fd},
};

/// Submissions that wait for the next system call; more of them make one at once.
const SUBMISSIONS: u32 = 1024;
/// Completions that fit; the kernel keeps more than that for later.
const COMPLETIONS: u32 = 4096;
/// Buffers that the pool may have, a power of two, and the size of each in bytes.
const BUFFERS: u16 = 256;
const BUFFER_BYTES: usize = 16 * 1024;
/// So many it has to begin with, and so many more whenever the kernel has found none. As it takes them in turn, all that are there are
/// written to sooner or later, and take memory from then on.
const BUFFERS_STEP: u16 = 32;
const _: () = assert!(BUFFERS.is_power_of_two() && BUFFERS.is_multiple_of(BUFFERS_STEP));
/// Most bytes of one send.
const SEND_BYTES_MAX: usize = 256 * 1024;
/// The only group of buffers.
const GROUP: u16 = 0;
/// The pool's ring of buffers has to stand at a page's start.
const PAGE_BYTES: usize = 4096;

/// What the upper two bits of a completion's mark say.
const RECEIVE: u64 = 0;
const SEND: u64 = 1 << 62;
const NOTHING: u64 = 2 << 62;
const TOKEN: u64 = !(3 << 62);

/// What a completion is about, in the caller's terms: 62 bits.
pub(crate) type Token = u64;

/// Something has happened.
#[derive(Debug)]
pub(crate) enum Completion {
    /// Bytes came; give the buffer back by [`Ring::recycle`]. `more` says whether the receive goes on.
    Received { token: Token, received: Received, more: bool },
    /// The receive is over: at the end of what the other side sends, or by an error.
    Ended { token: Token, result: io::Result<()> },
    /// What was sent, from `at` on: so many bytes of it, or none and why.
    Sent { token: Token, bytes: Vec<u8>, at: usize, result: io::Result<usize> },
}

/// Bytes in a buffer of the pool.
#[derive(Debug)]
pub(crate) struct Received {
    buffer: u16,
    len: usize,
}

struct Sending {
    token: Token,
    bytes: Vec<u8>,
    at: usize,
}

/// See the module.
pub(crate) struct Ring {
    uring: ManuallyDrop<IoUring>,
    pool: ManuallyDrop<Pool>,
    sending: ManuallyDrop<Vec<Option<Sending>>>,
    free: Vec<u32>,
    /// The pool has grown since the kernel was last called.
    has_grown: bool,
}

impl Ring {
    /// Sets one up, for this thread alone.
    ///
    /// # Errors
    /// If the kernel has no io_uring, does not allow it, or its io_uring lacks what is used here (Linux 6.1 has all).
    pub(crate) fn new() -> io::Result<Self> {
        let uring = IoUring::builder()
            .setup_cqsize(COMPLETIONS)
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .build(SUBMISSIONS)?;
        let pool = Pool::new();
        // SAFETY: the pool's ring is BUFFERS entries long, at a page's start, and stays for as long as the io_uring may use it.
        unsafe { uring.submitter().register_buf_ring_with_flags(pool.entries.as_ptr() as u64, BUFFERS, GROUP, 0)? };
        Ok(Ring {
            uring: ManuallyDrop::new(uring),
            pool: ManuallyDrop::new(pool),
            sending: ManuallyDrop::new(Vec::new()),
            free: Vec::new(),
            has_grown: false,
        })
    }

    /// Receives from a socket from the next [`Ring::submit`] on, until the end, an error, or [`Ring::stop_receiving`].
    pub(crate) fn receive(&mut self, socket: impl AsFd, token: Token) {
        debug_assert_eq!(token & !TOKEN, 0);
        let entry = opcode::RecvMulti::new(Fd(socket.as_fd().as_raw_fd()), GROUP).build().user_data(RECEIVE | token);
        self.push(entry);
    }

    /// Ends a receive; bytes may still come before it has.
    pub(crate) fn stop_receiving(&mut self, token: Token) {
        self.push(opcode::AsyncCancel::new(RECEIVE | token).build().user_data(NOTHING));
    }

    /// Sends `bytes` from `at` on. No two at a time for one socket.
    pub(crate) fn send(&mut self, socket: impl AsFd, bytes: Vec<u8>, at: usize, token: Token) {
        debug_assert_eq!(token & !TOKEN, 0);
        let part = &bytes[at..];
        // In pieces, so that it shows whether what is large goes on; a short send is told as such.
        let (start, len) = (part.as_ptr(), part.len().min(SEND_BYTES_MAX) as u32);
        let sending = Sending { token, bytes, at };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.sending[slot as usize] = Some(sending);
                slot
            }
            None => {
                self.sending.push(Some(sending));
                (self.sending.len() - 1) as u32
            }
        };
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let entry = opcode::Send::new(Fd(socket.as_fd().as_raw_fd()), start, len).flags(flags).build();
        self.push(entry.user_data(SEND | u64::from(slot)));
    }

    fn push(&mut self, entry: squeue::Entry) {
        loop {
            // SAFETY: a receive goes into the pool, what is sent is owned by `sending`; both outlive the io_uring.
            if unsafe { self.uring.submission().push(&entry) }.is_ok() {
                return;
            }
            if self.submit().is_err() {
                std::thread::yield_now();
            }
        }
    }

    /// Hands the kernel what was asked for, and lets it do what it has put off. To be called before a socket is closed that
    /// something was asked for.
    ///
    /// # Errors
    /// As the system call; interrupted or short of memory, it may be tried again.
    pub(crate) fn submit(&mut self) -> io::Result<()> {
        let submission = self.uring.submission();
        if submission.is_empty() && !submission.taskrun() && !submission.cq_overflow() {
            return Ok(());
        }
        drop(submission);
        self.has_grown = false;
        self.uring.submit().map(drop)
    }

    /// Whether [`Ring::next`] has something, or [`Ring::submit`] would bring it.
    pub(crate) fn has_more(&mut self) -> bool {
        let submission = self.uring.submission();
        let put_off = submission.taskrun() || submission.cq_overflow();
        drop(submission);
        put_off || !self.uring.completion().is_empty()
    }

    /// What has happened next.
    pub(crate) fn next(&mut self) -> Option<Completion> {
        loop {
            let entry = self.uring.completion().next()?;
            let mark = entry.user_data();
            match mark & !TOKEN {
                RECEIVE => return Some(self.received(mark & TOKEN, &entry)),
                SEND => {
                    let slot = mark & TOKEN;
                    let Some(Sending { token, bytes, at }) = self.sending[slot as usize].take() else { continue };
                    self.free.push(slot as u32);
                    return Some(Completion::Sent { token, bytes, at, result: result(entry.result()) });
                }
                _ => {}
            }
        }
    }

    fn received(&mut self, token: Token, entry: &cqueue::Entry) -> Completion {
        match (cqueue::buffer_select(entry.flags()), result(entry.result())) {
            (Some(buffer), Ok(len @ 1..)) => {
                let more = cqueue::more(entry.flags());
                Completion::Received { token, received: Received { buffer, len }, more }
            }
            (buffer, result) => {
                if let Some(buffer) = buffer {
                    self.pool.put(buffer);
                }
                // Others found none at the same time, as a rule: that is one reason, not many.
                if entry.result() == -libc::ENOBUFS && !std::mem::replace(&mut self.has_grown, true) {
                    self.pool.grow();
                }
                Completion::Ended { token, result: result.map(drop) }
            }
        }
    }

    /// The bytes that came.
    pub(crate) fn bytes(&self, received: &Received) -> &[u8] {
        &self.pool.buffer(received.buffer)[..received.len]
    }

    /// Gives a buffer back to the pool.
    pub(crate) fn recycle(&mut self, received: Received) {
        self.pool.put(received.buffer);
    }
}

/// Readable whenever there is something for [`Ring::next`].
impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: open for as long as the io_uring is.
        unsafe { BorrowedFd::borrow_raw(self.uring.as_raw_fd()) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: dropped here and nowhere else. The kernel may go on with what is under way after its file is closed, so that memory
        // is left to it.
        unsafe { ManuallyDrop::drop(&mut self.uring) };
    }
}

fn result(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

/// Buffers that the kernel receives into, and the ring in which it finds those that are free.
struct Pool {
    entries: NonNull<BufRingEntry>,
    bytes: NonNull<u8>,
    tail: u16,
    /// How many of the buffers are in use.
    used: u16,
}

impl Pool {
    fn new() -> Self {
        let zeroed = |len: usize| {
            let layout = Layout::from_size_align(len, PAGE_BYTES).expect("a small size, and a power of two");
            // SAFETY: the size is not zero.
            NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| std::alloc::handle_alloc_error(layout))
        };
        let entries = zeroed(usize::from(BUFFERS) * size_of::<BufRingEntry>()).cast();
        let mut pool = Pool { entries, bytes: zeroed(usize::from(BUFFERS) * BUFFER_BYTES), tail: 0, used: 0 };
        pool.grow();
        pool
    }

    /// Takes some more buffers into use, if there are any.
    fn grow(&mut self) {
        let end = (self.used + BUFFERS_STEP).min(BUFFERS);
        (self.used..end).for_each(|buffer| self.put(buffer));
        self.used = end;
    }

    fn buffer(&self, buffer: u16) -> &[u8] {
        assert!(buffer < BUFFERS);
        // SAFETY: within the allocation, which starts out zeroed. The kernel does not write to it between the completion that named the
        // buffer and `put`, and a `Received` is the only one to name it then.
        unsafe { std::slice::from_raw_parts(self.bytes.as_ptr().add(usize::from(buffer) * BUFFER_BYTES), BUFFER_BYTES) }
    }

    /// Puts a buffer among the free ones.
    fn put(&mut self, buffer: u16) {
        assert!(buffer < BUFFERS);
        // SAFETY: the entry lies within the ring; the kernel reads it only once the tail has passed it, which is stored behind it.
        unsafe {
            let entry = self.entries.as_ptr().add(usize::from(self.tail & (BUFFERS - 1)));
            (*entry).set_addr(self.bytes.as_ptr().add(usize::from(buffer) * BUFFER_BYTES) as u64);
            (*entry).set_len(BUFFER_BYTES as u32);
            (*entry).set_bid(buffer);
            self.tail = self.tail.wrapping_add(1);
            let tail = BufRingEntry::tail(self.entries.as_ptr()).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::net::UnixStream};

    use super::*;

    /// Receives from 100 sockets that all have something, for as long as it takes to hear of all; buffers are given back at once, or not
    /// at all. Returns how many the pool had in the end.
    fn receive_at_once(recycles: bool) -> Option<u16> {
        let mut ring = Ring::new().ok()?;
        let pairs: Vec<_> = (0..100).map(|_| UnixStream::pair().unwrap()).collect();
        for (number, (said, heard)) in pairs.iter().enumerate() {
            (&*said).write_all(&[number as u8]).unwrap();
            ring.receive(heard, number as Token);
        }
        assert_eq!(ring.pool.used, BUFFERS_STEP);
        let mut got = vec![];
        while got.len() < pairs.len() {
            ring.submit().unwrap();
            while let Some(completion) = ring.next() {
                match completion {
                    Completion::Received { token, received, .. } => {
                        assert_eq!(ring.bytes(&received), [token as u8]);
                        got.push(token);
                        if recycles {
                            ring.recycle(received);
                        }
                    }
                    Completion::Ended { token, result } => {
                        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::ENOBUFS));
                        ring.receive(&pairs[token as usize].1, token);
                    }
                    Completion::Sent { .. } => panic!("nothing was sent"),
                }
            }
        }
        got.sort_unstable();
        assert!(got.into_iter().eq(0..pairs.len() as Token));
        Some(ring.pool.used)
    }

    #[test]
    fn where_more_comes_at_once_than_there_are_buffers_there_are_more_of_them() {
        let Some(used) = receive_at_once(false) else { return println!("left out: the kernel allows no io_uring here") };
        assert_eq!(used, 4 * BUFFERS_STEP, "one for each socket");
        // 32 are heard of at first; then those 32 buffers, which are free again, and 32 more take all but four.
        let used = receive_at_once(true).unwrap();
        assert_eq!(used, 3 * BUFFERS_STEP);
    }
}
