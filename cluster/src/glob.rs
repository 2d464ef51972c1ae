//! Redis's glob patterns, as KEYS, CONFIG GET and PSUBSCRIBE take them.

/// Whether `text` matches `pattern`: `*`, `?`, `[abc]`, `[^a-z]` and `\` before any character, as in redis's `stringmatchlen`.
/// Takes time in proportion to the product of both lengths at worst.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    matches_by(pattern, text, |a, b| a == b)
}

/// Likewise, with no difference between upper and lower case.
pub fn matches_ignore_case(pattern: &[u8], text: &[u8]) -> bool {
    matches_by(pattern, text, |a, b| a.eq_ignore_ascii_case(&b))
}

fn matches_by(pattern: &[u8], text: &[u8], same: impl Fn(u8, u8) -> bool + Copy) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go back to: behind the last star, and the text that it has not swallowed yet. An earlier star need not be tried
    // again, since the last one can swallow whatever that one could.
    let mut star: Option<(usize, usize)> = None;
    loop {
        if p < pattern.len() && pattern[p] == b'*' {
            p += 1;
            star = Some((p, t));
        } else if t < text.len() && p < pattern.len() && {
            let (matched, next) = step(&pattern[p..], text[t], same);
            if matched {
                p += next;
            }
            matched
        } {
            t += 1;
        } else if t == text.len() && p == pattern.len() {
            return true;
        } else {
            match star {
                Some((after, from)) if from < text.len() => {
                    p = after;
                    t = from + 1;
                    star = Some((after, t));
                }
                _ => return false,
            }
        }
    }
}

/// Whether the first item of `pattern` takes `byte`, and how long that item is.
fn step(pattern: &[u8], byte: u8, same: impl Fn(u8, u8) -> bool) -> (bool, usize) {
    match pattern {
        [b'?', ..] => (true, 1),
        [b'\\', escaped, ..] => (same(*escaped, byte), 2),
        [b'[', class @ ..] => {
            let (negated, mut rest) = match class {
                [b'^', rest @ ..] => (true, rest),
                _ => (false, class),
            };
            let mut found = false;
            loop {
                match rest {
                    // Not closed: redis takes the end of the pattern for the end of the class.
                    [] => break,
                    [b']', ..] => {
                        rest = &rest[1..];
                        break;
                    }
                    [b'\\', escaped, tail @ ..] => {
                        found |= same(*escaped, byte);
                        rest = tail;
                    }
                    [low, b'-', high, tail @ ..] => {
                        let (low, high) = (low.min(high), low.max(high));
                        let folded = if same(b'a', b'A') { byte.to_ascii_lowercase() } else { byte };
                        found |= (low..=high).contains(&&folded) || (low..=high).contains(&&byte);
                        rest = tail;
                    }
                    [one, tail @ ..] => {
                        found |= same(*one, byte);
                        rest = tail;
                    }
                }
            }
            (found != negated, pattern.len() - rest.len())
        }
        [literal, ..] => (same(*literal, byte), 1),
        [] => (false, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, expect) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "anything", true),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h*llo", "heeeello", true),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            (r"h\*llo", "h*llo", true),
            (r"h\*llo", "hello", false),
            (r"[\]]", "]", true),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXbXbX", false),
            ("[a", "a", true),
            ("maxmemory*", "maxmemory-policy", true),
            ("abc", "abcd", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expect, "{pattern} {text}");
        }
        assert!(matches_ignore_case(b"MAX*", b"maxmemory"));
        assert!(!matches(b"MAX*", b"maxmemory"));
    }

    #[test]
    fn many_stars_take_no_time() {
        assert!(!matches(&b"a*".repeat(50), &b"a".repeat(49)));
        assert!(!matches(&[b"*a".repeat(40), b"b".to_vec()].concat(), &b"a".repeat(5000)));
    }
}
