//! What clients send: takes commands out of it, and stops and goes on where there is no room.

use vrc_cluster::{
    command::{self, Command},
    resp::{Args, Frame, RequestFramer, encode, split_inline},
    route,
};

use super::{
    Core, Effect, Flow,
    private::Hold,
    session::{Pause, SessionId},
};
use crate::limits::{ALONE_MS, CLIENT_INPUT_MAX_BYTES, READ_BYTES};

impl Core {
    /// The client sent these bytes.
    pub(crate) fn session_input(&mut self, id: SessionId, bytes: &[u8]) {
        debug_assert!(self.is_open(id));
        self.hears(id, bytes.len());
        self.take_in(id, bytes);
    }

    /// Takes note of who says something, how much, and when.
    #[inline(always)]
    fn hears(&mut self, id: SessionId, len: usize) {
        self.counters.bytes_in += len as u64;
        self.sessions[id.index as usize].active_ms = self.now_ms;
        self.heard_ms = self.now_ms;
        if self.heard_last != id.index {
            self.heard_last = id.index;
            self.heard_another_ms = self.now_ms;
        }
    }

    /// Whether one client speaks, and has been the only one for a while.
    pub(crate) fn is_one_client_alone(&self) -> bool {
        self.now_ms.saturating_sub(self.heard_ms) < ALONE_MS && self.now_ms.saturating_sub(self.heard_another_ms) >= ALONE_MS
    }

    #[inline(always)]
    fn take_in(&mut self, id: SessionId, bytes: &[u8]) {
        let session = &mut self.sessions[id.index as usize];
        if session.closing {
            return;
        }
        if session.paused.is_some() {
            session.keep(bytes);
        } else if session.kept_bytes() == 0 {
            let taken = self.take_commands(id.index, bytes);
            self.sessions[id.index as usize].keep(&bytes[taken..]);
        } else {
            self.take_in_behind(id, bytes);
        }
    }

    /// Takes in what comes behind something that was kept.
    fn take_in_behind(&mut self, id: SessionId, bytes: &[u8]) {
        let session = &mut self.sessions[id.index as usize];
        let (bytes, behind) = bytes.split_at(session.share_of_unfinished(bytes.len()));
        session.keep(bytes);
        self.take_kept_input(id.index);
        if !behind.is_empty() {
            self.take_in(id, behind);
        }
    }

    /// Where more of a large request that has begun to come is to be read to, rather than moved: the buffer that it will go on in. What was
    /// read is told by [`Core::session_filled`].
    #[inline]
    pub(crate) fn session_room(&mut self, id: SessionId) -> Option<&mut Vec<u8>> {
        let session = &mut self.sessions[id.index as usize];
        if session.partial.is_none() || session.paused.is_some() || session.closing { None } else { session.room() }
    }

    /// The client sent `len` bytes, which were read to where they belong.
    pub(crate) fn session_filled(&mut self, id: SessionId, len: usize) {
        self.hears(id, len);
        let session = &mut self.sessions[id.index as usize];
        if !session.wants_more() {
            self.take_kept_input(id.index);
        }
    }

    /// The client will send no more. What it asked for is still answered.
    pub(crate) fn session_ended(&mut self, id: SessionId) {
        if self.is_open(id) {
            self.sessions[id.index as usize].closing = true;
            self.close_if_waiting(id.index);
            self.mark_session(id.index);
        }
    }

    /// The sessions whose command waits as long as it likes.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = SessionId> {
        self.paused.iter().copied().filter(|id| self.is_open(*id) && self.is_waiting(id.index))
    }

    pub(super) fn is_waiting(&self, index: u32) -> bool {
        let hold = self.sessions[index as usize].waiting.and_then(|backend| self.backends[backend as usize].hold.as_ref());
        matches!(hold, Some(Hold::Waiting { .. }))
    }

    /// A client that will send no more gives up what it waits for: nothing else would end that if it is gone for good.
    pub(super) fn close_if_waiting(&mut self, index: u32) {
        if self.is_waiting(index) || matches!(self.sessions[index as usize].paused, Some(Pause::HeldBack { .. })) {
            self.leave_wait(index);
            self.effects.push(Effect::Close { session: self.session_id(index) });
        }
    }

    pub(super) fn take_kept_input(&mut self, index: u32) {
        let (mut input, at) = self.sessions[index as usize].take_input();
        if at == 0 && input.len() > READ_BYTES {
            input = self.take_large_command(index, input);
        }
        let taken = self.take_commands(index, &input[at..]);
        self.sessions[index as usize].put_input(input, at + taken);
    }

    /// Takes the command at the start of `input` if it is large and may go to its node in the very buffer that it came in. Returns what
    /// is left of the input.
    fn take_large_command(&mut self, index: u32, mut input: Vec<u8>) -> Vec<u8> {
        let Some(mut framer) = self.sessions[index as usize].partial.take() else { return input };
        let framed = framer.advance(&input);
        if let Ok(Some(Frame::Multibulk(len @ READ_BYTES..))) = framed
            // No more bytes are moved than are handed on: much may have been kept behind it.
            && input.len() - len <= len
            && !self.is_watched(index)
            && let Some((command, backend)) = self.goes_whole(index, Args::new(&input[..len], framer.args()))
        {
            let rest = input.split_off(len);
            self.sessions[index as usize].last_command = Some(command);
            self.counters.commands_total += 1;
            self.forward_owned(index, backend, input);
            return rest;
        }
        if !matches!(framed, Ok(None)) {
            // It is looked at once more, from its start.
            framer.reset();
        }
        self.sessions[index as usize].partial = Some(framer);
        input
    }

    /// The command of a request that can be handed to a backend as it is, and which; `None` if there is more to it.
    fn goes_whole(&mut self, index: u32, args: Args<'_>) -> Option<(&'static Command, u32)> {
        let session = &self.sessions[index as usize];
        let command = command::resolve(args).ok().filter(|command| command.is_plain())?;
        if !session.is_plain() || !session.replies.has_room() {
            return None;
        }
        let owner = route::owner(self.topology.place(&args[1]), &self.topology).ok()?;
        Some((command, self.ready_backend(index, owner)?))
    }

    /// Takes all whole commands from `bytes`, and returns how many bytes those were. The caller keeps the rest.
    pub(super) fn take_commands(&mut self, index: u32, bytes: &[u8]) -> usize {
        let mut framer = match self.sessions[index as usize].partial.take() {
            Some(partial) => *partial,
            None => std::mem::take(&mut self.framer),
        };
        framer.guard(!self.sessions[index as usize].authenticated);
        let mut at = 0;
        let mut is_fresh = framer.is_fresh();
        // Once for all of them: nearly always nobody is.
        let mut is_watched = self.is_watched(index);
        loop {
            if is_fresh && !is_watched && self.sessions[index as usize].is_plain() {
                at += self.take_repeated(index, &bytes[at..]);
            }
            is_fresh = true;
            if !self.sessions[index as usize].replies.has_room() {
                self.pause(index, Pause::Answers);
                framer.reset();
                break;
            }
            let rest = &bytes[at..];
            let (flow, len) = match framer.advance(rest) {
                Ok(None) => break,
                Ok(Some(Frame::Multibulk(len))) => {
                    let args = Args::new(&rest[..len], framer.args());
                    (if is_watched { self.watched_command(index, args) } else { self.command(index, args) }, len)
                }
                Ok(Some(Frame::Inline { line, len })) => (self.inline(index, &rest[..line]), len),
                Err(error) => {
                    self.protocol_error(index, &error);
                    (Flow::Close, rest.len())
                }
            };
            framer.reset();
            match flow {
                Flow::Next => at += len,
                Flow::Watch => {
                    at += len;
                    is_watched = self.is_watched(index);
                    framer.guard(!self.sessions[index as usize].authenticated);
                }
                Flow::Pause(pause) => {
                    self.pause(index, pause);
                    break;
                }
                Flow::Stop(pause) => {
                    at += len;
                    self.pause(index, pause);
                    break;
                }
                Flow::Close => {
                    self.sessions[index as usize].closing = true;
                    self.mark_session(index);
                    at = bytes.len();
                    break;
                }
            }
        }
        let session = &mut self.sessions[index as usize];
        session.replies.begin_batch();
        session.replies.borrow_buffers(&mut self.spare);
        if at == bytes.len() {
            framer.reset();
            self.framer = framer;
        } else {
            self.sessions[index as usize].partial = Some(Box::new(framer));
        }
        at
    }

    pub(super) fn inline(&mut self, index: u32, line: &[u8]) -> Flow {
        match split_inline(line) {
            Ok(args) if args.is_empty() => Flow::Next,
            Ok(args) => {
                // Spelled out as the array of bulk strings that a node takes on a pipelined connection.
                let mut request = Vec::with_capacity(line.len() + 32);
                encode::request(&mut request, &args);
                let mut framer = RequestFramer::default();
                match framer.advance(&request) {
                    Ok(Some(Frame::Multibulk(_))) => self.watched_command(index, Args::new(&request, framer.args())),
                    _ => unreachable!("an encoded request is whole"),
                }
            }
            Err(error) => {
                self.protocol_error(index, &error);
                Flow::Close
            }
        }
    }

    fn protocol_error(&mut self, index: u32, error: &dyn std::fmt::Display) {
        self.counters.protocol_errors += 1;
        if !self.is_silent(index) {
            self.refuse(index, format!("ERR {error}"));
        }
    }

    /// Whether more is to be seen to with this session's commands than to carry them out.
    #[inline]
    fn is_watched(&self, index: u32) -> bool {
        self.client_pause.is_on() || self.monitoring.is_on || self.sessions[index as usize].mute.is_some()
    }

    /// Takes one whole request of a session that may be watched.
    fn watched_command(&mut self, index: u32, args: Args<'_>) -> Flow {
        let command = command::resolve(args).or_else(|_| command::resolve_learned(args)).ok();
        if let Some(flow) = command.and_then(|command| self.is_held_back(index, command, args)) {
            return flow;
        }
        if self.monitoring.is_on {
            return self.command_monitored(index, command, args);
        }
        self.command_muted(index, command, args)
    }

    pub(super) fn pause(&mut self, index: u32, pause: Pause) {
        let session = &mut self.sessions[index as usize];
        self.clients_changed |= matches!(pause, Pause::HeldBack { .. });
        if session.paused.replace(pause).is_none() {
            self.paused.push(SessionId { index, generation: session.generation });
            self.counters.pauses_total += 1;
        }
    }

    /// Many clients say all of a pipeline before they read any answer. Where one is paused because of what it has not read, and takes
    /// nothing of it, it is heard out, or each would wait for the other; but not who has not logged in, to whom all that may be said
    /// are errors. To be called at every tick.
    pub(super) fn hear_out_the_stalled(&mut self) {
        for at in 0..self.paused.len() {
            let id = self.paused[at];
            if !self.is_open(id) {
                continue;
            }
            let session = &mut self.sessions[id.index as usize];
            let stalled = session.replies.is_stalled() && session.paused == Some(Pause::Answers) && session.authenticated;
            if stalled && session.kept_bytes() >= CLIENT_INPUT_MAX_BYTES {
                tracing::warn!(
                    client = session.id,
                    "client cut off: {CLIENT_INPUT_MAX_BYTES} bytes came behind answers it does not read"
                );
                self.effects.push(Effect::Close { session: id });
            } else if stalled && !session.heard_out {
                self.effects.push(Effect::Resume { session: id.index });
            }
            session.heard_out = stalled;
        }
    }

    /// Lets the paused sessions go on that can. To be called after output was written and replies were taken.
    pub(crate) fn resume_paused(&mut self) {
        self.finish_kills();
        let mut at = 0;
        while at < self.paused.len() {
            let id = self.paused[at];
            if !self.is_open(id) {
                self.paused.swap_remove(at);
                continue;
            }
            let session = &self.sessions[id.index as usize];
            let ready = match session.paused {
                Some(Pause::Answers) => session.replies.has_ample_room(),
                Some(Pause::Learning) => !self.learning.asked,
                Some(Pause::Functions) => self.functions.is_idle(),
                Some(Pause::Answered) => self.is_all_done(id.index),
                Some(Pause::HeldBack { round }) => !self.client_pause.holds(round),
                Some(Pause::Backlog(backend)) => self.backends[backend as usize].has_ample_room(),
                None => true,
            };
            if !ready || !self.is_done_aside(id.index) {
                at += 1;
                continue;
            }
            self.paused.swap_remove(at);
            let session = &mut self.sessions[id.index as usize];
            session.heard_out = false;
            let pause = session.paused.take();
            self.clients_changed |= matches!(pause, Some(Pause::HeldBack { .. }));
            self.take_kept_input(id.index);
            let session = &self.sessions[id.index as usize];
            if session.closing {
                self.close_if_waiting(id.index);
                self.mark_session(id.index);
            } else if session.paused.is_none() {
                self.effects.push(Effect::Resume { session: id.index });
            }
        }
    }
}
