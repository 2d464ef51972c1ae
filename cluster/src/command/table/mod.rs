//! The rows, one file a group, joined to one table at compile time, and the look-up by name.

mod bitmaps;
mod cluster;
mod connection;
mod geo;
mod hashes;
mod hyperloglog;
mod keyspace;
mod lists;
mod prelude;
mod pubsub;
mod scripting;
mod server;
mod sets;
mod sorted_sets;
mod streams;
mod strings;
mod transactions;

use super::{Command, CommandId};

const GROUPS: &[&[Command]] = &[
    strings::ROWS,
    bitmaps::ROWS,
    hyperloglog::ROWS,
    lists::ROWS,
    sets::ROWS,
    sorted_sets::ROWS,
    hashes::ROWS,
    streams::ROWS,
    geo::ROWS,
    keyspace::ROWS,
    pubsub::ROWS,
    transactions::ROWS,
    scripting::ROWS,
    connection::ROWS,
    server::ROWS,
    cluster::ROWS,
];

/// How many commands there are, and how many subcommands.
const COUNTS: (usize, usize) = {
    let (mut commands, mut subcommands) = (0, 0);
    let mut group = 0;
    while group < GROUPS.len() {
        let mut row = 0;
        while row < GROUPS[group].len() {
            subcommands += GROUPS[group][row].subcommands.len();
            row += 1;
        }
        commands += row;
        group += 1;
    }
    (commands, subcommands)
};

/// Every top-level command; `COMMANDS[n]` has the id n.
static COMMANDS: [Command; COUNTS.0] = {
    let mut all = [GROUPS[0][0]; COUNTS.0];
    let (mut command, mut subcommand) = (0, 0);
    let mut group = 0;
    while group < GROUPS.len() {
        let mut row = 0;
        while row < GROUPS[group].len() {
            all[command] = GROUPS[group][row];
            all[command].id = CommandId(command as u16);
            // The container's rows again, with their ids.
            let count = all[command].subcommands.len();
            all[command].subcommands = SUBCOMMANDS.split_at(subcommand).1.split_at(count).0;
            subcommand += count;
            command += 1;
            row += 1;
        }
        group += 1;
    }
    all
};

/// The subcommands of all containers, in their order; `SUBCOMMANDS[n]` has the id `COMMANDS.len() + n`.
static SUBCOMMANDS: [Command; COUNTS.1] = {
    let mut all = [GROUPS[0][0]; COUNTS.1];
    let mut next = 0;
    let mut group = 0;
    while group < GROUPS.len() {
        let mut row = 0;
        while row < GROUPS[group].len() {
            let subcommands = GROUPS[group][row].subcommands;
            let mut index = 0;
            while index < subcommands.len() {
                all[next] = subcommands[index];
                all[next].id = CommandId((COUNTS.0 + next) as u16);
                next += 1;
                index += 1;
            }
            row += 1;
        }
        group += 1;
    }
    all
};

/// Every top-level command, grouped by what it is about.
pub static TABLE: &[Command] = &COMMANDS;

impl CommandId {
    /// How many ids there are: they are 0 to `COUNT - 1`.
    pub const COUNT: usize = COUNTS.0 + COUNTS.1;

    /// The row that has this id.
    pub fn command(self) -> &'static Command {
        let id = self.index();
        COMMANDS.get(id).unwrap_or_else(|| &SUBCOMMANDS[id - COMMANDS.len()])
    }
}

/// Slots of the name index, a power of two: few enough to stay in the first-level cache, enough that most look-ups hit at once.
const INDEX_SLOTS: usize = 1024;
const _: () = assert!(INDEX_SLOTS.is_power_of_two() && INDEX_SLOTS >= 4 * COUNTS.0);

/// No command in this slot.
const EMPTY: u16 = u16::MAX;

/// Open addressing by the hash of the name; a slot holds an index into [`COMMANDS`] and [`NAMES`].
static INDEX: [u16; INDEX_SLOTS] = {
    let mut index = [EMPTY; INDEX_SLOTS];
    let mut command = 0;
    while command < COUNTS.0 {
        let mut slot = NAMES[command].slot();
        while index[slot] != EMPTY {
            slot = (slot + 1) % INDEX_SLOTS;
        }
        index[slot] = command as u16;
        command += 1;
    }
    index
};

/// The commands' names, folded.
static NAMES: [Name; COUNTS.0] = {
    let mut names = [Name::fold(b""); COUNTS.0];
    let mut command = 0;
    while command < COUNTS.0 {
        names[command] = Name::fold(COMMANDS[command].name.as_bytes());
        command += 1;
    }
    names
};

/// A name as two words, so that a look-up takes no loop over bytes. Names of up to 16 bytes are equal just when these are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Name {
    len: usize,
    head: u64,
    tail: u64,
}

/// The longest name that its words alone make out.
const WORDS_BYTES_MAX: usize = 16;

impl Name {
    /// As it is spelled.
    #[inline]
    pub(super) const fn spelled(name: &[u8]) -> Name {
        // In each case the words overlap where the name is shorter than both.
        let (head, tail) = if let (Some(head), Some(tail)) = (name.first_chunk(), name.last_chunk()) {
            (u64::from_le_bytes(*head), u64::from_le_bytes(*tail))
        } else if let (Some(head), Some(tail)) = (name.first_chunk(), name.last_chunk()) {
            (u32::from_le_bytes(*head) as u64, u32::from_le_bytes(*tail) as u64)
        } else if let (Some(head), Some(tail)) = (name.first_chunk(), name.last_chunk()) {
            (u16::from_le_bytes(*head) as u64, u16::from_le_bytes(*tail) as u64)
        } else if let [byte] = name {
            (*byte as u64, 0)
        } else {
            (0, 0)
        };
        Name { len: name.len(), head, tail }
    }

    /// Without regard to case.
    #[inline]
    const fn fold(name: &[u8]) -> Name {
        let spelled = Name::spelled(name);
        Name { len: spelled.len, head: to_lower_case(spelled.head), tail: to_lower_case(spelled.tail) }
    }

    /// Whether no other name has the same words.
    pub(super) const fn is_exact(self) -> bool {
        self.len <= WORDS_BYTES_MAX
    }

    /// Where the search for this name starts.
    #[inline]
    const fn slot(self) -> usize {
        let mixed = (self.head ^ self.tail.rotate_left(32) ^ self.len as u64).wrapping_mul(SPREAD);
        (mixed >> (64 - INDEX_SLOTS.ilog2())) as usize
    }
}

/// The one of 20,000 random odd numbers with which the fewest names share a slot, and none of the common ones does.
const SPREAD: u64 = 0xdcfc_00ad_c32e_c0a9;

/// Eight bytes at once in lower case, ASCII letters only.
#[inline]
const fn to_lower_case(bytes: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * ONES;
    // The sums cannot carry from one byte into the next, and set a byte's high bit where its low seven are at least `A`, or beyond `Z`.
    let low = bytes & !HIGH;
    let from_a = low + (0x80 - b'A' as u64) * ONES;
    let beyond_z = low + (0x7f - b'Z' as u64) * ONES;
    let upper = from_a & !beyond_z & !bytes & HIGH;
    bytes | upper >> 2
}

/// The row of a command's name, in any case.
#[inline]
pub fn lookup(name: &[u8]) -> Option<&'static Command> {
    let folded = Name::fold(name);
    let mut slot = folded.slot();
    loop {
        // The index is never full, so the search ends.
        let index = usize::from(INDEX[slot]);
        if *NAMES.get(index)? == folded {
            let command = &COMMANDS[index];
            if name.len() <= WORDS_BYTES_MAX || command.name.as_bytes().eq_ignore_ascii_case(name) {
                return Some(command);
            }
        }
        slot = (slot + 1) % INDEX_SLOTS;
    }
}

/// The row of a container's subcommand, in any case.
pub fn lookup_subcommand(container: &Command, name: &[u8]) -> Option<&'static Command> {
    let prefix = container.name.len() + 1;
    container.subcommands.iter().find(|row| row.name.as_bytes()[prefix..].eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::{BeginSearch, Rule, Way};
    use super::*;

    fn all() -> impl Iterator<Item = &'static Command> {
        CommandId::all().map(CommandId::command)
    }

    #[test]
    fn every_row_is_found_by_its_name_in_any_case() {
        let mixed = |name: &str| -> String {
            name.chars().enumerate().map(|(at, c)| if at % 2 == 0 { c.to_ascii_uppercase() } else { c }).collect()
        };
        for command in TABLE {
            for name in [command.name.to_owned(), command.name.to_uppercase(), mixed(command.name)] {
                assert!(lookup(name.as_bytes()).is_some_and(|found| std::ptr::eq(found, command)), "{name}");
                // Near misses are not found.
                assert_eq!(lookup(format!("{name}~").as_bytes()), None);
                assert_eq!(lookup(format!("{name}\0").as_bytes()), None);
            }
            for row in command.subcommands {
                for name in [row.own_name().to_owned(), row.own_name().to_uppercase(), mixed(row.own_name())] {
                    let found = lookup_subcommand(command, name.as_bytes());
                    assert!(found.is_some_and(|found| std::ptr::eq(found, row)), "{} {name}", command.name);
                }
                assert_eq!(lookup(row.name.as_bytes()), None, "a subcommand is no command");
            }
        }
        for name in [
            "",
            "g",
            "ge",
            "gét",
            "\u{17f}et",
            "get ",
            "g\u{5}t",
            "GEORADIUSBYMEMBER_RO_AND_MORE",
            "georadiusBY_member",
            "@et",
            "[et",
            "{et",
            "gEt\0",
        ] {
            assert_eq!(lookup(name.as_bytes()), None, "{name}");
        }
    }

    #[test]
    fn only_ascii_letters_are_folded() {
        for byte in 0..=u8::MAX {
            for place in 0..8 {
                let mut bytes = [b'~', 0, 0xff, b'@', b'z', b'A', 0x80, b'['];
                bytes[place] = byte;
                assert_eq!(to_lower_case(u64::from_le_bytes(bytes)).to_le_bytes(), bytes.map(|byte| byte.to_ascii_lowercase()));
            }
        }
    }

    #[test]
    fn names_are_unique_and_in_lower_case() {
        let mut names = HashSet::new();
        for command in all() {
            assert!(names.insert(command.name), "{} twice", command.name);
            assert_eq!(command.name, command.name.to_lowercase());
        }
        for container in TABLE {
            for row in container.subcommands {
                assert_eq!(row.name.split_once('|'), Some((container.name, row.own_name())));
                assert!(row.subcommands.is_empty());
            }
        }
    }

    #[test]
    fn ids_are_dense_and_lead_back() {
        for (index, id) in CommandId::all().enumerate() {
            assert_eq!(id.index(), index);
            assert_eq!(id.command().id(), id);
        }
        assert_eq!(TABLE.len() + TABLE.iter().map(|row| row.subcommands.len()).sum::<usize>(), CommandId::COUNT);
    }

    #[test]
    fn a_search_by_name_is_short() {
        let probes = |command: &Command| {
            let start = Name::fold(command.name.as_bytes()).slot();
            (0..).find(|probe| INDEX[(start + probe) % INDEX_SLOTS] == command.id().index() as u16).unwrap() + 1
        };
        let counts: Vec<usize> = TABLE.iter().map(probes).collect();
        assert!(*counts.iter().max().unwrap() <= 4, "{counts:?}");
        for name in ["get", "set", "incr", "hget", "hset", "lpush", "zadd", "expire", "del", "mget", "ping"] {
            assert_eq!(probes(lookup(name.as_bytes()).unwrap()), 1, "{name}");
        }
    }

    #[test]
    fn ways_fit_their_rows() {
        for command in all() {
            // COMMAND is answered with and without a subcommand.
            let container = !command.subcommands.is_empty() && command.name != "command";
            assert_eq!(command.way == Way::Container, container, "{}", command.name);
            match command.way {
                Way::Keyed | Way::Split(_) => assert!(command.may_have_keys(), "{}", command.name),
                Way::AnyNode | Way::AllNodes(_) | Way::Scan | Way::RandomKey | Way::Local | Way::Container => {
                    assert!(!command.may_have_keys(), "{}", command.name);
                }
                Way::Blocking | Way::Transaction | Way::PubSub | Way::Refused => {}
            }
            assert_eq!(command.only_key().is_some(), command.keys.len() == 1 && command.only_key != 0);
            // What no key spec tells needs a rule.
            let unknown = command.keys.iter().any(|spec| spec.begin == BeginSearch::Unknown);
            assert!(!unknown || command.rule != Rule::Specs, "{}", command.name);
        }
    }
}
