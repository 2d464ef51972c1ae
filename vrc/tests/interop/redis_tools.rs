//! Redis's own tools: redis-benchmark and redis-cli.

use crate::{
    program::run,
    servers::{FixedCluster, plain_redis},
};

/// The tests that redis-benchmark runs unless told otherwise, by the beginnings of their names.
const BENCHMARKS: [&str; 19] = [
    "PING_INLINE",
    "PING_MBULK",
    "SET",
    "GET",
    "INCR",
    "LPUSH",
    "RPUSH",
    "LPOP",
    "RPOP",
    "SADD",
    "HSET",
    "SPOP",
    "ZADD",
    "ZPOPMIN",
    "LRANGE_100",
    "LRANGE_300",
    "LRANGE_500",
    "LRANGE_600",
    "MSET (10 keys)",
];

async fn benchmark(options: &str) {
    let cluster = FixedCluster::start().await;
    let args = format!("-p {} -n 3000 -r 10000 -q {options}", cluster.port);
    let said = run("redis-benchmark", &args.split(' ').collect::<Vec<_>>(), "").await;
    assert_eq!(said.err, "", "{}", said.out);
    // It writes its progress over itself with carriage returns.
    let lines: Vec<_> = said.out.split(['\r', '\n']).collect();
    for name in BENCHMARKS {
        let is_result = |line: &&&str| line.starts_with(name) && line.contains(" requests per second, p50=");
        assert!(lines.iter().any(|line| is_result(&line)), "{name} has no result in:\n{}", said.out);
    }
    for word in ["ERR", "Error", "error", "WARNING"] {
        assert!(!said.out.contains(word), "{}", said.out);
    }
    cluster.stop().await;
}

#[tokio::test]
async fn redis_benchmark_one_by_one() {
    benchmark("-P 1").await;
}

#[tokio::test]
async fn redis_benchmark_pipelined() {
    benchmark("-P 16").await;
}

#[tokio::test]
async fn redis_benchmark_resp3() {
    benchmark("-P 4 -3").await;
}

/// redis-cli with one server.
struct Cli {
    port: u16,
    options: &'static str,
}

impl Cli {
    async fn run(&self, words: &str, input: &str) -> String {
        let port = self.port.to_string();
        let mut args = vec!["-p", &port];
        args.extend(self.options.split_whitespace().chain(words.split_whitespace()));
        let said = run("redis-cli", &args, input).await;
        assert_eq!(said.err, "", "{words}");
        said.out
    }

    /// Runs one command (`-e`: an error is a failure), and compares what is shown.
    async fn check(&self, words: &str, expect: &str) {
        assert_eq!(self.run(&format!("-e {words}"), "").await.trim_end(), expect, "{words}");
    }
}

#[tokio::test]
async fn redis_cli_one_shot() {
    let (redis, cluster) = tokio::join!(plain_redis(), FixedCluster::start());
    for (port, options) in [(redis.port(), ""), (redis.port(), "-3"), (cluster.port, ""), (cluster.port, "-3")] {
        let cli = Cli { port, options };
        cli.check("set greeting hello", "OK").await;
        cli.check("get greeting", "hello").await;
        cli.check("mset a 1 b 2 c 3 d 4 e 5", "OK").await;
        cli.check("mget a b c d e nothing", "1\n2\n3\n4\n5").await;
        cli.check("--json mget a b nothing", r#"["1","2",null]"#).await;
        cli.check("--csv mget e d c", r#""5","4","3""#).await;
        cli.check("--no-raw del a b c d e nothing", "(integer) 5").await;
        cli.check("-r 3 incr counter", "1\n2\n3").await;
        cli.check("--no-raw hset h field value", "(integer) 1").await;
        cli.check("--json -3 hgetall h", r#"{"field":"value"}"#).await;
        cli.check("-n 5 set only-in-5 x", "OK").await;
        cli.check("-n 5 exists only-in-5", "1").await;
        cli.check("exists only-in-5", "0").await;
        cli.check("-n 5 del only-in-5", "1").await;
        cli.check("--no-raw ping", "PONG").await;
        assert_eq!(cli.run("-x set from-stdin", "a value\n").await, "OK\n");
        cli.check("get from-stdin", "a value").await;
        assert!(cli.run("-e info server", "").await.contains("redis_version:"));
        assert!(cli.run("-e client list", "").await.contains("cmd=client|list"));
        cli.check("del greeting counter h from-stdin", "4").await;
    }
    cluster.stop().await;
}

#[tokio::test]
async fn redis_cli_interactive() {
    let (redis, cluster) = tokio::join!(plain_redis(), FixedCluster::start());
    for (port, options) in [(redis.port(), ""), (redis.port(), "-3"), (cluster.port, ""), (cluster.port, "-3")] {
        let cli = Cli { port, options };
        let dialogue =
            "set k \"a b\\x00\"\nstrlen k\nlpush k 1\nselect 3\nexists k\nselect 0\n3 incr n\nnonsense\ndel k n\nquit\n";
        let answers = cli.run("", dialogue).await;
        let expect = [
            "OK",
            "4",
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            "",
            "OK",
            "0",
            "OK",
            "1",
            "2",
            "3",
            "ERR unknown command 'nonsense', with args beginning with: ",
            "",
            "2",
        ];
        assert_eq!(answers.trim_end().split('\n').collect::<Vec<_>>(), expect);
    }
    cluster.stop().await;
}

#[tokio::test]
async fn redis_cli_pipe() {
    const COMMANDS: usize = 20_000;
    let cluster = FixedCluster::start().await;
    let cli = Cli { port: cluster.port, options: "" };
    let mut input = String::new();
    for number in 0..COMMANDS {
        let (key, value) = (format!("piped:{number}"), number.to_string());
        input += &format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n{value}\r\n", key.len(), value.len());
    }
    let said = cli.run("--pipe", &input).await;
    assert!(said.ends_with(&format!("errors: 0, replies: {COMMANDS}\n")), "{said}");
    cli.check("mget piped:0 piped:777 piped:19999", "0\n777\n19999").await;
    cluster.stop().await;
}
