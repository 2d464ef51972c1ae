//! Takes one command: finds its row, routes it, queues it for its nodes.

use vrc_cluster::{
    command::{self, Categories, Command, Merge, Split, Unresolved, Way},
    merge::Join,
    resp::{Args, Frame, Proto, RequestFramer, encode, parse_integer},
    route::{self, Refusal, Route},
    topology::{NodeIndex, Owner},
};

use super::{
    Core, Flow,
    backend::{State, Unsent},
    lane::Lane,
    private::HeldKeys,
    replies::Slot,
    script::{behind_loads, runs_known_script},
    session::Pause,
    waiter::Waiter,
};

impl Core {
    /// Takes one whole request.
    #[inline]
    pub(super) fn command(&mut self, index: u32, args: Args<'_>) -> Flow {
        if args.is_empty() {
            return Flow::Next;
        }
        let command = match self.resolver.resolve(args) {
            Ok(command) => command,
            Err(unresolved) => return self.unresolved(index, unresolved, args),
        };
        if command.is_plain() && self.sessions[index as usize].is_plain() {
            self.repeats.note(command, args);
            self.plain_command(index, command, args)
        } else {
            self.any_command(index, command, args)
        }
    }

    /// What nearly all requests are: one key, and a client that is in no mode of any kind.
    #[inline(always)]
    fn plain_command(&mut self, index: u32, command: &'static Command, args: Args<'_>) -> Flow {
        self.sessions[index as usize].last_command = Some(command);
        let flow = match route::owner(self.topology.place(&args[1]), &self.topology) {
            Ok(owner) => self.forward(index, owner, args),
            Err(refusal) => {
                self.refuse_command(index, &refusal);
                Flow::Next
            }
        };
        self.counters.commands_total += u64::from(!matches!(flow, Flow::Pause(_)));
        flow
    }

    fn any_command(&mut self, index: u32, command: &'static Command, args: Args<'_>) -> Flow {
        let session = &mut self.sessions[index as usize];
        if !session.authenticated && !command.flags.contains(command::Flags::NO_AUTH) {
            self.refuse(index, "NOAUTH Authentication required.");
            return Flow::Next;
        }
        session.last_command = Some(command);
        if let Some(database) = command.other_database(args)
            // What is no number of a database at all, the node says better.
            && parse_integer(&args[database]).is_some_and(|db| (i64::from(self.settings.databases)..=i64::from(i32::MAX)).contains(&db))
        {
            self.refuse(index, "ERR DB index is out of range");
            return Flow::Next;
        }
        if session.subscriptions.is_some() && session.proto == Proto::Resp2 && !self.may_while_subscribed(index, command) {
            return Flow::Next;
        }
        let session = &self.sessions[index as usize];
        if session.transaction.is_some() && command.way != Way::Transaction && !matches!(command.name, "quit" | "reset") {
            return self.queue_command(index, command, args);
        }
        let forwarded = self.counters.forwarded_total;
        let flow = if session.tracking.is_none() {
            self.dispatch(index, command, args)
        } else {
            self.dispatch_tracked(index, command, args)
        };
        if !matches!(flow, Flow::Pause(_)) {
            self.counters.commands_total += 1;
        }
        if self.timed_from_us == 0 {
            self.timed_here(index, command, args, flow, self.counters.forwarded_total > forwarded);
        }
        flow
    }

    /// Has a command carried out, by whom it may concern.
    #[inline]
    pub(super) fn dispatch(&mut self, index: u32, command: &'static Command, args: Args<'_>) -> Flow {
        match self.router.route(command, args, &self.topology) {
            Ok(Route::One(owner)) if command.acl.contains(Categories::SCRIPTING) => {
                self.forward_scripting(index, owner, command, args)
            }
            Ok(Route::One(owner)) => self.forward(index, owner, args),
            Ok(Route::Local) => self.local(index, command, args),
            Ok(Route::Session) => self.session_command(index, command, args),
            Ok(Route::Wait(owner)) => self.wait_for_keys(index, owner, command, args),
            Ok(Route::WaitAnywhere) => match self.any_node(index) {
                Some(node) => self.wait(index, Owner { node, guest: false }, HeldKeys::default(), command, args),
                None => {
                    self.refuse_command(index, &Refusal::NoNodeUp);
                    Flow::Next
                }
            },
            Ok(Route::Any) => self.forward_any(index, command, args),
            Ok(Route::Split(split)) => self.forward_split(index, split, args),
            Ok(Route::All(merge)) if command.acl.contains(Categories::SCRIPTING) => {
                self.forward_scripting_to_all(index, command, merge, args)
            }
            Ok(Route::All(merge)) => self.forward_all(index, command, merge, args),
            Err(refusal) => {
                self.refuse_command(index, &refusal);
                Flow::Next
            }
        }
    }

    /// What depends on the session's state.
    fn session_command(&mut self, index: u32, command: &'static Command, args: Args<'_>) -> Flow {
        match command.way {
            Way::Transaction => self.transaction_command(index, command, args),
            Way::Scan => self.scan(index, args),
            Way::RandomKey => self.random_key(index, args),
            Way::PubSub => self.pubsub_command(index, command, args),
            _ => unreachable!("{} is no command of a session", command.name),
        }
    }

    fn wait_for_keys(&mut self, index: u32, owner: Owner, command: &'static Command, args: Args<'_>) -> Flow {
        let keys = self.keys_to_hold(args);
        self.wait(index, owner, keys, command, args)
    }

    fn refuse_command(&mut self, index: u32, refusal: &Refusal) {
        self.refuse(index, refusal.to_string());
    }

    /// The whole request to one node.
    #[inline(always)]
    pub(super) fn forward(&mut self, index: u32, owner: Owner, args: Args<'_>) -> Flow {
        let backend = self.backend_of(owner.node, self.sessions[index as usize].lane(owner.guest));
        if let Err(flow) = self.make_ready(index, backend) {
            return flow;
        }
        let sequence = self.sessions[index as usize].replies.push(Slot::Waiting);
        let waiter = self.waiter(index, sequence);
        self.backends[backend as usize].push(waiter, |out| out.extend_from_slice(args.bytes()));
        self.counters.forwarded_total += 1;
        self.mark_backend(backend);
        Flow::Next
    }

    /// The backend of an owner of a session's keys, if it is up and may take a request.
    pub(super) fn ready_backend(&mut self, index: u32, owner: Owner) -> Option<u32> {
        let backend = self.backend_of(owner.node, self.sessions[index as usize].lane(owner.guest));
        let of = &self.backends[backend as usize];
        (of.state == State::Up && of.has_room()).then_some(backend)
    }

    /// As [`Core::forward`], without a copy.
    pub(super) fn forward_owned(&mut self, index: u32, backend: u32, request: Vec<u8>) {
        let sequence = self.sessions[index as usize].replies.push(Slot::Waiting);
        let waiter = self.waiter(index, sequence);
        self.backends[backend as usize].push_whole(waiter, request);
        self.counters.forwarded_total += 1;
        self.mark_backend(backend);
    }

    /// Sees to it that a request may be queued for a backend.
    #[inline]
    pub(super) fn make_ready(&mut self, index: u32, backend: u32) -> Result<(), Flow> {
        let of = &self.backends[backend as usize];
        if of.state == State::Up && of.has_room() { Ok(()) } else { self.make_ready_slow(index, backend) }
    }

    #[cold]
    fn make_ready_slow(&mut self, index: u32, backend: u32) -> Result<(), Flow> {
        if let Some(text) = self.stuck_behind_script(backend) {
            self.refuse(index, &*text);
            return Err(Flow::Next);
        }
        if !self.backends[backend as usize].has_room() {
            return Err(Flow::Pause(Pause::Backlog(backend)));
        }
        if let Some(text) = self.unreachable(backend) {
            // One attempt at a time goes on behind the errors, so that a node which is back is found.
            if self.backends[backend as usize].state == State::Idle {
                self.connect(backend);
            }
            self.refuse(index, &text);
            return Err(Flow::Next);
        }
        if self.backends[backend as usize].state == State::Idle {
            self.connect(backend);
        }
        Ok(())
    }

    pub(super) fn forward_any(&mut self, index: u32, command: &'static Command, args: Args<'_>) -> Flow {
        match self.any_node(index) {
            Some(node) if command.acl.contains(Categories::SCRIPTING) => {
                self.forward_scripting(index, Owner { node, guest: false }, command, args)
            }
            Some(node) => self.forward(index, Owner { node, guest: false }, args),
            None => {
                self.refuse_command(index, &Refusal::NoNodeUp);
                Flow::Next
            }
        }
    }

    /// Some node that is up; the same for all of a session's commands, so that one follows another in order.
    pub(super) fn any_node(&self, index: u32) -> Option<NodeIndex> {
        (!self.up.is_empty()).then(|| self.up[index as usize % self.up.len()])
    }

    /// A part of the request to each node that owns some of its keys, as the router gave them out.
    fn forward_split(&mut self, index: u32, split: Split, args: Args<'_>) -> Flow {
        let parts = self.router.parts().len();
        for part in 0..parts {
            let owner = self.router.parts()[part].owner;
            if let Err(flow) = self.make_part_ready(index, owner) {
                return flow;
            }
        }
        let join = self.new_join();
        self.joins[join as usize].start_split(split, parts, self.router.part_of_key());
        let session = &mut self.sessions[index as usize];
        let lane = session.lane(false);
        let sequence = session.replies.push(Slot::Join(join));
        self.queue_parts(self.waiter(index, sequence), lane, split, args);
        self.counters.split_total += 1;
        Flow::Next
    }

    fn make_part_ready(&mut self, index: u32, owner: Owner) -> Result<(), Flow> {
        let backend = self.backend_of(owner.node, self.sessions[index as usize].lane(owner.guest));
        self.make_ready(index, backend)
    }

    /// Queues the router's parts; `waiter.part` is the number of the first, `lane` the client's.
    fn queue_parts(&mut self, waiter: Waiter, lane: Lane, split: Split, args: Args<'_>) {
        let (step, name) = (split.step(), args.raw_name());
        // The parts' headers first, then each key to its part: every part has a backend of its own, so they do not mix.
        let mut targets = std::mem::take(&mut self.part_targets);
        targets.clear();
        for part in 0..self.router.parts().len() {
            let of = self.router.parts()[part];
            let backend = self.backend_of(of.owner.node, lane.at(of.owner.guest));
            let out = self.backends[backend as usize].out_mut();
            targets.push((backend, out.len()));
            encode::array(out, 1 + of.keys as usize * step);
            out.extend_from_slice(name);
        }
        for (key, part) in (1..args.len()).step_by(step).zip(self.router.part_of_key()) {
            let (backend, _) = targets[usize::from(*part)];
            self.backends[backend as usize].out_mut().extend_from_slice(args.raw(key, key + step));
        }
        for (part, &(backend, start)) in targets.iter().enumerate() {
            let to = &mut self.backends[backend as usize];
            let len = (to.out_mut().len() - start) as u32;
            to.note(Waiter { len, part: waiter.part + part as u16, ..waiter });
            self.counters.forwarded_total += 1;
            self.mark_backend(backend);
        }
        self.part_targets = targets;
    }

    /// The whole request to every node that is up, and where it is about the keys of a database, to the guests of that database too.
    pub(super) fn forward_all(&mut self, index: u32, command: &'static Command, merge: Merge, args: Args<'_>) -> Flow {
        let lane = self.sessions[index as usize].lane(false);
        let mut targets = std::mem::take(&mut self.part_targets);
        targets.clear();
        for at in 0..self.up.len() {
            let node = self.up[at];
            targets.push((self.backend_of(node, lane), 0));
            if command.acl.contains(Categories::KEYSPACE) && self.hosts[at] {
                targets.push((self.backend_of(node, lane.at(true)), 0));
            }
        }
        let count = targets.len();
        let flow = self.forward_to(index, &targets, args, |join| join.start_all(merge, count));
        self.part_targets = targets;
        flow
    }

    /// The whole request to these backends; `start` says how their replies become one.
    pub(super) fn forward_to(
        &mut self,
        index: u32,
        targets: &[(u32, usize)],
        args: Args<'_>,
        start: impl FnOnce(&mut Join),
    ) -> Flow {
        self.forward_bytes_to(index, targets, args.bytes(), start)
    }

    /// Likewise of a request that is not as it came.
    pub(super) fn forward_bytes_to(
        &mut self,
        index: u32,
        targets: &[(u32, usize)],
        request: &[u8],
        start: impl FnOnce(&mut Join),
    ) -> Flow {
        if targets.is_empty() {
            self.refuse_command(index, &Refusal::NoNodeUp);
            return Flow::Next;
        }
        for &(backend, _) in targets {
            if let Err(flow) = self.make_ready(index, backend) {
                return flow;
            }
        }
        let join = self.new_join();
        start(&mut self.joins[join as usize]);
        let sequence = self.sessions[index as usize].replies.push(Slot::Join(join));
        let waiter = self.waiter(index, sequence);
        for (part, &(backend, _)) in targets.iter().enumerate() {
            self.queue(backend, Waiter { part: part as u16, ..waiter }, request);
        }
        self.counters.split_total += 1;
        Flow::Next
    }

    pub(super) fn queue(&mut self, backend: u32, waiter: Waiter, request: &[u8]) {
        self.backends[backend as usize].push(waiter, |out| out.extend_from_slice(request));
        self.counters.forwarded_total += 1;
        self.mark_backend(backend);
    }

    pub(super) fn new_join(&mut self) -> u32 {
        self.free_joins.pop().unwrap_or_else(|| {
            self.joins.push(Default::default());
            (self.joins.len() - 1) as u32
        })
    }

    // ---- After a change of the map ----

    /// Routes requests that were queued but not sent as if they came now, keeping their order and their time. `origin` is the backend
    /// that they were queued for, if it is still in use, and `lane` that backend's: what their sessions have selected may have
    /// changed since.
    pub(super) fn forward_again(&mut self, origin: Option<u32>, lane: Lane, unsent: Unsent) {
        let lane = lane.of_client(self.topology.options().guest_databases);
        let mut framer = RequestFramer::default();
        let mut at = 0;
        for waiter in unsent.waiters {
            let request = &unsent.requests[at..at + waiter.len as usize];
            at += waiter.len as usize;
            if waiter.sets_up() {
                // A connection that is opened anew is so as what its lane says.
                if let Some(backend) = origin.filter(|backend| self.backends[*backend as usize].state == State::Up) {
                    self.queue(backend, waiter, request);
                }
                continue;
            }
            if waiter.is_nobody() {
                continue;
            }
            if self.sessions[waiter.session as usize].generation != waiter.generation && !self.is_left_behind(&waiter) {
                continue;
            }
            let (loads, request) = behind_loads(request, waiter.skip);
            let waiter = Waiter { skip: waiter.skip - loads, ..waiter };
            if waiter.skip > 0 {
                self.transaction_again(waiter, lane, request);
                continue;
            }
            framer.reset();
            match framer.advance(request) {
                Ok(Some(Frame::Multibulk(_))) => self.forward_one_again(origin, waiter, lane, Args::new(request, framer.args())),
                _ => unreachable!("what was queued is a whole request"),
            }
        }
    }

    fn forward_one_again(&mut self, origin: Option<u32>, waiter: Waiter, lane: Lane, args: Args<'_>) {
        let slot = self.sessions[waiter.session as usize].replies.slot(waiter.sequence);
        let Ok(command) = command::resolve(args) else {
            // It was learned from a node, and other nodes have another form of it.
            return self.fail(waiter, "NODEDOWN a node left the cluster before the command was sent to it");
        };
        let route = self.router.route(command, args, &self.topology);
        self.counters.rerouted_total += 1;
        match (route, slot) {
            (Ok(Route::One(owner)), _) => self.queue_again(owner, lane, waiter, command, args),
            (Ok(Route::Split(split)), slot) => {
                let parts = self.router.parts().len();
                let part = match slot {
                    Some(Slot::Join(join)) => self.joins[join as usize].replace(waiter.part, parts, self.router.part_of_key()),
                    // All its keys had one owner, and have not any more.
                    _ => {
                        let join = self.new_join();
                        self.joins[join as usize].start_split(split, parts, self.router.part_of_key());
                        self.sessions[waiter.session as usize].split(waiter.sequence, join);
                        0
                    }
                };
                for part in 0..parts {
                    let owner = self.router.parts()[part].owner;
                    let backend = self.backend_of(owner.node, lane.at(owner.guest));
                    self.wake(backend, waiter);
                }
                self.queue_parts(Waiter { part, ..waiter }, lane, split, args);
            }
            (Ok(Route::Any), _) => match self.any_node(waiter.session) {
                Some(node) => self.queue_again(Owner { node, guest: false }, lane, waiter, command, args),
                None => self.fail(waiter, &Refusal::NoNodeUp.to_string()),
            },
            (Ok(Route::All(_)), _) => match origin {
                Some(backend) => self.requeue(backend, waiter, args.bytes()),
                None => self.fail(waiter, "NODEDOWN a node left the cluster before the command was sent to it"),
            },
            (Ok(Route::Session), _) if matches!(command.name, "publish" | "spublish") => {
                match route::owner(self.topology.place(&args[1]), &self.topology) {
                    Ok(owner) => self.queue_again(Owner { guest: false, ..owner }, lane, waiter, command, args),
                    Err(refusal) => self.fail(waiter, &refusal.to_string()),
                }
            }
            (Ok(Route::Session), _) => match origin {
                Some(backend) => self.requeue(backend, waiter, args.bytes()),
                None if command.way == Way::Scan => self.scan_past(waiter),
                None => self.fail(waiter, "NODEDOWN a node left the cluster before the command was sent to it"),
            },
            // A PING that asked whether all invalidations have come.
            (Ok(Route::Local), _) if command.name == "ping" => self.deliver(waiter, &pong(args)),
            // What the proxy asks a node for to answer it itself (INFO, CONFIG).
            (Ok(Route::Local), _) => match origin {
                Some(backend) => self.requeue(backend, waiter, args.bytes()),
                None => self.fail(waiter, "NODEDOWN a node left the cluster before the command was sent to it"),
            },
            (Ok(Route::Wait(_) | Route::WaitAnywhere), _) => unreachable!("never queued on a connection that others share"),
            (Err(refusal), _) => self.fail(waiter, &refusal.to_string()),
        }
    }

    /// Queues a request for its new owner; `lane` is the client's.
    fn queue_again(&mut self, owner: Owner, lane: Lane, waiter: Waiter, command: &'static Command, args: Args<'_>) {
        let backend = self.backend_of(owner.node, lane.at(owner.guest));
        self.wake(backend, waiter);
        if runs_known_script(command) {
            self.queue_run(backend, waiter, args);
        } else {
            self.queue(backend, waiter, args.bytes());
        }
    }

    fn requeue(&mut self, backend: u32, waiter: Waiter, request: &[u8]) {
        self.wake(backend, waiter);
        self.queue(backend, waiter, request);
    }

    /// Makes a backend ready for a request that was queued elsewhere before.
    pub(super) fn wake(&mut self, backend: u32, waiter: Waiter) {
        self.backends[backend as usize].expect_moved(waiter.since_us);
        if self.backends[backend as usize].state == State::Idle {
            self.connect(backend);
        }
    }

    // ---- What the table does not have ----

    #[cold]
    fn unresolved(&mut self, index: u32, mut unresolved: Unresolved, args: Args<'_>) -> Flow {
        if unresolved == Unresolved::Command && is_http(args) {
            tracing::warn!(
                client = self.sessions[index as usize].id,
                "closed: HTTP on the redis port, perhaps a web page that makes a browser attack it"
            );
            return Flow::Close;
        }
        if unresolved == Unresolved::Command && self.sessions[index as usize].authenticated {
            match self.learned(args) {
                None => return Flow::Pause(Pause::Learning),
                Some(Ok(command)) => return self.any_command(index, command, args),
                Some(Err(why)) => unresolved = why,
            }
        }
        if !self.sessions[index as usize].authenticated && unresolved == Unresolved::Command {
            self.refuse(index, "NOAUTH Authentication required.");
        } else if unresolved == Unresolved::Subcommand && is_client_setinfo(args) {
            self.client_setinfo(index, args);
        } else if unresolved == Unresolved::Subcommand && is_client_no_touch(args) && self.sessions[index as usize].authenticated
        {
            return self.client_no_touch(index, args);
        } else if unresolved == Unresolved::Subcommand && is_cluster_myshardid(args) {
            self.cluster(index, "myshardid", args);
        } else {
            if matches!(unresolved, Unresolved::Arity(command) if command.name == "exec") {
                // Even so it ends the transaction.
                self.discard(index);
            }
            self.spoil(index);
            self.refuse(index, unresolved.error(args));
        }
        Flow::Next
    }
}

/// The reply to a PING.
pub(super) fn pong(args: Args<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    match args.get(1) {
        Some(text) => encode::bulk(&mut out, text),
        None => encode::simple(&mut out, "PONG"),
    }
    out
}

/// A line that every HTTP request of some harm has. As redis does, the proxy closes at once: were it to go on, the request's body could
/// hold commands.
fn is_http(args: Args<'_>) -> bool {
    args[0].eq_ignore_ascii_case(b"post") || args[0].eq_ignore_ascii_case(b"host:")
}

/// `CLUSTER MYSHARDID` came with redis 7.2, and its answer is the proxy's, whatever the nodes are.
fn is_cluster_myshardid(args: Args<'_>) -> bool {
    args.len() == 2 && args[0].eq_ignore_ascii_case(b"cluster") && args[1].eq_ignore_ascii_case(b"myshardid")
}

fn is_client_no_touch(args: Args<'_>) -> bool {
    args.len() >= 2 && args[0].eq_ignore_ascii_case(b"client") && args[1].eq_ignore_ascii_case(b"no-touch")
}

/// `CLIENT SETINFO` came with redis 7.2, but client libraries send it to every server; what a proxy can keep it should.
fn is_client_setinfo(args: Args<'_>) -> bool {
    args.len() == 4 && args[0].eq_ignore_ascii_case(b"client") && args[1].eq_ignore_ascii_case(b"setinfo")
}
