//! One end of a conversation.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Longest that an answer may take before it counts as none.
const PATIENCE: Duration = Duration::from_secs(60);

/// How the end of an answer is known.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum End {
    /// By the answer to a marker that follows.
    Marker,
    /// Likewise, but what the client is told unasked may come behind that.
    MarkerWithin,
    /// By its being a line, as all answers between MULTI and EXEC are, where a marker would be queued.
    Line,
}

/// A server, and a connection to it that is made anew whenever it was closed.
pub(crate) struct Peer {
    port: u16,
    greeting: String,
    stream: Option<TcpStream>,
    asked: usize,
}

impl Peer {
    /// The greeting is an inline request that each new connection begins with; its answer is not looked at.
    pub(crate) fn new(port: u16, greeting: &str) -> Self {
        Peer { port, greeting: greeting.to_owned(), stream: None, asked: 0 }
    }

    /// The same server, on another connection.
    pub(crate) fn anew(&self) -> Self {
        Peer::new(self.port, &self.greeting)
    }

    /// All that is answered to these bytes.
    pub(crate) async fn ask(&mut self, bytes: &[u8], end: End) -> Vec<u8> {
        if self.stream.is_none() {
            self.stream = Some(TcpStream::connect(("127.0.0.1", self.port)).await.unwrap());
            if !self.greeting.is_empty() {
                let greeting = self.greeting.clone();
                self.exchange(greeting.as_bytes(), End::Marker).await;
            }
        }
        self.exchange(bytes, end).await
    }

    async fn exchange(&mut self, bytes: &[u8], end: End) -> Vec<u8> {
        self.asked += 1;
        let marker = format!("@ marker {} @", self.asked);
        let (question, last) = match end {
            End::Marker | End::MarkerWithin => {
                let bulk = format!("${}\r\n{marker}\r\n", marker.len());
                (format!("*2\r\n$4\r\nECHO\r\n{bulk}"), bulk)
            }
            End::Line => (String::new(), "\r\n".to_owned()),
        };
        let asked = [bytes, question.as_bytes()].concat();
        let stream = self.stream.as_mut().unwrap();
        // A server that closes need not have read all.
        let _ = stream.write_all(&asked).await;
        let mut answer = Vec::new();
        loop {
            match timeout(PATIENCE, stream.read_buf(&mut answer)).await {
                Ok(Ok(1..)) if answer.ends_with(last.as_bytes()) => {
                    answer.truncate(answer.len() - last.len());
                    return answer;
                }
                Ok(Ok(1..)) if end == End::MarkerWithin => {
                    if let Some(at) = answer.windows(last.len()).position(|window| window == last.as_bytes()) {
                        answer.drain(at..at + last.len());
                        return answer;
                    }
                }
                Ok(Ok(1..)) => {}
                ended => {
                    self.stream = None;
                    answer.extend_from_slice(if ended.is_ok() { b"<closed>" } else { b"<silent>" });
                    return answer;
                }
            }
        }
    }
}
