//! What operators want, from hearing it until the master's map says so.
//!
//! The wish itself is carried out by the node's [`Member`], and stands in the map from then on. What is kept here is only who
//! waits to be told. A leader that is deposed meanwhile forgets both; the operator's program says its wish again until it is
//! answered, and so the next leader hears it too.

use super::{
    Action, Membership, Notice, Now, Role,
    member::{Member, Published},
    options::{WISH_ID_LEN_MAX, WISH_SAID_AGAIN_MS, WISHES_MAX},
};
use crate::contract::{WEIGHTS, Wish, WishAnswer};

/// Who waits.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    id: String,
    name: String,
    wish: Wish,
    since_ms: u64,
    /// When it was last said.
    said_ms: u64,
}

impl Membership {
    /// An operator says a wish, perhaps not for the first time.
    pub(super) fn wished(&mut self, id: String, name: &str, wish: Wish, now: Now) {
        if id.len() > WISH_ID_LEN_MAX {
            return;
        }
        // Another may lead by now, and hears it too.
        if self.lease.role != Role::Leading || now.mono_ms >= self.lease.until_ms {
            return self.overhear(name, wish, now);
        }
        if let Some(waiting) = self.wishes.waiting.iter_mut().find(|waiting| waiting.id == id) {
            waiting.said_ms = now.mono_ms;
            let waits_for = self.waits_for(name, wish, now);
            return self.answer(id, WishAnswer::Taken { waits_for });
        }
        if let Err(reason) = self.permits(name, wish, now) {
            return self.answer(id, WishAnswer::Refused { reason });
        }
        self.book.notice(Notice::Wished { name: name.to_owned(), wish });
        let (book, now_ms) = (&mut self.book, now.mono_ms);
        if let Some(member) = self.members.get_mut(name) {
            match wish {
                Wish::Drain { .. } => member.drain(now, book),
                Wish::Undrain => member.undrain(now, book),
                Wish::Weight { weight } => member.reweigh(weight, now, book),
                Wish::Forget { .. } => member.forget(now, book),
            }
        }
        self.wishes.waiting.push(Waiting { id, name: name.to_owned(), wish, since_ms: now_ms, said_ms: now_ms });
    }

    /// What the map does not keep is kept by all who hear it: that a node is out of it though its agent announces it.
    fn overhear(&mut self, name: &str, wish: Wish, now: Now) {
        let Some(member) = self.members.get_mut(name) else { return };
        match wish {
            // The leader refuses it for a node that it does not have.
            Wish::Forget { force: true } if self.book.base.contains_key(name) => {
                member.barred = member.announces(now, &self.book)
            }
            Wish::Undrain => member.barred = false,
            _ => {}
        }
    }

    fn permits(&self, name: &str, wish: Wish, now: Now) -> Result<(), String> {
        if self.wishes.waiting.len() >= WISHES_MAX {
            return Err(format!("{WISHES_MAX} wishes are being carried out already"));
        }
        // One may have been drained before a map showed it, and is listed in none.
        let is_known = |member: &&Member| member.listed || member.barred || member.upkeep.drained.is_some();
        let Some(member) = self.members.get(name).filter(is_known) else {
            return Err(format!("no node is called {name}"));
        };
        match wish {
            _ if member.barred && wish != Wish::Undrain => Err(format!("no node is called {name}: it was forgotten")),
            Wish::Drain { force: false } if member.is_up() && self.is_last_up(name) => {
                Err(format!("{name} is the only node that is up: without it no key can be used; --force drains it all the same"))
            }
            Wish::Weight { weight } if !WEIGHTS.contains(&weight) => Err(format!("{weight} is not a weight from 0.01 to 100")),
            Wish::Forget { force: false } if member.is_up() => {
                Err(format!("{name} is up; drain it and stop its agent first, or use --force"))
            }
            Wish::Forget { force: false } if member.announces(now, &self.book) => {
                Err(format!("the agent of {name} still announces it; stop the agent first, or use --force"))
            }
            _ => Ok(()),
        }
    }

    fn is_last_up(&self, name: &str) -> bool {
        !self.members.iter().any(|(other, member)| other != name && member.is_up())
    }

    /// Tells those whose wish the master's map fulfils by now.
    pub(super) fn answer_wishes(&mut self, now: Now) {
        if self.lease.role != Role::Leading {
            self.wishes.waiting.clear();
            return;
        }
        if self.wishes.waiting.is_empty() || now.mono_ms >= self.lease.until_ms {
            return;
        }
        let waiting = std::mem::take(&mut self.wishes.waiting);
        for waiting in waiting {
            match self.fulfilled(&waiting, now) {
                Some(note) => {
                    let took_ms = now.mono_ms.saturating_sub(waiting.since_ms);
                    self.answer(waiting.id, WishAnswer::Done { epoch: self.book.base_epoch, took_ms, note });
                }
                // Whoever does not say it any more does not listen any more either.
                None if now.mono_ms >= waiting.said_ms + WISH_SAID_AGAIN_MS => {}
                None => self.wishes.waiting.push(waiting),
            }
        }
    }

    /// Whether the master's map is as wanted, and what else is to be said then.
    fn fulfilled(&self, waiting: &Waiting, now: Now) -> Option<Option<String>> {
        if self.book.writing.is_some() || self.book.rewrite {
            return None;
        }
        let shown = self.book.base.get(&waiting.name);
        let is_done = |done: bool| done.then_some(None);
        match waiting.wish {
            Wish::Drain { .. } => is_done(shown.is_none_or(|node| !node.up && node.upkeep.drained.is_some())),
            Wish::Weight { weight } => is_done(shown.is_none_or(|node| node.weight == weight)),
            Wish::Forget { .. } => is_done(shown.is_none()),
            Wish::Undrain => match shown {
                Some(node) if node.up => Some(None),
                Some(node) if node.upkeep.drained.is_some() => None,
                _ => {
                    let hindrance = self.members.get(&waiting.name).and_then(|member| member.hindrance(now, &self.book))?;
                    Some(Some(format!("it may be up again, but is not: {hindrance}")))
                }
            },
        }
    }

    fn waits_for(&self, name: &str, wish: Wish, now: Now) -> String {
        let book = &self.book;
        if !book.master_up || book.writing.is_some() {
            return "the master to take the new map".to_owned();
        }
        if self.guest_flush_from_ms().is_some()
            && let Some((unflushed, _)) = self.members.iter().find(|(_, member)| member.is_up() && !member.guests_flushed(book))
        {
            return format!("the guest databases of {unflushed} to be flushed");
        }
        if let Some(unclean) = book.homes.unclean.first() {
            return match book.may_clear(unclean, now) {
                Some(_) => format!("{unclean} to be flushed, which gets slots back and has not purged their keys yet"),
                None => format!("proxies to confirm the last map, so that {unclean} can be flushed, which gets slots back"),
            };
        }
        match self.members.get(name) {
            Some(member) if wish == Wish::Undrain && member.awaits_proxies(now, book) => {
                format!("proxies to confirm that they have left {name}")
            }
            Some(member) if wish == Wish::Undrain && member.published != Published::Up => {
                member.hindrance(now, book).unwrap_or_else(|| format!("{name} to be emptied"))
            }
            _ if self.members.values().any(Member::in_doubt) => "nodes whose state is in doubt".to_owned(),
            _ => "the new map to be written".to_owned(),
        }
    }

    fn answer(&mut self, id: String, answer: WishAnswer) {
        self.book.push(Action::Answer { id, answer });
    }
}
