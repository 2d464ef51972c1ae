//! How a watch follows a coordinator that says what each map changed.

use std::sync::Arc;

use vrc_cluster::{
    client::WatchOptions,
    contract::{MapDelta, NodeMap},
};

use crate::{
    support::{Master, NEVER, eventually, map, names, quick, up},
    watch::{until_epoch, watch},
};

/// Reads once, and then only when something is said.
fn listening() -> WatchOptions {
    WatchOptions { read_every: NEVER, ..quick() }
}

/// A master that holds this map as of epoch 5, the way that a coordinator leaves it.
async fn master(map: &NodeMap) -> Master {
    let master = Master::start().await;
    master.write_delta(map, &MapDelta::between(&NodeMap::new(), 0, map, 5)).await;
    master
}

async fn reads_of_whole_maps(master: &Master) -> u64 {
    let info: String = redis::cmd("INFO").arg("commandstats").query_async(&mut master.connect().await).await.unwrap();
    let calls = info.lines().find_map(|line| line.strip_prefix("cmdstat_hgetall:calls=")?.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}

#[tokio::test]
async fn what_changed_is_taken_at_once_and_nobody_listens_for_whole_maps() {
    let (first, second, third) = (up(&["a", "b"]), up(&["a", "c"]), up(&["c"]));
    let master = master(&first).await;
    let watch = watch(&master, listening()).await;
    assert_eq!(master.hearers_of_whole_maps().await, 0);
    master.publish_delta(&MapDelta::between(&first, 5, &second, 6)).await;
    assert_eq!(names(&*until_epoch(&watch, 6).await), ["a", "c"]);
    master.publish_delta(&MapDelta::between(&second, 6, &third, 9)).await;
    assert_eq!(names(&*until_epoch(&watch, 9).await), ["c"]);
    assert_eq!(watch.trouble(), None);
    assert_eq!(reads_of_whole_maps(&master).await, 1, "it was read once, at the start");
}

#[tokio::test]
async fn a_delta_that_does_not_lead_on_has_the_map_read() {
    let (first, second, third) = (up(&["a", "b"]), up(&["a", "c"]), up(&["c", "d"]));
    let leads_on = MapDelta::between(&first, 5, &second, 6);
    let last = MapDelta::between(&second, 6, &third, 7);
    let text = serde_json::to_string(&last).unwrap();
    for (what, message) in [
        ("one was missed", text.clone()),
        ("torn", text[..text.len() / 2].to_owned()),
        ("not JSON", "7".to_owned()),
        ("nothing", String::new()),
        ("of another base", serde_json::to_string(&MapDelta { from: 5, ..last.clone() }).unwrap()),
        ("of another map", serde_json::to_string(&MapDelta { check: leads_on.check ^ 1, ..leads_on }).unwrap()),
    ] {
        let master = master(&first).await;
        let watch = watch(&master, listening()).await;
        master.write_delta(&third, &last).await;
        assert_eq!(master.say_delta(&message).await, 1);
        assert_eq!(names(&*until_epoch(&watch, 7).await), ["c", "d"], "{what}");
        // And it goes on from there.
        master.publish_delta(&MapDelta::between(&third, 7, &first, 8)).await;
        assert_eq!(names(&*until_epoch(&watch, 8).await), ["a", "b"], "{what}");
    }
}

#[tokio::test]
async fn a_delta_that_is_old_changes_nothing() {
    let (first, other) = (up(&["a", "b"]), up(&["c"]));
    let master = master(&first).await;
    let watch = watch(&master, quick()).await;
    let before = watch.topology();
    for delta in [
        MapDelta::between(&NodeMap::new(), 0, &first, 5),
        MapDelta::between(&first, 5, &other, 5),
        MapDelta::between(&first, 5, &other, 4),
        MapDelta::between(&first, 5, &map([]), 6),
    ] {
        master.publish_delta(&delta).await;
        master.has_been_read().await;
        assert!(Arc::ptr_eq(&before, &watch.topology()), "{delta:?}: taken for {:?}", watch.topology());
    }
}

/// A look at the master costs its epoch; what was missed costs what changed, if that was one map alone.
#[tokio::test]
async fn a_map_is_read_only_where_nothing_less_will_do() {
    let (first, second, third) = (up(&["a", "b"]), up(&["a", "c"]), up(&["c", "d"]));
    let master = master(&first).await;
    let watch = watch(&master, quick()).await;
    master.has_been_read().await;
    master.write_delta(&second, &MapDelta::between(&first, 5, &second, 6)).await;
    assert_eq!(names(&*until_epoch(&watch, 6).await), ["a", "c"]);
    master.has_been_read().await;
    assert_eq!(reads_of_whole_maps(&master).await, 1);
    master.write_delta(&first, &MapDelta::between(&third, 7, &first, 8)).await;
    assert_eq!(names(&*until_epoch(&watch, 8).await), ["a", "b"]);
    assert_eq!(reads_of_whole_maps(&master).await, 2);
}

#[tokio::test]
async fn a_coordinator_that_sends_no_deltas_any_more_is_heard_where_it_sends_maps_whole() {
    let first = up(&["a", "b"]);
    let master = master(&first).await;
    let watch = watch(&master, quick()).await;
    assert_eq!(master.hearers_of_whole_maps().await, 0);
    master.write(&up(&["c"]), Some(6)).await;
    until_epoch(&watch, 6).await;
    master.publish(&up(&["d"]), Some(7)).await;
    assert_eq!(names(&*until_epoch(&watch, 7).await), ["d"]);
    // And the way back, heard or read.
    let (seventh, eighth) = (up(&["d"]), up(&["d", "e"]));
    master.publish_delta(&MapDelta::between(&seventh, 7, &eighth, 8)).await;
    until_epoch(&watch, 8).await;
    eventually("whole maps are not listened for", async || (master.hearers_of_whole_maps().await == 0).then_some(())).await;
}

/// A master that has forgotten everything is no reason to listen for whole maps: a thousand readers would.
#[tokio::test]
async fn a_master_that_came_back_empty_is_followed_as_before() {
    let first = up(&["a", "b"]);
    let mut master = master(&first).await;
    let watch = watch(&master, quick()).await;
    master.kill().await;
    master.start_again().await;
    master.has_been_read().await;
    assert_eq!((watch.topology().epoch(), master.hearers_of_whole_maps().await), (5, 0));
    // The leader remembers what it had published, and writes on.
    let second = up(&["b"]);
    master.publish_delta(&MapDelta::between(&first, 5, &second, 6)).await;
    assert_eq!(names(&*until_epoch(&watch, 6).await), ["b"]);
}
