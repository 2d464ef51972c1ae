//! `--down-node-expiry`: the keys of a node that changed its state of late are answered with an error, by all proxies alike.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::{Cluster, Fleet, LONG, connect, eventually, locate};

const EXPIRY_MS: u64 = 5_000;
/// How long a command may be on its way.
const LATE_MS: u64 = 500;
const ERROR: &str = "went down or came up recently";

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis() as u64
}

fn withheld(placement: &'static str) {
    let fleet = Fleet {
        weights: vec![1.0; 2],
        proxies: 2,
        coordinator: vec!["--placement", placement],
        proxy: vec!["--placement", placement, "--down-node-expiry", "5s"],
        placement,
        ..Fleet::default()
    };
    let mut cluster = Cluster::start(&fleet);
    let topology = cluster.topology();
    let victim = topology.nodes()[0].name.to_string();
    let key = (0..).map(|number| format!("key:{number}")).find(|key| locate(&topology, key.as_bytes()).holder == victim);
    let key = key.expect("every node has keys");
    let other = (0..).map(|number| format!("key:{number}")).find(|key| locate(&topology, key.as_bytes()).holder != victim);
    let other = other.expect("every node has keys");
    let mut clients: Vec<_> = cluster.proxies.iter().map(|proxy| connect(proxy.port)).collect();
    for _ in 0..2 {
        redis::cmd("SET").arg(&key).arg("before").exec(&mut clients[0]).unwrap();
        redis::cmd("SET").arg(&other).arg("stays").exec(&mut clients[0]).unwrap();
    }

    for up in [false, true] {
        if up {
            cluster.nodes.get_mut(&victim).unwrap().redis.restart();
        } else {
            cluster.nodes.get_mut(&victim).unwrap().redis.kill();
        }
        let changed_ms = eventually("the change in the map", LONG, || {
            let topology = cluster.topology();
            topology.nodes().iter().find(|node| *node.name == victim && node.up == up).map(|node| node.state_change_time_ms)
        });
        let epoch = cluster.topology().epoch();
        let (mut refused, mut first_sent_ms) = (0, None);
        for client in &mut clients {
            eventually("a proxy that goes by the change", LONG, || {
                let info: String = redis::cmd("INFO").arg("vrc").query(client).unwrap();
                let goes_by = info.lines().find_map(|line| line.strip_prefix("vrc_epoch:")?.trim().parse::<u64>().ok());
                (goes_by >= Some(epoch)).then_some(())
            });
            eventually("an answer again, and an error until then", LONG, || {
                first_sent_ms.get_or_insert_with(now_ms);
                let answer = redis::cmd("GET").arg(&key).query::<Option<String>>(client);
                // When it was sent and when it came are on either side of the moment that counts.
                let came_ms = now_ms();
                match answer {
                    Ok(value) => {
                        assert!(
                            came_ms >= changed_ms + EXPIRY_MS,
                            "{placement}: answered {} ms early",
                            changed_ms + EXPIRY_MS - came_ms
                        );
                        assert_eq!(value, None, "{placement}");
                        Some(())
                    }
                    Err(error) => {
                        refused += usize::from(error.to_string().contains(ERROR));
                        let stays = redis::cmd("GET").arg(&other).query::<String>(client);
                        assert_eq!(stays.as_deref(), Ok("stays"), "{placement}: {error}");
                        None
                    }
                }
            });
        }
        // On a busy machine nobody may have asked while anything was to be withheld.
        let is_late = first_sent_ms.is_some_and(|sent_ms| sent_ms + LATE_MS >= changed_ms + EXPIRY_MS);
        assert!(refused > 0 || is_late, "{placement}: nothing was withheld");
        redis::cmd("SET").arg(&key).arg("meanwhile").exec(&mut clients[1]).unwrap();
        redis::cmd("DEL").arg(&key).exec(&mut clients[1]).unwrap();
    }
}

#[test]
fn keys_of_a_node_that_changed_of_late_are_withheld_by_all_proxies_under_slots() {
    withheld("slots");
}

#[test]
fn keys_of_a_node_that_changed_of_late_are_withheld_by_all_proxies_under_legacy() {
    withheld("legacy");
}
