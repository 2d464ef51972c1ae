//! A plain redis server.

use std::process::Command;

use tempfile::TempDir;

use super::{LONG, Process, connect, eventually, is_running, try_connect};

/// A plain redis server that keeps nothing.
pub(crate) struct RedisServer {
    port: u16,
    process: Process,
    dir: TempDir,
}

impl RedisServer {
    /// Starts one on a free port.
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        // A port that was free a moment ago may be taken by now.
        let (port, process) = (0..10).find_map(|_| launch(free_port(), &dir)).expect("a redis server that starts");
        RedisServer { port, process, dir }
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
        self.process = launch(self.port, &self.dir).unwrap_or_else(|| panic!("port {} is taken", self.port)).1;
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

fn launch(port: u16, dir: &TempDir) -> Option<(u16, Process)> {
    let program = if has_program("redis-server") { "redis-server" } else { "valkey-server" };
    let mut command = Command::new(program);
    command
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
        .arg(dir.path());
    let mut process = Process::start(&format!("{program} on port {port}"), command);
    let pid = process.pid().to_string();
    eventually("an answer of redis, or its end", LONG, || {
        let answers =
            try_connect(port).and_then(|mut connection| redis::cmd("INFO").arg("server").query::<String>(&mut connection));
        match answers {
            // Another server on this port would answer as well.
            Ok(info) if info.lines().any(|line| line.trim_end().strip_prefix("process_id:") == Some(&pid)) => Some(true),
            _ => process.has_ended().then_some(false),
        }
    })
    .then_some((port, process))
}

fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

fn free_port() -> u16 {
    vrc_agent::spawn::free_port("127.0.0.1").expect("a free port")
}
