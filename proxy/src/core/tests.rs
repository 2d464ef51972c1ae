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

use crate::limits::{ASK_AFTER_MS, CLIENT_PENDING_MAX, GATHER_BYTES_MAX};

use super::*;

mod caching;
mod clients;
mod introspection;
mod learning;
mod listening;
mod multi_key;
mod scripts;
mod segments;
mod stuck;

const TIMEOUT_MS: u64 = 1_000;

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
    /// Connections that were asked for: backend, incarnation, node's name.
    wanted: Vec<(u32, u32, String)>,
    /// Nodes that connections can be opened to.
    reachable: BTreeSet<String>,
    suspects: Vec<String>,
    /// What a node says to COMMAND, `None` if it does not answer; and how often one was asked.
    commands: Option<Vec<u8>>,
    learned: usize,
    /// The nodes that were given functions.
    seen_to: Vec<String>,
    /// What nodes track: node, key, connections.
    tracked: BTreeMap<(String, Vec<u8>), BTreeSet<u32>>,
    /// What came on the second connection of each and was not handed on yet.
    feeds: BTreeMap<u32, Vec<u8>>,
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
}

impl Rig {
    fn new(nodes: &[&str]) -> Self {
        Rig::with(nodes, |_| {})
    }

    fn with(nodes: &[&str], change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings {
            timeout_ms: TIMEOUT_MS,
            password: None,
            allow_node_config: false,
            databases: 16,
            fixed_nodes: false,
            identity: Arc::new(Identity {
                run_id: "0".repeat(40),
                port: 0,
                placement: "slots",
                workers: 1,
                clients_max: 100,
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
            suspects: Vec::new(),
            commands: Some(b"*0\r\n".to_vec()),
            learned: 0,
            seen_to: Vec::new(),
            tracked: BTreeMap::new(),
            feeds: BTreeMap::new(),
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
            self.effects();
            self.connect();
            self.write_to_nodes(usize::MAX);
            self.answer(usize::MAX);
            self.write_to_clients(usize::MAX);
            self.core.resume_paused();
        }
    }

    fn effects(&mut self) {
        for effect in self.core.take_effects() {
            match effect {
                Effect::Connect { backend, incarnation, endpoint, .. } => self.wanted.push((backend, incarnation, endpoint.host)),
                Effect::CopyFunctions { node, .. } => {
                    self.seen_to.push(node.to_string());
                    self.core.functions_copied(&node);
                }
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
                    let outcome = self.core.carry_out(&order);
                    self.core.carried_out(session, sequence, &order, vec![outcome]);
                }
            }
        }
    }

    fn connect(&mut self) {
        for (backend, incarnation, name) in std::mem::take(&mut self.wanted) {
            if self.reachable.contains(&name) {
                if self.core.backend_up(backend, incarnation) {
                    // The node has forgotten what was tracked for the connection before.
                    self.tracked.values_mut().for_each(|readers| _ = readers.remove(&backend));
                    self.feeds.remove(&backend);
                    self.nodes.insert(backend, Default::default());
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
        let scripts = self.scripts.entry(name.clone()).or_default();
        let data = self.data.entry(name).or_default();
        let Connected { input, replies, multi, seen } = self.nodes.get_mut(&backend).unwrap();
        let mut framer = RequestFramer::default();
        if let Ok(Some(Frame::Multibulk(len))) = framer.advance(input) {
            let args: Vec<Vec<u8>> = Args::new(&input[..len], framer.args()).iter().map(<[u8]>::to_vec).collect();
            input.drain(..len);
            let name = String::from_utf8(args[0].to_ascii_lowercase()).unwrap();
            seen.push(name.clone());
            let mut reply = Vec::new();
            match name.as_str() {
                "get" => value(&mut reply, data.get(&args[1])),
                "set" => {
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
                "watch" | "unwatch" | "select" | "hello" => encode::simple(&mut reply, "OK"),
                "ping" => encode::simple(&mut reply, "PONG"),
                // CLIENT UNBLOCK.
                "client" => encode::integer(&mut reply, 0),
                // Whoever listens is told by the test.
                "publish" => encode::integer(&mut reply, 1),
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
        self.core.tick(self.now_ms);
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

#[test]
fn a_pipeline_is_answered_in_order_wherever_it_is_cut() {
    let script: Vec<u8> = [
        "SET k1 v1",
        "SET k2 v2",
        "PING",
        "MSET k3 v3 k4 v4 k5 v5",
        "GET k2",
        "MGET k5 k9 k1 k3",
        "ECHO hello",
        "DEL k1 k2 k9",
        "DBSIZE",
        "NOSUCH thing",
        "GET k4",
    ]
    .into_iter()
    .flat_map(request)
    .chain(*b"PING inline\r\n")
    .collect();
    let expect = "+OK\r\n+OK\r\n+PONG\r\n+OK\r\n$2\r\nv2\r\n*4\r\n$2\r\nv5\r\n$-1\r\n$2\r\nv1\r\n$2\r\nv3\r\n$5\r\nhello\r\n:2\r\n:3\r\n\
                  -ERR unknown command 'NOSUCH', with args beginning with: 'thing' \r\n$2\r\nv4\r\n$6\r\ninline\r\n";
    for cut in 0..script.len() {
        let mut rig = Rig::new(&THREE);
        let client = rig.client();
        rig.say(client, &script[..cut]);
        rig.settle();
        rig.say(client, &script[cut..]);
        rig.settle();
        assert_eq!(rig.got(client), expect, "cut at {cut}");
    }
    for most in 1..9 {
        let mut rig = Rig::new(&THREE);
        let client = rig.client();
        for piece in script.chunks(most) {
            rig.say(client, piece);
            rig.effects();
            rig.connect();
            rig.write_to_nodes(most);
            rig.answer(most);
            rig.write_to_clients(most);
        }
        rig.settle();
        assert_eq!(rig.got(client), expect, "{most} bytes at a time");
    }
}

#[test]
fn malformed_input_gets_the_words_of_redis_and_a_close() {
    for (bytes, expect) in [
        ("*1\r\nfoo\r\n", "-ERR Protocol error: expected '$', got 'f'\r\n"),
        ("*x\r\n", "-ERR Protocol error: invalid multibulk length\r\n"),
        ("*1\r\n$-5\r\n", "-ERR Protocol error: invalid bulk length\r\n"),
        ("SET k \"open\r\n", "-ERR Protocol error: unbalanced quotes in request\r\n"),
    ] {
        let mut rig = Rig::new(&THREE);
        let client = rig.client();
        rig.say(client, [request("SET k v"), bytes.as_bytes().to_vec(), request("PING")].concat());
        rig.settle();
        assert_eq!(rig.got(client), format!("+OK\r\n{expect}"));
        rig.effects();
        assert!(!rig.core.is_open(client));
    }
}

#[test]
fn a_browser_is_not_talked_to() {
    for start in ["POST / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: localhost\r\n"] {
        let mut rig = Rig::new(&THREE);
        let client = rig.client();
        rig.say(client, format!("{start}\r\nSET k v\r\n"));
        rig.settle();
        rig.effects();
        assert!(!rig.core.is_open(client));
        assert_eq!(rig.ask(request("GET k")), "$-1\r\n", "{start:?}");
    }
}

#[test]
fn quit_answers_what_came_before_it_and_nothing_after() {
    let mut rig = Rig::new(&THREE);
    let client = rig.client();
    rig.say(client, [request("SET k v"), request("QUIT"), request("GET k")].concat());
    rig.settle();
    rig.effects();
    assert_eq!(rig.got(client), "+OK\r\n+OK\r\n");
    assert!(!rig.core.is_open(client));
}

#[test]
fn who_comes_after_a_client_that_left_never_gets_its_replies() {
    let mut rig = Rig::new(&THREE);
    rig.ask(request("SET k secret"));
    let gone = rig.client();
    rig.say(gone, [request("GET k"), request("MGET k k1 k2 k3 k4")].concat());
    rig.effects();
    rig.connect();
    rig.write_to_nodes(usize::MAX);
    rig.core.session_closed(gone);
    let next = rig.client();
    assert_eq!(next.index, gone.index, "the place is used again");
    rig.say(next, request("GET nothing"));
    rig.settle();
    assert_eq!(rig.got(next), "$-1\r\n");
}

#[test]
fn what_was_sent_to_a_lost_node_gets_one_error_and_the_rest_goes_on() {
    let mut rig = Rig::new(&THREE);
    let (on_a, on_b) = (rig.key_of("a", 0), rig.key_of("b", 0));
    rig.ask(request(&format!("MSET {on_a} 1 {on_b} 2")));
    let client = rig.client();
    rig.say(client, [request(&format!("GET {on_b}")), request(&format!("GET {on_a}")), request(&format!("GET {on_b}"))].concat());
    rig.write_to_nodes(usize::MAX);
    rig.kill("a");
    rig.settle();
    assert_eq!(
        rig.got(client),
        "$1\r\n2\r\n-NODEDOWN node a was lost before it answered (connection closed); the command may have been carried out\r\n$1\r\n2\r\n"
    );
    assert_eq!(rig.suspects, ["a"]);
}

#[test]
fn what_was_not_sent_goes_to_the_new_owner_once_the_map_changes() {
    let mut rig = Rig::new(&THREE);
    rig.reachable.remove("a");
    let (key, other) = (rig.key_of("a", 0), rig.key_of("a", 1));
    let client = rig.client();
    rig.say(
        client,
        [request(&format!("SET {key} 1")), request(&format!("SET {key} 2")), request(&format!("GET {key}"))].concat(),
    );
    rig.say(client, request(&format!("MGET {other} {key} {}", rig.key_of("b", 0))));
    rig.effects();
    rig.connect();
    rig.write_to_nodes(usize::MAX);
    rig.answer(usize::MAX);
    rig.write_to_clients(usize::MAX);
    assert_eq!(rig.got(client), "");
    rig.core.set_topology(topology(2, &[("a", false), ("b", true), ("c", true)]));
    rig.settle();
    assert_eq!(rig.got(client), "+OK\r\n+OK\r\n$1\r\n2\r\n*3\r\n$-1\r\n$1\r\n2\r\n$-1\r\n");
}

#[test]
fn what_came_in_one_read_is_answered_in_one_write() {
    let mut rig = Rig::new(&THREE);
    let (on_a, on_b) = (rig.key_of("a", 0), rig.key_of("b", 0));
    rig.ask(request(&format!("MSET {on_a} 1 {on_b} 2")));
    let client = rig.client();
    let ask = [request(&format!("GET {on_a}")), request(&format!("GET {on_b}"))].concat();
    let answer_of = |rig: &mut Rig, node: &str| {
        rig.write_to_nodes(usize::MAX);
        rig.answer_from(node);
        rig.core.session_output(client.index).to_vec()
    };
    // The first reply waits for the second.
    rig.say(client, &ask);
    assert_eq!(answer_of(&mut rig, "a"), b"");
    assert_eq!(answer_of(&mut rig, "b"), b"$1\r\n1\r\n$1\r\n2\r\n");
    rig.core.session_written(client.index, 14);
    // What comes later is no part of it.
    rig.say(client, request(&format!("GET {on_a}")));
    rig.say(client, request(&format!("GET {on_b}")));
    assert_eq!(answer_of(&mut rig, "a"), b"$1\r\n1\r\n");
    rig.core.session_written(client.index, 7);
    assert_eq!(answer_of(&mut rig, "b"), b"$1\r\n2\r\n");
    rig.core.session_written(client.index, 7);
    // It does not wait for ever.
    rig.say(client, &ask);
    assert_eq!(answer_of(&mut rig, "a"), b"");
    rig.core.end_gathering();
    assert!(rig.core.has_dirty());
    assert_eq!(rig.core.session_output(client.index), b"$1\r\n1\r\n");
    rig.core.session_written(client.index, 7);
    assert_eq!(answer_of(&mut rig, "b"), b"$1\r\n2\r\n");
    rig.core.session_written(client.index, 7);
    // Much of it does not wait at all.
    let large = "x".repeat(GATHER_BYTES_MAX);
    rig.ask(request(&format!("SET {on_a} {large}")));
    rig.say(client, &ask);
    assert!(answer_of(&mut rig, "a").len() > GATHER_BYTES_MAX);
}

#[test]
fn nothing_waits_longer_than_the_timeout() {
    let mut rig = Rig::new(&THREE);
    let (on_a, on_b) = (rig.key_of("a", 0), rig.key_of("b", 0));
    rig.ask(request(&format!("MSET {on_a} 1 {on_b} 2")));
    // A node that takes requests and never answers.
    let client = rig.client();
    rig.say(client, request(&format!("GET {on_a}")));
    rig.write_to_nodes(usize::MAX);
    rig.pass(TIMEOUT_MS);
    rig.write_to_clients(usize::MAX);
    assert_eq!(rig.got(client), "");
    rig.pass(1);
    rig.write_to_clients(usize::MAX);
    assert!(rig.got(client).starts_with("-NODEDOWN node a was lost before it answered (no answer within 1000 ms)"));
    // A node that cannot be reached at all.
    rig.kill("b");
    rig.say(client, request(&format!("GET {on_b}")));
    rig.effects();
    rig.pass(TIMEOUT_MS + 1);
    rig.write_to_clients(usize::MAX);
    assert!(rig.got(client).contains("nothing was sent"));
}

#[test]
fn a_fixed_node_that_is_gone_is_an_error_at_once_and_found_again() {
    let mut rig = Rig::with(&THREE, |settings| settings.fixed_nodes = true);
    let key = rig.key_of("a", 0);
    rig.reachable.remove("a");
    assert_eq!(rig.ask(request(&format!("GET {key}"))), "-NODEDOWN node a cannot be reached (refused); nothing was sent\r\n");
    rig.reachable.insert("a".to_owned());
    rig.ask(request(&format!("GET {key}")));
    assert_eq!(rig.ask(request(&format!("SET {key} 1"))), "+OK\r\n");
}

#[test]
fn without_any_node_every_command_says_so() {
    let mut rig = Rig::new(&[]);
    let expect = "-CLUSTERDOWN no node of the cluster is up\r\n";
    for text in ["GET k", "MGET a b", "DBSIZE"] {
        assert_eq!(rig.ask(request(text)), expect, "{text}");
    }
    assert_eq!(rig.ask(request("PING")), "+PONG\r\n");
}

#[test]
fn a_client_with_too_much_unanswered_waits_and_then_goes_on() {
    let mut rig = Rig::new(&THREE);
    let client = rig.client();
    let count = CLIENT_PENDING_MAX + 100;
    rig.say(client, request("GET k").repeat(count));
    assert!(rig.core.is_paused(client));
    assert_eq!(rig.core.sessions[client.index as usize].pending(), CLIENT_PENDING_MAX);
    rig.settle();
    assert!(!rig.core.is_paused(client));
    assert_eq!(rig.got(client), "$-1\r\n".repeat(count));
}

#[test]
fn a_client_that_does_not_read_waits_alone() {
    let mut rig = Rig::new(&THREE);
    let (lazy, keen) = (rig.client(), rig.client());
    rig.say(keen, request(&format!("SET big {}", "x".repeat(100_000))));
    rig.settle();
    rig.got(keen);
    rig.say(lazy, request("GET big").repeat(100));
    for _ in 0..3 {
        rig.write_to_nodes(usize::MAX);
        rig.answer(usize::MAX);
        rig.core.resume_paused();
        rig.say(lazy, request("GET big").repeat(100));
    }
    assert!(rig.core.is_paused(lazy));
    assert!(rig.core.sessions[lazy.index as usize].unread_bytes() < 101 * 100_020);
    assert_eq!(rig.ask(request("GET none")), "$-1\r\n");
}

#[test]
fn a_transaction_goes_to_its_node_as_one_block_between_the_commands_of_others() {
    let mut rig = Rig::new(&THREE);
    let (one, other) = (rig.client(), rig.client());
    rig.say(one, [request("MULTI"), request("SET {t}a 1")].concat());
    rig.say(other, request("SET {t}a 2"));
    rig.settle();
    assert_eq!((rig.got(one).as_str(), rig.got(other).as_str()), ("+OK\r\n+QUEUED\r\n", "+OK\r\n"));
    rig.say(one, request("MGET {t}a {t}b"));
    rig.say(other, request("GET {t}a"));
    rig.say(one, [request("EXEC"), request("GET {t}a")].concat());
    rig.say(other, request("GET {t}a"));
    rig.settle();
    assert_eq!(rig.got(one), "+QUEUED\r\n*2\r\n+OK\r\n*2\r\n$1\r\n1\r\n$-1\r\n$1\r\n1\r\n");
    assert_eq!(rig.got(other), "$1\r\n2\r\n$1\r\n1\r\n");
    let seen: Vec<_> = rig.nodes.values().flat_map(|node| node.seen.clone()).collect();
    assert_eq!(seen, ["set", "get", "multi", "set", "mget", "exec", "get", "get"]);
}

#[test]
fn a_refused_command_spoils_its_transaction() {
    for (text, error) in [
        ("SET other-slot 1", "-CROSSSLOT Keys in request don't hash to the same slot\r\n"),
        ("GET", "-ERR wrong number of arguments for 'get' command\r\n"),
        ("NOSUCH", "-ERR unknown command 'NOSUCH', with args beginning with: \r\n"),
        ("SAVE", "-ERR Command not allowed inside a transaction\r\n"),
        ("SHUTDOWN", "-ERR Command not allowed inside a transaction\r\n"),
        ("SWAPDB 0 1", "-ERR 'swapdb' is not supported by this proxy\r\n"),
    ] {
        let mut rig = Rig::new(&THREE);
        let script = ["MULTI", "SET k 1", text, "EXEC", "GET k"].map(request).concat();
        let expect = format!("+OK\r\n+QUEUED\r\n{error}-EXECABORT Transaction discarded because of previous errors.\r\n$-1\r\n");
        assert_eq!(rig.ask(script), expect, "{text}");
    }
    assert_eq!(
        Rig::new(&THREE).ask(["MULTI", "SET k 1", "DISCARD", "GET k"].map(request).concat()),
        "+OK\r\n+QUEUED\r\n+OK\r\n$-1\r\n"
    );
}

#[test]
fn a_transaction_that_was_not_sent_goes_to_the_new_owner_whole() {
    let mut rig = Rig::new(&THREE);
    rig.reachable.remove("a");
    let key = rig.key_of("a", 0);
    let client = rig.client();
    rig.say(
        client,
        [request("MULTI"), request(&format!("SET {key} 1")), request(&format!("GET {key}")), request("EXEC")].concat(),
    );
    rig.effects();
    rig.connect();
    rig.core.set_topology(topology(2, &[("a", false), ("b", true), ("c", true)]));
    rig.settle();
    assert_eq!(rig.got(client), "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n$1\r\n1\r\n");
}

#[test]
fn watched_keys_are_watched_on_a_connection_of_their_own_that_comes_back_clean() {
    let mut rig = Rig::new(&THREE);
    let client = rig.client();
    let script =
        ["WATCH {t}a", "GET {t}a", "MULTI", "SET {t}a 1", "EXEC", "WATCH {t}b", "UNWATCH", "GET {t}a"].map(request).concat();
    rig.say(client, script);
    rig.settle();
    assert_eq!(rig.got(client), "+OK\r\n$-1\r\n+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n+OK\r\n+OK\r\n$1\r\n1\r\n");
    let seen: BTreeSet<_> = rig.nodes.values().map(|node| node.seen.join(" ")).collect();
    assert_eq!(seen, ["get get".to_owned(), "watch multi set exec watch unwatch".to_owned()].into());
    assert_eq!((rig.core.private_count, rig.core.idle_private.len()), (1, 1));
}

#[test]
fn commands_do_not_overtake_each_other_where_connections_change() {
    for (script, expect) in [
        (["SET {t}a 1", "SELECT 1", "SELECT 0", "GET {t}a"], "+OK\r\n+OK\r\n+OK\r\n$1\r\n1\r\n"),
        (["SET {t}a 1", "HELLO 2", "RESET", "GET {t}a"], "$1\r\n1\r\n"),
        (["SET {t}a 1", "WATCH {t}a", "DEL {t}a", "GET {t}a"], "+OK\r\n+OK\r\n:1\r\n$-1\r\n"),
    ] {
        let mut rig = Rig::new(&THREE);
        let client = rig.client();
        rig.say(client, script.map(request).concat());
        // Nodes that get and answer one byte at a time, the newest connection first.
        for _ in 0..2_000 {
            rig.effects();
            rig.connect();
            rig.write_to_nodes(1);
            rig.answer(1);
            rig.write_to_clients(usize::MAX);
            rig.core.resume_paused();
        }
        let got = rig.got(client);
        assert!(got.ends_with(expect), "{script:?}: {got:?}");
    }
}

#[test]
fn a_watch_whose_node_is_lost_fails_the_transaction() {
    let mut rig = Rig::new(&THREE);
    let key = rig.key_of("a", 0);
    let client = rig.client();
    rig.say(client, request(&format!("WATCH {key}")));
    rig.settle();
    rig.kill("a");
    rig.core.set_topology(topology(2, &[("a", false), ("b", true), ("c", true)]));
    rig.say(client, ["MULTI".to_owned(), format!("SET {key} 1"), "EXEC".to_owned()].map(|text| request(&text)).concat());
    rig.settle();
    assert_eq!(rig.got(client), "+OK\r\n+OK\r\n+QUEUED\r\n*-1\r\n");
    assert_eq!(rig.core.private_count, 0);
}

#[test]
fn a_client_that_leaves_gives_up_its_wait_and_nobody_waits_behind_it() {
    let mut rig = Rig::new(&THREE);
    let waiting = rig.client();
    rig.say(waiting, [request("BLPOP {q} 0"), request("GET {q}")].concat());
    rig.settle();
    assert_eq!(rig.got(waiting), "");
    assert_eq!(rig.ask(request("SET {q}x 1")), "+OK\r\n");
    rig.pass(TIMEOUT_MS * 10);
    assert_eq!(rig.nodes.len(), 2);
    rig.core.session_ended(waiting);
    rig.settle();
    assert!(!rig.core.is_open(waiting));
    assert_eq!((rig.nodes.len(), rig.core.private_count), (1, 0));
}

#[test]
fn who_waits_at_a_node_that_loses_the_key_is_told() {
    let mut rig = Rig::new(&THREE);
    let key = rig.key_of("a", 0);
    let client = rig.client();
    rig.say(client, [request(&format!("BLPOP {key} 0")), request(&format!("GET {key}"))].concat());
    rig.settle();
    rig.core.set_topology(topology(2, &[("a", false), ("b", true), ("c", true)]));
    rig.settle();
    assert_eq!(rig.got(client), "-UNBLOCKED the node that the command waited at does not hold its keys any more\r\n$-1\r\n");
    assert_eq!(rig.core.private_count, 0);
}

/// What a node that leaves the map in good order was sent it still answers; and so long, the new map is not settled for.
#[test]
fn what_was_sent_before_a_planned_change_is_answered_before_it_is_settled_for() {
    for script in [
        vec!["SET {t}a 1"],
        vec!["MSET a 1 b 2 c 3 d 4 e 5"],
        vec!["MULTI", "SET {t}a 1", "EXEC"],
        vec!["WATCH {t}a"],
        vec!["WATCH {t}a", "MULTI", "SET {t}a 1", "EXEC"],
    ] {
        let mut rig = Rig::new(&THREE);
        rig.core.tick(0);
        assert_eq!(rig.core.settled(), Some(1));
        let client = rig.client();
        let (last, first) = script.split_last().unwrap();
        first.iter().for_each(|line| {
            rig.say(client, request(line));
            rig.settle();
        });
        rig.got(client);
        rig.say(client, request(last));
        rig.effects();
        rig.connect();
        rig.write_to_nodes(usize::MAX);
        let holder = rig.core.topology.owner(rig.core.topology.place(b"{t}a")).unwrap().node;
        let nodes: Vec<_> = THREE.iter().enumerate().map(|(at, name)| (*name, at != usize::from(holder))).collect();
        rig.core.set_topology(topology(2, &nodes));
        let is_watch = last.starts_with("WATCH");
        assert_eq!(rig.core.settled(), is_watch.then_some(2), "{script:?}");
        rig.settle();
        assert_eq!(rig.core.settled(), Some(2), "{script:?}");
        let got = rig.got(client);
        assert!(!got.is_empty() && !got.contains('-'), "{script:?}: {got:?}");
        assert_eq!(rig.core.private_count, 0, "{script:?}");
        if is_watch {
            rig.say(client, ["MULTI", "SET {t}a 1", "EXEC"].map(request).concat());
            rig.settle();
            assert_eq!(rig.got(client), "+OK\r\n+QUEUED\r\n*-1\r\n", "what it watches is touched");
        }
    }
}

#[test]
fn who_waits_for_data_at_the_right_node_does_not_keep_a_map_from_being_settled_for() {
    let mut rig = Rig::new(&THREE);
    let key = rig.key_of("a", 0);
    let client = rig.client();
    rig.say(client, request(&format!("BLPOP {key} 0")));
    rig.settle();
    rig.core.set_topology(topology(2, &[("a", true), ("b", false), ("c", true)]));
    assert_eq!(rig.core.settled(), Some(2));
    assert_eq!(rig.core.private_count, 1);
}

/// The node says something on each of its connections that subscribed to the channel.
fn publish(rig: &mut Rig, channel: &str, text: &str) {
    for node in rig.nodes.values_mut() {
        if node.seen.iter().any(|name| name == "subscribe") {
            encode::request(&mut node.replies, &["message", channel, text]);
        }
    }
}

#[test]
fn a_channel_has_one_subscription_upstream_however_many_listen() {
    let mut rig = Rig::new(&THREE);
    let clients: Vec<_> = (0..3).map(|_| rig.client()).collect();
    let channel = rig.key_of("a", 0);
    for client in &clients {
        rig.say(*client, request(&format!("SUBSCRIBE {channel}")));
    }
    assert_eq!(rig.got(clients[0]), "", "the node has not confirmed it");
    rig.settle();
    let confirmed = format!("*3\r\n$9\r\nsubscribe\r\n${}\r\n{channel}\r\n:1\r\n", channel.len());
    for client in &clients {
        assert_eq!(rig.got(*client), confirmed);
    }
    publish(&mut rig, &channel, "hi");
    rig.settle();
    let message = format!("*3\r\n$7\r\nmessage\r\n${}\r\n{channel}\r\n$2\r\nhi\r\n", channel.len());
    for client in &clients {
        assert_eq!(rig.got(*client), message);
    }
    let seen: Vec<_> = rig.nodes.values().map(|node| node.seen.clone()).collect();
    assert_eq!(seen, [["subscribe"]]);
    // The last who leaves ends it.
    for client in clients {
        rig.core.session_closed(client);
        rig.settle();
    }
    assert_eq!(rig.nodes.values().next().unwrap().seen, ["subscribe", "unsubscribe"]);
}

#[test]
fn subscriptions_move_with_the_map_and_outlive_a_lost_connection() {
    let mut rig = Rig::new(&THREE);
    let client = rig.client();
    let channel = rig.key_of("a", 0);
    rig.say(client, request(&format!("SUBSCRIBE {channel}")));
    rig.settle();
    rig.got(client);
    for change in 0..2 {
        rig.kill("a");
        if change == 0 {
            rig.reachable.insert("a".to_owned());
        } else {
            rig.core.set_topology(topology(2, &[("a", false), ("b", true), ("c", true)]));
        }
        rig.settle();
        publish(&mut rig, &channel, "hi");
        rig.settle();
        assert!(rig.got(client).ends_with("$2\r\nhi\r\n"), "change {change}");
        assert_eq!(rig.nodes.len(), 1);
    }
}

#[test]
fn a_proxy_tells_clients_in_cluster_mode_of_itself_first_and_of_the_others_as_its_replicas() {
    let address = |text: &str| text.parse::<crate::config::ProxyAddress>().unwrap();
    let mut rig = Rig::with(&THREE, |settings| {
        settings.announce = Some(address("b:2"));
        settings.peers.store(Arc::new(vec![address("a:1"), address("b:2"), address("c:3")]));
    });
    let nodes = rig.ask(request("CLUSTER NODES"));
    let lines: Vec<_> = nodes.lines().skip(1).filter(|line| !line.is_empty()).collect();
    let id = lines[0].split(' ').next().unwrap();
    assert!(lines[0].contains(" b:2@0 myself,master - ") && lines[0].ends_with(" connected 0-16383"), "{nodes}");
    assert!(lines[1].contains(&format!(" a:1@0 slave {id} ")) && lines[2].contains(" c:3@0 slave "), "{nodes}");
    assert_eq!(rig.ask(request("CLUSTER MYID")), format!("$40\r\n{id}\r\n"));
    assert_eq!(rig.ask(request("CLUSTER MYSHARDID")), format!("$40\r\n{id}\r\n"));
    let slots = rig.ask(request("CLUSTER SLOTS"));
    assert!(
        slots.starts_with(&format!("*1\r\n*5\r\n:0\r\n:16383\r\n*4\r\n$1\r\nb\r\n:2\r\n$40\r\n{id}\r\n*0\r\n*4\r\n")),
        "{slots}"
    );
    assert!(rig.ask(request(&format!("CLUSTER REPLICAS {id}"))).starts_with("*2\r\n"));
    assert_eq!(rig.ask(request("CLUSTER REPLICAS nobody")), "-ERR Unknown node nobody\r\n");
    assert_eq!(rig.ask(request("CLUSTER KEYSLOT {user1000}.following")), ":3443\r\n");
    assert!(rig.ask(request("CLUSTER INFO")).contains("cluster_state:ok"));
    assert!(rig.ask(request("CLUSTER RESET")).starts_with("-ERR 'cluster|reset' is not supported"));
    rig.core.set_topology(topology(2, &[("a", false)]));
    assert!(rig.ask(request("CLUSTER INFO")).contains("cluster_state:fail"));
}

#[test]
fn connection_commands() {
    for (text, expect) in [
        ("PING", "+PONG\r\n"),
        ("PING x", "$1\r\nx\r\n"),
        ("SELECT 16", "-ERR DB index is out of range\r\n"),
        ("SELECT x", "-ERR value is not an integer or out of range\r\n"),
        ("HELLO 4", "-NOPROTO unsupported protocol version\r\n"),
        ("HELLO x", "-ERR Protocol version is not an integer or out of range\r\n"),
        ("HELLO 3 NONSENSE", "-ERR Syntax error in HELLO option 'NONSENSE'\r\n"),
        ("RESET", "+RESET\r\n"),
        ("CLIENT GETNAME", "$-1\r\n"),
        ("CLIENT SETNAME a\nb", "-ERR Client names cannot contain spaces, newlines or special characters.\r\n"),
        (
            "AUTH secret",
            "-ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?\r\n",
        ),
        ("AUTH default any", "+OK\r\n"),
        ("AUTH nobody any", "-WRONGPASS invalid username-password pair or user is disabled.\r\n"),
        ("GET", "-ERR wrong number of arguments for 'get' command\r\n"),
    ] {
        assert_eq!(Rig::new(&THREE).ask(request(text)), expect, "{text}");
    }
}

#[test]
fn a_password_is_asked_for_and_taken() {
    let mut rig = Rig::with(&THREE, |settings| settings.password = Some("secret".to_owned()));
    assert_eq!(rig.ask(request("GET k")), "-NOAUTH Authentication required.\r\n");
    assert!(rig.ask(request("HELLO 3")).starts_with("-NOAUTH HELLO must be called"));
    let wrong = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";
    assert_eq!(
        rig.ask([request("AUTH wrong"), request("GET k")].concat()),
        format!("{wrong}-NOAUTH Authentication required.\r\n")
    );
    assert_eq!(rig.ask([request("AUTH secret"), request("GET k")].concat()), "+OK\r\n$-1\r\n");
    let hello = rig.ask([request("HELLO 3 AUTH default secret SETNAME me"), request("CLIENT GETNAME")].concat());
    assert!(hello.starts_with("%7\r\n") && hello.ends_with("$2\r\nme\r\n"), "{hello}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Several clients, each with keys of its own, every kind of cut and delay: each gets its own values in its own order.
    #[test]
    fn every_client_gets_its_own_replies_in_order(
        steps in prop::collection::vec((0usize..4, 0usize..5, 1usize..60, 0usize..4), 1..120),
        pieces in 1usize..40,
    ) {
        let mut rig = Rig::new(&THREE);
        let clients: Vec<_> = (0..4).map(|_| rig.client()).collect();
        let mut expect = vec![String::new(); 4];
        let mut pending = vec![Vec::new(); 4];
        for (number, (who, key, most, what)) in steps.into_iter().enumerate() {
            let (a, b) = (format!("c{who}k{key}"), format!("c{who}k{}", key + 1));
            let (bytes, reply) = match what {
                0 => (request(&format!("SET {a} {number}")), "+OK\r\n".to_owned()),
                1 => (request(&format!("ECHO {who}.{number}")), {
                    let text = format!("{who}.{number}");
                    format!("${}\r\n{text}\r\n", text.len())
                }),
                2 => (request(&format!("MSET {a} {number} {b} {number}")), "+OK\r\n".to_owned()),
                _ => {
                    let text = number.to_string();
                    let element = format!("${}\r\n{text}\r\n", text.len());
                    (
                        [request(&format!("MSET {a} {number} {b} {number}")), request(&format!("MGET {b} {a}"))].concat(),
                        format!("+OK\r\n*2\r\n{element}{element}"),
                    )
                }
            };
            expect[who].push_str(&reply);
            pending[who].extend(bytes);
            let len = pending[who].len().min(pieces);
            let piece: Vec<u8> = pending[who].drain(..len).collect();
            rig.say(clients[who], piece);
            rig.effects();
            rig.connect();
            rig.write_to_nodes(most);
            rig.answer(most / 2 + 1);
            rig.write_to_clients(most);
        }
        for (who, client) in clients.iter().enumerate() {
            rig.say(*client, &pending[who]);
        }
        rig.settle();
        for (who, client) in clients.into_iter().enumerate() {
            prop_assert_eq!(rig.got(client), expect[who].clone());
        }
    }

    /// Nodes die and come back at any time: every command still gets exactly one answer, its own or an error.
    #[test]
    fn every_command_gets_one_answer_whatever_becomes_of_the_nodes(
        steps in prop::collection::vec((0usize..8, 0usize..20, 1usize..80), 1..150),
    ) {
        let mut rig = Rig::new(&THREE);
        let client = rig.client();
        let (mut asked, mut epoch) = (0, 1);
        for (what, key, most) in steps {
            match what {
                0 => rig.kill(THREE[key % 3]),
                1 => {
                    rig.reachable.insert(THREE[key % 3].to_owned());
                }
                2 => {
                    epoch += 1;
                    rig.core.set_topology(topology(epoch, &[("a", key & 1 == 0), ("b", key & 2 == 0), ("c", key & 4 == 0)]));
                }
                3 => {
                    rig.say(client, request(&format!("MGET k{key} k{} k{} k{}", key + 1, key + 2, key + 3)));
                    asked += 1;
                }
                _ => {
                    rig.say(client, request(&format!("GET k{key}")));
                    asked += 1;
                }
            }
            rig.effects();
            rig.connect();
            rig.write_to_nodes(most);
            rig.answer(most);
            rig.write_to_clients(usize::MAX);
        }
        for _ in 0..20 {
            rig.effects();
            rig.connect();
            rig.write_to_nodes(usize::MAX);
            rig.answer(usize::MAX);
            rig.pass(TIMEOUT_MS / 4);
        }
        rig.settle();
        let got = rig.got(client);
        let mut framer = ReplyFramer::default();
        let (mut at, mut answers) = (0, 0);
        while let Ok(Some(len)) = framer.advance(&got.as_bytes()[at..]) {
            at += len;
            answers += 1;
        }
        prop_assert_eq!((answers, at), (asked, got.len()));
    }

    /// Whatever a node sends, nothing panics, and the clients' commands are answered.
    #[test]
    fn survives_any_reply(bytes in prop::collection::vec(prop_oneof![Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), Just(b'>'), b'0'..=b'3', any::<u8>()], 0..80)) {
        let mut rig = Rig::new(&THREE);
        let client = rig.client();
        rig.say(client, [request("GET k"), request("MGET a b c d e f g")].concat());
        rig.effects();
        rig.connect();
        rig.write_to_nodes(usize::MAX);
        for backend in rig.nodes.keys().copied().collect::<Vec<_>>() {
            let incarnation = rig.core.backend_incarnation(backend);
            rig.core.backend_input(backend, incarnation, &bytes);
        }
        rig.effects();
        rig.pass(TIMEOUT_MS * 2);
        rig.pass(TIMEOUT_MS * 2);
        rig.write_to_clients(usize::MAX);
        prop_assert_eq!(rig.core.sessions[client.index as usize].pending(), 0);
    }

    /// Whatever a client sends, nothing panics.
    #[test]
    fn survives_any_request(bytes in prop::collection::vec(prop_oneof![Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), b'0'..=b'3', any::<u8>()], 0..120)) {
        let mut rig = Rig::new(&THREE);
        let client = rig.client();
        rig.say(client, &bytes);
        rig.effects();
    }
}

#[test]
fn what_waits_for_a_node_keeps_its_database_when_the_map_changes() {
    let mut rig = Rig::new(&THREE);
    rig.reachable.remove("a");
    let key = rig.key_of("a", 0);
    let client = rig.client();
    let transaction = ["MULTI".to_owned(), format!("SET {key} 2"), "EXEC".to_owned()].map(|text| request(&text)).concat();
    rig.say(client, [request(&format!("SET {key} 1")), transaction, request("SELECT 1")].concat());
    rig.core.set_topology(topology(2, &[("a", false), ("b", true), ("c", true)]));
    rig.settle();
    assert_eq!(rig.got(client), "+OK\r\n+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n+OK\r\n");
    for &backend in rig.nodes.keys() {
        assert_eq!(rig.core.backends[backend as usize].lane, Lane::new(Proto::Resp2, 0, false));
    }
}

#[test]
fn a_watch_follows_its_session_to_another_database() {
    let mut rig = Rig::new(&THREE);
    let client = rig.client();
    rig.say(client, ["WATCH {t}a", "SELECT 3", "HELLO 3", "MULTI", "SET {t}b 1", "EXEC"].map(request).concat());
    rig.settle();
    let got = rig.got(client);
    assert!(got.ends_with("+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n"), "{got}");
    let (&backend, node) = rig.nodes.iter().next().unwrap();
    assert_eq!(node.seen, ["watch", "select", "hello", "multi", "set", "exec"]);
    assert_eq!(rig.core.backends[backend as usize].lane, Lane::new(Proto::Resp3, 3, false), "as it goes back to the pool");
}

#[test]
fn a_subscriber_that_leaves_before_it_is_confirmed_leaves_nothing_behind() {
    let mut rig = Rig::new(&THREE);
    let client = rig.client();
    rig.say(client, request("SUBSCRIBE one"));
    rig.core.session_closed(client);
    let client = rig.client();
    rig.say(client, ["SUBSCRIBE two", "UNSUBSCRIBE two"].map(request).concat());
    rig.settle();
    assert_eq!(rig.core.topics.len(), 0);
    let client = rig.client();
    rig.reachable.clear();
    for name in THREE {
        rig.kill(name);
    }
    rig.say(client, request("SUBSCRIBE three"));
    rig.core.session_closed(client);
    rig.effects();
    rig.pass(TIMEOUT_MS + 1);
    rig.pass(1);
    assert_eq!(rig.core.topics.len(), 0);
}

#[test]
fn a_pattern_is_confirmed_once_the_node_that_did_not_answer_has_left_the_map() {
    let mut rig = Rig::new(&THREE);
    rig.reachable.remove("a");
    let client = rig.client();
    rig.say(client, request("PSUBSCRIBE *"));
    for _ in 0..3 {
        rig.effects();
        rig.connect();
        rig.write_to_nodes(usize::MAX);
        rig.answer(usize::MAX);
    }
    rig.write_to_clients(usize::MAX);
    assert_eq!(rig.got(client), "");
    rig.core.set_topology(topology(2, &[("a", false), ("b", true), ("c", true)]));
    rig.settle();
    assert_eq!(rig.got(client), "*3\r\n$10\r\npsubscribe\r\n$1\r\n*\r\n:1\r\n");
}

#[test]
fn a_client_that_has_said_all_is_still_answered() {
    for script in [
        ["SET {t}a 1", "SELECT 1", "SELECT 0", "GET {t}a"].as_slice(),
        &["SET {t}a 0", "WATCH {t}a", "MULTI", "SET {t}a 1", "EXEC", "GET {t}a"],
    ] {
        let mut rig = Rig::new(&THREE);
        let client = rig.client();
        rig.say(client, script.iter().flat_map(|text| request(text)).collect::<Vec<_>>());
        rig.core.session_ended(client);
        rig.settle();
        rig.effects();
        let got = rig.got(client);
        assert!(got.ends_with("$1\r\n1\r\n"), "{script:?}: {got:?}");
        assert!(!rig.core.is_open(client));
    }
    // But it does not wait.
    let mut rig = Rig::new(&THREE);
    let client = rig.client();
    rig.say(client, ["SET {t}a 1", "BLPOP {t}q 0", "GET {t}a"].map(request).concat());
    rig.core.session_ended(client);
    rig.settle();
    assert!(!rig.core.is_open(client));
    assert_eq!(rig.core.private_count, 0);
}

#[test]
fn nothing_waits_longer_for_having_moved_behind_a_newer_command() {
    let mut rig = Rig::new(&THREE);
    let (on_a, on_b) = (rig.key_of("a", 0), rig.key_of("b", 0));
    let (older, newer) = (rig.client(), rig.client());
    rig.ask(request(&format!("GET {on_b}")));
    for name in THREE {
        rig.kill(name);
    }
    rig.say(older, request(&format!("GET {on_a}")));
    rig.pass(TIMEOUT_MS - 100);
    rig.say(newer, request(&format!("GET {on_b}")));
    rig.core.set_topology(topology(2, &[("a", false), ("b", true), ("c", false)]));
    rig.pass(101);
    rig.write_to_clients(usize::MAX);
    assert!(rig.got(older).starts_with("-NODEDOWN"));
    assert_eq!(rig.got(newer), "");
}

#[test]
fn an_exec_with_arguments_ends_its_transaction() {
    let script = ["MULTI", "SET k 1", "EXEC now", "GET k"].map(request).concat();
    let expect =
        "+OK\r\n+QUEUED\r\n-EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command\r\n$-1\r\n";
    assert_eq!(Rig::new(&THREE).ask(script), expect);
}

#[test]
fn a_node_that_refuses_a_subscription_keeps_the_others() {
    let mut rig = Rig::new(&THREE);
    let (keen, refused) = (rig.client(), rig.client());
    let channel = rig.key_of("a", 0);
    rig.say(keen, request(&format!("SUBSCRIBE {channel}")));
    rig.settle();
    rig.got(keen);
    // As redis before 7.0 answers.
    rig.say(refused, request(&format!("SSUBSCRIBE {channel}")));
    rig.settle();
    assert_eq!(rig.got(refused), "-ERR unknown command 'ssubscribe'\r\n");
    assert_eq!(rig.core.topics.len(), 1);
    publish(&mut rig, &channel, "hi");
    rig.settle();
    assert!(rig.got(keen).ends_with("$2\r\nhi\r\n"));
}

#[test]
fn the_topics_of_a_node_that_moved_are_not_sent_to_where_it_was() {
    let mut rig = Rig::new(&THREE);
    let channel = rig.key_of("a", 0);
    rig.ask([request(&format!("SUBSCRIBE {channel}")), request(&format!("UNSUBSCRIBE {channel}"))].concat());
    let mut map: NodeMap = THREE.iter().map(|name| ((*name).to_owned(), node(name, true))).collect();
    map.get_mut("a").unwrap().config = Endpoint::new("elsewhere", 1);
    rig.reachable.insert("elsewhere".to_owned());
    rig.core.set_topology(Arc::new(Topology::build(&map, 2, &PlacementOptions::default(), 0)));
    rig.ask(request(&format!("SUBSCRIBE {channel}")));
    for &backend in rig.nodes.keys() {
        assert_ne!(rig.core.backends[backend as usize].endpoint.host, "a");
    }
}

fn legacy(epoch: u64, nodes: &[(&str, bool)]) -> Arc<Topology> {
    let map: NodeMap = nodes.iter().map(|(name, up)| ((*name).to_owned(), node(name, *up))).collect();
    let options = PlacementOptions { kind: vrc_cluster::topology::PlacementKind::Legacy, ..PlacementOptions::default() };
    Arc::new(Topology::build(&map, epoch, &options, 0))
}

/// Two keys that one node has as long as c is out, and of which only the first stays there when c comes.
fn keys_that_part(rig: &Rig, all: &Topology) -> (String, String) {
    let owner = |topology: &Topology, key: &str| {
        let owner = topology.owner(topology.place(key.as_bytes())).unwrap();
        topology.nodes()[usize::from(owner.node)].name.to_string()
    };
    let key = |then: &str| {
        (0..).map(|n| format!("key{n}")).find(|key| owner(&rig.core.topology, key) == "a" && owner(all, key) == then).unwrap()
    };
    (key("a"), key("c"))
}

#[test]
fn under_legacy_a_watch_ends_when_any_of_its_keys_moves() {
    for on_watch in [true, false] {
        let mut rig = Rig::new(&THREE);
        rig.core.set_topology(legacy(2, &[("a", true), ("b", true), ("c", false)]));
        let all = legacy(3, &[("a", true), ("b", true), ("c", true)]);
        let (stays, moves) = keys_that_part(&rig, &all);
        let client = rig.client();
        let watch = if on_watch { format!("WATCH {stays} {moves}") } else { format!("WATCH {stays}") };
        rig.say(client, [request(&watch), request("MULTI"), request(&format!("SET {stays} 1"))].concat());
        if !on_watch {
            rig.say(client, request(&format!("SET {moves} 1")));
        }
        rig.settle();
        rig.got(client);
        rig.core.set_topology(all);
        rig.say(client, request("EXEC"));
        rig.settle();
        let expect = if on_watch { "*-1\r\n" } else { "-CROSSSLOT Keys in request don't hash to the same slot\r\n" };
        assert_eq!(rig.got(client), expect);
        assert!(rig.data.values().all(BTreeMap::is_empty));
    }
}

#[test]
fn under_legacy_a_wait_ends_when_any_of_its_keys_moves() {
    let mut rig = Rig::new(&THREE);
    rig.core.set_topology(legacy(2, &[("a", true), ("b", true), ("c", false)]));
    let all = legacy(3, &[("a", true), ("b", true), ("c", true)]);
    let (stays, moves) = keys_that_part(&rig, &all);
    let client = rig.client();
    rig.say(client, request(&format!("BLPOP {stays} {moves} 0")));
    rig.settle();
    rig.core.set_topology(all);
    rig.settle();
    assert!(rig.got(client).starts_with("-UNBLOCKED"));
}

#[test]
fn a_wait_with_an_end_ends_even_if_its_node_hangs() {
    for text in ["BLPOP {q} 0.5", "BLPOP {q} {q}p 0.25", "BLMPOP 0.5 1 {q} LEFT", "XREAD BLOCK 500 STREAMS {q} $"] {
        let mut rig = Rig::new(&THREE);
        let client = rig.client();
        rig.say(client, request(text));
        rig.effects();
        rig.connect();
        rig.pass(TIMEOUT_MS);
        rig.write_to_clients(usize::MAX);
        assert_eq!(rig.got(client), "", "{text}");
        rig.pass(501);
        rig.write_to_clients(usize::MAX);
        assert!(rig.got(client).starts_with("-NODEDOWN"), "{text}");
    }
}
