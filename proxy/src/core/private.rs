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
    Core, Effect, Flow, NO_BACKEND,
    backend::State,
    client::Unblocking,
    lane::{Lane, TrackingLane},
    pops::{Pops, PuttingBack},
    replies::Slot,
    session::{Pause, SessionId},
    waiter::Waiter,
};

/// What a private connection is held for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Nothing: it is in the pool.
    Idle,
    /// A command that may wait as long as it likes, but by when it must have been answered if it set itself an end. The keys decide
    /// whether its node is still the right one to wait at.
    Waiting { session: SessionId, keys: HeldKeys, until_ms: u64, unblocking: Option<Unblocking>, pops: Option<Pops> },
    /// What came for a client that has left is put back.
    PuttingBack(PuttingBack),
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
        let hold = Hold::Waiting { session, keys, until_ms, unblocking: None, pops: Pops::of(command, args) };
        let Some(backend) = self.take_private(index, owner, hold) else { return Flow::Next };
        let of = &mut self.sessions[index as usize];
        of.waiting = Some(backend);
        let sequence = of.replies.push(Slot::Waiting);
        self.queue(backend, self.waiter(index, sequence), args.bytes());
        self.before_all_after(index)
    }

    /// A command that goes over another connection than those before it must not overtake them: it is not taken before they are
    /// answered.
    pub(super) fn after_all_before(&self, index: u32) -> Option<Flow> {
        (self.sessions[index as usize].replies.pending() > 0).then_some(Flow::Pause(Pause::Answered))
    }

    /// Nor may those after it overtake it.
    pub(super) fn before_all_after(&self, index: u32) -> Flow {
        if self.is_all_done(index) { Flow::Next } else { Flow::Stop(Pause::Answered) }
    }

    /// Whether all of a session's commands are answered, and have done what they do to its connections.
    pub(super) fn is_all_done(&self, index: u32) -> bool {
        self.sessions[index as usize].replies.pending() == 0 && !self.awaits_lane(index)
    }

    /// A connection to the owner for one session alone; `None` if there can be none, which the client has been told.
    pub(super) fn take_private(&mut self, index: u32, owner: Owner, hold: Hold) -> Option<u32> {
        let session = &self.sessions[index as usize];
        let lane = session.private_lane(owner.guest);
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
        self.clients_changed = true;
        if self.backends[backend as usize].state == State::Idle {
            self.connect(backend);
        }
        Some(backend)
    }

    /// A private connection has answered all that it was asked.
    pub(super) fn private_answered(&mut self, index: u32) {
        self.clients_changed = true;
        match self.backends[index as usize].hold {
            Some(Hold::Waiting { session, unblocking, .. }) => {
                if self.is_open(session) {
                    self.sessions[session.index as usize].waiting = None;
                }
                match unblocking {
                    None => self.release_private(index),
                    // The node may be told only now, and would end the next wait over this connection.
                    Some(_) => self.close_private(index),
                }
            }
            Some(Hold::Finishing) => self.release_private(index),
            // As above.
            Some(Hold::PuttingBack(ref back)) if !back.is_refused() => self.close_private(index),
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
            Unblocking::Error | Unblocking::Killed => "ERROR",
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
            self.queue(other, Waiter::nobody(self.now_us), &unblock(client, reason));
        }
    }

    /// Has the node let go of a client that is to be closed, which is closed then; false if it waits for nothing there.
    pub(super) fn end_wait_of_killed(&mut self, index: u32) -> bool {
        let Some(private) = self.sessions[index as usize].waiting.filter(|waiting| self.is_to_be_ended(*waiting)) else {
            return false;
        };
        let session = &mut self.sessions[index as usize];
        session.closing = true;
        session.drop_input();
        self.go_on_unblocking(private);
        true
    }

    /// Notes that a node is to let go of a wait, within the time that any answer may take; false if it knows of none, or not by which number.
    fn is_to_be_ended(&mut self, index: u32) -> bool {
        let until_ended_ms = self.now_ms.saturating_add(self.settings.timeout_ms);
        let backend = &mut self.backends[index as usize];
        let (State::Up, Some(_)) = (backend.state, backend.client_id) else { return false };
        let Some(Hold::Waiting { unblocking, until_ms, .. }) = &mut backend.hold else { return false };
        *unblocking = Some(Unblocking::Killed);
        *until_ms = until_ended_ms.min(*until_ms);
        true
    }

    /// Whether a reply says that a killed client's wait is over, rather than what came of it before.
    pub(super) fn is_end_of_killed(&self, index: u32, reply: &[u8]) -> bool {
        let hold = &self.backends[index as usize].hold;
        matches!(hold, Some(Hold::Waiting { unblocking: Some(Unblocking::Killed), .. }) if reply.starts_with(b"-UNBLOCKED"))
    }

    /// Tells the node of a wait whose client has left that this is over, on every connection over which something may be pushed to it:
    /// that the private one is closed it may hear later than of the next push. What another worker's clients push may still come before;
    /// so the connection is kept for what it brings. False if nothing can be told, or lost.
    pub(super) fn end_wait_of_one_who_left(&mut self, index: u32) -> bool {
        let backend = &self.backends[index as usize];
        let (Some(Hold::Waiting { pops: Some(_), .. }), Some(client)) = (&backend.hold, backend.client_id) else { return false };
        let Some(node) = self.topology.index_of(&backend.node) else { return false };
        if !self.is_to_be_ended(index) {
            return false;
        }
        let lanes = usize::from(node) * Lane::COUNT..(usize::from(node) + 1) * Lane::COUNT;
        for other in lanes.map(|lane| self.lanes[lane]).filter(|other| *other != NO_BACKEND).collect::<Vec<_>>() {
            let of = &self.backends[other as usize];
            if of.state == State::Up && of.has_room() && !of.lane.is_beside() {
                self.queue(other, Waiter::nobody(self.now_us), &unblock(client, "ERROR"));
            }
        }
        true
    }

    /// A session that is about to be closed waits no more: what comes for it from here on is put back.
    pub(super) fn leave_wait(&mut self, index: u32) {
        let waiting = self.sessions[index as usize].waiting;
        if waiting.is_some_and(|waiting| self.end_wait_of_one_who_left(waiting)) {
            self.sessions[index as usize].waiting = None;
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
        self.clients_changed = true;
        backend.incarnation = backend.incarnation.wrapping_add(1);
        backend.hold = None;
        backend.forget_all();
        self.private_count -= 1;
        self.effects.push(Effect::Disconnect { backend: index });
        self.free_backend(index);
    }

    /// A private connection was lost, or could not be opened. What was sent on it is not tried again: what it was about was its state.
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
        if self.is_to_be_put_back(index) {
            self.backends[index as usize].forget_all();
            return self.open_private_again(index, reason);
        }
        match (self.is_to_be_sent(index), self.settings.fixed_nodes) {
            (true, false) => self.open_private_again(index, reason),
            (true, true) => self.end_hold(index, &format!("NODEDOWN node {node} cannot be reached ({reason}); nothing was sent")),
            (false, _) => self.end_hold(index, &format!("NODEDOWN node {node} was lost before it answered ({reason})")),
        }
    }

    /// What was asked over a private connection has had its time.
    pub(super) fn private_overdue(&mut self, index: u32) {
        let (backend, timeout_ms) = (&self.backends[index as usize], self.settings.timeout_ms);
        if !self.is_to_be_sent(index) {
            return self.private_lost(index, &format!("no answer within {timeout_ms} ms"));
        }
        let reason = backend.unreachable.as_ref().map_or("no connection yet", |(_, reason)| reason);
        let text =
            format!("NODEDOWN node {} could not be reached within {timeout_ms} ms ({reason}); nothing was sent", backend.node);
        self.end_hold(index, &text);
    }

    /// Whether a session's command waits for a private connection to be opened: it may still go elsewhere.
    fn is_to_be_sent(&self, index: u32) -> bool {
        let backend = &self.backends[index as usize];
        let is_open = !matches!(backend.state, State::Idle | State::Connecting);
        !is_open && matches!(backend.hold, Some(Hold::Waiting { .. } | Hold::Watching { .. }))
    }

    /// Goes on trying to reach the node: a map that says who has the keys now may come meanwhile.
    fn open_private_again(&mut self, index: u32, reason: &str) {
        let now_ms = self.now_ms;
        let backend = &mut self.backends[index as usize];
        backend.state = State::Idle;
        backend.failures = backend.failures.saturating_add(1);
        backend.unreachable.get_or_insert((now_ms, reason.into())).1 = reason.into();
        self.connect(index);
    }

    /// The owner of what a session's command on a private connection is about, if that is one.
    fn owner_of_held(&self, keys: &HeldKeys, session: SessionId) -> Option<Owner> {
        let mut owners = keys.iter().map(|key| self.topology.owner(self.topology.place(key)).ok());
        match owners.next() {
            Some(owner) => owner.filter(|_| owners.all(|other| other == owner)),
            None => self.any_node(session.index).map(|node| Owner { node, guest: false }),
        }
    }

    /// Has a private connection on which nothing was sent opened to another node.
    fn move_private(&mut self, index: u32, owner: Owner) {
        let to = &self.topology.nodes()[usize::from(owner.node)];
        let (node, endpoint) = (to.name.clone(), to.endpoint.clone());
        let guests = self.topology.options().guest_databases;
        let backend = &mut self.backends[index as usize];
        backend.lane = backend.lane.of_client(guests).at(owner.guest);
        (backend.node, backend.endpoint) = (node, endpoint);
        (backend.state, backend.failures, backend.unreachable) = (State::Idle, 0, None);
        self.counters.rerouted_total += 1;
        self.connect(index);
    }

    /// Ends what a private connection was held for: a command that waits gets this error, watched keys count as touched.
    fn end_hold(&mut self, index: u32, error: &str) {
        let waiters = self.backends[index as usize].take_waiters();
        match self.backends[index as usize].hold.clone() {
            Some(Hold::Waiting { session, .. }) if self.is_open(session) => self.sessions[session.index as usize].waiting = None,
            Some(Hold::Watching { session, .. }) if self.is_open(session) => {
                let session = &mut self.sessions[session.index as usize];
                session.watching = None;
                session.watch_broken = true;
            }
            Some(Hold::PuttingBack(_)) => self.note_lost(index, error),
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

    /// A session's database or protocol has changed, or whether it touches what it reads: the connection that watches its keys goes along, since EXEC goes over it.
    pub(super) fn follow_session(&mut self, index: u32) {
        let session = &self.sessions[index as usize];
        let Some(backend) = session.watching else { return };
        let before = self.backends[backend as usize].lane;
        let guest = self.topology.options().guest_databases && before.is_guest();
        self.change_lane(backend, session.private_lane(guest));
    }

    /// Makes a connection that one session has to itself one of another lane. What is under way on it is not disturbed.
    pub(super) fn change_lane(&mut self, backend: u32, lane: Lane) {
        let of = &mut self.backends[backend as usize];
        let before = std::mem::replace(&mut of.lane, lane);
        match of.state {
            // It will be opened as what it is now.
            State::Idle | State::Free => return,
            // What is on its way was asked for as what it was.
            State::Connecting if lane != before => {
                of.state = State::Idle;
                return self.connect(backend);
            }
            State::Connecting => return,
            State::Up | State::Retired { .. } => {}
        }
        let mut say = |args: &[&str]| {
            let mut request = Vec::new();
            encode::request(&mut request, args);
            self.queue(backend, Waiter::setting_up(self.now_us), &request);
        };
        if lane.proto != before.proto {
            say(&["HELLO", if lane.proto == Proto::Resp3 { "3" } else { "2" }]);
        }
        if lane.db != before.db {
            say(&["SELECT", &lane.db.to_string()]);
        }
        if lane.no_touch != before.no_touch {
            say(&["CLIENT", "NO-TOUCH", if lane.no_touch { "ON" } else { "OFF" }]);
        }
    }

    /// Whether a node has yet to say that a connection of this session's own is what the session has said since: until then nothing more
    /// may go over it.
    pub(super) fn awaits_lane(&self, index: u32) -> bool {
        let session = &self.sessions[index as usize];
        let own = TrackingLane::Own { session: index };
        let is_awaited = |backend: &u32| self.backends[*backend as usize].is_setting_up();
        session.watching.as_ref().is_some_and(is_awaited)
            || (session.tracking_lane == own
                && self.own_lanes.iter().any(|((_, lane), backend)| lane.tracking == own && is_awaited(backend)))
    }

    /// After a change of the map: nobody goes on waiting or watching at a node that is not the keys' any more.
    pub(super) fn check_private(&mut self) {
        for index in 0..self.backends.len() as u32 {
            let backend = &self.backends[index as usize];
            let none = HeldKeys::new();
            let keys = match &backend.hold {
                None | Some(Hold::Subscriber | Hold::Broadcast) => continue,
                Some(Hold::Idle | Hold::Finishing | Hold::PuttingBack(_)) => &none,
                Some(Hold::Waiting { keys, .. } | Hold::Watching { keys, .. }) => keys,
            };
            let stays = self.node_of(index).is_some()
                && keys
                    .iter()
                    .all(|key| self.topology.owner(self.topology.place(key)).is_ok_and(|owner| self.serves(index, owner)));
            if stays {
                continue;
            }
            if let (true, Some(Hold::Waiting { session, keys, .. } | Hold::Watching { session, keys })) =
                (self.is_to_be_sent(index), &backend.hold)
                && let Some(owner) = self.owner_of_held(keys, *session)
            {
                self.move_private(index, owner);
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

/// Why a connection is of no more use, since a node refuses to make it one of another lane.
#[cold]
pub(super) fn refused_set_up(error: &[u8]) -> Option<String> {
    // CLIENT NO-TOUCH came with redis 7.2: where it is not known, it is of no consequence.
    const UNKNOWN: &[u8] = b"-ERR unknown subcommand";
    let is_unknown = error.get(..UNKNOWN.len()).is_some_and(|start| start.eq_ignore_ascii_case(UNKNOWN));
    let error = String::from_utf8_lossy(&error[1..]);
    (!is_unknown).then(|| format!("it would not change the database or protocol: {}", error.trim_end()))
}

/// `CLIENT UNBLOCK client TIMEOUT|ERROR`.
fn unblock(client: u64, reason: &str) -> Vec<u8> {
    let mut request = Vec::new();
    encode::request(&mut request, &["CLIENT", "UNBLOCK", &client.to_string(), reason]);
    request
}
