//! Several coordinators, and a master that fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;
use vrc_cluster::contract::{CLIENT_BUS, ClientBusMessage, EPOCH_KEY, LEASE_KEY, NODE_SET_KEY};
use vrc_coordinator::Config;

use crate::support::{Agent, Cluster, Redis, announcement, config, publish, start, until};

/// Where a lease is waited for.
const LEASE: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_master_that_restarts_empty_gets_its_map_back_and_nothing_is_flushed() {
    let mut cluster = Cluster::of(3).await;
    for node in &cluster.nodes {
        node.fill().await;
    }
    let last = cluster.reader.all().last().unwrap().epoch;
    let began = Instant::now();
    cluster.master.kill();
    until(&cluster.coordinator, "the master lost", |status| !status.master_up).await;
    cluster.master.restart().await;
    let written = Instant::now();
    until(&cluster.coordinator, "written back", |status| status.leading && status.epoch > last).await;
    println!("master back to map written back: {:?}", written.elapsed());
    let nodes: usize = redis::cmd("HLEN").arg(NODE_SET_KEY).query_async(&mut cluster.master.connect().await).await.unwrap();
    let epoch: u64 = redis::cmd("GET").arg(EPOCH_KEY).query_async(&mut cluster.master.connect().await).await.unwrap();
    assert_eq!(nodes, 3);
    assert!(epoch > last);
    for node in &cluster.nodes {
        assert_eq!(node.keys().await, 3, "nothing was flushed");
    }
    for heard in cluster.reader.all().iter().filter(|heard| heard.at > began) {
        assert!(cluster.nodes.iter().all(|node| heard.up(node)), "{heard:?}");
    }
}

/// A way to the master that can be closed.
struct Way {
    port: u16,
    is_open: Arc<AtomicBool>,
    _task: AbortOnDropHandle<()>,
}

impl Way {
    async fn to(master: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, is_open) = (listener.local_addr().unwrap().port(), Arc::new(AtomicBool::new(true)));
        let open = is_open.clone();
        let task = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                if open.load(Relaxed)
                    && let Ok(mut far) = TcpStream::connect(("127.0.0.1", master)).await
                {
                    tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
                }
            }
        });
        Way { port, is_open, _task: AbortOnDropHandle::new(task) }
    }
}

/// The leader restarts together with the master, and is there first.
#[tokio::test]
async fn one_that_remembers_the_map_leads_before_one_that_restarted() {
    let mut cluster = Cluster::of(2).await;
    for node in &cluster.nodes {
        node.fill().await;
    }
    let way = Way::to(cluster.master.port).await;
    // Longer than anything here takes: it is not for being late that one of them does not lead.
    let yielding = Config { yields: Duration::from_secs(3600), ..cluster.config.clone() };
    let (standby, _shutdown) = start(&Config { master: format!("127.0.0.1:{}", way.port).parse().unwrap(), ..yielding.clone() });
    let last = cluster.reader.all().last().unwrap().epoch;
    until(&standby, "the standby knows the map", |status| status.epoch >= last).await;
    cluster.coordinator.abort();
    way.is_open.store(false, Relaxed);
    cluster.master.kill();
    until(&standby, "the master lost", |status| !status.master_up).await;
    cluster.master.restart().await;
    let (restarted, _shutdown) = start(&yielding);
    until(&restarted, "it is there first", |status| status.master_up).await;
    // Longer than it would take to be leader if it yielded to nobody.
    tokio::time::sleep(Duration::from_millis(300)).await;
    way.is_open.store(true, Relaxed);
    until(&standby, "the standby leads", |status| status.leading && status.master_up).await;
    until(&restarted, "the other knows the map", |status| status.epoch > last).await;
    assert!(!restarted.status().borrow().leading);
    for node in &cluster.nodes {
        assert_eq!(node.keys().await, 3, "nothing was flushed");
    }
}

#[tokio::test]
async fn what_happens_while_the_master_is_gone_is_published_when_it_is_back() {
    let mut cluster = Cluster::of(3).await;
    cluster.master.kill();
    cluster.nodes[0].kill();
    cluster.nodes[1].fill().await;
    until(&cluster.coordinator, "the master lost", |status| !status.master_up).await;
    let began = Instant::now();
    cluster.master.restart().await;
    cluster.reader.until(began, "one down", |heard| !heard.up(&cluster.nodes[0]) && heard.up(&cluster.nodes[1])).await;
    assert_eq!(cluster.nodes[1].keys().await, 2, "only its guest database was flushed");
}

#[tokio::test]
async fn a_master_that_hangs_costs_nothing() {
    let cluster = Cluster::with(2, |config| {
        config.master_timeout = Duration::from_millis(200);
        config.lease = LEASE;
    })
    .await;
    cluster.nodes[0].fill().await;
    cluster.master.signal(Signal::STOP);
    until(&cluster.coordinator, "the master lost", |status| !status.master_up).await;
    tokio::time::sleep(LEASE + Duration::from_millis(200)).await;
    cluster.master.signal(Signal::CONT);
    let status = until(&cluster.coordinator, "leads again", |status| status.leading && status.master_up).await;
    assert_eq!(status.published_up(), 2);
    assert_eq!(cluster.nodes[0].keys().await, 3);
}

#[tokio::test]
async fn a_standby_leads_after_the_leaders_death() {
    // Longer than a busy machine keeps the leader from renewing it.
    let cluster = Cluster::with(2, |config| config.lease = 4 * LEASE).await;
    for node in &cluster.nodes {
        node.fill().await;
    }
    let (standby, _shutdown) = start(&cluster.config);
    until(&standby, "the standby knows the map", |status| status.epoch > 0).await;
    assert!(!standby.status().borrow().leading);
    let (last, began) = (cluster.reader.all().last().unwrap().epoch, Instant::now());
    cluster.coordinator.abort();
    until(&standby, "the standby leads", |status| status.leading && status.epoch > last).await;
    println!("leader dead to map of the standby: {:?}", began.elapsed());
    assert_eq!(standby.status().borrow().published_up(), 2);
    for node in &cluster.nodes {
        assert_eq!(node.keys().await, 3, "nothing was flushed");
    }
}

#[tokio::test]
async fn a_leader_that_stops_in_good_order_hands_over_at_once() {
    // The lease is not waited for: it does not end.
    let cluster = Cluster::of(1).await;
    let (standby, _shutdown) = start(&cluster.config);
    until(&standby, "the standby knows the map", |status| status.epoch > 0).await;
    let began = Instant::now();
    cluster.shutdown.cancel();
    cluster.coordinator.finished().await.unwrap();
    until(&standby, "the standby leads", |status| status.leading).await;
    println!("leader stopped to standby leads: {:?}", began.elapsed());
}

#[tokio::test]
async fn a_new_leader_finds_out_what_happened_while_nobody_led() {
    let mut cluster = Cluster::of(3).await;
    cluster.shutdown.cancel();
    cluster.coordinator.finished().await.unwrap();
    // One dies; one is restarted faster than anybody noticed, with data; one stays.
    cluster.nodes[0].kill();
    cluster.nodes[1].fill().await;
    cluster.nodes[1].run("SAVE").await.unwrap();
    cluster.nodes[1].kill();
    cluster.nodes[1].restart().await;
    assert_eq!(cluster.nodes[1].keys().await, 3);
    cluster.nodes[2].fill().await;
    let began = Instant::now();
    let _coordinator = start(&cluster.config);
    let heard = cluster.reader.until(began, "the first map", |_| true).await;
    assert!(!heard.up(&cluster.nodes[0]) && !heard.up(&cluster.nodes[1]) && heard.up(&cluster.nodes[2]));
    cluster.reader.until(began, "it is back", |heard| heard.up(&cluster.nodes[1])).await;
    assert_eq!(cluster.nodes[1].keys().await, 0);
    assert_eq!(cluster.nodes[2].keys().await, 2, "only its guest database was flushed");
}

#[tokio::test]
async fn a_map_that_somebody_changed_is_written_again() {
    let cluster = Cluster::of(2).await;
    let began = Instant::now();
    cluster.master.run(&format!("DEL {NODE_SET_KEY}")).await.unwrap();
    cluster.all_up(began).await;
    let began = Instant::now();
    cluster.master.run("FLUSHALL").await.unwrap();
    cluster.all_up(began).await;
    let began = Instant::now();
    cluster.master.run(&format!("SET {EPOCH_KEY} 9007199254740000")).await.unwrap();
    let heard = cluster.reader.until(began, "a later map", |heard| heard.epoch > 9_007_199_254_740_000).await;
    assert_eq!(heard.epoch, 9_007_199_254_740_001);
    assert!(cluster.nodes.iter().all(|node| heard.up(node)));
    // Nonsense is nobody's epoch, and the wrong type is no hash.
    let began = Instant::now();
    let mut meddling = redis::pipe();
    // At once: what is written again in between would be taken for the answer to all of it.
    meddling.atomic().set(EPOCH_KEY, "nonsense").set(NODE_SET_KEY, "nonsense");
    meddling.exec_async(&mut cluster.master.connect().await).await.unwrap();
    let heard = cluster.reader.until(began, "written again", |heard| heard.epoch > 9_007_199_254_740_001).await;
    assert_eq!(heard.map.len(), 2);
    let nodes: usize = redis::cmd("HLEN").arg(NODE_SET_KEY).query_async(&mut cluster.master.connect().await).await.unwrap();
    assert_eq!(nodes, 2);
}

#[tokio::test]
async fn nothing_is_written_while_another_holds_the_lease() {
    let mut cluster = Cluster::of(2).await;
    cluster.master.run(&format!("SET {LEASE_KEY} somebody PX 60000")).await.unwrap();
    let maps = cluster.reader.all().len();
    cluster.nodes[0].kill();
    until(&cluster.coordinator, "deposed", |status| !status.leading).await;
    assert_eq!(cluster.reader.all().len(), maps);
    let began = Instant::now();
    cluster.master.run(&format!("DEL {LEASE_KEY}")).await.unwrap();
    cluster.reader.until(began, "the node down", |heard| !heard.up(&cluster.nodes[0])).await;
}

#[tokio::test]
async fn nodes_of_an_old_map_are_kept_if_they_run_since() {
    let (master, kept, fresh) = (Redis::start().await, Redis::start().await, Redis::start().await);
    let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    for node in [&kept, &fresh] {
        node.fill().await;
        // In the hour to come, so that the servers need not have been running for long; or long before they began to.
        let seen_ms = if node.port == kept.port { now_ms + 3_600_000 } else { now_ms - 3_600_000 };
        let old = serde_json::json!({
            "config": {"host": "127.0.0.1", "port": node.port}, "weight": 3, "up": true, "stateChangeTime": 1,
            "name": node.name(), "lastPing": seen_ms, "colour": "red"
        });
        let mut connection = master.connect().await;
        redis::cmd("HSET").arg(NODE_SET_KEY).arg(node.name()).arg(old.to_string()).exec_async(&mut connection).await.unwrap();
    }
    let reader = crate::support::Reader::of(&master).await;
    let began = Instant::now();
    let (coordinator, _shutdown) = start(&config(&master));
    let mut announced = announcement(&fresh);
    announced.weight = 3.0;
    let _agent = Agent::announcing(announced, &master);
    let heard = reader.until(began, "both up", |heard| heard.up(&kept) && heard.up(&fresh)).await;
    assert_eq!(
        (kept.keys().await, fresh.keys().await),
        (2, 0),
        "the guest database of the one was flushed when the other was taken out"
    );
    assert_eq!(heard.node(&kept).run_id.as_deref(), Some(kept.run_id().await.as_str()));
    assert_eq!(heard.node(&kept).other["colour"], "red");
    // An old coordinator beside ours is told of, and nothing more.
    let foreign = ClientBusMessage::UpdateNodes { node_map: Default::default(), epoch: None };
    publish(&master, CLIENT_BUS, &serde_json::to_string(&foreign).unwrap()).await;
    until(&coordinator, "leads on", |status| status.leading && status.published_up() == 2).await;
}

/// A request may come so late that others have led, and upon a lease that one as late has taken anew.
#[tokio::test]
async fn nothing_is_written_where_a_map_stands_that_the_writer_does_not_know() {
    let master = Redis::start().await;
    let mut connection = master.connect().await;
    for command in ["SET lease me:1", "SET epoch 7", "HSET nodes a theirs"] {
        master.run(command).await.unwrap();
    }
    let mut write = async |known: u64| -> Vec<String> {
        let mut eval = redis::cmd("EVAL");
        eval.arg(include_str!("../../src/scripts/write.lua")).arg(5).arg(&["lease", "nodes", "epoch", "rehomed", "delta"]);
        eval.arg("me:1").arg(9).arg(known).arg(1).arg(0).arg("deltas").arg("delta").arg("").arg("strangers");
        eval.arg(1).arg("a").arg("ours").query_async(&mut connection).await.unwrap()
    };
    assert_eq!(write(6).await, ["stale", "7"]);
    assert_eq!(master.run("HGET nodes a").await.unwrap(), redis::Value::BulkString(b"theirs".to_vec()));
    assert_eq!(write(7).await, ["done"]);
    assert_eq!(master.run("HGET nodes a").await.unwrap(), redis::Value::BulkString(b"ours".to_vec()));
    assert_eq!(master.run("GET epoch").await.unwrap(), redis::Value::BulkString(b"9".to_vec()));
}

#[tokio::test]
async fn a_master_that_takes_no_writes_or_lets_nobody_hear_makes_a_coordinator_unwell() {
    let cluster = Cluster::with(1, |config| {
        config.lease = Duration::from_millis(400);
        config.lease_interval = Duration::from_millis(100);
    })
    .await;
    let coordinator = &cluster.coordinator;
    until(coordinator, "well", |status| status.unwell.is_none()).await;
    cluster.master.run("CONFIG SET min-replicas-to-write 1").await.unwrap();
    // A busy machine may first give it another reason.
    let is_told = |reason: &String| reason.contains("it neither leads nor sees another lead") && reason.contains("NOREPLICAS");
    until(coordinator, "unwell", |status| status.unwell.as_ref().is_some_and(is_told)).await;
    cluster.master.run("CONFIG SET min-replicas-to-write 0").await.unwrap();
    until(coordinator, "well again", |status| status.unwell.is_none()).await;

    // Whoever is subscribed is cut off.
    cluster.master.run("ACL SETUSER default resetchannels").await.unwrap();
    let is_deaf = |reason: &String| reason.starts_with("it cannot hear agents");
    until(coordinator, "deaf", |status| status.unwell.as_ref().is_some_and(is_deaf)).await;
    cluster.master.run("ACL SETUSER default allchannels").await.unwrap();
    until(coordinator, "hears again", |status| status.unwell.is_none()).await;
}
