//! Reads and writes sockets when they are ready, as epoll (or what another system has in its place) says.
//!
//! A socket is told of once, when that changes (edge-triggered): it counts as readable until a read brings less than there was room
//! for, which saves the system call that would say that there is nothing more.

use std::{
    io::{self, ErrorKind},
    os::fd::{AsFd, AsRawFd},
};

use mio::{Interest, Registry, Token, event::Event, unix::SourceFd};

use super::driver::{Connections, Driver, Gone, Whose};
use crate::{
    core::{Core, SessionId},
    limits::READ_BYTES,
    socket::Socket,
};

/// See the module.
pub(super) struct PollDriver {
    registry: Registry,
    /// What nearly every read goes into.
    buffer: Box<[u8]>,
    connections: Connections<Connection>,
    /// Those that may be readable without another event.
    unread: Vec<Whose>,
    reading: Vec<Whose>,
}

#[derive(Debug)]
struct Connection {
    socket: Socket,
    /// There may be something to read.
    readable: bool,
    /// The other end has closed its sending side, behind what can be read still.
    ended: bool,
    /// There is no room for what is to be written; an event tells when there is.
    blocked: bool,
}

impl AsRef<Socket> for Connection {
    fn as_ref(&self) -> &Socket {
        &self.socket
    }
}

impl Connection {
    fn register(&self, registry: &Registry, whose: Whose) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.socket.as_fd().as_raw_fd()), token(whose), Interest::READABLE)
    }

    fn watch_for(&self, registry: &Registry, whose: Whose, interest: Interest) -> io::Result<()> {
        registry.reregister(&mut SourceFd(&self.socket.as_fd().as_raw_fd()), token(whose), interest)
    }

    /// Writes as much as fits, and has itself told of when the rest will. Returns how much that was.
    #[inline]
    fn write(&mut self, bytes: &[u8], registry: &Registry, whose: Whose) -> io::Result<usize> {
        let written = loop {
            match self.socket.write(bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break 0,
                result => break result?,
            }
        };
        if written < bytes.len() {
            self.blocked = true;
            self.watch_for(registry, whose, Interest::READABLE | Interest::WRITABLE)?;
        }
        Ok(written)
    }
}

fn token(whose: Whose) -> Token {
    Token(whose.token() as usize)
}

impl PollDriver {
    pub(super) fn new(registry: &Registry) -> io::Result<Self> {
        Ok(PollDriver {
            registry: registry.try_clone()?,
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
            connections: Connections::default(),
            unread: Vec::new(),
            reading: Vec::new(),
        })
    }

    /// Reads what is there, a buffer's size at most, so that the others have their turn.
    fn read(&mut self, whose: Whose, core: &mut Core, gone: &mut Vec<Gone>) {
        loop {
            let Some(connection) = self.connections.get(whose).filter(|connection| connection.readable) else { return };
            if let Whose::Session(session) = whose
                && core.is_paused(session)
            {
                // What resumes it has it read.
                return;
            }
            let large = match whose {
                Whose::Session(session) => core.session_room(session),
                Whose::Backend { .. } | Whose::Feed { .. } => None,
            };
            let is_large = large.is_some();
            let (result, room) = match large {
                Some(buffer) => {
                    let room = buffer.capacity() - buffer.len();
                    (connection.socket.read_behind(buffer), room)
                }
                None => (connection.socket.read(&mut self.buffer), self.buffer.len()),
            };
            match result {
                Ok(0) => {
                    connection.readable = false;
                    match whose {
                        // It may still read its answers.
                        Whose::Session(session) => core.session_ended(session),
                        _ => gone.push(Gone { whose, reason: "connection closed".to_owned() }),
                    }
                }
                Ok(len) => {
                    let is_full = len == room;
                    if is_full {
                        self.unread.push(whose);
                    } else {
                        // Where the end was told of together with these bytes, no other event tells of it.
                        connection.readable = connection.ended;
                    }
                    let goes_on = !is_full && connection.readable;
                    match whose {
                        Whose::Session(session) => {
                            if is_large {
                                core.session_filled(session, len);
                            } else {
                                core.session_input(session, &self.buffer[..len]);
                            }
                            if core.has_heard_much() {
                                self.flush_much(core, gone);
                            }
                        }
                        Whose::Backend { index, incarnation } => {
                            self.connections.mind_who_left(index, core);
                            core.backend_input(index, incarnation, &self.buffer[..len]);
                        }
                        Whose::Feed { index, incarnation } => core.feed_input(index, incarnation, &self.buffer[..len]),
                    }
                    if !goes_on {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => connection.readable = false,
                Err(error) => {
                    connection.readable = false;
                    gone.push(Gone { whose, reason: error.to_string() });
                }
            }
        }
    }

    fn flush_backends(&mut self, core: &mut Core, gone: &mut Vec<Gone>) {
        let list = core.take_dirty_backends();
        list.iter().for_each(|&index| self.flush_backend(index, core, gone));
        core.reuse_dirty_backends(list);
    }

    #[inline]
    fn flush_backend(&mut self, index: u32, core: &mut Core, gone: &mut Vec<Gone>) {
        let whose = Whose::Backend { index, incarnation: core.backend_incarnation(index) };
        // What was written may have more behind it, in a buffer of its own.
        loop {
            let output = core.backend_output(index);
            let Some(connection) = self.connections.get(whose) else { break };
            if output.is_empty() || connection.blocked {
                break;
            }
            match connection.write(output, &self.registry, whose) {
                Ok(len) => core.backend_written(index, len),
                Err(error) => {
                    gone.push(Gone { whose, reason: error.to_string() });
                    break;
                }
            }
        }
    }

    /// Writes to those backends that have much by now: what waited for the end of the turn would take memory meanwhile.
    #[cold]
    #[inline(never)]
    fn flush_much(&mut self, core: &mut Core, gone: &mut Vec<Gone>) {
        let list = core.take_much_output();
        list.into_iter().for_each(|index| self.flush_backend(index, core, gone));
    }

    fn flush_sessions(&mut self, core: &mut Core, gone: &mut Vec<Gone>) {
        let list = core.take_dirty_sessions();
        for &index in &list {
            let whose = Whose::Session(core.session_id(index));
            let output = core.session_output(index);
            let Some(connection) = self.connections.get(whose) else { continue };
            if connection.blocked {
                continue;
            }
            let written = if output.is_empty() { Ok(0) } else { connection.write(output, &self.registry, whose) };
            match written {
                Ok(len) => core.session_written(index, len),
                Err(error) => gone.push(Gone { whose, reason: error.to_string() }),
            }
        }
        core.reuse_dirty_sessions(list);
    }
}

impl Driver for PollDriver {
    fn open(&mut self, whose: Whose, socket: Socket) -> io::Result<()> {
        let connection = Connection { socket, readable: false, ended: false, blocked: false };
        // Tells also of what is there already.
        connection.register(&self.registry, whose)?;
        self.connections.put(whose, connection);
        Ok(())
    }

    fn close(&mut self, whose: Whose) {
        // A socket that is closed is watched no more.
        self.connections.remove(whose);
    }

    fn write_last(&mut self, session: SessionId, core: &mut Core) {
        if let Some(connection) = self.connections.get(Whose::Session(session)).filter(|connection| !connection.blocked)
            && let Some((bytes, at)) = core.take_last_output(session.index)
        {
            // It is closed next, whatever comes of this.
            let _ = connection.socket.write(&bytes[at..]);
        }
    }

    fn close_backend(&mut self, index: u32) {
        self.connections.of_backend(index).for_each(|whose| self.close(whose));
    }

    fn resume(&mut self, session: SessionId) {
        let whose = Whose::Session(session);
        if self.connections.get(whose).is_some_and(|connection| connection.readable) {
            self.unread.push(whose);
        }
    }

    fn has_left(&mut self, session: SessionId) -> bool {
        self.connections.get(Whose::Session(session)).is_some_and(|connection| connection.ended && connection.readable)
    }

    fn take_in(&mut self, core: &mut Core, gone: &mut Vec<Gone>) {
        if self.unread.is_empty() {
            return;
        }
        let mut reading = std::mem::replace(&mut self.unread, std::mem::take(&mut self.reading));
        reading.drain(..).for_each(|whose| self.read(whose, core, gone));
        self.reading = reading;
    }

    fn happened(&mut self, event: &Event, core: &mut Core, gone: &mut Vec<Gone>) {
        let whose = Whose::of(event.token().0 as u64);
        let Some(connection) = self.connections.get(whose) else { return };
        connection.ended |= event.is_read_closed() || event.is_error();
        connection.readable |= event.is_readable() || connection.ended;
        if connection.blocked && (event.is_writable() || event.is_write_closed() || event.is_error()) {
            connection.blocked = false;
            // If that fails, something is told of that nobody waits for.
            let _ = connection.watch_for(&self.registry, whose, Interest::READABLE);
            match whose {
                Whose::Session(session) => core.mark_session(session.index),
                Whose::Backend { index, .. } => core.mark_backend(index),
                Whose::Feed { .. } => {}
            }
        }
        self.read(whose, core, gone);
    }

    fn flush(&mut self, core: &mut Core, gone: &mut Vec<Gone>) {
        // Clients have waited for longer, and go on while nodes are written to.
        self.flush_sessions(core, gone);
        self.flush_backends(core, gone);
    }

    fn has_more(&mut self) -> bool {
        !self.unread.is_empty()
    }
}
