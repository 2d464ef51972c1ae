//! Writes RESP by hand where the proxy itself is the one that speaks: replies of its own, and the parts of a split request.

use super::Proto;

/// `+text`. The text must not hold a line end.
pub fn simple(out: &mut Vec<u8>, text: &str) {
    debug_assert!(!text.contains(['\r', '\n']));
    out.push(b'+');
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// `-text`, line ends in it made spaces as redis does. `text` starts with the error's code (`ERR …`).
pub fn error(out: &mut Vec<u8>, text: impl AsRef<[u8]>) {
    out.push(b'-');
    out.extend(text.as_ref().iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }));
    out.extend_from_slice(b"\r\n");
}

/// `:number`.
pub fn integer(out: &mut Vec<u8>, number: i64) {
    out.push(b':');
    decimal(out, number);
    out.extend_from_slice(b"\r\n");
}

/// `$len` and the bytes.
pub fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    header(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Text with a format: a verbatim string in RESP3, a bulk string in RESP2.
pub fn verbatim(out: &mut Vec<u8>, proto: Proto, text: &str) {
    match proto {
        Proto::Resp2 => bulk(out, text.as_bytes()),
        Proto::Resp3 => {
            header(out, b'=', text.len() + 4);
            out.extend_from_slice(b"txt:");
            out.extend_from_slice(text.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// The header of an array of `count` values, which follow.
pub fn array(out: &mut Vec<u8>, count: usize) {
    header(out, b'*', count);
}

/// The header of a map of `pairs` keys with values: a flat array in RESP2.
pub fn map(out: &mut Vec<u8>, proto: Proto, pairs: usize) {
    match proto {
        Proto::Resp2 => header(out, b'*', pairs * 2),
        Proto::Resp3 => header(out, b'%', pairs),
    }
}

/// The header of a set: an array in RESP2.
pub fn set(out: &mut Vec<u8>, proto: Proto, count: usize) {
    header(out, if proto == Proto::Resp3 { b'~' } else { b'*' }, count);
}

/// No value.
pub fn null(out: &mut Vec<u8>, proto: Proto) {
    out.extend_from_slice(match proto {
        Proto::Resp2 => b"$-1\r\n",
        Proto::Resp3 => b"_\r\n",
    });
}

/// No array.
pub fn null_array(out: &mut Vec<u8>, proto: Proto) {
    out.extend_from_slice(match proto {
        Proto::Resp2 => b"*-1\r\n",
        Proto::Resp3 => b"_\r\n",
    });
}

/// A whole request from its arguments.
pub fn request<A: AsRef<[u8]>>(out: &mut Vec<u8>, args: &[A]) {
    array(out, args.len());
    for arg in args {
        bulk(out, arg.as_ref());
    }
}

/// A type byte, a length and a line end.
#[inline]
pub fn header(out: &mut Vec<u8>, kind: u8, len: usize) {
    if len < 10 {
        out.extend_from_slice(&[kind, b'0' + len as u8, b'\r', b'\n']);
    } else {
        out.push(kind);
        decimal(out, len as i64);
        out.extend_from_slice(b"\r\n");
    }
}

#[inline]
fn decimal(out: &mut Vec<u8>, number: i64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}
