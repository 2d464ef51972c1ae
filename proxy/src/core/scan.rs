//! SCAN and RANDOMKEY: questions about all keys that take one node at a time.
//!
//! A client's cursor holds the node's own cursor and a tag that its name decides, so that it is still good after the map has changed:
//! if the node is gone, the scan goes on with the next. Nodes are scanned in the order of their tags.

use vrc_cluster::{
    resp::{Args, encode, parse_integer},
    route::Refusal,
    topology::NodeIndex,
};

use super::{Core, Flow, replies::Slot, waiter::Waiter};

/// Bits of a cursor that tell where in the order of the nodes it stands: a tag of 16, whether the guest database is meant, and a 1
/// that tells a scan which has begun from one which has not.
const POSITION_BITS: u32 = 18;
/// A node's cursor must fit the rest: its bits are those of its hash table's size.
const NODE_CURSOR_MAX: u64 = (1 << (64 - POSITION_BITS)) - 1;

/// One database of one node, in the order of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Stop {
    position: u64,
    node: NodeIndex,
    guest: bool,
}

impl Core {
    /// `SCAN cursor …` with the options as they are.
    pub(super) fn scan(&mut self, index: u32, args: Args<'_>) -> Flow {
        let Some(cursor) = cursor(&args[1]) else {
            self.refuse(index, "ERR invalid cursor");
            return Flow::Next;
        };
        let stops = self.stops();
        let (position, node_cursor) = (cursor & ((1 << POSITION_BITS) - 1), cursor >> POSITION_BITS);
        let Some(at) = stops.iter().position(|stop| stop.position >= position) else {
            // What is left of the scan is on nodes that are gone.
            if stops.is_empty() {
                self.refuse(index, Refusal::NoNodeUp.to_string());
            } else {
                self.answer_now(index, |out| out.extend_from_slice(b"*2\r\n$1\r\n0\r\n*0\r\n"));
            }
            return Flow::Next;
        };
        let stop = stops[at];
        let node_cursor = if stop.position == position { node_cursor } else { 0 };
        let backend = self.backend_of(stop.node, self.sessions[index as usize].lane(stop.guest));
        if let Err(flow) = self.make_ready(index, backend) {
            return flow;
        }
        let join = self.new_join();
        let next = stops.get(at + 1).map_or(0, |next| next.position);
        self.joins[join as usize].start_scan(move |node_cursor| match node_cursor {
            0 => next,
            more => more.min(NODE_CURSOR_MAX) << POSITION_BITS | stop.position,
        });
        let sequence = self.sessions[index as usize].replies.push(Slot::Join(join));
        let mut request = Vec::with_capacity(args.bytes().len() + 16);
        encode::array(&mut request, args.len());
        encode::bulk(&mut request, &args[0]);
        encode::bulk(&mut request, node_cursor.to_string().as_bytes());
        request.extend_from_slice(args.raw(2, args.len()));
        self.queue(backend, self.waiter(index, sequence), &request);
        Flow::Next
    }

    /// A SCAN was queued for a node that left before it was sent: the scan goes on behind it.
    pub(super) fn scan_past(&mut self, waiter: Waiter) {
        self.deliver(waiter, b"*2\r\n$1\r\n0\r\n*0\r\n");
    }

    /// The nodes that are up, in the order of a scan.
    fn stops(&self) -> Vec<Stop> {
        let mut stops = Vec::new();
        for (&node, &hosts) in self.up.iter().zip(&self.hosts) {
            let tag = tag(&self.topology.nodes()[usize::from(node)].name);
            let position = |guest: bool| tag << 2 | u64::from(guest) << 1 | 1;
            stops.push(Stop { position: position(false), node, guest: false });
            if hosts {
                stops.push(Stop { position: position(true), node, guest: true });
            }
        }
        stops.sort_unstable();
        // Two nodes of the same tag cannot be told apart by a cursor: the later takes the next that is free.
        for at in 1..stops.len() {
            if stops[at].position <= stops[at - 1].position {
                stops[at].position = stops[at - 1].position + 2;
            }
        }
        stops
    }

    /// RANDOMKEY asks every node, and takes one answer that is a key.
    pub(super) fn random_key(&mut self, index: u32, args: Args<'_>) -> Flow {
        let lane = self.sessions[index as usize].lane(false);
        let stops = self.stops();
        let targets: Vec<_> = stops.iter().map(|stop| (self.backend_of(stop.node, lane.at(stop.guest)), 0)).collect();
        // Any walk over the numbers does: what is random is each node's own choice.
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let first = (self.random >> 33) as usize % targets.len().max(1);
        self.forward_to(index, &targets, args, |join| join.start_any_value(targets.len(), first))
    }
}

/// A cursor as redis reads it: an unsigned decimal number.
fn cursor(text: &[u8]) -> Option<u64> {
    match parse_integer(text) {
        Some(number) => u64::try_from(number).ok(),
        // Beyond what a signed number holds.
        None => std::str::from_utf8(text).ok().filter(|text| !text.starts_with('+')).and_then(|text| text.parse().ok()),
    }
}

/// 16 bits of a name, by FNV-1a.
fn tag(name: &str) -> u64 {
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    u64::from(hash >> 16 ^ hash & 0xffff)
}
