//! Keys land where the placement says, whoever is asked.

use std::collections::HashMap;

use serde_json::Value;
use vrc_cluster::topology::Topology;

use crate::support::{Cluster, Fleet, LONG, Process, Proxy, Random, RedisServer, connect, eventually, locate};

const KEYS: usize = 100_000;
const BATCH: usize = 1_000;

/// Keys of every kind: any bytes, and one in four with a hash tag.
fn random_keys(random: &mut Random) -> Vec<Vec<u8>> {
    (0..KEYS)
        .map(|number| {
            let mut key: Vec<u8> = (0..random.below(24)).map(|_| random.next() as u8).collect();
            // What makes it unique; without its own braces, so that the random bytes before it may still form a hash tag.
            key.extend(format!(":{number}").bytes());
            if number % 4 == 0 {
                key.extend(format!("{{tag{}}}", random.below(1_000)).bytes());
            }
            key
        })
        .collect()
}

fn value_of(key: &[u8]) -> Vec<u8> {
    [b"value of ", key].concat()
}

fn write_and_read_back(port: u16, keys: &[Vec<u8>]) {
    let mut client = connect(port);
    for batch in keys.chunks(BATCH) {
        let mut pipe = redis::pipe();
        for key in batch {
            pipe.set(key, value_of(key)).ignore();
        }
        pipe.exec(&mut client).unwrap();
    }
    for batch in keys.chunks(BATCH) {
        let mut pipe = redis::pipe();
        for key in batch {
            pipe.get(key);
        }
        let values: Vec<Vec<u8>> = pipe.query(&mut client).unwrap();
        assert!(batch.iter().zip(&values).all(|(key, value)| value_of(key) == *value));
    }
}

#[test]
fn random_keys_land_where_where_says() {
    let cluster = Cluster::start(&Fleet { weights: vec![1.0, 1.0, 2.0, 0.5], proxies: 1, ..Fleet::default() });
    let keys = random_keys(&mut Random(1));
    write_and_read_back(cluster.port(), &keys);

    let topology = cluster.topology();
    let mut found = 0;
    for (name, node) in &cluster.nodes {
        let on_node = node.redis.keys(0);
        let astray = on_node.iter().find(|key| locate(&topology, key).holder != *name);
        assert_eq!(astray.map(|key| String::from_utf8_lossy(key)), None, "not where it should be, on {name}");
        assert_eq!(node.redis.keys(8), Vec::<Vec<u8>>::new(), "no guests while all are up");
        found += on_node.len();
    }
    assert_eq!(found, KEYS, "each key once");
    as_where_says(&cluster, &topology, &keys);
}

/// `vrc where` of the keys that can be said on a command line agrees with where they were found.
fn as_where_says(cluster: &Cluster, topology: &Topology, keys: &[Vec<u8>]) {
    let sample: Vec<&str> =
        keys.iter().filter_map(|key| std::str::from_utf8(key).ok()).filter(|key| !key.contains('\0')).collect();
    let sample: Vec<&str> = sample.into_iter().filter(|key| !key.starts_with('-')).take(500).collect();
    assert!(sample.len() > 100);
    let master = cluster.master.port().to_string();
    let mut args = vec!["where", "--json", "-p", &master, "--"];
    args.extend(&sample);
    let answers = json(&args);
    for (key, answer) in sample.iter().zip(answers.as_array().unwrap()) {
        let expected = locate(topology, key.as_bytes());
        assert_eq!(answer["key"], *key);
        assert_eq!((&answer["home"], &answer["holder"]), (&Value::from(expected.home), &Value::from(expected.holder)), "{key:?}");
        assert_eq!(answer["database"], 0);
    }
}

#[test]
fn a_fixed_list_of_nodes_needs_no_master() {
    let nodes = [RedisServer::start(), RedisServer::start(), RedisServer::start()];
    let list = format!("127.0.0.1:{},127.0.0.1:{},127.0.0.1:{}@2", nodes[0].port(), nodes[1].port(), nodes[2].port());
    let socket_dir = tempfile::tempdir().unwrap();
    let socket = socket_dir.path().join("vrc.sock");
    let listen = format!("unix:{}", socket.display());
    let proxy = Proxy::start(&["--nodes", &list, "--listen", &listen]);
    let mut client = connect(proxy.port);
    let keys: Vec<String> = (0..2_000).map(|number| format!("key:{number}")).collect();
    for key in &keys {
        redis::cmd("SET").arg(key).arg(key).exec(&mut client).unwrap();
    }
    // The other door leads to the same place.
    let mut through_socket = redis::Client::open(format!("unix://{}", socket.display())).unwrap().get_connection().unwrap();
    let values: Vec<String> = redis::cmd("MGET").arg(&keys).query(&mut through_socket).unwrap();
    assert_eq!(values, keys);

    let mut args = vec!["where", "--json", "--nodes", &list];
    args.extend(keys.iter().map(String::as_str));
    let answers = json(&args);
    let mut on_node: HashMap<String, usize> = HashMap::new();
    for answer in answers.as_array().unwrap() {
        *on_node.entry(answer["address"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    for node in &nodes {
        assert_eq!(node.keys(0).len(), on_node[&format!("127.0.0.1:{}", node.port())]);
    }
    assert!(on_node[&format!("127.0.0.1:{}", nodes[2].port())] > 800, "{on_node:?}");
}

fn json(args: &[&str]) -> Value {
    let mut process = Process::vrc(args);
    assert!(process.end(LONG).success());
    // Its last lines may still be on their way.
    eventually("whole JSON", LONG, || serde_json::from_str(&process.output()).ok())
}
