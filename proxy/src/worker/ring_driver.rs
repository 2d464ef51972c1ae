//! The worker's other driver: sockets are read and written through an io_uring rather than when epoll says that they are ready.
//!
//! The order of things is the same: all that has come is taken in, then nodes and clients are written to, in one system call for all of
//! them. Connections to nodes are still opened and set up under tokio, which also tells when the ring has something.

use std::{
    io,
    net::Shutdown,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    rc::Rc,
    sync::atomic::Ordering::Relaxed,
};

use tokio::task::{AbortHandle, spawn_local};

use super::Worker;
use crate::{
    core::{Peer, SessionId},
    ring::{Completion, Received, Ring, Token},
    socket::StdSocket,
};

/// The sockets, by the core's indexes, and the ring that moves their bytes.
pub(super) struct RingIo {
    ring: Ring,
    sessions: Vec<Option<Link>>,
    backends: Vec<Option<Link>>,
}

/// A connected socket.
struct Link {
    socket: StdSocket,
    token: Token,
    /// A receive is armed.
    receiving: bool,
    /// It was told to stop.
    stopping: bool,
    sending: bool,
    /// Reads the second connection that a backend may have.
    feed: Option<AbortHandle>,
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(feed) = &self.feed {
            feed.abort();
        }
        // What the ring still has under way holds the socket open; this ends it.
        let _ = match &self.socket {
            StdSocket::Tcp(socket) => socket.shutdown(Shutdown::Both),
            StdSocket::Unix(socket) => socket.shutdown(Shutdown::Both),
        };
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            StdSocket::Tcp(socket) => socket.as_fd(),
            StdSocket::Unix(socket) => socket.as_fd(),
        }
    }
}

/// Whom a token names: a client's session by index and generation, or a node's connection by index and incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Session(SessionId),
    Backend { index: u32, incarnation: u32 },
}

/// Set in the tokens of backends.
const BACKEND: Token = 1 << 61;
/// Indexes have the bits between.
const INDEX_MAX: u32 = (1 << 29) - 1;

impl Whose {
    fn token(self) -> Token {
        let (kind, index, number) = match self {
            Whose::Session(SessionId { index, generation }) => (0, index, generation),
            Whose::Backend { index, incarnation } => (BACKEND, index, incarnation),
        };
        debug_assert!(index <= INDEX_MAX);
        kind | u64::from(index) << 32 | u64::from(number)
    }

    fn of(token: Token) -> Self {
        let (index, number) = ((token >> 32) as u32 & INDEX_MAX, token as u32);
        match token & BACKEND {
            0 => Whose::Session(SessionId { index, generation: number }),
            _ => Whose::Backend { index, incarnation: number },
        }
    }
}

impl RingIo {
    pub(super) fn new() -> io::Result<Self> {
        Ok(RingIo { ring: Ring::new()?, sessions: Vec::new(), backends: Vec::new() })
    }

    fn link(&mut self, whose: Whose) -> Option<&mut Link> {
        let place = match whose {
            Whose::Session(session) => self.sessions.get_mut(session.index as usize),
            Whose::Backend { index, .. } => self.backends.get_mut(index as usize),
        };
        // A connection that was there before has another token.
        place?.as_mut().filter(|link| link.token == whose.token())
    }

    fn open(&mut self, whose: Whose, socket: StdSocket, feed: Option<AbortHandle>) -> io::Result<()> {
        // The ring waits for sockets itself, unless they say that nobody shall.
        match &socket {
            StdSocket::Tcp(socket) => socket.set_nonblocking(false)?,
            StdSocket::Unix(socket) => socket.set_nonblocking(false)?,
        }
        let (list, index) = match whose {
            Whose::Session(session) => (&mut self.sessions, session.index as usize),
            Whose::Backend { index, .. } => (&mut self.backends, index as usize),
        };
        if list.len() <= index {
            list.resize_with(index + 1, || None);
        }
        list[index] = Some(Link { socket, token: whose.token(), receiving: false, stopping: false, sending: false, feed });
        self.receive(whose);
        Ok(())
    }

    fn receive(&mut self, whose: Whose) {
        let RingIo { ring, sessions, backends } = self;
        let place = match whose {
            Whose::Session(session) => &mut sessions[session.index as usize],
            Whose::Backend { index, .. } => &mut backends[index as usize],
        };
        if let Some(link) = place
            && !link.receiving
        {
            link.receiving = true;
            link.stopping = false;
            ring.receive(&*link, link.token);
        }
    }

    fn stop_receiving(&mut self, whose: Whose) {
        if let Some(link) = self.link(whose)
            && !std::mem::replace(&mut link.stopping, true)
        {
            self.ring.stop_receiving(whose.token());
        }
    }

    fn send(&mut self, whose: Whose, bytes: Vec<u8>, at: usize) {
        let RingIo { ring, sessions, backends } = self;
        let place = match whose {
            Whose::Session(session) => &mut sessions[session.index as usize],
            Whose::Backend { index, .. } => &mut backends[index as usize],
        };
        if let Some(link) = place {
            link.sending = true;
            ring.send(&*link, bytes, at, link.token);
        }
    }

    /// Closes a connection. What was sent before goes out.
    fn close(&mut self, whose: Whose) {
        if self.link(whose).is_none() {
            return;
        }
        // The kernel has to have seen what names this socket before its number goes to another.
        submit(&mut self.ring);
        match whose {
            Whose::Session(session) => self.sessions[session.index as usize] = None,
            Whose::Backend { index, .. } => self.backends[index as usize] = None,
        }
    }
}

fn submit(ring: &mut Ring) {
    if let Err(error) = ring.submit()
        // These pass.
        && !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
    {
        tracing::error!("io_uring: {error}");
    }
}

impl Worker {
    fn ring(&self) -> std::cell::RefMut<'_, RingIo> {
        self.ring.as_ref().expect("only called with a ring").borrow_mut()
    }

    /// Wakes the flusher whenever the ring has something.
    pub(super) async fn watch_ring(self: Rc<Self>) -> io::Result<()> {
        let descriptor = self.ring().ring.watch()?;
        loop {
            descriptor.readable().await?.clear_ready();
            self.want_flush();
        }
    }

    pub(super) fn ring_accept(&self, socket: StdSocket, peer: Peer, id: u64) {
        let session = self.core.borrow_mut().session_open(id, peer);
        if let Err(error) = self.ring().open(Whose::Session(session), socket, None) {
            tracing::warn!("a client's socket cannot be served: {error}");
            self.core.borrow_mut().session_closed(session);
            self.clients.fetch_sub(1, Relaxed);
        }
        self.want_flush();
    }

    /// A node's connection is set up.
    pub(super) fn ring_backend(&self, index: u32, incarnation: u32, socket: StdSocket, feed: Option<AbortHandle>) {
        let opened = self.ring().open(Whose::Backend { index, incarnation }, socket, feed);
        if let Err(error) = opened {
            self.lose_backend(index, incarnation, &error.to_string());
        }
        self.want_flush();
    }

    pub(super) fn ring_close_session(&self, session: SessionId) {
        self.ring().close(Whose::Session(session));
    }

    /// Closes whatever connection the backend has.
    pub(super) fn ring_close_backend(&self, index: u32) {
        let mut io = self.ring();
        let open = io.backends.get(index as usize).and_then(|link| link.as_ref()).map(|link| Whose::of(link.token));
        if let Some(whose) = open {
            io.close(whose);
        }
    }

    /// The session may be read from again.
    pub(super) fn ring_resume(&self, index: u32) {
        let mut io = self.ring();
        let open = io.sessions.get(index as usize).and_then(|link| link.as_ref()).map(|link| Whose::of(link.token));
        if let Some(whose) = open {
            io.receive(whose);
        }
    }

    /// Whether a client has gone whose session is not read.
    pub(super) fn ring_is_ended(&self, session: SessionId) -> bool {
        let mut io = self.ring();
        let Some(link) = io.link(Whose::Session(session)).filter(|link| !link.receiving) else { return false };
        let mut looked_at = libc::pollfd { fd: link.as_fd().as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
        crate::ring::poll_now(&mut looked_at);
        looked_at.revents & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) != 0
    }

    /// Takes in all that has happened.
    pub(super) fn ring_reap(&self) {
        submit(&mut self.ring().ring);
        loop {
            let Some(completion) = self.ring().ring.next() else { return };
            match completion {
                Completion::Received { token, received, more } => self.ring_received(Whose::of(token), received, more),
                Completion::Ended { token, result } => self.ring_ended(Whose::of(token), result),
                Completion::Sent { token, bytes, at, result } => self.ring_sent(Whose::of(token), bytes, at, result),
            }
        }
    }

    fn ring_received(&self, whose: Whose, received: Received, more: bool) {
        let mut io = self.ring();
        let Some(link) = io.link(whose) else { return io.ring.recycle(received) };
        link.receiving = more;
        let mut core = self.core.borrow_mut();
        let bytes = io.ring.bytes(&received);
        let paused = match whose {
            Whose::Session(session) => {
                self.follow_topology(&mut core);
                core.session_input(session, bytes);
                core.is_paused(session)
            }
            Whose::Backend { index, incarnation } => {
                core.backend_input(index, incarnation, bytes);
                false
            }
        };
        io.ring.recycle(received);
        match (paused, more) {
            (false, false) => io.receive(whose),
            (true, true) => io.stop_receiving(whose),
            (false, true) | (true, false) => {}
        }
    }

    fn ring_ended(&self, whose: Whose, result: io::Result<()>) {
        let mut io = self.ring();
        let Some(link) = io.link(whose) else { return };
        link.receiving = false;
        let passing =
            matches!(&result, Err(error) if matches!(error.raw_os_error(), Some(libc::ECANCELED | libc::ENOBUFS | libc::EINTR)));
        match whose {
            Whose::Session(session) if passing => {
                if !self.core.borrow().is_paused(session) {
                    io.receive(whose);
                }
            }
            Whose::Backend { .. } if passing => io.receive(whose),
            Whose::Session(session) => {
                drop(io);
                match result {
                    // The client's sending side is closed; it may still read its answers.
                    Ok(()) => self.core.borrow_mut().session_ended(session),
                    Err(_) => self.close_session(session),
                }
            }
            Whose::Backend { index, incarnation } => {
                drop(io);
                let reason = result.err().map_or_else(|| "connection closed".to_owned(), |error| error.to_string());
                self.lose_backend(index, incarnation, &reason);
            }
        }
    }

    fn ring_sent(&self, whose: Whose, bytes: Vec<u8>, at: usize, result: io::Result<usize>) {
        let mut io = self.ring();
        let Some(link) = io.link(whose) else { return };
        link.sending = false;
        let sent = match result {
            Ok(len) => at + len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => at,
            Err(error) => {
                drop(io);
                return match whose {
                    Whose::Session(session) => self.close_session(session),
                    Whose::Backend { index, incarnation } => self.lose_backend(index, incarnation, &error.to_string()),
                };
            }
        };
        if sent < bytes.len() {
            return io.send(whose, bytes, sent);
        }
        drop(io);
        let mut core = self.core.borrow_mut();
        match whose {
            Whose::Session(session) => core.session_sent(session.index, bytes, sent),
            Whose::Backend { index, .. } => core.backend_sent(index, bytes),
        }
    }

    pub(super) fn ring_flush_backends(&self) {
        let mut core = self.core.borrow_mut();
        let mut io = self.ring();
        let list = core.take_dirty_backends();
        for &index in &list {
            let whose = Whose::Backend { index, incarnation: core.backend_incarnation(index) };
            match io.link(whose) {
                // What there is more to send is seen when this has been.
                Some(link) if !link.sending => {
                    if let Some((bytes, at)) = core.take_backend_output(index) {
                        io.send(whose, bytes, at);
                    }
                }
                _ => drop(core.backend_output(index)),
            }
        }
        core.reuse_dirty_backends(list);
    }

    pub(super) fn ring_flush_sessions(&self) {
        let mut core = self.core.borrow_mut();
        let mut io = self.ring();
        let list = core.take_dirty_sessions();
        for &index in &list {
            let whose = Whose::Session(core.session_id(index));
            match io.link(whose) {
                Some(link) if !link.sending => match core.take_session_output(index) {
                    Some((bytes, at)) => io.send(whose, bytes, at),
                    None => core.session_written(index, 0),
                },
                _ => drop(core.session_output(index)),
            }
        }
        core.reuse_dirty_sessions(list);
    }

    /// Has the kernel carry out what the flush asked for. Returns whether there is more to take in already.
    pub(super) fn ring_submit(&self) -> bool {
        let mut io = self.ring();
        submit(&mut io.ring);
        io.ring.has_more()
    }
}

/// Watches the ring for as long as the worker runs.
pub(super) fn watch(worker: &Rc<Worker>) {
    let worker = worker.clone();
    spawn_local(async move {
        if let Err(error) = worker.watch_ring().await {
            tracing::error!("io_uring cannot be watched: {error}");
        }
    });
}
