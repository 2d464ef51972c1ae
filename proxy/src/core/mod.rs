//! The core of a worker: sessions, reply order, queues, routing. Bytes in, bytes out.
//!
//! It does no I/O and reads no clock. A driver hands it what was read and what time it is, writes what it has put out, and carries
//! out its [`Effect`]s. So every test can cut the bytes where it likes, and another driver can be put under it.
//!
//! What must hold:
//! - Every command that was taken gets one answer, in the order of its session's commands, whatever becomes of its node.
//! - A request is sent at most once, unless not a byte of it was written.
//! - Nothing a client or a node sends can make it panic or grow without bound.

mod answer;
mod aside;
mod backend;
mod broadcast;
mod client;
mod client_pause;
mod cluster;
mod events;
mod everywhere;
mod forward;
mod functions;
mod info;
mod input;
mod learning;
mod link;
mod local;
mod mute;
mod private;
mod pubsub;
mod scan;
mod script;
mod session;
mod stuck;
#[cfg(test)]
mod tests;
mod topics;
mod tracked;
mod tracking;
mod transaction;

use std::{collections::HashMap, sync::Arc};

use vrc_cluster::{
    command::Resolver,
    contract::Endpoint,
    merge::Join,
    resp::RequestFramer,
    route::Router,
    topology::{NodeIndex, Topology},
};

use crate::{
    busy::Busy,
    config::ProxyAddress,
    limits::{READ_BYTES, RETIRE_MS},
    peers::Peers,
    scripts::Scripts,
    stats::{AllStats, Counters, Stats},
};

pub(crate) use backend::Lane;
use backend::{Backend, State};
use broadcast::Broadcasts;
use client_pause::ClientPause;
pub(crate) use everywhere::{Order, Outcome};
use functions::Functions;
use learning::Learning;
use private::Hold;
use script::Seen;
use session::{Pause, Session, Slot};
pub(crate) use session::{Peer, SessionId};
use stuck::Silent;
pub(crate) use topics::Kind as TopicKind;
use topics::Topics;
use tracked::TrackedSizes;
pub(crate) use tracked::TrackingOptions;
pub(crate) use tracking::{RedirectTarget, Redirected, TrackingRequest};

/// What the core wants done that is not writing.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Open a connection and report [`Core::backend_up`] or [`Core::backend_lost`] with this incarnation.
    Connect { backend: u32, incarnation: u32, endpoint: Endpoint, lane: Lane, tracking: Option<TrackingOptions>, after_ms: u64 },
    /// Ask this node for all its commands and report [`Core::commands_learned`].
    LearnCommands { endpoint: Endpoint },
    /// Give a node the libraries that the others have, and report [`Core::functions_copied`].
    CopyFunctions { node: Arc<str>, to: Endpoint, from: Vec<Endpoint> },
    /// Close the backend's connection.
    Disconnect { backend: u32 },
    /// The session may be read from again.
    Resume { session: u32 },
    /// Close the session's connection, and say so by [`Core::session_closed`].
    Close { session: SessionId },
    /// A node could not be used: somebody should look at it.
    Suspect { node: Arc<str>, reason: String },
    /// Have all workers [`Core::carry_out`] an order, this one's included, and report [`Core::carried_out`].
    Order { session: SessionId, sequence: u32, order: Order },
    /// Ask all workers for the client of this number and report [`Core::redirect_found`].
    FindClient { session: SessionId, sequence: u32, client: u64, request: Box<TrackingRequest> },
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
    /// Where clients reach this proxy, if it was told.
    pub(crate) announce: Option<ProxyAddress>,
    /// The proxies that announce themselves.
    pub(crate) peers: Peers,
    /// The nodes that are busy with a script.
    pub(crate) busy: Arc<Busy>,
    /// The scripts that clients have handed to any worker.
    pub(crate) scripts: Arc<Scripts>,
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
    pub(crate) clients_max: usize,
    pub(crate) started_at: std::time::SystemTime,
}

/// Whether to go on with the session's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    /// Likewise, but the client's commands may have to be taken in another way from here on.
    Watch,
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
    /// When it was taken up, and whether something that was sent before may still be unanswered.
    taken_up_ms: u64,
    unsettled: bool,
    resolver: Resolver,
    router: Router,
    framer: RequestFramer,
    sessions: Vec<Session>,
    free_sessions: Vec<u32>,
    backends: Vec<Backend>,
    /// The backend of each node and lane, [`NO_BACKEND`] where there is none yet; node-major.
    lanes: Vec<u32>,
    /// Likewise of the lanes of one session's own.
    own_lanes: HashMap<(NodeIndex, Lane), u32>,
    /// The nodes that are up.
    up: Vec<NodeIndex>,
    /// For each of `up`, whether it holds keys of others as their guest.
    hosts: Vec<bool>,
    joins: Vec<Join>,
    free_joins: Vec<u32>,
    /// Private connections that nobody needs now, and how many there are in all.
    idle_private: Vec<u32>,
    topics: Topics,
    broadcasts: Broadcasts,
    tracked_sizes: TrackedSizes,
    /// How many topologies there were.
    maps: u64,
    /// Invalidations on their way to other connections.
    redirected: Vec<Redirected>,
    seen: Seen,
    /// Nodes that leave a request unanswered: they may be busy with a script.
    silent: Vec<Silent>,
    learning: Learning,
    functions: Functions,
    private_count: usize,
    /// Working space of a split: each part's backend, and where its request starts in that backend's output.
    part_targets: Vec<(u32, usize)>,
    random: u64,
    now_ms: u64,
    client_pause: ClientPause,
    /// Paused sessions.
    paused: Vec<SessionId>,
    dirty_sessions: Vec<u32>,
    /// Sessions whose output waits for the rest of a batch.
    gathering: Vec<SessionId>,
    /// Empty buffers for the replies to pipelines.
    spare: Vec<Vec<u8>>,
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
            taken_up_ms: 0,
            unsettled: true,
            resolver: Resolver::default(),
            router: Router::default(),
            framer: RequestFramer::default(),
            sessions: Vec::new(),
            free_sessions: Vec::new(),
            backends: Vec::new(),
            lanes: Vec::new(),
            own_lanes: HashMap::new(),
            up: Vec::new(),
            hosts: Vec::new(),
            joins: Vec::new(),
            free_joins: Vec::new(),
            idle_private: Vec::new(),
            topics: Topics::default(),
            broadcasts: Broadcasts::default(),
            tracked_sizes: TrackedSizes::default(),
            maps: 0,
            redirected: Vec::new(),
            seen: Seen::default(),
            silent: Vec::new(),
            learning: Learning::default(),
            functions: Functions::default(),
            private_count: 0,
            part_targets: Vec::new(),
            random: worker as u64,
            now_ms: 0,
            client_pause: ClientPause::default(),
            paused: Vec::new(),
            dirty_sessions: Vec::new(),
            gathering: Vec::new(),
            spare: Vec::new(),
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
        self.topics.fences.retain(|fence| fence.session != id);
        self.stop_tracking(id.index);
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
            Some(Pause::Answered | Pause::HeldBack { .. }) => session.closing || session.input.len() >= READ_BYTES,
            Some(_) => true,
            None => session.closing,
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
        self.expire_client_pause();
        self.unblock_overdue();
        self.expire_subscribes(deadline_ms);
        self.expire_broadcasts(deadline_ms);
        self.ping_listeners();
        self.ask_the_silent();
        self.publish();
    }

    /// The epoch of the topology, if whatever was sent by an earlier one has been answered, or will not be.
    pub(crate) fn settled(&mut self) -> Option<vrc_cluster::contract::Epoch> {
        if self.unsettled {
            let by_earlier_ms = self.taken_up_ms + 1;
            self.unsettled = self.backends.iter_mut().any(|backend| {
                // Whoever waits for data does so at the right node still, or was told.
                !matches!(backend.hold, Some(Hold::Waiting { .. })) && backend.is_overdue(by_earlier_ms)
            });
        }
        (!self.unsettled).then(|| self.topology.epoch())
    }

    fn publish(&mut self) {
        self.counters.backends_up = self.backends.iter().filter(|backend| backend.state == State::Up).count() as u64;
        self.counters.paused = self.paused.len() as u64;
        self.counters.tracking_keys = self.tracked_sizes.keys as u64;
        self.counters.tracking_items = self.tracked_sizes.items as u64;
        self.counters.tracking_prefixes = self.broadcasts.prefixes() as u64;
        // Whoever sees that a client is blocked may count on it that its command is at the node.
        let is_sent = |backend: &Backend| backend.state == State::Up && backend.output().is_empty();
        let waits = |backend: &&Backend| matches!(backend.hold, Some(Hold::Waiting { .. })) && is_sent(backend);
        let is_held_back = |id: &&SessionId| {
            let session = &self.sessions[id.index as usize];
            session.generation == id.generation && matches!(session.paused, Some(Pause::HeldBack { .. }))
        };
        let held_back = if self.client_pause.is_on() { self.paused.iter().filter(is_held_back).count() } else { 0 };
        self.counters.blocked = (self.backends.iter().filter(waits).count() + held_back) as u64;
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
        self.own_lanes.clear();
        self.topology = topology;
        self.maps += 1;
        self.learning.map_changed();
        self.functions.map_changed(&self.topology);
        self.taken_up_ms = self.now_ms;
        self.unsettled = true;
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
                    match backend.lane.index() {
                        Some(of_node) => self.lanes[usize::from(node) * Lane::COUNT + of_node] = index,
                        None => drop(self.own_lanes.insert((node, backend.lane), index)),
                    }
                    moved.push((Some(index), lane, unsent));
                    continue;
                }
                None if backend.state == State::Up => {
                    self.lose_tracked(index);
                    let backend = &mut self.backends[index as usize];
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
        self.recheck_tracked();
        self.check_private();
        self.move_topics();
        self.move_broadcasts();
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

    /// What is to be written to a session's client: nothing while it waits for the rest of a batch.
    #[inline]
    pub(crate) fn session_output(&mut self, index: u32) -> &[u8] {
        let session = &mut self.sessions[index as usize];
        session.dirty = false;
        if session.gathers() {
            if !session.gathering {
                session.gathering = true;
                self.gathering.push(SessionId { index, generation: session.generation });
            }
            return &[];
        }
        session.output()
    }

    /// Whether output waits for the rest of its batch; if so, [`Core::end_gathering`] is to be called after [`GATHER_MS`].
    ///
    /// [`GATHER_MS`]: crate::limits::GATHER_MS
    pub(crate) fn is_gathering(&self) -> bool {
        !self.gathering.is_empty()
    }

    /// Has everything written that waits for the rest of a batch.
    pub(crate) fn end_gathering(&mut self) {
        let mut list = std::mem::take(&mut self.gathering);
        for id in list.drain(..) {
            let session = &mut self.sessions[id.index as usize];
            if session.generation == id.generation {
                session.gathering = false;
                if session.gathers() {
                    session.end_batch();
                    self.mark_session(id.index);
                }
            }
        }
        self.gathering = list;
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
        session.return_buffers(&mut self.spare);
        session.trim();
    }

    // ---- For a driver that sends from buffers of its own ----

    /// Takes what is to be sent to a backend, and where in the buffer it starts; `None` if nothing. [`Core::backend_sent`] comes before
    /// the next time.
    pub(crate) fn take_backend_output(&mut self, index: u32) -> Option<(Vec<u8>, usize)> {
        let backend = &mut self.backends[index as usize];
        backend.dirty = false;
        (!backend.output().is_empty()).then(|| backend.take_output(self.spare.pop().unwrap_or_default()))
    }

    /// What was taken has been sent.
    pub(crate) fn backend_sent(&mut self, index: u32, buffer: Vec<u8>) {
        session::give_back(buffer, &mut self.spare);
        let backend = &mut self.backends[index as usize];
        backend.sent();
        if !backend.output().is_empty() {
            self.mark_backend(index);
        }
    }

    /// As [`Core::take_backend_output`], for a session's client.
    pub(crate) fn take_session_output(&mut self, index: u32) -> Option<(Vec<u8>, usize)> {
        if self.session_output(index).is_empty() {
            return None;
        }
        let next = self.spare.pop().unwrap_or_default();
        Some(self.sessions[index as usize].take_output(next))
    }

    /// What was taken has been sent: `len` bytes. If that was all that a closing session had to get, its connection is to be closed.
    pub(crate) fn session_sent(&mut self, index: u32, buffer: Vec<u8>, len: usize) {
        self.counters.bytes_out += len as u64;
        session::give_back(buffer, &mut self.spare);
        let session = &mut self.sessions[index as usize];
        session.sent();
        if session.output().is_empty() {
            self.session_written(index, 0);
        } else {
            self.mark_session(index);
        }
    }

    pub(crate) fn session_id(&self, index: u32) -> SessionId {
        SessionId { index, generation: self.sessions[index as usize].generation }
    }
}
