//! Membership decided: who is in, who is down, and what has to happen before the next map may say so.
//!
//! [`Membership::step`] is handed what happened and the time, and says what is to be done. It has no socket, no clock and no
//! randomness, so that every schedule of faults can be played to it. The coordinator only carries out.
//!
//! # The rules
//! - **One leader.** The lease is a key with an expiry in the master. Every write names the lease's token, and the master does
//!   nothing when it no longer holds. With each new connection to the master, and after each failed request, the leader takes
//!   a new token and reads the map anew, so that whatever was under way can no longer land behind its back. A write names the last map
//!   that its sender knows, too, and nothing is done where a later one stands: it may come so late that others have led, and upon a lease that was
//!   taken anew by a request as late.
//! - **The epoch only grows**: one more than any seen, or the time of day, whichever is greater. So a master and a
//!   coordinator that both lost their memory still go past what readers hold.
//! - **Emptied before shown up.** A node that joins, comes back, or whose process is another one is shown down, where it was
//!   shown up, and is emptied after that map stands, and never while one that shows it up is on its way; only then a map shows
//!   it up. Where the process lives on that proxies have used, all of them have left it by then: they have confirmed that map, or had their
//!   grace period.
//! - **Guests flushed before shown down.** When a node goes down, the guest databases of all that are up are flushed, after the map
//!   that showed the node up was acknowledged and before the one that shows it down is written.
//! - **What no map has said can be taken back.** A node that was found down, and whose very process answers again
//!   before a map said so, is up: nobody was told otherwise. A new leader takes the master's map as what was said, checks each node that is
//!   up in it by its run id, and only then publishes. Nothing is flushed for a change of leader or a restart of the master.
//! - **A connection that was merely cut costs nothing**: a new one is tried first, and refused at once by a redis that died.
//! - **Nothing comes back with a home.** When homes change for good (a node added, forgotten, given another weight), nodes that lost
//!   slots are told to purge them, once every proxy has confirmed that map or had its grace period. A node that would get a
//!   slot back before it did is flushed first (see `homes`), and the change waits for that; whatever else changes does not. The
//!   epoch of the last such map stands in the master, and agents announce what they have purged, so that a new leader knows too. A map
//!   from memory counts as such, and one that is written anew because of a proxy that was out of touch: nobody knows who wrote where, and
//!   a purge that was begun before it turned up does not count.
//! - **Guests flushed before weights change**, too, while a node is down: a slot may come back to its former guest's host.
//! - **A map that readers have and that is later than any of ours** was written by another leader, to a master that was cut off or has lost it.
//!   Proxies confirm by which map they route, and would take none of ours any more; so all nodes are shown down by a map that is newer
//!   still, and emptied.
//! - **Who remembers goes first.** At a master that has lost the last map, one who does not remember it asks for the lease only after a while.
//! - **An operator's word stands in the map**, so it outlasts whoever took it: a drained node is down until it is undrained, and
//!   an operator's weight stands until the agent announces another than before. A change that was meant is published with
//!   the state change time 1, by which readers that withhold the keys of changed nodes know that they need not.
//! - **Nobody is blamed for time in which we did not run.** We say when the next step is due; by as much as it comes later, everybody who is
//!   waited for gets more time. While some node has little time to answer, steps are due more often, so that little goes unnoticed.
//! - **Silence of all is not believed**: when every node goes silent at once it is rather our own network.

mod event;
mod homes;
mod member;
mod notes;
mod notice;
mod options;
mod proxies;
mod purge;
mod status;
mod wishes;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use event::{
    Action, Event, FlushId, LeaseAnswer, LinkId, Loss, MapWrite, Now, RequestId, Scope, Server, WriteAnswer, lease_token,
};
pub use homes::AssignHomes;
use homes::Homes;
use member::{Cause, Member, Published};
use notes::Told;
pub use notice::{Change, Level, Notice, What};
pub use options::{NAME_LEN_MAX, NODES_MAX, Options, STEP_AT_LEAST_EVERY_MS, WEIGHTS};
use proxies::Proxies;
pub use status::{NodeState, NodeStatus, Status};
use wishes::Wishes;

use crate::contract::{AgentBusMessage, Announcement, EPOCH_MAX, Epoch, MapDelta, NodeMap};
use crate::delta::{check, same_but_for_ping};
use crate::flaw::{self, Flaw};

/// A coordinator's mind.
#[derive(Debug)]
pub struct Membership {
    /// Names this coordinator in lease tokens; no two coordinators have the same.
    instance: String,
    book: Book,
    lease: Lease,
    members: BTreeMap<String, Member>,
    wishes: Wishes,
    /// When [`Membership::step`] was to be called next, as it was last asked for.
    due_ms: Option<u64>,
}

/// What the members of one membership share while they are stepped.
#[derive(Debug)]
pub(crate) struct Book {
    options: Options,
    /// The role is [`Role::Leading`].
    leading: bool,
    /// We lead, and the lease cannot have run out. A node emptied by one who does not lead may be in use by then.
    may_flush: bool,
    master_up: bool,
    master_run_id: Option<String>,
    bus_up_since_ms: Option<u64>,
    /// The greatest epoch that was seen or issued.
    epoch: Epoch,
    /// The last map known to have been published, and its epoch.
    base: NodeMap,
    base_epoch: Epoch,
    /// Maps up to this one are known to have been published, though not what they said.
    heard_epoch: Epoch,
    /// Counts what a guest flush has to come after: nodes that went down, weights that changed.
    guest_need: u64,
    /// Weights are to change.
    reweighed: bool,
    /// When a map was last published.
    published_at_ms: u64,
    /// Unused without guest databases.
    homes: Homes,
    proxies: Proxies,
    /// Nodes that the last map does not have any more.
    forgotten: Vec<String>,
    /// The list of confirmations that was asked for, and when.
    listing: Option<(RequestId, u64)>,
    listed_at_ms: u64,
    next_orders_ms: u64,
    notes: Told,
    /// Names of nodes that the next map may show otherwise.
    pending: BTreeMap<String, Pending>,
    /// What stands in the master is not known to be `base`.
    rewrite: bool,
    /// It is to be, as it is remembered, once it is sure whose the lease is.
    writes_back: bool,
    /// When it was last written there whole: readers may have gone by what is not known here until then.
    rewritten_at_ms: u64,
    /// And as what.
    rewritten_epoch: Epoch,
    /// When we began to lead a map was gone that readers may go by, and what it said of the nodes is not known.
    is_map_lost: bool,
    /// Readers go by a map of this epoch that is not known here, and what it says of the nodes is not either.
    outdone: Option<Epoch>,
    writing: Option<Writing>,
    /// What was sent, and may or may not have been published.
    doubtful: Option<Writing>,
    next_id: u64,
    actions: Vec<Action>,
    /// Something that [`Status`] shows may have changed.
    touched: bool,
    all_silent_told: bool,
}

#[derive(Debug)]
struct Pending {
    what: What,
    since_ms: u64,
}

#[derive(Debug)]
struct Writing {
    request: RequestId,
    /// Run id of the master that it was sent to.
    master_run_id: Option<String>,
    epoch: Epoch,
    map: NodeMap,
    changes: Vec<(String, What, u64)>,
    /// The map was written whole.
    replaces: bool,
    /// See [`MapWrite::rehomed`].
    rehomed: Epoch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The lease is not ours, or not known to be.
    Standby,
    /// The lease is ours, the map is being read.
    Reading(RequestId),
    Leading,
    Stopped,
}

#[derive(Debug)]
struct Lease {
    role: Role,
    /// Counts our tokens. A new one fences whatever was sent under the one before.
    term: u64,
    /// The lease is ours until then, as far as we know.
    until_ms: u64,
    next_at_ms: u64,
    asked: Option<(RequestId, u64)>,
    /// Maps may have been published that were not heard.
    missed: bool,
    /// A read of the map for memory's sake, as a standby.
    remembering: Option<RequestId>,
    /// Since when one who does not remember the last map lets others lead first; `None` while it is not known whether the master has a map.
    yields_since_ms: Option<u64>,
    /// Connections to nodes are kept: we lead, or may lead again in a moment.
    watching: bool,
    /// They are kept to see who is there, before we lead.
    looking: bool,
    told: Option<bool>,
}

impl Lease {
    /// Connections to nodes are kept, for one reason or the other.
    fn keeps_links(&self) -> bool {
        self.watching || self.looking
    }
}

impl Book {
    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn push(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn notice(&mut self, notice: Notice) {
        self.actions.push(Action::Notice(notice));
    }

    fn is_master(&self, server: &Server) -> bool {
        self.master_run_id.as_deref() == Some(server.run_id.as_str())
    }

    /// What became of the write that is under way will not be told.
    fn doubt_write(&mut self) {
        if let Some(writing) = self.writing.take()
            && !flaw::has(Flaw::UnansweredIsUndone)
        {
            self.doubtful = Some(writing);
        }
    }

    /// A weight is to change.
    fn reweigh(&mut self) {
        if self.options.guest_databases {
            self.reweighed = true;
            self.guest_need += 1;
        }
    }

    fn being_shown_down(&self, name: &str) -> bool {
        self.writing.as_ref().and_then(|writing| writing.map.get(name)).is_some_and(|node| !node.up)
    }

    /// By the time that its answer comes, readers may go by it.
    fn being_shown_up(&self, name: &str) -> bool {
        self.writing.as_ref().and_then(|writing| writing.map.get(name)).is_some_and(|node| node.up)
    }

    /// The next map may show the node otherwise.
    fn changed(&mut self, name: &str, what: What, now: Now) {
        self.touched = true;
        match self.pending.get_mut(name) {
            Some(pending) if what == What::Altered => _ = pending,
            Some(pending) => pending.what = what,
            None => {
                self.pending.insert(name.to_owned(), Pending { what, since_ms: now.mono_ms });
            }
        }
    }

    /// A node's going down was taken back.
    fn unchanged(&mut self, name: &str) {
        self.touched = true;
        if let Some(pending) = self.pending.get_mut(name) {
            pending.what = What::Altered;
        }
    }
}

impl Membership {
    /// A coordinator that knows nothing yet. `instance` names it, and must be another for every start of every coordinator.
    pub fn new(instance: impl Into<String>, options: Options) -> Self {
        let homes = Homes::new(options.homes);
        Membership {
            instance: instance.into(),
            book: Book {
                options,
                leading: false,
                may_flush: false,
                master_up: false,
                master_run_id: None,
                bus_up_since_ms: None,
                epoch: 0,
                base: NodeMap::new(),
                base_epoch: 0,
                heard_epoch: 0,
                guest_need: 0,
                reweighed: false,
                published_at_ms: 0,
                homes,
                proxies: Proxies::default(),
                forgotten: Vec::new(),
                listing: None,
                listed_at_ms: 0,
                next_orders_ms: 0,
                notes: Told::default(),
                pending: BTreeMap::new(),
                rewrite: false,
                writes_back: false,
                rewritten_at_ms: 0,
                rewritten_epoch: 0,
                is_map_lost: false,
                outdone: None,
                writing: None,
                doubtful: None,
                next_id: 0,
                actions: Vec::new(),
                touched: true,
                all_silent_told: false,
            },
            lease: Lease {
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
            },
            members: BTreeMap::new(),
            wishes: Wishes::default(),
            due_ms: None,
        }
    }

    /// Takes in what happened, and says what is to be done. Must be called when it is due, see [`Membership::deadline_ms`], if only with
    /// [`Event::Tick`].
    pub fn step(&mut self, now: Now, event: Event) -> Vec<Action> {
        if self.lease.role == Role::Stopped {
            return Vec::new();
        }
        self.notice_own_pause(now);
        self.take_in(now, event);
        self.advance(now);
        std::mem::take(&mut self.book.actions)
    }

    /// When [`Membership::step`] is next to be called if nothing happens before. To be asked before each wait: if it is not called
    /// then, it is because we did not run.
    pub fn deadline_ms(&mut self, now: Now) -> u64 {
        let due_ms = self.next_step_ms(now);
        self.due_ms = Some(due_ms);
        due_ms
    }

    fn next_step_ms(&self, now: Now) -> u64 {
        let keeps_links = self.lease.keeps_links();
        let is_pressing = keeps_links && self.members.values().any(Member::has_little_time);
        let latest_ms = now.mono_ms + if is_pressing { options::STEP_WHEN_PRESSING_EVERY_MS } else { STEP_AT_LEAST_EVERY_MS };
        let watched = self.members.values().filter(|_| keeps_links).filter_map(|member| member.deadline_ms(now, &self.book));
        let lease_ms = (self.book.master_up && self.lease.asked.is_none()).then_some(self.lease.next_at_ms);
        let settled_ms = self.guest_flush_from_ms();
        watched.chain(lease_ms).chain(settled_ms).filter(|ms| *ms > now.mono_ms).min().map_or(latest_ms, |ms| ms.min(latest_ms))
    }

    /// Whether anything that [`Membership::status`] shows may have changed since this was last asked.
    pub fn take_touched(&mut self) -> bool {
        std::mem::take(&mut self.book.touched)
    }

    /// What is known, for those who ask.
    pub fn status(&self, now: Now) -> Status {
        Status {
            leading: self.lease.role == Role::Leading && now.mono_ms < self.lease.until_ms,
            master_up: self.book.master_up,
            epoch: self.book.base_epoch,
            nodes: self.members.values().map(|member| member.status(now, &self.book)).collect(),
        }
    }

    fn token(&self) -> String {
        lease_token(&self.instance, self.lease.term)
    }

    // ---- what happened ----

    fn notice_own_pause(&mut self, now: Now) {
        let late_ms = self.due_ms.take().map_or(0, |due_ms| now.mono_ms.saturating_sub(due_ms));
        if late_ms <= options::OWN_PAUSE_MS || flaw::has(Flaw::BlamesOthers) {
            return;
        }
        for member in self.members.values_mut() {
            member.excuse(late_ms);
        }
        if let Some(since_ms) = &mut self.book.bus_up_since_ms {
            *since_ms += late_ms;
        }
        if late_ms > options::OWN_PAUSE_TOLD_MS {
            self.book.notice(Notice::StoodStill { late_ms });
        }
    }

    fn take_in(&mut self, now: Now, event: Event) {
        // What comes all the time shows nothing new.
        self.book.touched |= !matches!(event, Event::Tick | Event::Ponged { .. } | Event::Leased { .. });
        match event {
            Event::Tick => {}
            Event::MasterUp { run_id } => self.master_up(run_id, now),
            Event::MasterDown { reason } => self.master_down(reason, now),
            Event::BusUp => {
                self.book.bus_up_since_ms = Some(now.mono_ms);
                self.lease.missed = true;
            }
            Event::BusDown => self.book.bus_up_since_ms = None,
            Event::Leased { request, answer } => self.leased(request, answer, now),
            Event::MapRead { request, map, epoch, rehomed } => self.map_read(request, map, epoch, rehomed, now),
            Event::ProxiesRead { request, proxies } => self.proxies_read(request, proxies, now),
            Event::Wrote { request, answer } => self.wrote(request, answer, now),
            Event::RequestFailed { request, reason } => self.request_failed(request, reason, now),
            Event::MapHeard { map, epoch } => self.map_heard(map, epoch, now),
            Event::DeltaHeard(delta) => self.delta_heard(&delta, now),
            Event::Heard(message) => self.heard(message, now),
            Event::LinkOpened { name, link, server } => {
                self.with(&name, |member, book| member.link_opened(link, server, now, book))
            }
            Event::LinkLost { name, link, reason, loss } => {
                self.with(&name, |member, book| member.link_lost(link, reason, loss, now, book));
            }
            Event::Ponged { name, link } => self.with(&name, |member, book| member.ponged(link, now, book)),
            Event::PingRefused { name, link, reason } => {
                self.with(&name, |member, book| member.ping_refused(link, reason, now, book));
            }
            Event::Flushed { name, flush } => self.with(&name, |member, book| member.flushed(flush, now, book)),
            Event::FlushFailed { name, flush, reason } => {
                self.with(&name, |member, book| member.flush_failed(flush, reason, now, book));
            }
            Event::Shutdown => self.stop(now),
        }
    }

    fn with(&mut self, name: &str, act: impl FnOnce(&mut Member, &mut Book)) {
        if let Some(member) = self.members.get_mut(name) {
            act(member, &mut self.book);
        }
    }

    fn master_up(&mut self, run_id: Option<String>, now: Now) {
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

    fn master_down(&mut self, reason: String, now: Now) {
        self.book.master_up = false;
        self.book.touched = true;
        self.lease.missed |= self.lease.remembering.take().is_some();
        self.book.notice(Notice::MasterLost { reason });
        self.begin_term(now);
    }

    /// The outcome of what is under way will not be known: a write may have landed or may yet, the lease may have been lost and
    /// taken anew behind our back. Under a new token nothing of it can happen once the map has been read again.
    fn begin_term(&mut self, now: Now) {
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

    fn leased(&mut self, request: RequestId, answer: LeaseAnswer, now: Now) {
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
                    Role::Leading if !gained => self.check_master(epoch, nodes),
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

    fn map_read(&mut self, request: RequestId, map: NodeMap, epoch: Option<Epoch>, rehomed: Option<Epoch>, now: Now) {
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

    fn wrote(&mut self, request: RequestId, answer: WriteAnswer, now: Now) {
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

    fn request_failed(&mut self, request: RequestId, reason: String, now: Now) {
        let asked = self.lease.asked.is_some_and(|(asked, _)| asked == request);
        let written = self.book.writing.as_ref().is_some_and(|writing| writing.request == request);
        if asked || written || self.lease.role == Role::Reading(request) {
            self.begin_term(now);
        } else if self.lease.remembering.take_if(|reading| *reading == request).is_some() {
            self.lease.missed = true;
            self.lease.next_at_ms = now.mono_ms + self.book.options.lease_interval_ms;
        } else if self.book.listing.take_if(|(listing, _)| *listing == request).is_some() {
            // It is tried again when it is due.
        } else {
            return;
        }
        self.book.notice(Notice::MasterRefuses { reason });
    }

    fn map_heard(&mut self, map: NodeMap, epoch: Option<Epoch>, now: Now) {
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
    fn delta_heard(&mut self, delta: &MapDelta, now: Now) {
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

    fn heard(&mut self, message: AgentBusMessage, now: Now) {
        match message {
            AgentBusMessage::NodeUp { node } => self.announced(&node, now),
            AgentBusMessage::NodeDown { name, run_id, reason } => self.with(&name, |member, book| {
                member.hear_gone(run_id.as_deref(), Cause::AgentSays(reason), now, book);
            }),
            AgentBusMessage::NodeLeaving { name, run_id } => {
                self.with(&name, |member, book| member.hear_gone(run_id.as_deref(), Cause::Leaving, now, book));
            }
            AgentBusMessage::NodeSuspect { name, reporter, reason } => {
                if self.book.leading {
                    self.with(&name, |member, book| member.suspect(&reporter, &reason, now, book));
                }
            }
            AgentBusMessage::NodeWish { id, name, wish } => self.wished(id, &name, wish, now),
            AgentBusMessage::LeaderLeft {} => self.lease.next_at_ms = now.mono_ms,
        }
    }

    fn announced(&mut self, announcement: &Announcement, now: Now) {
        let name = announcement.node_name();
        let nonsense = |nonsense: bool| nonsense && !flaw::has(Flaw::TakesNonsense);
        let bad = |reason: &str| Notice::BadAnnouncement { name: name.chars().take(64).collect(), reason: reason.to_owned() };
        if nonsense(name.is_empty() || name.len() > NAME_LEN_MAX || name.chars().any(char::is_control)) {
            return self.book.notice(bad("that is not a name"));
        }
        if nonsense(announcement.config.host.is_empty() || announcement.config.port == 0) {
            return self.book.notice(bad("it has no address"));
        }
        // Also refuses what is not a number.
        if nonsense(!WEIGHTS.contains(&announcement.weight)) {
            return self.book.notice(bad(&format!("its weight is {}, not one from 0.01 to 100", announcement.weight)));
        }
        if !self.members.contains_key(&name) {
            if self.members.len() >= NODES_MAX {
                return self.book.notice(bad("there are too many nodes"));
            }
            self.members.insert(name.clone(), Member::announced(announcement, name.clone(), now));
        }
        self.with(&name, |member, book| member.hear(announcement, now, book));
    }

    fn stop(&mut self, now: Now) {
        for member in self.members.values_mut() {
            member.stand_down(now, &mut self.book);
        }
        let token = self.token();
        self.book.push(Action::Release { token });
        self.book.leading = false;
        self.book.touched = true;
        self.lease.role = Role::Stopped;
        self.lease.until_ms = 0;
    }

    // ---- what follows ----

    fn advance(&mut self, now: Now) {
        self.book.leading = self.lease.role == Role::Leading;
        self.book.may_flush = self.book.leading
            && (self.book.master_up && now.mono_ms < self.lease.until_ms || flaw::has(Flaw::FlushesWithoutLease));
        if self.lease.role == Role::Stopped {
            return;
        }
        self.ask_for_lease(now);
        if self.lease.keeps_links() {
            let (book, leading) = (&mut self.book, self.lease.role == Role::Leading);
            for member in self.members.values_mut() {
                member.keep_link(now, book);
                if leading {
                    member.decide(now, book);
                }
            }
        }
        if self.book.may_flush {
            self.flush_guests(now);
            self.write(now);
            self.look_after_homes(now);
            self.tell_notes(now);
        }
        self.answer_wishes(now);
        let book = &mut self.book;
        let before = self.members.len();
        self.members.retain(|_, member| {
            let forgotten = member.is_forgotten(now, book);
            if forgotten {
                member.stand_down(now, book);
                book.touched = true;
            }
            !forgotten
        });
        if self.members.len() != before {
            let (homes, base) = (&mut self.book.homes, &self.book.base);
            homes.retain(|name| self.members.contains_key(name) || base.contains_key(name));
        }
    }

    fn ask_for_lease(&mut self, now: Now) {
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

    /// From when guest databases may be flushed for the nodes that go down; `None` where none does, or none need be.
    fn guest_flush_from_ms(&self) -> Option<u64> {
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

    fn flush_guests(&mut self, now: Now) {
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

    fn write_back(&mut self, now: Now) {
        if std::mem::take(&mut self.book.writes_back) {
            let map = self.book.base.clone();
            self.send(map, Vec::new(), true, now);
        }
    }

    fn write(&mut self, now: Now) {
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
}
