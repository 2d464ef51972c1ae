//! Client libraries of other languages, each with a program of its own in `tests/clients`: it is handed a port and a version of
//! the protocol, checks every answer, and fails at the first that is not as it should be.

use std::path::{Path, PathBuf};

use crate::{
    program::{client_libraries, run, script},
    servers::{FixedCluster, flush, plain_redis},
};

async fn check(interpreter: impl Fn(&Path) -> PathBuf, program: &str, protocols: &[&str]) {
    let Some(libraries) = client_libraries().await else { return };
    let interpreter = interpreter(libraries);
    let program = script(program).display().to_string();
    let (redis, cluster) = tokio::join!(plain_redis(), FixedCluster::start());
    for protocol in protocols {
        flush(&redis).await;
        cluster.flush().await;
        for port in [redis.port(), cluster.port] {
            let said = run(&interpreter, &[&program, &port.to_string(), *protocol], "").await;
            assert_eq!((said.out.as_str(), said.err.as_str()), ("all well\n", ""));
        }
    }
    cluster.stop().await;
}

fn python(libraries: &Path) -> PathBuf {
    libraries.join("venv/bin/python")
}

fn node(_libraries: &Path) -> PathBuf {
    "node".into()
}

#[tokio::test]
async fn redis_py() {
    check(python, "redis_py.py", &["2", "3"]).await;
}

#[tokio::test]
async fn redis_py_asyncio() {
    check(python, "redis_py_asyncio.py", &["2", "3"]).await;
}

#[tokio::test]
async fn ioredis() {
    check(node, "ioredis.js", &["2", "3"]).await;
}

#[tokio::test]
async fn node_redis() {
    check(node, "node_redis.js", &["2", "3"]).await;
}
