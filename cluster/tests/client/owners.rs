//! Where a client says keys are, beside real nodes.

use std::time::Duration;

use redis::AsyncCommands;
use vrc_agent::spawn::{RedisProcess, SpawnOptions};
use vrc_cluster::{
    client::{ClientOptions, ClusterClient, MasterUrl, Shard, ShardError, WatchOptions},
    contract::{Endpoint, Node, NodeMap},
    topology::{PlacementKind, PlacementOptions},
};

use crate::support::{Master, eventually, map, names, node, now_ms, open, quick, until, up};

fn options() -> ClientOptions {
    let usual = ClientOptions::default();
    ClientOptions { watch: WatchOptions { placement: usual.watch.placement.clone(), ..quick() }, ..usual }
}

async fn client(master: &Master, options: ClientOptions) -> ClusterClient {
    let client = ClusterClient::connect(master.url(), options);
    client.ready().await.unwrap();
    client
}

/// A client of a master with this map.
async fn client_of(nodes: &NodeMap, options: ClientOptions) -> (Master, ClusterClient) {
    let master = Master::with(nodes, 1).await;
    let client = client(&master, options).await;
    (master, client)
}

/// A key whose home is this node.
fn key_at_home_on(client: &ClusterClient, name: &str) -> String {
    let topology = client.topology();
    let home = topology.index_of(name);
    assert!(home.is_some(), "{name} is not known");
    (0u32..).map(|n| format!("key:{n}")).find(|key| topology.locate(key.as_bytes()).home == home).unwrap()
}

async fn set(shard: &Shard, database: u8, key: &str, value: &str) {
    let mut connection = open(&shard.client(database).unwrap()).await;
    let () = connection.set(key, value).await.unwrap();
}

async fn get(redis: &RedisProcess, password: Option<&str>, database: u8, key: &str) -> Option<String> {
    let userinfo = password.map(|password| format!(":{password}@")).unwrap_or_default();
    let url = format!("redis://{userinfo}127.0.0.1:{}/{database}", redis.port());
    let mut connection = open(&redis::Client::open(url).unwrap()).await;
    connection.get(key).await.unwrap()
}

#[tokio::test]
async fn keys_are_written_where_their_node_is() {
    let plain = RedisProcess::start(&SpawnOptions::default()).await.unwrap();
    let secret = SpawnOptions { password: Some("s3cret".to_owned()), ..SpawnOptions::default() };
    let locked = RedisProcess::start(&secret).await.unwrap();
    let at = |name: &str, redis: &RedisProcess| Node { config: Endpoint::new("127.0.0.1", redis.port()), ..node(name, true) };
    let mut locked_node = at("locked", &locked);
    locked_node.config.password = Some("s3cret".to_owned());
    let (master, client) = client_of(&map([at("plain", &plain), locked_node.clone()]), options()).await;

    for (name, redis, password) in [("plain", &plain, None), ("locked", &locked, Some("s3cret"))] {
        let key = key_at_home_on(&client, name);
        let shard = client.owner_of(&key).unwrap();
        assert_eq!((shard.name(), shard.is_guest(), shard.address()), (name, false, format!("127.0.0.1:{}", redis.port())));
        assert!(!format!("{shard:?} {client:?}").contains("s3cret"));
        set(&shard, 3, &key, name).await;
        assert_eq!(get(redis, password, 3, &key).await.as_deref(), Some(name));
    }

    // With its home down a key is a guest elsewhere, in a database that no client has.
    let key = key_at_home_on(&client, "plain");
    let down = Node { up: false, state_change_time: now_ms(), ..at("plain", &plain) };
    master.publish(&map([down, locked_node]), Some(2)).await;
    until(client.changes(), || client.topology(), "the node is down", |topology| topology.epoch() == 2).await;
    let shard = client.owner_of(&key).unwrap();
    assert_eq!((shard.name(), shard.is_guest(), shard.database(3).unwrap()), ("locked", true, 11));
    set(&shard, 3, &key, "guest").await;
    assert_eq!(get(&locked, Some("s3cret"), 11, &key).await.as_deref(), Some("guest"));
    assert_eq!(get(&locked, Some("s3cret"), 3, &key).await, None);
    let own = key_at_home_on(&client, "locked");
    assert_eq!(client.client_for(&own, 3).unwrap().get_connection_info().redis_settings().db(), 3);
    assert!(matches!(shard.database(8), Err(ShardError::Database(8))));
    assert!(matches!(client.client_for(&own, 8), Err(ShardError::Database(8))));
}

#[tokio::test]
async fn says_why_nobody_has_a_key() {
    let master = Master::start().await;
    let client = ClusterClient::connect(master.url(), options());
    assert!(matches!(client.owner_of("k"), Err(ShardError::NoMap)));
    assert!(matches!(client.by_number(1), Err(ShardError::NoMap)));

    let down = |names: &[&str]| map(names.iter().map(|name| node(name, false)));
    master.write(&down(&["a", "b"]), Some(1)).await;
    client.ready().await.unwrap();
    assert!(matches!(client.owner_of("k"), Err(ShardError::NoNodeUp)));
    assert!(matches!(client.client_for("k", 0), Err(ShardError::NoNodeUp)));
    assert!(matches!(client.by_number(1), Err(ShardError::NoNodeUp)));
}

#[tokio::test]
async fn withholds_the_keys_of_a_node_that_went_down_lately() {
    let mut options = options();
    options.watch.placement.down_node_expiry_ms = 60_000;
    let gone = Node { state_change_time: now_ms(), ..node("b", false) };
    let (_master, client) = client_of(&map([node("a", true), gone]), options).await;
    match client.owner_of(key_at_home_on(&client, "b")) {
        Err(ShardError::Withheld { node, wait }) => {
            assert_eq!(&*node, "b");
            assert!(wait > Duration::ZERO && wait <= Duration::from_secs(60), "{wait:?}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(client.owner_of(key_at_home_on(&client, "a")).unwrap().name(), "a");
}

#[tokio::test]
async fn nodes_have_numbers_in_the_order_of_their_names() {
    let nodes = map([node("c", true), node("a", true), node("d", false), node("b", true)]);
    let (_master, client) = client_of(&nodes, options()).await;
    assert_eq!(names(&client.topology()), ["a", "b", "c", "d"]);
    for (number, name) in [(0, "a"), (1, "b"), (2, "c"), (3, "a"), (-1, "b"), (i64::MIN, "c")] {
        assert_eq!(client.by_number(number).unwrap().name(), name, "{number}");
    }
}

#[tokio::test]
async fn the_old_placement_knows_no_guests() {
    let mut options = options();
    options.watch.placement = PlacementOptions { kind: PlacementKind::Legacy, ..PlacementOptions::default() };
    let (_master, client) = client_of(&map([node("a", true), node("b", false)]), options).await;
    let shard = client.owner_of(key_at_home_on(&client, "b")).unwrap();
    assert_eq!((shard.name(), shard.is_guest(), shard.database(9).unwrap()), ("a", false, 9));
}

#[tokio::test]
async fn is_told_of_changes_until_it_is_dropped() {
    let (master, client) = client_of(&up(&["a"]), options()).await;
    let mut changes = client.changes();
    changes.mark_unchanged();
    master.publish(&up(&["a", "b"]), Some(2)).await;
    changes.changed().await.unwrap();
    assert_eq!((*changes.borrow_and_update(), names(&client.topology())), (2, vec!["a", "b"]));
    drop(client);
    assert!(changes.changed().await.is_err());
}

#[tokio::test]
async fn is_not_ready_without_a_map_and_says_what_is_in_the_way() {
    let master = Master::start().await;
    let hasty = ClientOptions { ready_timeout: Duration::from_millis(300), ..options() };
    let client = ClusterClient::connect(master.url(), hasty.clone());
    let expected = format!("no node map from the master {} within 300 ms: it has no node map", master.url());
    // At first it may not know more than that there is no map yet.
    eventually(&expected, async || (client.ready().await.unwrap_err().to_string() == expected).then_some(())).await;
    master.write(&up(&["a"]), Some(1)).await;
    // It went on trying.
    until(client.changes(), || client.topology(), "a map", |topology| topology.epoch() == 1).await;
    client.ready().await.unwrap();

    let nobody: MasterUrl = "redis://u:s3cret@127.0.0.1:1".parse().unwrap();
    let client = ClusterClient::connect(nobody, hasty);
    eventually("that nobody listens there is said", async || {
        let error = client.ready().await.unwrap_err().to_string();
        assert!(error.starts_with("no node map from the master redis://u@127.0.0.1:1 within 300 ms"), "{error}");
        assert!(!error.contains("s3cret"), "{error}");
        error.to_lowercase().contains("refused").then_some(())
    })
    .await;
}
