//! Sentinels and masters that answer when a test lets them, and what it says.

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
    time::timeout,
};
use vrc_cluster::client::MasterUrl;

use crate::support::{PATIENCE, eventually};

/// What a server is asked, as it stands on the wire, and what it answers; asked for anything else it says that all is well.
type Answers = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Tells that something is asked, and waits until it may be answered.
#[derive(Debug, Clone, Default)]
struct Pause {
    is_asked: Arc<Notify>,
    may_answer: Arc<Notify>,
}

/// A server of a few answers.
struct Fake {
    port: u16,
    _accepts: JoinSet<()>,
}

impl Fake {
    /// One that says that it is the master, where there is a pause only after that.
    async fn master(pause: Option<Pause>) -> Self {
        let role = |request: &str| request.contains("ROLE").then(|| "*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n".to_owned());
        Fake::start(Arc::new(role), pause).await
    }

    async fn sentinel(names: Arc<Mutex<u16>>) -> Self {
        let holder = move |request: &str| {
            let port = names.lock().unwrap().to_string();
            request.contains("get-master-addr-by-name").then(|| format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{port}\r\n", port.len()))
        };
        Fake::start(Arc::new(holder), None).await
    }

    async fn start(answers: Answers, pause: Option<Pause>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut accepts = JoinSet::new();
        accepts.spawn(async move {
            let mut served = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                served.spawn(serve(socket, answers.clone(), pause.clone()));
            }
        });
        Fake { port, _accepts: accepts }
    }
}

/// Each request comes in a piece of its own, or several that all are answered alike do in one.
async fn serve(mut socket: TcpStream, answers: Answers, pause: Option<Pause>) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = socket.read(&mut buffer).await {
        let requests = String::from_utf8_lossy(&buffer[..read]).into_owned();
        let answer = match answers(&requests) {
            Some(answer) => {
                if let Some(pause) = &pause {
                    pause.is_asked.notify_one();
                    pause.may_answer.notified().await;
                }
                answer
            }
            None => "+OK\r\n".repeat(requests.split("\r\n").filter(|line| line.starts_with('*')).count()),
        };
        if socket.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_master_that_hung_while_another_was_chosen_is_not_believed() {
    let pause = Pause::default();
    let (former, chosen) = (Fake::master(Some(pause.clone())).await, Fake::master(None).await);
    let names = Arc::new(Mutex::new(former.port));
    let sentinel = Fake::sentinel(names.clone()).await;
    let url: MasterUrl = format!("redis-sentinel://127.0.0.1:{}/cache", sentinel.port).parse().unwrap();

    let found = tokio::spawn({
        let url = url.clone();
        async move { url.client().await }
    });
    timeout(PATIENCE, pause.is_asked.notified()).await.expect("the former master is asked for its role");
    *names.lock().unwrap() = chosen.port;
    pause.may_answer.notify_one();
    timeout(PATIENCE, found).await.expect("an end").unwrap().expect_err("another was chosen");

    let client = eventually("the one that was chosen", async || url.client().await.ok()).await;
    assert!(client.get_connection_info().addr().to_string().ends_with(&format!(":{}", chosen.port)), "{client:?}");
    assert!(!url.has_moved(&client));
}
