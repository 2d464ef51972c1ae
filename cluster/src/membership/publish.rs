//! What is published: when the next map may be written, what has to be flushed before, and what follows once the master has it.

use std::collections::BTreeMap;

use super::{
    Action, Change, MapWrite, Membership, Notice, Now, Pending, RequestId, Role, What, WriteAnswer,
    member::{Cause, Member, Published},
};
use crate::{
    contract::{EPOCH_MAX, Epoch, MapDelta, NodeMap},
    delta::same_but_for_ping,
    flaw::{self, Flaw},
};

/// A map on its way to the master.
#[derive(Debug)]
pub(super) struct Writing {
    pub(super) request: RequestId,
    /// Run id of the master that it was sent to.
    pub(super) master_run_id: Option<String>,
    pub(super) epoch: Epoch,
    pub(super) map: NodeMap,
    pub(super) changes: Vec<(String, What, u64)>,
    /// The map was written whole.
    pub(super) replaces: bool,
    /// See [`MapWrite::rehomed`].
    pub(super) rehomed: Epoch,
}

impl Membership {
    /// From when guest databases may be flushed for the nodes that go down; `None` where none does, or none need be.
    pub(super) fn guest_flush_from_ms(&self) -> Option<u64> {
        let writing = self.book.writing.is_some() && !flaw::has(Flaw::GuestsFlushedWhileWriting);
        if !self.book.leading || !self.book.options.guest_databases || writing || flaw::has(Flaw::NoGuestFlush) {
            return None;
        }
        // Readers that have not yet taken up the map that showed a node up may still write its keys to guests.
        let down_ms = self.members.values().filter(|member| member.goes_down()).map(|member| member.shown_at_ms);
        let reweighed_ms = self.guests_may_come_back().then_some(self.book.published_at_ms);
        let since_ms = down_ms.chain(reweighed_ms).max()?;
        if flaw::has(Flaw::GuestsFlushedTooSoon) {
            return Some(0);
        }
        Some(since_ms.max(self.book.rewritten_at_ms) + self.book.options.settle_ms)
    }

    /// Weights are to change while a node is down: slots may come back to nodes that kept guests of theirs before.
    fn guests_may_come_back(&self) -> bool {
        !flaw::has(Flaw::WeightsChangeAmongGuests)
            && self.book.reweighed
            && self.members.values().any(|member| member.listed && !member.is_up())
    }

    pub(super) fn flush_guests(&mut self, now: Now) {
        let Some(from_ms) = self.guest_flush_from_ms() else { return };
        if now.mono_ms < from_ms {
            return;
        }
        let book = &mut self.book;
        for member in self.members.values_mut() {
            if member.is_up() && !member.guests_flushed(book) {
                member.flush_guests(now, book);
            }
        }
    }

    /// All nodes that were up, and more than one, went silent since the last map, and nobody else answers either.
    fn nothing_but_silence(&self) -> bool {
        if flaw::has(Flaw::BelievesSilenceOfAll) {
            return false;
        }
        let mut gone = 0;
        for member in self.members.values() {
            if member.is_up() || member.answers() {
                return false;
            }
            if member.published == Published::Up {
                if !member.cause().is_some_and(Cause::silent) {
                    return false;
                }
                gone += 1;
            }
        }
        gone > 1
    }

    pub(super) fn write_back(&mut self, now: Now) {
        if std::mem::take(&mut self.book.writes_back) {
            let map = self.book.base.clone();
            self.send(map, Vec::new(), true, now);
        }
    }

    pub(super) fn write(&mut self, now: Now) {
        if self.book.writing.is_some() || (self.book.pending.is_empty() && !self.book.rewrite) {
            return;
        }
        // If the lease turns out to have been lost and gained anew, somebody may have changed the map in between.
        if self.lease.asked.is_some() && !flaw::has(Flaw::WritesWhileLeaseInDoubt) {
            return;
        }
        if self.book.writes_back {
            // Whatever has changed since, or is not known yet.
            return self.write_back(now);
        }
        let goes_down = self.guests_may_come_back() || self.members.values().any(Member::goes_down);
        let unflushed = |member: &Member| member.is_up() && !member.guests_flushed(&self.book);
        let goes_down = goes_down && !flaw::has(Flaw::NoGuestFlush);
        if goes_down && self.book.options.guest_databases && self.members.values().any(unflushed) {
            return;
        }
        // A new leader has not yet looked at everyone.
        if self.book.rewrite && self.members.values().any(Member::in_doubt) {
            return;
        }
        if self.nothing_but_silence() {
            if !std::mem::replace(&mut self.book.all_silent_told, true) {
                let nodes = self.members.values().filter(|member| member.published == Published::Up).count();
                self.book.notice(Notice::AllSilent { nodes });
            }
            return;
        }
        self.book.all_silent_told = false;
        let wanted: NodeMap = self.members.iter().filter_map(|(name, member)| Some((name.clone(), member.shown()?))).collect();
        let (map, held_back) = self.with_homes_held_back(wanted);
        let differs = |name: &str| match (map.get(name), self.book.base.get(name)) {
            (Some(new), Some(old)) => !same_but_for_ping(new, old),
            (new, old) => new.is_some() != old.is_some(),
        };
        let mut changes = Vec::new();
        let mut waiting = BTreeMap::new();
        for (name, pending) in std::mem::take(&mut self.book.pending) {
            if held_back.contains(&name) {
                waiting.insert(name.clone(), Pending { what: pending.what.clone(), since_ms: pending.since_ms });
            }
            if differs(&name) {
                changes.push((name, pending.what, pending.since_ms));
            }
        }
        self.book.pending = waiting;
        if !changes.is_empty() || self.book.rewrite {
            self.send(map, changes, self.book.rewrite, now);
        }
    }

    fn send(&mut self, map: NodeMap, changes: Vec<(String, What, u64)>, replace: bool, now: Now) {
        let (changed, removed) = if replace {
            (map.keys().cloned().collect(), Vec::new())
        } else {
            changes.iter().map(|(name, ..)| name.clone()).partition(|name| map.contains_key(name))
        };
        let request = self.book.id();
        let by_clock = if flaw::has(Flaw::EpochFromMemoryAlone) { 0 } else { now.unix_ms.min(EPOCH_MAX / 2) };
        let known = if replace { self.book.epoch } else { self.book.base_epoch };
        let epoch = (self.book.epoch + 1).max(by_clock);
        self.book.epoch = epoch;
        let token = self.token();
        let expected = (!replace).then_some(self.book.base.len());
        let rehomed = self.book.homes.changed_with(&map, epoch);
        // For readers that hold what was last published, however much of the hash is written.
        let delta = MapDelta::between(&self.book.base, self.book.base_epoch, &map, epoch);
        let write = MapWrite { request, token, epoch, known, expected, changed, removed, map: map.clone(), rehomed, delta };
        self.book.push(Action::Write(write));
        let master_run_id = self.book.master_run_id.clone();
        self.book.writing = Some(Writing { request, master_run_id, epoch, map, changes, replaces: replace, rehomed });
    }

    pub(super) fn wrote(&mut self, request: RequestId, answer: WriteAnswer, now: Now) {
        let Some(writing) = self.book.writing.take_if(|writing| writing.request == request) else { return };
        match answer {
            WriteAnswer::Done => self.written(writing, now),
            WriteAnswer::Fenced => {
                self.lease.role = Role::Standby;
                self.lease.until_ms = 0;
                self.lease.next_at_ms = now.mono_ms;
            }
            WriteAnswer::Stale { stored } => {
                self.book.notice(Notice::MasterChanged);
                self.book.epoch = self.book.epoch.max(stored.min(EPOCH_MAX));
                self.book.rewrite = true;
                for (name, what, since_ms) in writing.changes {
                    self.book.pending.entry(name).or_insert(Pending { what, since_ms });
                }
            }
        }
    }

    fn written(&mut self, writing: Writing, now: Now) {
        let Writing { epoch, map, changes, replaces, rehomed, .. } = writing;
        let book = &mut self.book;
        // Readers take no empty map, so this is the first that they see of ours; what was emptied before they did may be in use.
        let is_first = book.base.is_empty() && !map.is_empty();
        if replaces || is_first {
            (book.rewritten_at_ms, book.rewritten_epoch) = (now.mono_ms, epoch);
        }
        book.rewrite &= !replaces;
        book.touched = true;
        book.published_at_ms = now.mono_ms;
        for (name, member) in &mut self.members {
            let published = match map.get(name) {
                None => Published::Absent,
                Some(node) if node.up => Published::Up,
                Some(_) => Published::Down,
            };
            if let Some(node) = map.get(name) {
                member.published_change_unix_ms = node.state_change_time;
            }
            if is_first && published == Published::Absent {
                member.join_anew(now);
            }
            if published != member.published {
                member.published = published;
                (member.shown_at_ms, member.shown_epoch) = (now.mono_ms, epoch);
                if published == Published::Up && !member.is_up() {
                    // It went down while this was on its way. What guests hold from before is older than this map.
                    if !flaw::has(Flaw::LateUpNeedsNoFlush) {
                        book.guest_need += 1;
                    }
                }
            }
        }
        let told = changes
            .into_iter()
            .map(|(name, what, since_ms)| Change { name, what, took_ms: now.mono_ms.saturating_sub(since_ms) })
            .collect();
        let up = map.values().filter(|node| node.up).count();
        book.notice(Notice::Published { epoch, changes: told, up, nodes: map.len() });
        book.forgotten.extend(book.base.keys().filter(|name| !map.contains_key(*name)).cloned());
        book.base_epoch = epoch;
        book.base = map;
        self.follow_homes(rehomed, now);
    }
}
