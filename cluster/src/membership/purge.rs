//! What has to be done about keys whose slot has another home now: nodes are told to purge them, and a node that gets such a slot back
//! before it did is flushed first.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Action, Membership, Notice, Now, RequestId, Role,
    options::{ORDER_AGAIN_MS, ORDERS_MAX, PROXIES_IDLE_INTERVAL_MS},
};
use crate::{
    contract::{Confirmation, Epoch, Node, NodeMap},
    flaw::{self, Flaw},
};

impl Membership {
    /// The base is a map that was read, and what was published before it is not known for sure.
    pub(super) fn resume_homes(&mut self, rehomed: Option<Epoch>, now: Now) {
        let book = &mut self.book;
        if !book.options.guest_databases || book.base.is_empty() || flaw::has(Flaw::ForgetsWhoLostSlots) {
            return;
        }
        match rehomed {
            Some(changed) => book.homes.resume(&book.base, changed, now.mono_ms),
            // The master has forgotten, or an old coordinator wrote: if it is the map that we know, so is what came before it.
            None if book.homes.is_of(&book.base) => {}
            None => book.homes.resume(&book.base, book.base_epoch, now.mono_ms),
        }
    }

    /// The base is a map that was heard.
    pub(super) fn hear_homes(&mut self, now: Now) {
        let book = &mut self.book;
        if book.options.guest_databases && !book.base.is_empty() {
            if self.lease.missed {
                // Maps before it may have been missed.
                book.homes.resume(&book.base, book.base_epoch, now.mono_ms);
            } else {
                book.homes.follow(&book.base, book.base_epoch, book.base_epoch, now.mono_ms);
            }
        }
    }

    /// The base is a map that we wrote, with this epoch beside it as that of the last which gave keys new homes.
    pub(super) fn follow_homes(&mut self, rehomed: Epoch, now: Now) {
        let book = &mut self.book;
        if !book.options.guest_databases {
            return;
        }
        book.homes.follow(&book.base, book.base_epoch, rehomed, now.mono_ms);
        // A proxy that was out of touch turned up while this map was on its way.
        book.rewrite |= book.homes.lose_by_next_map();
        let weight_in_map = |name: &str| book.base.get(name).map(|node| node.weight);
        let waits = |(name, member): (&String, &super::Member)| {
            member.listed && weight_in_map(name).is_some_and(|weight| weight != member.weight)
        };
        book.reweighed = self.members.iter().any(waits);
        if book.reweighed {
            // Whoever became a guest's host by this map may have become that of another's too.
            book.guest_need += 1;
        }
    }

    /// The map that may be published now, and the names of the nodes that it does not show as wanted: homes stay as they are while a
    /// node that would get slots back may still have keys of theirs. All else need not wait for that.
    pub(super) fn with_homes_held_back(&mut self, wanted: NodeMap) -> (NodeMap, BTreeSet<String>) {
        let book = &mut self.book;
        if !book.options.guest_databases {
            return (wanted, BTreeSet::new());
        }
        book.homes.unclean = book.homes.propose(&wanted);
        if book.homes.unclean.is_empty() || flaw::has(Flaw::HomesComeBackUnclean) {
            return (wanted, BTreeSet::new());
        }
        let mut map = NodeMap::new();
        for (name, node) in &wanted {
            if let Some(before) = book.base.get(name) {
                let mut node = Node { weight: before.weight, ..node.clone() };
                node.upkeep.announced_weight = before.upkeep.announced_weight;
                map.insert(name.clone(), node);
            }
        }
        for (name, before) in &book.base {
            map.entry(name.clone()).or_insert_with(|| Node { up: false, ..before.clone() });
        }
        let names: BTreeSet<_> = wanted.keys().chain(book.base.keys()).cloned().collect();
        let held_back = names.into_iter().filter(|name| wanted.get(name) != map.get(name)).collect();
        (map, held_back)
    }

    pub(super) fn proxies_read(&mut self, request: RequestId, proxies: BTreeMap<String, Confirmation>, now: Now) {
        let Some((_, asked_ms)) = self.book.listing.take_if(|(listing, _)| *listing == request) else { return };
        let book = &mut self.book;
        let heard = book.proxies.listed(proxies, asked_ms, now.mono_ms, book.options.proxy_grace_ms);
        if !heard.gone.is_empty() {
            book.push(Action::DropProxies { ids: heard.gone });
        }
        if heard.greatest > book.epoch && !flaw::has(Flaw::TrustsForeignMaps) {
            return self.outdone(heard.greatest, now);
        }
        if let Some(epoch) = heard.laggard
            && !flaw::has(Flaw::LaggardsTrusted)
            && book.homes.mistrust(epoch)
        {
            book.notice(Notice::Laggard { epoch });
            book.rewrite = true;
        }
    }

    /// Has nodes flushed that must be, and purged that may be.
    pub(super) fn look_after_homes(&mut self, now: Now) {
        if !self.book.options.guest_databases || self.lease.role != Role::Leading {
            return;
        }
        self.list_proxies(now);
        let unclean: Vec<_> = self.book.homes.unclean.iter().cloned().collect();
        for name in unclean {
            if let Some(through) = self.book.may_clear(&name, now) {
                self.with(&name, |member, book| member.clear(through, now, book));
            }
        }
        self.order_purges(now);
    }

    fn list_proxies(&mut self, now: Now) {
        let options = &self.book.options;
        let is_waited_for = || self.book.homes.unpurged().next().is_some() || !self.book.proxies.is_complete(now.mono_ms);
        let pause_ms = if self.members.values().any(|member| member.awaits_proxies(now, &self.book)) {
            // A node's keys wait for it.
            options.settle_ms.min(options.proxies_interval_ms)
        } else if is_waited_for() {
            options.proxies_interval_ms
        } else {
            PROXIES_IDLE_INTERVAL_MS
        };
        if self.book.listing.is_some() || now.mono_ms < self.book.listed_at_ms + pause_ms {
            return;
        }
        let request = self.book.id();
        self.book.listing = Some((request, now.mono_ms));
        self.book.listed_at_ms = now.mono_ms;
        self.book.push(Action::ReadProxies { request });
    }

    fn order_purges(&mut self, now: Now) {
        if now.mono_ms < self.book.next_orders_ms {
            return;
        }
        let after_ms = self.book.options.purge_after_ms;
        let is_due = |(name, ordered_at_ms): &(&str, Option<u64>)| {
            let is_shown_up = self.book.base.get(*name).is_some_and(|node| node.up);
            is_shown_up && ordered_at_ms.is_none_or(|at_ms| now.mono_ms >= at_ms + ORDER_AGAIN_MS)
        };
        let due: Vec<String> = self.book.homes.unpurged().filter(is_due).map(|(name, _)| name.to_owned()).collect();
        let mut orders = Vec::new();
        for name in due {
            if orders.len() == ORDERS_MAX {
                break;
            }
            let is_early = self.book.homes.lost(&name).is_none_or(|(_, since_ms)| now.mono_ms < since_ms + after_ms);
            if is_early {
                continue;
            }
            if let Some(order) = self.book.begin_to_clear(&name, now) {
                self.book.homes.ordered(&name, now.mono_ms);
                orders.push((name, order));
            }
        }
        if !orders.is_empty() {
            self.book.next_orders_ms = now.mono_ms + self.book.options.proxies_interval_ms;
        }
        let forgotten = std::mem::take(&mut self.book.forgotten);
        if !orders.is_empty() || !forgotten.is_empty() {
            let token = self.token();
            self.book.push(Action::OrderPurge { token, orders, forgotten });
        }
    }
}

impl super::Book {
    /// Up to which map's losses a flush or a purge of the node makes up, if it begins now; `None` while some proxy could still write
    /// what the node has lost, or where there is nothing to make up for.
    pub(super) fn may_clear(&self, name: &str, now: Now) -> Option<Epoch> {
        let (since, since_ms) = self.homes.lost(name)?;
        let confirmed = self.proxies.confirm(since, since_ms, now.mono_ms, self.options.proxy_grace_ms);
        (confirmed || flaw::has(Flaw::ClearedUnconfirmed)).then_some(since)
    }

    /// As [`Self::may_clear`]; from now on who turns up and may have written there undoes it.
    pub(super) fn begin_to_clear(&mut self, name: &str, now: Now) -> Option<Epoch> {
        let through = self.may_clear(name, now)?;
        self.homes.begun(name);
        Some(through)
    }
}
