//! Why a redis server could not be started.

use std::{io, path::PathBuf, process::ExitStatus, time::Duration};

/// Why a redis server could not be started. The texts are for the operator.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// There is none to start.
    #[error(
        "no redis-server or valkey-server on PATH; install one (apt install redis-server, dnf install valkey, apk add redis, \
         brew install redis) or say where it is"
    )]
    NoProgram,
    /// The program is there but does not run.
    #[error("cannot run {}: {source}", program.display())]
    Exec {
        /// What was to be run.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its directory could not be made.
    #[error("cannot make a directory for redis in {}: {source}", parent.display())]
    Directory {
        /// Where it was to be made.
        parent: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No free port was found.
    #[error("found no free port on {host}: {source}")]
    NoFreePort {
        /// Where one was looked for.
        host: String,
        /// What the system said last.
        source: io::Error,
    },
    /// Another program listens there.
    #[error("port {port} of {host} is taken by another program")]
    PortTaken {
        /// The address to listen on.
        host: String,
        /// The port.
        port: u16,
    },
    /// An option that cannot be passed on.
    #[error("{0}")]
    Option(String),
    /// It ended before it answered.
    #[error("redis on port {port} ended at its start ({status}); its last words:{}", last_words(.last_lines))]
    Died {
        /// Its port.
        port: u16,
        /// How it ended.
        status: ExitStatus,
        /// What it said last.
        last_lines: Vec<String>,
    },
    /// It runs but does not answer.
    #[error("redis on port {port} did not answer within {within:?} ({reason}); its last words:{}", last_words(.last_lines))]
    NotReady {
        /// Its port.
        port: u16,
        /// How long it was given.
        within: Duration,
        /// What the last attempt met.
        reason: String,
        /// What it said last.
        last_lines: Vec<String>,
    },
    /// The system would not tell about the process.
    #[error("lost sight of the redis on port {port}: {source}")]
    Process {
        /// Its port.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
}

fn last_words(lines: &[String]) -> String {
    if lines.is_empty() {
        return " (none)".to_owned();
    }
    lines.iter().fold(String::new(), |text, line| text + "\n    " + line)
}
