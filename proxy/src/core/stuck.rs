//! Nodes that run a script for too long.
//!
//! A single redis then answers everybody but the script's own client with BUSY. Here the script came over a connection that many share,
//! and the node reads nothing more from it before the script has ended. So a node that leaves a request unanswered for a while is asked
//! over another connection whether it is there. If it says BUSY, so does the proxy: to commands that would wait behind the script, and
//! to PING. SCRIPT KILL and FUNCTION KILL, which end it, go over that other connection, too.

use std::sync::Arc;

use vrc_cluster::resp::Proto;

use super::{
    Core,
    backend::{Backend, Lane, State, Waiter},
    private::Hold,
};
use crate::limits::ASK_AFTER_MS;

const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// A node that was asked whether it is busy, or has said so.
#[derive(Debug)]
pub(super) struct Asked {
    node: Arc<str>,
    /// Since when its answer is awaited.
    since_ms: Option<u64>,
    is_busy: bool,
}

impl Core {
    /// Asks the nodes that may be busy, and those that were.
    pub(super) fn ask_the_silent(&mut self) {
        for index in 0..self.backends.len() {
            let deadline_ms = self.now_ms.saturating_sub(ASK_AFTER_MS);
            let backend = &mut self.backends[index];
            if !is_silent(backend, deadline_ms) {
                continue;
            }
            let node = &backend.node;
            match self.asked.iter().find(|asked| asked.node == *node) {
                None => self.asked.push(Asked { node: node.clone(), since_ms: None, is_busy: false }),
                // By now another connection may be behind the script.
                Some(asked) if asked.is_busy => backend.is_stuck = true,
                Some(_) => {}
            }
        }
        for at in (0..self.asked.len()).rev() {
            let asked = &self.asked[at];
            let is_up = |node: &usize| self.topology.nodes()[*node].up;
            let Some(node) = self.topology.index_of(&asked.node).filter(|node| is_up(&usize::from(*node))) else {
                let asked = self.asked.swap_remove(at);
                self.settings.busy.set(&asked.node, None);
                continue;
            };
            if asked.since_ms.is_none() {
                self.asked[at].since_ms = Some(self.now_ms);
                let backend = self.backend_of(node, Lane::beside(Proto::Resp2));
                if self.backends[backend as usize].state == State::Idle {
                    self.connect(backend);
                }
                self.queue(backend, Waiter::asking(backend, self.now_ms), PING);
            }
        }
    }

    /// A node has answered whether it is busy, or cannot any more.
    #[cold]
    pub(super) fn node_asked(&mut self, waiter: Waiter, reply: &[u8]) {
        let Some(backend) = waiter.asked_of() else { return };
        let node = self.backends[backend as usize].node.clone();
        let Some(at) = self.asked.iter().position(|asked| asked.node == node) else { return };
        match busy_text(reply) {
            Some(text) => {
                self.asked[at].since_ms = None;
                self.is_busy(&node, text);
            }
            None => {
                self.asked.swap_remove(at);
                self.settings.busy.set(&node, None);
                self.backends.iter_mut().filter(|backend| backend.node == node).for_each(|backend| backend.is_stuck = false);
            }
        }
    }

    /// A node has answered a client's request with an error: it may be that it is busy.
    pub(super) fn look_for_busy(&mut self, backend: u32, reply: &[u8]) {
        if let Some(text) = busy_text(reply) {
            let node = self.backends[backend as usize].node.clone();
            self.is_busy(&node, text);
        }
    }

    fn is_busy(&mut self, node: &Arc<str>, text: &str) {
        match self.asked.iter_mut().find(|asked| asked.node == *node) {
            Some(asked) if asked.is_busy => return,
            Some(asked) => asked.is_busy = true,
            None => self.asked.push(Asked { node: node.clone(), since_ms: None, is_busy: true }),
        }
        self.settings.busy.set(node, Some(text));
        let deadline_ms = self.now_ms.saturating_sub(ASK_AFTER_MS);
        for backend in self.backends.iter_mut().filter(|backend| backend.node == *node) {
            backend.is_stuck = is_silent(backend, deadline_ms);
        }
    }

    /// The error for a command that would wait behind a script which runs for too long.
    pub(super) fn stuck_behind_script(&mut self, backend: u32) -> Option<Box<str>> {
        let of = &mut self.backends[backend as usize];
        if !of.is_stuck {
            return None;
        }
        if !is_silent(of, self.now_ms.saturating_sub(ASK_AFTER_MS)) {
            // It has gone on since.
            of.is_stuck = false;
            return None;
        }
        self.settings.busy.of(&of.node)
    }
}

/// Whether something that was sent by then is still unanswered, though it should not wait for anything.
fn is_silent(backend: &mut Backend, deadline_ms: u64) -> bool {
    let may_wait = matches!(backend.hold, Some(Hold::Waiting { .. } | Hold::Subscriber | Hold::Broadcast));
    backend.state == State::Up && !backend.lane.is_beside() && !may_wait && backend.is_overdue(deadline_ms)
}

fn busy_text(reply: &[u8]) -> Option<&str> {
    let text = reply.strip_prefix(b"-")?.strip_suffix(b"\r\n")?;
    if text.starts_with(b"BUSY ") { std::str::from_utf8(text).ok() } else { None }
}
