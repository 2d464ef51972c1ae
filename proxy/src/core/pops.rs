//! What commands that wait take out of the data, and how it is put back if whoever waited is gone when it comes.

use vrc_cluster::{
    command::Command,
    resp::{Args, array_elements, encode, parse_integer},
};

use crate::limits::{RECONNECT_MS_MAX, RECONNECT_MS_MIN};

use super::{Core, backend::State, private::Hold, session::SessionId, topics::bulk, waiter::Waiter};

/// Where from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pops {
    /// The head of a list.
    Head,
    /// Its tail.
    Tail,
    /// A sorted set.
    Scored,
}

impl Pops {
    /// What a command takes out; `None` if nothing, or if it moves it elsewhere.
    pub(super) fn of(command: &Command, args: Args<'_>) -> Option<Self> {
        match command.name {
            "blpop" => Some(Pops::Head),
            "brpop" => Some(Pops::Tail),
            "bzpopmin" | "bzpopmax" | "bzmpop" => Some(Pops::Scored),
            "blmpop" => {
                let keys = parse_integer(args.get(2)?).and_then(|keys| usize::try_from(keys).ok())?;
                let end = args.get(keys.checked_add(3)?)?;
                Some(if end.eq_ignore_ascii_case(b"left") { Pops::Head } else { Pops::Tail })
            }
            _ => None,
        }
    }

    /// The request that puts back what a reply brings; `None` if it brings nothing.
    fn put_back(self, reply: &[u8]) -> Option<Vec<u8>> {
        let mut elements = array_elements(reply)?;
        let key = bulk(elements.next()?)?;
        let mut values = Vec::new();
        elements.for_each(|element| flatten(element, &mut values));
        if values.is_empty() {
            return None;
        }
        // What was taken first is put back last; members stand before their scores in a reply, and behind them in a request.
        values.reverse();
        let mut args: Vec<&[u8]> = match self {
            Pops::Head => vec![b"LPUSH", key],
            Pops::Tail => vec![b"RPUSH", key],
            Pops::Scored => vec![b"ZADD", key, b"NX"],
        };
        args.append(&mut values);
        let mut request = Vec::new();
        encode::request(&mut request, &args);
        Some(request)
    }
}

/// A request that puts something back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PuttingBack {
    request: Box<[u8]>,
    /// How long it is tried, when it is tried again, and after which pause since the last time.
    until_ms: u64,
    again_ms: u64,
    pause_ms: u64,
    /// Why the node would not take it the last time; `None` while its answer is awaited.
    refused: Option<Box<str>>,
}

impl PuttingBack {
    pub(super) fn is_refused(&self) -> bool {
        self.refused.is_some()
    }
}

/// Strings, and RESP3's numbers, however deep they stand.
fn flatten<'a>(element: &'a [u8], values: &mut Vec<&'a [u8]>) {
    match array_elements(element) {
        Some(elements) => elements.for_each(|element| flatten(element, values)),
        None => values.extend(bulk(element).or_else(|| element.strip_prefix(b",")?.strip_suffix(b"\r\n"))),
    }
}

impl Core {
    /// The client that waits for what is taken out over this connection.
    #[inline]
    pub(crate) fn waits_at(&self, index: u32) -> Option<SessionId> {
        match self.backends[index as usize].hold {
            Some(Hold::Waiting { session, pops: Some(_), .. }) => Some(session)
                .filter(|session| self.is_open(*session) && self.sessions[session.index as usize].waiting == Some(index)),
            _ => None,
        }
    }

    /// What a command brings whose client has left meanwhile is put back, over the same connection. Returns whether that is so, or the
    /// reply is about that.
    pub(super) fn put_back(&mut self, index: u32, reply: &[u8]) -> bool {
        if let Some(Hold::PuttingBack(back)) = &mut self.backends[index as usize].hold {
            back.refused = reply.strip_prefix(b"-").map(|error| String::from_utf8_lossy(error).trim_end().into());
            // A node that is short of memory is not to be given it again and again.
            (back.again_ms, back.pause_ms) = (self.now_ms + back.pause_ms, (2 * back.pause_ms).min(RECONNECT_MS_MAX));
            return true;
        }
        let Some(Hold::Waiting { pops: Some(pops), .. }) = self.backends[index as usize].hold else { return false };
        if self.waits_at(index).is_some() {
            return false;
        }
        let request = pops.put_back(reply);
        if let Some(request) = &request {
            let until_ms = self.now_ms.saturating_add(self.settings.timeout_ms);
            let kept = request.as_slice().into();
            let back = PuttingBack { request: kept, until_ms, again_ms: 0, pause_ms: RECONNECT_MS_MIN, refused: None };
            self.backends[index as usize].hold = Some(Hold::PuttingBack(back));
            self.queue(index, Waiter::nobody(self.now_us), request);
        }
        request.is_some()
    }

    /// Whether this connection is for something that its node has refused to take back. What has no answer yet may be there already, and
    /// must not be there twice.
    pub(super) fn is_to_be_put_back(&self, index: u32) -> bool {
        matches!(&self.backends[index as usize].hold, Some(Hold::PuttingBack(back)) if back.is_refused())
    }

    /// Tries once more, in growing pauses, to put back what nodes have refused, because they were out of memory or ran a script, say. To be
    /// called at every tick.
    pub(super) fn put_back_again(&mut self) {
        for index in 0..self.backends.len() as u32 {
            let backend = &mut self.backends[index as usize];
            let Some(Hold::PuttingBack(back)) = &mut backend.hold else { continue };
            let Some(reason) = back.refused.clone() else { continue };
            if back.until_ms <= self.now_ms {
                self.note_lost(index, &reason);
                self.close_private(index);
            } else if backend.state == State::Up && back.again_ms <= self.now_ms {
                back.refused = None;
                let request = back.request.clone();
                self.queue(index, Waiter::nobody(self.now_us), &request);
            }
        }
    }

    /// What was to be put back over this connection will not be.
    pub(super) fn note_lost(&self, index: u32, reason: &str) {
        let node = &self.backends[index as usize].node;
        tracing::warn!(node = %node, "lost what was taken out for a client that had left, since it could not be put back: {reason}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_is_put_back_where_it_was() {
        for (pops, reply, expect) in [
            (Pops::Head, "*2\r\n$1\r\nq\r\n$1\r\nv\r\n", &["LPUSH", "q", "v"][..]),
            (Pops::Tail, "*2\r\n$1\r\nq\r\n$0\r\n\r\n", &["RPUSH", "q", ""]),
            (Pops::Head, "*2\r\n$1\r\nq\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n", &["LPUSH", "q", "b", "a"]),
            (Pops::Tail, "*2\r\n$1\r\nq\r\n*2\r\n$1\r\nz\r\n$1\r\ny\r\n", &["RPUSH", "q", "y", "z"]),
            (Pops::Scored, "*3\r\n$1\r\nz\r\n$1\r\nm\r\n$3\r\n1.5\r\n", &["ZADD", "z", "NX", "1.5", "m"]),
            (Pops::Scored, "*3\r\n$1\r\nz\r\n$1\r\nm\r\n,1.5\r\n", &["ZADD", "z", "NX", "1.5", "m"]),
            (
                Pops::Scored,
                "*2\r\n$1\r\nz\r\n*2\r\n*2\r\n$1\r\nm\r\n,1\r\n*2\r\n$1\r\nn\r\n,2\r\n",
                &["ZADD", "z", "NX", "2", "n", "1", "m"],
            ),
        ] {
            let mut request = Vec::new();
            encode::request(&mut request, expect);
            assert_eq!(pops.put_back(reply.as_bytes()), Some(request), "{reply:?}");
        }
        for nothing in ["*-1\r\n", "_\r\n", "-UNBLOCKED x\r\n", "*0\r\n", "*1\r\n$1\r\nq\r\n"] {
            assert_eq!(Pops::Head.put_back(nothing.as_bytes()), None, "{nothing:?}");
        }
    }
}
