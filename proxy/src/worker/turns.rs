//! A worker's thread. It works in turns: whatever is ready is read, all of it, and only then is written what came of that, to nodes
//! before clients. So one write carries what all who were read had, and one read brings many replies. Only what is much for one node may
//! be written to it before: it would take memory, and many requests share that write as it is.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, atomic::Ordering::Relaxed, mpsc::Receiver},
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, Cache};
use mio::{Events, Poll, Token};
use tokio::sync::oneshot;
use vrc_cluster::topology::Topology;

use super::{
    Control, Outset, Shared, WorkerHandle,
    busy_poll::BusyPoll,
    driver::{Driver, Gone, TOKEN_BITS, Whose},
    errand::{Brought, Errands, Wanted},
    yielding::Yielding,
};
use crate::{
    connect::{ConnectError, Opened},
    core::{Awaited, Core, Effect, Order, Outcome, Peer, Redirected, SessionId},
    latency::Event as Latency,
    limits::{GATHER_MS, TICK_MS},
    socket::Socket,
    watch::Suspicion,
};

/// What tells of messages; no connection's.
pub(super) const WOKEN: Token = Token(2 << TOKEN_BITS);

/// How long a worker that stops waits for what is under way, in ms.
const STOP_GRACE_MS: u64 = 1_000;
/// Sockets that are ready in one turn; more of them have to wait for the next.
const EVENTS_A_TURN: usize = 1024;
/// Messages that are taken in one turn, likewise.
const MESSAGES_A_TURN: usize = 256;

pub(super) struct Turns<D> {
    core: Core,
    driver: D,
    poll: Poll,
    inbox: Receiver<Control>,
    /// More messages may be there than were taken.
    has_messages: bool,
    errands: Errands,
    topology: Cache<Arc<ArcSwap<Topology>>, Arc<Topology>>,
    /// The topology that the core goes by.
    seen: Arc<Topology>,
    started: Instant,
    now_ms: u64,
    tick_due_ms: u64,
    /// When replies that wait for others of their batch have waited long enough.
    gathered_due_ms: Option<u64>,
    /// Until when it waits for what is under way, once it was told to stop.
    stop_due_ms: Option<u64>,
    yielding: Yielding,
    busy_poll: BusyPoll,
    /// Who is to answer what the last turn wrote, if it did write something.
    awaited: Option<Awaited>,
    gone: Vec<Gone>,
    /// Who is to be told what comes of an order that takes its time, by the number that it was given.
    orders: HashMap<u64, oneshot::Sender<Outcome>>,
    orders_taken: u64,
    /// Its own number among all workers.
    number: usize,
    all: Vec<WorkerHandle>,
    shared: Shared,
}

impl<D: Driver> Turns<D> {
    pub(super) fn new(outset: Outset, driver: D) -> Self {
        let Outset { number, poll, inbox, all, shared, runtime } = outset;
        let topology = shared.topology.load_full();
        let limit = Duration::from_millis(shared.settings.timeout_ms);
        let started = Instant::now();
        Turns {
            core: Core::new(shared.settings.clone(), topology.clone(), number, shared.stats.clone()),
            driver,
            poll,
            inbox,
            has_messages: false,
            errands: Errands::new(runtime, all[number].clone(), limit),
            topology: Cache::new(shared.topology.clone()),
            seen: topology,
            started,
            now_ms: 0,
            tick_due_ms: TICK_MS,
            gathered_due_ms: None,
            stop_due_ms: None,
            yielding: Yielding::new(started),
            busy_poll: BusyPoll::new(shared.busy_poll),
            awaited: None,
            gone: Vec::new(),
            orders: HashMap::new(),
            orders_taken: 0,
            number,
            all,
            shared,
        }
    }

    /// Serves until it is told to stop.
    ///
    /// # Errors
    /// If it cannot wait for sockets any more.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_A_TURN);
        while !self.has_stopped() {
            if let Err(error) = self.wait(&mut events)
                && error.kind() != io::ErrorKind::Interrupted
            {
                return Err(io::Error::new(error.kind(), format!("cannot wait for sockets: {error}")));
            }
            self.turn(&events);
        }
        Ok(())
    }

    fn has_stopped(&self) -> bool {
        self.stop_due_ms.is_some_and(|due_ms| self.me().clients() == 0 || self.now_ms >= due_ms)
    }

    /// Itself as others see it.
    fn me(&self) -> &WorkerHandle {
        &self.all[self.number]
    }

    fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    /// Waits until something has happened, or is to be done.
    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        let wait = self.may_wait();
        if let (Some(awaited), false) = (self.awaited, wait.is_zero()) {
            if self.core.is_one_client_alone() && self.look(awaited, events)? {
                return Ok(());
            }
            self.yielding.yield_if_due();
        }
        self.poll.poll(events, Some(wait))
    }

    fn look(&mut self, awaited: Awaited, events: &mut Events) -> io::Result<bool> {
        let Turns { busy_poll, yielding, driver, poll, .. } = self;
        busy_poll.look(awaited, yielding, || {
            poll.poll(events, Some(Duration::ZERO))?;
            Ok(!events.is_empty() || driver.has_more())
        })
    }

    /// How long to wait for something to happen.
    fn may_wait(&mut self) -> Duration {
        if self.has_messages || self.core.has_dirty() || self.driver.has_more() {
            return Duration::ZERO;
        }
        let due_ms = self.gathered_due_ms.map_or(self.tick_due_ms, |due_ms| due_ms.min(self.tick_due_ms));
        Duration::from_millis(due_ms.saturating_sub(self.now_ms))
    }

    fn turn(&mut self, events: &Events) {
        let now_us = self.now_us();
        self.now_ms = now_us / 1000;
        self.core.set_now(now_us);
        self.follow_topology();
        self.driver.take_in(&mut self.core, &mut self.gone);
        for event in events {
            match event.token() {
                WOKEN => self.has_messages = true,
                _ => self.driver.happened(event, &mut self.core, &mut self.gone),
            }
        }
        self.bury();
        if self.has_messages {
            self.take_messages();
        }
        if self.now_ms >= self.tick_due_ms {
            self.tick(now_us);
        }
        if self.gathered_due_ms.is_some_and(|due_ms| self.now_ms >= due_ms) {
            self.gathered_due_ms = None;
            self.core.end_gathering();
        }
        self.carry_out_effects();
        self.hand_out_lines();
        self.awaited = self.core.awaited();
        self.driver.flush(&mut self.core, &mut self.gone);
        self.bury();
        self.redirect_invalidations();
        self.core.resume_paused();
        self.core.publish_clients();
        if self.core.is_gathering() {
            self.gathered_due_ms.get_or_insert(self.now_ms + GATHER_MS);
        }
        if self.core.watches_latency() {
            self.core.note_latency(Latency::Turn, self.core.turn_us(self.now_us()));
        }
    }

    fn tick(&mut self, now_us: u64) {
        self.tick_due_ms = self.now_ms + TICK_MS;
        self.core.tick(now_us);
        if let Some(epoch) = self.core.settled() {
            self.me().settled.store(epoch, Relaxed);
        }
        // A client that waits for data with much said behind it is not read: that it has left shows only if one looks.
        let waiting = self.core.waiting().collect::<Vec<_>>();
        let left = waiting.into_iter().filter(|session| self.driver.has_left(*session)).collect::<Vec<_>>();
        left.into_iter().for_each(|session| self.close_session(session));
    }

    /// Hands the core a topology that was swapped in.
    fn follow_topology(&mut self) {
        let current = self.topology.load();
        if !Arc::ptr_eq(current, &self.seen) {
            self.seen = current.clone();
            let began_us = self.now_us();
            self.core.set_topology(self.seen.clone());
            self.core.note_latency(Latency::MapSwap, self.now_us() - began_us);
        }
    }

    // ---- Messages ----

    fn take_messages(&mut self) {
        for _ in 0..MESSAGES_A_TURN {
            let Ok(message) = self.inbox.try_recv() else {
                self.has_messages = false;
                return;
            };
            self.take_message(message);
        }
    }

    fn take_message(&mut self, message: Control) {
        match message {
            Control::Accept { socket, peer, id } => self.accept(socket, peer, id),
            // It was looked at when the turn began.
            Control::TopologyChanged => self.follow_topology(),
            Control::Order { order, reply } => self.take_order(&order, reply),
            Control::FindClient { client, reply } => drop(reply.send(self.core.find_client(client))),
            Control::Invalidate { from_worker, invalidation } => self.take_invalidation(from_worker, &invalidation),
            Control::ShowLines(lines) => {
                self.shared.stats.monitors.taken(self.number, lines.len());
                self.core.show_lines(&lines);
            }
            Control::RedirectBroken { from, client } => self.core.redirect_broken(from, client),
            Control::Brought(brought) => self.take_brought(brought),
            Control::Stop => {
                self.core.close_all();
                self.stop_due_ms = Some(self.now_ms + STOP_GRACE_MS);
            }
        }
    }

    fn take_order(&mut self, order: &Order, reply: oneshot::Sender<Outcome>) {
        self.orders_taken += 1;
        match self.core.carry_out(order, self.orders_taken) {
            // Whoever asked may have gone.
            Some(outcome) => drop(reply.send(outcome)),
            None => drop(self.orders.insert(self.orders_taken, reply)),
        }
    }

    fn accept(&mut self, socket: Socket, peer: Peer, id: u64) {
        if self.stop_due_ms.is_some() {
            self.me().clients.fetch_sub(1, Relaxed);
            return;
        }
        let session = self.core.session_open(id, peer);
        if let Err(error) = self.driver.open(Whose::Session(session), socket) {
            tracing::warn!("a client's socket cannot be served: {error}");
            self.close_session(session);
        }
    }

    fn take_brought(&mut self, brought: Brought) {
        match brought {
            Brought::Connection { index, incarnation, opened, took_us } => {
                if self.take_connection(index, incarnation, opened) {
                    self.core.note_latency(Latency::NodeConnect, took_us);
                }
            }
            Brought::Commands(reply) => self.core.commands_learned(reply.as_deref()),
            Brought::FunctionList(reply) => self.core.functions_learned(reply.as_deref()),
            Brought::Functions { node } => self.core.functions_copied(&node),
            Brought::Outcomes { session, sequence, order, outcomes } => {
                self.core.carried_out(session, sequence, &order, outcomes);
            }
            Brought::Client { session, sequence, request, target } => {
                self.core.redirect_found(session, sequence, *request, target);
            }
        }
    }

    /// Returns whether the connection is there and wanted.
    fn take_connection(&mut self, index: u32, incarnation: u32, opened: Result<Opened, ConnectError>) -> bool {
        let is_stranger = |opened: &Opened| self.core.process_of(index).is_some_and(|run_id| !opened.is_to(run_id));
        let opened = match opened {
            Ok(opened) if is_stranger(&opened) => Err(ConnectError::Stranger),
            opened => opened,
        };
        let whose = Whose::Backend { index, incarnation };
        match opened {
            Ok(opened) => {
                // Otherwise nobody wants it any more.
                let is_wanted = self.core.backend_up(index, incarnation);
                if is_wanted {
                    self.core.backend_known_as(index, opened.client_id);
                    if let Err(error) = self.open_backend(index, incarnation, opened) {
                        self.lose(Gone { whose, reason: error.to_string() });
                    }
                }
                is_wanted
            }
            Err(error) => {
                self.lose(Gone { whose, reason: error.to_string() });
                false
            }
        }
    }

    fn open_backend(&mut self, index: u32, incarnation: u32, opened: Opened) -> std::io::Result<()> {
        self.driver.open(Whose::Backend { index, incarnation }, Socket::Tcp(opened.stream.into_std()?))?;
        if let Some(feed) = opened.feed {
            self.driver.open(Whose::Feed { index, incarnation }, Socket::Tcp(feed.into_std()?))?;
        }
        Ok(())
    }

    // ---- Connections that are of no more use ----

    /// Lets go of the connections that the driver found to be so.
    fn bury(&mut self) {
        while let Some(gone) = self.gone.pop() {
            self.lose(gone);
        }
    }

    fn lose(&mut self, gone: Gone) {
        match gone.whose {
            Whose::Session(session) => self.close_session(session),
            // Without its second connection the first is of no use.
            Whose::Backend { index, incarnation } | Whose::Feed { index, incarnation } => {
                if self.core.backend_incarnation(index) == incarnation {
                    let reason = match gone.whose {
                        Whose::Feed { .. } => format!("its second connection: {}", gone.reason),
                        _ => gone.reason,
                    };
                    self.core.backend_lost(index, incarnation, &reason);
                    self.driver.close_backend(index);
                }
            }
        }
    }

    fn close_session(&mut self, session: SessionId) {
        if self.core.is_open(session) {
            self.core.session_closed(session);
            self.driver.close(Whose::Session(session));
            self.me().clients.fetch_sub(1, Relaxed);
        }
    }

    // ---- What the core wants done ----

    fn carry_out_effects(&mut self) {
        for effect in self.core.take_effects() {
            match effect {
                Effect::Connect { backend: index, incarnation, endpoint, lane, tracking, after_ms } => {
                    let asks = self.core.process_of(index).is_some();
                    self.errands.connect(Wanted { index, incarnation, endpoint, lane, tracking, asks, after_ms });
                }
                Effect::CopyFunctions { node, to, from } => self.errands.copy_functions(node, to, from),
                Effect::LearnFunctions { endpoint } => self.errands.learn_functions(endpoint),
                Effect::LearnCommands { endpoint } => self.errands.learn_commands(endpoint),
                Effect::Disconnect { backend } => self.driver.close_backend(backend),
                Effect::Resume { session } => self.driver.resume(self.core.session_id(session)),
                Effect::Close { session } => {
                    if self.core.is_open(session) {
                        self.driver.write_last(session, &mut self.core);
                    }
                    self.close_session(session);
                }
                // If the channel is full, enough has been said already.
                Effect::Suspect { node, reason } => drop(self.shared.suspicions.try_send(Suspicion { node, reason })),
                Effect::FindClient { session, sequence, client, request } => {
                    self.errands.find_client(&self.all, session, sequence, client, request);
                }
                Effect::CarriedOut { order, outcome } => {
                    if let Some(reply) = self.orders.remove(&order) {
                        let _ = reply.send(outcome);
                    }
                }
                Effect::Order { session, sequence, order } => self.errands.order(&self.all, session, sequence, order),
            }
        }
    }

    /// Hands lines of MONITOR to the workers whose clients listen.
    fn hand_out_lines(&mut self) {
        let Some((lines, workers)) = self.core.take_lines() else { return };
        let shared: Arc<[u8]> = lines.into();
        for worker in workers {
            if worker == self.number {
                self.core.show_lines(&shared);
            } else if self.shared.stats.monitors.may_hand(worker, shared.len()) {
                self.all[worker].tell(Control::ShowLines(shared.clone()));
            }
        }
    }

    /// Hands invalidations to the workers whose clients they are for.
    fn redirect_invalidations(&mut self) {
        for invalidation in self.core.take_redirected() {
            if invalidation.to.worker == self.number {
                self.take_invalidation(self.number, &invalidation);
            } else {
                self.all[invalidation.to.worker].tell(Control::Invalidate { from_worker: self.number, invalidation });
            }
        }
    }

    /// An invalidation for a client of this worker.
    fn take_invalidation(&mut self, from_worker: usize, invalidation: &Redirected) {
        let Redirected { from, to, .. } = *invalidation;
        if self.core.take_invalidation(to.session, invalidation.keys.as_deref()) {
            return;
        }
        if from_worker == self.number {
            self.core.redirect_broken(from, to.client);
        } else {
            self.all[from_worker].tell(Control::RedirectBroken { from, client: to.client });
        }
    }
}
