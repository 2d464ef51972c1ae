//! The core alone: no socket, no clock. A [`Rig`] plays the driver, the clients and the nodes, and cuts the bytes where it likes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

use proptest::prelude::*;
use vrc_cluster::{
    contract::{Endpoint, Node, NodeMap},
    resp::{Args, Frame, Proto, ReplyFramer, RequestFramer, encode},
    topology::PlacementOptions,
};

use crate::{
    limits::{ASK_AFTER_MS, CLIENT_INPUT_MAX_BYTES, CLIENT_PENDING_MAX, GATHER_BYTES_MAX, IDLE_MS, TICK_MS},
    live::LiveSettings,
};

use super::{private::Hold, *};

mod answers;
mod caching;
mod chance;
mod clients;
mod holding;
mod introspection;
mod lanes;
mod learning;
mod listening;
mod login;
mod monitor;
mod multi_key;
mod nodes;
mod observing;
mod refusals;
mod scripts;
mod segments;
mod stuck;
mod subscriptions;
mod transactions;
mod unread;
mod waits;

const TIMEOUT_MS: u64 = 1_000;
/// What nodes say to FUNCTION LIST.
const FUNCTION_LIST: &[u8] =
    b"*1\r\n*6\r\n$12\r\nlibrary_name\r\n$1\r\nl\r\n$6\r\nengine\r\n$3\r\nLUA\r\n$9\r\nfunctions\r\n*2\r\n\
    *6\r\n$4\r\nname\r\n$5\r\nreads\r\n$11\r\ndescription\r\n$-1\r\n$5\r\nflags\r\n*1\r\n+no-writes\r\n\
    *6\r\n$4\r\nname\r\n$6\r\nwrites\r\n$11\r\ndescription\r\n$-1\r\n$5\r\nflags\r\n*0\r\n";

fn node(name: &str, up: bool) -> Node {
    Node {
        config: Endpoint::new(name, 1),
        weight: 1.0,
        up,
        state_change_time: 1,
        name: name.to_owned(),
        last_ping: None,
        run_id: None,
        version: None,
        upkeep: Default::default(),
        other: Default::default(),
    }
}

fn topology(epoch: u64, nodes: &[(&str, bool)]) -> Arc<Topology> {
    let map: NodeMap = nodes.iter().map(|(name, up)| ((*name).to_owned(), node(name, *up))).collect();
    Arc::new(Topology::build(&map, epoch, &PlacementOptions::default(), 0))
}

/// A core with nodes that keep strings in a map, and clients that keep what they were sent.
struct Rig {
    core: Core,
    nodes: BTreeMap<u32, Connected>,
    data: BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>,
    /// The SHA1s of the scripts that each node knows.
    scripts: BTreeMap<String, BTreeSet<String>>,
    clients: BTreeMap<u32, Vec<u8>>,
    /// Connections that were asked for: backend, incarnation, node's name, database.
    wanted: Vec<(u32, u32, String, u8)>,
    /// Nodes that connections can be opened to.
    reachable: BTreeSet<String>,
    /// Nodes that run a script for too long, and refuse nearly everything.
    busy: BTreeSet<String>,
    suspects: Vec<String>,
    /// Commands that nodes refuse, by name, and with which error.
    refusals: BTreeMap<String, String>,
    /// What a node says to COMMAND, `None` if it does not answer; and how often one was asked.
    commands: Option<Vec<u8>>,
    learned: usize,
    /// The nodes that were given functions.
    seen_to: Vec<String>,
    /// What nodes track: node, key, connections.
    tracked: BTreeMap<(String, Vec<u8>), BTreeSet<u32>>,
    /// What came on the second connection of each and was not handed on yet.
    feeds: BTreeMap<u32, Vec<u8>>,
    /// Orders that clients gave: who, where in its row, and what.
    orders: Vec<(SessionId, u32, Order)>,
    now_ms: u64,
}

/// A node's side of one connection.
#[derive(Default)]
struct Connected {
    /// An unfinished request.
    input: Vec<u8>,
    /// Replies that were not sent yet.
    replies: Vec<u8>,
    /// Since MULTI: the replies that EXEC gives, and how many.
    multi: Option<(Vec<u8>, usize)>,
    /// Every command's name that came.
    seen: Vec<String>,
    /// The database that commands are carried out in, and those of all SETs.
    db: u8,
    set_in: Vec<u8>,
}

impl Rig {
    fn new(nodes: &[&str]) -> Self {
        Rig::with(nodes, |_| {})
    }

    fn with(nodes: &[&str], change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings {
            timeout_ms: TIMEOUT_MS,
            live: Default::default(),
            logs: Default::default(),
            allow_node_config: false,
            databases: 16,
            fixed_nodes: false,
            identity: Arc::new(Identity {
                run_id: "0".repeat(40),
                port: 0,
                placement: "slots",
                workers: 1,
                started_at: SystemTime::UNIX_EPOCH,
            }),
            announce: None,
            peers: Default::default(),
            busy: Default::default(),
            scripts: Default::default(),
        };
        change(&mut settings);
        let all: Vec<_> = nodes.iter().map(|name| (*name, true)).collect();
        Rig {
            core: Core::new(settings, topology(1, &all), 0, Arc::new(AllStats::new(1))),
            nodes: BTreeMap::new(),
            data: BTreeMap::new(),
            scripts: BTreeMap::new(),
            clients: BTreeMap::new(),
            wanted: Vec::new(),
            reachable: nodes.iter().map(|name| (*name).to_owned()).collect(),
            busy: BTreeSet::new(),
            suspects: Vec::new(),
            refusals: BTreeMap::new(),
            commands: Some(b"*0\r\n".to_vec()),
            learned: 0,
            seen_to: Vec::new(),
            tracked: BTreeMap::new(),
            feeds: BTreeMap::new(),
            orders: Vec::new(),
            now_ms: 0,
        }
    }

    fn client(&mut self) -> SessionId {
        let id = self.core.session_open(1, Peer::Unix { path: "test".into() });
        self.clients.insert(id.index, Vec::new());
        id
    }

    fn say(&mut self, client: SessionId, bytes: impl AsRef<[u8]>) {
        self.core.session_input(client, bytes.as_ref());
    }

    /// What the client got since it was last asked.
    fn got(&mut self, client: SessionId) -> String {
        String::from_utf8(std::mem::take(self.clients.get_mut(&client.index).unwrap())).unwrap()
    }

    /// Says something on a new connection, lets everything happen, and returns what came back.
    fn ask(&mut self, bytes: impl AsRef<[u8]>) -> String {
        let client = self.client();
        self.say(client, bytes);
        self.settle();
        let got = self.got(client);
        self.core.session_closed(client);
        got
    }

    /// Moves bytes until nothing is left to move.
    fn settle(&mut self) {
        for _ in 0..100 {
            self.effects();
            self.connect();
            let mut idle = self.write_to_nodes(usize::MAX);
            idle &= self.answer(usize::MAX);
            self.show_lines();
            self.write_to_clients(usize::MAX);
            self.core.resume_paused();
            if idle && !self.core.has_dirty() && self.wanted.is_empty() {
                return;
            }
        }
        panic!("the core does not come to rest");
    }

    /// Likewise where connecting to a node that cannot be reached never ends.
    fn settle_as_far_as_it_goes(&mut self) {
        for _ in 0..5 {
            self.turn();
            self.core.resume_paused();
        }
    }

    /// What clients have said goes to the nodes, what these answer at once comes back.
    fn turn(&mut self) {
        self.effects();
        self.connect();
        self.write_to_nodes(usize::MAX);
        self.answer(usize::MAX);
        self.write_to_clients(usize::MAX);
    }

    fn show_lines(&mut self) {
        if let Some((lines, _)) = self.core.take_lines() {
            self.core.show_lines(&lines);
        }
    }

    fn effects(&mut self) {
        for effect in self.core.take_effects() {
            match effect {
                Effect::Connect { backend, incarnation, endpoint, lane, .. } => {
                    self.wanted.push((backend, incarnation, endpoint.host, lane.db));
                }
                Effect::CopyFunctions { node, .. } => {
                    self.seen_to.push(node.to_string());
                    self.core.functions_copied(&node);
                }
                Effect::LearnFunctions { .. } => self.core.functions_learned(Some(FUNCTION_LIST)),
                Effect::LearnCommands { .. } => {
                    self.learned += 1;
                    let reply = self.commands.clone();
                    self.core.commands_learned(reply.as_deref());
                }
                Effect::Disconnect { backend } => drop(self.nodes.remove(&backend)),
                Effect::Close { session } => self.core.session_closed(session),
                Effect::Suspect { node, .. } => self.suspects.push(node.to_string()),
                Effect::Resume { .. } => {}
                Effect::FindClient { session, sequence, client, request } => {
                    let found = self.core.find_client(client);
                    let target = found.map(|session| RedirectTarget { client, worker: 0, session });
                    self.core.redirect_found(session, sequence, *request, target);
                }
                Effect::Order { session, sequence, order } => {
                    let number = self.orders.len() as u64;
                    let outcome = self.core.carry_out(&order, number);
                    self.orders.push((session, sequence, order));
                    if let Some(outcome) = outcome {
                        self.carried_out(number, outcome);
                    }
                }
                Effect::CarriedOut { order, outcome } => self.carried_out(order, outcome),
            }
        }
    }

    fn carried_out(&mut self, number: u64, outcome: Outcome) {
        let (session, sequence, order) = &self.orders[number as usize];
        self.core.carried_out(*session, *sequence, order, vec![outcome]);
    }

    fn connect(&mut self) {
        for (backend, incarnation, name, db) in std::mem::take(&mut self.wanted) {
            if self.reachable.contains(&name) {
                if self.core.backend_up(backend, incarnation) {
                    // The node has forgotten what was tracked for the connection before.
                    self.tracked.values_mut().for_each(|readers| _ = readers.remove(&backend));
                    self.feeds.remove(&backend);
                    self.nodes.insert(backend, Connected { db, ..Connected::default() });
                }
            } else {
                self.core.backend_lost(backend, incarnation, "refused");
            }
        }
    }

    /// Writes at most `most` bytes to each node. Returns whether there was nothing to write.
    fn write_to_nodes(&mut self, most: usize) -> bool {
        let mut idle = true;
        for backend in self.nodes.keys().copied().collect::<Vec<_>>() {
            let output = self.core.backend_output(backend);
            let bytes = output[..output.len().min(most)].to_vec();
            idle &= bytes.is_empty();
            self.core.backend_written(backend, bytes.len());
            self.nodes.get_mut(&backend).unwrap().input.extend(bytes);
            self.carry_out(backend);
        }
        let list = self.core.take_dirty_backends();
        self.core.reuse_dirty_backends(list);
        idle
    }

    /// The node carries out what whole requests it has, and keeps the replies.
    fn carry_out(&mut self, backend: u32) {
        while let Some(args) = self.carry_out_one(backend) {
            self.track(backend, &args);
        }
    }

    fn carry_out_one(&mut self, backend: u32) -> Option<Vec<Vec<u8>>> {
        let name = self.core.backends[backend as usize].node.to_string();
        let is_busy = self.busy.contains(&name);
        let scripts = self.scripts.entry(name.clone()).or_default();
        let data = self.data.entry(name).or_default();
        let Connected { input, replies, multi, seen, db, set_in } = self.nodes.get_mut(&backend).unwrap();
        let mut framer = RequestFramer::default();
        if let Ok(Some(Frame::Multibulk(len))) = framer.advance(input) {
            let args: Vec<Vec<u8>> = Args::new(&input[..len], framer.args()).iter().map(<[u8]>::to_vec).collect();
            input.drain(..len);
            let name = String::from_utf8(args[0].to_ascii_lowercase()).unwrap();
            seen.push(name.clone());
            let mut reply = Vec::new();
            match name.as_str() {
                refused if self.refusals.contains_key(refused) => encode::error(&mut reply, &self.refusals[refused]),
                _ if is_busy => encode::error(&mut reply, "BUSY Redis is busy running a script."),
                "get" => value(&mut reply, data.get(&args[1])),
                "set" => {
                    set_in.push(*db);
                    data.insert(args[1].clone(), args[2].clone());
                    encode::simple(&mut reply, "OK");
                }
                "mset" => {
                    args[1..].chunks(2).for_each(|pair| drop(data.insert(pair[0].clone(), pair[1].clone())));
                    encode::simple(&mut reply, "OK");
                }
                "mget" => {
                    encode::array(&mut reply, args.len() - 1);
                    args[1..].iter().for_each(|key| value(&mut reply, data.get(key)));
                }
                "del" => encode::integer(&mut reply, args[1..].iter().filter(|key| data.remove(*key).is_some()).count() as i64),
                "info" => {
                    let text =
                        format!("# Memory\r\nused_memory:100\r\n# Keyspace\r\ndb0:keys={},expires=0,avg_ttl=0\r\n", data.len());
                    encode::bulk(&mut reply, text.as_bytes());
                }
                "eval" => {
                    scripts.insert(sha1(&args[1]));
                    encode::simple(&mut reply, "RAN");
                }
                "evalsha" if scripts.contains(std::str::from_utf8(&args[1]).unwrap()) => encode::simple(&mut reply, "RAN"),
                "evalsha" => encode::error(&mut reply, "NOSCRIPT No matching script. Please use EVAL."),
                "script" => match args[1].to_ascii_lowercase().as_slice() {
                    b"load" => {
                        scripts.insert(sha1(&args[2]));
                        encode::bulk(&mut reply, sha1(&args[2]).as_bytes());
                    }
                    b"flush" => {
                        scripts.clear();
                        encode::simple(&mut reply, "OK");
                    }
                    _ => {
                        encode::array(&mut reply, args.len() - 2);
                        for id in &args[2..] {
                            encode::integer(&mut reply, scripts.contains(std::str::from_utf8(id).unwrap()).into());
                        }
                    }
                },
                "flushall" => {
                    data.clear();
                    encode::simple(&mut reply, "OK");
                }
                "fcall" => encode::simple(&mut reply, "CALLED"),
                "t.put" => {
                    data.insert(args[1].clone(), args[2].clone());
                    encode::simple(&mut reply, "PUT");
                }
                "dbsize" => encode::integer(&mut reply, data.len() as i64),
                "select" => {
                    *db = std::str::from_utf8(&args[1]).unwrap().parse().unwrap();
                    encode::simple(&mut reply, "OK");
                }
                "watch" | "unwatch" | "hello" | "config" => encode::simple(&mut reply, "OK"),
                "ping" => encode::simple(&mut reply, "PONG"),
                "client" if args[1].eq_ignore_ascii_case(b"no-touch") => encode::simple(&mut reply, "OK"),
                // CLIENT UNBLOCK.
                "client" => encode::integer(&mut reply, 0),
                // Whoever listens is told by the test.
                "publish" | "lpush" | "rpush" | "zadd" => encode::integer(&mut reply, 1),
                "multi" => {
                    *multi = Some((Vec::new(), 0));
                    encode::simple(replies, "OK");
                    return Some(args);
                }
                "exec" => {
                    let (inner, count) = multi.take().expect("MULTI comes first");
                    encode::array(&mut reply, count);
                    reply.extend(inner);
                }
                // Waits for ever.
                "blpop" | "blmpop" | "xread" => {}
                "ssubscribe" => encode::error(&mut reply, "ERR unknown command 'ssubscribe'"),
                "subscribe" | "unsubscribe" | "psubscribe" | "punsubscribe" => {
                    encode::array(&mut reply, 3);
                    encode::bulk(&mut reply, &args[0]);
                    encode::bulk(&mut reply, &args[1]);
                    encode::integer(&mut reply, 1);
                }
                other => panic!("{other}"),
            }
            match multi {
                Some((inner, count)) => {
                    inner.extend(reply);
                    *count += 1;
                    encode::simple(replies, "QUEUED");
                }
                None => replies.extend(reply),
            }
            return Some(args);
        }
        None
    }

    /// Hands the core at most `most` bytes of each node's replies. Returns whether there were none.
    fn answer(&mut self, most: usize) -> bool {
        let mut idle = true;
        for backend in self.nodes.keys().copied().collect::<Vec<_>>() {
            let Some(Connected { replies, .. }) = self.nodes.get_mut(&backend) else { continue };
            let bytes: Vec<u8> = replies.drain(..replies.len().min(most)).collect();
            if !bytes.is_empty() {
                idle = false;
                let incarnation = self.core.backend_incarnation(backend);
                self.core.backend_input(backend, incarnation, &bytes);
            }
        }
        idle & self.feed()
    }

    /// Hands the core all replies of one node.
    fn answer_from(&mut self, name: &str) {
        for backend in self.nodes.keys().copied().collect::<Vec<_>>() {
            if &*self.core.backends[backend as usize].node == name {
                let replies = std::mem::take(&mut self.nodes.get_mut(&backend).unwrap().replies);
                let incarnation = self.core.backend_incarnation(backend);
                self.core.backend_input(backend, incarnation, &replies);
            }
        }
    }

    fn write_to_clients(&mut self, most: usize) {
        let list = self.core.take_dirty_sessions();
        self.core.reuse_dirty_sessions(list);
        for (&index, got) in &mut self.clients {
            let output = self.core.session_output(index);
            let len = output.len().min(most);
            got.extend_from_slice(&output[..len]);
            self.core.session_written(index, len);
        }
        self.redirect();
        self.core.end_gathering();
    }

    /// The connections to a node break.
    fn kill(&mut self, name: &str) {
        self.reachable.remove(name);
        for backend in self.nodes.keys().copied().collect::<Vec<_>>() {
            if &*self.core.backends[backend as usize].node == name {
                self.nodes.remove(&backend);
                let incarnation = self.core.backend_incarnation(backend);
                self.core.backend_lost(backend, incarnation, "connection closed");
            }
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        self.core.tick(self.now_ms * 1000);
    }

    /// A key that the node of this name owns.
    fn key_of(&self, name: &str, number: usize) -> String {
        (0..)
            .map(|n| format!("key{n}"))
            .filter(|key| {
                let owner = self.core.topology.owner(self.core.topology.place(key.as_bytes())).unwrap();
                &*self.core.topology.nodes()[usize::from(owner.node)].name == name
            })
            .nth(number)
            .unwrap()
    }
}

fn sha1(script: &[u8]) -> String {
    sha1_smol::Sha1::from(script).digest().to_string()
}

fn value(out: &mut Vec<u8>, value: Option<&Vec<u8>>) {
    match value {
        Some(value) => encode::bulk(out, value),
        None => out.extend_from_slice(b"$-1\r\n"),
    }
}

fn request(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    encode::request(&mut out, &text.split(' ').collect::<Vec<_>>());
    out
}

const THREE: [&str; 3] = ["a", "b", "c"];
