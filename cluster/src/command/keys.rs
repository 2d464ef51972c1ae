//! Finds the keys among a request's arguments.
//!
//! Routing asks which keys a request will really touch. That is mostly what `COMMAND GETKEYS` reports, but where redis's key specs are
//! known to be wrong (a stream consumer called `streams`) or silent (SORT's patterns) this goes by how the command itself reads its
//! arguments: a key overlooked here would be read from the wrong node.

use crate::resp::{Args, parse_integer};

use super::{BeginSearch, Command, FindKeys, Flags, KeySpec, Rule};

/// Why a request's keys cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The number of keys is no integer.
    #[error("ERR value is not an integer or out of range")]
    NotAnInteger,
    /// The number of keys is negative.
    #[error("ERR Number of keys can't be negative")]
    Negative,
    /// The number of keys is zero, where there must be some.
    #[error("ERR numkeys should be greater than 0")]
    Zero,
    /// There are fewer arguments than keys.
    #[error("ERR Number of keys can't be greater than number of args")]
    TooMany,
    /// Some other flaw, such as a key of MSET without a value.
    #[error("ERR syntax error")]
    Syntax,
    /// SORT … BY with a pattern that makes names of keys on other nodes.
    #[error("ERR BY option of SORT denied in Cluster mode.")]
    SortBy,
    /// SORT … GET with such a pattern.
    #[error("ERR GET option of SORT denied in Cluster mode.")]
    SortGet,
}

impl KeyError {
    /// Whether a single redis would refuse the request too. Then any node may be asked for the error in redis's own words, which for
    /// one flaw differ from command to command; the text of this error is only near to them. Otherwise the request must not reach a node.
    pub fn is_redis_own(self) -> bool {
        !matches!(self, KeyError::SortBy | KeyError::SortGet)
    }
}

/// Appends the argument indexes of the request's keys to `keys`, in the order in which redis reports them; channels that have a slot
/// (SPUBLISH, SSUBSCRIBE) count as keys.
///
/// SORT's BY and GET patterns are appended if they begin with a hash tag (`{tag}:weight_*`): such a pattern has the slot of all keys
/// that it stands for. Where keys have no hash tags, [`sort_pattern`] tells such requests.
///
/// # Errors
/// The request is not one that can be routed, see [`KeyError`]; `keys` is as it was.
#[inline]
pub fn find_keys(command: &Command, args: Args<'_>, keys: &mut Vec<u32>) -> Result<(), KeyError> {
    if let Some(key) = command.only_key() {
        if key >= args.len() {
            return Err(KeyError::Syntax);
        }
        keys.push(key as u32);
        return Ok(());
    }
    if command.keys.is_empty() {
        return Ok(());
    }
    let before = keys.len();
    let found = find_more(command, args, keys);
    if found.is_err() {
        keys.truncate(before);
    }
    found
}

fn find_more(command: &Command, args: Args<'_>, keys: &mut Vec<u32>) -> Result<(), KeyError> {
    if !command.accepts_argc(args.len()) {
        return Err(KeyError::Syntax);
    }
    match command.rule {
        Rule::Sort | Rule::SortRo => sort_keys(args, command.rule == Rule::Sort, keys),
        Rule::GeoStore => geo_keys(args, keys),
        Rule::Streams => stream_keys(args, keys),
        Rule::Migrate => migrate_keys(args, keys),
        _ => {
            let optional = command.flags.contains(Flags::NO_MANDATORY_KEYS);
            command.keys.iter().try_for_each(|spec| match span(spec, args) {
                Err(KeyError::Zero) if optional => Ok(()),
                Err(error) => Err(error),
                Ok(None) => Ok(()),
                // Nothing is left for a spec that takes the rest of the arguments, as the sources in `PFMERGE key`.
                Ok(Some(span)) if span.first >= args.len() => Ok(()),
                Ok(Some(span)) => {
                    // A range must be whole: MSET's last key has to have its value.
                    if span.end > args.len() || span.end <= span.first || !(span.end - span.first).is_multiple_of(span.step) {
                        return Err(KeyError::Syntax);
                    }
                    keys.extend((span.first..span.end).step_by(span.step).map(|index| index as u32));
                    Ok(())
                }
            })
        }
    }
}

/// The keys that one spec finds: every `step`th argument of `first..end`. Not checked against the number of arguments, and `end` may
/// lie before `first`.
pub(super) struct Span {
    pub(super) first: usize,
    pub(super) end: usize,
    pub(super) step: usize,
}

/// Follows one key spec; `None` if its keyword is not there.
pub(super) fn span(spec: &KeySpec, args: Args<'_>) -> Result<Option<Span>, KeyError> {
    let first = match spec.begin {
        BeginSearch::Index(index) => usize::from(index),
        BeginSearch::Keyword { word, from } => match find_keyword(word, from, args) {
            Some(index) => index + 1,
            None => return Ok(None),
        },
        BeginSearch::Unknown => return Err(KeyError::Syntax),
    };
    match spec.find {
        FindKeys::Range { last, step, limit } => {
            let end = match (usize::try_from(last), limit) {
                (Ok(last), _) => first + last + 1,
                (Err(_), 0 | 1) => (args.len() + 1).saturating_sub(usize::from(last.unsigned_abs())),
                (Err(_), limit) => first + args.len().saturating_sub(first) / usize::from(limit),
            };
            Ok(Some(Span { first, end, step: usize::from(step) }))
        }
        FindKeys::KeyNum { index, first: offset, step } => {
            let text = args.get(first + usize::from(index)).ok_or(KeyError::Syntax)?;
            let count = parse_integer(text).ok_or(KeyError::NotAnInteger)?;
            let first = first + usize::from(offset);
            match usize::try_from(count) {
                Err(_) => Err(KeyError::Negative),
                Ok(0) => Err(KeyError::Zero),
                Ok(count) if count > args.len().saturating_sub(first) => Err(KeyError::TooMany),
                Ok(count) => Ok(Some(Span { first, end: first + count, step: usize::from(step) })),
            }
        }
        FindKeys::Unknown => Err(KeyError::Syntax),
    }
}

/// The index of a key spec's keyword. It is never the last argument: keys have to follow.
fn find_keyword(word: &str, from: i16, args: Args<'_>) -> Option<usize> {
    let is_word = |index: &usize| is(&args, *index, word);
    let last = args.len().checked_sub(1)?;
    match usize::try_from(from) {
        Ok(from) => (from..last).find(is_word),
        // Backwards, and not as far as the first argument.
        Err(_) => (2..(args.len() + 1).saturating_sub(usize::from(from.unsigned_abs()))).rev().find(is_word),
    }
}

/// Whether argument `index` is there and is `word`, in any case.
fn is(args: &Args<'_>, index: usize, word: &str) -> bool {
    args.get(index).is_some_and(|arg| arg.eq_ignore_ascii_case(word.as_bytes()))
}

/// SORT key [BY pattern] [LIMIT offset count] [GET pattern …] [ASC|DESC] [ALPHA] [STORE key]: the last STORE counts.
fn sort_keys(args: Args<'_>, may_store: bool, keys: &mut Vec<u32>) -> Result<(), KeyError> {
    keys.push(1);
    let mut store = None;
    let mut outside = None;
    let mut index = 2;
    while index < args.len() {
        let left = args.len() - index - 1;
        let option = |word| is(&args, index, word);
        if option("ASC") || option("DESC") || option("ALPHA") {
            index += 1;
        } else if option("LIMIT") && left >= 2 {
            index += 3;
        } else if may_store && option("STORE") && left >= 1 {
            store = Some(index + 1);
            index += 2;
        } else if (option("BY") || option("GET")) && left >= 1 {
            match pattern_reach(&args[index + 1]) {
                Reach::Nothing => {}
                Reach::Slot => keys.push(index as u32 + 1),
                Reach::Anywhere => {
                    outside = outside.or(Some(if option("BY") { KeyError::SortBy } else { KeyError::SortGet }));
                }
            }
            index += 2;
        } else {
            return Err(KeyError::Syntax);
        }
    }
    keys.extend(store.map(|index| index as u32));
    outside.map_or(Ok(()), Err)
}

/// Which keys a pattern of SORT's BY or GET stands for.
enum Reach {
    /// None: without `*` it names no key (`#`, `nosort`).
    Nothing,
    /// Keys that all have the hash tag that the pattern itself has.
    Slot,
    /// Any key.
    Anywhere,
}

fn pattern_reach(pattern: &[u8]) -> Reach {
    let Some(star) = memchr::memchr(b'*', pattern) else { return Reach::Nothing };
    let fixed = &pattern[..star];
    // The tag must be whole before the part that varies, since that may hold braces too.
    let tagged =
        memchr::memchr(b'{', fixed).is_some_and(|open| memchr::memchr(b'}', &fixed[open + 1..]).is_some_and(|len| len > 0));
    if tagged { Reach::Slot } else { Reach::Anywhere }
}

/// Whether a request of SORT or SORT_RO reads keys made of a BY or GET pattern. False for all other commands.
pub fn sort_pattern(command: &Command, args: Args<'_>) -> bool {
    matches!(command.rule, Rule::Sort | Rule::SortRo)
        && (2..args.len()).any(|index| {
            (is(&args, index, "BY") || is(&args, index, "GET"))
                && args.get(index + 1).is_some_and(|pattern| !matches!(pattern_reach(pattern), Reach::Nothing))
        })
}

/// GEORADIUS and GEORADIUSBYMEMBER: of several STORE and STOREDIST the last counts.
pub(super) fn geo_keys(args: Args<'_>, keys: &mut Vec<u32>) -> Result<(), KeyError> {
    keys.push(1);
    let mut store = None;
    let mut index = 5;
    while index + 1 < args.len() {
        if is(&args, index, "STORE") || is(&args, index, "STOREDIST") {
            store = Some(index as u32 + 1);
            index += 1;
        }
        index += 1;
    }
    keys.extend(store);
    Ok(())
}

/// XREAD and XREADGROUP: as many ids follow STREAMS as keys, keys first.
pub(super) fn stream_keys(args: Args<'_>, keys: &mut Vec<u32>) -> Result<(), KeyError> {
    let streams = stream_options(args).find_map(|(index, option)| (option == StreamOption::Streams).then_some(index));
    let first = streams.ok_or(KeyError::Syntax)? + 1;
    let count = args.len() - first;
    if count == 0 || !count.is_multiple_of(2) {
        return Err(KeyError::Syntax);
    }
    keys.extend((first..first + count / 2).map(|index| index as u32));
    Ok(())
}

/// Where the option BLOCK of XREAD or XREADGROUP stands. As in redis the last one counts.
pub(super) fn block_option(args: Args<'_>) -> Option<usize> {
    stream_options(args).filter(|(_, option)| *option == StreamOption::Block).map(|(index, _)| index).last()
}

#[derive(PartialEq)]
enum StreamOption {
    Block,
    Streams,
    Other,
}

/// The options of XREAD and XREADGROUP and where they stand, up to STREAMS or the first flaw. They cannot be looked for by their names
/// alone: a group or a consumer may have the name of an option.
fn stream_options<'a>(args: Args<'a>) -> impl Iterator<Item = (usize, StreamOption)> + use<'a> {
    let mut next = 1;
    std::iter::from_fn(move || {
        let index = next;
        let option = |word| is(&args, index, word);
        let (option, len) = if option("BLOCK") {
            (StreamOption::Block, 2)
        } else if option("COUNT") {
            (StreamOption::Other, 2)
        } else if option("GROUP") {
            (StreamOption::Other, 3)
        } else if option("NOACK") {
            (StreamOption::Other, 1)
        } else if option("STREAMS") {
            (StreamOption::Streams, args.len() - index)
        } else {
            return None;
        };
        next += len;
        Some((index, option))
    })
}

/// MIGRATE host port key|"" db timeout [COPY] [REPLACE] [AUTH password] [AUTH2 user password] [KEYS key …].
pub(super) fn migrate_keys(args: Args<'_>, keys: &mut Vec<u32>) -> Result<(), KeyError> {
    let key = args.get(3).ok_or(KeyError::Syntax)?;
    let mut index = 6;
    while index < args.len() {
        let option = |word| is(&args, index, word);
        if option("KEYS") {
            if !key.is_empty() {
                return Err(KeyError::Syntax);
            }
            keys.extend((index + 1..args.len()).map(|index| index as u32));
            return Ok(());
        }
        index += if option("AUTH2") {
            3
        } else if option("AUTH") {
            2
        } else {
            1
        };
    }
    keys.push(3);
    Ok(())
}

/// COPY source destination [DB n] [REPLACE]: where n stands. As in redis the last one counts.
pub(super) fn copy_database(args: Args<'_>) -> Option<usize> {
    let mut database = None;
    let mut index = 3;
    while index < args.len() {
        if is(&args, index, "DB") && index + 1 < args.len() {
            database = Some(index + 1);
            index += 1;
        }
        index += 1;
    }
    database
}

#[cfg(test)]
mod tests {
    use super::super::resolve;
    use super::*;
    use crate::resp::ArgRange;

    /// Hands a request, given as words, to `look`; `''` stands for an empty argument.
    fn with<T>(words: &str, look: impl FnOnce(&Command, Args<'_>) -> T) -> T {
        let (mut bytes, mut ranges) = (Vec::new(), Vec::new());
        for word in words.split(' ').map(|word| word.trim_matches('\'')) {
            ranges.push(ArgRange { start: bytes.len() as u32, len: word.len() as u32 });
            bytes.extend_from_slice(word.as_bytes());
        }
        let args = Args::new(&bytes, &ranges);
        look(resolve(args).unwrap(), args)
    }

    fn check(request: &str, expect: &[u32]) {
        let mut keys = Vec::new();
        let found = with(request, |command, args| find_keys(command, args, &mut keys));
        assert_eq!((found, keys.as_slice()), (Ok(()), expect), "{request}");
    }

    fn check_error(request: &str, expect: KeyError) {
        let mut keys = vec![7];
        let found = with(request, |command, args| find_keys(command, args, &mut keys));
        assert_eq!((found, keys), (Err(expect), vec![7]), "{request}");
    }

    #[test]
    fn plain_ranges() {
        check("GET a", &[1]);
        check("mget a b c", &[1, 2, 3]);
        check("MSET a 1 b 2", &[1, 3]);
        check("BLPOP a b 0", &[1, 2]);
        check("BITOP AND d a b", &[2, 3, 4]);
        check("PFMERGE d", &[1]);
        check("PFMERGE d a", &[1, 2]);
        check("OBJECT ENCODING a", &[2]);
        check("XGROUP CREATE a g $", &[2]);
        check("SPUBLISH channel message", &[1]);
        check("PING", &[]);
        check("FLUSHALL", &[]);
        check_error("MSET a 1 b", KeyError::Syntax);
    }

    #[test]
    fn counted_keys() {
        check("EVAL s 2 a b c", &[3, 4]);
        check("EVAL s 0 c", &[]);
        check("ZUNIONSTORE d 2 a b WEIGHTS 1 2", &[1, 3, 4]);
        check("LMPOP 1 a LEFT", &[2]);
        check("BZMPOP 0 1 a MIN", &[3]);
        check_error("EVAL s x a", KeyError::NotAnInteger);
        check_error("EVAL s +1 a", KeyError::NotAnInteger);
        check_error("EVAL s -1 a", KeyError::Negative);
        check_error("EVAL s 2 a", KeyError::TooMany);
        check_error("FCALL f 9223372036854775807 a", KeyError::TooMany);
        check_error("ZUNION 0 a", KeyError::Zero);
        check_error("ZUNIONSTORE d 3 a b", KeyError::TooMany);
    }

    #[test]
    fn sort_by_its_own_reading() {
        check("SORT a", &[1]);
        check("SORT a LIMIT 0 STORE DESC", &[1]);
        check("SORT a STORE x STORE y", &[1, 5]);
        // Redis's own look for keys takes this `BY` for an option, and so misses the second STORE.
        check("SORT a STORE BY STORE x ALPHA", &[1, 5]);
        check("SORT a BY nosort GET #", &[1]);
        check("SORT a BY {t}w_* GET {t}o_*->f STORE s", &[1, 3, 5, 7]);
        check_error("SORT a BY w_*", KeyError::SortBy);
        check_error("SORT a GET *->{t}", KeyError::SortGet);
        check_error("SORT_RO a BY {*}", KeyError::SortBy);
        check_error("SORT_RO a GET {}{t}*", KeyError::SortGet);
        check_error("SORT_RO a STORE x", KeyError::Syntax);
        check_error("SORT a STORE", KeyError::Syntax);
        for (request, expect) in
            [("SORT a", false), ("SORT a BY nosort", false), ("SORT a GET {t}*", true), ("MGET BY a*", false)]
        {
            assert_eq!(with(request, sort_pattern), expect, "{request}");
        }
    }

    #[test]
    fn options_that_name_keys() {
        check("GEORADIUS a 0 0 1 m STORE x", &[1, 7]);
        check("GEORADIUS a 0 0 1 m STORE x STOREDIST y", &[1, 9]);
        check("GEORADIUSBYMEMBER a m 1 km STORE", &[1]);
        check("MIGRATE h 1 a 0 9", &[3]);
        check("MIGRATE h 1 '' 0 9 AUTH KEYS KEYS a b", &[9, 10]);
        check("XREAD STREAMS a b 0 0", &[2, 3]);
        check("XREAD COUNT 1 BLOCK 0 STREAMS a 0", &[6]);
        check("XREADGROUP GROUP g streams STREAMS a >", &[5]);
        // Redis's key spec takes the consumer for the keyword.
        check("XREADGROUP NOACK GROUP g streams STREAMS a >", &[6]);
        check_error("XREAD STREAMS a b 0", KeyError::Syntax);
        check_error("XREAD COUNT 1 a 0", KeyError::Syntax);
    }

    #[test]
    fn what_waits() {
        for (request, expect) in [
            ("BLPOP a 0", true),
            ("WAIT 1 0", true),
            ("XREAD STREAMS a 0", false),
            ("XREAD COUNT 1 block 5 STREAMS a 0", true),
            ("XREADGROUP GROUP BLOCK c STREAMS BLOCK >", false),
            ("GET a", false),
        ] {
            assert_eq!(with(request, |command, args| command.waits(args)), expect, "{request}");
        }
    }

    #[test]
    fn other_databases() {
        for (request, expect) in [
            ("MOVE a 1", Some(2)),
            ("COPY a b", None),
            ("COPY a DB", None),
            ("COPY a b db 3 REPLACE", Some(4)),
            ("COPY a b DB 1 DB 2", Some(6)),
            ("GET DB", None),
        ] {
            assert_eq!(with(request, |command, args| command.other_database(args)), expect, "{request}");
        }
    }
}
