//! When to stop: SIGINT, SIGTERM and SIGHUP ask for it politely; a second one is not argued with.

use std::{
    io,
    path::PathBuf,
    process,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::queue::{FLUSH_TIMEOUT_IN_HASTE, flush_all};

/// As shells report a program that a SIGINT has ended.
const EXIT_INTERRUPTED: i32 = 130;

/// Tells when the program is to stop.
#[derive(Debug)]
pub(crate) struct Shutdown {
    token: CancellationToken,
    leavings: Arc<Mutex<Option<PathBuf>>>,
}

impl Shutdown {
    /// Watches for signals from now on. Needs a tokio runtime.
    pub(crate) fn on_signals() -> io::Result<Self> {
        let shutdown = Shutdown { token: CancellationToken::new(), leavings: Arc::default() };
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let mut hangup = if is_hangup_ignored() { None } else { Some(signal(SignalKind::hangup())?) };
        let (token, leavings) = (shutdown.token.clone(), Arc::clone(&shutdown.leavings));
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    Some(_) = async { hangup.as_mut()?.recv().await } => {}
                }
                if token.is_cancelled() {
                    if let Some(dir) = leavings.lock().unwrap_or_else(PoisonError::into_inner).take() {
                        // Whoever presses Ctrl-C twice wants out, so what cannot be removed stays.
                        let _ = std::fs::remove_dir_all(dir);
                    }
                    flush_all(FLUSH_TIMEOUT_IN_HASTE);
                    process::exit(EXIT_INTERRUPTED);
                }
                token.cancel();
            }
        });
        Ok(shutdown)
    }

    /// Cancelled when the program is to stop.
    pub(crate) fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// A directory to be removed even by an exit at once.
    pub(crate) fn remove_at_exit(&self, dir: PathBuf) {
        *self.leavings.lock().unwrap_or_else(PoisonError::into_inner) = Some(dir);
    }
}

/// Whether the program was started to outlive its terminal (`nohup`).
fn is_hangup_ignored() -> bool {
    const SIGHUP_BIT: u64 = 1;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & SIGHUP_BIT != 0)
}
