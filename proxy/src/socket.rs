//! TCP and unix stream sockets as one type. None of them waits: what cannot be done at once says so.

use std::{
    io,
    net::{Shutdown, TcpStream},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use rustix::{
    buffer::spare_capacity,
    event::{PollFd, PollFlags, Timespec, poll},
    net::{RecvFlags, SendFlags, recv, send},
};
use socket2::{SockRef, TcpKeepalive};

/// Has the kernel ask, after so long in which nothing came, whether the other machine is still there: it does so three times, a third of
/// that time apart, before the connection counts as lost. One that has gone without a word (a cut, a power failure) is found in no
/// other way where nothing is to be sent.
pub(crate) fn keep_alive(socket: &impl AsFd, after: Duration) -> io::Result<()> {
    let keepalive = TcpKeepalive::new().with_time(after).with_interval(after / 3).with_retries(3);
    SockRef::from(socket).set_tcp_keepalive(&keepalive)
}

/// Who writes to a socket whose other end has gone is told so by an error alone. Apple's systems have no such flag; there it is Rust's
/// programs ignoring that signal from their start that counts.
#[cfg(not(target_vendor = "apple"))]
const NO_SIGNAL: SendFlags = SendFlags::NOSIGNAL;
#[cfg(target_vendor = "apple")]
const NO_SIGNAL: SendFlags = SendFlags::empty();

/// A connected stream socket.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    // By system calls as such, where rustix makes them (Linux): the C library's may be where a thread is cancelled, and each pays for that.

    /// Reads what is there, as much as fits.
    #[inline]
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let (read, _) = recv(self, buffer, RecvFlags::empty())?;
        Ok(read)
    }

    /// Reads what is there to the end of a buffer, as much as that has room for.
    pub(crate) fn read_behind(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let (read, _) = recv(self, spare_capacity(buffer), RecvFlags::empty())?;
        Ok(read)
    }

    /// Writes as much as fits.
    #[inline]
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(self, bytes, NO_SIGNAL)?)
    }

    /// Has reads and writes wait, or not, as a new socket's do not.
    pub(crate) fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        match self {
            Socket::Tcp(socket) => socket.set_nonblocking(nonblocking),
            Socket::Unix(socket) => socket.set_nonblocking(nonblocking),
        }
    }

    /// Whether the other end has closed its sending side, whatever it sent before and nobody has read yet.
    pub(crate) fn is_ended(&self) -> bool {
        #[cfg(target_os = "linux")]
        let ended = PollFlags::RDHUP;
        // Elsewhere only a connection that is closed both ways is known as such.
        #[cfg(not(target_os = "linux"))]
        let ended = PollFlags::empty();
        let mut looked_at = [PollFd::new(self, ended)];
        let looked = poll(&mut looked_at, Some(&Timespec::default()));
        looked.is_ok() && looked_at[0].revents().intersects(ended | PollFlags::HUP | PollFlags::ERR)
    }

    /// Ends the connection, whoever else holds the socket open.
    pub(crate) fn shut_down(&self) {
        // It may have ended already.
        let _ = match self {
            Socket::Tcp(socket) => socket.shutdown(Shutdown::Both),
            Socket::Unix(socket) => socket.shutdown(Shutdown::Both),
        };
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Tcp(socket) => socket.as_fd(),
            Socket::Unix(socket) => socket.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_connection_that_is_kept_alive_is_asked_for_as_often_as_said() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        keep_alive(&stream, Duration::from_secs(300)).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(300));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(100));
    }
}
