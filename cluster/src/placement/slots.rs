//! The `slots` placement: 16,384 slots as in Redis Cluster, each given to one node by stratified rendezvous hashing.
//!
//! Rendezvous hashing (Thaler and Ravishankar, 1998) lets every node bid for every slot, and the best bid wins: when a node comes or
//! goes, only slots to or from it move, and no state is needed but the set of names. Weights enter as in Schindelhauer and
//! Schomaker's logarithmic method (2005): a bid is the time at which an exponential clock of rate `weight` rings, the first wins.
//!
//! With a bid drawn by chance for each pair of node and slot, the fullest of 100 nodes gets a quarter more than its share. So the
//! bids are stratified: each node orders the slots by a permutation that its name decides, and bids for the slot at rank r what the
//! r-th of 16,384 exponential draws comes to on average, E(r) = sum of 1/(16384 - j) for j from 0 to r. Every node then makes
//! exactly the same bids, only for other slots, which halves the variance. (It is Maglev's table (Eisenbud and others, 2016)
//! without the skipping of slots that are taken, which is what makes Maglev move others' slots.)
//!
//! Only additions and divisions are made with the floating-point numbers, so every machine comes to the same result.

use std::{fmt, sync::LazyLock};

use super::crc16::crc16;

/// Number of slots, as in Redis Cluster.
pub const SLOTS: usize = 16_384;

/// The slot of a key: CRC16 of its hash tag, or else of the whole key, modulo [`SLOTS`].
#[inline]
pub fn slot_of(key: &[u8]) -> u16 {
    crc16(hash_tag(key)) & (SLOTS as u16 - 1)
}

/// What is hashed of a key: what stands between the first `{` and the first `}` behind it if that is not empty, else all of it.
#[inline]
pub fn hash_tag(key: &[u8]) -> &[u8] {
    if has_brace(key) { braced(key) } else { key }
}

/// Whether there is a `{`: eight bytes at a time, since most keys are short and have none, and a call to a vectorised search would
/// take longer than the search.
#[inline(always)]
fn has_brace(key: &[u8]) -> bool {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGHS: u64 = u64::from_ne_bytes([0x80; 8]);
    const BRACES: u64 = u64::from_ne_bytes([b'{'; 8]);
    let is_in = |block: &[u8; 8]| {
        // A byte that is the brace's becomes 0, and only then does subtracting 1 borrow into its highest bit.
        let difference = u64::from_ne_bytes(*block) ^ BRACES;
        difference.wrapping_sub(ONES) & !difference & HIGHS != 0
    };
    match key.last_chunk() {
        // What is behind the last whole block is looked at together with some of that.
        Some(last) => is_in(last) || key.as_chunks().0.iter().any(is_in),
        None => key.contains(&b'{'),
    }
}

fn braced(key: &[u8]) -> &[u8] {
    let Some(open) = memchr::memchr(b'{', key) else { return key };
    let rest = &key[open + 1..];
    match memchr::memchr(b'}', rest) {
        None | Some(0) => key,
        Some(close) => &rest[..close],
    }
}

/// One node that bids.
#[derive(Debug, Clone, Copy)]
pub struct Bidder<'a> {
    /// Decides its permutation.
    pub name: &'a str,
    /// Rate of its clock; more than 0.
    pub weight: f64,
}

/// How far bids are heard at first, as the cost of one bidder with the weight of all: a slot whose best bid is above that is one in
/// 16 million, and everybody is heard again for it.
const HEARD: f64 = 16.6;

/// What all nodes bid for every slot, as far as it may ever matter. It depends on no node's state: who holds a slot while some are
/// down is read off it in a small part of the time that hearing all of them takes.
///
/// Bidders are told by their index in the list that they were heard in. For each slot about 17 of them are remembered, in 4 bytes each:
/// 1.1 MB at most.
pub struct Bids {
    /// The bids for one slot after another's, in no order within a slot.
    heard: Box<[Bid]>,
    /// Where the bids for each slot begin, and where the last ones end.
    starts: Box<[u32; SLOTS + 1]>,
    homes: Box<[u16]>,
}

/// What a bid comes to is its rank's cost by its bidder's weight.
#[derive(Debug, Clone, Copy, Default)]
struct Bid {
    rank: u16,
    bidder: u16,
}

impl Bids {
    /// Hears at most 65,534 bidders, each with a name of its own.
    pub fn hear(bidders: &[Bidder<'_>]) -> Bids {
        Bids::hear_up_to(bidders, HEARD)
    }

    /// Who wins does not depend on how far is heard at first, only the time that it takes.
    fn hear_up_to(bidders: &[Bidder<'_>], heard: f64) -> Bids {
        debug_assert!(bidders.len() < usize::from(u16::MAX));
        let limit = heard / bidders.iter().map(|bidder| bidder.weight).sum::<f64>();
        let mut bids = Vec::new();
        let mut starts = Box::new([0; SLOTS + 1]);
        let mut shuffle = Shuffle::new();
        for (index, bidder) in bidders.iter().enumerate() {
            shuffle.begin(bidder.name);
            for (rank, _) in COSTS.iter().enumerate().take_while(|(_, cost)| *cost / bidder.weight <= limit) {
                let slot = shuffle.next_slot();
                starts[usize::from(slot) + 1] += 1;
                bids.push((slot, Bid { rank: rank as u16, bidder: index as u16 }));
            }
        }
        for slot in 0..SLOTS {
            starts[slot + 1] += starts[slot];
        }
        let mut next = starts.clone();
        let mut heard = vec![Bid::default(); bids.len()].into_boxed_slice();
        for (slot, bid) in bids {
            let place = &mut next[usize::from(slot)];
            heard[*place as usize] = bid;
            *place += 1;
        }
        let mut all = Bids { heard, starts, homes: Box::default() };
        all.homes = all.winners(bidders, |_| true);
        all
    }

    /// The winner of each slot among all bidders; empty if there are none.
    pub fn homes(&self) -> &[u16] {
        &self.homes
    }

    /// The winner of each slot among the bidders that are up, by their index; empty if none is. The bidders are those that were heard.
    pub fn holders(&self, bidders: &[Bidder<'_>], is_up: impl Fn(u16) -> bool) -> Box<[u16]> {
        if self.homes.iter().all(|home| is_up(*home)) { self.homes.clone() } else { self.winners(bidders, is_up) }
    }

    fn winners(&self, bidders: &[Bidder<'_>], takes_part: impl Fn(u16) -> bool) -> Box<[u16]> {
        if !(0..bidders.len() as u16).any(&takes_part) {
            return Box::default();
        }
        let bid = |bid: &Bid| Offer::new(usize::from(bid.rank), bid.bidder, bidders);
        let mut open = Vec::new();
        let best = |slot: usize| match self.homes.get(slot) {
            Some(home) if takes_part(*home) => Some(*home),
            _ => {
                let heard = &self.heard[self.starts[slot] as usize..self.starts[slot + 1] as usize];
                let offers = heard.iter().filter(|bid| takes_part(bid.bidder)).map(bid);
                offers.reduce(|best, offer| best.or_better(offer, slot, bidders)).map(|best| best.bidder)
            }
        };
        let mut winners: Box<[u16]> = (0..SLOTS)
            .map(|slot| {
                best(slot).unwrap_or_else(|| {
                    open.push(slot);
                    u16::MAX
                })
            })
            .collect();
        if !open.is_empty() {
            hear_again(&mut winners, &open, bidders, takes_part);
        }
        winners
    }
}

impl fmt::Debug for Bids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bids").field("heard", &self.heard.len()).finish_non_exhaustive()
    }
}

/// Hears everybody as far as it matters, for the slots that nobody who takes part has bid for below the limit.
#[cold]
fn hear_again(winners: &mut [u16], open: &[usize], bidders: &[Bidder<'_>], takes_part: impl Fn(u16) -> bool) {
    let mut best: Vec<Option<Offer>> = vec![None; SLOTS];
    let mut is_open = vec![false; SLOTS];
    open.iter().for_each(|slot| is_open[*slot] = true);
    let mut shuffle = Shuffle::new();
    for (index, bidder) in bidders.iter().enumerate().filter(|(index, _)| takes_part(*index as u16)) {
        // Beyond this a bidder wins nothing, and it falls fast with each that was heard.
        let worst_lead = open.iter().map(|slot| best[*slot].map_or(f64::INFINITY, |best| best.bid)).fold(0.0, f64::max);
        shuffle.begin(bidder.name);
        for rank in 0..SLOTS {
            let offer = Offer::new(rank, index as u16, bidders);
            if offer.bid > worst_lead {
                break;
            }
            let slot = usize::from(shuffle.next_slot());
            if is_open[slot] {
                best[slot] = Some(best[slot].map_or(offer, |best| best.or_better(offer, slot, bidders)));
            }
        }
    }
    for slot in open {
        if let Some(best) = best[*slot] {
            winners[*slot] = best.bidder;
        }
    }
}

/// A bid for one slot.
#[derive(Clone, Copy)]
struct Offer {
    bid: f64,
    bidder: u16,
}

impl Offer {
    fn new(rank: usize, bidder: u16, bidders: &[Bidder<'_>]) -> Offer {
        Offer { bid: COSTS[rank] / bidders[usize::from(bidder)].weight, bidder }
    }

    fn or_better(self, other: Offer, slot: usize, bidders: &[Bidder<'_>]) -> Offer {
        let name = |offer: Offer| bidders[usize::from(offer.bidder)].name;
        if other.bid < self.bid || (other.bid == self.bid && wins_tie(slot, name(other), name(self))) { other } else { self }
    }
}

/// E(r) for every rank r.
static COSTS: LazyLock<Box<[f64]>> = LazyLock::new(|| {
    let mut sum = 0.0;
    (0..SLOTS)
        .map(|rank| {
            sum += 1.0 / (SLOTS - rank) as f64;
            sum
        })
        .collect()
});

/// A node's order of the slots, as far as it is asked for: a Fisher-Yates shuffle, one step for each.
struct Shuffle {
    order: Box<[u16]>,
    /// With what each step so far has swapped.
    swaps: Vec<usize>,
    random: SplitMix,
}

impl Shuffle {
    fn new() -> Self {
        Shuffle { order: (0..SLOTS as u16).collect(), swaps: Vec::new(), random: SplitMix(0) }
    }

    /// Everybody's starts from the same order.
    fn begin(&mut self, name: &str) {
        for (rank, swap) in self.swaps.drain(..).enumerate().rev() {
            self.order.swap(rank, swap);
        }
        self.random = SplitMix::seeded(name);
    }

    /// The next rank's slot. There are [`SLOTS`] of them.
    fn next_slot(&mut self) -> u16 {
        let rank = self.swaps.len();
        let swap = rank + self.random.below((SLOTS - rank) as u64) as usize;
        self.order.swap(rank, swap);
        self.swaps.push(swap);
        self.order[rank]
    }
}

/// Equal bids are common between equal weights; who wins is as good as chance, but the same everywhere.
fn wins_tie(slot: usize, challenger: &str, holder: &str) -> bool {
    let score = |name: &str| mix(fnv1a(name.as_bytes()) ^ mix(slot as u64));
    score(challenger).cmp(&score(holder)).then_with(|| holder.cmp(challenger)).is_gt()
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo).
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood, 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// SplitMix64, seeded by a name.
struct SplitMix(u64);

impl SplitMix {
    fn seeded(name: &str) -> Self {
        SplitMix(mix(fnv1a(name.as_bytes())))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// 0 to `bound` - 1, by multiplication (Lemire, 2019); the bias of 2^-50 does not matter here.
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What should come of all bids: the best one of everybody for each slot.
    fn hear_all(bidders: &[Bidder<'_>], takes_part: impl Fn(u16) -> bool) -> Box<[u16]> {
        let mut best = vec![(f64::INFINITY, u16::MAX); SLOTS];
        for (index, bidder) in bidders.iter().enumerate().filter(|(index, _)| takes_part(*index as u16)) {
            let mut random = SplitMix::seeded(bidder.name);
            let mut order: Vec<usize> = (0..SLOTS).collect();
            for (rank, cost) in COSTS.iter().enumerate() {
                order.swap(rank, rank + random.below((SLOTS - rank) as u64) as usize);
                let (bid, slot) = (cost / bidder.weight, order[rank]);
                let (least, holder) = best[slot];
                if bid < least || bid == least && wins_tie(slot, bidder.name, bidders[usize::from(holder)].name) {
                    best[slot] = (bid, index as u16);
                }
            }
        }
        let any = (0..bidders.len() as u16).any(takes_part);
        if any { best.into_iter().map(|(_, bidder)| bidder).collect() } else { Box::default() }
    }

    fn check(bidders: &[Bidder<'_>], up: &[bool], heard: f64) {
        let is_up = |bidder: u16| up[usize::from(bidder)];
        let bids = Bids::hear_up_to(bidders, heard);
        assert!(*bids.homes() == *hear_all(bidders, |_| true), "other homes when hearing {heard} of {bidders:?}");
        assert!(
            bids.holders(bidders, is_up) == hear_all(bidders, is_up),
            "other holders when hearing {heard} of {bidders:?}, {up:?}"
        );
    }

    #[test]
    fn a_brace_is_seen_wherever_it_stands() {
        for len in 0..40 {
            let mut key = vec![b'z'; len];
            assert!(!has_brace(&key));
            for at in 0..len {
                key[at] = b'{';
                assert!(has_brace(&key), "{len} bytes, at {at}");
                key[at] = b'|';
            }
            assert!(!has_brace(&key), "{len} bytes");
        }
    }

    /// Slot 7761's three bids are all late, the first of them that of the node that goes down.
    #[test]
    fn a_home_stays_where_it_is_when_its_node_goes_down() {
        let bidders = ["127.0.0.1:10813", "127.0.0.1:10814", "127.0.0.1:10815"].map(|name| Bidder { name, weight: 1.0 });
        let bids = Bids::hear(&bidders);
        assert_eq!((bids.homes()[7761], bids.holders(&bidders, |_| true)[7761]), (0, 0));
        assert_eq!(bids.holders(&bidders, |bidder| bidder != 0)[7761], 1);
        check(&bidders, &[false, true, true], HEARD);
    }

    #[test]
    fn nobody_holds_what_nobody_who_is_up_bids_for() {
        assert!(Bids::hear(&[]).homes().is_empty());
        let bidders = [Bidder { name: "a", weight: 1.0 }];
        assert!(Bids::hear(&bidders).holders(&bidders, |_| false).is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// However little is heard at first, so that many slots are looked for again.
        #[test]
        fn the_best_bid_wins_whether_heard_at_first_or_later(
            nodes in prop::collection::vec((prop_oneof![Just(1.0), 0.01f64..100.0], any::<bool>()), 1..8),
            seed in any::<u16>(),
            heard in prop_oneof![Just(HEARD), 0.0f64..8.0],
        ) {
            let names: Vec<_> = (0..nodes.len()).map(|n| format!("node-{seed}-{n}")).collect();
            let bidders: Vec<_> = names.iter().zip(&nodes).map(|(name, (weight, _))| Bidder { name, weight: *weight }).collect();
            let up: Vec<_> = nodes.iter().map(|(_, up)| *up).collect();
            check(&bidders, &up, heard);
        }
    }

    #[test]
    fn names_are_hashed_as_published() {
        // From the FNV reference code's own test vectors, and from the reference splitmix64.c with seed 1234567.
        assert_eq!(
            [fnv1a(b""), fnv1a(b"a"), fnv1a(b"foobar")],
            [0xcbf2_9ce4_8422_2325, 0xaf63_dc4c_8601_ec8c, 0x8594_4171_f739_67e8]
        );
        let mut random = SplitMix(1_234_567);
        assert_eq!(
            [random.next(), random.next(), random.next()],
            [6457827717110365317, 3203168211198807973, 9817491932198370423]
        );
    }

    #[test]
    fn a_tie_has_one_winner() {
        assert!(!wins_tie(7, "b", "b"));
        for slot in 0..64 {
            assert_ne!(wins_tie(slot, "a", "b"), wins_tie(slot, "b", "a"), "slot {slot}");
        }
    }
}
