//! CLIENT: replies that are not wanted, pauses, and the end of others.

use super::*;

impl Rig {
    /// A client of its own number.
    pub(super) fn client_of_id(&mut self, id: u64) -> SessionId {
        let session = self
            .core
            .session_open(id, Peer::Tcp { peer: ([127, 0, 0, 1], id as u16).into(), local: ([127, 0, 0, 1], 7379).into() });
        self.clients.insert(session.index, Vec::new());
        session
    }

    pub(super) fn tell(&mut self, client: SessionId, text: &str) -> String {
        let all: Vec<u8> = text.lines().flat_map(|line| request(line.trim())).collect();
        self.say(client, all);
        self.settle();
        self.got(client)
    }
}

#[test]
fn replies_that_are_not_wanted_do_not_come_whatever_they_are_to() {
    let mut rig = Rig::new(&THREE);
    let client = rig.client();
    for (text, expect) in [
        ("CLIENT REPLY OFF\nPING\nSET a 1\nMSET a 1 b 2 c 3\nGET a\nNONSENSE\nDBSIZE\nCLIENT REPLY ON\nPING", "+OK\r\n+PONG\r\n"),
        ("CLIENT REPLY SKIP\nGET a\nGET a", "$1\r\n1\r\n"),
        ("CLIENT REPLY SKIP\nMGET a b c\nGET a", "$1\r\n1\r\n"),
        ("GET b\nCLIENT REPLY SKIP\nCLIENT REPLY SKIP\nGET a\nGET c", "$1\r\n2\r\n$1\r\n3\r\n"),
        ("CLIENT REPLY OFF\nCLIENT REPLY SKIP\nPING\nCLIENT REPLY ON\nPING", "+OK\r\n+PONG\r\n"),
        ("CLIENT REPLY SKIP\nCLIENT REPLY ON\nPING", "+OK\r\n+PONG\r\n"),
        ("CLIENT REPLY maybe", "-ERR syntax error\r\n"),
        ("CLIENT REPLY SKIP\nMULTI\nPING\nEXEC", "+QUEUED\r\n*1\r\n+PONG\r\n"),
        ("CLIENT REPLY OFF\nMULTI\nSET a 5\nPUBLISH ch x\nEXEC\nCLIENT REPLY ON\nGET a", "+OK\r\n$1\r\n5\r\n"),
        ("CLIENT REPLY OFF\nRESET\nPING", "+RESET\r\n+PONG\r\n"),
    ] {
        assert_eq!(rig.tell(client, text), expect, "{text}");
    }
    // A reply that is missing from EXEC's array helps nobody.
    assert!(rig.tell(client, "MULTI\nCLIENT REPLY SKIP\nEXEC").contains("-EXECABORT"));
    assert!(rig.core.sessions[client.index as usize].mute.is_none());
    assert!(rig.core.sessions[client.index as usize].replies.has_ample_room());
}

#[test]
fn unwanted_replies_keep_their_places_wherever_bytes_are_cut() {
    let script = "SET a 1\nCLIENT REPLY SKIP\nGET a\nMGET a b c\nCLIENT REPLY OFF\nMGET c b\nGET b\nCLIENT REPLY ON\nGET a";
    let bytes: Vec<u8> = script.lines().flat_map(request).collect();
    for cut in 0..bytes.len() {
        for most in [1, 7, usize::MAX] {
            let mut rig = Rig::new(&THREE);
            let client = rig.client();
            rig.say(client, &bytes[..cut]);
            if cut > 0 {
                rig.core.set_now(1000);
            }
            rig.say(client, &bytes[cut..]);
            for _ in 0..400 {
                rig.effects();
                rig.connect();
                rig.write_to_nodes(most);
                // The last node answers first.
                for name in ["c", "b", "a"] {
                    rig.answer_from(name);
                }
                rig.write_to_clients(most);
                rig.core.resume_paused();
            }
            assert_eq!(rig.got(client), "+OK\r\n*3\r\n$1\r\n1\r\n$-1\r\n$-1\r\n+OK\r\n$1\r\n1\r\n", "cut at {cut}");
        }
    }
}

#[test]
fn a_pause_holds_back_what_may_write_or_everything_until_it_ends() {
    let mut rig = Rig::new(&THREE);
    let (admin, other) = (rig.client(), rig.client());
    rig.tell(admin, "SET a 1");
    assert_eq!(rig.tell(admin, "CLIENT PAUSE 100 WRITE"), "+OK\r\n");
    assert_eq!(rig.tell(other, "GET a\nSET a 2\nGET a"), "$1\r\n1\r\n", "what follows a write waits with it");
    assert_eq!(rig.tell(admin, "GET a"), "$1\r\n1\r\n");
    // Of two pauses the longer and the stricter counts.
    assert_eq!(rig.tell(admin, "CLIENT PAUSE 10 ALL"), "+OK\r\n");
    let third = rig.client();
    assert_eq!(rig.tell(third, "PING"), "");
    rig.pass(60);
    rig.settle();
    assert_eq!(rig.got(third), "");
    rig.pass(50);
    rig.settle();
    assert_eq!((rig.got(third).as_str(), rig.got(other).as_str()), ("+PONG\r\n", "+OK\r\n$1\r\n2\r\n"));

    rig.tell(admin, "CLIENT PAUSE 9223372036854775807 WRITE");
    assert_eq!(rig.tell(other, "MULTI\nGET a\nEXEC"), "+OK\r\n+QUEUED\r\n*1\r\n$1\r\n2\r\n");
    for held_back in ["PUBLISH c m", "FLUSHALL", "EVAL x 0", "MULTI\nSET a 3"] {
        let client = rig.client();
        rig.say(client, held_back.lines().flat_map(request).collect::<Vec<_>>());
        rig.settle();
        assert!(["", "+OK\r\n"].contains(&rig.got(client).as_str()), "{held_back}");
        rig.core.session_closed(client);
    }
    let script = rig.client();
    let mut eval = Vec::new();
    encode::request(&mut eval, &["EVAL", "#!lua flags=allow-stale,no-writes\nreturn 1", "0"]);
    rig.say(script, eval);
    rig.settle();
    assert_eq!(rig.got(script), "+RAN\r\n");
    let by_id = format!("EVALSHA {} 0", sha1(b"#!lua flags=allow-stale,no-writes\nreturn 1"));
    assert_eq!(rig.tell(script, &by_id), "+RAN\r\n");
    assert_eq!(rig.tell(script, "FCALL reads 0"), "+CALLED\r\n", "a node knows that it writes nothing");
    let writer = rig.client();
    assert_eq!(rig.tell(writer, "FCALL writes 0"), "");
    rig.core.session_closed(writer);
    // Errors and refusals come at once.
    assert!(
        rig.tell(other, "SET a\nNONSENSE")
            .starts_with("-ERR wrong number of arguments for 'set' command\r\n-ERR unknown command")
    );
    assert_eq!(rig.tell(other, "SET a 4"), "");
    rig.core.tick(rig.now_ms * 1000);
    assert_eq!(rig.core.counters.blocked, 1);
    // A transaction is held back as a whole, not half.
    let late = rig.client();
    rig.tell(admin, "CLIENT UNPAUSE");
    assert_eq!(rig.tell(late, "MULTI\nSET a 5"), "+OK\r\n+QUEUED\r\n");
    rig.tell(admin, "CLIENT PAUSE 100 WRITE");
    assert_eq!(rig.tell(late, "EXEC"), "");
    assert_eq!(rig.tell(admin, "CLIENT UNPAUSE"), "+OK\r\n");
    assert_eq!(rig.got(late), "*1\r\n+OK\r\n");
    assert_eq!(rig.got(other), "+OK\r\n");
    // One that says goodbye while it is held back is not carried out.
    rig.tell(admin, "CLIENT PAUSE 100");
    rig.tell(other, "SET a 6");
    rig.core.session_ended(other);
    rig.settle();
    rig.clients.remove(&other.index);
    rig.pass(200);
    rig.settle();
    assert_eq!(rig.tell(admin, "GET a"), "$1\r\n5\r\n");
}

#[test]
fn a_pause_in_a_transaction_begins_behind_it() {
    let mut rig = Rig::new(&THREE);
    let client = rig.client();
    assert_eq!(
        rig.tell(client, "MULTI\nSET {k}1 a\nCLIENT PAUSE 100 WRITE\nSET {k}2 b\nEXEC\nSET {k}1 c"),
        "+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n*3\r\n+OK\r\n+OK\r\n+OK\r\n"
    );
    rig.pass(101);
    rig.settle();
    assert_eq!(rig.got(client), "+OK\r\n");
}

#[test]
fn clients_are_listed_and_killed_by_what_they_are() {
    let mut rig = Rig::new(&THREE);
    let clients: Vec<_> = (1..=5).map(|id| rig.client_of_id(id)).collect();
    let open = |rig: &Rig| clients.iter().map(|client| u8::from(rig.core.is_open(*client)).to_string()).collect::<String>();
    rig.tell(clients[1], "SUBSCRIBE ch");
    rig.tell(clients[2], "MULTI");
    rig.tell(clients[3], "CLIENT NO-EVICT on\nCLIENT SETNAME four");
    let list = rig.tell(clients[0], "CLIENT LIST");
    for part in [
        "id=2 addr=127.0.0.1:2 laddr=127.0.0.1:7379",
        "flags=P db=0 sub=1",
        "flags=x db=0",
        "name=four age=0 idle=0 flags=e",
        "cmd=client|list",
    ] {
        assert!(list.contains(part), "{part} in {list}");
    }
    let shown = |list: &str, id: u64| list.lines().find(|line| line.contains(&format!("id={id} "))).unwrap().to_owned();
    assert!(shown(&list, 1).contains(" qbuf=26 ") && shown(&list, 2).contains(" qbuf=0 "), "the request that asks: {list}");
    assert!(shown(&rig.tell(clients[4], "CLIENT INFO"), 5).contains(" qbuf=26 "));
    assert!(list.find("id=2 ") < list.find("id=3 "));
    let listed =
        |list: &str| list.lines().filter(|line| line.starts_with("id=")).map(|line| line[3..4].to_owned()).collect::<String>();
    assert_eq!(listed(&rig.tell(clients[0], "CLIENT LIST TYPE pubsub")), "2");
    assert_eq!(listed(&rig.tell(clients[0], "CLIENT LIST TYPE normal")), "1345");
    assert_eq!(listed(&rig.tell(clients[0], "CLIENT LIST TYPE replica")), "");
    assert_eq!(listed(&rig.tell(clients[0], "CLIENT LIST ID 3 9 1")), "13");

    assert_eq!(rig.tell(clients[0], "CLIENT KILL 127.0.0.1:9"), "-ERR No such client\r\n");
    assert_eq!(rig.tell(clients[0], "CLIENT KILL ID 1"), ":0\r\n", "not whoever asks, unless it says so");
    assert_eq!(rig.tell(clients[0], "CLIENT KILL TYPE pubsub LADDR 127.0.0.1:7379 ID 3"), ":0\r\n");
    assert_eq!(open(&rig), "11111");
    assert_eq!(rig.tell(clients[0], "CLIENT KILL 127.0.0.1:4"), "+OK\r\n");
    assert_eq!(rig.tell(clients[0], "CLIENT KILL TYPE pubsub USER default"), ":1\r\n");
    assert_eq!(open(&rig), "10101");
    assert_eq!(rig.tell(clients[0], "PING\nCLIENT KILL SKIPME no LADDR 127.0.0.1:7379\nPING"), "+PONG\r\n:3\r\n");
    assert_eq!(open(&rig), "00000");
}

#[test]
fn a_wait_is_ended_by_its_node_which_is_told_until_it_comes_true() {
    let mut rig = Rig::new(&["a"]);
    let (asker, waiter) = (rig.client_of_id(1), rig.client_of_id(2));
    assert_eq!(rig.tell(asker, "CLIENT UNBLOCK 2"), ":0\r\n");
    rig.tell(waiter, "BLPOP q 0");
    let private = rig.core.sessions[waiter.index as usize].waiting.unwrap();
    rig.core.backend_known_as(private, Some(77));
    assert_eq!(rig.tell(asker, "CLIENT UNBLOCK 1"), ":0\r\n");
    assert_eq!(rig.tell(asker, "CLIENT UNBLOCK 2 ERROR"), ":1\r\n");
    let told = |rig: &Rig| rig.nodes.values().flat_map(|node| &node.seen).filter(|name| *name == "client").count();
    assert_eq!(told(&rig), 1);
    // It came before the wait had begun.
    rig.pass(50);
    rig.settle();
    assert_eq!(told(&rig), 2);
    rig.nodes.get_mut(&private).unwrap().replies.extend(b"-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n");
    rig.settle();
    assert_eq!(rig.got(waiter), "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n");
    // The connection is not used again: what is still under way would end the next wait on it.
    assert!(!rig.nodes.contains_key(&private));
    rig.pass(50);
    rig.settle();
    assert_eq!(told(&rig), 2);
}

#[test]
fn a_kill_is_answered_once_the_node_has_let_go() {
    for (reply, left) in [
        ("-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n", ""),
        ("*2\r\n$1\r\nq\r\n$1\r\nv\r\n", "*2\r\n$1\r\nq\r\n$1\r\nv\r\n"),
    ] {
        let mut rig = Rig::new(&["a"]);
        let (asker, waiter) = (rig.client_of_id(1), rig.client_of_id(2));
        rig.tell(waiter, "BLPOP q 0");
        let private = rig.core.sessions[waiter.index as usize].waiting.unwrap();
        rig.core.backend_known_as(private, Some(77));
        assert_eq!(rig.tell(asker, "CLIENT KILL ID 2"), "", "an element may still be on its way to it");
        assert!(rig.core.is_open(waiter));
        rig.nodes.get_mut(&private).unwrap().replies.extend(reply.as_bytes());
        rig.settle();
        assert_eq!(rig.got(asker), ":1\r\n");
        assert_eq!(rig.got(waiter), left, "what came before belongs to it");
        assert!(!rig.core.is_open(waiter) && !rig.nodes.contains_key(&private));
    }
}

#[test]
fn a_kill_does_not_wait_for_a_node_that_hangs() {
    let mut rig = Rig::new(&["a"]);
    let (asker, waiter) = (rig.client_of_id(1), rig.client_of_id(2));
    rig.tell(waiter, "BLPOP q 0");
    let private = rig.core.sessions[waiter.index as usize].waiting.unwrap();
    rig.core.backend_known_as(private, Some(77));
    assert_eq!(rig.tell(asker, "CLIENT KILL ID 2"), "");
    rig.pass(TIMEOUT_MS + 1);
    rig.settle();
    assert_eq!(rig.got(asker), ":1\r\n");
    assert!(!rig.core.is_open(waiter));
}

#[test]
fn a_node_hears_that_a_waiting_client_left_before_it_is_sent_what_others_push() {
    let mut rig = Rig::new(&["a"]);
    let (other, waiter) = (rig.client_of_id(1), rig.client_of_id(2));
    rig.tell(other, "SET a 1");
    rig.tell(waiter, "BLPOP q 0");
    let private = rig.core.sessions[waiter.index as usize].waiting.unwrap();
    rig.core.backend_known_as(private, Some(77));
    rig.core.session_ended(waiter);
    rig.effects();
    rig.say(other, request("SET a 2"));
    rig.settle();
    let shared = rig.nodes.values().find(|node| node.seen.contains(&"set".to_owned())).unwrap();
    assert_eq!(shared.seen, ["set", "client", "set"]);
    // What another worker's clients have pushed before that is put back.
    rig.nodes.get_mut(&private).unwrap().replies.extend(b"*2\r\n$1\r\nq\r\n$1\r\nv\r\n");
    rig.write_to_nodes(usize::MAX);
    rig.answer(usize::MAX);
    rig.write_to_nodes(usize::MAX);
    assert_eq!(rig.nodes[&private].seen, ["blpop", "lpush"]);
    rig.settle();
    assert!(!rig.nodes.contains_key(&private));
    assert_eq!(rig.core.private_count, 0);
}

#[test]
fn what_comes_in_the_turn_in_which_its_client_leaves_is_put_back() {
    let mut rig = Rig::new(&["a"]);
    let waiter = rig.client_of_id(2);
    rig.tell(waiter, "BLPOP q 0");
    let private = rig.core.sessions[waiter.index as usize].waiting.unwrap();
    rig.core.backend_known_as(private, Some(77));
    assert_eq!(rig.core.waits_at(private), Some(waiter));
    rig.core.session_ended(waiter);
    assert_eq!(rig.core.waits_at(private), None);
    rig.nodes.get_mut(&private).unwrap().replies.extend(b"*2\r\n$1\r\nq\r\n$1\r\nv\r\n");
    // Before the client's connection is closed.
    rig.answer(usize::MAX);
    rig.write_to_nodes(usize::MAX);
    assert_eq!(rig.nodes[&private].seen, ["blpop", "lpush"]);
    rig.settle();
    assert!(!rig.core.is_open(waiter) && rig.got(waiter).is_empty());
    assert_eq!(rig.core.private_count, 0);
}

/// A node connection over which something was put back that the node has refused once.
fn refused_what_was_put_back(rig: &mut Rig) -> u32 {
    let waiter = rig.client_of_id(2);
    rig.tell(waiter, "BLPOP q 0");
    let private = rig.core.sessions[waiter.index as usize].waiting.unwrap();
    rig.core.backend_known_as(private, Some(77));
    rig.core.session_ended(waiter);
    rig.refusals.insert("lpush".to_owned(), "OOM command not allowed when used memory > 'maxmemory'.".to_owned());
    rig.nodes.get_mut(&private).unwrap().replies.extend(b"*2\r\n$1\r\nq\r\n$1\r\nv\r\n");
    rig.settle();
    assert_eq!(rig.nodes[&private].seen, ["blpop", "lpush"]);
    private
}

#[test]
fn what_a_node_refuses_to_take_back_is_tried_again_until_it_does_or_the_time_is_over() {
    for takes_it in [true, false] {
        let mut rig = Rig::new(&["a"]);
        let private = refused_what_was_put_back(&mut rig);
        rig.pass(TIMEOUT_MS - 100);
        rig.settle();
        assert_eq!(rig.nodes[&private].seen, ["blpop", "lpush", "lpush"]);
        if takes_it {
            rig.refusals.clear();
        }
        rig.pass(TICK_MS);
        rig.write_to_nodes(usize::MAX);
        assert_eq!(rig.nodes[&private].seen, ["blpop", "lpush", "lpush", "lpush"]);
        rig.settle();
        assert_eq!((rig.nodes.contains_key(&private), rig.core.private_count), (!takes_it, usize::from(!takes_it)));
        rig.pass(TICK_MS);
        rig.settle();
        assert_eq!((rig.nodes.contains_key(&private), rig.core.private_count), (false, 0), "for good");
    }
}

#[test]
fn what_a_node_has_refused_to_take_back_goes_over_the_next_connection_if_that_breaks() {
    let mut rig = Rig::new(&["a"]);
    let private = refused_what_was_put_back(&mut rig);
    rig.kill("a");
    rig.settle_as_far_as_it_goes();
    rig.reachable.insert("a".to_owned());
    rig.refusals.clear();
    rig.settle();
    rig.pass(TICK_MS);
    rig.write_to_nodes(usize::MAX);
    assert_eq!(rig.nodes[&private].seen, ["lpush"]);
    rig.settle();
    assert_eq!((rig.nodes.contains_key(&private), rig.core.private_count), (false, 0));
    // What has no answer may be there already, and is not said twice.
    let private = refused_what_was_put_back(&mut rig);
    rig.pass(TICK_MS);
    rig.write_to_nodes(usize::MAX);
    rig.kill("a");
    rig.settle();
    assert_eq!((rig.nodes.contains_key(&private), rig.core.private_count), (false, 0));
}

#[test]
fn who_is_not_to_touch_keys_reads_them_over_connections_that_do_not() {
    let mut rig = Rig::new(&["a"]);
    let client = rig.client();
    let lanes = |rig: &Rig, name: &str| {
        let is_of = |(_, node): &(&u32, &Connected)| node.seen.iter().any(|seen| seen == name);
        let found = rig.nodes.iter().filter(is_of).map(|(backend, _)| rig.core.backends[*backend as usize].lane.no_touch);
        found.collect::<Vec<_>>()
    };
    assert_eq!(rig.tell(client, "GET k\nCLIENT NO-TOUCH on\nMGET k l\nWATCH k"), "$-1\r\n+OK\r\n*2\r\n$-1\r\n$-1\r\n+OK\r\n");
    assert_eq!((lanes(&rig, "get"), lanes(&rig, "client"), lanes(&rig, "mget")), (vec![false], vec![true], vec![true]));
    assert_eq!(lanes(&rig, "watch"), [true], "a transaction's reads are no different");
    assert!(rig.tell(client, "CLIENT INFO").contains(" flags=UT "));
    assert_eq!(rig.tell(client, "UNWATCH\nCLIENT NO-TOUCH off\nDEL k"), "+OK\r\n+OK\r\n:0\r\n");
    assert_eq!(lanes(&rig, "del"), [false]);
    assert_eq!(rig.tell(client, "CLIENT NO-TOUCH on\nRESET\nDBSIZE"), "+OK\r\n+RESET\r\n:0\r\n");
    assert_eq!(lanes(&rig, "dbsize"), [false]);
    assert!(
        rig.tell(client, "MULTI\nCLIENT NO-TOUCH on\nEXEC")
            .ends_with("-EXECABORT Transaction discarded because of previous errors.\r\n")
    );
}

#[test]
fn who_is_alone_is_the_only_one_to_speak() {
    let mut rig = Rig::new(&THREE);
    let clients = [rig.client(), rig.client()];
    let mut speaks = |client: usize, at_ms: u64| {
        rig.core.set_now(at_ms * 1000);
        rig.say(clients[client], request("PING"));
        rig.core.is_one_client_alone()
    };
    assert!(!speaks(1, 1_000));
    assert!(!speaks(1, 1_099));
    assert!(speaks(1, 1_100));
    assert!(!speaks(0, 1_110));
    assert!(!speaks(1, 1_200));
    assert!(!speaks(1, 1_299));
    assert!(speaks(1, 1_300));
    // Where nobody speaks there is nobody to hurry for.
    rig.core.set_now(1_399_000);
    assert!(rig.core.is_one_client_alone());
    rig.core.set_now(1_400_000);
    assert!(!rig.core.is_one_client_alone());
}
