//! What the rows are written in: one builder for each [`Way`], short names for flags and categories, and shapes of key specs.
//!
//! Flags and categories are plain integers here, since `|` on them works in a constant where the bit flag types' own does not.

pub(super) use super::super::Merge::{AllOk, And, Concat, First, OneOk, Sum};
pub(super) use super::super::Split::{ArrayByKey, OkByPair, SumByKey};
use super::super::{BeginSearch, Categories, CommandId, FindKeys, Flags, KeyFlags, Merge, Split, Way};
pub(super) use super::super::{Command, KeySpec, Rule};

macro_rules! short_names {
    ($of:ident: $bits:ty { $($name:ident)* }) => {
        $(pub(super) const $name: $bits = $of::$name.bits();)*
    };
}

short_names! { Flags: u32 {
    WRITE READONLY DENYOOM ADMIN PUBSUB NOSCRIPT BLOCKING LOADING STALE SKIP_MONITOR SKIP_SLOWLOG ASKING FAST NO_AUTH MAY_REPLICATE
    NO_MANDATORY_KEYS PROTECTED NO_ASYNC_LOADING NO_MULTI ALLOW_BUSY
}}
short_names! { Categories: u32 {
    KEYSPACE SET SORTEDSET LIST HASH STRING BITMAP HYPERLOGLOG GEO STREAM DANGEROUS CONNECTION TRANSACTION SCRIPTING
}}
short_names! { KeyFlags: u16 { RO RW OW RM ACCESS UPDATE INSERT DELETE NOT_KEY INCOMPLETE VARIABLE_FLAGS }}

/// The category `@admin` of a command that lacks the flag `admin`.
pub(super) const CATEGORY_ADMIN: u32 = Categories::ADMIN.bits();

pub(super) const RANDOM: &str = "nondeterministic_output";
pub(super) const UNORDERED: &str = "nondeterministic_output_order";
pub(super) const MULTI_SHARD: &str = "request_policy:multi_shard";
pub(super) const ALL_SHARDS: &str = "request_policy:all_shards";
pub(super) const ALL_NODES: &str = "request_policy:all_nodes";
pub(super) const SPECIAL_REQUEST: &str = "request_policy:special";
pub(super) const ALL_SUCCEEDED: &str = "response_policy:all_succeeded";
pub(super) const ONE_SUCCEEDED: &str = "response_policy:one_succeeded";
pub(super) const AGG_SUM: &str = "response_policy:agg_sum";
pub(super) const AGG_MIN: &str = "response_policy:agg_min";
pub(super) const AGG_LOGICAL_AND: &str = "response_policy:agg_logical_and";
pub(super) const SPECIAL_RESPONSE: &str = "response_policy:special";

type Keys = &'static [KeySpec];

pub(super) const fn keyed(name: &'static str, arity: i16, flags: u32, acl: u32, keys: Keys) -> Command {
    row(Way::Keyed, name, arity, flags, acl).keys(keys)
}

pub(super) const fn blocking(name: &'static str, arity: i16, flags: u32, acl: u32, keys: Keys) -> Command {
    row(Way::Blocking, name, arity, flags, acl).keys(keys)
}

pub(super) const fn split(name: &'static str, arity: i16, flags: u32, acl: u32, keys: Keys, how: Split) -> Command {
    row(Way::Split(how), name, arity, flags, acl).keys(keys)
}

pub(super) const fn all_nodes(name: &'static str, arity: i16, flags: u32, acl: u32, merge: Merge) -> Command {
    row(Way::AllNodes(merge), name, arity, flags, acl)
}

pub(super) const fn any_node(name: &'static str, arity: i16, flags: u32, acl: u32) -> Command {
    row(Way::AnyNode, name, arity, flags, acl)
}

pub(super) const fn scan(name: &'static str, arity: i16, flags: u32, acl: u32) -> Command {
    row(Way::Scan, name, arity, flags, acl)
}

pub(super) const fn random_key(name: &'static str, arity: i16, flags: u32, acl: u32) -> Command {
    row(Way::RandomKey, name, arity, flags, acl)
}

pub(super) const fn local(name: &'static str, arity: i16, flags: u32, acl: u32) -> Command {
    row(Way::Local, name, arity, flags, acl)
}

pub(super) const fn pubsub(name: &'static str, arity: i16, flags: u32, acl: u32) -> Command {
    row(Way::PubSub, name, arity, flags, acl)
}

pub(super) const fn transaction(name: &'static str, arity: i16, flags: u32, acl: u32) -> Command {
    row(Way::Transaction, name, arity, flags, acl)
}

pub(super) const fn refused(name: &'static str, arity: i16, flags: u32, acl: u32) -> Command {
    row(Way::Refused, name, arity, flags, acl)
}

/// A command that is nothing without a subcommand. Redis gives all of them the same arity and no flags.
pub(super) const fn container(name: &'static str, subcommands: &'static [Command]) -> Command {
    row(Way::Container, name, -2, 0, 0).subcommands(subcommands)
}

const fn row(way: Way, name: &'static str, arity: i16, flags: u32, acl: u32) -> Command {
    let flags = Flags::from_bits_truncate(flags);
    Command {
        name,
        arity,
        flags,
        acl: Categories::from_bits_truncate(acl).with_implied(flags),
        tips: &[],
        keys: &[],
        way,
        subcommands: &[],
        // Given when the groups are joined to one table.
        id: CommandId(u16::MAX),
        rule: Rule::Specs,
        only_key: 0,
    }
}

impl Command {
    pub(super) const fn keys(mut self, keys: &'static [KeySpec]) -> Command {
        self.keys = keys;
        self.only_key = only_key(keys);
        if movable(keys) {
            self.flags = self.flags.union(Flags::MOVABLEKEYS);
        }
        self
    }

    pub(super) const fn rule(mut self, rule: Rule) -> Command {
        self.rule = rule;
        self
    }

    pub(super) const fn tips(mut self, tips: &'static [&'static str]) -> Command {
        self.tips = tips;
        self
    }

    pub(super) const fn subcommands(mut self, subcommands: &'static [Command]) -> Command {
        self.subcommands = subcommands;
        self
    }
}

/// The index of the key where there is always exactly one and it stands at a fixed place, else 0.
const fn only_key(keys: &[KeySpec]) -> u16 {
    match keys {
        [KeySpec { begin: BeginSearch::Index(index), find: FindKeys::Range { last: 0, .. }, .. }] => *index,
        _ => 0,
    }
}

/// Whether redis sets `movablekeys`: the keys are not all told by one plain range of arguments.
const fn movable(mut keys: &[KeySpec]) -> bool {
    let mut last_before = 0;
    let only = keys.len() == 1;
    while let [spec, rest @ ..] = keys {
        let (BeginSearch::Index(index), FindKeys::Range { last, step, .. }) = (spec.begin, spec.find) else {
            return true;
        };
        if spec.flags.contains(KeyFlags::INCOMPLETE) {
            return true;
        }
        // One range may skip arguments; several have to follow on each other.
        if !only && (step != 1 || (last_before != 0 && last_before != index as i16 - 1)) {
            return true;
        }
        last_before = if last < 0 { last } else { index as i16 + last };
        keys = rest;
    }
    false
}

/// One key at argument `index`.
pub(super) const fn at(index: u16, flags: u16) -> KeySpec {
    range(index, 0, 1, flags)
}

/// Two keys from argument `index` on.
pub(super) const fn two(index: u16, flags: u16) -> KeySpec {
    range(index, 1, 1, flags)
}

/// All arguments from `index` on.
pub(super) const fn all(index: u16, flags: u16) -> KeySpec {
    range(index, -1, 1, flags)
}

/// All arguments from `index` on but the last, which is a timeout.
pub(super) const fn all_but_last(index: u16, flags: u16) -> KeySpec {
    range(index, -2, 1, flags)
}

/// Every other argument from `index` on.
pub(super) const fn pairs(index: u16, flags: u16) -> KeySpec {
    range(index, -1, 2, flags)
}

const fn range(index: u16, last: i16, step: u16, flags: u16) -> KeySpec {
    spec(flags, BeginSearch::Index(index), FindKeys::Range { last, step, limit: 0 })
}

/// As many keys as argument `index` says, right after it.
pub(super) const fn counted(index: u16, flags: u16) -> KeySpec {
    spec(flags, BeginSearch::Index(index), FindKeys::KeyNum { index: 0, first: 1, step: 1 })
}

/// One key after a keyword.
pub(super) const fn after(word: &'static str, from: i16, flags: u16) -> KeySpec {
    spec(flags, BeginSearch::Keyword { word, from }, FindKeys::Range { last: 0, step: 1, limit: 0 })
}

/// All arguments after a keyword.
pub(super) const fn all_after(word: &'static str, from: i16, flags: u16) -> KeySpec {
    spec(flags, BeginSearch::Keyword { word, from }, FindKeys::Range { last: -1, step: 1, limit: 0 })
}

/// The first half of the arguments after a keyword.
pub(super) const fn half_after(word: &'static str, from: i16, flags: u16) -> KeySpec {
    spec(flags, BeginSearch::Keyword { word, from }, FindKeys::Range { last: -1, step: 1, limit: 2 })
}

/// Keys of which redis's key specs only say that there may be some.
pub(super) const fn unknown(flags: u16) -> KeySpec {
    spec(flags, BeginSearch::Unknown, FindKeys::Unknown)
}

const fn spec(flags: u16, begin: BeginSearch, find: FindKeys) -> KeySpec {
    KeySpec { flags: KeyFlags::from_bits_truncate(flags), begin, find }
}
