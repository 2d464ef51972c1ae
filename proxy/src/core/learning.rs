//! Commands that the table lacks: of modules, and of later versions of redis and valkey.
//!
//! A node is asked for all its commands, at most now and then and once after each change of the map, so that names which nobody knows
//! cost nothing to remember. Who waits for the answer has not begun its command.

use vrc_cluster::{
    command::{self, Command, Unresolved},
    resp::Args,
};

use super::{Core, Effect, Flow, session::Pause};
use crate::limits::{LEARN_AGAIN_MS, LEARN_EVERY_MS};

/// What is known of the nodes' commands.
#[derive(Debug, Default)]
pub(super) struct Learning {
    /// A node has been asked.
    pub(super) asked: bool,
    /// None has been asked since the map changed.
    map_changed: bool,
    /// Until when what nobody knows counts as unknown.
    good_until_ms: u64,
}

impl Learning {
    /// Other nodes may know other commands.
    pub(super) fn map_changed(&mut self) {
        self.map_changed = true;
        self.good_until_ms = 0;
    }
}

impl Core {
    /// The row of a command that the table lacks, or why there is none; `None` while a node is being asked.
    pub(super) fn learned(&mut self, args: Args<'_>) -> Option<Result<&'static Command, Unresolved>> {
        let found = command::resolve_learned(args);
        let is_good = match found {
            Err(Unresolved::Command) => self.now_ms < self.learning.good_until_ms,
            _ => !self.learning.map_changed,
        };
        (is_good || !self.ask_a_node()).then_some(found)
    }

    /// What COMMAND tells has to have all that the nodes know: pauses the session while one is being asked.
    pub(super) fn learn_first(&mut self) -> Option<Flow> {
        let is_good = self.now_ms < self.learning.good_until_ms;
        (!is_good && self.ask_a_node()).then_some(Flow::Pause(Pause::Learning))
    }

    /// Has a node asked for its commands; false if there is none.
    fn ask_a_node(&mut self) -> bool {
        if !self.learning.asked {
            let Some(&node) = self.up.get(self.now_ms as usize % self.up.len().max(1)) else { return false };
            self.learning.asked = true;
            let endpoint = self.topology.nodes()[usize::from(node)].endpoint.clone();
            self.effects.push(Effect::LearnCommands { endpoint });
        }
        true
    }

    /// A node's reply to COMMAND, or `None` if it did not answer: then what was known before is good for a little longer.
    pub(crate) fn commands_learned(&mut self, reply: Option<&[u8]>) {
        self.learning = Learning { asked: false, map_changed: false, good_until_ms: self.now_ms + LEARN_AGAIN_MS };
        if let Some(reply) = reply {
            let count = command::learn(reply);
            tracing::debug!("{count} commands of the nodes are known beside the table's");
            self.learning.good_until_ms = self.now_ms + LEARN_EVERY_MS;
        }
    }
}
