//! Who failed to log in: what ACL LOG tells, of all workers.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use vrc_cluster::resp::{Proto, encode};

use crate::limits::{ACL_LOG_GROUP_MS, ACL_LOG_MAX};

#[derive(Debug)]
struct Entry {
    count: u64,
    /// The command: auth, or hello.
    object: &'static str,
    user: Box<[u8]>,
    at: Instant,
    client: String,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct AclLog {
    newest_first: Mutex<VecDeque<Entry>>,
}

impl AclLog {
    /// A client, described by its line of CLIENT LIST, could not log in as this user. The same again within a minute counts with the last time.
    pub(crate) fn add(&self, object: &'static str, user: &[u8], client: String) {
        let mut entries = self.lock();
        let now = Instant::now();
        let is_same = |entry: &Entry| {
            entry.object == object
                && *entry.user == *user
                && now.saturating_duration_since(entry.at).as_millis() < u128::from(ACL_LOG_GROUP_MS)
        };
        let count = match entries.iter().position(is_same).and_then(|at| entries.remove(at)) {
            Some(same) => same.count + 1,
            None => 1,
        };
        entries.push_front(Entry { count, object, user: user.into(), at: now, client });
        entries.truncate(ACL_LOG_MAX);
    }

    pub(crate) fn reset(&self) {
        self.lock().clear();
    }

    /// Appends the newest entries as ACL LOG shows them.
    pub(crate) fn write(&self, count_max: usize, proto: Proto, out: &mut Vec<u8>) {
        let entries = self.lock();
        encode::array(out, count_max.min(entries.len()));
        for entry in entries.iter().take(count_max) {
            encode::map(out, proto, 7);
            encode::bulk(out, b"count");
            encode::integer(out, entry.count as i64);
            for (name, value) in [("reason", "auth"), ("context", "toplevel"), ("object", entry.object)] {
                encode::bulk(out, name.as_bytes());
                encode::bulk(out, value.as_bytes());
            }
            encode::bulk(out, b"username");
            encode::bulk(out, &entry.user);
            encode::bulk(out, b"age-seconds");
            let age = format!("{:.3}", entry.at.elapsed().as_secs_f64());
            match proto {
                Proto::Resp2 => encode::bulk(out, age.as_bytes()),
                Proto::Resp3 => out.extend_from_slice(format!(",{age}\r\n").as_bytes()),
            }
            encode::bulk(out, b"client-info");
            encode::bulk(out, entry.client.trim_end().as_bytes());
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.newest_first.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_failure_again_is_counted_and_others_stand_for_themselves() {
        let log = AclLog::default();
        for (object, user) in [("auth", "a"), ("auth", "a"), ("hello", "a"), ("auth", "b")] {
            log.add(object, user.as_bytes(), format!("id={user}\n"));
        }
        let mut out = Vec::new();
        log.write(10, Proto::Resp3, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("*3\r\n%7\r\n$5\r\ncount\r\n:1\r\n$6\r\nreason\r\n$4\r\nauth\r\n"), "{text}");
        assert!(text.ends_with("$11\r\nclient-info\r\n$4\r\nid=a\r\n") && text.contains(":2\r\n"), "{text}");
        (0..2 * ACL_LOG_MAX).for_each(|n| log.add("auth", n.to_string().as_bytes(), String::new()));
        assert_eq!(log.lock().len(), ACL_LOG_MAX);
        log.reset();
        assert!(log.lock().is_empty());
    }
}
