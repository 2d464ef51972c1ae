//! Whether the process that answers at a node's address is the one that its agent watches. An agent that announces a wrong address names some
//! other redis, which nobody has admitted, and what that holds is not ours to remove.

use super::{Link, Member};
use crate::{
    flaw::{self, Flaw},
    membership::{Book, event::Now, notice::Notice, options::CONTEST_PAUSE_MS},
};

/// An agent announces another process than the connection leads to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Contest {
    /// The process that it announces.
    announced: String,
    pub(super) since_ms: u64,
    /// When a connection was last opened because of it.
    looked_at_ms: u64,
}

impl Member {
    /// What answers there is another process than its agent watches. For a moment that is so with every restart: one of the two has seen it, and
    /// the other not yet.
    pub(super) fn meets_stranger(&self) -> bool {
        let Link::Open(open) = &self.link else { return false };
        let is_another = self.announced_run_id.as_ref().is_some_and(|announced| *announced != open.server.run_id);
        is_another && !flaw::has(Flaw::EmptiesStrangers)
    }

    /// The connection is new: what it leads to is all that can be found out for now.
    pub(super) fn contest_answer(&mut self, now: Now) {
        if self.meets_stranger() {
            self.begin_contest(now);
        } else {
            self.contest = None;
        }
        if let Some(contest) = &mut self.contest {
            contest.looked_at_ms = now.mono_ms;
        }
    }

    /// Its agent has spoken. Returns whether to open a new connection, since the present one may lead to where the node no longer is.
    pub(super) fn contest_announcement(&mut self, now: Now, book: &mut Book) -> bool {
        if !self.meets_stranger() {
            return false;
        }
        if self.begin_contest(now) {
            return true;
        }
        // It says the same again, and so knows of no restart.
        if let (Link::Open(open), Some(announced)) = (&self.link, &self.announced_run_id) {
            let (found, announced) = (open.server.run_id.clone(), announced.clone());
            book.notice(Notice::Stranger { name: self.name.clone(), address: self.endpoint.address(), found, announced });
        }
        // Where a host's name led elsewhere it may not any more.
        self.contest.as_mut().is_some_and(|contest| {
            let is_due = now.mono_ms >= contest.looked_at_ms + CONTEST_PAUSE_MS;
            if is_due {
                contest.looked_at_ms = now.mono_ms;
            }
            is_due
        })
    }

    /// Returns whether it has not begun before.
    fn begin_contest(&mut self, now: Now) -> bool {
        let announced = self.announced_run_id.clone().unwrap_or_default();
        if self.contest.as_ref().is_some_and(|contest| contest.announced == announced) {
            return false;
        }
        self.contest = Some(Contest { announced, since_ms: now.mono_ms, looked_at_ms: now.mono_ms });
        true
    }

    /// Why it is not emptied and shown up, and what to do about that.
    pub(super) fn stranger(&self) -> Option<String> {
        let advice = "check the agent's -h, --announce-host and --announce-port";
        let address = self.endpoint.address();
        self.meets_stranger().then(|| format!("the redis at {address} is not the one that its agent watches: {advice}"))
    }
}
