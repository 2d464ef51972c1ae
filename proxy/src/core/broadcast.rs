//! Client-side caching with BCAST: nodes tell of every key that begins in some way, whoever has read it.
//!
//! All sessions of a worker that ask for the same prefixes share one connection to each node, on which the node is asked for just
//! these; so nothing has to be filtered. A session that adds a prefix shares with others from then on. A client may rely on what it
//! is not told of, so whenever something may have been missed (a connection was lost, and again when it is back; keys have moved to
//! another node) it is told to forget everything.

use std::{collections::BTreeSet, sync::Arc};

use vrc_cluster::{resp::Proto, topology::NodeIndex};

use crate::limits::BROADCASTS_MAX;

use super::{
    Core, Effect, Lane,
    backend::State,
    private::Hold,
    replies::Sequence,
    session::SessionId,
    tracked::{Tracked, TrackingOptions},
};

/// The prefixes that some sessions want to hear of.
#[derive(Debug)]
struct Broadcast {
    prefixes: Arc<[Box<[u8]>]>,
    members: Vec<SessionId>,
    /// Its connections, one a node.
    at: Vec<u32>,
}

/// A CLIENT TRACKING that is answered once all nodes listen.
#[derive(Debug)]
struct Joining {
    session: SessionId,
    sequence: Sequence,
    since_ms: u64,
}

/// All of a worker.
#[derive(Debug, Default)]
pub(super) struct Broadcasts {
    list: Vec<Broadcast>,
    joining: Vec<Joining>,
}

impl Broadcasts {
    /// How many prefixes are listened to.
    pub(super) fn prefixes(&self) -> usize {
        self.list.iter().flat_map(|broadcast| broadcast.prefixes.iter()).collect::<BTreeSet<_>>().len()
    }

    fn of(&self, backend: u32) -> Option<usize> {
        self.list.iter().position(|broadcast| broadcast.at.contains(&backend))
    }
}

impl Core {
    /// A session that tracks with BCAST hears of its prefixes from now on, as it is told at `sequence` once that is so.
    pub(super) fn join_broadcast(&mut self, id: SessionId, sequence: Sequence) {
        let prefixes: Arc<[Box<[u8]>]> = match &self.sessions[id.index as usize].tracking {
            Some(tracking) => tracking.prefixes.iter().cloned().collect(),
            None => return,
        };
        let found = self.broadcasts.list.iter().position(|broadcast| broadcast.prefixes == prefixes);
        if found.is_none() && self.broadcasts.list.len() >= BROADCASTS_MAX {
            self.stop_tracking(id.index);
            let error = format!("ERR the proxy's {BROADCASTS_MAX} different sets of prefixes are all in use");
            return self.answer_error(id, sequence, &error);
        }
        let at = found.unwrap_or_else(|| {
            self.broadcasts.list.push(Broadcast { prefixes, members: Vec::new(), at: Vec::new() });
            self.broadcasts.list.len() - 1
        });
        if !self.broadcasts.list[at].members.contains(&id) {
            self.broadcasts.list[at].members.push(id);
        }
        self.listen_everywhere(at);
        self.broadcasts.joining.push(Joining { session: id, sequence, since_ms: self.now_ms });
        self.settle_joining();
    }

    /// Likewise one with NOLOOP, over connections of its own.
    pub(super) fn broadcast_to_one(&mut self, id: SessionId, sequence: Sequence) {
        // Connections that were made for other prefixes.
        self.close_own_lanes(id.index);
        self.open_own_broadcast(id);
        self.broadcasts.joining.push(Joining { session: id, sequence, since_ms: self.now_ms });
        self.settle_joining();
    }

    fn open_own_broadcast(&mut self, id: SessionId) {
        let lane = self.sessions[id.index as usize].lane(false);
        for at in 0..self.up.len() {
            let backend = self.backend_of(self.up[at], lane);
            if self.backends[backend as usize].state == State::Idle {
                self.connect(backend);
            }
        }
    }

    /// A session with NOLOOP has another protocol or database: its connections go along, since its writes go over them.
    pub(super) fn follow_own_broadcast(&mut self, index: u32) {
        let session = &self.sessions[index as usize];
        let is_its =
            session.tracking.as_ref().is_some_and(|tracking| tracking.is_broadcast()) && session.lane(false).index().is_none();
        if !is_its {
            return;
        }
        let lane = session.lane(false);
        let mut of_node: Vec<_> = self.own_lanes.iter().map(|(key, backend)| (*key, *backend)).collect();
        of_node.retain(|((_, of), backend)| {
            let tracked = self.backends[*backend as usize].tracked.as_ref();
            of.tracking == lane.tracking && *of != lane && tracked.is_some_and(|tracked| tracked.is_broadcast())
        });
        for ((node, before), backend) in of_node {
            self.own_lanes.remove(&(node, before));
            self.own_lanes.insert((node, lane), backend);
            self.change_lane(backend, lane);
        }
    }

    /// Sees to it that a broadcast has its connection to every node that is up.
    fn listen_everywhere(&mut self, at: usize) {
        for node in self.up.clone() {
            let name = self.topology.nodes()[usize::from(node)].name.clone();
            let listens = |backend: &u32| self.backends[*backend as usize].node == name;
            if !self.broadcasts.list[at].at.iter().any(listens) {
                let backend = self.listen(node, self.broadcasts.list[at].prefixes.clone());
                self.broadcasts.list[at].at.push(backend);
            }
        }
    }

    fn listen(&mut self, node: NodeIndex, prefixes: Arc<[Box<[u8]>]>) -> u32 {
        let index = self.add_backend(node, Lane::new(Proto::Resp3, 0, false));
        self.private_count += 1;
        let backend = &mut self.backends[index as usize];
        backend.hold = Some(Hold::Broadcast);
        backend.tracked = Some(Box::new(Tracked::new(Some(TrackingOptions { noloop: false, broadcast: Some(prefixes) }), None)));
        self.connect(index);
        index
    }

    /// Whether a connection brings what this session is to hear.
    pub(super) fn is_broadcast_of(&self, backend: u32, session: u32) -> bool {
        let broadcast = self.broadcasts.of(backend).map(|at| &self.broadcasts.list[at]);
        broadcast.is_some_and(|broadcast| broadcast.members.iter().any(|member| member.index == session))
    }

    /// A node's connection stands: those who wait for it hear so, and those who do not may have missed something.
    pub(super) fn listens_now(&mut self, backend: u32) {
        let of = &self.backends[backend as usize];
        let Some(tracked) = of.tracked.as_ref().filter(|tracked| tracked.is_broadcast()) else { return };
        let hearers = match tracked.owner {
            Some(owner) => vec![owner],
            None => self.broadcasts.of(backend).map_or_else(Vec::new, |at| self.broadcasts.list[at].members.clone()),
        };
        let joins = |id: &SessionId| self.broadcasts.joining.iter().any(|joining| joining.session == *id);
        for id in hearers.into_iter().filter(|id| !joins(id)).collect::<Vec<_>>() {
            self.notify_broadcast(id, None);
        }
        self.settle_joining();
    }

    /// Answers those who wait for nodes that all listen now.
    fn settle_joining(&mut self) {
        let mut at = 0;
        while at < self.broadcasts.joining.len() {
            let Joining { session, sequence, .. } = self.broadcasts.joining[at];
            if self.is_open(session) && !self.hears_all(session) {
                at += 1;
                continue;
            }
            self.broadcasts.joining.swap_remove(at);
            // Where it shared before it added prefixes, it does not any more.
            self.leave_other_broadcasts(session);
            self.answer_later(session, sequence, b"+OK\r\n");
        }
    }

    fn hears_all(&self, id: SessionId) -> bool {
        let session = &self.sessions[id.index as usize];
        let Some(tracking) = &session.tracking else { return true };
        // One that cannot be reached says nothing that could be missed, and when it is back all is to be forgotten.
        let is_up =
            |backend: u32| self.backends[backend as usize].state == State::Up || self.backends[backend as usize].failures > 0;
        let own = session.lane(false);
        if own.index().is_none() {
            return self.up.iter().all(|node| self.own_lanes.get(&(*node, own)).is_some_and(|backend| is_up(*backend)));
        }
        let is_its = |broadcast: &&Broadcast| broadcast.prefixes.iter().eq(tracking.prefixes.iter());
        self.broadcasts.list.iter().find(is_its).is_some_and(|broadcast| broadcast.at.iter().all(|backend| is_up(*backend)))
    }

    /// A session hears of nothing any more.
    pub(super) fn leave_broadcasts(&mut self, id: SessionId) {
        self.broadcasts.list.iter_mut().for_each(|broadcast| broadcast.members.retain(|member| *member != id));
        self.close_unheard();
    }

    fn leave_other_broadcasts(&mut self, id: SessionId) {
        let Some(tracking) = &self.sessions[id.index as usize].tracking else { return };
        let others = self.broadcasts.list.iter_mut().filter(|broadcast| !broadcast.prefixes.iter().eq(tracking.prefixes.iter()));
        others.for_each(|broadcast| broadcast.members.retain(|member| *member != id));
        self.close_unheard();
    }

    fn close_unheard(&mut self) {
        let unheard: Vec<_> = self.broadcasts.list.extract_if(.., |broadcast| broadcast.members.is_empty()).collect();
        unheard.into_iter().flat_map(|broadcast| broadcast.at).for_each(|backend| self.close_private(backend));
    }

    /// A node says that these keys, an array, have changed; `None` stands for all.
    pub(super) fn spread_invalidation(&mut self, backend: u32, keys: Option<&[u8]>) {
        let Some(at) = self.broadcasts.of(backend) else { return };
        for id in self.broadcasts.list[at].members.clone() {
            self.notify_broadcast(id, keys);
        }
    }

    /// A connection was lost, or could not be opened: it is opened again as long as the node is up.
    pub(super) fn broadcast_lost(&mut self, index: u32, reason: &str) {
        let backend = &mut self.backends[index as usize];
        let was_up = backend.state == State::Up;
        backend.incarnation = backend.incarnation.wrapping_add(1);
        backend.failures = backend.failures.saturating_add(1);
        let waiters = backend.take_waiters();
        backend.forget_all();
        backend.state = State::Idle;
        let node = backend.node.clone();
        self.effects.push(Effect::Disconnect { backend: index });
        self.effects.push(Effect::Suspect { node: node.clone(), reason: reason.to_owned() });
        self.fail_all(waiters, &format!("NODEDOWN node {node} was lost before it answered ({reason})"));
        if was_up {
            self.spread_invalidation(index, None);
        }
        self.connect(index);
    }

    /// After a change of the map: connections to nodes that are out are closed, and those to new ones opened. Keys that have moved
    /// have changed for whoever has read them before.
    pub(super) fn move_broadcasts(&mut self) {
        for at in 0..self.broadcasts.list.len() {
            let all = std::mem::take(&mut self.broadcasts.list[at].at);
            let (kept, gone): (Vec<_>, Vec<_>) = all.into_iter().partition(|backend| self.node_of(*backend).is_some());
            self.broadcasts.list[at].at = kept;
            for backend in gone {
                let waiters = self.backends[backend as usize].take_waiters();
                self.close_private(backend);
                self.fail_all(waiters, "NODEDOWN the node left the cluster before it answered");
            }
            self.listen_everywhere(at);
            for id in self.broadcasts.list[at].members.clone() {
                self.notify_broadcast(id, None);
            }
        }
        let alone = |index: &u32| {
            let session = &self.sessions[*index as usize];
            session.open
                && session.tracking.as_ref().is_some_and(|tracking| tracking.is_broadcast())
                && session.lane(false).index().is_none()
        };
        for index in (0..self.sessions.len() as u32).filter(alone).collect::<Vec<_>>() {
            let id = self.session_id(index);
            self.open_own_broadcast(id);
            self.notify_broadcast(id, None);
        }
        self.settle_joining();
    }

    /// Answers whoever has waited too long for all nodes to listen.
    pub(super) fn expire_broadcasts(&mut self, deadline_ms: u64) {
        self.settle_joining();
        for late in self.broadcasts.joining.extract_if(.., |joining| joining.since_ms < deadline_ms).collect::<Vec<_>>() {
            if self.is_open(late.session) {
                self.stop_tracking(late.session.index);
                self.answer_error(
                    late.session,
                    late.sequence,
                    "NODEDOWN not all nodes could be asked to tell of changes in time",
                );
            }
        }
    }
}
