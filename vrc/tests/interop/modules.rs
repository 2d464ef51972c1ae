//! Commands of a module through the proxy, which no table of ours has. The module is compiled here, by whatever links Rust's programs.

use std::path::{Path, PathBuf};

use redis::{RedisResult, Value, aio::MultiplexedConnection};
use vrc_agent::spawn::{RedisProcess, SpawnOptions};
use vrc_proxy::{Config, FixedNode, Source};

use crate::{
    program::run,
    servers::{any_port, connect, port_of, start_proxy},
};

async fn compiled() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/module.c");
    let module = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("module-{}.so", std::process::id()));
    let args = ["-shared", "-fPIC", "-O1", "-o", module.to_str().unwrap(), source.to_str().unwrap()];
    run("cc", &args, "").await;
    module
}

async fn ask(connection: &mut MultiplexedConnection, words: &str) -> String {
    let mut words = words.split(' ');
    let mut command = redis::cmd(words.next().unwrap());
    for word in words {
        command.arg(word);
    }
    let answer: RedisResult<Value> = command.query_async(connection).await;
    match answer {
        Ok(answer) => format!("{answer:?}"),
        Err(error) => format!("{}: {}", error.code().unwrap_or_default(), error.detail().unwrap_or_default()),
    }
}

#[tokio::test]
async fn commands_of_a_module() {
    let module = compiled().await;
    let directives = vec![("loadmodule".to_owned(), vec![module.display().to_string()])];
    let options = SpawnOptions { directives, ..SpawnOptions::default() };
    let mut servers = Vec::new();
    for _ in 0..4 {
        servers.push(RedisProcess::start(&options).await.unwrap());
    }
    let alone = servers.pop().unwrap();
    let list = servers.iter().map(|node| format!("{}:{}", node.host(), node.port()).parse::<FixedNode>().unwrap()).collect();
    let proxy = start_proxy(Config::new(Source::Nodes(list), any_port())).await;

    let (mut redis, mut through) = (connect(alone.port()).await, connect(port_of(&proxy)).await);
    let mut script = Vec::new();
    for number in 0..30 {
        script.push(format!("VRCTEST.SET key{number} {number}"));
        script.push(format!("GET key{number}"));
        script.push(format!("vrctest.get key{number}"));
    }
    for words in [
        "vrctest.del {t}a {t}b",
        "vrctest.set key0",
        "vrctest.get key0 more",
        "vrctest.name",
        "vrctest.nothing a b",
        "COMMAND COUNT",
        "COMMAND INFO vrctest.get",
        "COMMAND GETKEYS vrctest.set a b",
        "MULTI",
        "vrctest.set {t}a 1",
        "vrctest.get {t}a",
        "vrctest.nothing",
        "DISCARD",
        "MULTI",
        "vrctest.set {t}a 1",
        "vrctest.get {t}a",
        "EXEC",
    ] {
        script.push(words.to_owned());
    }
    for words in script {
        assert_eq!(ask(&mut through, &words).await, ask(&mut redis, &words).await, "{words}");
    }
    // What has keys of several nodes, or writes without saying where, is refused.
    assert!(ask(&mut through, "vrctest.del a b c d e f").await.starts_with("CROSSSLOT"));
    assert!(ask(&mut through, "vrctest.anywhere").await.contains("'vrctest.anywhere' is not supported by this proxy"));

    proxy.stop().await;
    for server in servers.into_iter().chain([alone]) {
        server.stop().await.unwrap();
    }
    std::fs::remove_file(module).unwrap();
}
