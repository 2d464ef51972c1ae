//! What moves the bytes of a worker's connections: by readiness ([`super::poll_driver`]), or through an io_uring.

use std::io;

use mio::event::Event;

use crate::{
    core::{Core, SessionId},
    socket::Socket,
};

/// Whose connection it is: a client's session, by index and generation, or a node's backend, by index and incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    Session(SessionId),
    Backend {
        index: u32,
        incarnation: u32,
    },
    /// The second connection of a backend, by which it is told of changes.
    Feed {
        index: u32,
        incarnation: u32,
    },
}

/// A number of [`TOKEN_BITS`] bits that names a connection for as long as the process runs.
pub(super) type Token = u64;

pub(super) const TOKEN_BITS: u32 = 62;
const _: () = assert!(size_of::<usize>() == size_of::<Token>(), "tokens are handed to mio");

const KIND_SHIFT: u32 = 60;
const BACKEND: u64 = 1;
const FEED: u64 = 2;
/// Indexes have the bits between kind and number.
const INDEX_MAX: u32 = (1 << 28) - 1;

impl Whose {
    #[inline]
    pub(super) fn token(self) -> Token {
        let (kind, index, number) = match self {
            Whose::Session(SessionId { index, generation }) => (0, index, generation),
            Whose::Backend { index, incarnation } => (BACKEND, index, incarnation),
            Whose::Feed { index, incarnation } => (FEED, index, incarnation),
        };
        debug_assert!(index <= INDEX_MAX);
        kind << KIND_SHIFT | u64::from(index) << 32 | u64::from(number)
    }

    #[inline]
    pub(super) fn of(token: Token) -> Self {
        let (index, number) = ((token >> 32) as u32 & INDEX_MAX, token as u32);
        match token >> KIND_SHIFT & 3 {
            BACKEND => Whose::Backend { index, incarnation: number },
            FEED => Whose::Feed { index, incarnation: number },
            _ => Whose::Session(SessionId { index, generation: number }),
        }
    }
}

/// Connections by whose they are.
#[derive(Debug)]
pub(super) struct Connections<C> {
    sessions: Vec<Option<(Whose, C)>>,
    backends: Vec<Option<(Whose, C)>>,
    feeds: Vec<Option<(Whose, C)>>,
}

impl<C> Default for Connections<C> {
    fn default() -> Self {
        Connections { sessions: Vec::new(), backends: Vec::new(), feeds: Vec::new() }
    }
}

impl<C> Connections<C> {
    #[inline]
    fn list(&mut self, whose: Whose) -> (&mut Vec<Option<(Whose, C)>>, usize) {
        match whose {
            Whose::Session(session) => (&mut self.sessions, session.index as usize),
            Whose::Backend { index, .. } => (&mut self.backends, index as usize),
            Whose::Feed { index, .. } => (&mut self.feeds, index as usize),
        }
    }

    /// The connection, unless another has its place by now.
    #[inline]
    pub(super) fn get(&mut self, whose: Whose) -> Option<&mut C> {
        let (list, index) = self.list(whose);
        match list.get_mut(index) {
            Some(Some((of, connection))) if *of == whose => Some(connection),
            _ => None,
        }
    }

    pub(super) fn put(&mut self, whose: Whose, connection: C) {
        let (list, index) = self.list(whose);
        if list.len() <= index {
            list.resize_with(index + 1, || None);
        }
        list[index] = Some((whose, connection));
    }

    /// Takes out the connection, unless another has its place by now.
    pub(super) fn remove(&mut self, whose: Whose) -> Option<C> {
        self.get(whose)?;
        let (list, index) = self.list(whose);
        list[index].take().map(|(_, connection)| connection)
    }

    /// Whose the connections of a backend are, whatever its incarnation.
    pub(super) fn of_backend(&self, index: u32) -> impl Iterator<Item = Whose> + use<C> {
        let of = |list: &Vec<Option<(Whose, C)>>| list.get(index as usize)?.as_ref().map(|(whose, _)| *whose);
        [of(&self.backends), of(&self.feeds)].into_iter().flatten()
    }
}

impl<C: AsRef<Socket>> Connections<C> {
    /// To be called once bytes of a backend were read, before the core has them: what they bring for a client that waited for it goes
    /// back if that has hung up meanwhile, whether or not its end was read.
    #[inline]
    pub(super) fn mind_who_left(&mut self, index: u32, core: &mut Core) {
        if let Some(session) = core.waits_at(index)
            && self.get(Whose::Session(session)).is_some_and(|connection| connection.as_ref().is_ended())
        {
            core.session_ended(session);
        }
    }
}

/// A connection that is of no more use.
#[derive(Debug)]
pub(super) struct Gone {
    pub(super) whose: Whose,
    pub(super) reason: String,
}

/// Moves bytes between the connections and the worker's core. Never waits.
pub(super) trait Driver {
    /// Takes in a connection.
    fn open(&mut self, whose: Whose, socket: Socket) -> io::Result<()>;

    /// Closes a connection, if it is there. What was sent before goes out.
    fn close(&mut self, whose: Whose);

    /// Writes once what a client has still to get that is to be closed, as far as there is room for it.
    fn write_last(&mut self, session: SessionId, core: &mut Core);

    /// Closes whatever connections the backend has.
    fn close_backend(&mut self, index: u32);

    /// The session may be read from again.
    fn resume(&mut self, session: SessionId);

    /// Whether a client has gone whose session is not read.
    fn has_left(&mut self, session: SessionId) -> bool;

    /// Takes in what has come and is told by no event of its own. Called once a turn, before the events.
    fn take_in(&mut self, core: &mut Core, gone: &mut Vec<Gone>);

    /// Something has happened to what it had watched.
    fn happened(&mut self, event: &Event, core: &mut Core, gone: &mut Vec<Gone>);

    /// Writes what there is to write, to nodes and to clients.
    fn flush(&mut self, core: &mut Core, gone: &mut Vec<Gone>);

    /// Whether [`Driver::take_in`] has something to do without any event.
    fn has_more(&mut self) -> bool;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_whose_it_is() {
        for whose in [
            Whose::Session(SessionId { index: 0, generation: 0 }),
            Whose::Session(SessionId { index: INDEX_MAX, generation: u32::MAX }),
            Whose::Backend { index: 7, incarnation: u32::MAX },
            Whose::Feed { index: INDEX_MAX, incarnation: 1 },
        ] {
            assert_eq!(Whose::of(whose.token()), whose);
            assert_eq!(whose.token() >> TOKEN_BITS, 0);
        }
    }

    #[test]
    fn a_connection_is_found_by_its_own_number_only() {
        let mut all = Connections::default();
        let (old, new) = (Whose::Backend { index: 3, incarnation: 1 }, Whose::Backend { index: 3, incarnation: 2 });
        all.put(old, 'a');
        all.put(Whose::Feed { index: 3, incarnation: 1 }, 'b');
        all.put(new, 'c');
        assert_eq!((all.get(old).copied(), all.get(new).copied()), (None, Some('c')));
        assert_eq!(all.of_backend(3).collect::<Vec<_>>(), [new, Whose::Feed { index: 3, incarnation: 1 }]);
        assert_eq!((all.remove(old), all.remove(new), all.remove(new)), (None, Some('c'), None));
        assert_eq!(all.of_backend(9).count(), 0);
    }
}
