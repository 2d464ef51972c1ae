//! A plain redis server.

use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use super::{LONG, Process, connect, eventually, free_port, is_running, try_connect};

/// A plain redis server that keeps nothing.
pub(crate) struct RedisServer {
    port: u16,
    process: Process,
    dir: TempDir,
    /// Further arguments.
    args: Vec<String>,
}

impl RedisServer {
    /// Starts one on a free port.
    pub(crate) fn start() -> Self {
        RedisServer::start_with(&[])
    }

    /// Starts one with further arguments.
    pub(crate) fn start_with(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        // A port that was free a moment ago may be taken by now.
        let start = |_| {
            let port = free_port();
            Some((port, launch(port, plain(port, &dir, &args))?))
        };
        let (port, process) = (0..10).find_map(start).expect("a redis server that starts");
        RedisServer { port, process, dir, args }
    }

    /// Starts a sentinel with these lines of configuration.
    pub(crate) fn sentinel(lines: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let start = |_| {
            let (port, path) = (free_port(), dir.path().join("sentinel.conf"));
            let text = format!("port {port}\nbind 127.0.0.1\ndir {}\n{lines}\n", dir.path().display());
            std::fs::write(&path, text).expect("a configuration");
            let mut command = Command::new(redis_program());
            command.arg(&path).arg("--sentinel");
            Some((port, launch(port, command)?))
        };
        let (port, process) = (0..10).find_map(start).expect("a sentinel that starts");
        RedisServer { port, process, dir, args: Vec::new() }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Whether it was not [killed](Self::kill).
    pub(crate) fn is_running(&self) -> bool {
        is_running(self.process.pid())
    }

    /// Removes a key of a client's database 0, whether it is at home or a guest.
    pub(crate) fn delete(&self, key: &str) {
        let mut connection = connect(self.port);
        redis::pipe().del(key).cmd("SELECT").arg(8).del(key).exec(&mut connection).expect("DEL");
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on its port after a [`kill`](Self::kill).
    pub(crate) fn restart(&mut self) {
        let command = plain(self.port, &self.dir, &self.args);
        self.process = launch(self.port, command).unwrap_or_else(|| panic!("port {} is taken", self.port));
    }

    /// Likewise, as a replica of another.
    pub(crate) fn restart_as_replica_of(&mut self, port: u16) {
        self.args.extend(["--replicaof", "127.0.0.1", &port.to_string()].map(str::to_owned));
        self.restart();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// All keys of a database.
    pub(crate) fn keys(&self, database: u8) -> Vec<Vec<u8>> {
        let mut connection = connect(self.port);
        redis::cmd("SELECT").arg(database).exec(&mut connection).expect("SELECT");
        let (mut keys, mut cursor) = (Vec::new(), 0_u64);
        loop {
            let mut scan = redis::cmd("SCAN");
            let (next, found): (u64, Vec<Vec<u8>>) =
                scan.arg(cursor).arg("COUNT").arg(5_000).query(&mut connection).expect("SCAN");
            keys.extend(found);
            cursor = next;
            if cursor == 0 {
                return keys;
            }
        }
    }
}

/// The server's program: what there is of redis and valkey.
pub(crate) fn redis_program() -> &'static str {
    if has_program("redis-server") { "redis-server" } else { "valkey-server" }
}

fn plain(port: u16, dir: &TempDir, args: &[String]) -> Command {
    let mut command = Command::new(redis_program());
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    command.arg("--dir").arg(dir.path()).args(args);
    command
}

fn launch(port: u16, command: Command) -> Option<Process> {
    let mut process = Process::start(&format!("{} on port {port}", redis_program()), command);
    let pid = process.pid().to_string();
    eventually("an answer of redis, or its end", LONG, || {
        let answers =
            try_connect(port).and_then(|mut connection| redis::cmd("INFO").arg("server").query::<String>(&mut connection));
        match answers {
            // Another server on this port would answer as well.
            // One that wants a password has started, too.
            Err(error) if error.code() == Some("NOAUTH") => Some(true),
            Ok(info) if info.lines().any(|line| line.trim_end().strip_prefix("process_id:") == Some(&pid)) => Some(true),
            _ => process.has_ended().then_some(false),
        }
    })
    .then_some(process)
}

fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}
