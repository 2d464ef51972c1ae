//! What must hold of keys that come home to a node again: it has nothing left of them from before.
//!
//! Reads show it only where somebody asks for such a key in time, and not what a proxy wrote that was out of touch, since they cannot know
//! who was to hear of it. So this looks into the nodes themselves.

use std::collections::BTreeMap;

use super::{
    checker::{Author, Violation},
    reads::KEYS,
};
use crate::contract::{Confirmation, Epoch};

/// The home of each key by a map: the number of its node, and whether that is up.
pub(super) type ByKey = [Option<(u8, bool)>; KEYS];

/// What a coordinator has heard of a proxy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heard {
    /// The map by which it routes now.
    last: Epoch,
    /// When it said so.
    at_ms: u64,
}

/// By a proxy's name.
pub(super) type AllHeard = BTreeMap<String, Heard>;

/// A key on a node.
type Spot = (u8, usize);

/// Follows where keys are at home, and what nodes have of them.
#[derive(Default)]
pub(super) struct KeyHomes {
    now: ByKey,
    /// The map by which a node that is there still lost a key.
    lost: BTreeMap<Spot, Epoch>,
    /// Who wrote what is there, and when, where that was acknowledged.
    written: BTreeMap<Spot, (String, u64)>,
    /// The earliest map by which each proxy has said to go, and when it last said anything.
    said: BTreeMap<String, (Epoch, u64)>,
    /// What each coordinator has heard.
    heard: BTreeMap<Author, AllHeard>,
}

impl KeyHomes {
    /// A node has done what a proxy sent, which is going to acknowledge it.
    pub(super) fn written(&mut self, node: u8, key: usize, proxy: String, now_ms: u64) {
        self.written.insert((node, key), (proxy, now_ms));
    }

    /// There is nothing of the key on the node any more, or nobody vouches for what there is.
    pub(super) fn removed(&mut self, node: u8, key: usize) {
        self.written.remove(&(node, key));
    }

    /// There is nothing on the node any more.
    pub(super) fn emptied(&mut self, node: u8) {
        self.written.retain(|(of, _), _| *of != node);
    }

    /// A proxy says by which map it goes.
    pub(super) fn said(&mut self, proxy: String, epoch: Epoch, now_ms: u64) {
        let (least, at_ms) = self.said.entry(proxy).or_insert((epoch, now_ms));
        (*least, *at_ms) = (epoch.min(*least), now_ms);
    }

    /// A coordinator has read what proxies say.
    pub(super) fn heard(&mut self, author: Author, proxies: &BTreeMap<String, Confirmation>) {
        let heard = self.heard.entry(author).or_default();
        for (proxy, Confirmation { epoch, .. }) in proxies {
            let at_ms = self.said.get(proxy).map_or(0, |(_, at_ms)| *at_ms);
            heard.insert(proxy.clone(), Heard { last: *epoch, at_ms });
        }
    }

    /// What a coordinator has heard by now.
    pub(super) fn heard_by(&self, author: Author) -> AllHeard {
        self.heard.get(&author).cloned().unwrap_or_default()
    }

    /// A map is published by one who had heard this when it was sent. A node to which a key comes home again has nothing that was written
    /// there before: not by a proxy that had said to go by an earlier map, and was heard since to go by one in which the key was not there.
    pub(super) fn published(&mut self, epoch: Epoch, homes: &ByKey, heard: &AllHeard) -> Result<(), Violation> {
        for (key, (before, after)) in std::mem::replace(&mut self.now, *homes).into_iter().zip(*homes).enumerate() {
            let (before, is_up) = (before.map(|(node, _)| node), after.is_some_and(|(_, is_up)| is_up));
            let after = after.map(|(node, _)| node);
            if before == after {
                continue;
            }
            if let Some(node) = before {
                self.lost.insert((node, key), epoch);
            }
            let Some(node) = after else { continue };
            // One that is down is emptied before it is up.
            let Some(lost) = self.lost.remove(&(node, key)).filter(|_| is_up) else { continue };
            let Some((proxy, at_ms)) = self.written.get(&(node, key)) else { continue };
            let was_behind = self.said.get(proxy).is_some_and(|(least, _)| *least < lost);
            let is_accounted_for = |heard: &Heard| was_behind && lost <= heard.last && *at_ms < heard.at_ms;
            if heard.get(proxy).is_some_and(is_accounted_for) {
                return Err(format!(
                    "key {key} comes home to n{node}, which has what {proxy} wrote at {at_ms} ms and lost it by map {lost}"
                ));
            }
        }
        Ok(())
    }

    /// A map was lost that nobody remembers: where keys were at home is not known.
    pub(super) fn begin_anew(&mut self) {
        self.lost.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Author = (0, 1);

    /// Keys leave node 0 by map 2, proxy p writes at 20 ms, says at 30 ms that it goes by `last`, and they come back by map 4.
    fn come_back(last: Epoch, purged: bool, told: bool) -> bool {
        let mut homes = KeyHomes::default();
        let heard = |homes: &mut KeyHomes, epoch| {
            let confirmation = Confirmation { epoch, beat: epoch, least: 1 };
            homes.heard(ONE, &BTreeMap::from([("p".to_owned(), confirmation)]));
        };
        homes.published(1, &[Some((0, true)); KEYS], &AllHeard::new()).unwrap();
        homes.said("p".to_owned(), 1, 10);
        heard(&mut homes, 1);
        homes.published(2, &[Some((1, true)); KEYS], &AllHeard::new()).unwrap();
        homes.written(0, 3, "p".to_owned(), 20);
        if told {
            homes.said("p".to_owned(), last, 30);
            heard(&mut homes, last);
        }
        if purged {
            homes.removed(0, 3);
        }
        let heard = homes.heard_by(ONE);
        homes.published(4, &[Some((0, true)); KEYS], &heard).is_ok()
    }

    #[test]
    fn what_comes_home_finds_nothing_of_those_who_were_heard() {
        assert!(!come_back(2, false, true));
        assert!(come_back(2, true, true));
        assert!(come_back(1, false, true), "it may write there still");
        assert!(come_back(2, false, false), "nobody knows of it");
    }
}
