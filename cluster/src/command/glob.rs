//! Glob patterns as redis matches them (`KEYS`, `CONFIG GET`, `COMMAND LIST`), quirks included.

/// Whether `text` as a whole matches `pattern`: `*` any bytes, `?` any one, `[a-z]` and `[^a-z]` one of a class, `\` takes the next byte
/// as it is. As in redis an empty text matches nothing but an empty pattern, not even `*`.
///
/// Takes time in proportion to the product of both lengths at worst.
pub fn matches(pattern: &[u8], text: &[u8], ignore_case: bool) -> bool {
    if text.is_empty() {
        return pattern.is_empty();
    }
    let mut rest = pattern;
    let mut at = 0;
    // What follows the last star, and where in the text that was tried last: only the last star ever has to take more.
    let mut star = None;
    while at < text.len() {
        if let [b'*', after @ ..] = rest {
            if after.is_empty() {
                return true;
            }
            star = Some((after, at));
            rest = after;
        } else if let Some(after) = one(rest, text[at], ignore_case) {
            rest = after;
            at += 1;
        } else if let Some((after, tried)) = star {
            rest = after;
            at = tried + 1;
            star = Some((after, at));
        } else {
            return false;
        }
    }
    rest.iter().all(|byte| *byte == b'*')
}

/// What is left of the pattern once its first part, which is no star, has matched `byte`.
fn one(pattern: &[u8], byte: u8, ignore_case: bool) -> Option<&[u8]> {
    let same = |a: u8, b: u8| a == b || ignore_case && a.eq_ignore_ascii_case(&b);
    match pattern {
        [] => None,
        [b'?', rest @ ..] => Some(rest),
        [b'[', rest @ ..] => {
            let (matched, rest) = class(rest, byte, ignore_case);
            matched.then_some(rest)
        }
        [b'\\', literal, rest @ ..] | [literal, rest @ ..] => same(*literal, byte).then_some(rest),
    }
}

/// Whether a class, its bracket already taken, has `byte`, and what follows it. One that is not closed ends with the pattern.
fn class(pattern: &[u8], byte: u8, ignore_case: bool) -> (bool, &[u8]) {
    let (negated, mut rest) = match pattern {
        [b'^', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let fold = |byte: u8| if ignore_case { byte.to_ascii_lowercase() } else { byte };
    // Bytes are compared as C's signed characters.
    let signed = |byte: u8| fold(byte).cast_signed();
    let mut found = false;
    loop {
        match rest {
            // An escaped member has to be exactly the byte, whatever the case.
            [b'\\', member, after @ ..] => {
                found |= *member == byte;
                rest = after;
            }
            [b']', after @ ..] => return (found != negated, after),
            [] => return (found != negated, rest),
            [from, b'-', to, after @ ..] => {
                let (from, to) = if from.cast_signed() > to.cast_signed() { (to, from) } else { (from, to) };
                found |= (signed(*from)..=signed(*to)).contains(&signed(byte));
                rest = after;
            }
            [member, after @ ..] => {
                found |= fold(*member) == fold(byte);
                rest = after;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn matches_what_redis_matches() {
        let check = |pattern: &str, text: &str, expect: bool| {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes(), false), expect, "{pattern:?} {text:?}");
        };
        check("", "", true);
        check("*", "", false);
        check("", "a", false);
        check("*", "anything", true);
        check("a*", "a", true);
        check("a**", "a", true);
        check("a*b*c", "aXbYbZc", true);
        check("a*b*c", "aXbYbZ", false);
        check("*a", "aaab", false);
        check("h?llo", "hello", true);
        check("h?llo", "hllo", false);
        check("h[ae]llo", "hallo", true);
        check("h[^e]llo", "hello", false);
        check("h[a-c]llo", "hbllo", true);
        check("h[c-a]llo", "hbllo", true);
        check("h[\\]]", "h]", true);
        check("h\\*", "h*", true);
        check("h\\*", "hx", false);
        check("h\\", "h\\", true);
        check("[", "a", false);
        check("[^", "a", true);
        check("[abc", "b", true);
        check("[]a", "]", false);
        check("HELLO", "hello", false);
        assert!(matches(b"HE[K-M]*", b"hello", true));
        assert!(!matches(b"[\\H]", b"h", true), "an escaped member keeps its case");
    }

    #[test]
    fn many_stars_do_not_explode() {
        let pattern = "a*".repeat(100) + "b";
        assert!(!matches(pattern.as_bytes(), &[b'a'; 10_000], false));
    }
}
