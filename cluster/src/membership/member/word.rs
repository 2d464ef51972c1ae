//! What a node's agent says of it, and what operators want of it.

use super::{Cause, Link, Member, Standing};
use crate::{
    contract::{Announcement, Upkeep},
    flaw::{self, Flaw},
    membership::{
        Book,
        event::Now,
        notice::{Notice, What},
    },
};

impl Member {
    /// Its agent says that it is there.
    pub(in crate::membership) fn hear(&mut self, announcement: &Announcement, now: Now, book: &mut Book) {
        self.announced_at_ms = Some(now.mono_ms);
        self.last_ping_unix_ms = Some(now.unix_ms);
        self.gone = None;
        self.announced_run_id.clone_from(&announcement.run_id);
        if self.meets_stranger() && self.flush.as_ref().is_some_and(|flush| flush.join) {
            // What it did counts for nothing: whom it emptied is not known to be the node.
            self.drop_flush();
        }
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
        let contests = !moved && self.contest_announcement(now, book);
        if self.refused && announced.is_some_and(|run_id| book.master_run_id.as_deref() != Some(run_id)) {
            self.refused = false;
            self.retry_link_at(now.mono_ms);
        }
        if moved {
            self.look_again(book.options.recheck_ms, now, book);
        } else if contests {
            // The connection that is given up was well, and so may the node be.
            self.look_again(book.options.ping_timeout_ms, now, book);
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
    pub(in crate::membership) fn hear_gone(&mut self, run_id: Option<&str>, cause: Cause, now: Now, book: &mut Book) {
        // Whatever process it watched: it is stopped, and what an operator wanted of it is over.
        self.barred &= cause != Cause::Leaving;
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

    pub(in crate::membership) fn drain(&mut self, now: Now, book: &mut Book) {
        self.upkeep.drained.get_or_insert(now.unix_ms.max(2));
        self.drop_flush();
        if self.is_up() {
            self.take_down(Cause::Drained, now, book);
        } else if let Standing::Down { cause, .. } = &mut self.standing {
            *cause = Cause::Drained;
            book.changed(&self.name, What::Altered, now);
        }
    }

    pub(in crate::membership) fn undrain(&mut self, now: Now, book: &mut Book) {
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

    pub(in crate::membership) fn reweigh(&mut self, weight: f64, now: Now, book: &mut Book) {
        let announced = self.upkeep.announced_weight.unwrap_or(self.weight);
        self.weight = weight;
        self.upkeep.announced_weight = (announced != weight).then_some(announced);
        book.reweigh();
        book.changed(&self.name, What::Altered, now);
    }

    pub(in crate::membership) fn forget(&mut self, now: Now, book: &mut Book) {
        self.barred = self.announces(now, book);
        self.drop_link(now, book);
        self.drop_flush();
        self.take_down(Cause::Forgotten, now, book);
        self.upkeep = Upkeep::default();
        self.listed = false;
        book.changed(&self.name, What::Forgotten { cause: Cause::Forgotten.to_string() }, now);
    }

    /// Why it is not up though nothing is said against it; `None` while it may be in a moment.
    pub(in crate::membership) fn hindrance(&self, now: Now, book: &Book) -> Option<String> {
        if !self.announces(now, book) {
            return Some("its agent does not announce it".to_owned());
        }
        if self.refused {
            return Some(Cause::IsMaster.to_string());
        }
        let stranger = self.stranger();
        if stranger.is_some() {
            return stranger;
        }
        let trouble = self.last_trouble.clone().filter(|_| self.link_failures > 1);
        trouble.or_else(|| (self.flush_failures > 0).then(|| "it could not be emptied".to_owned()))
    }
}
