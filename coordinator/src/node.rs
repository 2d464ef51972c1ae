//! One connection to one node: a task that does what membership says and tells what comes of it.

use std::time::Duration;

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use redis::{Client, RedisResult, aio::MultiplexedConnection};
use tokio::sync::mpsc;
use vrc_cluster::{
    client::node_client,
    contract::{CLIENT_DATABASES, COORDINATION_KEYS, Endpoint},
    membership::{Event, FlushId, LinkId, Loss, Scope, Server},
};

use crate::redis_link::{RedisLink, describe, who_is};

const FLUSH_DATABASES: &str = include_str!("scripts/flush_databases.lua");
const FLUSH_SPARING: &str = include_str!("scripts/flush_sparing.lua");

/// What is wanted of a node.
#[derive(Debug)]
pub(crate) enum Command {
    Ping,
    Flush { flush: FlushId, scope: Scope },
}

/// Where the connection leads and what it is called.
pub(crate) struct Link {
    pub(crate) name: String,
    pub(crate) link: LinkId,
    pub(crate) endpoint: Endpoint,
    /// The database of the master in which the coordination's keys stand.
    pub(crate) coordination_db: i64,
    /// Guest databases are in use, and will have to be flushed when another node goes down.
    pub(crate) guest_databases: bool,
}

impl Link {
    /// Opens the connection and serves it until it is lost. Is dropped when it is no longer wanted, also because opening it has taken
    /// too long: it has no time limit of its own, which would count the time in which this program did not run.
    pub(crate) async fn run(self, commands: mpsc::Receiver<Command>, events: mpsc::Sender<Event>) {
        let lost = match self.open().await {
            Ok((redis, server)) => {
                let opened = Event::LinkOpened { name: self.name.clone(), link: self.link, server };
                if events.send(opened).await.is_err() {
                    return;
                }
                self.serve(redis, commands, &events).await;
                Event::LinkLost {
                    name: self.name,
                    link: self.link,
                    reason: "the connection was lost".to_owned(),
                    loss: Loss::Broken,
                }
            }
            Err(error) => {
                let (reason, loss) = describe(&error);
                Event::LinkLost { name: self.name, link: self.link, reason, loss }
            }
        };
        // Fails only when the coordinator is gone.
        let _ = events.send(lost).await;
    }

    async fn open(&self) -> RedisResult<(RedisLink, Server)> {
        // A link that is given up may have a flush under way. The kernel must not go on sending that: it would empty the node after it
        // has come back, and been emptied over another link.
        let info = node_client(&self.endpoint, 0)?.get_connection_info().clone();
        let settings = info.tcp_settings().clone().set_linger_time(Duration::ZERO);
        let client = Client::open(info.set_tcp_settings(settings))?;
        let mut redis = RedisLink::open(&client).await?;
        let server = who_is(&mut redis.commands).await?;
        Ok((redis, server))
    }

    async fn serve(&self, mut redis: RedisLink, mut commands: mpsc::Receiver<Command>, events: &mpsc::Sender<Event>) {
        // Few at a time: membership asks for one PING and one flush, and waits for them or gives the link up.
        let mut under_way: FuturesUnordered<BoxFuture<'static, Event>> = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = redis.lost() => return,
                Some(event) = under_way.next(), if !under_way.is_empty() => {
                    if events.send(event).await.is_err() {
                        return;
                    }
                }
                command = commands.recv() => match command {
                    Some(Command::Ping) => under_way.push(self.ping(&redis)),
                    Some(Command::Flush { flush, scope }) => under_way.push(self.flush(&redis, flush, scope)),
                    None => return,
                },
            }
        }
    }

    fn ping(&self, redis: &RedisLink) -> BoxFuture<'static, Event> {
        let (name, link, mut pinger) = (self.name.clone(), self.link, redis.pinger.clone());
        async move {
            let answer = pinger.ping::<redis::Value>().await.and_then(redis::Value::extract_error);
            match answer {
                Ok(_) => Event::Ponged { name, link },
                Err(error) => Event::PingRefused { name, link, reason: describe(&error).0 },
            }
        }
        .boxed()
    }

    fn flush(&self, redis: &RedisLink, flush: FlushId, scope: Scope) -> BoxFuture<'static, Event> {
        let (name, mut commands, coordination_db) = (self.name.clone(), redis.commands.clone(), self.coordination_db);
        let guest_databases = self.guest_databases;
        async move {
            let clients = (0, i64::from(CLIENT_DATABASES) - 1);
            let guests = (i64::from(CLIENT_DATABASES), i64::from(CLIENT_DATABASES) * 2 - 1);
            let flushed = match scope {
                Scope::All => flush_all(&mut commands, guest_databases.then_some(guests)).await,
                Scope::Clients => flush_databases(&mut commands, clients, None).await,
                Scope::ClientsButCoordination if (clients.0..=clients.1).contains(&coordination_db) => {
                    flush_databases_but_coordination(&mut commands, clients, coordination_db).await
                }
                Scope::ClientsButCoordination => flush_databases(&mut commands, clients, None).await,
                Scope::Guests => flush_databases(&mut commands, guests, None).await,
                Scope::GuestsButCoordination if (guests.0..=guests.1).contains(&coordination_db) => {
                    flush_databases_but_coordination(&mut commands, guests, coordination_db).await
                }
                Scope::GuestsButCoordination => flush_databases(&mut commands, guests, None).await,
                Scope::AllButCoordination => match last_database(&mut commands).await {
                    Ok(last) => flush_databases_but_coordination(&mut commands, (0, last), coordination_db).await,
                    Err(error) => Err(error),
                },
            };
            match flushed {
                Ok(()) => Event::Flushed { name, flush },
                Err(error) => Event::FlushFailed { name, flush, reason: describe(&error).0 },
            }
        }
        .boxed()
    }
}

/// Guests are flushed once more by themselves, as they will be when it is up. A node that cannot do that, for it permits no scripts, say, is not
/// let in: it would be taken down, along with all others of its kind, as soon as some node dies.
async fn flush_all(commands: &mut MultiplexedConnection, guests: Option<(i64, i64)>) -> RedisResult<()> {
    redis::cmd("FLUSHALL").exec_async(commands).await?;
    match guests {
        Some(guests) => flush_databases(commands, guests, None).await,
        None => Ok(()),
    }
}

async fn flush_databases(commands: &mut MultiplexedConnection, (first, last): (i64, i64), but: Option<i64>) -> RedisResult<()> {
    redis::cmd("EVAL").arg(FLUSH_DATABASES).arg(0).arg(first).arg(last).arg(but.unwrap_or(-1)).exec_async(commands).await
}

async fn flush_databases_but_coordination(
    commands: &mut MultiplexedConnection,
    databases: (i64, i64),
    coordination_db: i64,
) -> RedisResult<()> {
    flush_databases(commands, databases, Some(coordination_db)).await?;
    let mut cursor = "0".to_owned();
    loop {
        let mut step = redis::cmd("EVAL");
        step.arg(FLUSH_SPARING).arg(0).arg(coordination_db).arg(&cursor).arg(&COORDINATION_KEYS);
        cursor = step.query_async(commands).await?;
        if cursor == "0" {
            return Ok(());
        }
    }
}

/// The greatest number of a database that holds keys.
async fn last_database(commands: &mut MultiplexedConnection) -> RedisResult<i64> {
    let info: String = redis::cmd("INFO").arg("keyspace").query_async(commands).await?;
    let databases = info.lines().filter_map(|line| line.strip_prefix("db")?.split_once(':')?.0.parse::<i64>().ok());
    Ok(databases.max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::io;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        time::timeout,
    };
    use vrc_cluster::resp::{Frame, RequestFramer};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// Answers as a redis would, until it is to flush: that it never answers. Says how the connection ended after that.
    async fn answer(mut stream: TcpStream, flushing: mpsc::Sender<()>) -> io::Result<usize> {
        let (mut input, mut framer) = (Vec::new(), RequestFramer::default());
        loop {
            while let Ok(Some(Frame::Multibulk(len))) = framer.advance(&input) {
                framer.reset();
                let request = input.drain(..len).collect::<Vec<_>>();
                let request = String::from_utf8_lossy(&request);
                if request.contains("FLUSHALL") {
                    flushing.send(()).await.unwrap();
                    return stream.read(&mut [0]).await;
                }
                let reply: &[u8] = if request.contains("INFO\r\n") { b"$13\r\nrun_id:ab12\r\n\r\n" } else { b"+OK\r\n" };
                stream.write_all(reply).await?;
            }
            if stream.read_buf(&mut input).await? == 0 {
                return Ok(0);
            }
        }
    }

    #[tokio::test]
    async fn a_flush_does_not_outlive_the_link_that_was_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint::new("127.0.0.1", listener.local_addr().unwrap().port());
        let (flushing, mut flushed) = mpsc::channel(1);
        let (ended, mut ends) = mpsc::channel(2);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (flushing, ended) = (flushing.clone(), ended.clone());
                tokio::spawn(async move { ended.send(answer(stream, flushing).await).await });
            }
        });
        let (wanted, commands) = mpsc::channel(1);
        let (events, mut told) = mpsc::channel(8);
        let link = Link { name: "a".to_owned(), link: 1, endpoint, coordination_db: 0, guest_databases: false };
        let serving = tokio::spawn(link.run(commands, events));
        let opened = timeout(LONG, told.recv()).await.expect("in time");
        assert!(matches!(opened, Some(Event::LinkOpened { .. })), "{opened:?}");
        wanted.send(Command::Flush { flush: 1, scope: Scope::All }).await.unwrap();
        timeout(LONG, flushed.recv()).await.expect("in time").unwrap();
        serving.abort();
        for _ in 0..2 {
            let end = timeout(LONG, ends.recv()).await.expect("in time").unwrap();
            assert!(matches!(&end, Err(error) if error.kind() == io::ErrorKind::ConnectionReset), "{end:?}");
        }
    }
}
