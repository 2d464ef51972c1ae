//! A worker's core as a benchmark drives it: bytes in, bytes out, no socket and no clock. For `benches/` alone.

use std::{sync::Arc, time::SystemTime};

use vrc_cluster::{
    resp::{Args, Frame, RequestFramer},
    topology::Topology,
};

use crate::{
    core::{Core, Effect, Identity, Peer, SessionId, Settings},
    limits::DATABASES_WITH_GUESTS,
    stats::AllStats,
};

/// Clients, a worker's core, and nodes that give the same answers over and over.
pub struct HotPath {
    core: Core,
    clients: Vec<Client>,
    /// By backend: what its node answers in a round.
    replies: Vec<Vec<u8>>,
}

struct Client {
    session: SessionId,
    says: Vec<u8>,
}

impl HotPath {
    /// Clients that have said `first`, and then say one of `pipelines` each a round, of whole requests; `answer` gives a node's reply to one.
    pub fn new(topology: Topology, first: &[u8], pipelines: Vec<Vec<u8>>, answer: fn(Args<'_>) -> Vec<u8>) -> Self {
        let identity =
            Identity { run_id: String::new(), port: 0, placement: "slots", workers: 1, started_at: SystemTime::UNIX_EPOCH };
        let settings = Settings {
            timeout_ms: 1_000,
            live: Default::default(),
            logs: Default::default(),
            allow_node_config: false,
            databases: DATABASES_WITH_GUESTS,
            fixed_nodes: false,
            identity: Arc::new(identity),
            announce: None,
            peers: Default::default(),
            busy: Default::default(),
            scripts: Default::default(),
        };
        let mut core = Core::new(settings, Arc::new(topology), 0, Arc::new(AllStats::new(1)));
        let clients = pipelines.into_iter().enumerate().map(|(id, says)| {
            let session = core.session_open(id as u64, Peer::Unix { path: "bench".into() });
            if !first.is_empty() {
                core.session_input(session, first);
            }
            Client { session, says }
        });
        let clients = clients.collect();
        let mut path = HotPath { core, clients, replies: Vec::new() };
        path.learn(answer);
        path
    }

    /// Opens the connections that the requests need, and works out what the nodes answer.
    fn learn(&mut self, answer: fn(Args<'_>) -> Vec<u8>) {
        self.say();
        for effect in self.core.take_effects() {
            if let Effect::Connect { backend, incarnation, .. } = effect {
                self.core.backend_up(backend, incarnation);
                self.replies.resize(self.replies.len().max(backend as usize + 1), Vec::new());
                let mut requests = self.core.backend_output(backend);
                let mut framer = RequestFramer::default();
                while let Ok(Some(Frame::Multibulk(len))) = framer.advance(requests) {
                    self.replies[backend as usize].extend(answer(Args::new(&requests[..len], framer.args())));
                    framer.reset();
                    requests = &requests[len..];
                }
            }
        }
        self.write();
        self.hear();
    }

    /// Every client says its pipeline, and gets all of its replies. Returns how many bytes those were.
    pub fn round(&mut self) -> usize {
        self.say();
        self.write();
        self.hear()
    }

    fn say(&mut self) {
        for client in &self.clients {
            self.core.session_input(client.session, &client.says);
        }
    }

    fn write(&mut self) {
        let list = self.core.take_dirty_backends();
        for &backend in &list {
            let len = self.core.backend_output(backend).len();
            self.core.backend_written(backend, len);
        }
        self.core.reuse_dirty_backends(list);
    }

    fn hear(&mut self) -> usize {
        for backend in 0..self.replies.len() {
            let incarnation = self.core.backend_incarnation(backend as u32);
            self.core.backend_input(backend as u32, incarnation, &self.replies[backend]);
        }
        let list = self.core.take_dirty_sessions();
        let mut bytes = 0;
        for &session in &list {
            let len = self.core.session_output(session).len();
            self.core.session_written(session, len);
            bytes += len;
        }
        self.core.reuse_dirty_sessions(list);
        bytes
    }
}
