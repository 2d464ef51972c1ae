//! Subscriptions: one upstream for each topic and worker, however many clients share it.
//!
//! A channel lives on the node that owns its name, so that whoever publishes and whoever listens meet there; a pattern is subscribed
//! on every node. Each node that has topics gets one connection that does nothing else. When the map changes or a connection is lost,
//! topics move without their subscribers' knowledge; what is published in between may be missed, as with any redis that restarts.

use std::collections::{BTreeSet, HashMap, VecDeque};

use vrc_cluster::{
    command::{Command, Merge},
    resp::{Args, Proto, array_elements, encode},
    topology::Owner,
};

use crate::limits::SUBSCRIBER_OUTPUT_MAX_BYTES;

use super::{
    Core, Effect, Flow,
    backend::{Lane, State, Waiter},
    private::Hold,
    session::{Sequence, SessionId, Slot},
};

/// The three sorts of things that a client can listen to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    Channel,
    Pattern,
    Shard,
}

impl Kind {
    fn subscribe(self) -> &'static str {
        match self {
            Kind::Channel => "subscribe",
            Kind::Pattern => "psubscribe",
            Kind::Shard => "ssubscribe",
        }
    }

    fn unsubscribe(self) -> &'static str {
        match self {
            Kind::Channel => "unsubscribe",
            Kind::Pattern => "punsubscribe",
            Kind::Shard => "sunsubscribe",
        }
    }
}

type Name = (Kind, Box<[u8]>);

/// Something that somebody on this worker listens to.
#[derive(Debug, Default)]
struct Topic {
    /// Tells this topic from one of the same name before it: what confirms that one says nothing of this.
    number: u32,
    subscribers: Vec<SessionId>,
    /// The connections that it is subscribed on, and whether the node has confirmed it.
    at: Vec<(u32, bool)>,
    /// Who waits for the confirmation.
    waiting: Vec<Pending>,
}

/// A SUBSCRIBE that is not answered yet.
#[derive(Debug, Clone, Copy)]
struct Pending {
    session: SessionId,
    sequence: Sequence,
    /// How many subscriptions the session has with it.
    count: usize,
    since_ms: u64,
}

/// All topics of a worker.
#[derive(Debug, Default)]
pub(crate) struct Topics {
    by_name: HashMap<Name, Topic>,
    next_number: u32,
}

/// What one session listens to.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    names: BTreeSet<Name>,
    /// How many of `names` are of each kind.
    counts: [usize; 3],
}

impl Subscriptions {
    fn insert(&mut self, name: &Name) -> bool {
        let is_new = self.names.insert(name.clone());
        self.counts[name.0 as usize] += usize::from(is_new);
        is_new
    }

    fn remove(&mut self, name: &Name) {
        let was_there = self.names.remove(name);
        self.counts[name.0 as usize] -= usize::from(was_there);
    }

    /// As redis counts them in its replies: channels and patterns together, shard channels apart.
    fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Channel | Kind::Pattern => self.of(Kind::Channel) + self.of(Kind::Pattern),
            Kind::Shard => self.of(Kind::Shard),
        }
    }

    pub(crate) fn of(&self, kind: Kind) -> usize {
        self.counts[kind as usize]
    }
}

impl Core {
    #[cfg(test)]
    pub(super) fn topic_count(&self) -> usize {
        self.topics.by_name.len()
    }

    /// The commands about channels.
    pub(super) fn pubsub_command(&mut self, index: u32, command: &'static Command, args: Args<'_>) -> Flow {
        match command.name {
            "subscribe" => return self.subscribe(index, Kind::Channel, args),
            "psubscribe" => return self.subscribe(index, Kind::Pattern, args),
            "ssubscribe" => return self.subscribe(index, Kind::Shard, args),
            "unsubscribe" => self.unsubscribe(index, Kind::Channel, args),
            "punsubscribe" => self.unsubscribe(index, Kind::Pattern, args),
            "sunsubscribe" => self.unsubscribe(index, Kind::Shard, args),
            "publish" | "spublish" => return self.publish_message(index, args),
            "pubsub|channels" | "pubsub|shardchannels" => return self.forward_all(index, command, Merge::Concat, args),
            "pubsub|numsub" | "pubsub|shardnumsub" => return self.forward_all(index, command, Merge::SumPairs, args),
            "pubsub|numpat" => return self.forward_all(index, command, Merge::Max, args),
            other => unreachable!("{other} is none of these"),
        }
        Flow::Next
    }

    /// Whether a session of RESP2 that listens may give this command; if not, it is told so.
    pub(super) fn may_while_subscribed(&mut self, index: u32, command: &'static Command) -> bool {
        const ALLOWED: [&str; 9] =
            ["subscribe", "psubscribe", "ssubscribe", "unsubscribe", "punsubscribe", "sunsubscribe", "ping", "quit", "reset"];
        let allowed = ALLOWED.contains(&command.name);
        if !allowed {
            let name = command.name;
            self.refuse(
                index,
                format!(
                    "ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
                ),
            );
        }
        allowed
    }

    fn publish_message(&mut self, index: u32, args: Args<'_>) -> Flow {
        match vrc_cluster::route::owner(self.topology.place(&args[1]), &self.topology) {
            Ok(owner) => self.forward(index, Owner { guest: false, ..owner }, args),
            Err(refusal) => {
                self.refuse(index, refusal.to_string());
                Flow::Next
            }
        }
    }

    fn subscribe(&mut self, index: u32, kind: Kind, args: Args<'_>) -> Flow {
        // All or nothing: without an owner for each there is nothing to wait for.
        for name in args.iter().skip(1) {
            if let Err(refusal) = vrc_cluster::route::owner(self.topology.place(name), &self.topology) {
                self.refuse(index, refusal.to_string());
                return Flow::Next;
            }
        }
        let id = self.session_id(index);
        for name in args.iter().skip(1) {
            let name: Name = (kind, name.into());
            let own = self.sessions[index as usize].subscriptions.get_or_insert_default();
            let is_new = own.insert(&name);
            let count = own.count(kind);
            if !self.topics.by_name.contains_key(&name) {
                self.topics.next_number = self.topics.next_number.wrapping_add(1);
                let topic = Topic { number: self.topics.next_number, ..Topic::default() };
                self.topics.by_name.insert(name.clone(), topic);
                self.place_topic(&name);
            }
            let topic = self.topics.by_name.get_mut(&name).expect("just seen to");
            if is_new {
                topic.subscribers.push(id);
            }
            if topic.at.iter().all(|(_, confirmed)| *confirmed) {
                self.say_subscribed(index, &name, count);
            } else {
                let sequence = self.sessions[index as usize].push(Slot::Waiting);
                topic.waiting.push(Pending { session: id, sequence, count, since_ms: self.now_ms });
            }
        }
        Flow::Next
    }

    fn say_subscribed(&mut self, index: u32, name: &Name, count: usize) {
        let proto = self.sessions[index as usize].proto;
        self.answer_now(index, |out| confirmation(out, proto, name.0.subscribe(), Some(&name.1), count));
    }

    fn unsubscribe(&mut self, index: u32, kind: Kind, args: Args<'_>) {
        let names: Vec<Name> = if args.len() > 1 {
            args.iter().skip(1).map(|name| (kind, name.into())).collect()
        } else {
            let own = self.sessions[index as usize].subscriptions.iter();
            own.flat_map(|own| &own.names).filter(|(of, _)| *of == kind).cloned().collect()
        };
        let proto = self.sessions[index as usize].proto;
        if names.is_empty() {
            let count = self.sessions[index as usize].subscriptions.as_ref().map_or(0, |own| own.count(kind));
            self.answer_now(index, |out| confirmation(out, proto, kind.unsubscribe(), None, count));
        }
        for name in names {
            self.drop_subscription(index, &name);
            let count = self.sessions[index as usize].subscriptions.as_ref().map_or(0, |own| own.count(kind));
            self.answer_now(index, |out| confirmation(out, proto, kind.unsubscribe(), Some(&name.1), count));
        }
    }

    /// Ends all subscriptions of a session without a word to it.
    pub(super) fn drop_subscriptions(&mut self, index: u32) {
        let own = self.sessions[index as usize].subscriptions.as_ref();
        for name in own.map(|own| own.names.clone()).unwrap_or_default() {
            self.drop_subscription(index, &name);
        }
    }

    fn drop_subscription(&mut self, index: u32, name: &Name) {
        let id = self.session_id(index);
        if let Some(own) = &mut self.sessions[index as usize].subscriptions {
            own.remove(name);
            if own.names.is_empty() {
                self.sessions[index as usize].subscriptions = None;
            }
        }
        let Some(topic) = self.topics.by_name.get_mut(name) else { return };
        topic.subscribers.retain(|subscriber| *subscriber != id);
        self.drop_unheard(name);
    }

    /// Ends a topic that nobody listens to, nor is to be told that he does.
    fn drop_unheard(&mut self, name: &Name) {
        let is_unheard = |topic: &Topic| topic.subscribers.is_empty() && topic.waiting.is_empty();
        if !self.topics.by_name.get(name).is_some_and(is_unheard) {
            return;
        }
        let topic = self.topics.by_name.remove(name).expect("just looked at");
        for (backend, _) in topic.at {
            self.say_to_node(backend, name.0.unsubscribe(), &name.1, 0);
        }
    }

    // ---- Upstream ----

    /// Subscribes a topic where it belongs now, and nowhere else.
    fn place_topic(&mut self, name: &Name) {
        let nodes: Vec<_> = match name.0 {
            Kind::Pattern => self.up.clone(),
            Kind::Channel | Kind::Shard => {
                self.topology.owner(self.topology.place(&name.1)).ok().map(|owner| owner.node).into_iter().collect()
            }
        };
        let wanted: Vec<u32> = nodes.into_iter().map(|node| self.subscriber(node)).collect();
        let topic = self.topics.by_name.get_mut(name).expect("it is being placed");
        let number = topic.number;
        let (kept, gone): (Vec<_>, Vec<_>) = topic.at.drain(..).partition(|(backend, _)| wanted.contains(backend));
        let new: Vec<u32> = wanted.into_iter().filter(|backend| kept.iter().all(|(at, _)| at != backend)).collect();
        topic.at = kept;
        topic.at.extend(new.iter().map(|backend| (*backend, false)));
        for backend in new {
            self.say_to_node(backend, name.0.subscribe(), &name.1, number);
        }
        for (backend, _) in gone {
            if self.backends[backend as usize].hold == Some(Hold::Subscriber) {
                self.say_to_node(backend, name.0.unsubscribe(), &name.1, 0);
            }
        }
    }

    /// The connection to a node that carries its topics.
    fn subscriber(&mut self, node: u16) -> u32 {
        let name = &self.topology.nodes()[usize::from(node)].name;
        let found = self.backends.iter().position(|of| of.hold == Some(Hold::Subscriber) && of.node == *name);
        if let Some(found) = found {
            return found as u32;
        }
        let index = self.add_backend(node, Lane { proto: Proto::Resp2, db: 0 });
        self.private_count += 1;
        self.backends[index as usize].hold = Some(Hold::Subscriber);
        self.connect(index);
        index
    }

    fn say_to_node(&mut self, backend: u32, verb: &str, name: &[u8], number: u32) {
        let mut request = Vec::with_capacity(name.len() + 48);
        encode::request(&mut request, &[verb.as_bytes(), name]);
        let waiter = Waiter { sequence: number, ..Waiter::nobody(self.now_ms) };
        self.queue(backend, waiter, &request);
    }

    /// What a node said on its connection for topics; false if that makes no sense.
    pub(super) fn subscriber_input(&mut self, index: u32, reply: &[u8]) -> bool {
        if reply[0] == b'-' {
            let waiter = self.backends[index as usize].pop();
            waiter.into_iter().for_each(|waiter| self.refuse_topic(index, waiter.sequence, reply));
            return waiter.is_some();
        }
        let Some(elements) = array_elements(reply) else { return false };
        let parts: Vec<&[u8]> = elements.take(2).filter_map(bulk).collect();
        let &[verb, name] = parts.as_slice() else { return false };
        match verb {
            b"message" => self.spread(Kind::Channel, name, reply),
            b"pmessage" => self.spread(Kind::Pattern, name, reply),
            b"smessage" => self.spread(Kind::Shard, name, reply),
            _ => {
                let Some(waiter) = self.backends[index as usize].pop() else { return false };
                let kind = match verb {
                    b"subscribe" => Kind::Channel,
                    b"psubscribe" => Kind::Pattern,
                    b"ssubscribe" => Kind::Shard,
                    _ => return true,
                };
                self.confirm(index, &(kind, name.into()), waiter.sequence);
            }
        }
        true
    }

    fn confirm(&mut self, backend: u32, name: &Name, number: u32) {
        let Some(topic) = self.topics.by_name.get_mut(name).filter(|topic| topic.number == number) else { return };
        topic.at.iter_mut().filter(|(at, _)| *at == backend).for_each(|(_, confirmed)| *confirmed = true);
        self.answer_if_confirmed(name);
    }

    /// Answers those who wait for a topic, once every connection that carries it has confirmed it.
    fn answer_if_confirmed(&mut self, name: &Name) {
        let Some(topic) = self.topics.by_name.get_mut(name) else { return };
        if topic.at.is_empty() || !topic.at.iter().all(|(_, confirmed)| *confirmed) {
            return;
        }
        for pending in std::mem::take(&mut topic.waiting) {
            if self.is_open(pending.session) {
                let session = &mut self.sessions[pending.session.index as usize];
                let proto = session.proto;
                session
                    .answer(pending.sequence, |out| confirmation(out, proto, name.0.subscribe(), Some(&name.1), pending.count));
                self.mark_session(pending.session.index);
            }
        }
        self.drop_unheard(name);
    }

    /// A node refuses to subscribe a topic: nobody has it then, and those who wait for it get the node's error.
    fn refuse_topic(&mut self, backend: u32, number: u32, error: &[u8]) {
        let found = self.topics.by_name.iter().find(|(_, topic)| topic.number == number);
        let Some(name) = found.map(|(name, _)| name.clone()) else { return };
        let topic = self.topics.by_name.get_mut(&name).expect("just found");
        topic.at.retain(|(at, _)| *at != backend);
        let subscribers = topic.subscribers.clone();
        for pending in std::mem::take(&mut topic.waiting) {
            self.deliver(Waiter::new(pending.session, pending.sequence, pending.since_ms), error);
        }
        for subscriber in subscribers {
            self.drop_subscription(subscriber.index, &name);
        }
        self.drop_unheard(&name);
    }

    /// A message to everybody who listens.
    fn spread(&mut self, kind: Kind, name: &[u8], message: &[u8]) {
        let Some(topic) = self.topics.by_name.get(&(kind, name.into())) else { return };
        let subscribers = topic.subscribers.clone();
        for id in subscribers {
            if !self.is_open(id) {
                continue;
            }
            let session = &mut self.sessions[id.index as usize];
            let kind = if session.proto == Proto::Resp3 { b'>' } else { b'*' };
            session.answer_now(|out| {
                out.push(kind);
                out.extend_from_slice(&message[1..]);
            });
            let unread = session.unread_bytes();
            self.mark_session(id.index);
            if unread > SUBSCRIBER_OUTPUT_MAX_BYTES {
                tracing::warn!(
                    client = self.sessions[id.index as usize].id,
                    "client cut off: it does not read what it subscribed to"
                );
                self.counters.cut_off_total += 1;
                self.effects.push(Effect::Close { session: id });
            }
        }
    }

    /// A node's connection for topics was lost: it is opened again, and its topics subscribed again, as long as the node is up.
    pub(super) fn subscriber_lost(&mut self, index: u32, reason: &str) {
        let backend = &mut self.backends[index as usize];
        backend.incarnation = backend.incarnation.wrapping_add(1);
        backend.failures = backend.failures.saturating_add(1);
        backend.forget_all();
        backend.state = State::Idle;
        let node = backend.node.clone();
        self.effects.push(Effect::Suspect { node, reason: reason.to_owned() });
        let mut again: VecDeque<(Name, u32)> = VecDeque::new();
        for (name, topic) in &mut self.topics.by_name {
            for (at, confirmed) in &mut topic.at {
                if *at == index {
                    *confirmed = false;
                    again.push_back((name.clone(), topic.number));
                }
            }
        }
        if again.is_empty() {
            self.close_private(index);
            return;
        }
        self.connect(index);
        for (name, number) in again {
            self.say_to_node(index, name.0.subscribe(), &name.1, number);
        }
    }

    /// After a change of the map: topics move to where they belong now, and connections that carry none are closed.
    pub(super) fn move_topics(&mut self) {
        // Connections of nodes that are out go first, so that nothing is said to them.
        for index in 0..self.backends.len() as u32 {
            let backend = &self.backends[index as usize];
            if backend.hold != Some(Hold::Subscriber) {
                continue;
            }
            let stays = self.topology.index_of(&backend.node).is_some_and(|node| {
                let node = &self.topology.nodes()[usize::from(node)];
                node.up && node.endpoint == backend.endpoint
            });
            if !stays {
                self.topics.by_name.values_mut().for_each(|topic| topic.at.retain(|(at, _)| *at != index));
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
                let waiter = Waiter::new(pending.session, pending.sequence, self.now_ms);
                self.fail(waiter, "NODEDOWN the channel's node did not confirm the subscription in time");
                self.drop_subscription(pending.session.index, &name);
            }
            self.drop_unheard(&name);
        }
    }
}

/// The content of a bulk string.
fn bulk(element: &[u8]) -> Option<&[u8]> {
    let rest = element.strip_prefix(b"$")?;
    let line = rest.iter().position(|byte| *byte == b'\r')?;
    rest.get(line + 2..rest.len() - 2)
}

fn confirmation(out: &mut Vec<u8>, proto: Proto, verb: &str, name: Option<&[u8]>, count: usize) {
    encode::header(out, if proto == Proto::Resp3 { b'>' } else { b'*' }, 3);
    encode::bulk(out, verb.as_bytes());
    match name {
        Some(name) => encode::bulk(out, name),
        None => encode::null(out, proto),
    }
    encode::integer(out, count as i64);
}
