//! Frames replies, RESP2 and RESP3: where one ends, and where an array's elements are.

use super::{ProtocolError, parse_integer};

/// Finds the end of one reply, and remembers how far it came when the reply is not whole yet.
///
/// Nesting needs no stack: it is enough to count the values that are still to come. An array of n adds n to them, a map 2n, and an
/// attribute 2n without being a value itself.
#[derive(Debug, Clone, Copy)]
pub struct ReplyFramer {
    /// Offset of the next byte to look at.
    at: usize,
    /// Values still to come.
    values_left: u64,
}

impl Default for ReplyFramer {
    fn default() -> Self {
        ReplyFramer { at: 0, values_left: 1 }
    }
}

impl ReplyFramer {
    /// How many bytes the buffer must hold at least before the reply can be whole, as far as is known by now.
    pub fn bytes_wanted(&self) -> usize {
        self.at
    }

    /// Whether it has not begun with the next reply.
    #[inline]
    pub fn is_fresh(&self) -> bool {
        self.at == 0
    }

    /// Looks for a whole reply at the start of `buf` and returns its length. After `Ok(None)`, call it again with the same bytes and
    /// more behind them; after a reply it is ready for the next.
    ///
    /// # Errors
    /// If the bytes are no reply.
    #[inline]
    pub fn advance(&mut self, buf: &[u8]) -> Result<Option<usize>, ProtocolError> {
        while self.values_left > 0 {
            let rest = buf.get(self.at..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(None);
            }
            if let Some(end) = short_end(rest) {
                // May lie behind the end of the buffer: the loop's head and the check below wait for it.
                self.at += end;
                self.values_left -= 1;
                continue;
            }
            let kind = buf[self.at];
            let line = &buf[self.at + 1..];
            let Some(end) = line_end(kind, line) else { return Ok(None) };
            let text = &line[..end];
            let next = self.at + 1 + end + 2;
            match kind {
                b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => {
                    self.at = next;
                    self.values_left -= 1;
                }
                b'$' | b'=' | b'!' => {
                    self.values_left -= 1;
                    self.at = match length(text)? {
                        None => next,
                        // Likewise.
                        Some(len) => {
                            next.checked_add(len).and_then(|end| end.checked_add(2)).ok_or(ProtocolError::ReplyLength)?
                        }
                    };
                }
                b'*' | b'~' | b'>' | b'%' | b'|' => {
                    let count = length(text)?.unwrap_or(0) as u64;
                    let count = if matches!(kind, b'%' | b'|') { count.saturating_mul(2) } else { count };
                    if kind != b'|' {
                        self.values_left -= 1;
                    }
                    self.values_left = self.values_left.saturating_add(count);
                    self.at = next;
                }
                other => return Err(ProtocolError::ReplyType(other)),
            }
        }
        if self.at > buf.len() {
            return Ok(None);
        }
        let len = self.at;
        *self = ReplyFramer::default();
        Ok(Some(len))
    }
}

/// The length of the value at the start of `buf`, if that is whole and what most replies are: a string of less than 1,000 bytes, or
/// `+OK`.
#[inline(always)]
pub fn short_value(buf: &[u8]) -> Option<usize> {
    short_end(buf).filter(|end| *end <= buf.len())
}

/// Where a short string or `+OK` at the start of `buf` ends, whether it has come that far or not.
#[inline(always)]
fn short_end(buf: &[u8]) -> Option<usize> {
    let digit = |byte: &u8| usize::from(byte - b'0');
    match buf {
        [b'$', tens @ b'1'..=b'9', ones @ b'0'..=b'9', b'\r', _, ..] => Some(digit(tens) * 10 + digit(ones) + 7),
        [b'+', b'O', b'K', b'\r', _, ..] => Some(5),
        [b'$', hundreds @ b'1'..=b'9', tens @ b'0'..=b'9', ones @ b'0'..=b'9', b'\r', _, ..] => {
            Some(digit(hundreds) * 100 + digit(tens) * 10 + digit(ones) + 8)
        }
        [b'$', ones @ b'0'..=b'9', b'\r', _, ..] => Some(digit(ones) + 6),
        _ => None,
    }
}

/// Offset of the carriage return of a line whose line feed has come too.
#[inline]
fn line_end(kind: u8, line: &[u8]) -> Option<usize> {
    let end = match kind {
        // Text lines may be long; counts are a few digits, where a plain loop is faster.
        b'+' | b'-' => memchr::memchr(b'\r', line)?,
        _ => line.iter().position(|&byte| byte == b'\r')?,
    };
    (end + 1 < line.len()).then_some(end)
}

/// A length or count; `None` for the null of RESP2 (`-1`).
#[inline]
fn length(text: &[u8]) -> Result<Option<usize>, ProtocolError> {
    match text {
        b"-1" => Ok(None),
        text => parse_integer(text).and_then(|n| usize::try_from(n).ok()).map(Some).ok_or(ProtocolError::ReplyLength),
    }
}

/// How many elements an array, set or push has, and their bytes; `None` if `reply` is no such thing.
#[inline]
pub fn array(reply: &[u8]) -> Option<(usize, &[u8])> {
    match reply {
        [b'*' | b'~' | b'>', digit @ b'0'..=b'9', b'\r', _, elements @ ..] => Some((usize::from(digit - b'0'), elements)),
        [b'*' | b'~' | b'>', ..] => {
            let end = reply.iter().position(|&byte| byte == b'\r')?;
            Some((length(&reply[1..end]).ok()??, reply.get(end + 2..)?))
        }
        _ => None,
    }
}

/// The elements of an array, set or push that is whole, as sub-slices of `reply`; `None` if `reply` is no such thing.
pub fn array_elements(reply: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    let (count, mut rest) = array(reply)?;
    Some((0..count).map_while(move |_| {
        let len = ReplyFramer::default().advance(rest).ok()??;
        let (element, tail) = rest.split_at(len);
        rest = tail;
        Some(element)
    }))
}

/// Names and values of a map that is whole, or of the array that RESP2 has in its place; `None` if `reply` is no such thing.
pub fn pairs(reply: &[u8]) -> Option<impl Iterator<Item = (&[u8], &[u8])>> {
    let (count, mut rest) = match reply {
        [b'%', ..] => {
            let end = reply.iter().position(|&byte| byte == b'\r')?;
            (length(&reply[1..end]).ok()??, reply.get(end + 2..)?)
        }
        _ => array(reply).map(|(count, rest)| (count / 2, rest))?,
    };
    let mut next = move || {
        let len = ReplyFramer::default().advance(rest).ok()??;
        let (element, tail) = rest.split_at(len);
        rest = tail;
        Some(element)
    };
    Some((0..count).map_while(move |_| Some((next()?, next()?))))
}

/// The text of a bulk string or verbatim string that is whole; `None` if `reply` is no such thing.
pub fn text_of(reply: &[u8]) -> Option<&[u8]> {
    let start = reply.iter().position(|&byte| byte == b'\n')? + 1;
    let body = reply[start..].strip_suffix(b"\r\n")?;
    match reply[0] {
        b'$' => Some(body),
        b'=' => body.strip_prefix(b"txt:"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use redis_protocol::resp3::{
        decode, encode,
        types::{OwnedFrame, Resp3Frame},
    };

    fn frame(bytes: &[u8]) -> Result<Option<usize>, ProtocolError> {
        ReplyFramer::default().advance(bytes)
    }

    #[test]
    fn short_values_are_those_of_the_framer() {
        for len in (0..=120).chain(995..1_000) {
            let bytes = format!("${len}\r\n{}\r\n", "v".repeat(len));
            for cut in [0, 1, 3, 4, 5, bytes.len() - 1] {
                assert_eq!(short_value(&bytes.as_bytes()[..cut]), None, "{len} cut at {cut}");
            }
            assert_eq!(short_value(bytes.as_bytes()), Some(bytes.len()));
            assert_eq!(frame(format!("{bytes}:1").as_bytes()), Ok(Some(bytes.len())));
        }
        assert_eq!(short_value(b"+OK\r\n-"), Some(5));
        for other in ["$1000\r\n", "$-1\r\n", "$01\r\nv\r\n", "+OKAY\r\n", ":1\r\n", "*0\r\n", ">0\r\n", "-ERR\r\n", "$x\r\n\r\n"]
        {
            assert_eq!(short_value(other.as_bytes()), None, "{other:?}");
        }
    }

    #[test]
    fn every_type() {
        for text in [
            "+OK\r\n",
            "-ERR no\r\n",
            ":-12\r\n",
            "$-1\r\n",
            "*-1\r\n",
            "$0\r\n\r\n",
            "$12\r\nhello\r\nworld\r\n",
            "*0\r\n",
            "*2\r\n$1\r\na\r\n*1\r\n:1\r\n",
            "_\r\n",
            "#t\r\n",
            ",1.5\r\n",
            "(123456789012345678901234567890\r\n",
            "!5\r\nERR x\r\n",
            "=7\r\ntxt:abc\r\n",
            "%1\r\n+a\r\n:1\r\n",
            "~2\r\n:1\r\n:2\r\n",
            ">2\r\n+a\r\n+b\r\n",
            "|1\r\n+ttl\r\n:3600\r\n$1\r\nx\r\n",
        ] {
            for cut in 0..text.len() {
                assert_eq!(frame(&text.as_bytes()[..cut]), Ok(None), "{text:?} cut at {cut}");
            }
            assert_eq!(frame(format!("{text}+next\r\n").as_bytes()), Ok(Some(text.len())), "{text:?}");
        }
    }

    #[test]
    fn nonsense_is_an_error_and_never_a_panic() {
        assert_eq!(frame(b"x\r\n"), Err(ProtocolError::ReplyType(b'x')));
        assert_eq!(frame(b"$x\r\n"), Err(ProtocolError::ReplyLength));
        assert_eq!(frame(b"$-2\r\n"), Err(ProtocolError::ReplyLength));
        assert_eq!(frame(b"*9223372036854775807\r\n*9223372036854775807\r\n"), Ok(None));
        assert_eq!(frame(b"$9223372036854775807\r\n"), Ok(None));
    }

    #[test]
    fn elements_of_arrays() {
        let elements: Vec<_> = array_elements(b"*3\r\n$1\r\na\r\n*2\r\n:1\r\n:2\r\n$-1\r\n").unwrap().collect();
        assert_eq!(elements, [b"$1\r\na\r\n".as_slice(), b"*2\r\n:1\r\n:2\r\n", b"$-1\r\n"]);
        assert!(array_elements(b"+OK\r\n").is_none());
        assert!(array_elements(b"*-1\r\n").is_none());
    }

    fn any_frame() -> impl Strategy<Value = OwnedFrame> {
        let leaf = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..30).prop_map(|data| OwnedFrame::BlobString { data, attributes: None }),
            "[a-z ]{0,20}".prop_map(|text| OwnedFrame::SimpleString { data: text.into_bytes(), attributes: None }),
            "[A-Z]{1,9} [a-z]{0,9}".prop_map(|data| OwnedFrame::SimpleError { data, attributes: None }),
            any::<i64>().prop_map(|data| OwnedFrame::Number { data, attributes: None }),
            any::<bool>().prop_map(|data| OwnedFrame::Boolean { data, attributes: None }),
            Just(OwnedFrame::Null),
        ];
        leaf.prop_recursive(3, 24, 5, |inner| {
            prop::collection::vec(inner, 0..5).prop_map(|data| OwnedFrame::Array { data, attributes: None })
        })
    }

    proptest! {
        /// redis-protocol is the oracle: what it encodes ends where this framer says, at every cut.
        #[test]
        fn agrees_with_redis_protocol(reply in any_frame(), step in 1usize..9) {
            let mut bytes = vec![0; reply.encode_len(false)];
            let len = encode::complete::encode(&mut bytes, &reply, false).unwrap();
            bytes.truncate(len);
            let (_, oracle) = decode::complete::decode(&bytes).unwrap().unwrap();
            let mut framer = ReplyFramer::default();
            let mut upto = 0;
            while upto < len {
                prop_assert_eq!(framer.advance(&bytes[..upto]), Ok(None));
                upto = (upto + step).min(len);
            }
            prop_assert_eq!(framer.advance(&bytes), Ok(Some(oracle)));
        }

        #[test]
        fn survives_any_bytes(bytes in prop::collection::vec(prop_oneof![Just(b'*'), Just(b'%'), Just(b'$'), Just(b'\r'), Just(b'\n'), b'0'..=b'9', any::<u8>()], 0..200)) {
            if let Ok(Some(len)) = frame(&bytes) {
                prop_assert!(len <= bytes.len());
            }
        }
    }
}
