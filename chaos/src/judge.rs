//! What must not have happened, judged from what clients saw, which maps there were, and what was done to whom.
//!
//! Each key has one writer, which waits for a reply before it writes again, and every value says which write made it. So for each key:
//!
//! - A read never gives the value of an older write than one that was acknowledged before the read began, or that another read
//!   had given before, or that was flushed or found missing before.
//! - A read gives nothing only where nothing was written, or the key was deleted or flushed, or its node failed meanwhile.
//! - A write that failed may or may not have been done, and may yet be, until a read has shown it done.
//!
//! All this holds **while the proxies agree** on who holds the key, for the whole of both commands; a proxy that is cut from
//! the master goes by an older map, and what it writes and reads meanwhile is counted, not judged.
//!
//! And: a node is shown down only if something was done to it; a proxy that is well answers within its time limit.

use std::collections::{BTreeMap, HashMap};

use vrc_cluster::{
    contract::{Epoch, NodeMap},
    topology::{PlacementOptions, Topology},
};

use crate::{
    history::{Flush, Key, Op, Outcome, Seq, What, key_name},
    observer::{Observed, Sample},
};

/// How long after a fault's end a node may be found down for it: agents may be silent, and coordinators away.
const AFTERMATH_US: u64 = 15_000_000;

/// Something that was done.
#[derive(Debug, Clone)]
pub(crate) struct Deed {
    pub(crate) begin_us: u64,
    pub(crate) end_us: u64,
    /// Names of the nodes that may be found down for it.
    pub(crate) nodes: Vec<String>,
    /// Of those, the one whose keys are gone with it at once.
    pub(crate) kills: Option<String>,
    /// The proxy that cannot answer meanwhile.
    pub(crate) silences: Option<u8>,
}

/// All that is known of a run.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    pub(crate) ops: Vec<Op>,
    pub(crate) flushes: Vec<Flush>,
    pub(crate) observed: Observed,
    pub(crate) deeds: Vec<Deed>,
    /// The longest that a proxy may take to answer.
    pub(crate) answer_us_max: u64,
}

/// What came out.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) stale: Vec<String>,
    pub(crate) wrong: Vec<String>,
    pub(crate) lost: Vec<String>,
    pub(crate) hung: Vec<String>,
    pub(crate) downs: Vec<String>,
    pub(crate) counts: Counts,
}

/// How much there was to judge.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Reads that gave a value or nothing, while the proxies agreed.
    pub(crate) judged: usize,
    /// Reads while they did not.
    pub(crate) disagreed: usize,
    /// Of those, reads of values that had been replaced.
    pub(crate) disagreed_stale: usize,
    /// Reads of a write that had failed, after a later one was acknowledged.
    pub(crate) late_writes: usize,
    /// Reads that gave nothing because the key's node had failed.
    pub(crate) lost_with_node: usize,
}

/// Judges.
pub(crate) fn judge(evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict::default();
    let mut by_key: BTreeMap<Key, Vec<&Op>> = BTreeMap::new();
    for op in &evidence.ops {
        by_key.entry(op.key).or_default().push(op);
    }
    let keys: Vec<Key> = by_key.keys().copied().collect();
    let maps = Maps::new(&evidence.observed, &keys);
    for (index, ops) in by_key.into_values().enumerate() {
        KeyJudge::new(evidence, &maps, index, &ops).judge(&ops, &mut verdict);
    }
    judge_hangs(evidence, &mut verdict);
    judge_downs(evidence, &mut verdict);
    verdict
}

fn judge_hangs(evidence: &Evidence, verdict: &mut Verdict) {
    for op in &evidence.ops {
        let silenced = evidence
            .deeds
            .iter()
            .any(|deed| deed.silences == Some(op.proxy) && deed.begin_us <= op.end_us && op.start_us <= deed.end_us);
        if op.end_us - op.start_us > evidence.answer_us_max && !silenced {
            verdict.hung.push(format!("{} took {} ms", shown(op), (op.end_us - op.start_us) / 1_000));
        }
    }
}

fn judge_downs(evidence: &Evidence, verdict: &mut Verdict) {
    let maps: Vec<_> = evidence.observed.maps.iter().collect();
    for pair in maps.windows(2) {
        let [(_, before), (epoch, after)] = pair else { continue };
        for node in before.map.values().filter(|node| node.up) {
            let same = |now: &vrc_cluster::contract::Node| now.up && now.run_id == node.run_id;
            let explained = || {
                evidence.deeds.iter().any(|deed| {
                    deed.nodes.contains(&node.name)
                        && deed.begin_us <= after.seen_us
                        && after.seen_us <= deed.end_us.saturating_add(AFTERMATH_US)
                })
            };
            if !after.map.get(&node.name).is_some_and(same) && !explained() {
                let at_ms = after.seen_us / 1_000;
                verdict.downs.push(format!("at {at_ms} ms {} goes down in map {epoch}; nothing was done to it", node.name));
            }
        }
    }
}

fn shown(op: &Op) -> String {
    let Op { key, proxy, what, start_us, end_us, outcome } = op;
    format!("{what:?} of {} by proxy {proxy} from {start_us} to {end_us} us: {outcome:?}", key_name(*key))
}

// ---- maps ----

/// Who held each key by each map, and what the proxies went by.
struct Maps<'a> {
    epochs: Vec<Epoch>,
    /// For each map, for each key.
    places: Vec<Vec<Place>>,
    /// For each map, for each key: the first of the maps up to this one that all have the key at the same node and database.
    same_holder_since: Vec<Vec<usize>>,
    /// Likewise, and nothing was flushed there.
    same_place_since: Vec<Vec<usize>>,
    /// For each map, the nodes that it shows down and the one before did not.
    gone: Vec<Vec<&'a str>>,
    /// When each map was seen, if it was.
    seen_us: Vec<Option<u64>>,
    samples: &'a [Vec<Sample>],
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Place {
    /// The node, and whether it holds the key as a guest; `None` for nobody, or a map that is not known.
    holder: Option<(String, bool)>,
    /// Another one after each flush that goes with a change of the map.
    incarnation: (Option<String>, u64, usize),
}

impl<'a> Maps<'a> {
    fn new(observed: &'a Observed, keys: &[Key]) -> Self {
        let names: Vec<String> = keys.iter().map(|key| key_name(*key)).collect();
        // An epoch that only a proxy showed stands for a map that is not known.
        let mut known: BTreeMap<Epoch, Option<&NodeMap>> =
            observed.maps.iter().map(|(epoch, seen)| (*epoch, Some(&seen.map))).collect();
        for sample in observed.samples.iter().flatten().filter(|sample| sample.epoch > 0) {
            known.entry(sample.epoch).or_insert(None);
        }
        let mut maps = Maps {
            epochs: known.keys().copied().collect(),
            places: Vec::new(),
            same_holder_since: Vec::new(),
            same_place_since: Vec::new(),
            gone: Vec::new(),
            seen_us: known.keys().map(|epoch| observed.maps.get(epoch).map(|seen| seen.seen_us)).collect(),
            samples: &observed.samples,
        };
        let (mut downs, mut before): (usize, Option<&NodeMap>) = (0, None);
        for (epoch, map) in &known {
            let is_up = |map: &NodeMap, name: &String| map.get(name).is_some_and(|node| node.up);
            let gone: Vec<&str> = match (map, before) {
                (Some(map), Some(before)) => {
                    before.keys().filter(|name| is_up(before, name) && !is_up(map, name)).map(String::as_str).collect()
                }
                _ => Vec::new(),
            };
            downs += gone.len();
            maps.gone.push(gone);
            before = map.or(before);
            let row = map.map_or_else(|| vec![Place::default(); names.len()], |map| places(map, *epoch, &names, downs));
            maps.push(row);
        }
        maps
    }

    fn push(&mut self, row: Vec<Place>) {
        let index = self.places.len();
        let since = |same: &dyn Fn(&Place, &Place) -> bool, sinces: &[Vec<usize>]| -> Vec<usize> {
            let Some(last) = self.places.last() else { return vec![0; row.len()] };
            let sinces = &sinces[index - 1];
            (0..row.len()).map(|key| if same(&last[key], &row[key]) { sinces[key] } else { index }).collect()
        };
        let holder = since(&|one, other| one.holder.is_some() && one.holder == other.holder, &self.same_holder_since);
        let place = since(&|one, other| one.holder.is_some() && one == other, &self.same_place_since);
        self.same_holder_since.push(holder);
        self.same_place_since.push(place);
        self.places.push(row);
    }

    /// The first and last map that any proxy may have gone by at any moment from `start_us` to `end_us`.
    fn in_use(&self, start_us: u64, end_us: u64) -> Option<(usize, usize)> {
        let mut range: Option<(Epoch, Epoch)> = None;
        for samples in self.samples {
            let before = samples.partition_point(|sample| sample.got_us <= start_us).checked_sub(1)?;
            let after = samples.partition_point(|sample| sample.sent_us < end_us);
            // One that has no map serves nobody.
            for sample in samples.get(before..=after)?.iter().filter(|sample| sample.epoch > 0) {
                let (low, high) = range.unwrap_or((sample.epoch, sample.epoch));
                range = Some((low.min(sample.epoch), high.max(sample.epoch)));
            }
        }
        let index = |epoch: Epoch| self.epochs.binary_search(&epoch).ok();
        let (low, high) = range?;
        Some((index(low)?, index(high)?))
    }

    /// All proxies had the key at the same node all the time.
    fn agree(&self, key: usize, start_us: u64, end_us: u64) -> bool {
        self.in_use(start_us, end_us)
            .is_some_and(|(low, high)| self.places[high][key].holder.is_some() && self.same_holder_since[high][key] <= low)
    }

    /// The key's node was flushed, or another one came to hold it.
    fn moved(&self, key: usize, start_us: u64, end_us: u64) -> bool {
        self.in_use(start_us, end_us).is_none_or(|(low, high)| self.same_place_since[high][key] > low)
    }

    /// The nodes for whose guests the key's holder may have been flushed already, though by the maps in use they are up: if it holds the key
    /// as a guest, those that the next map shows down.
    fn going(&self, key: usize, start_us: u64, end_us: u64) -> &[&'a str] {
        let Some((_, high)) = self.in_use(start_us, end_us) else { return &[] };
        let is_guest = self.places[high][key].holder.as_ref().is_some_and(|(_, is_guest)| *is_guest);
        let seen_us = self.seen_us.get(high + 1).copied().flatten();
        match self.gone.get(high + 1) {
            Some(gone) if is_guest && seen_us.is_some_and(|seen_us| seen_us <= end_us + AFTERMATH_US) => gone,
            _ => &[],
        }
    }

    fn holder(&self, key: usize, start_us: u64, end_us: u64) -> Option<&str> {
        let (_, high) = self.in_use(start_us, end_us)?;
        self.places[high][key].holder.as_ref().map(|(name, _)| name.as_str())
    }
}

fn places(map: &NodeMap, epoch: Epoch, names: &[String], downs: usize) -> Vec<Place> {
    let options = PlacementOptions { guest_databases: true, ..PlacementOptions::default() };
    let topology = Topology::build(map, epoch, &options, 0);
    let place = |name: &String| {
        let Ok(owner) = topology.locate(name.as_bytes()).owner else { return Place::default() };
        let node = &topology.nodes()[usize::from(owner.node)];
        let flushes = if owner.guest { downs } else { 0 };
        Place {
            holder: Some((node.name.to_string(), owner.guest)),
            incarnation: (node.run_id.clone(), node.state_change_time_ms, flushes),
        }
    };
    names.iter().map(place).collect()
}

// ---- one key ----

/// From `end_us` on, values of writes before `floor` are replaced.
#[derive(Debug, Clone, Copy)]
struct Floor {
    end_us: u64,
    floor: Seq,
    /// The value of `floor` itself was there, since then; else it was not.
    present_since_us: Option<u64>,
}

struct KeyJudge<'a> {
    evidence: &'a Evidence,
    maps: &'a Maps<'a>,
    /// Index in `maps`.
    key: usize,
    /// By time, each at least as strict as those before.
    floors: Vec<Floor>,
    /// By number.
    writes: BTreeMap<Seq, &'a Op>,
    /// When each write was first shown done by a read.
    shown_us: HashMap<Seq, u64>,
}

impl<'a> KeyJudge<'a> {
    fn new(evidence: &'a Evidence, maps: &'a Maps<'a>, key: usize, ops: &[&'a Op]) -> Self {
        let seq = |op: &Op| match op.what {
            What::Set(seq) | What::Delete(seq) => Some(seq),
            What::Read => None,
        };
        let writes = ops.iter().filter_map(|op| Some((seq(op)?, *op))).collect();
        let mut judge = KeyJudge { evidence, maps, key, floors: Vec::new(), writes, shown_us: HashMap::new() };
        let mut floors: Vec<Floor> = ops.iter().filter_map(|op| judge.floor(op)).collect();
        floors.extend(evidence.flushes.iter().filter_map(|flush| judge.flush_floor(flush)));
        floors.sort_by_key(|floor| floor.end_us);
        let mut strictest: Option<Floor> = None;
        for floor in &mut floors {
            let present = |floor: &Floor| floor.present_since_us.unwrap_or(0);
            if let Some(last) = strictest.filter(|last| (last.floor, present(last)) > (floor.floor, present(floor))) {
                *floor = Floor { end_us: floor.end_us, ..last };
            }
            strictest = Some(*floor);
        }
        judge.floors = floors;
        for op in ops {
            if let Outcome::Value(seq) = op.outcome
                && judge.maps.agree(key, op.start_us, op.end_us)
            {
                let shown_us = judge.shown_us.entry(seq).or_insert(op.end_us);
                *shown_us = op.end_us.min(*shown_us);
            }
        }
        judge
    }

    /// What a command says of all later ones.
    fn floor(&self, op: &Op) -> Option<Floor> {
        let (floor, present) = match (op.what, &op.outcome) {
            (What::Set(seq), Outcome::Done) => (seq, true),
            (What::Read, Outcome::Value(seq)) => (*seq, true),
            (What::Delete(seq), Outcome::Done) => (seq, false),
            (What::Read, Outcome::Null) => (self.acknowledged_before(op.start_us)? + 1, false),
            _ => return None,
        };
        let floor = Floor { end_us: op.end_us, floor, present_since_us: present.then_some(op.start_us) };
        self.maps.agree(self.key, op.start_us, op.end_us).then_some(floor)
    }

    fn flush_floor(&self, flush: &Flush) -> Option<Floor> {
        let agreed = flush.acknowledged && self.maps.agree(self.key, flush.start_us, flush.end_us);
        let floor = self.acknowledged_before(flush.start_us).filter(|_| agreed)? + 1;
        Some(Floor { end_us: flush.end_us, floor, present_since_us: None })
    }

    fn acknowledged_before(&self, at_us: u64) -> Option<Seq> {
        let done = |op: &Op| op.outcome == Outcome::Done && op.end_us <= at_us;
        self.writes.iter().rev().find(|(_, op)| done(op)).map(|(seq, _)| *seq)
    }

    fn strictest(&self, at_us: u64) -> Option<&Floor> {
        let count = self.floors.partition_point(|floor| floor.end_us <= at_us);
        self.floors[..count].last()
    }

    fn judge(&self, ops: &[&Op], verdict: &mut Verdict) {
        for op in ops {
            match &op.outcome {
                Outcome::Wrong(what) => verdict.wrong.push(format!("{what}; {}", shown(op))),
                Outcome::Value(seq) => self.judge_value(op, *seq, verdict),
                Outcome::Null => self.judge_null(op, verdict),
                Outcome::Done | Outcome::Failed(_) => {}
            }
        }
    }

    fn judge_value(&self, op: &Op, seq: Seq, verdict: &mut Verdict) {
        let write = self.writes.get(&seq).filter(|write| write.what == What::Set(seq) && write.start_us <= op.end_us);
        let Some(write) = write else {
            return verdict.wrong.push(format!("a value that was not written before; {}", shown(op)));
        };
        let replaced = self.strictest(op.start_us).filter(|floor| seq < floor.floor);
        if !self.maps.agree(self.key, op.start_us, op.end_us) {
            verdict.counts.disagreed += 1;
            verdict.counts.disagreed_stale += usize::from(replaced.is_some());
            return;
        }
        verdict.counts.judged += 1;
        let Some(floor) = replaced else { return };
        if write.failed() && !self.settled(seq, op.start_us) {
            verdict.counts.late_writes += 1;
            return;
        }
        verdict.stale.push(format!(
            "replaced by write {}, or after it, known at {} us; {}",
            floor.floor,
            floor.end_us,
            shown(op)
        ));
    }

    /// A failed write was shown done before a later one was begun that was acknowledged: it cannot be done once more.
    fn settled(&self, seq: Seq, at_us: u64) -> bool {
        let Some(shown_us) = self.shown_us.get(&seq) else { return false };
        let later = |write: &Op| {
            write.outcome == Outcome::Done
                && write.start_us >= *shown_us
                && write.end_us <= at_us
                && self.maps.agree(self.key, write.start_us, write.end_us)
        };
        self.writes.range(seq + 1..).any(|(_, write)| later(write))
    }

    fn judge_null(&self, op: &Op, verdict: &mut Verdict) {
        if !self.maps.agree(self.key, op.start_us, op.end_us) {
            verdict.counts.disagreed += 1;
            return;
        }
        verdict.counts.judged += 1;
        let Some((floor, since_us)) = self.strictest(op.start_us).and_then(|floor| Some((floor, floor.present_since_us?))) else {
            return;
        };
        let deleted = self.writes.values().any(|write| match write.what {
            What::Delete(seq) => (seq > floor.floor || write.failed()) && write.start_us <= op.end_us,
            _ => false,
        });
        let flushed = self
            .evidence
            .flushes
            .iter()
            .any(|flush| flush.start_us <= op.end_us && (!flush.acknowledged || flush.end_us >= since_us));
        if deleted || flushed {
            return;
        }
        let holder = self.maps.holder(self.key, since_us, op.end_us);
        let killed = self.evidence.deeds.iter().any(|deed| {
            deed.kills.is_some() && deed.kills.as_deref() == holder && deed.begin_us <= op.end_us && since_us <= deed.end_us
        });
        let going = self.maps.going(self.key, since_us, op.end_us);
        let befalls = |deed: &Deed| {
            let is_of_now = deed.begin_us <= op.end_us && op.start_us <= deed.end_us.saturating_add(AFTERMATH_US);
            is_of_now && deed.nodes.iter().any(|name| going.contains(&name.as_str()))
        };
        let flushed_for_next = self.evidence.deeds.iter().any(befalls);
        if killed || flushed_for_next || self.maps.moved(self.key, since_us, op.end_us) {
            verdict.counts.lost_with_node += 1;
            return;
        }
        verdict.lost.push(format!("write {} was there at {since_us} us, on {holder:?}; {}", floor.floor, shown(op)));
    }
}

#[cfg(test)]
mod tests {
    use vrc_cluster::contract::Node;

    use super::*;
    use crate::observer::SeenMap;

    const MS: u64 = 1_000;

    /// A run of two proxies and two nodes, told by hand. Times in ms.
    struct Story {
        evidence: Evidence,
    }

    impl Story {
        /// Both nodes are up, in map 1, which both proxies go by from the beginning to 1 s.
        fn new() -> Self {
            let mut story = Story { evidence: Evidence { answer_us_max: 100 * MS, ..Evidence::default() } };
            story.evidence.observed.samples = vec![Vec::new(), Vec::new()];
            story.map(0, 1, &[("a", true, "a1"), ("b", true, "b1")]);
            story.proxy(0, 0, 1_000, 1);
            story.proxy(1, 0, 1_000, 1);
            story
        }

        fn map(&mut self, at_ms: u64, epoch: Epoch, nodes: &[(&str, bool, &str)]) {
            let node = |(name, up, run_id): &(&str, bool, &str)| {
                let node: Node = serde_json::from_value(serde_json::json!({
                    "name": name, "up": up, "runId": run_id, "stateChangeTime": epoch, "weight": 1.0,
                    "config": { "host": "h", "port": 1 },
                }))
                .unwrap();
                ((*name).to_owned(), node)
            };
            let map = nodes.iter().map(node).collect();
            self.evidence.observed.maps.insert(epoch, SeenMap { seen_us: at_ms * MS, map });
        }

        /// From one moment to another a proxy goes by a map, instead of what it was said to go by.
        fn proxy(&mut self, proxy: usize, from_ms: u64, to_ms: u64, epoch: Epoch) {
            let samples = &mut self.evidence.observed.samples[proxy];
            samples.retain(|sample| sample.got_us < from_ms * MS || sample.sent_us > to_ms * MS);
            samples.extend((from_ms..=to_ms).map(|ms| Sample { sent_us: ms * MS, got_us: ms * MS, epoch }));
            samples.sort_by_key(|sample| sample.sent_us);
        }

        fn op(&mut self, proxy: u8, at_ms: u64, what: What, outcome: Outcome) -> &mut Self {
            let (start_us, end_us) = (at_ms * MS, at_ms * MS + MS / 2);
            self.evidence.ops.push(Op { key: self.key(), proxy, what, start_us, end_us, outcome });
            self
        }

        fn set(&mut self, at_ms: u64, seq: Seq) -> &mut Self {
            self.op(0, at_ms, What::Set(seq), Outcome::Done)
        }

        fn failed_set(&mut self, at_ms: u64, seq: Seq) -> &mut Self {
            self.op(0, at_ms, What::Set(seq), Outcome::Failed(0))
        }

        fn delete(&mut self, at_ms: u64, seq: Seq) -> &mut Self {
            self.op(0, at_ms, What::Delete(seq), Outcome::Done)
        }

        fn get(&mut self, at_ms: u64, seq: Seq) -> &mut Self {
            self.op(1, at_ms, What::Read, if seq == 0 { Outcome::Null } else { Outcome::Value(seq) })
        }

        /// One that is at home at `a`.
        fn key(&self) -> Key {
            let map = &self.evidence.observed.maps[&1].map;
            let topology = Topology::build(map, 1, &PlacementOptions::default(), 0);
            (0..).find(|key| topology.locate(key_name(*key).as_bytes()).home == Some(0)).unwrap()
        }

        fn deed(&mut self, from_ms: u64, to_ms: u64, node: &str, kills: bool) -> &mut Self {
            self.evidence.deeds.push(Deed {
                begin_us: from_ms * MS,
                end_us: to_ms * MS,
                nodes: vec![node.to_owned()],
                kills: kills.then(|| node.to_owned()),
                silences: None,
            });
            self
        }

        /// `a` is down from 100 ms to 200 ms, by maps 2 and 3, for a reason.
        fn flap(&mut self) -> &mut Self {
            self.deed(95, 150, "a", false);
            self.map(100, 2, &[("a", false, "a1"), ("b", true, "b1")]);
            self.map(200, 3, &[("a", true, "a2"), ("b", true, "b1")]);
            for proxy in [0, 1] {
                self.proxy(proxy, 100, 199, 2);
                self.proxy(proxy, 200, 1_000, 3);
            }
            self
        }

        /// Counts of stale reads, wrong replies, lost writes, hangs and downs.
        #[track_caller]
        fn check(&self, expected: [usize; 5]) -> Counts {
            let verdict = judge(&self.evidence);
            let Verdict { stale, wrong, lost, hung, downs, counts } = &verdict;
            assert_eq!([stale.len(), wrong.len(), lost.len(), hung.len(), downs.len()], expected, "{verdict:#?}");
            *counts
        }
    }

    #[test]
    fn a_register_as_it_should_be() {
        let counts = Story::new().get(1, 0).set(2, 1).get(3, 1).set(4, 2).get(5, 2).delete(6, 3).get(7, 0).check([0; 5]);
        assert_eq!((counts.judged, counts.disagreed), (4, 0));
    }

    #[test]
    fn a_replaced_value() {
        Story::new().set(1, 1).set(2, 2).get(3, 1).check([1, 0, 0, 0, 0]);
        Story::new().set(1, 1).delete(2, 2).get(3, 1).check([1, 0, 0, 0, 0]);
        // What one read has shown, another does not take back; nor does it come back from nothing.
        Story::new().set(1, 1).failed_set(2, 2).get(3, 2).get(4, 1).check([1, 0, 0, 0, 0]);
        Story::new().deed(2, 4, "a", true).set(1, 1).get(3, 0).get(5, 1).check([1, 0, 0, 0, 0]);
    }

    #[test]
    fn a_flushed_value() {
        let mut story = Story::new();
        story.evidence.flushes.push(Flush { start_us: 3 * MS, end_us: 4 * MS, acknowledged: true });
        story.set(1, 1).get(3, 1).get(5, 0).check([0; 5]);
        story.get(6, 1).check([1, 0, 0, 0, 0]);
    }

    #[test]
    fn what_was_never_written() {
        Story::new().set(1, 1).get(2, 2).check([0, 1, 0, 0, 0]);
        Story::new().set(3, 1).get(1, 1).check([0, 1, 0, 0, 0]);
        Story::new().delete(1, 1).get(2, 1).check([0, 1, 0, 0, 0]);
        Story::new().op(0, 1, What::Read, Outcome::Wrong("somebody else's".to_owned())).check([0, 1, 0, 0, 0]);
    }

    #[test]
    fn a_lost_write() {
        Story::new().set(1, 1).get(2, 0).check([0, 0, 1, 0, 0]);
        // Not so where it may have been deleted or flushed.
        Story::new().set(1, 1).op(0, 2, What::Delete(2), Outcome::Failed(0)).get(3, 0).check([0; 5]);
        let mut story = Story::new();
        story.evidence.flushes.push(Flush { start_us: 2 * MS, end_us: 3 * MS, acknowledged: false });
        story.set(1, 1).get(4, 0).check([0; 5]);
        // Nor where its node was killed; another's death is no excuse.
        let counts = Story::new().set(1, 1).deed(2, 3, "a", true).get(4, 0).check([0; 5]);
        assert_eq!(counts.lost_with_node, 1);
        Story::new().set(1, 1).deed(2, 3, "b", true).get(4, 0).check([0, 0, 1, 0, 0]);
        Story::new().deed(1, 2, "a", true).set(3, 1).get(4, 0).check([0, 0, 1, 0, 0]);
    }

    #[test]
    fn a_node_that_flaps_takes_its_keys_along() {
        let counts = Story::new().flap().set(1, 1).get(110, 0).set(120, 2).get(130, 2).get(210, 0).check([0; 5]);
        assert_eq!(counts.lost_with_node, 2);
        // What it had, and what the other kept for it, must not come back.
        Story::new().flap().set(1, 1).set(120, 2).get(210, 1).check([1, 0, 0, 0, 0]);
        Story::new().flap().set(1, 1).get(110, 0).get(210, 1).check([1, 0, 0, 0, 0]);
        Story::new().flap().set(120, 1).set(210, 2).get(220, 1).check([1, 0, 0, 0, 0]);
        Story::new().flap().set(210, 1).get(220, 0).check([0, 0, 1, 0, 0]);
    }

    /// Of three nodes `a` is down, and another dies at 118 ms, which map 3 says at 121 ms. Whether what the third held as a guest may be gone
    /// at this time; or what it has at home.
    fn may_be_gone(at_ms: u64, is_guest: bool) -> bool {
        let mut story = Story::new();
        story.map(0, 1, &[("a", true, "a1"), ("b", true, "b1"), ("c", true, "c1")]);
        let down = [("a", false, "a1"), ("b", true, "b1"), ("c", true, "c1")];
        story.deed(45, 50, "a", true).map(50, 2, &down);
        let map = &story.evidence.observed.maps[&2].map;
        let topology = Topology::build(map, 2, &PlacementOptions { guest_databases: true, ..PlacementOptions::default() }, 0);
        let owner = topology.locate(key_name(story.key()).as_bytes()).owner.unwrap();
        let dies = if topology.nodes()[usize::from(owner.node)].name.as_ref() == "b" { "c" } else { "b" };
        story.deed(118, 300, dies, true);
        story.map(121, 3, &down.map(|(name, up, run_id)| (name, up && name != dies, run_id)));
        for proxy in [0, 1] {
            story.proxy(proxy, 50, 120, 2);
            story.proxy(proxy, 121, 1_000, 3);
        }
        let guest = story.key();
        story.set(60, 1).get(at_ms, 0);
        if !is_guest {
            let is_at_home = |key: &Key| {
                let place = topology.locate(key_name(*key).as_bytes());
                place.owner.is_ok_and(|other| other.node == owner.node && !other.guest)
            };
            let key = (0..).find(is_at_home).unwrap();
            assert_ne!(key, guest);
            story.evidence.ops.iter_mut().for_each(|op| op.key = key);
        }
        judge(&story.evidence).lost.is_empty()
    }

    #[test]
    fn guests_are_flushed_before_a_map_says_why() {
        assert!(may_be_gone(119, true) && may_be_gone(122, true));
        assert!(!may_be_gone(90, true), "nothing had happened");
        assert!(!may_be_gone(119, false), "it is no guest");
    }

    #[test]
    fn a_failed_write_may_be_done_late_but_once() {
        let counts = Story::new().failed_set(1, 1).set(2, 2).get(3, 1).check([0; 5]);
        assert_eq!(counts.late_writes, 1);
        Story::new().failed_set(1, 1).get(2, 1).set(3, 2).get(4, 1).check([1, 0, 0, 0, 0]);
    }

    #[test]
    fn proxies_that_do_not_agree_are_not_judged() {
        let mut story = Story::new();
        story.flap().proxy(1, 100, 150, 1);
        let counts = story.set(1, 1).set(120, 2).get(130, 1).check([0; 5]);
        assert_eq!((counts.judged, counts.disagreed, counts.disagreed_stale), (0, 1, 0));
        // What was acknowledged while they did not agree binds nobody; what was, while they agreed, does.
        story.set(160, 3).get(170, 2).check([1, 0, 0, 0, 0]);
        // A map that nobody saw is one that nobody knows.
        let mut story = Story::new();
        story.proxy(1, 50, 60, 9);
        story.set(1, 1).set(10, 2).get(55, 1).check([0; 5]);
        story.get(70, 1).check([1, 0, 0, 0, 0]);
    }

    #[test]
    fn a_down_for_no_reason() {
        let mut story = Story::new();
        story.flap();
        story.check([0; 5]);
        story.evidence.deeds.clear();
        story.check([0, 0, 0, 0, 1]);
        story.deed(95, 150, "b", true).check([0, 0, 0, 0, 1]);
        story.deed(300, 350, "a", true).check([0, 0, 0, 0, 1]);
    }

    #[test]
    fn a_late_answer() {
        let mut story = Story::new();
        story.get(1, 0);
        story.evidence.ops[0].end_us = 200 * MS;
        story.check([0, 0, 0, 1, 0]);
        let stopped = |silences| Deed { begin_us: 50 * MS, end_us: 180 * MS, nodes: Vec::new(), kills: None, silences };
        story.evidence.deeds.push(stopped(Some(0)));
        story.check([0, 0, 0, 1, 0]);
        story.evidence.deeds.push(stopped(Some(1)));
        story.check([0; 5]);
    }
}
