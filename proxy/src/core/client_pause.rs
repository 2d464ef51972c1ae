//! CLIENT PAUSE: commands of all this proxy's clients that are held back for a time, all of them or those that may write.
//!
//! A command that is held back has not been taken: its client is not read any further until then, as with all that has no room.

use vrc_cluster::{
    command::{Command, Flags},
    resp::{Args, parse_integer},
};

use super::{
    Core, Flow,
    everywhere::{Order, wrong_arguments},
    session::Pause,
};

/// What is held back.
#[derive(Debug, Default)]
pub(super) struct ClientPause {
    held: Option<Held>,
    /// Counts the times that something changed: who was held back before may go on now.
    round: u32,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    all: bool,
    until_ms: u64,
}

impl ClientPause {
    pub(super) fn is_on(&self) -> bool {
        self.held.is_some()
    }

    /// Whether a session that was held back in that round has to wait still.
    pub(super) fn holds(&self, round: u32) -> bool {
        self.is_on() && self.round == round
    }
}

impl Core {
    /// `CLIENT PAUSE timeout [WRITE|ALL]`.
    pub(super) fn client_pause(&mut self, index: u32, args: Args<'_>) -> Flow {
        let all = match args.get(3) {
            None => Ok(true),
            Some(_) if args.len() > 4 => Err(wrong_arguments(args)),
            Some(mode) if mode.eq_ignore_ascii_case(b"all") => Ok(true),
            Some(mode) if mode.eq_ignore_ascii_case(b"write") => Ok(false),
            Some(_) => Err(b"ERR CLIENT PAUSE mode must be WRITE or ALL".to_vec()),
        };
        let for_ms = match parse_integer(&args[2]) {
            None => Err(b"ERR timeout is not an integer or out of range".to_vec()),
            Some(for_ms) => u64::try_from(for_ms).map_err(|_| b"ERR timeout is negative".to_vec()),
        };
        match all.and_then(|all| Ok((all, for_ms?))) {
            Ok((all, for_ms)) => self.order(index, Order::Pause { all, for_ms }),
            Err(error) => {
                self.refuse(index, error);
                Flow::Next
            }
        }
    }

    /// Of what was asked for before, the more and the longer counts.
    pub(super) fn pause_clients(&mut self, all: bool, for_ms: u64) {
        let until_ms = self.now_ms.saturating_add(for_ms);
        let held = Held { all, until_ms };
        let before = self.client_pause.held.unwrap_or(held);
        self.client_pause.held = Some(Held { all: all || before.all, until_ms: until_ms.max(before.until_ms) });
    }

    pub(super) fn unpause_clients(&mut self) {
        self.client_pause.held = None;
        self.client_pause.round = self.client_pause.round.wrapping_add(1);
    }

    /// Ends the pause once its time is up.
    pub(super) fn expire_client_pause(&mut self) {
        if self.client_pause.held.is_some_and(|held| held.until_ms <= self.now_ms) {
            self.unpause_clients();
        }
    }

    /// Whether this command has to wait for the pause to end.
    pub(super) fn is_held_back(&self, index: u32, command: &'static Command, args: Args<'_>) -> Option<Flow> {
        let held = self.client_pause.held?;
        let session = &self.sessions[index as usize];
        // Who is refused anyway is told so at once.
        let is_refused = !session.authenticated && !command.flags.contains(Flags::NO_AUTH);
        let is_meant = held.all
            || may_write(command, args)
            || (command.name == "exec" && session.transaction.as_ref().is_some_and(|transaction| transaction.may_write()));
        (is_meant && !is_refused).then_some(Flow::Pause(Pause::HeldBack { round: self.client_pause.round }))
    }
}

/// Whether a command may change data or publish something.
pub(super) fn may_write(command: &Command, args: Args<'_>) -> bool {
    command.flags.intersects(Flags::WRITE | Flags::MAY_REPLICATE) && !(command.name == "eval" && promises_not_to_write(&args[1]))
}

/// Whether a script's first line says that it writes nothing (`#!lua flags=no-writes`).
fn promises_not_to_write(script: &[u8]) -> bool {
    let first_line = script.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let options = first_line.strip_prefix(b"#!").into_iter().flat_map(|line| line.split(u8::is_ascii_whitespace));
    options
        .filter_map(|option| option.strip_prefix(b"flags="))
        .flat_map(|flags| flags.split(|byte| *byte == b','))
        .any(|flag| flag == b"no-writes")
}
