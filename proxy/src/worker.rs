//! A worker as the rest of the proxy sees it: a thread that serves clients, and is told what to do by messages.

mod busy_poll;
mod driver;
mod errand;
mod poll_driver;
#[cfg_attr(not(target_os = "linux"), path = "worker/no_ring.rs")]
mod ring_driver;
mod skips;
mod turns;
mod yielding;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc as inbox,
    },
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use mio::{Poll, Waker};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};
use vrc_cluster::{contract::Epoch, topology::Topology};

use self::{errand::Brought, poll_driver::PollDriver, ring_driver::RingDriver, turns::Turns};
use crate::{
    core::{Order, Outcome, Peer, Redirected, SessionId, Settings},
    socket::Socket,
    stats::AllStats,
    vigil::Vigil,
    watch::Suspicion,
};

/// What a worker is told from outside.
#[derive(Debug)]
pub(crate) enum Control {
    /// Serve this client.
    Accept { socket: Socket, peer: Peer, id: u64 },
    /// The shared topology was swapped: look at it also if no client says anything.
    TopologyChanged,
    /// Carry out what some worker's client has ordered, and say what came of it.
    Order { order: Arc<Order>, reply: oneshot::Sender<Outcome> },
    /// Tell whether a client is this worker's.
    FindClient { client: u64, reply: oneshot::Sender<Option<SessionId>> },
    /// An invalidation for a client of this worker, from one of another.
    Invalidate { from_worker: usize, invalidation: Redirected },
    /// Commands that another worker's clients gave, for those who listen by MONITOR.
    ShowLines(Arc<[u8]>),
    /// The client that a session's invalidations were to go to is gone.
    RedirectBroken { from: SessionId, client: u64 },
    /// What this worker had sent for.
    Brought(Brought),
    /// Answer what is under way, take nothing more, and end.
    Stop,
}

/// A worker as the rest of the proxy sees it.
#[derive(Debug, Clone)]
pub(crate) struct WorkerHandle {
    control: inbox::Sender<Control>,
    waker: Arc<Waker>,
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
    pub(crate) fn accept(&self, socket: Socket, peer: Peer, id: u64) {
        self.clients.fetch_add(1, Relaxed);
        self.tell(Control::Accept { socket, peer, id });
    }

    /// A worker that has ended hears nothing, which is as well.
    pub(crate) fn tell(&self, control: Control) {
        if self.control.send(control).is_ok()
            && let Err(error) = self.waker.wake()
        {
            tracing::error!("a worker cannot be woken: {error}");
        }
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
    /// How long a worker with one client alone looks for what comes next before it sleeps.
    pub(crate) busy_poll: Duration,
}

/// Starts `count` workers; their threads end after [`Control::Stop`]. What takes its time they have done by the caller's runtime.
pub(crate) fn start(
    count: usize,
    shared: &Shared,
    vigil: &Vigil,
) -> io::Result<(Vec<WorkerHandle>, Vec<thread::JoinHandle<()>>)> {
    let mut handles = Vec::new();
    let mut ends = Vec::new();
    for _ in 0..count {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), turns::WOKEN)?);
        let (control, inbox) = inbox::channel();
        handles.push(WorkerHandle { control, waker, clients: Arc::default(), settled: Arc::default() });
        ends.push((poll, inbox));
    }
    let runtime = Handle::current();
    let threads = ends.into_iter().enumerate().map(|(number, (poll, inbox))| {
        let worker = Outset { number, poll, inbox, all: handles.clone(), shared: shared.clone(), runtime: runtime.clone() };
        let part = vigil.part(format!("worker {number}"));
        let live = move || match worker.run() {
            Ok(()) => drop(part),
            Err(error) => part.fail(error),
        };
        thread::Builder::new().name(format!("vrc-worker-{number}")).spawn(live)
    });
    let threads = threads.collect::<Result<_, _>>()?;
    Ok((handles, threads))
}

/// What a worker sets out with.
struct Outset {
    number: usize,
    poll: Poll,
    inbox: inbox::Receiver<Control>,
    /// All workers, itself included.
    all: Vec<WorkerHandle>,
    shared: Shared,
    /// Where what takes its time is done.
    runtime: Handle,
}

impl Outset {
    fn run(self) -> io::Result<()> {
        let worker = self.number;
        if self.shared.io_uring {
            match RingDriver::new(self.poll.registry()) {
                Ok(ring) => {
                    tracing::info!(worker, "bytes go through an io_uring");
                    return Turns::new(self, ring).run();
                }
                Err(error) => tracing::warn!(worker, "io_uring is not available here ({error}): using epoll"),
            }
        }
        let driver = PollDriver::new(self.poll.registry())?;
        Turns::new(self, driver).run()
    }
}
