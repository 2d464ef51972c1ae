//! What a worker counts, and how others read it.
//!
//! A worker counts in plain integers of its own and copies them out at each tick, so that counting costs the hot path nothing and a
//! reader is at most a tick behind.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::{
    latency::{AllHistograms, Histograms},
    monitors::Monitors,
    subscriber_counts::SubscriberCounts,
};

/// Whether a number only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Counts since the start.
    Counter,
    /// Stands for what is now.
    Gauge,
}

macro_rules! counters {
    ($(#[doc = $doc:literal] $kind:ident $name:ident),* $(,)?) => {
        /// A worker's own counters.
        #[derive(Debug, Default, Clone, Copy)]
        pub(crate) struct Counters {
            $(#[doc = $doc] pub(crate) $name: u64,)*
        }

        /// A worker's counters as others read them.
        #[derive(Debug, Default)]
        pub(crate) struct Stats {
            $($name: AtomicU64,)*
            /// How long its commands take.
            pub(crate) histograms: Histograms,
        }

        impl Stats {
            /// Makes the worker's counters readable; only the worker itself calls this.
            pub(crate) fn publish(&self, counters: &Counters) {
                $(self.$name.store(counters.$name, Relaxed);)*
            }

            /// Adds this worker's counters to a sum.
            pub(crate) fn add_to(&self, sum: &mut Counters) {
                $(sum.$name += self.$name.load(Relaxed);)*
            }
        }

        impl Counters {
            /// What was counted since these; what stands for now stays.
            fn since(mut self, before: &Counters) -> Counters {
                $(if Kind::$kind == Kind::Counter {
                    self.$name = self.$name.saturating_sub(before.$name);
                })*
                self
            }

            /// Every counter, with what it counts.
            pub(crate) fn each(&self) -> impl Iterator<Item = Reading> {
                [$(Reading { name: stringify!($name), help: $doc, kind: Kind::$kind, value: self.$name }),*].into_iter()
            }
        }
    };
}

/// One of a worker's counters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) kind: Kind,
    pub(crate) value: u64,
}

counters! {
    #[doc = "Client connections now."]
    Gauge clients,
    #[doc = "Client connections since the start."]
    Counter connections_total,
    #[doc = "Commands taken from clients."]
    Counter commands_total,
    #[doc = "Requests sent to nodes; each part of a split command is one."]
    Counter forwarded_total,
    #[doc = "Commands that were sent to several nodes."]
    Counter split_total,
    #[doc = "Error replies of the proxy itself."]
    Counter errors_total,
    #[doc = "Clients that sent something that is not RESP."]
    Counter protocol_errors,
    #[doc = "Requests given to another node because the map changed before they were sent."]
    Counter rerouted_total,
    #[doc = "Times that a client had to wait for room."]
    Counter pauses_total,
    #[doc = "Clients that wait for room now."]
    Gauge paused,
    #[doc = "Clients that wait for data (BLPOP and its kin) now."]
    Gauge blocked,
    #[doc = "Clients that are told of changes to what they have read."]
    Gauge tracking_clients,
    #[doc = "Keys whose readers are remembered."]
    Gauge tracking_keys,
    #[doc = "Readers of those keys."]
    Gauge tracking_items,
    #[doc = "Prefixes of keys that clients are told of."]
    Gauge tracking_prefixes,
    #[doc = "Clients cut off because they left too much unread."]
    Counter cut_off_total,
    #[doc = "Commands that took at least slowlog-log-slower-than."]
    Counter slow_total,
    #[doc = "Node connections that stand now."]
    Gauge backends_up,
    #[doc = "Bytes read from clients."]
    Counter bytes_in,
    #[doc = "Bytes written to clients."]
    Counter bytes_out,
}

/// All workers' counters.
#[derive(Debug)]
pub(crate) struct AllStats {
    workers: Vec<std::sync::Arc<Stats>>,
    pub(crate) subscriber_counts: SubscriberCounts,
    pub(crate) monitors: Monitors,
    /// What CONFIG RESETSTAT found.
    at_reset: Mutex<(Counters, AllHistograms)>,
}

impl AllStats {
    pub(crate) fn new(workers: usize) -> Self {
        AllStats {
            workers: (0..workers).map(|_| Default::default()).collect(),
            subscriber_counts: SubscriberCounts::default(),
            monitors: Monitors::new(workers),
            at_reset: Mutex::default(),
        }
    }

    pub(crate) fn of(&self, worker: usize) -> std::sync::Arc<Stats> {
        self.workers[worker].clone()
    }

    /// Every worker's counters, in order.
    pub(crate) fn of_each(&self) -> Vec<Counters> {
        let counters = |stats: &std::sync::Arc<Stats>| {
            let mut counters = Counters::default();
            stats.add_to(&mut counters);
            counters
        };
        self.workers.iter().map(counters).collect()
    }

    pub(crate) fn sum(&self) -> Counters {
        let mut sum = Counters::default();
        self.workers.iter().for_each(|stats| stats.add_to(&mut sum));
        sum
    }

    /// How long commands took, over all workers and since the start.
    pub(crate) fn all_histograms(&self) -> AllHistograms {
        AllHistograms::sum(self.workers.iter().map(|stats| &stats.histograms))
    }

    /// Has INFO and LATENCY HISTOGRAM count from now on.
    pub(crate) fn reset(&self) {
        *self.lock_reset() = (self.sum(), self.all_histograms());
    }

    /// What was counted since [`AllStats::reset`].
    pub(crate) fn since_reset(&self) -> Counters {
        self.sum().since(&self.lock_reset().0)
    }

    /// How long commands took since [`AllStats::reset`].
    pub(crate) fn histograms(&self) -> AllHistograms {
        self.all_histograms().since(&self.lock_reset().1)
    }

    fn lock_reset(&self) -> MutexGuard<'_, (Counters, AllHistograms)> {
        self.at_reset.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
