//! A master that sentinels look after.

use std::time::{Duration, Instant};

use redis::Value;
use vrc_cluster::contract::{EPOCH_KEY, LEASE_KEY};

use crate::support::{Cluster, Fleet, LONG, Load, PATIENT, Process, RedisServer, connect, eventually, try_connect};

/// Replies after which every key was read and written.
const ENOUGH: u64 = 5_000;
/// How soon sentinels take a master for dead; they leave it at one failover within twice the second.
const DOWN_AFTER_MS: u64 = 3_000;
const FAILOVER_MS: u64 = 3_000;

struct Sentinels(Vec<RedisServer>);

impl Sentinels {
    /// Three, which know each other and the replica by the time this returns.
    fn start(master: &RedisServer) -> Self {
        let lines = format!(
            "sentinel monitor cache 127.0.0.1 {} 2\nsentinel down-after-milliseconds cache {DOWN_AFTER_MS}\n\
             sentinel failover-timeout cache {FAILOVER_MS}",
            master.port()
        );
        let sentinels = Sentinels((0..3).map(|_| RedisServer::sentinel(&lines)).collect());
        sentinels.await_ready();
        sentinels
    }

    fn url(&self) -> String {
        let hosts: Vec<_> = self.0.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port())).collect();
        format!("redis-sentinel://{}/cache", hosts.join(","))
    }

    fn ask<T: redis::FromRedisValue>(&self, number: usize, words: &[&str]) -> redis::RedisResult<T> {
        redis::cmd("SENTINEL").arg(words).arg("cache").query(&mut connect(self.0[number].port()))
    }

    fn await_ready(&self) {
        eventually("sentinels that know each other and a replica", LONG, || {
            let is_ready = |number| {
                let quorum = self.ask::<String>(number, &["ckquorum"]).unwrap_or_default();
                let replicas = self.ask::<Vec<Vec<String>>>(number, &["replicas"]).unwrap_or_default();
                let is_well = |replica: &Vec<String>| {
                    let has = |field: &str, value: &str| replica.windows(2).any(|pair| pair[0] == field && pair[1] == value);
                    has("flags", "slave") && has("master-link-status", "ok")
                };
                quorum.starts_with("OK 3 usable") && replicas.iter().any(is_well)
            };
            (0..self.0.len()).all(is_ready).then_some(())
        });
    }

    fn await_master(&self, port: u16) {
        eventually("another master by every sentinel's word", LONG, || {
            (0..self.0.len()).all(|number| self.names(number, port)).then_some(())
        });
    }

    /// Whether a sentinel takes the redis at this port for the master.
    fn names(&self, number: usize, port: u16) -> bool {
        let holder: (String, u16) = self.ask(number, &["get-master-addr-by-name"]).expect("a master");
        holder.1 == port
    }
}

/// Epoch and lease, as they stand in a redis.
fn standing(redis: &RedisServer) -> (u64, Option<String>) {
    let read = redis::pipe().get(EPOCH_KEY).get(LEASE_KEY).query(&mut connect(redis.port()));
    let (epoch, lease): (Option<u64>, Option<String>) = read.expect("epoch and lease");
    (epoch.unwrap_or(0), lease)
}

fn await_replicating(replica: &RedisServer) {
    eventually("a replica that follows", LONG, || {
        // A sentinel that gives a redis another master ends its connections.
        let role: Vec<Value> = redis::cmd("ROLE").query(&mut try_connect(replica.port()).ok()?).ok()?;
        matches!(role.get(3), Some(Value::BulkString(state)) if state == b"connected").then_some(())
    });
}

#[test]
fn nobody_notices_that_sentinels_choose_another_master() {
    // A replica that follows within the moment a sentinel looks.
    let first = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
    let port = first.port().to_string();
    let mut other = RedisServer::start_with(&["--repl-diskless-sync-delay", "0", "--replicaof", "127.0.0.1", &port]);
    await_replicating(&other);
    let sentinels = Sentinels::start(&first);
    let mut cluster = Cluster::start_at(&Fleet { proxies: 2, ..Fleet::default() }, first, &sentinels.url());
    let second = Process::vrc(&[&["coordinator", "--master", &sentinels.url()], &PATIENT[..]].concat());
    let ports: Vec<u16> = cluster.proxies.iter().map(|proxy| proxy.port).collect();
    let run_ids = |cluster: &Cluster| -> Vec<_> {
        let topology = cluster.topology();
        topology.nodes().iter().map(|node| (node.name.clone(), node.up, node.run_id.clone())).collect()
    };
    let nodes = run_ids(&cluster);
    let load = Load::start(&ports, 2);
    load.await_replies(ENOUGH);

    // By an operator's word, both alive: for a while the old master serves whoever stays there.
    let mut epoch = standing(&cluster.master).0;
    // A sentinel that has not heard of the replica just now has nobody to choose, and one that has begun may give up. Only then is it
    // asked once more: otherwise that could be for the way back.
    let mut begun: Option<Instant> = None;
    eventually("a failover", LONG, || {
        let is_over = sentinels.names(0, other.port());
        let is_under_way = begun.is_some_and(|at| at.elapsed() < Duration::from_millis(2 * FAILOVER_MS));
        if !is_over && !is_under_way && sentinels.ask::<String>(0, &["failover"]).is_ok() {
            begun = Some(Instant::now());
        }
        is_over.then_some(())
    });
    sentinels.await_master(other.port());
    let leads_at = |redis: &RedisServer, than: u64| {
        eventually("a leader at the new master, which wrote the map", LONG, || {
            let (epoch, lease) = standing(redis);
            (epoch > than && lease.is_some()).then_some(epoch)
        })
    };
    epoch = leads_at(&other, epoch);
    std::mem::swap(&mut cluster.master, &mut other);
    load.await_replies(ENOUGH);
    await_replicating(&other);
    sentinels.await_ready();

    // By its death.
    cluster.master.kill();
    sentinels.await_master(other.port());
    epoch = leads_at(&other, epoch);
    std::mem::swap(&mut cluster.master, &mut other);
    load.await_replies(ENOUGH);
    other.restart_as_replica_of(cluster.master.port());
    await_replicating(&other);
    sentinels.await_ready();

    // By its silence.
    let (last, _) = standing(&cluster.master);
    cluster.master.signal(rustix::process::Signal::STOP);
    sentinels.await_master(other.port());
    leads_at(&other, epoch);
    std::mem::swap(&mut cluster.master, &mut other);
    load.await_replies(ENOUGH);
    // And back it is, and takes itself for the master until a sentinel has told it otherwise.
    other.signal(rustix::process::Signal::CONT);
    load.await_replies(ENOUGH);

    let tally = load.finish();
    println!("{tally:?}");
    assert!(tally.errors.is_empty() && tally.stale.is_empty(), "{tally:?}");
    assert_eq!(tally.missing, 0, "nothing had to be flushed");
    assert_eq!(run_ids(&cluster), nodes);

    // What follows the old master no more follows the new one.
    let victim = nodes[0].0.to_string();
    cluster.nodes.get_mut(&victim).unwrap().redis.kill();
    cluster.await_up(3);
    for proxy in &cluster.proxies {
        cluster.await_served(proxy, LONG);
    }
    let (code, output) = run(&["where", "some-key", "--master", &sentinels.url()]);
    assert!(code == Some(0) && output.contains("some-key"), "{output}");
    let (code, output) = run(&["drain", &nodes[1].0, "--master", &sentinels.url()]);
    assert!(code == Some(0) && output.contains("is drained"), "{output}");
    eventually("an old master that follows the new one, and was never written to", LONG, || {
        let mut old = try_connect(other.port()).ok()?;
        // A sentinel that gives a redis another master ends its connections.
        let (role, at): (Vec<Value>, Option<u64>) = redis::pipe().atomic().cmd("ROLE").get(EPOCH_KEY).query(&mut old).ok()?;
        let is_master = matches!(&role[0], Value::BulkString(role) if role == b"master");
        assert!(!is_master || at == Some(last), "somebody wrote map {at:?} there, and {last} was its last");
        (!is_master && at == Some(standing(&cluster.master).0)).then_some(())
    });
    drop(second);
}

fn run(args: &[&str]) -> (Option<i32>, String) {
    let mut process = Process::vrc(args);
    let code = process.end(LONG).code();
    (code, process.output())
}

#[test]
fn what_is_wrong_with_sentinels_is_said() {
    let master = RedisServer::start_with(&["--requirepass", "masters-own"]);
    let lines = format!(
        "requirepass its-own\nsentinel monitor cache 127.0.0.1 {0} 1\nsentinel auth-pass cache \"masters-own\"\n\
         sentinel down-after-milliseconds cache 60000",
        master.port()
    );
    let sentinel = RedisServer::sentinel(&lines);
    let address = format!("127.0.0.1:{}", sentinel.port());
    let status = |url: &str| run(&["status", "--master", url]);
    let (code, output) = status(&format!("redis-sentinel://:masters-own@{address}/cache?sentinel_password=its-own"));
    assert!(code == Some(0) && output.contains("leader  none"), "{output}");
    assert!(!output.contains("masters-own") && !output.contains("its-own"), "{output}");
    for (url, told) in [
        (format!("redis-sentinel://:masters-own@{address}/cache"), vec!["no sentinel tells", "NOAUTH", "sentinel_password="]),
        (
            format!("redis-sentinel://:masters-own@{address}/cache?sentinel_password=x"),
            vec!["no sentinel tells", "sentinel_password="],
        ),
        (
            format!("redis-sentinel://{address}/cache?sentinel_password=its-own"),
            vec!["the sentinels name", "NOAUTH", "USER:PASSWORD@"],
        ),
        (format!("redis-sentinel://:x@{address}/cache?sentinel_password=its-own"), vec!["the sentinels name", "USER:PASSWORD@"]),
        (
            format!("redis-sentinel://{address}/other?sentinel_password=its-own"),
            vec![&*address, "knows of no master of that name"],
        ),
        ("redis-sentinel://127.0.0.1:1,127.0.0.1:2/cache".to_owned(), vec!["127.0.0.1:1: ", "127.0.0.1:2: ", "refused"]),
    ] {
        let (code, output) = status(&url);
        assert_eq!((code, output.lines().count()), (Some(1), 1), "{output}");
        assert!(told.iter().all(|told| output.contains(told)), "{url}: {output}");
        assert!(!output.contains("masters-own") && !output.contains("its-own@"), "{output}");
    }
    let (code, output) = status("redis-sentinel://:secret@127.0.0.1:1");
    assert!(code == Some(2) && output.contains("names no master"), "{output}");

    // Sentinels hold to a master that has become a replica elsewhere until they have noticed.
    redis::cmd("REPLICAOF")
        .arg("127.0.0.1")
        .arg(1)
        .exec(&mut {
            let mut connection = connect(master.port());
            redis::cmd("AUTH").arg("masters-own").exec(&mut connection).unwrap();
            connection
        })
        .unwrap();
    let url = format!("redis-sentinel://:masters-own@{address}/cache?sentinel_password=its-own");
    let (code, output) = status(&url);
    assert!(code == Some(1) && output.contains("says that it is a slave"), "{output}");
}
