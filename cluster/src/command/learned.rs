//! Commands that the table lacks: what a node says of them in its reply to `COMMAND` becomes rows like the table's, so that commands of
//! modules, and of later versions than this program knows, are routed by their key specs and tips.
//!
//! Rows live as long as the program, as the table's do. Equal ones are one, and there is a limit to how many are learned; a name that
//! has once been learned stays known. Only nodes teach: what clients ask for adds nothing.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use arc_swap::ArcSwap;

use crate::resp::{Args, array_elements, parse_integer};

use super::{
    BeginSearch, Categories, Command, CommandId, FindKeys, Flags, KeyFlags, KeySpec, Merge, Rule, Split, Unresolved, Way, lookup,
    lookup_subcommand,
};

/// Most rows, and most versions of rows, that are ever learned.
const ROWS_MAX: usize = 4096;
/// Longest name, tip or keyword.
const TEXT_BYTES_MAX: usize = 128;
/// Most tips, key specs or subcommands of one command.
const PARTS_MAX: usize = 64;

/// Furthest place among arguments.
const PLACE_MAX: i64 = 1_000;

/// By name in lower case.
type Rows = HashMap<Box<[u8]>, &'static Command>;

static ROWS: LazyLock<ArcSwap<Rows>> = LazyLock::new(ArcSwap::default);
/// Every row that ever was, subcommands within their containers. Whoever replaces [`ROWS`] holds it: several workers learn at once.
static KEPT: Mutex<Vec<&'static Command>> = Mutex::new(Vec::new());

/// Learns from a node's reply to `COMMAND`, in RESP2, what the table lacks. Rows that cannot be read are left out. Returns how many
/// commands are known beside the table's.
pub fn learn(reply: &[u8]) -> usize {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let mut rows = Rows::clone(&ROWS.load());
    for element in array_elements(reply).into_iter().flatten() {
        let Some(row) = read(element, None) else { continue };
        if lookup(row.name.as_bytes()).is_some() {
            continue;
        }
        if let Some(row) = keep(row, &mut kept) {
            rows.insert(row.name.to_ascii_lowercase().into_bytes().into(), row);
        }
    }
    let count = rows.len();
    ROWS.store(Arc::new(rows));
    count
}

/// The row of a command that was learned, in any case.
pub fn lookup_learned(name: &[u8]) -> Option<&'static Command> {
    if name.len() > TEXT_BYTES_MAX {
        return None;
    }
    let rows = ROWS.load();
    if rows.is_empty() { None } else { rows.get(name.to_ascii_lowercase().as_slice()).copied() }
}

/// Every command that was learned, by name.
pub fn all_learned() -> Vec<&'static Command> {
    let mut all: Vec<_> = ROWS.load().values().copied().collect();
    all.sort_unstable_by_key(|row| row.name);
    all
}

/// As [`super::resolve`], among the commands that were learned.
///
/// # Errors
/// See [`Unresolved`].
pub fn resolve_learned(args: Args<'_>) -> Result<&'static Command, Unresolved> {
    let mut command = lookup_learned(args.get(0).unwrap_or_default()).ok_or(Unresolved::Command)?;
    if !command.subcommands.is_empty()
        && let Some(name) = args.get(1)
    {
        command = lookup_subcommand(command, name).ok_or(Unresolved::Subcommand)?;
    }
    if command.accepts_argc(args.len()) { Ok(command) } else { Err(Unresolved::Arity(command)) }
}

/// The row for good: the one that is equal to it, if there is one.
fn keep(row: Row, kept: &mut Vec<&'static Command>) -> Option<&'static Command> {
    if let Some(equal) = kept.iter().find(|of| row.is(of)) {
        return Some(equal);
    }
    if kept.len() >= ROWS_MAX {
        tracing::warn!("command {:?} of the nodes is not learned: {ROWS_MAX} are", row.name);
        return None;
    }
    let command: &'static Command = Box::leak(Box::new(row.into_command()));
    kept.push(command);
    Some(command)
}

/// A row as it was read, before it is kept.
struct Row {
    name: String,
    arity: i16,
    flags: Flags,
    acl: Categories,
    tips: Vec<String>,
    keys: Vec<Spec>,
    subcommands: Vec<Row>,
}

/// A key spec that owns its keyword.
#[derive(PartialEq)]
struct Spec {
    flags: KeyFlags,
    begin: Begin,
    find: FindKeys,
}

#[derive(PartialEq)]
enum Begin {
    Index(u16),
    Keyword { word: String, from: i16 },
    Unknown,
}

impl Row {
    fn is(&self, other: &Command) -> bool {
        let same_keys = |(own, other): (&Spec, &KeySpec)| {
            own.flags == other.flags
                && own.find == other.find
                && match (&own.begin, other.begin) {
                    (Begin::Index(own), BeginSearch::Index(other)) => *own == other,
                    (Begin::Keyword { word, from }, BeginSearch::Keyword { word: other, from: other_from }) => {
                        word == other && *from == other_from
                    }
                    (Begin::Unknown, BeginSearch::Unknown) => true,
                    _ => false,
                }
        };
        self.name == other.name
            && self.arity == other.arity
            && self.flags == other.flags
            && self.acl_with_keyspace() == other.acl
            && self.tips == other.tips
            && self.keys.len() == other.keys.len()
            && self.keys.iter().zip(other.keys).all(same_keys)
            && self.subcommands.len() == other.subcommands.len()
            && self.subcommands.iter().zip(other.subcommands).all(|(own, other)| own.is(other))
    }

    fn tip(&self, policy: &str) -> Option<&str> {
        self.tips.iter().find_map(|tip| tip.strip_prefix(policy)?.strip_prefix(':'))
    }

    /// What the proxy does with it: what redis says that clients of a cluster are to do, and nothing that could end in a wrong answer.
    fn way(&self) -> Way {
        let cannot_be_told = |spec: &Spec| {
            matches!(spec.begin, Begin::Unknown) || spec.find == FindKeys::Unknown || spec.flags.contains(KeyFlags::INCOMPLETE)
        };
        let mut keys = self.keys.iter().filter(|spec| !spec.flags.contains(KeyFlags::NOT_KEY)).peekable();
        let has_keys = keys.peek().is_some();
        let response = self.tip("response_policy");
        if !self.subcommands.is_empty() {
            return Way::Container;
        }
        if self.flags.intersects(Flags::ADMIN | Flags::PUBSUB | Flags::NO_MULTI)
            || self.keys.iter().any(cannot_be_told)
            // Its keys are told by code of its own, which only a node could run.
            || (self.keys.is_empty() && self.flags.contains(Flags::MOVABLEKEYS))
        {
            return Way::Refused;
        }
        match self.tip("request_policy") {
            Some("all_nodes" | "all_shards") if !has_keys => match response {
                Some("all_succeeded") => Way::AllNodes(Merge::AllOk),
                Some("one_succeeded") => Way::AllNodes(Merge::OneOk),
                Some("agg_sum") => Way::AllNodes(Merge::Sum),
                Some("agg_min") => Way::AllNodes(Merge::Min),
                Some("agg_max" | "agg_logical_or") => Way::AllNodes(Merge::Max),
                Some("agg_logical_and") => Way::AllNodes(Merge::And),
                None => Way::AllNodes(Merge::Concat),
                Some(_) => Way::Refused,
            },
            Some("special") => Way::Refused,
            Some("multi_shard") if has_keys => self.split(response).map_or(Way::Keyed, Way::Split),
            _ if has_keys && self.flags.contains(Flags::BLOCKING) => Way::Blocking,
            _ if has_keys => Way::Keyed,
            // What blocks without a key, and what writes without saying where, has no node of its own.
            _ if self.flags.intersects(Flags::BLOCKING | Flags::WRITE) => Way::Refused,
            _ => Way::AnyNode,
        }
    }

    fn split(&self, response: Option<&str>) -> Option<Split> {
        let [Spec { begin: Begin::Index(1), find: FindKeys::Range { last: -1, step, limit: 0 }, .. }] = self.keys[..] else {
            return None;
        };
        match (step, response) {
            // There is no splitting nothing.
            _ if self.arity.unsigned_abs() < 2 => None,
            (1, None) => Some(Split::ArrayByKey),
            (1, Some("agg_sum")) => Some(Split::SumByKey),
            (2, Some("all_succeeded")) => Some(Split::OkByPair),
            _ => None,
        }
    }

    /// What goes to all nodes may be about keys, which may be in guest databases.
    fn acl_with_keyspace(&self) -> Categories {
        if matches!(self.way(), Way::AllNodes(_)) { self.acl | Categories::KEYSPACE } else { self.acl }
    }

    fn into_command(self) -> Command {
        let (way, acl) = (self.way(), self.acl_with_keyspace());
        let keys: Vec<_> = self.keys.into_iter().map(Spec::into_key_spec).collect();
        Command {
            name: self.name.leak(),
            arity: self.arity,
            flags: self.flags,
            acl,
            tips: self.tips.into_iter().map(|tip| &*tip.leak()).collect::<Vec<_>>().leak(),
            only_key: match keys[..] {
                [KeySpec { begin: BeginSearch::Index(index), find: FindKeys::Range { last: 0, .. }, .. }]
                    if index < self.arity.unsigned_abs() =>
                {
                    index
                }
                _ => 0,
            },
            keys: keys.leak(),
            way,
            subcommands: self.subcommands.into_iter().map(Row::into_command).collect::<Vec<_>>().leak(),
            id: CommandId::LEARNED,
            rule: Rule::Learned,
        }
    }
}

impl Spec {
    fn into_key_spec(self) -> KeySpec {
        let begin = match self.begin {
            Begin::Index(index) => BeginSearch::Index(index),
            Begin::Keyword { word, from } => BeginSearch::Keyword { word: word.leak(), from },
            Begin::Unknown => BeginSearch::Unknown,
        };
        KeySpec { flags: self.flags, begin, find: self.find }
    }
}

// ---- The reply to COMMAND ----

/// A status or bulk string of printable characters.
fn text(reply: &[u8]) -> Option<&str> {
    let bytes = match reply.first()? {
        b'+' => reply[1..].strip_suffix(b"\r\n")?,
        b'$' => reply[memchr::memchr(b'\n', reply)? + 1..].strip_suffix(b"\r\n")?,
        _ => return None,
    };
    let is_text = (1..=TEXT_BYTES_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic);
    if is_text { std::str::from_utf8(bytes).ok() } else { None }
}

/// An arity or a place among arguments, no further off than any command can mean.
fn integer<T: TryFrom<i64>>(reply: &[u8]) -> Option<T> {
    let number = parse_integer(reply.strip_prefix(b":")?.strip_suffix(b"\r\n")?)?;
    T::try_from(number).ok().filter(|_| (-PLACE_MAX..=PLACE_MAX).contains(&number))
}

/// The elements of an array, not too many.
fn list(reply: &[u8]) -> Option<Vec<&[u8]>> {
    let elements: Vec<_> = array_elements(reply)?.take(PARTS_MAX + 1).collect();
    (elements.len() <= PARTS_MAX).then_some(elements)
}

/// The value of a name in a flat array of names and values.
fn field<'a>(fields: &[&'a [u8]], name: &str) -> Option<&'a [u8]> {
    fields.chunks_exact(2).find(|pair| text(pair[0]) == Some(name)).map(|pair| pair[1])
}

/// One command; `container` is the name of the one that it is a subcommand of.
fn read(reply: &[u8], container: Option<&str>) -> Option<Row> {
    let fields: Vec<_> = array_elements(reply)?.take(PARTS_MAX).collect();
    let (name, arity) = (text(fields.first()?)?, integer(fields.get(1)?)?);
    if container.is_some_and(|container| name.strip_prefix(container).is_none_or(|own| !own.starts_with('|') || own.len() < 2)) {
        return None;
    }
    let named =
        |reply: &[u8]| -> Option<Vec<String>> { Some(list(reply)?.into_iter().filter_map(text).map(str::to_owned).collect()) };
    let flags = named(fields.get(2)?)?.iter().filter_map(|name| flag(name)).fold(Flags::empty(), Flags::union);
    let numbers: Vec<i16> = fields.get(3..6)?.iter().map(|number| integer(number)).collect::<Option<_>>()?;
    let acl = named(fields.get(6)?)?;
    let acl = acl.iter().filter_map(|name| Categories::by_name(name.strip_prefix('@')?.as_bytes()));
    let keys = match fields.get(8) {
        Some(specs) => list(specs)?.into_iter().map(read_spec).collect::<Option<Vec<_>>>()?,
        None => Vec::new(),
    };
    let keys = if keys.is_empty() { by_numbers(&numbers)? } else { keys };
    let subcommands = match fields.get(9) {
        Some(rows) if container.is_none() => {
            list(rows)?.into_iter().map(|row| read(row, Some(name))).collect::<Option<Vec<_>>>()?
        }
        _ => Vec::new(),
    };
    Some(Row {
        name: name.to_owned(),
        arity,
        flags,
        acl: acl.fold(Categories::empty(), Categories::union),
        tips: fields.get(7).map_or(Some(Vec::new()), |tips| named(tips))?,
        keys,
        subcommands,
    })
}

fn flag(name: &str) -> Option<Flags> {
    Flags::all().iter().find(|flag| flag.names().next() == Some(name))
}

/// The key spec of a command that has none, from its first key, last key and step.
fn by_numbers(numbers: &[i16]) -> Option<Vec<Spec>> {
    match *numbers {
        [first, last, step] if first > 0 && step > 0 => {
            let last = if last < 0 { last } else { last.checked_sub(first)? };
            let find = FindKeys::Range { last, step: step as u16, limit: 0 };
            Some(vec![Spec { flags: KeyFlags::empty(), begin: Begin::Index(first as u16), find }])
        }
        _ => Some(Vec::new()),
    }
}

fn read_spec(reply: &[u8]) -> Option<Spec> {
    let fields = list(reply)?;
    let flags = list(field(&fields, "flags")?)?
        .into_iter()
        .filter_map(text)
        .filter_map(|name| KeyFlags::all().iter().find(|flag| flag.names().next() == Some(name)));
    let (begin, begin_spec) = typed(field(&fields, "begin_search")?)?;
    let begin = match begin {
        "index" => Begin::Index(integer(field(&begin_spec, "index")?)?),
        "keyword" => Begin::Keyword {
            word: text(field(&begin_spec, "keyword")?)?.to_owned(),
            from: integer(field(&begin_spec, "startfrom")?)?,
        },
        _ => Begin::Unknown,
    };
    let (find, find_spec) = typed(field(&fields, "find_keys")?)?;
    let find = match find {
        "range" => FindKeys::Range {
            last: integer(field(&find_spec, "lastkey")?)?,
            step: integer::<u16>(field(&find_spec, "keystep")?).filter(|step| *step > 0)?,
            limit: integer(field(&find_spec, "limit")?)?,
        },
        "keynum" => FindKeys::KeyNum {
            index: integer(field(&find_spec, "keynumidx")?)?,
            first: integer(field(&find_spec, "firstkey")?)?,
            step: integer::<u16>(field(&find_spec, "keystep")?).filter(|step| *step > 0)?,
        },
        _ => FindKeys::Unknown,
    };
    Some(Spec { flags: flags.fold(KeyFlags::empty(), KeyFlags::union), begin, find })
}

/// The type of a begin search or find keys, and the fields of its specification.
fn typed(reply: &[u8]) -> Option<(&str, Vec<&[u8]>)> {
    let fields = list(reply)?;
    Some((text(field(&fields, "type")?)?, list(field(&fields, "spec")?)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        command::{describe, find_keys},
        resp::{ArgRange, Proto},
    };

    fn request<T>(words: &str, look: impl FnOnce(Args<'_>) -> T) -> T {
        let (mut bytes, mut ranges) = (Vec::new(), Vec::new());
        for word in words.split(' ') {
            ranges.push(ArgRange { start: bytes.len() as u32, len: word.len() as u32 });
            bytes.extend_from_slice(word.as_bytes());
        }
        look(Args::new(&bytes, &ranges))
    }

    /// What the proxy itself says of its own table is what a node says of its commands.
    fn own_table() -> Vec<u8> {
        let mut out = Vec::new();
        assert!(request("COMMAND", |args| describe::reply(args, Proto::Resp2, &mut out)));
        out
    }

    #[test]
    fn what_the_table_has_reads_as_it_stands_there() {
        let reply = own_table();
        let mut count = 0;
        for (element, command) in array_elements(&reply).unwrap().zip(super::super::TABLE) {
            let row = read(element, None).unwrap();
            // Redis prints neither of these flags.
            let hidden = Flags::MAY_REPLICATE | Flags::PROTECTED;
            assert_eq!((row.name.as_str(), row.arity, row.flags), (command.name, command.arity, command.flags - hidden));
            assert_eq!(
                (row.acl, &row.tips[..]),
                (command.acl, &command.tips.iter().map(|tip| (*tip).to_owned()).collect::<Vec<_>>()[..])
            );
            let kept = Row { acl: command.acl, flags: command.flags - hidden, ..row }.into_command();
            assert_eq!(kept.keys, command.keys, "{}", command.name);
            assert_eq!(kept.subcommands.len(), command.subcommands.len());
            if matches!(command.way, Way::Split(_)) || command.is_plain() {
                assert_eq!(kept.way, command.way, "{}", command.name);
            }
            assert_eq!(kept.only_key(), command.only_key());
            count += 1;
        }
        assert!(count > 200);
    }

    fn row(name: &str, flags: &str, numbers: [i64; 3], tips: &[&str]) -> Vec<u8> {
        let mut out = format!(
            "*10\r\n$3\r\nm.x\r\n:-2\r\n*1\r\n+{flags}\r\n:{}\r\n:{}\r\n:{}\r\n*0\r\n",
            numbers[0], numbers[1], numbers[2]
        );
        out = out.replace("$3\r\nm.x", &format!("${}\r\n{name}", name.len()));
        out += &format!("*{}\r\n", tips.len());
        tips.iter().for_each(|tip| out += &format!("${}\r\n{tip}\r\n", tip.len()));
        (out + "*0\r\n*0\r\n").into_bytes()
    }

    #[test]
    fn ways_follow_from_flags_keys_and_tips() {
        let all = "request_policy:all_shards";
        for (flags, numbers, tips, expect) in [
            ("write", [1, 1, 1], vec![], Way::Keyed),
            ("readonly", [2, -1, 1], vec![], Way::Keyed),
            ("readonly", [0, 0, 0], vec![], Way::AnyNode),
            ("write", [0, 0, 0], vec![], Way::Refused),
            ("admin", [1, 1, 1], vec![], Way::Refused),
            ("movablekeys", [0, 0, 0], vec![], Way::Refused),
            ("blocking", [1, 1, 1], vec![], Way::Blocking),
            ("readonly", [0, 0, 0], vec![all, "response_policy:agg_sum"], Way::AllNodes(Merge::Sum)),
            ("write", [0, 0, 0], vec![all, "response_policy:all_succeeded"], Way::AllNodes(Merge::AllOk)),
            ("readonly", [0, 0, 0], vec![all], Way::AllNodes(Merge::Concat)),
            ("readonly", [0, 0, 0], vec![all, "response_policy:special"], Way::Refused),
            ("readonly", [1, -1, 1], vec!["request_policy:multi_shard"], Way::Split(Split::ArrayByKey)),
            ("write", [1, -1, 1], vec!["request_policy:multi_shard", "response_policy:agg_sum"], Way::Split(Split::SumByKey)),
            ("readonly", [1, -1, 1], vec!["request_policy:multi_shard", "response_policy:special"], Way::Keyed),
            ("write", [1, -1, 3], vec!["request_policy:multi_shard", "response_policy:all_succeeded"], Way::Keyed),
        ] {
            let row = read(&row("m.x", flags, numbers, &tips), None).unwrap();
            assert_eq!(row.way(), expect, "{flags} {numbers:?} {tips:?}");
        }
    }

    #[test]
    fn commands_are_learned_once_and_stay_known() {
        let reply = |rows: &[Vec<u8>]| [format!("*{}\r\n", rows.len()).into_bytes(), rows.concat()].concat();
        let first = reply(&[row("T.SET", "write", [1, 1, 1], &[]), row("get", "admin", [0, 0, 0], &[])]);
        assert!(learn(&first) >= 1);
        let set = lookup_learned(b"t.set").unwrap();
        assert_eq!((set.name, set.way), ("T.SET", Way::Keyed));
        assert!(lookup_learned(b"get").is_none(), "the table has it");
        learn(&first);
        assert!(std::ptr::eq(lookup_learned(b"t.Set").unwrap(), set));
        learn(&reply(&[row("t.del", "write", [1, -1, 1], &[])]));
        assert!(lookup_learned(b"t.set").is_some());
        request("t.del a b", |args| {
            let mut keys = Vec::new();
            find_keys(resolve_learned(args).unwrap(), args, &mut keys).unwrap();
            assert_eq!(keys, [1, 2]);
        });
        assert_eq!(request("t.set", resolve_learned), Err(Unresolved::Arity(set)));
        assert_eq!(request("t.nothing a", resolve_learned), Err(Unresolved::Command));
    }

    /// As workers do, each from a node of its own.
    #[test]
    fn what_several_learn_at_once_is_known_afterwards() {
        let names: Vec<_> = (0..8).flat_map(|of| (0..50).map(move |n| (of, format!("at-once.{of}.{n}")))).collect();
        std::thread::scope(|scope| {
            for own in names.chunk_by(|one, other| one.0 == other.0) {
                scope.spawn(move || {
                    for (_, name) in own {
                        learn(&[b"*1\r\n", &row(name, "readonly", [1, 1, 1], &[])[..]].concat());
                    }
                });
            }
        });
        let forgotten: Vec<_> = names.iter().filter(|(_, name)| lookup_learned(name.as_bytes()).is_none()).collect();
        assert!(forgotten.is_empty(), "{forgotten:?}");
    }

    #[test]
    fn an_arity_that_promises_no_key_does_not_have_one_taken() {
        let mut reply = b"*1\r\n".to_vec();
        reply.extend(row("t.free", "readonly", [1, 1, 1], &[]));
        let reply = String::from_utf8(reply).unwrap().replace(":-2\r\n", ":-1\r\n");
        learn(reply.as_bytes());
        request("t.free", |args| {
            let (mut keys, command) = (Vec::new(), resolve_learned(args).unwrap());
            assert_eq!((find_keys(command, args, &mut keys), keys.len(), command.only_key()), (Ok(()), 0, None));
        });
    }

    #[test]
    fn any_reply_is_survived() {
        let reply = own_table();
        let count = learn(b"");
        for cut in (0..reply.len()).step_by(97) {
            learn(&reply[..cut]);
        }
        for reply in ["*1\r\n*0\r\n", "*-1\r\n", "+OK\r\n", "*1\r\n*10\r\n$1\r\nx\r\n:99999999\r\n", "-ERR no\r\n"] {
            learn(reply.as_bytes());
        }
        assert!(learn(b"*0\r\n") >= count);
    }
}
