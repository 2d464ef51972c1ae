//! SLOWLOG, LATENCY, CONFIG and ACL: what the proxy tells of itself.

use super::*;
use crate::limits::{NODE_BUFFER_KEEP_BYTES, SLOW_AT_ONCE_MAX};

impl Rig {
    /// Says something, whose replies come from the nodes so much later.
    fn tell_slowly(&mut self, client: SessionId, text: &str, us: u64) -> String {
        for line in text.lines() {
            self.say(client, request(line.trim()));
        }
        self.effects();
        self.connect();
        self.write_to_nodes(usize::MAX);
        let now_us = self.core.now_us + us;
        self.core.set_now(now_us);
        self.settle();
        self.got(client)
    }

    fn slowlog(&mut self) -> String {
        self.ask(request("SLOWLOG GET -1"))
    }

    fn shown(&mut self, text: &str) -> String {
        self.ask(request(text))
    }
}

/// As an entry of SLOWLOG GET has it, from the duration on.
fn entry(us: u64, args: &[&str], client: u16, name: &str) -> String {
    let mut out = Vec::new();
    encode::integer(&mut out, us as i64);
    encode::request(&mut out, args);
    encode::bulk(&mut out, format!("127.0.0.1:{client}").as_bytes());
    encode::bulk(&mut out, name.as_bytes());
    String::from_utf8(out).unwrap()
}

#[test]
fn a_slow_command_is_logged_with_its_arguments_and_its_client() {
    let mut rig = Rig::new(&THREE);
    let client = rig.client_of_id(7);
    rig.tell(client, "CLIENT SETNAME bob");
    rig.tell_slowly(client, "GET quick", 9_999);
    assert_eq!(rig.slowlog(), "*0\r\n");
    assert_eq!(rig.tell_slowly(client, "SET some value", 10_000), "+OK\r\n");
    assert!(rig.slowlog().ends_with(&entry(10_000, &["SET", "some", "value"], 7, "bob")), "{}", rig.slowlog());
    // Whatever was written with it, before it and behind it.
    rig.tell_slowly(client, "GET one\nGET two\nGET three\nGET four", 20_000);
    for key in ["one", "two", "three", "four"] {
        assert!(rig.slowlog().contains(&entry(20_000, &["GET", key], 7, "bob")), "{key} is not in {}", rig.slowlog());
    }
    // A long argument is cut as redis cuts it.
    let long = "x".repeat(1_000);
    rig.tell_slowly(client, &format!("SET long {long}"), 30_000);
    let cut = format!("{}... (872 more bytes)", "x".repeat(128));
    assert!(rig.slowlog().contains(&entry(30_000, &["SET", "long", &cut], 7, "bob")), "{}", rig.slowlog());
    // Also a very long one, by whatever way it went.
    for len in [10_128, 2 * NODE_BUFFER_KEEP_BYTES] {
        let huge = "x".repeat(len);
        rig.tell_slowly(client, &format!("SET first {huge}\nSET huge {huge} EX 100\nGET last"), 40_000);
        let cut = format!("{}... ({} more bytes)", "x".repeat(128), len - 128);
        for shown in [["SET", "first", &cut].as_slice(), &["SET", "huge", &cut, "EX", "100"], &["GET", "last"]] {
            assert!(rig.slowlog().contains(&entry(40_000, shown, 7, "bob")), "{}", rig.slowlog());
        }
        rig.shown("SLOWLOG RESET");
    }
    rig.tell_slowly(client, "GET one\nGET two", 20_000);
    assert_eq!(rig.shown("SLOWLOG LEN"), ":2\r\n");
    assert!(rig.shown("SLOWLOG GET 1").starts_with("*1\r\n*6\r\n:13\r\n"));
    assert_eq!(rig.core.counters.slow_total, 14);
    assert_eq!(rig.shown("SLOWLOG RESET"), "+OK\r\n");
    assert_eq!(rig.shown("SLOWLOG LEN"), ":0\r\n");
    for (text, error) in [
        ("SLOWLOG GET -2", "-ERR count should be greater than or equal to -1\r\n"),
        ("SLOWLOG GET x", "-ERR count should be greater than or equal to -1\r\n"),
        ("SLOWLOG GET 1 2", "-ERR unknown subcommand or wrong number of arguments for 'GET'. Try SLOWLOG HELP.\r\n"),
    ] {
        assert_eq!(rig.shown(text), error);
    }
}

#[test]
fn a_split_command_is_as_slow_as_its_last_part_and_a_transaction_is_one_entry() {
    let mut rig = Rig::new(&THREE);
    let client = rig.client_of_id(7);
    let (a, b) = (rig.key_of("a", 0), rig.key_of("b", 0));
    rig.tell(client, &format!("MGET {a} {b}"));
    rig.say(client, request(&format!("MGET {a} {b}")));
    rig.write_to_nodes(usize::MAX);
    for (us, name) in [(11_000, "b"), (4_000, "a")] {
        let now_us = rig.core.now_us + us;
        rig.core.set_now(now_us);
        rig.answer_from(name);
    }
    rig.settle();
    assert_eq!(rig.shown("SLOWLOG LEN"), ":1\r\n");
    assert!(rig.slowlog().ends_with(&entry(15_000, &["MGET", &a], 7, "")), "{}", rig.slowlog());
    rig.tell_slowly(client, &format!("MULTI\nSET {a} 1\nGET {a}\nEXEC"), 12_000);
    let shown = entry(12_000, &["EXEC", &format!("SET {a} 1"), &format!("GET {a}")], 7, "");
    assert!(rig.slowlog().contains(&shown), "{}", rig.slowlog());
    let long = "x".repeat(10_000);
    rig.tell_slowly(client, &format!("MULTI\nSET {a} {long}\nGET {a}\nSET {a} {long}\nSET {a} 1\nEXEC"), 12_500);
    let set = format!("SET {a} {long}");
    let cut = format!("{}... ({} more bytes)", &set[..128], set.len() - 128);
    let shown = entry(12_500, &["EXEC", &cut, &format!("GET {a}"), &cut, &format!("SET {a} 1")], 7, "");
    assert!(rig.slowlog().contains(&shown), "{}", rig.slowlog());
    // What goes along with a command is not the client's.
    rig.tell(client, &format!("EVAL return 1 {a}"));
    let sha = sha1(b"return");
    rig.scripts.clear();
    rig.core.set_topology(topology(2, &[("a", true), ("b", false), ("c", true)]));
    rig.tell_slowly(client, &format!("EVALSHA {sha} 1 {b}"), 13_000);
    assert!(rig.slowlog().contains(&entry(13_000, &["EVALSHA", &sha, "1", &b], 7, "")), "{}", rig.slowlog());
}

#[test]
fn a_command_that_was_waited_for_in_vain_is_logged() {
    let mut rig = Rig::new(&THREE);
    let client = rig.client_of_id(7);
    let key = rig.key_of("a", 0);
    rig.tell(client, &format!("GET {key}"));
    rig.say(client, request(&format!("GET {key}")));
    rig.write_to_nodes(usize::MAX);
    rig.pass(2 * TIMEOUT_MS);
    rig.write_to_clients(usize::MAX);
    assert!(rig.got(client).starts_with("-NODEDOWN node a was lost before it answered"));
    let bytes = format!("... ({} more bytes)", request(&format!("GET {key}")).len());
    let log = rig.tell(client, "SLOWLOG GET");
    assert!(log.starts_with("*1\r\n") && log.ends_with(&entry(2_000 * TIMEOUT_MS, &["get", &bytes], 7, "")), "{log}");
}

#[test]
fn many_slow_commands_at_once_cost_no_more_than_some() {
    let mut rig = Rig::new(&THREE);
    rig.tell_slowly_many(1_000);
    assert_eq!(rig.core.counters.slow_total, 1_000);
    assert_eq!(rig.shown("SLOWLOG LEN"), format!(":{SLOW_AT_ONCE_MAX}\r\n"));
    rig.shown("CONFIG SET slowlog-max-len 3");
    rig.tell_slowly_many(5);
    assert_eq!(rig.shown("SLOWLOG LEN"), ":3\r\n");
}

impl Rig {
    fn tell_slowly_many(&mut self, count: usize) {
        let client = self.client();
        let all: Vec<_> = (0..count).map(|key| format!("GET {key}")).collect();
        self.tell_slowly(client, &all.join("\n"), 10_000);
    }
}

#[test]
fn with_a_threshold_of_zero_everything_is_logged_and_secrets_are_not() {
    let mut rig = Rig::new(&THREE);
    let client = rig.client_of_id(7);
    rig.tell(
        client,
        "CONFIG SET slowlog-log-slower-than 0\nSLOWLOG RESET\nPING\nAUTH secret\nSET k v\nCONFIG SET requirepass secret",
    );
    rig.tell(client, "MULTI\nGET k\nDISCARD\nSUBSCRIBE ch\nUNSUBSCRIBE ch\nCONFIG SET slowlog-log-slower-than -1\nPING\nGET k");
    let log = rig.tell(client, "SLOWLOG GET -1");
    let args: Vec<&[&str]> = vec![
        &["UNSUBSCRIBE", "ch"],
        &["SUBSCRIBE", "ch"],
        &["DISCARD"],
        &["MULTI"],
        // What a node answers is logged once it has.
        &["SET", "k", "v"],
        &["CONFIG", "SET", "requirepass", "(redacted)"],
        &["AUTH", "(redacted)"],
        &["PING"],
        &["SLOWLOG", "RESET"],
    ];
    let mut rest = log.as_str();
    for args in &args {
        let shown = entry(0, args, 7, "");
        rest = rest.split_once(&shown).unwrap_or_else(|| panic!("{args:?} is not in its place in {log}")).1;
    }
    assert!(log.starts_with(&format!("*{}\r\n", args.len())) && rest.is_empty(), "{log}");
}

#[test]
fn parameters_are_got_by_name_and_pattern_and_set_all_or_none() {
    let mut rig = Rig::new(&THREE);
    let client = rig.client();
    for (text, expect) in [
        ("CONFIG GET slowlog-max-len", "*2\r\n$15\r\nslowlog-max-len\r\n$3\r\n128\r\n"),
        ("CONFIG GET SLOWLOG-max-len slowlog-max-len", "*2\r\n$15\r\nSLOWLOG-max-len\r\n$3\r\n128\r\n"),
        ("CONFIG GET nonsense", "*0\r\n"),
        ("CONFIG SET slowlog-max-len 5 slowlog-log-slower-than 77", "+OK\r\n"),
        ("CONFIG GET slowlog-*", "*4\r\n$23\r\nslowlog-log-slower-than\r\n$2\r\n77\r\n$15\r\nslowlog-max-len\r\n$1\r\n5\r\n"),
        (
            "CONFIG SET slowlog-max-len 6 slowlog-log-slower-than x",
            "-ERR CONFIG SET failed (possibly related to argument 'slowlog-log-slower-than') - argument couldn't be parsed into an \
             integer\r\n",
        ),
        (
            "CONFIG SET slowlog-max-len 6 Slowlog-Max-Len 7",
            "-ERR CONFIG SET failed (possibly related to argument 'Slowlog-Max-Len') - duplicate parameter\r\n",
        ),
        (
            "CONFIG SET slowlog-max-len 6 databases 3",
            "-ERR CONFIG SET failed (possibly related to argument 'databases') - can't set immutable config\r\n",
        ),
        (
            "CONFIG SET slowlog-max-len 6 maxmemory 1",
            "-ERR CONFIG SET failed (possibly related to argument 'maxmemory') - it is not the proxy's, and this proxy does not let \
             clients change the nodes (--allow-node-config)\r\n",
        ),
        ("CONFIG SET slowlog-max-len 6 timeout", "-ERR syntax error\r\n"),
        ("CONFIG GET slowlog-max-len", "*2\r\n$15\r\nslowlog-max-len\r\n$1\r\n5\r\n"),
        // What stays what it is can be said.
        ("CONFIG SET databases 16 slowlog-max-len 8", "+OK\r\n"),
        ("CONFIG GET slowlog-max-len", "*2\r\n$15\r\nslowlog-max-len\r\n$1\r\n8\r\n"),
        (
            "MULTI\nCONFIG SET slowlog-max-len 9\nCONFIG GET slowlog-max-len\nEXEC",
            "*2\r\n+OK\r\n*2\r\n$15\r\nslowlog-max-len\r\n$1\r\n9\r\n",
        ),
        ("CONFIG REWRITE", "-ERR The server is running without a config file\r\n"),
        ("HELLO 3\nCONFIG GET save", "%1\r\n$4\r\nsave\r\n$0\r\n\r\n"),
    ] {
        let got = rig.tell(client, text);
        assert!(got.ends_with(expect), "{text}: {got}");
    }
    assert!(rig.shown("CONFIG GET *").starts_with("*34\r\n"));
}

#[test]
fn a_password_can_be_set_and_taken_away() {
    let mut rig = Rig::new(&THREE);
    let (client, log) = (rig.client_of_id(7), "ACL LOG");
    assert_eq!(rig.tell(client, "CONFIG SET requirepass secret\nPING"), "+OK\r\n+PONG\r\n");
    assert!(rig.shown("GET k").starts_with("-NOAUTH"));
    let other = rig.client_of_id(8);
    assert!(rig.tell(other, "AUTH nobody x\nAUTH wrong\nAUTH wrong\nHELLO 3 AUTH default no").starts_with("-WRONGPASS"));
    assert_eq!(rig.tell(other, "AUTH secret\nPING"), "+OK\r\n+PONG\r\n");
    let hash = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
    assert!(rig.tell(client, "ACL LIST").contains(&format!("user default on #{hash} ~* &* +@all\r\n")));
    let got = rig.tell(client, log);
    assert!(got.starts_with("*3\r\n*14\r\n$5\r\ncount\r\n:1\r\n$6\r\nreason\r\n$4\r\nauth\r\n"), "{got}");
    for part in [
        "$6\r\nobject\r\n$5\r\nhello\r\n$8\r\nusername\r\n$7\r\ndefault\r\n",
        "count\r\n:2\r\n",
        "username\r\n$6\r\nnobody\r\n",
        "addr=127.0.0.1:8 ",
    ] {
        assert!(got.contains(part), "{part} is not in {got}");
    }
    assert!(rig.tell(client, "ACL LOG 1").starts_with("*1\r\n"));
    assert_eq!(rig.tell(client, "ACL LOG RESET\nACL LOG"), "+OK\r\n*0\r\n");
    // An empty one is none.
    let mut none = Vec::new();
    encode::request(&mut none, &["CONFIG", "SET", "requirepass", ""]);
    rig.say(client, none);
    rig.settle();
    assert_eq!(rig.got(client), "+OK\r\n");
    assert_eq!(rig.shown("PING"), "+PONG\r\n");
}

#[test]
fn there_is_one_user_and_it_may_do_anything() {
    let mut rig = Rig::new(&THREE);
    for (text, expect) in [
        ("ACL WHOAMI", "$7\r\ndefault\r\n"),
        ("ACL USERS", "*1\r\n$7\r\ndefault\r\n"),
        ("ACL LIST", "*1\r\n$34\r\nuser default on nopass ~* &* +@all\r\n"),
        ("ACL GETUSER nobody", "$-1\r\n"),
        ("ACL DRYRUN default GET k", "+OK\r\n"),
        ("ACL DRYRUN default GET", "-ERR wrong number of arguments for 'get' command\r\n"),
        ("ACL DRYRUN default NONSENSE", "-ERR Command 'NONSENSE' not found\r\n"),
        ("ACL DRYRUN nobody GET k", "-ERR User 'nobody' not found\r\n"),
        ("ACL CAT nonsense", "-ERR Unknown category 'nonsense'\r\n"),
        ("ACL DELUSER default", "-ERR The 'default' user cannot be removed\r\n"),
        ("ACL DELUSER nobody", ":0\r\n"),
        ("ACL LOG x", "-ERR value is not an integer or out of range\r\n"),
        ("ACL GENPASS x", "-ERR value is not an integer or out of range\r\n"),
    ] {
        assert_eq!(rig.shown(text), expect, "{text}");
    }
    assert!(rig.shown("ACL SETUSER u on").starts_with("-ERR this proxy has one user, 'default'"));
    assert!(rig.shown("ACL SAVE").starts_with("-ERR This Redis instance is not configured to use an ACL file."));
    assert!(rig.shown("ACL GENPASS 4097").starts_with("-ERR ACL GENPASS argument must be the number of bits"));
    assert!(rig.shown("ACL CAT").starts_with("*21\r\n$8\r\nkeyspace\r\n"));
    assert!(rig.shown("ACL CAT scripting").starts_with("*21\r\n"));
    for (text, len) in [("ACL GENPASS", 64), ("ACL GENPASS 5", 2), ("ACL GENPASS 4096", 1024)] {
        let (one, other) = (rig.shown(text), rig.shown(text));
        assert!(one.starts_with(&format!("${len}\r\n")) && one.len() == format!("${len}\r\n\r\n").len() + len, "{one}");
        assert!(one != other || len == 2, "{one}");
    }
    let user = rig.shown("ACL GETUSER default");
    assert!(user.starts_with("*12\r\n$5\r\nflags\r\n*2\r\n$2\r\non\r\n$6\r\nnopass\r\n$9\r\npasswords\r\n*0\r\n"), "{user}");
}

#[test]
fn latency_tells_of_slow_commands_once_it_is_asked_to() {
    let mut rig = Rig::new(&THREE);
    let client = rig.client_of_id(7);
    rig.tell_slowly(client, "GET k", 900_000);
    assert_eq!(rig.shown("LATENCY LATEST"), "*0\r\n");
    assert!(rig.shown("LATENCY DOCTOR").contains("disabled"));
    rig.shown("CONFIG SET latency-monitor-threshold 50");
    assert!(rig.shown("LATENCY DOCTOR").contains("No latency spike"));
    rig.tell_slowly(client, "GET k", 49_999);
    assert_eq!(rig.shown("LATENCY LATEST"), "*0\r\n");
    rig.tell_slowly(client, "GET k", 70_500);
    rig.tell_slowly(client, "EVAL return 1 k", 80_000);
    rig.core.note_latency(crate::latency::Event::MapSwap, 60_000);
    let latest = rig.shown("LATENCY LATEST");
    assert!(latest.starts_with("*3\r\n*4\r\n$7\r\ncommand\r\n:"), "{latest}");
    assert!(latest.contains("$12\r\nfast-command\r\n") && latest.contains(":70\r\n:70\r\n"), "{latest}");
    assert!(latest.contains("$8\r\nmap-swap\r\n") && latest.ends_with(":60\r\n:60\r\n"), "{latest}");
    assert!(rig.shown("LATENCY HISTORY command").starts_with("*1\r\n*2\r\n:"));
    assert!(rig.shown("LATENCY HISTORY command").ends_with(":80\r\n"));
    assert_eq!(rig.shown("LATENCY HISTORY nonsense"), "*0\r\n");
    assert!(rig.shown("LATENCY GRAPH command").contains("command - high 80 ms, low 80 ms (all time high 80 ms)\n"));
    assert_eq!(rig.shown("LATENCY GRAPH nonsense"), "-ERR No samples available for event 'nonsense'\r\n");
    assert!(rig.shown("LATENCY DOCTOR").contains("fast-command: 1 latency spikes (average 70ms"));
    assert_eq!(rig.shown("LATENCY RESET nonsense map-swap"), ":1\r\n");
    assert_eq!(rig.shown("LATENCY RESET"), ":2\r\n");
    assert_eq!(rig.shown("LATENCY LATEST"), "*0\r\n");
}

#[test]
fn every_command_is_counted_by_how_long_it_takes_while_that_is_wanted() {
    let mut rig = Rig::new(&THREE);
    let client = rig.client_of_id(7);
    rig.tell(client, "GET k");
    assert_eq!(rig.shown("LATENCY HISTOGRAM"), "*0\r\n");
    rig.shown("CONFIG SET latency-tracking yes");
    rig.tell_slowly(client, "GET k", 3);
    rig.tell_slowly(client, "GET k\nGET k", 1_000);
    rig.tell(client, "CLIENT ID\nMGET a b c d e f");
    assert_eq!(
        rig.shown("LATENCY HISTOGRAM get nonsense"),
        "*2\r\n$3\r\nget\r\n*4\r\n$5\r\ncalls\r\n:3\r\n$14\r\nhistogram_usec\r\n*4\r\n:4\r\n:1\r\n:1048\r\n:3\r\n"
    );
    assert!(rig.shown("LATENCY HISTOGRAM client").starts_with("*2\r\n$9\r\nclient|id\r\n*4\r\n$5\r\ncalls\r\n:1\r\n"));
    rig.shown("INFO memory");
    assert!(rig.shown("LATENCY HISTOGRAM info").contains("calls\r\n:1\r\n"));
    assert!(rig.shown("LATENCY HISTOGRAM mget").contains("calls\r\n:1\r\n"));
    assert_eq!(rig.shown("CONFIG RESETSTAT"), "+OK\r\n");
    assert_eq!(rig.shown("LATENCY HISTOGRAM get"), "*0\r\n");
    rig.shown("INFO stats");
    assert_eq!(rig.core.all_stats.since_reset().connections_total, 2);
    let get = vrc_cluster::command::lookup(b"get").unwrap().id();
    assert_eq!(rig.core.all_stats.all_histograms().of(get).unwrap().calls(), 3, "metrics go on");
}

#[test]
fn who_says_nothing_for_too_long_is_closed_unless_it_listens() {
    let mut rig = Rig::new(&THREE);
    let (idle, listens, busy) = (rig.client_of_id(1), rig.client_of_id(2), rig.client_of_id(3));
    rig.tell(listens, "SUBSCRIBE ch");
    rig.tell(busy, "CONFIG SET timeout 10");
    for _ in 0..9 {
        rig.pass(1_000);
        rig.tell(busy, "PING");
    }
    assert!(rig.core.is_open(idle));
    for _ in 0..3 {
        rig.pass(1_000);
        rig.tell(busy, "PING");
    }
    assert_eq!([idle, listens, busy].map(|client| rig.core.is_open(client)), [false, true, true]);
}

#[test]
fn what_config_set_changes_here_once_the_nodes_agree_is_changed_whoever_reads_the_answer() {
    for setup in ["ECHO x", "HELLO 3\nCLIENT TRACKING ON BCAST NOLOOP"] {
        for (before, leaves, node_leaves, expect) in [
            ("ECHO x", "", false, true),
            ("CLIENT REPLY SKIP", "", false, true),
            ("CLIENT REPLY OFF", "", false, true),
            ("ECHO x", "before it is sent", false, true),
            ("ECHO x", "before it is answered", false, true),
            // Whether a node agrees that has left is not known.
            ("ECHO x", "before it is sent", true, false),
            ("ECHO x", "before it is answered", true, false),
        ] {
            let mut rig = Rig::with(&THREE, |settings| settings.allow_node_config = true);
            let client = rig.client();
            rig.tell(client, setup);
            rig.ask(request("DBSIZE"));
            rig.say(client, [request(before), request("CONFIG SET requirepass secret maxmemory 1gb")].concat());
            rig.effects();
            rig.connect();
            for now in ["before it is sent", "before it is answered"] {
                if now == leaves {
                    rig.core.session_closed(client);
                    rig.clients.remove(&client.index);
                    assert_eq!(rig.client().index, client.index, "another is in its place");
                }
                if now == leaves && node_leaves {
                    rig.kill("c");
                    rig.core.set_topology(topology(2, &[("a", true), ("b", true), ("c", false)]));
                }
                rig.write_to_nodes(usize::MAX);
            }
            rig.settle();
            rig.core.tick(rig.now_ms * 1000);
            let is_set = rig.core.live.password.is_some();
            assert_eq!(is_set, expect, "{setup:?}, {before}, leaves {leaves}, a node too: {node_leaves}");
            assert_eq!((rig.core.left_behind.len(), rig.core.joins.len()), (0, rig.core.free_joins.len()));
        }
    }
}

#[test]
fn what_a_large_answer_that_nobody_wants_was_made_of_is_given_back() {
    let mut rig = Rig::new(&THREE);
    let client = rig.client();
    let keys: Vec<_> = (0..50_000).map(|key| key.to_string()).collect();
    rig.tell(client, &format!("CLIENT REPLY SKIP\nMGET {}", keys.join(" ")));
    let held = format!("{:?}", rig.core.joins);
    assert!(held.len() < 1000, "{}", held.len());
}
