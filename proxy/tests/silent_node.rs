//! A running proxy beside a node that never answers: who leaves, and who waits for what.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{
        mpsc::{self, error::TryRecvError},
        oneshot,
    },
    task::JoinHandle,
    time::{sleep, timeout},
};
use vrc_proxy::{Config, ListenAddr, Proxy, Source};

/// Far longer than anything here takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a node says to CLIENT SETNAME and CLIENT ID, by which its connections are set up.
const SET_UP: &[u8] = b"+OK\r\n:1\r\n";

/// By which of its connections a node heard something, in order of their coming, and what; nothing is the end of it.
type Heard = (usize, String);

/// A node that says OK to how its connections are set up, nothing to anything else, and tells of all that it hears.
async fn node() -> (u16, mpsc::UnboundedReceiver<Heard>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, heard) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        for number in 0.. {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            let tell = tell.clone();
            tokio::spawn(async move {
                // A proxy that is stopped may be gone by now.
                let _ = stream.write_all(SET_UP).await;
                let mut bytes = [0; 4096];
                loop {
                    let len = stream.read(&mut bytes).await.unwrap_or(0);
                    let _ = tell.send((number, String::from_utf8_lossy(&bytes[..len]).into_owned()));
                    if len == 0 {
                        return;
                    }
                }
            });
        }
    });
    (port, heard)
}

async fn until_heard(heard: &mut mpsc::UnboundedReceiver<Heard>, what: &str, wanted: impl Fn(&Heard) -> bool) -> Heard {
    let search = async {
        loop {
            let next = heard.recv().await.expect("the node runs");
            if wanted(&next) {
                return next;
            }
        }
    };
    timeout(PATIENCE, search).await.unwrap_or_else(|_| panic!("never: {what}"))
}

#[tokio::test]
async fn who_waits_for_data_and_leaves_with_much_unread_does_not_wait_on() {
    let (port, mut heard) = node().await;
    let source = Source::Nodes(vec![format!("127.0.0.1:{port}").parse().unwrap()]);
    let listen = ListenAddr::Tcp("127.0.0.1:0".parse().unwrap());
    let proxy = Proxy::start(Config { workers: 1, ..Config::new(source, listen) }).await.unwrap();
    let ListenAddr::Tcp(address) = &proxy.listening()[0] else { panic!("asked for TCP") };
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"BLPOP q 0\r\n").await.unwrap();
    let (waiting, _) = until_heard(&mut heard, "BLPOP", |(_, words)| words.contains("BLPOP")).await;
    // More than the proxy keeps of what is said behind it, and less than would keep the end itself from arriving.
    client.write_all(&b"PING\r\n".repeat(20_000)).await.unwrap();
    // Until the proxy has read what it will.
    sleep(Duration::from_millis(300)).await;
    assert_eq!(heard.try_recv(), Err(TryRecvError::Empty), "nobody has given up yet");
    drop(client);
    until_heard(&mut heard, "the wait is broken off", |(_, words)| words.contains("UNBLOCK")).await;
    // As the node does not say anything to that.
    until_heard(&mut heard, "the connection that it waited on is closed", |it| *it == (waiting, String::new())).await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_reply_does_not_wait_long_for_others_of_its_pipeline() {
    let (port, _heard) = node().await;
    let source = Source::Nodes(vec![format!("127.0.0.1:{port}").parse().unwrap()]);
    let config =
        Config { workers: 1, timeout: PATIENCE / 2, ..Config::new(source, ListenAddr::Tcp("127.0.0.1:0".parse().unwrap())) };
    let proxy = Proxy::start(config).await.unwrap();
    let ListenAddr::Tcp(address) = &proxy.listening()[0] else { panic!("asked for TCP") };
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"PING\r\nGET k\r\n").await.unwrap();
    let mut got = [0; 4096];
    let len = timeout(PATIENCE, client.read(&mut got)).await.expect("in time").unwrap();
    // Had it waited for the other one, that one's error would be behind it.
    assert_eq!(&got[..len], b"+PONG\r\n");
    proxy.stop().await;
}

/// A node that says OK to how its connections are set up, and reads nothing else until it is told to. Returns how the first
/// connection ended.
async fn node_that_reads_late(go_on: oneshot::Receiver<()>) -> (u16, JoinHandle<io::Result<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let read = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(SET_UP).await.unwrap();
        go_on.await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await
    });
    (port, read)
}

#[tokio::test]
async fn what_a_node_was_to_get_does_not_come_after_it_was_given_up() {
    for io_uring in [false, true] {
        let (go_on, told) = oneshot::channel();
        let (port, read) = node_that_reads_late(told).await;
        let source = Source::Nodes(vec![format!("127.0.0.1:{port}").parse().unwrap()]);
        let listen = ListenAddr::Tcp("127.0.0.1:0".parse().unwrap());
        let config = Config { workers: 1, io_uring, timeout: Duration::from_secs(2), ..Config::new(source, listen) };
        let proxy = Proxy::start(config).await.unwrap();
        let ListenAddr::Tcp(address) = &proxy.listening()[0] else { panic!("asked for TCP") };
        let mut client = TcpStream::connect(address).await.unwrap();
        // More than the node's end takes in unread.
        let value = vec![b'x'; 32 << 20];
        let request = [format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n", value.len()).as_bytes(), &value, b"\r\n"].concat();
        client.write_all(&request).await.unwrap();
        let mut got = vec![0; 4096];
        let len = timeout(PATIENCE, client.read(&mut got)).await.expect("in time").unwrap();
        assert!(got[..len].starts_with(b"-NODEDOWN"), "{}", String::from_utf8_lossy(&got[..len]));
        go_on.send(()).unwrap();
        let end = timeout(PATIENCE, read).await.expect("in time").unwrap();
        assert!(matches!(&end, Err(error) if error.kind() == io::ErrorKind::ConnectionReset), "io_uring {io_uring}: {end:?}");
        proxy.stop().await;
    }
}
