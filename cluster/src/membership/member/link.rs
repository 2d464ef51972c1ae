//! The connection to a node: opened, asked whether it answers, lost, and tried anew; and what the process at its other end says of the node.

use super::{Cause, Member, Published, Standing};
use crate::{
    flaw::{self, Flaw},
    membership::{
        Book,
        event::{Action, LinkId, Loss, Now, Server},
        notice::{Notice, What},
        options::{
            LINK_PAUSE_MAX_MS, LINK_PAUSE_MS, RECHECKS_MAX, REFUSED_PAUSE_MS, SUSPECT_PAUSE_MS, UPTIME_SLACK_MS, YOUNG_MS,
        },
    },
};

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Link {
    Idle { retry_at_ms: u64 },
    Opening { link: LinkId, until_ms: u64 },
    Open(OpenLink),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct OpenLink {
    pub(super) link: LinkId,
    pub(super) server: Server,
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

impl Link {
    /// Gives whoever is to answer more time.
    pub(super) fn excuse(&mut self, late_ms: u64) {
        match self {
            Link::Idle { .. } => {}
            Link::Opening { until_ms, .. } => *until_ms += late_ms,
            Link::Open(open) => {
                if let Some(unanswered) = &mut open.unanswered {
                    unanswered.since_ms += late_ms;
                }
            }
        }
    }
}

impl Member {
    /// An open connection, on which nothing is overdue: the network between us is well.
    pub(in crate::membership) fn answers(&self) -> bool {
        matches!(&self.link, Link::Open(open) if open.unanswered.is_none())
    }

    /// Known to have been started just now: it cannot hold much yet.
    pub(in crate::membership) fn is_young(&self) -> bool {
        matches!(&self.link, Link::Open(open) if open.server.uptime_ms.is_some_and(|uptime_ms| uptime_ms < YOUNG_MS))
    }

    /// A proxy cannot use it.
    pub(in crate::membership) fn suspect(&mut self, reporter: &str, reason: &str, now: Now, book: &mut Book) {
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

    pub(in crate::membership) fn link_opened(&mut self, link: LinkId, server: Server, now: Now, book: &mut Book) {
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
        self.contest_answer(now);
        if book.leading {
            self.meet(&server, now, book);
        }
    }

    /// The process at the other end of an open connection is known; what does that say of the node?
    pub(super) fn meet(&mut self, server: &Server, now: Now, book: &mut Book) {
        if server.version.is_some() {
            self.version.clone_from(&server.version);
        }
        let same = match &self.run_id {
            Some(run_id) => *run_id == server.run_id || flaw::has(Flaw::RestartUnnoticed),
            None => self.published == Published::Up && self.ran_when_last_seen(server, now) && !self.meets_stranger(),
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

    pub(in crate::membership) fn link_lost(&mut self, link: LinkId, reason: String, loss: Loss, now: Now, book: &mut Book) {
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
                self.look_again(book.options.recheck_ms, now, book);
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

    pub(super) fn back_off(&mut self, now: Now) {
        let pause_ms = (LINK_PAUSE_MS << self.link_failures.min(16)).min(LINK_PAUSE_MAX_MS);
        self.link_failures = self.link_failures.saturating_add(1);
        self.link = Link::Idle { retry_at_ms: now.mono_ms + pause_ms };
    }

    /// Opens a new connection in place of whatever there is; a node that is up has to answer on it in time.
    pub(super) fn look_again(&mut self, within_ms: u64, now: Now, book: &mut Book) {
        self.drop_link(now, book);
        self.drop_flush();
        if let Standing::Up { doubt_until_ms, .. } = &mut self.standing {
            let until_ms = now.mono_ms + within_ms;
            *doubt_until_ms = Some(doubt_until_ms.unwrap_or(until_ms).min(until_ms));
            self.connect(within_ms, now, book);
        }
    }

    pub(in crate::membership) fn ponged(&mut self, link: LinkId, now: Now, book: &Book) {
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

    pub(in crate::membership) fn ping_refused(&mut self, link: LinkId, reason: String, now: Now, book: &Book) {
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

    /// Keeps the connection. Called while we lead, or may lead again in a moment.
    pub(in crate::membership) fn keep_link(&mut self, now: Now, book: &mut Book) {
        let now_ms = now.mono_ms;
        match &mut self.link {
            Link::Idle { retry_at_ms } if *retry_at_ms <= now_ms => {
                if self.wants_link(now, book) {
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

    fn wants_link(&self, now: Now, book: &Book) -> bool {
        self.is_up() || self.published == Published::Up || self.announces(now, book) && !self.barred
    }

    /// When the connection is next to be looked after.
    pub(super) fn link_deadline_ms(&self, now: Now, book: &Book) -> Option<u64> {
        match &self.link {
            Link::Idle { retry_at_ms } => self.wants_link(now, book).then_some(*retry_at_ms),
            Link::Opening { until_ms, .. } => Some(*until_ms),
            Link::Open(open) => {
                let overdue_ms = open.unanswered.as_ref().map(|unanswered| unanswered.since_ms + book.options.ping_timeout_ms);
                [overdue_ms, (!open.in_flight).then_some(open.ping_at_ms)].into_iter().flatten().min()
            }
        }
    }

    pub(super) fn connect(&mut self, timeout_ms: u64, now: Now, book: &mut Book) {
        let link = book.id();
        self.link = Link::Opening { link, until_ms: now.mono_ms + timeout_ms };
        book.push(Action::Connect { name: self.name.clone(), link, endpoint: self.endpoint.clone() });
    }

    pub(in crate::membership) fn drop_link(&mut self, now: Now, book: &mut Book) {
        if let Link::Opening { link, .. } | Link::Open(OpenLink { link, .. }) = self.link {
            book.push(Action::Disconnect { name: self.name.clone(), link });
        }
        self.link = Link::Idle { retry_at_ms: now.mono_ms };
    }

    pub(super) fn retry_link_at(&mut self, at_ms: u64) {
        if let Link::Idle { retry_at_ms } = &mut self.link {
            *retry_at_ms = (*retry_at_ms).min(at_ms);
        }
    }
}

impl OpenLink {
    /// It was busy and not asked meanwhile.
    pub(super) fn was_busy(&mut self, now: Now) {
        self.unanswered = None;
        self.ping_at_ms = now.mono_ms;
    }

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
