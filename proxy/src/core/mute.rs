//! CLIENT REPLY: commands whose replies the client does not want.
//!
//! They are carried out like all others, and take their places in the row; what is answered there is dropped. Messages and
//! invalidations, which answer nothing, come all the same, as do the confirmations of subscriptions, which redis counts among them.

use std::collections::BTreeSet;

use vrc_cluster::{
    command::{Command, Way},
    resp::Args,
};

use super::{
    Core, Flow,
    replies::{Sequence, Slot},
    session::Session,
};

/// Which replies a session's client gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Mode {
    /// All.
    #[default]
    On,
    /// None.
    Off,
    /// None to the next command.
    Skip,
}

/// What a session's client does not want.
#[derive(Debug, Default)]
pub(crate) struct Mute {
    mode: Mode,
    /// The first place whose reply is dropped of the command that is at hand; none if its reply is wanted.
    at_hand: Option<Sequence>,
    /// Places of commands under way whose replies are dropped, but for those that say so themselves ([`Slot::Muted`]).
    places: BTreeSet<Sequence>,
}

impl Session {
    /// From here on what is answered to the command at hand is dropped.
    pub(super) fn begin_mute(&mut self) {
        let from = self.replies.next_sequence();
        self.mute.get_or_insert_default().at_hand = Some(from);
    }

    /// The command at hand has been taken: what of it is still to be answered will be dropped, and nothing of the next is.
    pub(super) fn end_mute(&mut self) {
        let Some(from) = self.mute.as_mut().and_then(|mute| mute.at_hand.take()) else { return };
        let mut sequence = from;
        while sequence != self.replies.next_sequence() {
            match self.replies.slot(sequence) {
                Some(Slot::Waiting) => self.replies.set_slot(sequence, Slot::Muted),
                Some(Slot::Ready { .. } | Slot::Muted) | None => {}
                Some(Slot::Join(_) | Slot::Exec | Slot::Publish) => {
                    if let Some(mute) = &mut self.mute {
                        mute.places.insert(sequence);
                    }
                }
            }
            sequence = sequence.wrapping_add(1);
        }
        self.forget_mute();
    }

    /// Whether what is answered just now is dropped.
    pub(super) fn is_mute_at_hand(&self) -> bool {
        self.mute.as_ref().is_some_and(|mute| mute.at_hand.is_some())
    }

    /// Whether the reply in this place is dropped.
    #[inline]
    pub(super) fn is_muted(&self, sequence: Sequence) -> bool {
        self.replies.slot(sequence) == Some(Slot::Muted)
            || self.mute.as_ref().is_some_and(|mute| {
                mute.places.contains(&sequence) || mute.at_hand.is_some_and(|from| sequence.wrapping_sub(from) as i32 >= 0)
            })
    }

    /// The place will be answered otherwise, but its reply is not wanted still.
    pub(super) fn keep_muted(&mut self, sequence: Sequence) {
        self.mute.get_or_insert_default().places.insert(sequence);
    }

    /// The place has been answered.
    pub(super) fn unmute(&mut self, sequence: Sequence) {
        if let Some(mute) = &mut self.mute {
            mute.places.remove(&sequence);
            self.forget_mute();
        }
    }

    /// All replies are wanted from here on.
    pub(super) fn want_replies(&mut self) {
        if let Some(mute) = &mut self.mute {
            (mute.mode, mute.at_hand) = (Mode::On, None);
            self.forget_mute();
        }
    }

    fn forget_mute(&mut self) {
        if self.mute.as_ref().is_some_and(|mute| mute.mode == Mode::On && mute.at_hand.is_none() && mute.places.is_empty()) {
            self.mute = None;
        }
    }
}

impl Core {
    /// `CLIENT REPLY ON|OFF|SKIP`.
    pub(super) fn client_reply(&mut self, index: u32, args: Args<'_>) -> Flow {
        let session = &mut self.sessions[index as usize];
        match args[2].to_ascii_lowercase().as_slice() {
            b"on" => {
                session.want_replies();
                self.ok(index);
            }
            b"off" => session.mute.get_or_insert_default().mode = Mode::Off,
            b"skip" => {
                let mute = session.mute.get_or_insert_default();
                if mute.mode == Mode::On {
                    mute.mode = Mode::Skip;
                }
            }
            _ => self.refuse(index, "ERR syntax error"),
        }
        Flow::Watch
    }

    /// Takes a command of a session some of whose replies are not wanted.
    pub(super) fn command_muted(&mut self, index: u32, command: Option<&'static Command>, args: Args<'_>) -> Flow {
        let session = &mut self.sessions[index as usize];
        let mode = session.mute.as_ref().map_or(Mode::On, |mute| mute.mode);
        if mode == Mode::On {
            return self.command(index, args);
        }
        let confirms = command.is_some_and(|command| command.way == Way::PubSub && command.name.ends_with("subscribe"));
        if !confirms {
            session.begin_mute();
        }
        if mode == Mode::Skip {
            session.mute.get_or_insert_default().mode = Mode::On;
        }
        let flow = self.command(index, args);
        let session = &mut self.sessions[index as usize];
        if matches!(flow, Flow::Pause(_)) {
            session.mute.get_or_insert_default().mode = mode;
        }
        session.end_mute();
        session.forget_mute();
        flow
    }

    /// Whether errors that answer no command are not wanted either.
    pub(super) fn is_silent(&self, index: u32) -> bool {
        self.sessions[index as usize].mute.as_ref().is_some_and(|mute| mute.mode == Mode::Off)
    }
}
