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

use super::{Core, Flow, backend::State, replies::Slot, waiter::Waiter};

/// A part of a transaction: a block, and the commands that stand aside from it, all of which are done once the block is.
#[derive(Debug, Default)]
pub(super) struct Segment {
    /// The block's requests as they came, one after the other.
    pub(super) block: Vec<u8>,
    pub(super) block_count: u32,
    pub(super) asides: VecDeque<Aside>,
}

impl Segment {
    /// How many commands there are.
    pub(super) fn count(&self) -> u32 {
        self.block_count + self.asides.len() as u32
    }

    /// Its commands in order, several at once where they follow each other in the block.
    pub(super) fn requests(&self) -> Vec<&[u8]> {
        let mut requests = Vec::new();
        let (mut rest, mut count, mut framer) = (&self.block[..], 0, RequestFramer::default());
        for aside in &self.asides {
            while count < aside.place
                && let Ok(Some(Frame::Multibulk(len))) = framer.advance(rest)
            {
                requests.push(&rest[..len]);
                rest = &rest[len..];
                framer.reset();
                count += 1;
            }
            requests.push(&aside.request);
            count += 1;
        }
        requests.push(rest);
        requests
    }

    pub(super) fn push(&mut self, request: &[u8]) {
        self.block.extend_from_slice(request);
        self.block_count += 1;
    }

    pub(super) fn push_aside(&mut self, request: &[u8]) {
        self.asides.push_back(Aside { place: self.count() as usize, request: request.into() });
    }
}

/// What comes after a transaction's block.
#[derive(Debug)]
pub(crate) struct Asides {
    list: VecDeque<Aside>,
    /// What of the block's array is not sent yet.
    elements: VecDeque<Box<[u8]>>,
    /// How many of the segment's commands are answered.
    done: usize,
    /// The segments that follow.
    later: VecDeque<Segment>,
    /// EXEC's array has begun.
    is_under_way: bool,
    /// What the session is to be told that answers no command: it must not stand within the array.
    held: Vec<u8>,
    /// The block under way is not the first, and so many of its commands await an answer.
    block_count: Option<u32>,
    /// The client does not want EXEC's reply.
    muted: bool,
}

/// One command, and its number among the segment's.
#[derive(Debug)]
pub(super) struct Aside {
    place: usize,
    request: Box<[u8]>,
}

impl Asides {
    pub(super) fn new(list: VecDeque<Aside>, later: VecDeque<Segment>) -> Box<Self> {
        Box::new(Asides {
            list,
            elements: VecDeque::new(),
            done: 0,
            later,
            is_under_way: false,
            held: Vec::new(),
            block_count: None,
            muted: false,
        })
    }

    /// Whether the session has been given a part of EXEC's array, and not all of it.
    pub(super) fn is_under_way(&self) -> bool {
        self.is_under_way
    }

    /// Where to put what is to be told behind the array.
    pub(super) fn held_mut(&mut self) -> &mut Vec<u8> {
        &mut self.held
    }
}

/// Whether a command is done beside a transaction's block rather than in it.
pub(super) fn stands_aside(command: &Command) -> bool {
    command.way == Way::PubSub || (command.way == Way::Local && command.name.starts_with("client|"))
}

/// Whether a command is not one node's alone, while what comes before it and after it may depend on it.
pub(super) fn parts_blocks(command: &Command, args: Args<'_>) -> bool {
    match command.way {
        Way::AllNodes(_) | Way::Scan | Way::RandomKey => true,
        // The node answers these as well as the proxy would.
        Way::Local => !matches!(command.name, "ping" | "echo" | "time") && !stands_aside(command),
        _ => command.other_database(args).is_some(),
    }
}

impl Core {
    /// The block of a transaction is answered: what stands aside is done, if the transaction was.
    pub(super) fn exec_answered(&mut self, waiter: Waiter, reply: &[u8]) {
        let session = &mut self.sessions[waiter.session as usize];
        let muted = session.is_muted(waiter.sequence);
        session.expect_reply(waiter.sequence);
        let is_later = session.asides.as_mut().and_then(|asides| asides.block_count.take());
        match (&mut session.asides, array_elements(reply), is_later) {
            (Some(asides), Some(elements), None) => {
                asides.elements = elements.map(Box::from).collect();
                asides.muted = muted;
                asides.is_under_way = true;
                let later: u32 = asides.later.iter().map(Segment::count).sum();
                let count = asides.elements.len() + asides.list.len() + later as usize;
                session.answer(waiter.sequence, |out| encode::array(out, count));
                self.go_on_aside(waiter.session);
            }
            (Some(asides), elements, Some(count)) => {
                asides.elements = match elements {
                    Some(elements) => elements.map(Box::from).collect(),
                    // The node carried out none of them.
                    None => (0..count).map(|_| Box::from(reply)).collect(),
                };
                // Nothing of its own: its elements are answers within the array that has begun.
                session.answer(waiter.sequence, |_| {});
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
            if !self.is_all_done(index) {
                return;
            }
            let session = &mut self.sessions[index as usize];
            let Some(asides) = &mut session.asides else { return };
            let muted = asides.muted;
            let next = asides.list.pop_front();
            let until = next.as_ref().map_or(usize::MAX, |aside| aside.place - asides.done).min(asides.elements.len());
            let piece = asides.elements.drain(..until).collect::<Vec<_>>().concat();
            asides.done += until + 1;
            if muted {
                self.sessions[index as usize].begin_mute();
            }
            if !piece.is_empty() {
                self.answer_now(index, |out| out.extend_from_slice(&piece));
            }
            match next {
                Some(aside) => self.do_aside(index, &aside.request),
                None if !self.begin_next_segment(index) => self.end_asides(index),
                None => {}
            }
            self.sessions[index as usize].end_mute();
        }
    }

    /// EXEC's array is whole.
    fn end_asides(&mut self, index: u32) {
        let session = &mut self.sessions[index as usize];
        if let Some(asides) = session.asides.take()
            && !asides.held.is_empty()
        {
            session.replies.tell(None, |out| out.extend_from_slice(&asides.held));
            self.mark_session(index);
        }
    }

    /// Sends the block of a transaction's next segment; tells whether there is one.
    fn begin_next_segment(&mut self, index: u32) -> bool {
        let Some(asides) = &mut self.sessions[index as usize].asides else { return false };
        let Some(mut segment) = asides.later.pop_front() else { return false };
        (asides.list, asides.done) = (std::mem::take(&mut segment.asides), 0);
        if segment.block_count == 0 {
            return true;
        }
        asides.block_count = Some(segment.block_count);
        let backend = self.backend_of_block(index, &segment.block, None);
        let sequence = self.sessions[index as usize].replies.push(Slot::Exec);
        let refusal = match backend {
            Ok((backend, scripts)) => match self.can_be_sent(backend) {
                Ok(()) => {
                    self.note_block_reads(index, sequence, &segment.block);
                    self.queue_block(index, backend, sequence, &scripts, &segment);
                    return true;
                }
                Err(text) => text,
            },
            Err(refusal) => refusal.to_string(),
        };
        let waiter = self.waiter(index, sequence);
        self.fail(waiter, &refusal);
        true
    }

    /// Whether a block may be queued for a backend now, or the error that says why not: in the middle of a transaction no client can be
    /// made to wait.
    fn can_be_sent(&mut self, backend: u32) -> Result<(), String> {
        let of = &self.backends[backend as usize];
        if !of.has_room() {
            return Err("ERR too much waits for the node already; the transaction is done but for this command".to_owned());
        }
        let refusal = self.unreachable(backend);
        if self.backends[backend as usize].state == State::Idle {
            self.connect(backend);
        }
        refusal.map_or(Ok(()), Err)
    }

    /// Whether a session whose commands are all answered has nothing left of a transaction; if it has, that goes on.
    pub(super) fn is_done_aside(&mut self, index: u32) -> bool {
        if self.sessions[index as usize].asides.is_none() {
            return true;
        }
        self.go_on_aside(index);
        self.sessions[index as usize].asides.is_none() && self.is_all_done(index)
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
        let sequence = self.sessions[index as usize].replies.push(Slot::Exec);
        self.exec_answered(self.waiter(index, sequence), b"*0\r\n");
        self.mark_session(index);
    }
}
