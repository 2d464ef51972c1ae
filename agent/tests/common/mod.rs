//! Real servers, and an ear on the agents' channel.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of this, by a path of its own")]

use std::{future::Future, time::Duration};

use futures_util::StreamExt;
use redis::{
    AsyncConnectionConfig,
    aio::{MultiplexedConnection, PubSubStream},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use vrc_agent::{
    Config, Health, NodeTarget,
    spawn::{RedisProcess, SpawnOptions},
};
use vrc_cluster::{
    client::MasterUrl,
    contract::{AGENT_BUS, AgentBusMessage, Announcement},
};

/// Far longer than anything here takes, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// An interval so long that nothing that waits for it happens in a test.
pub const NEVER: Duration = Duration::from_secs(3600);

pub async fn redis() -> RedisProcess {
    RedisProcess::start(&SpawnOptions::default()).await.unwrap()
}

pub async fn redis_on(port: u16) -> RedisProcess {
    eventually(async || RedisProcess::start(&SpawnOptions { port: Some(port), ..SpawnOptions::default() }).await.ok()).await
}

/// A server with further directives of redis.conf, a line each.
pub async fn redis_with(directives: &[&str]) -> RedisProcess {
    let directives = directives.iter().map(|line| {
        let mut words = line.split_whitespace().map(str::to_owned);
        (words.next().unwrap(), words.collect())
    });
    let options = SpawnOptions { directives: directives.collect(), ..SpawnOptions::default() };
    // A server of a cluster wants another port besides, which may be taken.
    eventually(async || RedisProcess::start(&options).await.ok()).await
}

pub fn url(redis: &RedisProcess) -> MasterUrl {
    MasterUrl::new(redis.host(), redis.port()).unwrap()
}

pub async fn connection(redis: &RedisProcess) -> MultiplexedConnection {
    open(&url(redis).client().await.unwrap()).await
}

/// A connection without a limit of the library's own: a busy machine is no error.
pub async fn open(client: &redis::Client) -> MultiplexedConnection {
    let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    client.get_multiplexed_async_connection_with_config(&config).await.unwrap()
}

/// Runs a command given as words.
pub async fn command<T: redis::FromRedisValue>(connection: &mut MultiplexedConnection, words: &str) -> T {
    let mut words = words.split_whitespace();
    let mut command = redis::cmd(words.next().unwrap());
    command.arg(words.collect::<Vec<_>>()).query_async(connection).await.unwrap()
}

pub async fn run_id(redis: &RedisProcess) -> String {
    let info: String = command(&mut connection(redis).await, "INFO server").await;
    info.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap().to_owned()
}

pub fn kill(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Whether a process runs; one that only waits to be reaped does not.
pub fn is_running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        let state = stat.rsplit_once(") ").map(|(_, rest)| rest.chars().next());
        !matches!(state, Some(Some('Z' | 'X')))
    })
}

/// Tries till there is something.
pub async fn eventually<T>(mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = attempt().await {
            return value;
        }
        assert!(Instant::now() < deadline, "this did not come to be within {PATIENCE:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

pub async fn in_time<T>(work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.expect("in time")
}

/// An agent's settings, with times made short where a test would wait for them.
pub fn config(node: &RedisProcess, master: &RedisProcess) -> Config {
    config_for(NodeTarget::new(node.host(), node.port()), master)
}

pub fn config_for(node: NodeTarget, master: &RedisProcess) -> Config {
    Config {
        weight: 2.5,
        ping_interval: Duration::from_millis(100),
        announce_interval: Duration::from_millis(200),
        // Nobody but the test's ear is there to show it down.
        leave_wait: Duration::from_millis(100),
        ..Config::new(node, url(master))
    }
}

/// A running agent, told to stop when dropped.
pub struct Agent {
    pub health: Health,
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Agent {
    pub fn start(config: Config) -> Self {
        let shutdown = CancellationToken::new();
        let health = Health::default();
        Agent { task: tokio::spawn(vrc_agent::run(config, health.clone(), shutdown.clone())), health, shutdown }
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        in_time(self.task).await.unwrap().unwrap();
    }

    /// Its error, which it ends with by itself.
    pub async fn error(self) -> anyhow::Error {
        in_time(self.task).await.unwrap().expect_err("the agent should have refused")
    }
}

/// Hears what is said on the agents' channel.
pub struct Ear {
    stream: PubSubStream,
}

impl Ear {
    pub async fn on(master: &RedisProcess) -> Self {
        let mut pubsub = url(master).client().await.unwrap().get_async_pubsub().await.unwrap();
        pubsub.subscribe(AGENT_BUS).await.unwrap();
        Ear { stream: pubsub.into_on_message() }
    }

    pub async fn next(&mut self) -> AgentBusMessage {
        let message = in_time(self.stream.next()).await.expect("the master is there");
        serde_json::from_slice(message.get_payload_bytes()).unwrap()
    }

    /// The next message if it is a NodeUp.
    pub async fn up(&mut self) -> Announcement {
        match self.next().await {
            AgentBusMessage::NodeUp { node } => node,
            other => panic!("{other:?}"),
        }
    }

    /// The next message that is no NodeUp.
    pub async fn other_than_up(&mut self) -> AgentBusMessage {
        in_time(async {
            loop {
                match self.next().await {
                    AgentBusMessage::NodeUp { .. } => {}
                    other => return other,
                }
            }
        })
        .await
    }

    /// The next NodeUp that is as wanted, whatever is said before.
    pub async fn up_where(&mut self, is_wanted: impl Fn(&Announcement) -> bool) -> Announcement {
        in_time(async {
            loop {
                if let AgentBusMessage::NodeUp { node } = self.next().await
                    && is_wanted(&node)
                {
                    return node;
                }
            }
        })
        .await
    }
}
