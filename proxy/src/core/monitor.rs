//! MONITOR: a client is shown the commands of all this proxy's clients, whichever worker serves them, in redis's own words.
//!
//! While anybody listens every worker writes a line for each command that it takes, and hands its lines to the workers whose clients
//! listen once a turn. While nobody does, a command costs nothing more for it. What scripts call happens at the nodes and is not seen.

use std::time::{SystemTime, UNIX_EPOCH};

use vrc_cluster::{
    command::{self, Command, Flags, Way},
    resp::{Args, Frame, Proto, RequestFramer},
};

use super::{
    Core, Flow,
    order::Order,
    pubsub::ALLOWED_WHILE_SUBSCRIBED,
    replies::Sequence,
    session::{Peer, Session, SessionId},
};

/// What stands in the place of a secret.
const REDACTED: &[u8] = b"(redacted)";

/// MONITOR as one worker sees it.
#[derive(Debug, Default)]
pub(super) struct Monitoring {
    /// Somebody may listen, at whichever worker: lines are to be written.
    pub(super) is_on: bool,
    /// The clients of this worker that listen.
    listeners: Vec<SessionId>,
    /// Lines that nobody was shown yet.
    lines: Vec<u8>,
}

impl Core {
    /// `MONITOR`. Its OK comes once all workers write lines.
    pub(super) fn monitor(&mut self, index: u32) -> Flow {
        let session = &mut self.sessions[index as usize];
        if session.asides.is_some() {
            self.refuse(index, "ERR MONITOR isn't allowed for DENY BLOCKING client");
            return Flow::Next;
        }
        if session.monitors {
            // As redis has it, not even an answer.
            return Flow::Next;
        }
        session.monitors = true;
        self.all_stats.monitors.join(self.worker);
        self.order(index, Order::Monitor)
    }

    /// All workers write lines: from now on the client is shown them.
    pub(super) fn begin_monitoring(&mut self, id: SessionId, sequence: Sequence) {
        self.answer_later(id, sequence, b"+OK\r\n");
        if self.sessions[id.index as usize].monitors {
            self.monitoring.listeners.push(id);
        }
    }

    /// The client is shown nothing more.
    pub(super) fn stop_monitoring(&mut self, index: u32) {
        if std::mem::take(&mut self.sessions[index as usize].monitors) {
            self.all_stats.monitors.leave(self.worker);
            let id = self.session_id(index);
            self.monitoring.listeners.retain(|listener| *listener != id);
        }
    }

    /// Takes a command while somebody may listen.
    pub(super) fn command_monitored(&mut self, index: u32, command: Option<&'static Command>, args: Args<'_>) -> Flow {
        if self.all_stats.monitors.workers().next().is_none() {
            self.monitoring.is_on = false;
            return self.command_muted(index, command, args);
        }
        let session = &self.sessions[index as usize];
        if session.monitors && session.authenticated && command.is_some_and(|command| self.is_about_keys(session, command, args))
        {
            self.spoil(index);
            self.refuse(index, "ERR Replica can't interact with the keyspace");
            return Flow::Next;
        }
        let Some(command) = command.filter(|command| is_called(session, command)) else {
            return self.command_muted(index, command, args);
        };
        let before = self.lines_of_exec(index, command);
        let flow = self.command_muted(index, Some(command), args);
        if !matches!(flow, Flow::Pause(_)) {
            self.monitoring.lines.extend_from_slice(&before);
            if !command.flags.contains(Flags::ADMIN) {
                let head = self.head_of_line(index);
                line(&mut self.monitoring.lines, &head, command, args);
            }
        }
        flow
    }

    /// What redis lets no client do that listens.
    fn is_about_keys(&self, session: &Session, command: &Command, args: Args<'_>) -> bool {
        let is = self.may_write(command, args) || command.flags.contains(Flags::READONLY);
        is || (command.name == "exec" && session.transaction.as_ref().is_some_and(|transaction| transaction.may_write()))
    }

    /// The lines of what a transaction carries out: they come before that of its EXEC.
    fn lines_of_exec(&self, index: u32, command: &Command) -> Vec<u8> {
        let mut lines = Vec::new();
        let session = &self.sessions[index as usize];
        let Some(transaction) = session.transaction.as_ref().filter(|_| command.name == "exec" && !session.watch_broken) else {
            return lines;
        };
        if transaction.is_spoiled() {
            return lines;
        }
        let head = self.head_of_line(index);
        let mut framer = RequestFramer::default();
        for requests in transaction.requests() {
            let mut rest = requests;
            while let Ok(Some(Frame::Multibulk(len))) = framer.advance(rest) {
                let args = Args::new(&rest[..len], framer.args());
                if let Ok(queued) = command::resolve(args).or_else(|_| command::resolve_learned(args))
                    && !queued.flags.contains(Flags::ADMIN)
                {
                    line(&mut lines, &head, queued, args);
                }
                rest = &rest[len..];
                framer.reset();
            }
        }
        lines
    }

    /// What a line begins with: when, in which database, and who.
    fn head_of_line(&self, index: u32) -> String {
        let session = &self.sessions[index as usize];
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let from = match &session.peer {
            Some(Peer::Tcp { peer, .. }) => peer.to_string(),
            Some(Peer::Unix { path }) => format!("unix:{path}"),
            None => String::new(),
        };
        format!("+{}.{:06} [{} {from}]", now.as_secs(), now.subsec_micros(), session.db)
    }

    // ---- On the way to those who listen ----

    /// Whether there are lines that nobody was shown yet.
    pub(super) fn has_lines(&self) -> bool {
        !self.monitoring.lines.is_empty()
    }

    /// Takes the lines that nobody was shown yet, and which workers are to show them.
    pub(crate) fn take_lines(&mut self) -> Option<(Vec<u8>, Vec<usize>)> {
        if !self.has_lines() {
            return None;
        }
        let lines = std::mem::take(&mut self.monitoring.lines);
        Some((lines, self.all_stats.monitors.workers().collect()))
    }

    /// Shows lines to the clients of this worker that listen.
    pub(crate) fn show_lines(&mut self, lines: &[u8]) {
        for id in self.monitoring.listeners.clone() {
            if !self.is_silent(id.index) {
                self.tell(id, None, |out| out.extend_from_slice(lines));
            }
        }
    }

    /// Those who listen are cut off if this worker missed lines: it was too slow to take them.
    pub(super) fn cut_off_if_missed(&mut self) {
        if self.all_stats.monitors.has_missed(self.worker) {
            for id in self.monitoring.listeners.clone() {
                self.cut_off_listener(id);
            }
        }
    }
}

/// Whether a command is carried out now, rather than refused or queued.
fn is_called(session: &Session, command: &Command) -> bool {
    let is_free = session.authenticated || command.flags.contains(Flags::NO_AUTH);
    let leaves = matches!(command.name, "quit" | "reset");
    let is_queued = session.transaction.is_some() && command.way != Way::Transaction && !leaves;
    let listens = session.subscriptions.is_some() && session.proto == Proto::Resp2;
    let is_refused =
        matches!(command.way, Way::Refused | Way::Container) || (session.transaction.is_some() && command.name == "watch");
    is_free && !is_queued && !is_refused && (!listens || ALLOWED_WHILE_SUBSCRIBED.contains(&command.name))
}

/// One line, as redis writes it.
fn line(out: &mut Vec<u8>, head: &str, command: &Command, args: Args<'_>) {
    out.extend_from_slice(head.as_bytes());
    for (at, arg) in args.iter().enumerate() {
        out.push(b' ');
        quoted(out, if is_secret(command, args, at) { REDACTED } else { arg });
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether an argument is a password or whose password it is.
fn is_secret(command: &Command, args: Args<'_>, at: usize) -> bool {
    let is_auth = |at: Option<usize>| at.is_some_and(|at| at >= 2 && args[at].eq_ignore_ascii_case(b"auth"));
    match command.name {
        "auth" => at > 0 && args.len() <= 3,
        "hello" => {
            let is_user = is_auth(at.checked_sub(1)) && at + 1 < args.len();
            is_user || is_auth(at.checked_sub(2))
        }
        _ => false,
    }
}

/// Bytes between quotes, with escapes for those that are not printable ASCII.
fn quoted(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    for &byte in bytes {
        match byte {
            b'\\' | b'"' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x07 => out.extend_from_slice(b"\\a"),
            0x08 => out.extend_from_slice(b"\\b"),
            b' '..=b'~' => out.push(byte),
            _ => out.extend_from_slice(format!("\\x{byte:02x}").as_bytes()),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use vrc_cluster::resp::encode;

    use super::*;

    #[test]
    fn bytes_are_quoted_as_redis_does() {
        let mut out = Vec::new();
        quoted(&mut out, b"a \"b\"\\\r\n\t\x07\x08\0\x7f\xff~");
        assert_eq!(String::from_utf8(out).unwrap(), r#""a \"b\"\\\r\n\t\a\b\x00\x7f\xff~""#);
    }

    #[test]
    fn passwords_are_not_shown() {
        for (request, expect) in [
            (&["AUTH", "p"][..], r#" "AUTH" "(redacted)""#),
            (&["auth", "u", "p"], r#" "auth" "(redacted)" "(redacted)""#),
            (&["auth", "u", "p", "x"], r#" "auth" "u" "p" "x""#),
            (&["HELLO", "3"], r#" "HELLO" "3""#),
            (&["HELLO", "3", "SETNAME", "n", "Auth", "u", "p"], r#" "HELLO" "3" "SETNAME" "n" "Auth" "(redacted)" "(redacted)""#),
            (&["HELLO", "3", "AUTH", "u"], r#" "HELLO" "3" "AUTH" "u""#),
        ] {
            let mut bytes = Vec::new();
            encode::request(&mut bytes, request);
            let mut framer = RequestFramer::default();
            assert_eq!(framer.advance(&bytes).unwrap(), Some(Frame::Multibulk(bytes.len())));
            let args = Args::new(&bytes, framer.args());
            let mut out = Vec::new();
            line(&mut out, "", command::resolve(args).unwrap(), args);
            assert_eq!(String::from_utf8(out).unwrap(), format!("{expect}\r\n"));
        }
    }
}
