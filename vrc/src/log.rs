//! The log: one line an event, on standard error.

use std::{
    io::{self, IsTerminal},
    str::FromStr,
};

use crate::output::wants_colour;
use tracing_subscriber::{EnvFilter, filter::ParseError};

/// What is logged; checked when the arguments are read.
#[derive(Debug, Clone)]
pub(crate) struct Filter(String);

impl FromStr for Filter {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        EnvFilter::try_new(text).map(|_| Filter(text.to_owned()))
    }
}

/// The log before it is begun: each subcommand says how much it logs unless told otherwise.
#[derive(Debug)]
pub(crate) struct Log {
    asked: Option<Filter>,
}

impl Log {
    pub(crate) fn new(asked: Option<Filter>) -> Self {
        Log { asked }
    }

    /// Begins to log.
    pub(crate) fn begin(&self, unless_asked: &str) {
        let filter = self.asked.as_ref().map_or(unless_asked, |Filter(text)| text);
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(filter))
            .with_ansi(io::stderr().is_terminal() && wants_colour())
            .with_writer(io::stderr)
            .finish();
        // Fails only if a log has begun already.
        let _ = tracing::subscriber::set_global_default(subscriber);
    }
}
