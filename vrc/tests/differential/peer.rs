//! One end of a conversation.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Longest that an answer may take before it counts as none.
const PATIENCE: Duration = Duration::from_secs(60);
/// After so long without an answer a peer that may says that nothing more will come.
const DOUBT: Duration = Duration::from_secs(5);

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
    may_end: bool,
}

impl Peer {
    /// The greeting is an inline request that each new connection begins with; its answer is not looked at.
    pub(crate) fn new(port: u16, greeting: &str) -> Self {
        Peer { port, greeting: greeting.to_owned(), stream: None, asked: 0, may_end: false }
    }

    /// The same server, on another connection.
    pub(crate) fn anew(&self) -> Self {
        Peer { may_end: self.may_end, ..Peer::new(self.port, &self.greeting) }
    }

    /// Ends what it says on a connection where no answer comes: a server that waits for more of a request closes it then, and one that
    /// is only slow answers before. So nobody waits long for an answer that never comes.
    pub(crate) fn ending_if_in_doubt(self) -> Self {
        Peer { may_end: true, ..self }
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
        let mut has_ended = false;
        loop {
            let patience = if self.may_end && !has_ended { DOUBT } else { PATIENCE };
            match timeout(patience, stream.read_buf(&mut answer)).await {
                Err(_) if patience == DOUBT => {
                    // The server may have closed the connection meanwhile.
                    let _ = stream.shutdown().await;
                    has_ended = true;
                }
                Ok(Ok(1..)) if answer.ends_with(last.as_bytes()) => {
                    answer.truncate(answer.len() - last.len());
                    if has_ended {
                        self.stream = None;
                    }
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
                    answer.extend_from_slice(if ended.is_ok() && !has_ended { b"<closed>" } else { b"<silent>" });
                    return answer;
                }
            }
        }
    }
}
