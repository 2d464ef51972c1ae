//! What the coordinator is told, and when.

mod common;

use std::time::Duration;

use common::*;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};
use vrc_agent::{Config, NodeTarget, spawn::free_port};
use vrc_cluster::contract::AgentBusMessage;

#[tokio::test]
async fn a_node_is_announced_at_once_and_again_and_again() {
    let (node, master) = (redis().await, redis().await);
    let mut ear = Ear::on(&master).await;
    let began = Instant::now();
    let agent = Agent::start(Config { announce_interval: Duration::from_millis(300), ..config(&node, &master) });
    let first = ear.up().await;
    assert_eq!((first.config.host.as_str(), first.config.port, first.weight), ("127.0.0.1", node.port(), 2.5));
    assert_eq!((first.run_id, first.version.as_deref()), (Some(run_id(&node).await), Some(node.version())));
    assert!(first.name.is_none() && !node.version().is_empty());
    for _ in 0..3 {
        ear.up().await;
    }
    assert!(began.elapsed() >= Duration::from_millis(850), "three intervals in {:?}", began.elapsed());
    agent.stop().await;
}

#[tokio::test]
async fn a_name_and_an_address_for_others_are_announced() {
    let (node, master) = (redis().await, redis().await);
    let mut ear = Ear::on(&master).await;
    let agent = Agent::start(Config {
        name: Some("left".into()),
        announced_host: Some("cache.example".into()),
        announced_port: Some(7401),
        ..config(&node, &master)
    });
    let announced = ear.up().await;
    assert_eq!((announced.node_name().as_str(), announced.config.address().as_str()), ("left", "cache.example:7401"));
    agent.stop().await;
}

#[tokio::test]
async fn a_killed_redis_is_down_at_once_and_up_when_it_is_back() {
    let (node, master) = (redis().await, redis().await);
    let mut ear = Ear::on(&master).await;
    // Neither death nor return waits for an interval: none ends.
    let agent = Agent::start(Config { ping_interval: NEVER, announce_interval: NEVER, ..config(&node, &master) });
    let old_run_id = ear.up().await.run_id;
    let (pid, port) = (node.pid(), node.port());
    kill(pid, Signal::KILL);
    let AgentBusMessage::NodeDown { name, run_id: dead, reason } = ear.next().await else { panic!("not down") };
    assert_eq!((name, &dead), (format!("127.0.0.1:{port}"), &old_run_id));
    assert!(!reason.is_empty());
    drop(node);
    let node = redis_on(port).await;
    let announced = ear.up().await;
    assert_eq!(announced.run_id, Some(run_id(&node).await));
    assert_ne!(announced.run_id, old_run_id);
    agent.stop().await;
}

#[tokio::test]
async fn a_stalled_redis_is_down_till_it_goes_on() {
    let (node, master) = (redis().await, redis().await);
    let mut ear = Ear::on(&master).await;
    let agent = Agent::start(Config { ping_timeout: Duration::from_secs(2), ..config(&node, &master) });
    let announced = ear.up().await;
    kill(node.pid(), Signal::STOP);
    let AgentBusMessage::NodeDown { run_id, .. } = ear.other_than_up().await else { panic!("not down") };
    assert_eq!(run_id, announced.run_id);
    kill(node.pid(), Signal::CONT);
    assert_eq!(ear.up().await.run_id, announced.run_id);
    agent.stop().await;
}

/// Both stand still, as where a whole machine does, for longer than the agent waits for the answer to its PING.
#[tokio::test]
async fn an_agent_that_stood_still_itself_does_not_blame_redis() {
    let (node, master) = (redis().await, redis().await);
    let mut ear = Ear::on(&master).await;
    let limits =
        Config { ping_interval: Duration::from_millis(50), ping_timeout: Duration::from_secs(2), ..config(&node, &master) };
    let agent = Agent::start(limits);
    ear.up().await;
    for _ in 0..2 {
        kill(node.pid(), Signal::STOP);
        sleep(Duration::from_millis(150)).await;
        // Everything in this process runs on this thread, and redis needs a moment.
        std::thread::sleep(Duration::from_millis(2_500));
        kill(node.pid(), Signal::CONT);
        ear.up().await;
    }
    agent.stop().await;
    let said = ear.other_than_up().await;
    assert!(matches!(said, AgentBusMessage::NodeLeaving { .. }), "{said:?}");
}

#[tokio::test]
async fn a_connection_that_somebody_closed_is_no_death() {
    let (node, master) = (redis().await, redis().await);
    let mut ear = Ear::on(&master).await;
    let patient = Duration::from_secs(20);
    let agent = Agent::start(Config {
        ping_timeout: patient,
        connect_timeout: patient,
        confirm_timeout: patient,
        ..config(&node, &master)
    });
    ear.up().await;
    let mut admin = connection(&node).await;
    let own: u64 = command(&mut admin, "CLIENT ID").await;
    let last_id = || async {
        let clients: String = command(&mut connection(&node).await, "CLIENT LIST").await;
        clients.lines().filter_map(|line| line.strip_prefix("id=")?.split(' ').next()?.parse::<u64>().ok()).max()
    };
    for _ in 0..3 {
        let before = last_id().await;
        let killed: u64 = command(&mut admin, "CLIENT KILL TYPE normal SKIPME yes").await;
        assert!(killed > 0 && before > Some(own));
        // The agent is back: of clients that came later, one stays besides the one that looks.
        eventually(async || {
            let clients: String = command(&mut admin, "CLIENT LIST").await;
            let later = clients.lines().filter_map(|line| line.strip_prefix("id=")?.split(' ').next()?.parse::<u64>().ok());
            (later.filter(|id| Some(*id) > before).count() > 0).then_some(())
        })
        .await;
    }
    agent.stop().await;
    let said = ear.other_than_up().await;
    assert!(matches!(said, AgentBusMessage::NodeLeaving { .. }), "{said:?}");
}

#[tokio::test]
async fn a_node_that_is_stopped_says_that_it_leaves() {
    let (node, master) = (redis().await, redis().await);
    let mut ear = Ear::on(&master).await;
    let agent = Agent::start(config(&node, &master));
    let announced = ear.up().await;
    agent.stop().await;
    let AgentBusMessage::NodeLeaving { name, run_id } = ear.other_than_up().await else { panic!("not leaving") };
    assert_eq!((name, run_id), (announced.node_name(), announced.run_id));
}

#[tokio::test]
async fn a_master_that_hangs_does_not_keep_the_agent_from_ending() {
    let (node, master) = (redis().await, redis().await);
    let mut ear = Ear::on(&master).await;
    let agent = Agent::start(config(&node, &master));
    ear.up().await;
    kill(master.pid(), Signal::STOP);
    agent.stop().await;
    kill(master.pid(), Signal::CONT);
}

#[tokio::test]
async fn an_agent_that_has_nothing_to_say_ends_at_once() {
    let master = redis().await;
    let nobody = NodeTarget::new("127.0.0.1", 1);
    // It does not wait for anybody to show down what nobody was told of.
    let agent = Agent::start(Config { leave_wait: NEVER, ..config_for(nobody, &master) });
    agent.stop().await;
}

#[tokio::test]
async fn a_master_that_restarts_hears_of_the_node_at_once() {
    let (node, master) = (redis().await, redis().await);
    let mut ear = Ear::on(&master).await;
    let agent = Agent::start(Config { announce_interval: NEVER, ..config(&node, &master) });
    ear.up().await;
    let port = master.port();
    kill(master.pid(), Signal::KILL);
    drop(master);
    let master = redis_on(port).await;
    // It may have been said before anybody listened, so whoever listens now has it said again by throwing the agent out.
    let mut ear = Ear::on(&master).await;
    let _: u64 = command(&mut connection(&master).await, "CLIENT KILL TYPE normal SKIPME yes").await;
    let announced = ear.up().await;
    assert_eq!(announced.run_id, Some(run_id(&node).await));
    agent.stop().await;
}

#[tokio::test]
async fn what_is_not_there_yet_is_waited_for() {
    let (node_port, master_port) = (free_port("127.0.0.1").unwrap(), free_port("127.0.0.1").unwrap());
    let target = NodeTarget::new("127.0.0.1", node_port);
    let master_url = vrc_cluster::client::MasterUrl::new("127.0.0.1", master_port).unwrap();
    let settings = Config { announce_interval: Duration::from_millis(100), ..Config::new(target, master_url) };
    let agent = Agent::start(settings);
    let master = redis_on(master_port).await;
    let mut ear = Ear::on(&master).await;
    let node = redis_on(node_port).await;
    assert_eq!(ear.up().await.run_id, Some(run_id(&node).await));
    agent.stop().await;
}
