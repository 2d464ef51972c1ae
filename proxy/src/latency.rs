//! What took long and when, by kind of event, as LATENCY tells it; and how long each command takes.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use vrc_cluster::command::CommandId;

use crate::{limits::LATENCY_SAMPLES_MAX, slowlog::unix_s};

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    /// A command, from when it was taken until its reply was there.
    Command,
    /// One that takes constant or logarithmic time at its node.
    FastCommand,
    /// A connection to a node, until it could be used.
    NodeConnect,
    /// Another map taken up by a worker.
    MapSwap,
    /// One turn of a worker: all that was ready was read, carried out as far as that is the proxy's business, and written.
    Turn,
}

impl Event {
    /// All, and the names that LATENCY knows them by.
    pub(crate) const NAMES: [(Event, &str); 5] = [
        (Event::Command, "command"),
        (Event::Turn, "event-loop"),
        (Event::FastCommand, "fast-command"),
        (Event::MapSwap, "map-swap"),
        (Event::NodeConnect, "node-connect"),
    ];

    pub(crate) fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(event, _)| *event == self).map_or("", |(_, name)| name)
    }

    pub(crate) fn named(name: &[u8]) -> Option<Event> {
        Self::NAMES.iter().find(|(_, known)| known.as_bytes().eq_ignore_ascii_case(name)).map(|(event, _)| *event)
    }
}

/// The latest times that events took long.
#[derive(Debug, Default)]
pub(crate) struct LatencyLog {
    events: Mutex<BTreeMap<Event, Series>>,
}

/// Those of one event.
#[derive(Debug, Default, Clone)]
pub(crate) struct Series {
    /// Unix time in s and duration in ms, the oldest first; one a second.
    pub(crate) samples: VecDeque<(u64, u64)>,
    pub(crate) max_ms: u64,
}

impl LatencyLog {
    /// An event took so long.
    pub(crate) fn add(&self, event: Event, took_ms: u64) {
        self.add_at(event, took_ms, unix_s());
    }

    fn add_at(&self, event: Event, took_ms: u64, now_s: u64) {
        let mut events = self.lock();
        let series = events.entry(event).or_default();
        series.max_ms = series.max_ms.max(took_ms);
        match series.samples.back_mut() {
            Some((time, ms)) if *time == now_s => *ms = took_ms.max(*ms),
            _ => {
                if series.samples.len() == LATENCY_SAMPLES_MAX {
                    series.samples.pop_front();
                }
                series.samples.push_back((now_s, took_ms));
            }
        }
    }

    /// All events that took long some time.
    pub(crate) fn all(&self) -> Vec<(Event, Series)> {
        self.lock().iter().map(|(event, series)| (*event, series.clone())).collect()
    }

    pub(crate) fn of(&self, event: Event) -> Option<Series> {
        self.lock().get(&event).cloned()
    }

    /// Forgets what one took, or all did; says how many events that were.
    pub(crate) fn reset(&self, event: Option<Event>) -> usize {
        let mut events = self.lock();
        let before = events.len();
        events.retain(|known, _| event.is_some_and(|event| event != *known));
        before - events.len()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Event, Series>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Classes of durations: twice as long each.
pub(crate) const CLASSES: usize = 24;
/// The table's commands, and one place for all that were learned.
const COMMANDS: usize = CommandId::COUNT + 1;

/// The class of a duration.
fn class_of(duration_us: u64) -> usize {
    let units = duration_us.saturating_mul(1000) / 1024;
    ((u64::BITS - units.leading_zeros()) as usize).min(CLASSES - 1)
}

/// The longest duration of a class in us; none is too long for the last.
pub(crate) fn class_us_max(class: usize) -> u64 {
    ((1024 << class) - 1) / 1000
}

/// How many of a command's calls took how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Histogram {
    /// By class.
    pub(crate) classes: [u64; CLASSES],
    /// All durations together.
    pub(crate) sum_us: u64,
}

impl Histogram {
    /// How many calls there were.
    pub(crate) fn calls(&self) -> u64 {
        self.classes.iter().sum()
    }
}

/// A command's counts by class, and the sum of its durations in us.
const ROW: usize = CLASSES + 1;

/// The histograms of all commands on one worker. Only the worker itself counts.
#[derive(Debug)]
pub(crate) struct Histograms {
    counts: Box<[AtomicU64]>,
}

impl Default for Histograms {
    fn default() -> Self {
        Histograms { counts: (0..COMMANDS * ROW).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Histograms {
    /// Counts one call. Learned commands count as one, what is no command not at all.
    pub(crate) fn add(&self, command: CommandId, duration_us: u64) {
        if command == CommandId::NONE {
            return;
        }
        let row = command.index().min(CommandId::COUNT) * ROW;
        for (at, more) in [(class_of(duration_us), 1), (CLASSES, duration_us)] {
            let count = &self.counts[row + at];
            count.store(count.load(Relaxed).wrapping_add(more), Relaxed);
        }
    }

    /// Adds these counts to `sum`, which has one for each command and class.
    pub(crate) fn add_to(&self, sum: &mut [u64]) {
        sum.iter_mut().zip(&self.counts).for_each(|(sum, count)| *sum += count.load(Relaxed));
    }
}

/// All workers' histograms as they are now.
#[derive(Debug, Default, Clone)]
pub(crate) struct AllHistograms {
    counts: Vec<u64>,
}

impl AllHistograms {
    pub(crate) fn sum<'a>(of: impl Iterator<Item = &'a Histograms>) -> Self {
        let mut counts = vec![0; COMMANDS * ROW];
        of.for_each(|histograms| histograms.add_to(&mut counts));
        AllHistograms { counts }
    }

    /// What was counted since these.
    pub(crate) fn since(mut self, before: &AllHistograms) -> Self {
        self.counts.iter_mut().zip(&before.counts).for_each(|(count, before)| *count = count.saturating_sub(*before));
        self
    }

    /// A command's, if it was called.
    pub(crate) fn of(&self, command: CommandId) -> Option<Histogram> {
        self.in_row(command.index().min(CommandId::COUNT))
    }

    /// Those of all commands that were called, by name.
    pub(crate) fn each(&self) -> impl Iterator<Item = (&'static str, Histogram)> {
        let names = CommandId::all().map(|id| id.command().name).chain(["other"]);
        names.enumerate().filter_map(|(row, name)| Some((name, self.in_row(row)?)))
    }

    fn in_row(&self, row: usize) -> Option<Histogram> {
        let (classes, sum_us) = self.counts.get(row * ROW..(row + 1) * ROW)?.split_at(CLASSES);
        let histogram = Histogram { classes: classes.try_into().ok()?, sum_us: sum_us[0] };
        (histogram.calls() > 0).then_some(histogram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_of_each_second_is_kept_and_the_oldest_seconds_go() {
        let log = LatencyLog::default();
        for (ms, s) in [(5, 100), (9, 100), (7, 100), (3, 101)] {
            log.add_at(Event::Command, ms, s);
        }
        let series = log.of(Event::Command).unwrap();
        assert_eq!((series.samples.iter().copied().collect::<Vec<_>>(), series.max_ms), (vec![(100, 9), (101, 3)], 9));
        (0..LATENCY_SAMPLES_MAX as u64).for_each(|s| log.add_at(Event::Command, 1, 200 + s));
        let series = log.of(Event::Command).unwrap();
        assert_eq!((series.samples.len(), series.samples[0], series.max_ms), (LATENCY_SAMPLES_MAX, (200, 1), 9));
        log.add_at(Event::MapSwap, 1, 1);
        assert_eq!(log.reset(Some(Event::NodeConnect)), 0);
        assert_eq!(log.reset(Some(Event::MapSwap)), 1);
        assert_eq!((log.reset(None), log.all().len()), (1, 0));
    }

    #[test]
    fn a_duration_is_counted_in_the_first_class_that_holds_it() {
        for us in [0, 1, 2, 3, 4, 5, 8, 9, 16, 17, 1000, 10_000, 1_000_000, u64::MAX] {
            let class = class_of(us);
            assert!(class == CLASSES - 1 || us <= class_us_max(class), "{us}");
            assert!(class == 0 || us > class_us_max(class - 1), "{us}");
        }
        let (one, other) = (Histograms::default(), Histograms::default());
        let get = vrc_cluster::command::lookup(b"get").unwrap().id();
        one.add(get, 3);
        one.add(CommandId::NONE, 3);
        other.add(get, 100);
        let all = AllHistograms::sum([&one, &other].into_iter());
        let of_get = all.of(get).unwrap();
        assert_eq!((of_get.classes[class_of(3)], of_get.classes[class_of(100)], of_get.calls(), of_get.sum_us), (1, 1, 2, 103));
        assert_eq!(all.each().collect::<Vec<_>>(), [("get", of_get)]);
        one.add(get, 3);
        let since = AllHistograms::sum([&one, &other].into_iter()).since(&all);
        assert_eq!((since.of(get).unwrap().calls(), since.of(get).unwrap().sum_us), (1, 3));
        assert!(since.of(vrc_cluster::command::lookup(b"set").unwrap().id()).is_none());
    }

    #[test]
    fn events_are_told_by_their_names() {
        for (event, name) in Event::NAMES {
            assert_eq!((event.name(), Event::named(name.to_uppercase().as_bytes())), (name, Some(event)));
        }
        assert_eq!(Event::named(b"fork"), None);
    }
}
