//! A worker with one client alone stays awake for it. By itself, as it looks at this process's only worker.
#![cfg(target_os = "linux")]

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use vrc_agent::spawn::{RedisProcess, SpawnOptions};
use vrc_proxy::{Config, ListenAddr, Proxy, Source};

/// Far longer than anything here takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// So few that others on this machine let them pass without a break now and then.
const REQUESTS: u64 = 20;

/// How often the worker has slept so far. That it let others run does not count.
async fn sleeps() -> u64 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // The thread of an earlier proxy may be there still, on its way out.
        if let [thread] = &workers()[..]
            && let Ok(status) = fs::read_to_string(thread.join("status"))
        {
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
            return line.trim().parse().unwrap();
        }
        assert!(Instant::now() < deadline, "not one worker but {}", workers().len());
        tokio::task::yield_now().await;
    }
}

fn workers() -> Vec<PathBuf> {
    let threads = fs::read_dir("/proc/self/task").unwrap().map(|thread| thread.unwrap().path());
    threads.filter(|thread| fs::read_to_string(thread.join("comm")).is_ok_and(|name| name.starts_with("vrc-worker"))).collect()
}

async fn ask(client: &mut TcpStream) {
    client.write_all(b"GET key\r\n").await.unwrap();
    let mut answer = [0; 5];
    timeout(PATIENCE, client.read_exact(&mut answer)).await.expect("in time").unwrap();
    assert_eq!(&answer, b"$-1\r\n");
}

async fn sleeps_of_requests(client: &mut TcpStream) -> u64 {
    let before = sleeps().await;
    for _ in 0..REQUESTS {
        ask(client).await;
    }
    sleeps().await - before
}

async fn start(node: &RedisProcess, busy_poll: Duration, io_uring: bool) -> (Proxy, TcpStream) {
    let fixed = vec![format!("127.0.0.1:{}", node.port()).parse().unwrap()];
    let listen = ListenAddr::Tcp("127.0.0.1:0".parse().unwrap());
    let config = Config { workers: 1, io_uring, busy_poll, timeout: PATIENCE, ..Config::new(Source::Nodes(fixed), listen) };
    let proxy = Proxy::start(config).await.unwrap();
    let mut client = connect(&proxy).await;
    // By then the worker's thread has its name.
    ask(&mut client).await;
    (proxy, client)
}

async fn connect(proxy: &Proxy) -> TcpStream {
    let ListenAddr::Tcp(address) = &proxy.listening()[0] else { panic!("asked for TCP") };
    TcpStream::connect(address).await.unwrap()
}

#[tokio::test]
async fn one_client_alone_is_answered_awake() {
    let node = RedisProcess::start(&SpawnOptions::default()).await.unwrap();
    for io_uring in [false, true] {
        let (proxy, mut client) = start(&node, Duration::from_millis(1), io_uring).await;
        // Until it is known to be alone the worker sleeps, and for the sake of others where they keep the core.
        let deadline = Instant::now() + PATIENCE;
        while sleeps_of_requests(&mut client).await > REQUESTS / 10 {
            assert!(Instant::now() < deadline, "it sleeps");
        }
        drop(client);
        proxy.stop().await;

        let (proxy, mut client) = start(&node, Duration::ZERO, io_uring).await;
        // On a single core whom it lets run answers before it sleeps.
        if thread::available_parallelism().unwrap().get() > 1 {
            while sleeps_of_requests(&mut client).await < REQUESTS / 2 {
                assert!(Instant::now() < deadline, "it does not sleep");
            }
        }
        drop(client);
        proxy.stop().await;
    }
    node.stop().await.unwrap();
}
