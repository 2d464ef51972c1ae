//! The slow log: the commands that took long, of all workers, newest first.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use vrc_cluster::resp::encode;

use crate::limits::{SLOW_ARG_BYTES_MAX, SLOW_ARGS_MAX};

/// One command, as it gets into the log.
#[derive(Debug)]
pub(crate) struct Slow {
    pub(crate) duration_us: u64,
    /// An array of bulk strings, as [`write_short`] makes it.
    pub(crate) args: Vec<u8>,
    /// The client's address and name.
    pub(crate) peer: String,
    pub(crate) name: Box<str>,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    time_s: u64,
    slow: Slow,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct SlowLog {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    newest_first: VecDeque<Entry>,
    next_id: u64,
}

impl SlowLog {
    /// Adds a command; of all, the newest `max` are kept.
    pub(crate) fn add(&self, slow: Slow, max: usize) {
        let mut kept = self.lock();
        let entry = Entry { id: kept.next_id, time_s: unix_s(), slow };
        kept.next_id += 1;
        kept.newest_first.push_front(entry);
        kept.newest_first.truncate(max);
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().newest_first.len()
    }

    /// Forgets all but goes on counting.
    pub(crate) fn reset(&self) {
        self.lock().newest_first = VecDeque::new();
    }

    /// Appends the newest entries as SLOWLOG GET shows them.
    pub(crate) fn write(&self, count_max: usize, out: &mut Vec<u8>) {
        let kept = self.lock();
        encode::array(out, count_max.min(kept.newest_first.len()));
        for Entry { id, time_s, slow } in kept.newest_first.iter().take(count_max) {
            encode::array(out, 6);
            encode::integer(out, *id as i64);
            encode::integer(out, *time_s as i64);
            encode::integer(out, slow.duration_us as i64);
            out.extend_from_slice(&slow.args);
            encode::bulk(out, slow.peer.as_bytes());
            encode::bulk(out, slow.name.as_bytes());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Appends arguments as redis keeps them, as an array of bulk strings: not too many, and none too long.
pub(crate) fn write_short<'a>(args: impl ExactSizeIterator<Item = &'a [u8]>, out: &mut Vec<u8>) {
    let count = args.len();
    let shown = if count > SLOW_ARGS_MAX { SLOW_ARGS_MAX - 1 } else { count };
    encode::array(out, shown + usize::from(count > shown));
    args.take(shown).for_each(|arg| write_short_arg(arg, out));
    if count > shown {
        encode::bulk(out, left_out(count - shown, "arguments").as_bytes());
    }
}

fn write_short_arg(arg: &[u8], out: &mut Vec<u8>) {
    match arg.split_at_checked(SLOW_ARG_BYTES_MAX) {
        Some((start, rest)) if !rest.is_empty() => {
            let note = left_out(rest.len(), "bytes");
            encode::header(out, b'$', start.len() + note.len());
            out.extend_from_slice(start);
            out.extend_from_slice(note.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        _ => encode::bulk(out, arg),
    }
}

/// What stands in place of what is not shown.
pub(crate) fn left_out(count: usize, what: &str) -> String {
    format!("... ({count} more {what})")
}

/// Seconds since 1970.
pub(crate) fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &[&str], shown: &[&str]) {
        let (mut short, mut expect) = (Vec::new(), Vec::new());
        write_short(args.iter().map(|arg| arg.as_bytes()), &mut short);
        encode::request(&mut expect, shown);
        assert_eq!(String::from_utf8(short).unwrap(), String::from_utf8(expect).unwrap());
    }

    #[test]
    fn arguments_are_shortened_as_redis_does() {
        check(&["a"; 32], &["a"; 32]);
        check(&["a"; 33], &[["a"; 31].as_slice(), &["... (2 more arguments)"]].concat());
        let (fits, long) = ("A".repeat(128), "A".repeat(129));
        check(&[&fits, &long], &[&fits, &format!("{fits}... (1 more bytes)")]);
        check(&["", "GET"], &["", "GET"]);
    }

    #[test]
    fn the_oldest_go_first_and_ids_go_on() {
        let log = SlowLog::default();
        let add = |name: &str, max| {
            let mut args = Vec::new();
            encode::request(&mut args, &[name]);
            log.add(Slow { duration_us: 7, args, peer: "p:1".into(), name: "n".into() }, max);
        };
        for name in ["a", "b", "c"] {
            add(name, 2);
        }
        let text = |count| {
            let mut out = Vec::new();
            log.write(count, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert!(text(9).starts_with("*2\r\n*6\r\n:2\r\n:"), "{}", text(9));
        assert!(text(9).contains("\r\n:7\r\n*1\r\n$1\r\nc\r\n$3\r\np:1\r\n$1\r\nn\r\n*6\r\n:1\r\n"), "{}", text(9));
        assert_eq!((text(0).as_str(), &text(1)[..4], log.len()), ("*0\r\n", "*1\r\n", 2));
        log.reset();
        assert_eq!(log.len(), 0);
        add("d", 0);
        assert_eq!(log.len(), 0);
        add("e", 1);
        assert!(text(1).contains(":4\r\n"), "{}", text(1));
    }
}
