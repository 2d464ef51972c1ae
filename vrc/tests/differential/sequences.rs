//! Commands in random order over a few keys of every type, some in one slot and some anywhere: what one leaves behind the next one finds.
//! Some come in one write, so that what is answered over several connections has to be put in order. A seed decides everything.

use crate::{generated::Chance, words};

/// What commands are made of. A lower-case letter behind a `$` is a key of any slot, a capital one of the slot that all capitals have:
/// `s`tring, `n`umber, `l`ist, `e`lements of a set, `h`ash, `z`set, `x` stream, `g`eo, `p`f (HyperLogLog), `a`ny. The rest: see [`word`].
/// Commands that stand in one line go together.
const TEMPLATES: &str = include_str!("sequences.txt");

/// Values, of which most are short.
const VALUES: [&str; 12] =
    ["a", "b", "c", "", "1", "2", "10", "-3", "3.25", "foobar", "\"x y\\r\\n\"", "aGVsbG8gd29ybGQgaGVsbG8gd29ybGQ"];
const MEMBERS: [&str; 6] = ["a", "b", "c", "d", "1", "2"];
const NUMBERS: [&str; 10] = ["0", "1", "2", "3", "-1", "-2", "7", "100", "x", "9223372036854775807"];
const SCORES: [&str; 9] = ["0", "1", "2", "3.5", "-1", "+inf", "-inf", "1e3", "(2"];
const IDS: [&str; 9] = ["1-1", "2-0", "3-*", "5", "7-7", "0", "-", "+", "9-9"];

pub(crate) type Words = Vec<Vec<u8>>;

/// Some commands that are sent in one write.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    /// Of those in one line none can go without the others.
    pub(crate) lines: Vec<Vec<Words>>,
    /// By the second of two clients.
    pub(crate) by_other: bool,
}

impl Step {
    pub(crate) fn commands(&self) -> impl Iterator<Item = &Words> {
        self.lines.iter().flatten()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.commands().flat_map(|command| crate::request(command)).collect()
    }

    /// With a mark if it is the second client's.
    pub(crate) fn shown(&self) -> String {
        let shown = |command: &Words| command.iter().map(|word| crate::escape(word)).collect::<Vec<_>>().join(" ");
        let all = self.commands().map(shown).collect::<Vec<_>>().join(" ; ");
        if self.by_other { format!("(other) {all}") } else { all }
    }

    /// Whether one of these is a word of its commands.
    pub(crate) fn has(&self, words: &[&str]) -> bool {
        self.commands().flatten().any(|word| words.iter().any(|of| of.as_bytes() == word))
    }
}

/// Steps of `count` commands or a few more.
pub(crate) fn steps(seed: u64, count: usize) -> Vec<Step> {
    let templates: Vec<_> = TEMPLATES.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let mut chance = Chance::new(seed);
    let (mut steps, mut made) = (Vec::new(), 0);
    while made < count {
        let count = match chance.below(24) {
            0..16 => 1,
            16..23 => 1 + chance.below(6),
            _ => 40,
        };
        let lines: Vec<Vec<_>> = (0..count)
            .map(|_| chance.one_of(&templates).split(" ; ").map(|template| words(&fill(template, &mut chance))).collect())
            .collect();
        made += lines.iter().map(Vec::len).sum::<usize>();
        steps.push(Step { lines, by_other: chance.below(2) == 0 });
    }
    steps
}

fn fill(template: &str, chance: &mut Chance) -> String {
    template.split(' ').map(|of| word(of, chance)).collect::<Vec<_>>().join(" ")
}

/// `%v` is a value, `%m` a member or field, `%i` a number, `%f` a score, `%d` the id of a stream's entry, `a|b` one of these words.
fn word(template: &str, chance: &mut Chance) -> String {
    match template.split_at_checked(1) {
        Some(("$", kind)) => key(kind, chance),
        Some(("%", kind)) => {
            let choices: &[&str] = match kind {
                "v" => &VALUES,
                "m" => &MEMBERS,
                "i" => &NUMBERS,
                "f" => &SCORES,
                "d" => &IDS,
                other => panic!("%{other}"),
            };
            chance.one_of(choices).to_owned()
        }
        _ if template.contains('|') && !template.starts_with('"') => {
            chance.one_of(&template.split('|').collect::<Vec<_>>()).to_owned()
        }
        _ => template.to_owned(),
    }
}

fn key(kind: &str, chance: &mut Chance) -> String {
    const KINDS: [&str; 9] = ["s", "n", "l", "e", "h", "z", "x", "g", "p"];
    let lower = kind.to_ascii_lowercase();
    // Now and then one of another type.
    let of = if lower == "a" || chance.below(12) == 0 { chance.one_of(&KINDS) } else { &lower };
    let number = chance.below(2);
    if kind != lower || chance.below(2) == 0 { format!("{{q}}{of}{number}") } else { format!("{of}:{number}") }
}

#[test]
fn a_seed_decides_everything() {
    let shown = |seed| steps(seed, 300).iter().map(Step::shown).collect::<Vec<_>>();
    assert_eq!(shown(7), shown(7));
    assert_ne!(shown(7), shown(8));
    assert!(shown(7).iter().all(|step| !step.contains('$') && !step.contains('%')));
}
