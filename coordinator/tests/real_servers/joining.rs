//! Nodes that come.

use std::time::Instant;

use vrc_cluster::{
    contract::{AGENT_BUS, CLIENT_BUS, COORDINATION_KEYS, DELTA_KEY, EPOCH_KEY, LEASE_KEY, NODE_SET_KEY, REHOMED_KEY},
    membership::NodeState,
};

use crate::support::{Agent, Cluster, Reader, Redis, announcement, config, publish, start, until};

#[tokio::test]
async fn a_node_that_joins_is_emptied_before_it_is_shown_up() {
    let (master, node) = (Redis::start().await, Redis::start().await);
    node.fill().await;
    let reader = Reader::of(&master).await;
    let _coordinator = start(&config(&master));
    let began = Instant::now();
    let _agent = Agent::of(&node, &master);
    let heard = reader.until(began, "the node up", |heard| heard.up(&node)).await;
    assert_eq!(node.keys().await, 0);
    let shown = heard.node(&node);
    assert_eq!(shown.state_change_time, 1, "has only ever been up");
    assert_eq!(shown.run_id.as_deref(), Some(node.run_id().await.as_str()));
    assert!(shown.version.is_some() && shown.last_ping.is_some());
    println!("announced to published: {:?}", heard.at - began);

    let stored: String =
        redis::cmd("HGET").arg(NODE_SET_KEY).arg(node.name()).query_async(&mut master.connect().await).await.unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&stored).unwrap(), serde_json::to_value(shown).unwrap());
    let epoch: u64 = redis::cmd("GET").arg(EPOCH_KEY).query_async(&mut master.connect().await).await.unwrap();
    assert_eq!(epoch, heard.epoch);
}

#[tokio::test]
async fn a_node_that_cannot_be_emptied_stays_out_until_it_can() {
    let (master, node) = (Redis::start().await, Redis::start().await);
    node.fill().await;
    let (coordinator, _shutdown) = start(&config(&master));
    node.run("ACL SETUSER default -flushall").await.unwrap();
    let _agent = Agent::of(&node, &master);
    until(&coordinator, "the node known", |status| status.nodes.len() == 1).await;
    node.until_called("flushall", 3).await;
    assert_eq!(coordinator.status().borrow().published_up(), 0);
    assert_eq!(node.keys().await, 3);
    node.run("ACL SETUSER default +flushall").await.unwrap();
    until(&coordinator, "the node up", |status| status.published_up() == 1).await;
    assert_eq!(node.keys().await, 0);
}

/// An agent on another host watches a redis there, and announces an address at which there is some other redis for the coordinator.
#[tokio::test]
async fn a_redis_that_no_agent_watches_is_not_touched() {
    let (master, watched, stranger) = (Redis::start().await, Redis::start().await, Redis::start().await);
    stranger.fill().await;
    let (coordinator, _shutdown) = start(&config(&master));
    let mut wrong = announcement(&stranger);
    wrong.run_id = Some(watched.run_id().await);
    let agent = Agent::announcing(wrong, &master);
    let left_alone = |reason: &String| {
        reason.starts_with("the redis at 127.0.0.1:") && reason.contains("is not the one that its agent watches")
    };
    until(&coordinator, "left alone", |status| status.nodes.iter().any(|node| node.reason.as_ref().is_some_and(left_alone)))
        .await;
    // Its connection is kept, and would have served for that.
    stranger.until_called("ping", 3).await;
    // Not in one: the coordinator, in this same thread, would wait for the status that is looked at.
    assert_eq!(coordinator.status().borrow().published_up(), 0);
    assert_eq!(stranger.keys().await, 3);
    drop(agent);
    let mut right = announcement(&stranger);
    right.run_id = Some(stranger.run_id().await);
    let _agent = Agent::announcing(right, &master);
    until(&coordinator, "up", |status| status.published_up() == 1).await;
    assert_eq!(stranger.keys().await, 0);
}

/// It could be emptied, but not be flushed of its guests when another goes down.
#[tokio::test]
async fn a_node_that_permits_no_scripts_stays_out_unless_there_are_no_guests() {
    let (master, node, other) = (Redis::start().await, Redis::start().await, Redis::start().await);
    node.run("ACL SETUSER default -@scripting").await.unwrap();
    let (coordinator, shutdown) = start(&config(&master));
    let _agents = [Agent::of(&node, &master), Agent::of(&other, &master)];
    until(&coordinator, "the other up", |status| status.published_up() == 1).await;
    node.until_called("eval", 2).await;
    assert_eq!(coordinator.status().borrow().published_up(), 1);
    shutdown.cancel();
    coordinator.finished().await.unwrap();

    let (coordinator, _shutdown) = start(&vrc_coordinator::Config { guest_databases: false, ..config(&master) });
    until(&coordinator, "both up", |status| status.published_up() == 2).await;
}

#[tokio::test]
async fn the_master_is_refused_as_a_node() {
    let master = Redis::start().await;
    master.run("SET mine 1").await.unwrap();
    let (coordinator, _shutdown) = start(&config(&master));
    let _agent = Agent::of(&master, &master);
    let status = until(&coordinator, "refused", |status| status.nodes.iter().any(|node| node.state == NodeState::Refused)).await;
    assert_eq!(status.published_up(), 0);
    assert_eq!(redis::cmd("EXISTS").arg("mine").query_async(&mut master.connect().await).await, Ok(1));
    assert_eq!(redis::cmd("HLEN").arg(NODE_SET_KEY).query_async(&mut master.connect().await).await, Ok(0));
}

/// How many of the keys that every master has are in this database. Others come and go by what there is to tell.
async fn coordination(master: &Redis, database: u8) -> usize {
    let mut connection = master.connect().await;
    redis::cmd("SELECT").arg(database).exec_async(&mut connection).await.unwrap();
    let keys = [NODE_SET_KEY, EPOCH_KEY, DELTA_KEY, LEASE_KEY, REHOMED_KEY];
    redis::cmd("EXISTS").arg(&keys).query_async(&mut connection).await.unwrap()
}

/// The databases in which there is still what [`Redis::fill`] wrote.
async fn filled(master: &Redis) -> Vec<u8> {
    let (mut found, mut connection) = (Vec::new(), master.connect().await);
    for database in [0, 3, 9] {
        redis::cmd("SELECT").arg(database).exec_async(&mut connection).await.unwrap();
        if redis::cmd("EXISTS").arg("old").query_async::<bool>(&mut connection).await.unwrap() {
            found.push(database);
        }
    }
    found
}

#[tokio::test]
async fn the_master_may_serve_when_allowed_and_keeps_its_coordination() {
    let mut cluster = Cluster::with(2, |config| config.allow_master = true).await;
    cluster.master.fill().await;
    // More keys than one step of the flush takes.
    let populate = "for i = 1, 5000 do redis.call('SET', 'mine:' .. i, i) end";
    redis::cmd("EVAL").arg(populate).arg(0).exec_async(&mut cluster.master.connect().await).await.unwrap();
    let began = Instant::now();
    let _agent = Agent::of(&cluster.master, &cluster.master);
    cluster.reader.until(began, "the master up", |heard| heard.up(&cluster.master)).await;
    let left: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut cluster.master.connect().await).await.unwrap();
    assert!(left.iter().all(|key| COORDINATION_KEYS.contains(&key.as_str())), "{left:?}");
    assert_eq!((coordination(&cluster.master, 0).await, filled(&cluster.master).await), (5, vec![]));

    // A node goes down: guests are flushed everywhere, and the coordination stays.
    cluster.master.fill().await;
    let began = Instant::now();
    cluster.nodes[0].kill();
    cluster.reader.until(began, "the node down", |heard| !heard.up(&cluster.nodes[0]) && heard.up(&cluster.master)).await;
    let kept = (coordination(&cluster.master, 0).await, filled(&cluster.master).await);
    assert_eq!(kept, (5, vec![0, 3]), "database 9 is a guest database, 0 and 3 are not");
}

#[tokio::test]
async fn the_coordination_is_spared_in_whatever_database_it_stands() {
    let master = Redis::start().await;
    let config = vrc_coordinator::Config {
        allow_master: true,
        ..vrc_coordinator::Config { master: format!("redis://127.0.0.1:{}/9", master.port).parse().unwrap(), ..config(&master) }
    };
    let (coordinator, _shutdown) = start(&config);
    master.fill().await;
    let mut node = Redis::start().await;
    let _agents = [Agent::of(&master, &master), Agent::of(&node, &master)];
    until(&coordinator, "both up", |status| status.published_up() == 2).await;
    assert_eq!((coordination(&master, 9).await, filled(&master).await), (5, vec![]));
    master.fill().await;
    node.kill();
    until(&coordinator, "one down", |status| status.published_up() == 1).await;
    assert_eq!((coordination(&master, 9).await, filled(&master).await), (5, vec![0, 3]));
    until(&coordinator, "still leads", |status| status.leading).await;
}

#[tokio::test]
async fn bad_messages_change_nothing() {
    let cluster = Cluster::of(1).await;
    let (master, node) = (&cluster.master, &cluster.nodes[0]);
    let began = Instant::now();
    for message in [
        "",
        "not json",
        "[]",
        "{\"type\":\"node_dance\"}",
        "{\"type\":\"node_up\"}",
        "{\"type\":\"node_up\",\"node\":{\"config\":{\"host\":\"h\",\"port\":99999},\"weight\":1}}",
        "{\"type\":\"node_up\",\"node\":{\"config\":{\"host\":\"h\",\"port\":0},\"weight\":1}}",
        "{\"type\":\"node_up\",\"node\":{\"config\":{\"host\":\"\",\"port\":7},\"weight\":1}}",
        "{\"type\":\"node_up\",\"node\":{\"config\":{\"host\":\"h\",\"port\":7},\"weight\":-1}}",
        "{\"type\":\"node_up\",\"node\":{\"config\":{\"host\":\"h\",\"port\":7},\"weight\":1e300}}",
        "{\"type\":\"node_down\",\"name\":\"nobody\",\"reason\":\"\"}",
        "\u{0}\u{1}\u{fffd}",
        &"x".repeat(100_000),
    ] {
        publish(master, AGENT_BUS, message).await;
        publish(master, CLIENT_BUS, message.replace("node_up", "update_nodes").as_str()).await;
    }
    let late = serde_json::json!({"type": "node_down", "name": node.name(), "runId": "of another process", "reason": "died"});
    publish(master, AGENT_BUS, &late.to_string()).await;
    // A good message after them has its effect, so they were all read.
    let mut heavier = announcement(node);
    heavier.weight = 2.5;
    drop(cluster.agents);
    let reader = Reader::of(master).await;
    let _agent = Agent::announcing(heavier, master);
    let heard = reader.until(began, "the new weight", |heard| heard.node(node).weight == 2.5).await;
    assert!(heard.up(node));
    assert_eq!(heard.map.len(), 1);
    assert_eq!(reader.all().len(), 1, "one change, one map");
}
