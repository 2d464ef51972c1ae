//! EVAL, EVALSHA and SCRIPT: a script that this proxy has seen runs on every node, also on one that joined or restarted since.
//!
//! Each node connection has a note of the scripts that its node was given or asked for over it. The first EVALSHA of a script takes
//! SCRIPT LOAD along, in one piece and in front, so that nothing has to be tried again and the order of a pipeline holds. A node that
//! says NOSCRIPT all the same has lost its scripts: the note is torn up, and the next EVALSHA takes the script along again.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use vrc_cluster::{
    command::{Command, Flags, Merge},
    resp::{Args, Frame, RequestFramer, array_elements, encode},
    topology::Owner,
};

use super::{Core, Flow, backend::State, functions::calls_function, lane::Lane, replies::Slot, waiter::Waiter};
use crate::{
    limits::SCRIPTS_NOTED_MAX,
    scripts::{By, ScriptId, script_id},
};

/// What FUNCTION STATS says of a function or script that runs.
const RUNS: &[u8] = b"duration_ms";

/// The scripts that a node was given over one connection.
#[derive(Debug, Default)]
pub(crate) struct Noted {
    epoch: u64,
    scripts: HashSet<ScriptId>,
}

impl Noted {
    pub(crate) fn is_empty(&self) -> bool {
        self.scripts.is_empty()
    }

    pub(crate) fn tear_up(&mut self) {
        if !self.scripts.is_empty() {
            self.scripts = HashSet::new();
        }
    }
}

/// The scripts that a worker has seen run, so that it does not hand each to the others again and again.
#[derive(Debug, Default)]
pub(super) struct Seen {
    epoch: u64,
    hashes: HashSet<u64>,
    hasher: RandomState,
}

/// Whether a command runs a script by its SHA1.
pub(super) fn runs_known_script(command: &Command) -> bool {
    matches!(command.name, "evalsha" | "evalsha_ro")
}

impl Core {
    /// A command about scripts or functions that goes to one node.
    pub(super) fn forward_scripting(&mut self, index: u32, owner: Owner, command: &'static Command, args: Args<'_>) -> Flow {
        if calls_function(command)
            && let Some(flow) = self.see_to_functions(owner.node)
        {
            return flow;
        }
        if !runs_known_script(command) {
            self.note_run(command, args);
            return self.forward(index, owner, args);
        }
        let backend = self.backend_of(owner.node, self.sessions[index as usize].lane(owner.guest));
        if let Err(flow) = self.make_ready(index, backend) {
            return flow;
        }
        let sequence = self.sessions[index as usize].replies.push(Slot::Waiting);
        self.queue_run(backend, self.waiter(index, sequence), args);
        Flow::Next
    }

    /// Queues an EVALSHA, with its script if the node may not have it.
    pub(super) fn queue_run(&mut self, backend: u32, waiter: Waiter, args: Args<'_>) {
        match script_id(&args[1]).and_then(|id| self.script_to_load(backend, id)) {
            None => self.queue(backend, waiter, args.bytes()),
            Some(script) => {
                let waiter = Waiter { skip: 1, ..waiter };
                self.backends[backend as usize].push(waiter, |out| {
                    load(out, &script);
                    out.extend_from_slice(args.bytes());
                });
                self.counters.forwarded_total += 1;
                self.mark_backend(backend);
            }
        }
    }

    /// The script that has to go to a node before it can run it: none if it was given it over this connection, or nobody knows it.
    pub(super) fn script_to_load(&mut self, backend: u32, id: ScriptId) -> Option<Arc<[u8]>> {
        let epoch = self.settings.scripts.epoch();
        let of = &mut self.backends[backend as usize];
        if of.noted.epoch != epoch {
            of.noted.tear_up();
            of.noted.epoch = epoch;
        }
        if of.noted.scripts.contains(&id) {
            return None;
        }
        // What is queued while there is no connection may be given up piece by piece.
        if of.state == State::Up {
            if of.noted.scripts.len() >= SCRIPTS_NOTED_MAX {
                of.noted.tear_up();
            }
            of.noted.scripts.insert(id);
        }
        self.settings.scripts.get(&id)
    }

    /// Keeps the script of an EVAL.
    pub(super) fn note_run(&mut self, command: &Command, args: Args<'_>) {
        if !matches!(command.name, "eval" | "eval_ro") {
            return;
        }
        let (script, epoch) = (&args[1], self.settings.scripts.epoch());
        let hash = self.seen.hasher.hash_one(script);
        if self.seen.epoch != epoch || self.seen.hashes.len() >= SCRIPTS_NOTED_MAX {
            self.seen.hashes.clear();
            self.seen.epoch = epoch;
        }
        // Should two scripts have one hash, the second is not kept, and EVALSHA of it answers as if it had been forgotten.
        if self.seen.hashes.insert(hash) {
            self.settings.scripts.remember(script, By::Eval);
        }
    }

    /// A command about scripts or functions that goes to all nodes.
    pub(super) fn forward_scripting_to_all(
        &mut self,
        index: u32,
        command: &'static Command,
        merge: Merge,
        args: Args<'_>,
    ) -> Flow {
        let is_beside = command.name == "function|stats" || command.flags.contains(Flags::ALLOW_BUSY);
        if is_beside && let Some(flow) = self.after_all_before(index) {
            return flow;
        }
        match command.name {
            "script|load" => self.settings.scripts.remember(&args[2], By::Load),
            "script|flush" if is_flush(args) => self.settings.scripts.forget_all(),
            "script|exists" => return self.script_exists(index, args),
            "function|stats" => return self.function_stats(index, args),
            _ if is_beside => {
                let targets = self.beside_all(index);
                let flow = self.forward_to(index, &targets, args, |join| join.start_all(merge, targets.len()));
                return if flow == Flow::Next { self.before_all_after(index) } else { flow };
            }
            _ => {}
        }
        self.forward_all(index, command, merge, args)
    }

    /// A connection to each node that does not wait behind a script.
    fn beside_all(&mut self, index: u32) -> Vec<(u32, usize)> {
        let lane = Lane::beside(self.sessions[index as usize].proto);
        (0..self.up.len()).map(|at| (self.backend_of(self.up[at], lane), 0)).collect()
    }

    /// `FUNCTION STATS` tells of what runs, wherever it does.
    fn function_stats(&mut self, index: u32, args: Args<'_>) -> Flow {
        let targets = self.beside_all(index);
        let tell = |replies: &[&[u8]], out: &mut Vec<u8>| {
            let runs = |reply: &&&[u8]| reply.windows(RUNS.len()).any(|part| part == RUNS);
            // A script that is no function is no answer, but the error that redis gives.
            let is_busy = |reply: &&&[u8]| reply.starts_with(b"-BUSY ");
            let answers = |reply: &&&[u8]| !reply.starts_with(b"-");
            let find = |what: &dyn Fn(&&&[u8]) -> bool| replies.iter().find(|reply| what(reply));
            let told = find(&runs).or_else(|| find(&is_busy)).or_else(|| find(&answers)).or(replies.first());
            out.extend_from_slice(told.copied().unwrap_or_default());
        };
        let flow = self.forward_to(index, &targets, args, |join| join.start_gather(targets.len(), tell));
        if flow == Flow::Next { self.before_all_after(index) } else { flow }
    }

    /// A script exists that can be run on every node: they all have it, or some do and the others will be given it.
    fn script_exists(&mut self, index: u32, args: Args<'_>) -> Flow {
        let is_kept = |id: &[u8]| script_id(id).is_some_and(|id| self.settings.scripts.get(&id).is_some());
        let kept: Vec<bool> = args.iter().skip(2).map(is_kept).collect();
        let lane = self.sessions[index as usize].lane(false);
        let targets: Vec<_> = (0..self.up.len()).map(|at| (self.backend_of(self.up[at], lane), 0)).collect();
        let count = targets.len();
        self.forward_to(index, &targets, args, |join| join.start_gather(count, move |replies, out| exists(&kept, replies, out)))
    }

    /// A node answered with an error.
    #[cold]
    pub(super) fn node_error(&mut self, backend: u32, waiter: &Waiter, reply: &[u8]) {
        if reply.starts_with(b"-NOSCRIPT") {
            self.backends[backend as usize].noted.tear_up();
        }
        if self.backends[backend as usize].lane.no_touch && !waiter.is_nobody() && self.is_open(waiter.session_id()) {
            self.may_know_no_touch(waiter.session, reply);
        }
    }
}

fn is_flush(args: Args<'_>) -> bool {
    match args.len() {
        2 => true,
        3 => args[2].eq_ignore_ascii_case(b"sync") || args[2].eq_ignore_ascii_case(b"async"),
        _ => false,
    }
}

fn exists(kept: &[bool], replies: &[&[u8]], out: &mut Vec<u8>) {
    let mut counts = vec![0; kept.len()];
    for reply in replies {
        let Some(elements) = array_elements(reply) else {
            let error =
                if reply.starts_with(b"-") { reply } else { b"-ERR a node's reply had an unexpected form\r\n".as_slice() };
            return out.extend_from_slice(error);
        };
        counts.iter_mut().zip(elements).for_each(|(count, element)| *count += usize::from(element == b":1\r\n"));
    }
    encode::array(out, kept.len());
    for (&kept, count) in kept.iter().zip(counts) {
        encode::integer(out, i64::from(count == replies.len() || (kept && count > 0)));
    }
}

pub(super) fn load(out: &mut Vec<u8>, script: &[u8]) {
    encode::array(out, 3);
    encode::bulk(out, b"SCRIPT");
    encode::bulk(out, b"LOAD");
    encode::bulk(out, script);
}

/// What of a queued piece is the client's own: all behind the scripts that it takes along, of which there are so many.
pub(super) fn behind_loads(mut piece: &[u8], replies_skipped: u32) -> (u32, &[u8]) {
    let mut framer = RequestFramer::default();
    let mut loads = 0;
    while loads < replies_skipped
        && let Ok(Some(Frame::Multibulk(len))) = framer.advance(piece)
    {
        let args = Args::new(&piece[..len], framer.args());
        if !(args.len() == 3 && &args[0] == b"SCRIPT" && &args[1] == b"LOAD") {
            break;
        }
        framer.reset();
        piece = &piece[len..];
        loads += 1;
    }
    (loads, piece)
}
