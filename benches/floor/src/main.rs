//! A bare epoll loop that reads requests and answers each at once, without a node behind it and without looking at them: what the kernel
//! alone costs a program that serves clients. `vrc-floor PORT`.
//!
//! It is for measuring, not for serving: requests must be GET or SET of values of 64 bytes, without `*` in keys and values.

use std::{
    collections::HashMap,
    env,
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
};

use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};

const READ_BYTES: usize = 64 * 1024;
const VALUE: &[u8] = b"$64\r\nvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv\r\n";
const OK: &[u8] = b"+OK\r\n";
const LISTENER: Token = Token(usize::MAX);

fn main() -> ExitCode {
    let Some(port) = env::args().nth(1).and_then(|port| port.parse().ok()) else {
        eprintln!("usage: vrc-floor PORT");
        return ExitCode::FAILURE;
    };
    match serve(port) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("port {port}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(port: u16) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    let mut clients: HashMap<usize, TcpStream> = HashMap::new();
    let mut next = 0;
    let mut input = vec![0; READ_BYTES];
    let mut output = Vec::new();
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut client, _)) = listener.accept() {
                    client.set_nodelay(true)?;
                    poll.registry().register(&mut client, Token(next), Interest::READABLE)?;
                    clients.insert(next, client);
                    next += 1;
                }
                continue;
            }
            let Token(id) = event.token();
            let Some(client) = clients.get_mut(&id) else { continue };
            if !answer(client, &mut input, &mut output) {
                clients.remove(&id);
            }
        }
    }
}

/// Answers all that came; false if the client is gone.
fn answer(client: &mut TcpStream, input: &mut [u8], output: &mut Vec<u8>) -> bool {
    loop {
        let read = match client.read(input) {
            Ok(0) => return false,
            Ok(read) => &input[..read],
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        };
        output.clear();
        // All requests of a client are of one kind, and a piece of one that does not begin one has been answered.
        let reply = if read.windows(5).take(32).any(|bytes| bytes.eq_ignore_ascii_case(b"\nSET\r")) { OK } else { VALUE };
        for _ in read.iter().filter(|byte| **byte == b'*') {
            output.extend_from_slice(reply);
        }
        if client.write_all(output).is_err() {
            return false;
        }
        // A read that did not fill the buffer has emptied the socket: epoll tells of what comes after.
        if read.len() < READ_BYTES {
            return true;
        }
    }
}
