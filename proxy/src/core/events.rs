//! The names of keyspace notifications, `__keyspace@<db>__:<key>` and `__keyevent@<db>__:<event>`.
//!
//! A node publishes them itself, for its own keys and under its own numbers of databases: whoever listens has to listen on every
//! node, and what comes from a guest database is about the client's database.

use crate::limits::GUEST_OFFSET;

/// The number of the database in such a channel's name, or in a pattern that spells it out, and where it ends.
fn database(name: &[u8]) -> Option<(usize, u8)> {
    const START: usize = b"__keyspace@".len();
    if !name.starts_with(b"__keyspace@") && !name.starts_with(b"__keyevent@") {
        return None;
    }
    let digits = name[START..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let end = START + digits;
    let is_named = (1..=2).contains(&digits) && name[end..].starts_with(b"__:");
    // No more than two digits.
    is_named.then(|| (end, name[START..end].iter().fold(0, |number, digit| number * 10 + (digit - b'0'))))
}

/// Whether every node may have something to say on this channel.
pub(super) fn is_everywhere(channel: &[u8]) -> bool {
    database(channel).is_some()
}

/// The name of the same notifications of the guest database.
pub(super) fn of_guest(name: &[u8]) -> Option<Vec<u8>> {
    let (end, db) = database(name).filter(|(_, db)| *db < GUEST_OFFSET)?;
    Some(renumbered(name, end, db + GUEST_OFFSET))
}

/// The name of a guest database's notifications as the client knows them.
pub(super) fn of_client(name: &[u8]) -> Option<Vec<u8>> {
    let (end, db) = database(name).filter(|(_, db)| (GUEST_OFFSET..2 * GUEST_OFFSET).contains(db))?;
    Some(renumbered(name, end, db - GUEST_OFFSET))
}

fn renumbered(name: &[u8], end: usize, db: u8) -> Vec<u8> {
    let start = b"__keyspace@".len();
    [&name[..start], db.to_string().as_bytes(), &name[end..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_names_of_notifications_have_a_database() {
        for (name, db) in [
            ("__keyspace@0__:key", Some(0)),
            ("__keyevent@15__:set", Some(15)),
            ("__keyspace@3__:*", Some(3)),
            ("__keyspace@*__:x", None),
            ("__keyspace@__:x", None),
            ("__keyspace@123__:x", None),
            ("__keyspace@1", None),
            ("keyspace@1__:x", None),
            ("", None),
        ] {
            assert_eq!(database(name.as_bytes()).map(|(_, db)| db), db, "{name}");
        }
    }

    #[test]
    fn a_guest_database_stands_for_the_clients() {
        assert_eq!(of_guest(b"__keyspace@2__:k").unwrap(), b"__keyspace@10__:k");
        assert_eq!(of_client(b"__keyspace@10__:k").unwrap(), b"__keyspace@2__:k");
        assert_eq!(of_guest(b"__keyspace@8__:k"), None);
        assert_eq!(of_client(b"__keyspace@7__:k"), None);
        assert_eq!(of_client(b"__keyspace@16__:k"), None);
    }
}
