//! The commands of publish and subscribe. What is subscribed upstream for them, and where, is for `topics` to see to.

use std::collections::BTreeSet;

use vrc_cluster::{
    command::{Command, Merge, glob},
    resp::{Args, Proto, encode, parse_integer},
    route,
    topology::Owner,
};

use super::{
    Core, Flow,
    backend::State,
    replies::{Sequence, Slot},
    session::SessionId,
    topics::{Kind, Name, PING, Pending},
    waiter::Waiter,
};

/// What a client of RESP2 that listens may say.
pub(super) const ALLOWED_WHILE_SUBSCRIBED: [&str; 9] =
    ["subscribe", "psubscribe", "ssubscribe", "unsubscribe", "punsubscribe", "sunsubscribe", "ping", "quit", "reset"];

/// What one session listens to.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    names: BTreeSet<Name>,
    /// How many of `names` are of each kind.
    counts: [usize; Kind::COUNT],
}

impl Subscriptions {
    fn insert(&mut self, name: &Name) -> bool {
        let is_new = self.names.insert(name.clone());
        self.counts[name.0 as usize] += usize::from(is_new);
        is_new
    }

    fn remove(&mut self, name: &Name) -> bool {
        let was_there = self.names.remove(name);
        self.counts[name.0 as usize] -= usize::from(was_there);
        was_there
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

    /// Whether a message on this channel is for it.
    fn hears(&self, kind: Kind, channel: &[u8]) -> bool {
        let by_pattern = |(of, pattern): &Name| *of == Kind::Pattern && glob::matches(pattern, channel, false);
        self.names.contains(&(kind, channel.into())) || (kind == Kind::Channel && self.names.iter().any(by_pattern))
    }
}

/// A PUBLISH whose reply comes after the message to the publisher itself, which comes over another connection: once the node has
/// answered, that connection is asked something, and what it brings before its answer was published before.
#[derive(Debug)]
pub(super) struct Fence {
    pub(super) session: SessionId,
    sequence: Sequence,
    /// The node's connection for topics, if it is not lost.
    backend: Option<u32>,
    surplus: i64,
    /// The reply, once it came.
    reply: Vec<u8>,
}

impl Core {
    /// The commands about channels.
    pub(super) fn pubsub_command(&mut self, index: u32, command: &'static Command, args: Args<'_>) -> Flow {
        // What goes over other connections than a subscription before it must not overtake it.
        if self.sessions[index as usize].subscriptions.is_some()
            && (command.name.ends_with("publish") || command.name.starts_with("pubsub"))
            && let Some(flow) = self.after_all_before(index)
        {
            return flow;
        }
        match command.name {
            "subscribe" => return self.subscribe(index, Kind::Channel, args),
            "psubscribe" => return self.subscribe(index, Kind::Pattern, args),
            "ssubscribe" => return self.subscribe(index, Kind::Shard, args),
            "unsubscribe" => self.unsubscribe(index, Kind::Channel, args),
            "punsubscribe" => self.unsubscribe(index, Kind::Pattern, args),
            "sunsubscribe" => self.unsubscribe(index, Kind::Shard, args),
            "publish" => return self.publish_message(index, Kind::Channel, args),
            "spublish" => return self.publish_message(index, Kind::Shard, args),
            "pubsub|channels" | "pubsub|shardchannels" => return self.forward_all(index, command, Merge::Distinct, args),
            "pubsub|numsub" => return self.count_subscribers(index, Kind::Channel, args),
            "pubsub|shardnumsub" => return self.count_subscribers(index, Kind::Shard, args),
            // A pattern counts once it is heard wherever something may be published.
            "pubsub|numpat" => return self.forward_all(index, command, Merge::Min, args),
            other => unreachable!("{other} is none of these"),
        }
        Flow::Next
    }

    /// Whether a session of RESP2 that listens may give this command; if not, it is told so.
    pub(super) fn may_while_subscribed(&mut self, index: u32, command: &'static Command) -> bool {
        let allowed = ALLOWED_WHILE_SUBSCRIBED.contains(&command.name);
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

    // ---- Publishing ----

    fn publish_message(&mut self, index: u32, kind: Kind, args: Args<'_>) -> Flow {
        let owner = match route::owner(self.topology.place(&args[1]), &self.topology) {
            Ok(owner) => Owner { guest: false, ..owner },
            Err(refusal) => {
                self.refuse(index, refusal.to_string());
                return Flow::Next;
            }
        };
        let backend = self.backend_of(owner.node, self.sessions[index as usize].lane(false));
        let surplus = self.all_stats.subscriber_counts.surplus_of_message(kind, &args[1]);
        if let Some(listener) = self.own_listener(index, kind, &args[1], owner) {
            return self.publish_to_itself(index, backend, listener, surplus, args);
        }
        match surplus {
            0 => self.forward(index, owner, args),
            surplus => self.forward_to(index, &[(backend, 0)], args, |join| {
                join.start_all(Merge::Sum, 1);
                join.correct_by([surplus]);
            }),
        }
    }

    /// The connection over which a session that hears what it publishes will do so.
    fn own_listener(&self, index: u32, kind: Kind, channel: &[u8], owner: Owner) -> Option<u32> {
        let subscriptions = self.sessions[index as usize].subscriptions.as_ref()?;
        let listener = self.find_subscriber(owner.node)?;
        (self.backends[listener as usize].state == State::Up && subscriptions.hears(kind, channel)).then_some(listener)
    }

    fn publish_to_itself(&mut self, index: u32, backend: u32, listener: u32, surplus: i64, args: Args<'_>) -> Flow {
        if let Err(flow) = self.make_ready(index, backend) {
            return flow;
        }
        let session = self.session_id(index);
        let sequence = self.sessions[index as usize].replies.push(Slot::Publish);
        self.topics.fences.push(Fence { session, sequence, backend: Some(listener), surplus, reply: Vec::new() });
        self.queue(backend, self.waiter(index, sequence), args.bytes());
        // A reply that stood behind this one already would keep the message behind it.
        self.before_all_after(index)
    }

    /// The reply to a PUBLISH is there, but perhaps not yet the message to the publisher itself.
    pub(super) fn publish_answered(&mut self, waiter: Waiter, reply: &[u8]) {
        let Some(at) = self.fence_of(&waiter) else {
            debug_assert!(false, "every such command has one");
            return;
        };
        let fence = &mut self.topics.fences[at];
        fence.reply = corrected(reply, fence.surplus);
        match fence.backend.filter(|_| reply[0] == b':') {
            Some(listener) => self.queue(listener, waiter, PING),
            None => self.pass_fence(at),
        }
    }

    /// A connection for topics has answered a PING: what was published before that has come. False if it was not asked.
    pub(super) fn fence_passed(&mut self, backend: u32) -> bool {
        let Some(waiter) = self.backends[backend as usize].pop() else { return false };
        self.pass_fence_of(&waiter);
        true
    }

    /// Likewise, of what this waiter stands for.
    pub(super) fn pass_fence_of(&mut self, waiter: &Waiter) {
        if let Some(at) = self.fence_of(waiter) {
            self.pass_fence(at);
        }
    }

    /// The fence of the command that waits. The whole name of its session tells: the client that asked may be gone, and another have
    /// come in its place that has got as far.
    fn fence_of(&self, waiter: &Waiter) -> Option<usize> {
        let is_its = |fence: &Fence| fence.session == waiter.session_id() && fence.sequence == waiter.sequence;
        self.topics.fences.iter().position(is_its)
    }

    fn pass_fence(&mut self, at: usize) {
        if self.topics.fences[at].reply.is_empty() {
            debug_assert!(false, "nothing is asked before the reply is there");
            return;
        }
        let fence = self.topics.fences.remove(at);
        if self.is_open(fence.session) {
            self.sessions[fence.session.index as usize].expect_reply(fence.sequence);
            self.deliver(self.waiter(fence.session.index, fence.sequence), &fence.reply);
        }
    }

    /// A connection for topics is gone: nobody waits for what it would have brought.
    pub(super) fn drop_fences(&mut self, backend: u32) {
        let mut at = 0;
        while at < self.topics.fences.len() {
            let fence = &mut self.topics.fences[at];
            match fence.backend {
                Some(of) if of == backend && !fence.reply.is_empty() => {
                    self.pass_fence(at);
                    continue;
                }
                Some(of) if of == backend => fence.backend = None,
                _ => {}
            }
            at += 1;
        }
    }

    /// `PUBSUB NUMSUB channel …` and its kin.
    fn count_subscribers(&mut self, index: u32, kind: Kind, args: Args<'_>) -> Flow {
        let lane = self.sessions[index as usize].lane(false);
        let targets: Vec<_> = self.up.clone().into_iter().map(|node| (self.backend_of(node, lane), 0)).collect();
        let subscriber_counts = &self.all_stats.subscriber_counts;
        let surplus = |channel| subscriber_counts.surplus_of_channel(kind, channel, self.nodes_counting(kind, channel));
        let surpluses: Vec<_> = args.iter().skip(2).map(surplus).collect();
        self.forward_to(index, &targets, args, |join| {
            join.start_all(Merge::SumPairs, targets.len());
            join.correct_by(surpluses);
        })
    }

    // ---- Subscribing ----

    fn subscribe(&mut self, index: u32, kind: Kind, args: Args<'_>) -> Flow {
        // All or nothing: without an owner for each there is nothing to wait for.
        for name in args.iter().skip(1) {
            if let Err(refusal) = route::owner(self.topology.place(name), &self.topology) {
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
            self.make_topic(&name);
            let topic = self.topics.by_name.get_mut(&name).expect("just seen to");
            if is_new {
                topic.subscribers.push(id);
                self.all_stats.subscriber_counts.clients(kind, &name.1, 1);
            }
            if topic.is_confirmed() {
                self.say_subscribed(index, &name, count);
            } else {
                let sequence = self.sessions[index as usize].replies.push(Slot::Waiting);
                topic.waiting.push(Pending { session: id, sequence, count, is_new, since_ms: self.now_ms, early: Vec::new() });
            }
        }
        Flow::Next
    }

    fn say_subscribed(&mut self, index: u32, name: &Name, count: usize) {
        let proto = self.sessions[index as usize].proto;
        self.answer_now(index, |out| confirmation(out, proto, name.0.subscribe(), Some(&name.1), count));
    }

    /// Likewise to one that had to wait for it.
    pub(super) fn say_subscribed_later(&mut self, pending: Pending, name: &Name) {
        let session = &mut self.sessions[pending.session.index as usize];
        let proto = session.proto;
        session.answer(pending.sequence, |out| confirmation(out, proto, name.0.subscribe(), Some(&name.1), pending.count));
        self.mark_session(pending.session.index);
        if !pending.early.is_empty() {
            self.tell(pending.session, Some(pending.sequence), |out| out.extend_from_slice(&pending.early));
        }
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

    pub(super) fn drop_subscription(&mut self, index: u32, name: &Name) {
        let id = self.session_id(index);
        if let Some(own) = &mut self.sessions[index as usize].subscriptions {
            if own.remove(name) {
                self.all_stats.subscriber_counts.clients(name.0, &name.1, -1);
            }
            if own.names.is_empty() {
                self.sessions[index as usize].subscriptions = None;
            }
        }
        let Some(topic) = self.topics.by_name.get_mut(name) else { return };
        topic.subscribers.retain(|subscriber| *subscriber != id);
        self.drop_unheard(name);
    }
}

/// A reply to PUBLISH that counts all who share a subscription.
fn corrected(reply: &[u8], surplus: i64) -> Vec<u8> {
    let count = reply.strip_prefix(b":").and_then(|rest| rest.strip_suffix(b"\r\n")).and_then(parse_integer);
    match count {
        None | Some(0) => reply.to_vec(),
        Some(count) => {
            let mut out = Vec::with_capacity(24);
            encode::integer(&mut out, count.saturating_add(surplus).max(0));
            out
        }
    }
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
