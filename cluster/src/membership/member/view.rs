//! A node as others are to see it: in the map, in notes beside it, and in the coordinator's status.

use super::{Cause, Link, Member, Published, Standing};
use crate::{
    contract::{Node, NodeNote},
    flaw::{self, Flaw},
    membership::{
        Book,
        event::Now,
        notes::{trouble, unix_ms},
        status::{NodeState, NodeStatus},
    },
};

impl Member {
    /// The node as the map is to show it.
    pub(in crate::membership) fn shown(&self) -> Option<Node> {
        // One that no map has shown comes in as up or not at all: others would be guests' hosts for it all at once, with what
        // they may have kept for it long ago.
        let comes_in = self.is_up() || self.published != Published::Absent || flaw::has(Flaw::ComesInAsDown);
        (self.listed && comes_in).then(|| Node {
            config: self.shown_endpoint.clone(),
            weight: self.weight,
            up: self.is_up(),
            state_change_time: self.state_change_unix_ms,
            name: self.name.clone(),
            last_ping: self.last_ping_unix_ms,
            run_id: self.run_id.clone(),
            version: self.version.clone(),
            upkeep: self.upkeep.clone(),
            other: self.other.clone(),
        })
    }

    /// What is to be told of it beside what the map says.
    pub(in crate::membership) fn note(&self, now: Now, book: &Book) -> Option<NodeNote> {
        let is_wanted = !self.is_up() && !self.refused && !self.barred && self.upkeep.drained.is_none();
        let unreachable = match (&self.last_trouble, self.unreachable_since_ms) {
            // Not before its agent has spoken since: who says nothing of it may be about to say that it died.
            (Some(reason), Some(since_ms))
                if is_wanted && self.announces(now, book) && self.announced_at_ms.is_some_and(|at_ms| at_ms > since_ms) =>
            {
                Some(trouble(since_ms, reason, now))
            }
            _ => None,
        };
        let contest = self
            .contest
            .as_ref()
            .filter(|contest| is_wanted && self.announced_at_ms.is_some_and(|at_ms| at_ms > contest.since_ms));
        let stranger = contest.and_then(|contest| Some(trouble(contest.since_ms, &self.stranger()?, now)));
        let held_back = is_wanted && self.held_until_ms > now.mono_ms;
        let fine = self.is_up() && self.answers();
        let note = NodeNote {
            unreachable: stranger.or(unreachable),
            unreachable_from: if fine { self.reports.standing(self.answered_ms, now) } else { Default::default() },
            // To the second, so that a clock that is being set does not make it another one each time.
            held_back_until: held_back.then(|| unix_ms(self.held_until_ms, now).next_multiple_of(1_000)),
            times: held_back.then_some(self.strikes),
        };
        (note != NodeNote::default()).then_some(note)
    }

    pub(in crate::membership) fn status(&self, now: Now, book: &Book) -> NodeStatus {
        let (state, reason) = match &self.standing {
            Standing::Up { doubt_until_ms: Some(_), .. } => (NodeState::Doubtful, self.last_trouble.clone()),
            Standing::Up { .. } => (NodeState::Up, None),
            Standing::Down { .. } if self.refused => (NodeState::Refused, Some(Cause::IsMaster.to_string())),
            Standing::Down { .. } if self.upkeep.drained.is_some() => (NodeState::Drained, None),
            Standing::Down { .. } if self.gone == Some(Cause::Leaving) => (NodeState::Left, None),
            Standing::Down { .. } if self.flush.is_some() => (NodeState::Joining, None),
            Standing::Down { .. } if self.held_until_ms > now.mono_ms && matches!(self.link, Link::Open(_)) => {
                (NodeState::HeldBack, Some(format!("went down {} times", self.strikes)))
            }
            Standing::Down { cause: Cause::NotYetUp, .. } if !self.listed && self.recently_announced(now, book) => {
                (NodeState::Joining, self.stranger().or_else(|| self.last_trouble.clone()))
            }
            Standing::Down { cause, .. } => {
                let reason = self.stranger().or_else(|| self.last_trouble.clone());
                (NodeState::Down, Some(reason.unwrap_or_else(|| cause.to_string())))
            }
        };
        NodeStatus {
            name: self.name.clone(),
            address: self.shown_endpoint.address(),
            weight: self.weight,
            state,
            reason,
            published_up: self.published == Published::Up,
        }
    }
}
