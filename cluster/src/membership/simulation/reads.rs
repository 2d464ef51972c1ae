//! What clients must never read, checked from what they did and saw, and from where each proxy looked for each key. It knows nothing of the world.
//!
//! A key has one writer, which counts its writes; a value is the number of its write. While all proxies look for the key in
//! the same place, from the beginning of a command to its end, a read never gives a value that had been replaced before it
//! began: by an acknowledged write, deletion or flush, by what another read gave, or by there being nothing any more.
//! A write that failed may still be done late, until a read has shown it done and a later write has been acknowledged.
//!
//! A cache may lose what it has, but not for nothing: what was seen in a place is gone only if a client may have deleted it, if the place
//! is another now, or if something was done to the node since that may cost it keys. A purge may not: it takes what is not at home.

use std::collections::BTreeMap;

use super::checker::Violation;

/// Keys that clients use.
pub(super) const KEYS: usize = 6;

/// Where a key is kept: which node, and whether as a guest.
pub(super) type Place = (u8, bool);

/// Where a proxy looks for each key.
pub(super) type Places = [Option<Place>; KEYS];

/// Number of a write, from 1; as a value, 0 is none.
pub(super) type Seq = u32;

/// What was so when a command began.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Began {
    at_ms: u64,
    floor: Floor,
    /// The last write that was acknowledged by then.
    acknowledged: Seq,
}

/// Values of writes before `least` are replaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Floor {
    least: Seq,
    /// The value of write `least` itself was seen there.
    present: bool,
    /// When the last command began of those by which that is known.
    seen_ms: u64,
}

#[derive(Default)]
struct Key {
    /// Since when all proxies have looked for it in the same place.
    agreed_since_ms: Option<u64>,
    writes: Vec<Write>,
    floor: Floor,
    acknowledged: Seq,
}

struct Write {
    began: Began,
    deletes: bool,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    UnderWay,
    Done,
    Failed,
    /// It failed, and then a read gave its value.
    Shown {
        at_ms: u64,
    },
    /// And then a later write was acknowledged.
    Settled {
        at_ms: u64,
    },
}

/// How a write ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Done,
    /// An error; it may be done yet.
    Failed,
    /// It was acknowledged, but by a map that should have been left by then, and may turn up again as if it had failed.
    Strayed,
}

/// Sees all commands of clients.
#[derive(Default)]
pub(super) struct Reads {
    readers: Vec<Option<Places>>,
    keys: [Key; KEYS],
    /// No node ever fails: what is there stays there.
    nothing_is_lost: bool,
    /// When something last befell each node that may have cost it keys.
    lost_ms: BTreeMap<u8, u64>,
    /// Reads that were judged.
    pub(super) judged: usize,
}

impl Reads {
    /// The last of the readers stands for the map that was published last: a proxy that is alone with an older one agrees with nobody.
    pub(super) fn new(readers: usize, nothing_is_lost: bool) -> Self {
        Reads { readers: vec![None; readers], nothing_is_lost, ..Reads::default() }
    }

    /// A proxy looks for keys there from now on; nowhere if it has no map.
    pub(super) fn looks(&mut self, reader: usize, places: Option<Places>, now_ms: u64) {
        let before = std::mem::replace(&mut self.readers[reader], places);
        for (index, key) in self.keys.iter_mut().enumerate() {
            let place = |places: &Places| places[index];
            if before.as_ref().map(place) == places.as_ref().map(place) {
                continue;
            }
            let mut all = self.readers.iter().flatten().map(place);
            let first = all.next().flatten();
            let agreed = first.is_some() && all.all(|other| other == first);
            key.agreed_since_ms = agreed.then_some(now_ms);
        }
    }

    /// A read of `key`, or a flush of all, begins.
    pub(super) fn begins(&self, key: usize, now_ms: u64) -> Began {
        let key = &self.keys[key];
        Began { at_ms: now_ms, floor: key.floor, acknowledged: key.acknowledged }
    }

    /// A write begins. Its number is its value.
    pub(super) fn write_begins(&mut self, key: usize, deletes: bool, now_ms: u64) -> Seq {
        let began = self.begins(key, now_ms);
        let writes = &mut self.keys[key].writes;
        writes.push(Write { began, deletes, state: State::UnderWay });
        writes.len() as Seq
    }

    /// A write is acknowledged, or has failed.
    pub(super) fn write_ends(&mut self, key: usize, seq: Seq, ending: Ending, now_ms: u64) {
        let key = &mut self.keys[key];
        let write = &mut key.writes[seq as usize - 1];
        if ending != Ending::Done {
            // A read may have shown it done already.
            if write.state == State::UnderWay {
                write.state = State::Failed;
            }
            return;
        }
        write.state = State::Done;
        let (began, deletes) = (write.began, write.deletes);
        key.acknowledged = seq;
        if !key.agreed_since(began.at_ms) {
            return;
        }
        key.raise(Floor { least: seq, present: !deletes, seen_ms: began.at_ms });
        for write in &mut key.writes[..seq as usize - 1] {
            if let State::Shown { at_ms } = write.state
                && at_ms <= began.at_ms
            {
                write.state = State::Settled { at_ms: now_ms };
            }
        }
    }

    /// A read that began so gave a value, or nothing.
    pub(super) fn read_ends(&mut self, key: usize, began: Began, value: Seq, now_ms: u64) -> Result<(), Violation> {
        let number = key;
        let is_kept = self.is_kept(key, began.floor);
        let key = &mut self.keys[key];
        if value as usize > key.writes.len() || (value > 0 && key.writes[value as usize - 1].deletes) {
            return Err(format!("key {number} has the value {value}, which was never written"));
        }
        if !key.agreed_since(began.at_ms) {
            return Ok(());
        }
        self.judged += 1;
        let floor = began.floor;
        if value == 0 {
            if floor.present && is_kept && !key.deleted_since(floor.least) {
                return Err(format!("key {number} has lost write {} for no reason", floor.least));
            }
            key.raise(Floor { least: began.acknowledged + 1, ..Floor::default() });
            return Ok(());
        }
        let write = &mut key.writes[value as usize - 1];
        if value < floor.least {
            let late = match write.state {
                State::UnderWay | State::Failed | State::Shown { .. } => true,
                State::Done => false,
                State::Settled { at_ms } => at_ms > began.at_ms,
            };
            if !late {
                let after = if floor.present { "" } else { ", or deletion, or loss" };
                return Err(format!(
                    "key {number} has the value {value}, which was replaced by {}{after} before {} ms",
                    floor.least, began.at_ms
                ));
            }
        }
        if write.state == State::Failed {
            write.state = State::Shown { at_ms: now_ms };
        }
        key.raise(Floor { least: value, present: true, seen_ms: began.at_ms });
        Ok(())
    }

    /// A map was lost that nobody remembers: what was to be read by it cannot be known. All begins anew.
    pub(super) fn begin_anew(&mut self, now_ms: u64) {
        for key in &mut self.keys {
            key.floor = Floor::default();
            key.agreed_since_ms = key.agreed_since_ms.map(|_| now_ms);
        }
    }

    /// From now on what is there may be gone.
    pub(super) fn may_lose(&mut self) {
        self.nothing_is_lost = false;
    }

    /// Something befell a node that may have cost it keys, however few: it died, was flushed, or was purged of what was not at home there.
    pub(super) fn loses(&mut self, node: u8, now_ms: u64) {
        self.lost_ms.insert(node, now_ms);
    }

    /// What was seen there is there still, if no client has deleted it: all have looked for it in one place since, which lost nothing.
    fn is_kept(&self, key: usize, floor: Floor) -> bool {
        let place = self.readers.iter().flatten().next().and_then(|places| places[key]);
        let is_untouched = |(node, _)| self.lost_ms.get(&node).is_none_or(|at_ms| *at_ms < floor.seen_ms);
        self.nothing_is_lost || self.keys[key].agreed_since(floor.seen_ms) && place.is_some_and(is_untouched)
    }

    /// A flush of all keys, which began so for this key, is acknowledged.
    pub(super) fn flush_ends(&mut self, key: usize, began: Began) {
        let key = &mut self.keys[key];
        if key.agreed_since(began.at_ms) {
            key.raise(Floor { least: began.acknowledged + 1, ..Floor::default() });
        }
    }
}

impl Key {
    fn agreed_since(&self, at_ms: u64) -> bool {
        // What happened in the same millisecond may have happened before.
        self.agreed_since_ms.is_some_and(|since_ms| since_ms < at_ms)
    }

    fn raise(&mut self, floor: Floor) {
        self.floor = self.floor.max(floor);
    }

    /// A deletion may have come after write `seq`.
    fn deleted_since(&self, seq: Seq) -> bool {
        let maybe = |(index, write): (usize, &Write)| write.deletes && (index >= seq as usize || write.state != State::Done);
        self.writes.iter().enumerate().any(maybe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Places = [Some((0, false)); KEYS];
    const THERE: Places = [Some((1, true)); KEYS];

    fn agreed() -> Reads {
        let mut reads = Reads::new(2, false);
        reads.looks(0, Some(HERE), 0);
        reads.looks(1, Some(HERE), 0);
        reads
    }

    fn written(reads: &mut Reads, at_ms: u64, done: bool) {
        let seq = reads.write_begins(0, false, at_ms);
        reads.write_ends(0, seq, if done { Ending::Done } else { Ending::Failed }, at_ms + 1);
    }

    fn read(reads: &mut Reads, at_ms: u64, value: Seq) -> bool {
        let began = reads.begins(0, at_ms);
        reads.read_ends(0, began, value, at_ms + 1).is_ok()
    }

    #[test]
    fn replaced_values_are_caught() {
        let mut reads = agreed();
        written(&mut reads, 10, true);
        written(&mut reads, 20, true);
        assert!(read(&mut reads, 30, 2));
        reads.loses(0, 35);
        assert!(read(&mut reads, 40, 0));
        assert!(!read(&mut reads, 50, 2) && !read(&mut reads, 50, 1) && !read(&mut reads, 50, 3));
        let began = reads.begins(0, 60);
        written(&mut reads, 61, true);
        assert!(reads.read_ends(0, began, 0, 70).is_ok(), "it may have come before the write");
        reads.flush_ends(0, reads.begins(0, 80));
        assert!(!read(&mut reads, 90, 3));
    }

    #[test]
    fn a_failed_write_may_come_late_but_once() {
        let mut reads = agreed();
        written(&mut reads, 10, false);
        written(&mut reads, 20, true);
        assert!(read(&mut reads, 30, 1));
        written(&mut reads, 40, true);
        assert!(!read(&mut reads, 50, 1));
    }

    #[test]
    fn nothing_is_said_of_what_proxies_look_for_in_several_places() {
        let mut reads = agreed();
        written(&mut reads, 10, true);
        reads.looks(1, Some(THERE), 15);
        written(&mut reads, 20, true);
        assert!(read(&mut reads, 30, 1));
        reads.looks(0, Some(THERE), 40);
        assert!(read(&mut reads, 50, 1), "the write that replaced it was acknowledged while they did not agree");
        written(&mut reads, 60, true);
        assert!(!read(&mut reads, 70, 2));
        // One that has no map serves nobody.
        reads.looks(1, None, 80);
        assert!(!read(&mut reads, 90, 2));
    }

    #[test]
    fn nothing_is_lost_where_no_node_fails() {
        let mut reads = Reads::new(1, true);
        reads.looks(0, Some(HERE), 0);
        written(&mut reads, 10, true);
        assert!(!read(&mut reads, 20, 0));
        let deletion = reads.write_begins(0, true, 30);
        assert!(read(&mut reads, 40, 0));
        reads.write_ends(0, deletion, Ending::Done, 50);
        assert!(read(&mut reads, 60, 0) && !read(&mut reads, 70, 1));
    }

    #[test]
    fn nothing_is_lost_by_a_node_to_which_nothing_is_done() {
        let mut reads = agreed();
        written(&mut reads, 10, true);
        assert!(!read(&mut reads, 20, 0));
        reads.loses(1, 21);
        assert!(!read(&mut reads, 22, 0), "that was another node");
        // In the same millisecond it may have come after the value was seen.
        assert!(read(&mut reads, 30, 1));
        reads.loses(0, 30);
        assert!(read(&mut reads, 40, 0));
        written(&mut reads, 50, true);
        assert!(!read(&mut reads, 60, 0));
        reads.looks(1, Some(THERE), 70);
        reads.looks(1, Some(HERE), 71);
        assert!(read(&mut reads, 80, 0), "it may have been removed where it was not at home");
    }
}
