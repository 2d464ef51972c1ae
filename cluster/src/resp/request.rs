//! Frames requests: a `*`-array of bulk strings, or an inline line.

use super::{
    ArgRange, BULK_BYTES_MAX, GUARDED_ARGS_MAX, GUARDED_BULK_BYTES_MAX, LINE_BYTES_MAX, ProtocolError, REQUEST_BYTES_MAX,
    parse_integer,
};

/// Room for more arguments than this is given back after the request that needed it.
const ARGS_KEPT: usize = 4 * 1024;

/// One whole request at the start of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// An array of bulk strings of this many bytes; its arguments are in [`RequestFramer::args`]. Empty (`*0`) is ignored by redis.
    Multibulk(usize),
    /// An inline request: `line` bytes without the end of line, `len` with it. [`super::split_inline`] finds its arguments.
    Inline {
        /// Bytes of the line itself.
        line: usize,
        /// Bytes to consume.
        len: usize,
    },
}

/// Finds the end and the arguments of one request, and remembers how far it came when the request is not whole yet.
#[derive(Debug, Default)]
pub struct RequestFramer {
    args: Vec<ArgRange>,
    /// Offset of the next byte to look at.
    at: usize,
    /// Arguments still to come; `None` before the `*` line was read.
    args_left: Option<u32>,
    /// Where the argument ends that has not come whole.
    wanted: usize,
    is_guarded: bool,
}

impl RequestFramer {
    /// The arguments found by the last [`RequestFramer::advance`] that returned a multibulk frame.
    #[inline]
    pub fn args(&self) -> &[ArgRange] {
        &self.args
    }

    /// Whether requests are refused that are larger than any that logs in, as they are announced: nobody is to have room made for them
    /// who may not say more than that. Stays so when the framer is reset.
    pub fn guard(&mut self, is_guarded: bool) {
        self.is_guarded = is_guarded;
    }

    /// Forgets what was found, ready for the next request.
    #[inline]
    pub fn reset(&mut self) {
        self.args.clear();
        if self.args.capacity() > ARGS_KEPT {
            self.args = Vec::new();
        }
        self.at = 0;
        self.args_left = None;
        self.wanted = 0;
    }

    /// Whether it has not begun with the next request.
    #[inline]
    pub fn is_fresh(&self) -> bool {
        self.at == 0 && self.args_left.is_none()
    }

    /// How many bytes the buffer must hold at least before the request can be whole, as far as is known by now.
    pub fn bytes_wanted(&self) -> usize {
        self.wanted.max(self.at)
    }

    /// How long the request is, once its last argument has begun to come; `None` before.
    pub fn end(&self) -> Option<usize> {
        (self.args_left == Some(1) && self.wanted > self.at).then_some(self.wanted)
    }

    /// Looks for a whole request at the start of `buf`. After `Ok(None)`, call it again with the same bytes and more behind them;
    /// after a frame or an error, [`reset`](Self::reset) comes first.
    ///
    /// # Errors
    /// If the bytes are no request by redis's rules; the reply to the client is the error's text.
    #[inline]
    pub fn advance(&mut self, buf: &[u8]) -> Result<Option<Frame>, ProtocolError> {
        let mut args_left = match (self.args_left, buf) {
            (Some(left), _) => left,
            // Most requests have few arguments. Like redis, this skips the byte behind a carriage return unseen.
            (None, [b'*', digit @ b'1'..=b'9', b'\r', _, ..]) => {
                self.at = 4;
                u32::from(digit - b'0')
            }
            (None, [b'*', ..]) => match self.count(buf)? {
                Some(count) => count,
                None => return Ok(None),
            },
            (None, []) => return Ok(None),
            (None, _) => return self.inline(buf),
        };
        let mut at = self.at;
        while args_left > 0 {
            // Most arguments are short.
            let (start, len) = match buf.get(at..).unwrap_or_default() {
                [b'$', digit @ b'0'..=b'9', b'\r', _, ..] => (at + 4, usize::from(digit - b'0')),
                [b'$', tens @ b'1'..=b'9', ones @ b'0'..=b'9', b'\r', _, ..] => {
                    (at + 5, usize::from(tens - b'0') * 10 + usize::from(ones - b'0'))
                }
                rest => match bulk_length(rest, self.is_guarded)? {
                    Some((line, len)) => (at + line, len),
                    None => break,
                },
            };
            // Like redis, this does not look at the two bytes that end an argument.
            let end = start + len + 2;
            if end > REQUEST_BYTES_MAX {
                return Err(ProtocolError::RequestTooBig);
            }
            if end > buf.len() {
                self.wanted = end;
                break;
            }
            self.args.push(ArgRange { start: start as u32, len: len as u32 });
            at = end;
            args_left -= 1;
        }
        self.at = at;
        self.args_left = Some(args_left);
        Ok((args_left == 0).then_some(Frame::Multibulk(at)))
    }

    /// How many arguments the request has, from its first line, which it goes behind; `None` if that has not come whole.
    fn count(&mut self, buf: &[u8]) -> Result<Option<u32>, ProtocolError> {
        let Some((line, next)) = count_line(buf, 1, ProtocolError::MultibulkCountTooBig)? else { return Ok(None) };
        let count = parse_integer(line).filter(|n| *n <= i64::from(i32::MAX)).ok_or(ProtocolError::MultibulkLength)?;
        if self.is_guarded && count > i64::from(GUARDED_ARGS_MAX) {
            return Err(ProtocolError::UnauthenticatedMultibulkLength);
        }
        self.at = next;
        // Redis takes a count of nought or less for an empty request.
        Ok(Some(u32::try_from(count).unwrap_or(0)))
    }

    fn inline(&mut self, buf: &[u8]) -> Result<Option<Frame>, ProtocolError> {
        match memchr::memchr(b'\n', &buf[self.at..]) {
            Some(found) => {
                let newline = self.at + found;
                let line = if newline > 0 && buf[newline - 1] == b'\r' { newline - 1 } else { newline };
                Ok(Some(Frame::Inline { line, len: newline + 1 }))
            }
            None if buf.len() > LINE_BYTES_MAX => Err(ProtocolError::InlineTooBig),
            None => {
                self.at = buf.len();
                Ok(None)
            }
        }
    }
}

/// How long the line at the start of `rest` is, with its end, and the length of the argument that it announces; `None` if it has not
/// come whole.
fn bulk_length(rest: &[u8], is_guarded: bool) -> Result<Option<(usize, usize)>, ProtocolError> {
    match rest.first() {
        None => return Ok(None),
        Some(b'$') => {}
        Some(&other) => return Err(ProtocolError::ExpectedBulk(other)),
    }
    let Some((line, next)) = count_line(rest, 1, ProtocolError::BulkCountTooBig)? else { return Ok(None) };
    let len = parse_integer(line).and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= BULK_BYTES_MAX);
    let len = len.ok_or(ProtocolError::BulkLength)?;
    if len > GUARDED_BULK_BYTES_MAX && is_guarded {
        return Err(ProtocolError::UnauthenticatedBulkLength);
    }
    Ok(Some((next, len)))
}

/// The line that starts at `start` without its end, and the offset behind its end; `None` if the end has not come yet.
#[inline]
fn count_line(buf: &[u8], start: usize, too_big: ProtocolError) -> Result<Option<(&[u8], usize)>, ProtocolError> {
    let line = &buf[start..];
    // A count has a few digits, so a plain loop beats a vectorised search.
    match line.iter().position(|&byte| byte == b'\r') {
        // Like redis, the byte behind the carriage return is skipped unseen.
        Some(end) if end + 1 < line.len() => Ok(Some((&line[..end], start + end + 2))),
        None if line.len() > LINE_BYTES_MAX => Err(too_big),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn room_for_many_arguments_is_not_kept() {
        let mut framer = RequestFramer::default();
        let request = format!("*100000\r\n{}", "$0\r\n\r\n".repeat(100_000));
        assert_eq!(framer.advance(request.as_bytes()), Ok(Some(Frame::Multibulk(request.len()))));
        framer.reset();
        assert!(framer.args.capacity() <= ARGS_KEPT);
    }

    /// A request's arguments, and how many bytes it took.
    type Framed = (Vec<Vec<u8>>, usize);

    fn frame(bytes: &[u8]) -> Result<Option<Framed>, ProtocolError> {
        let mut framer = RequestFramer::default();
        Ok(match framer.advance(bytes)? {
            Some(Frame::Multibulk(len)) => {
                Some((framer.args().iter().map(|r| bytes[r.start as usize..(r.start + r.len) as usize].to_vec()).collect(), len))
            }
            Some(Frame::Inline { line, len }) => Some((vec![bytes[..line].to_vec()], len)),
            None => None,
        })
    }

    fn check(bytes: &[u8], expect: Result<Option<(&[&str], usize)>, ProtocolError>) {
        let expect =
            expect.map(|frame| frame.map(|(args, len)| (args.iter().map(|a| a.as_bytes().to_vec()).collect::<Vec<_>>(), len)));
        assert_eq!(frame(bytes), expect, "{:?}", String::from_utf8_lossy(bytes));
    }

    #[test]
    fn malformed_requests_get_the_words_of_redis() {
        check(b"*2x\r\n", Err(ProtocolError::MultibulkLength));
        check(b"*3000000000\r\n", Err(ProtocolError::MultibulkLength));
        check(b"*1\r\nGET\r\n", Err(ProtocolError::ExpectedBulk(b'G')));
        check(b"*1\r\n$-1\r\n", Err(ProtocolError::BulkLength));
        check(b"*1\r\n$536870913\r\n", Err(ProtocolError::BulkLength));
        check(b"*1\r\n$blabla\r\n", Err(ProtocolError::BulkLength));
        check(&[b'x'; LINE_BYTES_MAX + 1], Err(ProtocolError::InlineTooBig));
        check(&[b"*".as_slice(), &[b'1'; LINE_BYTES_MAX + 1]].concat(), Err(ProtocolError::MultibulkCountTooBig));
        check(&[b"*1\r\n$".as_slice(), &[b'1'; LINE_BYTES_MAX + 1]].concat(), Err(ProtocolError::BulkCountTooBig));
        assert_eq!(ProtocolError::ExpectedBulk(b'G').to_string(), "Protocol error: expected '$', got 'G'");
    }

    #[test]
    fn a_guarded_framer_takes_no_more_than_a_login() {
        let mut framer = RequestFramer::default();
        framer.guard(true);
        for (bytes, expect) in [
            ("*10\r\n", Ok(None)),
            ("*11\r\n", Err(ProtocolError::UnauthenticatedMultibulkLength)),
            ("*3000000000\r\n", Err(ProtocolError::MultibulkLength)),
            ("*1\r\n$16384\r\n", Ok(None)),
            ("*1\r\n$16385\r\n", Err(ProtocolError::UnauthenticatedBulkLength)),
            ("*1\r\n$536870913\r\n", Err(ProtocolError::BulkLength)),
        ] {
            assert_eq!(framer.advance(bytes.as_bytes()), expect, "{bytes:?}");
            framer.reset();
        }
        framer.guard(false);
        assert_eq!(framer.advance(b"*11\r\n$16385\r\n"), Ok(None));
    }

    #[test]
    fn it_is_known_how_much_of_a_request_must_come() {
        let request = b"*2\r\n$3\r\nGET\r\n$1000\r\n";
        let mut framer = RequestFramer::default();
        assert_eq!((framer.advance(&request[..10]), framer.bytes_wanted()), (Ok(None), 13));
        assert_eq!((framer.advance(request), framer.bytes_wanted()), (Ok(None), request.len() + 1002));
        assert_eq!(framer.end(), Some(request.len() + 1002));
        framer.reset();
        assert_eq!((framer.bytes_wanted(), framer.end()), (0, None));
        assert_eq!((framer.advance(b"*3\r\n$3\r\nSET\r\n$1000\r\n"), framer.end()), (Ok(None), None));
    }

    #[test]
    fn whole_requests() {
        check(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\nrest", Ok(Some((&["GET", "k"], 20))));
        check(b"*0\r\n*", Ok(Some((&[], 4))));
        check(b"*-1\r\n", Ok(Some((&[], 5))));
        check(b"*1\r\n$0\r\n\r\n", Ok(Some((&[""], 10))));
        check(b"PING\r\nx", Ok(Some((&["PING"], 6))));
        check(b"PING\n", Ok(Some((&["PING"], 5))));
        check(b"\r\n", Ok(Some((&[""], 2))));
        check(b"", Ok(None));
    }

    proptest! {
        /// Cut anywhere and handed over in pieces, a request gives the same frame as in one piece, and never one too early.
        #[test]
        fn resumes_at_every_cut(args in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..12), step in 1usize..17) {
            let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
            for arg in &args {
                bytes.extend(format!("${}\r\n", arg.len()).as_bytes());
                bytes.extend(arg);
                bytes.extend(b"\r\n");
            }
            let mut framer = RequestFramer::default();
            let mut upto = 0;
            while upto < bytes.len() {
                prop_assert_eq!(framer.advance(&bytes[..upto]), Ok(None));
                upto = (upto + step).min(bytes.len());
            }
            prop_assert_eq!(framer.advance(&bytes), Ok(Some(Frame::Multibulk(bytes.len()))));
            let found: Vec<_> = framer.args().iter().map(|r| bytes[r.start as usize..(r.start + r.len) as usize].to_vec()).collect();
            prop_assert_eq!(found, args);
        }

        /// Whatever the bytes, the framer neither panics nor claims more than there is.
        #[test]
        fn survives_any_bytes(bytes in prop::collection::vec(prop_oneof![Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), b'0'..=b'9', any::<u8>()], 0..200)) {
            let mut framer = RequestFramer::default();
            match framer.advance(&bytes) {
                Ok(Some(Frame::Multibulk(len))) => prop_assert!(len <= bytes.len()),
                Ok(Some(Frame::Inline { line, len })) => prop_assert!(line < len && len <= bytes.len()),
                Ok(None) | Err(_) => {}
            }
        }
    }
}
