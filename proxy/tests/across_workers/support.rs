//! A proxy with two workers in front of two real redis servers, and clients that keep the bytes as they come.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, ToSocketAddrs},
    time::{Instant, sleep, timeout},
};
use vrc_agent::spawn::{RedisProcess, SpawnOptions};
use vrc_cluster::resp::ReplyFramer;
use vrc_proxy::{Config, ListenAddr, Proxy, Source};

/// Far longer than anything here takes, even on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Cluster {
    pub(crate) proxy: Proxy,
    pub(crate) nodes: Vec<RedisProcess>,
}

impl Cluster {
    pub(crate) async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let mut nodes = Vec::new();
        for _ in 0..2 {
            nodes.push(RedisProcess::start(&SpawnOptions::default()).await.unwrap());
        }
        let list = nodes.iter().map(|node| format!("{}:{}", node.host(), node.port()).parse().unwrap()).collect();
        let listen = ListenAddr::Tcp("127.0.0.1:0".parse().unwrap());
        let mut config = Config { workers: 2, timeout: PATIENCE, ..Config::new(Source::Nodes(list), listen) };
        change(&mut config);
        Cluster { proxy: Proxy::start(config).await.unwrap(), nodes }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        match &self.proxy.listening()[0] {
            ListenAddr::Tcp(address) => *address,
            other => panic!("{other}"),
        }
    }

    /// A client whose worker has taken it, so that the next one gets another worker.
    pub(crate) async fn client(&self) -> Client {
        let mut client = Client::connect(self.address()).await;
        client.id = client.ask("CLIENT ID").await.trim_start_matches(':').trim().parse().unwrap();
        client
    }

    pub(crate) async fn stop(self) {
        self.proxy.stop().await;
        for node in self.nodes {
            node.stop().await.unwrap();
        }
    }
}

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    /// By which number the proxy knows it, once it was asked.
    pub(crate) id: u64,
    /// What came behind the reply that was heard last.
    got: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(to: impl ToSocketAddrs) -> Self {
        Client { stream: TcpStream::connect(to).await.unwrap(), id: 0, got: Vec::new() }
    }

    pub(crate) async fn say(&mut self, line: &str) {
        self.stream.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
    }

    pub(crate) async fn ask(&mut self, line: &str) -> String {
        self.say(line).await;
        self.hear().await
    }

    /// The next reply, or what came of it before the connection was closed.
    pub(crate) async fn hear(&mut self) -> String {
        let mut framer = ReplyFramer::default();
        loop {
            if let Some(len) = framer.advance(&self.got).unwrap() {
                return String::from_utf8(self.got.drain(..len).collect()).unwrap();
            }
            if timeout(PATIENCE, self.stream.read_buf(&mut self.got)).await.expect("in time").unwrap() == 0 {
                return String::from_utf8(std::mem::take(&mut self.got)).unwrap();
            }
        }
    }
}

/// Asks until this is what is answered.
pub(crate) async fn until_reply(asker: &mut Client, line: &str, is_it: impl Fn(&str) -> bool) -> String {
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
