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
//! - **Only what an agent has admitted is emptied**: the process that answers is the one that the agent announced last, where it says which.
//!   An agent that announces a wrong address names some other redis.
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
//!   an operator's weight stands until the agent announces another than before. That a node was forgotten though its agent announces it
//!   cannot stand there; those who stand by keep it in mind like the leader. A change that was meant is published with
//!   the state change time 1, by which readers that withhold the keys of changed nodes know that they need not.
//! - **Nobody is blamed for time in which we did not run.** We say when the next step is due; by as much as it comes later, everybody who is
//!   waited for gets more time. While some node has little time to answer, steps are due more often, so that little goes unnoticed.
//! - **Silence of all is not believed**: when every node goes silent at once it is rather our own network.

mod event;
mod health;
mod homes;
mod lease;
mod member;
mod notes;
mod notice;
mod options;
mod proxies;
mod publish;
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
use lease::{Lease, Role};
use member::{Cause, Member};
use notes::Told;
pub use notice::{Change, Level, Notice, What};
pub use options::{NAME_LEN_MAX, NODES_MAX, Options, STEP_AT_LEAST_EVERY_MS};
use proxies::Proxies;
use publish::Writing;
pub use status::{NodeState, NodeStatus, Status};
use wishes::Wishes;

use crate::contract::{AgentBusMessage, Announcement, Epoch, NodeMap, WEIGHTS};
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

impl Book {
    fn new(options: Options) -> Self {
        Book {
            homes: Homes::new(options.homes),
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
        }
    }

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
        Membership {
            instance: instance.into(),
            book: Book::new(options),
            lease: Lease::default(),
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
            unwell: self.lease.health.unwell.clone(),
            epoch: self.book.base_epoch,
            nodes: self.members.values().map(|member| member.status(now, &self.book)).collect(),
        }
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
        self.lease.health.excuse(late_ms);
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

    fn request_failed(&mut self, request: RequestId, reason: String, now: Now) {
        let asked = self.lease.asked.is_some_and(|(asked, _)| asked == request);
        let written = self.book.writing.as_ref().is_some_and(|writing| writing.request == request);
        if asked || written || self.lease.role == Role::Reading(request) {
            self.lease.health.refused(&reason);
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
        self.look_at_health(now);
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
}
