//! MONITOR: which commands are shown, how, to whom, and for how long.

use super::*;
use crate::limits::{MONITOR_UNDER_WAY_BYTES_MAX, SUBSCRIBER_OUTPUT_MAX_BYTES};

impl Rig {
    /// Lets everything happen that this client asks for, and returns what it got.
    fn hear(&mut self, client: SessionId, text: &str) -> String {
        let all: Vec<u8> = text.lines().flat_map(|line| request(line.trim())).collect();
        self.say(client, all);
        self.settle();
        self.got(client)
    }

    /// What a client that listens was shown, without the times.
    fn lines_of(&mut self, client: SessionId) -> Vec<String> {
        let got = self.got(client);
        let line = |line: &str| {
            let (time, rest) = line.split_once(' ').expect("a time and more");
            assert!(time.starts_with('+') && time.contains('.'), "{line}");
            rest.to_owned()
        };
        got.split_terminator("\r\n").map(line).collect()
    }
}

#[test]
fn a_client_is_shown_what_is_carried_out_in_its_order() {
    let mut rig = Rig::new(&THREE);
    let (watcher, other) = (rig.client(), rig.client());
    assert_eq!(rig.hear(watcher, "MONITOR"), "+OK\r\n");
    for (said, shown) in [
        ("SET a 1", &["[0 unix:test] \"SET\" \"a\" \"1\""][..]),
        ("get a\nMGET a b c", &["[0 unix:test] \"get\" \"a\"", "[0 unix:test] \"MGET\" \"a\" \"b\" \"c\""]),
        // What is not carried out is not shown, nor what is for administrators.
        ("NONSENSE\nGET\nCLIENT LIST\nCONFIG GET x\nCLIENT KILL TYPE master\nMONITOR x", &[]),
        ("SELECT 2\nSELECT 0", &["[2 unix:test] \"SELECT\" \"2\"", "[0 unix:test] \"SELECT\" \"0\""]),
        (
            "MULTI\nSET a 2\nPUBLISH c m\nGET a\nCLIENT LIST\nDBSIZE\nGET b\nNOTHING\nEXEC",
            &["[0 unix:test] \"MULTI\"", "[0 unix:test] \"EXEC\""],
        ),
        (
            "MULTI\nSET {k}a 2\nPUBLISH c m\nGET {k}a\nCLIENT LIST\nDBSIZE\nGET {k}a\nEXEC",
            &[
                "[0 unix:test] \"MULTI\"",
                "[0 unix:test] \"SET\" \"{k}a\" \"2\"",
                "[0 unix:test] \"PUBLISH\" \"c\" \"m\"",
                "[0 unix:test] \"GET\" \"{k}a\"",
                "[0 unix:test] \"DBSIZE\"",
                "[0 unix:test] \"GET\" \"{k}a\"",
                "[0 unix:test] \"EXEC\"",
            ],
        ),
        ("MULTI\nGET a\nDISCARD", &["[0 unix:test] \"MULTI\"", "[0 unix:test] \"DISCARD\""]),
        ("EVAL x 0\nAUTH secret", &["[0 unix:test] \"EVAL\" \"x\" \"0\"", "[0 unix:test] \"AUTH\" \"(redacted)\""]),
        ("CLIENT SETNAME n", &["[0 unix:test] \"CLIENT\" \"SETNAME\" \"n\""]),
        ("SUBSCRIBE c\nGET a\nUNSUBSCRIBE", &["[0 unix:test] \"SUBSCRIBE\" \"c\"", "[0 unix:test] \"UNSUBSCRIBE\""]),
        ("CLIENT REPLY SKIP\nSET a 3", &["[0 unix:test] \"CLIENT\" \"REPLY\" \"SKIP\"", "[0 unix:test] \"SET\" \"a\" \"3\""]),
    ] {
        rig.hear(other, said);
        assert_eq!(rig.lines_of(watcher), shown, "{said}");
    }
    rig.say(other, b"SET \"\\x00\\n\\\"\" ''\r\n");
    rig.settle();
    assert_eq!(rig.lines_of(watcher), ["[0 unix:test] \"SET\" \"\\x00\\n\\\"\" \"\""]);
}

#[test]
fn who_listens_may_do_little_else_until_reset() {
    let mut rig = Rig::new(&THREE);
    let watcher = rig.client();
    assert_eq!(rig.hear(watcher, "HELLO 3\nMONITOR").lines().last(), Some("+OK"));
    assert!(rig.hear(watcher, "PING").starts_with("+PONG\r\n+"), "its own commands, too");
    assert_eq!(rig.hear(watcher, "MONITOR"), "", "as redis has it, once more is no answer");
    for about_keys in ["GET a", "SET a 1", "PUBLISH c m", "MULTI\nGET a"] {
        let got = rig.hear(watcher, about_keys);
        assert!(got.contains("-ERR Replica can't interact with the keyspace\r\n"), "{about_keys}: {got}");
    }
    assert!(rig.hear(watcher, "EXEC").starts_with("-EXECABORT"));
    assert!(rig.hear(watcher, "CLIENT LIST").contains(" flags=OU "));
    assert!(rig.hear(watcher, "RESET").starts_with("+RESET\r\n"));
    assert_eq!(rig.hear(watcher, "GET a"), "$-1\r\n");
    assert!(!rig.core.monitoring.is_on, "nobody listens: nothing more is written");
    assert!(rig.hear(watcher, "MULTI\nMONITOR\nEXEC").contains("-ERR MONITOR isn't allowed for DENY BLOCKING client\r\n"));
    assert_eq!(rig.hear(watcher, "PING"), "+PONG\r\n");
}

#[test]
fn one_that_does_not_read_is_cut_off_and_costs_nobody_else() {
    let mut rig = Rig::new(&THREE);
    let (reader, idler, other) = (rig.client(), rig.client(), rig.client());
    rig.hear(reader, "MONITOR");
    rig.hear(idler, "MONITOR");
    rig.clients.remove(&idler.index);
    let value = "x".repeat(1 << 20);
    for _ in 0..SUBSCRIBER_OUTPUT_MAX_BYTES / value.len() {
        assert!(rig.core.is_open(idler));
        assert_eq!(rig.hear(other, &format!("SET a {value}")), "+OK\r\n");
        assert_eq!(rig.lines_of(reader).len(), 1);
    }
    assert!(!rig.core.is_open(idler) && rig.core.is_open(reader));
    assert_eq!(rig.core.counters.cut_off_total, 1);
    assert_eq!(rig.core.all_stats.monitors.workers().count(), 1);
    // Likewise where this worker does not take what the others have for it.
    assert!(!rig.core.all_stats.monitors.may_hand(0, MONITOR_UNDER_WAY_BYTES_MAX + 1));
    rig.pass(50);
    rig.effects();
    assert!(!rig.core.is_open(reader));
    assert_eq!(rig.core.all_stats.monitors.workers().count(), 0);
    rig.clients.remove(&reader.index);
    assert_eq!(rig.hear(other, "GET b"), "$-1\r\n");
    assert!(!rig.core.has_lines());
}
