//! A real redis server and a plain connection to it. Replies are read with a reader of this file's own, so that the tests do not take
//! the project's word for what RESP is.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use vrc_agent::spawn::free_port;

/// How long a server may take to start, and a reply to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that saves nothing; killed when dropped.
pub(crate) struct Server {
    process: Child,
    port: u16,
    dir: PathBuf,
}

impl Server {
    /// Starts `redis-server`, or `valkey-server` where there is no redis.
    pub(crate) fn start() -> Server {
        Server::start_with(&[])
    }

    /// The only node of a Redis Cluster, which owns all slots.
    pub(crate) fn start_cluster() -> Server {
        let server =
            Server::start_with(&["--cluster-enabled", "yes", "--cluster-port", &free_port("127.0.0.1").unwrap().to_string()]);
        let mut connection = server.connect();
        connection.call(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
        let deadline = Instant::now() + PATIENCE;
        while !connection.call(&["CLUSTER", "INFO"]).text().contains("cluster_state:ok") {
            assert!(Instant::now() < deadline, "the cluster does not come up");
            sleep(Duration::from_millis(20));
        }
        server
    }

    fn start_with(options: &[&str]) -> Server {
        for _ in 0..10 {
            // Somebody else may take the port between this and the server's own bind: then the server ends, and the next port is tried.
            let port = free_port("127.0.0.1").unwrap();
            let dir = std::env::temp_dir().join(format!("vrc-cluster-test-{}-{port}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            let mut server = Server { process: spawn(port, &dir, options), port, dir };
            if server.is_up() {
                return server;
            }
        }
        panic!("redis-server does not start");
    }

    fn is_up(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline && self.process.try_wait().unwrap().is_none() {
            // Who answers may be another server that holds this port, or one that is just about to end for want of another port.
            if let Ok(info) = self.info() {
                return info.contains(&format!("process_id:{}\r\n", self.process.id()));
            }
            sleep(Duration::from_millis(20));
        }
        false
    }

    fn info(&self) -> std::io::Result<String> {
        let mut stream = self.try_connect()?.reader.into_inner();
        stream.write_all(b"INFO server\r\nQUIT\r\n")?;
        let mut info = String::new();
        stream.read_to_string(&mut info)?;
        Ok(info)
    }

    pub(crate) fn connect(&self) -> Connection {
        self.try_connect().unwrap()
    }

    fn try_connect(&self) -> std::io::Result<Connection> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Connection { reader: BufReader::new(stream) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn spawn(port: u16, dir: &Path, options: &[&str]) -> Child {
    let start = |program| {
        Command::new(program)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(options)
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
    };
    start("redis-server").or_else(|_| start("valkey-server")).expect("these tests need redis-server or valkey-server on PATH")
}

pub(crate) struct Connection {
    reader: BufReader<TcpStream>,
}

impl Connection {
    /// Sends one request and reads its reply.
    pub(crate) fn call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Reply {
        let mut request = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args {
            request.extend(format!("${}\r\n", arg.as_ref().len()).into_bytes());
            request.extend(arg.as_ref());
            request.extend(b"\r\n");
        }
        self.reader.get_mut().write_all(&request).unwrap();
        Reply::read(&mut self.reader)
    }
}

/// A reply as a tree: every value with its type byte, and strings with their bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Reply {
    pub(crate) kind: u8,
    pub(crate) bytes: Vec<u8>,
    pub(crate) children: Vec<Reply>,
}

impl Reply {
    /// Reads one reply.
    pub(crate) fn read(from: &mut impl BufRead) -> Reply {
        let mut line = Vec::new();
        from.read_until(b'\n', &mut line).unwrap();
        let (kind, rest) = line.split_first().expect("the connection is open");
        let rest = rest.strip_suffix(b"\r\n").expect("a whole line");
        let mut reply = Reply { kind: *kind, bytes: rest.to_vec(), children: Vec::new() };
        let len = || str::from_utf8(rest).unwrap().parse::<i64>().unwrap();
        match kind {
            b'$' | b'=' if len() >= 0 => {
                reply.bytes = vec![0; len() as usize + 2];
                from.read_exact(&mut reply.bytes).unwrap();
                assert_eq!(reply.bytes.split_off(len() as usize), b"\r\n");
            }
            b'*' | b'~' | b'>' => reply.children = (0..len()).map(|_| Reply::read(from)).collect(),
            b'%' => reply.children = (0..len() * 2).map(|_| Reply::read(from)).collect(),
            _ => {}
        }
        reply
    }

    /// Reads bytes that should be just one reply.
    pub(crate) fn parse(mut bytes: &[u8]) -> Reply {
        let reply = Reply::read(&mut bytes);
        assert_eq!(bytes, b"", "bytes after the reply");
        reply
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}
