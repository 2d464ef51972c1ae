//! Nodes that hold nothing: each listens on a port of its own and answers what a coordinator asks of a redis.

use std::collections::BTreeMap;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};
use vrc_cluster::{
    contract::{AgentBusMessage, Announcement, Endpoint, Epoch},
    resp::{Args, Frame, RequestFramer},
};

/// Nodes by their ports, for as long as they live.
#[derive(Default)]
pub(crate) struct Nodes {
    listening: BTreeMap<u16, AbortHandle>,
    tasks: JoinSet<()>,
}

impl Nodes {
    pub(crate) async fn start(count: usize) -> anyhow::Result<Self> {
        let mut nodes = Nodes::default();
        for _ in 0..count {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let port = listener.local_addr()?.port();
            nodes.listening.insert(port, nodes.tasks.spawn(serve(listener, run_id(port))));
        }
        Ok(nodes)
    }

    pub(crate) fn ports(&self) -> Vec<u16> {
        self.listening.keys().copied().collect()
    }

    /// A node's process dies: all its connections are closed, and nobody listens any more.
    pub(crate) fn kill(&mut self, port: u16) {
        if let Some(task) = self.listening.remove(&port) {
            task.abort();
        }
    }
}

/// What the node's agent says of it.
pub(crate) fn announcement(port: u16, purged: Option<Epoch>) -> AgentBusMessage {
    AgentBusMessage::NodeUp {
        node: Announcement {
            config: Endpoint::new("127.0.0.1", port),
            weight: 1.0,
            name: None,
            run_id: Some(run_id(port)),
            version: Some("7.0.15".to_owned()),
            purged,
            other: Default::default(),
        },
    }
}

fn run_id(port: u16) -> String {
    format!("{port:040x}")
}

async fn serve(listener: TcpListener, run_id: String) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(answer(stream, run_id.clone()));
    }
}

async fn answer(mut stream: TcpStream, run_id: String) -> std::io::Result<()> {
    let (mut buffer, mut framer) = (Vec::new(), RequestFramer::default());
    loop {
        while let Ok(Some(Frame::Multibulk(length))) = framer.advance(&buffer) {
            let command = Args::new(&buffer, framer.args()).get(0).unwrap_or_default().to_ascii_uppercase();
            let reply = match &command[..] {
                b"PING" => "+PONG\r\n".to_owned(),
                b"INFO" => {
                    let text = format!("run_id:{run_id}\r\nredis_version:7.0.15\r\nuptime_in_seconds:60\r\n");
                    format!("${}\r\n{text}\r\n", text.len())
                }
                _ => "+OK\r\n".to_owned(),
            };
            buffer.drain(..length);
            framer.reset();
            stream.write_all(reply.as_bytes()).await?;
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}
