//! What is told of nodes that are not simply up or down: one that only we cannot reach, or only some proxies, or that is held back. It stands
//! in the master for those who ask, and nothing is decided by it.

use std::collections::BTreeMap;

use super::{
    Action, Membership, Now,
    options::{NOTES_AGAIN_MS, NOTES_INTERVAL_MS, NOTES_KEPT_MS, NOTES_MAX, REASON_LEN_MAX, REPORT_GOOD_FOR_MS, REPORTERS_MAX},
};
use crate::contract::{Notes, Trouble};

/// What was told last.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Nothing yet, or all that there was to tell.
    notes: Option<Notes>,
    at_ms: u64,
    next_ms: u64,
}

/// Proxies that say that they cannot use a node.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Reports(BTreeMap<String, Report>);

#[derive(Debug, Clone, PartialEq)]
struct Report {
    since_ms: u64,
    said_ms: u64,
    reason: String,
}

impl Reports {
    /// A proxy says so, perhaps again.
    pub(super) fn hear(&mut self, reporter: &str, reason: &str, now_ms: u64) {
        self.0.retain(|_, report| now_ms < report.said_ms + REPORT_GOOD_FOR_MS);
        let (reporter, reason) = (short(reporter), short(reason));
        if let Some(report) = self.0.get_mut(&reporter) {
            (report.said_ms, report.reason) = (now_ms, reason);
        } else if self.0.len() < REPORTERS_MAX {
            // Where so many say the same of it, no more need be named.
            self.0.insert(reporter, Report { since_ms: now_ms, said_ms: now_ms, reason });
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Those that still say so, and did before the node last answered us.
    pub(super) fn standing(&self, answered_ms: u64, now: Now) -> BTreeMap<String, Trouble> {
        let stands = |report: &Report| now.mono_ms < report.said_ms + REPORT_GOOD_FOR_MS && report.since_ms < answered_ms;
        let standing = self.0.iter().filter(|(_, report)| stands(report));
        standing.map(|(reporter, report)| (reporter.clone(), trouble(report.since_ms, &report.reason, now))).collect()
    }
}

/// Some trouble in the form in which it is told.
pub(super) fn trouble(since_ms: u64, reason: &str, now: Now) -> Trouble {
    Trouble { since: unix_ms(since_ms, now), reason: short(reason) }
}

/// The time of day of a moment.
pub(super) fn unix_ms(at_ms: u64, now: Now) -> u64 {
    (now.unix_ms + at_ms).saturating_sub(now.mono_ms)
}

fn short(text: &str) -> String {
    text.chars().filter(|char| !char.is_control()).take(REASON_LEN_MAX).collect()
}

impl Membership {
    /// Tells what there is to tell, if it is something else than last time, or was told so long ago that it is about to expire.
    pub(super) fn tell_notes(&mut self, now: Now) {
        if now.mono_ms < self.book.notes.next_ms {
            return;
        }
        self.book.notes.next_ms = now.mono_ms + NOTES_INTERVAL_MS;
        let said = self.members.iter().filter_map(|(name, member)| Some((name.clone(), member.note(now, &self.book)?)));
        let notes: Notes = said.take(NOTES_MAX).collect();
        let told = &mut self.book.notes;
        let expires = !notes.is_empty() && now.mono_ms >= told.at_ms + NOTES_AGAIN_MS;
        if told.notes.as_ref() == Some(&notes) && !expires {
            return;
        }
        told.at_ms = now.mono_ms;
        told.notes = Some(notes.clone());
        let token = self.token();
        self.book.push(Action::TellNotes { token, notes, kept_ms: NOTES_KEPT_MS });
    }
}
