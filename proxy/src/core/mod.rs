//! The core of a worker: sessions, reply order, queues, routing. Bytes in, bytes out.
//!
//! It does no I/O and reads no clock. A driver hands it what was read and what time it is, writes what it has put out, and carries
//! out its [`Effect`]s. So every test can cut the bytes where it likes, and another driver can be put under it.
//!
//! What must hold:
//! - Every command that was taken gets one answer, in the order of its session's commands, whatever becomes of its node.
//! - A request is sent at most once, unless not a byte of it was written.
//! - Nothing a client or a node sends can make it panic or grow without bound.

mod backend;
mod forward;
mod info;
mod local;
mod private;
mod pubsub;
mod scan;
mod session;
#[cfg(test)]
mod tests;
mod transaction;

use std::{collections::VecDeque, sync::Arc};

use vrc_cluster::{
    contract::Endpoint,
    merge::Join,
    resp::{Args, Frame, ReplyFramer, RequestFramer, encode, split_inline},
    route::Router,
    topology::{NodeIndex, Topology},
};

use crate::{
    limits::{CLIENT_OUTPUT_MAX_BYTES, READ_BYTES, RECONNECT_MS_MAX, RECONNECT_MS_MIN, RETIRE_MS},
    stats::{AllStats, Counters, Stats},
};

pub(crate) use backend::Lane;
use backend::{Backend, State, Waiter};
use private::Hold;
use pubsub::Topics;
use session::{Pause, Session, Slot, append, empty};
pub(crate) use session::{Peer, SessionId};

/// What the core wants done that is not writing.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Open a connection and report [`Core::backend_up`] or [`Core::backend_lost`] with this incarnation.
    Connect { backend: u32, incarnation: u32, endpoint: Endpoint, lane: Lane, after_ms: u64 },
    /// Close the backend's connection.
    Disconnect { backend: u32 },
    /// The session may be read from again.
    Resume { session: u32 },
    /// Close the session's connection, and say so by [`Core::session_closed`].
    Close { session: SessionId },
    /// A node could not be used: somebody should look at it.
    Suspect { node: Arc<str>, reason: String },
    /// Gather the lines of `CLIENT LIST` from all workers and answer the command by [`Core::answer_later`].
    ListClients { session: SessionId, sequence: u32, filter: ClientFilter },
}

/// Which clients `CLIENT LIST` shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ClientFilter {
    All,
    /// Of one type; the proxy has clients of type `normal` only.
    None,
    Ids(Vec<u64>),
}

/// What a worker's core goes by.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Longest that a command may wait for its answer, in ms.
    pub(crate) timeout_ms: u64,
    pub(crate) password: Option<String>,
    /// CONFIG reaches the nodes.
    pub(crate) allow_node_config: bool,
    /// How many databases clients may select.
    pub(crate) databases: u8,
    /// The nodes are a fixed list: waiting for another map is no use.
    pub(crate) fixed_nodes: bool,
    /// What INFO says of the proxy.
    pub(crate) identity: Arc<Identity>,
}

/// What the proxy says of itself.
#[derive(Debug)]
pub(crate) struct Identity {
    /// 40 hexadecimal digits, new at each start.
    pub(crate) run_id: String,
    /// The port of the first TCP listener, 0 if there is none.
    pub(crate) port: u16,
    pub(crate) placement: &'static str,
    pub(crate) workers: usize,
    pub(crate) started_at: std::time::SystemTime,
}

/// Whether to go on with the session's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    /// The command was not taken: there is no room for it now.
    Pause(Pause),
    /// The command was taken, but no other for now.
    Stop(Pause),
    /// No more commands are taken.
    Close,
}

pub(crate) struct Core {
    settings: Settings,
    topology: Arc<Topology>,
    router: Router,
    framer: RequestFramer,
    sessions: Vec<Session>,
    free_sessions: Vec<u32>,
    backends: Vec<Backend>,
    /// The backend of each node and lane, [`NO_BACKEND`] where there is none yet; node-major.
    lanes: Vec<u32>,
    /// The nodes that are up.
    up: Vec<NodeIndex>,
    /// For each of `up`, whether it holds keys of others as their guest.
    hosts: Vec<bool>,
    joins: Vec<Join>,
    free_joins: Vec<u32>,
    /// Private connections that nobody needs now, and how many there are in all.
    idle_private: Vec<u32>,
    topics: Topics,
    private_count: usize,
    /// Working space of a split: each part's backend, and where its request starts in that backend's output.
    part_targets: Vec<(u32, usize)>,
    random: u64,
    now_ms: u64,
    /// Paused sessions.
    paused: Vec<SessionId>,
    dirty_sessions: Vec<u32>,
    dirty_backends: Vec<u32>,
    effects: Vec<Effect>,
    counters: Counters,
    stats: Arc<Stats>,
    all_stats: Arc<AllStats>,
}

const NO_BACKEND: u32 = u32::MAX;

impl Core {
    pub(crate) fn new(settings: Settings, topology: Arc<Topology>, worker: usize, all_stats: Arc<AllStats>) -> Self {
        let mut core = Core {
            settings,
            topology: topology.clone(),
            router: Router::default(),
            framer: RequestFramer::default(),
            sessions: Vec::new(),
            free_sessions: Vec::new(),
            backends: Vec::new(),
            lanes: Vec::new(),
            up: Vec::new(),
            hosts: Vec::new(),
            joins: Vec::new(),
            free_joins: Vec::new(),
            idle_private: Vec::new(),
            topics: Topics::default(),
            private_count: 0,
            part_targets: Vec::new(),
            random: worker as u64,
            now_ms: 0,
            paused: Vec::new(),
            dirty_sessions: Vec::new(),
            dirty_backends: Vec::new(),
            effects: Vec::new(),
            counters: Counters::default(),
            stats: all_stats.of(worker),
            all_stats,
        };
        core.set_topology(topology);
        core
    }

    // ---- Sessions ----

    /// A client connected.
    pub(crate) fn session_open(&mut self, id: u64, peer: Peer) -> SessionId {
        let index = self.free_sessions.pop().unwrap_or_else(|| {
            self.sessions.push(Session::default());
            (self.sessions.len() - 1) as u32
        });
        let session = &mut self.sessions[index as usize];
        session.open(id, peer, self.settings.password.is_none(), self.now_ms);
        self.counters.clients += 1;
        self.counters.connections_total += 1;
        SessionId { index, generation: session.generation }
    }

    /// The client's connection is gone. Replies still to come for it are dropped by its generation.
    pub(crate) fn session_closed(&mut self, id: SessionId) {
        if !self.is_open(id) {
            return;
        }
        self.drop_subscriptions(id.index);
        let private = self.sessions[id.index as usize].private;
        for slot in self.sessions[id.index as usize].close() {
            if let Slot::Join(join) = slot {
                self.joins[join as usize].trim();
                self.free_joins.push(join);
            }
        }
        if let Some(backend) = private {
            self.close_private(backend);
        }
        self.free_sessions.push(id.index);
        self.counters.clients -= 1;
    }

    pub(crate) fn is_open(&self, id: SessionId) -> bool {
        let session = &self.sessions[id.index as usize];
        session.open && session.generation == id.generation
    }

    /// Whether the session's socket should not be read now.
    pub(crate) fn is_paused(&self, id: SessionId) -> bool {
        let session = &self.sessions[id.index as usize];
        match session.paused {
            // Read on a little, to learn whether the client is still there.
            Some(Pause::Answered) => session.closing || session.input.len() >= READ_BYTES,
            Some(_) => true,
            None => session.closing,
        }
    }

    /// The client sent these bytes.
    pub(crate) fn session_input(&mut self, id: SessionId, bytes: &[u8]) {
        debug_assert!(self.is_open(id));
        self.counters.bytes_in += bytes.len() as u64;
        let session = &mut self.sessions[id.index as usize];
        session.active_ms = self.now_ms;
        if session.closing {
            return;
        }
        if session.paused.is_some() {
            session.keep(bytes);
        } else if session.input.is_empty() {
            let taken = self.take_commands(id.index, bytes);
            self.sessions[id.index as usize].keep(&bytes[taken..]);
        } else {
            session.keep(bytes);
            self.take_kept_input(id.index);
        }
    }

    /// The client will send no more. What it asked for is still answered.
    pub(crate) fn session_ended(&mut self, id: SessionId) {
        if self.is_open(id) {
            self.sessions[id.index as usize].closing = true;
            self.close_if_waiting(id.index);
            self.mark_session(id.index);
        }
    }

    /// The sessions whose command waits as long as it likes.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = SessionId> {
        self.paused.iter().copied().filter(|id| self.is_open(*id) && self.is_waiting(id.index))
    }

    fn is_waiting(&self, index: u32) -> bool {
        let hold = self.sessions[index as usize].private.and_then(|backend| self.backends[backend as usize].hold.as_ref());
        matches!(hold, Some(Hold::Waiting { .. }))
    }

    /// A client that will send no more gives up what it waits for: nothing else would end that if it is gone for good.
    fn close_if_waiting(&mut self, index: u32) {
        if self.is_waiting(index) {
            self.effects.push(Effect::Close { session: self.session_id(index) });
        }
    }

    fn take_kept_input(&mut self, index: u32) {
        let mut input = std::mem::take(&mut self.sessions[index as usize].input);
        let taken = self.take_commands(index, &input);
        if taken == input.len() {
            empty(&mut input);
        } else {
            input.drain(..taken);
        }
        self.sessions[index as usize].input = input;
    }

    /// Takes all whole commands from `bytes`, and returns how many bytes those were. The caller keeps the rest.
    fn take_commands(&mut self, index: u32, bytes: &[u8]) -> usize {
        let mut framer = match self.sessions[index as usize].partial.take() {
            Some(partial) => *partial,
            None => std::mem::take(&mut self.framer),
        };
        let mut at = 0;
        loop {
            if !self.sessions[index as usize].has_room() {
                self.pause(index, Pause::Answers);
                framer.reset();
                break;
            }
            let rest = &bytes[at..];
            let (flow, len) = match framer.advance(rest) {
                Ok(None) => break,
                Ok(Some(Frame::Multibulk(len))) => {
                    let request = &rest[..len];
                    (self.command(index, Args::new(request, framer.args())), len)
                }
                Ok(Some(Frame::Inline { line, len })) => (self.inline(index, &rest[..line]), len),
                Err(error) => {
                    self.counters.protocol_errors += 1;
                    self.refuse(index, format!("ERR {error}"));
                    (Flow::Close, rest.len())
                }
            };
            framer.reset();
            match flow {
                Flow::Next => at += len,
                Flow::Pause(pause) => {
                    self.pause(index, pause);
                    break;
                }
                Flow::Stop(pause) => {
                    at += len;
                    self.pause(index, pause);
                    break;
                }
                Flow::Close => {
                    self.sessions[index as usize].closing = true;
                    self.mark_session(index);
                    at = bytes.len();
                    break;
                }
            }
        }
        if at == bytes.len() {
            framer.reset();
            self.framer = framer;
        } else {
            self.sessions[index as usize].partial = Some(Box::new(framer));
        }
        at
    }

    fn inline(&mut self, index: u32, line: &[u8]) -> Flow {
        match split_inline(line) {
            Ok(args) if args.is_empty() => Flow::Next,
            Ok(args) => {
                // Spelled out as the array of bulk strings that a node takes on a pipelined connection.
                let mut request = Vec::with_capacity(line.len() + 32);
                encode::request(&mut request, &args);
                let mut framer = RequestFramer::default();
                match framer.advance(&request) {
                    Ok(Some(Frame::Multibulk(_))) => self.command(index, Args::new(&request, framer.args())),
                    _ => unreachable!("an encoded request is whole"),
                }
            }
            Err(error) => {
                self.counters.protocol_errors += 1;
                self.refuse(index, format!("ERR {error}"));
                Flow::Close
            }
        }
    }

    fn pause(&mut self, index: u32, pause: Pause) {
        let session = &mut self.sessions[index as usize];
        if session.paused.replace(pause).is_none() {
            self.paused.push(SessionId { index, generation: session.generation });
            self.counters.pauses_total += 1;
        }
    }

    /// Lets the paused sessions go on that can. To be called after output was written and replies were taken.
    pub(crate) fn resume_paused(&mut self) {
        let mut at = 0;
        while at < self.paused.len() {
            let id = self.paused[at];
            if !self.is_open(id) {
                self.paused.swap_remove(at);
                continue;
            }
            let session = &self.sessions[id.index as usize];
            let ready = match session.paused {
                Some(Pause::Answers) => session.has_ample_room(),
                Some(Pause::Answered) => session.pending() == 0,
                Some(Pause::Backlog(backend)) => self.backends[backend as usize].has_ample_room(),
                None => true,
            };
            if !ready {
                at += 1;
                continue;
            }
            self.paused.swap_remove(at);
            self.sessions[id.index as usize].paused = None;
            self.take_kept_input(id.index);
            let session = &self.sessions[id.index as usize];
            if session.closing {
                self.close_if_waiting(id.index);
                self.mark_session(id.index);
            } else if session.paused.is_none() {
                self.effects.push(Effect::Resume { session: id.index });
            }
        }
    }

    /// Answers the command at hand with an error. `text` starts with the error's code.
    fn refuse(&mut self, index: u32, text: impl AsRef<[u8]>) {
        self.counters.errors_total += 1;
        self.answer_now(index, |out| encode::error(out, text));
    }

    #[inline]
    fn answer_now(&mut self, index: u32, write: impl FnOnce(&mut Vec<u8>)) {
        self.sessions[index as usize].answer_now(write);
        self.mark_session(index);
    }

    /// Answers a command whose answer had to be gathered.
    pub(crate) fn answer_later(&mut self, id: SessionId, sequence: u32, reply: &[u8]) {
        if self.is_open(id) && self.sessions[id.index as usize].slot(sequence) == Some(Slot::Waiting) {
            self.sessions[id.index as usize].answer(sequence, |out| out.extend_from_slice(reply));
            self.mark_session(id.index);
        }
    }

    /// Likewise with text that has lines.
    pub(crate) fn answer_with_text(&mut self, id: SessionId, sequence: u32, text: &str) {
        let mut reply = Vec::with_capacity(text.len() + 16);
        if self.is_open(id) {
            encode::verbatim(&mut reply, self.sessions[id.index as usize].proto, text);
            self.answer_later(id, sequence, &reply);
        }
    }

    /// Takes no more commands from anybody; each session is closed once it has been answered.
    pub(crate) fn close_all(&mut self) {
        for index in 0..self.sessions.len() as u32 {
            let session = &mut self.sessions[index as usize];
            if session.open {
                session.closing = true;
                session.input = Vec::new();
                session.partial = None;
                self.mark_session(index);
            }
        }
    }

    /// Puts a session on the list of those with output.
    #[inline]
    pub(crate) fn mark_session(&mut self, index: u32) {
        let session = &mut self.sessions[index as usize];
        if !session.dirty {
            session.dirty = true;
            self.dirty_sessions.push(index);
        }
    }

    // ---- Backends ----

    /// A connection to the node stands, and whatever its lane needs has been set up on it.
    pub(crate) fn backend_up(&mut self, index: u32, incarnation: u32) -> bool {
        let backend = &mut self.backends[index as usize];
        if backend.incarnation != incarnation || backend.state != State::Connecting {
            return false;
        }
        backend.state = State::Up;
        backend.failures = 0;
        backend.unreachable = None;
        self.mark_backend(index);
        true
    }

    /// The node sent these bytes.
    pub(crate) fn backend_input(&mut self, index: u32, incarnation: u32, bytes: &[u8]) {
        let backend = &mut self.backends[index as usize];
        if backend.incarnation != incarnation {
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
        append(&mut backend.input, bytes, backend.framer.bytes_wanted());
        let mut input = std::mem::take(&mut backend.input);
        match backend.framer.advance(&input) {
            Ok(None) if input.len() <= CLIENT_OUTPUT_MAX_BYTES => backend.input = input,
            // A value so large that it came alone: its buffer becomes the client's.
            Ok(Some(len))
                if len == input.len()
                    && len > READ_BYTES
                    && input[0] != b'>'
                    && backend.pending() > 0
                    && backend.hold.is_none()
                    && !backend.would_skip() =>
            {
                let waiter = backend.pop().expect("somebody waits");
                self.deliver_owned(waiter, input);
                self.retire_if_done(index);
                self.private_if_done(index);
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
    fn take_replies(&mut self, index: u32, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        let reason = loop {
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
                        continue;
                    }
                    if backend.skips() {
                        continue;
                    }
                    match backend.pop() {
                        Some(waiter) => self.deliver(waiter, reply),
                        None => break "it sent a reply that nobody asked for".to_owned(),
                    }
                }
                Ok(None) if bytes.len() - at > CLIENT_OUTPUT_MAX_BYTES => {
                    break "its reply is larger than any client may take".to_owned();
                }
                Ok(None) => {
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

    /// Hands a node's reply to whoever waits for it.
    #[inline]
    fn deliver(&mut self, waiter: Waiter, reply: &[u8]) {
        if waiter.is_nobody() {
            return;
        }
        let session = &mut self.sessions[waiter.session as usize];
        if session.generation != waiter.generation {
            return;
        }
        match session.slot(waiter.sequence) {
            Some(Slot::Waiting) => session.answer(waiter.sequence, |out| out.extend_from_slice(reply)),
            Some(Slot::Join(join)) => self.deliver_part(waiter, join, reply),
            Some(Slot::Ready { .. }) | None => debug_assert!(false, "a command is answered once"),
        }
        self.answered(waiter.session);
    }

    fn deliver_owned(&mut self, waiter: Waiter, reply: Vec<u8>) {
        if waiter.is_nobody() {
            return;
        }
        let session = &mut self.sessions[waiter.session as usize];
        if session.generation == waiter.generation && session.slot(waiter.sequence) == Some(Slot::Waiting) {
            session.answer_owned(waiter.sequence, reply);
            self.answered(waiter.session);
        } else {
            self.deliver(waiter, &reply);
        }
    }

    fn deliver_part(&mut self, waiter: Waiter, join: u32, reply: &[u8]) {
        let gathered = &mut self.joins[join as usize];
        if gathered.add(waiter.part, reply) {
            self.sessions[waiter.session as usize].answer(waiter.sequence, |out| gathered.finish(out));
            self.free_joins.push(join);
        }
    }

    #[inline]
    fn answered(&mut self, index: u32) {
        self.mark_session(index);
        let session = &self.sessions[index as usize];
        if session.unread_bytes() > CLIENT_OUTPUT_MAX_BYTES {
            tracing::warn!(client = session.id, "client cut off: it left more than {CLIENT_OUTPUT_MAX_BYTES} bytes unread");
            self.counters.cut_off_total += 1;
            self.effects.push(Effect::Close { session: SessionId { index, generation: session.generation } });
        }
    }

    /// Answers whoever waits for it with an error of the proxy's own.
    fn fail(&mut self, waiter: Waiter, text: &str) {
        self.counters.errors_total += 1;
        let mut reply = Vec::with_capacity(text.len() + 3);
        encode::error(&mut reply, text);
        self.deliver(waiter, &reply);
    }

    /// The connection was lost, or could not be opened. What was sent gets an error; what was not waits for the next connection, or
    /// for a map that gives it to another node.
    pub(crate) fn backend_lost(&mut self, index: u32, incarnation: u32, reason: &str) {
        let backend = &mut self.backends[index as usize];
        if backend.incarnation != incarnation {
            return;
        }
        if backend.hold.is_some() {
            self.private_lost(index, reason);
            return;
        }
        backend.incarnation = backend.incarnation.wrapping_add(1);
        let was = backend.state;
        let lost = backend.lose_sent();
        let node = backend.node.clone();
        if matches!(was, State::Retired { .. }) {
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
        self.fail_all(
            lost,
            &format!("NODEDOWN node {node} was lost before it answered ({reason}); the command may have been carried out"),
        );
        self.reconnect_if_wanted(index);
    }

    fn fail_all(&mut self, waiters: VecDeque<Waiter>, text: &str) {
        for waiter in waiters {
            self.fail(waiter, text);
        }
    }

    /// After a loss: connects again if somebody waits, or answers them if waiting is no use.
    fn reconnect_if_wanted(&mut self, index: u32) {
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
    fn unreachable(&self, index: u32) -> Option<String> {
        let backend = &self.backends[index as usize];
        let (since_ms, reason) = backend.unreachable.as_ref()?;
        let hopeless = self.settings.fixed_nodes || self.now_ms.saturating_sub(*since_ms) >= self.settings.timeout_ms;
        (hopeless && backend.state != State::Up)
            .then(|| format!("NODEDOWN node {} cannot be reached ({reason}); nothing was sent", backend.node))
    }

    fn connect(&mut self, index: u32) {
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
            after_ms,
        });
    }

    /// The backend of a node and lane, made and connected if there is none.
    #[inline]
    fn backend_of(&mut self, node: NodeIndex, lane: Lane) -> u32 {
        let found = self.lanes[usize::from(node) * Lane::COUNT + lane.index()];
        if found == NO_BACKEND { self.new_backend(node, lane) } else { found }
    }

    #[cold]
    fn new_backend(&mut self, node: NodeIndex, lane: Lane) -> u32 {
        let index = self.add_backend(node, lane);
        self.lanes[usize::from(node) * Lane::COUNT + lane.index()] = index;
        index
    }

    /// A backend of its own, in no lane's place.
    fn add_backend(&mut self, node: NodeIndex, lane: Lane) -> u32 {
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

    fn free_backend(&mut self, index: u32) {
        let backend = &mut self.backends[index as usize];
        debug_assert_eq!(backend.pending(), 0);
        backend.state = State::Free;
    }

    /// Lets go of a private connection once it has answered what it was sent.
    fn private_if_done(&mut self, index: u32) {
        let backend = &self.backends[index as usize];
        if backend.hold.is_some() && backend.pending() == 0 {
            self.private_answered(index);
        }
    }

    /// Closes a retired connection once it has answered what it was sent.
    #[inline]
    fn retire_if_done(&mut self, index: u32) {
        let backend = &mut self.backends[index as usize];
        if matches!(backend.state, State::Retired { .. }) && backend.pending() == 0 {
            backend.incarnation = backend.incarnation.wrapping_add(1);
            self.effects.push(Effect::Disconnect { backend: index });
            self.free_backend(index);
        }
    }

    /// Puts a backend on the list of those with output.
    #[inline]
    pub(crate) fn mark_backend(&mut self, index: u32) {
        let backend = &mut self.backends[index as usize];
        if !backend.dirty {
            backend.dirty = true;
            self.dirty_backends.push(index);
        }
    }

    // ---- Time and topology ----

    /// Tells the time, in ms since some start.
    pub(crate) fn set_now(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    /// Looks for what is overdue. To be called every [`crate::limits::TICK_MS`].
    pub(crate) fn tick(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        let deadline_ms = now_ms.saturating_sub(self.settings.timeout_ms);
        for index in 0..self.backends.len() as u32 {
            let backend = &mut self.backends[index as usize];
            let overdue = match backend.hold {
                Some(Hold::Waiting { until_ms, .. }) if backend.state == State::Up => until_ms < now_ms,
                _ => backend.is_overdue(deadline_ms),
            };
            let incarnation = backend.incarnation;
            match backend.state {
                _ if overdue && backend.hold.is_some() => {
                    self.private_lost(index, &format!("no answer within {} ms", self.settings.timeout_ms));
                }
                State::Up if overdue => {
                    self.effects.push(Effect::Disconnect { backend: index });
                    self.backend_lost(index, incarnation, &format!("no answer within {} ms", self.settings.timeout_ms));
                }
                State::Retired { until_ms } if until_ms < now_ms => {
                    self.effects.push(Effect::Disconnect { backend: index });
                    self.backend_lost(index, incarnation, "it left the cluster");
                }
                State::Idle | State::Connecting if overdue => {
                    let reason = backend.unreachable.as_ref().map_or("no connection yet", |(_, reason)| reason);
                    let text = format!(
                        "NODEDOWN node {} could not be reached within {} ms ({reason}); nothing was sent",
                        backend.node, self.settings.timeout_ms
                    );
                    let expired = backend.expire_unsent(deadline_ms);
                    self.fail_all(expired, &text);
                }
                _ => {}
            }
        }
        self.expire_subscribes(deadline_ms);
        self.publish();
    }

    fn publish(&mut self) {
        self.counters.backends_up = self.backends.iter().filter(|backend| backend.state == State::Up).count() as u64;
        self.counters.paused = self.paused.len() as u64;
        let waits = |backend: &&Backend| matches!(backend.hold, Some(Hold::Waiting { .. }));
        self.counters.blocked = self.backends.iter().filter(waits).count() as u64;
        self.stats.publish(&self.counters);
    }

    /// Membership changed: connections of nodes that are out are retired, and what was not sent yet goes to whoever owns it now.
    pub(crate) fn set_topology(&mut self, topology: Arc<Topology>) {
        self.up.clear();
        self.up.extend((0..topology.nodes().len()).filter(|node| topology.nodes()[*node].up).map(|node| node as NodeIndex));
        let hosts = topology.hosts_of_guests();
        self.hosts.clear();
        self.hosts.extend(self.up.iter().map(|node| hosts[usize::from(*node)]));
        self.lanes.clear();
        self.lanes.resize(topology.nodes().len() * Lane::COUNT, NO_BACKEND);
        self.topology = topology;
        let mut moved = Vec::new();
        for index in 0..self.backends.len() as u32 {
            let backend = &mut self.backends[index as usize];
            if matches!(backend.state, State::Free | State::Retired { .. }) || backend.hold.is_some() {
                continue;
            }
            let (unsent, lane) = (backend.take_unsent(), backend.lane);
            let node = self.topology.index_of(&backend.node).filter(|node| {
                let node = &self.topology.nodes()[usize::from(*node)];
                node.up && node.endpoint == backend.endpoint
            });
            match node {
                Some(node) => {
                    self.lanes[usize::from(node) * Lane::COUNT + backend.lane.index()] = index;
                    moved.push((Some(index), lane, unsent));
                    continue;
                }
                None if backend.state == State::Up => {
                    backend.state = State::Retired { until_ms: self.now_ms + RETIRE_MS };
                    self.retire_if_done(index);
                }
                None => {
                    backend.incarnation = backend.incarnation.wrapping_add(1);
                    self.free_backend(index);
                }
            }
            moved.push((None, lane, unsent));
        }
        for (backend, lane, unsent) in moved {
            self.forward_again(backend, lane, unsent);
        }
        self.check_private();
        self.move_topics();
    }

    // ---- What the driver takes out ----

    /// Takes the list of backends that have output; give it back emptied to [`Core::reuse_dirty_backends`].
    pub(crate) fn take_dirty_backends(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.dirty_backends)
    }

    pub(crate) fn reuse_dirty_backends(&mut self, mut list: Vec<u32>) {
        list.clear();
        if self.dirty_backends.is_empty() {
            self.dirty_backends = list;
        }
    }

    pub(crate) fn take_dirty_sessions(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.dirty_sessions)
    }

    pub(crate) fn reuse_dirty_sessions(&mut self, mut list: Vec<u32>) {
        list.clear();
        if self.dirty_sessions.is_empty() {
            self.dirty_sessions = list;
        }
    }

    /// Whether a client waits for room.
    pub(crate) fn has_paused(&self) -> bool {
        !self.paused.is_empty()
    }

    pub(crate) fn has_dirty(&self) -> bool {
        !self.dirty_backends.is_empty() || !self.dirty_sessions.is_empty() || !self.effects.is_empty()
    }

    pub(crate) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// What is to be written to a backend.
    #[inline]
    pub(crate) fn backend_output(&mut self, index: u32) -> &[u8] {
        let backend = &mut self.backends[index as usize];
        backend.dirty = false;
        backend.output()
    }

    #[inline]
    pub(crate) fn backend_written(&mut self, index: u32, len: usize) {
        self.backends[index as usize].written(len);
    }

    pub(crate) fn backend_incarnation(&self, index: u32) -> u32 {
        self.backends[index as usize].incarnation
    }

    /// What is to be written to a session's client.
    #[inline]
    pub(crate) fn session_output(&mut self, index: u32) -> &[u8] {
        let session = &mut self.sessions[index as usize];
        session.dirty = false;
        session.output()
    }

    /// `len` bytes were written. If that was all that a closing session had to get, its connection is to be closed.
    #[inline]
    pub(crate) fn session_written(&mut self, index: u32, len: usize) {
        self.counters.bytes_out += len as u64;
        let session = &mut self.sessions[index as usize];
        session.written(len);
        if session.is_done() && session.open {
            self.effects.push(Effect::Close { session: SessionId { index, generation: session.generation } });
        }
        session.trim();
    }

    pub(crate) fn session_id(&self, index: u32) -> SessionId {
        SessionId { index, generation: self.sessions[index as usize].generation }
    }
}
