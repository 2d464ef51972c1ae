//! CLIENT: what connections there are to this proxy, whichever worker's, and what is to become of them.
//!
//! CLIENT TRACKING and what goes with it is for `tracking`, CLIENT REPLY for `mute`, CLIENT PAUSE for `client_pause`.

use vrc_cluster::{
    command::Command,
    resp::{Args, Proto, encode, parse_integer},
    route::Refusal,
    topology::Owner,
};

use super::{
    Core, Effect, Flow,
    order::{Order, Outcome, wrong_arguments},
    private::Hold,
    session::{Pause, Peer, Session, SessionId},
    topics::Kind,
};

const SYNTAX_ERROR: &str = "ERR syntax error";

/// Which clients CLIENT LIST and CLIENT KILL are about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ClientFilter {
    ids: Option<Vec<u64>>,
    class: Option<Class>,
    user: Option<Box<[u8]>>,
    peer: Option<Box<[u8]>>,
    local: Option<Box<[u8]>>,
    /// Whoever asks, if it is not meant.
    but: Option<u64>,
    /// Whoever asks.
    asker: u64,
    /// The bytes of its request, which redis counts among those that it has to deal with still.
    request_bytes: usize,
    /// CLIENT KILL addr:port, which answers otherwise.
    is_old_form: bool,
}

/// What redis calls the type of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Normal,
    PubSub,
    /// Of replication: the proxy has no such clients.
    Replication,
}

impl Class {
    fn named(name: &[u8]) -> Result<Self, Vec<u8>> {
        match name.to_ascii_lowercase().as_slice() {
            b"normal" => Ok(Class::Normal),
            b"pubsub" => Ok(Class::PubSub),
            b"master" | b"replica" | b"slave" => Ok(Class::Replication),
            _ => Err([b"ERR Unknown client type '", name, b"'"].concat()),
        }
    }
}

/// How CLIENT UNBLOCK ends a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unblocking {
    /// As if its time were up.
    Timeout,
    /// By an error.
    Error,
    /// So that nothing is given any more to a client that is to be closed.
    Killed,
}

/// A CLIENT KILL that is answered once its clients are gone, and wait for nothing any more at any node.
#[derive(Debug)]
pub(super) struct Kill {
    /// The order that it is.
    number: u64,
    count: u64,
    sessions: Vec<SessionId>,
}

impl ClientFilter {
    fn is_met_by(&self, session: &Session) -> bool {
        let class = if session.subscriptions.is_some() { Class::PubSub } else { Class::Normal };
        session.open
            && self.ids.as_ref().is_none_or(|ids| ids.contains(&session.id))
            && self.class.is_none_or(|wanted| wanted == class)
            && self.user.as_ref().is_none_or(|user| **user == *b"default")
            && self.but != Some(session.id)
            && (self.peer.is_none() && self.local.is_none() || {
                let (peer, local) = addresses(session);
                let is = |wanted: &Option<Box<[u8]>>, found: String| {
                    wanted.as_ref().is_none_or(|wanted| **wanted == *found.as_bytes())
                };
                is(&self.peer, peer) && is(&self.local, local)
            })
    }

    /// The reply to a CLIENT KILL that closed `count` connections.
    pub(super) fn say_killed(&self, count: u64, reply: &mut Vec<u8>) {
        match (self.is_old_form, count) {
            (true, 0) => encode::error(reply, "ERR No such client"),
            (true, _) => encode::simple(reply, "OK"),
            (false, count) => encode::integer(reply, count as i64),
        }
    }

    /// What CLIENT LIST asks for.
    fn of_list(args: Args<'_>) -> Result<Self, Vec<u8>> {
        let is = |word: &str| args[2].eq_ignore_ascii_case(word.as_bytes());
        match args.len() {
            2 => Ok(ClientFilter::default()),
            4 if is("type") => Ok(ClientFilter { class: Some(Class::named(&args[3])?), ..ClientFilter::default() }),
            4.. if is("id") => {
                let ids = args.iter().skip(3).map(|id| parse_integer(id).and_then(|id| u64::try_from(id).ok()));
                match ids.collect() {
                    Some(ids) => Ok(ClientFilter { ids: Some(ids), ..ClientFilter::default() }),
                    None => Err(b"ERR Invalid client ID".to_vec()),
                }
            }
            _ => Err(SYNTAX_ERROR.into()),
        }
    }

    /// What CLIENT KILL asks for, given by the client `asker`.
    fn of_kill(args: Args<'_>, asker: u64) -> Result<Self, Vec<u8>> {
        let mut filter = ClientFilter { asker, ..ClientFilter::default() };
        if args.len() == 3 {
            return Ok(ClientFilter { peer: Some(args[2].into()), is_old_form: true, ..filter });
        }
        filter.but = Some(asker);
        if args.len().is_multiple_of(2) {
            for at in (2..args.len()).step_by(2) {
                filter.narrow(&args[at], &args[at + 1])?;
            }
            Ok(filter)
        } else {
            // Redis looks at the options before it finds the one without a value.
            for at in (2..args.len() - 1).step_by(2) {
                filter.narrow(&args[at], &args[at + 1])?;
            }
            Err(SYNTAX_ERROR.into())
        }
    }

    /// One option of CLIENT KILL; the last of each counts.
    fn narrow(&mut self, option: &[u8], value: &[u8]) -> Result<(), Vec<u8>> {
        match option.to_ascii_lowercase().as_slice() {
            b"id" => match parse_integer(value).and_then(|id| u64::try_from(id).ok()) {
                Some(id @ 1..) => self.ids = Some(vec![id]),
                _ => return Err(b"ERR client-id should be greater than 0".to_vec()),
            },
            b"type" => self.class = Some(Class::named(value)?),
            b"addr" => self.peer = Some(value.into()),
            b"laddr" => self.local = Some(value.into()),
            b"user" if value == b"default" => self.user = Some(value.into()),
            b"user" => return Err([b"ERR No such user '", value, b"'"].concat()),
            b"skipme" if value.eq_ignore_ascii_case(b"yes") => self.but = Some(self.asker),
            b"skipme" if value.eq_ignore_ascii_case(b"no") => self.but = None,
            _ => return Err(SYNTAX_ERROR.into()),
        }
        Ok(())
    }
}

impl Core {
    /// The subcommands of CLIENT that have no file of their own.
    pub(super) fn client_command(&mut self, index: u32, command: &'static Command, args: Args<'_>) -> Flow {
        match command.own_name() {
            "tracking" | "caching" | "getredir" | "trackinginfo" => return self.tracking_command(index, command, args),
            "reply" => return self.client_reply(index, args),
            "pause" => return self.client_pause(index, args),
            "unpause" => return self.order(index, Order::Unpause),
            "list" => match ClientFilter::of_list(args) {
                Ok(filter) => {
                    let (asker, request_bytes) = (self.sessions[index as usize].id, args.bytes().len());
                    return self.order(index, Order::List(ClientFilter { asker, request_bytes, ..filter }));
                }
                Err(error) => self.refuse(index, error),
            },
            "kill" => match ClientFilter::of_kill(args, self.sessions[index as usize].id) {
                Ok(filter) => return self.order(index, Order::Kill(filter)),
                Err(error) => self.refuse(index, error),
            },
            "unblock" => return self.client_unblock(index, args),
            "id" => {
                let id = self.sessions[index as usize].id;
                self.answer_now(index, |out| encode::integer(out, id as i64));
            }
            "getname" => {
                let name = self.sessions[index as usize].name.clone();
                let proto = self.proto(index);
                self.answer_now(index, |out| match name.as_bytes() {
                    b"" => encode::null(out, proto),
                    name => encode::bulk(out, name),
                });
            }
            "setname" => match client_name(&args[2]) {
                Ok(name) => {
                    self.sessions[index as usize].name = name;
                    self.ok(index);
                }
                Err(error) => self.refuse(index, error),
            },
            "info" => {
                let proto = self.proto(index);
                let line = self.client_line(index, args.bytes().len());
                self.answer_now(index, |out| encode::verbatim(out, proto, &line));
            }
            // The proxy closes no connection to save memory, so all that is to be kept is that the client said so.
            "no-evict" => match on_or_off(&args[2]) {
                Some(on) => {
                    self.sessions[index as usize].no_evict = on;
                    self.ok(index);
                }
                None => self.refuse(index, SYNTAX_ERROR),
            },
            other => unreachable!("CLIENT {other} is for a node to answer"),
        }
        Flow::Next
    }

    /// `CLIENT SETINFO LIB-NAME|LIB-VER value`.
    pub(super) fn client_setinfo(&mut self, index: u32, args: Args<'_>) {
        let (attribute, value) = (&args[2], &args[3]);
        let session = &mut self.sessions[index as usize];
        let field = if attribute.eq_ignore_ascii_case(b"lib-name") {
            &mut session.lib_name
        } else if attribute.eq_ignore_ascii_case(b"lib-ver") {
            &mut session.lib_ver
        } else {
            let text = format!("ERR Unrecognized option '{}'", String::from_utf8_lossy(attribute));
            return self.refuse(index, &text);
        };
        match client_name(value) {
            Ok(value) => {
                *field = value;
                self.ok(index);
            }
            Err(_) => {
                let text =
                    format!("ERR {} cannot contain spaces, newlines or special characters.", String::from_utf8_lossy(attribute));
                self.refuse(index, &text);
            }
        }
    }

    /// `CLIENT NO-TOUCH ON|OFF` came with redis 7.2: whether it is known is for a node to say. It is asked over the very lane that is
    /// wanted, so that saying it changes nothing for the others who share that.
    pub(super) fn client_no_touch(&mut self, index: u32, args: Args<'_>) -> Flow {
        if self.sessions[index as usize].transaction.is_some() {
            self.spoil(index);
            self.refuse(index, Refusal::NotInTransaction.to_string());
            return Flow::Next;
        }
        if let Some(flow) = self.after_all_before(index) {
            return flow;
        }
        let Some(node) = self.any_node(index) else {
            self.refuse(index, Refusal::NoNodeUp.to_string());
            return Flow::Next;
        };
        // What is neither, the node refuses.
        if args.len() == 3
            && let Some(on) = on_or_off(&args[2])
        {
            self.set_no_touch(index, on);
        }
        match self.forward(index, Owner { node, guest: false }, args) {
            Flow::Next => self.before_all_after(index),
            flow => flow,
        }
    }

    fn set_no_touch(&mut self, index: u32, on: bool) {
        self.sessions[index as usize].no_touch = on;
        self.follow_session(index);
        self.follow_own_broadcast(index);
    }

    /// A node has answered with an error over a connection that is not to touch what is read: it may not know what that is.
    pub(super) fn may_know_no_touch(&mut self, index: u32, reply: &[u8]) {
        const UNKNOWN: &[u8] = b"-ERR unknown subcommand 'no-touch'";
        if self.sessions[index as usize].no_touch
            && reply.get(..UNKNOWN.len()).is_some_and(|start| start.eq_ignore_ascii_case(UNKNOWN))
        {
            self.set_no_touch(index, false);
        }
    }

    // ---- Killing ----

    /// Closes the connections of this worker's clients that are meant, and says how many: at once if there are none, else once they are
    /// closed. Whoever asked gets its answer first.
    pub(super) fn kill_clients(&mut self, filter: &ClientFilter, number: u64) -> Option<Outcome> {
        let mut kill = Kill { number, count: 0, sessions: Vec::new() };
        for index in 0..self.sessions.len() as u32 {
            let session = &self.sessions[index as usize];
            if filter.is_met_by(session) {
                kill.count += 1;
                if session.id != filter.asker {
                    kill.sessions.push(self.session_id(index));
                    if !self.end_wait_of_killed(index) {
                        self.effects.push(Effect::Close { session: self.session_id(index) });
                    }
                }
            }
        }
        if kill.sessions.is_empty() {
            return Some(Outcome::Count(kill.count));
        }
        self.kills.push(kill);
        None
    }

    /// Reports the kills whose clients are gone, or get what their nodes gave them before.
    pub(super) fn finish_kills(&mut self) {
        for at in (0..self.kills.len()).rev() {
            let is_there = |id: &SessionId| {
                let session = &self.sessions[id.index as usize];
                self.is_open(*id) && !(session.closing && session.waiting.is_none())
            };
            if !self.kills[at].sessions.iter().any(is_there) {
                let Kill { number, count, .. } = self.kills.swap_remove(at);
                self.effects.push(Effect::CarriedOut { order: number, outcome: Outcome::Count(count) });
            }
        }
    }

    /// Whoever has asked for its own end gets it once it has been told so.
    pub(super) fn close_if_killed(&mut self, index: u32, filter: &ClientFilter) {
        let session = &mut self.sessions[index as usize];
        if filter.is_met_by(session) {
            session.closing = true;
            session.drop_input();
            self.mark_session(index);
        }
    }

    // ---- Unblocking ----

    /// `CLIENT UNBLOCK client-id [TIMEOUT|ERROR]`.
    fn client_unblock(&mut self, index: u32, args: Args<'_>) -> Flow {
        let how = match args.get(3) {
            None => Unblocking::Timeout,
            Some(_) if args.len() > 4 => {
                self.refuse(index, wrong_arguments(args));
                return Flow::Next;
            }
            Some(how) if how.eq_ignore_ascii_case(b"timeout") => Unblocking::Timeout,
            Some(how) if how.eq_ignore_ascii_case(b"error") => Unblocking::Error,
            Some(_) => {
                self.refuse(index, "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR");
                return Flow::Next;
            }
        };
        match parse_integer(&args[2]) {
            // No client has a number below one.
            Some(client) => self.order(index, Order::Unblock { client: u64::try_from(client).unwrap_or(0), how }),
            None => {
                self.refuse(index, "ERR value is not an integer or out of range");
                Flow::Next
            }
        }
    }

    /// Ends the wait of this worker's client of that number; false if it has no such client, or that does not wait.
    pub(super) fn unblock_client(&mut self, client: u64, how: Unblocking) -> bool {
        let Some(index) = self.find_client(client).map(|session| session.index).filter(|index| self.is_waiting(*index)) else {
            return false;
        };
        let backend = self.sessions[index as usize].waiting.expect("it waits there");
        let Some(Hold::Waiting { unblocking, .. }) = &mut self.backends[backend as usize].hold else { return false };
        if *unblocking == Some(Unblocking::Killed) {
            return false;
        }
        *unblocking = Some(how);
        self.go_on_unblocking(backend);
        true
    }

    // ---- Listing ----

    /// This worker's lines of `CLIENT LIST`, by client id.
    pub(super) fn client_lines(&self, filter: &ClientFilter) -> Vec<(u64, String)> {
        (0..self.sessions.len() as u32)
            .filter(|index| filter.is_met_by(&self.sessions[*index as usize]))
            .map(|index| {
                let id = self.sessions[index as usize].id;
                (id, self.client_line(index, if id == filter.asker { filter.request_bytes } else { 0 }))
            })
            .collect()
    }

    /// One client as `CLIENT LIST` shows it, with its line end. `request_bytes` is how long its command is that is being carried out.
    pub(super) fn client_line(&self, index: u32, request_bytes: usize) -> String {
        let session = &self.sessions[index as usize];
        let (peer, local) = addresses(session);
        let subscribed = |kind| session.subscriptions.as_ref().map_or(0, |own| own.of(kind));
        let queued = session.transaction.as_ref().map_or(0, |transaction| transaction.bytes());
        format!(
            "id={} addr={peer} laddr={local} fd=-1 name={} age={} idle={} flags={} db={} sub={} psub={} ssub={} multi={} qbuf={} \
             qbuf-free={} argv-mem=0 multi-mem={queued} rbs=0 rbp=0 obl={} oll=0 omem=0 tot-mem={} events=r cmd={} user=default redir={} \
             resp={} lib-name={} lib-ver={}\n",
            session.id,
            session.name,
            self.now_ms.saturating_sub(session.opened_ms) / 1000,
            self.now_ms.saturating_sub(session.active_ms) / 1000,
            self.flags(index),
            session.db,
            subscribed(Kind::Channel),
            subscribed(Kind::Pattern),
            subscribed(Kind::Shard),
            session.transaction.as_ref().map_or(-1, |transaction| i64::from(transaction.count())),
            request_bytes + session.kept_bytes(),
            session.kept_bytes_free(),
            session.replies.unread_bytes(),
            std::mem::size_of::<Session>()
                + session.kept_bytes()
                + session.kept_bytes_free()
                + session.replies.unread_bytes()
                + queued,
            session.last_command.map_or("NULL", |command| command.name),
            session.tracking.as_ref().map_or(-1, |tracking| tracking.redirect()),
            if session.proto == Proto::Resp3 { 3 } else { 2 },
            session.lib_name,
            session.lib_ver,
        )
    }

    /// What CLIENT LIST calls flags, in redis's order.
    fn flags(&self, index: u32) -> String {
        let session = &self.sessions[index as usize];
        let mut flags = String::new();
        flags.extend(session.monitors.then_some('O'));
        flags.extend(session.subscriptions.is_some().then_some('P'));
        flags.extend(session.transaction.is_some().then_some('x'));
        flags.extend((self.is_waiting(index) || matches!(session.paused, Some(Pause::HeldBack { .. }))).then_some('b'));
        flags.push_str(&session.tracking.as_ref().map(|tracking| tracking.list_flags()).unwrap_or_default());
        flags.extend(session.watch_broken.then_some('d'));
        flags.extend(session.closing.then_some('c'));
        flags.extend(matches!(session.peer, Some(Peer::Unix { .. })).then_some('U'));
        flags.extend(session.no_evict.then_some('e'));
        flags.extend(session.no_touch.then_some('T'));
        if flags.is_empty() { "N".to_owned() } else { flags }
    }
}

/// Where a client is connected from, and to.
pub(super) fn addresses(session: &Session) -> (String, String) {
    match &session.peer {
        Some(Peer::Tcp { peer, local }) => (peer.to_string(), local.to_string()),
        Some(Peer::Unix { path }) => (format!("{path}:0"), format!("{path}:0")),
        None => (String::new(), String::new()),
    }
}

fn on_or_off(word: &[u8]) -> Option<bool> {
    match word.to_ascii_lowercase().as_slice() {
        b"on" => Some(true),
        b"off" => Some(false),
        _ => None,
    }
}

/// A client's name, or a library's: no spaces, no line ends, nothing that is not printable ASCII.
pub(super) fn client_name(name: &[u8]) -> Result<Box<str>, &'static str> {
    if name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        Ok(String::from_utf8_lossy(name).into())
    } else {
        Err("ERR Client names cannot contain spaces, newlines or special characters.")
    }
}
