//! What is shown to people. A reader that has gone away (`vrc status | head -1`) is no reason to fail.

use std::{
    fmt::{self, Display},
    io::{self, IsTerminal, Write},
    sync::OnceLock,
    time::Duration,
};

use serde::Serialize;

use crate::queue::Queue;

/// What is on its way to standard output, where that is not waited for.
static QUEUE: OnceLock<Queue> = OnceLock::new();

/// From now on nobody waits for who reads the lines; the end of the program does, for a moment.
///
/// # Errors
/// If there is no thread to be had.
pub(crate) fn queue_lines() -> io::Result<()> {
    let _ = QUEUE.set(Queue::start(io::stdout())?);
    Ok(())
}

/// Writes a line to standard output.
pub(crate) fn line(text: impl Display) {
    if let Some(queue) = QUEUE.get() {
        return queue.put(format!("{text}\n").into_bytes());
    }
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
}

/// Writes a value as JSON to standard output.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(serde_json::to_string_pretty(value)?);
    Ok(())
}

/// An error with its causes, leaving out a cause that the text before it has told already, as some errors do.
pub(crate) fn words(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.ends_with(&cause) {
            text = text + ": " + &cause;
        }
    }
    text
}

/// Colours, on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    Green,
    Red,
}

impl Colour {
    /// `text` in this colour where standard output is a terminal whose user has nothing against it.
    pub(crate) fn paint(self, text: &str) -> String {
        if !io::stdout().is_terminal() || !wants_colour() {
            return text.to_owned();
        }
        let code = match self {
            Colour::Green => 32,
            Colour::Red => 31,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Whether the user has nothing against colours: see <https://no-color.org>.
pub(crate) fn wants_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Which way a column's cells are pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Rows under headings, in columns as wide as their widest cell. A column with no text in any row is left out.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(columns: impl Into<Vec<(&'static str, Align)>>) -> Self {
        Table { columns: columns.into(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: impl Into<Vec<String>>) {
        let cells = cells.into();
        assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells);
    }

    fn width(&self, column: usize) -> usize {
        let widest = self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        if widest == 0 { 0 } else { widest.max(self.columns[column].0.chars().count()) }
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headings = self.columns.iter().map(|(heading, _)| (*heading).to_owned()).collect();
        for (index, row) in std::iter::once(&headings).chain(&self.rows).enumerate() {
            let mut text = String::new();
            for (column, cell) in row.iter().enumerate() {
                let width = self.width(column);
                if width == 0 {
                    continue;
                }
                match self.columns[column].1 {
                    Align::Left => text += &format!("{cell:<width$}  "),
                    Align::Right => text += &format!("{cell:>width$}  "),
                }
            }
            write!(f, "{}{}", if index == 0 { "" } else { "\n" }, text.trim_end())?;
        }
        Ok(())
    }
}

/// A length of time in its two greatest units at most: `3d4h`, `12m`, `8s`.
pub(crate) fn age(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// An amount of memory with three digits or so: `980 B`, `1.3 MB`, `12 GB`.
pub(crate) fn bytes(amount: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (amount as f64, 0);
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = usize::from(unit > 0 && value < 10.0);
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// A part of one: `25.1 %`.
pub(crate) fn percent(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_drops_empty_columns() {
        let mut table = Table::new([("NODE", Align::Left), ("NOTE", Align::Left), ("KEYS", Align::Right)]);
        table.row(["a".into(), String::new(), "1".into()]);
        table.row(["longer".into(), String::new(), "12345".into()]);
        assert_eq!(table.to_string(), "NODE     KEYS\na           1\nlonger  12345");
    }

    #[test]
    fn a_cause_is_told_once() {
        let cause = || anyhow::anyhow!("connection refused");
        assert_eq!(words(&cause().context("no map")), "no map: connection refused");
        assert_eq!(words(&cause().context("redis: connection refused").context("no map")), "no map: redis: connection refused");
    }

    #[test]
    fn amounts() {
        let ages = [(0, "0s"), (59, "59s"), (61, "1m"), (3_700, "1h1m"), (90_000, "1d1h")];
        for (seconds, text) in ages {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
        let amounts =
            [(0, "0 B"), (999, "999 B"), (1_000, "1.0 KB"), (1_300_000, "1.2 MB"), (50 << 20, "50 MB"), (3 << 40, "3.0 TB")];
        for (amount, text) in amounts {
            assert_eq!(bytes(amount), text);
        }
    }
}
