//! What redis's `COMMAND` says of the commands, told from the table, and of commands that were learned from a node.
//!
//! The replies are redis 7.0's byte for byte, but for the order of the commands, which in redis changes from start to start, and for
//! the notes on some key specs, which are prose that no client reads.

use crate::resp::{ArgRange, Args, Proto, encode};

use super::{
    BeginSearch, Categories, Command, CommandId, FindKeys, Flags, KeyFlags, KeySpec, Rule, TABLE, all_learned, glob, keys,
    lookup, lookup_learned, lookup_subcommand, resolve,
};

/// Appends the reply to a request of `COMMAND` or one of its subcommands; false if it has to come from a node: that is so for the long
/// texts of `COMMAND DOCS` and `COMMAND HELP`, and for requests that are none of `COMMAND`.
pub fn reply(args: Args<'_>, proto: Proto, out: &mut Vec<u8>) -> bool {
    let command = match resolve(args) {
        Ok(command) => command,
        Err(unresolved) => {
            out.push(b'-');
            out.extend(unresolved.error(args));
            out.extend_from_slice(b"\r\n");
            return true;
        }
    };
    let mut reply = Reply { proto, out };
    match command.name {
        "command" => reply.all(),
        "command|info" if args.len() == 2 => reply.all(),
        "command|info" => {
            reply.array(args.len() - 2);
            for name in args.iter().skip(2) {
                match by_full_name(name) {
                    Some(command) => reply.command(command),
                    None => encode::null(reply.out, proto),
                }
            }
        }
        "command|count" => reply.integer((TABLE.len() + all_learned().len()) as i64),
        "command|list" => reply.list(args),
        "command|getkeys" => reply.keys(args, false),
        "command|getkeysandflags" => reply.keys(args, true),
        _ => return false,
    }
    true
}

/// The row of a full name such as `config|get`.
fn by_full_name(name: &[u8]) -> Option<&'static Command> {
    match memchr::memchr(b'|', name) {
        None => any(name),
        Some(bar) => lookup_subcommand(any(&name[..bar])?, &name[bar + 1..]),
    }
}

/// The row of a command's name, of the table or learned.
fn any(name: &[u8]) -> Option<&'static Command> {
    lookup(name).or_else(|| lookup_learned(name))
}

struct Reply<'a> {
    proto: Proto,
    out: &'a mut Vec<u8>,
}

impl Reply<'_> {
    fn all(&mut self) {
        let learned = all_learned();
        self.array(TABLE.len() + learned.len());
        for command in TABLE.iter().chain(learned) {
            self.command(command);
        }
    }

    fn command(&mut self, command: &Command) {
        let (first, last, step) = command.first_last_step();
        self.array(10);
        self.bulk(command.name);
        self.integer(i64::from(command.arity));
        self.statuses(command.flags.names(), "");
        self.integer(first);
        self.integer(last);
        self.integer(step);
        self.statuses(command.acl.names(), "@");
        self.set(command.tips.len());
        for tip in command.tips {
            self.bulk(tip);
        }
        self.set(command.keys.len());
        for spec in command.keys {
            self.key_spec(spec);
        }
        // Redis sends the subcommands as an array, but an empty set where there are none.
        if command.subcommands.is_empty() {
            self.set(0);
        } else {
            self.array(command.subcommands.len());
        }
        for subcommand in command.subcommands {
            self.command(subcommand);
        }
    }

    fn key_spec(&mut self, spec: &KeySpec) {
        self.map(3);
        self.bulk("flags");
        self.statuses(spec.flags.names(), "");
        self.bulk("begin_search");
        match spec.begin {
            BeginSearch::Index(index) => {
                self.typed("index", 1);
                self.field("index", i64::from(index));
            }
            BeginSearch::Keyword { word, from } => {
                self.typed("keyword", 2);
                self.bulk("keyword");
                self.bulk(word);
                self.field("startfrom", i64::from(from));
            }
            BeginSearch::Unknown => self.typed("unknown", 0),
        }
        self.bulk("find_keys");
        match spec.find {
            FindKeys::Range { last, step, limit } => {
                self.typed("range", 3);
                self.field("lastkey", i64::from(last));
                self.field("keystep", i64::from(step));
                self.field("limit", i64::from(limit));
            }
            FindKeys::KeyNum { index, first, step } => {
                self.typed("keynum", 3);
                self.field("keynumidx", i64::from(index));
                self.field("firstkey", i64::from(first));
                self.field("keystep", i64::from(step));
            }
            FindKeys::Unknown => self.typed("unknown", 0),
        }
    }

    /// COMMAND LIST [FILTERBY MODULE name | ACLCAT category | PATTERN glob], subcommands included.
    fn list(&mut self, args: Args<'_>) {
        let learned = all_learned().into_iter().flat_map(|row| std::iter::once(row).chain(row.subcommands));
        let all = CommandId::all().map(CommandId::command).chain(learned);
        let is = |index: usize, word: &str| args[index].eq_ignore_ascii_case(word.as_bytes());
        let names: Vec<&str> = match args.len() {
            2 => all.map(|row| row.name).collect(),
            // Which command is whose the nodes do not say.
            5 if is(2, "FILTERBY") && is(3, "MODULE") => Vec::new(),
            5 if is(2, "FILTERBY") && is(3, "ACLCAT") => match Categories::by_name(&args[4]) {
                Some(category) => all.filter(|row| row.acl.contains(category)).map(|row| row.name).collect(),
                None => Vec::new(),
            },
            5 if is(2, "FILTERBY") && is(3, "PATTERN") => {
                all.map(|row| row.name).filter(|name| glob::matches(&args[4], name.as_bytes(), true)).collect()
            }
            _ => return encode::error(self.out, "ERR syntax error"),
        };
        self.array(names.len());
        for name in names {
            self.bulk(name);
        }
    }

    /// COMMAND GETKEYS and COMMAND GETKEYSANDFLAGS.
    fn keys(&mut self, args: Args<'_>, with_flags: bool) {
        // The request that is asked about, as one of its own.
        let (mut bytes, mut ranges) = (Vec::new(), Vec::new());
        for arg in args.iter().skip(2) {
            ranges.push(ArgRange { start: bytes.len() as u32, len: arg.len() as u32 });
            bytes.extend_from_slice(arg);
        }
        let request = Args::new(&bytes, &ranges);
        let command = match any(&request[0]) {
            Some(container) if !container.subcommands.is_empty() && request.len() > 1 => {
                lookup_subcommand(container, &request[1])
            }
            command => command,
        };
        let Some(command) = command else {
            return encode::error(self.out, "ERR Invalid command specified");
        };
        if command.keys.iter().all(|spec| spec.flags.contains(KeyFlags::NOT_KEY)) {
            return encode::error(self.out, "ERR The command has no key arguments");
        }
        if !command.accepts_argc(request.len()) {
            return encode::error(self.out, "ERR Invalid number of arguments specified for command");
        }
        let keys = reported_keys(command, request);
        if keys.is_empty() && !command.flags.contains(Flags::NO_MANDATORY_KEYS) {
            return encode::error(self.out, "ERR Invalid arguments specified for command");
        }
        self.array(keys.len());
        for (index, flags) in keys {
            if with_flags {
                self.array(2);
            }
            encode::bulk(self.out, &request[index as usize]);
            if with_flags {
                self.statuses(flags.names(), "");
            }
        }
    }

    fn array(&mut self, count: usize) {
        encode::array(self.out, count);
    }

    fn set(&mut self, count: usize) {
        encode::set(self.out, self.proto, count);
    }

    fn map(&mut self, pairs: usize) {
        encode::map(self.out, self.proto, pairs);
    }

    fn bulk(&mut self, text: &str) {
        encode::bulk(self.out, text.as_bytes());
    }

    fn integer(&mut self, number: i64) {
        encode::integer(self.out, number);
    }

    fn field(&mut self, name: &str, number: i64) {
        self.bulk(name);
        self.integer(number);
    }

    /// The head of a begin search or find keys: its type, and a specification of so many fields, which follow.
    fn typed(&mut self, kind: &str, fields: usize) {
        self.map(2);
        self.bulk("type");
        self.bulk(kind);
        self.bulk("spec");
        self.map(fields);
    }

    fn statuses(&mut self, names: impl Iterator<Item = &'static str> + Clone, prefix: &str) {
        self.set(names.clone().count());
        for name in names {
            self.out.push(b'+');
            self.out.extend_from_slice(prefix.as_bytes());
            self.out.extend_from_slice(name.as_bytes());
            self.out.extend_from_slice(b"\r\n");
        }
    }
}

/// The keys that redis 7.0 reports for a request, with their flags. This is not always what the command will touch, and so not what
/// requests are routed by: [`super::find_keys`] is.
fn reported_keys(command: &Command, args: Args<'_>) -> Vec<(u32, KeyFlags)> {
    let mut keys = Vec::new();
    // Redis goes by the key specs, and where they are not enough or find a flaw by code of the command's own, which is laxer at times.
    let variable = command.keys.iter().any(|spec| spec.flags.contains(KeyFlags::VARIABLE_FLAGS));
    if variable || !by_specs(command, args, &mut keys) {
        keys.clear();
        by_rule(command, args, &mut keys);
    }
    keys
}

/// Follows the key specs; false if one of them cannot be followed or would lead past the last argument.
fn by_specs(command: &Command, args: Args<'_>, keys: &mut Vec<(u32, KeyFlags)>) -> bool {
    for spec in command.keys.iter().filter(|spec| !spec.flags.contains(KeyFlags::NOT_KEY)) {
        match keys::span(spec, args) {
            Ok(None) => {}
            Ok(Some(span)) if span.first < span.end && span.end <= args.len() && !spec.flags.contains(KeyFlags::INCOMPLETE) => {
                keys.extend((span.first..span.end).step_by(span.step).map(|index| (index as u32, spec.flags)));
            }
            _ => return false,
        }
    }
    true
}

fn by_rule(command: &Command, args: Args<'_>, keys: &mut Vec<(u32, KeyFlags)>) {
    const READ: KeyFlags = KeyFlags::RO.union(KeyFlags::ACCESS);
    const OVERWRITTEN: KeyFlags = KeyFlags::OW.union(KeyFlags::UPDATE);
    const CHANGED: KeyFlags = KeyFlags::RW.union(KeyFlags::ACCESS).union(KeyFlags::UPDATE);
    const TAKEN: KeyFlags = KeyFlags::RW.union(KeyFlags::ACCESS).union(KeyFlags::DELETE);

    let is = |index: usize, word: &str| args[index].eq_ignore_ascii_case(word.as_bytes());
    let mut plain = Vec::new();
    match command.rule {
        Rule::Set => {
            let reads = (3..args.len()).any(|index| is(index, "GET"));
            keys.push((1, if reads { CHANGED } else { OVERWRITTEN }));
        }
        Rule::Bitfield => keys.push((1, if bitfield_only_reads(args) { READ } else { CHANGED })),
        Rule::SortRo => keys.push((1, READ)),
        Rule::Sort => {
            keys.push((1, READ));
            keys.extend(sort_store(args).map(|index| (index as u32, OVERWRITTEN)));
        }
        Rule::Migrate => {
            if keys::migrate_keys(args, &mut plain).is_ok() {
                keys.extend(plain.into_iter().map(|index| (index, TAKEN)));
            }
        }
        Rule::Streams => {
            if keys::stream_keys(args, &mut plain).is_ok() {
                keys.extend(plain.into_iter().map(|index| (index, KeyFlags::empty())));
            }
        }
        Rule::Specs | Rule::Learned | Rule::GeoStore | Rule::Copy | Rule::Move => counted_keys(command, args, keys),
    }
}

/// Keys whose number C's `atoi` can read even where redis's own reader of integers cannot (`3x`, ` 3`, `+3`), the destination last.
fn counted_keys(command: &Command, args: Args<'_>, keys: &mut Vec<(u32, KeyFlags)>) {
    let Some((BeginSearch::Index(index), FindKeys::KeyNum { .. })) = command.keys.last().map(|spec| (spec.begin, spec.find))
    else {
        return;
    };
    let index = usize::from(index);
    let count = args.get(index).map_or(0, atoi);
    if count < 1 || count > args.len().saturating_sub(index + 1) {
        return;
    }
    keys.extend((index + 1..=index + count).map(|index| (index as u32, KeyFlags::empty())));
    if command.keys.len() > 1 {
        keys.push((1, KeyFlags::empty()));
    }
}

/// The number that a text starts with, 0 if there is none or it is negative.
fn atoi(text: &[u8]) -> usize {
    let text = text.trim_ascii_start();
    let digits = text.strip_prefix(b"+").unwrap_or(text);
    digits
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .fold(0, |number: usize, digit| number.saturating_mul(10).saturating_add(usize::from(digit - b'0')))
}

/// Where redis believes SORT's STORE to be: unlike the command itself this does not skip STORE's own argument.
fn sort_store(args: Args<'_>) -> Option<usize> {
    let is = |index: usize, word: &str| args[index].eq_ignore_ascii_case(word.as_bytes());
    let mut store = None;
    let mut index = 2;
    while index < args.len() {
        if is(index, "LIMIT") {
            index += 2;
        } else if is(index, "STORE") && index + 1 < args.len() {
            store = Some(index + 1);
        } else if is(index, "GET") || is(index, "BY") {
            index += 1;
        }
        index += 1;
    }
    store
}

/// Whether a BITFIELD request has GET subcommands only.
fn bitfield_only_reads(args: Args<'_>) -> bool {
    let is = |index: usize, word: &str| args[index].eq_ignore_ascii_case(word.as_bytes());
    let mut index = 2;
    while index < args.len() {
        let left = args.len() - index - 1;
        if is(index, "GET") && left >= 2 {
            index += 3;
        } else if is(index, "OVERFLOW") && left >= 1 {
            index += 2;
        } else {
            return false;
        }
    }
    true
}
