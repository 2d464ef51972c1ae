//! In place of `ring_driver` where there is no io_uring.

use std::io;

use mio::{Registry, event::Event};

use super::driver::{Driver, Gone, Whose};
use crate::{
    core::{Core, SessionId},
    socket::Socket,
};

/// There is none.
pub(super) enum RingDriver {}

impl RingDriver {
    pub(super) fn new(_: &Registry) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Driver for RingDriver {
    fn open(&mut self, _: Whose, _: Socket) -> io::Result<()> {
        match *self {}
    }

    fn close(&mut self, _: Whose) {
        match *self {}
    }

    fn write_last(&mut self, _: SessionId, _: &mut Core) {
        match *self {}
    }

    fn close_backend(&mut self, _: u32) {
        match *self {}
    }

    fn resume(&mut self, _: SessionId) {
        match *self {}
    }

    fn has_left(&mut self, _: SessionId) -> bool {
        match *self {}
    }

    fn take_in(&mut self, _: &mut Core, _: &mut Vec<Gone>) {
        match *self {}
    }

    fn happened(&mut self, _: &Event, _: &mut Core, _: &mut Vec<Gone>) {
        match *self {}
    }

    fn flush(&mut self, _: &mut Core, _: &mut Vec<Gone>) {
        match *self {}
    }

    fn has_more(&mut self) -> bool {
        match *self {}
    }
}
