//! Keys whose slot has another home now.

use super::*;
use crate::flaw::{self, Flaw};

const GRACE_MS: u64 = 10_000;

/// Leads for longer than the grace period; proxy `p` confirms each map at once.
fn rig(names: &[&str]) -> Rig {
    let mut rig = Rig::with(options(), names);
    rig.live(GRACE_MS);
    rig
}

impl Rig {
    /// Lets time pass in which agents announce their nodes and proxy `p` confirms.
    pub(super) fn live(&mut self, ms: u64) {
        for _ in 0..ms / 1_000 {
            self.confirm();
            for name in self.stored.0.keys().cloned().collect::<Vec<_>>() {
                self.announce(&name);
            }
            self.wait(1_000);
        }
    }

    pub(super) fn confirm(&mut self) {
        let epoch = self.stored.1.unwrap_or(0);
        let beat = self.now_ms;
        self.proxies.insert("p".to_owned(), Confirmation { epoch, beat, least: epoch });
    }

    /// The agent has carried out its order.
    fn purged(&mut self, name: &str) {
        let purged = Some(self.orders[name]);
        let node = Announcement { purged, run_id: Some(format!("{name}1")), ..self.announcement(name) };
        self.hear(AgentBusMessage::NodeUp { node });
    }

    fn say(&mut self, wish: Wish) {
        self.hear(AgentBusMessage::NodeWish { id: format!("{wish:?} {}", self.now_ms), name: "a".to_owned(), wish });
    }

    fn weigh(&mut self, weight: f64) {
        self.say(Wish::Weight { weight });
        self.wait(options_settled());
        for name in ["a", "b", "c"] {
            if self.flushes.get(name).is_some_and(|(_, scope)| *scope == Scope::Guests) {
                self.flushed(name);
            }
        }
    }
}

#[test]
fn nodes_that_lost_slots_are_told_to_purge_once_all_proxies_have_confirmed() {
    let mut rig = Rig::with(Options { purge_after_ms: 2_000, ..options() }, &["a", "b", "c"]);
    rig.live(GRACE_MS + 1_000);
    // The first two were there when others came, and lost slots to them.
    assert_eq!(rig.orders.keys().collect::<Vec<_>>(), ["a", "b"]);
    rig.purged("a");
    rig.purged("b");
    rig.orders.clear();
    rig.live(20_000);
    assert!(rig.orders.is_empty(), "{:?}", rig.orders);

    let before = rig.stored.1.unwrap();
    rig.weigh(3.0);
    let changed = rig.stored.1.unwrap();
    assert_eq!(rig.rehomed, Some(changed));
    // Proxy p lives, but routes by an older map.
    for beat in 0..8 {
        rig.proxies.insert("p".to_owned(), Confirmation { epoch: before, beat, least: before });
        rig.wait(1_000);
        ["a", "b", "c"].iter().for_each(|name| rig.announce(name));
    }
    assert!(rig.orders.is_empty(), "{:?}", rig.orders);
    rig.live(2_000);
    assert_eq!(rig.orders, [("b".to_owned(), changed), ("c".to_owned(), changed)].into());
    rig.purged("b");
    assert!(rig.told("node b has purged"));
    // Whoever does not say so is told again.
    rig.orders.clear();
    rig.live(11_000);
    assert_eq!(rig.orders.keys().collect::<Vec<_>>(), ["c"]);
}

#[test]
fn a_purge_is_not_begun_before_a_while_has_passed() {
    let mut rig = rig(&["a", "b"]);
    rig.purged("a");
    rig.orders.clear();
    rig.weigh(3.0);
    rig.live(9_000);
    assert!(rig.orders.is_empty());
    rig.live(3_000);
    assert_eq!(rig.orders.keys().collect::<Vec<_>>(), ["b"]);
}

#[test]
fn a_node_that_gets_slots_back_before_its_purge_is_flushed_first() {
    let mut rig = rig(&["a", "b"]);
    rig.purged("a");
    rig.weigh(3.0);
    rig.live(2_000);
    let written = rig.written.len();
    rig.weigh(1.0);
    rig.live(1_000);
    assert_eq!(rig.shown("a").weight, 3.0);
    assert_eq!(rig.flushes["b"].1, Scope::Clients);
    assert!(!rig.flushes.contains_key("a"), "it only loses some");
    assert_eq!(rig.written.len(), written);
    assert_eq!(rig.flushed("b"), Scope::Clients);
    assert_eq!(rig.shown("a").weight, 1.0);
}

#[test]
fn a_node_that_goes_down_does_not_wait_for_new_homes() {
    let mut rig = rig(&["a", "b", "c"]);
    rig.purged("a");
    rig.purged("b");
    rig.weigh(3.0);
    rig.weigh(1.0);
    rig.wait(1_000);
    assert!(rig.flushes.is_empty() && rig.shown("a").weight == 3.0, "proxies have not confirmed");
    rig.hear(AgentBusMessage::NodeLeaving { name: "c".to_owned(), run_id: None });
    rig.wait(options_settled());
    assert_eq!((rig.flushed("a"), rig.flushed("b")), (Scope::Guests, Scope::Guests));
    assert!(!rig.shown_up("c"));
    assert_eq!(rig.shown("a").weight, 3.0);
}

#[test]
fn a_node_that_gets_slots_back_is_flushed_only_when_proxies_have_confirmed_that_it_lost_them() {
    let mut rig = rig(&["a", "b"]);
    rig.purged("a");
    rig.weigh(3.0);
    rig.weigh(1.0);
    rig.wait(5_000);
    assert!(!rig.flushes.contains_key("b"), "{:?}", rig.flushes);
    rig.answers.clear();
    rig.say(Wish::Weight { weight: 1.0 });
    let now_ms = rig.now_ms;
    rig.hear(AgentBusMessage::NodeWish {
        id: format!("{:?} {now_ms}", Wish::Weight { weight: 1.0 }),
        name: "a".to_owned(),
        wish: Wish::Weight { weight: 1.0 },
    });
    let Some(WishAnswer::Taken { waits_for }) = rig.answers.last() else { panic!("{:?}", rig.answers) };
    assert!(waits_for.contains("proxies to confirm"), "{waits_for}");
    rig.live(2_000);
    assert_eq!(rig.flushed("b"), Scope::Clients);
    rig.wait(options_settled());
    assert_eq!(rig.shown("a").weight, 1.0);
    assert!(rig.told("node b gets slots back before it was purged"));
}

#[test]
fn a_node_that_purged_gets_slots_back_as_it_is() {
    let mut rig = rig(&["a", "b"]);
    rig.purged("a");
    rig.weigh(3.0);
    rig.live(20_000);
    rig.purged("b");
    rig.weigh(1.0);
    assert_eq!(rig.shown("a").weight, 1.0);
    assert!(!rig.flushes.contains_key("b"));
}

#[test]
fn new_homes_that_give_nobody_slots_back_wait_for_nothing() {
    let mut rig = rig(&["a", "b", "c"]);
    rig.purged("a");
    rig.purged("b");
    rig.weigh(3.0);
    // b and c lost to a; now d comes, and takes from all.
    rig.join("d");
    assert!(rig.shown_up("d") && rig.flushes.is_empty(), "{:?}", rig.flushes);
}

#[test]
fn guests_are_flushed_before_weights_change_while_a_node_is_down() {
    let mut rig = rig(&["a", "b", "c"]);
    rig.purged("a");
    rig.purged("b");
    rig.hear(AgentBusMessage::NodeLeaving { name: "c".to_owned(), run_id: None });
    rig.flushed("a");
    rig.flushed("b");
    rig.wait(1_000);
    rig.say(Wish::Weight { weight: 2.0 });
    rig.wait(options_settled());
    assert_eq!(rig.shown("a").weight, 1.0);
    assert_eq!((rig.flushed("a"), rig.flushed("b")), (Scope::Guests, Scope::Guests));
    assert_eq!(rig.shown("a").weight, 2.0);
}

/// Another comes to lead after `b` has lost slots, and gives them back to it: whether that flushes it first, where it has purged them or not.
fn is_flushed_by_the_next_leader(purged: bool) -> bool {
    let mut rig = rig(&["a", "b"]);
    rig.purged("a");
    rig.weigh(3.0);
    rig.live(20_000);
    rig.purged("b");
    let orders = rig.orders.clone();
    let mut other = Rig::idle(options());
    (other.stored, other.rehomed) = (rig.stored.clone(), rig.rehomed);
    other.orders = orders;
    other.connect_master();
    other.open("a", "a1");
    other.open("b", "b1");
    other.live(16_000);
    if purged {
        other.purged("b");
    }
    other.weigh(1.0);
    other.flushes.contains_key("b")
}

#[test]
fn a_new_leader_knows_from_the_master_and_the_agents_what_was_purged() {
    assert!(!is_flushed_by_the_next_leader(true));
    assert!(is_flushed_by_the_next_leader(false));
    assert!(!flaw::with(Flaw::ForgetsWhoLostSlots, || is_flushed_by_the_next_leader(false)));
}

#[test]
fn a_node_that_lost_slots_while_it_was_down_is_purged_unless_it_was_emptied_when_all_proxies_knew() {
    for confirmed in [true, false] {
        let mut rig = rig(&["a", "b"]);
        rig.purged("a");
        rig.kill("b");
        rig.flushed("a");
        rig.wait(options_settled());
        assert!(!rig.shown_up("b"), "{:?}", rig.stored);
        rig.weigh(3.0);
        let changed = rig.stored.1.unwrap();
        assert_eq!((rig.shown("a").weight, rig.rehomed), (3.0, Some(changed)));
        if confirmed {
            rig.live(5_000);
        }
        // Until then a proxy may write to the new process, too, by the map in which it was up.
        rig.announce("b");
        rig.open("b", "b2");
        rig.wait(options_settled());
        assert_eq!(rig.flushed("b"), Scope::All);
        rig.live(20_000);
        assert!(rig.shown_up("b"));
        assert_eq!(rig.orders.get("b"), Some(&changed).filter(|_| !confirmed));
    }
}

/// Node b loses slots to a, and there is time to tell it to purge them. Returns the map before that, too.
fn b_loses_slots() -> (Rig, Epoch) {
    let mut rig = rig(&["a", "b"]);
    rig.purged("a");
    let before = rig.stored.1.unwrap();
    rig.weigh(3.0);
    rig.live(20_000);
    (rig, before)
}

/// Proxy q turns up that has gone by the old homes all the while. Whether b is told to purge once more when it has confirmed.
fn purges_once_more() -> bool {
    let (mut rig, before) = b_loses_slots();
    let changed = rig.rehomed;
    rig.purged("b");
    rig.orders.clear();
    rig.proxies.insert("q".to_owned(), Confirmation { epoch: rig.stored.1.unwrap(), beat: 1, least: before });
    rig.live(8_000);
    let again = rig.stored.1.unwrap();
    assert_eq!(rig.rehomed > changed, rig.told("a proxy was out of touch"), "it is a map to be confirmed, whoever leads");
    assert_eq!(rig.rehomed, Some(again));
    rig.proxies.insert("q".to_owned(), Confirmation { epoch: again, beat: 2, least: before });
    rig.live(12_000);
    rig.orders.get("b") == Some(&again)
}

#[test]
fn a_proxy_that_was_out_of_touch_has_nodes_purged_once_more() {
    assert!(purges_once_more());
    assert!(!flaw::with(Flaw::LaggardsTrusted, purges_once_more));
}

/// Proxy q turns up when b has been told to purge, and may have done so already: what comes of that says nothing of what q wrote since.
/// Whether it counts.
fn counts_what_was_begun_before(mut rig: Rig, before: Epoch) -> bool {
    rig.proxies.insert("q".to_owned(), Confirmation { epoch: rig.stored.1.unwrap(), beat: 1, least: before });
    rig.live(8_000);
    assert!(rig.told("a proxy was out of touch"));
    let again = rig.stored.1.unwrap();
    rig.purged("b");
    let counts = rig.told("node b has purged");
    rig.proxies.insert("q".to_owned(), Confirmation { epoch: again, beat: 2, least: before });
    rig.live(12_000);
    assert_eq!(rig.orders.get("b"), Some(&again));
    rig.purged("b");
    assert!(rig.told("node b has purged"));
    counts
}

#[test]
fn a_purge_that_was_begun_before_a_proxy_turned_up_has_to_be_done_again() {
    let (rig, before) = b_loses_slots();
    assert_eq!(rig.orders.get("b").copied(), rig.rehomed);
    // Another comes to lead, who does not know what b has begun.
    let mut other = Rig::idle(options());
    (other.stored, other.rehomed, other.orders) = (rig.stored.clone(), rig.rehomed, rig.orders.clone());
    other.connect_master();
    other.open("a", "a1");
    other.open("b", "b1");
    other.confirm();
    assert!(!counts_what_was_begun_before(rig, before));
    assert!(!counts_what_was_begun_before(other, before));
}

#[test]
fn a_proxy_that_lives_and_stays_behind_is_made_up_for_once_in_a_grace_period() {
    let (mut rig, before) = b_loses_slots();
    rig.purged("b");
    let written = rig.written.len();
    for beat in 0..20 {
        rig.proxies.insert("q".to_owned(), Confirmation { epoch: before, beat, least: before });
        rig.live(1_000);
    }
    let again = rig.written.len() - written;
    assert!((1..=2 + 20_000 / GRACE_MS as usize).contains(&again), "{again} maps, and it spoke 20 times");
}

/// The same as before, while a map is on its way that had to be written anew for another reason.
#[test]
fn a_proxy_that_turns_up_while_a_map_is_on_its_way_has_it_written_once_more() {
    let (mut rig, before) = b_loses_slots();
    rig.purged("b");
    rig.orders.clear();
    // Somebody empties the node set.
    rig.stored.0.clear();
    rig.hold_writes = true;
    rig.wait(options().lease_interval_ms);
    assert!(rig.write.is_some());
    rig.proxies.insert("q".to_owned(), Confirmation { epoch: rig.stored.1.unwrap(), beat: 1, least: before });
    rig.wait(5_000);
    assert!(rig.told("a proxy was out of touch"));
    rig.release_write();
    let again = rig.stored.1;
    assert_eq!(rig.rehomed, again);
    rig.proxies.insert("q".to_owned(), Confirmation { epoch: again.unwrap(), beat: 2, least: before });
    rig.live(12_000);
    assert_eq!(rig.orders.get("b"), again.as_ref());
}

#[test]
fn old_placements_have_no_slots_to_purge() {
    let mut rig = Rig::with(Options { guest_databases: false, ..options() }, &["a", "b"]);
    rig.live(20_000);
    rig.weigh(3.0);
    rig.weigh(1.0);
    assert_eq!(rig.shown("a").weight, 1.0);
    rig.live(20_000);
    assert!(rig.orders.is_empty() && rig.flushes.is_empty() && rig.proxies.contains_key("p"));
}

#[test]
fn a_map_that_is_written_back_from_memory_vouches_for_nothing() {
    let mut rig = rig(&["a", "b"]);
    rig.purged("a");
    rig.weigh(3.0);
    rig.live(20_000);
    rig.purged("b");
    rig.orders.clear();
    // Another may have led meanwhile, and changed homes; the master has forgotten that too.
    rig.step(Event::MasterDown { reason: "reset".to_owned() });
    (rig.stored, rig.rehomed) = ((NodeMap::new(), None), None);
    rig.connect_master();
    let written_back = rig.stored.1.unwrap();
    rig.live(25_000);
    assert_eq!(rig.orders.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert!(rig.orders.values().all(|order| *order >= written_back), "{:?}", rig.orders);
}

#[test]
fn nor_does_it_for_whoever_leads_next() {
    let mut rig = rig(&["a", "b"]);
    rig.purged("a");
    rig.weigh(3.0);
    rig.live(20_000);
    rig.purged("b");
    rig.step(Event::MasterDown { reason: "reset".to_owned() });
    (rig.stored, rig.rehomed) = ((NodeMap::new(), None), None);
    rig.connect_master();
    // What agents have purged is what the map before gave keys new homes by.
    let mut other = Rig::idle(options());
    (other.stored, other.rehomed) = (rig.stored.clone(), rig.rehomed);
    other.orders = rig.orders.clone();
    other.connect_master();
    for name in ["a", "b"] {
        other.open(name, &format!("{name}1"));
        other.purged(name);
    }
    other.live(GRACE_MS);
    other.weigh(1.0);
    assert_eq!(other.flushes.get("b").map(|(_, scope)| *scope), Some(Scope::Clients), "it gets slots back");
}
