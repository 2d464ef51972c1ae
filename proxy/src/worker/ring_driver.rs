//! The other driver: sockets are read and written through an io_uring rather than when epoll says that they are ready.
//!
//! The order of things is the same: what has come is taken in, then nodes and clients are written to, in one system call for all of
//! them, as a rule. Epoll only tells when the ring has something: waiting in the ring itself wakes up sooner, so less is done at a time.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use mio::{Interest, Registry, event::Event, unix::SourceFd};

use super::driver::{Connections, Driver, Gone, TOKEN_BITS, Whose};
use crate::{
    core::{Core, SessionId},
    ring::{Completion, Received, Ring},
    socket::Socket,
};

/// What epoll tells of the ring by; no connection's.
const RING: mio::Token = mio::Token(1 << TOKEN_BITS);

/// Completions that are taken in in one turn; more of them have to wait for the next.
const COMPLETIONS_A_TURN: usize = 1024;

/// See the module.
pub(super) struct RingDriver {
    ring: Ring,
    connections: Connections<Connection>,
    /// What had come by the time that the last turn's bytes were sent, and is to be taken in.
    early: VecDeque<Completion>,
}

struct Connection {
    socket: Socket,
    /// A receive is armed.
    receiving: bool,
    /// It was told to stop.
    stopping: bool,
    sending: bool,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // What the ring still has under way holds the socket open; this ends it.
        self.socket.shut_down();
    }
}

impl AsRef<Socket> for Connection {
    fn as_ref(&self) -> &Socket {
        &self.socket
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
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

impl RingDriver {
    pub(super) fn new(registry: &Registry) -> io::Result<Self> {
        let ring = Ring::new()?;
        registry.register(&mut SourceFd(&ring.as_fd().as_raw_fd()), RING, Interest::READABLE)?;
        Ok(RingDriver { ring, connections: Connections::default(), early: VecDeque::new() })
    }

    fn receive(&mut self, whose: Whose) {
        if let Some(connection) = self.connections.get(whose)
            && !connection.receiving
        {
            connection.receiving = true;
            connection.stopping = false;
            self.ring.receive(&*connection, whose.token());
        }
    }

    fn stop_receiving(&mut self, whose: Whose) {
        if let Some(connection) = self.connections.get(whose)
            && !std::mem::replace(&mut connection.stopping, true)
        {
            self.ring.stop_receiving(whose.token());
        }
    }

    fn send(&mut self, whose: Whose, bytes: Vec<u8>, at: usize) {
        if let Some(connection) = self.connections.get(whose) {
            connection.sending = true;
            self.ring.send(&*connection, bytes, at, whose.token());
        }
    }

    fn received(&mut self, whose: Whose, received: Received, more: bool, core: &mut Core) {
        let Some(connection) = self.connections.get(whose) else { return self.ring.recycle(received) };
        connection.receiving = more;
        let bytes = self.ring.bytes(&received);
        let paused = match whose {
            Whose::Session(session) => {
                core.session_input(session, bytes);
                core.is_paused(session)
            }
            Whose::Backend { index, incarnation } => {
                self.connections.mind_who_left(index, core);
                core.backend_input(index, incarnation, bytes);
                false
            }
            Whose::Feed { index, incarnation } => {
                core.feed_input(index, incarnation, bytes);
                false
            }
        };
        self.ring.recycle(received);
        if core.has_heard_much() {
            self.flush_much(core);
        }
        match (paused, more) {
            (false, false) => self.receive(whose),
            (true, true) => self.stop_receiving(whose),
            (false, true) | (true, false) => {}
        }
    }

    fn ended(&mut self, whose: Whose, result: io::Result<()>, core: &mut Core, gone: &mut Vec<Gone>) {
        let Some(connection) = self.connections.get(whose) else { return };
        connection.receiving = false;
        let passing =
            matches!(&result, Err(error) if matches!(error.raw_os_error(), Some(libc::ECANCELED | libc::ENOBUFS | libc::EINTR)));
        match (whose, result) {
            (Whose::Session(session), Err(_)) if passing => {
                if !core.is_paused(session) {
                    self.receive(whose);
                }
            }
            (_, Err(_)) if passing => self.receive(whose),
            // The client's sending side is closed; it may still read its answers.
            (Whose::Session(session), Ok(())) => core.session_ended(session),
            (_, Ok(())) => gone.push(Gone { whose, reason: "connection closed".to_owned() }),
            (_, Err(error)) => gone.push(Gone { whose, reason: error.to_string() }),
        }
    }

    fn sent(
        &mut self,
        whose: Whose,
        (bytes, at): (Vec<u8>, usize),
        result: io::Result<usize>,
        core: &mut Core,
        gone: &mut Vec<Gone>,
    ) {
        let Some(connection) = self.connections.get(whose) else { return };
        connection.sending = false;
        let sent = match result {
            Ok(len) => at + len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => at,
            Err(error) => return gone.push(Gone { whose, reason: error.to_string() }),
        };
        if sent < bytes.len() {
            if let Whose::Backend { index, .. } = whose {
                core.backend_sent_part(index);
            }
            return self.send(whose, bytes, sent);
        }
        match whose {
            Whose::Session(session) => core.session_sent(session.index, bytes, sent),
            Whose::Backend { index, .. } => core.backend_sent(index, bytes),
            Whose::Feed { .. } => {}
        }
    }

    fn completed(&mut self, completion: Completion, core: &mut Core, gone: &mut Vec<Gone>) {
        match completion {
            Completion::Received { token, received, more } => self.received(Whose::of(token), received, more, core),
            Completion::Ended { token, result } => self.ended(Whose::of(token), result, core, gone),
            Completion::Sent { token, bytes, at, result } => self.sent(Whose::of(token), (bytes, at), result, core, gone),
        }
    }

    fn flush_backends(&mut self, core: &mut Core) {
        let list = core.take_dirty_backends();
        list.iter().for_each(|&index| self.flush_backend(index, core));
        core.reuse_dirty_backends(list);
    }

    fn flush_backend(&mut self, index: u32, core: &mut Core) {
        let whose = Whose::Backend { index, incarnation: core.backend_incarnation(index) };
        match self.connections.get(whose) {
            // What there is more to send is seen when this has been.
            Some(connection) if !connection.sending => {
                if let Some((bytes, at)) = core.take_backend_output(index) {
                    self.send(whose, bytes, at);
                }
            }
            _ => drop(core.backend_output(index)),
        }
    }

    /// Sends to those backends that have much by now: what waited for the end of the turn would take memory meanwhile.
    #[cold]
    #[inline(never)]
    fn flush_much(&mut self, core: &mut Core) {
        let list = core.take_much_output();
        list.into_iter().for_each(|index| self.flush_backend(index, core));
        submit(&mut self.ring);
    }

    fn flush_sessions(&mut self, core: &mut Core) {
        let list = core.take_dirty_sessions();
        for &index in &list {
            let whose = Whose::Session(core.session_id(index));
            match self.connections.get(whose) {
                Some(connection) if !connection.sending => match core.take_session_output(index) {
                    Some((bytes, at)) => self.send(whose, bytes, at),
                    None => core.session_written(index, 0),
                },
                _ => drop(core.session_output(index)),
            }
        }
        core.reuse_dirty_sessions(list);
    }
}

impl Driver for RingDriver {
    fn open(&mut self, whose: Whose, socket: Socket) -> io::Result<()> {
        // The ring waits for sockets itself, unless they say that nobody shall.
        socket.set_nonblocking(false)?;
        self.connections.put(whose, Connection { socket, receiving: false, stopping: false, sending: false });
        self.receive(whose);
        Ok(())
    }

    fn close(&mut self, whose: Whose) {
        if self.connections.get(whose).is_some() {
            // The kernel has to have seen what names this socket before its number goes to another.
            submit(&mut self.ring);
            self.connections.remove(whose);
        }
    }

    fn write_last(&mut self, session: SessionId, core: &mut Core) {
        let whose = Whose::Session(session);
        if self.connections.get(whose).is_some_and(|connection| !connection.sending)
            && let Some((bytes, at)) = core.take_last_output(session.index)
        {
            self.send(whose, bytes, at);
        }
    }

    fn close_backend(&mut self, index: u32) {
        self.connections.of_backend(index).for_each(|whose| self.close(whose));
    }

    fn resume(&mut self, session: SessionId) {
        self.receive(Whose::Session(session));
    }

    fn has_left(&mut self, session: SessionId) -> bool {
        let connection = self.connections.get(Whose::Session(session)).filter(|connection| !connection.receiving);
        connection.is_some_and(|connection| connection.socket.is_ended())
    }

    fn take_in(&mut self, core: &mut Core, gone: &mut Vec<Gone>) {
        submit(&mut self.ring);
        for _ in 0..COMPLETIONS_A_TURN {
            let Some(completion) = self.early.pop_front().or_else(|| self.ring.next()) else { return };
            self.completed(completion, core, gone);
        }
    }

    /// Only that the ring has something, which has been taken in.
    fn happened(&mut self, _: &Event, _: &mut Core, _: &mut Vec<Gone>) {}

    fn flush(&mut self, core: &mut Core, gone: &mut Vec<Gone>) {
        // All of it is sent within one system call: nodes have something to do while clients are written to.
        self.flush_backends(core);
        self.flush_sessions(core);
        submit(&mut self.ring);
        // Most of it has been sent by now, and that is no reason for another turn. All else has its turn behind what came before it: a
        // node that has died may have answered first.
        while let Some(completion) = self.ring.next() {
            match &completion {
                Completion::Sent { bytes, at, result: Ok(len), .. } if at + len == bytes.len() => {
                    self.completed(completion, core, gone);
                }
                _ => self.early.push_back(completion),
            }
        }
    }

    fn has_more(&mut self) -> bool {
        !self.early.is_empty() || self.ring.has_more()
    }
}
