//! Who is to get the reply that a node owes.

use vrc_cluster::command::CommandId;

use super::{replies::Sequence, session::SessionId};

/// Who waits for one reply.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiter {
    pub(crate) session: u32,
    pub(crate) generation: u32,
    pub(crate) sequence: Sequence,
    /// The request's length in bytes.
    pub(crate) len: u32,
    /// When the command came.
    pub(crate) since_us: u64,
    /// Which part of a split command.
    pub(crate) part: u16,
    /// Which command it is.
    pub(crate) command: CommandId,
    /// How many replies come before the one that counts: those to the commands of a transaction's block, and to scripts that were
    /// taken along.
    pub(crate) skip: u32,
}

/// No session: the reply is for nobody.
const NOBODY: u32 = u32::MAX;
/// The generations of nobody where the reply does matter.
const ASKING: u32 = 1;
const SETTING_UP: u32 = 2;

impl Waiter {
    #[inline]
    pub(crate) fn new(session: SessionId, sequence: Sequence, command: CommandId, since_us: u64) -> Self {
        Waiter { session: session.index, generation: session.generation, sequence, len: 0, since_us, part: 0, command, skip: 0 }
    }

    /// For a request of the proxy's own whose reply does not matter.
    pub(crate) fn nobody(since_us: u64) -> Self {
        Waiter::new(SessionId { index: NOBODY, generation: 0 }, 0, CommandId::NONE, since_us)
    }

    /// For the question whether a backend's node is busy.
    pub(crate) fn asking(backend: u32, since_us: u64) -> Self {
        Waiter::new(SessionId { index: NOBODY, generation: ASKING }, backend, CommandId::NONE, since_us)
    }

    /// For what makes a connection that is up one of another lane: were it refused, whatever comes behind it would go to another database
    /// than its client has selected, or be answered in another protocol.
    pub(crate) fn setting_up(since_us: u64) -> Self {
        Waiter::new(SessionId { index: NOBODY, generation: SETTING_UP }, 0, CommandId::NONE, since_us)
    }

    #[inline]
    pub(crate) fn sets_up(&self) -> bool {
        self.is_nobody() && self.generation == SETTING_UP
    }

    /// The backend whose node was asked whether it is busy.
    pub(crate) fn asked_of(&self) -> Option<u32> {
        (self.is_nobody() && self.generation == ASKING).then_some(self.sequence)
    }

    #[inline]
    pub(crate) fn is_nobody(&self) -> bool {
        self.session == NOBODY
    }

    /// The session that waits, unless it is nobody.
    pub(crate) fn session_id(&self) -> SessionId {
        SessionId { index: self.session, generation: self.generation }
    }

    /// Whether the next reply is all that a session waits for here.
    #[inline]
    pub(crate) fn is_for_one_reply(&self) -> bool {
        self.skip == 0 && !self.is_nobody()
    }
}
