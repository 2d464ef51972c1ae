//! CLIENT PAUSE: commands of all this proxy's clients that are held back for a time, all of them or those that may write.
//!
//! A command that is held back has not been taken: its client is not read any further until then, as with all that has no room.

use std::collections::BTreeSet;

use vrc_cluster::{
    command::{Command, Flags},
    resp::{Args, array_elements, parse_integer},
};

use super::{
    Core, Effect, Flow,
    order::{Order, wrong_arguments},
    session::Pause,
    topics::bulk,
};
use crate::scripts::script_id;

/// What is held back.
#[derive(Debug, Default)]
pub(super) struct ClientPause {
    held: Option<Held>,
    /// Counts the times that something changed: who was held back before may go on now.
    round: u32,
    /// The functions that write nothing, once a node has been asked. As long as writing is paused, so is the loading of functions.
    harmless: Harmless,
}

#[derive(Debug, Default)]
enum Harmless {
    #[default]
    Unasked,
    Asked,
    Known(BTreeSet<Box<[u8]>>),
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
        self.client_pause.harmless = Harmless::Unasked;
        self.client_pause.round = self.client_pause.round.wrapping_add(1);
    }

    /// Ends the pause once its time is up.
    pub(super) fn expire_client_pause(&mut self) {
        if self.client_pause.held.is_some_and(|held| held.until_ms <= self.now_ms) {
            self.unpause_clients();
        }
    }

    /// Whether this command has to wait for the pause to end.
    pub(super) fn is_held_back(&mut self, index: u32, command: &'static Command, args: Args<'_>) -> Option<Flow> {
        let held = self.client_pause.held?;
        if command.name == "fcall" && !held.all {
            self.learn_functions();
        }
        let session = &self.sessions[index as usize];
        // Who is refused anyway is told so at once.
        let is_refused = !session.authenticated && !command.flags.contains(Flags::NO_AUTH);
        let is_meant = held.all
            || self.may_write(command, args)
            || (command.name == "exec" && session.transaction.as_ref().is_some_and(|transaction| transaction.may_write()));
        (is_meant && !is_refused).then_some(Flow::Pause(Pause::HeldBack { round: self.client_pause.round }))
    }

    /// Whether a command may change data or publish something.
    pub(super) fn may_write(&self, command: &Command, args: Args<'_>) -> bool {
        let is_harmless = || match (command.name, &self.client_pause.harmless) {
            ("eval", _) => promises_not_to_write(&args[1]),
            ("evalsha", _) => {
                let script = script_id(&args[1]).and_then(|id| self.settings.scripts.get(&id));
                script.is_some_and(|script| promises_not_to_write(&script))
            }
            ("fcall", Harmless::Known(functions)) => functions.contains(&args[1]),
            _ => false,
        };
        command.flags.intersects(Flags::WRITE | Flags::MAY_REPLICATE) && !is_harmless()
    }

    /// Asks a node which functions write nothing, unless one was asked since the pause began.
    fn learn_functions(&mut self) {
        if let (Harmless::Unasked, Some(node)) = (&self.client_pause.harmless, self.up.first()) {
            self.client_pause.harmless = Harmless::Asked;
            let endpoint = self.topology.nodes()[usize::from(*node)].endpoint.clone();
            self.effects.push(Effect::LearnFunctions { endpoint });
        }
    }

    /// What a node said to FUNCTION LIST, `None` if it did not answer.
    pub(crate) fn functions_learned(&mut self, reply: Option<&[u8]>) {
        if matches!(self.client_pause.harmless, Harmless::Asked) {
            self.client_pause.harmless = Harmless::Known(reply.map(harmless_functions).unwrap_or_default());
            // Whoever was held back is looked at again.
            self.client_pause.round = self.client_pause.round.wrapping_add(1);
        }
    }
}

/// Of what FUNCTION LIST says, the names of the functions with the flag `no-writes`.
fn harmless_functions(reply: &[u8]) -> BTreeSet<Box<[u8]>> {
    let libraries = array_elements(reply).into_iter().flatten();
    let functions = libraries.filter_map(|library| array_elements(field(library, b"functions")?)).flatten();
    let is_harmless = |function: &&[u8]| {
        let flags = field(function, b"flags").and_then(array_elements);
        flags.into_iter().flatten().any(|flag| bulk_or_simple(flag) == Some(b"no-writes"))
    };
    functions.filter(is_harmless).filter_map(|function| bulk(field(function, b"name")?)).map(Box::from).collect()
}

/// The value of a field of an array of names and values.
fn field<'a>(array: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    array_elements(array)?.skip_while(|element| bulk(element) != Some(name)).nth(1)
}

/// The flags are simple strings.
fn bulk_or_simple(element: &[u8]) -> Option<&[u8]> {
    bulk(element).or_else(|| element.strip_prefix(b"+")?.strip_suffix(b"\r\n"))
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
