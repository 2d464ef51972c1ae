//! The log: one line an event, on standard error.
//!
//! No part may come to harm because nobody takes its log: that it cannot be written is no error, and whatever runs for long has a
//! thread for it ([`Queue`]), so that it never waits for who reads.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, IsTerminal, Write},
    panic::{self, PanicHookInfo},
    str::FromStr,
    sync::OnceLock,
    thread,
};

use tracing_subscriber::{EnvFilter, filter::ParseError, fmt::MakeWriter};

use crate::{
    output::{self, wants_colour},
    queue::{FLUSH_TIMEOUT, Queue, flush_all},
};

/// What is logged; checked when the arguments are read.
#[derive(Debug, Clone)]
pub(crate) struct Filter(String);

impl FromStr for Filter {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        EnvFilter::try_new(text).map(|_| Filter(text.to_owned()))
    }
}

/// Each subcommand begins its log itself, and says how much it logs unless told otherwise.
#[derive(Debug)]
pub(crate) struct Log {
    asked: Option<Filter>,
    /// What is on its way, for what runs for long.
    queue: OnceLock<Queue>,
}

impl Log {
    pub(crate) fn new(asked: Option<Filter>) -> Self {
        Log { asked, queue: OnceLock::new() }
    }

    /// Begins to log, for what only asks or says something.
    pub(crate) fn begin(&self, unless_asked: &str) {
        self.begin_to(io::stderr, unless_asked);
    }

    /// Begins to log, for what serves others as long as it runs.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub(crate) fn begin_queued(&self, unless_asked: &str) -> io::Result<()> {
        let queue = Queue::start(io::stderr())?;
        let _ = self.queue.set(queue.clone());
        let words = queue.clone();
        // The usual one would wait for who reads, and a thread that waits there is neither alive nor known to be dead.
        panic::set_hook(Box::new(move |info| words.put(words_of_panic(info))));
        self.begin_to(move || queue.clone(), unless_asked);
        Ok(())
    }

    fn begin_to(&self, out: impl for<'a> MakeWriter<'a> + Send + Sync + 'static, unless_asked: &str) {
        let filter = self.asked.as_ref().map_or(unless_asked, |Filter(text)| text);
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(filter))
            .with_ansi(io::stderr().is_terminal() && wants_colour())
            // It would say on standard error that standard error cannot be written to, and panic when it cannot.
            .log_internal_errors(false)
            .with_writer(out)
            .finish();
        // Fails only if a log has begun already.
        let _ = tracing::subscriber::set_global_default(subscriber);
    }

    /// Says what the program failed with.
    pub(crate) fn failed(&self, error: &anyhow::Error) {
        let text = format!("vrc: {}\n", output::words(error)).into_bytes();
        match self.queue.get() {
            Some(queue) => queue.put(text),
            // If nobody reads it, there is nobody to be told that either.
            None => drop(io::stderr().write_all(&text)),
        }
    }
}

impl Drop for Log {
    /// The last lines matter most.
    fn drop(&mut self) {
        flush_all(FLUSH_TIMEOUT);
    }
}

fn words_of_panic(info: &PanicHookInfo<'_>) -> Vec<u8> {
    let thread = thread::current();
    let mut text = format!("vrc: thread '{}' {info}\n", thread.name().unwrap_or("without a name"));
    // Only where RUST_BACKTRACE asks for it, as with the usual hook.
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        text += &format!("{backtrace}\n");
    }
    text.into_bytes()
}
