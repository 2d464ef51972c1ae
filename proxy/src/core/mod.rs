//! The core of a worker: sessions, reply order, queues, routing. Bytes in, bytes out.
//!
//! It does no I/O and reads no clock. A driver hands it what was read and what time it is, writes what it has put out, and carries
//! out its [`Effect`]s. So every test can cut the bytes where it likes, and another driver can be put under it.
//!
//! What must hold:
//! - Every command that was taken gets one answer, in the order of its session's commands, whatever becomes of its node.
//! - A request is sent at most once, unless not a byte of it was written.
//! - Nothing a client or a node sends can make it panic or grow without bound.

mod acl;
mod answer;
mod aside;
mod asked;
mod backend;
mod broadcast;
mod buffers;
mod client;
mod client_pause;
mod cluster;
mod config;
mod events;
mod forward;
mod functions;
mod info;
mod input;
mod lane;
mod latency;
mod learning;
mod link;
mod local;
mod map;
mod memory;
mod monitor;
mod mute;
mod order;
mod output;
mod parameters;
mod pops;
mod private;
mod pubsub;
mod repeated;
mod replies;
mod scan;
mod script;
mod sent;
mod session;
mod settings;
mod slow;
mod stuck;
#[cfg(test)]
mod tests;
mod time;
mod topics;
mod tracked;
mod tracking;
mod transaction;
mod waiter;

use std::{collections::HashMap, sync::Arc};

use vrc_cluster::{
    command::{Command, CommandId, Resolver},
    contract::Endpoint,
    merge::Join,
    resp::RequestFramer,
    route::Router,
    topology::{NodeIndex, Topology},
};

use crate::{
    limits::{CLIENT_INPUT_MAX_BYTES, READ_BYTES},
    live::Live,
    stats::{AllStats, Counters, Stats},
};

use answer::LeftBehind;
use backend::Backend;
use broadcast::Broadcasts;
use client::Kill;
use client_pause::ClientPause;
use functions::Functions;
pub(crate) use lane::Lane;
use learning::Learning;
use monitor::Monitoring;
pub(crate) use order::{Order, Outcome};
pub(crate) use output::Awaited;
use repeated::Repeats;
use replies::Sequence;
use script::Seen;
use session::{Pause, Session};
pub(crate) use session::{Peer, SessionId};
pub(crate) use settings::{Identity, Settings};
use stuck::Silent;
pub(crate) use topics::Kind as TopicKind;
use topics::Topics;
use tracked::TrackedSizes;
pub(crate) use tracked::TrackingOptions;
pub(crate) use tracking::{RedirectTarget, Redirected, TrackingRequest};
use waiter::Waiter;

/// What the core wants done that is not writing.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Open a connection and report [`Core::backend_up`] or [`Core::backend_lost`] with this incarnation.
    Connect { backend: u32, incarnation: u32, endpoint: Endpoint, lane: Lane, tracking: Option<TrackingOptions>, after_ms: u64 },
    /// Ask this node for all its functions and report [`Core::functions_learned`].
    LearnFunctions { endpoint: Endpoint },
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
    /// An order that [`Core::carry_out`] was given by this number is carried out.
    CarriedOut { order: u64, outcome: Outcome },
    /// Have all workers [`Core::carry_out`] an order, this one's included, and report [`Core::carried_out`].
    Order { session: SessionId, sequence: u32, order: Order },
    /// Ask all workers for the client of this number and report [`Core::redirect_found`].
    FindClient { session: SessionId, sequence: u32, client: u64, request: Box<TrackingRequest> },
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
    repeats: Repeats,
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
    left_behind: Vec<LeftBehind>,
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
    /// The session that said something last, when that was, and when it was another than before.
    heard_last: u32,
    heard_ms: u64,
    heard_another_ms: u64,
    /// How many bytes had come from clients when [`Core::has_heard_much`] was last so.
    much_heard_at: u64,
    now_us: u64,
    now_ms: u64,
    /// The settings that it goes by, and how many changes there had been of them.
    live: Arc<Live>,
    live_version: u64,
    /// Commands that take at least so long are looked at.
    timed_from_us: u64,
    /// How many got into the slow log in this turn.
    slow_now: u32,
    /// When idle clients were last looked for.
    idle_looked_ms: u64,
    client_pause: ClientPause,
    kills: Vec<Kill>,
    monitoring: Monitoring,
    /// Paused sessions.
    paused: Vec<SessionId>,
    /// The session that was looked at last whether it is idle.
    swept: usize,
    dirty_sessions: Vec<u32>,
    /// Sessions whose output waits for the rest of a batch.
    gathering: Vec<SessionId>,
    /// Empty buffers for the replies to pipelines.
    spare: Vec<Vec<u8>>,
    /// Likewise for requests, which may be larger: lent for short replies too, all would grow to that size sooner or later.
    spare_for_backends: Vec<Vec<u8>>,
    dirty_backends: Vec<u32>,
    effects: Vec<Effect>,
    counters: Counters,
    /// What others see of `counters` is not how many clients there are, and wait, any more.
    clients_changed: bool,
    /// Its worker's number.
    worker: usize,
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
            repeats: Repeats::default(),
            sessions: Vec::new(),
            free_sessions: Vec::new(),
            backends: Vec::new(),
            lanes: Vec::new(),
            own_lanes: HashMap::new(),
            up: Vec::new(),
            hosts: Vec::new(),
            joins: Vec::new(),
            free_joins: Vec::new(),
            left_behind: Vec::new(),
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
            heard_last: 0,
            heard_ms: 0,
            heard_another_ms: 0,
            much_heard_at: 0,
            now_us: 0,
            now_ms: 0,
            live: Arc::default(),
            live_version: 0,
            timed_from_us: u64::MAX,
            slow_now: 0,
            idle_looked_ms: 0,
            client_pause: ClientPause::default(),
            kills: Vec::new(),
            monitoring: Monitoring::default(),
            paused: Vec::new(),
            swept: 0,
            dirty_sessions: Vec::new(),
            gathering: Vec::new(),
            spare: Vec::new(),
            spare_for_backends: Vec::new(),
            dirty_backends: Vec::new(),
            effects: Vec::new(),
            counters: Counters::default(),
            clients_changed: false,
            worker,
            stats: all_stats.of(worker),
            all_stats,
        };
        core.follow_live_settings();
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
        session.open(id, peer, self.live.password.is_none(), self.now_ms);
        self.counters.clients += 1;
        self.clients_changed = true;
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
        self.stop_monitoring(id.index);
        let session = &self.sessions[id.index as usize];
        let own = [session.watching, session.waiting];
        let first = session.replies.first_sequence();
        for (place, slot) in self.sessions[id.index as usize].close().into_iter().enumerate() {
            self.give_up(id, first.wrapping_add(place as u32), slot);
        }
        for backend in own.into_iter().flatten() {
            if !self.end_wait_of_one_who_left(backend) {
                self.close_private(backend);
            }
        }
        self.free_sessions.push(id.index);
        self.counters.clients -= 1;
        self.clients_changed = true;
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
            Some(Pause::Answered | Pause::HeldBack { .. }) => session.closing || session.kept_bytes() >= READ_BYTES,
            Some(Pause::Answers) if session.heard_out => session.closing || session.kept_bytes() >= CLIENT_INPUT_MAX_BYTES,
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
                session.drop_input();
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

    /// Who waits for the reply to the session's command that has this place in its row.
    #[inline(always)]
    fn waiter(&self, index: u32, sequence: Sequence) -> Waiter {
        let session = &self.sessions[index as usize];
        let command = session.last_command.map_or(CommandId::NONE, Command::id);
        Waiter::new(SessionId { index, generation: session.generation }, sequence, command, self.now_us)
    }

    pub(crate) fn session_id(&self, index: u32) -> SessionId {
        SessionId { index, generation: self.sessions[index as usize].generation }
    }
}
