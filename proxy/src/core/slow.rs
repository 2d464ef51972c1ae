//! How long commands take, for SLOWLOG and LATENCY.
//!
//! A command's time is from when it was taken to when its reply was there, to the precision of the worker's turns: the core is told the
//! time once for all that came at once. So what the proxy answers by itself takes no time here; a turn that takes long shows as an
//! `event-loop` of LATENCY. The time that a client asked to wait does not count.

use vrc_cluster::{
    command::{Command, Flags, REDACTED, Way, is_sensitive, resolve},
    resp::{Args, Frame, RequestFramer, encode, parse_integer},
};

use super::{
    Core, Flow, client::addresses, order::wrong_arguments, private::Hold, replies::Slot, script::behind_loads, sent::Request,
    waiter::Waiter,
};
use crate::{
    latency::Event,
    limits::SLOW_AT_ONCE_MAX,
    slowlog::{Slow, left_out, write_short},
};

/// How many entries SLOWLOG GET shows unless told.
const SLOWLOG_GET_COUNT: i64 = 10;

impl Core {
    /// Takes up the settings as they are now.
    pub(super) fn follow_live_settings(&mut self) {
        self.live_version = self.settings.live.version();
        self.live = self.settings.live.load();
        let slow_us = u64::try_from(self.live.slower_than_us).unwrap_or(u64::MAX);
        let latency_us = if self.live.latency_ms > 0 { self.live.latency_ms.saturating_mul(1000) } else { u64::MAX };
        self.timed_from_us = if self.live.latency_tracking { 0 } else { slow_us.min(latency_us) };
    }

    /// Whether anybody wants to know what takes long.
    pub(crate) fn watches_latency(&self) -> bool {
        self.live.latency_ms > 0
    }

    /// Something took so long.
    pub(crate) fn note_latency(&self, event: Event, took_us: u64) {
        if self.watches_latency() && took_us / 1000 >= self.live.latency_ms {
            self.settings.logs.latency.add(event, took_us / 1000);
        }
    }

    /// For how long what came in this turn has been at hand.
    pub(crate) fn turn_us(&self, now_us: u64) -> u64 {
        now_us.saturating_sub(self.now_us)
    }

    /// A node's reply to this waiter, who was just popped, is there.
    #[cold]
    #[inline(never)]
    pub(super) fn timed(&mut self, backend: u32, waiter: Waiter) {
        let waited = matches!(self.backends[backend as usize].hold, Some(Hold::Waiting { .. }));
        let took_us = if waited { 0 } else { self.now_us.saturating_sub(waiter.since_us) };
        let shown = |core: &Core| match core.backends[backend as usize].request_of(&waiter)? {
            Request::Whole(request) => {
                let mut shown = Vec::new();
                write_shown(request, waiter.skip, &mut shown);
                (!shown.is_empty()).then_some(shown)
            }
            Request::Shown(shown) => Some(shown.to_vec()),
        };
        self.note_time(waiter, took_us, shown);
    }

    /// Instead of a reply this waiter will get an error. What it had asked for is gone, but for its length.
    pub(super) fn timed_in_vain(&mut self, waiter: Waiter) {
        let took_us = self.now_us.saturating_sub(waiter.since_us);
        if took_us >= self.timed_from_us {
            self.note_time(waiter, took_us, |_| None);
        }
    }

    fn note_time(&mut self, waiter: Waiter, took_us: u64, shown: impl FnOnce(&Core) -> Option<Vec<u8>>) {
        if waiter.is_nobody() {
            return;
        }
        let session = &self.sessions[waiter.session as usize];
        if session.generation != waiter.generation {
            return;
        }
        // A command takes as long as the last of its parts.
        if let Some(Slot::Join(join)) = session.replies.slot(waiter.sequence)
            && self.joins[join as usize].parts_left() > 1
        {
            return;
        }
        if self.live.latency_tracking {
            self.stats.histograms.add(waiter.command, took_us);
        }
        let is_fast = waiter.command.row().is_some_and(|command| command.flags.contains(Flags::FAST));
        self.note_latency(if is_fast { Event::FastCommand } else { Event::Command }, took_us);
        if self.is_slow(took_us) && self.may_log_slow() {
            let args = shown(self).unwrap_or_else(|| {
                let name = waiter.command.row().map_or("?", |command| command.name);
                let mut shown = Vec::new();
                encode::request(&mut shown, &[name, &left_out(waiter.len as usize, "bytes")]);
                shown
            });
            self.log_slow(waiter.session, took_us, args);
        }
    }

    /// The proxy has answered a command itself, if it did; only to be called where even such a command is of interest. What was
    /// forwarded to a node for that is timed when the node replies.
    #[cold]
    pub(super) fn timed_here(&mut self, index: u32, command: &'static Command, args: Args<'_>, flow: Flow, was_forwarded: bool) {
        let is_here = match command.way {
            Way::Local => !was_forwarded,
            Way::Transaction => matches!(command.name, "multi" | "discard" | "unwatch"),
            Way::PubSub => command.name.ends_with("subscribe"),
            _ => false,
        };
        if !is_here || matches!(flow, Flow::Pause(_)) {
            return;
        }
        if self.live.latency_tracking {
            self.stats.histograms.add(command.id(), 0);
        }
        if self.is_slow(0) && self.may_log_slow() {
            let mut shown = Vec::new();
            write_short(without_secrets(command, args), &mut shown);
            self.log_slow(index, 0, shown);
        }
    }

    /// `SLOWLOG GET|LEN|RESET`.
    pub(super) fn slowlog(&mut self, index: u32, command: &'static Command, args: Args<'_>) {
        let logs = self.settings.logs.clone();
        match command.own_name() {
            "len" => self.answer_now(index, |out| encode::integer(out, logs.slow.len() as i64)),
            "reset" => {
                logs.slow.reset();
                self.ok(index);
            }
            _ if args.len() > 3 => self.refuse(index, wrong_arguments(args)),
            _ => match args.get(2).map_or(Some(SLOWLOG_GET_COUNT), parse_integer) {
                // -1 is for all.
                Some(count @ -1..) => {
                    self.answer_now(index, |out| logs.slow.write(usize::try_from(count).unwrap_or(usize::MAX), out));
                }
                _ => self.refuse(index, "ERR count should be greater than or equal to -1"),
            },
        }
    }

    fn is_slow(&self, took_us: u64) -> bool {
        u64::try_from(self.live.slower_than_us).is_ok_and(|slower_than_us| took_us >= slower_than_us)
    }

    /// Counts a slow command, and tells whether it is one of those that get into the log: where a node has stood still, or the machine is
    /// busy, nearly all are slow, and what they were must not be looked for in vain.
    fn may_log_slow(&mut self) -> bool {
        self.counters.slow_total += 1;
        let may = self.slow_now < SLOW_AT_ONCE_MAX;
        self.slow_now += u32::from(may);
        may
    }

    /// Whether slow commands are only counted for the rest of this turn.
    #[inline]
    pub(super) fn only_counts_slow(&self) -> bool {
        self.slow_now >= SLOW_AT_ONCE_MAX && !self.live.latency_tracking && !self.watches_latency()
    }

    fn log_slow(&mut self, index: u32, duration_us: u64, args: Vec<u8>) {
        let session = &self.sessions[index as usize];
        let slow = Slow { duration_us, args, peer: addresses(session).0, name: session.name.clone() };
        self.settings.logs.slow.add(slow, self.live.slow_max);
    }
}

/// Appends the arguments of a request that went to a node as the log has them, `skip` of whose replies do not count: a transaction's
/// commands are one argument each. Nothing if it is no request.
pub(super) fn write_shown(request: &[u8], skip: u32, out: &mut Vec<u8>) {
    let (loads, mut rest) = behind_loads(request, skip);
    let mut framer = RequestFramer::default();
    let mut words = Vec::new();
    while let Ok(Some(Frame::Multibulk(len))) = framer.advance(rest) {
        let args = Args::new(&rest[..len], framer.args());
        let command = resolve(args).ok();
        if skip == loads {
            return match command {
                Some(command) => write_short(without_secrets(command, args), out),
                None => write_short(args.iter(), out),
            };
        }
        let shown: Vec<_> = command.map_or_else(|| args.iter().collect(), |command| without_secrets(command, args).collect());
        words.push(shown.join(&b' '));
        rest = &rest[len..];
        framer.reset();
    }
    if words.is_empty() {
        return;
    }
    // EXEC stands in front, as if the client had said all at once, in place of the MULTI there.
    let commands = words.get(1..words.len().saturating_sub(1)).unwrap_or_default();
    let all: Vec<_> = std::iter::once(&b"EXEC"[..]).chain(commands.iter().map(|words| &**words)).collect();
    write_short(all.into_iter(), out);
}

fn without_secrets<'a>(command: &'static Command, args: Args<'a>) -> impl ExactSizeIterator<Item = &'a [u8]> {
    args.iter().enumerate().map(move |(index, arg)| if is_sensitive(command, args, index) { REDACTED } else { arg })
}
