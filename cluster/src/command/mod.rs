//! The command table: what the proxy knows of each command, one row a command.
//!
//! Arity, flags, key specs, ACL categories and tips are redis's own (`COMMAND INFO` of 7.0) and a test compares every row with a
//! live server. [`Way`] is ours: what a proxy in front of many nodes does with the command.
//!
//! Nothing here knows of nodes, slots or connections.

pub mod describe;
mod flags;
pub mod glob;
mod keys;
mod learned;
mod resolve;
mod sensitive;
mod table;

use std::fmt;

pub use flags::{Categories, Flags, KeyFlags};
pub use keys::{KeyError, find_keys, sort_pattern};
pub use learned::{all_learned, learn, lookup_learned, resolve_learned};
pub use resolve::{Resolver, Unresolved, resolve};
pub use sensitive::{REDACTED, is_sensitive};
pub use table::{TABLE, lookup, lookup_subcommand};

use crate::resp::Args;

/// One command, or one subcommand of a container command such as `CONFIG`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Command {
    /// Lower case; a subcommand's is `container|subcommand`, as redis spells it.
    pub name: &'static str,
    /// Exact `argc`, or the negated least one.
    pub arity: i16,
    /// Redis's command flags.
    pub flags: Flags,
    /// ACL categories.
    pub acl: Categories,
    /// Redis's command tips, such as `request_policy:all_shards`.
    pub tips: &'static [&'static str],
    /// Where its keys are.
    pub keys: &'static [KeySpec],
    /// What the proxy does with it.
    pub way: Way,
    /// Rows of its subcommands.
    pub subcommands: &'static [Command],
    id: CommandId,
    rule: Rule,
    /// See [`Command::only_key`]; 0 stands for none.
    only_key: u16,
}

impl Command {
    /// A number of its own for this row, for tables kept beside this one.
    #[inline]
    pub fn id(&self) -> CommandId {
        self.id
    }

    /// The name without its container's.
    pub fn own_name(&self) -> &'static str {
        self.name.split_once('|').map_or(self.name, |(_, own)| own)
    }

    /// Whether a request of `argc` arguments, the name included, has as many as this command takes.
    #[inline]
    pub fn accepts_argc(&self, argc: usize) -> bool {
        match usize::try_from(self.arity) {
            Ok(exact) => argc == exact,
            Err(_) => argc >= usize::from(self.arity.unsigned_abs()),
        }
    }

    /// The index of the key, if every request has exactly one and has it there.
    #[inline]
    pub fn only_key(&self) -> Option<usize> {
        (self.only_key != 0).then_some(usize::from(self.only_key))
    }

    /// Whether the only key is the first argument after the name: what nearly all requests are.
    #[inline]
    pub fn first_key_only(&self) -> bool {
        self.only_key == 1
    }

    /// Whether its requests go as they come to whoever owns their first argument, and nothing else in them matters.
    #[inline]
    pub fn is_plain(&self) -> bool {
        self.way == Way::Keyed && self.first_key_only() && !matches!(self.rule, Rule::Copy | Rule::Move)
    }

    /// Whether some request of this command may name keys, or channels that have a slot.
    pub fn may_have_keys(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Whether a request of a [`Way::Blocking`] command may wait: all of them but XREAD and XREADGROUP without their option BLOCK,
    /// which a shared connection serves as well as any.
    pub fn waits(&self, args: Args<'_>) -> bool {
        self.way == Way::Blocking && (self.rule != Rule::Streams || keys::block_option(args).is_some())
    }

    /// For how long a request that [waits](Command::waits) does so at most, in ms: `None` if it has no end. One whose time cannot be
    /// read does not wait.
    pub fn wait_ms(&self, args: Args<'_>) -> Option<u64> {
        let counted = |spec: &KeySpec| matches!(spec.find, FindKeys::KeyNum { .. });
        let (index, unit_ms) = match self.rule {
            // Nobody has said where the time stands.
            Rule::Learned => return None,
            Rule::Streams => (keys::block_option(args)? + 1, 1.0),
            // BLMPOP and BZMPOP: the time comes before the number of keys.
            _ if self.keys.iter().any(counted) => (1, 1_000.0),
            // WAIT.
            _ if self.keys.is_empty() => (args.len() - 1, 1.0),
            _ => (args.len() - 1, 1_000.0),
        };
        let time = args.get(index).and_then(|time| std::str::from_utf8(time).ok()).and_then(|time| time.parse::<f64>().ok());
        match time {
            Some(0.0) => None,
            time => Some((time.unwrap_or(0.0) * unit_ms) as u64),
        }
    }

    /// The index of the argument that names a database other than the selected one, in a request (COPY … DB n, MOVE) that goes to a
    /// node. The number is the client's: where the node keeps that database under another, the request cannot go as it came.
    pub fn other_database(&self, args: Args<'_>) -> Option<usize> {
        match self.rule {
            Rule::Copy => keys::copy_database(args),
            Rule::Move => (args.len() > 2).then_some(2),
            _ => None,
        }
    }

    /// The first key, the last (negative: from the end) and the step, as `COMMAND INFO` gives them for clients that do not read key
    /// specs.
    pub fn first_last_step(&self) -> (i64, i64, i64) {
        let mut ranges = self.keys.iter().filter_map(|spec| match (spec.begin, spec.find) {
            (BeginSearch::Index(index), FindKeys::Range { last, step, .. }) => Some((index, last, step)),
            _ => None,
        });
        let absolute = |first: u16, last: i16| i64::from(if last < 0 { last } else { first as i16 + last });
        let Some((first, last, step)) = ranges.next() else { return (0, 0, 0) };
        let mut whole = (i64::from(first), absolute(first, last), i64::from(step));
        // Ranges that follow on each other are given as one.
        for (first, last, step) in ranges {
            if i64::from(step) != whole.2 || i64::from(first) != whole.1 + 1 {
                break;
            }
            whole.1 = absolute(first, last);
        }
        whole
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command({})", self.name)
    }
}

/// The number of a row: dense, commands first, then subcommands. It may differ from one version of this program to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(u16);

impl CommandId {
    /// What all commands share that are not the table's.
    const LEARNED: CommandId = CommandId(u16::MAX);
    /// No command at all.
    pub const NONE: CommandId = CommandId(u16::MAX - 1);

    /// As an index, less than [`CommandId::COUNT`] for the table's commands.
    #[inline]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// The row that has this id, if that is one of the table's.
    pub fn row(self) -> Option<&'static Command> {
        (self.index() < CommandId::COUNT).then(|| self.command())
    }

    /// Every id in order.
    pub fn all() -> impl ExactSizeIterator<Item = CommandId> {
        (0..CommandId::COUNT as u16).map(CommandId)
    }
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
    /// One node after the other, under a cursor of the proxy's own (SCAN).
    Scan,
    /// To one node picked by chance, and to others if that one has no keys (RANDOMKEY).
    RandomKey,
    /// Answered by the proxy itself.
    Local,
    /// Keyed, but may wait: takes a private node connection, if [`Command::waits`]. WAIT has no keys and goes to any node.
    Blocking,
    /// MULTI, EXEC, DISCARD, WATCH, UNWATCH.
    Transaction,
    /// SUBSCRIBE and its kin, PUBLISH and its kin, and PUBSUB's questions about them.
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
    /// One OK is enough; without any, the first error.
    OneOk,
    /// The sum of integers.
    Sum,
    /// The smallest integer.
    Min,
    /// The largest integer.
    Max,
    /// The arrays (or sets) one after the other.
    Concat,
    /// Likewise, each element once.
    Distinct,
    /// Arrays of names, each with an integer behind it: the integers of each name's place are added up (PUBSUB NUMSUB).
    SumPairs,
    /// The first reply that came, once none was an error.
    First,
    /// Logical AND of the integers, element by element where replies are arrays.
    And,
}

/// Where some of a command's keys are: a begin search and a way to go on from there, as in redis's key specifications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeySpec {
    /// What the command does with these keys, and how far to trust the spec.
    pub flags: KeyFlags,
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

/// What has to be known of a command's arguments beyond its key specs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Nothing.
    Specs,
    /// Nothing: the row is not the table's, but was learned from a node.
    Learned,
    /// The option GET makes the key read as well as written.
    Set,
    /// The subcommands tell whether the key is written.
    Bitfield,
    /// STORE may stand anywhere; BY and GET read keys made of a pattern.
    Sort,
    /// As [`Rule::Sort`], without STORE.
    SortRo,
    /// The last of several STORE and STOREDIST counts.
    GeoStore,
    /// STREAMS is a keyword only where no option's argument stands; BLOCK makes it wait.
    Streams,
    /// KEYS, if there is such an option, takes the place of the key argument.
    Migrate,
    /// The option DB names a database.
    Copy,
    /// Its second argument names a database.
    Move,
}
