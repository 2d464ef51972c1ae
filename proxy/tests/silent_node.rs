//! A running proxy beside a node that never answers: who leaves, and who waits for what.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{sleep, timeout},
};
use vrc_proxy::{Config, ListenAddr, Proxy, Source};

/// Far longer than anything here takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node that says OK to how its connections are set up, nothing to anything else, and tells of each connection that ends.
async fn node() -> (u16, mpsc::UnboundedReceiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (ended, endings) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let ended = ended.clone();
            tokio::spawn(async move {
                stream.write_all(b"+OK\r\n").await.unwrap();
                while stream.read(&mut [0; 4096]).await.is_ok_and(|len| len > 0) {}
                let _ = ended.send(());
            });
        }
    });
    (port, endings)
}

#[tokio::test]
async fn who_waits_for_data_and_leaves_with_much_unread_does_not_wait_on() {
    let (port, mut endings) = node().await;
    let source = Source::Nodes(vec![format!("127.0.0.1:{port}").parse().unwrap()]);
    let config = Config { workers: 1, ..Config::new(source, ListenAddr::Tcp("127.0.0.1:0".parse().unwrap())) };
    let proxy = Proxy::start(config).await.unwrap();
    let ListenAddr::Tcp(address) = &proxy.listening()[0] else { panic!("asked for TCP") };
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"BLPOP q 0\r\n").await.unwrap();
    // More than the proxy keeps of what is said behind it, and less than would keep the end itself from arriving.
    client.write_all(&b"PING\r\n".repeat(20_000)).await.unwrap();
    // Until the proxy has read what it will.
    sleep(Duration::from_millis(300)).await;
    assert!(endings.try_recv().is_err());
    drop(client);
    timeout(PATIENCE, endings.recv()).await.expect("the connection that it waited on is closed").unwrap();
    proxy.stop().await;
}

#[tokio::test]
async fn a_reply_does_not_wait_long_for_others_of_its_pipeline() {
    let (port, _endings) = node().await;
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
