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

/// Open addressing by the hash of the name; a slot holds an index into [`COMMANDS`].
static INDEX: [u16; INDEX_SLOTS] = {
    let mut index = [EMPTY; INDEX_SLOTS];
    let mut group = 0;
    let mut command = 0;
    while group < GROUPS.len() {
        let mut row = 0;
        while row < GROUPS[group].len() {
            let mut slot = slot(GROUPS[group][row].name.as_bytes());
            while index[slot] != EMPTY {
                slot = (slot + 1) % INDEX_SLOTS;
            }
            index[slot] = command;
            command += 1;
            row += 1;
        }
        group += 1;
    }
    index
};

/// The one of 20,000 random odd numbers with which the fewest names share a slot, and none of the common ones does.
const SPREAD: u64 = 0xe7d1_db1d_34c6_5609;

/// Where the search for a name starts. Names that differ only in case start at the same slot, and some others do too: it only has to
/// be cheap and to tell the commands apart, so it looks at the length and at four bytes from either end.
#[inline]
const fn slot(name: &[u8]) -> usize {
    let (head, tail) = match (name.first_chunk(), name.last_chunk()) {
        (Some(head), Some(tail)) => (u32::from_le_bytes(*head), u32::from_le_bytes(*tail)),
        _ => match name {
            [a, b, c] => (u32::from_le_bytes([*a, *b, *c, 0]), 0),
            // No command's name is shorter.
            _ => (0, 0),
        },
    };
    const LOWER_CASE: u64 = 0x2020_2020_2020_2020;
    let bytes = ((tail as u64) << 32 | head as u64) | LOWER_CASE;
    ((bytes ^ name.len() as u64).wrapping_mul(SPREAD) >> (64 - INDEX_SLOTS.ilog2())) as usize
}

/// The row of a command's name, in any case.
#[inline]
pub fn lookup(name: &[u8]) -> Option<&'static Command> {
    let mut slot = slot(name);
    loop {
        // The index is never full, so the search ends.
        let command = COMMANDS.get(INDEX[slot] as usize)?;
        if command.name.as_bytes().eq_ignore_ascii_case(name) {
            return Some(command);
        }
        slot = (slot + 1) % INDEX_SLOTS;
    }
}

/// The row of a container's subcommand, in any case.
pub fn lookup_subcommand(container: &Command, name: &[u8]) -> Option<&'static Command> {
    container.subcommands.iter().find(|row| row.own_name().as_bytes().eq_ignore_ascii_case(name))
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
        for name in ["", "g", "ge", "gét", "\u{17f}et", "get ", "g\u{5}t", "GEORADIUSBYMEMBER_RO_AND_MORE"] {
            assert_eq!(lookup(name.as_bytes()), None, "{name}");
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
            let start = slot(command.name.as_bytes());
            (0..).find(|probe| INDEX[(start + probe) % INDEX_SLOTS] == command.id().index() as u16).unwrap() + 1
        };
        let counts: Vec<usize> = TABLE.iter().map(probes).collect();
        assert!(*counts.iter().max().unwrap() <= 2, "{counts:?}");
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
