//! The `legacy` placement: the ring of the Node.js system, bucket for bucket, for fleets that still have its clients.
//!
//! Its oddities are kept on purpose: a key's whole text is hashed, a hash above the last bucket belongs to the last bucket instead of
//! wrapping to the first, and a node that has only just come up may be treated like one that has only just gone down.

use std::sync::Arc;

use crate::topology::{NodeIndex, Owner, TopologyNode, Unowned};

/// Most buckets that one node gets; the old system knows no bound, memory does.
const BUCKETS_MAX: f64 = 100_000.0;

/// No node can have the keys.
const NOBODY: u32 = u32::MAX;
/// The node whose index stands in the other bits keeps the keys, but must not be used yet.
const WITHHELD: u32 = 1 << 31;

/// The ring: all nodes' buckets in order, and who has the keys of each.
#[derive(Debug)]
pub(crate) struct Ring {
    values: Vec<u32>,
    nodes: Vec<NodeIndex>,
    /// By bucket: a node's index, alone or with [`WITHHELD`], or [`NOBODY`].
    owners: Vec<u32>,
}

impl Ring {
    /// The ring of these nodes as it stands at `now_ms`. `expiry_ms` is the old client's `downNodeExpiry`, 0 for none.
    pub(crate) fn build(nodes: &[Arc<TopologyNode>], buckets_per_node: u32, expiry_ms: u64, now_ms: u64) -> Ring {
        let mut buckets = Vec::new();
        for (index, node) in nodes.iter().enumerate() {
            let mut random = SeedRandom::new(&node.name);
            let count = (f64::from(buckets_per_node) * node.weight + 0.5).floor().clamp(1.0, BUCKETS_MAX) as usize;
            buckets.extend((0..count).map(|_| ((random.next() * f64::from(u32::MAX)).floor() as u32, index as NodeIndex)));
        }
        buckets.sort_by_key(|(value, _)| *value);
        let owners = owners(&buckets, nodes, expiry_ms, now_ms);
        let (values, nodes) = buckets.into_iter().unzip();
        Ring { values, nodes, owners }
    }

    /// All buckets in order.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = (u32, NodeIndex)> {
        self.values.iter().copied().zip(self.nodes.iter().copied())
    }

    /// Who has a key, as [`Ring::owner`] reads it.
    #[inline]
    pub(crate) fn bucket_owner(&self, key: &[u8]) -> u32 {
        self.bucket(key).map_or(NOBODY, |bucket| self.owners[bucket])
    }

    /// The node that a key's bucket belongs to, up or down.
    pub(crate) fn home(&self, key: &[u8]) -> Option<NodeIndex> {
        self.bucket(key).map(|bucket| self.nodes[bucket])
    }

    /// The first bucket at or above the key's hash, or else the last.
    fn bucket(&self, key: &[u8]) -> Option<usize> {
        let hash = crc32fast::hash(key);
        let last = self.values.len().checked_sub(1)?;
        Some(self.values.partition_point(|value| *value < hash).min(last))
    }

    /// Reads what [`Ring::bucket_owner`] gave.
    #[inline]
    pub(crate) fn owner(&self, found: u32, nodes: &[Arc<TopologyNode>], expiry_ms: u64) -> Result<Owner, Unowned> {
        if found < WITHHELD {
            return Ok(Owner { node: found as NodeIndex, guest: false });
        }
        if found == NOBODY {
            return Err(Unowned::NoNodeUp);
        }
        let node = (found & !WITHHELD) as NodeIndex;
        Err(Unowned::Withheld { node, until_ms: nodes[usize::from(node)].state_change_time_ms.saturating_add(expiry_ms) })
    }

    /// Adds to each node the part of all hashes that it has.
    pub(crate) fn add_shares(&self, shares: &mut [f64]) {
        let mut from = 0u64;
        for (bucket, owner) in self.owners.iter().enumerate() {
            let last = bucket + 1 == self.owners.len();
            let upto = if last { 1 << 32 } else { u64::from(self.values[bucket]) + 1 };
            if *owner < WITHHELD {
                shares[*owner as usize] += (upto - from) as f64 / (1u64 << 32) as f64;
            }
            from = upto;
        }
    }
}

/// For each bucket, the first node from there on upwards, wrapping, that is up; one that changed its state less than `expiry_ms` ago
/// stands in the way.
fn owners(buckets: &[(u32, NodeIndex)], nodes: &[Arc<TopologyNode>], expiry_ms: u64, now_ms: u64) -> Vec<u32> {
    let verdict = |index: NodeIndex| {
        let node = &nodes[usize::from(index)];
        let recent = expiry_ms > 0 && now_ms.saturating_sub(node.state_change_time_ms) < expiry_ms;
        match (recent, node.up) {
            (true, _) => Some(WITHHELD | u32::from(index)),
            (false, true) => Some(u32::from(index)),
            (false, false) => None,
        }
    };
    let mut owners = vec![NOBODY; buckets.len()];
    let mut next = NOBODY;
    // Twice round from the top, so that the highest buckets learn what the lowest found.
    for bucket in (0..buckets.len()).rev().chain((0..buckets.len()).rev()) {
        if let Some(found) = verdict(buckets[bucket].1) {
            next = found;
        }
        owners[bucket] = next;
    }
    owners
}

/// The generator of the npm package `seed-random` 2.2.0, seeded by a string: D. Bau's published scheme on ARC4.
struct SeedRandom {
    state: [u8; 256],
    i: u8,
    j: u8,
}

impl SeedRandom {
    fn new(seed: &str) -> Self {
        // The seed's UTF-16 code units, smeared over at most 256 bytes.
        let mut key: Vec<u8> = Vec::new();
        let mut smear = 0i32;
        for (at, unit) in seed.encode_utf16().enumerate() {
            let old = key.get(at & 255).copied();
            smear ^= i32::from(old.unwrap_or(0)) * 19;
            let byte = smear.wrapping_add(i32::from(unit)) as u8;
            match old {
                Some(_) => key[at & 255] = byte,
                None => key.push(byte),
            }
        }
        if key.is_empty() {
            key.push(0);
        }
        let mut state: [u8; 256] = std::array::from_fn(|at| at as u8);
        let mut j = 0u8;
        for i in 0..256 {
            j = j.wrapping_add(state[i]).wrapping_add(key[i % key.len()]);
            state.swap(i, usize::from(j));
        }
        let mut random = SeedRandom { state, i: 0, j: 0 };
        for _ in 0..256 {
            random.byte();
        }
        random
    }

    fn byte(&mut self) -> u8 {
        self.i = self.i.wrapping_add(1);
        let t = self.state[usize::from(self.i)];
        self.j = self.j.wrapping_add(t);
        self.state.swap(usize::from(self.i), usize::from(self.j));
        self.state[usize::from(self.state[usize::from(self.i)].wrapping_add(t))]
    }

    /// 0 up to 1, in 52 significant bits.
    fn next(&mut self) -> f64 {
        const SIGNIFICANCE: f64 = (1u64 << 52) as f64;
        let mut n = (0..6).fold(0.0, |n, _| n * 256.0 + f64::from(self.byte()));
        let mut d = 256f64.powi(6);
        let mut x = 0u32;
        while n < SIGNIFICANCE {
            n = (n + f64::from(x)) * 256.0;
            d *= 256.0;
            x = u32::from(self.byte());
        }
        while n >= SIGNIFICANCE * 2.0 {
            n /= 2.0;
            d /= 2.0;
            x >>= 1;
        }
        (n + f64::from(x)) / d
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_gives_what_the_package_gives() {
        let mut random = SeedRandom::new("127.0.0.1:6380");
        for expect in [0.9895821913858017, 0.2735897813167535, 0.07014585893356542, 0.14584544663436688, 0.10929808556041391] {
            assert_eq!(random.next(), expect);
        }
    }
}
