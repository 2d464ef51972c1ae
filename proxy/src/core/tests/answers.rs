//! What clients are answered, in which order, and how much may be unanswered or unread.

use super::*;

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
fn a_client_with_too_much_unanswered_waits_and_then_goes_on() {
    let mut rig = Rig::new(&THREE);
    let client = rig.client();
    let count = CLIENT_PENDING_MAX + 100;
    rig.say(client, request("GET k").repeat(count));
    assert!(rig.core.is_paused(client));
    assert_eq!(rig.core.sessions[client.index as usize].replies.pending(), CLIENT_PENDING_MAX);
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
    assert!(rig.core.sessions[lazy.index as usize].replies.unread_bytes() < 101 * 100_020);
    assert_eq!(rig.ask(request("GET none")), "$-1\r\n");
}

#[test]
fn parts_of_answers_count_for_unread_until_the_whole_is_there() {
    const LEN: usize = 100_000;
    let mut rig = Rig::new(&THREE);
    let (on_a, on_b) = (rig.key_of("a", 0), rig.key_of("b", 0));
    rig.ask(request(&format!("SET {on_a} {}", "x".repeat(LEN))));
    let client = rig.client();
    rig.say(client, request(&format!("MGET {on_a} {on_b}")).repeat(20));
    rig.write_to_nodes(usize::MAX);
    rig.answer_from("a");
    let unread = |rig: &Rig| rig.core.sessions[client.index as usize].replies.unread_bytes();
    assert!(unread(&rig) > 20 * LEN);
    // So it waits with more.
    rig.say(client, request("PING"));
    assert!(rig.core.is_paused(client));
    rig.settle();
    assert!(rig.got(client).ends_with("+PONG\r\n"));
    assert_eq!(unread(&rig), 0);
}

#[test]
fn what_a_waiting_client_says_takes_little_more_memory_than_that() {
    let mut rig = Rig::new(&THREE);
    let client = stalled(&mut rig);
    let said = request("GET big").repeat(10_000);
    for _ in 0..20 {
        rig.say(client, &said);
    }
    let session = &rig.core.sessions[client.index as usize];
    assert!(session.kept_bytes() > 19 * said.len() && session.kept_bytes_free() < 2 * session.kept_bytes());
}

/// A client with big answers of which it takes none, and that has one command more to say.
fn stalled(rig: &mut Rig) -> SessionId {
    let client = rig.client();
    rig.ask(request(&format!("SET big {}", "x".repeat(100_000))));
    rig.say(client, request("GET big").repeat(20));
    rig.write_to_nodes(usize::MAX);
    rig.answer(usize::MAX);
    rig.say(client, request("GET big"));
    assert!(rig.core.is_paused(client));
    client
}

#[test]
fn a_client_that_says_all_before_it_reads_is_heard_out() {
    let mut rig = Rig::new(&THREE);
    let client = stalled(&mut rig);
    rig.core.tick(TICK_MS);
    assert!(rig.core.take_effects().iter().any(|effect| matches!(effect, Effect::Resume { .. })));
    assert!(!rig.core.is_paused(client));
    let unread = rig.core.sessions[client.index as usize].replies.unread_bytes();
    let half = request("GET big").len() / 2;
    let rest = [request("GET big").repeat(30), request("SET last 1"), request("GET last")].concat();
    rig.say(client, &rest[..half]);
    rig.say(client, &rest[half..]);
    // Heard, but not taken any further.
    assert_eq!(rig.core.sessions[client.index as usize].replies.unread_bytes(), unread);
    // Once it reads, it waits as others do.
    rig.core.session_written(client.index, 10);
    rig.core.tick(2 * TICK_MS);
    assert!(rig.core.is_paused(client));
    rig.settle();
    let got = rig.got(client);
    assert_eq!((got.matches("$100000\r\n").count(), got.ends_with("x\r\n+OK\r\n$1\r\n1\r\n")), (50, true));
    assert_eq!(rig.core.sessions[client.index as usize].kept_bytes(), 0);
}

#[test]
fn a_client_that_never_reads_is_cut_off_in_the_end() {
    let mut rig = Rig::new(&THREE);
    let client = stalled(&mut rig);
    rig.core.sessions[client.index as usize].put_input(vec![0; CLIENT_INPUT_MAX_BYTES], 0);
    rig.core.tick(TICK_MS);
    assert!(rig.core.is_paused(client));
    rig.effects();
    assert!(!rig.core.is_open(client));
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
    let mut rig = Rig::with(&THREE, |settings| {
        settings.live = Arc::new(LiveSettings::new(Live { password: Some(b"secret".to_vec()), ..Live::default() }));
    });
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
