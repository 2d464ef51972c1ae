//! Real redis servers, an agent's voice, and a reader's ear.

use std::{
    collections::BTreeMap,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use redis::{AsyncConnectionConfig, aio::MultiplexedConnection};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{sync::Notify, task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;
use vrc_cluster::contract::{
    AGENT_BUS, AgentBusMessage, Announcement, CLIENT_BUS, ClientBusMessage, EPOCH_KEY, Endpoint, Epoch, NODE_SET_KEY, Node,
    NodeMap,
};
use vrc_coordinator::{Config, Coordinator, Status};

/// The longest that anything in these tests may take before it counts as never.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Settings for tests: quick, so that nobody has to wait for what is measured in seconds otherwise; but patient with whoever has to
/// answer, so that a node of a busy machine is not taken for dead where it must not be, nor a lease lost.
pub(crate) fn config(master: &Redis) -> Config {
    Config {
        ping_interval: Duration::from_millis(100),
        ping_timeout: PATIENCE,
        recheck: PATIENCE,
        guest_flush_timeout: PATIENCE,
        master_timeout: PATIENCE,
        lease: Duration::from_secs(3600),
        settle: Duration::from_millis(20),
        flap_pause: Duration::from_millis(100),
        // As a rule they are alone.
        yields: Duration::ZERO,
        ..Config::new(format!("127.0.0.1:{}", master.port).parse().unwrap())
    }
}

pub(crate) fn start(config: &Config) -> (Coordinator, CancellationToken) {
    let _ = tracing_subscriber::fmt().with_env_filter("info").with_test_writer().try_init();
    let shutdown = CancellationToken::new();
    (Coordinator::start(config, shutdown.clone()).unwrap(), shutdown)
}

/// Waits until the coordinator's status is as wanted.
pub(crate) async fn until(coordinator: &Coordinator, what: &str, wanted: impl FnMut(&Status) -> bool) -> Status {
    let mut status = coordinator.status();
    match tokio::time::timeout(PATIENCE, status.wait_for(wanted)).await {
        Ok(status) => status.unwrap().clone(),
        Err(_) => panic!("never: {what}"),
    }
}

/// A redis-server process on a port of its own, gone when dropped.
pub(crate) struct Redis {
    pub(crate) port: u16,
    dir: TempDir,
    child: Child,
}

impl Redis {
    pub(crate) async fn start() -> Self {
        // The port is free now and may be taken a moment later; then another is tried.
        for _ in 0..20 {
            let port = vrc_agent::spawn::free_port("127.0.0.1").unwrap();
            let dir = tempfile::tempdir().unwrap();
            let mut redis = Redis { port, child: spawn(port, &dir), dir };
            if redis.answers().await {
                return redis;
            }
        }
        panic!("redis-server does not start");
    }

    async fn answers(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline && self.child.try_wait().unwrap().is_none() {
            let info = async { redis::cmd("INFO").arg("server").query_async::<String>(&mut self.try_connect().await?).await };
            // Another server on this port would answer as well, or not: then this one ends.
            if let Ok(Ok(info)) = tokio::time::timeout(Duration::from_secs(1), info).await {
                return info.contains(&format!("process_id:{}\r\n", self.child.id()));
            }
            sleep(Duration::from_millis(5)).await;
        }
        false
    }

    async fn try_connect(&self) -> redis::RedisResult<MultiplexedConnection> {
        open(&redis::Client::open(("127.0.0.1", self.port))?).await
    }

    pub(crate) async fn connect(&self) -> MultiplexedConnection {
        self.try_connect().await.unwrap()
    }

    pub(crate) async fn run(&self, command: &str) -> redis::RedisResult<redis::Value> {
        let mut words = command.split_whitespace();
        let mut cmd = redis::cmd(words.next().unwrap());
        words.for_each(|word| _ = cmd.arg(word));
        cmd.query_async(&mut self.try_connect().await?).await
    }

    /// Waits until this command was called so often, refused or not.
    pub(crate) async fn until_called(&self, command: &str, times: u64) {
        let mut connection = self.connect().await;
        let field = format!("cmdstat_{command}:");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let info: String = redis::cmd("INFO").arg("commandstats").query_async(&mut connection).await.unwrap();
            let stats = info.lines().find_map(|line| line.strip_prefix(&field)).unwrap_or_default();
            let count = |name: &str| stats.split(',').find_map(|stat| stat.strip_prefix(name)?.parse::<u64>().ok()).unwrap_or(0);
            if count("calls=") + count("rejected_calls=") >= times {
                return;
            }
            assert!(Instant::now() < deadline, "{command} called less than {times} times: {stats:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Keys in all databases.
    pub(crate) async fn keys(&self) -> u64 {
        let info: String = redis::cmd("INFO").arg("keyspace").query_async(&mut self.connect().await).await.unwrap();
        info.lines().filter_map(|line| line.split_once("keys=")?.1.split_once(',')?.0.parse::<u64>().ok()).sum()
    }

    pub(crate) async fn run_id(&self) -> String {
        let info: String = redis::cmd("INFO").arg("server").query_async(&mut self.connect().await).await.unwrap();
        info.lines().find_map(|line| line.trim_end().strip_prefix("run_id:")).unwrap().to_owned()
    }

    /// Writes a key into databases 0, 3 and 9 each.
    pub(crate) async fn fill(&self) {
        for db in [0, 3, 9] {
            let mut connection = self.connect().await;
            redis::cmd("SELECT").arg(db).exec_async(&mut connection).await.unwrap();
            redis::cmd("SET").arg("old").arg("value").exec_async(&mut connection).await.unwrap();
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again on its port, with whatever its directory holds.
    pub(crate) async fn restart(&mut self) {
        self.child = spawn(self.port, &self.dir);
        assert!(self.answers().await, "redis-server does not start again");
    }

    pub(crate) fn name(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection without a limit of the library's own: a busy machine is no error.
async fn open(client: &redis::Client) -> redis::RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    client.get_multiplexed_async_connection_with_config(&config).await
}

fn spawn(port: u16, dir: &TempDir) -> Child {
    let start = |program| {
        Command::new(program)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
    };
    start("redis-server").or_else(|_| start("valkey-server")).expect("redis-server or valkey-server must be installed")
}

/// Announces a node again and again, as its agent does.
pub(crate) struct Agent {
    silent: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Agent {
    pub(crate) fn of(node: &Redis, master: &Redis) -> Self {
        Self::announcing(announcement(node), master)
    }

    pub(crate) fn announcing(announcement: Announcement, master: &Redis) -> Self {
        let silent = Arc::new(AtomicBool::new(false));
        let client = redis::Client::open(("127.0.0.1", master.port)).unwrap();
        let is_silent = Arc::clone(&silent);
        let task = tokio::spawn(async move {
            let message = serde_json::to_string(&AgentBusMessage::NodeUp { node: announcement }).unwrap();
            loop {
                if let Ok(mut connection) = open(&client).await {
                    while is_silent.load(Ordering::Relaxed)
                        || redis::cmd("PUBLISH").arg(AGENT_BUS).arg(&message).exec_async(&mut connection).await.is_ok()
                    {
                        sleep(Duration::from_millis(50)).await;
                    }
                }
                sleep(Duration::from_millis(50)).await;
            }
        });
        Agent { silent, task }
    }

    pub(crate) fn silence(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What an agent of the old system says: no run id.
pub(crate) fn announcement(node: &Redis) -> Announcement {
    Announcement {
        config: Endpoint::new("127.0.0.1", node.port),
        weight: 1.0,
        name: None,
        run_id: None,
        version: None,
        purged: None,
        other: Default::default(),
    }
}

pub(crate) async fn publish(master: &Redis, channel: &str, message: &str) {
    redis::cmd("PUBLISH").arg(channel).arg(message).exec_async(&mut master.connect().await).await.unwrap();
}

/// A map as it was heard, and when.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    pub(crate) at: Instant,
    pub(crate) epoch: Epoch,
    pub(crate) map: NodeMap,
}

impl Heard {
    pub(crate) fn up(&self, node: &Redis) -> bool {
        self.map.get(&node.name()).is_some_and(|node| node.up)
    }

    pub(crate) fn node(&self, node: &Redis) -> &Node {
        &self.map[&node.name()]
    }
}

/// Subscribes to the clients' channel and keeps every map; checks that epochs grow. What is published while it has lost the master it
/// does not hear, so it reads the map once it listens again.
pub(crate) struct Reader {
    heard: Arc<Mutex<Vec<Heard>>>,
    news: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Reader {
    pub(crate) async fn of(master: &Redis) -> Self {
        let heard: Arc<Mutex<Vec<Heard>>> = Arc::default();
        let news = Arc::new(Notify::new());
        let ready = Arc::new(Notify::new());
        let client = redis::Client::open(("127.0.0.1", master.port)).unwrap();
        let (to, tell, is_ready) = (Arc::clone(&heard), Arc::clone(&news), Arc::clone(&ready));
        let task = tokio::spawn(async move {
            let keep = |epoch: Epoch, map: NodeMap| {
                to.lock().unwrap().push(Heard { at: Instant::now(), epoch, map });
                tell.notify_waiters();
            };
            let mut said = 0;
            let mut has_listened = false;
            loop {
                if let Ok(mut pubsub) = client.get_async_pubsub().await
                    && pubsub.subscribe(CLIENT_BUS).await.is_ok()
                {
                    is_ready.notify_one();
                    let mut read = 0;
                    if std::mem::replace(&mut has_listened, true) {
                        // Who cannot read the map has lost the master again.
                        let Ok((epoch, map)) = read_map(&client).await else {
                            sleep(Duration::from_millis(2)).await;
                            continue;
                        };
                        if epoch > said {
                            read = epoch;
                            keep(epoch, map);
                        }
                    }
                    let mut messages = pubsub.on_message();
                    while let Some(message) = messages.next().await {
                        let Ok(ClientBusMessage::UpdateNodes { node_map, epoch }) =
                            serde_json::from_slice(message.get_payload_bytes())
                        else {
                            continue;
                        };
                        let Some(epoch) = epoch else { continue };
                        assert!(epoch > said, "epoch {epoch} after {said}");
                        said = epoch;
                        if epoch > read {
                            keep(epoch, node_map);
                        }
                    }
                }
                sleep(Duration::from_millis(2)).await;
            }
        });
        ready.notified().await;
        Reader { heard, news, task }
    }

    /// The first map heard after `since` that is as wanted.
    pub(crate) async fn until(&self, since: Instant, what: &str, wanted: impl Fn(&Heard) -> bool) -> Heard {
        let search = async {
            loop {
                let news = self.news.notified();
                tokio::pin!(news);
                news.as_mut().enable();
                let found = self.all().into_iter().find(|heard| heard.at >= since && wanted(heard));
                if let Some(found) = found {
                    return found;
                }
                news.await;
            }
        };
        match tokio::time::timeout(PATIENCE, search).await {
            Ok(found) => found,
            Err(_) => panic!("never heard: {what}; last: {:#?}", self.all().last()),
        }
    }

    pub(crate) fn all(&self) -> Vec<Heard> {
        assert!(!self.task.is_finished(), "the reader failed");
        self.heard.lock().unwrap().clone()
    }
}

/// The map as it stands in the master.
async fn read_map(client: &redis::Client) -> redis::RedisResult<(Epoch, NodeMap)> {
    let mut connection = open(client).await?;
    let (epoch, fields): (Option<Epoch>, BTreeMap<String, String>) =
        redis::pipe().atomic().get(EPOCH_KEY).hgetall(NODE_SET_KEY).query_async(&mut connection).await?;
    let nodes = fields.into_iter().filter_map(|(name, text)| Some((name, serde_json::from_str(&text).ok()?)));
    Ok((epoch.unwrap_or(0), nodes.collect()))
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A master, some nodes with their agents, a coordinator that leads, and all nodes up.
pub(crate) struct Cluster {
    pub(crate) master: Redis,
    pub(crate) nodes: Vec<Redis>,
    pub(crate) agents: Vec<Agent>,
    pub(crate) reader: Reader,
    pub(crate) config: Config,
    pub(crate) coordinator: Coordinator,
    pub(crate) shutdown: CancellationToken,
}

impl Cluster {
    pub(crate) async fn of(nodes: usize) -> Self {
        Self::with(nodes, |_| {}).await
    }

    pub(crate) async fn with(nodes: usize, adjust: impl FnOnce(&mut Config)) -> Self {
        let master = Redis::start().await;
        let reader = Reader::of(&master).await;
        let mut config = config(&master);
        adjust(&mut config);
        let (coordinator, shutdown) = start(&config);
        let mut cluster = Cluster { nodes: Vec::new(), agents: Vec::new(), reader, config, coordinator, shutdown, master };
        for _ in 0..nodes {
            let node = Redis::start().await;
            cluster.agents.push(Agent::of(&node, &cluster.master));
            cluster.nodes.push(node);
        }
        cluster.all_up(Instant::now() - PATIENCE).await;
        cluster
    }

    /// The first map since then that shows all nodes up.
    pub(crate) async fn all_up(&self, since: Instant) -> Heard {
        self.reader.until(since, "all nodes up", |heard| self.nodes.iter().all(|node| heard.up(node))).await
    }
}
