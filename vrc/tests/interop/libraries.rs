//! Client libraries of other languages, each with a program of its own in `tests/clients`: it is handed a port and a version of
//! the protocol, checks every answer, and fails at the first that is not as it should be.

use crate::{
    program::ClientProgram,
    servers::{FixedCluster, flush, redis_with},
};

/// What the servers ask of clients.
const PASSWORD: &str = "the pass word";

/// Runs a program with a plain redis and with the proxy, in each of these versions of the protocol.
async fn check(program: &str, protocols: &[&str]) {
    check_with(program, protocols, &[]).await;
}

/// Likewise with further arguments.
async fn check_with(program: &str, protocols: &[&str], more: &[&str]) {
    let Some(program) = ClientProgram::ready(program).await else { return };
    let (redis, cluster) = tokio::join!(redis_with(Some(PASSWORD)), FixedCluster::start_with(Some(PASSWORD)));
    for protocol in protocols {
        flush(&redis, Some(PASSWORD)).await;
        cluster.flush().await;
        for port in [redis.port(), cluster.port] {
            let port = port.to_string();
            let said = program.run(&[&[port.as_str(), *protocol, PASSWORD][..], more].concat()).await;
            assert_eq!((said.out.as_str(), said.err.as_str()), ("all well\n", ""), "port {port}");
        }
    }
    cluster.stop().await;
}

#[tokio::test]
async fn redis_py() {
    check("redis_py.py", &["2", "3"]).await;
}

#[tokio::test]
async fn redis_py_with_hiredis() {
    check_with("redis_py.py", &["2", "3"], &["hiredis"]).await;
}

#[tokio::test]
async fn redis_py_asyncio() {
    check("redis_py_asyncio.py", &["2", "3"]).await;
}

#[tokio::test]
async fn ioredis() {
    check("ioredis.js", &["2", "3"]).await;
}

#[tokio::test]
async fn node_redis() {
    check("node_redis.js", &["2", "3"]).await;
}

#[tokio::test]
async fn bullmq() {
    check("bullmq.js", &["2"]).await;
}

#[tokio::test]
async fn hiredis() {
    check("hiredis.c", &["2"]).await;
}

#[tokio::test]
async fn redigo() {
    check("redigo.go", &["2"]).await;
}

#[tokio::test]
async fn phpredis() {
    check("phpredis.php", &["2"]).await;
}

#[tokio::test]
async fn jedis() {
    check("JedisClient.java", &["2", "3"]).await;
}
