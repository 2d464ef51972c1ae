//! A connection to a redis whose end is seen when it comes, and what is read from its errors and from `INFO`.

use std::{error::Error, io, sync::Arc, time::Duration};

use futures_util::StreamExt;
use redis::{
    AsyncConnectionConfig, Client, RedisError, RedisResult,
    aio::{MultiplexedConnection, PubSubSink, PubSubStream},
};
use vrc_cluster::{
    client::Backoff,
    membership::{Loss, Server},
};

/// A connection for commands, and beside it one that is only watched: the first tells that it is lost only when it is used next.
/// The second is a pub/sub connection, subscribed to nothing, the one kind that can be waited on with every version of redis.
pub(crate) struct RedisLink {
    /// For commands. Has no time limit of its own.
    pub(crate) commands: MultiplexedConnection,
    /// For PING, which is answered there however long commands take.
    pub(crate) pinger: PubSubSink,
    watched: PubSubStream,
}

impl RedisLink {
    /// Opens it, however long that takes. The watched connection comes first: should the server be restarted in between, that one tells.
    pub(crate) async fn open(client: &Client) -> RedisResult<Self> {
        let (pinger, watched) = client.get_async_pubsub().await?.split();
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let commands = client.get_multiplexed_async_connection_with_config(&config).await?;
        Ok(RedisLink { commands, pinger, watched })
    }

    /// Returns when it is lost.
    pub(crate) async fn lost(&mut self) {
        while self.watched.next().await.is_some() {}
    }
}

/// The pauses between attempts to reach the master. Coordinators are few and need not make way for each other; and at a master that
/// comes back empty, one that remembers the map had better be there before one that has just been started.
pub(crate) fn master_backoff() -> Backoff {
    Backoff::new(Duration::from_millis(50), Duration::from_millis(200))
}

/// Which process answers there.
pub(crate) async fn who_is(commands: &mut MultiplexedConnection) -> RedisResult<Server> {
    let info: String = redis::cmd("INFO").arg("server").query_async(commands).await?;
    server(&info).ok_or_else(|| RedisError::from((redis::ErrorKind::Parse, "INFO server gives no run_id")))
}

fn server(info: &str) -> Option<Server> {
    let field = |name: &str| {
        info.lines().find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':')).filter(|value| !value.is_empty())
    };
    Some(Server {
        run_id: field("run_id")?.to_owned(),
        version: field("valkey_version").or_else(|| field("redis_version")).map(str::to_owned),
        uptime_ms: field("uptime_in_seconds").and_then(|seconds| seconds.parse::<u64>().ok()?.checked_mul(1000)),
    })
}

/// An error in an operator's words, and what it says of the connection.
pub(crate) fn describe(error: &RedisError) -> (String, Loss) {
    match io_kind(error) {
        Some(io::ErrorKind::ConnectionRefused) => ("connection refused".to_owned(), Loss::Refused),
        Some(io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown) => {
            (error.to_string(), Loss::Silent)
        }
        _ if error.is_timeout() => (error.to_string(), Loss::Silent),
        _ if error.is_connection_dropped() => ("the connection was lost".to_owned(), Loss::Broken),
        _ => (error.to_string(), Loss::Refused),
    }
}

/// What went wrong with the socket, if it was that. The client library shares its errors, and what is shared is an error of another type.
fn io_kind(error: &RedisError) -> Option<io::ErrorKind> {
    let source = error.source()?;
    let shared = source.downcast_ref::<Arc<dyn Error + Send + Sync>>().and_then(|shared| shared.downcast_ref());
    shared.or_else(|| source.downcast_ref()).map(io::Error::kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_refused_connection_is_told_from_a_lost_one() {
        // Below the ports of outgoing connections, of which one may even meet itself.
        let port = vrc_agent::spawn::free_port("127.0.0.1").unwrap();
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        let client = Client::open(format!("redis://{}", listener.local_addr().unwrap())).unwrap();
        let open = || async { RedisLink::open(&client).await.err().map(|error| describe(&error)) };
        let hang_up = std::thread::spawn(move || drop(listener.accept()));
        assert_eq!(open().await, Some(("the connection was lost".to_owned(), Loss::Broken)));
        hang_up.join().unwrap();
        assert_eq!(open().await, Some(("connection refused".to_owned(), Loss::Refused)));
    }

    #[test]
    fn knows_a_server_by_its_run_id() {
        let info = "# Server\r\nredis_version:7.0.15\r\nrun_id:ab12\r\nuptime_in_seconds:61\r\n";
        let expected = Server { run_id: "ab12".into(), version: Some("7.0.15".into()), uptime_ms: Some(61_000) };
        assert_eq!(server(info), Some(expected));
        assert_eq!(server("# Server\r\nredis_version:7.0.15\r\nrun_id:\r\n"), None);
        assert_eq!(server("uptime_in_seconds:99999999999999999999\r\nrun_id:x").unwrap().uptime_ms, None);
    }
}
