//! The life of node connections: opened when there is something to send, lost, retired; and what they bring.

use vrc_cluster::{resp::ReplyFramer, topology::NodeIndex};

use super::{
    Core, Effect, Lane, NO_BACKEND,
    backend::{Backend, State},
    buffers::{append, empty},
    lane::TrackingLane,
    private::{Hold, refused_set_up},
    session::SessionId,
    tracked::{Tracked, TrackingOptions},
};
use crate::limits::{CLIENT_OUTPUT_MAX_BYTES, READ_BYTES, RECONNECT_MS_MAX, RECONNECT_MS_MIN};

impl Core {
    /// A connection to the node stands, and whatever its lane needs has been set up on it. It leads to the process of
    /// [`Core::process_of`].
    pub(crate) fn backend_up(&mut self, index: u32, incarnation: u32) -> bool {
        let process = self.process_of(index).map(Box::from);
        let backend = &mut self.backends[index as usize];
        if backend.incarnation != incarnation || backend.state != State::Connecting {
            return false;
        }
        backend.state = State::Up;
        backend.process = process;
        backend.is_stuck = false;
        backend.failures = 0;
        backend.unreachable = None;
        self.clients_changed |= backend.hold.is_some();
        self.mark_backend(index);
        self.listens_now(index);
        true
    }

    /// The node has said by which number it knows a connection that is up.
    pub(crate) fn backend_known_as(&mut self, index: u32, client_id: Option<u64>) {
        self.backends[index as usize].client_id = client_id;
    }

    /// The run id of the process that the map speaks of: the one that was emptied when the node came up. One that was started since
    /// may hold whatever it has loaded, and must not be asked before the map says so. `None` where nobody knows.
    pub(crate) fn process_of(&self, index: u32) -> Option<&str> {
        let backend = &self.backends[index as usize];
        if backend.lane.is_beside() {
            // Nothing is read there, and a busy node could not even say who it is.
            return None;
        }
        let node = self.topology.index_of(&backend.node)?;
        // Coordinators of the old system know no epochs, and keep the run ids of others though they watch no process.
        self.topology.nodes()[usize::from(node)].run_id.as_deref().filter(|_| self.topology.epoch() > 0)
    }

    /// The node that a connection leads to, if the map shows it up, and as what it was when the connection was opened: a process that has
    /// taken the place of another holds none of what was read or watched over it.
    pub(super) fn node_of(&self, index: u32) -> Option<NodeIndex> {
        let backend = &self.backends[index as usize];
        let node = self.topology.index_of(&backend.node)?;
        let of = &self.topology.nodes()[usize::from(node)];
        let is_other = |run_id: &str| backend.state == State::Up && backend.process.as_deref() != Some(run_id);
        (of.up && of.endpoint == backend.endpoint && !self.process_of(index).is_some_and(is_other)).then_some(node)
    }

    /// The node sent these bytes.
    pub(crate) fn backend_input(&mut self, index: u32, incarnation: u32, bytes: &[u8]) {
        let backend = &mut self.backends[index as usize];
        if backend.incarnation != incarnation {
            return;
        }
        if backend.passing > 0 {
            backend.flowed_us = self.now_us;
            let rest = self.pass_on(index, bytes);
            if self.backends[index as usize].passing == 0 {
                self.backend_input(index, incarnation, rest);
            }
            return;
        }
        if backend.input.is_empty() {
            if let Some(taken) = self.take_replies(index, bytes)
                && taken < bytes.len()
            {
                let backend = &mut self.backends[index as usize];
                append(&mut backend.input, &bytes[taken..], backend.framer.bytes_wanted());
            }
            return;
        }
        backend.flowed_us = self.now_us;
        append(&mut backend.input, bytes, backend.framer.bytes_wanted());
        let mut input = std::mem::take(&mut backend.input);
        let framed = backend.framer.advance(&input);
        if matches!(framed, Ok(None)) && self.begin_passing(index, &input) {
            return;
        }
        let backend = &mut self.backends[index as usize];
        match framed {
            Ok(None) if input.len() <= CLIENT_OUTPUT_MAX_BYTES => backend.input = input,
            // A value so large that little can have come with it: its buffer becomes the client's.
            Ok(Some(len))
                if len > READ_BYTES
                    && input[0] != b'>'
                    && backend.pending() > 0
                    && backend.hold.is_none()
                    && backend.tracked.is_none()
                    && !backend.would_skip() =>
            {
                let waiter = backend.pop().expect("somebody waits");
                let rest = input.split_off(len);
                if self.now_us.saturating_sub(waiter.since_us) >= self.timed_from_us {
                    self.timed(index, waiter);
                }
                self.deliver_owned(waiter, input);
                self.retire_if_done(index);
                self.private_if_done(index);
                if !rest.is_empty() {
                    self.backend_input(index, incarnation, &rest);
                }
            }
            _ => {
                backend.framer = ReplyFramer::default();
                if let Some(taken) = self.take_replies(index, &input) {
                    input.drain(..taken);
                    if input.is_empty() {
                        empty(&mut input);
                    }
                    self.backends[index as usize].input = input;
                }
            }
        }
    }

    /// Takes all whole replies from `bytes`, and returns how many bytes those were; `None` if the connection is of no more use.
    pub(super) fn take_replies(&mut self, index: u32, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        let reason = loop {
            at += self.take_short_replies(index, &bytes[at..]);
            let backend = &mut self.backends[index as usize];
            match backend.framer.advance(&bytes[at..]) {
                Ok(Some(len)) => {
                    let reply = &bytes[at..at + len];
                    at += len;
                    if backend.hold == Some(Hold::Subscriber) {
                        if !self.subscriber_input(index, reply) {
                            break "it sent something else than messages".to_owned();
                        }
                        continue;
                    }
                    if reply[0] == b'>' {
                        // Nobody on a shared connection subscribes to anything.
                        if backend.tracked.is_some() {
                            self.invalidated(index, reply);
                        }
                        continue;
                    }
                    if backend.skips() {
                        continue;
                    }
                    let may_be_read = backend.tracked.is_some() || backend.hold.is_some();
                    match backend.pop() {
                        Some(waiter) => {
                            if self.now_us.saturating_sub(waiter.since_us) >= self.timed_from_us {
                                self.timed(index, waiter);
                            }
                            if reply[0] == b'-' {
                                if waiter.sets_up()
                                    && let Some(reason) = refused_set_up(reply)
                                {
                                    break reason;
                                }
                                self.node_error(index, &waiter, reply);
                            }
                            if may_be_read { self.deliver_read(index, waiter, reply) } else { self.deliver(waiter, reply) }
                        }
                        None => break "it sent a reply that nobody asked for".to_owned(),
                    }
                }
                Ok(None) if bytes.len() - at > CLIENT_OUTPUT_MAX_BYTES => {
                    break "its reply is larger than any client may take".to_owned();
                }
                Ok(None) => {
                    if at < bytes.len() && self.begin_passing(index, &bytes[at..]) {
                        at = bytes.len();
                    }
                    if !self.silent.is_empty() {
                        self.heard(index);
                    }
                    self.retire_if_done(index);
                    self.private_if_done(index);
                    return Some(at);
                }
                Err(error) => break error.to_string(),
            }
        };
        let incarnation = self.backends[index as usize].incarnation;
        self.effects.push(Effect::Disconnect { backend: index });
        self.backend_lost(index, incarnation, &reason);
        None
    }

    /// Has a large value of which only the beginning has come written to its client as it comes: neither has to wait until all of it is
    /// here, nor the proxy to hold it. Returns whether it does.
    fn begin_passing(&mut self, index: u32, begun: &[u8]) -> bool {
        let backend = &mut self.backends[index as usize];
        let left = backend.framer.bytes_wanted().saturating_sub(begun.len());
        // Of a bulk string alone it is known from the first where it ends.
        if left < READ_BYTES || begun[0] != b'$' || !backend.is_shared_plainly() {
            return false;
        }
        let Some(&waiter) = backend.front().filter(|waiter| waiter.is_for_one_reply()) else { return false };
        let session = &mut self.sessions[waiter.session as usize];
        let is_there = session.generation == waiter.generation;
        if !is_there && self.is_left_behind(&waiter) {
            return false;
        }
        let (backend, session) = (&mut self.backends[index as usize], &mut self.sessions[waiter.session as usize]);
        if is_there && !session.begin_passing(waiter.sequence, begun) {
            return false;
        }
        backend.passing = left;
        backend.framer = ReplyFramer::default();
        if is_there {
            self.answered(waiter.session);
        }
        true
    }

    /// Hands more of a large value to its client, if that is still there, and returns what does not belong to it.
    fn pass_on<'a>(&mut self, index: u32, bytes: &'a [u8]) -> &'a [u8] {
        let backend = &mut self.backends[index as usize];
        let (bytes, rest) = bytes.split_at(bytes.len().min(backend.passing));
        backend.passing -= bytes.len();
        let left = backend.passing;
        let waiter = *backend.front().expect("somebody was to get it");
        if left == 0 {
            backend.pop();
            if self.now_us.saturating_sub(waiter.since_us) >= self.timed_from_us {
                self.timed(index, waiter);
            }
        }
        let session = &mut self.sessions[waiter.session as usize];
        if session.generation == waiter.generation {
            session.replies.pass(bytes, left);
            self.answered(waiter.session);
        }
        rest
    }

    /// The connection was lost, or could not be opened. What was sent gets an error; what was not waits for the next connection, or
    /// for a map that gives it to another node.
    pub(crate) fn backend_lost(&mut self, index: u32, incarnation: u32, reason: &str) {
        let backend = &mut self.backends[index as usize];
        if backend.incarnation != incarnation || backend.state == State::Free {
            return;
        }
        if backend.hold.is_some() {
            self.private_lost(index, reason);
            return;
        }
        backend.incarnation = backend.incarnation.wrapping_add(1);
        let was = backend.state;
        let is_for_this_one = backend.relies_on_scripts() || backend.is_setting_up();
        let was_passing = backend.passing > 0;
        let mut lost = backend.lose_sent();
        if was_passing && let Some(waiter) = lost.pop_front() {
            // In the middle of a reply there is no other way to tell the client.
            self.timed_in_vain(waiter);
            self.effects.push(Effect::Close { session: SessionId { index: waiter.session, generation: waiter.generation } });
        }
        let backend = &mut self.backends[index as usize];
        self.functions.forget(&backend.node);
        let node = backend.node.clone();
        if matches!(was, State::Retired { .. }) {
            self.lose_tracked(index);
            self.free_backend(index);
        } else {
            backend.state = State::Idle;
            backend.failures = backend.failures.saturating_add(1);
            if was == State::Connecting {
                backend.unreachable.get_or_insert((self.now_ms, reason.into())).1 = reason.into();
            }
            self.effects.push(Effect::Suspect { node: node.clone(), reason: reason.to_owned() });
        }
        if !lost.is_empty() {
            tracing::warn!(node = %node, "lost the connection with {} commands unanswered: {reason}", lost.len());
        }
        self.lose_tracked(index);
        self.fail_all(
            lost,
            &format!("NODEDOWN node {node} was lost before it answered ({reason}); the command may have been carried out"),
        );
        if is_for_this_one && !matches!(was, State::Retired { .. }) {
            // The next connection's node may not have the scripts, which are taken along anew; and it is opened as what its lane says.
            let backend = &mut self.backends[index as usize];
            let (lane, unsent) = (backend.lane, backend.take_unsent());
            self.forward_again(Some(index), lane, unsent);
        }
        self.reconnect_if_wanted(index);
    }

    /// After a loss: connects again if somebody waits, or answers them if waiting is no use.
    pub(super) fn reconnect_if_wanted(&mut self, index: u32) {
        let backend = &mut self.backends[index as usize];
        if backend.state != State::Idle || backend.pending() == 0 {
            return;
        }
        if let Some(text) = self.unreachable(index) {
            let waiters = self.backends[index as usize].expire_unsent(u64::MAX);
            self.fail_all(waiters, &text);
        } else {
            self.connect(index);
        }
    }

    /// The error for a command whose node cannot be reached and has no successor to be waited for.
    pub(super) fn unreachable(&self, index: u32) -> Option<String> {
        let backend = &self.backends[index as usize];
        let (since_ms, reason) = backend.unreachable.as_ref()?;
        let hopeless = self.settings.fixed_nodes || self.now_ms.saturating_sub(*since_ms) >= self.settings.timeout_ms;
        (hopeless && backend.state != State::Up)
            .then(|| format!("NODEDOWN node {} cannot be reached ({reason}); nothing was sent", backend.node))
    }

    pub(super) fn connect(&mut self, index: u32) {
        let backend = &mut self.backends[index as usize];
        debug_assert_eq!(backend.state, State::Idle);
        backend.state = State::Connecting;
        backend.incarnation = backend.incarnation.wrapping_add(1);
        let after_ms = match backend.failures {
            0 => 0,
            failures => (RECONNECT_MS_MIN << (failures - 1).min(10)).min(RECONNECT_MS_MAX),
        };
        self.effects.push(Effect::Connect {
            backend: index,
            incarnation: backend.incarnation,
            endpoint: backend.endpoint.clone(),
            lane: backend.lane,
            tracking: backend.tracked.as_ref().and_then(|tracked| tracked.options.clone()),
            after_ms,
        });
    }

    /// The backend of a node and lane, made and connected if there is none.
    #[inline]
    pub(super) fn backend_of(&mut self, node: NodeIndex, lane: Lane) -> u32 {
        let Some(of_node) = lane.index() else { return self.own_lane(node, lane) };
        let found = self.lanes[usize::from(node) * Lane::COUNT + of_node];
        if found == NO_BACKEND { self.new_backend(node, lane, of_node) } else { found }
    }

    #[cold]
    fn new_backend(&mut self, node: NodeIndex, lane: Lane, of_node: usize) -> u32 {
        let index = self.add_backend(node, lane);
        self.backends[index as usize].tracked = match lane.tracking {
            TrackingLane::Shared => Some(Box::new(Tracked::new(Some(TrackingOptions::default()), None))),
            TrackingLane::Noted => Some(Box::new(Tracked::new(None, None))),
            TrackingLane::Off | TrackingLane::Beside | TrackingLane::Own { .. } => None,
        };
        self.lanes[usize::from(node) * Lane::COUNT + of_node] = index;
        index
    }

    /// A backend of its own, in no lane's place.
    pub(super) fn add_backend(&mut self, node: NodeIndex, lane: Lane) -> u32 {
        let of = &self.topology.nodes()[usize::from(node)];
        let backend = Backend::new(of.name.clone(), of.endpoint.clone(), lane);
        let free = self.backends.iter().position(|backend| backend.state == State::Free);
        let index = free.unwrap_or(self.backends.len());
        match free {
            Some(index) => self.backends[index].become_another(backend),
            None => self.backends.push(backend),
        }
        index as u32
    }

    pub(super) fn free_backend(&mut self, index: u32) {
        let backend = &mut self.backends[index as usize];
        debug_assert_eq!(backend.pending(), 0);
        debug_assert!(backend.tracked.as_ref().is_none_or(|tracked| tracked.has_no_keys()));
        backend.tracked = None;
        backend.state = State::Free;
    }

    /// Lets go of a private connection once it has answered what it was sent.
    pub(super) fn private_if_done(&mut self, index: u32) {
        let backend = &self.backends[index as usize];
        if backend.hold.is_some() && backend.pending() == 0 {
            self.private_answered(index);
        }
    }

    /// Closes a retired connection once it has answered what it was sent.
    #[inline]
    pub(super) fn retire_if_done(&mut self, index: u32) {
        let backend = &mut self.backends[index as usize];
        if matches!(backend.state, State::Retired { .. }) && backend.pending() == 0 && backend.hold.is_none() {
            backend.incarnation = backend.incarnation.wrapping_add(1);
            self.effects.push(Effect::Disconnect { backend: index });
            self.free_backend(index);
        }
    }
}
