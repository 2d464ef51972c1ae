//! Knows requests that begin as one before them did, without framing them anew.

use super::{Args, REQUEST_BYTES_MAX};

/// Bytes of a beginning: enough for commands with names of up to six letters.
const BYTES_MAX: usize = 16;
/// Requests with more arguments than this are no use to know.
const ARGS_MAX: usize = 8;

/// How a request begins, up to where the length of its first argument behind the name stands: how many arguments it has, and the
/// command's name as it is spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    bytes: u128,
    /// Which of the bytes count.
    mask: u128,
    len: usize,
    /// Arguments behind the name.
    args: usize,
}

impl Opening {
    /// That of a whole request; `None` if it is too long, or there is nothing behind the name.
    pub fn of(args: Args<'_>) -> Option<Self> {
        let behind = args.len().checked_sub(1).filter(|behind| (1..ARGS_MAX).contains(behind))?;
        let raw = args.bytes();
        let len = raw.len() - args.raw(1, args.len()).len();
        let mut bytes = [0; BYTES_MAX];
        bytes.get_mut(..len)?.copy_from_slice(&raw[..len]);
        let mask = u128::MAX >> (8 * (BYTES_MAX - len));
        Some(Opening { bytes: u128::from_le_bytes(bytes), mask, len, args: behind })
    }

    /// The first argument behind the name, and the length, of the request at the start of `buf`, if that begins likewise, is whole, and
    /// has no argument of 100 bytes or more. Of any other request this says nothing.
    #[inline(always)]
    pub fn begins<'a>(&self, buf: &'a [u8]) -> Option<(&'a [u8], usize)> {
        let bytes = u128::from_le_bytes(*buf.first_chunk()?);
        if (bytes ^ self.bytes) & self.mask != 0 {
            return None;
        }
        let (first, len) = short(buf, self.len)?;
        let mut end = first + len + 2;
        for _ in 1..self.args {
            let (start, len) = short(buf, end)?;
            end = start + len + 2;
        }
        (end <= buf.len()).then(|| (&buf[first..first + len], end))
    }
}

/// Where the argument at `at` starts, and its length; `None` if it is not short. As the framer, this does not look at every byte.
#[inline(always)]
fn short(buf: &[u8], at: usize) -> Option<(usize, usize)> {
    match buf.get(at..)? {
        [b'$', tens @ b'1'..=b'9', ones @ b'0'..=b'9', b'\r', _, ..] => {
            Some((at + 5, usize::from(tens - b'0') * 10 + usize::from(ones - b'0')))
        }
        [b'$', digit @ b'0'..=b'9', b'\r', _, ..] => Some((at + 4, usize::from(digit - b'0'))),
        _ => None,
    }
}

const _: () = assert!(BYTES_MAX + ARGS_MAX * 107 < REQUEST_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::{Frame, RequestFramer, encode};
    use proptest::prelude::*;

    fn opening(request: &[u8]) -> Option<Opening> {
        let mut framer = RequestFramer::default();
        let Ok(Some(Frame::Multibulk(len))) = framer.advance(request) else { return None };
        Opening::of(Args::new(&request[..len], framer.args()))
    }

    fn request(args: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode::request(&mut bytes, args);
        bytes
    }

    #[test]
    fn what_is_known_again() {
        let get = opening(&request(&["GET", "a"])).unwrap();
        let asked = request(&["GET", "another key"]);
        assert_eq!(get.begins(&asked), Some((b"another key".as_slice(), asked.len())));
        for other in [vec!["get", "a"], vec!["GET", "a", "b"], vec!["SET", "a"], vec!["GETX", "a"], vec!["GET", &"k".repeat(100)]]
        {
            assert_eq!(get.begins(&[request(&other), vec![b'.'; 16]].concat()), None, "{other:?}");
        }
        for cut in 0..asked.len() {
            assert_eq!(get.begins(&asked[..cut]), None);
        }
        assert!(opening(&request(&["EXPIRE", "k", "1"])).is_some());
        assert!(opening(&request(&["HGETALL", "k"])).is_none(), "too long");
        assert!(opening(&request(&["PING"])).is_none());
        assert!(opening(&request(&["DEL"; ARGS_MAX + 1])).is_none());
    }

    proptest! {
        /// Whatever is said to begin likewise, the framer finds the same in it.
        #[test]
        fn the_framer_agrees(
            known in prop::collection::vec("[a-c]{0,7}", 1..5),
            args in prop::collection::vec(prop_oneof!["[a-c]{0,7}", "[a-c]{95,105}"], 1..5),
            broken in prop::option::of((any::<prop::sample::Index>(), prop::sample::select(b"*$019\r\na".as_slice()))),
            behind in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let known: Vec<_> = known.iter().map(String::as_str).collect();
            let args: Vec<_> = args.iter().map(String::as_str).collect();
            for args in [&args, &known] {
                let mut bytes = [request(args), behind.clone()].concat();
                if let Some((at, byte)) = broken {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
                if let Some(opening) = opening(&request(&known))
                    && let Some((first, len)) = opening.begins(&bytes)
                {
                    let mut framer = RequestFramer::default();
                    prop_assert_eq!(framer.advance(&bytes), Ok(Some(Frame::Multibulk(len))));
                    let found = Args::new(&bytes[..len], framer.args());
                    prop_assert_eq!(&found[1], first);
                    prop_assert_eq!(found.len(), known.len());
                    prop_assert_eq!(&found[0], known[0].as_bytes());
                }
            }
        }
    }
}
