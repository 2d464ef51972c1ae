//! What a running proxy says over HTTP, asked as an operator's tools would.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};
use vrc_agent::spawn::{RedisProcess, SpawnOptions, free_port};
use vrc_cluster::contract::{CLIENT_BUS, EPOCH_KEY, NODE_SET_KEY};
use vrc_proxy::{Config, ListenAddr, Proxy, Source};

/// Far longer than anything here takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn config(source: Source) -> Config {
    Config { workers: 2, admin: Some(any_port()), ..Config::new(source, ListenAddr::Tcp(any_port())) }
}

/// Nodes that nobody listens at: none is asked for anything here.
fn fixed() -> Source {
    Source::Nodes(["127.0.0.1:1@3", "127.0.0.1:2@1"].map(|node| node.parse().unwrap()).to_vec())
}

fn tcp(proxy: &Proxy) -> SocketAddr {
    match &proxy.listening()[0] {
        ListenAddr::Tcp(address) => *address,
        other => panic!("{other}"),
    }
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

async fn request(proxy: &Proxy, method: &str, path: &str) -> Answer {
    let mut stream = TcpStream::connect(proxy.admin_address().unwrap()).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut text)).await.expect("in time").unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("a whole answer");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}

async fn get(proxy: &Proxy, path: &str) -> Answer {
    request(proxy, "GET", path).await
}

/// Asks until the answer is as wanted.
async fn until(proxy: &Proxy, path: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = get(proxy, path).await;
        if wanted(&answer) {
            return answer;
        }
        assert!(Instant::now() < deadline, "{path} stays {} {}", answer.status, answer.body);
        sleep(Duration::from_millis(10)).await;
    }
}

fn value(metrics: &str, sample: &str) -> f64 {
    let found = metrics.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("no {sample} in\n{metrics}")).parse().unwrap()
}

#[tokio::test]
async fn counts_what_clients_do() {
    let proxy = Proxy::start(config(fixed())).await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = TcpStream::connect(tcp(&proxy)).await.unwrap();
        client.write_all(b"PING\r\nPING\r\n").await.unwrap();
        let mut pongs = [0; 14];
        client.read_exact(&mut pongs).await.unwrap();
        assert_eq!(&pongs, b"+PONG\r\n+PONG\r\n");
        clients.push(client);
    }
    let answer = until(&proxy, "/metrics", |answer| {
        answer.status == 200
            && value(&answer.body, "vrc_commands_total") == 6.0
            && value(&answer.body, "vrc_bytes_out_total") == 42.0
    })
    .await;
    assert!(answer.head.contains("content-type: application/openmetrics-text"), "{}", answer.head);
    assert_eq!(value(&answer.body, "vrc_clients"), 3.0);
    let of_worker = |number| value(&answer.body, &format!("vrc_worker_commands_total{{worker=\"{number}\"}}"));
    assert_eq!(of_worker(0) + of_worker(1), 6.0);
    assert!(of_worker(0) > 0.0 && of_worker(1) > 0.0, "clients are spread over the workers");
    assert_eq!(value(&answer.body, "vrc_nodes_up"), 2.0);
    assert_eq!(value(&answer.body, "vrc_node_up{node=\"127.0.0.1:1\"}"), 1.0);
    assert!(!answer.body.contains("vrc_master"), "there is no master");
    drop(clients);
    until(&proxy, "/metrics", |answer| value(&answer.body, "vrc_clients") == 0.0).await;
    proxy.stop().await;
}

#[tokio::test]
async fn shows_a_fixed_topology() {
    let proxy = Proxy::start(config(fixed())).await.unwrap();
    let health = get(&proxy, "/health").await;
    assert_eq!((health.status, &health.json()["healthy"], &health.json()["nodes_up"]), (200, &true.into(), &2.into()));
    let answer = get(&proxy, "/topology").await;
    assert!(answer.head.contains("content-type: application/json"), "{}", answer.head);
    let topology = answer.json();
    assert_eq!((&topology["placement"], &topology["epoch"]), (&"slots".into(), &0.into()));
    let nodes = topology["nodes"].as_array().unwrap();
    assert_eq!(nodes[0]["address"], "127.0.0.1:1");
    assert_eq!((&nodes[0]["weight"], &nodes[0]["up"]), (&3.0.into(), &true.into()));
    let share = |node: &Value| node["share"].as_f64().unwrap();
    assert!(share(&nodes[0]) > 0.7 && (share(&nodes[0]) + share(&nodes[1]) - 1.0).abs() < 1e-9, "{topology}");
    for (method, path, status) in
        [("GET", "/", 404), ("GET", "/metrics/x", 404), ("POST", "/metrics", 405), ("HEAD", "/health", 200)]
    {
        assert_eq!(request(&proxy, method, path).await.status, status, "{method} {path}");
    }
    proxy.stop().await;
}

#[tokio::test]
async fn says_why_it_is_not_healthy_and_tells_no_password() {
    let master = RedisProcess::start(&SpawnOptions::default()).await.unwrap();
    let source = Source::Master(format!("127.0.0.1:{}", master.port()).parse().unwrap());
    let proxy = Proxy::start(config(source)).await.unwrap();
    let health = until(&proxy, "/health", |answer| answer.body.contains("it has no node map")).await;
    assert_eq!((health.status, &health.json()["healthy"]), (503, &false.into()));
    assert_eq!(health.json()["reason"], "no node map has been read yet");
    assert_eq!(health.json()["master_trouble"], "it has no node map");
    let metrics = get(&proxy, "/metrics").await.body;
    assert_eq!((value(&metrics, "vrc_master_followed"), value(&metrics, "vrc_nodes_known")), (0.0, 0.0));
    assert_eq!(get(&proxy, "/topology").await.json()["nodes"], Value::Array(Vec::new()));

    let client = redis::Client::open(("127.0.0.1", master.port())).unwrap();
    // Without a limit of the library's own: a busy machine is no error.
    let unlimited = redis::AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    let mut connection = client.get_multiplexed_async_connection_with_config(&unlimited).await.unwrap();
    for (epoch, up) in [(1, true), (2, false)] {
        let node = format!(
            r#"{{"config":{{"host":"h","port":1,"username":"u5er","password":"s3cret"}},"weight":2,"up":{up},"name":"n"}}"#
        );
        let message = format!(r#"{{"type":"update_nodes","nodeMap":{{"n":{node}}},"epoch":{epoch}}}"#);
        let mut pipe = redis::pipe();
        pipe.atomic().hset(NODE_SET_KEY, "n", node).set(EPOCH_KEY, epoch).publish(CLIENT_BUS, message);
        pipe.exec_async(&mut connection).await.unwrap();
        let health = until(&proxy, "/health", |answer| answer.json()["epoch"] == epoch && !answer.body.contains("trouble")).await;
        assert_eq!((health.status == 200, &health.json()["healthy"]), (up, &up.into()), "{}", health.body);
        assert_eq!(health.json().get("reason").and_then(Value::as_str), (!up).then_some("none of the 1 known nodes is up"));
        let metrics = get(&proxy, "/metrics").await.body;
        assert_eq!(value(&metrics, "vrc_master_followed"), 1.0);
        assert_eq!(value(&metrics, "vrc_epoch"), f64::from(epoch));
        let topology = get(&proxy, "/topology").await;
        assert_eq!(topology.json()["nodes"][0]["address"], "h:1");
        for text in [&health.body, &metrics, &topology.body] {
            assert!(!text.contains("s3cret") && !text.contains("u5er"), "{text}");
        }
    }
    proxy.stop().await;
}

#[tokio::test]
async fn an_address_in_use_is_told_and_nothing_is_left_behind() {
    let other = TcpListener::bind(any_port()).await.unwrap();
    let taken = other.local_addr().unwrap();
    // A port of our own, so that it can be looked whether it was given back.
    let listen = SocketAddr::from(([127, 0, 0, 1], free_port("127.0.0.1").unwrap()));
    let config = Config { admin: Some(taken), listen: vec![ListenAddr::Tcp(listen)], ..config(fixed()) };
    let error = format!("{:#}", Proxy::start(config).await.unwrap_err());
    assert!(error.starts_with(&format!("cannot serve metrics on {taken}: ")) && error.contains("in use"), "{error}");
    assert!(TcpStream::connect(listen).await.is_err());
}

#[tokio::test]
async fn stops_with_the_proxy_also_when_somebody_stays_connected() {
    let proxy = Proxy::start(config(fixed())).await.unwrap();
    let address = proxy.admin_address().unwrap();
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET /health HTTP/1.1\r\nHost: proxy\r\n\r\n").await.unwrap();
    assert!(idle.read(&mut [0; 4096]).await.unwrap() > 0);
    timeout(PATIENCE, proxy.stop()).await.expect("in time");
    assert!(TcpStream::connect(address).await.is_err());
    let ended = timeout(PATIENCE, idle.read(&mut [0; 4096])).await.expect("the connection is closed");
    assert!(matches!(ended, Ok(0) | Err(_)));
}

#[tokio::test]
async fn serves_nothing_unless_asked() {
    let proxy = Proxy::start(Config { admin: None, ..config(fixed()) }).await.unwrap();
    assert_eq!(proxy.admin_address(), None);
    proxy.stop().await;
}
