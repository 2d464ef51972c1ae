//! By which maps proxies route, as they confirm it.

use std::collections::BTreeMap;

use crate::contract::{Confirmation, EPOCH_MAX, Epoch};

/// What is known of the proxies.
#[derive(Debug, Default)]
pub(super) struct Proxies {
    seen: BTreeMap<String, Seen>,
    /// When the last list that was answered had been asked for.
    listed_at_ms: Option<u64>,
    /// Before this some that live may not have said so to this master.
    complete_at_ms: u64,
}

#[derive(Debug)]
struct Seen {
    confirmation: Confirmation,
    /// Since when it has stood still.
    since_ms: u64,
}

/// What a list of confirmations tells.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// The least epoch that a proxy may have routed by until now of which nobody knew that it lives.
    pub(super) laggard: Option<Epoch>,
    /// Proxies that have said nothing for so long that they count as gone.
    pub(super) gone: Vec<String>,
    /// The greatest epoch that a proxy goes by; 0 if none does.
    pub(super) greatest: Epoch,
}

impl Proxies {
    /// From now on the list is ours to judge.
    pub(super) fn begin(&mut self) {
        self.listed_at_ms = None;
    }

    /// The master may have forgotten some. All that live have told it by then.
    pub(super) fn are_unknown_until(&mut self, ms: u64) {
        self.complete_at_ms = ms;
    }

    /// All that live have had time to say so.
    pub(super) fn is_complete(&self, now_ms: u64) -> bool {
        now_ms >= self.complete_at_ms
    }

    /// Takes in the list that was asked for at `asked_ms`.
    pub(super) fn listed(&mut self, list: BTreeMap<String, Confirmation>, asked_ms: u64, now_ms: u64, grace_ms: u64) -> Heard {
        let mut heard = Heard::default();
        // What is beyond any clock is nobody's.
        let epochs = list.values().map(|confirmation| confirmation.epoch);
        heard.greatest = epochs.filter(|epoch| *epoch <= EPOCH_MAX / 2).max().unwrap_or(0);
        let mut laggard = |epoch: Epoch| heard.laggard = Some(heard.laggard.map_or(epoch, |least| least.min(epoch)));
        for (id, confirmation) in list {
            match self.seen.get_mut(&id) {
                Some(seen) if seen.confirmation == confirmation => {}
                Some(seen) => {
                    laggard(seen.confirmation.epoch);
                    *seen = Seen { confirmation, since_ms: now_ms };
                }
                None => {
                    laggard(confirmation.least);
                    self.seen.insert(id, Seen { confirmation, since_ms: now_ms });
                }
            }
        }
        self.seen.retain(|id, seen| {
            let lives = asked_ms < seen.since_ms + grace_ms;
            if !lives {
                heard.gone.push(id.clone());
            }
            lives
        });
        self.listed_at_ms = Some(asked_ms);
        heard
    }

    /// Whether all proxies route by the map of this epoch, or a later one: by their word, or because the map has been published
    /// (at `since_ms`) for as long as the grace period.
    pub(super) fn confirm(&self, epoch: Epoch, since_ms: u64, now_ms: u64, grace_ms: u64) -> bool {
        let is_known = self.is_complete(now_ms) && self.listed_at_ms.is_some_and(|asked_ms| asked_ms >= since_ms);
        let all_have = self.seen.values().all(|seen| seen.confirmation.epoch >= epoch);
        is_known && (all_have || now_ms >= since_ms.saturating_add(grace_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE_MS: u64 = 1_000;

    fn list(proxies: &[(&str, Epoch, u64, Epoch)]) -> BTreeMap<String, Confirmation> {
        let confirmation = |epoch, beat, least| Confirmation { epoch, beat, least };
        proxies.iter().map(|(id, epoch, beat, least)| ((*id).to_owned(), confirmation(*epoch, *beat, *least))).collect()
    }

    #[test]
    fn a_map_is_confirmed_when_all_that_live_have_done_so() {
        let mut proxies = Proxies::default();
        proxies.are_unknown_until(GRACE_MS);
        proxies.listed(list(&[("a", 5, 1, 5), ("b", 5, 1, 5)]), 100, 101, GRACE_MS);
        assert!(!proxies.confirm(5, 50, 200, GRACE_MS), "others may not have been heard of yet");
        proxies.listed(list(&[("a", 6, 2, 5), ("b", 5, 2, 5)]), 1_000, 1_001, GRACE_MS);
        assert!(proxies.confirm(5, 50, 1_001, GRACE_MS) && !proxies.confirm(6, 900, 1_001, GRACE_MS));
        assert!(!proxies.confirm(5, 1_002, 1_003, GRACE_MS), "the list was asked for before");
        proxies.listed(list(&[("a", 6, 2, 5), ("b", 6, 3, 5)]), 1_100, 1_101, GRACE_MS);
        assert!(proxies.confirm(6, 900, 1_101, GRACE_MS));
        // b has been silent for longer.
        let heard = proxies.listed(list(&[("a", 7, 3, 5), ("b", 6, 3, 5)]), 2_101, 2_102, GRACE_MS);
        assert_eq!(heard.gone, ["b"]);
        assert!(proxies.confirm(7, 2_050, 2_102, GRACE_MS));
    }

    #[test]
    fn the_latest_map_that_any_goes_by_is_known() {
        let mut proxies = Proxies::default();
        proxies.are_unknown_until(GRACE_MS);
        let mut greatest = |list| proxies.listed(list, 0, 1, GRACE_MS).greatest;
        assert_eq!(greatest(list(&[])), 0);
        assert_eq!(greatest(list(&[("a", 9, 2, 5), ("b", 7, 2, 7)])), 9);
        assert_eq!(greatest(list(&[("a", 9, 3, 9), ("b", EPOCH_MAX, 3, 9)])), 9);
    }

    #[test]
    fn nobody_is_waited_for_longer_than_the_grace_period() {
        let mut proxies = Proxies::default();
        proxies.are_unknown_until(GRACE_MS);
        proxies.listed(list(&[("a", 5, 1, 5)]), 1_500, 1_501, GRACE_MS);
        assert!(!proxies.confirm(6, 1_000, 1_999, GRACE_MS));
        assert!(proxies.confirm(6, 1_000, 2_000, GRACE_MS));
    }

    #[test]
    fn a_proxy_that_was_out_of_touch_is_noticed_by_what_it_says() {
        let mut proxies = Proxies::default();
        proxies.are_unknown_until(GRACE_MS);
        assert_eq!(proxies.listed(list(&[("a", 5, 1, 5)]), 0, 1, GRACE_MS).laggard, Some(5));
        assert_eq!(proxies.listed(list(&[("a", 5, 1, 5)]), 2, 3, GRACE_MS).laggard, None);
        // It was behind when others were believed to be all.
        assert_eq!(proxies.listed(list(&[("a", 9, 2, 5)]), 900, 901, GRACE_MS).laggard, Some(5));
        // Silent for so long that it counts as gone, it comes back.
        assert_eq!(proxies.listed(list(&[]), 2_000, 2_001, GRACE_MS).gone, ["a"]);
        assert_eq!(proxies.listed(list(&[("a", 20, 3, 9)]), 3_000, 3_001, GRACE_MS).laggard, Some(9));
    }
}
