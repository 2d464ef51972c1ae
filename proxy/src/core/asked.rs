//! What nodes are asked about topics (see `topics`), until they have done it.
//!
//! A node that runs a script for too long refuses to subscribe and to unsubscribe: BUSY. Whoever waits for a subscription is told so.
//! But who was told that he listens is to hear what comes, and what nobody listens to any more is not to be sent for ever: both are asked
//! for again, in growing pauses, until it is done or the connection, and with it all that it carried, is gone.

use std::{collections::HashMap, sync::Arc};

use vrc_cluster::{command::CommandId, resp::encode};

use crate::limits::{RECONNECT_MS_MAX, RECONNECT_MS_MIN};

use super::{
    Core, events,
    private::Hold,
    topics::{Name, Place},
    waiter::Waiter,
};

/// Something that a node was asked about a topic.
#[derive(Debug)]
pub(super) struct Asked {
    place: Place,
    name: Arc<Name>,
    wish: Wish,
    /// How often it was refused.
    refusals: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// To subscribe it, for the topic of this number.
    Subscribe(u32),
    /// To end it, since it is heard elsewhere.
    Leave,
    /// To end it, since nobody listens: its name is shared with the others that are to, and counts until the last of them has.
    End,
}

/// What is to be asked for again: what that is depends on what is wanted then.
#[derive(Debug)]
struct Again {
    at_ms: u64,
    refusals: u32,
    /// The topic that the node counts as long as it has not ended it.
    ending: Option<Arc<Name>>,
}

/// All that nodes were asked about a worker's topics and have not done.
#[derive(Debug, Default)]
pub(super) struct AskedOfNodes {
    /// By the number that the request's waiter has.
    under_way: HashMap<u32, Asked>,
    /// The last of these numbers. What is no such request has none: 0.
    last: u32,
    refused: HashMap<(Place, Name), Again>,
}

impl AskedOfNodes {
    fn add(&mut self, asked: Asked) -> u32 {
        self.last = self.last.wrapping_add(1).max(1);
        self.under_way.insert(self.last, asked);
        self.last
    }

    /// What the node is answering, unless that is a PING.
    fn take(&mut self, waiter: &Waiter) -> Option<Asked> {
        if waiter.is_nobody() { self.under_way.remove(&waiter.sequence) } else { None }
    }

    /// Forgets all about a connection, and returns what counted as not ended there.
    fn take_ending(&mut self, backend: u32) -> Vec<Arc<Name>> {
        let under_way = self.under_way.extract_if(|_, asked| asked.place.backend == backend);
        let mut ending: Vec<_> = under_way.filter(|(_, asked)| asked.wish == Wish::End).map(|(_, asked)| asked.name).collect();
        let refused = self.refused.extract_if(|(place, _), _| place.backend == backend);
        ending.extend(refused.filter_map(|(_, again)| again.ending));
        ending
    }
}

impl Core {
    /// Asks a node something about a topic, behind all that it was asked before.
    pub(super) fn ask_node(&mut self, place: Place, name: Arc<Name>, wish: Wish) {
        self.ask_node_again(place, name, wish, 0);
    }

    fn ask_node_again(&mut self, place: Place, name: Arc<Name>, wish: Wish, refusals: u32) {
        if self.backends[place.backend as usize].hold != Some(Hold::Subscriber) {
            // The connection is not there any more, nor what it carried.
            if wish == Wish::End {
                self.ended_at_a_node(name);
            }
            return;
        }
        let of_guest = if place.guest { events::of_guest(&name.1) } else { None };
        let channel = of_guest.as_deref().unwrap_or(&name.1);
        let verb = match wish {
            Wish::Subscribe(_) => name.0.subscribe(),
            Wish::Leave | Wish::End => name.0.unsubscribe(),
        };
        let mut request = Vec::with_capacity(channel.len() + 48);
        encode::request(&mut request, &[verb.as_bytes(), channel]);
        let number = self.topics.asked.add(Asked { place, name, wish, refusals });
        self.queue(place.backend, Waiter { sequence: number, ..Waiter::nobody(self.now_us) }, &request);
    }

    /// A node has done what it was asked first; false if that was something else.
    pub(super) fn done_by_node(&mut self, waiter: Waiter) -> bool {
        let Some(asked) = self.topics.asked.take(&waiter) else { return false };
        match asked.wish {
            Wish::Subscribe(number) => self.confirm(asked.place, &asked.name, number),
            Wish::Leave => {}
            Wish::End => self.ended_at_a_node(asked.name),
        }
        true
    }

    /// A node refuses what it was asked first.
    pub(super) fn refused_by_node(&mut self, waiter: Waiter, error: &[u8]) {
        let Some(asked) = self.topics.asked.take(&waiter) else {
            // A PING: whatever was published before has come all the same.
            self.pass_fence_of(&waiter);
            return;
        };
        match asked.wish {
            Wish::Subscribe(number) => self.subscription_refused(asked, number, error),
            Wish::Leave | Wish::End => self.note_refused(asked),
        }
    }

    /// Those who wait for the subscription get the node's error. It is tried again if there are others who were told that they listen.
    fn subscription_refused(&mut self, asked: Asked, number: u32, error: &[u8]) {
        let Some(topic) = self.topics.by_name.get_mut(&*asked.name).filter(|topic| topic.number == number) else { return };
        // It is not heard from there, so that there is nothing to leave, nor to be ended should nobody be left.
        topic.leaving.retain(|place| *place != asked.place);
        if topic.at.extract_if(.., |(place, _)| *place == asked.place).count() == 0 {
            return;
        }
        for pending in std::mem::take(&mut topic.waiting) {
            self.deliver(Waiter::new(pending.session, pending.sequence, CommandId::NONE, pending.since_ms * 1000), error);
            if pending.is_new && self.is_open(pending.session) {
                self.drop_subscription(pending.session.index, &asked.name);
            }
        }
        self.drop_unheard(&asked.name);
        if let Some(topic) = self.topics.by_name.get_mut(&*asked.name) {
            topic.at.push((asked.place, false));
            self.note_refused(asked);
        }
    }

    fn note_refused(&mut self, asked: Asked) {
        let pause_ms = (RECONNECT_MS_MIN << asked.refusals.min(10)).min(RECONNECT_MS_MAX);
        let at_ms = self.now_ms + pause_ms;
        let again = self.topics.asked.refused.entry((asked.place, (*asked.name).clone()));
        let again = again.or_insert(Again { at_ms, refusals: 0, ending: None });
        again.refusals = again.refusals.max(asked.refusals + 1);
        // A node counts it once, however often it refuses to end it.
        let surplus = if asked.wish == Wish::End { again.ending.replace(asked.name) } else { None };
        surplus.into_iter().for_each(|ending| self.ended_at_a_node(ending));
    }

    /// Asks nodes again that have refused something, as far as it is still wanted. To be called at every tick.
    pub(super) fn ask_again(&mut self) {
        let now_ms = self.now_ms;
        let due: Vec<_> = self.topics.asked.refused.extract_if(|_, again| again.at_ms <= now_ms).collect();
        for ((place, name), again) in due {
            match (self.wish_now(place, &name), again.ending) {
                (Some(Wish::Leave), Some(ending)) => self.ask_node_again(place, ending, Wish::End, again.refusals),
                (wish, ending) => {
                    // If it is wanted again, that counts by itself.
                    ending.into_iter().for_each(|ending| self.ended_at_a_node(ending));
                    if let Some(wish) = wish {
                        self.ask_node_again(place, Arc::new(name), wish, again.refusals);
                    }
                }
            }
        }
    }

    /// What a node is to do about a topic that it has refused something about, if anything.
    fn wish_now(&self, place: Place, name: &Name) -> Option<Wish> {
        let Some(topic) = self.topics.by_name.get(name) else { return Some(Wish::Leave) };
        match topic.at.iter().find(|(at, _)| *at == place) {
            Some((_, true)) => None,
            Some((_, false)) => Some(Wish::Subscribe(topic.number)),
            // It will be left in its time.
            None if topic.leaving.contains(&place) => None,
            None => Some(Wish::Leave),
        }
    }

    /// One fewer counts the topic.
    pub(super) fn ended_at_a_node(&self, ending: Arc<Name>) {
        if let Some((kind, name)) = Arc::into_inner(ending) {
            self.all_stats.subscriber_counts.workers(kind, &name, -1);
        }
    }

    /// A connection is gone, and all that it carried.
    pub(super) fn all_ended_upstream(&mut self, backend: u32) {
        for ending in self.topics.asked.take_ending(backend) {
            self.ended_at_a_node(ending);
        }
        self.drop_fences(backend);
    }
}
