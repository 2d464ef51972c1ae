//! A master that does as it is told: real, but with no coordinator behind it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use redis::{AsyncConnectionConfig, aio::MultiplexedConnection};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use vrc_agent::spawn::{RedisProcess, SpawnOptions};
use vrc_cluster::{
    client::{MasterUrl, WatchOptions},
    contract::{
        CLIENT_BUS, ClientBusMessage, DELTA_BUS, DELTA_KEY, EPOCH_KEY, Endpoint, Epoch, MapDelta, NODE_SET_KEY, Node, NodeMap,
    },
    topology::Topology,
};

/// Far longer than anything here takes, even on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// An interval so long that nothing that waits for it happens in a test.
pub(crate) const NEVER: Duration = Duration::from_secs(3600);

/// A watch that need not be waited for, but waits for a master on a busy machine.
pub(crate) fn quick() -> WatchOptions {
    WatchOptions {
        read_every: Duration::from_millis(20),
        answer_timeout: PATIENCE,
        reconnect_pause_max: Duration::from_millis(100),
        ..WatchOptions::default()
    }
}

/// A node on a port that nobody listens on: most tests only look where keys would go.
pub(crate) fn node(name: &str, up: bool) -> Node {
    Node {
        config: Endpoint::new("127.0.0.1", 1),
        weight: 1.0,
        up,
        state_change_time: 1,
        name: name.to_owned(),
        last_ping: None,
        run_id: None,
        version: None,
        upkeep: Default::default(),
        other: Default::default(),
    }
}

/// Nodes that are up.
pub(crate) fn up(names: &[&str]) -> NodeMap {
    map(names.iter().map(|name| node(name, true)))
}

pub(crate) fn map(nodes: impl IntoIterator<Item = Node>) -> NodeMap {
    nodes.into_iter().map(|node| (node.name.clone(), node)).collect()
}

pub(crate) fn names(topology: &Topology) -> Vec<&str> {
    topology.nodes().iter().map(|node| &*node.name).collect()
}

pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// Tries till there is something.
pub(crate) async fn eventually<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = attempt().await {
            return value;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// A connection without a limit of the library's own: a busy machine is no error.
pub(crate) async fn open(client: &redis::Client) -> MultiplexedConnection {
    let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    client.get_multiplexed_async_connection_with_config(&config).await.unwrap()
}

/// Waits for a change after which the topology is as wanted.
pub(crate) async fn until(
    mut changes: watch::Receiver<Epoch>,
    topology: impl Fn() -> Arc<Topology>,
    what: &str,
    wanted: impl Fn(&Topology) -> bool,
) -> Arc<Topology> {
    match timeout(PATIENCE, changes.wait_for(|_| wanted(&topology()))).await {
        Ok(changed) => drop(changed.expect("the watch goes on")),
        Err(_) => panic!("never: {what}; the topology is {:?}", topology()),
    }
    topology()
}

pub(crate) struct Master {
    process: RedisProcess,
}

impl Master {
    pub(crate) async fn start() -> Self {
        Master { process: RedisProcess::start(&SpawnOptions::default()).await.unwrap() }
    }

    /// A master that holds a map.
    pub(crate) async fn with(map: &NodeMap, epoch: Epoch) -> Self {
        let master = Master::start().await;
        master.write(map, Some(epoch)).await;
        master
    }

    pub(crate) fn url(&self) -> MasterUrl {
        MasterUrl::new(self.process.host(), self.process.port()).unwrap()
    }

    pub(crate) async fn connect(&self) -> MultiplexedConnection {
        open(&self.url().client().await.unwrap()).await
    }

    /// Has the hash hold just this map.
    pub(crate) async fn write(&self, map: &NodeMap, epoch: Option<Epoch>) {
        let fields = map.iter().map(|(name, node)| (name.clone(), serde_json::to_string(node).unwrap()));
        self.write_raw(&fields.collect::<Vec<_>>(), epoch).await;
    }

    pub(crate) async fn write_raw(&self, fields: &[(String, String)], epoch: Option<Epoch>) {
        let mut pipe = redis::pipe();
        pipe.atomic().del(NODE_SET_KEY).del(EPOCH_KEY);
        if !fields.is_empty() {
            pipe.hset_multiple(NODE_SET_KEY, fields);
        }
        if let Some(epoch) = epoch {
            pipe.set(EPOCH_KEY, epoch);
        }
        pipe.exec_async(&mut self.connect().await).await.unwrap();
    }

    /// Says something on the clients' channel; returns how many heard it.
    pub(crate) async fn say(&self, message: &str) -> u64 {
        redis::cmd("PUBLISH").arg(CLIENT_BUS).arg(message).query_async(&mut self.connect().await).await.unwrap()
    }

    pub(crate) async fn publish(&self, map: &NodeMap, epoch: Option<Epoch>) {
        let message = ClientBusMessage::UpdateNodes { node_map: map.clone(), epoch };
        assert_eq!(self.say(&serde_json::to_string(&message).unwrap()).await, 1, "just the watch hears it");
    }

    /// Has the master hold what the delta leads to, as a coordinator that sends deltas does; says nothing of it.
    pub(crate) async fn write_delta(&self, map: &NodeMap, delta: &MapDelta) {
        let mut pipe = redis::pipe();
        pipe.atomic().del(NODE_SET_KEY).set(EPOCH_KEY, delta.epoch).set(DELTA_KEY, serde_json::to_string(delta).unwrap());
        for (name, node) in map {
            pipe.hset(NODE_SET_KEY, name, serde_json::to_string(node).unwrap());
        }
        pipe.exec_async(&mut self.connect().await).await.unwrap();
    }

    /// Says something on the deltas' channel; returns how many heard it.
    pub(crate) async fn say_delta(&self, message: &str) -> u64 {
        redis::cmd("PUBLISH").arg(DELTA_BUS).arg(message).query_async(&mut self.connect().await).await.unwrap()
    }

    pub(crate) async fn publish_delta(&self, delta: &MapDelta) {
        assert_eq!(self.say_delta(&serde_json::to_string(delta).unwrap()).await, 1, "just the watch hears it");
    }

    /// How many listen for whole maps.
    pub(crate) async fn hearers_of_whole_maps(&self) -> u64 {
        let mut count = redis::cmd("PUBSUB");
        let (_, count): (String, u64) = count.arg("NUMSUB").arg(CLIENT_BUS).query_async(&mut self.connect().await).await.unwrap();
        count
    }

    /// Waits until what was written and said so far has been read and heard by a watch that reads often.
    ///
    /// A watch reads on one connection and hears on another, but confirms its subscription before each read; so what was said
    /// before a read is handled before the one after the next.
    pub(crate) async fn has_been_read(&self) {
        let mut connection = self.connect().await;
        let mut reads = async || -> u64 {
            let info: String = redis::cmd("INFO").arg("commandstats").query_async(&mut connection).await.unwrap();
            let calls = info.lines().find_map(|line| line.strip_prefix("cmdstat_subscribe:calls=")?.split(',').next());
            calls.map_or(0, |calls| calls.parse().unwrap())
        };
        let before = reads().await;
        eventually("the map is read again", async || (reads().await >= before + 3).then_some(())).await;
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.process.pid() as i32).unwrap(), signal).unwrap();
    }

    pub(crate) async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.process.exited().await.unwrap();
    }

    /// Starts it again, empty, where it was.
    pub(crate) async fn start_again(&mut self) {
        let options = SpawnOptions { port: Some(self.process.port()), ..SpawnOptions::default() };
        self.process = eventually("the port is free again", async || RedisProcess::start(&options).await.ok()).await;
    }
}
