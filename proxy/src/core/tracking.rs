//! Client-side caching as a client sees it: CLIENT TRACKING, CACHING, TRACKINGINFO and GETREDIR, what of its commands counts as read,
//! and how invalidations reach it. Who has read what is kept by `tracked`, what is broadcast comes by `broadcast`.

use std::collections::{BTreeSet, VecDeque};

use vrc_cluster::{
    command::{Categories, Command, Flags, Merge, find_keys},
    resp::{Args, Frame, Proto, RequestFramer, encode, parse_integer},
};

use crate::limits::PRIVATE_MAX;

use super::{
    Core, Effect, Flow, Lane,
    backend::State,
    lane::TrackingLane,
    private::Hold,
    replies::{Sequence, Slot},
    session::SessionId,
    tracked::{Tracked, TrackingOptions},
};

/// A CLIENT TRACKING that makes sense by itself.
#[derive(Debug, Default)]
pub(crate) struct TrackingRequest {
    on: bool,
    modes: Modes,
    redirect: Option<i64>,
    prefixes: Vec<Box<[u8]>>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Modes {
    broadcast: bool,
    optin: bool,
    optout: bool,
    noloop: bool,
}

/// A client that invalidations are redirected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RedirectTarget {
    /// Its number, as CLIENT ID gives it.
    pub(crate) client: u64,
    pub(crate) worker: usize,
    pub(crate) session: SessionId,
}

/// An invalidation on its way to another connection.
#[derive(Debug, Clone)]
pub(crate) struct Redirected {
    pub(crate) from: SessionId,
    pub(crate) to: RedirectTarget,
    /// The keys as an array, `None` for all.
    pub(crate) keys: Option<Box<[u8]>>,
    /// It must not come before the reply to this command of `from`.
    behind: Sequence,
}

/// What a session is to be told of changes.
#[derive(Debug, Default)]
pub(crate) struct Tracking {
    modes: Modes,
    target: Option<RedirectTarget>,
    /// The target is gone.
    broken: bool,
    pub(super) prefixes: BTreeSet<Box<[u8]>>,
    /// CLIENT CACHING was given for the next command, or for the transaction.
    caching: bool,
    /// The last of its commands that a node has answered: what nodes tell is not about the replies to later ones.
    answered: Sequence,
    /// Reads that are not answered yet, in order.
    reads: VecDeque<Read>,
}

/// A command that reads.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) sequence: Sequence,
    /// The number of the map that it was sent by.
    pub(super) map: u64,
    pub(super) keys: Vec<ReadKey>,
    /// Some of its parts are answered.
    pub(super) is_partial: bool,
}

/// A key that a command reads.
#[derive(Debug)]
pub(super) struct ReadKey {
    pub(super) name: Box<[u8]>,
    /// The client will be told of a change to what it reads: the node that it was read from tracks it, and has not told of any since.
    pub(super) is_tracked: bool,
}

impl Tracking {
    /// Whether reads without a word to the contrary are tracked, or this one with it.
    fn wants_reads(&self, caching: bool) -> bool {
        let modes = self.modes;
        (!modes.optin || caching) && (!modes.optout || !caching)
    }

    /// A node has answered a command.
    pub(super) fn note_answer(&mut self, sequence: Sequence) {
        if sequence.wrapping_sub(self.answered) as i32 > 0 {
            self.answered = sequence;
        }
    }

    /// The read that is answered, at least in part.
    pub(super) fn take_read(&mut self, sequence: Sequence) -> Option<Read> {
        let at = self.reads.iter().position(|read| read.sequence == sequence)?;
        self.reads.remove(at)
    }

    /// A read has more replies to come.
    pub(super) fn put_back_read(&mut self, read: Read) {
        self.reads.push_front(Read { is_partial: true, ..read });
    }

    /// A key has changed, or all have (`None`). Where it is part of a reply that is not out yet, the client is to be told behind that.
    pub(super) fn outdate(&mut self, key: Option<&[u8]>) {
        let broadcast = self.modes.broadcast;
        // What has no reply yet is not tracked yet, unless it always is.
        for read in self.reads.iter_mut().take_while(|read| broadcast || read.is_partial) {
            let keys = read.keys.iter_mut().filter(|of| key.is_none_or(|key| *of.name == *key));
            keys.for_each(|of| of.is_tracked = false);
        }
    }

    pub(super) fn has_reads(&self) -> bool {
        !self.reads.is_empty()
    }

    /// As CLIENT LIST shows it: whose invalidations go where.
    pub(crate) fn redirect(&self) -> i64 {
        self.target.map_or(0, |target| target.client as i64)
    }

    /// Flags of CLIENT LIST.
    pub(crate) fn list_flags(&self) -> String {
        let mut flags = "t".to_owned();
        flags.extend(self.broken.then_some('R'));
        flags.extend(self.modes.broadcast.then_some('B'));
        flags
    }

    pub(super) fn is_broadcast(&self) -> bool {
        self.modes.broadcast
    }
}

impl Core {
    /// CLIENT TRACKING and what goes with it.
    pub(super) fn tracking_command(&mut self, index: u32, command: &'static Command, args: Args<'_>) -> Flow {
        match command.name {
            "client|tracking" => return self.client_tracking(index, args),
            "client|caching" => self.client_caching(index, args),
            "client|getredir" => {
                let redirect = self.sessions[index as usize].tracking.as_ref().map_or(-1, |tracking| tracking.redirect());
                self.answer_now(index, |out| encode::integer(out, redirect));
            }
            _ => self.tracking_info(index),
        }
        Flow::Next
    }

    fn client_tracking(&mut self, index: u32, args: Args<'_>) -> Flow {
        // It changes the connections that commands take.
        if let Some(flow) = self.after_all_before(index) {
            return flow;
        }
        let request = match parse(args) {
            Ok(request) => request,
            Err(error) => {
                self.refuse(index, error);
                return Flow::Next;
            }
        };
        let session = self.session_id(index);
        let sequence = self.sessions[index as usize].replies.push(Slot::Waiting);
        match request.redirect {
            None => self.track(session, sequence, request, None),
            Some(client) => self.effects.push(Effect::FindClient {
                session,
                sequence,
                client: u64::try_from(client).unwrap_or(0),
                request: Box::new(request),
            }),
        }
        self.before_all_after(index)
    }

    /// This worker's client of that number.
    pub(crate) fn find_client(&self, client: u64) -> Option<SessionId> {
        let at = self.sessions.iter().position(|session| session.open && session.id == client)?;
        Some(self.session_id(at as u32))
    }

    /// Who invalidations are to be redirected to was looked for.
    pub(crate) fn redirect_found(
        &mut self,
        session: SessionId,
        sequence: Sequence,
        request: TrackingRequest,
        target: Option<RedirectTarget>,
    ) {
        if !self.is_open(session) {
            return;
        }
        match target {
            Some(_) => self.track(session, sequence, request, target),
            None => self.answer_error(session, sequence, "ERR The client ID you want redirect to does not exist"),
        }
    }

    pub(super) fn answer_error(&mut self, session: SessionId, sequence: Sequence, text: &str) {
        let mut reply = Vec::with_capacity(text.len() + 3);
        encode::error(&mut reply, text);
        self.counters.errors_total += 1;
        self.answer_later(session, sequence, &reply);
    }

    /// Does what a CLIENT TRACKING asks for, whose place in the row is `sequence`.
    fn track(&mut self, id: SessionId, sequence: Sequence, request: TrackingRequest, target: Option<RedirectTarget>) {
        let index = id.index;
        if !request.on {
            self.stop_tracking(index);
            return self.answer_later(id, sequence, b"+OK\r\n");
        }
        let session = &self.sessions[index as usize];
        if let Err(error) = check(&request, session.tracking.as_deref()) {
            return self.answer_error(id, sequence, &error);
        }
        let modes = request.modes;
        if modes.noloop && self.own_lanes.len() + self.up.len() > PRIVATE_MAX {
            let error = format!("ERR the proxy's {PRIVATE_MAX} connections for clients that track with NOLOOP are all in use");
            return self.answer_error(id, sequence, &error);
        }
        let session = &mut self.sessions[index as usize];
        self.counters.tracking_clients += u64::from(session.tracking.is_none());
        self.clients_changed = true;
        let answered = session.replies.first_sequence().wrapping_sub(1);
        let tracking = session.tracking.get_or_insert_with(|| Box::new(Tracking { answered, ..Tracking::default() }));
        (tracking.modes, tracking.target, tracking.broken) = (modes, target, false);
        if modes.broadcast && request.prefixes.is_empty() {
            tracking.prefixes.insert(Box::default());
        }
        tracking.prefixes.extend(request.prefixes);
        session.tracking_lane = match modes {
            Modes { noloop: true, .. } => TrackingLane::Own { session: index },
            Modes { broadcast: true, .. } => TrackingLane::Noted,
            _ => TrackingLane::Shared,
        };
        match modes {
            Modes { broadcast: false, .. } => self.answer_later(id, sequence, b"+OK\r\n"),
            Modes { noloop: true, .. } => self.broadcast_to_one(id, sequence),
            _ => self.join_broadcast(id, sequence),
        }
    }

    /// Tracks nothing any more for a session.
    pub(super) fn stop_tracking(&mut self, index: u32) {
        let id = self.session_id(index);
        let session = &mut self.sessions[index as usize];
        session.tracking_lane = TrackingLane::Off;
        session.tracking_epoch = session.tracking_epoch.wrapping_add(1);
        let Some(tracking) = session.tracking.take() else { return };
        self.counters.tracking_clients -= 1;
        self.clients_changed = true;
        if tracking.modes.broadcast {
            self.leave_broadcasts(id);
        }
        self.close_own_lanes(index);
    }

    // ---- Lanes of one's own ----

    /// The connection of a session that has its own; made if there is none.
    #[cold]
    pub(super) fn own_lane(&mut self, node: u16, lane: Lane) -> u32 {
        if let Some(found) = self.own_lanes.get(&(node, lane)) {
            return *found;
        }
        let TrackingLane::Own { session } = lane.tracking else { unreachable!("others are shared") };
        let owner = self.session_id(session);
        let index = self.add_backend(node, lane);
        // What a guest database holds is not broadcast: that comes by the node's main connection.
        let broadcast = self.sessions[session as usize].tracking.as_ref().filter(|tracking| tracking.modes.broadcast);
        let is_main = !(self.topology.options().guest_databases && lane.is_guest());
        let broadcast = broadcast.map(|tracking| tracking.prefixes.iter().cloned().collect());
        let options = (is_main || broadcast.is_none()).then_some(TrackingOptions { noloop: true, broadcast });
        self.backends[index as usize].tracked = Some(Box::new(Tracked::new(options, Some(owner))));
        self.own_lanes.insert((node, lane), index);
        index
    }

    /// Whether HELLO, RESET or SELECT must wait until the commands before it are answered: connections of its own change with it, and
    /// what was subscribed to is confirmed in the protocol that the session had then.
    pub(super) fn before_mode_changes(&self, index: u32, command: &Command) -> Option<Flow> {
        let is_own = self.sessions[index as usize].tracking_lane == TrackingLane::Own { session: index };
        (is_own || command.name != "select").then(|| self.after_all_before(index)).flatten()
    }

    /// Closes a session's own connections. What is under way on them is for nobody.
    pub(super) fn close_own_lanes(&mut self, index: u32) {
        let own = TrackingLane::Own { session: index };
        if !self.own_lanes.keys().any(|(_, lane)| lane.tracking == own) {
            return;
        }
        self.own_lanes.retain(|(_, lane), _| lane.tracking != own);
        for at in 0..self.backends.len() as u32 {
            let backend = &mut self.backends[at as usize];
            if backend.lane.tracking == own && backend.state != State::Free {
                backend.incarnation = backend.incarnation.wrapping_add(1);
                backend.forget_all();
                self.effects.push(Effect::Disconnect { backend: at });
                self.forget_tracked(at);
                self.free_backend(at);
            }
        }
    }

    // ---- What is read ----

    /// Has a command of a session that tracks carried out, and notes what it reads.
    pub(super) fn dispatch_tracked(&mut self, index: u32, command: &'static Command, args: Args<'_>) -> Flow {
        let session = &self.sessions[index as usize];
        let Some(tracking) = &session.tracking else { return self.dispatch(index, command, args) };
        let sequence = session.replies.next_sequence();
        let broadcast = tracking.modes.broadcast;
        let mut keys = if !tracking.wants_reads(tracking.caching) {
            Vec::new()
        } else if command.name == "exec" {
            session.transaction.as_ref().map_or_else(Vec::new, |transaction| read_keys_of_all(transaction.first_block()))
        } else {
            read_keys(command, args)
        };
        keys.iter_mut().for_each(|key| key.is_tracked = broadcast);
        let flow = self.dispatch(index, command, args);
        let session = &mut self.sessions[index as usize];
        let is_taken = !matches!(flow, Flow::Pause(_));
        let is_awaited = matches!(session.replies.slot(sequence), Some(Slot::Waiting | Slot::Muted | Slot::Join(_) | Slot::Exec));
        let slots = session.replies.first_sequence();
        if let Some(tracking) = session.tracking.as_mut().filter(|_| is_taken) {
            // Those of commands that were answered without being read, with an error.
            tracking.reads.retain(|read| read.sequence.wrapping_sub(slots) as i32 >= 0);
            if is_awaited && !keys.is_empty() {
                tracking.reads.push_back(Read { sequence, map: self.maps, keys, is_partial: false });
            }
            if session.transaction.is_none() && !command.name.starts_with("client|") {
                tracking.caching = false;
            }
        }
        flow
    }

    /// Notes what a later block of a transaction reads.
    pub(super) fn note_block_reads(&mut self, index: u32, sequence: Sequence, block: &[u8]) {
        let map = self.maps;
        let Some(tracking) = &mut self.sessions[index as usize].tracking else { return };
        if !tracking.wants_reads(tracking.caching) {
            return;
        }
        let mut keys = read_keys_of_all(block);
        keys.iter_mut().for_each(|key| key.is_tracked = tracking.modes.broadcast);
        if !keys.is_empty() {
            tracking.reads.push_back(Read { sequence, map, keys, is_partial: false });
        }
    }

    fn client_caching(&mut self, index: u32, args: Args<'_>) {
        let error = match &mut self.sessions[index as usize].tracking {
            None => "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled",
            Some(tracking) => match args[2].to_ascii_lowercase().as_slice() {
                b"yes" if tracking.modes.optin => {
                    tracking.caching = true;
                    return self.ok(index);
                }
                b"no" if tracking.modes.optout => {
                    tracking.caching = true;
                    return self.ok(index);
                }
                b"yes" => "ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.",
                b"no" => "ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.",
                _ => "ERR syntax error",
            },
        };
        self.refuse(index, error);
    }

    /// CLIENT CACHING was queued in a transaction: it is for what is read there.
    pub(super) fn caching_queued(&mut self, index: u32) {
        if let Some(tracking) = &mut self.sessions[index as usize].tracking {
            tracking.caching |= tracking.modes.optin || tracking.modes.optout;
        }
    }

    fn tracking_info(&mut self, index: u32) {
        let session = &self.sessions[index as usize];
        let proto = session.proto;
        let mut flags = vec![if session.tracking.is_some() { "on" } else { "off" }];
        let mut redirect = -1;
        let mut prefixes = Vec::new();
        if let Some(tracking) = &session.tracking {
            let modes = tracking.modes;
            flags.extend(modes.broadcast.then_some("bcast"));
            flags.extend(modes.optin.then_some("optin"));
            flags.extend((modes.optin && tracking.caching).then_some("caching-yes"));
            flags.extend(modes.optout.then_some("optout"));
            flags.extend((modes.optout && tracking.caching).then_some("caching-no"));
            flags.extend(modes.noloop.then_some("noloop"));
            flags.extend(tracking.broken.then_some("broken_redirect"));
            redirect = tracking.redirect();
            prefixes.extend(tracking.prefixes.iter().cloned());
        }
        self.answer_now(index, |out| {
            encode::map(out, proto, 3);
            encode::bulk(out, b"flags");
            encode::set(out, proto, flags.len());
            flags.iter().for_each(|flag| encode::bulk(out, flag.as_bytes()));
            encode::bulk(out, b"redirect");
            encode::integer(out, redirect);
            encode::bulk(out, b"prefixes");
            encode::array(out, prefixes.len());
            prefixes.iter().for_each(|prefix| encode::bulk(out, prefix));
        });
    }

    /// A PING of a session that tracks asks every node that may have something to tell it: once it is answered, all invalidations by
    /// writes that were answered before it have come. `None` if there is nobody to ask.
    pub(super) fn ping_tracked(&mut self, index: u32, args: Args<'_>) -> Option<Flow> {
        let session = &self.sessions[index as usize];
        let tracking = session.tracking.as_ref()?;
        if session.proto != Proto::Resp3 || tracking.target.is_some() || args.len() > 2 {
            return None;
        }
        let lane = session.tracking_lane;
        let targets: Vec<_> = (0..self.backends.len() as u32)
            .filter(|at| {
                let backend = &self.backends[*at as usize];
                let tells = match backend.hold {
                    Some(Hold::Broadcast) => self.is_broadcast_of(*at, index),
                    Some(_) => false,
                    None => backend.lane.tracking == lane && backend.tracked.as_ref().is_some_and(|tracked| tracked.listens()),
                };
                tells && backend.state == State::Up && backend.lane.proto == Proto::Resp3
            })
            .map(|at| (at, 0))
            .collect();
        if targets.is_empty() {
            return None;
        }
        Some(self.forward_to(index, &targets, args, |join| join.start_all(Merge::First, targets.len())))
    }

    // ---- Telling ----

    /// Tells a session that these keys, an array, have changed; `None` stands for all.
    pub(super) fn notify(&mut self, id: SessionId, keys: Option<&[u8]>) {
        if !self.is_open(id) {
            return;
        }
        let session = &self.sessions[id.index as usize];
        let Some(tracking) = &session.tracking else { return };
        match tracking.target {
            None if session.proto == Proto::Resp3 => {
                let behind = tracking.answered;
                self.tell(id, Some(behind), |out| push_invalidation(out, keys));
            }
            // RESP2 has nothing that it could be told by.
            None => {}
            Some(to) => {
                let behind = tracking.answered;
                self.redirected.push(Redirected { from: id, to, keys: keys.map(Into::into), behind });
            }
        }
    }

    /// Takes the invalidations that may go to other connections now. To be called after replies were written, so that none overtakes
    /// the reply that it is about.
    pub(crate) fn take_redirected(&mut self) -> Vec<Redirected> {
        if self.redirected.is_empty() {
            return Vec::new();
        }
        let all = std::mem::take(&mut self.redirected);
        let (free, held) = all.into_iter().partition(|redirected| {
            let session = &self.sessions[redirected.from.index as usize];
            let waits = redirected.behind.wrapping_sub(session.replies.first_sequence()) as i32 >= 0;
            !self.is_open(redirected.from) || !(session.replies.gathers() || waits)
        });
        self.redirected = held;
        free
    }

    /// Another session's invalidations end here. False if this one is gone.
    pub(crate) fn take_invalidation(&mut self, to: SessionId, keys: Option<&[u8]>) -> bool {
        if to.index as usize >= self.sessions.len() || !self.is_open(to) {
            return false;
        }
        let session = &self.sessions[to.index as usize];
        if session.proto == Proto::Resp3 {
            self.tell(to, None, |out| push_invalidation(out, keys));
        } else if session.subscriptions.is_some() {
            self.tell(to, None, |out| {
                encode::array(out, 3);
                encode::bulk(out, b"message");
                encode::bulk(out, b"__redis__:invalidate");
                out.extend_from_slice(keys.unwrap_or(b"$-1\r\n"));
            });
        }
        true
    }

    /// The connection that a session's invalidations were to go to is gone.
    pub(crate) fn redirect_broken(&mut self, from: SessionId, client: u64) {
        if !self.is_open(from) {
            return;
        }
        let session = &mut self.sessions[from.index as usize];
        let proto = session.proto;
        let Some(tracking) = session.tracking.as_mut().filter(|tracking| tracking.redirect() == client as i64) else { return };
        tracking.broken = true;
        if proto == Proto::Resp3 {
            self.tell(from, None, |out| {
                encode::header(out, b'>', 2);
                encode::bulk(out, b"tracking-redir-broken");
                encode::integer(out, client as i64);
            });
        }
    }
}

fn push_invalidation(out: &mut Vec<u8>, keys: Option<&[u8]>) {
    encode::header(out, b'>', 2);
    encode::bulk(out, b"invalidate");
    out.extend_from_slice(keys.unwrap_or(b"_\r\n"));
}

/// Whether redis tracks the keys of a command: it reads, or is a script that may.
fn reads(command: &Command) -> bool {
    command.flags.contains(Flags::READONLY) || command.acl.contains(Categories::SCRIPTING)
}

fn read_keys(command: &'static Command, args: Args<'_>) -> Vec<ReadKey> {
    let mut keys = Vec::new();
    // One whose keys cannot be found gets an error from its node.
    if reads(command)
        && command.may_have_keys()
        && !command.flags.contains(Flags::PUBSUB)
        && find_keys(command, args, &mut keys).is_ok()
    {
        keys.into_iter().map(|key| ReadKey { name: args[key as usize].into(), is_tracked: false }).collect()
    } else {
        Vec::new()
    }
}

fn read_keys_of_all(mut requests: &[u8]) -> Vec<ReadKey> {
    let mut framer = RequestFramer::default();
    let mut keys = Vec::new();
    while let Ok(Some(Frame::Multibulk(len))) = framer.advance(requests) {
        let args = Args::new(&requests[..len], framer.args());
        if let Ok(command) = vrc_cluster::command::resolve(args) {
            keys.extend(read_keys(command, args));
        }
        requests = &requests[len..];
        framer.reset();
    }
    keys
}

/// `CLIENT TRACKING ON|OFF [REDIRECT id] [PREFIX prefix …] [BCAST] [OPTIN] [OPTOUT] [NOLOOP]`
fn parse(args: Args<'_>) -> Result<TrackingRequest, &'static str> {
    const SYNTAX: &str = "ERR syntax error";
    let mut request = TrackingRequest::default();
    let mut at = 3;
    while let Some(option) = args.get(at) {
        let value = args.get(at + 1);
        at += 1;
        match (option.to_ascii_lowercase().as_slice(), value) {
            (b"redirect", Some(client)) => {
                if request.redirect.is_some() {
                    return Err("ERR A client can only redirect to a single other client");
                }
                request.redirect = Some(parse_integer(client).ok_or("ERR value is not an integer or out of range")?);
                at += 1;
            }
            (b"prefix", Some(prefix)) => {
                request.prefixes.push(prefix.into());
                at += 1;
            }
            (b"bcast", _) => request.modes.broadcast = true,
            (b"optin", _) => request.modes.optin = true,
            (b"optout", _) => request.modes.optout = true,
            (b"noloop", _) => request.modes.noloop = true,
            _ => return Err(SYNTAX),
        }
    }
    match args[2].to_ascii_lowercase().as_slice() {
        b"on" => request.on = true,
        b"off" => {}
        _ => return Err(SYNTAX),
    }
    Ok(request)
}

/// Whether a request goes with itself and with what the session has asked for before.
fn check(request: &TrackingRequest, before: Option<&Tracking>) -> Result<(), String> {
    let modes = request.modes;
    let old = before.map(|before| before.modes);
    if !modes.broadcast && !request.prefixes.is_empty() {
        return Err("ERR PREFIX option requires BCAST mode to be enabled".into());
    }
    if old.is_some_and(|old| old.broadcast != modes.broadcast) {
        return Err(
            "ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling it with a \
                    different mode."
                .into(),
        );
    }
    if modes.broadcast && (modes.optin || modes.optout) {
        return Err("ERR OPTIN and OPTOUT are not compatible with BCAST".into());
    }
    if modes.optin && modes.optout {
        return Err("ERR You can't specify both OPTIN mode and OPTOUT mode".into());
    }
    if old.is_some_and(|old| (modes.optin && old.optout) || (modes.optout && old.optin)) {
        return Err(
            "ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then re-enabling it with a \
                    different mode."
                .into(),
        );
    }
    let overlap = |a: &[u8], b: &[u8]| a.starts_with(b) || b.starts_with(a);
    let error = |prefix: &[u8], which: &str, other: &[u8]| {
        format!(
            "ERR Prefix '{}' overlaps with {which} prefix '{}'. Prefixes for a single client must not overlap.",
            String::from_utf8_lossy(prefix),
            String::from_utf8_lossy(other)
        )
    };
    for (at, prefix) in request.prefixes.iter().enumerate().filter(|_| modes.broadcast) {
        if let Some(other) = before.and_then(|before| before.prefixes.iter().find(|other| overlap(prefix, other))) {
            return Err(error(prefix, "an existing", other));
        }
        if let Some(other) = request.prefixes[at + 1..].iter().find(|other| overlap(prefix, other)) {
            return Err(error(prefix, "another provided", other));
        }
    }
    Ok(())
}
