//! Starting, watching and stopping real redis servers.

mod common;

use std::{
    collections::BTreeMap,
    net::TcpListener,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

use common::*;
use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use vrc_agent::{
    FleetConfig, Health, NodeTarget, run_fleet,
    spawn::{RedisProcess, RestartPolicy, SpawnError, SpawnEvent, SpawnOptions, Supervised, free_port, supervise},
};
use vrc_cluster::contract::AgentBusMessage;

fn is_empty(dir: &Path) -> bool {
    dir.read_dir().unwrap().next().is_none()
}

/// Options under which restarts are quick enough to be watched.
fn quick(parent: &Path) -> SpawnOptions {
    SpawnOptions {
        parent_dir: Some(parent.to_owned()),
        restart: RestartPolicy {
            first_pause: Duration::from_millis(20),
            longest_pause: Duration::from_millis(80),
            stable_after: Duration::from_secs(60),
        },
        ..SpawnOptions::default()
    }
}

#[tokio::test]
async fn volatile_settings_are_really_applied_and_nothing_is_left_behind() {
    let parent = tempfile::tempdir().unwrap();
    let password = "a \"quoted\" pass\\word #1";
    let options = SpawnOptions {
        parent_dir: Some(parent.path().to_owned()),
        maxmemory: Some("64mb".to_owned()),
        password: Some(password.to_owned()),
        directives: vec![("hz".into(), vec!["17".into()])],
        stop_timeout: PATIENCE,
        ..SpawnOptions::default()
    };
    let redis = RedisProcess::start(&options).await.unwrap();
    let target = redis::Client::open((redis.host(), redis.port())).unwrap();
    let mut connection = open(&target).await;
    let () = redis::cmd("AUTH").arg(password).query_async(&mut connection).await.unwrap();
    for (name, expect) in [
        ("save", ""),
        ("appendonly", "no"),
        ("maxmemory", "67108864"),
        ("maxmemory-policy", "allkeys-lru"),
        ("databases", "16"),
        ("daemonize", "no"),
        ("bind", "127.0.0.1"),
        ("hz", "17"),
    ] {
        let (_, value): (String, String) = command(&mut connection, &format!("CONFIG GET {name}")).await;
        assert_eq!(value, expect, "{name}");
    }
    let (_, dir): (String, PathBuf) = {
        let (name, dir): (String, String) = command(&mut connection, "CONFIG GET dir").await;
        (name, dir.into())
    };
    assert_eq!(dir.parent().unwrap().canonicalize().unwrap(), parent.path().canonicalize().unwrap());
    // Somebody may ask for it; it still does not outlive the server.
    let () = command(&mut connection, "SAVE").await;
    assert!(!is_empty(&dir));
    let arguments = std::fs::read(format!("/proc/{}/cmdline", redis.pid())).unwrap_or_default();
    assert!(!String::from_utf8_lossy(&arguments).contains("quoted"));
    assert!(redis.last_lines().iter().any(|line| line.contains("Ready to accept connections")), "{:?}", redis.last_lines());
    let pid = redis.pid();
    assert!(redis.stop().await.unwrap().success());
    assert!(!is_running(pid) && is_empty(parent.path()));
}

#[tokio::test]
async fn a_redis_that_will_not_end_is_killed_and_so_is_one_that_is_dropped() {
    let parent = tempfile::tempdir().unwrap();
    let options = SpawnOptions { stop_timeout: Duration::from_millis(200), ..quick(parent.path()) };
    let redis = RedisProcess::start(&options).await.unwrap();
    let pid = redis.pid();
    kill(pid, Signal::STOP);
    assert!(!in_time(redis.stop()).await.unwrap().success());
    assert!(!is_running(pid));
    let redis = RedisProcess::start(&options).await.unwrap();
    let pid = redis.pid();
    drop(redis);
    eventually(async || (!is_running(pid)).then_some(())).await;
    assert!(is_empty(parent.path()));
}

#[tokio::test]
async fn starts_that_fail_say_why_and_leave_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let start = async |options: SpawnOptions| RedisProcess::start(&options).await.expect_err("this should not start");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = start(SpawnOptions { port: Some(port), ..quick(parent.path()) }).await;
    assert!(matches!(error, SpawnError::PortTaken { port: said, .. } if said == port), "{error}");

    // Also where another redis would answer in its stead.
    let other = redis().await;
    let error = start(SpawnOptions { port: Some(other.port()), ..quick(parent.path()) }).await;
    assert!(matches!(error, SpawnError::PortTaken { .. }), "{error}");

    let error = start(SpawnOptions { maxmemory: Some("plenty".to_owned()), ..quick(parent.path()) }).await;
    assert!(matches!(error, SpawnError::Died { .. }) && error.to_string().contains("maxmemory"), "{error}");

    let error = start(SpawnOptions { program: Some("/nowhere/redis-server".into()), ..quick(parent.path()) }).await;
    assert!(matches!(error, SpawnError::Exec { .. }) && error.to_string().contains("/nowhere/redis-server"), "{error}");

    let error = start(quick(&parent.path().join("missing"))).await;
    assert!(matches!(error, SpawnError::Directory { .. }) && error.to_string().contains("missing"), "{error}");

    let error = start(SpawnOptions {
        program: Some("/bin/cat".into()),
        start_timeout: Duration::from_millis(200),
        ..quick(parent.path())
    })
    .await;
    assert!(matches!(error, SpawnError::Died { .. } | SpawnError::NotReady { .. }), "{error}");
    assert!(is_empty(parent.path()));
}

#[tokio::test]
async fn many_find_free_ports_at_once() {
    let mut starting = tokio::task::JoinSet::new();
    for _ in 0..8 {
        starting.spawn(redis());
    }
    let mut ports: Vec<u16> = starting.join_all().await.iter().map(RedisProcess::port).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 8);
}

#[tokio::test]
async fn a_redis_that_dies_is_restarted_after_growing_pauses() {
    let parent = tempfile::tempdir().unwrap();
    let supervised = Supervised::start(quick(parent.path())).await.unwrap();
    let kept_port = supervised.port();
    let shutdown = CancellationToken::new();
    let (events, mut heard) = mpsc::unbounded_channel();
    let keeper = tokio::spawn(supervised.keep(shutdown.clone(), move |event| events.send(event).unwrap()));
    let mut pids = Vec::new();
    for step_ms in [20, 40, 80, 80] {
        let Some(SpawnEvent::Started { port, pid }) = in_time(heard.recv()).await else { panic!("not started") };
        assert!(port == kept_port && !pids.contains(&pid));
        pids.push(pid);
        kill(pid, Signal::KILL);
        let Some(SpawnEvent::Died { restart_in, status, .. }) = in_time(heard.recv()).await else { panic!("not dead") };
        assert!(!status.success());
        let step = Duration::from_millis(step_ms);
        assert!(restart_in >= step / 2 && restart_in <= step, "{restart_in:?} of {step:?}");
    }
    let Some(SpawnEvent::Started { pid, .. }) = in_time(heard.recv()).await else { panic!("not started") };
    assert!(is_running(pid));
    shutdown.cancel();
    in_time(keeper).await.unwrap();
    assert!(matches!(heard.recv().await, Some(SpawnEvent::Stopped { .. })));
    assert!(!is_running(pid) && is_empty(parent.path()));
}

#[tokio::test]
async fn a_restart_that_fails_is_tried_again() {
    let parent = tempfile::tempdir().unwrap();
    let shutdown = CancellationToken::new();
    let (events, mut heard) = mpsc::unbounded_channel();
    let options = quick(parent.path());
    let keeper = tokio::spawn(supervise(options, shutdown.clone(), move |event| events.send(event).unwrap()));
    let Some(SpawnEvent::Started { port, pid }) = in_time(heard.recv()).await else { panic!("not started") };
    kill(pid, Signal::KILL);
    // Takes the port as soon as it is free, unless the restart was quicker; then it is killed again.
    let squatter = eventually(async || {
        while let Ok(event) = heard.try_recv() {
            if let SpawnEvent::Started { pid, .. } = event {
                kill(pid, Signal::KILL);
            }
        }
        TcpListener::bind(("127.0.0.1", port)).ok()
    })
    .await;
    loop {
        if let Some(SpawnEvent::RestartFailed { error, .. }) = in_time(heard.recv()).await {
            assert!(matches!(error, SpawnError::PortTaken { .. }), "{error}");
            break;
        }
    }
    drop(squatter);
    while !matches!(in_time(heard.recv()).await, Some(SpawnEvent::Started { .. })) {}
    shutdown.cancel();
    in_time(keeper).await.unwrap().unwrap();
    assert!(is_empty(parent.path()));
}

#[tokio::test]
async fn a_fleet_announces_its_nodes_says_good_bye_and_leaves_nothing() {
    let (master, parent) = (redis().await, tempfile::tempdir().unwrap());
    let mut ear = Ear::on(&master).await;
    let agent = vrc_agent::Config { name: Some("here".into()), ..config_for(NodeTarget::new("localhost", 0), &master) };
    let fleet = FleetConfig {
        agent,
        spawn: SpawnOptions { password: Some("secret".into()), ..quick(parent.path()) },
        count: NonZeroUsize::new(2),
    };
    let shutdown = CancellationToken::new();
    let (events, mut heard) = mpsc::unbounded_channel();
    let health = Health::default();
    let running = tokio::spawn(run_fleet(fleet, health.clone(), shutdown.clone(), move |event| events.send(event).unwrap()));
    let (mut nodes, mut pids) = (BTreeMap::new(), Vec::new());
    while nodes.len() < 2 {
        let node = ear.up_where(|node| !nodes.contains_key(&node.node_name())).await;
        assert_eq!((node.config.host.as_str(), node.config.password.as_deref()), ("localhost", Some("secret")));
        nodes.insert(node.node_name(), node.run_id);
    }
    assert_eq!(nodes.keys().collect::<Vec<_>>(), ["here-1", "here-2"]);
    // What was heard is told a moment later.
    eventually(async || health.nodes().iter().all(|node| node.healthy).then_some(())).await;
    let shown: BTreeMap<_, _> = health.nodes().into_iter().map(|node| (node.name, node.address)).collect();
    assert!(shown.keys().eq(nodes.keys()) && shown.values().all(|address| address.starts_with("localhost:")), "{shown:?}");
    while pids.len() < 2 {
        let Some(SpawnEvent::Started { pid, .. }) = in_time(heard.recv()).await else { panic!("not started") };
        pids.push(pid);
    }
    kill(pids[0], Signal::KILL);
    let back = ear.up_where(|node| nodes[&node.node_name()] != node.run_id).await;
    assert!(nodes.contains_key(&back.node_name()));
    // The announcement may come before the supervisor's own word of it.
    while pids.len() < 3 {
        if let SpawnEvent::Started { pid, .. } = in_time(heard.recv()).await.expect("the supervisor still tells") {
            pids.push(pid);
        }
    }
    shutdown.cancel();
    in_time(running).await.unwrap().unwrap();
    while !nodes.is_empty() {
        if let AgentBusMessage::NodeLeaving { name, .. } = ear.other_than_up().await {
            assert!(nodes.remove(&name).is_some());
        }
    }
    assert!(pids.into_iter().all(|pid| !is_running(pid)) && is_empty(parent.path()));
}

#[tokio::test]
async fn a_fleet_of_which_one_server_cannot_start_does_not_start() {
    let (master, parent) = (redis().await, tempfile::tempdir().unwrap());
    // The second of the consecutive ports is taken.
    let (first, _taken) = eventually(async || {
        let port = free_port("127.0.0.1").unwrap();
        TcpListener::bind(("127.0.0.1", port + 1)).ok().map(|listener| (port, listener))
    })
    .await;
    let agent = config_for(NodeTarget::new("127.0.0.1", 0), &master);
    let spawn = SpawnOptions { port: Some(first), ..quick(parent.path()) };
    let fleet = FleetConfig { agent, spawn, count: NonZeroUsize::new(3) };
    let error = in_time(run_fleet(fleet, Health::default(), CancellationToken::new(), |_| {})).await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(SpawnError::PortTaken { port, .. }) if *port == first + 1), "{error}");
    eventually(async || (is_empty(parent.path()) && free_to_bind(first)).then_some(())).await;
}

fn free_to_bind(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

/// Not a test: what `servers_die_with_a_program_that_is_killed` runs and kills.
#[tokio::test]
#[ignore = "runs only as a child of another test"]
async fn program_to_be_killed() {
    if std::env::var_os("VRC_TEST_TO_BE_KILLED").is_none() {
        return;
    }
    let redis = redis().await;
    println!("\nserver {}", redis.pid());
    std::future::pending::<()>().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn servers_die_with_a_program_that_is_killed() {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let mut program = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "program_to_be_killed", "--ignored", "--nocapture"])
        .env("VRC_TEST_TO_BE_KILLED", "1")
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
    let pid: u32 = loop {
        let line = in_time(lines.next_line()).await.unwrap().expect("it tells the server's pid");
        if let Some(pid) = line.strip_prefix("server ") {
            break pid.parse().unwrap();
        }
    };
    assert!(is_running(pid));
    program.kill().await.unwrap();
    eventually(async || (!is_running(pid)).then_some(())).await;
}
