//! The scripts that clients have handed to this proxy, by their SHA1: what a node is given that does not know one yet.
//!
//! Shared by all workers, since a client may load a script through one and run it through another. It is looked at when a node
//! connection is to run a script for the first time, and when a script is seen for the first time; not for every request.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use sha1_smol::Sha1;

use crate::limits::{SCRIPT_BYTES_MAX, SCRIPTS_BYTES_MAX};

/// A script's SHA1.
pub(crate) type ScriptId = [u8; 20];

/// Reads a script's SHA1 as EVALSHA names it: 40 hexadecimal digits in any case.
pub(crate) fn script_id(text: &[u8]) -> Option<ScriptId> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let mut id = ScriptId::default();
    if text.len() != 2 * id.len() {
        return None;
    }
    for (byte, pair) in id.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(id)
}

/// How a script became known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum By {
    /// It was run: forgotten before the others, as redis itself does.
    Eval,
    /// SCRIPT LOAD.
    Load,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct Scripts {
    kept: Mutex<Kept>,
    /// Counts the times that scripts were forgotten: what was noted of them before does not hold any more.
    epoch: AtomicU64,
}

#[derive(Debug, Default)]
struct Kept {
    scripts: HashMap<ScriptId, Script>,
    bytes: usize,
    /// Counts the uses.
    clock: u64,
}

#[derive(Debug)]
struct Script {
    body: Arc<[u8]>,
    by: By,
    used: u64,
}

impl Scripts {
    /// See [`Scripts::epoch`]'s field.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Relaxed)
    }

    /// Keeps a script, unless it is too large.
    pub(crate) fn remember(&self, body: &[u8], by: By) {
        if body.len() > SCRIPT_BYTES_MAX {
            return;
        }
        let id = Sha1::from(body).digest().bytes();
        let mut kept = self.lock();
        kept.clock += 1;
        let used = kept.clock;
        if let Some(script) = kept.scripts.get_mut(&id) {
            script.used = used;
            script.by = script.by.max(by);
            return;
        }
        kept.bytes += body.len();
        kept.scripts.insert(id, Script { body: body.into(), by, used });
        if kept.bytes > SCRIPTS_BYTES_MAX {
            kept.make_room();
            self.epoch.fetch_add(1, Relaxed);
        }
    }

    /// A script's text.
    pub(crate) fn get(&self, id: &ScriptId) -> Option<Arc<[u8]>> {
        let mut kept = self.lock();
        kept.clock += 1;
        let used = kept.clock;
        let script = kept.scripts.get_mut(id)?;
        script.used = used;
        Some(script.body.clone())
    }

    /// Forgets all of them.
    pub(crate) fn forget_all(&self) {
        *self.lock() = Kept::default();
        self.epoch.fetch_add(1, Relaxed);
    }

    /// Nothing that is done under the lock leaves things half done, whatever panics.
    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Forgets those that were not used for the longest time, a quarter of all bytes at once so that it is rare; first those that were
    /// only run.
    fn make_room(&mut self) {
        let mut by_use: Vec<_> = self.scripts.iter().map(|(id, script)| (script.by, script.used, *id)).collect();
        by_use.sort_unstable();
        for (_, _, id) in by_use {
            if self.bytes <= SCRIPTS_BYTES_MAX / 4 * 3 {
                break;
            }
            self.bytes -= self.scripts.remove(&id).map_or(0, |script| script.body.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        let id = Sha1::from("return 1").digest();
        assert_eq!(script_id(id.to_string().as_bytes()), Some(id.bytes()));
        assert_eq!(script_id(id.to_string().to_uppercase().as_bytes()), Some(id.bytes()));
        for text in [
            "",
            "e0e1f9fabfc9d4800c877a703b823ac0578ff8d",
            "g0e1f9fabfc9d4800c877a703b823ac0578ff8db",
            "é0e1f9fabfc9d4800c877a703b823ac0578ff8d",
        ] {
            assert_eq!(script_id(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn what_was_only_run_and_not_used_for_long_is_forgotten_first() {
        let scripts = Scripts::default();
        let body = |number: usize| {
            let mut body = vec![b' '; SCRIPT_BYTES_MAX];
            body[..8].copy_from_slice(&number.to_le_bytes());
            body
        };
        let id = |number: usize| Sha1::from(body(number)).digest().bytes();
        let enough = SCRIPTS_BYTES_MAX / SCRIPT_BYTES_MAX;
        scripts.remember(&body(0), By::Load);
        for number in 1..enough {
            scripts.remember(&body(number), By::Eval);
        }
        assert!(scripts.get(&id(1)).is_some());
        let before = scripts.epoch();
        scripts.remember(&body(enough), By::Eval);
        assert_ne!(scripts.epoch(), before);
        for (number, kept) in [(0, true), (1, true), (2, false), (enough, true)] {
            assert_eq!(scripts.get(&id(number)).is_some(), kept, "{number}");
        }
        assert!(scripts.lock().bytes <= SCRIPTS_BYTES_MAX);
        scripts.remember(&vec![b'x'; SCRIPT_BYTES_MAX + 1], By::Load);
        assert!(scripts.lock().bytes <= SCRIPTS_BYTES_MAX);
        scripts.forget_all();
        assert!(scripts.get(&id(0)).is_none());
    }
}
