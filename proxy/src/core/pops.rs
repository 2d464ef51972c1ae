//! What commands that wait take out of the data, and how it is put back if whoever waited is gone when it comes.

use vrc_cluster::{
    command::Command,
    resp::{Args, array_elements, encode, parse_integer},
};

use super::{Core, backend::Waiter, private::Hold, session::SessionId, topics::bulk};

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

    /// What a command brings whose client has left meanwhile is put back, over the same connection. Returns whether that is so.
    pub(super) fn put_back(&mut self, index: u32, reply: &[u8]) -> bool {
        let Some(Hold::Waiting { pops: Some(pops), .. }) = self.backends[index as usize].hold else { return false };
        if self.waits_at(index).is_some() {
            return false;
        }
        let request = pops.put_back(reply);
        if let Some(request) = &request {
            self.backends[index as usize].hold = Some(Hold::PuttingBack);
            self.queue(index, Waiter::nobody(self.now_us), request);
        }
        request.is_some()
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
