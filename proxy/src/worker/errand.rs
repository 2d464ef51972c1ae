//! What a worker sends for, since it takes its time: done by tasks of the proxy's runtime, beside the workers, and brought to the worker
//! as a message.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{runtime::Handle, sync::oneshot, time::sleep};
use vrc_cluster::contract::Endpoint;

use super::{Control, WorkerHandle};
use crate::{
    connect::{ConnectError, Opened, ask, connect},
    core::{Lane, Order, Outcome, RedirectTarget, SessionId, TrackingOptions, TrackingRequest},
    functions,
    limits::ASKED_BYTES_MAX,
};

/// What an errand came back with.
#[derive(Debug)]
pub(crate) enum Brought {
    /// A node connection that was wanted, or why there is none.
    Connection { index: u32, incarnation: u32, opened: Result<Opened, ConnectError>, took_us: u64 },
    /// The answer to a question which commands a node has, if it gave one.
    Commands(Option<Vec<u8>>),
    /// What a node says of its functions, if it does.
    FunctionList(Option<Vec<u8>>),
    /// The node has the libraries of functions that could be had.
    Functions { node: Arc<str> },
    /// What the workers made of an order.
    Outcomes { session: SessionId, sequence: u32, order: Arc<Order>, outcomes: Vec<Outcome> },
    /// The client that was looked for, if any worker has it.
    Client { session: SessionId, sequence: u32, request: Box<TrackingRequest>, target: Option<RedirectTarget> },
}

/// Sends for things on behalf of one worker.
pub(super) struct Errands {
    runtime: Handle,
    worker: WorkerHandle,
    /// Longest that a node may take to answer.
    limit: Duration,
}

/// A node connection that is to be opened.
pub(super) struct Wanted {
    pub(super) index: u32,
    pub(super) incarnation: u32,
    pub(super) endpoint: Endpoint,
    pub(super) lane: Lane,
    pub(super) tracking: Option<TrackingOptions>,
    /// Who answers there matters.
    pub(super) asks: bool,
    /// How long to wait before that, in ms.
    pub(super) after_ms: u64,
}

impl Errands {
    pub(super) fn new(runtime: Handle, worker: WorkerHandle, limit: Duration) -> Self {
        Errands { runtime, worker, limit }
    }

    fn send(&self, errand: impl Future<Output = Brought> + Send + 'static) {
        let worker = self.worker.clone();
        self.runtime.spawn(async move { worker.tell(Control::Brought(errand.await)) });
    }

    pub(super) fn connect(&self, wanted: Wanted) {
        let limit = self.limit;
        self.send(async move {
            let Wanted { index, incarnation, endpoint, lane, tracking, asks, after_ms } = wanted;
            if after_ms > 0 {
                sleep(Duration::from_millis(after_ms)).await;
            }
            let began = Instant::now();
            let opened = connect(&endpoint, lane, tracking.as_ref(), asks, limit).await;
            Brought::Connection { index, incarnation, opened, took_us: began.elapsed().as_micros() as u64 }
        });
    }

    pub(super) fn copy_functions(&self, node: Arc<str>, to: Endpoint, from: Vec<Endpoint>) {
        let limit = self.limit;
        self.send(async move {
            functions::copy(&to, &from, limit).await;
            Brought::Functions { node }
        });
    }

    pub(super) fn learn_commands(&self, endpoint: Endpoint) {
        let limit = self.limit;
        self.send(async move {
            let reply = ask(&endpoint, &["COMMAND"], ASKED_BYTES_MAX, limit).await;
            if let Err(error) = &reply {
                tracing::warn!(node = %endpoint.address(), "cannot be asked for its commands: {error}");
            }
            Brought::Commands(reply.ok())
        });
    }

    pub(super) fn learn_functions(&self, endpoint: Endpoint) {
        let limit = self.limit;
        self.send(async move { Brought::FunctionList(ask(&endpoint, &["FUNCTION", "LIST"], ASKED_BYTES_MAX, limit).await.ok()) });
    }

    /// Has `all` carry out an order.
    pub(super) fn order(&self, all: &[WorkerHandle], session: SessionId, sequence: u32, order: Order) {
        let order = Arc::new(order);
        // Told at once, so that orders of one worker reach each in their order.
        let answers = ask_all(all, |reply| Control::Order { order: order.clone(), reply });
        self.send(async move {
            let mut outcomes = Vec::new();
            for answer in answers {
                // A worker that has ended has no clients any more.
                outcomes.extend(answer.await);
            }
            Brought::Outcomes { session, sequence, order, outcomes }
        });
    }

    /// Looks for a client among those of `all`.
    pub(super) fn find_client(
        &self,
        all: &[WorkerHandle],
        session: SessionId,
        sequence: u32,
        client: u64,
        request: Box<TrackingRequest>,
    ) {
        let answers = ask_all(all, |reply| Control::FindClient { client, reply });
        self.send(async move {
            let mut target = None;
            for (worker, answer) in answers.into_iter().enumerate() {
                if let Ok(Some(session)) = answer.await {
                    target = Some(RedirectTarget { client, worker, session });
                }
            }
            Brought::Client { session, sequence, request, target }
        });
    }
}

fn ask_all<T>(all: &[WorkerHandle], question: impl Fn(oneshot::Sender<T>) -> Control) -> Vec<oneshot::Receiver<T>> {
    let ask = |worker: &WorkerHandle| {
        let (reply, answer) = oneshot::channel();
        worker.tell(question(reply));
        answer
    };
    all.iter().map(ask).collect()
}
