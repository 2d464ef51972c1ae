//! Node connections that one session has to itself for a while: to wait for data (BLPOP and its kin), or to watch keys (WATCH).
//!
//! They come from a pool and go back to it clean. One that is not clean, because its session left in the middle, is closed.

use std::collections::BTreeSet;

use vrc_cluster::{
    command::Command,
    resp::{Args, Proto, encode},
    topology::{Owner, PlacementKind},
};

use crate::limits::{PRIVATE_IDLE_MAX, PRIVATE_MAX, RETIRE_MS};

use super::{
    Core, Effect, Flow,
    backend::{Lane, State, Waiter},
    client::Unblocking,
    session::{Pause, SessionId, Slot},
};

/// What a private connection is held for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Nothing: it is in the pool.
    Idle,
    /// A command that may wait as long as it likes, but by when it must have been answered if it set itself an end. The keys decide
    /// whether its node is still the right one to wait at.
    Waiting { session: SessionId, keys: HeldKeys, until_ms: u64, unblocking: Option<Unblocking> },
    /// A session's watched keys, all of one place.
    Watching { session: SessionId, keys: HeldKeys },
    /// A node's topics, for all sessions: see `topics`.
    Subscriber,
    /// What a node says of all keys that begin in some way: see `broadcast`.
    Broadcast,
    /// Nothing, once what was sent has been answered.
    Finishing,
}

/// The keys that a node must own for a hold to go on: all, or one where the others cannot part from it.
pub(crate) type HeldKeys = BTreeSet<Box<[u8]>>;

impl Core {
    /// Of the keys of the request that was last routed, those that decide whether a hold on its node goes on.
    pub(super) fn keys_to_hold(&self, args: Args<'_>) -> HeldKeys {
        let enough = match self.topology.options().kind {
            PlacementKind::Slots => 1,
            // Keys of one node may have different ones after the next change.
            PlacementKind::Legacy => usize::MAX,
        };
        self.router.keys().iter().take(enough).map(|&key| args[key as usize].into()).collect()
    }

    /// Sends a command that may wait over a connection of its own; the session takes no further command until it is answered.
    pub(super) fn wait(&mut self, index: u32, owner: Owner, keys: HeldKeys, command: &'static Command, args: Args<'_>) -> Flow {
        if let Some(flow) = self.after_all_before(index) {
            return flow;
        }
        let session = self.session_id(index);
        let answer_ms = command.wait_ms(args).map(|wait_ms| wait_ms.saturating_add(self.settings.timeout_ms));
        let until_ms = answer_ms.map_or(u64::MAX, |answer_ms| self.now_ms.saturating_add(answer_ms));
        let hold = Hold::Waiting { session, keys, until_ms, unblocking: None };
        let Some(backend) = self.take_private(index, owner, hold) else { return Flow::Next };
        let of = &mut self.sessions[index as usize];
        of.private = Some(backend);
        let sequence = of.push(Slot::Waiting);
        self.queue(backend, Waiter::new(session, sequence, self.now_ms), args.bytes());
        self.before_all_after(index)
    }

    /// A command that goes over another connection than those before it must not overtake them: it is not taken before they are
    /// answered.
    pub(super) fn after_all_before(&self, index: u32) -> Option<Flow> {
        (self.sessions[index as usize].pending() > 0).then_some(Flow::Pause(Pause::Answered))
    }

    /// Nor may those after it overtake it.
    pub(super) fn before_all_after(&self, index: u32) -> Flow {
        if self.sessions[index as usize].pending() > 0 { Flow::Stop(Pause::Answered) } else { Flow::Next }
    }

    /// A connection to the owner for one session alone; `None` if there can be none, which the client has been told.
    pub(super) fn take_private(&mut self, index: u32, owner: Owner, hold: Hold) -> Option<u32> {
        let session = &self.sessions[index as usize];
        let lane = Lane::new(session.proto, session.db, owner.guest);
        let node = self.topology.nodes()[usize::from(owner.node)].name.clone();
        let idle = self.idle_private.iter().position(|&backend| {
            let backend = &self.backends[backend as usize];
            backend.lane == lane && backend.node == node
        });
        let backend = match idle {
            Some(at) => self.idle_private.swap_remove(at),
            None if self.private_count >= PRIVATE_MAX => {
                self.refuse(index, format!("ERR the proxy's {PRIVATE_MAX} connections for commands that wait are all in use"));
                return None;
            }
            None => {
                self.private_count += 1;
                self.add_backend(owner.node, lane)
            }
        };
        self.backends[backend as usize].hold = Some(hold);
        if self.backends[backend as usize].state == State::Idle {
            self.connect(backend);
        }
        Some(backend)
    }

    /// A private connection has answered all that it was asked.
    pub(super) fn private_answered(&mut self, index: u32) {
        match self.backends[index as usize].hold {
            Some(Hold::Waiting { session, unblocking, .. }) => {
                if self.is_open(session) {
                    self.sessions[session.index as usize].private = None;
                }
                match unblocking {
                    None => self.release_private(index),
                    // The node may be told only now, and would end the next wait over this connection.
                    Some(_) => self.close_private(index),
                }
            }
            Some(Hold::Finishing) => self.release_private(index),
            _ => {}
        }
    }

    /// Tells the node to end the wait on a private connection. That is said over another one and may come first, so it is said again
    /// until it has come true; the node alone decides whether that or an element comes first, so none is lost.
    pub(super) fn go_on_unblocking(&mut self, index: u32) {
        let backend = &self.backends[index as usize];
        let (Some(Hold::Waiting { unblocking: Some(how), .. }), Some(client)) = (&backend.hold, backend.client_id) else {
            return;
        };
        let reason = match how {
            Unblocking::Timeout => "TIMEOUT",
            Unblocking::Error => "ERROR",
        };
        let Some(node) =
            self.topology.index_of(&backend.node).filter(|_| backend.state == State::Up && backend.output().is_empty())
        else {
            return;
        };
        let other = self.backend_of(node, Lane::new(Proto::Resp2, 0, false));
        if self.backends[other as usize].has_room() {
            if self.backends[other as usize].state == State::Idle {
                self.connect(other);
            }
            let mut request = Vec::new();
            encode::request(&mut request, &["CLIENT", "UNBLOCK", &client.to_string(), reason]);
            self.queue(other, Waiter::nobody(self.now_ms), &request);
        }
    }

    /// Says again what has not come true yet.
    pub(super) fn unblock_overdue(&mut self) {
        for index in 0..self.backends.len() as u32 {
            if matches!(self.backends[index as usize].hold, Some(Hold::Waiting { unblocking: Some(_), .. })) {
                self.go_on_unblocking(index);
            }
        }
    }

    /// Puts a private connection back into the pool, or closes it if it is not clean or not needed.
    pub(super) fn release_private(&mut self, index: u32) {
        let backend = &mut self.backends[index as usize];
        if backend.state == State::Up && backend.pending() == 0 && self.idle_private.len() < PRIVATE_IDLE_MAX {
            backend.hold = Some(Hold::Idle);
            self.idle_private.push(index);
        } else {
            self.close_private(index);
        }
    }

    /// Closes a private connection; whoever still waits on it is answered by the caller, or has left.
    pub(super) fn close_private(&mut self, index: u32) {
        self.idle_private.retain(|idle| *idle != index);
        let backend = &mut self.backends[index as usize];
        debug_assert!(backend.hold.is_some());
        backend.incarnation = backend.incarnation.wrapping_add(1);
        backend.hold = None;
        backend.forget_all();
        self.private_count -= 1;
        self.effects.push(Effect::Disconnect { backend: index });
        self.free_backend(index);
    }

    /// A private connection was lost, or could not be opened. Nothing on it is tried again: what it was about was its state.
    pub(super) fn private_lost(&mut self, index: u32, reason: &str) {
        if self.backends[index as usize].hold == Some(Hold::Subscriber) {
            self.subscriber_lost(index, reason);
            return;
        }
        if self.backends[index as usize].hold == Some(Hold::Broadcast) {
            self.broadcast_lost(index, reason);
            return;
        }
        let node = self.backends[index as usize].node.clone();
        self.effects.push(Effect::Suspect { node: node.clone(), reason: reason.to_owned() });
        self.end_hold(index, &format!("NODEDOWN node {node} was lost before it answered ({reason})"));
    }

    /// Ends what a private connection was held for: a command that waits gets this error, watched keys count as touched.
    fn end_hold(&mut self, index: u32, error: &str) {
        let waiters = self.backends[index as usize].take_waiters();
        match self.backends[index as usize].hold.clone() {
            Some(Hold::Waiting { session, .. }) if self.is_open(session) => self.sessions[session.index as usize].private = None,
            Some(Hold::Watching { session, .. }) if self.is_open(session) => {
                let session = &mut self.sessions[session.index as usize];
                session.private = None;
                session.watch_broken = true;
            }
            _ => {}
        }
        self.close_private(index);
        self.fail_all(waiters, error);
    }

    /// Whether a private connection is to this owner's node, and to the databases that it has the keys in.
    pub(super) fn serves(&self, index: u32, owner: Owner) -> bool {
        let backend = &self.backends[index as usize];
        let guest = self.topology.options().guest_databases && backend.lane.is_guest();
        self.topology.nodes()[usize::from(owner.node)].name == backend.node && owner.guest == guest
    }

    /// A session's database or protocol has changed: the connection that watches its keys goes along, since EXEC goes over it.
    pub(super) fn follow_session(&mut self, index: u32) {
        let session = &self.sessions[index as usize];
        let Some(backend) = session.private else { return };
        let before = self.backends[backend as usize].lane;
        let guest = self.topology.options().guest_databases && before.is_guest();
        self.change_lane(backend, Lane::new(session.proto, session.db, guest));
    }

    /// Makes a connection that one session has to itself one of another lane. What is under way on it is not disturbed.
    pub(super) fn change_lane(&mut self, backend: u32, lane: Lane) {
        let before = std::mem::replace(&mut self.backends[backend as usize].lane, lane);
        if self.backends[backend as usize].state != State::Up && self.backends[backend as usize].hold.is_none() {
            // It will be opened as what it is now.
            return;
        }
        let mut say = |args: [&str; 2]| {
            let mut request = Vec::new();
            encode::request(&mut request, &args);
            self.queue(backend, Waiter::nobody(self.now_ms), &request);
        };
        if lane.proto != before.proto {
            say(["HELLO", if lane.proto == Proto::Resp3 { "3" } else { "2" }]);
        }
        if lane.db != before.db {
            say(["SELECT", &lane.db.to_string()]);
        }
    }

    /// After a change of the map: nobody goes on waiting or watching at a node that is not the keys' any more.
    pub(super) fn check_private(&mut self) {
        for index in 0..self.backends.len() as u32 {
            let backend = &self.backends[index as usize];
            let none = HeldKeys::new();
            let keys = match &backend.hold {
                None | Some(Hold::Subscriber | Hold::Broadcast) => continue,
                Some(Hold::Idle | Hold::Finishing) => &none,
                Some(Hold::Waiting { keys, .. } | Hold::Watching { keys, .. }) => keys,
            };
            let node = self.topology.index_of(&backend.node).filter(|node| {
                let node = &self.topology.nodes()[usize::from(*node)];
                node.up && node.endpoint == backend.endpoint
            });
            let stays = node.is_some()
                && keys
                    .iter()
                    .all(|key| self.topology.owner(self.topology.place(key)).is_ok_and(|owner| self.serves(index, owner)));
            if stays {
                continue;
            }
            match (&backend.hold, backend.state) {
                (Some(Hold::Finishing), State::Retired { .. }) => {}
                // It may well answer what it was sent, and is not given up before its time.
                (Some(Hold::Finishing), State::Up) => {
                    self.backends[index as usize].state = State::Retired { until_ms: self.now_ms + RETIRE_MS };
                }
                (Some(Hold::Watching { .. }), _) => {
                    // A WATCH that is under way succeeds, and what it watches is touched at once.
                    while let Some(waiter) = self.backends[index as usize].pop() {
                        self.deliver(waiter, b"+OK\r\n");
                    }
                    self.end_hold(index, "");
                }
                _ => self.end_hold(index, "UNBLOCKED the node that the command waited at does not hold its keys any more"),
            }
        }
    }
}
