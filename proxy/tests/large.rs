//! What is large: the longest value that redis takes, and a pipeline that nobody waits for the end of.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use vrc_agent::spawn::{RedisProcess, SpawnOptions};
use vrc_proxy::{Config, ListenAddr, Proxy, Source};

/// Redis's own limit, `proto-max-bulk-len`.
const VALUE_BYTES: usize = 512 * 1024 * 1024;
const PIPELINED: usize = 100_000;

async fn start() -> (Proxy, Vec<RedisProcess>, TcpStream) {
    let mut nodes = Vec::new();
    for _ in 0..2 {
        nodes.push(RedisProcess::start(&SpawnOptions::default()).await.unwrap());
    }
    let list = nodes.iter().map(|node| format!("{}:{}", node.host(), node.port()).parse().unwrap()).collect();
    let listen = ListenAddr::Tcp("127.0.0.1:0".parse().unwrap());
    // How long it takes depends on the machine.
    let timeout = Duration::from_secs(120);
    let proxy = Proxy::start(Config { workers: 1, timeout, ..Config::new(Source::Nodes(list), listen) }).await.unwrap();
    let ListenAddr::Tcp(address) = proxy.listening()[0].clone() else { unreachable!("it was told a TCP address") };
    let client = TcpStream::connect(address).await.unwrap();
    (proxy, nodes, client)
}

async fn stop(proxy: Proxy, nodes: Vec<RedisProcess>) {
    proxy.stop().await;
    for node in nodes {
        node.stop().await.unwrap();
    }
}

/// The bytes of the value from here on; no part of it looks like another.
fn piece(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|at| (at ^ at >> 8 ^ at >> 16) as u8).collect()
}

async fn expect(client: &mut TcpStream, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    client.read_exact(&mut got).await.unwrap();
    assert!(got == expected, "got {}", got[..got.len().min(100)].escape_ascii());
}

#[tokio::test]
async fn the_longest_value_passes_both_ways() {
    const STEP: usize = 1024 * 1024;
    let (proxy, nodes, mut client) = start().await;
    client.write_all(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${VALUE_BYTES}\r\n").as_bytes()).await.unwrap();
    for from in (0..VALUE_BYTES).step_by(STEP) {
        client.write_all(&piece(from, STEP)).await.unwrap();
    }
    client.write_all(b"\r\nSTRLEN k\r\nGET k\r\nPING\r\n").await.unwrap();
    expect(&mut client, format!("+OK\r\n:{VALUE_BYTES}\r\n${VALUE_BYTES}\r\n").as_bytes()).await;
    for from in (0..VALUE_BYTES).step_by(STEP) {
        expect(&mut client, &piece(from, STEP)).await;
    }
    expect(&mut client, b"\r\n+PONG\r\n").await;
    stop(proxy, nodes).await;
}

#[tokio::test]
async fn a_long_pipeline_is_answered_in_order_while_it_is_written() {
    let (proxy, nodes, client) = start().await;
    let (mut reader, mut writer) = client.into_split();
    let writing = tokio::spawn(async move {
        for number in 0..PIPELINED {
            // Some for one node, some for both, some for none.
            let line = match number % 4 {
                0 => format!("SET key{} {number}\r\n", number % 1000),
                1 => format!("MSET a{number} 1 b{number} 2 c{number} 3\r\n"),
                2 => format!("ECHO {number}\r\n"),
                _ => format!("GET key{}\r\n", (number - 3) % 1000),
            };
            writer.write_all(line.as_bytes()).await.unwrap();
        }
        writer
    });
    let mut expected = Vec::new();
    for number in 0..PIPELINED {
        match number % 4 {
            0 | 1 => expected.extend_from_slice(b"+OK\r\n"),
            2 => expected.extend_from_slice(format!("${}\r\n{number}\r\n", number.to_string().len()).as_bytes()),
            _ => {
                let text = (number - 3).to_string();
                expected.extend_from_slice(format!("${}\r\n{text}\r\n", text.len()).as_bytes());
            }
        }
    }
    let mut got = vec![0; expected.len()];
    reader.read_exact(&mut got).await.unwrap();
    let same = got.iter().zip(&expected).take_while(|(got, expected)| got == expected).count();
    assert!(same == expected.len(), "from byte {same}: {}", got[same..(same + 60).min(got.len())].escape_ascii());
    drop(writing.await.unwrap());
    stop(proxy, nodes).await;
}
