//! Inline requests: a line of words, as somebody types it into telnet.

use super::ProtocolError;

/// Splits an inline request's line into its arguments by redis's quoting rules (`sdssplitargs`): words parted by white space;
/// `"…"` with `\n \r \t \b \a \xHH` and `\` before any other character; `'…'` with `\'`. A closing quote must be followed by white
/// space or the end.
///
/// # Errors
/// [`ProtocolError::UnbalancedQuotes`].
pub fn split_inline(line: &[u8]) -> Result<Vec<Vec<u8>>, ProtocolError> {
    let mut args = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_space_start();
        // A NUL ends a line for redis.
        if matches!(rest, [] | [0, ..]) {
            return Ok(args);
        }
        let mut arg = Vec::new();
        loop {
            match rest {
                [] => break,
                [b'"', tail @ ..] => {
                    rest = double_quoted(tail, &mut arg)?;
                    break;
                }
                [b'\'', tail @ ..] => {
                    rest = single_quoted(tail, &mut arg)?;
                    break;
                }
                [b' ' | b'\n' | b'\r' | b'\t' | 0, ..] => break,
                [byte, tail @ ..] => {
                    arg.push(*byte);
                    rest = tail;
                }
            }
        }
        args.push(arg);
    }
}

fn double_quoted<'a>(mut rest: &'a [u8], arg: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        match rest {
            [b'\\', b'x', high, low, tail @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                arg.push(hex(*high) << 4 | hex(*low));
                rest = tail;
            }
            [b'\\', byte, tail @ ..] => {
                arg.push(match byte {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                rest = tail;
            }
            [b'"', tail @ ..] => return closed(tail),
            [byte, tail @ ..] => {
                arg.push(*byte);
                rest = tail;
            }
            [] => return Err(ProtocolError::UnbalancedQuotes),
        }
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], arg: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        match rest {
            [b'\\', b'\'', tail @ ..] => {
                arg.push(b'\'');
                rest = tail;
            }
            [b'\'', tail @ ..] => return closed(tail),
            [byte, tail @ ..] => {
                arg.push(*byte);
                rest = tail;
            }
            [] => return Err(ProtocolError::UnbalancedQuotes),
        }
    }
}

fn closed(rest: &[u8]) -> Result<&[u8], ProtocolError> {
    match rest.first() {
        Some(byte) if !is_space(*byte) && *byte != 0 => Err(ProtocolError::UnbalancedQuotes),
        _ => Ok(rest),
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'A' + 10,
    }
}

/// C's `isspace`, which counts the vertical tab in.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

trait TrimSpace {
    fn trim_space_start(&self) -> &Self;
}

impl TrimSpace for [u8] {
    fn trim_space_start(&self) -> &[u8] {
        let start = self.iter().position(|byte| !is_space(*byte)).unwrap_or(self.len());
        &self[start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expect: Result<&[&[u8]], ProtocolError>) {
        assert_eq!(split_inline(line.as_bytes()), expect.map(|args| args.iter().map(|a| a.to_vec()).collect()), "{line:?}");
    }

    #[test]
    fn quoting() {
        check("", Ok(&[]));
        check("  \t ", Ok(&[]));
        check("SET  k v", Ok(&[b"SET", b"k", b"v"]));
        check(r#"SET k "a b""#, Ok(&[b"SET", b"k", b"a b"]));
        check(r#"SET k "\x41\n\"\\""#, Ok(&[b"SET", b"k", b"A\n\"\\"]));
        check(r"SET k 'a\'b\n'", Ok(&[b"SET", b"k", br"a'b\n"]));
        check(r#"SET k """#, Ok(&[b"SET", b"k", b""]));
        check(r#"SET k "a"#, Err(ProtocolError::UnbalancedQuotes));
        check(r#"SET k "a"b"#, Err(ProtocolError::UnbalancedQuotes));
        check(r#"SET k a"b c""#, Ok(&[b"SET", b"k", b"ab c"]));
        check("SET k 'a", Err(ProtocolError::UnbalancedQuotes));
        check(r#"SET k "\xzz""#, Ok(&[b"SET", b"k", b"xzz"]));
    }
}
