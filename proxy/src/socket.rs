//! TCP and unix stream sockets as one type, split into halves that different tasks hold.

use std::{
    io,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use tokio::{
    io::{AsyncRead, Interest, ReadBuf},
    net::{TcpStream, UnixStream, tcp, unix},
};

/// A connected stream socket.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// The same socket under this thread's runtime.
    pub(crate) fn from_std(socket: StdSocket) -> io::Result<Self> {
        Ok(match socket {
            StdSocket::Tcp(stream) => Socket::Tcp(TcpStream::from_std(stream)?),
            StdSocket::Unix(stream) => Socket::Unix(UnixStream::from_std(stream)?),
        })
    }

    pub(crate) fn split(self) -> (Reader, Writer) {
        match self {
            Socket::Tcp(stream) => {
                let (reader, writer) = stream.into_split();
                (Reader::Tcp(reader), Writer::Tcp(writer))
            }
            Socket::Unix(stream) => {
                let (reader, writer) = stream.into_split();
                (Reader::Unix(reader), Writer::Unix(writer))
            }
        }
    }
}

/// A socket on its way from one runtime to another.
#[derive(Debug)]
pub(crate) enum StdSocket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

#[derive(Debug)]
pub(crate) enum Reader {
    Tcp(tcp::OwnedReadHalf),
    Unix(unix::OwnedReadHalf),
}

impl Reader {
    /// Reads what is there. `poll_read` rather than `try_read`: from a short read it learns that the socket is empty, which saves
    /// the system call that would say so.
    #[inline]
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        let polled = match self {
            Reader::Tcp(reader) => Pin::new(reader).poll_read(cx, &mut buffer),
            Reader::Unix(reader) => Pin::new(reader).poll_read(cx, &mut buffer),
        };
        polled.map_ok(|()| buffer.filled().len())
    }
}

#[derive(Debug)]
pub(crate) enum Writer {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
}

impl Writer {
    /// Writes as much as fits without waiting.
    #[inline]
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Writer::Tcp(writer) => writer.try_write(bytes),
            Writer::Unix(writer) => writer.try_write(bytes),
        }
    }

    /// Whether the other end has closed its sending side, whatever it sent before and nobody has read yet.
    pub(crate) fn is_ended(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let ready = match self {
            Writer::Tcp(writer) => pin!(writer.as_ref().ready(Interest::READABLE)).poll(&mut cx),
            Writer::Unix(writer) => pin!(writer.as_ref().ready(Interest::READABLE)).poll(&mut cx),
        };
        matches!(ready, Poll::Ready(Ok(ready)) if ready.is_read_closed())
    }

    /// Whether it can be written to again.
    pub(crate) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Writer::Tcp(writer) => writer.as_ref().poll_write_ready(cx),
            Writer::Unix(writer) => writer.as_ref().poll_write_ready(cx),
        }
    }
}
