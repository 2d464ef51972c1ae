//! Merges the replies of a request's parts into the one reply that a single redis would have given.
//!
//! A failed part fails the whole: its error is the reply, never a short or shifted result.

use std::{collections::HashSet, fmt};

use crate::{
    command::{Merge, Split},
    resp::{ReplyFramer, array, array_elements, encode, parse_integer, short_value},
};

/// How the parts' replies become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    ByKey,
    Sum,
    Min,
    Max,
    Concat,
    SumPairs,
    And,
    First,
    /// As [`Rule::Concat`], but each element once.
    Distinct,
    /// `SCAN`: one part, whose cursor is replaced.
    Scan,
    /// One value that is not null, from part `number` on in turn.
    AnyValue,
    /// As the first, and errors only count if there is nothing else.
    AnyOk,
    /// All replies, errors among them, by part.
    Gather,
}

/// See [`Join::start_scan`].
struct NextCursor(Box<dyn Fn(u64) -> u64>);

impl fmt::Debug for NextCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NextCursor")
    }
}

/// See [`Join::start_gather`].
struct Combine(Box<CombineReplies>);

type CombineReplies = dyn FnOnce(&[&[u8]], &mut Vec<u8>);

impl fmt::Debug for Combine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Combine")
    }
}

/// Buffers larger than this are given back once the reply is made, so that one large reply is not paid for for ever.
const KEEP_BYTES: usize = 64 * 1024;

/// Gathers the replies of one request's parts. Made to be used again: the buffers are kept.
#[derive(Debug)]
pub struct Join {
    rule: Rule,
    parts_left: u32,
    part_count: u16,
    /// [`Rule::ByKey`]: which part each key went to.
    part_of_key: Vec<u16>,
    /// [`Rule::ByKey`]: where each part's next element is in `bytes`, and how many keys the part has. [`Rule::AnyValue`], [`Rule::SumPairs`]: replies and names there,
    /// as (start, length).
    elements: Vec<(u32, u32)>,
    /// Elements, or the first reply.
    bytes: Vec<u8>,
    /// Sum, least or greatest so far; number of elements for [`Rule::Concat`].
    number: i64,
    /// [`Rule::And`] over arrays, and the sums of [`Rule::SumPairs`].
    numbers: Vec<i64>,
    /// See [`Join::correct_by`].
    corrections: Vec<i64>,
    /// [`Rule::Scan`]: the client's cursor for a node's.
    next_cursor: Option<NextCursor>,
    /// [`Rule::Gather`]: what makes one reply of all.
    combine: Option<Combine>,
    /// See [`Join::start_acting`].
    acts: bool,
    /// Type byte of the first reply that was no error; 0 before it came.
    kind: u8,
    error: Vec<u8>,
}

impl Default for Join {
    fn default() -> Self {
        Join {
            rule: Rule::First,
            parts_left: 0,
            part_count: 0,
            part_of_key: Vec::new(),
            elements: Vec::new(),
            bytes: Vec::new(),
            number: 0,
            numbers: Vec::new(),
            corrections: Vec::new(),
            next_cursor: None,
            combine: None,
            acts: false,
            kind: 0,
            error: Vec::new(),
        }
    }
}

impl Join {
    /// Starts over for a request that was split into `parts`, key by key.
    pub fn start_split(&mut self, split: Split, parts: usize, part_of_key: &[u16]) {
        self.start(
            match split {
                Split::ArrayByKey => Rule::ByKey,
                Split::SumByKey => Rule::Sum,
                Split::OkByPair => Rule::First,
            },
            parts,
        );
        self.part_of_key.extend_from_slice(part_of_key);
        if self.rule == Rule::ByKey {
            self.elements.resize(parts, (0, 0));
            part_of_key.iter().for_each(|part| self.elements[usize::from(*part)].1 += 1);
        }
    }

    /// How many parts have not replied.
    pub fn parts_left(&self) -> usize {
        self.parts_left as usize
    }

    /// Starts over for a request that went to `parts` nodes whole.
    pub fn start_all(&mut self, merge: Merge, parts: usize) {
        self.start(
            match merge {
                Merge::AllOk | Merge::First => Rule::First,
                Merge::OneOk => Rule::AnyOk,
                Merge::Sum => Rule::Sum,
                Merge::Min => Rule::Min,
                Merge::Max => Rule::Max,
                Merge::Concat => Rule::Concat,
                Merge::Distinct => Rule::Distinct,
                Merge::SumPairs => Rule::SumPairs,
                Merge::And => Rule::And,
            },
            parts,
        );
    }

    /// What is to be added to each sum in turn, where that is not 0; nothing sinks below 0. For counts in which each of several that
    /// share one subscription is to be counted.
    pub fn correct_by(&mut self, corrections: impl IntoIterator<Item = i64>) {
        self.corrections.extend(corrections);
    }

    /// Starts over for a SCAN of one node: `next_cursor` makes of that node's cursor the one that the client gets.
    pub fn start_scan(&mut self, next_cursor: impl Fn(u64) -> u64 + 'static) {
        self.start(Rule::Scan, 1);
        self.next_cursor = Some(NextCursor(Box::new(next_cursor)));
    }

    /// Starts over for a request that went to `parts` nodes whole, of which one reply that is not null is wanted: the first of part
    /// `first` and those after it in turn.
    pub fn start_any_value(&mut self, parts: usize, first: usize) {
        self.start(Rule::AnyValue, parts);
        self.number = first as i64;
        self.elements.resize(parts, (0, 0));
    }

    /// Starts over for a request whose replies `combine` makes one of: it is handed all of them by part, errors too, and an empty one
    /// for a part whose reply could not be kept.
    pub fn start_gather(&mut self, parts: usize, combine: impl FnOnce(&[&[u8]], &mut Vec<u8>) + 'static) {
        self.start(Rule::Gather, parts);
        self.elements.resize(parts, (0, 0));
        self.combine = Some(Combine(Box::new(combine)));
    }

    /// As [`Join::start_gather`], where `combine` does more than to make a reply: it is to be called even if nobody wants that.
    pub fn start_acting(&mut self, parts: usize, combine: impl FnOnce(&[&[u8]], &mut Vec<u8>) + 'static) {
        self.start_gather(parts, combine);
        self.acts = true;
    }

    /// Whether something is to be done once all parts have replied, whoever waits for that.
    pub fn acts(&self) -> bool {
        self.acts
    }

    fn start(&mut self, rule: Rule, parts: usize) {
        self.rule = rule;
        self.parts_left = parts as u32;
        self.part_count = parts as u16;
        self.part_of_key.clear();
        self.elements.clear();
        self.bytes.clear();
        self.number = 0;
        self.numbers.clear();
        self.corrections.clear();
        self.kind = 0;
        self.error.clear();
    }

    /// Takes one part's reply, whole. Returns whether it was the last.
    pub fn add(&mut self, part: u16, reply: &[u8]) -> bool {
        debug_assert!(self.parts_left > 0);
        if self.rule == Rule::Gather {
            // One that cannot be kept stays empty, which says as much.
            let _ = self.take(part, reply);
        } else if matches!(reply.first(), Some(b'-' | b'!')) {
            self.fail(reply);
        } else if (self.error.is_empty() || self.rule == Rule::AnyOk) && self.take(part, reply).is_none() {
            self.fail(b"-ERR a node's reply to a part of this command had an unexpected form\r\n");
        }
        self.parts_left -= 1;
        self.parts_left == 0
    }

    /// Part `part` never was sent, and its keys have new owners: `parts` new parts take its place, `part_of_key` gives for each of
    /// its keys in order which one (counted from 0). Returns the number of the first new part.
    pub fn replace(&mut self, part: u16, parts: usize, part_of_key: &[u16]) -> u16 {
        let base = self.part_count;
        self.part_count += parts as u16;
        self.parts_left += parts as u32 - 1;
        if self.rule == Rule::ByKey {
            self.elements.resize(usize::from(self.part_count), (0, 0));
            part_of_key.iter().for_each(|new| self.elements[usize::from(base + new)].1 += 1);
        }
        let keys = self.part_of_key.iter_mut().filter(|of| **of == part);
        for (of, new) in keys.zip(part_of_key) {
            *of = base + new;
        }
        base
    }

    /// Appends the one reply, after [`Join::add`] said that it was the last.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.write(out);
        self.trim();
    }

    /// Likewise where nobody wants the reply.
    pub fn finish_unread(&mut self) {
        if self.acts {
            self.write(&mut Vec::new());
        }
        self.trim();
    }

    /// Bytes of the replies that have come, as far as they have to be kept.
    pub fn held_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Gives back what is more than the next request is likely to need. To be called also on a join that is given up.
    pub fn trim(&mut self) {
        self.combine = None;
        self.acts = false;
        self.bytes.clear();
        self.bytes.shrink_to(KEEP_BYTES);
        self.elements.clear();
        self.elements.shrink_to(KEEP_BYTES / size_of::<(u32, u32)>());
        self.part_of_key.clear();
        self.part_of_key.shrink_to(KEEP_BYTES / size_of::<u16>());
    }

    fn write(&mut self, out: &mut Vec<u8>) {
        let succeeded = self.error.is_empty() || (self.rule == Rule::AnyOk && self.kind != 0);
        if !succeeded {
            out.extend_from_slice(&self.error);
            return;
        }
        match self.rule {
            Rule::ByKey => {
                out.reserve(self.bytes.len() + 16);
                encode::array(out, self.part_of_key.len());
                for part in &self.part_of_key {
                    let (next, _) = &mut self.elements[usize::from(*part)];
                    let rest = &self.bytes[*next as usize..];
                    let len = short_value(rest).unwrap_or_else(|| whole_value(rest));
                    out.extend_from_slice(&rest[..len]);
                    *next += len as u32;
                }
            }
            Rule::Sum => encode::integer(out, self.corrected(self.number, 0)),
            Rule::Min | Rule::Max => encode::integer(out, self.number),
            Rule::Distinct => {
                // In the order in which they came first.
                let mut seen = HashSet::new();
                let elements = self.elements.iter().map(|&(start, len)| &self.bytes[start as usize..(start + len) as usize]);
                let distinct: Vec<_> = elements.filter(|element| seen.insert(*element)).collect();
                encode::header(out, self.kind, distinct.len());
                distinct.into_iter().for_each(|element| out.extend_from_slice(element));
            }
            Rule::Concat => {
                encode::header(out, self.kind, self.number as usize);
                out.extend_from_slice(&self.bytes);
            }
            Rule::Scan => out.extend_from_slice(&self.bytes),
            Rule::Gather => {
                let replies: Vec<_> =
                    self.elements.iter().map(|&(start, len)| &self.bytes[start as usize..(start + len) as usize]).collect();
                if let Some(Combine(combine)) = self.combine.take() {
                    combine(&replies, out);
                }
            }
            Rule::AnyValue => {
                let replies = |at: usize| {
                    let (start, len) = self.elements[at % self.elements.len()];
                    &self.bytes[start as usize..(start + len) as usize]
                };
                let first = self.number as usize;
                let found =
                    (first..first + self.elements.len()).map(replies).find(|reply| !matches!(*reply, b"$-1\r\n" | b"_\r\n"));
                out.extend_from_slice(found.unwrap_or_else(|| replies(first)));
            }
            Rule::SumPairs => {
                encode::array(out, self.numbers.len() * 2);
                for (at, (&(start, len), &number)) in self.elements.iter().zip(&self.numbers).enumerate() {
                    out.extend_from_slice(&self.bytes[start as usize..(start + len) as usize]);
                    encode::integer(out, self.corrected(number, at));
                }
            }
            Rule::And if self.kind == b':' => encode::integer(out, self.number),
            Rule::And => {
                encode::array(out, self.numbers.len());
                for &number in &self.numbers {
                    encode::integer(out, number);
                }
            }
            Rule::First | Rule::AnyOk => out.extend_from_slice(&self.bytes),
        }
    }

    fn corrected(&self, sum: i64, at: usize) -> i64 {
        let correction = self.corrections.get(at).copied().unwrap_or(0);
        if sum == 0 { 0 } else { sum.saturating_add(correction).max(0) }
    }

    fn fail(&mut self, error: &[u8]) {
        // Where one answer is enough, those who were not meant have the least to say.
        if self.error.is_empty() || (self.rule == Rule::AnyOk && self.error.starts_with(b"-NOTBUSY")) {
            self.error.clear();
            self.error.extend_from_slice(error);
        }
    }

    /// Takes a reply that is no error; `None` if it has not the form that the rule needs.
    fn take(&mut self, part: u16, reply: &[u8]) -> Option<()> {
        let first = self.kind == 0;
        if first {
            self.kind = *reply.first()?;
        }
        match self.rule {
            Rule::ByKey => {
                let (count, elements) = array(reply)?;
                // The offsets of all elements must fit.
                u32::try_from(self.bytes.len() + elements.len()).ok()?;
                let (next, keys) = self.elements.get_mut(usize::from(part))?;
                *next = self.bytes.len() as u32;
                self.bytes.extend_from_slice(elements);
                (count == *keys as usize).then_some(())
            }
            Rule::Sum => self.fold(first, integer(reply)?, |a, b| a.saturating_add(b)),
            Rule::Min => self.fold(first, integer(reply)?, i64::min),
            Rule::Max => self.fold(first, integer(reply)?, i64::max),
            Rule::Concat => {
                for element in array_elements(reply)? {
                    self.number += 1;
                    self.bytes.extend_from_slice(element);
                }
                Some(())
            }
            Rule::Distinct => {
                for element in array_elements(reply)? {
                    self.elements.push((u32::try_from(self.bytes.len()).ok()?, u32::try_from(element.len()).ok()?));
                    self.bytes.extend_from_slice(element);
                }
                Some(())
            }
            Rule::Scan => {
                let mut elements = array_elements(reply)?;
                let cursor = elements.next()?.strip_prefix(b"$")?.split(|byte| *byte == b'\n').nth(1)?.strip_suffix(b"\r")?;
                let cursor: u64 = std::str::from_utf8(cursor).ok()?.parse().ok()?;
                let cursor = (self.next_cursor.take()?.0)(cursor);
                encode::array(&mut self.bytes, 2);
                encode::bulk(&mut self.bytes, cursor.to_string().as_bytes());
                self.bytes.extend_from_slice(elements.next()?);
                Some(())
            }
            Rule::AnyValue | Rule::Gather => {
                *self.elements.get_mut(usize::from(part))? =
                    (u32::try_from(self.bytes.len()).ok()?, u32::try_from(reply.len()).ok()?);
                self.bytes.extend_from_slice(reply);
                Some(())
            }
            Rule::SumPairs => {
                let mut elements = array_elements(reply)?;
                let mut pair = 0;
                while let Some(name) = elements.next() {
                    let number = integer(elements.next()?)?;
                    if first {
                        self.elements.push((u32::try_from(self.bytes.len()).ok()?, u32::try_from(name.len()).ok()?));
                        self.bytes.extend_from_slice(name);
                        self.numbers.push(number);
                    } else {
                        let sum = self.numbers.get_mut(pair)?;
                        *sum = sum.saturating_add(number);
                    }
                    pair += 1;
                }
                (pair == self.numbers.len()).then_some(())
            }
            Rule::And => match self.kind {
                b':' => self.fold(first, integer(reply)?, i64::min),
                _ => {
                    let numbers: Vec<i64> = array_elements(reply)?.map(integer).collect::<Option<_>>()?;
                    if first {
                        self.numbers = numbers;
                        return Some(());
                    }
                    if numbers.len() != self.numbers.len() {
                        return None;
                    }
                    self.numbers.iter_mut().zip(numbers).for_each(|(a, b)| *a = (*a).min(b));
                    Some(())
                }
            },
            Rule::First | Rule::AnyOk => {
                if first {
                    self.bytes.extend_from_slice(reply);
                }
                Some(())
            }
        }
    }

    fn fold(&mut self, first: bool, number: i64, with: impl Fn(i64, i64) -> i64) -> Option<()> {
        self.number = if first { number } else { with(self.number, number) };
        Some(())
    }
}

/// The length of an element that was whole when it came.
fn whole_value(bytes: &[u8]) -> usize {
    let Ok(Some(len)) = ReplyFramer::default().advance(bytes) else { unreachable!("framed before") };
    len
}

/// The number of an integer reply.
fn integer(reply: &[u8]) -> Option<i64> {
    parse_integer(reply.strip_prefix(b":")?.strip_suffix(b"\r\n")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(rule: Split, part_of_key: &[u16], replies: &[(u16, &str)]) -> String {
        let mut join = Join::default();
        let parts = part_of_key.iter().max().unwrap() + 1;
        join.start_split(rule, usize::from(parts), part_of_key);
        finish(join, replies)
    }

    fn all(rule: Merge, replies: &[&str]) -> String {
        let mut join = Join::default();
        join.start_all(rule, replies.len());
        finish(join, &replies.iter().enumerate().map(|(part, reply)| (part as u16, *reply)).collect::<Vec<_>>())
    }

    fn finish(mut join: Join, replies: &[(u16, &str)]) -> String {
        for (index, (part, reply)) in replies.iter().enumerate() {
            assert_eq!(join.add(*part, reply.as_bytes()), index + 1 == replies.len());
        }
        let mut out = Vec::new();
        join.finish(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn arrays_come_in_the_order_of_the_keys_whichever_part_is_first() {
        let replies = [(1, "*1\r\n$1\r\nb\r\n"), (0, "*2\r\n$1\r\na\r\n$-1\r\n")];
        assert_eq!(split(Split::ArrayByKey, &[0, 1, 0], &replies), "*3\r\n$1\r\na\r\n$1\r\nb\r\n$-1\r\n");
    }

    #[test]
    fn a_failed_part_fails_the_whole() {
        for rule in [Split::ArrayByKey, Split::SumByKey, Split::OkByPair] {
            let good = match rule {
                Split::ArrayByKey => "*1\r\n$1\r\nb\r\n",
                Split::SumByKey => ":1\r\n",
                Split::OkByPair => "+OK\r\n",
            };
            assert_eq!(split(rule, &[0, 1], &[(1, "-OOM no\r\n"), (0, good)]), "-OOM no\r\n");
            assert_eq!(split(rule, &[0, 1], &[(1, good), (0, "-OOM no\r\n")]), "-OOM no\r\n");
        }
        assert!(split(Split::ArrayByKey, &[0, 0, 1], &[(0, "*1\r\n:1\r\n"), (1, "*1\r\n:1\r\n")]).starts_with("-ERR"));
        assert!(split(Split::SumByKey, &[0, 1], &[(0, "$1\r\n1\r\n"), (1, ":1\r\n")]).starts_with("-ERR"));
    }

    #[test]
    fn numbers() {
        assert_eq!(split(Split::SumByKey, &[0, 1, 1], &[(0, ":1\r\n"), (1, ":2\r\n")]), ":3\r\n");
        assert_eq!(all(Merge::Sum, &[":1\r\n", ":0\r\n", ":5\r\n"]), ":6\r\n");
        assert_eq!(all(Merge::Min, &[":4\r\n", ":2\r\n"]), ":2\r\n");
        assert_eq!(all(Merge::Max, &[":4\r\n", ":9\r\n"]), ":9\r\n");
        assert_eq!(all(Merge::And, &["*2\r\n:1\r\n:1\r\n", "*2\r\n:1\r\n:0\r\n"]), "*2\r\n:1\r\n:0\r\n");
        assert_eq!(all(Merge::And, &["*0\r\n", "*0\r\n"]), "*0\r\n");
    }

    #[test]
    fn whole_replies() {
        assert_eq!(all(Merge::AllOk, &["+OK\r\n", "+OK\r\n"]), "+OK\r\n");
        assert_eq!(all(Merge::AllOk, &["+OK\r\n", "-ERR no\r\n"]), "-ERR no\r\n");
        assert_eq!(all(Merge::Concat, &["*1\r\n$1\r\na\r\n", "*0\r\n", "*1\r\n$1\r\nb\r\n"]), "*2\r\n$1\r\na\r\n$1\r\nb\r\n");
        let pairs = ["*4\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n:0\r\n", "*4\r\n$1\r\na\r\n:0\r\n$1\r\nb\r\n:3\r\n"];
        assert_eq!(all(Merge::SumPairs, &pairs), "*4\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n:3\r\n");
        let most = "*2\r\n$1\r\na\r\n:9223372036854775807\r\n";
        assert_eq!(all(Merge::SumPairs, &[most, most]), most);
        assert_eq!(all(Merge::OneOk, &["-NOTBUSY no\r\n", "+OK\r\n", "-NOTBUSY no\r\n"]), "+OK\r\n");
        assert_eq!(all(Merge::OneOk, &["-NOTBUSY no\r\n", "-UNKILLABLE no\r\n", "-NOTBUSY no\r\n"]), "-UNKILLABLE no\r\n");
        assert_eq!(all(Merge::Concat, &["~1\r\n$1\r\na\r\n", "~0\r\n"]), "~1\r\n$1\r\na\r\n");
    }

    #[test]
    fn a_scan_gets_the_clients_cursor() {
        let mut join = Join::default();
        join.start_scan(|cursor| cursor * 100 + 7);
        assert!(join.add(0, b"*2\r\n$2\r\n17\r\n*1\r\n$1\r\nk\r\n"));
        let mut out = Vec::new();
        join.finish(&mut out);
        assert_eq!(out, b"*2\r\n$4\r\n1707\r\n*1\r\n$1\r\nk\r\n");
    }

    #[test]
    fn a_large_reply_is_not_kept() {
        let mut join = Join::default();
        join.start_split(Split::ArrayByKey, 1, &[0; 100_000]);
        assert!(join.add(0, format!("*100000\r\n{}", "$3\r\nabc\r\n".repeat(100_000)).as_bytes()));
        join.finish(&mut Vec::new());
        assert!(
            [join.bytes.capacity(), join.elements.capacity() * 8, join.part_of_key.capacity() * 2]
                .iter()
                .all(|n| *n <= KEEP_BYTES)
        );
    }

    #[test]
    fn a_random_key_is_one_that_there_is() {
        for (first, expect) in [(0, "$1\r\na\r\n"), (1, "$1\r\nb\r\n"), (2, "$1\r\nb\r\n"), (3, "$1\r\na\r\n")] {
            let mut join = Join::default();
            join.start_any_value(4, first);
            join.add(2, b"$1\r\nb\r\n");
            join.add(1, b"$-1\r\n");
            join.add(0, b"$1\r\na\r\n");
            assert!(join.add(3, b"$-1\r\n"));
            let mut out = Vec::new();
            join.finish(&mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expect);
        }
    }

    #[test]
    fn gathered_replies_come_by_part_and_errors_too() {
        let mut join = Join::default();
        join.start_gather(3, |replies, out| out.extend_from_slice(&replies.join(&b"|"[..])));
        assert!(!join.add(2, b":2\r\n") && !join.add(0, b"-ERR no\r\n"));
        assert!(join.add(1, b":1\r\n"));
        let mut out = Vec::new();
        join.finish(&mut out);
        assert_eq!(out, b"-ERR no\r\n|:1\r\n|:2\r\n");
    }

    #[test]
    fn a_part_given_out_anew_keeps_the_order() {
        let mut join = Join::default();
        join.start_split(Split::ArrayByKey, 2, &[0, 1, 0, 0]);
        assert!(!join.add(1, b"*1\r\n:2\r\n"));
        let base = join.replace(0, 2, &[1, 0, 1]);
        assert!(!join.add(base, b"*1\r\n:3\r\n"));
        assert!(join.add(base + 1, b"*2\r\n:1\r\n:4\r\n"));
        let mut out = Vec::new();
        join.finish(&mut out);
        assert_eq!(out, b"*4\r\n:1\r\n:2\r\n:3\r\n:4\r\n");
    }
}
