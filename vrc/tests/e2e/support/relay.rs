//! A TCP relay to a server, which can be made to fail as a network does.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    thread,
};

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    ToServer,
    ToClient,
}

/// A relay; what goes through it ends with it.
pub(crate) struct Relay {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Nothing comes through these ways.
    held: Vec<Way>,
    sockets: Vec<TcpStream>,
    ended: bool,
}

impl Relay {
    pub(crate) fn start(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let shared = Arc::<Shared>::default();
        let relay = Relay { port, shared: shared.clone() };
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if shared.state.lock().unwrap().ended {
                    return;
                }
                // Refused there is closed here.
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)) else { continue };
                join(client, server, &shared).expect("sockets to use twice");
            }
        });
        relay
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// From now on nothing goes these ways: what is sent waits, as do the ends of connections.
    pub(crate) fn hold(&self, ways: &[Way]) {
        self.shared.state.lock().unwrap().held = ways.to_vec();
    }

    /// What waits goes on.
    pub(crate) fn release(&self) {
        self.hold(&[]);
        self.shared.changed.notify_all();
    }

    /// Ends all connections. New ones are taken.
    pub(crate) fn sever(&self) {
        for socket in self.shared.state.lock().unwrap().sockets.drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.sever();
        self.shared.state.lock().unwrap().ended = true;
        self.shared.changed.notify_all();
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

fn join(client: TcpStream, server: TcpStream, shared: &Arc<Shared>) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    shared.state.lock().unwrap().sockets.extend([client.try_clone()?, server.try_clone()?]);
    for (from, to, way) in [(client.try_clone()?, server.try_clone()?, Way::ToServer), (server, client, Way::ToClient)] {
        let shared = shared.clone();
        thread::spawn(move || pass(from, to, way, &shared));
    }
    Ok(())
}

fn pass(mut from: TcpStream, mut to: TcpStream, way: Way, shared: &Shared) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).unwrap_or(0);
        let state = shared.state.lock().unwrap();
        drop(shared.changed.wait_while(state, |state| state.held.contains(&way) && !state.ended).unwrap());
        if read == 0 || to.write_all(&buffer[..read]).is_err() {
            let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
            return;
        }
    }
}
