//! What moves a worker's bytes, by readiness and by io_uring, in front of real redis servers. Where the kernel allows no io_uring, what
//! stands in for it is tested twice.

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
    async fn start(nodes: usize, io_uring: bool) -> Self {
        let mut started = Vec::new();
        for _ in 0..nodes {
            started.push(RedisProcess::start(&SpawnOptions::default()).await.unwrap());
        }
        let fixed = started.iter().map(|node| format!("127.0.0.1:{}", node.port()).parse().unwrap()).collect();
        let listen = ListenAddr::Tcp("127.0.0.1:0".parse().unwrap());
        let config = Config { workers: 1, io_uring, timeout: PATIENCE, ..Config::new(Source::Nodes(fixed), listen) };
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

/// Ends a connection, and waits until the kernel has brought that to the other side, behind whatever was said before.
async fn hang_up(mut client: TcpStream) {
    // Both: to another peer somebody else may connect from the same port.
    let addresses = [client.local_addr(), client.peer_addr()].map(|address| format!("0100007F:{:04X}", address.unwrap().port()));
    client.shutdown().await.unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    // Established, and an end that is not confirmed yet.
    while std::fs::read_to_string("/proc/net/tcp").unwrap().lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next() == Some(&addresses[0]) && fields.next() == Some(&addresses[1]) && matches!(fields.next(), Some("01" | "04"))
    }) {
        assert!(tokio::time::Instant::now() < deadline, "the end does not arrive");
        tokio::task::yield_now().await;
    }
}

/// Asks until the answer, which comes in one piece, has this in it.
async fn until_answer(client: &mut TcpStream, line: &str, wanted: &str) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        client.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
        let mut text = vec![0; 64 * 1024];
        let len = timeout(PATIENCE, client.read(&mut text)).await.expect("in time").unwrap();
        let text = String::from_utf8_lossy(&text[..len]);
        if text.contains(wanted) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{line}: not {wanted:?} but {text}");
    }
}

fn set(key: &str, value: &[u8]) -> Vec<u8> {
    [format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n", key.len(), value.len()).as_bytes(), value, b"\r\n"].concat()
}

fn bulk(value: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat()
}

async fn pipelines_of_many_clients_are_answered_in_order(io_uring: bool) {
    let rig = Rig::start(3, io_uring).await;
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

async fn a_large_value_passes_and_a_client_that_does_not_read_holds_up_nobody(io_uring: bool) {
    let rig = Rig::start(2, io_uring).await;
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

async fn who_says_no_more_is_answered_and_who_leaves_is_forgotten(io_uring: bool) {
    let rig = Rig::start(1, io_uring).await;
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
    until_answer(&mut other, "INFO clients", "blocked_clients:1\r\n").await;
    drop(waiting);
    until_answer(&mut other, "INFO clients", "blocked_clients:0\r\n").await;
    other.write_all(b"RPUSH q v\r\nLLEN q\r\n").await.unwrap();
    expect(&mut other, b":1\r\n:1\r\n").await;
    rig.stop().await;
}

/// A client hangs up, and then comes what it waited for, before the worker has looked at either: that is not lost with it.
async fn what_comes_for_who_has_hung_up_stays(io_uring: bool) {
    let rig = Rig::start(1, io_uring).await;
    let (mut busy, mut other) = (rig.client().await, rig.client().await);
    let mut node = TcpStream::connect(("127.0.0.1", rig.nodes[0].port())).await.unwrap();
    for number in 0..200 {
        let mut waiting = rig.client().await;
        waiting.write_all(b"BLPOP q 0\r\n").await.unwrap();
        until_answer(&mut other, "INFO clients", "blocked_clients:1\r\n").await;
        busy.write_all(&b"PING\r\n".repeat(2_000)).await.unwrap();
        if number % 2 == 0 {
            // Nor if it had said so much more meanwhile that not all of it is read before its turn.
            waiting.write_all(&b"PING\r\n".repeat(12_000)).await.unwrap();
        }
        hang_up(waiting).await;
        node.write_all(format!("RPUSH q {number}\r\n").as_bytes()).await.unwrap();
        expect(&mut node, b":1\r\n").await;
        expect(&mut busy, &b"+PONG\r\n".repeat(2_000)).await;
        until_answer(&mut other, "LLEN q", ":1\r\n").await;
        other.write_all(b"LPOP q\r\n").await.unwrap();
        expect(&mut other, &bulk(number.to_string().as_bytes())).await;
    }
    rig.stop().await;
}

async fn a_node_that_dies_is_an_error_and_is_found_again(io_uring: bool) {
    let mut rig = Rig::start(1, io_uring).await;
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

/// What a client says in one go with its end, before anybody looks, is answered; one that resets its connection costs nobody anything.
async fn an_end_that_comes_with_the_last_words_is_seen(io_uring: bool) {
    let rig = Rig::start(1, io_uring).await;
    let ListenAddr::Tcp(address) = rig.proxy.listening()[0].clone() else { panic!("asked for TCP") };
    for number in 0..50 {
        let mut all = Vec::new();
        let mut client = tokio::task::spawn_blocking(move || {
            use std::io::Write;
            let mut client = std::net::TcpStream::connect(address).unwrap();
            client.write_all(format!("SET k {number}\r\nGET k\r\n").as_bytes()).unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            client.set_nonblocking(true).unwrap();
            client
        })
        .await
        .map(|client| TcpStream::from_std(client).unwrap())
        .unwrap();
        timeout(PATIENCE, client.read_to_end(&mut all)).await.expect("in time").unwrap();
        assert_eq!(all, [b"+OK\r\n".to_vec(), bulk(number.to_string().as_bytes())].concat());
        // This one has not read its answers: closing it resets the connection.
        let mut rude = rig.client().await;
        rude.write_all(b"GET k\r\nBLPOP none 0\r\n").await.unwrap();
        rude.readable().await.unwrap();
        rude.set_zero_linger().unwrap();
    }
    let mut client = rig.client().await;
    until_answer(&mut client, "INFO clients", "connected_clients:1\r\n").await;
    rig.stop().await;
}

async fn clients_of_a_unix_socket_are_served_alike(io_uring: bool) {
    let node = RedisProcess::start(&SpawnOptions::default()).await.unwrap();
    let path = std::env::temp_dir().join(format!("vrc-drivers-{}-{io_uring}.sock", std::process::id()));
    let fixed = vec![format!("127.0.0.1:{}", node.port()).parse().unwrap()];
    let listen = ListenAddr::Unix(path.clone());
    let config = Config { workers: 1, io_uring, timeout: PATIENCE, ..Config::new(Source::Nodes(fixed), listen) };
    let proxy = Proxy::start(config).await.unwrap();
    let large: Vec<u8> = (0..2 << 20).map(|at: u32| (at % 251) as u8).collect();
    let mut client = tokio::net::UnixStream::connect(&path).await.unwrap();
    // Far more than a unix socket holds at a time, both ways.
    let (mut reads, mut writes) = client.split();
    let said = [set("k", &large), b"GET k\r\nGET k\r\n".to_vec()].concat();
    let expected = [b"+OK\r\n".to_vec(), bulk(&large), bulk(&large)].concat();
    let mut got = vec![0; expected.len()];
    let (wrote, read) =
        timeout(PATIENCE, async { tokio::join!(writes.write_all(&said), reads.read_exact(&mut got)) }).await.expect("in time");
    wrote.unwrap();
    read.unwrap();
    assert!(got == expected);
    proxy.stop().await;
    node.stop().await.unwrap();
}

macro_rules! by_both_drivers {
    ($($test:ident),* $(,)?) => {
        mod by_readiness {
            $(#[tokio::test]
            async fn $test() {
                super::$test(false).await;
            })*
        }

        mod by_io_uring {
            $(#[tokio::test]
            async fn $test() {
                super::$test(true).await;
            })*
        }
    };
}

by_both_drivers! {
    pipelines_of_many_clients_are_answered_in_order,
    a_large_value_passes_and_a_client_that_does_not_read_holds_up_nobody,
    who_says_no_more_is_answered_and_who_leaves_is_forgotten,
    what_comes_for_who_has_hung_up_stays,
    a_node_that_dies_is_an_error_and_is_found_again,
    an_end_that_comes_with_the_last_words_is_seen,
    clients_of_a_unix_socket_are_served_alike,
}
