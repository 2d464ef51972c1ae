//! Keeps a redis server running.

use std::process::ExitStatus;

use tokio::time::{Duration, Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{RedisProcess, SpawnError, SpawnOptions};
use vrc_cluster::client::Backoff;

/// What happened to a supervised server.
#[derive(Debug)]
pub enum SpawnEvent {
    /// It runs and answers.
    Started {
        /// Its port, the same after each restart.
        port: u16,
        /// Its process id.
        pid: u32,
    },
    /// It ended by itself.
    Died {
        /// Its port.
        port: u16,
        /// Its process id.
        pid: u32,
        /// How it ended.
        status: ExitStatus,
        /// When it will be started again.
        restart_in: Duration,
    },
    /// It could not be started again.
    RestartFailed {
        /// Its port.
        port: u16,
        /// Why not.
        error: SpawnError,
        /// When it will be tried again.
        retry_in: Duration,
    },
    /// It was stopped, as asked.
    Stopped {
        /// Its port.
        port: u16,
    },
}

/// A server that has been started and is to be [kept](Self::keep). Dropping it kills the server.
#[derive(Debug)]
pub struct Supervised {
    process: RedisProcess,
    options: SpawnOptions,
}

impl Supervised {
    /// Starts the server; its port is known from here on.
    ///
    /// # Errors
    /// If it does not start: a first start that fails is a matter of configuration, so it is not tried again.
    pub async fn start(mut options: SpawnOptions) -> Result<Self, SpawnError> {
        let process = RedisProcess::start(&options).await?;
        options.port = Some(process.port());
        Ok(Supervised { process, options })
    }

    /// The server's port.
    pub fn port(&self) -> u16 {
        self.process.port()
    }

    /// The process id of its current run.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The server.
    pub fn process(&self) -> &RedisProcess {
        &self.process
    }

    /// Restarts the server whenever it dies, until `shutdown`; then stops it and returns. `on_event` first hears of the start.
    pub async fn keep(self, shutdown: CancellationToken, mut on_event: impl FnMut(SpawnEvent)) {
        let Supervised { mut process, options } = self;
        let port = process.port();
        let policy = &options.restart;
        let mut backoff = Backoff::new(policy.first_pause, policy.longest_pause);
        loop {
            let (pid, started) = (process.pid(), Instant::now());
            info!(port, pid, version = process.version(), "redis is running");
            on_event(SpawnEvent::Started { port, pid });
            let status = tokio::select! {
                () = shutdown.cancelled() => break,
                status = process.exited() => status,
            };
            if started.elapsed() >= policy.stable_after {
                backoff.reset();
            }
            let mut pause = backoff.pause_alone();
            match status {
                Ok(status) => {
                    warn!(port, pid, %status, restart_in = ?pause, "redis died\n    {}", process.last_lines().join("\n    "));
                    on_event(SpawnEvent::Died { port, pid, status, restart_in: pause });
                }
                // It cannot be waited for, so it may still run: killed as it is dropped, below.
                Err(error) => error!(port, pid, %error, "lost sight of redis"),
            }
            drop(process);
            process = loop {
                tokio::select! {
                    () = shutdown.cancelled() => {
                        on_event(SpawnEvent::Stopped { port });
                        return;
                    }
                    () = sleep(pause) => {}
                }
                // A start that is given up kills what it had started.
                let started = tokio::select! {
                    () = shutdown.cancelled() => {
                        on_event(SpawnEvent::Stopped { port });
                        return;
                    }
                    started = RedisProcess::start(&options) => started,
                };
                match started {
                    Ok(process) => break process,
                    Err(error) => {
                        pause = backoff.pause_alone();
                        warn!(port, %error, retry_in = ?pause, "redis could not be restarted");
                        on_event(SpawnEvent::RestartFailed { port, error, retry_in: pause });
                    }
                }
            };
        }
        if let Err(error) = process.stop().await {
            warn!(port, %error, "could not see redis end");
        }
        on_event(SpawnEvent::Stopped { port });
    }
}

/// Starts a server and keeps it running until `shutdown`.
///
/// # Errors
/// If its first start fails.
pub async fn supervise(
    options: SpawnOptions,
    shutdown: CancellationToken,
    on_event: impl FnMut(SpawnEvent),
) -> Result<(), SpawnError> {
    let supervised = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        started = Supervised::start(options) => started?,
    };
    supervised.keep(shutdown, on_event).await;
    Ok(())
}
