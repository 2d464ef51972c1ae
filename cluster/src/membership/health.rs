//! Whether a coordinator is of use: it knows whose the lease is, and hears agents. A master may answer and do neither: one that is full, or whose
//! disk is, or that is a replica takes no lease, and one that permits no subscription lets nobody hear.

use super::{Membership, Now};

/// What was last known to be well.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// When it was last known whose the lease is.
    lease_known_ms: Option<u64>,
    /// When agents could last be heard.
    agents_heard_ms: Option<u64>,
    /// What the master said when it last refused something, if all has not been well since.
    refused: Option<String>,
    /// Why we are of no use.
    pub(super) unwell: Option<String>,
}

impl Health {
    /// Another has the lease, or we have had it for a while.
    pub(super) fn lease_is_known(&mut self, now: Now) {
        self.lease_known_ms = Some(now.mono_ms);
        self.refused = None;
    }

    /// The lease is ours, and whether the master takes a map, too, will be seen.
    pub(super) fn lease_is_gained(&mut self, now: Now) {
        if self.refused.is_none() {
            self.lease_is_known(now);
        }
    }

    pub(super) fn refused(&mut self, reason: &str) {
        self.refused = Some(reason.to_owned());
    }

    /// Time stood still for us alone.
    pub(super) fn excuse(&mut self, late_ms: u64) {
        for at_ms in [&mut self.lease_known_ms, &mut self.agents_heard_ms].into_iter().flatten() {
            *at_ms += late_ms;
        }
    }

    /// Why we are of no use, when something has been amiss for longer than `patience_ms`.
    fn look(&mut self, hears_agents: bool, patience_ms: u64, now: Now) -> Option<String> {
        let since_ms = *self.lease_known_ms.get_or_insert(now.mono_ms);
        let heard_ms = self.agents_heard_ms.get_or_insert(now.mono_ms);
        if hears_agents {
            *heard_ms = now.mono_ms;
        }
        if now.mono_ms >= since_ms + patience_ms {
            let said =
                self.refused.as_ref().map_or_else(String::new, |reason| format!(": the master answers with an error: {reason}"));
            return Some(format!("it neither leads nor sees another lead{said}"));
        }
        (now.mono_ms >= *heard_ms + patience_ms)
            .then(|| "it cannot hear agents on the master's channel; the log says why".to_owned())
    }
}

impl Membership {
    /// Finds out whether we are of use. One that lets others lead first has more time.
    pub(super) fn look_at_health(&mut self, now: Now) {
        if !self.book.master_up {
            // Which says it all.
            self.lease.health.unwell = Some("the master does not answer".to_owned());
            return;
        }
        let patience_ms = 3 * self.book.options.lease_ms + self.book.options.yield_ms;
        let unwell = self.lease.health.look(self.book.bus_up_since_ms.is_some(), patience_ms, now);
        self.book.touched |= unwell != self.lease.health.unwell;
        self.lease.health.unwell = unwell;
    }
}
