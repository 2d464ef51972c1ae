//! How fast everything goes in a history: drawn once, at its beginning. What comes about at one pace only is found only if that is played,
//! so each is drawn from about a third to three times of what one would expect, and further where nothing depends on it.
//!
//! What must hold between them is what is told to operators, too: a network without faults answers a new connection within the recheck time
//! and a PING within the ping timeout, and a proxy confirms twice within its grace period.

use super::{PROXY_GRACE_MS, RECHECK_MS, Random, proxy::BEHIND_MAX_MS};

/// What a message takes at most.
const LATENCY_MAX_MS: u64 = 110;
const READ_EVERY_MS: std::ops::RangeInclusive<u64> = 250..=600;
const _: () = assert!(2 * LATENCY_MAX_MS < RECHECK_MS);
const _: () = assert!(2 * (*READ_EVERY_MS.end() + *READ_EVERY_MS.end() / 8) < PROXY_GRACE_MS);
const _: () =
    assert!(BEHIND_MAX_MS < *READ_EVERY_MS.start() * 7 / 8, "or the next read would make up for a gap that nobody noticed");

/// All in milliseconds, but for those that are a chance of one in so many.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paces {
    /// What most messages take at most.
    pub(super) latency_ms: u64,
    /// One in so many takes longer,
    pub(super) tail_one_in: u64,
    /// and up to this.
    pub(super) tail_ms: u64,
    /// How much later than it wanted to be woken a coordinator may be, however well it is.
    pub(super) tick_late_ms: u64,
    /// Between two announcements of an agent: this, and up to a third more.
    pub(super) announce_ms: u64,
    /// A proxy reads the map and confirms so often although nothing was said, give or take an eighth.
    pub(super) read_every_ms: u64,
    /// How long a proxy waits for a node's answer: not long; or, in some worlds, for longer than a purge takes to begin.
    pub(super) patience_ms: u64,
    /// Clients ask again within this.
    pub(super) clients_ms: u64,
    /// How long homes are left alone before nodes are told to purge.
    pub(super) purge_after_ms: u64,
    /// Between two keys of a purge, at most.
    pub(super) purge_ms: u64,
    /// One flush in so many has much to remove,
    pub(super) flush_one_in: u64,
    /// and holds its node up for so long at most.
    pub(super) flush_ms: u64,
    /// Between two faults, at most.
    pub(super) fault_every_ms: u64,
    /// How long one lasts, at most: from less than anybody waits to longer than anybody does.
    pub(super) fault_lasts_ms: u64,
}

impl Paces {
    /// Proxies wait for longer than a purge takes to begin.
    pub(super) fn is_patient(&self) -> bool {
        self.patience_ms > 500
    }

    /// Every message takes a millisecond, and nothing is left to chance.
    pub(super) const EVEN: Paces = Paces {
        latency_ms: 1,
        tail_one_in: u64::MAX,
        tail_ms: 1,
        tick_late_ms: 0,
        announce_ms: 300,
        read_every_ms: 400,
        patience_ms: 300,
        clients_ms: 40,
        purge_after_ms: 400,
        purge_ms: 40,
        flush_one_in: u64::MAX,
        flush_ms: 1,
        fault_every_ms: 600,
        fault_lasts_ms: 2_500,
    };

    pub(super) fn drawn(random: &mut Random) -> Self {
        Paces {
            latency_ms: random.between(1, 9),
            tail_one_in: random.between(5, 60),
            tail_ms: random.between(10, LATENCY_MAX_MS),
            tick_late_ms: random.between(0, 30),
            announce_ms: random.between(100, 700),
            read_every_ms: random.between(*READ_EVERY_MS.start(), *READ_EVERY_MS.end()),
            patience_ms: if random.below(2) == 0 { random.between(100, 500) } else { random.between(900, 1_400) },
            clients_ms: random.between(20, 60),
            purge_after_ms: random.between(50, 1_200),
            purge_ms: 5 << random.below(8),
            flush_one_in: random.between(1, 12),
            flush_ms: random.between(20, 600),
            fault_every_ms: random.between(200, 1_200),
            fault_lasts_ms: random.between(300, 5_000),
        }
    }
}
