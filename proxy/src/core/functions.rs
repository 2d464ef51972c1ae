//! Libraries of functions: a node that joins, or whose redis restarted, is given those that the others have, before a client of this
//! worker calls a function there.
//!
//! FUNCTION LOAD and its kin reach all nodes that are up, so the nodes differ only by who was not there. The first FCALL to a node waits
//! until it was seen to: a node that has any library is left as it is.

use std::{collections::HashMap, sync::Arc};

use vrc_cluster::{
    command::Command,
    contract::Endpoint,
    resp::Args,
    route,
    topology::{NodeIndex, Topology},
};

use super::{Core, Effect, Flow, session::Pause};
use crate::limits::FUNCTION_SOURCES_MAX;

/// The nodes that were seen to.
#[derive(Debug, Default)]
pub(super) struct Functions {
    nodes: HashMap<Arc<str>, Seen>,
}

#[derive(Debug)]
struct Seen {
    endpoint: Endpoint,
    run_id: Option<String>,
    /// Not yet: it is being seen to.
    pending: bool,
}

impl Functions {
    /// Whether nobody waits for a node to be seen to.
    pub(super) fn is_idle(&self) -> bool {
        self.nodes.values().all(|seen| !seen.pending)
    }

    /// The process that answers at a node may be another from now on.
    pub(super) fn forget(&mut self, node: &str) {
        if !self.nodes.is_empty() {
            self.nodes.remove(node);
        }
    }

    /// Forgets the nodes that are not, or not any more, what they were.
    pub(super) fn map_changed(&mut self, topology: &Topology) {
        self.nodes.retain(|name, seen| {
            topology
                .index_of(name)
                .map(|node| &topology.nodes()[usize::from(node)])
                .is_some_and(|node| node.up && node.endpoint == seen.endpoint && node.run_id == seen.run_id)
        });
    }
}

/// Whether a command calls a function.
pub(super) fn calls_function(command: &Command) -> bool {
    matches!(command.name, "fcall" | "fcall_ro")
}

impl Core {
    /// Pauses the session until the node that a function is to be called on was seen to.
    pub(super) fn see_to_functions(&mut self, node: NodeIndex) -> Option<Flow> {
        let of = &self.topology.nodes()[usize::from(node)];
        match self.functions.nodes.get(&of.name) {
            Some(seen) if seen.pending => return Some(Flow::Pause(Pause::Functions)),
            Some(_) => return None,
            None => {}
        }
        let others = self.up.iter().filter(|other| **other != node).take(FUNCTION_SOURCES_MAX);
        let from: Vec<_> = others.map(|other| self.topology.nodes()[usize::from(*other)].endpoint.clone()).collect();
        let seen = Seen { endpoint: of.endpoint.clone(), run_id: of.run_id.clone(), pending: !from.is_empty() };
        let (name, to) = (of.name.clone(), of.endpoint.clone());
        self.functions.nodes.insert(name.clone(), seen);
        if from.is_empty() {
            return None;
        }
        self.effects.push(Effect::CopyFunctions { node: name, to, from });
        Some(Flow::Pause(Pause::Functions))
    }

    /// Likewise for a call that is to be queued in a transaction.
    pub(super) fn see_to_queued_functions(&mut self, index: u32, command: &'static Command, args: Args<'_>) -> Option<Flow> {
        let node = match self.router.whole(command, args, &self.topology) {
            Ok(Some(place)) => route::owner(place, &self.topology).ok()?.node,
            Ok(None) => self.any_node(index)?,
            Err(_) => return None,
        };
        self.see_to_functions(node)
    }

    /// A node was seen to, as far as that was possible.
    pub(crate) fn functions_copied(&mut self, node: &str) {
        if let Some(seen) = self.functions.nodes.get_mut(node) {
            seen.pending = false;
        }
    }
}
