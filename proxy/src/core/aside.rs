//! The commands of a transaction that are not its node's business: PUBLISH, whose channel lives elsewhere, SUBSCRIBE and so on.
//!
//! They are kept out of the block that the node carries out, and done one after the other once EXEC's array is there, or not at all if
//! it is none. What each of them answers stands in that array where redis has it: the array's elements are sent piece by piece, and
//! every command in between takes its own places in the session's row. The session takes no other command meanwhile.

use std::collections::VecDeque;

use vrc_cluster::{
    command::{Command, Way},
    resp::{Args, Frame, RequestFramer, array_elements, encode},
};

use super::{Core, Flow, backend::Waiter, session::Slot};

/// What comes after a transaction's block.
#[derive(Debug, Default)]
pub(crate) struct Asides {
    list: VecDeque<Aside>,
    /// What of EXEC's array is not sent yet.
    elements: VecDeque<Box<[u8]>>,
    /// How many of the transaction's commands are answered.
    done: usize,
}

/// One command, and its number among the transaction's.
#[derive(Debug)]
struct Aside {
    place: usize,
    request: Box<[u8]>,
}

impl Asides {
    pub(super) fn push(&mut self, place: u32, request: &[u8]) {
        self.list.push_back(Aside { place: place as usize, request: request.into() });
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }
}

/// Whether a command is done beside a transaction's block rather than in it.
pub(super) fn stands_aside(command: &Command) -> bool {
    const OF_CLIENTS: [&str; 4] = ["client|caching", "client|getredir", "client|tracking", "client|trackinginfo"];
    command.way == Way::PubSub || OF_CLIENTS.contains(&command.name)
}

impl Core {
    /// The block of a transaction is answered: what stands aside is done, if the transaction was.
    pub(super) fn exec_answered(&mut self, waiter: Waiter, reply: &[u8]) {
        let session = &mut self.sessions[waiter.session as usize];
        session.expect_reply(waiter.sequence);
        match (&mut session.asides, array_elements(reply)) {
            (Some(asides), Some(elements)) => {
                asides.elements = elements.map(Box::from).collect();
                let count = asides.elements.len() + asides.len();
                session.answer(waiter.sequence, |out| encode::array(out, count));
                self.go_on_aside(waiter.session);
            }
            _ => {
                session.asides = None;
                session.answer(waiter.sequence, |out| out.extend_from_slice(reply));
            }
        }
    }

    /// Does what stands aside, one command once the one before it is answered.
    pub(super) fn go_on_aside(&mut self, index: u32) {
        loop {
            let session = &mut self.sessions[index as usize];
            if session.pending() > 0 {
                return;
            }
            let Some(asides) = &mut session.asides else { return };
            let next = asides.list.pop_front();
            let until = next.as_ref().map_or(usize::MAX, |aside| aside.place - asides.done).min(asides.elements.len());
            let piece = asides.elements.drain(..until).collect::<Vec<_>>().concat();
            asides.done += until + 1;
            if !piece.is_empty() {
                self.answer_now(index, |out| out.extend_from_slice(&piece));
            }
            match next {
                Some(aside) => self.do_aside(index, &aside.request),
                None => self.sessions[index as usize].asides = None,
            }
        }
    }

    /// Whether a session whose commands are all answered has nothing left of a transaction; if it has, that goes on.
    pub(super) fn is_done_aside(&mut self, index: u32) -> bool {
        if self.sessions[index as usize].asides.is_none() {
            return true;
        }
        self.go_on_aside(index);
        let session = &self.sessions[index as usize];
        session.asides.is_none() && session.pending() == 0
    }

    fn do_aside(&mut self, index: u32, request: &[u8]) {
        let mut framer = RequestFramer::default();
        let Ok(Some(Frame::Multibulk(_))) = framer.advance(request) else { unreachable!("what was queued is a whole request") };
        let args = Args::new(request, framer.args());
        let Ok(command) = vrc_cluster::command::resolve(args) else { unreachable!("what was queued was found in the table") };
        if command.name == "ssubscribe" {
            // As redis has it, of the three only this one.
            self.refuse(index, "ERR SSUBSCRIBE isn't allowed for a DENY BLOCKING client");
        } else if matches!(self.dispatch(index, command, args), Flow::Pause(_)) {
            self.refuse(index, "ERR too much waits for the node already; the transaction is done but for this command");
        }
    }

    /// A transaction of nothing but what stands aside.
    pub(super) fn exec_asides_alone(&mut self, index: u32) {
        let id = self.session_id(index);
        let sequence = self.sessions[index as usize].push(Slot::Exec);
        self.exec_answered(Waiter::new(id, sequence, self.now_ms), b"*0\r\n");
        self.mark_session(index);
    }
}
