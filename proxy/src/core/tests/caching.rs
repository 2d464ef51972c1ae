//! Client-side caching: who is told of which changes, in which order, and what becomes of that when nodes come and go.

use super::*;

impl Rig {
    /// A node tracks what is read, and says what has changed.
    pub(super) fn track(&mut self, backend: u32, args: &[Vec<u8>]) {
        let in_transaction = self.nodes[&backend].multi.is_some();
        let name = self.core.backends[backend as usize].node.to_string();
        let keys: Vec<_> = match args[0].to_ascii_lowercase().as_slice() {
            _ if in_transaction => return,
            b"get" | b"mget" => {
                let tracked = self.core.backends[backend as usize].tracked.as_ref();
                if tracked.and_then(|tracked| tracked.options.as_ref()).is_some_and(|options| options.broadcast.is_none()) {
                    for key in &args[1..] {
                        self.tracked.entry((name.clone(), key.clone())).or_default().insert(backend);
                    }
                }
                return;
            }
            b"set" => vec![args[1].clone()],
            b"del" => args[1..].to_vec(),
            b"mset" => args[1..].iter().step_by(2).cloned().collect(),
            _ => return,
        };
        for key in keys {
            for reader in self.tracked.remove(&(name.clone(), key.clone())).unwrap_or_default() {
                self.push_invalidation(reader, backend, &[&key]);
            }
            for listener in self.nodes.keys().copied().collect::<Vec<_>>() {
                let of = &self.core.backends[listener as usize];
                let prefixes = of.tracked.as_ref().and_then(|tracked| tracked.options.clone()?.broadcast);
                if *of.node == name && prefixes.iter().flat_map(|prefixes| prefixes.iter()).any(|prefix| key.starts_with(prefix))
                {
                    self.push_invalidation(listener, backend, &[&key]);
                }
            }
        }
    }

    fn push_invalidation(&mut self, to: u32, writer: u32, keys: &[&[u8]]) {
        let of = &self.core.backends[to as usize];
        let Some(tracked) = &of.tracked else { return };
        let Some(options) = &tracked.options else { return };
        if options.noloop && to == writer {
            return;
        }
        let by_feed = of.lane.proto == Proto::Resp2 || (options.noloop && options.broadcast.is_some());
        let Some(node) = self.nodes.get_mut(&to) else { return };
        let out = if by_feed { self.feeds.entry(to).or_default() } else { &mut node.replies };
        out.extend_from_slice(b">2\r\n$10\r\ninvalidate\r\n");
        encode::request(out, keys);
    }

    /// The node has been emptied.
    fn push_flush(&mut self, node: &str) {
        for (backend, of) in &mut self.nodes {
            if &*self.core.backends[*backend as usize].node == node {
                of.replies.extend_from_slice(b">2\r\n$10\r\ninvalidate\r\n_\r\n");
            }
        }
    }

    /// Hands the core some of what nodes said on every third connection or so; what came by second connections waits.
    fn answer_some(&mut self, most: usize, which: usize) {
        for backend in
            self.nodes.keys().copied().filter(|backend| !(*backend as usize + which).is_multiple_of(3)).collect::<Vec<_>>()
        {
            let Some(Connected { replies, .. }) = self.nodes.get_mut(&backend) else { continue };
            let bytes: Vec<u8> = replies.drain(..replies.len().min(most)).collect();
            let incarnation = self.core.backend_incarnation(backend);
            self.core.backend_input(backend, incarnation, &bytes);
        }
    }

    /// Hands on what came on second connections. Returns whether there was nothing.
    pub(super) fn feed(&mut self) -> bool {
        let feeds = std::mem::take(&mut self.feeds);
        for (backend, bytes) in &feeds {
            let incarnation = self.core.backend_incarnation(*backend);
            bytes.chunks(5).for_each(|bytes| self.core.feed_input(*backend, incarnation, bytes));
        }
        feeds.is_empty()
    }

    pub(super) fn redirect(&mut self) {
        for Redirected { from, to, keys, .. } in self.core.take_redirected() {
            if !self.core.take_invalidation(to.session, keys.as_deref()) {
                self.core.redirect_broken(from, to.client);
            }
        }
    }

    /// A client that says these things first.
    fn client_that(&mut self, says: &[&str]) -> SessionId {
        let client = self.client();
        self.core.sessions[client.index as usize].id = 100 + u64::from(client.index);
        self.say(client, says.iter().flat_map(|text| request(text)).collect::<Vec<_>>());
        self.settle();
        self.got(client);
        client
    }

    fn caching(&mut self) -> SessionId {
        self.client_that(&["HELLO 3", "CLIENT TRACKING ON"])
    }

    fn told(&mut self, client: SessionId, texts: &[&str]) -> String {
        self.say(client, texts.iter().flat_map(|text| request(text)).collect::<Vec<_>>());
        self.settle();
        self.got(client)
    }
}

fn invalidate(keys: &[&str]) -> String {
    let mut out = b">2\r\n$10\r\ninvalidate\r\n".to_vec();
    encode::request(&mut out, keys);
    String::from_utf8(out).unwrap()
}

const FLUSH: &str = ">2\r\n$10\r\ninvalidate\r\n_\r\n";

#[test]
fn whoever_has_read_a_key_is_told_once_that_it_has_changed() {
    let mut rig = Rig::new(&THREE);
    let (one, two, other) = (rig.caching(), rig.caching(), rig.caching());
    rig.told(one, &["GET k", "MGET a b c d k2"]);
    rig.told(two, &["GET k"]);
    rig.told(other, &["GET other"]);
    let lanes = rig.core.backends.iter().filter(|backend| backend.tracked.is_some()).count();
    assert!(lanes <= 3, "they share their connections: {lanes}");
    rig.ask(request("SET k 1"));
    rig.ask(request("SET k 2"));
    assert_eq!(rig.got(one), invalidate(&["k"]));
    assert_eq!(rig.got(two), invalidate(&["k"]));
    assert_eq!(rig.got(other), "");
    rig.ask(request("MSET c 1 k2 1"));
    let got = rig.got(one);
    assert!(got == invalidate(&["c"]) + &invalidate(&["k2"]) || got == invalidate(&["k2"]) + &invalidate(&["c"]), "{got}");
    // The writer too, behind its reply; and a read after that counts anew.
    assert_eq!(rig.told(one, &["GET k", "SET k 3", "GET k"]), format!("$1\r\n2\r\n+OK\r\n{}$1\r\n3\r\n", invalidate(&["k"])));
    assert_eq!(rig.told(one, &["DEL k"]), ":1\r\n".to_owned() + &invalidate(&["k"]));
}

#[test]
fn an_invalidation_never_comes_before_the_reply_it_is_about() {
    let rig = Rig::new(&THREE);
    let (on_a, on_b) = (rig.key_of("a", 0), rig.key_of("b", 0));
    for proto in ["2", "3"] {
        let mut rig = Rig::new(&THREE);
        let target = rig.client_that(&["HELLO 3"]);
        let client = match proto {
            "3" => rig.client_that(&["HELLO 3", "CLIENT TRACKING ON", &format!("GET {on_a}"), &format!("GET {on_b}")]),
            _ => rig.client_that(&[&format!("CLIENT TRACKING ON REDIRECT {}", 100 + target.index), &format!("GET {on_a}")]),
        };
        rig.ask(request(&format!("MSET {on_a} 1 {on_b} 1")));
        rig.got(client);
        rig.got(target);
        // The reply from b is here, that from a is not.
        let slow: Vec<_> = rig.nodes.keys().copied().filter(|at| &*rig.core.backends[*at as usize].node == "a").collect();
        rig.say(client, [request(&format!("GET {on_a}")), request(&format!("GET {on_b}"))].concat());
        rig.effects();
        rig.connect();
        rig.write_to_nodes(usize::MAX);
        let held: Vec<_> = slow.iter().map(|at| (*at, std::mem::take(&mut rig.nodes.get_mut(at).unwrap().replies))).collect();
        rig.ask(request(&format!("SET {on_b} 2")));
        assert_eq!((rig.got(client), rig.got(target)), (String::new(), String::new()));
        for (at, replies) in held {
            rig.nodes.get_mut(&at).unwrap().replies.extend(replies);
        }
        rig.settle();
        let replies = "$1\r\n1\r\n$1\r\n1\r\n".to_owned();
        match proto {
            "3" => assert_eq!(rig.got(client), replies + &invalidate(&[&on_b])),
            _ => assert_eq!((rig.got(client), rig.got(target)), (replies, invalidate(&[&on_b]))),
        }
    }
}

#[test]
fn a_read_that_its_invalidation_overtook_counts_as_stale() {
    let mut rig = Rig::new(&THREE);
    let target = rig.client_that(&["HELLO 3"]);
    let client = rig.client_that(&[&format!("CLIENT TRACKING ON REDIRECT {}", 100 + target.index), "GET k"]);
    rig.say(client, request("GET k"));
    rig.write_to_nodes(usize::MAX);
    let writer = rig.client();
    rig.say(writer, request("SET k new"));
    rig.effects();
    rig.connect();
    rig.write_to_nodes(usize::MAX);
    // The second connection is read first.
    rig.feed();
    rig.write_to_clients(usize::MAX);
    rig.write_to_clients(usize::MAX);
    assert_eq!((rig.got(client), rig.got(target)), (String::new(), invalidate(&["k"])), "of the read before");
    rig.settle();
    assert_eq!((rig.got(client).as_str(), rig.got(target)), ("$-1\r\n", invalidate(&["k"])));
    // And a later one is tracked again.
    rig.told(client, &["GET k"]);
    rig.ask(request("SET k newer"));
    assert_eq!(rig.got(target), invalidate(&["k"]));
}

#[test]
fn a_redirect_is_heard_by_resp2_on_its_channel_and_its_end_is_told() {
    let mut rig = Rig::new(&THREE);
    let target = rig.client_that(&["SUBSCRIBE __redis__:invalidate"]);
    let client = rig.client_that(&["HELLO 3", &format!("CLIENT TRACKING ON REDIRECT {}", 100 + target.index), "GET k"]);
    rig.ask(request("SET k 1"));
    assert_eq!(rig.got(target), "*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n*1\r\n$1\r\nk\r\n");
    assert_eq!(rig.got(client), "");
    rig.told(client, &["GET k"]);
    rig.core.session_closed(target);
    rig.ask(request("SET k 2"));
    let broken = format!(">2\r\n$21\r\ntracking-redir-broken\r\n:{}\r\n", 100 + target.index);
    assert_eq!(rig.got(client), broken);
    assert!(rig.told(client, &["CLIENT TRACKINGINFO"]).contains("broken_redirect"));
    assert_eq!(
        rig.told(client, &["CLIENT TRACKING ON REDIRECT 7777"]),
        "-ERR The client ID you want redirect to does not exist\r\n"
    );
}

#[test]
fn reads_count_as_the_modes_say() {
    for (setup, reads, is_told) in [
        ("CLIENT TRACKING ON OPTIN", &["GET k"][..], false),
        ("CLIENT TRACKING ON OPTIN", &["CLIENT CACHING YES", "GET k"], true),
        ("CLIENT TRACKING ON OPTIN", &["CLIENT CACHING YES", "GET other", "GET k"], false),
        ("CLIENT TRACKING ON OPTIN", &["CLIENT CACHING YES", "MULTI", "GET k", "EXEC"], true),
        ("CLIENT TRACKING ON OPTIN", &["MULTI", "CLIENT CACHING YES", "GET k", "EXEC"], true),
        ("CLIENT TRACKING ON OPTIN", &["MULTI", "GET k", "EXEC"], false),
        ("CLIENT TRACKING ON OPTOUT", &["GET k"], true),
        ("CLIENT TRACKING ON OPTOUT", &["CLIENT CACHING NO", "GET k"], false),
        ("CLIENT TRACKING ON", &["MULTI", "GET k", "EXEC"], true),
        ("CLIENT TRACKING ON", &["GET k", "CLIENT TRACKING OFF"], false),
        ("CLIENT TRACKING ON", &["GET k", "RESET"], false),
    ] {
        let mut rig = Rig::new(&THREE);
        // What another has made the node track is nothing to this one.
        let other = rig.caching();
        rig.told(other, &["GET k"]);
        let client = rig.client_that(&["HELLO 3", setup]);
        // In a transaction the rig's nodes track nothing: that it would be told of is what counts.
        rig.told(client, reads);
        rig.ask(request("SET k 1"));
        assert_eq!(rig.got(client), if is_told { invalidate(&["k"]) } else { String::new() }, "{setup}: {reads:?}");
    }
}

#[test]
fn noloop_leaves_out_ones_own_writes() {
    for setup in ["CLIENT TRACKING ON NOLOOP", "CLIENT TRACKING ON BCAST NOLOOP"] {
        let mut rig = Rig::new(&THREE);
        let client = rig.client_that(&["HELLO 3", setup, "GET k", "GET l"]);
        assert_eq!(rig.told(client, &["SET k 1"]), "+OK\r\n", "{setup}");
        rig.ask(request("SET l 1"));
        assert_eq!(rig.got(client), invalidate(&["l"]), "{setup}");
        rig.told(client, &["SELECT 1", "SET k 2", "SELECT 0", "GET k"]);
        rig.ask(request("SET k 3"));
        assert_eq!(rig.got(client), invalidate(&["k"]), "{setup}");
        rig.told(client, &["CLIENT TRACKING OFF"]);
        rig.effects();
        assert!(rig.core.own_lanes.is_empty());
        let client = rig.client_that(&["HELLO 3", setup, "GET k"]);
        rig.core.session_closed(client);
        rig.effects();
        assert!(rig.core.own_lanes.is_empty());
    }
}

#[test]
fn what_is_broadcast_comes_by_prefix_read_or_not() {
    let mut rig = Rig::new(&THREE);
    let users = rig.client_that(&["HELLO 3", "CLIENT TRACKING ON BCAST PREFIX user: PREFIX group:"]);
    let same = rig.client_that(&["HELLO 3", "CLIENT TRACKING ON BCAST PREFIX group: PREFIX user:"]);
    let all = rig.client_that(&["HELLO 3", "CLIENT TRACKING ON BCAST"]);
    let connections = rig.core.backends.iter().filter(|backend| backend.hold == Some(Hold::Broadcast)).count();
    assert_eq!(connections, 6, "those with the same prefixes share theirs");
    rig.ask(request("SET user:1 a"));
    for client in [users, same, all] {
        assert_eq!(rig.got(client), invalidate(&["user:1"]));
    }
    rig.ask(request("SET item:1 a"));
    assert_eq!((rig.got(users), rig.got(all)), (String::new(), invalidate(&["item:1"])));
    // Another prefix is added, and nothing is missed or said twice.
    assert_eq!(rig.told(users, &["CLIENT TRACKING ON BCAST PREFIX item:"]), "+OK\r\n");
    rig.ask(request("MSET item:1 b user:1 b"));
    assert_eq!(rig.got(users).matches("invalidate").count(), 2);
    for client in [users, same, all] {
        rig.core.session_closed(client);
    }
    rig.effects();
    assert_eq!((rig.nodes.values().filter(|node| node.seen.is_empty()).count(), rig.core.private_count), (0, 0));
}

#[test]
fn a_ping_is_answered_once_all_that_was_written_before_has_been_told() {
    for setup in ["CLIENT TRACKING ON", "CLIENT TRACKING ON BCAST"] {
        let mut rig = Rig::new(&THREE);
        let writer = rig.client_that(&["SET l 1"]);
        let client = rig.client_that(&["HELLO 3", setup, "GET k"]);
        rig.say(writer, request("SET k 1"));
        rig.effects();
        rig.connect();
        rig.write_to_nodes(usize::MAX);
        // Nothing that the nodes said has been read when the client asks.
        assert_eq!(rig.told(client, &["PING"]), invalidate(&["k"]) + "+PONG\r\n", "{setup}");
    }
}

#[test]
fn a_node_that_goes_away_counts_as_a_change_of_what_was_read_there() {
    let mut rig = Rig::new(&THREE);
    let (on_a, on_b) = (rig.key_of("a", 0), rig.key_of("b", 0));
    let client = rig.caching();
    rig.told(client, &[&format!("GET {on_a}"), &format!("GET {on_b}")]);
    rig.kill("a");
    rig.settle();
    assert_eq!(rig.got(client), invalidate(&[&on_a]));
    rig.reachable.insert("a".to_owned());
    rig.told(client, &[&format!("GET {on_a}")]);
    // Out of the map, and in again: a key that moves is heard of no more where it was.
    let (without, with) = ([("a", false), ("b", true), ("c", true)], [("a", true), ("b", true), ("c", true)]);
    rig.core.set_topology(topology(2, &without));
    rig.settle();
    assert_eq!(rig.got(client), invalidate(&[&on_a]));
    rig.told(client, &[&format!("GET {on_a}")]);
    rig.core.set_topology(topology(3, &with));
    rig.settle();
    assert_eq!(rig.got(client), invalidate(&[&on_a]));
    assert_eq!((rig.core.tracked_sizes.keys, rig.core.tracked_sizes.items), (1, 1), "what b has");
    // Those who hear broadcasts may have missed something, whatever it is.
    let listener = rig.client_that(&["HELLO 3", "CLIENT TRACKING ON BCAST"]);
    rig.core.set_topology(topology(4, &without));
    rig.settle();
    assert_eq!(rig.got(listener), FLUSH);
}

#[test]
fn a_reply_from_where_a_key_was_before_the_map_changed_is_not_to_be_kept() {
    let mut rig = Rig::new(&THREE);
    let without = [("a", false), ("b", true), ("c", true)];
    rig.core.set_topology(topology(2, &without));
    let all = topology(3, &[("a", true), ("b", true), ("c", true)]);
    let moves = |key: &String| &*all.nodes()[usize::from(all.owner(all.place(key.as_bytes())).unwrap().node)].name == "a";
    let key = (0..).map(|n| rig.key_of("b", n)).find(moves).unwrap();
    let client = rig.caching();
    rig.told(client, &["GET warm"]);
    rig.say(client, request(&format!("GET {key}")));
    rig.effects();
    rig.connect();
    rig.write_to_nodes(usize::MAX);
    rig.core.set_topology(all.clone());
    rig.settle();
    let got = rig.got(client);
    assert!(
        got.ends_with(&("_\r\n".to_owned() + &invalidate(&[&key])))
            || got.ends_with(&("$-1\r\n".to_owned() + &invalidate(&[&key]))),
        "{got}"
    );
}

#[test]
fn an_emptied_node_is_told_once_to_each() {
    let mut rig = Rig::new(&THREE);
    let keys = THREE.map(|name| rig.key_of(name, 0));
    let (client, idle) = (rig.caching(), rig.caching());
    rig.told(client, &[&format!("MGET {}", keys.join(" "))]);
    THREE.iter().for_each(|name| rig.push_flush(name));
    rig.settle();
    assert_eq!((rig.got(client).as_str(), rig.got(idle).as_str()), (FLUSH, ""));
    rig.told(client, &[&format!("GET {}", keys[0])]);
    rig.ask(request(&format!("SET {} 1", keys[0])));
    assert_eq!(rig.got(client), invalidate(&[&keys[0]]));
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut rig = Rig::new(&THREE);
    let client = rig.caching();
    let (count, len) = (80, 1024 * 1024);
    for number in 0..count {
        rig.told(client, &[&format!("GET {number}:{}", "x".repeat(len))]);
    }
    let left = rig.core.tracked_sizes.keys;
    assert!(left * len <= crate::limits::TRACKED_BYTES_MAX && left + 16 >= count - 16, "{left}");
    rig.core.session_closed(client);
}

#[test]
fn reads_where_nothing_is_tracked_count_as_stale() {
    let mut rig = Rig::new(&THREE);
    let client = rig.caching();
    let got = rig.told(client, &["WATCH {t}a", "MULTI", "GET {t}a", "EXEC"]);
    assert!(got.ends_with(&invalidate(&["{t}a"])), "{got}");
    let tracking = rig.core.sessions[client.index as usize].tracking.as_ref().unwrap();
    assert!(!tracking.has_reads());
}

/// A client that keeps what it reads until it is told that it has changed.
struct Cache {
    client: SessionId,
    /// Where its invalidations come, if not with its replies.
    target: Option<SessionId>,
    /// What it has asked and got no answer to: the keys of a read, or of a write.
    asked: std::collections::VecDeque<(bool, Vec<String>)>,
    kept: BTreeMap<String, String>,
    unread: String,
}

impl Cache {
    fn new(rig: &mut Rig, mode: usize) -> Self {
        let (client, target) = match mode {
            0 => (rig.client_that(&["HELLO 3", "CLIENT TRACKING ON"]), None),
            1 => (rig.client_that(&["HELLO 3", "CLIENT TRACKING ON NOLOOP"]), None),
            2 => (rig.client_that(&["HELLO 3", "CLIENT TRACKING ON BCAST"]), None),
            3 => (rig.client_that(&["HELLO 3", "CLIENT TRACKING ON BCAST NOLOOP PREFIX k"]), None),
            _ => {
                let target = rig.client_that(&["HELLO 3"]);
                let client = rig.client_that(&[&format!("CLIENT TRACKING ON REDIRECT {}", 100 + target.index)]);
                (client, Some(target))
            }
        };
        Cache { client, target, asked: Default::default(), kept: BTreeMap::new(), unread: String::new() }
    }

    fn ask(&mut self, rig: &mut Rig, is_read: bool, keys: Vec<String>, text: &str) {
        self.asked.push_back((is_read, keys));
        rig.say(self.client, request(text));
    }

    /// Takes what came: replies, and then what came by the other connection.
    fn take(&mut self, rig: &mut Rig) {
        self.unread.push_str(&rig.got(self.client));
        let unread = std::mem::take(&mut self.unread);
        let rest = self.take_from(&unread);
        self.unread = unread[rest..].to_owned();
        if let Some(target) = self.target {
            let pushes = rig.got(target);
            assert_eq!(self.take_from(&pushes), pushes.len());
        }
    }

    fn take_from(&mut self, text: &str) -> usize {
        let mut at = 0;
        while let Ok(Some(len)) = ReplyFramer::default().advance(&text.as_bytes()[at..]) {
            let reply = &text[at..at + len];
            at += len;
            let lines: Vec<&str> = reply.split("\r\n").collect();
            if reply.starts_with('>') {
                assert_eq!(lines[2], "invalidate");
                match lines[3].strip_prefix('*') {
                    Some(_) => lines[5..].iter().step_by(2).for_each(|key| drop(self.kept.remove(*key))),
                    None => self.kept.clear(),
                }
                continue;
            }
            let (is_read, keys) = self.asked.pop_front().expect("a reply to something");
            let is_array = reply.starts_with('*');
            let mut values = vrc_cluster::resp::array_elements(reply.as_bytes()).into_iter().flatten();
            for key in keys {
                self.kept.remove(&key);
                if is_read && !reply.starts_with('-') {
                    let value = if is_array { values.next().unwrap() } else { reply.as_bytes() };
                    self.kept.insert(key, String::from_utf8(value.to_vec()).unwrap());
                }
            }
        }
        at
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// Whatever is read and written by whom, however the bytes of connections are cut and delayed against each other, and whichever
    /// nodes come and go: once all is quiet, what clients have kept is what is there.
    #[test]
    fn what_clients_keep_is_what_is_there(
        steps in prop::collection::vec((0usize..40, 0usize..5, 0usize..4, 1usize..90, any::<bool>()), 1..200),
    ) {
        let mut rig = Rig::new(&THREE);
        let mut caches: Vec<_> = (0..5).map(|mode| Cache::new(&mut rig, mode)).collect();
        let writer = rig.client();
        let mut epoch = 1;
        for (number, (what, who, key, most, feed_first)) in steps.into_iter().enumerate() {
            let name = format!("k{key}");
            let cache = &mut caches[who];
            match what {
                0 => rig.kill(THREE[key % 3]),
                1 | 2 => {
                    rig.reachable.insert(THREE[key % 3].to_owned());
                }
                3 => {
                    epoch += 1;
                    rig.core.set_topology(topology(epoch, &[("a", key != 1), ("b", key != 2), ("c", key != 3)]));
                }
                4 => rig.pass(most as u64),
                5..=10 => cache.ask(&mut rig, false, vec![name.clone()], &format!("SET {name} {number}")),
                11..=16 => rig.say(writer, request(&format!("SET {name} {number}"))),
                17..=20 => {
                    let other = format!("k{}", (key + 1) % 4);
                    cache.ask(&mut rig, true, vec![name.clone(), other.clone()], &format!("MGET {name} {other}"));
                }
                _ => cache.ask(&mut rig, true, vec![name.clone()], &format!("GET {name}")),
            }
            rig.effects();
            rig.connect();
            rig.write_to_nodes(most);
            if feed_first {
                rig.feed();
            }
            rig.answer_some(most, who);
            rig.core.resume_paused();
            rig.write_to_clients(usize::MAX);
            caches.iter_mut().for_each(|cache| cache.take(&mut rig));
        }
        rig.reachable.extend(THREE.map(str::to_owned));
        for _ in 0..8 {
            rig.settle();
            rig.pass(TIMEOUT_MS / 4);
        }
        rig.settle();
        for (mode, cache) in caches.iter_mut().enumerate() {
            cache.take(&mut rig);
            prop_assert!(cache.asked.is_empty());
            for (key, kept) in &cache.kept {
                let owner = rig.core.topology.owner(rig.core.topology.place(key.as_bytes())).unwrap();
                let node = rig.core.topology.nodes()[usize::from(owner.node)].name.to_string();
                let there = rig.data.get(&node).and_then(|data| data.get(key.as_bytes()));
                let mut expect = Vec::new();
                value(&mut expect, there);
                prop_assert_eq!(kept, &String::from_utf8(expect).unwrap(), "{} kept by {}", key, mode);
            }
        }
    }
}

#[test]
fn connections_that_only_listen_are_asked_whether_the_node_is_there_but_not_with_noloop() {
    for (setup, is_asked) in [
        ("CLIENT TRACKING ON", true),
        ("CLIENT TRACKING ON BCAST", true),
        ("CLIENT TRACKING ON BCAST NOLOOP", true),
        ("CLIENT TRACKING ON NOLOOP", false),
    ] {
        let mut rig = Rig::new(&THREE);
        rig.client_that(&["HELLO 3", setup, "GET k"]);
        rig.pass(crate::limits::LISTENER_PING_MS);
        rig.settle();
        assert_eq!(rig.nodes.values().any(|node| node.seen.iter().any(|name| name == "ping")), is_asked, "{setup}");
    }
}
