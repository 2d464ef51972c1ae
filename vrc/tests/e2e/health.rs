//! `vrc health`: what each part says of itself at --admin, and how the program that asks ends.

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{LONG, Process, RedisServer, eventually};

/// Exit status, what the part said, and what the program said of that.
fn health(admin: &str) -> (Option<i32>, Value, String) {
    let mut process = Process::vrc(&["health", "--admin", admin]);
    let code = process.end(LONG).code();
    let output = process.output();
    let body = output.lines().find(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).expect("JSON"));
    (code, body.unwrap_or_default(), output)
}

#[track_caller]
fn until_well(admin: &str) -> Value {
    eventually(&format!("{admin} well"), LONG, || match health(admin) {
        (Some(0), body, _) => Some(body),
        _ => None,
    })
}

#[track_caller]
fn until_not_well(admin: &str) -> Value {
    eventually(&format!("{admin} not well"), LONG, || match health(admin) {
        (Some(1), body, _) if !body.is_null() => Some(body),
        _ => None,
    })
}

fn free_address() -> String {
    format!("127.0.0.1:{}", vrc_agent::spawn::free_port("127.0.0.1").expect("a free port"))
}

#[test]
fn each_part_tells_how_it_does() {
    let (mut master, mut redis) = (RedisServer::start(), RedisServer::start());
    let (master_port, redis_port) = (master.port().to_string(), redis.port().to_string());
    let (at_coordinator, at_agent, at_proxy) = (free_address(), free_address(), free_address());
    let (_, _, words) = health(&at_agent);
    assert!(words.contains("no answer from"), "{words}");
    let mut coordinator = Process::vrc(&["coordinator", "-p", &master_port, "--admin", &at_coordinator]);
    let _agent = Process::vrc(&["agent", "-p", &redis_port, "-P", &master_port, "--admin", &at_agent]);
    let url = format!("redis://127.0.0.1:{master_port}");
    let _proxy = Process::vrc(&["proxy", "--master", &url, "--listen", "127.0.0.1:0", "--admin", &at_proxy]);

    until_well(&at_proxy);
    assert_eq!(until_well(&at_agent)["nodes"][0]["name"], format!("127.0.0.1:{redis_port}"));
    let leader = until_well(&at_coordinator);
    assert_eq!((&leader["leading"], &leader["nodes_up"]), (&true.into(), &1.into()), "{leader}");
    let at_standby = free_address();
    let _standby = Process::vrc(&["coordinator", "-p", &master_port, "--admin", &at_standby]);
    assert_eq!(until_well(&at_standby)["leading"], false);

    redis.kill();
    let agent = until_not_well(&at_agent);
    let reason = agent["nodes"][0]["reason"].as_str().unwrap_or_default();
    assert!(reason.starts_with("its redis cannot be used: "), "{agent}");
    assert_eq!(until_not_well(&at_proxy)["reason"], "none of the 1 known nodes is up");
    redis.restart();
    until_well(&at_agent);
    until_well(&at_proxy);

    master.kill();
    assert_eq!(until_not_well(&at_coordinator)["reason"], "the master does not answer");
    // Whoever restarted these because of that would lose the cache for nothing.
    let agent = eventually("the agent misses the master", LONG, || {
        let body = until_well(&at_agent);
        body["nodes"][0]["master_trouble"].is_string().then_some(body)
    });
    assert_eq!(agent["healthy"], true);
    until_well(&at_proxy);
    master.restart();
    until_well(&at_coordinator);

    coordinator.signal(Signal::TERM);
    assert_eq!(coordinator.end(LONG).code(), Some(0));
    let (code, body, _) = health(&at_coordinator);
    assert_eq!((code, body), (Some(1), Value::Null));
}

#[test]
fn a_part_with_another_placement_than_the_cluster_says_so() {
    let (master, redis) = (RedisServer::start(), RedisServer::start());
    let (master_port, redis_port) = (master.port().to_string(), redis.port().to_string());
    let _coordinator = Process::vrc(&["coordinator", "-p", &master_port, "--placement", "legacy"]);
    let _agent = Process::vrc(&["agent", "-p", &redis_port, "-P", &master_port]);
    let url = format!("redis://127.0.0.1:{master_port}");
    let (at_proxy, at_other) = (free_address(), free_address());
    let proxy = |admin: &str, placement: &str| {
        Process::vrc(&["proxy", "--master", &url, "--listen", "127.0.0.1:0", "--admin", admin, "--placement", placement])
    };
    let (_proxy, _other) = (proxy(&at_proxy, "legacy"), proxy(&at_other, "slots"));
    until_well(&at_proxy);
    let reason = eventually("the other proxy notices", LONG, || {
        until_not_well(&at_other)["reason"].as_str().filter(|reason| reason.contains("--placement legacy")).map(str::to_owned)
    });
    assert!(reason.contains("--placement slots here"), "{reason}");
    for command in [&["status"][..], &["where", "key"]] {
        let mut process = Process::vrc(&[command, &["--master", &url]].concat());
        assert_eq!(process.end(LONG).code(), Some(1));
        assert!(process.output().contains("say --placement legacy"), "{}", process.output());
        let mut process = Process::vrc(&[command, &["--master", &url, "--placement", "legacy"]].concat());
        assert_eq!(process.end(LONG).code(), Some(0), "{}", process.output());
    }
}

#[test]
fn up_says_what_its_proxy_says() {
    let admin = free_address();
    let mut up = Process::vrc(&["up", "--nodes", "1", "--listen", "127.0.0.1:0", "--admin", &admin]);
    assert_eq!(until_well(&admin)["nodes_up"], 1);
    up.signal(Signal::TERM);
    assert_eq!(up.end(LONG).code(), Some(0));
}

#[test]
fn what_is_no_part_is_told_apart() {
    let redis = RedisServer::start();
    let (code, body, words) = health(&format!("127.0.0.1:{}", redis.port()));
    assert_eq!((code, body), (Some(1), Value::Null), "{words}");
    assert!(words.contains("what answers at") || words.contains("no answer from"), "{words}");
}

#[test]
fn an_address_that_is_taken_is_an_error() {
    let redis = RedisServer::start();
    let taken = format!("127.0.0.1:{}", redis.port());
    for part in ["agent", "coordinator"] {
        let mut process = Process::vrc(&[part, "-p", "1", "--admin", &taken]);
        assert_eq!(process.end(LONG).code(), Some(1));
        assert!(process.output().contains(&format!("cannot serve --admin {taken}")), "{}", process.output());
    }
}
