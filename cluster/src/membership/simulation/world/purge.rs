//! Agents that purge what they are told to, key by key.

use super::{What, World, proxy::home};
use crate::{
    contract::Epoch,
    flaw::{self, Flaw},
    membership::simulation::reads::KEYS,
};

impl World {
    /// The agent looks for an order, which it has not carried out on this process.
    pub(super) fn obey(&mut self, node: usize) {
        let there = &self.nodes[node];
        let (Some(run_id), Some(order)) = (there.run_id.clone(), self.master.orders.get(&there.name).copied()) else { return };
        let is_done = |done: &Option<(String, Epoch)>| done.as_ref().is_some_and(|(of, done)| *of == run_id && *done >= order);
        if is_done(&there.purged) || is_done(&there.purging) {
            return;
        }
        self.note(|| format!("n{node} purges by order {order}"));
        self.nodes[node].purging = Some((run_id.clone(), order));
        if flaw::has(Flaw::PurgesByOldMap) {
            self.nodes[node].purging_by = Some(std::array::from_fn(|key| home(&self.master.hash, key).cloned()));
        }
        let at_ms = self.now_ms + self.random.below(self.paces.purge_ms);
        self.after(at_ms, 0, What::PurgeLooks { node, run_id, order, key: 0 });
    }

    /// The agent has met a key, and looks whether it is at home by the map that stands.
    pub(super) fn purge_looks(&mut self, node: usize, run_id: String, order: Epoch, key: usize) {
        let there = &self.nodes[node];
        let held_ms = there.paused_until_ms.max(there.silent_until_ms).max(self.master.hung_until_ms);
        let is_readable = self.master.up && held_ms <= self.now_ms && self.master.epoch.is_some_and(|epoch| epoch >= order);
        let is_known = self.master.hash.contains_key(&there.name);
        if there.run_id.as_ref() != Some(&run_id) || !is_readable || !is_known {
            // It is begun anew with the next announcement.
            self.nodes[node].purging = None;
            return;
        }
        let is_at_home = match &there.purging_by {
            Some(homes) if flaw::has(Flaw::PurgesByOldMap) => homes[key].as_ref() == Some(&there.name),
            _ => home(&self.master.hash, key) == Some(&there.name),
        };
        if is_at_home {
            return self.purge_next(node, run_id, order, key);
        }
        let at_ms = self.now_ms + self.latency();
        self.after(at_ms, 0, What::PurgeRemoves { node, run_id, order, key, by: self.master.epoch });
    }

    /// The agent removes a key that was not at home by the map that stood when it looked.
    pub(super) fn purge_removes(&mut self, node: usize, run_id: &str, order: Epoch, key: usize, by: Option<Epoch>) {
        let there = &mut self.nodes[node];
        if there.run_id.as_deref() != Some(run_id) || there.paused_until_ms > self.now_ms {
            there.purging = None;
            return;
        }
        there.store.remove(key);
        self.key_homes.removed(node as u8, key);
        // It may have come home since, or before by a map that the master has lost.
        if by != Some(self.checker.published().0) {
            self.may_lose_keys(node);
        }
        self.purge_next(node, run_id.to_owned(), order, key);
    }

    fn purge_next(&mut self, node: usize, run_id: String, order: Epoch, key: usize) {
        if key + 1 < KEYS {
            let at_ms = self.now_ms + self.random.below(self.paces.purge_ms);
            return self.after(at_ms, 0, What::PurgeLooks { node, run_id, order, key: key + 1 });
        }
        self.note(|| format!("n{node} has purged by order {order}"));
        let there = &mut self.nodes[node];
        there.purging = None;
        there.purges += 1;
        there.purged = Some((run_id, order));
    }
}
