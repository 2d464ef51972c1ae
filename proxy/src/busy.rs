//! The nodes that run a script for so long that they answer BUSY: known to all workers.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct Busy {
    /// Whether there are any; looked at before the rest.
    any: AtomicBool,
    /// What each says: an error's text, `BUSY` included.
    nodes: Mutex<BTreeMap<Arc<str>, Box<str>>>,
}

impl Busy {
    /// A node says that it is busy, or that it is not.
    pub(crate) fn set(&self, node: &Arc<str>, text: Option<&str>) {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        match text {
            Some(text) => drop(nodes.insert(node.clone(), text.into())),
            None => drop(nodes.remove(node)),
        }
        self.any.store(!nodes.is_empty(), Relaxed);
    }

    /// What some busy node says, if there is one.
    pub(crate) fn some(&self) -> Option<Box<str>> {
        if !self.any.load(Relaxed) {
            return None;
        }
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).values().next().cloned()
    }

    /// What this node says, if it is busy.
    pub(crate) fn of(&self, node: &str) -> Option<Box<str>> {
        if !self.any.load(Relaxed) {
            return None;
        }
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).get(node).cloned()
    }
}
