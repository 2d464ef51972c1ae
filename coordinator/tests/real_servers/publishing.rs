//! How a new map reaches its readers: as what changed, and whole only for those who want it so.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use redis::aio::PubSub;
use tokio::task::JoinSet;
use vrc_cluster::{
    client::{TopologyWatch, WatchOptions},
    contract::{
        AGENT_BUS, ANSWER_BUS_PREFIX, AgentBusMessage, CLIENT_BUS, DELTA_BUS, DELTA_KEY, EPOCH_KEY, MapDelta, STRANGERS_BUS, Wish,
    },
    topology::{PlacementOptions, Topology},
};
use vrc_coordinator::Config;

use crate::support::{Agent, Cluster, PATIENCE, Redis, config, start, until};

/// Readers that must agree.
const WATCHES: usize = 100;

async fn listen(master: &Redis, channel: &str) -> PubSub {
    let client = redis::Client::open(("127.0.0.1", master.port)).unwrap();
    let mut pubsub = client.get_async_pubsub().await.unwrap();
    pubsub.subscribe(channel).await.unwrap();
    pubsub
}

fn follow(master: &Redis) -> TopologyWatch {
    let placement = PlacementOptions { guest_databases: true, ..PlacementOptions::default() };
    let options = WatchOptions { placement, read_every: Duration::from_secs(3600), ..WatchOptions::default() };
    TopologyWatch::start(format!("127.0.0.1:{}", master.port).parse().unwrap(), options)
}

async fn until_taken(watch: &TopologyWatch, what: &str, wanted: impl Fn(&Topology) -> bool) {
    let mut changes = watch.changes();
    let taken = tokio::time::timeout(PATIENCE, changes.wait_for(|_| wanted(&watch.topology()))).await;
    assert!(taken.is_ok(), "never: {what}; the topology is {:?}", watch.topology());
}

async fn eventually<T>(what: &str, attempt: impl AsyncFn() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = attempt().await {
            return value;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn up(topology: &Topology) -> usize {
    topology.nodes().iter().filter(|node| node.up).count()
}

#[tokio::test]
async fn each_map_is_told_as_what_it_changed_of_the_one_before() {
    let mut cluster = Cluster::of(3).await;
    let mut deltas = listen(&cluster.master, DELTA_BUS).await.into_on_message();
    let before = cluster.reader.all().last().unwrap().clone();
    cluster.nodes[0].kill();
    let message = tokio::time::timeout(PATIENCE, deltas.next()).await.unwrap().unwrap();
    let delta: MapDelta = serde_json::from_slice(message.get_payload_bytes()).unwrap();
    let heard = cluster.reader.until(before.at, "one down", |heard| !heard.up(&cluster.nodes[0])).await;
    assert_eq!(delta, MapDelta::between(&before.map, before.epoch, &heard.map, heard.epoch));
    assert_eq!(delta.changed.keys().collect::<Vec<_>>(), [&cluster.nodes[0].name()]);
    // The last one stands beside the map.
    let (epoch, last): (u64, String) =
        redis::pipe().atomic().get(EPOCH_KEY).get(DELTA_KEY).query_async(&mut cluster.master.connect().await).await.unwrap();
    let last: MapDelta = serde_json::from_str(&last).unwrap();
    assert_eq!(last.epoch, epoch);
}

/// Whether a map is sent whole when a node joins, with this coordinator, while so many others listen for whole maps.
async fn sends_whole_maps(adjust: impl FnOnce(&mut Config), listeners: usize) -> bool {
    let (master, node) = tokio::join!(Redis::start(), Redis::start());
    let mut config = config(&master);
    adjust(&mut config);
    let (coordinator, _shutdown) = start(&config);
    until(&coordinator, "it leads", |status| status.leading).await;
    // A second one, which stands by, listens there as well.
    let (_standby, _shutdown_too) = start(&config);
    // Two channels in one command: whoever hears agents listens to strangers, too.
    let listens = async || {
        let mut connection = master.connect().await;
        let listeners = redis::cmd("PUBSUB").arg("NUMSUB").arg(STRANGERS_BUS).query_async::<(String, u64)>(&mut connection).await;
        (listeners.unwrap().1 == 2).then_some(())
    };
    eventually("both coordinators listen", listens).await;
    let mut others = Vec::new();
    for _ in 0..listeners {
        others.push(listen(&master, CLIENT_BUS).await);
    }
    let client = redis::Client::open(("127.0.0.1", master.port)).unwrap();
    let monitor = client.get_async_monitor().await.unwrap();
    let mut lines = monitor.into_on_message::<String>();
    let _agent = Agent::of(&node, &master);
    until(&coordinator, "the node is up", |status| status.published_up() == 1).await;
    // What was done before this line was done before it is seen.
    master.run("ECHO the-end").await.unwrap();
    let is_whole = |line: &str| line.to_lowercase().contains("\"publish\"") && line.contains(CLIENT_BUS);
    let mut has_sent = false;
    loop {
        let line = tokio::time::timeout(PATIENCE, lines.next()).await.unwrap().unwrap();
        has_sent |= is_whole(&line);
        if line.contains("the-end") {
            return has_sent;
        }
    }
}

#[tokio::test]
async fn maps_are_sent_whole_only_to_those_who_listen_for_them() {
    assert!(!sends_whole_maps(|_| (), 0).await, "coordinators alone listen, and only for strangers");
    assert!(sends_whole_maps(|_| (), 1).await);
    assert!(!sends_whole_maps(|config| config.legacy_bus = false, 1).await, "it is turned off");
}

/// A standby that hears nothing but deltas knows the map when it is the only one that does.
#[tokio::test]
async fn a_standby_remembers_the_map_by_deltas() {
    let (mut master, node, other) = tokio::join!(Redis::start(), Redis::start(), Redis::start());
    let mut config = config(&master);
    config.legacy_bus = false;
    let (leader, _shutdown) = start(&config);
    until(&leader, "it leads", |status| status.leading).await;
    let (standby, _shutdown) = start(&config);
    let (_agent, _other) = (Agent::of(&node, &master), Agent::of(&other, &master));
    let status = until(&leader, "both are up", |status| status.published_up() == 2).await;
    until(&standby, "the standby knows the map", |standing| standing.epoch >= status.epoch).await;
    for redis in [&node, &other] {
        redis.fill().await;
    }
    leader.abort();
    master.kill();
    master.restart().await;
    until(&standby, "the standby leads", |status| status.leading && status.published_up() == 2).await;
    assert_eq!((node.keys().await, other.keys().await), (3, 3), "nothing was flushed");
}

/// Many readers, a node that dies: all come to hold the same, and none of them by reading the map.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_readers_agree() {
    let mut cluster = Cluster::of(3).await;
    let watches: Vec<_> = (0..WATCHES).map(|_| follow(&cluster.master)).collect();
    for watch in &watches {
        until_taken(watch, "all nodes are up", |topology| up(topology) == 3).await;
    }
    let mut switches = JoinSet::new();
    for watch in watches {
        switches.spawn(async move {
            until_taken(&watch, "one is down", |topology| up(topology) == 2).await;
            (Instant::now(), watch)
        });
    }
    cluster.nodes[1].kill();
    let switched = switches.join_all().await;
    let (first, last) = (switched.iter().map(|(at, _)| *at).min().unwrap(), switched.iter().map(|(at, _)| *at).max().unwrap());
    println!("{WATCHES} readers switched within {:?} of the first", last - first);
    // Another map may be on its way to some of them.
    let topologies = eventually("all go by one map", async || {
        let topologies: Vec<_> = switched.iter().map(|(_, watch)| watch.topology()).collect();
        topologies.iter().all(|topology| topology.epoch() == topologies[0].epoch()).then_some(topologies)
    })
    .await;
    let owners = |topology: &Topology| (0..16_384).map(|slot| topology.slot_owner(slot).ok()).collect::<Vec<_>>();
    let (epoch, expected) = (topologies[0].epoch(), owners(&topologies[0]));
    assert!(topologies.iter().all(|topology| owners(topology) == expected));
    assert_eq!(cluster.reader.until(first - PATIENCE, "that map", |heard| heard.epoch == epoch).await.map.len(), 3);
}

fn wish(id: usize) -> String {
    let wish = AgentBusMessage::NodeWish { id: id.to_string(), name: "nobody".to_owned(), wish: Wish::Undrain };
    serde_json::to_string(&wish).unwrap()
}

async fn listen_for_answers(master: &Redis) -> PubSub {
    let client = redis::Client::open(("127.0.0.1", master.port)).unwrap();
    let mut pubsub = client.get_async_pubsub().await.unwrap();
    pubsub.psubscribe(format!("{ANSWER_BUS_PREFIX}*")).await.unwrap();
    pubsub
}

/// What is waited for of the master has its place among them, too.
#[tokio::test]
async fn every_wish_is_answered_however_many_come_at_once() {
    let mut cluster = Cluster::of(1).await;
    let mut answers = listen_for_answers(&cluster.master).await.into_on_message();
    for burst in 0..20 {
        let mut wishes = redis::pipe();
        (0..200).for_each(|number| _ = wishes.cmd("PUBLISH").arg(AGENT_BUS).arg(wish(burst * 200 + number)).ignore());
        wishes.exec_async(&mut cluster.master.connect().await).await.unwrap();
        for number in 0..200 {
            let answer = tokio::time::timeout(PATIENCE, answers.next()).await;
            assert!(answer.is_ok(), "{number} of 200 are answered");
        }
    }
    let began = Instant::now();
    cluster.nodes.push(Redis::start().await);
    let _agent = Agent::of(&cluster.nodes[1], &cluster.master);
    cluster.all_up(began).await;
}

#[tokio::test]
async fn a_wish_is_answered_though_the_masters_connection_breaks() {
    let cluster = Cluster::of(1).await;
    let mut answers = listen_for_answers(&cluster.master).await.into_on_message();
    let mut master = cluster.master.connect().await;
    // Heard, and no answer can be said.
    let mut wishes = redis::pipe();
    wishes.atomic();
    (0..3).for_each(|number| _ = wishes.cmd("PUBLISH").arg(AGENT_BUS).arg(wish(number)).ignore());
    wishes.cmd("CLIENT").arg("PAUSE").arg(100_000).arg("WRITE").ignore().exec_async(&mut master).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").exec_async(&mut master).await.unwrap();
    redis::cmd("CLIENT").arg("UNPAUSE").exec_async(&mut master).await.unwrap();
    for number in 0..3 {
        let answer = tokio::time::timeout(PATIENCE, answers.next()).await;
        assert!(answer.is_ok(), "{number} of 3 are answered");
    }
}
