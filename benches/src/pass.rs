//! A request's way through `cluster`, as a worker goes it: framed, resolved, routed; its reply framed, or its parts' replies merged.
//!
//! There is no socket and no connection's queue here; what those cost shows in the load beside other proxies.

use vrc_cluster::{
    command::resolve,
    merge::Join,
    resp::{Args, Frame, ReplyFramer, RequestFramer},
    route::{Route, Router},
    topology::Topology,
};

/// What became of the requests of a pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests that went to one node as they came.
    pub whole: u64,
    /// Requests that went to several nodes in parts.
    pub split: u64,
    /// Those parts.
    pub parts: u64,
    /// Requests that the proxy itself answers, or that any node or every node does.
    pub other: u64,
    /// Bytes of requests.
    pub bytes: u64,
}

/// Sends requests through, and keeps its working space from one to the next as a worker does.
#[derive(Debug, Default)]
pub struct Pass {
    framer: RequestFramer,
    router: Router,
    join: Join,
    reply: ReplyFramer,
    merged: Vec<u8>,
}

impl Pass {
    /// Takes all requests of `bytes`, which must be whole and right, to where `topology` sends them.
    ///
    /// # Panics
    /// If they are not.
    pub fn requests(&mut self, mut bytes: &[u8], topology: &Topology) -> Tally {
        let mut tally = Tally { bytes: bytes.len() as u64, ..Tally::default() };
        while !bytes.is_empty() {
            let Ok(Some(Frame::Multibulk(len))) = self.framer.advance(bytes) else { panic!("a request is not whole") };
            let (request, rest) = bytes.split_at(len);
            let args = Args::new(request, self.framer.args());
            let command = resolve(args).expect("known, and with as many arguments as it takes");
            match self.router.route(command, args, topology).expect("a place for it") {
                Route::One(_) => tally.whole += 1,
                Route::Split(_) => {
                    tally.split += 1;
                    tally.parts += self.router.parts().len() as u64;
                }
                _ => tally.other += 1,
            }
            self.framer.reset();
            bytes = rest;
        }
        tally
    }

    /// Frames all replies of `bytes`, and returns how many there are.
    ///
    /// # Panics
    /// If one is not whole.
    pub fn replies(&mut self, mut bytes: &[u8]) -> u64 {
        let mut count = 0;
        while !bytes.is_empty() {
            let Ok(Some(len)) = self.reply.advance(bytes) else { panic!("a reply is not whole") };
            bytes = &bytes[len..];
            count += 1;
        }
        count
    }

    /// Splits one request, merges the replies that `reply` gives for a part of so many keys, and returns the merged reply.
    ///
    /// # Panics
    /// If the request is not one that is split over `topology`.
    pub fn split_and_merge(&mut self, request: &[u8], topology: &Topology, replies: &[Vec<u8>]) -> &[u8] {
        let Ok(Some(Frame::Multibulk(_))) = self.framer.advance(request) else { panic!("a request is not whole") };
        let args = Args::new(request, self.framer.args());
        let command = resolve(args).expect("known, and with as many arguments as it takes");
        let Ok(Route::Split(split)) = self.router.route(command, args, topology) else { panic!("not split") };
        self.framer.reset();
        let parts = self.router.parts();
        self.join.start_split(split, parts.len(), self.router.part_of_key());
        for (index, part) in parts.iter().enumerate() {
            self.join.add(index as u16, &replies[part.keys as usize]);
        }
        self.merged.clear();
        self.join.finish(&mut self.merged);
        &self.merged
    }
}
