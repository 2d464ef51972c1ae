//! One node as the coordinator sees it: its connection, whether it counts as up, and what has to happen before it does again.

use serde_json::{Map, Value};

use super::{
    event::{Action, FlushId, LinkId, Loss, Now, Scope, Server},
    notes::{Reports, trouble, unix_ms},
    notice::{Notice, What},
    options::{
        CLEAR_PAUSE_MS, FLUSH_PAUSE_MAX_MS, FLUSH_PAUSE_MS, LINK_PAUSE_MAX_MS, LINK_PAUSE_MS, RECHECKS_MAX, REFUSED_PAUSE_MS,
        SUSPECT_PAUSE_MS, UPTIME_SLACK_MS, YOUNG_MS,
    },
    status::{NodeState, NodeStatus},
};
use crate::{
    contract::{Announcement, Endpoint, Epoch, Node, NodeNote, Upkeep},
    flaw::{self, Flaw},
    membership::Book,
};

/// What the last acknowledged map says of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Published {
    Absent,
    Down,
    Up,
}

/// Why a node is down.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cause {
    /// Never been up, as far as we know, or down already when we began to lead.
    NotYetUp,
    /// Somebody answered that it is not there: refused, reset, closed.
    Gone(String),
    /// Nobody answered.
    Silent(String),
    /// It did not flush its guest databases when another went down.
    Unflushed(String),
    Restarted,
    AgentSays(String),
    AgentSilent,
    Leaving,
    /// An operator drains it.
    Drained,
    /// An operator says that it is gone for good.
    Forgotten,
    IsMaster,
    /// A map that was lost may have shown it down.
    Uncertain,
}

impl Cause {
    /// Whether it may be our own network that fails.
    pub(super) fn silent(&self) -> bool {
        matches!(self, Cause::Silent(_) | Cause::Unflushed(_))
    }

    /// Whether the same process answering again takes it back, as long as no map has shown it.
    fn revocable(&self) -> bool {
        matches!(self, Cause::Gone(_) | Cause::Silent(_) | Cause::Unflushed(_))
    }

    /// Whether somebody meant it: then its redis still answers, and its keys can move without anybody being refused them.
    fn planned(&self) -> bool {
        matches!(self, Cause::Leaving | Cause::Drained | Cause::Forgotten)
    }

    /// Whether it speaks against letting the node back soon.
    fn counts_as_flap(&self) -> bool {
        matches!(self, Cause::Gone(_) | Cause::Silent(_) | Cause::Unflushed(_) | Cause::Restarted | Cause::AgentSays(_))
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Cause::NotYetUp => write!(f, "not up yet"),
            Cause::Gone(reason) | Cause::Silent(reason) => write!(f, "{reason}"),
            Cause::Unflushed(reason) => write!(f, "its guest databases could not be flushed: {reason}"),
            Cause::Restarted => write!(f, "its redis was restarted"),
            Cause::AgentSays(reason) => write!(f, "its agent says: {reason}"),
            Cause::AgentSilent => write!(f, "its agent is silent"),
            Cause::Leaving => write!(f, "it leaves in good order"),
            Cause::Drained => write!(f, "an operator drains it"),
            Cause::Forgotten => write!(f, "an operator forgets it"),
            Cause::IsMaster => write!(f, "it is the master itself"),
            Cause::Uncertain => write!(f, "a map that was lost with the master may have shown it down, so it is emptied"),
        }
    }
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
pub(super) enum Link {
    Idle { retry_at_ms: u64 },
    Opening { link: LinkId, until_ms: u64 },
    Open(OpenLink),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct OpenLink {
    link: LinkId,
    server: Server,
    ping_at_ms: u64,
    pinged_at_ms: u64,
    /// Since when no PING was answered well, and what the last one was answered with.
    unanswered: Option<Unanswered>,
    /// A PING is on its way.
    in_flight: bool,
}

#[derive(Debug, Clone, PartialEq)]
struct Unanswered {
    since_ms: u64,
    error: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
struct Flush {
    id: FlushId,
    until_ms: u64,
    /// The value of [`Book::guest_need`] when it began: what it makes up for.
    covers: u64,
    /// Up to which map's lost slots it makes up for, if for any: see `homes`.
    through: Option<Epoch>,
    /// The node is emptied so that it can be shown up; else its guest databases are, so that another can be shown down.
    join: bool,
}

#[derive(Debug, Clone, PartialEq)]
struct Clear {
    id: FlushId,
    until_ms: u64,
    /// Up to which map's lost slots it makes up for: see `homes`.
    through: Epoch,
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
    /// An operator forgot it though its agent announces it: that counts for nothing until the agent has left or fallen silent.
    pub(super) barred: bool,
    /// A run id in an announcement that was already checked against ours.
    contested: Option<String>,
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
            contested: None,
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

    /// An open connection, on which nothing is overdue: the network between us is well.
    pub(super) fn answers(&self) -> bool {
        matches!(&self.link, Link::Open(open) if open.unanswered.is_none())
    }

    /// Known to have been started just now: it cannot hold much yet.
    pub(super) fn is_young(&self) -> bool {
        matches!(&self.link, Link::Open(open) if open.server.uptime_ms.is_some_and(|uptime_ms| uptime_ms < YOUNG_MS))
    }

    /// Shown up by the last map, and not to be by the next.
    pub(super) fn goes_down(&self) -> bool {
        self.published == Published::Up && !(self.is_up() && self.listed)
    }

    /// The node as the map is to show it.
    pub(super) fn shown(&self) -> Option<Node> {
        // One that no map has shown comes in as up or not at all: others would be guests' hosts for it all at once, with what
        // they may have kept for it long ago.
        let comes_in = self.is_up() || self.published != Published::Absent || flaw::has(Flaw::ComesInAsDown);
        (self.listed && comes_in).then(|| Node {
            config: self.shown_endpoint.clone(),
            weight: self.weight,
            up: self.is_up(),
            state_change_time: self.state_change_unix_ms,
            name: self.name.clone(),
            last_ping: self.last_ping_unix_ms,
            run_id: self.run_id.clone(),
            version: self.version.clone(),
            upkeep: self.upkeep.clone(),
            other: self.other.clone(),
        })
    }

    /// Its agent has spoken within the agent timeout.
    pub(super) fn recently_announced(&self, now: Now, book: &Book) -> bool {
        self.announced_at_ms.is_some_and(|at_ms| now.mono_ms < at_ms + book.options.agent_timeout_ms)
    }

    // ---- what happens to it ----

    /// Its agent says that it is there.
    pub(super) fn hear(&mut self, announcement: &Announcement, now: Now, book: &mut Book) {
        self.announced_at_ms = Some(now.mono_ms);
        self.last_ping_unix_ms = Some(now.unix_ms);
        self.gone = None;
        if !book.leading && self.listed {
            return;
        }
        if self.version.is_none() {
            self.version.clone_from(&announcement.version);
        }
        if let Some(through) = announcement.purged
            && book.leading
            && announcement.run_id.is_some()
            && announcement.run_id == self.run_id
            && book.homes.cleared(&self.name, through)
        {
            book.notice(Notice::Purged { name: self.name.clone() });
        }
        self.hear_weight(announcement.weight, now, book);
        let announced = announcement.run_id.as_deref();
        let moved = self.endpoint != announcement.config;
        if moved {
            self.endpoint = announcement.config.clone();
            self.refused = false;
        }
        // The agent sees another process than our connection leads to: look again, once.
        let contests = match &self.link {
            Link::Open(open) => {
                announced.is_some_and(|run_id| run_id != open.server.run_id && self.contested.as_deref() != Some(run_id))
            }
            _ => false,
        };
        if contests {
            self.contested = announced.map(str::to_owned);
        }
        if self.refused && announced.is_some_and(|run_id| book.master_run_id.as_deref() != Some(run_id)) {
            self.refused = false;
            self.retry_link_at(now.mono_ms);
        }
        if moved || contests {
            self.look_again(now, book);
        } else if !self.refused {
            self.retry_link_at(now.mono_ms);
        }
    }

    /// An operator's weight stands while the agent only repeats itself; whoever speaks of another weight last is right.
    fn hear_weight(&mut self, weight: f64, now: Now, book: &mut Book) {
        if self.upkeep.announced_weight == Some(weight) {
            return;
        }
        if self.weight != weight || self.upkeep.announced_weight.is_some() {
            self.weight = weight;
            self.upkeep.announced_weight = None;
            book.reweigh();
            book.changed(&self.name, What::Altered, now);
        }
    }

    /// Its agent says that it died, or leaves.
    pub(super) fn hear_gone(&mut self, run_id: Option<&str>, cause: Cause, now: Now, book: &mut Book) {
        let current = match &self.link {
            Link::Open(open) => Some(open.server.run_id.as_str()),
            // A standby has no connections, and goes by the map that it heard.
            _ => self.run_id.as_deref().or_else(|| book.base.get(&self.name)?.run_id.as_deref()),
        };
        if let (Some(said), Some(current)) = (run_id, current)
            && said != current
            && !flaw::has(Flaw::BelievesOldDeaths)
        {
            return;
        }
        self.gone = Some(cause.clone());
        self.gone_run_id = run_id.map(str::to_owned);
        self.barred = false;
        self.flush = None;
        self.drop_link(now, book);
        if self.is_up() && book.leading {
            self.take_down(cause, now, book);
        } else if let Standing::Down { cause: standing, .. } = &mut self.standing
            && standing.revocable()
        {
            *standing = cause;
        }
    }

    // ---- what operators want of it ----

    pub(super) fn drain(&mut self, now: Now, book: &mut Book) {
        self.upkeep.drained.get_or_insert(now.unix_ms.max(2));
        self.drop_flush();
        if self.is_up() {
            self.take_down(Cause::Drained, now, book);
        } else if let Standing::Down { cause, .. } = &mut self.standing {
            *cause = Cause::Drained;
            book.changed(&self.name, What::Altered, now);
        }
    }

    pub(super) fn undrain(&mut self, now: Now, book: &mut Book) {
        self.barred = false;
        self.retry_link_at(now.mono_ms);
        if self.upkeep.drained.take().is_some() {
            // Back as it went, on purpose.
            self.upkeep.left.get_or_insert(now.unix_ms.max(2));
            // However long it was drained: it is about to come back, and forgotten only if it does not.
            if let Standing::Down { since_ms, .. } = &mut self.standing {
                *since_ms = now.mono_ms;
            }
            book.changed(&self.name, What::Altered, now);
        }
    }

    pub(super) fn reweigh(&mut self, weight: f64, now: Now, book: &mut Book) {
        let announced = self.upkeep.announced_weight.unwrap_or(self.weight);
        self.weight = weight;
        self.upkeep.announced_weight = (announced != weight).then_some(announced);
        book.reweigh();
        book.changed(&self.name, What::Altered, now);
    }

    pub(super) fn forget(&mut self, now: Now, book: &mut Book) {
        self.barred = self.announces(now, book);
        self.drop_link(now, book);
        self.drop_flush();
        self.take_down(Cause::Forgotten, now, book);
        self.upkeep = Upkeep::default();
        self.listed = false;
        book.changed(&self.name, What::Forgotten { cause: Cause::Forgotten.to_string() }, now);
    }

    /// Its agent has spoken of late, and not to say that it is gone.
    pub(super) fn announces(&self, now: Now, book: &Book) -> bool {
        self.gone.is_none() && self.recently_announced(now, book)
    }

    /// Why it is not up though nothing is said against it; `None` while it may be in a moment.
    pub(super) fn hindrance(&self, now: Now, book: &Book) -> Option<String> {
        if !self.announces(now, book) {
            return Some("its agent does not announce it".to_owned());
        }
        if self.refused {
            return Some(Cause::IsMaster.to_string());
        }
        let trouble = self.last_trouble.clone().filter(|_| self.link_failures > 1);
        trouble.or_else(|| (self.flush_failures > 0).then(|| "it could not be emptied".to_owned()))
    }

    /// A proxy cannot use it.
    pub(super) fn suspect(&mut self, reporter: &str, reason: &str, now: Now, book: &mut Book) {
        if self.is_up() {
            self.reports.hear(reporter, reason, now.mono_ms);
        }
        if let Link::Open(open) = &mut self.link
            && !open.in_flight
            && now.mono_ms >= open.pinged_at_ms + SUSPECT_PAUSE_MS
            && self.flush.as_ref().is_none_or(|flush| !flush.join)
        {
            open.ping(&self.name, now, book);
        }
    }

    pub(super) fn link_opened(&mut self, link: LinkId, server: Server, now: Now, book: &mut Book) {
        match self.link {
            Link::Opening { link: ours, .. } if ours == link => {}
            _ => return,
        }
        if book.master_run_id.as_deref() == Some(server.run_id.as_str()) && !book.options.allow_master {
            self.refuse(now, book);
            return;
        }
        self.refused = false;
        self.link_failures = 0;
        self.last_trouble = None;
        self.unreachable_since_ms = None;
        self.answered_ms = now.mono_ms;
        let ping_at_ms = now.mono_ms + book.options.ping_interval_ms;
        self.link = Link::Open(OpenLink {
            link,
            server: server.clone(),
            ping_at_ms,
            pinged_at_ms: now.mono_ms,
            unanswered: None,
            in_flight: false,
        });
        if book.leading {
            self.meet(&server, now, book);
        }
    }

    /// The process at the other end of an open connection is known; what does that say of the node?
    fn meet(&mut self, server: &Server, now: Now, book: &mut Book) {
        if server.version.is_some() {
            self.version.clone_from(&server.version);
        }
        let same = match &self.run_id {
            Some(run_id) => *run_id == server.run_id || flaw::has(Flaw::RestartUnnoticed),
            None => self.published == Published::Up && self.ran_when_last_seen(server, now),
        };
        match &mut self.standing {
            Standing::Up { doubt_until_ms, .. } if same => *doubt_until_ms = None,
            Standing::Up { .. } => return self.take_down(Cause::Restarted, now, book),
            // The very process that the map shows up, and nobody was told otherwise: it has lost nothing and missed nothing.
            Standing::Down { since_ms, cause }
                if same
                    && cause.revocable()
                    && self.listed
                    && (self.published == Published::Up || flaw::has(Flaw::TakenBackAfterShownDown))
                    && (!book.being_shown_down(&self.name) || flaw::has(Flaw::TakenBackWhileShownDown)) =>
            {
                self.standing = Standing::Up { since_ms: *since_ms, doubt_until_ms: None };
                self.state_change_unix_ms = self.published_change_unix_ms;
                book.unchanged(&self.name);
            }
            Standing::Down { cause, .. } => {
                if !same && cause.revocable() {
                    *cause = Cause::Restarted;
                }
                return;
            }
        }
        if self.run_id.is_none() || self.shown_endpoint != self.endpoint {
            self.run_id = Some(server.run_id.clone());
            self.shown_endpoint = self.endpoint.clone();
            book.changed(&self.name, What::Altered, now);
        }
    }

    /// Old coordinators write no run id. A process that was already running when the map was written is the one it speaks of.
    fn ran_when_last_seen(&self, server: &Server, now: Now) -> bool {
        let seen_unix_ms = self.state_change_unix_ms.max(self.last_ping_unix_ms.unwrap_or(0));
        let Some(uptime_ms) = server.uptime_ms else { return false };
        seen_unix_ms > 1 && now.unix_ms.saturating_sub(uptime_ms) + UPTIME_SLACK_MS < seen_unix_ms
    }

    fn refuse(&mut self, now: Now, book: &mut Book) {
        if !self.refused {
            book.notice(Notice::IsMaster { name: self.name.clone() });
        }
        self.refused = true;
        self.drop_link(now, book);
        self.link = Link::Idle { retry_at_ms: now.mono_ms + REFUSED_PAUSE_MS };
        if self.is_up() && book.leading {
            self.take_down(Cause::IsMaster, now, book);
        }
        if self.listed && book.leading {
            self.listed = false;
            book.changed(&self.name, What::Forgotten { cause: Cause::IsMaster.to_string() }, now);
        }
    }

    pub(super) fn link_lost(&mut self, link: LinkId, reason: String, loss: Loss, now: Now, book: &mut Book) {
        match &self.link {
            Link::Open(OpenLink { link: ours, .. }) | Link::Opening { link: ours, .. } if *ours == link => {}
            _ => return,
        }
        if self.flush.as_ref().is_some_and(|flush| flush.join) {
            self.flush_refused(format!("the connection was lost: {reason}"), now, book);
        }
        self.trouble(reason, loss, now, book);
    }

    /// Its connection is gone. One that was broken is tried anew before anything is concluded: a redis that died refuses
    /// at once, so this costs a round trip, and a connection that was merely cut costs nobody anything.
    fn trouble(&mut self, reason: String, loss: Loss, now: Now, book: &mut Book) {
        self.last_trouble = Some(reason.clone());
        self.unreachable_since_ms.get_or_insert(now.mono_ms);
        self.drop_flush();
        self.link = Link::Idle { retry_at_ms: now.mono_ms };
        if self.is_up() && book.leading {
            if loss == Loss::Broken && self.rechecks < RECHECKS_MAX && !flaw::has(Flaw::CutIsDown) {
                self.rechecks += 1;
                self.look_again(now, book);
            } else {
                let cause = if loss == Loss::Silent { Cause::Silent(reason) } else { Cause::Gone(reason) };
                self.take_down(cause, now, book);
                self.back_off(now);
            }
            return;
        }
        if self.recently_announced(now, book) && self.gone.is_none() && self.link_failures == 3 {
            book.notice(Notice::Unreachable { name: self.name.clone(), reason });
        }
        self.back_off(now);
    }

    fn back_off(&mut self, now: Now) {
        let pause_ms = (LINK_PAUSE_MS << self.link_failures.min(16)).min(LINK_PAUSE_MAX_MS);
        self.link_failures = self.link_failures.saturating_add(1);
        self.link = Link::Idle { retry_at_ms: now.mono_ms + pause_ms };
    }

    /// Opens a new connection in place of whatever there is; a node that is up has little time to answer on it.
    fn look_again(&mut self, now: Now, book: &mut Book) {
        self.drop_link(now, book);
        self.drop_flush();
        if let Standing::Up { doubt_until_ms, .. } = &mut self.standing {
            let until_ms = now.mono_ms + book.options.recheck_ms;
            *doubt_until_ms = Some(doubt_until_ms.unwrap_or(until_ms).min(until_ms));
            self.connect(book.options.recheck_ms, now, book);
        }
    }

    pub(super) fn ponged(&mut self, link: LinkId, now: Now, book: &Book) {
        if let Link::Open(open) = &mut self.link
            && open.link == link
        {
            open.in_flight = false;
            open.unanswered = None;
            self.answered_ms = now.mono_ms;
            self.rechecks = 0;
            open.ping_at_ms = (open.pinged_at_ms + book.options.ping_interval_ms).max(now.mono_ms);
        }
    }

    pub(super) fn ping_refused(&mut self, link: LinkId, reason: String, now: Now, book: &Book) {
        if let Link::Open(open) = &mut self.link
            && open.link == link
        {
            open.in_flight = false;
            open.ping_at_ms = now.mono_ms + book.options.ping_interval_ms;
            if let Some(unanswered) = &mut open.unanswered {
                unanswered.error = Some(reason);
            }
        }
    }

    pub(super) fn flushed(&mut self, id: FlushId, now: Now, book: &mut Book) {
        if let Some(clear) = self.clear.take_if(|clear| clear.id == id) {
            if book.homes.cleared(&self.name, clear.through) {
                book.notice(Notice::Cleared { name: self.name.clone() });
            }
            return;
        }
        let Some(flush) = self.flush.take_if(|flush| flush.id == id) else { return };
        if !flush.join {
            let covers = if flaw::has(Flaw::GuestFlushCoversLater) { book.guest_need } else { flush.covers };
            self.guest_covered = self.guest_covered.max(covers);
            return;
        }
        // Where a laggard may have written since, it is emptied, but not for good: that is left to a purge.
        if let Some(through) = flush.through {
            book.homes.cleared(&self.name, through);
        }
        // It empties the guest databases too, but was not timed for the nodes that may be going down just now.
        let Link::Open(open) = &mut self.link else { return };
        // It was busy and not asked meanwhile.
        open.unanswered = None;
        open.ping_at_ms = now.mono_ms;
        self.run_id = Some(open.server.run_id.clone());
        self.version.clone_from(&open.server.version);
        self.shown_endpoint = self.endpoint.clone();
        self.flush_failures = 0;
        self.struck = None;
        let joined = !self.listed;
        let planned = self.upkeep.left.take().is_some();
        self.state_change_unix_ms = if joined || planned { 1 } else { now.unix_ms };
        self.listed = true;
        self.standing = Standing::Up { since_ms: now.mono_ms, doubt_until_ms: None };
        book.changed(&self.name, What::Up { joined }, now);
    }

    pub(super) fn flush_failed(&mut self, id: FlushId, reason: String, now: Now, book: &mut Book) {
        if self.clear.take_if(|clear| clear.id == id).is_some() {
            return self.clear_failed(reason, now, book);
        }
        let Some(flush) = self.flush.as_ref().filter(|flush| flush.id == id) else { return };
        if flaw::has(Flaw::FailedFlushCounts) {
            self.flushed(id, now, book);
        } else if flush.join {
            self.flush_refused(reason, now, book);
        } else {
            self.flush = None;
            self.guest_flush_failed(reason, now, book);
        }
    }

    /// Flushes the clients' databases of a node that stays up.
    pub(super) fn clear(&mut self, through: Epoch, now: Now, book: &mut Book) {
        let is_busy = self.clear.is_some() || self.flush.as_ref().is_some_and(|flush| flush.join);
        let Link::Open(open) = &self.link else { return };
        if is_busy || now.mono_ms < self.clear_at_ms {
            return;
        }
        let scope = if book.is_master(&open.server) { Scope::ClientsButCoordination } else { Scope::Clients };
        let (link, id) = (open.link, book.id());
        self.clear = Some(Clear { id, until_ms: now.mono_ms + book.options.join_flush_timeout_ms, through });
        book.homes.begun(&self.name);
        book.push(Action::Flush { name: self.name.clone(), link, flush: id, scope });
    }

    /// It was emptied, or is being, before readers had left the maps of those who knew it before us.
    pub(super) fn join_anew(&mut self, now: Now) {
        self.drop_flush();
        self.listed = false;
        self.standing = Standing::Down { since_ms: now.mono_ms, cause: Cause::NotYetUp };
    }

    fn clear_failed(&mut self, reason: String, now: Now, book: &mut Book) {
        self.clear_at_ms = now.mono_ms + CLEAR_PAUSE_MS;
        book.notice(Notice::ClearFailed { name: self.name.clone(), reason });
    }

    fn flush_refused(&mut self, reason: String, now: Now, book: &mut Book) {
        self.flush = None;
        let retry_ms = (FLUSH_PAUSE_MS << self.flush_failures.min(16)).min(FLUSH_PAUSE_MAX_MS);
        self.flush_failures = self.flush_failures.saturating_add(1);
        self.flush_at_ms = now.mono_ms + retry_ms;
        book.notice(Notice::FlushFailed { name: self.name.clone(), reason, retry_ms });
    }

    fn guest_flush_failed(&mut self, reason: String, now: Now, book: &mut Book) {
        if flaw::has(Flaw::UnflushedStaysUp) {
            self.guest_covered = book.guest_need;
            return;
        }
        self.drop_link(now, book);
        self.back_off(now);
        if self.is_up() {
            self.take_down(Cause::Unflushed(reason), now, book);
        }
    }

    /// A guest flush that will not be heard of is begun anew where it is still wanted.
    pub(super) fn drop_flush(&mut self) {
        self.clear = None;
        self.flush = None;
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

    // ---- what time brings ----

    /// Keeps the connection. Called while we lead, or may lead again in a moment.
    pub(super) fn keep_link(&mut self, now: Now, book: &mut Book) {
        let now_ms = now.mono_ms;
        match &mut self.link {
            Link::Idle { retry_at_ms } if *retry_at_ms <= now_ms => {
                let wanted = self.announces(now, book) && !self.barred;
                if self.is_up() || self.published == Published::Up || wanted {
                    self.connect(book.options.ping_timeout_ms, now, book);
                }
            }
            Link::Idle { .. } => {}
            Link::Opening { link, until_ms } => {
                if *until_ms <= now_ms {
                    let link = *link;
                    book.push(Action::Disconnect { name: self.name.clone(), link });
                    let reason = self.last_trouble.take().unwrap_or_else(|| "no answer to a new connection".to_owned());
                    self.trouble(reason, Loss::Silent, now, book);
                }
            }
            Link::Open(open) => {
                let joining = self.flush.as_ref().is_some_and(|flush| flush.join);
                let overdue = open.unanswered.as_ref().filter(|unanswered| {
                    // An answered error is followed by another try; give that one a chance too.
                    now_ms >= unanswered.since_ms + book.options.ping_timeout_ms
                });
                if joining {
                    // FLUSHALL holds the server up for as long as it takes; its own time limit is watched instead.
                } else if let Some(unanswered) = overdue {
                    let reason = match &unanswered.error {
                        Some(error) => format!("answers PING with an error: {error}"),
                        None => format!("no answer to PING for {} ms", now_ms - unanswered.since_ms),
                    };
                    let loss = if unanswered.error.is_none() { Loss::Silent } else { Loss::Refused };
                    self.drop_link(now, book);
                    self.trouble(reason, loss, now, book);
                } else if !open.in_flight && open.ping_at_ms <= now_ms {
                    open.ping(&self.name, now, book);
                }
            }
        }
        if self.clear.take_if(|clear| clear.until_ms <= now_ms).is_some() {
            self.clear_failed("no answer in time".to_owned(), now, book);
        }
        if let Some(flush) = &self.flush
            && flush.until_ms <= now_ms
        {
            let reason = "no answer in time".to_owned();
            if flush.join {
                // Whether it was emptied is not known, and the connection may be held up for long: begin anew.
                self.drop_link(now, book);
                self.flush_refused(reason, now, book);
                self.back_off(now);
            } else {
                self.flush = None;
                self.guest_flush_failed(reason, now, book);
            }
        }
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
        if book.may_flush && self.may_join_at_ms(now, book).is_some_and(|at_ms| at_ms <= now_ms) {
            let through = book.begin_to_clear(&self.name, now);
            let Link::Open(open) = &self.link else { return };
            let scope = if book.is_master(&open.server) { Scope::AllButCoordination } else { Scope::All };
            let (link, until_ms) = (open.link, now_ms + book.options.join_flush_timeout_ms);
            self.begin_flush(link, scope, until_ms, through, true, book);
            if flaw::has(Flaw::ShownUpBeforeFlushed)
                && let Some(id) = self.flush.as_ref().map(|flush| flush.id)
            {
                self.flushed(id, now, book);
            }
        }
    }

    /// Nothing but time, and proxies that have not left it yet, keeps it from being emptied so as to be shown up.
    fn is_ready(&self, now: Now, book: &Book) -> bool {
        matches!(self.link, Link::Open(_))
            && !self.is_up()
            && !self.refused
            && self.flush.is_none()
            && self.gone.is_none()
            && !self.barred
            && (self.upkeep.drained.is_none() || flaw::has(Flaw::DrainedComesBack))
            // What readers were told to take from others must not be written here any more: the map that says so stands. A new
            // leader's first map says it of every node that some lost map may have shown up.
            && (self.published != Published::Up || flaw::has(Flaw::EmptiedBeforeShownDown))
            // It went down while a map is on its way that shows it up: readers may use it by now.
            && (!book.being_shown_up(&self.name) || flaw::has(Flaw::OldFlushCounts))
            && !book.rewrite
            && self.recently_announced(now, book)
    }

    /// No proxy can write any more to the process that answers there: no map has shown it, as far as all maps are known, so that none speaks to
    /// it, or all go by one that shows it down. One that does not know that yet would write what nobody may see again, after it was emptied.
    fn is_left(&self, now: Now, book: &Book) -> bool {
        let Link::Open(open) = &self.link else { return false };
        let was_shown = self.shown_epoch != 0 && self.run_id.as_ref() == Some(&open.server.run_id);
        if !(was_shown || book.is_map_lost) || !book.options.guest_databases || flaw::has(Flaw::EmptiedUnconfirmed) {
            return true;
        }
        let (epoch, since_ms) = (self.shown_epoch.max(book.rewritten_epoch), self.shown_at_ms.max(book.rewritten_at_ms));
        book.proxies.confirm(epoch, since_ms, now.mono_ms, book.options.proxy_grace_ms)
    }

    /// It would be emptied, but for proxies that may still write to it.
    pub(super) fn awaits_proxies(&self, now: Now, book: &Book) -> bool {
        self.is_ready(now, book) && !self.is_left(now, book)
    }

    /// When it may be emptied so as to be shown up; `None` while something other than time is missing.
    fn may_join_at_ms(&self, now: Now, book: &Book) -> Option<u64> {
        let since_ms = self.shown_at_ms.max(book.rewritten_at_ms);
        let settle_ms = if flaw::has(Flaw::EmptiedTooSoon) { 0 } else { book.options.settle_ms };
        let may_join = self.is_ready(now, book) && self.is_left(now, book);
        may_join.then(|| (since_ms + settle_ms).max(self.held_until_ms).max(self.flush_at_ms))
    }

    /// Whether its guest databases were flushed late enough for the nodes that go down.
    pub(super) fn guests_flushed(&self, book: &Book) -> bool {
        self.guest_covered >= book.guest_need
    }

    pub(super) fn flush_guests(&mut self, now: Now, book: &mut Book) {
        if self.flush.as_ref().is_some_and(|flush| flush.covers >= book.guest_need) {
            return;
        }
        let Link::Open(open) = &self.link else { return };
        let scope = if book.is_master(&open.server) { Scope::GuestsButCoordination } else { Scope::Guests };
        let (link, until_ms) = (open.link, now.mono_ms + book.options.guest_flush_timeout_ms);
        // One that is under way began too early, but its time limit holds: a node that never answers is not waited for anew.
        let until_ms = self.flush.as_ref().map_or(until_ms, |flush| flush.until_ms.min(until_ms));
        self.begin_flush(link, scope, until_ms, None, false, book);
    }

    fn begin_flush(&mut self, link: LinkId, scope: Scope, until_ms: u64, through: Option<Epoch>, join: bool, book: &mut Book) {
        let id = book.id();
        self.flush = Some(Flush { id, until_ms, covers: book.guest_need, through, join });
        book.push(Action::Flush { name: self.name.clone(), link, flush: id, scope });
    }

    fn connect(&mut self, timeout_ms: u64, now: Now, book: &mut Book) {
        let link = book.id();
        self.link = Link::Opening { link, until_ms: now.mono_ms + timeout_ms };
        book.push(Action::Connect { name: self.name.clone(), link, endpoint: self.endpoint.clone() });
    }

    pub(super) fn drop_link(&mut self, now: Now, book: &mut Book) {
        if let Link::Opening { link, .. } | Link::Open(OpenLink { link, .. }) = self.link {
            book.push(Action::Disconnect { name: self.name.clone(), link });
        }
        self.link = Link::Idle { retry_at_ms: now.mono_ms };
    }

    /// Another leads: nothing more is wanted from the node.
    pub(super) fn stand_down(&mut self, now: Now, book: &mut Book) {
        self.drop_link(now, book);
        self.drop_flush();
    }

    fn retry_link_at(&mut self, at_ms: u64) {
        if let Link::Idle { retry_at_ms } = &mut self.link {
            *retry_at_ms = (*retry_at_ms).min(at_ms);
        }
    }

    /// Time stood still for us alone: nobody is to be blamed for answers that we did not read.
    pub(super) fn excuse(&mut self, late_ms: u64) {
        match &mut self.link {
            Link::Idle { .. } => {}
            Link::Opening { until_ms, .. } => *until_ms += late_ms,
            Link::Open(open) => {
                if let Some(unanswered) = &mut open.unanswered {
                    unanswered.since_ms += late_ms;
                }
            }
        }
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
        let link_ms = match &self.link {
            Link::Idle { retry_at_ms } => {
                let wanted = self.announces(now, book) && !self.barred;
                (self.is_up() || self.published == Published::Up || wanted).then_some(*retry_at_ms)
            }
            Link::Opening { until_ms, .. } => Some(*until_ms),
            Link::Open(open) => {
                let overdue_ms = open.unanswered.as_ref().map(|unanswered| unanswered.since_ms + book.options.ping_timeout_ms);
                [overdue_ms, (!open.in_flight).then_some(open.ping_at_ms)].into_iter().flatten().min()
            }
        };
        let flush_ms = self.flush.as_ref().map(|flush| flush.until_ms);
        let doubt_ms = match self.standing {
            Standing::Up { doubt_until_ms, .. } => doubt_until_ms,
            Standing::Down { .. } => None,
        };
        [link_ms, flush_ms, doubt_ms, self.may_join_at_ms(now, book)].into_iter().flatten().filter(|ms| *ms > now.mono_ms).min()
    }

    /// What is to be told of it beside what the map says.
    pub(super) fn note(&self, now: Now, book: &Book) -> Option<NodeNote> {
        let is_wanted = !self.is_up() && !self.refused && !self.barred && self.upkeep.drained.is_none();
        let unreachable = match (&self.last_trouble, self.unreachable_since_ms) {
            // Not before its agent has spoken since: who says nothing of it may be about to say that it died.
            (Some(reason), Some(since_ms))
                if is_wanted && self.announces(now, book) && self.announced_at_ms.is_some_and(|at_ms| at_ms > since_ms) =>
            {
                Some(trouble(since_ms, reason, now))
            }
            _ => None,
        };
        let held_back = is_wanted && self.held_until_ms > now.mono_ms;
        let fine = self.is_up() && self.answers();
        let note = NodeNote {
            unreachable,
            unreachable_from: if fine { self.reports.standing(self.answered_ms, now) } else { Default::default() },
            // To the second, so that a clock that is being set does not make it another one each time.
            held_back_until: held_back.then(|| unix_ms(self.held_until_ms, now).next_multiple_of(1_000)),
            times: held_back.then_some(self.strikes),
        };
        (note != NodeNote::default()).then_some(note)
    }

    pub(super) fn status(&self, now: Now, book: &Book) -> NodeStatus {
        let (state, reason) = match &self.standing {
            Standing::Up { doubt_until_ms: Some(_), .. } => (NodeState::Doubtful, self.last_trouble.clone()),
            Standing::Up { .. } => (NodeState::Up, None),
            Standing::Down { .. } if self.refused => (NodeState::Refused, Some(Cause::IsMaster.to_string())),
            Standing::Down { .. } if self.upkeep.drained.is_some() => (NodeState::Drained, None),
            Standing::Down { .. } if self.gone == Some(Cause::Leaving) => (NodeState::Left, None),
            Standing::Down { .. } if self.flush.is_some() => (NodeState::Joining, None),
            Standing::Down { .. } if self.held_until_ms > now.mono_ms && matches!(self.link, Link::Open(_)) => {
                (NodeState::HeldBack, Some(format!("went down {} times", self.strikes)))
            }
            Standing::Down { cause: Cause::NotYetUp, .. } if !self.listed && self.recently_announced(now, book) => {
                (NodeState::Joining, self.last_trouble.clone())
            }
            Standing::Down { cause, .. } => {
                (NodeState::Down, Some(self.last_trouble.clone().unwrap_or_else(|| cause.to_string())))
            }
        };
        NodeStatus {
            name: self.name.clone(),
            address: self.shown_endpoint.address(),
            weight: self.weight,
            state,
            reason,
            published_up: self.published == Published::Up,
        }
    }
}

impl OpenLink {
    fn ping(&mut self, name: &str, now: Now, book: &mut Book) {
        self.in_flight = true;
        self.pinged_at_ms = now.mono_ms;
        self.ping_at_ms = now.mono_ms + book.options.ping_interval_ms;
        if self.unanswered.is_none() {
            self.unanswered = Some(Unanswered { since_ms: now.mono_ms, error: None });
        }
        book.push(Action::Ping { name: name.to_owned(), link: self.link });
    }
}
