//! Whoever reads the log may be gone, or stall: no part comes to harm by that.

use std::{
    io::{PipeReader, Read, Write, pipe},
    net::TcpStream,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use rustix::process::Signal;

use crate::support::{LONG, Process, Proxy, connect, eventually, free_address, vrc};

/// Who reads the log.
#[derive(Debug, Clone, Copy)]
enum Reader {
    Gone,
    Stalled,
}

/// A part whose log nobody reads, and whose readers have all their lines to read still.
fn unread(args: &[&str], reader: Reader) -> (Process, Option<PipeReader>) {
    let (read, write) = pipe().expect("a pipe");
    let read = match reader {
        Reader::Gone => None,
        Reader::Stalled => {
            fill(&write);
            Some(read)
        }
    };
    let process = Process::start_with(&format!("vrc {}", args.join(" ")), vrc(args), Stdio::from(write));
    (process, read)
}

/// Writes until there is no more room.
fn fill(write: &std::io::PipeWriter) {
    let (written, mut write) = (Arc::<AtomicUsize>::default(), write.try_clone().expect("a second end"));
    let count = written.clone();
    // It waits for room until nobody can read any more.
    thread::spawn(move || {
        while write.write_all(&[b'\n'; 1_024]).is_ok() {
            count.fetch_add(1, SeqCst);
        }
    });
    let mut before = 0;
    eventually("a full pipe", LONG, || {
        thread::sleep(Duration::from_millis(100));
        let now = written.load(SeqCst);
        (now > 0 && std::mem::replace(&mut before, now) == now).then_some(())
    });
}

fn answers(address: &str, request: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn ends_politely(mut process: Process) {
    process.signal(Signal::TERM);
    assert_eq!(process.end(LONG).code(), Some(0));
}

#[test]
fn a_proxy_serves_on_when_its_log_is_not_read() {
    for reader in [Reader::Gone, Reader::Stalled] {
        let address = free_address();
        // Each worker logs whether it has an io_uring, and the proxy that the node cannot be used.
        let args = ["proxy", "--nodes", "127.0.0.1:1", "--workers", "1", "--io-uring", "--listen", &address];
        let (process, _read) = unread(&args, reader);
        eventually("a proxy that listens", LONG, || TcpStream::connect(&address).ok());
        for _ in 0..3 {
            let mut client = connect(address.rsplit(':').next().unwrap().parse().unwrap());
            let error = redis::cmd("GET").arg("key").query::<String>(&mut client).unwrap_err();
            assert!(error.to_string().contains("127.0.0.1:1"), "{reader:?}: {error}");
            assert_eq!(redis::cmd("PING").query::<String>(&mut client).as_deref(), Ok("PONG"), "{reader:?}");
        }
        ends_politely(process);
    }
}

#[test]
fn an_agent_and_a_coordinator_go_on_when_their_log_is_not_read() {
    for (part, port) in [("agent", "-P"), ("coordinator", "-p")] {
        for reader in [Reader::Gone, Reader::Stalled] {
            let admin = free_address();
            // There is no master, and each complains of that.
            let (process, _read) = unread(&[part, port, "1", "--admin", &admin, "--log", "debug"], reader);
            let ask = || answers(&admin, "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            for _ in 0..3 {
                let answer = eventually(&format!("an answer of the {part}"), LONG, ask);
                assert!(answer.contains("\"healthy\":false"), "{reader:?}: {answer}");
                thread::sleep(Duration::from_millis(300));
            }
            ends_politely(process);
        }
    }
}

#[test]
fn what_the_program_failed_with_is_written_before_it_ends() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let mut process = Process::vrc(&["proxy", "--nodes", "127.0.0.1:1", "--listen", &address]);
    assert_eq!(process.end(LONG).code(), Some(1));
    let output = process.output();
    assert!(output.contains(&format!("vrc: cannot listen on {address}: ")), "{output}");
}

#[test]
fn a_node_that_cannot_be_reached_does_not_fill_the_log() {
    let proxy = Proxy::start(&["--nodes", "127.0.0.1:1", "--workers", "2"]);
    let mut clients = [connect(proxy.port), connect(proxy.port)];
    for round in 0..20 {
        redis::cmd("GET").arg(round).query::<String>(&mut clients[round % 2]).unwrap_err();
        // Till after the pause before the next attempt.
        thread::sleep(Duration::from_millis(20));
    }
    proxy.process.line_with("cannot be used: ", LONG);
    let output = proxy.process.output();
    assert_eq!(output.matches("cannot be used: ").count(), 1, "{output}");
}
