//! What a watch follows, and what it does not believe.

use std::{sync::Arc, time::Duration};

use rustix::process::Signal;
use vrc_cluster::{
    client::{TopologyWatch, WatchOptions},
    contract::PLACEMENT_KEY,
    topology::{PlacementOptions, Topology, Unowned},
};

use crate::support::{Master, NEVER, PATIENCE, eventually, map, names, node, now_ms, quick, until, up};

/// Starts a watch and waits for its first map.
pub(crate) async fn watch(master: &Master, options: WatchOptions) -> TopologyWatch {
    let watch = TopologyWatch::start(master.url(), options);
    tokio::time::timeout(PATIENCE, watch.ready()).await.expect("a first map");
    watch
}

pub(crate) async fn until_epoch(watch: &TopologyWatch, epoch: u64) -> Arc<Topology> {
    until(watch.changes(), || watch.topology(), &format!("epoch {epoch}"), |topology| topology.epoch() == epoch).await
}

async fn until_troubled(watch: &TopologyWatch) -> String {
    eventually("the watch is in trouble", async || watch.trouble()).await
}

/// Does something to a master and its watch that should change nothing, and then something that should.
async fn check_ignored(what: &str, meddle: impl AsyncFnOnce(&Master)) {
    let master = Master::with(&up(&["a", "b"]), 5).await;
    let watch = watch(&master, quick()).await;
    let before = watch.topology();
    meddle(&master).await;
    master.has_been_read().await;
    assert!(Arc::ptr_eq(&before, &watch.topology()), "{what}: taken for {:?}", watch.topology());
    master.write(&up(&["a", "b", "c"]), Some(6)).await;
    assert_eq!(names(&*until_epoch(&watch, 6).await), ["a", "b", "c"], "after {what}");
}

#[tokio::test]
async fn a_map_that_is_announced_is_taken_at_once() {
    let master = Master::with(&up(&["a", "b"]), 5).await;
    let watch = watch(&master, WatchOptions { read_every: NEVER, ..quick() }).await;
    assert_eq!(names(&watch.topology()), ["a", "b"]);
    master.publish(&up(&["a", "c"]), Some(6)).await;
    assert_eq!(names(&*until_epoch(&watch, 6).await), ["a", "c"]);
    assert_eq!(watch.trouble(), None);
}

#[tokio::test]
async fn a_map_whose_message_was_lost_is_read() {
    let master = Master::with(&up(&["a", "b"]), 5).await;
    let watch = watch(&master, quick()).await;
    master.write(&up(&["a", "c"]), Some(6)).await;
    assert_eq!(names(&*until_epoch(&watch, 6).await), ["a", "c"]);
}

#[tokio::test]
async fn a_map_that_is_not_there_yet_is_waited_for() {
    let master = Master::start().await;
    let watch = TopologyWatch::start(master.url(), quick());
    assert_eq!(until_troubled(&watch).await, "it has no node map");
    master.write(&up(&["a"]), Some(1)).await;
    assert_eq!(names(&*until_epoch(&watch, 1).await), ["a"]);
    eventually("the trouble is over", async || watch.trouble().is_none().then_some(())).await;
}

/// What the leading coordinator has been told is compared at each look, and an old one says nothing.
#[tokio::test]
async fn another_placement_than_the_coordinators_is_noticed() {
    let master = Master::with(&up(&["a", "b"]), 5).await;
    let watch = watch(&master, quick()).await;
    assert_eq!(watch.disagreement(), None);
    let say = async |placement: &str| {
        redis::cmd("SET").arg(PLACEMENT_KEY).arg(placement).exec_async(&mut master.connect().await).await.unwrap();
    };
    say("legacy").await;
    let noticed = eventually("it is noticed", async || watch.disagreement()).await;
    assert!(noticed.contains("--placement slots here") && noticed.contains("--placement legacy as the coordinator"), "{noticed}");
    assert_eq!(watch.trouble(), None);
    say("slots").await;
    eventually("it is over", async || watch.disagreement().is_none().then_some(())).await;
}

/// An old coordinator writes no epoch, and puts `lastPing` in its messages.
#[tokio::test]
async fn an_old_coordinator_is_followed() {
    let master = Master::start().await;
    master.write(&up(&["a", "b"]), None).await;
    let watch = watch(&master, WatchOptions { read_every: NEVER, ..quick() }).await;
    let said = r#"{"type":"update_nodes","nodeMap":{"a":{"config":{"host":"h","port":1},"weight":3,"up":true,"stateChangeTime":1,"name":"a","lastPing":1795402687451}}}"#;
    assert_eq!(master.say(said).await, 1);
    let topology = until(watch.changes(), || watch.topology(), "one node", |topology| topology.nodes().len() == 1).await;
    assert_eq!((topology.epoch(), topology.nodes()[0].weight), (0, 3.0));
}

#[tokio::test]
async fn an_older_map_is_not_taken() {
    check_ignored("an older message", async |master| master.publish(&up(&["c"]), Some(4)).await).await;
    check_ignored("an older hash", async |master| master.write(&up(&["c"]), Some(4)).await).await;
    check_ignored("another map of the same epoch", async |master| master.publish(&up(&["c"]), Some(5)).await).await;
    check_ignored("a map without an epoch", async |master| master.publish(&up(&["c"]), None).await).await;
}

#[tokio::test]
async fn an_empty_map_is_not_taken() {
    check_ignored("an empty message", async |master| master.publish(&map([]), Some(9)).await).await;
    check_ignored("an empty hash", async |master| master.write(&map([]), Some(9)).await).await;
}

#[tokio::test]
async fn a_torn_map_is_not_taken() {
    let whole = serde_json::to_string(&node("c", true)).unwrap();
    for torn in ["", "{", "[]", "null", r#"{"name":"d"}"#, r#"{"config":{"host":"h"},"weight":1,"up":true,"name":"d"}"#] {
        check_ignored(&format!("a hash with {torn:?}"), async |master| {
            master.write_raw(&[("c".to_owned(), whole.clone()), ("d".to_owned(), torn.to_owned())], Some(9)).await;
        })
        .await;
    }
}

#[tokio::test]
async fn what_is_no_map_is_not_taken() {
    for message in [
        "",
        "not JSON",
        "7",
        "{}",
        r#"{"type":"dance"}"#,
        r#"{"type":"update_nodes"}"#,
        r#"{"type":"update_nodes","nodeMap":{"c":{"up":true}},"epoch":9}"#,
        r#"{"type":"update_nodes","nodeMap":[],"epoch":9}"#,
        r#"{"type":"update_nodes","nodeMap":{},"epoch":-1}"#,
    ] {
        check_ignored(message, async |master| assert_eq!(master.say(message).await, 1)).await;
    }
    let key_of_another_type = async |master: &Master| {
        master.write(&map([]), None).await;
        let mut connection = master.connect().await;
        redis::cmd("SET").arg("rvolcluster:nodeset").arg("x").exec_async(&mut connection).await.unwrap();
    };
    check_ignored("a string where the hash should be", key_of_another_type).await;
}

#[tokio::test]
async fn a_master_that_died_and_came_back_empty_changes_nothing_until_it_has_a_map() {
    let mut master = Master::with(&up(&["a", "b"]), 5).await;
    let watch = watch(&master, quick()).await;
    let before = watch.topology();
    master.kill().await;
    until_troubled(&watch).await;
    assert!(Arc::ptr_eq(&before, &watch.topology()));
    master.start_again().await;
    master.has_been_read().await;
    assert!(Arc::ptr_eq(&before, &watch.topology()));
    assert_eq!(watch.trouble().as_deref(), Some("it has no node map"));
    // Heard, not only read: the subscription stands again too.
    master.publish(&up(&["a"]), Some(6)).await;
    assert_eq!(names(&*until_epoch(&watch, 6).await), ["a"]);
    master.write(&up(&["a", "c"]), Some(7)).await;
    assert_eq!(names(&*until_epoch(&watch, 7).await), ["a", "c"]);
}

#[tokio::test]
async fn a_master_that_hangs_is_left_and_found_again() {
    let master = Master::with(&up(&["a", "b"]), 5).await;
    let watch = watch(&master, WatchOptions { answer_timeout: Duration::from_millis(500), ..quick() }).await;
    let before = watch.topology();
    master.signal(Signal::STOP);
    let trouble = until_troubled(&watch).await;
    assert!(trouble.contains("500 ms") || trouble.contains("timed out"), "{trouble}");
    assert!(Arc::ptr_eq(&before, &watch.topology()));
    master.signal(Signal::CONT);
    master.write(&up(&["a", "c"]), Some(6)).await;
    assert_eq!(names(&*until_epoch(&watch, 6).await), ["a", "c"]);
}

/// Nothing is said or read when a down node's time is over, and here there is not even a master to say it.
#[tokio::test]
async fn keys_of_a_down_node_move_when_its_time_is_over() {
    const EXPIRY_MS: u64 = 5_000;
    let mut master = Master::start().await;
    // In time to come, so that the watch has its map before that is over, however busy the machine is.
    let gone = now_ms() + 5_000;
    let mut nodes = up(&["a", "b"]);
    nodes.insert("b".to_owned(), vrc_cluster::contract::Node { state_change_time: gone, ..node("b", false) });
    master.write(&nodes, Some(5)).await;
    let placement = PlacementOptions { down_node_expiry_ms: EXPIRY_MS, ..PlacementOptions::default() };
    let watch = watch(&master, WatchOptions { placement, ..quick() }).await;
    master.kill().await;

    let of_b = |topology: &Topology| {
        let key = (0u32..).map(|n| n.to_string()).find(|key| topology.locate(key.as_bytes()).home == Some(1)).unwrap();
        topology.locate(key.as_bytes()).owner
    };
    assert_eq!(of_b(&watch.topology()), Err(Unowned::Withheld { node: 1, until_ms: gone + EXPIRY_MS }));
    let topology = until(watch.changes(), || watch.topology(), "the keys move", |topology| of_b(topology).is_ok()).await;
    assert!(now_ms() >= gone + EXPIRY_MS);
    assert_eq!((topology.epoch(), of_b(&topology).unwrap().node, topology.next_change_ms()), (5, 0, None));
}

#[tokio::test]
async fn a_watch_that_is_dropped_lets_go_of_its_master() {
    let master = Master::with(&up(&["a"]), 5).await;
    let watch = watch(&master, quick()).await;
    let mut changes = watch.changes();
    changes.mark_unchanged();
    drop(watch);
    assert!(tokio::time::timeout(PATIENCE, changes.changed()).await.unwrap().is_err(), "nothing changes any more");
    let mut connection = master.connect().await;
    eventually("its connections are closed", async || {
        let clients: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut connection).await.unwrap();
        (clients.lines().count() == 1).then_some(())
    })
    .await;
}
