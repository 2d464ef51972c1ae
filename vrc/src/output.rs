//! What is shown to people. A reader that has gone away (`vrc status | head -1`) is no reason to fail.

use std::{
    fmt::Display,
    io::{self, Write},
};

/// Writes a line to standard output.
#[allow(dead_code)]
pub(crate) fn line(text: impl Display) {
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
}

/// Writes what the program ended with to standard error.
pub(crate) fn error(error: &anyhow::Error) {
    let _ = writeln!(io::stderr(), "vrc: {error:#}");
}
