//! `vrc health`: what each part says of itself at --admin, and how the program that asks ends.

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{LONG, Process, RedisServer, eventually, free_address};

/// Exit status, what the part said, and what the program said of that.
fn health(admin: &str) -> (Option<i32>, Value, String) {
    let mut process = Process::vrc(&["health", "--admin", admin]);
    let code = process.end(LONG).code();
    let output = process.output();
    let body = output.lines().find(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).expect("JSON"));
    (code, body.unwrap_or_default(), output)
}

#[track_caller]
fn until_well(admin: &str) {
    until_well_and(admin, "well", |_| true);
}

/// Until a part that is well says what is wanted: what it shows may be a moment old.
#[track_caller]
fn until_well_and(admin: &str, what: &str, wanted: impl Fn(&Value) -> bool) {
    until(admin, what, |code, body| code == Some(0) && wanted(body));
}

/// Until a part is not well, and the text at this place of what it says is as wanted.
#[track_caller]
fn until_not_well(admin: &str, pointer: &str, wanted: impl Fn(&str) -> bool) {
    let is_wanted = |body: &Value| body.pointer(pointer).and_then(Value::as_str).is_some_and(&wanted);
    until(admin, "not well, and says why", |code, body| code == Some(1) && is_wanted(body));
}

#[track_caller]
fn until(admin: &str, what: &str, wanted: impl Fn(Option<i32>, &Value) -> bool) {
    eventually(&format!("{admin} {what}"), LONG, || {
        let (code, body, _) = health(admin);
        wanted(code, &body).then_some(())
    });
}

#[test]
fn each_part_tells_how_it_does() {
    let (mut master, mut redis) = (RedisServer::start(), RedisServer::start());
    let (master_port, redis_port) = (master.port().to_string(), redis.port().to_string());
    let (at_coordinator, at_agent, at_proxy) = (free_address(), free_address(), free_address());
    let (_, _, words) = health(&at_agent);
    assert!(words.contains("no answer from"), "{words}");
    // Longer than anything here takes: no standby is to lead because the leader was late.
    let lease = ["--lease", "1h"];
    let mut coordinator = Process::vrc(&[&["coordinator", "-p", &master_port, "--admin", &at_coordinator], &lease[..]].concat());
    let _agent = Process::vrc(&["agent", "-p", &redis_port, "-P", &master_port, "--admin", &at_agent]);
    let url = format!("redis://127.0.0.1:{master_port}");
    let _proxy = Process::vrc(&["proxy", "--master", &url, "--listen", "127.0.0.1:0", "--admin", &at_proxy]);

    until_well(&at_proxy);
    let name = format!("127.0.0.1:{redis_port}");
    until_well_and(&at_agent, "names its node", |body| body["nodes"][0]["name"] == name);
    until_well_and(&at_coordinator, "leads, and shows the node up", |body| body["leading"] == true && body["nodes_up"] == 1);
    let at_standby = free_address();
    let _standby = Process::vrc(&[&["coordinator", "-p", &master_port, "--admin", &at_standby], &lease[..]].concat());
    until_well_and(&at_standby, "stands by", |body| body["leading"] == false);

    redis.kill();
    until_not_well(&at_agent, "/nodes/0/reason", |reason| reason.starts_with("its redis cannot be used: "));
    until_not_well(&at_proxy, "/reason", |reason| reason == "none of the 1 known nodes is up");
    redis.restart();
    until_well(&at_agent);
    until_well(&at_proxy);

    master.kill();
    until_not_well(&at_coordinator, "/reason", |reason| reason == "the master does not answer");
    // Whoever restarted these because of that would lose the cache for nothing.
    let misses = |body: &Value| body["healthy"] == true && body["nodes"][0]["master_trouble"].is_string();
    until_well_and(&at_agent, "misses the master", misses);
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
    let notices = |reason: &str| reason.contains("--placement legacy") && reason.contains("--placement slots here");
    until_not_well(&at_other, "/reason", notices);
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
    until_well_and(&admin, "shows its node up", |body| body["nodes_up"] == 1);
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
