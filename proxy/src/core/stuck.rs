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
    backend::{Backend, State},
    lane::Lane,
    private::Hold,
    waiter::Waiter,
};
use crate::limits::ASK_AFTER_MS;

const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// A node that leaves a request unanswered.
#[derive(Debug)]
pub(super) struct Silent {
    node: Arc<str>,
    /// Its answer to the question whether it is busy is awaited.
    is_asked: bool,
    is_busy: bool,
}

impl Core {
    /// Asks the nodes that may be busy.
    pub(super) fn ask_the_silent(&mut self) {
        for at in (0..self.silent.len()).rev() {
            self.forget_if_heard(at);
        }
        let deadline_ms = self.silence_ms();
        for backend in &mut self.backends {
            if !is_silent(backend, deadline_ms) {
                continue;
            }
            match self.silent.iter().find(|silent| silent.node == backend.node) {
                None => self.silent.push(Silent { node: backend.node.clone(), is_asked: false, is_busy: false }),
                Some(silent) => backend.is_stuck = silent.is_busy,
            }
        }
        for at in 0..self.silent.len() {
            let silent = &mut self.silent[at];
            let Some(node) = self.topology.index_of(&silent.node).filter(|_| !silent.is_asked) else { continue };
            silent.is_asked = true;
            let backend = self.backend_of(node, Lane::beside(Proto::Resp2));
            if self.backends[backend as usize].state == State::Idle {
                self.connect(backend);
            }
            self.queue(backend, Waiter::asking(backend, self.now_us), PING);
        }
    }

    /// A node has answered whether it is busy, or cannot any more.
    #[cold]
    pub(super) fn node_asked(&mut self, waiter: Waiter, reply: &[u8]) {
        let Some(backend) = waiter.asked_of() else { return };
        let node = self.backends[backend as usize].node.clone();
        let Some(at) = self.silent.iter().position(|silent| silent.node == node) else { return };
        if self.forget_if_heard(at) {
            return;
        }
        let text = busy_text(reply);
        self.settings.busy.set(&node, text);
        let silent = &mut self.silent[at];
        (silent.is_asked, silent.is_busy) = (false, text.is_some());
        let deadline_ms = self.silence_ms();
        for backend in self.backends.iter_mut().filter(|backend| backend.node == node) {
            backend.is_stuck = text.is_some() && is_silent(backend, deadline_ms);
        }
    }

    /// A backend has answered something, while some node was silent.
    #[cold]
    pub(super) fn heard(&mut self, backend: u32) {
        let node = &self.backends[backend as usize].node;
        if let Some(at) = self.silent.iter().position(|silent| silent.node == *node) {
            self.forget_if_heard(at);
        }
    }

    /// Forgets a silent node that has answered everything since.
    fn forget_if_heard(&mut self, at: usize) -> bool {
        let deadline_ms = self.silence_ms();
        let node = self.silent[at].node.clone();
        let is_heard = !self.backends.iter_mut().any(|backend| backend.node == node && is_silent(backend, deadline_ms));
        if is_heard {
            self.silent.swap_remove(at);
            self.settings.busy.set(&node, None);
            self.backends.iter_mut().filter(|backend| backend.node == node).for_each(|backend| backend.is_stuck = false);
        }
        is_heard
    }

    /// What came before then should have been answered.
    fn silence_ms(&self) -> u64 {
        self.now_ms.saturating_sub(ASK_AFTER_MS)
    }

    /// The error for a command that would wait behind a script which runs for too long.
    pub(super) fn stuck_behind_script(&mut self, backend: u32) -> Option<Box<str>> {
        let of = &mut self.backends[backend as usize];
        if !of.is_stuck {
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
