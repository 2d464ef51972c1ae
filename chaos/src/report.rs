//! What is told of a run.

use std::{collections::BTreeMap, fmt};

use crate::{
    detection::DetectionLine,
    fault::Played,
    history::{Op, Outcome, key_name},
    judge::Verdict,
    options::Kind,
};

/// Examples shown of each breach.
const EXAMPLES: usize = 10;
/// Shorter gaps between two replies are the clients' own pauses.
const GAP_US_MIN: u64 = 100_000;
/// A gap that begins so long after a fault's beginning may still be its work.
const LATE_US: u64 = 8_000_000;

/// A run's outcome.
#[derive(Debug)]
pub struct Report {
    pub(crate) seed: u64,
    pub(crate) network: &'static str,
    pub(crate) verdict: Verdict,
    /// Why everything was not well at the end, if it was not.
    pub(crate) unhealed: Option<String>,
    pub(crate) healed_after_ms: u64,
    pub(crate) maps: usize,
    pub(crate) ops: usize,
    pub(crate) errors: Vec<(usize, String)>,
    pub(crate) faults: Vec<FaultLine>,
    pub(crate) detected: Vec<DetectionLine>,
    pub(crate) logs: Option<std::path::PathBuf>,
}

/// All faults of a kind.
#[derive(Debug)]
pub(crate) struct FaultLine {
    kind: Kind,
    count: usize,
    median_us: u64,
    worst_us: u64,
    worst: String,
}

impl Report {
    /// Whether nothing happened that must not.
    pub fn holds(&self) -> bool {
        self.breaches().iter().all(|(_, found)| found.is_empty()) && self.unhealed.is_none()
    }

    fn breaches(&self) -> [(&'static str, &[String]); 5] {
        let Verdict { stale, wrong, lost, hung, downs, .. } = &self.verdict;
        [
            ("stale reads", stale),
            ("wrong replies", wrong),
            ("lost acknowledged writes, outside of the keys of a failed node", lost),
            ("answers later than the proxy's time limit", hung),
            ("nodes taken down to which nothing was done", downs),
        ]
    }
}

/// How often each kind of error was seen, the most frequent first.
pub(crate) fn count_errors(ops: &[Op], kinds: &[String]) -> Vec<(usize, String)> {
    let mut counts = vec![0; kinds.len()];
    for op in ops {
        if let Outcome::Failed(kind) = op.outcome {
            counts[usize::from(kind)] += 1;
        }
    }
    let mut errors: Vec<(usize, String)> = counts.into_iter().zip(kinds.iter().cloned()).collect();
    errors.sort_by(|one, other| other.cmp(one));
    errors
}

/// The longest time each fault kept keys of one home from being served through one proxy: between two good replies.
pub(crate) fn unavailability(ops: &[Op], played: &[Played], home: impl Fn(&str) -> usize) -> Vec<FaultLine> {
    let mut replies: BTreeMap<(usize, u8), Vec<(u64, u64)>> = BTreeMap::new();
    for op in ops.iter().filter(|op| !op.failed()) {
        replies.entry((home(&key_name(op.key)), op.proxy)).or_default().push((op.end_us, op.start_us));
    }
    let mut worst_us = vec![0; played.len()];
    for times in replies.values_mut() {
        times.sort_unstable();
        for pair in times.windows(2) {
            let (from_us, to_us) = (pair[0].0, pair[1].0);
            // The last that began before the gap is taken to be its cause.
            let cause = played.iter().rposition(|fault| fault.begin_us <= from_us + GAP_US_MIN / 2);
            if let Some(cause) = cause.filter(|_| to_us - from_us >= GAP_US_MIN)
                && from_us < played[cause].begin_us + LATE_US
            {
                worst_us[cause] = (to_us - from_us).max(worst_us[cause]);
            }
        }
    }
    let mut by_kind: BTreeMap<Kind, Vec<(u64, &Played)>> = BTreeMap::new();
    for (fault, worst_us) in played.iter().zip(worst_us) {
        by_kind.entry(fault.kind).or_default().push((worst_us, fault));
    }
    let line = |(kind, mut faults): (Kind, Vec<(u64, &Played)>)| {
        faults.sort_by_key(|(worst_us, _)| *worst_us);
        let (worst_us, worst) = faults[faults.len() - 1];
        let lasted_ms = worst.end_us.saturating_sub(worst.begin_us) / 1_000;
        FaultLine {
            kind,
            count: faults.len(),
            median_us: faults[faults.len() / 2].0,
            worst_us,
            worst: format!("{} for {lasted_ms} ms at {:.3} s", worst.text, worst.begin_us as f64 / 1e6),
        }
    };
    by_kind.into_iter().map(line).collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}, {} of commands on keys, {} maps, network of {}", self.seed, self.ops, self.maps, self.network)?;
        writeln!(f, "\nkeys unavailable, per fault            times   median      worst")?;
        for FaultLine { kind, count, median_us, worst_us, worst } in &self.faults {
            writeln!(f, "  {kind:<36} {count:>5} {:>5} ms   {:>5} ms  {worst}", median_us / 1_000, worst_us / 1_000)?;
        }
        writeln!(f, "\nknown to all proxies, or taken over, after (from when no other fault was in the way)")?;
        for DetectionLine { kind, count, median_us, worst_us, worst_at_us } in &self.detected {
            let (median_ms, worst_ms, at_s) = (median_us / 1_000, worst_us / 1_000, *worst_at_us as f64 / 1e6);
            writeln!(f, "  {kind:<36} {count:>5} {median_ms:>5} ms   {worst_ms:>5} ms  at {at_s:.3} s")?;
        }
        writeln!(f, "\nerrors, by kind")?;
        for (count, error) in &self.errors {
            writeln!(f, "  {count:>7}  {error}")?;
        }
        let counts = &self.verdict.counts;
        writeln!(f, "\nreads judged: {}", counts.judged)?;
        writeln!(f, "  that gave nothing, their node having failed: {}", counts.lost_with_node)?;
        writeln!(f, "  of a failed write that was done late: {}", counts.late_writes)?;
        writeln!(f, "reads while the proxies did not agree, not judged: {}", counts.disagreed)?;
        writeln!(f, "  of replaced values: {}", counts.disagreed_stale)?;
        match &self.unhealed {
            None => writeln!(f, "all was well {} ms after the last fault\n", self.healed_after_ms)?,
            Some(why) => writeln!(f, "NOT WELL at the end: {why}\n")?,
        }
        for (what, found) in self.breaches() {
            writeln!(
                f,
                "{:<66} {:>5}{}",
                format!("{what} (must be 0):"),
                found.len(),
                if found.is_empty() { "" } else { "  FAILED" }
            )?;
            for example in found.iter().take(EXAMPLES) {
                writeln!(f, "    {example}")?;
            }
        }
        if let Some(logs) = &self.logs {
            writeln!(f, "logs: {}", logs.display())?;
        }
        Ok(())
    }
}
