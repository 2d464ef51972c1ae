//! Requests made from the command table: each command with too few and too many arguments, and each command that has keys with
//! keys of every type and arguments that mostly make no sense. The same ones in every run.

use vrc_cluster::{
    command::{Command, Flags, TABLE, Way, find_keys},
    resp::{ArgRange, Args},
};

/// How many requests are made of each command that has keys, for each number of arguments.
const VARIANTS: usize = 12;
/// Numbers of arguments beyond the least that it takes.
const MORE_ARGUMENTS: usize = 4;

/// Keys of every type, all in one slot.
const KEYS: [&str; 10] =
    ["{g}string", "{g}number", "{g}list", "{g}set", "{g}numbers", "{g}hash", "{g}zset", "{g}stream", "{g}geo", "{g}nothing"];

/// Makes the keys as they are before each request.
const FIXTURES: &str = "DEL {g}string {g}number {g}list {g}set {g}numbers {g}hash {g}zset {g}stream {g}geo {g}nothing
SET {g}string abc
SET {g}number 42
RPUSH {g}list a b c 1 2
SADD {g}set a b c
SADD {g}numbers 1 2 3
HSET {g}hash a 1 b two
ZADD {g}zset 1 a 2 b 3.5 c
XADD {g}stream 1-1 a 1
XADD {g}stream 1-2 b 2
GEOADD {g}geo 13.361389 38.115556 Palermo 15.087269 37.502669 Catania
";

/// Arguments that commands may or may not take.
const ARGUMENTS: [&str; 40] = [
    "0",
    "1",
    "2",
    "-1",
    "7",
    "3.5",
    "a",
    "b",
    "",
    "(1",
    "[a",
    "-",
    "+",
    "-inf",
    "+inf",
    "nan",
    "1-1",
    "0-0",
    "$",
    ">",
    "m",
    "km",
    "LEFT",
    "RIGHT",
    "BEFORE",
    "COUNT",
    "LIMIT",
    "WITHSCORES",
    "GET",
    "NX",
    "XX",
    "STORE",
    "AND",
    "NOT",
    "AGGREGATE",
    "MAX",
    "BYSCORE",
    "REV",
    "9223372036854775807",
    "99999999999999999999",
];

/// Commands whose answer no two servers need to agree on: they pick by chance or tell the time.
const UNPREDICTABLE: [&str; 16] = [
    "spop",
    "srandmember",
    "hrandfield",
    "zrandmember",
    "pttl",
    "ttl",
    "expiretime",
    "pexpiretime",
    "object|idletime",
    "object|freq",
    "xpending",
    "xautoclaim",
    "xclaim",
    "xinfo|consumers",
    "xinfo|stream",
    "memory|usage",
];

pub(crate) struct Case {
    pub(crate) words: Vec<Vec<u8>>,
    pub(crate) may_write: bool,
}

pub(crate) fn fixtures() -> Vec<u8> {
    FIXTURES.lines().flat_map(|line| crate::request(&crate::words(line))).collect()
}

/// All cases in turn. The first ones make the keys.
pub(crate) struct Generator;

impl Generator {
    #[allow(clippy::new_ret_no_self)]
    pub(crate) fn new() -> impl Iterator<Item = Case> {
        let mut cases: Vec<_> = FIXTURES.lines().map(|line| Case { words: crate::words(line), may_write: false }).collect();
        let mut chance = Chance(42);
        for command in TABLE {
            cases.extend(of_command(command, &[command.name], &mut chance));
            for subcommand in command.subcommands {
                cases.extend(of_command(subcommand, &[command.name, subcommand.own_name()], &mut chance));
            }
            if !command.subcommands.is_empty() {
                for nonsense in [&["NONSENSE"][..], &["NONSENSE", "a", "b"], &[""]] {
                    let words = [&[command.name], nonsense].concat();
                    cases.push(Case { words: bytes(&words), may_write: false });
                }
            }
        }
        for words in [&["NONSENSE"][..], &["nonsense", "a", "b c", "\r\n"], &["", "a"], &["get|x", "k"], &["config|get", "x"]] {
            cases.push(Case { words: bytes(words), may_write: false });
        }
        cases.into_iter()
    }
}

fn of_command(command: &'static Command, name: &[&str], chance: &mut Chance) -> Vec<Case> {
    let mut cases = Vec::new();
    let least = usize::from(command.arity.unsigned_abs());
    // Numbers of arguments that it does not take. Of a container that is only its name alone: what follows is a subcommand.
    let most = if command.subcommands.is_empty() { least + 2 } else { 1 };
    for count in name.len()..=most {
        if !command.accepts_argc(count) {
            let words = name.iter().copied().chain(std::iter::repeat("{g}string")).take(count).collect::<Vec<_>>();
            cases.push(Case { words: bytes(&words), may_write: false });
        }
    }
    let has_keys = matches!(command.way, Way::Keyed | Way::Split(_)) && command.may_have_keys();
    if has_keys && !UNPREDICTABLE.contains(&command.name) {
        for count in (least..=least + MORE_ARGUMENTS).filter(|count| command.accepts_argc(*count)) {
            cases.extend((0..VARIANTS).filter_map(|_| nonsense(command, name, count, chance)));
        }
    }
    cases
}

/// A request with keys of some type where keys belong and anything elsewhere; `None` where other arguments turned out to be keys.
fn nonsense(command: &Command, name: &[&str], count: usize, chance: &mut Chance) -> Option<Case> {
    let mut words = bytes(name);
    words.extend((name.len()..count).map(|_| chance.one_of(&ARGUMENTS).as_bytes().to_vec()));
    // What counts as a key may depend on the other arguments, and so on what was a key before.
    for _ in 0..3 {
        for index in keys_of(command, &words) {
            if !words[index].starts_with(b"{g}") {
                words[index] = chance.one_of(&KEYS).as_bytes().to_vec();
            }
        }
    }
    let all_ours = keys_of(command, &words).into_iter().all(|index| words[index].starts_with(b"{g}"));
    // An id that the server makes from the time differs.
    let tells_time = command.name == "xadd" && words.iter().any(|word| word == b"*");
    (all_ours && !tells_time)
        .then(|| Case { words, may_write: command.flags.contains(Flags::WRITE) || command.name.contains("eval") })
}

fn keys_of(command: &Command, words: &[Vec<u8>]) -> Vec<usize> {
    let all = words.concat();
    let mut at = 0;
    let ranges: Vec<_> = words
        .iter()
        .map(|word| {
            let range = ArgRange { start: at, len: word.len() as u32 };
            at += range.len;
            range
        })
        .collect();
    let mut keys = Vec::new();
    // A request whose keys cannot be found is a case of its own: redis has an error for it.
    let _ = find_keys(command, Args::new(&all, &ranges), &mut keys);
    keys.into_iter().map(|index| index as usize).collect()
}

fn bytes(words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

/// A small generator of numbers (xorshift), the same in every run.
pub(crate) struct Chance(u64);

impl Chance {
    /// Seeds that are close to each other give numbers that are not.
    pub(crate) fn new(seed: u64) -> Self {
        Chance((seed.wrapping_add(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    pub(crate) fn one_of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len())]
    }
}
