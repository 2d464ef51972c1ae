//! A node that dies takes its keys with it, and nothing else.

use std::time::Instant;

use crate::support::{Cluster, Fleet, LONG, connect, eventually, locate};

#[test]
fn a_killed_nodes_keys_answer_from_the_others_and_it_comes_back_empty() {
    let mut cluster = Cluster::start(&Fleet { proxies: 2, ..Fleet::default() });
    let keys: Vec<String> = (0..2_000).map(|number| format!("key:{number}")).collect();
    let mut clients: Vec<_> = cluster.proxies.iter().map(|proxy| connect(proxy.port)).collect();
    for key in &keys {
        redis::cmd("SET").arg(key).arg("before").exec(&mut clients[0]).unwrap();
    }
    let script: String =
        redis::cmd("SCRIPT").arg("LOAD").arg("return redis.call('get', KEYS[1])").query(&mut clients[0]).unwrap();
    let library = "#!lua name=lib\nredis.register_function('found', function(keys) return redis.call('get', keys[1]) end)";
    redis::cmd("FUNCTION").arg("LOAD").arg(library).exec(&mut clients[0]).unwrap();
    let before = cluster.topology();
    let victim = before.nodes()[0].name.to_string();
    let (its, others): (Vec<_>, Vec<_>) = keys.iter().partition(|key| locate(&before, key.as_bytes()).holder == victim);
    assert!(its.len() > 300 && others.len() > 900);

    cluster.nodes.get_mut(&victim).unwrap().redis.kill();
    let killed = Instant::now();
    for (index, client) in clients.iter_mut().enumerate() {
        // A few keys of every part of its range; each proxy must have the new map, so each is asked for all of them.
        for key in its.iter().step_by(10) {
            eventually(&format!("{key} answered through proxy {index}"), LONG, || {
                redis::cmd("GET").arg(key).query::<Option<String>>(client).ok().map(|value| assert_eq!(value, None, "{key}"))
            });
        }
    }
    println!("taken over after {:?}", killed.elapsed());

    let without = cluster.topology();
    for key in &its {
        redis::cmd("SET").arg(key).arg("meanwhile").exec(&mut clients[1]).unwrap();
        let now = locate(&without, key.as_bytes());
        assert!(now.home == victim && now.holder != victim && now.is_guest, "{key}: {now:?}");
    }
    for (name, node) in cluster.nodes.iter().filter(|(name, _)| **name != victim) {
        let guests = node.redis.keys(8);
        assert!(!guests.is_empty());
        for guest in guests {
            assert_eq!(locate(&without, &guest).holder, *name, "{}", String::from_utf8_lossy(&guest));
        }
    }
    assert_values(&mut clients[0], &others, Some("before"));
    // What guest databases hold counts as the client's.
    let keyspace: String = redis::cmd("INFO").arg("keyspace").query(&mut clients[0]).unwrap();
    assert_eq!(keyspace, "# Keyspace\r\ndb0:keys=2000,expires=0,avg_ttl=0\r\n");

    cluster.nodes.get_mut(&victim).unwrap().redis.restart();
    cluster.await_up(4);
    for proxy in &cluster.proxies {
        cluster.await_served(proxy, LONG);
    }
    assert_values(&mut clients[0], &its, None);
    assert_values(&mut clients[1], &others, Some("before"));
    // It has lost its scripts too, which nobody notices.
    for (key, value) in [(its[0], None), (others[0], Some("before".to_owned()))] {
        let answer: Option<String> = redis::cmd("EVALSHA").arg(&script).arg(1).arg(key).query(&mut clients[0]).unwrap();
        assert_eq!(answer, value);
        // And its functions, which any proxy gives it again.
        for client in &mut clients {
            let answer: Option<String> = redis::cmd("FCALL").arg("found").arg(1).arg(key).query(client).unwrap();
            assert_eq!(answer, value);
        }
    }
    for key in &its {
        redis::cmd("SET").arg(key).arg("after").exec(&mut clients[0]).unwrap();
    }
    assert_values(&mut clients[1], &its, Some("after"));

    // It flaps: what it had, and what the others had for it, is gone for good.
    cluster.nodes.get_mut(&victim).unwrap().redis.kill();
    cluster.await_up(3);
    // What was under way to it gets an error, once; what comes after the new map does not.
    eventually("the second take-over", LONG, || redis::cmd("GET").arg(its[0]).query::<Option<String>>(&mut clients[0]).ok());
    eventually("the second take-over", LONG, || redis::cmd("GET").arg(its[0]).query::<Option<String>>(&mut clients[1]).ok());
    assert_values(&mut clients[0], &its, None);
    assert_values(&mut clients[1], &others, Some("before"));
}

fn assert_values(client: &mut redis::Connection, keys: &[&String], expected: Option<&str>) {
    for batch in keys.chunks(500) {
        let mut pipe = redis::pipe();
        for key in batch {
            pipe.get(key);
        }
        let values: Vec<Option<String>> = pipe.query(client).unwrap();
        let wrong = batch.iter().zip(&values).find(|(_, value)| value.as_deref() != expected);
        assert_eq!(wrong, None, "expected {expected:?}");
    }
}

/// A redis that was told to keep its data, or that somebody had save it, starts with what it had: that is as old as it is unknown.
#[test]
fn a_node_that_restarts_with_old_data_is_emptied_before_it_serves() {
    let mut cluster = Cluster::start(&Fleet { weights: vec![1.0; 2], ..Fleet::default() });
    let topology = cluster.topology();
    let victim = topology.nodes()[0].name.to_string();
    let keys: Vec<String> = (0..)
        .map(|number| format!("key:{number}"))
        .filter(|key| locate(&topology, key.as_bytes()).home == victim)
        .take(50)
        .collect();
    let mut client = connect(cluster.port());
    for key in &keys {
        redis::cmd("SET").arg(key).arg("before").exec(&mut client).unwrap();
    }
    let node = &mut cluster.nodes.get_mut(&victim).unwrap().redis;
    redis::cmd("SAVE").exec(&mut connect(node.port())).unwrap();
    redis::cmd("SET").arg(&keys[0]).arg("later").exec(&mut client).unwrap();
    node.kill();
    node.restart();
    let loaded: String = redis::cmd("INFO").arg("persistence").query(&mut connect(node.port())).unwrap();
    assert!(loaded.contains("rdb_last_load_keys_loaded:50"), "{loaded}");
    // It was so quick that nobody may have seen it gone. Whatever is answered is not from before, not even for a moment.
    let run_id = run_id(&mut connect(node.port()));
    eventually("the new process in the map", LONG, || {
        for key in &keys {
            let value = redis::cmd("GET").arg(key).query::<Option<String>>(&mut client);
            assert!(!matches!(value, Ok(Some(_))), "{key}: {value:?}");
        }
        let topology = cluster.topology();
        topology.nodes().iter().any(|node| node.up && node.run_id.as_deref() == Some(&run_id)).then_some(())
    });
    assert!(cluster.nodes[&victim].redis.keys(0).is_empty());
}

fn run_id(connection: &mut redis::Connection) -> String {
    let info: String = redis::cmd("INFO").arg("server").query(connection).unwrap();
    info.lines().find_map(|line| line.trim_end().strip_prefix("run_id:")).expect("a run id").to_owned()
}
