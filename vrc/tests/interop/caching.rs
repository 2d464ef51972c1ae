//! Client-side caching and keyspace notifications through the proxy, with real nodes: bytes in, bytes out, no library in between.

use std::collections::BTreeSet;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use vrc_cluster::resp::{ReplyFramer, array_elements};

use crate::servers::{FixedCluster, connect};

/// A client that speaks in lines and takes whole replies.
struct Talk {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Talk {
    async fn start(port: u16, greeting: &[&str]) -> Self {
        let mut talk = Talk { stream: TcpStream::connect(("127.0.0.1", port)).await.unwrap(), input: Vec::new() };
        for line in greeting {
            let reply = talk.ask(line).await;
            assert!(!reply.starts_with('-'), "{line}: {reply}");
        }
        talk
    }

    async fn say(&mut self, lines: &str) {
        self.stream.write_all(format!("{lines}\r\n").as_bytes()).await.unwrap();
    }

    async fn ask(&mut self, line: &str) -> String {
        self.say(line).await;
        self.next().await
    }

    /// The next reply or push.
    async fn next(&mut self) -> String {
        let mut framer = ReplyFramer::default();
        loop {
            if let Some(len) = framer.advance(&self.input).unwrap() {
                return String::from_utf8(self.input.drain(..len).collect()).unwrap();
            }
            assert!(self.stream.read_buf(&mut self.input).await.unwrap() > 0, "closed");
        }
    }

    /// The keys of the next invalidation.
    async fn invalidated(&mut self) -> Vec<String> {
        let push = self.next().await;
        let array = array_elements(push.as_bytes()).unwrap().last().unwrap();
        assert!(push.contains("invalidate"), "{push}");
        let keys = array_elements(array).unwrap();
        keys.map(|key| std::str::from_utf8(key).unwrap().lines().nth(1).unwrap().to_owned()).collect()
    }

    async fn invalidated_all(&mut self, mut keys: BTreeSet<String>) {
        while !keys.is_empty() {
            for key in self.invalidated().await {
                assert!(keys.remove(&key), "{key} is told of, but not expected");
            }
        }
    }
}

fn keys(count: usize) -> BTreeSet<String> {
    (0..count).map(|number| format!("key:{number}")).collect()
}

fn words(keys: &BTreeSet<String>) -> String {
    keys.iter().map(String::as_str).collect::<Vec<_>>().join(" ")
}

fn number(reply: &str) -> &str {
    reply.trim_start_matches(':').trim_end()
}

#[tokio::test]
async fn changes_reach_whoever_has_read() {
    let cluster = FixedCluster::start().await;
    let mut writer = Talk::start(cluster.port, &[]).await;
    let all = keys(100);
    // Clients of both workers, in every mode.
    for round in 0..2 {
        let mut plain = Talk::start(cluster.port, &["HELLO 3", "CLIENT TRACKING ON"]).await;
        let mut own = Talk::start(cluster.port, &["HELLO 3", "CLIENT TRACKING ON NOLOOP"]).await;
        let mut broadcast = Talk::start(cluster.port, &["HELLO 3", "CLIENT TRACKING ON BCAST PREFIX key:"]).await;
        let mut listener = Talk::start(cluster.port, &["HELLO 3"]).await;
        let id = listener.ask("CLIENT ID").await;
        let mut old = Talk::start(cluster.port, &[&format!("CLIENT TRACKING ON REDIRECT {}", number(&id))]).await;
        for reader in [&mut plain, &mut own, &mut old] {
            reader.ask(&format!("MGET {}", words(&all))).await;
        }
        for key in &all {
            assert_eq!(writer.ask(&format!("SET {key} {round}")).await, "+OK\r\n");
        }
        for reader in [&mut plain, &mut own, &mut broadcast, &mut listener] {
            reader.invalidated_all(all.clone()).await;
        }
        // Its own write, with and without NOLOOP.
        plain.ask("GET key:1").await;
        assert_eq!(plain.ask("SET key:1 x").await, "+OK\r\n");
        assert_eq!(plain.invalidated().await, ["key:1"]);
        assert_eq!(broadcast.invalidated().await, ["key:1"]);
        own.ask("GET key:2").await;
        assert_eq!(own.ask("SET key:2 x").await, "+OK\r\n");
        own.ask("GET key:3").await;
        assert_eq!(writer.ask("SET key:3 x").await, "+OK\r\n");
        assert_eq!(own.invalidated().await, ["key:3"]);
        // A client of RESP2 is told by a message, by whichever worker.
        let mut old_listener = Talk::start(cluster.port, &[]).await;
        let id = old_listener.ask("CLIENT ID").await;
        old_listener.ask("SUBSCRIBE __redis__:invalidate").await;
        assert_eq!(old.ask(&format!("CLIENT TRACKING ON REDIRECT {}", number(&id))).await, "+OK\r\n");
        old.ask("GET key:4").await;
        writer.ask("SET key:4 x").await;
        assert_eq!(old_listener.next().await, "*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n*1\r\n$5\r\nkey:4\r\n");
    }
    cluster.stop().await;
}

#[tokio::test]
async fn what_was_written_before_a_ping_is_told_before_its_answer() {
    let cluster = FixedCluster::start().await;
    for mode in ["", " BCAST"] {
        let mut writer = Talk::start(cluster.port, &[]).await;
        let mut reader = Talk::start(cluster.port, &["HELLO 3", &format!("CLIENT TRACKING ON{mode}")]).await;
        for round in 0..200 {
            let key = format!("key:{}", round % 16);
            reader.ask(&format!("GET {key}")).await;
            assert_eq!(writer.ask(&format!("SET {key} {round}")).await, "+OK\r\n");
            reader.say("PING").await;
            assert_eq!(reader.invalidated().await, [key]);
            assert_eq!(reader.next().await, "+PONG\r\n");
        }
    }
    cluster.stop().await;
}

#[tokio::test]
async fn a_node_that_dies_invalidates_what_was_read_there() {
    let mut cluster = FixedCluster::start().await;
    let all = keys(100);
    let mut plain = Talk::start(cluster.port, &["HELLO 3", "CLIENT TRACKING ON"]).await;
    let mut broadcast = Talk::start(cluster.port, &["HELLO 3", "CLIENT TRACKING ON BCAST"]).await;
    plain.ask(&format!("MGET {}", words(&all))).await;
    cluster.stop_node().await;
    let gone = plain.invalidated().await;
    assert!(!gone.is_empty() && gone.len() < all.len(), "only that node's: {gone:?}");
    assert_eq!(broadcast.next().await, ">2\r\n$10\r\ninvalidate\r\n_\r\n");
    for key in &gone {
        assert!(plain.ask(&format!("GET {key}")).await.starts_with("-NODEDOWN"));
    }
    // What the others have is tracked as before.
    let other = all.iter().find(|key| !gone.contains(key)).unwrap();
    Talk::start(cluster.port, &[&format!("SET {other} 1")]).await;
    assert_eq!(plain.invalidated().await, [other.as_str()]);
    cluster.stop().await;
}

#[tokio::test]
async fn notifications_come_from_every_node() {
    let cluster = FixedCluster::start().await;
    for port in cluster.node_ports() {
        let set =
            redis::cmd("CONFIG").arg("SET").arg("notify-keyspace-events").arg("KEA").exec_async(&mut connect(port).await).await;
        set.unwrap();
    }
    let all = keys(40);
    let mut by_event = Talk::start(cluster.port, &["HELLO 3", "PSUBSCRIBE __keyevent@*__:set"]).await;
    let mut by_key = Talk::start(cluster.port, &["HELLO 3", "SUBSCRIBE __keyspace@2__:key:7"]).await;
    let mut writer = Talk::start(cluster.port, &["SELECT 2"]).await;
    for key in &all {
        writer.ask(&format!("SET {key} 1")).await;
    }
    let mut left = all.clone();
    while !left.is_empty() {
        let message = by_event.next().await;
        let lines: Vec<_> = message.lines().collect();
        assert_eq!((lines[2], lines[6]), ("pmessage", "__keyevent@2__:set"), "{message}");
        assert!(left.remove(lines[8]), "{message} twice");
    }
    assert_eq!(by_key.next().await, ">3\r\n$7\r\nmessage\r\n$20\r\n__keyspace@2__:key:7\r\n$3\r\nset\r\n");
    assert_eq!(by_key.ask("PUBSUB NUMSUB __keyspace@2__:key:7").await, "*2\r\n$20\r\n__keyspace@2__:key:7\r\n:1\r\n");
    assert_eq!(by_key.ask("PUBSUB CHANNELS").await, "*1\r\n$20\r\n__keyspace@2__:key:7\r\n");
    cluster.stop().await;
}
