//! What a node is emptied of, and when: all of it before it is shown up, its guest databases before another is shown down, and the clients'
//! databases of one that gets slots back.

use super::{Link, Member, Published, Standing};
use crate::{
    contract::Epoch,
    flaw::{self, Flaw},
    membership::{
        Book,
        event::{Action, FlushId, LinkId, Now, Scope},
        member::Cause,
        notice::{Notice, What},
        options::{CLEAR_PAUSE_MS, FLUSH_PAUSE_MAX_MS, FLUSH_PAUSE_MS},
    },
};

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Flush {
    pub(super) id: FlushId,
    pub(super) until_ms: u64,
    /// The value of [`Book::guest_need`] when it began: what it makes up for.
    pub(super) covers: u64,
    /// Up to which map's lost slots it makes up for, if for any: see `homes`.
    pub(super) through: Option<Epoch>,
    /// The node is emptied so that it can be shown up; else its guest databases are, so that another can be shown down.
    pub(super) join: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Clear {
    pub(super) id: FlushId,
    pub(super) until_ms: u64,
    /// Up to which map's lost slots it makes up for: see `homes`.
    pub(super) through: Epoch,
}

impl Member {
    /// Nothing but time, and proxies that have not left it yet, keeps it from being emptied so as to be shown up.
    fn is_ready(&self, now: Now, book: &Book) -> bool {
        matches!(self.link, Link::Open(_))
            && !self.is_up()
            && !self.refused
            && self.flush.is_none()
            && self.gone.is_none()
            && !self.barred
            && !self.meets_stranger()
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
    pub(in crate::membership) fn awaits_proxies(&self, now: Now, book: &Book) -> bool {
        self.is_ready(now, book) && !self.is_left(now, book)
    }

    /// When it may be emptied so as to be shown up; `None` while something other than time is missing.
    pub(super) fn may_join_at_ms(&self, now: Now, book: &Book) -> Option<u64> {
        let since_ms = self.shown_at_ms.max(book.rewritten_at_ms);
        let settle_ms = if flaw::has(Flaw::EmptiedTooSoon) { 0 } else { book.options.settle_ms };
        let may_join = self.is_ready(now, book) && self.is_left(now, book);
        may_join.then(|| (since_ms + settle_ms).max(self.held_until_ms).max(self.flush_at_ms))
    }

    /// Has it emptied where it may be, so that it can be shown up.
    pub(super) fn join_if_ready(&mut self, now: Now, book: &mut Book) {
        if !book.may_flush || self.may_join_at_ms(now, book).is_none_or(|at_ms| at_ms > now.mono_ms) {
            return;
        }
        let through = book.begin_to_clear(&self.name, now);
        let Link::Open(open) = &self.link else { return };
        let scope = if book.is_master(&open.server) { Scope::AllButCoordination } else { Scope::All };
        let (link, until_ms) = (open.link, now.mono_ms + book.options.join_flush_timeout_ms);
        self.begin_flush(link, scope, until_ms, through, true, book);
        if flaw::has(Flaw::ShownUpBeforeFlushed)
            && let Some(id) = self.flush.as_ref().map(|flush| flush.id)
        {
            self.flushed(id, now, book);
        }
    }

    /// Whether its guest databases were flushed late enough for the nodes that go down.
    pub(in crate::membership) fn guests_flushed(&self, book: &Book) -> bool {
        self.guest_covered >= book.guest_need
    }

    pub(in crate::membership) fn flush_guests(&mut self, now: Now, book: &mut Book) {
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

    /// Flushes the clients' databases of a node that stays up.
    pub(in crate::membership) fn clear(&mut self, through: Epoch, now: Now, book: &mut Book) {
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

    fn begin_flush(&mut self, link: LinkId, scope: Scope, until_ms: u64, through: Option<Epoch>, join: bool, book: &mut Book) {
        let id = book.id();
        self.flush = Some(Flush { id, until_ms, covers: book.guest_need, through, join });
        book.push(Action::Flush { name: self.name.clone(), link, flush: id, scope });
    }

    pub(in crate::membership) fn flushed(&mut self, id: FlushId, now: Now, book: &mut Book) {
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
        open.was_busy(now);
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

    pub(in crate::membership) fn flush_failed(&mut self, id: FlushId, reason: String, now: Now, book: &mut Book) {
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

    pub(super) fn clear_failed(&mut self, reason: String, now: Now, book: &mut Book) {
        self.clear_at_ms = now.mono_ms + CLEAR_PAUSE_MS;
        book.notice(Notice::ClearFailed { name: self.name.clone(), reason });
    }

    pub(super) fn flush_refused(&mut self, reason: String, now: Now, book: &mut Book) {
        self.flush = None;
        let retry_ms = (FLUSH_PAUSE_MS << self.flush_failures.min(16)).min(FLUSH_PAUSE_MAX_MS);
        self.flush_failures = self.flush_failures.saturating_add(1);
        self.flush_at_ms = now.mono_ms + retry_ms;
        book.notice(Notice::FlushFailed { name: self.name.clone(), reason, retry_ms });
    }

    pub(super) fn guest_flush_failed(&mut self, reason: String, now: Now, book: &mut Book) {
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
    pub(in crate::membership) fn drop_flush(&mut self) {
        self.clear = None;
        self.flush = None;
    }
}
