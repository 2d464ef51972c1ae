//! Topics: what somebody on this worker listens to, subscribed once upstream however many clients share it.
//!
//! A channel lives on the node that owns its name, so that whoever publishes and whoever listens meet there; a pattern is subscribed
//! on every node, and so are the channels of keyspace notifications, which each node publishes for itself. Each node that has topics
//! gets one connection that does nothing else. When the map changes or a connection is lost, topics move without their subscribers'
//! knowledge. A channel is left where it was only once it is confirmed where it is to be, so that what others publish by the old map
//! is still heard; what is published at the new place before that is missed. Nothing comes twice: a message is published at one node.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use vrc_cluster::{
    command::CommandId,
    resp::{Proto, array_elements, encode},
    topology::NodeIndex,
};

use crate::limits::{LISTENER_PING_MS, SUBSCRIBER_OUTPUT_MAX_BYTES};

use super::{
    Core, Effect,
    asked::{AskedOfNodes, Wish},
    backend::State,
    events,
    lane::Lane,
    private::Hold,
    pubsub::Fence,
    replies::{Sequence, Slot},
    session::SessionId,
    waiter::Waiter,
};

/// The three sorts of things that a client can listen to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    Channel,
    Pattern,
    Shard,
}

impl Kind {
    /// How many there are.
    pub(crate) const COUNT: usize = 3;

    pub(super) fn subscribe(self) -> &'static str {
        match self {
            Kind::Channel => "subscribe",
            Kind::Pattern => "psubscribe",
            Kind::Shard => "ssubscribe",
        }
    }

    pub(super) fn unsubscribe(self) -> &'static str {
        match self {
            Kind::Channel => "unsubscribe",
            Kind::Pattern => "punsubscribe",
            Kind::Shard => "sunsubscribe",
        }
    }
}

pub(super) type Name = (Kind, Box<[u8]>);

/// A connection that a topic is subscribed on, under its own name or under that of the node's guest database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) backend: u32,
    pub(super) guest: bool,
}

/// Something that somebody on this worker listens to.
#[derive(Debug, Default)]
pub(super) struct Topic {
    /// Tells this topic from one of the same name before it: what confirms that one says nothing of this.
    pub(super) number: u32,
    pub(super) subscribers: Vec<SessionId>,
    /// Where it belongs, and whether the node has confirmed it.
    pub(super) at: Vec<(Place, bool)>,
    /// Where it belonged, until it is confirmed where it does now.
    pub(super) leaving: Vec<Place>,
    /// Who waits for the confirmation.
    pub(super) waiting: Vec<Pending>,
}

impl Topic {
    pub(super) fn is_confirmed(&self) -> bool {
        !self.at.is_empty() && self.at.iter().all(|(_, confirmed)| *confirmed)
    }
}

/// A SUBSCRIBE that is not answered yet.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) session: SessionId,
    pub(super) sequence: Sequence,
    /// How many subscriptions the session has with it.
    pub(super) count: usize,
    /// It had not been subscribed by the session before.
    pub(super) is_new: bool,
    pub(super) since_ms: u64,
    /// What the nodes that have confirmed it brought meanwhile: their publishers count it as received.
    pub(super) early: Vec<u8>,
}

/// All topics of a worker.
#[derive(Debug, Default)]
pub(crate) struct Topics {
    pub(super) by_name: HashMap<Name, Topic>,
    next_number: u32,
    pub(super) asked: AskedOfNodes,
    /// Replies that come after the message to the publisher itself.
    pub(super) fences: Vec<Fence>,
}

impl Topics {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }
}

impl Core {
    /// Sees to it that there is such a topic.
    pub(super) fn make_topic(&mut self, name: &Name) {
        if !self.topics.by_name.contains_key(name) {
            self.topics.next_number = self.topics.next_number.wrapping_add(1);
            self.topics.by_name.insert(name.clone(), Topic { number: self.topics.next_number, ..Topic::default() });
            self.all_stats.subscriber_counts.workers(name.0, &name.1, 1);
            self.place_topic(name);
        }
    }

    /// Ends a topic that nobody listens to, nor is to be told that he does.
    pub(super) fn drop_unheard(&mut self, name: &Name) {
        let is_unheard = |topic: &Topic| topic.subscribers.is_empty() && topic.waiting.is_empty();
        if !self.topics.by_name.get(name).is_some_and(is_unheard) {
            return;
        }
        let topic = self.topics.by_name.remove(name).expect("just looked at");
        let places: Vec<Place> = topic.at.into_iter().map(|(place, _)| place).chain(topic.leaving).collect();
        let ending = Arc::new(name.clone());
        for place in places {
            self.ask_node(place, Arc::clone(&ending), Wish::End);
        }
        self.ended_at_a_node(ending);
    }

    // ---- Upstream ----

    /// The nodes that a topic is to be heard on, and whether as their guest databases'.
    fn nodes_of_topic(&self, name: &Name) -> Vec<(NodeIndex, bool)> {
        let everywhere = match name.0 {
            Kind::Pattern => true,
            Kind::Channel => events::is_everywhere(&name.1),
            Kind::Shard => false,
        };
        if !everywhere {
            return self.topology.owner(self.topology.place(&name.1)).ok().map(|owner| (owner.node, false)).into_iter().collect();
        }
        let guests = self.topology.options().guest_databases && events::of_guest(&name.1).is_some();
        let own = self.up.iter().map(|node| (*node, false));
        let as_guests = self.up.iter().zip(&self.hosts).filter(|(_, hosts)| guests && **hosts).map(|(node, _)| (*node, true));
        own.chain(as_guests).collect()
    }

    /// How many nodes count a worker that has this channel.
    pub(super) fn nodes_counting(&self, kind: Kind, channel: &[u8]) -> usize {
        if kind == Kind::Channel && events::is_everywhere(channel) { self.up.len() } else { 1 }
    }

    /// Subscribes a topic where it belongs now; where it belonged it is left once that is confirmed.
    fn place_topic(&mut self, name: &Name) {
        let wanted: Vec<Place> =
            self.nodes_of_topic(name).into_iter().map(|(node, guest)| Place { backend: self.subscriber(node), guest }).collect();
        let topic = self.topics.by_name.get_mut(name).expect("it is being placed");
        let number = topic.number;
        let (mut kept, gone): (Vec<_>, Vec<_>) = topic.at.drain(..).partition(|(place, _)| wanted.contains(place));
        // Where it is still heard from before, it need not be subscribed again.
        let back = topic.leaving.extract_if(.., |place| wanted.contains(place));
        kept.extend(back.map(|place| (place, true)));
        let new: Vec<Place> = wanted.into_iter().filter(|place| kept.iter().all(|(at, _)| at != place)).collect();
        topic.at = kept;
        topic.at.extend(new.iter().map(|place| (*place, false)));
        topic.leaving.extend(gone.into_iter().map(|(place, _)| place));
        for place in new {
            self.ask_node(place, Arc::new(name.clone()), Wish::Subscribe(number));
        }
        self.leave_if_confirmed(name);
    }

    fn leave_if_confirmed(&mut self, name: &Name) {
        let Some(topic) = self.topics.by_name.get_mut(name).filter(|topic| topic.is_confirmed()) else { return };
        for place in std::mem::take(&mut topic.leaving) {
            self.ask_node(place, Arc::new(name.clone()), Wish::Leave);
        }
    }

    /// The connection to a node that carries its topics, if there is one.
    pub(super) fn find_subscriber(&self, node: NodeIndex) -> Option<u32> {
        let name = &self.topology.nodes()[usize::from(node)].name;
        self.backends.iter().position(|of| of.hold == Some(Hold::Subscriber) && of.node == *name).map(|at| at as u32)
    }

    fn subscriber(&mut self, node: NodeIndex) -> u32 {
        if let Some(found) = self.find_subscriber(node) {
            return found;
        }
        let index = self.add_backend(node, Lane::new(Proto::Resp2, 0, false));
        self.private_count += 1;
        self.backends[index as usize].hold = Some(Hold::Subscriber);
        self.connect(index);
        index
    }

    /// Asks nodes from which nothing is awaited whether they are still there: on connections that only listen, a node that died in
    /// silence would never be noticed.
    pub(super) fn ping_listeners(&mut self) {
        for index in 0..self.backends.len() as u32 {
            let backend = &mut self.backends[index as usize];
            let listens = matches!(backend.hold, Some(Hold::Subscriber | Hold::Broadcast))
                || backend.tracked.as_ref().is_some_and(|tracked| tracked.is_to_be_asked());
            let listens = listens && backend.state == State::Up;
            if listens && backend.pending() == 0 && self.now_ms.saturating_sub(backend.pinged_ms) >= LISTENER_PING_MS {
                backend.pinged_ms = self.now_ms;
                self.queue(index, Waiter::nobody(self.now_us), PING);
            }
        }
    }

    /// What a node said on its connection for topics; false if that makes no sense.
    pub(super) fn subscriber_input(&mut self, index: u32, reply: &[u8]) -> bool {
        match reply[0] {
            b'-' => {
                let Some(waiter) = self.backends[index as usize].pop() else { return false };
                self.refused_by_node(waiter, reply);
                return true;
            }
            // A PING where nothing is subscribed any more.
            b'+' => return self.fence_passed(index),
            _ => {}
        }
        let Some(elements) = array_elements(reply) else { return false };
        let parts: Vec<&[u8]> = elements.take(4).filter_map(bulk).collect();
        match parts.as_slice() {
            [b"message", name, _] => self.spread(Kind::Channel, name, reply),
            [b"pmessage", pattern, channel, _] => self.spread_by_pattern(pattern, channel, reply),
            [b"smessage", name, _] => self.spread(Kind::Shard, name, reply),
            [b"pong", ..] => return self.fence_passed(index),
            // A subscription that was begun or ended.
            [_, _, ..] => return self.backends[index as usize].pop().is_some_and(|waiter| self.done_by_node(waiter)),
            _ => return false,
        }
        true
    }

    /// A node hears a topic's messages from now on.
    pub(super) fn confirm(&mut self, place: Place, name: &Name, number: u32) {
        let Some(topic) = self.topics.by_name.get_mut(name).filter(|topic| topic.number == number) else { return };
        topic.at.iter_mut().filter(|(at, _)| *at == place).for_each(|(_, confirmed)| *confirmed = true);
        self.answer_if_confirmed(name);
    }

    /// Answers those who wait for a topic, once every connection that carries it has confirmed it.
    fn answer_if_confirmed(&mut self, name: &Name) {
        let Some(topic) = self.topics.by_name.get_mut(name).filter(|topic| topic.is_confirmed()) else { return };
        for pending in std::mem::take(&mut topic.waiting) {
            if self.is_open(pending.session) {
                self.say_subscribed_later(pending, name);
            }
        }
        self.leave_if_confirmed(name);
        self.drop_unheard(name);
    }

    // ---- Messages ----

    fn has_guests(&self) -> bool {
        self.topology.options().guest_databases
    }

    /// A message on a channel. What a guest database notifies of is heard as the client's.
    fn spread(&mut self, kind: Kind, channel: &[u8], message: &[u8]) {
        match events::of_client(channel).filter(|_| kind == Kind::Channel && self.has_guests()) {
            None => self.spread_to(&(kind, channel.into()), message),
            Some(channel) => {
                let message = renamed(message, &[(1, &channel)]);
                self.spread_to(&(kind, channel.into()), &message);
            }
        }
    }

    fn spread_by_pattern(&mut self, pattern: &[u8], channel: &[u8], message: &[u8]) {
        match events::of_client(channel).filter(|_| self.has_guests()) {
            None => self.spread_to(&(Kind::Pattern, pattern.into()), message),
            Some(channel) => {
                let pattern = events::of_client(pattern).unwrap_or_else(|| pattern.to_vec());
                let message = renamed(message, &[(1, &pattern), (2, &channel)]);
                self.spread_to(&(Kind::Pattern, pattern.into()), &message);
            }
        }
    }

    /// A message to everybody who listens.
    fn spread_to(&mut self, name: &Name, message: &[u8]) {
        let Some(topic) = self.topics.by_name.get_mut(name) else { return };
        let subscribers = std::mem::take(&mut topic.subscribers);
        let mut waiting = std::mem::take(&mut topic.waiting);
        // Who has not been told that he listens hears it once he was.
        let mut unaware: BTreeMap<u32, &mut Pending> =
            waiting.iter_mut().filter(|pending| pending.is_new).map(|pending| (pending.session.index, pending)).collect();
        for id in &subscribers {
            if !self.is_open(*id) {
                continue;
            }
            let kind = if self.sessions[id.index as usize].proto == Proto::Resp3 { b'>' } else { b'*' };
            let write = |out: &mut Vec<u8>| {
                out.push(kind);
                out.extend_from_slice(&message[1..]);
            };
            match unaware.get_mut(&id.index) {
                Some(pending) => {
                    write(&mut pending.early);
                    if pending.early.len() > SUBSCRIBER_OUTPUT_MAX_BYTES {
                        self.cut_off_listener(*id);
                    }
                }
                None => self.tell(*id, None, write),
            }
        }
        let topic = self.topics.by_name.get_mut(name).expect("nothing was removed");
        topic.subscribers = subscribers;
        topic.waiting = waiting;
    }

    /// Says something to a client that answers no command. One that leaves too much of it unread is cut off: replies count with it for
    /// one that listens, as in redis, but not for others that are told of something, which may have asked for much.
    pub(super) fn tell(&mut self, id: SessionId, behind: Option<Sequence>, write: impl FnOnce(&mut Vec<u8>)) {
        let session = &mut self.sessions[id.index as usize];
        // What a PUBLISH of its own brings is told in its place, as redis does.
        let is_own = session.replies.slot(session.replies.first_sequence()) == Some(Slot::Publish);
        let held = match &mut session.asides {
            Some(asides) if !is_own && asides.is_under_way() => {
                write(asides.held_mut());
                asides.held_mut().len()
            }
            _ => {
                session.replies.tell(behind, write);
                0
            }
        };
        let unread =
            if session.subscriptions.is_some() { session.replies.unread_bytes() } else { session.replies.told_unread_bytes() };
        if unread + held > SUBSCRIBER_OUTPUT_MAX_BYTES {
            self.mark_session(id.index);
            self.cut_off_listener(id);
        } else {
            self.answered(id.index);
        }
    }

    /// Closes the connection of a client that does not read what it listens to.
    pub(super) fn cut_off_listener(&mut self, id: SessionId) {
        let client = self.sessions[id.index as usize].id;
        tracing::warn!(client, "client cut off: it does not read what it listens to");
        self.counters.cut_off_total += 1;
        self.effects.push(Effect::Close { session: id });
    }

    // ---- Changes ----

    /// A node's connection for topics was lost: it is opened again, and its topics subscribed again, as long as the node is up.
    pub(super) fn subscriber_lost(&mut self, index: u32, reason: &str) {
        let backend = &mut self.backends[index as usize];
        backend.incarnation = backend.incarnation.wrapping_add(1);
        backend.failures = backend.failures.saturating_add(1);
        backend.forget_all();
        backend.state = State::Idle;
        let node = backend.node.clone();
        self.effects.push(Effect::Disconnect { backend: index });
        self.effects.push(Effect::Suspect { node, reason: reason.to_owned() });
        self.all_ended_upstream(index);
        let mut again: Vec<(Name, Place, u32)> = Vec::new();
        for (name, topic) in &mut self.topics.by_name {
            topic.leaving.retain(|place| place.backend != index);
            for (place, confirmed) in &mut topic.at {
                if place.backend == index {
                    *confirmed = false;
                    again.push((name.clone(), *place, topic.number));
                }
            }
        }
        if again.is_empty() {
            self.close_private(index);
            return;
        }
        self.connect(index);
        for (name, place, number) in again {
            self.ask_node(place, Arc::new(name), Wish::Subscribe(number));
        }
    }

    /// After a change of the map: topics move to where they belong now, and connections that carry none are closed.
    pub(super) fn move_topics(&mut self) {
        // Connections of nodes that are out go first, so that nothing is said to them.
        for index in 0..self.backends.len() as u32 {
            if self.backends[index as usize].hold != Some(Hold::Subscriber) {
                continue;
            }
            if self.node_of(index).is_none() {
                for topic in self.topics.by_name.values_mut() {
                    topic.at.retain(|(place, _)| place.backend != index);
                    topic.leaving.retain(|place| place.backend != index);
                }
                self.all_ended_upstream(index);
                self.close_private(index);
            }
        }
        for name in self.topics.by_name.keys().cloned().collect::<Vec<_>>() {
            self.place_topic(&name);
            // Who did not confirm it may be out.
            self.answer_if_confirmed(&name);
        }
    }

    /// Answers whoever has waited too long for a subscription to be confirmed.
    pub(super) fn expire_subscribes(&mut self, deadline_ms: u64) {
        let mut expired = Vec::new();
        for (name, topic) in &mut self.topics.by_name {
            let late = topic.waiting.extract_if(.., |pending| pending.since_ms < deadline_ms);
            expired.extend(late.map(|pending| (name.clone(), pending)));
        }
        for (name, pending) in expired {
            if self.is_open(pending.session) {
                let waiter = Waiter::new(pending.session, pending.sequence, CommandId::NONE, self.now_us);
                self.fail(waiter, "NODEDOWN the channel's node did not confirm the subscription in time");
                if pending.is_new {
                    self.drop_subscription(pending.session.index, &name);
                }
            }
            self.drop_unheard(&name);
        }
    }
}

pub(super) const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// The content of a bulk string.
pub(super) fn bulk(element: &[u8]) -> Option<&[u8]> {
    let rest = element.strip_prefix(b"$")?;
    let line = rest.iter().position(|byte| *byte == b'\r')?;
    rest.get(line + 2..rest.len() - 2)
}

/// A message with some of its elements replaced.
fn renamed(message: &[u8], names: &[(usize, &[u8])]) -> Vec<u8> {
    let elements: Vec<&[u8]> = array_elements(message).into_iter().flatten().collect();
    let mut out = Vec::with_capacity(message.len());
    encode::array(&mut out, elements.len());
    for (at, element) in elements.into_iter().enumerate() {
        match names.iter().find(|(place, _)| *place == at) {
            Some((_, name)) => encode::bulk(&mut out, name),
            None => out.extend_from_slice(element),
        }
    }
    out
}
