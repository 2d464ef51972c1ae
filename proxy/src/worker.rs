//! A worker: one thread with a runtime of its own, which moves bytes between sockets and its [`Core`].
//!
//! Connection tasks only read. What they have put into the core is written by one flusher, once everything that was ready has been
//! read: tasks run in the order in which they were woken, the first reader that has something wakes the flusher, and so the flusher
//! stands behind all readers of the same turn. One write then carries what all of them had. Nodes are written to before clients.

#[cfg_attr(not(target_os = "linux"), path = "worker/no_ring.rs")]
mod ring_driver;

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, Cache};
use tokio::{
    net::TcpStream,
    sync::{Notify, mpsc, oneshot},
    task::{AbortHandle, LocalSet, spawn_local},
    time::{MissedTickBehavior, interval, sleep},
};
use vrc_cluster::{
    contract::{Endpoint, Epoch},
    topology::Topology,
};

use self::ring_driver::RingIo;
use crate::{
    connect::{ConnectError, ask, connect},
    core::{
        Core, Effect, Lane, Order, Outcome, Peer, RedirectTarget, Redirected, SessionId, Settings, TrackingOptions,
        TrackingRequest,
    },
    functions,
    limits::{ASKED_BYTES_MAX, GATHER_MS, READ_BYTES, TICK_MS},
    socket::{Reader, Socket, StdSocket, Writer},
    stats::AllStats,
    watch::Suspicion,
};

/// What a worker is told from outside.
#[derive(Debug)]
pub(crate) enum Control {
    /// Serve this client.
    Accept { socket: StdSocket, peer: Peer, id: u64 },
    /// The shared topology was swapped: look at it also if no client says anything.
    TopologyChanged,
    /// Carry out what some worker's client has ordered, and say what came of it.
    Order { order: Arc<Order>, reply: oneshot::Sender<Outcome> },
    /// Tell whether a client is this worker's.
    FindClient { client: u64, reply: oneshot::Sender<Option<SessionId>> },
    /// An invalidation for a client of this worker, from one of another.
    Invalidate { from_worker: usize, invalidation: Redirected },
    /// The client that a session's invalidations were to go to is gone.
    RedirectBroken { from: SessionId, client: u64 },
    /// Answer what is under way, take nothing more, and end.
    Stop,
}

/// A worker as the rest of the proxy sees it.
#[derive(Debug, Clone)]
pub(crate) struct WorkerHandle {
    control: mpsc::UnboundedSender<Control>,
    clients: Arc<AtomicUsize>,
    settled: Arc<AtomicU64>,
}

impl WorkerHandle {
    /// How many clients it serves.
    pub(crate) fn clients(&self) -> usize {
        self.clients.load(Relaxed)
    }

    /// The epoch of the map that it routes by, once all that it had sent by earlier ones has been answered; until then an
    /// earlier one.
    pub(crate) fn settled(&self) -> Epoch {
        self.settled.load(Relaxed)
    }

    /// Gives it a client.
    pub(crate) fn accept(&self, socket: StdSocket, peer: Peer, id: u64) {
        self.clients.fetch_add(1, Relaxed);
        self.tell(Control::Accept { socket, peer, id });
    }

    /// A worker that has ended hears nothing, which is as well.
    pub(crate) fn tell(&self, control: Control) {
        let _ = self.control.send(control);
    }
}

/// What all workers share.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) topology: Arc<ArcSwap<Topology>>,
    pub(crate) stats: Arc<AllStats>,
    pub(crate) suspicions: mpsc::Sender<Suspicion>,
    /// Move bytes through an io_uring where that can be had.
    pub(crate) io_uring: bool,
}

/// How long a worker that stops waits for what is under way.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// Starts `count` workers; their threads end after [`Control::Stop`].
pub(crate) fn start(count: usize, shared: &Shared) -> std::io::Result<(Vec<WorkerHandle>, Vec<thread::JoinHandle<()>>)> {
    let (handles, receivers): (Vec<_>, Vec<_>) = (0..count)
        .map(|_| {
            let (control, receiver) = mpsc::unbounded_channel();
            (WorkerHandle { control, clients: Arc::default(), settled: Arc::default() }, receiver)
        })
        .unzip();
    let threads = receivers
        .into_iter()
        .enumerate()
        .map(|(number, receiver)| {
            let (shared, all) = (shared.clone(), handles.clone());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
            thread::Builder::new()
                .name(format!("vrc-worker-{number}"))
                .spawn(move || LocalSet::new().block_on(&runtime, run(number, shared, all, receiver)))
        })
        .collect::<Result<_, _>>()?;
    Ok((handles, threads))
}

async fn run(number: usize, shared: Shared, all: Vec<WorkerHandle>, mut control: mpsc::UnboundedReceiver<Control>) {
    let topology = shared.topology.load_full();
    let worker = Rc::new(Worker {
        core: RefCell::new(Core::new(shared.settings.clone(), topology.clone(), number, shared.stats.clone())),
        io: RefCell::new(Io { buffer: vec![0; READ_BYTES].into_boxed_slice(), sessions: Vec::new(), backends: Vec::new() }),
        ring: ring(number, &shared),
        topology: RefCell::new(Cache::new(shared.topology.clone())),
        seen: RefCell::new(topology),
        flusher: RefCell::new(Waker::noop().clone()),
        flush_wanted: Cell::new(false),
        gathering: Cell::new(false),
        gather: Notify::new(),
        started: Instant::now(),
        clients: all[number].clients.clone(),
        number,
        settled: all[number].settled.clone(),
        all,
        shared,
    });
    spawn_local(poll_fn({
        let worker = worker.clone();
        move |cx| worker.poll_flush(cx)
    }));
    if worker.ring.is_some() {
        ring_driver::watch(&worker);
    }
    spawn_local(worker.clone().tick());
    spawn_local(worker.clone().end_gathering());
    while let Some(message) = control.recv().await {
        match message {
            Control::Accept { socket, peer, id } => worker.accept(socket, peer, id),
            Control::TopologyChanged => {
                worker.follow_topology(&mut worker.core.borrow_mut());
                worker.want_flush();
            }
            Control::Order { order, reply } => {
                let mut core = worker.core.borrow_mut();
                core.set_now(worker.now_ms());
                // Whoever asked may have gone.
                let _ = reply.send(core.carry_out(&order));
                worker.want_flush();
            }
            Control::FindClient { client, reply } => drop(reply.send(worker.core.borrow().find_client(client))),
            Control::Invalidate { from_worker, invalidation } => {
                worker.take_invalidation(from_worker, &invalidation);
                worker.want_flush();
            }
            Control::RedirectBroken { from, client } => {
                worker.core.borrow_mut().redirect_broken(from, client);
                worker.want_flush();
            }
            Control::Stop => break,
        }
    }
    worker.core.borrow_mut().close_all();
    worker.want_flush();
    let deadline = Instant::now() + STOP_GRACE;
    while worker.clients.load(Relaxed) > 0 && Instant::now() < deadline {
        sleep(Duration::from_millis(5)).await;
    }
}

/// The io_uring of a worker that is to use one.
fn ring(worker: usize, shared: &Shared) -> Option<RefCell<RingIo>> {
    if !shared.io_uring {
        return None;
    }
    match RingIo::new() {
        Ok(ring) => {
            tracing::info!(worker, "bytes go through an io_uring");
            Some(RefCell::new(ring))
        }
        Err(error) => {
            tracing::warn!(worker, "io_uring is not to be had here ({error}): going on with epoll");
            None
        }
    }
}

struct Worker {
    core: RefCell<Core>,
    io: RefCell<Io>,
    /// Moves the bytes in place of `io`, if asked for and allowed.
    ring: Option<RefCell<RingIo>>,
    topology: RefCell<Cache<Arc<ArcSwap<Topology>>, Arc<Topology>>>,
    /// The topology that the core goes by.
    seen: RefCell<Arc<Topology>>,
    flusher: RefCell<Waker>,
    flush_wanted: Cell<bool>,
    /// Replies wait for others of their batch, and [`Worker::end_gathering`] has been told.
    gathering: Cell<bool>,
    gather: Notify,
    started: Instant,
    clients: Arc<AtomicUsize>,
    settled: Arc<AtomicU64>,
    /// Its own number among all workers.
    number: usize,
    all: Vec<WorkerHandle>,
    shared: Shared,
}

/// A node connection that is to be opened.
struct Wanted {
    endpoint: Endpoint,
    lane: Lane,
    tracking: Option<TrackingOptions>,
    /// How long to wait before that, in ms.
    after_ms: u64,
}

/// The sockets, by the core's indexes.
struct Io {
    /// What every read of this worker goes into.
    buffer: Box<[u8]>,
    sessions: Vec<Option<Connection>>,
    backends: Vec<Option<Connection>>,
}

struct Connection {
    writer: Rc<Writer>,
    reader_task: AbortHandle,
    /// What reads a node's second connection, if it has one.
    feed: Option<AbortHandle>,
    /// The reader, while its session is paused.
    parked: Option<Waker>,
    /// The task that waits for the socket's buffer to have room, while it has none.
    blocked: Option<AbortHandle>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader_task.abort();
        if let Some(feed) = &self.feed {
            feed.abort();
        }
        if let Some(waiting) = &self.blocked {
            waiting.abort();
        }
    }
}

/// A client or a node: what a writing task is about.
#[derive(Debug, Clone, Copy)]
enum Target {
    Session(SessionId),
    Backend { index: u32, incarnation: u32 },
}

impl Worker {
    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Has the flusher run once what is ready now has been read.
    #[inline]
    fn want_flush(&self) {
        if !self.flush_wanted.replace(true) {
            self.flusher.borrow().wake_by_ref();
        }
    }

    async fn tick(self: Rc<Self>) {
        let mut ticks = interval(Duration::from_millis(TICK_MS));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.core.borrow_mut().tick(self.now_ms());
            if let Some(epoch) = self.core.borrow_mut().settled() {
                self.settled.store(epoch, Relaxed);
            }
            self.close_those_who_left_waiting();
            let core = self.core.borrow();
            // Who waits for room may have got it from requests that expired without a reply to anybody.
            if core.has_dirty() || core.has_paused() {
                self.want_flush();
            }
        }
    }

    /// Bounds how long replies wait for others of their batch.
    async fn end_gathering(self: Rc<Self>) {
        loop {
            self.gather.notified().await;
            sleep(Duration::from_millis(GATHER_MS)).await;
            self.gathering.set(false);
            self.core.borrow_mut().end_gathering();
            self.want_flush();
        }
    }

    /// A client that waits for data with much said behind it is not read: that it has left shows only if one looks.
    fn close_those_who_left_waiting(&self) {
        let left: Vec<_> = {
            let io = self.io.borrow();
            let ended = |session: &SessionId| match &self.ring {
                Some(_) => self.ring_is_ended(*session),
                None => connection_is_ended(&io, *session),
            };
            self.core.borrow().waiting().filter(ended).collect()
        };
        left.into_iter().for_each(|session| self.close_session(session));
    }

    /// Hands the core a topology that was swapped in.
    #[inline]
    fn follow_topology(&self, core: &mut Core) {
        let mut cache = self.topology.borrow_mut();
        let current = cache.load();
        if !Arc::ptr_eq(current, &self.seen.borrow()) {
            core.set_topology(current.clone());
            *self.seen.borrow_mut() = current.clone();
        }
    }

    // ---- Reading ----

    fn accept(self: &Rc<Self>, socket: StdSocket, peer: Peer, id: u64) {
        if self.ring.is_some() {
            return self.ring_accept(socket, peer, id);
        }
        let socket = match Socket::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!("a client's socket cannot be served: {error}");
                self.clients.fetch_sub(1, Relaxed);
                return;
            }
        };
        let (reader, writer) = socket.split();
        let session = self.core.borrow_mut().session_open(id, peer);
        let task = spawn_local(self.clone().read_session(session, reader));
        put(&mut self.io.borrow_mut().sessions, session.index, Connection::new(writer, task.abort_handle()));
    }

    async fn read_session(self: Rc<Self>, session: SessionId, mut reader: Reader) {
        let ended = poll_fn(|cx| {
            loop {
                let mut core = self.core.borrow_mut();
                if core.is_paused(session) {
                    let mut io = self.io.borrow_mut();
                    if let Some(connection) = &mut io.sessions[session.index as usize] {
                        connection.parked = Some(cx.waker().clone());
                    }
                    return Poll::Pending;
                }
                let io = &mut *self.io.borrow_mut();
                let len = match reader.poll_read(cx, &mut io.buffer) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Ready(Ok(len)) => len,
                };
                self.follow_topology(&mut core);
                core.session_input(session, &io.buffer[..len]);
                self.want_flush();
                if len == io.buffer.len() {
                    // There is more: let the others have their turn first.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        })
        .await;
        match ended {
            // The client's sending side is closed; it may still read its answers.
            Ok(()) => self.core.borrow_mut().session_ended(session),
            Err(_) => self.close_session(session),
        }
        self.want_flush();
    }

    async fn run_backend(self: Rc<Self>, index: u32, incarnation: u32, wanted: Wanted) {
        if wanted.after_ms > 0 {
            sleep(Duration::from_millis(wanted.after_ms)).await;
        }
        let limit = Duration::from_millis(self.shared.settings.timeout_ms);
        let asks = self.core.borrow().process_of(index).is_some();
        let opened = match connect(&wanted.endpoint, wanted.lane, wanted.tracking.as_ref(), asks, limit).await {
            Ok(opened) => opened,
            Err(error) => return self.lose_backend(index, incarnation, &error.to_string()),
        };
        let is_stranger = self.core.borrow().process_of(index).is_some_and(|run_id| !opened.is_to(run_id));
        if is_stranger {
            return self.lose_backend(index, incarnation, &ConnectError::Stranger.to_string());
        }
        if !self.core.borrow_mut().backend_up(index, incarnation) {
            // Nobody wants it any more.
            return;
        }
        self.core.borrow_mut().backend_known_as(index, opened.client_id);
        if self.ring.is_some() {
            return match opened.stream.into_std() {
                Ok(stream) => {
                    let feed = opened.feed.map(|feed| self.read_feed(index, incarnation, feed));
                    self.ring_backend(index, incarnation, StdSocket::Tcp(stream), feed);
                }
                Err(error) => self.lose_backend(index, incarnation, &error.to_string()),
            };
        }
        let (mut reader, writer) = Socket::Tcp(opened.stream).split();
        let me = tokio::task::spawn_local({
            let worker = self.clone();
            async move {
                let reason = poll_fn(|cx| worker.poll_backend(cx, index, incarnation, &mut reader)).await;
                worker.lose_backend(index, incarnation, &reason);
            }
        });
        let mut connection = Connection::new(writer, me.abort_handle());
        connection.feed = opened.feed.map(|feed| self.read_feed(index, incarnation, feed));
        put(&mut self.io.borrow_mut().backends, index, connection);
        self.want_flush();
    }

    /// Reads the second connection of a backend for as long as the first stands; without it the first is of no use.
    fn read_feed(self: &Rc<Self>, index: u32, incarnation: u32, feed: TcpStream) -> AbortHandle {
        let worker = self.clone();
        let reading = spawn_local(async move {
            let (mut reader, _writer) = Socket::Tcp(feed).split();
            let reason = poll_fn(|cx| {
                loop {
                    let io = &mut *worker.io.borrow_mut();
                    let len = match reader.poll_read(cx, &mut io.buffer) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(Ok(0)) => return Poll::Ready("its second connection closed".to_owned()),
                        Poll::Ready(Err(error)) => return Poll::Ready(error.to_string()),
                        Poll::Ready(Ok(len)) => len,
                    };
                    worker.core.borrow_mut().feed_input(index, incarnation, &io.buffer[..len]);
                    worker.want_flush();
                }
            })
            .await;
            worker.lose_backend(index, incarnation, &reason);
        });
        reading.abort_handle()
    }

    fn poll_backend(&self, cx: &mut Context<'_>, index: u32, incarnation: u32, reader: &mut Reader) -> Poll<String> {
        loop {
            let io = &mut *self.io.borrow_mut();
            let len = match reader.poll_read(cx, &mut io.buffer) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => return Poll::Ready("connection closed".to_owned()),
                Poll::Ready(Err(error)) => return Poll::Ready(error.to_string()),
                Poll::Ready(Ok(len)) => len,
            };
            self.core.borrow_mut().backend_input(index, incarnation, &io.buffer[..len]);
            self.want_flush();
            if len == io.buffer.len() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    fn lose_backend(&self, index: u32, incarnation: u32, reason: &str) {
        let mut core = self.core.borrow_mut();
        if core.backend_incarnation(index) == incarnation {
            core.backend_lost(index, incarnation, reason);
            self.close_backend(index);
            self.want_flush();
        }
    }

    /// Closes the socket of a backend, if it has one.
    fn close_backend(&self, index: u32) {
        if self.ring.is_some() {
            self.ring_close_backend(index);
        } else if let Some(connection) = self.io.borrow_mut().backends.get_mut(index as usize) {
            *connection = None;
        }
    }

    fn close_session(&self, session: SessionId) {
        let mut core = self.core.borrow_mut();
        if core.is_open(session) {
            core.session_closed(session);
            match &self.ring {
                Some(_) => self.ring_close_session(session),
                None => self.io.borrow_mut().sessions[session.index as usize] = None,
            }
            self.clients.fetch_sub(1, Relaxed);
        }
    }

    // ---- Writing ----

    fn poll_flush(self: &Rc<Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut flusher = self.flusher.borrow_mut();
        if !flusher.will_wake(cx.waker()) {
            *flusher = cx.waker().clone();
        }
        drop(flusher);
        self.flush_wanted.set(false);
        self.core.borrow_mut().set_now(self.now_ms());
        if self.ring.is_some() {
            return self.poll_flush_ring();
        }
        self.carry_out_effects();
        self.flush_backends();
        self.flush_sessions();
        self.redirect_invalidations();
        if self.after_flush() {
            self.want_flush();
        }
        Poll::Pending
    }

    fn poll_flush_ring(self: &Rc<Self>) -> Poll<()> {
        self.ring_reap();
        self.carry_out_effects();
        self.ring_flush_backends();
        self.ring_flush_sessions();
        self.redirect_invalidations();
        let more = self.ring_submit();
        if self.after_flush() || more {
            self.want_flush();
        }
        Poll::Pending
    }

    /// Lets those go on that waited for room. Returns whether there is more to write.
    fn after_flush(&self) -> bool {
        let mut core = self.core.borrow_mut();
        core.resume_paused();
        if core.is_gathering() && !self.gathering.replace(true) {
            self.gather.notify_one();
        }
        // Not at once: a turn for the readers in between, so that neither starves.
        core.has_dirty()
    }

    fn flush_backends(self: &Rc<Self>) {
        let mut core = self.core.borrow_mut();
        let list = core.take_dirty_backends();
        for &index in &list {
            let mut io = self.io.borrow_mut();
            let incarnation = core.backend_incarnation(index);
            let output = core.backend_output(index);
            let Some(Some(connection)) = io.backends.get_mut(index as usize) else { continue };
            if output.is_empty() || connection.blocked.is_some() {
                continue;
            }
            match connection.writer.try_write(output) {
                Ok(len) => {
                    let all = len == output.len();
                    core.backend_written(index, len);
                    if !all {
                        self.wait_writable(connection, Target::Backend { index, incarnation });
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    self.wait_writable(connection, Target::Backend { index, incarnation });
                }
                Err(error) => {
                    core.backend_lost(index, incarnation, &error.to_string());
                    io.backends[index as usize] = None;
                }
            }
        }
        core.reuse_dirty_backends(list);
    }

    fn flush_sessions(self: &Rc<Self>) {
        let mut broken = Vec::new();
        let mut core = self.core.borrow_mut();
        let list = core.take_dirty_sessions();
        for &index in &list {
            let mut io = self.io.borrow_mut();
            let session = core.session_id(index);
            let output = core.session_output(index);
            let Some(Some(connection)) = io.sessions.get_mut(index as usize) else { continue };
            if connection.blocked.is_some() {
                continue;
            }
            let written = if output.is_empty() { Ok(0) } else { connection.writer.try_write(output) };
            match written {
                Ok(len) => {
                    let all = len == output.len();
                    core.session_written(index, len);
                    if !all {
                        self.wait_writable(connection, Target::Session(session));
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    self.wait_writable(connection, Target::Session(session));
                }
                Err(_) => broken.push(session),
            }
        }
        core.reuse_dirty_sessions(list);
        drop(core);
        broken.into_iter().for_each(|session| self.close_session(session));
    }

    /// Has the rest written once the socket takes more. Rare, so a task of its own is not too much.
    fn wait_writable(self: &Rc<Self>, connection: &mut Connection, target: Target) {
        let (worker, writer) = (self.clone(), connection.writer.clone());
        let waiting = spawn_local(async move {
            // An error shows at the next write.
            let _ = poll_fn(|cx| writer.poll_writable(cx)).await;
            worker.unblock(target);
        });
        connection.blocked = Some(waiting.abort_handle());
    }

    fn unblock(&self, target: Target) {
        let mut core = self.core.borrow_mut();
        let io = &mut *self.io.borrow_mut();
        let connection = match target {
            Target::Session(session) if core.is_open(session) => {
                core.mark_session(session.index);
                io.sessions.get_mut(session.index as usize)
            }
            Target::Backend { index, incarnation } if core.backend_incarnation(index) == incarnation => {
                core.mark_backend(index);
                io.backends.get_mut(index as usize)
            }
            Target::Session(_) | Target::Backend { .. } => None,
        };
        if let Some(Some(connection)) = connection {
            connection.blocked = None;
            self.want_flush();
        }
    }

    fn carry_out_effects(self: &Rc<Self>) {
        let effects = self.core.borrow_mut().take_effects();
        for effect in effects {
            match effect {
                Effect::Connect { backend, incarnation, endpoint, lane, tracking, after_ms } => {
                    let wanted = Wanted { endpoint, lane, tracking, after_ms };
                    spawn_local(self.clone().run_backend(backend, incarnation, wanted));
                }
                Effect::CopyFunctions { node, to, from } => {
                    spawn_local(self.clone().copy_functions(node, to, from));
                }
                Effect::LearnCommands { endpoint } => {
                    spawn_local(self.clone().learn_commands(endpoint));
                }
                Effect::Disconnect { backend } => self.close_backend(backend),
                Effect::Resume { session } if self.ring.is_some() => self.ring_resume(session),
                Effect::Resume { session } => {
                    if let Some(Some(connection)) = self.io.borrow_mut().sessions.get_mut(session as usize)
                        && let Some(reader) = connection.parked.take()
                    {
                        reader.wake();
                    }
                }
                Effect::Close { session } => self.close_session(session),
                // If the channel is full, enough has been said already.
                Effect::Suspect { node, reason } => drop(self.shared.suspicions.try_send(Suspicion { node, reason })),
                Effect::FindClient { session, sequence, client, request } => {
                    spawn_local(self.clone().find_client(session, sequence, client, request));
                }
                Effect::Order { session, sequence, order } => {
                    spawn_local(self.clone().order(session, sequence, order));
                }
            }
        }
    }

    /// Hands invalidations to the workers whose clients they are for.
    fn redirect_invalidations(&self) {
        let redirected = self.core.borrow_mut().take_redirected();
        for invalidation in redirected {
            if invalidation.to.worker == self.number {
                self.take_invalidation(self.number, &invalidation);
            } else {
                self.all[invalidation.to.worker].tell(Control::Invalidate { from_worker: self.number, invalidation });
            }
        }
    }

    /// An invalidation for a client of this worker.
    fn take_invalidation(&self, from_worker: usize, invalidation: &Redirected) {
        let mut core = self.core.borrow_mut();
        let Redirected { from, to, .. } = *invalidation;
        if core.take_invalidation(to.session, invalidation.keys.as_deref()) {
            return;
        }
        if from_worker == self.number {
            core.redirect_broken(from, to.client);
        } else {
            self.all[from_worker].tell(Control::RedirectBroken { from, client: to.client });
        }
    }

    async fn find_client(self: Rc<Self>, session: SessionId, sequence: u32, client: u64, request: Box<TrackingRequest>) {
        let mut target = None;
        for (worker, handle) in self.all.iter().enumerate() {
            let (reply, answer) = oneshot::channel();
            handle.tell(Control::FindClient { client, reply });
            if let Ok(Some(session)) = answer.await {
                target = Some(RedirectTarget { client, worker, session });
            }
        }
        self.core.borrow_mut().redirect_found(session, sequence, *request, target);
        self.want_flush();
    }

    async fn copy_functions(self: Rc<Self>, node: Arc<str>, to: Endpoint, from: Vec<Endpoint>) {
        functions::copy(&to, &from, Duration::from_millis(self.shared.settings.timeout_ms)).await;
        self.core.borrow_mut().functions_copied(&node);
        self.want_flush();
    }

    async fn learn_commands(self: Rc<Self>, endpoint: Endpoint) {
        let limit = Duration::from_millis(self.shared.settings.timeout_ms);
        let reply = ask(&endpoint, &["COMMAND"], ASKED_BYTES_MAX, limit).await;
        if let Err(error) = &reply {
            tracing::warn!(node = %endpoint.address(), "cannot be asked for its commands: {error}");
        }
        self.core.borrow_mut().commands_learned(reply.as_deref().ok());
        self.want_flush();
    }

    async fn order(self: Rc<Self>, session: SessionId, sequence: u32, order: Order) {
        let order = Arc::new(order);
        let answers: Vec<_> = self
            .all
            .iter()
            .map(|worker| {
                let (reply, answer) = oneshot::channel();
                worker.tell(Control::Order { order: order.clone(), reply });
                answer
            })
            .collect();
        let mut outcomes = Vec::new();
        for answer in answers {
            // A worker that has ended has no clients any more.
            outcomes.extend(answer.await);
        }
        self.core.borrow_mut().carried_out(session, sequence, &order, outcomes);
        self.want_flush();
    }
}

impl Connection {
    fn new(writer: Writer, reader_task: AbortHandle) -> Self {
        Connection { writer: Rc::new(writer), reader_task, feed: None, parked: None, blocked: None }
    }
}

/// Whether a client has gone whose session is not read.
fn connection_is_ended(io: &Io, session: SessionId) -> bool {
    let connection = io.sessions[session.index as usize].as_ref();
    connection.is_some_and(|connection| connection.parked.is_some() && connection.writer.is_ended())
}

fn put(list: &mut Vec<Option<Connection>>, index: u32, connection: Connection) {
    let index = index as usize;
    if list.len() <= index {
        list.resize_with(index + 1, || None);
    }
    list[index] = Some(connection);
}
