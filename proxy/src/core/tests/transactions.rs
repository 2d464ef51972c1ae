//! Transactions, and keys that are watched for them.

use super::*;

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
fn who_waits_for_data_goes_on_watching_keys() {
    let mut rig = Rig::new(&THREE);
    let client = rig.client();
    rig.say(client, ["WATCH {t}a", "BLPOP {t}q 0"].map(request).concat());
    rig.settle();
    let waiting = rig.core.sessions[client.index as usize].waiting.unwrap();
    rig.nodes.get_mut(&waiting).unwrap().replies.extend(b"*-1\r\n");
    rig.say(client, ["MULTI", "GET {t}a", "EXEC"].map(request).concat());
    rig.settle();
    assert_eq!(rig.got(client), "+OK\r\n*-1\r\n+OK\r\n+QUEUED\r\n*1\r\n$-1\r\n");
    let seen: BTreeSet<_> = rig.nodes.values().map(|node| node.seen.join(" ")).collect();
    assert_eq!(seen, ["blpop".to_owned(), "watch multi get exec".to_owned()].into());
    assert_eq!((rig.core.private_count, rig.core.idle_private.len()), (2, 2));
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
fn an_exec_with_arguments_ends_its_transaction() {
    let script = ["MULTI", "SET k 1", "EXEC now", "GET k"].map(request).concat();
    let expect =
        "+OK\r\n+QUEUED\r\n-EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command\r\n$-1\r\n";
    assert_eq!(Rig::new(&THREE).ask(script), expect);
}
