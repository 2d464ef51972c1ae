//! Which redis is taken as a node, and which is not.

mod common;

use common::*;
use rustix::process::Signal;
use vrc_agent::{
    Config, NodeTarget, Refused,
    spawn::{RedisProcess, SpawnOptions},
};
use vrc_cluster::contract::{AgentBusMessage, Endpoint, NODE_SET_KEY, Node};

/// Puts 3 keys in database 0 and 2 in database 9.
async fn fill(redis: &RedisProcess) {
    let mut connection = connection(redis).await;
    let () = command(&mut connection, "MSET a 1 b 2 c 3").await;
    let () = command(&mut connection, "SELECT 9").await;
    let () = command(&mut connection, "MSET d 4 e 5").await;
}

async fn refusal(config: Config) -> Refused {
    Agent::start(config).error().await.downcast().expect("a refusal")
}

/// Whether an agent takes it, and says so.
async fn check_taken(config: Config, master: &RedisProcess) {
    let mut ear = Ear::on(master).await;
    let agent = Agent::start(config);
    ear.up().await;
    agent.stop().await;
}

fn known(name: &str, endpoint: Endpoint, run_id: Option<String>) -> String {
    let node = Node {
        config: endpoint,
        weight: 1.0,
        up: true,
        state_change_time: 1,
        name: name.to_owned(),
        last_ping: None,
        run_id,
        version: None,
        upkeep: Default::default(),
        other: serde_json::Map::new(),
    };
    serde_json::to_string(&node).unwrap()
}

async fn register(master: &RedisProcess, name: &str, endpoint: Endpoint, run_id: Option<String>) {
    let mut command = redis::cmd("HSET");
    command.arg(NODE_SET_KEY).arg(name).arg(known(name, endpoint, run_id));
    command.exec_async(&mut connection(master).await).await.unwrap();
}

#[tokio::test]
async fn somebody_elses_keys_are_counted_and_left_alone() {
    let (node, master) = (redis().await, redis().await);
    fill(&node).await;
    let mut ear = Ear::on(&master).await;
    let refused = refusal(config(&node, &master)).await;
    assert!(matches!(&refused, Refused::ForeignKeys { keys: 5, .. }), "{refused:?}");
    let text = refused.to_string();
    assert!(text.contains("5 keys") && text.contains("--flush") && text.contains(&node.port().to_string()), "{text}");
    let mut connection = connection(&node).await;
    assert_eq!(command::<u64>(&mut connection, "DBSIZE").await, 3);
    // Neither announced nor marked: the next message is one of ours.
    let () = redis::cmd("PUBLISH")
        .arg(vrc_cluster::contract::AGENT_BUS)
        .arg(r#"{"type":"node_leaving","name":"test"}"#)
        .query_async(&mut common::connection(&master).await)
        .await
        .unwrap();
    assert!(matches!(ear.next().await, AgentBusMessage::NodeLeaving { name, .. } if name == "test"));
    assert!(matches!(refusal(config(&node, &master)).await, Refused::ForeignKeys { .. }));
}

#[tokio::test]
async fn with_flush_it_is_taken_and_is_ours_from_then_on() {
    let (node, master) = (redis().await, redis().await);
    fill(&node).await;
    check_taken(Config { flush: true, ..config(&node, &master) }, &master).await;
    // Emptying is the coordinator's part, and the marker outlives it.
    let mut connection = connection(&node).await;
    assert_eq!(command::<u64>(&mut connection, "DBSIZE").await, 3);
    let () = command(&mut connection, "FLUSHALL").await;
    fill(&node).await;
    check_taken(config(&node, &master), &master).await;
    // The marker is no way in.
    let denied = redis::cmd("AUTH").arg("vrc-node").arg("").exec_async(&mut connection).await.unwrap_err();
    assert_eq!(denied.code(), Some("WRONGPASS"));
}

#[tokio::test]
async fn the_marker_of_another_process_vouches_for_nothing() {
    let (node, master) = (redis().await, redis().await);
    fill(&node).await;
    let hash = format!("{:0<64}", "0123456789abcdef0123456789abcdef01234567");
    let () = command(&mut connection(&node).await, &format!("ACL SETUSER vrc-node reset #{hash}")).await;
    assert!(matches!(refusal(config(&node, &master)).await, Refused::ForeignKeys { .. }));
}

#[tokio::test]
async fn the_node_set_vouches_for_an_address_and_for_a_process_but_not_for_a_name() {
    let (node, master) = (redis().await, redis().await);
    let mut admin = connection(&node).await;
    fill(&node).await;
    let named = Config { name: Some("left".into()), ..config(&node, &master) };
    // The same name on another port: a mistyped port would look like this.
    register(&master, "left", Endpoint::new("127.0.0.1", 1), Some("other".into())).await;
    assert!(matches!(refusal(named.clone()).await, Refused::ForeignKeys { .. }));
    register(&master, "left", Endpoint::new("localhost", node.port()), Some(run_id(&node).await)).await;
    check_taken(named.clone(), &master).await;
    let () = command(&mut admin, "ACL DELUSER vrc-node").await;
    register(&master, "other", Endpoint::new("127.0.0.1", node.port()), None).await;
    register(&master, "left", Endpoint::new("127.0.0.1", 1), None).await;
    check_taken(named, &master).await;
}

#[tokio::test]
async fn a_redis_with_keys_waits_for_the_master_to_vouch_for_it() {
    let node = redis().await;
    fill(&node).await;
    let master = redis().await;
    let (master_port, settings) = (master.port(), config(&node, &master));
    master.stop().await.unwrap();
    let agent = Agent::start(settings);
    let master = redis_on(master_port).await;
    let refused: Refused = agent.error().await.downcast().unwrap();
    assert!(matches!(refused, Refused::ForeignKeys { keys: 5, .. }), "{refused}");
    drop(master);
}

#[tokio::test]
async fn a_redis_that_comes_back_with_its_data_is_still_ours() {
    let (node, master) = (redis().await, redis().await);
    // What the node will find on its disk when it is started again.
    let dir = tempfile::tempdir().unwrap();
    let in_dir = ("dir".to_owned(), vec![dir.path().to_str().unwrap().to_owned()]);
    let options = SpawnOptions { directives: vec![in_dir], ..SpawnOptions::default() };
    let donor = RedisProcess::start(&options).await.unwrap();
    fill(&donor).await;
    let () = command(&mut connection(&donor).await, "SAVE").await;
    let mut ear = Ear::on(&master).await;
    let agent = Agent::start(config(&node, &master));
    ear.up().await;
    let port = node.port();
    kill(node.pid(), Signal::KILL);
    drop(node);
    let options = SpawnOptions { port: Some(port), ..options };
    let node = eventually(async || RedisProcess::start(&options).await.ok()).await;
    assert_eq!(command::<u64>(&mut connection(&node).await, "DBSIZE").await, 3);
    let new_run_id = run_id(&node).await;
    ear.up_where(|node| node.run_id.as_ref() == Some(&new_run_id)).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_password_and_a_user_are_used_and_announced() {
    let master = redis().await;
    let options = SpawnOptions { password: Some("p\"1".to_owned()), ..SpawnOptions::default() };
    let node = RedisProcess::start(&options).await.unwrap();
    let target = NodeTarget { password: Some("p\"1".to_owned()), ..NodeTarget::new(node.host(), node.port()) };
    let mut ear = Ear::on(&master).await;
    let agent = Agent::start(config_for(target.clone(), &master));
    assert_eq!(ear.up().await.config.password.as_deref(), Some("p\"1"));
    agent.stop().await;

    let client = redis::Client::open(format!("redis://:p%221@{}:{}", node.host(), node.port())).unwrap();
    let mut admin = open(&client).await;
    // A user that may hardly do anything: no ACL, no SELECT.
    let () = command(&mut admin, "ACL SETUSER vrc on >secret ~* &* -@all +ping +info").await;
    let () = command(&mut admin, "ACL DELUSER vrc-node").await;
    let restricted = NodeTarget { username: Some("vrc".into()), password: Some("secret".into()), ..target.clone() };
    let mut ear = Ear::on(&master).await;
    let agent = Agent::start(config_for(restricted.clone(), &master));
    let announced = ear.up().await.config;
    assert_eq!((announced.username.as_deref(), announced.password.as_deref()), (Some("vrc"), Some("secret")));
    agent.stop().await;
    // The node set alone vouches for it then.
    let () = command(&mut admin, "SET a 1").await;
    assert!(matches!(refusal(config_for(restricted.clone(), &master)).await, Refused::ForeignKeys { keys: 1, .. }));
    register(&master, "n", Endpoint::new(node.host(), node.port()), None).await;
    check_taken(config_for(restricted.clone(), &master), &master).await;

    for wrong in [None, Some("wrong".to_owned())] {
        let refused = refusal(config_for(NodeTarget { password: wrong, ..target.clone() }, &master)).await;
        assert!(matches!(refused, Refused::Credentials { .. }), "{refused}");
        assert!(refused.to_string().contains("AUTH") || refused.to_string().contains("WRONGPASS"), "{refused}");
    }
    let () = command(&mut admin, "ACL SETUSER vrc -info").await;
    let refused = refusal(config_for(restricted, &master)).await;
    assert!(matches!(refused, Refused::Permission { .. }), "{refused}");
}

#[tokio::test]
async fn what_cannot_be_a_node_is_refused_in_so_many_words() {
    let master = redis().await;
    let replica = redis_with(&[&format!("replicaof {} {}", master.host(), master.port())]).await;
    let refused = refusal(config(&replica, &master)).await;
    assert!(matches!(refused, Refused::Replica { .. }), "{refused}");
    let member = redis_with(&["cluster-enabled yes"]).await;
    let refused = refusal(config(&member, &master)).await;
    assert!(matches!(refused, Refused::Mode { .. }), "{refused}");
    let small = RedisProcess::start(&SpawnOptions { databases: 8, ..SpawnOptions::default() }).await.unwrap();
    let refused = refusal(config(&small, &master)).await;
    assert!(matches!(refused, Refused::Databases { .. }), "{refused}");
}

#[tokio::test]
async fn the_masters_own_keys_are_not_foreign_when_it_serves_as_a_node() {
    let master = redis().await;
    register(&master, "x", Endpoint::new("10.0.0.1", 1), None).await;
    check_taken(config(&master, &master), &master).await;
    assert_eq!(command::<u64>(&mut connection(&master).await, "DBSIZE").await, 1);
    let other = redis().await;
    register(&other, "x", Endpoint::new("10.0.0.1", 1), None).await;
    let () = command(&mut connection(&other).await, "SET precious 1").await;
    assert!(matches!(refusal(config(&other, &other)).await, Refused::ForeignKeys { keys: 1, .. }));
}

#[tokio::test]
async fn a_configuration_without_sense_is_an_error() {
    let (node, master) = (redis().await, redis().await);
    let error = Agent::start(Config { weight: 0.0, ..config(&node, &master) }).error().await;
    assert!(error.is::<vrc_agent::ConfigError>(), "{error}");
}
