//! Why a node is down, and what follows from that.

use std::fmt;

/// Why a node is down.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::membership) enum Cause {
    /// Never been up, as far as we know, or down already when we began to lead.
    NotYetUp,
    /// Somebody answered that it is not there: refused, reset, closed.
    Gone(String),
    /// Nobody answered.
    Silent(String),
    /// It did not flush its guest databases when another went down.
    Unflushed(String),
    Restarted,
    AgentSays(String),
    AgentSilent,
    Leaving,
    /// An operator drains it.
    Drained,
    /// An operator says that it is gone for good.
    Forgotten,
    IsMaster,
    /// A map that was lost may have shown it down.
    Uncertain,
}

impl Cause {
    /// Whether it may be our own network that fails.
    pub(in crate::membership) fn silent(&self) -> bool {
        matches!(self, Cause::Silent(_) | Cause::Unflushed(_))
    }

    /// Whether the same process answering again takes it back, as long as no map has shown it.
    pub(super) fn revocable(&self) -> bool {
        matches!(self, Cause::Gone(_) | Cause::Silent(_) | Cause::Unflushed(_))
    }

    /// Whether somebody meant it: then its redis still answers, and its keys can move without anybody being refused them.
    pub(super) fn planned(&self) -> bool {
        matches!(self, Cause::Leaving | Cause::Drained | Cause::Forgotten)
    }

    /// Whether it speaks against letting the node back soon.
    pub(super) fn counts_as_flap(&self) -> bool {
        matches!(self, Cause::Gone(_) | Cause::Silent(_) | Cause::Unflushed(_) | Cause::Restarted | Cause::AgentSays(_))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::NotYetUp => write!(f, "not up yet"),
            Cause::Gone(reason) | Cause::Silent(reason) => write!(f, "{reason}"),
            Cause::Unflushed(reason) => write!(f, "its guest databases could not be flushed: {reason}"),
            Cause::Restarted => write!(f, "its redis was restarted"),
            Cause::AgentSays(reason) => write!(f, "its agent says: {reason}"),
            Cause::AgentSilent => write!(f, "its agent is silent"),
            Cause::Leaving => write!(f, "it leaves in good order"),
            Cause::Drained => write!(f, "an operator drains it"),
            Cause::Forgotten => write!(f, "an operator forgets it"),
            Cause::IsMaster => write!(f, "it is the master itself"),
            Cause::Uncertain => write!(f, "a map that was lost with the master may have shown it down, so it is emptied"),
        }
    }
}
