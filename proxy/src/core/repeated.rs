//! What nearly all traffic is made of, by a shorter way: requests that begin as others did just before, and short replies.
//!
//! Nothing is decided here that is not decided elsewhere too: whatever is not quite ordinary is left where it is, for those who look at
//! every request and reply in full.

use vrc_cluster::{
    command::Command,
    resp::{Args, Opening, short_value},
};

use super::{Core, Lane, NO_BACKEND, backend::State, replies::Slot, waiter::Waiter};

/// How the last plain commands began.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    known: [Option<(Opening, &'static Command)>; 2],
    /// Which of them is replaced next.
    next: usize,
}

impl Repeats {
    /// Has requests known that begin as this one, of a plain command.
    pub(super) fn note(&mut self, command: &'static Command, args: Args<'_>) {
        let Some(opening) = Opening::of(args) else { return };
        if !self.known.iter().flatten().any(|(known, _)| *known == opening) {
            self.known[self.next] = Some((opening, command));
            self.next = 1 - self.next;
        }
    }

    /// The command, the key and the length of the request at the start of `bytes`, if it begins as one that is known.
    #[inline(always)]
    fn find<'a>(&self, bytes: &'a [u8]) -> Option<(&'static Command, &'a [u8], usize)> {
        let look = |known: &Option<(Opening, &'static Command)>| {
            let (opening, command) = known.as_ref()?;
            let (key, len) = opening.begins(bytes)?;
            Some((*command, key, len))
        };
        let [one, other] = &self.known;
        match look(one) {
            None => look(other),
            found => found,
        }
    }
}

impl Core {
    /// Takes requests of a plain session from the start of `bytes`, for as long as they begin as others did and their nodes may have
    /// them. Returns how many bytes those were.
    pub(super) fn take_repeated(&mut self, index: u32, bytes: &[u8]) -> usize {
        if self.repeats.find(bytes).is_none() {
            return 0;
        }
        let id = self.session_id(index);
        let Core { sessions, backends, lanes, topology, repeats, dirty_backends, .. } = self;
        let session = &mut sessions[index as usize];
        let (Some(lane), Some(lane_of_guests)) = (session.lane(false).index(), session.lane(true).index()) else { return 0 };
        let (mut at, mut taken) = (0, 0);
        while session.replies.has_room()
            && let Some((command, key, len)) = repeats.find(&bytes[at..])
            && let Ok(owner) = topology.owner(topology.place(key))
        {
            let lane = if owner.guest { lane_of_guests } else { lane };
            let to = lanes[usize::from(owner.node) * Lane::COUNT + lane];
            if to == NO_BACKEND {
                break;
            }
            let backend = &mut backends[to as usize];
            if backend.state != State::Up || !backend.has_room() {
                break;
            }
            let waiter = Waiter::new(id, session.replies.push(Slot::Waiting), command.id(), self.now_us);
            backend.push(waiter, |out| out.extend_from_slice(&bytes[at..at + len]));
            if !backend.dirty {
                backend.dirty = true;
                dirty_backends.push(to);
            }
            session.last_command = Some(command);
            at += len;
            taken += 1;
        }
        self.counters.commands_total += taken;
        self.counters.forwarded_total += taken;
        at
    }

    /// Hands out short replies from the start of `bytes`, for as long as each is the whole answer to somebody's command. Returns how
    /// many bytes those were.
    pub(super) fn take_short_replies(&mut self, index: u32, bytes: &[u8]) -> usize {
        let only_counts = self.only_counts_slow();
        let Core { sessions, backends, dirty_sessions, counters, .. } = self;
        let backend = &mut backends[index as usize];
        if !backend.is_plain() {
            return 0;
        }
        let (mut at, mut slow) = (0, 0);
        while let Some(len) = short_value(&bytes[at..])
            && let Some(&waiter) = backend.front()
            && waiter.is_for_one_reply()
        {
            let is_slow = self.now_us.saturating_sub(waiter.since_us) >= self.timed_from_us;
            if is_slow && !only_counts {
                // That is of interest elsewhere.
                break;
            }
            let session = &mut sessions[waiter.session as usize];
            // What a client that has left still waited for may matter elsewhere, too.
            if session.generation != waiter.generation || !session.replies.answer_waiting(waiter.sequence, &bytes[at..at + len]) {
                break;
            }
            slow += u64::from(is_slow);
            // That it may be too much is seen to before: no command is taken from who leaves far less than that unread.
            if !session.dirty {
                session.dirty = true;
                dirty_sessions.push(waiter.session);
            }
            backend.pop();
            at += len;
        }
        counters.slow_total += slow;
        at
    }
}
