//! The command table: what the proxy knows of each command, one row a command.
//!
//! Arity, flags, key specs, ACL categories and tips are redis's own (`COMMAND INFO` of 7.0) and a test compares every row with a
//! live server. [`Way`] is ours: what a proxy in front of many nodes does with the command.

mod keys;
mod table;

pub use keys::{KeyError, find_keys};
pub use table::{TABLE, lookup, lookup_subcommand};

/// One command, or one subcommand of a container command such as `CONFIG`.
#[derive(Debug, PartialEq, Eq)]
pub struct Command {
    /// Lower case; a subcommand's is `container|subcommand`, as redis spells it.
    pub name: &'static str,
    /// Exact `argc`, or the negated least one.
    pub arity: i16,
    /// Redis's command flags.
    pub flags: Flags,
    /// ACL categories, without the `@`.
    pub acl: &'static [&'static str],
    /// Redis's command tips, such as `request_policy:all_shards`.
    pub tips: &'static [&'static str],
    /// Where its keys are.
    pub keys: &'static [KeySpec],
    /// What the proxy does with it.
    pub way: Way,
    /// Rows of its subcommands.
    pub subcommands: &'static [Command],
}

/// What the proxy does with a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the one node that owns all its keys; keys of several slots are `CROSSSLOT`. A keyed command without keys
    /// in this call (`EVAL … 0`) goes to any node.
    Keyed,
    /// A part to each node that owns some of its keys, replies merged.
    Split(Split),
    /// To any one node that is up: the answer is the same everywhere.
    AnyNode,
    /// To every node that is up, replies merged.
    AllNodes(Merge),
    /// Answered by the proxy itself.
    Local,
    /// Keyed, but may wait for data: takes a private node connection.
    Blocking,
    /// MULTI, EXEC, DISCARD, WATCH, UNWATCH.
    Transaction,
    /// SUBSCRIBE and its kin, PUBLISH and its kin.
    PubSub,
    /// Container whose subcommands have ways of their own.
    Container,
    /// Makes no sense, or is not safe, in front of many nodes: refused with an error that says so.
    Refused,
}

/// How a split command's arguments are given out, and its replies merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// `NAME key …`: an array with one element a key, in the request's order (MGET).
    ArrayByKey,
    /// `NAME key …`: the sum of the parts' integers (DEL, UNLINK, EXISTS, TOUCH).
    SumByKey,
    /// `NAME key value …`: OK once all parts said OK (MSET).
    OkByPair,
}

/// How the replies of all nodes become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merge {
    /// Every node must say OK.
    AllOk,
    /// The sum of integers.
    Sum,
    /// The smallest integer.
    Min,
    /// The largest integer.
    Max,
    /// The arrays (or sets) one after the other.
    Concat,
    /// The first reply that came, once none was an error.
    First,
    /// Logical AND of the integers, element by element where replies are arrays.
    And,
}

/// Where some of a command's keys are: a begin search and a way to go on from there, as in redis's key specifications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeySpec {
    /// Flags as redis names them (`RW`, `RO`, `OW`, `RM`, `access`, `update`, …, `not_key`, `incomplete`, `variable_flags`).
    pub flags: &'static [&'static str],
    /// Where the keys begin.
    pub begin: BeginSearch,
    /// How many there are from there.
    pub find: FindKeys,
}

/// The argument at which a key spec's keys begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BeginSearch {
    /// At a fixed argument.
    Index(u16),
    /// After a keyword, looked for from argument `from`; a negative `from` counts from the end and looks backwards.
    Keyword {
        /// The keyword, upper case.
        word: &'static str,
        /// Where the search starts.
        from: i16,
    },
    /// Redis says `unknown`: only the command's own rules tell.
    Unknown,
}

/// The keys from a begin search on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FindKeys {
    /// Up to `last` (relative to the begin; negative counts from the end of the arguments: -1 is the last), each `step` apart;
    /// `limit` n > 1 with `last` -1 stops after 1/n of the arguments.
    Range {
        /// Last key, relative.
        last: i16,
        /// Arguments from one key to the next.
        step: u16,
        /// See above.
        limit: u16,
    },
    /// The number of keys stands in an argument.
    KeyNum {
        /// That argument, relative to the begin.
        index: u16,
        /// The first key, relative to the begin.
        first: u16,
        /// Arguments from one key to the next.
        step: u16,
    },
    /// Redis says `unknown`.
    Unknown,
}

bitflags::bitflags! {
    /// Redis's command flags, as `COMMAND INFO` names them.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Flags: u32 {
        /// `write`
        const WRITE = 1;
        /// `readonly`
        const READONLY = 1 << 1;
    }
}
