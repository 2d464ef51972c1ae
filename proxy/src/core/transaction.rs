//! MULTI, EXEC, DISCARD, WATCH and UNWATCH.
//!
//! A transaction's commands are kept here until EXEC, and then go to their node as one block, MULTI to EXEC, over the connection that
//! everybody shares: a node takes a connection's requests one after the other, so nobody's command can come in between, and no
//! connection has to be held while a client makes up its mind. What the node would say to each command on queueing is said here; if
//! it does refuse one after all (it is out of memory, say), EXEC gives its EXECABORT.
//!
//! A command that is not one node's alone (FLUSHALL, SELECT, CONFIG SET …) ends a block, and what follows makes the next: each block is
//! carried out as one, in order, but others' commands may come between them.
//!
//! Only WATCH needs a connection of its own, from the first watched key to the EXEC.

use std::collections::VecDeque;

use vrc_cluster::{
    command::{Command, Flags, Way},
    resp::{Args, Frame, RequestFramer, encode},
    route::{self, Refusal},
    topology::{Owner, Place, PlacementKind},
};

use crate::{
    limits::TRANSACTION_BYTES_MAX,
    scripts::{ScriptId, script_id},
};

use super::{
    Core, Flow,
    aside::{Asides, Segment, parts_blocks, stands_aside},
    functions::calls_function,
    lane::Lane,
    private::Hold,
    replies::{Sequence, Slot},
    script::{load, runs_known_script},
    waiter::Waiter,
};

const MULTI: &[u8] = b"*1\r\n$5\r\nMULTI\r\n";
const EXEC: &[u8] = b"*1\r\n$4\r\nEXEC\r\n";
const UNWATCH: &[u8] = b"*1\r\n$7\r\nUNWATCH\r\n";

/// What a session has queued since MULTI.
#[derive(Debug, Default)]
pub(crate) struct Transaction {
    /// Those up to the last command that parts blocks.
    earlier: VecDeque<Segment>,
    /// Those since.
    last: Segment,
    /// How many in all, and their bytes.
    count: u32,
    bytes: usize,
    /// A key of the transaction: all others have its place.
    key: Option<Box<[u8]>>,
    /// A command was refused, so EXEC will be.
    spoiled: bool,
    /// A command may change data or publish something.
    may_write: bool,
}

impl Transaction {
    /// How many commands are queued.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Their bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Those of the first block, one after the other.
    pub(super) fn first_block(&self) -> &[u8] {
        &self.earlier.front().unwrap_or(&self.last).block
    }

    /// Whether a command was refused, so that EXEC will be.
    pub(super) fn is_spoiled(&self) -> bool {
        self.spoiled
    }

    /// All of them, in order.
    pub(super) fn requests(&self) -> impl Iterator<Item = &[u8]> {
        self.earlier.iter().chain([&self.last]).flat_map(Segment::requests)
    }

    fn of_segments(mut segments: VecDeque<Segment>, may_write: bool) -> Self {
        let last = segments.pop_back().unwrap_or_default();
        let count = segments.iter().chain([&last]).map(Segment::count).sum();
        Transaction { earlier: segments, last, count, may_write, ..Transaction::default() }
    }

    /// The parts that it is carried out in.
    fn into_segments(mut self) -> VecDeque<Segment> {
        self.earlier.push_back(self.last);
        self.earlier
    }

    /// Whether it may change data or publish something.
    pub(super) fn may_write(&self) -> bool {
        self.may_write
    }
}

impl Core {
    /// MULTI, EXEC and so on, outside of a transaction and inside.
    pub(super) fn transaction_command(&mut self, index: u32, command: &'static Command, args: Args<'_>) -> Flow {
        let inside = self.sessions[index as usize].transaction.is_some();
        match (command.name, inside) {
            ("multi", false) => {
                self.sessions[index as usize].transaction = Some(Box::default());
                self.ok(index);
            }
            ("multi", true) => self.refuse(index, "ERR MULTI calls can not be nested"),
            ("exec", true) => return self.exec(index),
            ("exec", false) => self.refuse(index, "ERR EXEC without MULTI"),
            ("discard", true) => {
                self.discard(index);
                self.ok(index);
            }
            ("discard", false) => self.refuse(index, "ERR DISCARD without MULTI"),
            ("watch", true) => self.refuse(index, "ERR WATCH inside MULTI is not allowed"),
            ("watch", false) => return self.watch(index, command, args),
            ("unwatch", true) => return self.queue_command(index, command, args),
            _ => {
                self.unwatch(index);
                self.ok(index);
            }
        }
        Flow::Next
    }

    /// Forgets the transaction and what was watched for it.
    pub(super) fn discard(&mut self, index: u32) {
        self.sessions[index as usize].transaction = None;
        self.unwatch(index);
    }

    /// A command inside a transaction.
    pub(super) fn queue_command(&mut self, index: u32, command: &'static Command, args: Args<'_>) -> Flow {
        if calls_function(command)
            && let Some(flow) = self.see_to_queued_functions(index, command, args)
        {
            return flow;
        }
        let refusal = match self.check_queued(index, command, args) {
            Ok(key) => {
                self.note_run(command, args);
                let may_write = self.may_write(command, args);
                let transaction = self.sessions[index as usize].transaction.as_mut().expect("inside a transaction");
                transaction.may_write |= may_write;
                if transaction.bytes + args.bytes().len() <= TRANSACTION_BYTES_MAX {
                    if parts_blocks(command, args) {
                        transaction.last.push_aside(args.bytes());
                        transaction.earlier.push_back(std::mem::take(&mut transaction.last));
                    } else if stands_aside(command) {
                        transaction.last.push_aside(args.bytes());
                    } else {
                        transaction.last.push(args.bytes());
                    }
                    transaction.bytes += args.bytes().len();
                    transaction.count += 1;
                    let is_caching = command.name == "client|caching";
                    if transaction.key.is_none() {
                        transaction.key = key.map(|key| args[key].into());
                    }
                    if is_caching {
                        self.caching_queued(index);
                    }
                    self.answer_now(index, |out| encode::simple(out, "QUEUED"));
                    return Flow::Next;
                }
                format!("ERR a transaction of more than {TRANSACTION_BYTES_MAX} bytes is not supported by this proxy")
            }
            Err(refusal) => refusal.to_string(),
        };
        self.spoil(index);
        self.refuse(index, refusal);
        Flow::Next
    }

    /// A command inside a transaction was refused: EXEC will fail.
    pub(super) fn spoil(&mut self, index: u32) {
        if let Some(transaction) = &mut self.sessions[index as usize].transaction {
            transaction.spoiled = true;
        }
    }

    /// Whether a command may stand in this session's transaction, and which argument is its first key.
    fn check_queued(&mut self, index: u32, command: &'static Command, args: Args<'_>) -> Result<Option<usize>, Refusal> {
        // That EXEC's array goes without some of its elements is of no use to anybody.
        if command.flags.contains(Flags::NO_MULTI) || command.name == "client|reply" {
            return Err(Refusal::NotInTransaction);
        }
        if matches!(command.way, Way::Refused | Way::Container) {
            return Err(Refusal::Unsupported(command.name));
        }
        if stands_aside(command) {
            // A channel need not live where the keys do.
            return Ok(None);
        }
        let Some(place) = self.router.whole(command, args, &self.topology)? else { return Ok(None) };
        let owner = route::owner(place, &self.topology)?;
        if let Some(text) = self.settings.busy.of(&self.topology.nodes()[usize::from(owner.node)].name) {
            return Err(Refusal::Node(text));
        }
        let session = &self.sessions[index as usize];
        let queued = session.transaction.as_ref().and_then(|transaction| transaction.key.as_deref());
        let watched = session.watching.and_then(|backend| match &self.backends[backend as usize].hold {
            Some(Hold::Watching { keys, .. }) => keys.first().map(|key| &**key),
            _ => None,
        });
        for other in queued.into_iter().chain(watched) {
            if self.topology.place(other) != place {
                return Err(Refusal::CrossSlot);
            }
        }
        Ok(self.router.keys().first().map(|key| *key as usize))
    }

    fn exec(&mut self, index: u32) -> Flow {
        if self.sessions[index as usize].watching.is_some()
            && let Some(flow) = self.after_all_before(index)
        {
            return flow;
        }
        let session = &mut self.sessions[index as usize];
        let transaction = session.transaction.take().expect("inside a transaction");
        let broken = std::mem::take(&mut session.watch_broken);
        let watched = session.watching;
        if transaction.spoiled {
            self.unwatch(index);
            self.refuse(index, "EXECABORT Transaction discarded because of previous errors.");
            return Flow::Next;
        }
        if broken {
            // The keys' node changed since: whatever stood in them is gone.
            self.unwatch(index);
            let proto = self.sessions[index as usize].proto;
            self.answer_now(index, |out| encode::null_array(out, proto));
            return Flow::Next;
        }
        if transaction.count == 0 && watched.is_none() {
            self.answer_now(index, |out| encode::array(out, 0));
            return Flow::Next;
        }
        let may_write = transaction.may_write;
        let mut segments = transaction.into_segments();
        let first = segments.pop_front().expect("one at least");
        if first.block_count == 0 && watched.is_none() {
            self.sessions[index as usize].asides = Some(Asides::new(first.asides, segments));
            self.exec_asides_alone(index);
            return self.before_all_after(index);
        }
        let (backend, scripts) = match self.backend_of_block(index, &first.block, watched) {
            Ok(found) => found,
            Err(refusal) => {
                self.unwatch(index);
                self.refuse(index, refusal.to_string());
                return Flow::Next;
            }
        };
        if watched.is_none()
            && let Err(flow) = self.make_ready(index, backend)
        {
            if matches!(flow, Flow::Pause(_)) {
                segments.push_front(first);
                self.sessions[index as usize].transaction = Some(Box::new(Transaction::of_segments(segments, may_write)));
            }
            return flow;
        }
        let is_whole = first.asides.is_empty() && segments.is_empty();
        let sequence = self.sessions[index as usize].replies.push(if is_whole { Slot::Waiting } else { Slot::Exec });
        self.queue_block(index, backend, sequence, &scripts, &first);
        if !is_whole {
            self.sessions[index as usize].asides = Some(Asides::new(first.asides, segments));
        }
        if let Some(backend) = watched {
            // EXEC ends the watch: the connection goes back once it has answered.
            self.backends[backend as usize].hold = Some(Hold::Finishing);
            self.sessions[index as usize].watching = None;
            return self.before_all_after(index);
        }
        if is_whole { Flow::Next } else { self.before_all_after(index) }
    }

    /// Sends a block, whose reply is for `sequence`.
    pub(super) fn queue_block(&mut self, index: u32, backend: u32, sequence: Sequence, scripts: &[ScriptId], segment: &Segment) {
        // MULTI's OK and each command's QUEUED have been said already.
        let waiter = Waiter { skip: segment.block_count + 1, ..self.waiter(index, sequence) };
        self.push_block(backend, waiter, scripts, &segment.block);
    }

    /// The connection for a block, and which scripts it runs. The connection is that of the keys' owner, which has to be the one that
    /// watches keys if there is one.
    pub(super) fn backend_of_block(
        &mut self,
        index: u32,
        block: &[u8],
        watched: Option<u32>,
    ) -> Result<(u32, Vec<ScriptId>), Refusal> {
        let (owner, scripts) = self.owner_of_requests(block)?;
        let backend = match (watched, owner) {
            // Where keys are parted by node, those that were queued may have left the watched ones since.
            (Some(backend), Some(owner)) if !self.serves(backend, owner) => return Err(Refusal::CrossSlot),
            (Some(backend), _) => backend,
            (None, owner) => {
                let owner = owner.or_else(|| self.any_owner(index)).ok_or(Refusal::NoNodeUp)?;
                self.backend_of(owner.node, self.sessions[index as usize].lane(owner.guest))
            }
        };
        Ok((backend, scripts))
    }

    /// Who carries out a block without keys.
    fn any_owner(&self, index: u32) -> Option<Owner> {
        let of_keyless = route::owner(route::home_of_keyless(&self.topology), &self.topology).ok();
        of_keyless.or_else(|| self.any_node(index).map(|node| Owner { node, guest: false }))
    }

    /// Queues a transaction for a node, with the scripts that it runs and the node may not have.
    fn push_block(&mut self, backend: u32, waiter: Waiter, scripts: &[ScriptId], requests: &[u8]) {
        let scripts: Vec<_> = scripts.iter().filter_map(|id| self.script_to_load(backend, *id)).collect();
        let waiter = Waiter { skip: waiter.skip + scripts.len() as u32, ..waiter };
        self.backends[backend as usize].push(waiter, |out| {
            scripts.iter().for_each(|script| load(out, script));
            out.extend_from_slice(MULTI);
            out.extend_from_slice(requests);
            out.extend_from_slice(EXEC);
        });
        self.counters.forwarded_total += 1;
        self.mark_backend(backend);
    }

    /// Who owns all keys of these requests now, `None` if they have no keys; and which scripts they run.
    fn owner_of_requests(&mut self, mut requests: &[u8]) -> Result<(Option<Owner>, Vec<ScriptId>), Refusal> {
        let mut framer = RequestFramer::default();
        let mut scripts = Vec::new();
        let mut place: Option<Place> = None;
        while let Ok(Some(Frame::Multibulk(len))) = framer.advance(requests) {
            let args = Args::new(&requests[..len], framer.args());
            if let Ok(command) = vrc_cluster::command::resolve(args) {
                if runs_known_script(command) {
                    scripts.extend(script_id(&args[1]));
                }
                if let Some(found) = self.router.whole(command, args, &self.topology)?
                    && place.replace(found).is_some_and(|before| before != found)
                {
                    return Err(Refusal::CrossSlot);
                }
            }
            requests = &requests[len..];
            framer.reset();
        }
        let owner = place.map(|place| route::owner(place, &self.topology)).transpose()?;
        Ok((owner, scripts))
    }

    /// Routes a transaction that was queued for a node but not sent as if its EXEC came now.
    pub(super) fn transaction_again(&mut self, waiter: Waiter, lane: Lane, block: &[u8]) {
        let requests = &block[MULTI.len()..block.len() - EXEC.len()];
        let found = self.owner_of_requests(requests);
        match found.map(|(owner, scripts)| (owner.or_else(|| self.any_owner(waiter.session)), scripts)) {
            Ok((Some(owner), scripts)) => {
                let backend = self.backend_of(owner.node, lane.at(owner.guest));
                self.wake(backend, waiter);
                self.push_block(backend, waiter, &scripts, requests);
            }
            Ok((None, _)) => self.fail(waiter, &Refusal::NoNodeUp.to_string()),
            Err(refusal) => self.fail(waiter, &refusal.to_string()),
        }
    }

    fn watch(&mut self, index: u32, command: &'static Command, args: Args<'_>) -> Flow {
        if let Some(flow) = self.after_all_before(index) {
            return flow;
        }
        let owner = match self.router.whole(command, args, &self.topology) {
            Ok(Some(place)) => match route::owner(place, &self.topology) {
                Ok(owner) => owner,
                Err(refusal) => {
                    self.refuse(index, refusal.to_string());
                    return Flow::Next;
                }
            },
            Ok(None) => unreachable!("WATCH has a key by its arity"),
            Err(refusal) => {
                self.refuse(index, refusal.to_string());
                return Flow::Next;
            }
        };
        let session = self.session_id(index);
        let keys = self.keys_to_hold(args);
        let backend = match self.sessions[index as usize].watching {
            Some(backend) => {
                let place = self.topology.place(&args[1]);
                match &mut self.backends[backend as usize].hold {
                    Some(Hold::Watching { keys: watched, .. }) if watched.iter().all(|key| self.topology.place(key) == place) => {
                        if self.topology.options().kind == PlacementKind::Legacy {
                            watched.extend(keys);
                        }
                    }
                    _ => {
                        self.refuse(index, Refusal::CrossSlot.to_string());
                        return Flow::Next;
                    }
                }
                backend
            }
            None => {
                let hold = Hold::Watching { session, keys };
                let Some(backend) = self.take_private(index, owner, hold) else { return Flow::Next };
                self.sessions[index as usize].watching = Some(backend);
                backend
            }
        };
        let sequence = self.sessions[index as usize].replies.push(Slot::Waiting);
        self.queue(backend, self.waiter(index, sequence), args.bytes());
        self.before_all_after(index)
    }

    /// Watches nothing any more.
    pub(super) fn unwatch(&mut self, index: u32) {
        let session = &mut self.sessions[index as usize];
        session.watch_broken = false;
        if let Some(backend) = session.watching.take() {
            self.backends[backend as usize].hold = Some(Hold::Finishing);
            self.queue(backend, Waiter::nobody(self.now_us), UNWATCH);
        }
    }
}
