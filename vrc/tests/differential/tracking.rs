//! What a client that tracks keys is told of them.

use std::collections::BTreeSet;

const PUSH: &[u8] = b">2\r\n$10\r\ninvalidate\r\n";

/// Takes the invalidations out of what a client has got, and says which keys they name; `*` stands for all.
pub(crate) fn take_invalidated(got: &mut Vec<u8>) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    while let Some(at) = got.windows(PUSH.len()).position(|window| window == PUSH) {
        let text = String::from_utf8_lossy(&got[at + PUSH.len()..]).into_owned();
        let mut lines = text.split_inclusive("\r\n");
        let head = lines.next().unwrap_or_default();
        let mut len = PUSH.len() + head.len();
        match head.trim_end().strip_prefix('*') {
            Some(count) => {
                for line in lines.by_ref().take(2 * count.parse::<usize>().unwrap()) {
                    len += line.len();
                    if !line.starts_with('$') {
                        keys.insert(line.trim_end().to_owned());
                    }
                }
            }
            None => drop(keys.insert("*".to_owned())),
        }
        got.drain(at..at + len);
    }
    keys
}

#[test]
fn invalidations_are_taken_out_wherever_they_stand() {
    let mut got =
        b"+a\r\n>2\r\n$10\r\ninvalidate\r\n*2\r\n$1\r\nk\r\n$2\r\nkk\r\n:1\r\n>2\r\n$10\r\ninvalidate\r\n_\r\n+b\r\n".to_vec();
    assert_eq!(take_invalidated(&mut got).into_iter().collect::<Vec<_>>(), ["*", "k", "kk"]);
    assert_eq!(got, b"+a\r\n:1\r\n+b\r\n");
}
