//! The io_uring driver in front of a real redis. Where the kernel allows no io_uring, the same must hold of what stands in for it.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use vrc_agent::spawn::{RedisProcess, SpawnOptions};
use vrc_proxy::{Config, ListenAddr, Proxy, Source};

/// Far longer than anything here takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Rig {
    proxy: Proxy,
    nodes: Vec<RedisProcess>,
}

impl Rig {
    async fn start(nodes: usize) -> Self {
        let mut started = Vec::new();
        for _ in 0..nodes {
            started.push(RedisProcess::start(&SpawnOptions::default()).await.unwrap());
        }
        let fixed = started.iter().map(|node| format!("127.0.0.1:{}", node.port()).parse().unwrap()).collect();
        let listen = ListenAddr::Tcp("127.0.0.1:0".parse().unwrap());
        let config = Config { workers: 1, io_uring: true, ..Config::new(Source::Nodes(fixed), listen) };
        Rig { proxy: Proxy::start(config).await.unwrap(), nodes: started }
    }

    async fn client(&self) -> TcpStream {
        let ListenAddr::Tcp(address) = &self.proxy.listening()[0] else { panic!("asked for TCP") };
        TcpStream::connect(address).await.unwrap()
    }

    async fn stop(self) {
        self.proxy.stop().await;
        for node in self.nodes {
            node.stop().await.unwrap();
        }
    }
}

async fn expect(client: &mut TcpStream, wanted: &[u8]) {
    let mut got = vec![0; wanted.len()];
    timeout(PATIENCE, client.read_exact(&mut got)).await.expect("in time").unwrap();
    assert!(got == wanted, "{:?}", String::from_utf8_lossy(&got[..got.len().min(200)]));
}

fn set(key: &str, value: &[u8]) -> Vec<u8> {
    [format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n", key.len(), value.len()).as_bytes(), value, b"\r\n"].concat()
}

fn bulk(value: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat()
}

#[tokio::test]
async fn pipelines_of_many_clients_are_answered_in_order() {
    let rig = Rig::start(3).await;
    let mut clients = Vec::new();
    for number in 0..50 {
        let mut client = rig.client().await;
        let asks: Vec<u8> = (0..200)
            .flat_map(|key| {
                [set(&format!("{number}:{key}"), key.to_string().as_bytes()), format!("GET {number}:{key}\r\n").into()]
            })
            .flatten()
            .collect();
        client.write_all(&asks).await.unwrap();
        clients.push(client);
    }
    let answers: Vec<u8> =
        (0..200).flat_map(|key: i32| [b"+OK\r\n".to_vec(), bulk(key.to_string().as_bytes())]).flatten().collect();
    for client in &mut clients {
        expect(client, &answers).await;
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_large_value_passes_and_a_client_that_does_not_read_holds_up_nobody() {
    let rig = Rig::start(2).await;
    let large: Vec<u8> = (0..20 << 20).map(|at: u32| (at % 251) as u8).collect();
    let mut slow = rig.client().await;
    slow.write_all(&set("large", &large)).await.unwrap();
    expect(&mut slow, b"+OK\r\n").await;
    for _ in 0..3 {
        slow.write_all(b"GET large\r\n").await.unwrap();
    }
    let mut other = rig.client().await;
    for number in 0..500 {
        other.write_all(&set("k", format!("{number}").as_bytes())).await.unwrap();
        expect(&mut other, b"+OK\r\n").await;
    }
    for _ in 0..3 {
        expect(&mut slow, &bulk(&large)).await;
    }
    rig.stop().await;
}

#[tokio::test]
async fn who_says_no_more_is_answered_and_who_leaves_is_forgotten() {
    let rig = Rig::start(1).await;
    let mut client = rig.client().await;
    client.write_all(b"SET a 1\r\nGET a\r\n").await.unwrap();
    client.shutdown().await.unwrap();
    let mut all = Vec::new();
    timeout(PATIENCE, client.read_to_end(&mut all)).await.expect("in time").unwrap();
    assert_eq!(all, b"+OK\r\n$1\r\n1\r\n");
    // One that leaves while it waits for data: what comes then is for others.
    let mut waiting = rig.client().await;
    waiting.write_all(b"BLPOP q 0\r\n").await.unwrap();
    let mut other = rig.client().await;
    let blocked = async |other: &mut TcpStream, clients: &str| {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            other.write_all(b"INFO clients\r\n").await.unwrap();
            let mut text = vec![0; 64 * 1024];
            let len = timeout(PATIENCE, other.read(&mut text)).await.expect("in time").unwrap();
            if String::from_utf8_lossy(&text[..len]).contains(&format!("blocked_clients:{clients}\r\n")) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "not {clients} blocked clients");
        }
    };
    blocked(&mut other, "1").await;
    drop(waiting);
    blocked(&mut other, "0").await;
    other.write_all(b"RPUSH q v\r\nLLEN q\r\n").await.unwrap();
    expect(&mut other, b":1\r\n:1\r\n").await;
    rig.stop().await;
}

#[tokio::test]
async fn a_node_that_dies_is_an_error_and_is_found_again() {
    let mut rig = Rig::start(1).await;
    let mut client = rig.client().await;
    client.write_all(&set("a", b"1")).await.unwrap();
    expect(&mut client, b"+OK\r\n").await;
    let node = rig.nodes.pop().unwrap();
    let port = node.port();
    node.stop().await.unwrap();
    client.write_all(b"GET a\r\n").await.unwrap();
    expect(&mut client, b"-NODEDOWN node ").await;
    rig.nodes.push(RedisProcess::start(&SpawnOptions { port: Some(port), ..SpawnOptions::default() }).await.unwrap());
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let mut again = rig.client().await;
        again.write_all(b"GET a\r\n").await.unwrap();
        let mut text = vec![0; 1024];
        let len = timeout(PATIENCE, again.read(&mut text)).await.expect("in time").unwrap();
        if &text[..len] == b"$-1\r\n" {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{}", String::from_utf8_lossy(&text[..len]));
    }
    rig.stop().await;
}
