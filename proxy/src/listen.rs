//! Listens for clients and hands each to the worker that has the fewest.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch as signal,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::ListenAddr,
    core::Peer,
    limits::CLIENT_KEEPALIVE,
    live::LiveSettings,
    socket::{Socket, keep_alive},
    worker::WorkerHandle,
};

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;

/// A socket that clients connect to. Dropped, it takes its unix socket's file with it.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix { listener: UnixListener, path: PathBuf },
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Listener::Unix { path, .. } = self {
            // Somebody may have removed it already.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Listener {
    /// Binds an address. A unix socket's file that nobody listens on any more is replaced.
    pub(crate) fn bind(address: &ListenAddr) -> io::Result<Self> {
        match address {
            ListenAddr::Tcp(address) => {
                let socket = RawSocket::new(Domain::for_address(*address), Type::STREAM, Some(Protocol::TCP))?;
                socket.set_reuse_address(true)?;
                socket.set_nonblocking(true)?;
                socket.bind(&(*address).into())?;
                socket.listen(BACKLOG)?;
                Ok(Listener::Tcp(TcpListener::from_std(socket.into())?))
            }
            ListenAddr::Unix(path) => {
                remove_stale(path)?;
                Ok(Listener::Unix { listener: UnixListener::bind(path)?, path: path.clone() })
            }
        }
    }

    /// Where it really listens: with the port that was found where 0 was asked for.
    pub(crate) fn address(&self) -> io::Result<ListenAddr> {
        Ok(match self {
            Listener::Tcp(listener) => ListenAddr::Tcp(listener.local_addr()?),
            Listener::Unix { path, .. } => ListenAddr::Unix(path.clone()),
        })
    }

    async fn accept(&self) -> io::Result<(Socket, Peer)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                keep_alive(&stream, CLIENT_KEEPALIVE)?;
                let local = stream.local_addr()?;
                Ok((Socket::Tcp(stream.into_std()?), Peer::Tcp { peer, local }))
            }
            Listener::Unix { listener, path } => {
                let (stream, _) = listener.accept().await?;
                Ok((Socket::Unix(stream.into_std()?), Peer::Unix { path: path.display().to_string().into() }))
            }
        }
    }
}

fn remove_stale(path: &Path) -> io::Result<()> {
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        // Somebody listens there, or there is nothing, or it is no socket: bind says which.
        _ => Ok(()),
    }
}

/// Who takes the clients, and how many there may be.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    pub(crate) workers: Vec<WorkerHandle>,
    pub(crate) live: Arc<LiveSettings>,
    pub(crate) next_id: Arc<AtomicU64>,
}

/// Accepts clients, once they are to be let in, until told to stop.
pub(crate) async fn serve(listener: Listener, door: Door, mut open: signal::Receiver<bool>, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => return,
        // Whoever is to say it is gone before only when all is.
        _ = open.wait_for(|open| *open) => {}
    }
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, peer)) => door.admit(socket, peer),
            Err(error) => {
                // Out of file descriptors, as a rule: trying again at once would only burn the processor.
                tracing::warn!("a client could not be accepted: {error}");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

impl Door {
    fn admit(&self, socket: Socket, peer: Peer) {
        if self.workers.iter().map(WorkerHandle::clients).sum::<usize>() >= self.live.load().clients_max {
            turn_away(socket);
            return;
        }
        let id = self.next_id.fetch_add(1, Relaxed);
        let worker = self.workers.iter().min_by_key(|worker| worker.clients()).expect("at least one worker");
        worker.accept(socket, peer, id);
    }
}

/// Redis's own words; a new socket's buffer is empty, so this does not wait.
fn turn_away(mut socket: Socket) {
    let text = b"-ERR max number of clients reached\r\n";
    // The client may be gone already.
    let _ = match &mut socket {
        Socket::Tcp(stream) => stream.write_all(text),
        Socket::Unix(stream) => stream.write_all(text),
    };
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;

    use super::*;

    #[tokio::test]
    async fn a_client_whose_machine_is_gone_is_found_in_time() {
        let listener = Listener::bind(&ListenAddr::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
        let ListenAddr::Tcp(address) = listener.address().unwrap() else { panic!("asked for TCP") };
        let (client, accepted) = tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
        let (Socket::Tcp(accepted), _) = accepted.unwrap() else { panic!("asked for TCP") };
        assert_eq!(SockRef::from(&accepted).tcp_keepalive_time().unwrap(), CLIENT_KEEPALIVE);
        drop(client);
    }
}
