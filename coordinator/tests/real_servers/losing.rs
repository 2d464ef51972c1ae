//! Nodes that go, and come back.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use vrc_cluster::contract::{AGENT_BUS, AgentBusMessage};

use crate::support::{Agent, Cluster, Heard, PATIENCE, publish};

#[tokio::test]
async fn a_killed_node_is_shown_down_at_once_and_comes_back_empty() {
    let mut cluster = Cluster::with(4, |config| {
        // It is not owed to PINGs.
        config.ping_interval = Duration::from_secs(3600);
        config.flap_pause = Duration::from_millis(20);
    })
    .await;
    let mut took = Vec::new();
    for round in 0..8 {
        let index = round % 4;
        cluster.nodes[index].fill().await;
        for other in cluster.nodes.iter().filter(|node| node.port != cluster.nodes[index].port) {
            other.fill().await;
        }
        let began = Instant::now();
        cluster.nodes[index].kill();
        let down = cluster.reader.until(began, "the node down", |heard| !heard.up(&cluster.nodes[index])).await;
        took.push(down.at - began);
        assert!(down.node(&cluster.nodes[index]).state_change_time > 1);
        for (other, node) in cluster.nodes.iter().enumerate() {
            if other != index {
                assert!(down.up(node));
                assert_eq!(node.keys().await, 2, "its guest database was flushed, and nothing else");
            }
        }
        let began = Instant::now();
        cluster.nodes[index].restart().await;
        cluster.all_up(began).await;
        assert_eq!(cluster.nodes[index].keys().await, 0);
    }
    took.sort();
    println!("killed to published: median {:?}, worst {:?}", took[took.len() / 2], took[took.len() - 1]);
}

#[tokio::test]
async fn a_stalled_node_is_shown_down_after_the_ping_timeout() {
    let cluster = Cluster::with(3, |config| config.ping_timeout = Duration::from_millis(500)).await;
    let began = Instant::now();
    cluster.nodes[0].fill().await;
    cluster.nodes[0].signal(Signal::STOP);
    let down = cluster.reader.until(began, "the node down", |heard| !heard.up(&cluster.nodes[0])).await;
    let took = down.at - began;
    println!("stopped to published: {took:?} with a PING every 100 ms and a timeout of 500 ms");
    assert!(took >= Duration::from_millis(400), "{took:?}");
    // The same process comes back, and was shown down: it may have missed writes.
    let began = Instant::now();
    cluster.nodes[0].signal(Signal::CONT);
    cluster.all_up(began).await;
    assert_eq!(cluster.nodes[0].keys().await, 0);
}

#[tokio::test]
async fn a_redis_that_restarted_with_old_data_is_emptied_before_it_is_shown_up() {
    let mut cluster = Cluster::of(2).await;
    cluster.nodes[0].fill().await;
    cluster.nodes[0].run("SAVE").await.unwrap();
    let (before, began) = (cluster.nodes[0].run_id().await, Instant::now());
    cluster.nodes[0].kill();
    cluster.nodes[0].restart().await;
    assert_ne!(cluster.nodes[0].run_id().await, before);
    let shown = cluster
        .reader
        .until(began, "the new process up", |heard| {
            heard.up(&cluster.nodes[0]) && heard.node(&cluster.nodes[0]).run_id.as_deref() != Some(before.as_str())
        })
        .await;
    assert_eq!(cluster.nodes[0].keys().await, 0);
    assert_eq!(shown.node(&cluster.nodes[0]).run_id.as_deref(), Some(cluster.nodes[0].run_id().await.as_str()));
    let went_down = |heard: &Heard| heard.at >= began && !heard.up(&cluster.nodes[0]);
    assert!(cluster.reader.all().iter().any(went_down), "it was shown down in between");
}

#[tokio::test]
async fn a_connection_that_is_cut_costs_nothing() {
    let cluster = Cluster::of(2).await;
    cluster.nodes[0].fill().await;
    let (maps, before) = (cluster.reader.all().len(), clients(&cluster).await);
    for _ in 0..3 {
        cluster.nodes[0].run("CLIENT KILL TYPE normal SKIPME yes").await.unwrap();
        cluster.nodes[0].run("CLIENT KILL TYPE pubsub SKIPME yes").await.unwrap();
        // It is back, and a PING was answered.
        let began = Instant::now();
        while clients(&cluster).await < before {
            assert!(began.elapsed() < PATIENCE);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    assert_eq!(cluster.reader.all().len(), maps);
    assert_eq!(cluster.nodes[0].keys().await, 3);
}

async fn clients(cluster: &Cluster) -> usize {
    let list: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut cluster.nodes[0].connect().await).await.unwrap();
    list.lines().count()
}

#[tokio::test]
async fn a_node_that_leaves_is_shown_down_at_once_and_returns_when_announced() {
    let mut cluster = Cluster::of(2).await;
    let agent = cluster.agents.remove(0);
    agent.silence();
    let began = Instant::now();
    let leaving = AgentBusMessage::NodeLeaving { name: cluster.nodes[0].name(), run_id: Some(cluster.nodes[0].run_id().await) };
    publish(&cluster.master, AGENT_BUS, &serde_json::to_string(&leaving).unwrap()).await;
    let down = cluster.reader.until(began, "the node down", |heard| !heard.up(&cluster.nodes[0])).await;
    println!("leaving to published: {:?}", down.at - began);
    let began = Instant::now();
    let _agent = Agent::of(&cluster.nodes[0], &cluster.master);
    cluster.all_up(began).await;
}

#[tokio::test]
async fn a_silent_agent_takes_its_node_down_and_a_node_down_for_long_is_forgotten() {
    let cluster = Cluster::with(2, |config| {
        config.agent_timeout = Duration::from_secs(2);
        config.forget_after = Duration::from_secs(2);
    })
    .await;
    let began = Instant::now();
    cluster.agents[0].silence();
    let down = cluster.reader.until(began, "the node down", |heard| !heard.up(&cluster.nodes[0])).await;
    assert!(down.at - began >= Duration::from_secs(1), "{:?}", down.at - began);
    let is_gone = |heard: &Heard| !heard.map.contains_key(&cluster.nodes[0].name());
    let gone = cluster.reader.until(down.at, "the node forgotten", is_gone).await;
    assert!(gone.at - down.at >= Duration::from_secs(1), "{:?}", gone.at - down.at);
    // For a moment the other one's agent may have been silent as well, on a busy machine.
    cluster.reader.until(gone.at, "the other up", |heard| is_gone(heard) && heard.up(&cluster.nodes[1])).await;
}
