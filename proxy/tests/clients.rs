//! CLIENT across workers, in front of real redis servers: waits that are ended from outside, pauses, and the end of connections.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use vrc_agent::spawn::{RedisProcess, SpawnOptions};
use vrc_proxy::{Config, ListenAddr, Proxy, Source};

/// Far longer than anything here takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

struct Cluster {
    proxy: Proxy,
    nodes: Vec<RedisProcess>,
}

impl Cluster {
    /// Two nodes, and as many workers, so that clients of different workers meet.
    async fn start() -> Self {
        let mut nodes = Vec::new();
        for _ in 0..2 {
            nodes.push(RedisProcess::start(&SpawnOptions::default()).await.unwrap());
        }
        let list = nodes.iter().map(|node| format!("{}:{}", node.host(), node.port()).parse().unwrap()).collect();
        let listen = ListenAddr::Tcp("127.0.0.1:0".parse().unwrap());
        let proxy = Proxy::start(Config { workers: 2, ..Config::new(Source::Nodes(list), listen) }).await.unwrap();
        Cluster { proxy, nodes }
    }

    fn address(&self) -> SocketAddr {
        match &self.proxy.listening()[0] {
            ListenAddr::Tcp(address) => *address,
            other => panic!("{other}"),
        }
    }

    async fn client(&self) -> Client {
        let stream = TcpStream::connect(self.address()).await.unwrap();
        let mut client = Client { stream, id: 0 };
        client.id = client.ask("CLIENT ID").await.trim_start_matches(':').trim().parse().unwrap();
        client
    }

    /// Waits until CLIENT LIST shows a client with these flags.
    async fn until_flags(&self, asker: &mut Client, of: &Client, flags: &str) {
        let flags = format!(" flags={flags} ");
        until_reply(asker, &format!("CLIENT LIST ID {}", of.id), |list| list.contains(&flags)).await;
    }

    /// Waits until no node has a client that waits for data: a killed client hears of its end before its node does.
    async fn until_nobody_waits(&self) {
        for node in &self.nodes {
            let stream = TcpStream::connect((node.host(), node.port())).await.unwrap();
            let mut direct = Client { stream, id: 0 };
            until_reply(&mut direct, "INFO clients", |info| info.contains("blocked_clients:0\r\n")).await;
        }
    }

    async fn stop(self) {
        self.proxy.stop().await;
        for node in self.nodes {
            node.stop().await.unwrap();
        }
    }
}

struct Client {
    stream: TcpStream,
    id: u64,
}

impl Client {
    async fn say(&mut self, line: &str) {
        self.stream.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
    }

    /// What comes next, whole enough to be a reply.
    async fn hear(&mut self) -> String {
        let mut got = Vec::new();
        loop {
            let len = timeout(PATIENCE, self.stream.read_buf(&mut got)).await.expect("in time").unwrap();
            let text = String::from_utf8_lossy(&got);
            let whole = match text.split_once("\r\n") {
                Some((head, rest)) if head.starts_with('$') && head != "$-1" => {
                    rest.len() == head[1..].parse::<usize>().unwrap() + 2
                }
                Some((head, rest)) if head.starts_with('*') && head != "*-1" => {
                    rest.matches("\r\n").count() >= 2 * head[1..].parse::<usize>().unwrap()
                }
                Some(_) => true,
                None => false,
            };
            if len == 0 || whole {
                return text.into_owned();
            }
        }
    }

    async fn ask(&mut self, line: &str) -> String {
        self.say(line).await;
        self.hear().await
    }
}

#[tokio::test]
async fn waits_are_ended_as_by_their_time_or_with_an_error() {
    let cluster = Cluster::start().await;
    let mut asker = cluster.client().await;
    for (wait, timed_out) in [
        ("BLPOP q 0", "*-1\r\n"),
        ("BLMOVE {q}a {q}b LEFT LEFT 0", "*-1\r\n"),
        ("BZPOPMIN z 0", "*-1\r\n"),
        ("XREAD BLOCK 0 STREAMS s $", "*-1\r\n"),
        ("WAIT 1 0", ":0\r\n"),
    ] {
        let mut waiter = cluster.client().await;
        for (reason, reply) in
            [("", timed_out), (" TIMEOUT", timed_out), (" ERROR", "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n")]
        {
            waiter.say(wait).await;
            cluster.until_flags(&mut asker, &waiter, "b").await;
            assert_eq!(asker.ask(&format!("CLIENT UNBLOCK {}{reason}", waiter.id)).await, ":1\r\n");
            assert_eq!(waiter.hear().await, reply, "{wait}{reason}");
            assert_eq!(asker.ask(&format!("CLIENT UNBLOCK {}{reason}", waiter.id)).await, ":0\r\n");
        }
    }
    cluster.stop().await;
}

/// However an element and the end of a wait meet, the element is either with the client or still in its list.
#[tokio::test]
async fn no_element_is_lost_when_a_wait_is_ended() {
    let cluster = Cluster::start().await;
    let (mut asker, mut pusher, mut waiter) = (cluster.client().await, cluster.client().await, cluster.client().await);
    for round in 0..100 {
        waiter.say("BLPOP q 0").await;
        cluster.until_flags(&mut asker, &waiter, "b").await;
        let unblock = format!("CLIENT UNBLOCK {}", waiter.id);
        let push = format!("RPUSH q {round}");
        tokio::join!(pusher.ask(&push), asker.ask(&unblock));
        let got = waiter.hear().await;
        let left = asker.ask("LPOP q").await;
        let value = format!("\r\n{round}\r\n");
        assert!(got.ends_with(&value) ^ left.ends_with(&value), "got {got:?}, left {left:?}");
    }
    cluster.stop().await;
}

#[tokio::test]
async fn a_pause_is_for_the_clients_of_all_workers_and_ends_in_time() {
    let cluster = Cluster::start().await;
    let mut admin = cluster.client().await;
    assert_eq!(admin.ask("CLIENT PAUSE 100000 WRITE").await, "+OK\r\n");
    let mut writers = Vec::new();
    for number in 0..4 {
        let mut writer = cluster.client().await;
        assert_eq!(writer.ask("GET k").await, "$-1\r\n");
        writer.say(&format!("SET k{number} v")).await;
        cluster.until_flags(&mut admin, &writer, "b").await;
        writers.push(writer);
    }
    assert_eq!(admin.ask(&format!("CLIENT UNBLOCK {}", writers[0].id)).await, ":0\r\n", "that is no wait of its own");
    assert_eq!(admin.ask("CLIENT UNPAUSE").await, "+OK\r\n");
    for writer in &mut writers {
        assert_eq!(writer.hear().await, "+OK\r\n");
    }
    // One that ends by itself.
    assert_eq!(admin.ask("CLIENT PAUSE 20").await, "+OK\r\n");
    assert_eq!(writers[0].ask("SET k v").await, "+OK\r\n");
    cluster.stop().await;
}

#[tokio::test]
async fn clients_of_all_workers_are_killed() {
    let cluster = Cluster::start().await;
    let mut admin = cluster.client().await;
    let mut others = Vec::new();
    for _ in 0..4 {
        others.push(cluster.client().await);
    }
    others[0].say("BLPOP q 0").await;
    cluster.until_flags(&mut admin, &others[0], "b").await;
    let address = others[1].stream.local_addr().unwrap();
    assert_eq!(admin.ask(&format!("CLIENT KILL {address}")).await, "+OK\r\n");
    assert_eq!(others[1].hear().await, "");
    assert_eq!(admin.ask(&format!("CLIENT KILL ID {}", others[2].id)).await, ":1\r\n");
    assert_eq!(others[2].hear().await, "");
    assert_eq!(admin.ask("CLIENT KILL TYPE normal").await, ":2\r\n");
    assert_eq!(others[0].hear().await, "");
    assert_eq!(others[3].hear().await, "");
    cluster.until_nobody_waits().await;
    assert_eq!(admin.ask("RPUSH q x").await, ":1\r\n");
    assert_eq!(admin.ask("LLEN q").await, ":1\r\n", "nobody waits for it any more");
    assert_eq!(admin.ask("CLIENT KILL SKIPME no USER default").await, ":1\r\n");
    assert_eq!(admin.hear().await, "");
    cluster.stop().await;
}

/// Asks until the answer begins like this.
async fn until(asker: &mut Client, line: &str, start: &str) -> String {
    until_reply(asker, line, |reply| reply.starts_with(start)).await
}

/// Asks until this is what is answered.
async fn until_reply(asker: &mut Client, line: &str, is_it: impl Fn(&str) -> bool) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let reply = asker.ask(line).await;
        if is_it(&reply) {
            return reply;
        }
        assert!(Instant::now() < deadline, "{line}: {reply}");
        sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_script_that_runs_for_ever_is_told_of_and_killed_by_whoever_wants() {
    let cluster = Cluster::start().await;
    for node in &cluster.nodes {
        let stream = TcpStream::connect((node.host(), node.port())).await.unwrap();
        assert_eq!(Client { stream, id: 0 }.ask("CONFIG SET busy-reply-threshold 1").await, "+OK\r\n");
    }
    // A key of the slot that scripts without keys go by, 0.
    let key = "06S";
    let mut runner = cluster.client().await;
    // One of them is served by the worker that also serves the first, over the same connections.
    for mut other in [cluster.client().await, cluster.client().await] {
        runner.say("EVAL \"while true do end\" 0").await;
        assert!(until(&mut other, "PING", "-BUSY").await.contains("You can only call SCRIPT KILL"));
        assert!(other.ask("FUNCTION STATS").await.starts_with("-BUSY"));
        assert!(other.ask("FUNCTION KILL").await.starts_with("-BUSY"));
        until(&mut other, &format!("GET {key}"), "-BUSY").await;
        assert_eq!(other.ask("SCRIPT KILL").await, "+OK\r\n");
        assert!(runner.hear().await.contains("killed by user"));
        until(&mut other, "PING", "+PONG").await;
        assert_eq!(other.ask(&format!("GET {key}")).await, "$-1\r\n");
        assert!(other.ask("SCRIPT KILL").await.starts_with("-NOTBUSY"));
    }
    cluster.stop().await;
}
