//! What clients did and saw. All times in microseconds since the run began.

use std::time::Instant;

/// The run's time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Clock(Instant::now())
    }

    pub(crate) fn now_us(self) -> u64 {
        self.0.elapsed().as_micros() as u64
    }
}

/// Number of a key; its name is [`key_name`].
pub(crate) type Key = u16;

/// Counts what the one writer of a key did to it, from 1.
pub(crate) type Seq = u32;

pub(crate) fn key_name(key: Key) -> String {
    format!("key:{key}")
}

/// A command, as far as it concerns one key.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Op {
    pub(crate) key: Key,
    pub(crate) proxy: u8,
    pub(crate) what: What,
    pub(crate) start_us: u64,
    pub(crate) end_us: u64,
    pub(crate) outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Read,
    Set(Seq),
    Delete(Seq),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    /// A write was acknowledged.
    Done,
    /// A read gave this write's value.
    Value(Seq),
    /// A read gave nothing.
    Null,
    /// An error, of the kind with this number. What became of a write is not known.
    Failed(u16),
    /// A reply that no server should give to this, in words.
    Wrong(String),
}

impl Op {
    pub(crate) fn failed(&self) -> bool {
        matches!(self.outcome, Outcome::Failed(_))
    }
}

/// FLUSHALL through a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flush {
    pub(crate) start_us: u64,
    pub(crate) end_us: u64,
    pub(crate) acknowledged: bool,
}

/// A key's value after its write number `seq`: says whose it is, and is of a length that follows from that.
pub(crate) fn value(key: Key, seq: Seq) -> String {
    let padding = match seq % 64 {
        0 => 20_000,
        rest => rest * 3,
    };
    format!("{key}:{seq}:{}", "x".repeat(padding as usize))
}

/// Which write of `key` made this value; in words what is wrong with it otherwise.
pub(crate) fn read_value(key: Key, text: &[u8]) -> Result<Seq, String> {
    let shown = || String::from_utf8_lossy(&text[..text.len().min(40)]).into_owned();
    let seq = std::str::from_utf8(text).ok().and_then(|text| {
        let mut parts = text.splitn(3, ':');
        (parts.next()?.parse() == Ok(key)).then_some(())?;
        parts.next()?.parse().ok()
    });
    match seq {
        Some(seq) if value(key, seq).as_bytes() == text => Ok(seq),
        _ => Err(format!("{} has the value {:?} of {} bytes", key_name(key), shown(), text.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_known_for_what_it_is() {
        for seq in [1, 2, 63, 64, 1_000] {
            assert_eq!(read_value(7, value(7, seq).as_bytes()), Ok(seq));
            assert!(read_value(8, value(7, seq).as_bytes()).is_err());
            assert!(read_value(7, &value(7, seq).as_bytes()[1..]).is_err());
        }
        let cut = value(7, 5);
        assert!(read_value(7, &cut.as_bytes()[..cut.len() - 1]).is_err());
        assert!(read_value(7, b"").is_err() && read_value(7, b"\xff").is_err());
    }
}
