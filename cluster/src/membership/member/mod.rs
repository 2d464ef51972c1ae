//! One node as the coordinator sees it: its connection, whether it counts as up, and what has to happen before it does again.

mod cause;
mod contest;
mod flush;
mod link;
mod view;
mod word;

use serde_json::{Map, Value};

pub(super) use self::cause::Cause;
use self::{
    contest::Contest,
    flush::{Clear, Flush},
    link::Link,
};
use super::{
    Book,
    event::Now,
    notes::Reports,
    notice::{Notice, What},
};
use crate::{
    contract::{Announcement, Endpoint, Epoch, Node, Upkeep},
    flaw::{self, Flaw},
};

/// What the last acknowledged map says of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Published {
    Absent,
    Down,
    Up,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Standing {
    /// Counts as up. Verified by an open connection to the process of `run_id`, or given until `doubt_until` for that.
    Up {
        since_ms: u64,
        doubt_until_ms: Option<u64>,
    },
    Down {
        since_ms: u64,
        cause: Cause,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Member {
    pub(super) name: String,
    /// Where its redis is said to listen.
    endpoint: Endpoint,
    /// Where the map says it listens: follows `endpoint` when the process was verified there.
    shown_endpoint: Endpoint,
    pub(super) weight: f64,
    pub(super) upkeep: Upkeep,
    other: Map<String, Value>,
    version: Option<String>,
    /// The process that was emptied when it last came up.
    run_id: Option<String>,
    state_change_unix_ms: u64,
    /// `state_change_unix_ms` as published, for a down that is taken back.
    pub(super) published_change_unix_ms: u64,
    last_ping_unix_ms: Option<u64>,
    pub(super) standing: Standing,
    pub(super) published: Published,
    /// It is to stand in the map.
    pub(super) listed: bool,
    announced_at_ms: Option<u64>,
    /// Its agent said that it died or leaves: it is not back until its agent says so.
    gone: Option<Cause>,
    /// Of which process it said so, if it did say.
    gone_run_id: Option<String>,
    /// An operator forgot it though its agent announces it: that counts for nothing until the agent has left or fallen silent. No map says so:
    /// all who were there when the operator said it know.
    pub(super) barred: bool,
    /// The process that its agent watches, by its last announcement; unknown of agents that do not say.
    announced_run_id: Option<String>,
    /// Agent and connection speak of two processes, or last did.
    contest: Option<Contest>,
    pub(super) refused: bool,
    link: Link,
    link_failures: u32,
    /// Connections that were lost and opened anew since a PING was last answered.
    rechecks: u32,
    last_trouble: Option<String>,
    flush: Option<Flush>,
    /// A flush of the clients' databases of a node that stays up, so that it can get slots back.
    clear: Option<Clear>,
    clear_at_ms: u64,
    flush_failures: u32,
    flush_at_ms: u64,
    /// When a map that first showed it as it is shown, or did not show it, was acknowledged; 0 for a node that no map ever showed.
    pub(super) shown_at_ms: u64,
    /// The epoch of that map, or of a later one.
    pub(super) shown_epoch: Epoch,
    guest_covered: u64,
    strikes: u32,
    /// What the last of them was for: the process, and when it came up. Where that could not be published before we had to lead anew, the
    /// map still shows it up and it goes down once more, which is no other time.
    struck: Option<(Option<String>, u64)>,
    held_until_ms: u64,
    /// Proxies that cannot use it.
    reports: Reports,
    /// When it last answered.
    answered_ms: u64,
    /// Since when there has been no connection to it.
    unreachable_since_ms: Option<u64>,
}

impl Member {
    /// A node that was never heard of.
    pub(super) fn announced(announcement: &Announcement, name: String, now: Now) -> Self {
        let mut member = Member::blank(name, announcement.config.clone(), announcement.weight, now);
        member.state_change_unix_ms = 1;
        member
    }

    /// A node that stands in a map.
    pub(super) fn read(name: &str, node: &Node, now: Now) -> Self {
        let mut member = Member::blank(name.to_owned(), node.config.clone(), node.weight, now);
        member.adopt(node);
        member
    }

    fn blank(name: String, endpoint: Endpoint, weight: f64, now: Now) -> Self {
        Member {
            name,
            shown_endpoint: endpoint.clone(),
            endpoint,
            weight,
            upkeep: Upkeep::default(),
            other: Map::new(),
            version: None,
            run_id: None,
            state_change_unix_ms: 1,
            published_change_unix_ms: 1,
            last_ping_unix_ms: None,
            standing: Standing::Down { since_ms: now.mono_ms, cause: Cause::NotYetUp },
            published: Published::Absent,
            listed: false,
            announced_at_ms: None,
            gone: None,
            gone_run_id: None,
            barred: false,
            announced_run_id: None,
            contest: None,
            refused: false,
            link: Link::Idle { retry_at_ms: 0 },
            link_failures: 0,
            rechecks: 0,
            last_trouble: None,
            flush: None,
            clear: None,
            clear_at_ms: 0,
            flush_failures: 0,
            flush_at_ms: 0,
            shown_at_ms: 0,
            shown_epoch: 0,
            guest_covered: 0,
            strikes: 0,
            struck: None,
            held_until_ms: 0,
            reports: Reports::default(),
            answered_ms: 0,
            unreachable_since_ms: None,
        }
    }

    fn adopt(&mut self, node: &Node) {
        if self.endpoint == self.shown_endpoint {
            self.endpoint = node.config.clone();
        }
        self.shown_endpoint = node.config.clone();
        self.weight = node.weight;
        self.upkeep = node.upkeep.clone();
        self.other = node.other.clone();
        self.version = node.version.clone();
        self.run_id = node.run_id.clone();
        self.state_change_unix_ms = node.state_change_time;
        self.published_change_unix_ms = node.state_change_time;
        self.last_ping_unix_ms = self.last_ping_unix_ms.max(node.last_ping);
        self.listed = true;
    }

    /// Takes the map's word, whatever was thought before and not published.
    pub(super) fn rebase(&mut self, node: Option<&Node>, uncertain: bool, now: Now, book: &mut Book) {
        self.drop_flush();
        self.flush_at_ms = now.mono_ms;
        (self.shown_at_ms, self.shown_epoch) = (now.mono_ms, book.base_epoch);
        let Some(node) = node else {
            self.listed = false;
            // With it the master has forgotten what operators wanted of it.
            self.upkeep = Upkeep::default();
            self.published = Published::Absent;
            self.standing = Standing::Down { since_ms: now.mono_ms, cause: Cause::NotYetUp };
            return;
        };
        self.adopt(node);
        // Whoever led has not forgotten it, or has taken it in again.
        self.barred = false;
        if !node.up {
            self.published = Published::Down;
            // For a forget time that outlasts a change of leader; a clock that was wrong then cannot make it longer.
            let down_unix_ms = node.upkeep.left.unwrap_or(node.state_change_time);
            let ago_ms = now.unix_ms.saturating_sub(down_unix_ms).min(book.options.forget_after_ms).min(now.mono_ms);
            let since_ms = if down_unix_ms > 1 { now.mono_ms - ago_ms } else { now.mono_ms };
            self.standing = Standing::Down { since_ms, cause: Cause::NotYetUp };
            return;
        }
        self.published = Published::Up;
        self.standing = Standing::Up { since_ms: now.mono_ms, doubt_until_ms: Some(now.mono_ms + book.options.ping_timeout_ms) };
        if uncertain || flaw::has(Flaw::EmptiesForNewLeader) {
            self.take_down(Cause::Uncertain, now, book);
            return;
        }
        // When that was said it was not known of which process the map speaks.
        if let (Some(said), Some(current)) = (&self.gone_run_id, &self.run_id)
            && said != current
            && !flaw::has(Flaw::BelievesOldDeaths)
        {
            self.gone = None;
        }
        if let Some(cause) = self.gone.clone().or(self.upkeep.drained.map(|_| Cause::Drained)) {
            self.take_down(cause, now, book);
            return;
        }
        match &self.link {
            Link::Open(open) => {
                let server = open.server.clone();
                self.meet(&server, now, book);
            }
            Link::Opening { .. } => {}
            Link::Idle { .. } => self.connect(book.options.ping_timeout_ms, now, book),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.standing, Standing::Up { .. })
    }

    /// Counts as up without an open connection that says so.
    pub(super) fn in_doubt(&self) -> bool {
        matches!(self.standing, Standing::Up { doubt_until_ms: Some(_), .. })
    }

    /// Its answer is waited for no longer than a short while: as long as a short pause of our own may take.
    pub(super) fn has_little_time(&self) -> bool {
        self.in_doubt() || self.flush.as_ref().is_some_and(|flush| !flush.join)
    }

    pub(super) fn cause(&self) -> Option<&Cause> {
        match &self.standing {
            Standing::Down { cause, .. } => Some(cause),
            Standing::Up { .. } => None,
        }
    }

    /// Shown up by the last map, and not to be by the next.
    pub(super) fn goes_down(&self) -> bool {
        self.published == Published::Up && !(self.is_up() && self.listed)
    }

    /// Its agent has spoken within the agent timeout.
    pub(super) fn recently_announced(&self, now: Now, book: &Book) -> bool {
        self.announced_at_ms.is_some_and(|at_ms| now.mono_ms < at_ms + book.options.agent_timeout_ms)
    }

    /// Its agent has spoken of late, and not to say that it is gone.
    pub(super) fn announces(&self, now: Now, book: &Book) -> bool {
        self.gone.is_none() && self.recently_announced(now, book)
    }

    /// It was emptied, or is being, before readers had left the maps of those who knew it before us.
    pub(super) fn join_anew(&mut self, now: Now) {
        self.drop_flush();
        self.listed = false;
        self.standing = Standing::Down { since_ms: now.mono_ms, cause: Cause::NotYetUp };
    }

    pub(super) fn take_down(&mut self, cause: Cause, now: Now, book: &mut Book) {
        let Standing::Up { since_ms, .. } = self.standing else { return };
        let life = (self.run_id.clone(), self.state_change_unix_ms);
        if cause.counts_as_flap() && self.struck.as_ref() != Some(&life) {
            self.struck = Some(life);
            if now.mono_ms.saturating_sub(since_ms) >= book.options.flap_forgiven_after_ms {
                self.strikes = 0;
            }
            self.strikes = self.strikes.saturating_add(1);
            if self.strikes > 1 {
                let pause_ms = (book.options.flap_pause_ms << (self.strikes - 2).min(16)).min(book.options.flap_pause_max_ms);
                self.held_until_ms = now.mono_ms + pause_ms;
                book.notice(Notice::HeldBack { name: self.name.clone(), pause_ms, times: self.strikes });
            }
        }
        self.drop_flush();
        self.reports.clear();
        // Readers withhold the keys of a node that changed of late, if told to. What was meant needs no such caution.
        self.state_change_unix_ms = if cause.planned() { 1 } else { now.unix_ms.max(2) };
        self.upkeep.left = (cause == Cause::Leaving).then(|| now.unix_ms.max(2));
        if self.published == Published::Up {
            book.guest_need += 1;
        }
        book.changed(&self.name, What::Down { cause: cause.to_string() }, now);
        self.standing = Standing::Down { since_ms: now.mono_ms, cause };
    }

    /// What follows from the time while we lead.
    pub(super) fn decide(&mut self, now: Now, book: &mut Book) {
        let now_ms = now.mono_ms;
        if let Standing::Up { doubt_until_ms: Some(until_ms), .. } = self.standing
            && until_ms <= now_ms
        {
            let reason = self.last_trouble.take().unwrap_or_else(|| "no answer to a new connection".to_owned());
            self.drop_link(now, book);
            self.back_off(now);
            self.take_down(Cause::Silent(reason), now, book);
        }
        if let Some(since_ms) = book.bus_up_since_ms {
            let heard_ms = self.announced_at_ms.unwrap_or(0).max(since_ms);
            if now_ms >= heard_ms + book.options.agent_timeout_ms {
                if self.is_up() {
                    self.take_down(Cause::AgentSilent, now, book);
                } else if let Standing::Down { cause, .. } = &mut self.standing
                    && cause.silent()
                {
                    *cause = Cause::AgentSilent;
                }
            }
        }
        if let Standing::Down { since_ms, .. } = self.standing
            && self.listed
            && self.published == Published::Down
            && self.upkeep.drained.is_none()
            && now_ms >= since_ms + book.options.forget_after_ms
        {
            self.listed = false;
            let minutes = book.options.forget_after_ms / 60_000;
            book.changed(&self.name, What::Forgotten { cause: format!("down for {minutes} minutes") }, now);
        }
        self.join_if_ready(now, book);
    }

    /// Another leads: nothing more is wanted from the node.
    pub(super) fn stand_down(&mut self, now: Now, book: &mut Book) {
        self.drop_link(now, book);
        self.drop_flush();
    }

    /// Time stood still for us alone: nobody is to be blamed for answers that we did not read.
    pub(super) fn excuse(&mut self, late_ms: u64) {
        self.link.excuse(late_ms);
        if let Some(flush) = &mut self.flush {
            flush.until_ms += late_ms;
        }
        if let Some(clear) = &mut self.clear {
            clear.until_ms += late_ms;
        }
        if let Some(at_ms) = &mut self.announced_at_ms {
            *at_ms += late_ms;
        }
        if let Standing::Up { doubt_until_ms: Some(until_ms), .. } = &mut self.standing {
            *until_ms += late_ms;
        }
    }

    /// Not in the map, and nobody speaks of it.
    pub(super) fn is_forgotten(&self, now: Now, book: &Book) -> bool {
        let is_on_its_way = book.writing.as_ref().is_some_and(|writing| writing.map.contains_key(&self.name));
        let is_wanted = self.listed && (self.is_up() || is_on_its_way);
        // Proxies may use it yet that have not heard of the map which does not show it.
        let may_be_in_use = self.shown_epoch > 0 && now.mono_ms < self.shown_at_ms + book.options.proxy_grace_ms;
        !is_wanted && !may_be_in_use && self.published == Published::Absent && !self.recently_announced(now, book)
    }

    /// The next moment at which time alone changes something.
    pub(super) fn deadline_ms(&self, now: Now, book: &Book) -> Option<u64> {
        let flush_ms = self.flush.as_ref().map(|flush| flush.until_ms);
        let doubt_ms = match self.standing {
            Standing::Up { doubt_until_ms, .. } => doubt_until_ms,
            Standing::Down { .. } => None,
        };
        [self.link_deadline_ms(now, book), flush_ms, doubt_ms, self.may_join_at_ms(now, book)]
            .into_iter()
            .flatten()
            .filter(|ms| *ms > now.mono_ms)
            .min()
    }
}
