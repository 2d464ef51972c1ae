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
    /// Whether it may hold slots now.
    pub up: bool,
}

/// Which bidder each slot belongs to, as indexes into the list of bidders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The winner among all bidders; empty if there are none.
    pub homes: Box<[u16]>,
    /// The winner among those that are up; empty if none is.
    pub holders: Box<[u16]>,
}

/// How far bids are heard at first, as the cost of one bidder with the weight of all: a slot whose best bid is above that is one in
/// 16 million, and everybody is heard again for it.
const HEARD: f64 = 16.6;

/// Gives every slot to its winner. At most 65,534 bidders, each with a name of its own.
pub fn assign(bidders: &[Bidder<'_>]) -> Assignment {
    assign_hearing(bidders, HEARD)
}

/// The result does not depend on how far is heard at first, only the time that it takes.
fn assign_hearing(bidders: &[Bidder<'_>], heard: f64) -> Assignment {
    debug_assert!(bidders.len() < usize::from(NOBODY));
    let costs = costs();
    let weights = |takes_part: fn(&Bidder<'_>) -> bool| -> f64 {
        bidders.iter().filter(|bidder| takes_part(bidder)).map(|bidder| bidder.weight).sum()
    };
    let mut homes = Auction::new(heard / weights(|_| true));
    let mut holders = Auction::new(heard / weights(|bidder| bidder.up));
    let mut order: Vec<u16> = (0..SLOTS as u16).collect();
    let mut undo = Vec::new();
    for (index, bidder) in bidders.iter().enumerate() {
        let mut random = SplitMix::seeded(bidder.name);
        undo.clear();
        for (rank, cost) in costs.iter().enumerate() {
            let bid = cost / bidder.weight;
            if bid > homes.limit && (!bidder.up || bid > holders.limit) {
                break;
            }
            // One step of the Fisher-Yates shuffle gives the next rank's slot.
            let swap = rank + random.below((SLOTS - rank) as u64) as usize;
            order.swap(rank, swap);
            undo.push(swap);
            let slot = usize::from(order[rank]);
            homes.bid(slot, bid, index as u16, bidders);
            if bidder.up {
                holders.bid(slot, bid, index as u16, bidders);
            }
        }
        // Everybody's shuffle starts from the same order.
        for (rank, swap) in undo.iter().enumerate().rev() {
            order.swap(rank, *swap);
        }
    }
    Assignment { homes: homes.close(bidders, |_| true), holders: holders.close(bidders, |bidder| bidder.up) }
}

/// E(r) for every rank r.
fn costs() -> Vec<f64> {
    let mut sum = 0.0;
    (0..SLOTS)
        .map(|rank| {
            sum += 1.0 / (SLOTS - rank) as f64;
            sum
        })
        .collect()
}

const NOBODY: u16 = u16::MAX;

/// The best bid for each slot so far.
struct Auction {
    best: Vec<(f64, u16)>,
    /// Bids above this do not count. Some bidders go on beyond it for the sake of the other auction, and some do not: if theirs
    /// counted, they would win against better bids that nobody made.
    limit: f64,
}

impl Auction {
    fn new(limit: f64) -> Self {
        Auction { best: vec![(f64::INFINITY, NOBODY); SLOTS], limit }
    }

    fn bid(&mut self, slot: usize, bid: f64, bidder: u16, bidders: &[Bidder<'_>]) {
        if bid > self.limit {
            return;
        }
        let (best, holder) = self.best[slot];
        if bid < best || (bid == best && wins_tie(slot, bidders[usize::from(bidder)].name, bidders[usize::from(holder)].name)) {
            self.best[slot] = (bid, bidder);
        }
    }

    fn close(mut self, bidders: &[Bidder<'_>], takes_part: impl Fn(&Bidder<'_>) -> bool) -> Box<[u16]> {
        if !bidders.iter().any(&takes_part) {
            return Box::default();
        }
        if self.best.iter().any(|(_, bidder)| *bidder == NOBODY) {
            self.hear_everybody(bidders, takes_part);
        }
        self.best.into_iter().map(|(_, bidder)| bidder).collect()
    }

    /// Hears everybody as far as it matters, for the slots that nobody has bid for below the limit.
    #[cold]
    fn hear_everybody(&mut self, bidders: &[Bidder<'_>], takes_part: impl Fn(&Bidder<'_>) -> bool) {
        self.limit = f64::INFINITY;
        let is_open: Vec<bool> = self.best.iter().map(|(_, bidder)| *bidder == NOBODY).collect();
        let open: Vec<usize> = (0..SLOTS).filter(|slot| is_open[*slot]).collect();
        let costs = costs();
        for (index, bidder) in bidders.iter().enumerate().filter(|(_, bidder)| takes_part(bidder)) {
            let mut random = SplitMix::seeded(bidder.name);
            let mut order: Vec<u16> = (0..SLOTS as u16).collect();
            // Beyond this a bidder wins nothing, and it falls fast with each that was heard.
            let worst_lead = open.iter().map(|slot| self.best[*slot].0).fold(0.0, f64::max);
            for (rank, cost) in costs.iter().enumerate() {
                let bid = cost / bidder.weight;
                if bid > worst_lead {
                    break;
                }
                order.swap(rank, rank + random.below((SLOTS - rank) as u64) as usize);
                let slot = usize::from(order[rank]);
                if is_open[slot] {
                    self.bid(slot, bid, index as u16, bidders);
                }
            }
        }
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

    /// What [`assign`] should come to: every bid of everybody, and the best one for each slot.
    fn hear_all(bidders: &[Bidder<'_>], takes_part: impl Fn(&Bidder<'_>) -> bool) -> Box<[u16]> {
        let mut best = vec![(f64::INFINITY, NOBODY); SLOTS];
        for (index, bidder) in bidders.iter().enumerate().filter(|(_, bidder)| takes_part(bidder)) {
            let mut random = SplitMix::seeded(bidder.name);
            let mut order: Vec<usize> = (0..SLOTS).collect();
            for (rank, cost) in costs().into_iter().enumerate() {
                order.swap(rank, rank + random.below((SLOTS - rank) as u64) as usize);
                let (bid, slot) = (cost / bidder.weight, order[rank]);
                let (least, holder) = best[slot];
                if bid < least || bid == least && wins_tie(slot, bidder.name, bidders[usize::from(holder)].name) {
                    best[slot] = (bid, index as u16);
                }
            }
        }
        if bidders.iter().any(takes_part) { best.into_iter().map(|(_, bidder)| bidder).collect() } else { Box::default() }
    }

    fn check(bidders: &[Bidder<'_>], heard: f64) {
        let Assignment { homes, holders } = assign_hearing(bidders, heard);
        assert!(homes == hear_all(bidders, |_| true), "other homes when hearing {heard} of {bidders:?}");
        assert!(holders == hear_all(bidders, |bidder| bidder.up), "other holders when hearing {heard} of {bidders:?}");
    }

    /// Slot 7761's three bids are all late: 6.47 by the node that is down, which was no longer heard when the others were.
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

    #[test]
    fn a_home_stays_where_it_is_when_its_node_goes_down() {
        let bidders = |up| {
            let names = ["127.0.0.1:10813", "127.0.0.1:10814", "127.0.0.1:10815"];
            names.map(|name| Bidder { name, weight: 1.0, up: up || name != "127.0.0.1:10813" })
        };
        let (before, after) = (assign(&bidders(true)), assign(&bidders(false)));
        assert_eq!(before.homes[7761], 0);
        assert!(before.homes == after.homes);
        assert_eq!((after.homes[7761], after.holders[7761]), (0, 1));
        check(&bidders(false), HEARD);
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
            let bidders: Vec<_> = names.iter().zip(&nodes).map(|(name, (weight, up))| Bidder { name, weight: *weight, up: *up }).collect();
            check(&bidders, heard);
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
