//! How a redis server is to be started, and the configuration that it is handed.

use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use super::SpawnError;
use crate::is_loopback;

/// Looked for on PATH, in this order.
const PROGRAMS: [&str; 2] = ["redis-server", "valkey-server"];

/// How to start a redis server.
#[derive(Clone)]
pub struct SpawnOptions {
    /// The server's program; `None` takes redis-server or valkey-server from PATH.
    pub program: Option<PathBuf>,
    /// Address to listen on. Anything but a loopback address without a password makes the data readable to whoever reaches
    /// the port, as with every redis.
    pub bind: String,
    /// Port to listen on; `None` takes a free one, which a restarted server keeps.
    pub port: Option<u16>,
    /// Where the server's own directory is made (and removed from when it ends); `None` is the system's temporary directory.
    pub parent_dir: Option<PathBuf>,
    /// As redis reads it (`256mb`); `None` sets no limit.
    pub maxmemory: Option<String>,
    /// What is evicted at the limit.
    pub maxmemory_policy: String,
    /// How many databases; guest databases need 16.
    pub databases: u16,
    /// Password of the default user.
    pub password: Option<String>,
    /// Further directives of redis.conf, name and arguments, after all others.
    pub directives: Vec<(String, Vec<String>)>,
    /// How long it may take to answer its first PING.
    pub start_timeout: Duration,
    /// How long it may take to end after SIGTERM before it gets SIGKILL.
    pub stop_timeout: Duration,
    /// How a server that died is restarted.
    pub restart: RestartPolicy,
}

/// How a server that died is restarted: after a pause that doubles from one death to the next.
#[derive(Debug, Clone)]
pub struct RestartPolicy {
    /// The first pause.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
    /// A server that lived this long is healthy: the next death begins again with the first pause.
    pub stable_after: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        RestartPolicy {
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(10),
            stable_after: Duration::from_secs(30),
        }
    }
}

impl Default for SpawnOptions {
    fn default() -> Self {
        SpawnOptions {
            program: None,
            bind: "127.0.0.1".to_owned(),
            port: None,
            parent_dir: None,
            maxmemory: None,
            maxmemory_policy: "allkeys-lru".to_owned(),
            databases: 16,
            password: None,
            directives: Vec::new(),
            // Where a machine has just been started itself, all start at once.
            start_timeout: Duration::from_secs(60),
            stop_timeout: Duration::from_secs(2),
            restart: RestartPolicy::default(),
        }
    }
}

impl SpawnOptions {
    /// The program to run.
    pub(super) fn find_program(&self) -> Result<PathBuf, SpawnError> {
        if let Some(program) = &self.program {
            return Ok(program.clone());
        }
        let path = env::var_os("PATH").unwrap_or_default();
        PROGRAMS
            .iter()
            .flat_map(|name| env::split_paths(&path).map(move |dir| dir.join(name)))
            .find(|candidate| is_executable(candidate))
            .ok_or(SpawnError::NoProgram)
    }

    /// The address under which this program reaches the server.
    pub(super) fn connect_host(&self) -> &str {
        match self.bind.as_str() {
            "0.0.0.0" | "*" => "127.0.0.1",
            "::" => "::1",
            host => host,
        }
    }

    /// The text of a redis.conf. It goes in by standard input, so that a password shows in no process list.
    pub(super) fn config_text(&self, port: u16, dir: &Path) -> Result<String, SpawnError> {
        let Some(dir) = dir.to_str() else {
            return Err(SpawnError::Option(format!("the directory {} is not UTF-8, which redis cannot be told", dir.display())));
        };
        let (port, databases) = (port.to_string(), self.databases.to_string());
        let mut text = String::new();
        let mut directive = |name: &str, arguments: &[&str]| {
            text.push_str(name);
            for argument in arguments {
                text.push(' ');
                text.push_str(&quoted(argument));
            }
            text.push('\n');
        };
        directive("bind", &[&self.bind]);
        directive("port", &[&port]);
        directive("dir", &[dir]);
        directive("daemonize", &["no"]);
        directive("logfile", &[""]);
        directive("databases", &[&databases]);
        directive("save", &[""]);
        directive("appendonly", &["no"]);
        // Somebody may still ask for a BGSAVE; that it fails is no reason to refuse writes to a cache.
        directive("stop-writes-on-bgsave-error", &["no"]);
        directive("maxmemory-policy", &[&self.maxmemory_policy]);
        if let Some(maxmemory) = &self.maxmemory {
            directive("maxmemory", &[maxmemory]);
        }
        if let Some(password) = &self.password {
            directive("requirepass", &[password]);
        }
        if self.password.is_none() && !is_loopback(&self.bind) {
            // Redis would turn everyone but this machine away, and the address was asked for.
            directive("protected-mode", &["no"]);
        }
        for (name, arguments) in &self.directives {
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
                return Err(SpawnError::Option(format!("{name:?} is not the name of a redis.conf directive")));
            }
            directive(name, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        }
        Ok(text)
    }
}

impl std::fmt::Debug for SpawnOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpawnOptions")
            .field("program", &self.program)
            .field("bind", &self.bind)
            .field("port", &self.port)
            .field("parent_dir", &self.parent_dir)
            .field("maxmemory", &self.maxmemory)
            .field("maxmemory_policy", &self.maxmemory_policy)
            .field("password", &self.password.as_ref().map(|_| "…"))
            .finish_non_exhaustive()
    }
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// An argument as redis.conf quotes it: any byte may stand in it.
fn quoted(argument: &str) -> String {
    let mut text = String::with_capacity(argument.len() + 2);
    text.push('"');
    for byte in argument.bytes() {
        match byte {
            b'"' | b'\\' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b' '..=b'~' => text.push(char::from(byte)),
            _ => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_quoted() {
        for (argument, expect) in
            [("", r#""""#), ("a b", r#""a b""#), (r#"p"\"#, r#""p\"\\""#), ("a\nrename-command", r#""a\x0arename-command""#)]
        {
            assert_eq!(quoted(argument), expect);
        }
    }

    #[test]
    fn a_directive_cannot_smuggle_in_another() {
        let options = SpawnOptions { directives: vec![("save\nport".into(), vec!["1".into()])], ..SpawnOptions::default() };
        assert!(matches!(options.config_text(1, Path::new("/")), Err(SpawnError::Option(_))));
    }

    #[test]
    fn protected_mode_is_left_on_where_it_protects() {
        let text = |bind: &str, password: Option<&str>| {
            let options = SpawnOptions { bind: bind.into(), password: password.map(str::to_owned), ..SpawnOptions::default() };
            options.config_text(7401, Path::new("/nowhere")).unwrap()
        };
        assert!(!text("127.0.0.1", None).contains("protected-mode"));
        assert!(!text("10.0.0.1", Some("secret")).contains("protected-mode"));
        assert!(text("10.0.0.1", None).contains("protected-mode \"no\""));
    }
}
