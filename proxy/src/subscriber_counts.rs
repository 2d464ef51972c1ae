//! How many of the proxy's clients listen to what, all workers together.
//!
//! A node sees one subscription for each worker and channel, whoever shares it. What it counts as receivers is corrected by this, so
//! that PUBLISH and PUBSUB NUMSUB count clients. It is written when somebody subscribes and read when somebody publishes while
//! anybody listens.

use std::{
    collections::HashMap,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use vrc_cluster::command::glob;

use crate::core::TopicKind;

/// What the listeners of one channel or pattern are.
#[derive(Debug, Default, Clone, Copy)]
struct Heard {
    clients: i64,
    /// Workers that have it subscribed upstream.
    workers: i64,
}

type Names = HashMap<Box<[u8]>, Heard>;

/// Who listens, by kind and name.
#[derive(Debug, Default)]
pub(crate) struct SubscriberCounts {
    names: RwLock<[Names; TopicKind::COUNT]>,
    /// How many names there are: without any, nobody has to ask further.
    count: AtomicUsize,
}

impl SubscriberCounts {
    /// `more` clients listen, or fewer.
    pub(crate) fn clients(&self, kind: TopicKind, name: &[u8], more: i64) {
        self.change(kind, name, |heard| heard.clients += more);
    }

    /// `more` workers have it subscribed upstream, or fewer.
    pub(crate) fn workers(&self, kind: TopicKind, name: &[u8], more: i64) {
        self.change(kind, name, |heard| heard.workers += more);
    }

    fn change(&self, kind: TopicKind, name: &[u8], change: impl FnOnce(&mut Heard)) {
        // What is counted is whole after each change, whatever became of its thread.
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        let of_kind = &mut names[kind as usize];
        let heard = match of_kind.get_mut(name) {
            Some(heard) => heard,
            None => of_kind.entry(name.into()).or_default(),
        };
        change(heard);
        if heard.clients == 0 && heard.workers == 0 {
            of_kind.remove(name);
        }
        self.count.store(names.iter().map(Names::len).sum(), Relaxed);
    }

    /// How many more receive a message to this channel than its node counts, patterns included.
    pub(crate) fn surplus_of_message(&self, kind: TopicKind, channel: &[u8]) -> i64 {
        if self.count.load(Relaxed) == 0 {
            return 0;
        }
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        let direct = names[kind as usize].get(channel).map_or(0, |heard| heard.clients - heard.workers);
        let patterns = &names[TopicKind::Pattern as usize];
        match kind {
            TopicKind::Channel if !patterns.is_empty() => {
                let matching = patterns.iter().filter(|(pattern, _)| glob::matches(pattern, channel, false));
                direct + matching.map(|(_, heard)| heard.clients - heard.workers).sum::<i64>()
            }
            _ => direct,
        }
    }

    /// How many more listen to a channel than its nodes count, each worker `nodes` times.
    pub(crate) fn surplus_of_channel(&self, kind: TopicKind, channel: &[u8], nodes: usize) -> i64 {
        if self.count.load(Relaxed) == 0 {
            return 0;
        }
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names[kind as usize].get(channel).map_or(0, |heard| heard.clients - heard.workers * nodes as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_clients_for_workers() {
        let subscriber_counts = SubscriberCounts::default();
        assert_eq!(subscriber_counts.surplus_of_message(TopicKind::Channel, b"news"), 0);
        subscriber_counts.workers(TopicKind::Channel, b"news", 2);
        subscriber_counts.clients(TopicKind::Channel, b"news", 5);
        subscriber_counts.workers(TopicKind::Pattern, b"n*", 1);
        subscriber_counts.clients(TopicKind::Pattern, b"n*", 4);
        assert_eq!(subscriber_counts.surplus_of_message(TopicKind::Channel, b"news"), 6);
        assert_eq!(subscriber_counts.surplus_of_message(TopicKind::Channel, b"none"), 3);
        assert_eq!(subscriber_counts.surplus_of_message(TopicKind::Shard, b"news"), 0);
        assert_eq!(subscriber_counts.surplus_of_channel(TopicKind::Channel, b"news", 1), 3);
        assert_eq!(subscriber_counts.surplus_of_channel(TopicKind::Channel, b"news", 2), 1);
        subscriber_counts.workers(TopicKind::Pattern, b"n*", -1);
        subscriber_counts.clients(TopicKind::Pattern, b"n*", -4);
        assert_eq!(
            subscriber_counts.names.read().unwrap()[TopicKind::Pattern as usize].len(),
            0,
            "nothing is kept of what nobody hears"
        );
    }
}
