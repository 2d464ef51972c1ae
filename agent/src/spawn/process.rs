//! One run of a redis server.

use std::{
    collections::VecDeque,
    io,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader},
    process::{Child, Command},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tracing::{debug, warn};

use super::{SpawnError, SpawnOptions, forker, free_port, port::is_taken};
use crate::{config::NodeTarget, info::Info};

/// How often another free port is tried where each one found was taken meanwhile.
const PORT_ATTEMPTS: usize = 20;
/// How often a starting server is asked whether it answers.
const READY_PAUSE: Duration = Duration::from_millis(20);
/// How long one such question may take.
const READY_TIMEOUT: Duration = Duration::from_secs(1);
/// How many lines of its log are kept to explain a death.
const LAST_LINES: usize = 12;

/// A running redis server. Dropping it kills the server; [`stop`](Self::stop) lets it end in good order and waits for that.
#[derive(Debug)]
pub struct RedisProcess {
    child: Child,
    pid: u32,
    port: u16,
    host: String,
    version: String,
    stop_timeout: Duration,
    log: Log,
    // Removed when dropped; declared after `child`, so that the server is killed first.
    _dir: TempDir,
}

impl RedisProcess {
    /// Starts a server and waits till it answers.
    ///
    /// # Errors
    /// If there is no such program, its port is taken, or it ends or stays silent; nothing is left running then.
    pub async fn start(options: &SpawnOptions) -> Result<Self, SpawnError> {
        if let Some(port) = options.port {
            return start_on(options, port).await;
        }
        let mut attempt = 1;
        loop {
            match start_on(options, free_port(&options.bind)?).await {
                Err(SpawnError::PortTaken { port, .. }) if attempt < PORT_ATTEMPTS => {
                    debug!(port, "the port found free was taken meanwhile");
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address under which this machine reaches it.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its version, as INFO gives it.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The last lines of its log.
    pub fn last_lines(&self) -> Vec<String> {
        self.log.last_lines()
    }

    /// Waits till it ends by itself. May be dropped and called again.
    ///
    /// # Errors
    /// If the system cannot tell.
    pub async fn exited(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        self.log.finish().await;
        Ok(status)
    }

    /// Ends it: SIGTERM, and SIGKILL if it is still there after the stop timeout. Its directory is removed.
    ///
    /// # Errors
    /// If the system cannot tell how it ended.
    pub async fn stop(mut self) -> io::Result<ExitStatus> {
        self.signal(rustix::process::Signal::TERM);
        match timeout(self.stop_timeout, self.child.wait()).await {
            Ok(status) => status,
            Err(_) => {
                warn!(port = self.port, pid = self.pid, "redis does not end, killing it");
                self.child.start_kill()?;
                self.child.wait().await
            }
        }
    }

    /// Sends a signal, unless it has ended: then its number may belong to another process.
    fn signal(&self, signal: rustix::process::Signal) {
        let raw = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = raw.and_then(rustix::process::Pid::from_raw) {
            // It may have ended by itself this moment, which is what is wanted.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

async fn start_on(options: &SpawnOptions, port: u16) -> Result<RedisProcess, SpawnError> {
    let program = options.find_program()?;
    let dir = make_dir(options, port)?;
    let config_text = options.config_text(port, dir.path())?;
    let mut command = Command::new(&program);
    // A process group of its own: a Ctrl-C in the terminal is for us, and we stop it when its node has said good-bye.
    command.arg("-").current_dir(dir.path()).process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let exec_error = |source| SpawnError::Exec { program: program.clone(), source };
    let mut child = forker::spawn(command).await.map_err(exec_error)?;
    let pid = child.id().unwrap_or_default();
    let log = Log::capture(port, &mut child);
    if let Some(mut stdin) = child.stdin.take() {
        // An error here is that of a program that has ended already, which is reported below with its own words.
        let _ = stdin.write_all(config_text.as_bytes()).await;
    }
    let host = options.connect_host().to_owned();
    let mut process =
        RedisProcess { child, pid, port, host, version: String::new(), stop_timeout: options.stop_timeout, log, _dir: dir };
    let target = NodeTarget { password: options.password.clone(), ..NodeTarget::new(options.connect_host(), port) };
    tokio::select! {
        status = process.child.wait() => {
            let status = status.map_err(|source| SpawnError::Process { port, source })?;
            process.log.finish().await;
            // Asked of the system rather than read from redis's words, which are in its operator's language.
            if is_taken(&options.bind, port) {
                return Err(SpawnError::PortTaken { host: options.bind.clone(), port });
            }
            return Err(SpawnError::Died { port, status, last_lines: process.last_lines() });
        }
        ready = until_ready(&target, pid, options.start_timeout) => match ready {
            Ok(version) => process.version = version,
            Err(reason) => {
                let last_lines = process.last_lines();
                // What failed is that it did not answer; how it ends then is of no interest.
                let _ = process.stop().await;
                return Err(SpawnError::NotReady { port, within: options.start_timeout, reason, last_lines });
            }
        },
    }
    debug!(port, pid, version = process.version, program = %program.display(), "redis started");
    Ok(process)
}

fn make_dir(options: &SpawnOptions, port: u16) -> Result<TempDir, SpawnError> {
    let parent = options.parent_dir.clone().unwrap_or_else(std::env::temp_dir);
    tempfile::Builder::new()
        .prefix(&format!("vrc-redis-{port}-"))
        .tempdir_in(&parent)
        .map_err(|source| SpawnError::Directory { parent, source })
}

/// Asks till the process itself answers: its port may belong to another redis, which would answer for it. Gives its version,
/// or what the last attempt met.
async fn until_ready(target: &NodeTarget, pid: u32, within: Duration) -> Result<String, String> {
    let deadline = Instant::now() + within;
    loop {
        let reason = match Info::read(target, READY_TIMEOUT).await {
            Ok(info) if info.process_id() == Some(pid) && !info.is_loading() => {
                return Ok(info.version().unwrap_or_default().to_owned());
            }
            Ok(info) if info.process_id() == Some(pid) => "it is loading data".to_owned(),
            Ok(_) => "another redis answers there".to_owned(),
            Err(error) => error.to_string(),
        };
        if Instant::now() >= deadline {
            return Err(reason);
        }
        sleep(READY_PAUSE).await;
    }
}

/// What a server writes: forwarded to the log of this program at debug level, the last lines kept.
#[derive(Debug)]
struct Log {
    lines: Arc<Mutex<VecDeque<String>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Log {
    fn capture(port: u16, child: &mut Child) -> Self {
        let lines = Arc::default();
        let mut readers = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            readers.push(tokio::spawn(forward(port, stdout, Arc::clone(&lines))));
        }
        if let Some(stderr) = child.stderr.take() {
            readers.push(tokio::spawn(forward(port, stderr, Arc::clone(&lines))));
        }
        Log { lines, readers }
    }

    /// Waits till everything an ended server wrote has been read; bounded, for a child of its own may hold the pipe open.
    async fn finish(&mut self) {
        for reader in self.readers.drain(..) {
            let _ = timeout(Duration::from_millis(500), reader).await;
        }
    }

    fn last_lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

async fn forward(port: u16, output: impl AsyncRead + Unpin, lines: Arc<Mutex<VecDeque<String>>>) {
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).await.is_ok_and(|length| length > 0) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        line.clear();
        if text.is_empty() {
            continue;
        }
        debug!(target: "redis", port, "{text}");
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LAST_LINES {
            lines.pop_front();
        }
        lines.push_back(text);
    }
}
