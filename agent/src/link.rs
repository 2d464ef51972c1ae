//! Connections that notice at once when they are lost, and never wait for ever.

use std::time::Duration;

use futures_util::StreamExt;
use redis::{
    Client, RedisResult,
    aio::{PubSubSink, PubSubStream},
};
use vrc_cluster::client::within;

/// A connection on which nothing is said but PING, kept open to see the other side die: a connection for commands reports its
/// loss only with the next command. A pub/sub connection is the one kind that the client library lets one wait on with every
/// version of redis, so it is one, subscribed to nothing.
pub(crate) struct Lifeline {
    sink: PubSubSink,
    stream: PubSubStream,
}

impl Lifeline {
    /// Opens it.
    pub(crate) async fn open(client: &Client, timeout: Duration) -> RedisResult<Self> {
        let (sink, stream) = within(timeout, client.get_async_pubsub()).await?.split();
        Ok(Lifeline { sink, stream })
    }

    /// Waits till it is lost. May be dropped and called again.
    pub(crate) async fn lost(&mut self) {
        while self.stream.next().await.is_some() {}
    }

    /// Asks the other side for a sign of life; an error also if it is lost meanwhile.
    pub(crate) async fn ping(&mut self, timeout: Duration) -> RedisResult<()> {
        within(timeout, self.sink.ping::<redis::Value>()).await?.extract_error().map(drop)
    }
}
