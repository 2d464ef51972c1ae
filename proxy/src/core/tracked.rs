//! Which session has read which key, for client-side caching.
//!
//! Clients that track share lanes on which the node tracks too (`CLIENT TRACKING ON`): it remembers the keys that were read over
//! such a connection, and says once, on the same connection, that one has changed. What it says of a key concerns every session that
//! has read it there. A read counts from its reply on, since replies and invalidations come in the order in which the node made
//! them: an invalidation that comes before the reply to a read was about an older value.
//!
//! A lane of RESP2 gets no invalidations; the node redirects them to a second connection, the lane's *feed*. Between two connections
//! there is no order, so a read that was under way when its key was invalidated counts as stale: its client gets the reply, and the
//! invalidation behind it.
//!
//! Whatever leaves a key untracked (its connection is lost, it has another owner now, the table is full) is said to those who have
//! read it as if it had changed.

use std::collections::HashMap;

use indexmap::IndexMap;
use std::sync::Arc;
use vrc_cluster::resp::{ReplyFramer, array_elements, encode};

use crate::limits::{CLIENT_OUTPUT_MAX_BYTES, INVALID_KEYS_MAX, TRACKED_BYTES_MAX, TRACKED_ITEMS_MAX, TRACKED_KEYS_MAX};

use super::{Core, Effect, backend::State, private::Hold, replies::Slot, session::SessionId, topics::bulk, waiter::Waiter};

/// What `CLIENT TRACKING ON` is told on a node connection, behind where it redirects to.
#[derive(Debug, Clone, Default)]
pub(crate) struct TrackingOptions {
    /// The node is not to tell of what was changed over this connection itself.
    pub(crate) noloop: bool,
    /// The node is to tell of every key that begins with one of these, read or not.
    pub(crate) broadcast: Option<Arc<[Box<[u8]>]>>,
}

type Keys = Vec<Box<[u8]>>;

/// A session that has read a key.
#[derive(Debug, Clone, Copy)]
struct Interest {
    session: SessionId,
    /// See [`super::session::Session::tracking_epoch`].
    epoch: u32,
}

/// What was read over a node connection.
#[derive(Debug, Default)]
pub(crate) struct Tracked {
    /// What the node is asked to tell of, if of anything.
    pub(super) options: Option<TrackingOptions>,
    /// The session whose connection it is, if it is one session's.
    pub(super) owner: Option<SessionId>,
    /// Each key's readers, by the session's index.
    keys: IndexMap<Box<[u8]>, Vec<Interest>>,
    /// How many replies came.
    replies: u64,
    /// Keys that were invalidated while replies were awaited on another connection, with the number of the last reply that may be
    /// older than that.
    stale: HashMap<Box<[u8]>, u64>,
    /// Likewise of all keys.
    all_stale: u64,
    feed_input: Vec<u8>,
}

impl Tracked {
    pub(super) fn new(options: Option<TrackingOptions>, owner: Option<SessionId>) -> Self {
        Tracked { options, owner, ..Tracked::default() }
    }

    pub(super) fn has_no_keys(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether it is broadcast to, read or not.
    pub(super) fn is_broadcast(&self) -> bool {
        self.options.as_ref().is_some_and(|options| options.broadcast.is_some())
    }

    /// Whether the node may have something to tell.
    pub(super) fn listens(&self) -> bool {
        !self.keys.is_empty() || self.is_broadcast()
    }

    /// Whether silence may mean that the node is gone. A connection with NOLOOP is not asked on: were the node's own table full, the
    /// node would forget a key on that occasion, and take it for the connection's own doing.
    pub(super) fn is_to_be_asked(&self) -> bool {
        self.listens() && (self.owner.is_none() || self.is_broadcast())
    }

    /// Whether the reply of this number may be of a value that has been invalidated already.
    fn may_be_stale(&self, reply: u64, key: &[u8]) -> bool {
        reply <= self.all_stale || self.stale.get(key).is_some_and(|last| reply <= *last)
    }
}

/// What all tables of a worker hold.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct TrackedSizes {
    pub(super) keys: usize,
    /// Readers of keys.
    pub(super) items: usize,
    bytes: usize,
}

impl TrackedSizes {
    fn are_too_large(&self) -> bool {
        self.keys > TRACKED_KEYS_MAX || self.items > TRACKED_ITEMS_MAX || self.bytes > TRACKED_BYTES_MAX
    }

    fn forget(&mut self, key: &[u8], readers: &[Interest]) {
        self.keys -= 1;
        self.items -= readers.len();
        self.bytes -= key.len();
    }
}

impl Core {
    // ---- Reading ----

    /// Hands on a reply that may be of a tracked read.
    pub(super) fn deliver_read(&mut self, index: u32, waiter: Waiter, reply: &[u8]) {
        if self.is_end_of_killed(index, reply) {
            self.effects.push(Effect::Close { session: SessionId { index: waiter.session, generation: waiter.generation } });
            return;
        }
        if self.put_back(index, reply) {
            return;
        }
        self.deliver(waiter, reply);
        let tracked = self.backends[index as usize].tracked.as_mut();
        let number = tracked.map_or(0, |tracked| {
            tracked.replies += 1;
            tracked.replies
        });
        if !waiter.is_nobody() && self.sessions[waiter.session as usize].generation == waiter.generation {
            self.note_read(index, waiter, number);
        }
        self.forget_stale(index);
    }

    /// A reply was handed to a session: the keys that it has read with it are tracked from now on.
    fn note_read(&mut self, index: u32, waiter: Waiter, number: u64) {
        let session = &mut self.sessions[waiter.session as usize];
        let is_over = matches!(session.replies.slot(waiter.sequence), None | Some(Slot::Ready { .. }));
        let (epoch, generation) = (session.tracking_epoch, session.generation);
        let Some(tracking) = &mut session.tracking else { return };
        tracking.note_answer(waiter.sequence);
        let Some(mut read) = tracking.take_read(waiter.sequence) else { return };
        let session = SessionId { index: waiter.session, generation };
        let broadcast = self.sessions[waiter.session as usize].tracking.as_ref().is_some_and(|tracking| tracking.is_broadcast());
        // Which part of the command read what can be told by the owners of the keys, as long as these are the same.
        let same_map = read.map == self.maps;
        for key in &mut read.keys {
            if !broadcast && same_map && !key.is_tracked && self.tracks(index, number, &key.name) {
                key.is_tracked = true;
                self.remember(index, &key.name, Interest { session, epoch });
            }
        }
        if is_over {
            // Read where nothing is tracked, or before the map or the value changed.
            let stale: Vec<&[u8]> = read.keys.iter().filter(|key| !same_map || !key.is_tracked).map(|key| &*key.name).collect();
            if !stale.is_empty() {
                self.notify(session, Some(&key_array(&stale)));
            }
        } else if let Some(tracking) = &mut self.sessions[waiter.session as usize].tracking {
            tracking.put_back_read(read);
        }
    }

    /// Whether a key that was just read over a connection is tracked there, and the value not known to be stale.
    fn tracks(&self, index: u32, reply: u64, key: &[u8]) -> bool {
        let backend = &self.backends[index as usize];
        let Some(tracked) = &backend.tracked else { return false };
        tracked.options.is_some()
            && !matches!(backend.state, State::Retired { .. })
            && !tracked.may_be_stale(reply, key)
            && self.still_owns(index, key)
    }

    fn still_owns(&self, index: u32, key: &[u8]) -> bool {
        self.topology.owner(self.topology.place(key)).is_ok_and(|owner| self.serves(index, owner))
    }

    fn remember(&mut self, index: u32, key: &[u8], reader: Interest) {
        let Some(tracked) = &mut self.backends[index as usize].tracked else { return };
        match tracked.keys.get_mut(key) {
            Some(readers) => match readers.binary_search_by_key(&reader.session.index, |reader| reader.session.index) {
                Ok(at) => readers[at] = reader,
                Err(at) => {
                    readers.insert(at, reader);
                    self.tracked_sizes.items += 1;
                }
            },
            None => {
                tracked.keys.insert(key.into(), vec![reader]);
                self.tracked_sizes.keys += 1;
                self.tracked_sizes.items += 1;
                self.tracked_sizes.bytes += key.len();
            }
        }
        while self.tracked_sizes.are_too_large() && self.forget_one(index) {}
    }

    /// Forgets some key, as if it had changed. False if there is none.
    fn forget_one(&mut self, index: u32) -> bool {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let random = (self.random >> 33) as usize;
        let Some(tracked) = &mut self.backends[index as usize].tracked else { return false };
        if tracked.keys.is_empty() {
            return false;
        }
        let found = tracked.keys.swap_remove_index(random % tracked.keys.len());
        let (key, readers) = found.expect("there are that many");
        self.tell_readers(&key, &readers);
        true
    }

    // ---- Invalidation ----

    /// A node says that something has changed.
    pub(super) fn invalidated(&mut self, index: u32, push: &[u8]) {
        let Some(mut elements) = array_elements(push) else { return };
        if elements.next().and_then(bulk) != Some(b"invalidate") {
            return;
        }
        let Some(what) = elements.next() else { return };
        let keys = array_elements(what);
        let backend = &self.backends[index as usize];
        if backend.hold == Some(Hold::Broadcast) {
            self.spread_invalidation(index, keys.is_some().then_some(what));
            return;
        }
        let Some(tracked) = &backend.tracked else { return };
        match (keys, tracked.owner.filter(|_| tracked.is_broadcast())) {
            (keys, Some(owner)) => self.notify_broadcast(owner, keys.is_some().then_some(what)),
            (Some(keys), None) => keys.filter_map(bulk).for_each(|key| self.invalidate_key(index, key)),
            (None, None) => self.invalidate_all(index),
        }
    }

    /// The second connection of a lane brought something.
    pub(crate) fn feed_input(&mut self, index: u32, incarnation: u32, bytes: &[u8]) {
        let backend = &mut self.backends[index as usize];
        if backend.incarnation != incarnation {
            return;
        }
        let Some(tracked) = &mut backend.tracked else { return };
        let mut input = std::mem::take(&mut tracked.feed_input);
        input.extend_from_slice(bytes);
        let mut at = 0;
        let mut framer = ReplyFramer::default();
        let failed = loop {
            match framer.advance(&input[at..]) {
                Ok(Some(len)) => {
                    self.feed_push(index, &input[at..at + len]);
                    at += len;
                }
                Ok(None) => break input.len() - at > CLIENT_OUTPUT_MAX_BYTES,
                Err(_) => break true,
            }
        };
        if failed {
            self.effects.push(Effect::Disconnect { backend: index });
            self.backend_lost(index, incarnation, "its invalidations make no sense");
        } else if let Some(tracked) = &mut self.backends[index as usize].tracked {
            input.drain(..at);
            tracked.feed_input = input;
        }
    }

    fn feed_push(&mut self, index: u32, push: &[u8]) {
        let backend = &mut self.backends[index as usize];
        let awaited = backend.pending() as u64;
        if let Some(tracked) = &mut backend.tracked
            && awaited > 0
            && push[0] == b'>'
        {
            let last = tracked.replies + awaited;
            match array_elements(push).and_then(|elements| elements.last()).and_then(array_elements) {
                Some(keys) => tracked.stale.extend(keys.filter_map(bulk).map(|key| (key.into(), last))),
                None => tracked.all_stale = last,
            }
        }
        self.invalidated(index, push);
    }

    /// Forgets what was said of replies that have come by now.
    fn forget_stale(&mut self, index: u32) {
        let backend = &mut self.backends[index as usize];
        if backend.pending() == 0
            && let Some(tracked) = &mut backend.tracked
            && !tracked.stale.is_empty()
        {
            tracked.stale = HashMap::new();
        } else if let Some(tracked) = &mut backend.tracked
            && tracked.stale.len() > INVALID_KEYS_MAX
        {
            let replies = tracked.replies;
            tracked.stale.retain(|_, last| *last > replies);
            if tracked.stale.len() > INVALID_KEYS_MAX {
                // Too many to tell apart: all that is under way may be stale.
                tracked.all_stale = tracked.stale.values().copied().max().unwrap_or(0);
                tracked.stale = HashMap::new();
            }
        }
    }

    fn invalidate_key(&mut self, index: u32, key: &[u8]) {
        let tracked = self.backends[index as usize].tracked.as_mut();
        if let Some((key, readers)) = tracked.and_then(|tracked| tracked.keys.swap_remove_entry(key)) {
            self.tell_readers(&key, &readers);
        }
    }

    /// A key is not tracked any more: those who have read it are told.
    fn tell_readers(&mut self, key: &[u8], readers: &[Interest]) {
        self.tracked_sizes.forget(key, readers);
        let payload = key_array(&[key]);
        for reader in readers {
            if self.is_current(reader) {
                self.outdate(reader.session, Some(key));
                self.notify(reader.session, Some(&payload));
            }
        }
    }

    fn is_current(&self, reader: &Interest) -> bool {
        let session = &self.sessions[reader.session.index as usize];
        session.generation == reader.session.generation && session.tracking_epoch == reader.epoch && session.tracking.is_some()
    }

    /// All of a node's keys are gone.
    fn invalidate_all(&mut self, index: u32) {
        let Some(tracked) = &mut self.backends[index as usize].tracked else { return };
        let keys = std::mem::take(&mut tracked.keys);
        for (key, readers) in keys {
            self.tracked_sizes.forget(&key, &readers);
            for reader in readers.iter().filter(|reader| self.is_current(reader)).copied().collect::<Vec<_>>() {
                self.notify_flush(reader.session);
            }
        }
    }

    /// A session is to forget all it has read, and so has nothing that could be invalidated.
    pub(super) fn notify_flush(&mut self, session: SessionId) {
        let of = &mut self.sessions[session.index as usize];
        of.tracking_epoch = of.tracking_epoch.wrapping_add(1);
        self.outdate(session, None);
        self.notify(session, None);
    }

    /// Tells a session of what was broadcast.
    pub(super) fn notify_broadcast(&mut self, session: SessionId, keys: Option<&[u8]>) {
        let tracking = self.sessions[session.index as usize].tracking.as_ref();
        if tracking.is_some_and(|tracking| tracking.has_reads()) {
            match keys.and_then(array_elements) {
                Some(keys) => keys.filter_map(bulk).for_each(|key| self.outdate(session, Some(key))),
                None => self.outdate(session, None),
            }
        }
        self.notify(session, keys);
    }

    fn outdate(&mut self, session: SessionId, key: Option<&[u8]>) {
        if self.is_open(session)
            && let Some(tracking) = &mut self.sessions[session.index as usize].tracking
        {
            tracking.outdate(key);
        }
    }

    // ---- Changes ----

    /// A connection is lost, and with it what the node tracked for it.
    pub(super) fn lose_tracked(&mut self, index: u32) {
        let tracked = self.backends[index as usize].tracked.as_ref();
        let hearer = tracked.filter(|tracked| tracked.is_broadcast()).and_then(|tracked| tracked.owner);
        self.forget_tracked(index);
        if let Some(hearer) = hearer {
            self.notify_broadcast(hearer, None);
        }
    }

    /// Forgets all that was read over a connection. Its readers are told.
    pub(super) fn forget_tracked(&mut self, index: u32) {
        if let Some(tracked) = &mut self.backends[index as usize].tracked {
            tracked.feed_input = Vec::new();
            tracked.stale = HashMap::new();
            (tracked.replies, tracked.all_stale) = (0, 0);
            self.forget_where(index, |_, _| true);
        }
    }

    /// The map has changed: what has another owner now would not be heard of any more where it was read.
    pub(super) fn recheck_tracked(&mut self) {
        for index in 0..self.backends.len() as u32 {
            let backend = &self.backends[index as usize];
            if backend.tracked.is_some() && backend.state != State::Free {
                let all = matches!(backend.state, State::Retired { .. });
                self.forget_where(index, |core, key| all || !core.still_owns(index, key));
            }
        }
    }

    /// Forgets the keys of which `is_gone` holds, and tells each of their readers once.
    fn forget_where(&mut self, index: u32, is_gone: impl Fn(&Core, &[u8]) -> bool) {
        let Some(mut tracked) = self.backends[index as usize].tracked.take() else { return };
        let mut of_session: HashMap<u32, (SessionId, Keys)> = HashMap::new();
        let gone: Vec<usize> = tracked.keys.keys().enumerate().filter(|(_, key)| is_gone(self, key)).map(|(at, _)| at).collect();
        // From the end, so that what takes a removed one's place has been looked at.
        for at in gone.into_iter().rev() {
            let Some((key, readers)) = tracked.keys.swap_remove_index(at) else { continue };
            self.tracked_sizes.forget(&key, &readers);
            for reader in readers.iter().filter(|reader| self.is_current(reader)).copied().collect::<Vec<_>>() {
                self.outdate(reader.session, Some(&key));
                of_session.entry(reader.session.index).or_insert((reader.session, Vec::new())).1.push(key.clone());
            }
        }
        self.backends[index as usize].tracked = Some(tracked);
        for (session, keys) in of_session.into_values() {
            if keys.len() > INVALID_KEYS_MAX {
                self.notify_flush(session);
            } else {
                self.notify(session, Some(&key_array(&keys)));
            }
        }
    }
}

/// Keys as an invalidation names them.
fn key_array<K: AsRef<[u8]>>(keys: &[K]) -> Vec<u8> {
    let mut out = Vec::with_capacity(keys.iter().map(|key| key.as_ref().len() + 16).sum::<usize>() + 16);
    encode::request(&mut out, keys);
    out
}
