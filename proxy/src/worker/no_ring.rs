//! In place of `ring_driver` where there is no io_uring.

use std::{io, rc::Rc};

use tokio::task::AbortHandle;

use super::Worker;
use crate::{
    core::{Peer, SessionId},
    socket::StdSocket,
};

/// There is none.
pub(super) enum RingIo {}

impl RingIo {
    pub(super) fn new() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

pub(super) fn watch(_: &Rc<Worker>) {}

/// Nothing of this is called without a ring.
impl Worker {
    pub(super) fn ring_accept(&self, _: StdSocket, _: Peer, _: u64) {}

    pub(super) fn ring_backend(&self, _: u32, _: u32, _: StdSocket, _: Option<AbortHandle>) {}

    pub(super) fn ring_close_session(&self, _: SessionId) {}

    pub(super) fn ring_close_backend(&self, _: u32) {}

    pub(super) fn ring_resume(&self, _: u32) {}

    pub(super) fn ring_is_ended(&self, _: SessionId) -> bool {
        false
    }

    pub(super) fn ring_reap(&self) {}

    pub(super) fn ring_flush_backends(&self) {}

    pub(super) fn ring_flush_sessions(&self) {}

    pub(super) fn ring_submit(&self) -> bool {
        false
    }
}
