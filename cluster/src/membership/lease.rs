//! Who leads: the lease, and what a new leader, one who was deposed, and one who stands by take from the master's map.

use super::{
    Action, LeaseAnswer, Membership, Notice, Now, RequestId, Told, health::Health, lease_token, member::Member, options,
};
use crate::{
    contract::{EPOCH_MAX, Epoch, MapDelta, NodeMap},
    delta::check,
    flaw::{self, Flaw},
};

/// What a coordinator is with regard to the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The lease is not ours, or not known to be.
    Standby,
    /// The lease is ours, the map is being read.
    Reading(RequestId),
    Leading,
    Stopped,
}

/// The lease as far as we know, and how we stand to it.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) role: Role,
    /// Counts our tokens. A new one fences whatever was sent under the one before.
    pub(super) term: u64,
    /// The lease is ours until then, as far as we know.
    pub(super) until_ms: u64,
    pub(super) next_at_ms: u64,
    pub(super) asked: Option<(RequestId, u64)>,
    /// Maps may have been published that were not heard.
    pub(super) missed: bool,
    /// A read of the map for memory's sake, as a standby.
    pub(super) remembering: Option<RequestId>,
    /// Since when one who does not remember the last map lets others lead first; `None` while it is not known whether the master has a map.
    pub(super) yields_since_ms: Option<u64>,
    /// Connections to nodes are kept: we lead, or may lead again in a moment.
    pub(super) watching: bool,
    /// They are kept to see who is there, before we lead.
    pub(super) looking: bool,
    pub(super) told: Option<bool>,
    pub(super) health: Health,
}

impl Default for Lease {
    /// That of one who has just started: not ours.
    fn default() -> Self {
        Lease {
            role: Role::Standby,
            term: 1,
            until_ms: 0,
            next_at_ms: 0,
            asked: None,
            missed: true,
            remembering: None,
            yields_since_ms: None,
            watching: false,
            looking: false,
            told: None,
            health: Health::default(),
        }
    }
}

impl Lease {
    /// Connections to nodes are kept, for one reason or the other.
    pub(super) fn keeps_links(&self) -> bool {
        self.watching || self.looking
    }
}

impl Membership {
    pub(super) fn token(&self) -> String {
        lease_token(&self.instance, self.lease.term)
    }

    pub(super) fn master_up(&mut self, run_id: Option<String>, now: Now) {
        if !self.book.master_up && self.lease.told.is_some() {
            self.book.notice(Notice::MasterBack);
        }
        self.book.master_up = true;
        if run_id.is_none() || run_id != self.book.master_run_id {
            // Proxies have told another process, or none.
            self.book.proxies.are_unknown_until(now.mono_ms + self.book.options.proxy_grace_ms);
        }
        self.book.master_run_id = run_id;
        self.book.touched = true;
        // What agents said meanwhile was not heard.
        if let Some(since_ms) = &mut self.book.bus_up_since_ms {
            *since_ms = now.mono_ms;
        }
        self.lease.next_at_ms = now.mono_ms;
        self.lease.yields_since_ms = None;
    }

    pub(super) fn master_down(&mut self, reason: String, now: Now) {
        self.book.master_up = false;
        self.book.touched = true;
        self.lease.missed |= self.lease.remembering.take().is_some();
        self.book.notice(Notice::MasterLost { reason });
        self.begin_term(now);
    }

    /// The outcome of what is under way will not be known: a write may have landed or may yet, the lease may have been lost and
    /// taken anew behind our back. Under a new token nothing of it can happen once the map has been read again.
    pub(super) fn begin_term(&mut self, now: Now) {
        self.lease.asked = None;
        self.book.listing = None;
        self.book.doubt_write();
        if !flaw::has(Flaw::KeepsToken) {
            self.lease.term += 1;
        }
        self.lease.role = Role::Standby;
        self.lease.until_ms = 0;
        self.lease.next_at_ms = now.mono_ms + self.book.options.lease_interval_ms;
    }

    /// Somebody else led, at a master that was cut off or that has lost the last maps since: some readers go by a map that is later than any that
    /// we know of, and would take none of ours. Nobody can tell what it said, so all begins anew, from a map with a greater epoch.
    pub(super) fn outdone(&mut self, epoch: Epoch, now: Now) {
        self.book.epoch = self.book.epoch.max(epoch);
        self.book.outdone = Some(epoch);
        self.begin_term(now);
        self.lease.next_at_ms = now.mono_ms;
    }

    pub(super) fn ask_for_lease(&mut self, now: Now) {
        if !self.book.master_up || self.lease.asked.is_some() || now.mono_ms < self.lease.next_at_ms || self.yields(now) {
            return;
        }
        let request = self.book.id();
        self.lease.asked = Some((request, now.mono_ms));
        self.book.push(Action::Lease {
            request,
            instance: self.instance.clone(),
            term: self.lease.term,
            ttl_ms: self.book.options.lease_ms,
        });
    }

    /// Whether others are to lead first, if there are any: the master has lost the last map, and somebody may be about to connect who
    /// remembers it. It would be written back and nothing lost; we could only have all nodes emptied.
    fn yields(&mut self, now: Now) -> bool {
        let (lease, book) = (&mut self.lease, &mut self.book);
        lease.looking = false;
        let remembers = !book.base.is_empty() && book.heard_epoch <= book.base_epoch;
        if remembers || lease.role != Role::Standby || book.options.yield_ms == 0 || flaw::has(Flaw::LeadsBeforeThoseWhoRemember)
        {
            return false;
        }
        if (lease.missed || lease.yields_since_ms.is_none()) && lease.remembering.is_none() {
            let request = book.id();
            lease.remembering = Some(request);
            lease.missed = false;
            book.push(Action::ReadMap { request });
        }
        // Who is there shows what there is to lose.
        lease.looking = true;
        let Some(since_ms) = lease.yields_since_ms else { return true };
        let mut announced = self.members.values().filter(|member| member.announces(now, book)).peekable();
        let nothing_to_lose = announced.peek().is_some() && announced.all(Member::is_young);
        let until_ms = since_ms + if nothing_to_lose { book.options.yield_ms / 4 } else { book.options.yield_ms };
        if !nothing_to_lose {
            lease.next_at_ms = lease.next_at_ms.max(until_ms.min(now.mono_ms + options::STEP_AT_LEAST_EVERY_MS));
        }
        now.mono_ms < until_ms
    }

    pub(super) fn leased(&mut self, request: RequestId, answer: LeaseAnswer, now: Now) {
        let Some((_, asked_ms)) = self.lease.asked.take_if(|(asked, _)| *asked == request) else { return };
        let interval_ms = self.book.options.lease_interval_ms;
        let answer = match answer {
            LeaseAnswer::Other { .. } if flaw::has(Flaw::NoLease) => {
                LeaseAnswer::Held { gained: false, epoch: Some(self.book.base_epoch), nodes: self.book.base.len() }
            }
            answer => answer,
        };
        match answer {
            LeaseAnswer::Held { gained, epoch, nodes } => {
                self.lease.until_ms = asked_ms + self.book.options.lease_ms;
                self.lease.next_at_ms = asked_ms + interval_ms;
                match self.lease.role {
                    Role::Leading if !gained => {
                        self.lease.health.lease_is_known(now);
                        self.check_master(epoch, nodes);
                    }
                    Role::Reading(_) if !gained => {}
                    _ if flaw::has(Flaw::LeadsUnread) => {
                        self.lease.watching = true;
                        let (map, epoch) = (self.book.base.clone(), self.book.base_epoch);
                        self.lead(map, epoch, None, now);
                    }
                    _ => {
                        let request = self.book.id();
                        self.lease.role = Role::Reading(request);
                        self.lease.watching = true;
                        self.book.doubt_write();
                        self.book.push(Action::ReadMap { request });
                    }
                }
            }
            LeaseAnswer::Other { left_ms } => {
                self.lease.health.lease_is_known(now);
                // A moment after theirs runs out, or when the next try is due, whichever comes first.
                self.lease.next_at_ms = now.mono_ms + left_ms.map_or(interval_ms, |left_ms| (left_ms + 1).min(interval_ms));
                self.stand_by(now);
                if flaw::has(Flaw::NobodyTakesOver) {
                    self.lease.next_at_ms = u64::MAX;
                }
            }
        }
    }

    /// Somebody who is not us, and does not hold our lease, may have changed what stands in the master.
    fn check_master(&mut self, epoch: Option<Epoch>, nodes: usize) {
        let stored = epoch.unwrap_or(0);
        if flaw::has(Flaw::LosesMapWithMaster) {
            return;
        }
        if self.book.rewrite || self.book.writing.is_some() || (stored == self.book.base_epoch && nodes == self.book.base.len()) {
            return;
        }
        self.book.notice(Notice::MasterChanged);
        self.book.epoch = self.book.epoch.max(stored);
        self.book.rewrite = true;
    }

    fn stand_by(&mut self, now: Now) {
        let kept_links = self.lease.keeps_links();
        self.lease.role = Role::Standby;
        (self.lease.watching, self.lease.looking) = (false, false);
        self.lease.until_ms = 0;
        self.book.outdone = None;
        self.book.doubt_write();
        self.book.pending.clear();
        if kept_links {
            for member in self.members.values_mut() {
                member.stand_down(now, &mut self.book);
            }
        }
        if self.lease.told != Some(false) {
            self.book.notice(if self.lease.told == Some(true) { Notice::Deposed } else { Notice::StandsBy });
            self.lease.told = Some(false);
            self.book.touched = true;
        }
        if self.lease.remembering.is_none() && self.lease.missed {
            self.lease.missed = false;
            let request = self.book.id();
            self.lease.remembering = Some(request);
            self.book.push(Action::ReadMap { request });
        }
    }

    pub(super) fn map_read(&mut self, request: RequestId, map: NodeMap, epoch: Option<Epoch>, rehomed: Option<Epoch>, now: Now) {
        let epoch = epoch.filter(|epoch| *epoch <= EPOCH_MAX).unwrap_or(0);
        let rehomed = rehomed.filter(|epoch| *epoch <= EPOCH_MAX);
        if self.lease.remembering == Some(request) {
            self.lease.remembering = None;
            if self.remember(map, epoch) {
                self.resume_homes(rehomed, now);
            }
            if self.lease.yields_since_ms.is_none() {
                self.lease.yields_since_ms = Some(now.mono_ms);
                self.lease.next_at_ms = now.mono_ms;
            }
        } else if self.lease.role == Role::Reading(request) {
            self.lead(map, epoch, rehomed, now);
        }
    }

    /// Keeps a map that others wrote, to write it back should the master lose it. An empty one replaces nothing.
    fn remember(&mut self, map: NodeMap, epoch: Epoch) -> bool {
        let book = &mut self.book;
        book.epoch = book.epoch.max(epoch);
        let newer = epoch > book.base_epoch || book.base_epoch == 0;
        if !newer || (map.is_empty() && !book.base.is_empty() && !flaw::has(Flaw::EmptyReplacesMemory)) {
            return false;
        }
        book.base = map;
        book.base_epoch = epoch;
        book.doubtful = None;
        book.touched = true;
        true
    }

    /// Begins to lead: from the map in the master or, where that is gone or older, from the one that is remembered.
    fn lead(&mut self, map: NodeMap, stored: Epoch, rehomed: Option<Epoch>, now: Now) {
        // The master has lost what we know was published, or another took its place that may lack the last map. Then what may have been
        // published is as good: whatever had to be flushed for it was. If it was not published, nobody has used what it shows up, nor the
        // guests of what it shows down.
        if let Some(writing) = self.book.doubtful.take()
            && (stored < self.book.base_epoch
                || stored == self.book.base_epoch && writing.master_run_id != self.book.master_run_id)
        {
            (self.book.base, self.book.base_epoch) = (writing.map, writing.epoch);
        }
        let same = stored == self.book.base_epoch && map.len() == self.book.base.len();
        let remembered = self.remember(map, stored);
        let from_memory = !remembered && !same && !self.book.base.is_empty();
        // Unless the master knows that map, too: then another has come to lead, who stood still for long enough.
        let later = self.book.outdone.take().filter(|epoch| stored < *epoch);
        if let Some(epoch) = later {
            self.book.notice(Notice::Outdone { epoch });
        }
        let outdone = later.is_some();
        if (from_memory || outdone) && self.book.options.guest_databases {
            self.book.homes.distrust(&self.book.base);
        } else {
            self.resume_homes(rehomed, now);
        }
        self.book.homes.others_led();
        self.book.proxies.begin();
        if from_memory || outdone {
            self.book.proxies.are_unknown_until(now.mono_ms + self.book.options.proxy_grace_ms);
        } else if self.book.base.is_empty() && self.book.epoch == 0 {
            // There was no map before ours, and whoever goes by that says so to this master.
            self.book.proxies.are_unknown_until(now.mono_ms);
        }
        self.book.listing = None;
        self.book.listed_at_ms = 0;
        self.book.notes = Told::default();
        // There was a later map, which is gone from here and from there: what it said of the nodes is not known.
        let behind = outdone
            || from_memory && stored.max(self.book.heard_epoch) > self.book.base_epoch && !flaw::has(Flaw::TrustsOldMemory);
        self.lease.role = Role::Leading;
        self.lease.health.lease_is_gained(now);
        let book = &mut self.book;
        book.leading = true;
        // Readers never take an empty map: if somebody else has emptied the node set, they go by what stood there.
        book.is_map_lost = behind || book.base.is_empty() && stored > 0;
        book.rewrite = !flaw::has(Flaw::LosesMapWithMaster);
        book.pending.clear();
        book.touched = true;
        if let Some(since_ms) = &mut book.bus_up_since_ms {
            *since_ms = now.mono_ms;
        }
        let base = std::mem::take(&mut book.base);
        for (name, node) in &base {
            self.members.entry(name.clone()).or_insert_with(|| Member::read(name, node, now));
        }
        for (name, member) in &mut self.members {
            member.rebase(base.get(name), behind, now, book);
        }
        book.base = base;
        book.notice(Notice::Leads { nodes: book.base.len(), epoch: book.base_epoch, from_memory });
        self.lease.told = Some(true);
        // Unless the lease may have been another's since the map was read, and is about to be ours anew.
        let is_sure = self.lease.asked.is_none() || flaw::has(Flaw::WritesWhileLeaseInDoubt);
        // At once, and as it was: this says nothing new to readers, and another coordinator that missed the last maps
        // must not come to lead while the master is empty.
        self.book.writes_back = from_memory && !behind && !flaw::has(Flaw::LosesMapWithMaster);
        if is_sure {
            self.write_back(now);
        }
    }

    pub(super) fn map_heard(&mut self, map: NodeMap, epoch: Option<Epoch>, now: Now) {
        match epoch {
            Some(epoch) if !self.lease.watching && epoch <= EPOCH_MAX => {
                if self.remember(map, epoch) {
                    self.hear_homes(now);
                }
            }
            // Our own comes back; or another leads, which the next renewal of the lease will tell.
            Some(_) => {}
            None if self.lease.watching => self.book.notice(Notice::ForeignWriter),
            None => _ = self.remember(map, 0),
        }
    }

    /// What a standby remembers follows the leader's deltas. Where one is missed the map is read.
    pub(super) fn delta_heard(&mut self, delta: &MapDelta, now: Now) {
        if self.lease.watching || !(self.book.base_epoch + 1..=EPOCH_MAX).contains(&delta.epoch) {
            return;
        }
        match delta.applied_to(&self.book.base, self.book.base_epoch, check(&self.book.base)) {
            Ok(map) => {
                if self.remember(map, delta.epoch) {
                    self.hear_homes(now);
                }
            }
            Err(_) => {
                self.book.epoch = self.book.epoch.max(delta.epoch);
                self.book.heard_epoch = self.book.heard_epoch.max(delta.epoch);
                self.lease.missed = true;
                self.lease.next_at_ms = now.mono_ms;
            }
        }
    }
}
