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
#[inline]
fn has_brace(key: &[u8]) -> bool {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGHS: u64 = u64::from_ne_bytes([0x80; 8]);
    const BRACES: u64 = u64::from_ne_bytes([b'{'; 8]);
    let (blocks, rest) = key.as_chunks::<8>();
    let found = blocks.iter().any(|block| {
        // A byte that is the brace's becomes 0, and only then does subtracting 1 borrow into its highest bit.
        let difference = u64::from_ne_bytes(*block) ^ BRACES;
        difference.wrapping_sub(ONES) & !difference & HIGHS != 0
    });
    found || rest.contains(&b'{')
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

/// Gives every slot to its winner. At most 65,535 bidders, each with a name of its own.
pub fn assign(bidders: &[Bidder<'_>]) -> Assignment {
    debug_assert!(bidders.len() < usize::from(NOBODY));
    let costs = costs();
    let mut homes = Auction::new(bidders.iter().map(|bidder| bidder.weight).sum());
    let mut holders = Auction::new(bidders.iter().filter(|bidder| bidder.up).map(|bidder| bidder.weight).sum());
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
    /// Bids above this are not looked at at first: with all weights together as the rate, a slot whose best bid is above it is one
    /// in 16 million, and is looked for again.
    limit: f64,
}

impl Auction {
    fn new(weights: f64) -> Self {
        Auction { best: vec![(f64::INFINITY, NOBODY); SLOTS], limit: 16.6 / weights }
    }

    fn bid(&mut self, slot: usize, bid: f64, bidder: u16, bidders: &[Bidder<'_>]) {
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

    /// Hears every bid of everybody, for the slots that nobody has bid for below the limit.
    #[cold]
    fn hear_everybody(&mut self, bidders: &[Bidder<'_>], takes_part: impl Fn(&Bidder<'_>) -> bool) {
        let open: Vec<bool> = self.best.iter().map(|(_, bidder)| *bidder == NOBODY).collect();
        let costs = costs();
        for (index, bidder) in bidders.iter().enumerate().filter(|(_, bidder)| takes_part(bidder)) {
            let mut random = SplitMix::seeded(bidder.name);
            let mut order: Vec<u16> = (0..SLOTS as u16).collect();
            for (rank, cost) in costs.iter().enumerate() {
                order.swap(rank, rank + random.below((SLOTS - rank) as u64) as usize);
                let slot = usize::from(order[rank]);
                if open[slot] {
                    self.bid(slot, cost / bidder.weight, index as u16, bidders);
                }
            }
        }
    }
}

/// Equal bids are common between equal weights; who wins is as good as chance, but the same everywhere.
fn wins_tie(slot: usize, challenger: &str, holder: &str) -> bool {
    let score = |name: &str| (mix(fnv1a(name.as_bytes()) ^ mix(slot as u64)), std::cmp::Reverse(name.to_owned()));
    score(challenger) > score(holder)
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
