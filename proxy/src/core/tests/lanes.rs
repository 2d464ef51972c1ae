//! Connections that one session has to itself, and what becomes of them when it selects another database or protocol.

use super::*;

const NOLOOP: [&str; 2] = ["HELLO 3", "CLIENT TRACKING ON BCAST NOLOOP"];
const FLUSH: &str = ">2\r\n$10\r\ninvalidate\r\n_\r\n";
const BUSY: &str = "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.";

impl Rig {
    /// The databases that nodes were told to SET something in.
    fn set_in(&self) -> BTreeSet<u8> {
        self.nodes.values().flat_map(|node| node.set_in.iter().copied()).collect()
    }

    fn client_told(&mut self, says: &[&str]) -> SessionId {
        let client = self.client();
        self.tell(client, &says.join("\n"));
        client
    }
}

#[test]
fn what_follows_a_select_that_a_node_refuses_is_not_done_in_the_database_before() {
    for script in ["SELECT 1\nSET k v", "MULTI\nSELECT 1\nSET k v\nEXEC"] {
        let mut rig = Rig::new(&["a"]);
        let client = rig.client_told(&NOLOOP);
        rig.refusals.insert("select".to_owned(), BUSY.to_owned());
        rig.say(client, script.lines().flat_map(request).collect::<Vec<_>>());
        rig.effects();
        rig.connect();
        rig.write_to_nodes(usize::MAX);
        // The script ends, and what comes next the node would carry out.
        rig.refusals.clear();
        rig.settle();
        let got = rig.got(client);
        assert!(got.contains("+OK\r\n") && got.contains(FLUSH) && !got.contains("\n-"), "{script:?}: {got}");
        assert_eq!(rig.set_in(), BTreeSet::from([1]), "{script:?}");
    }
}

#[test]
fn keys_watched_over_a_connection_that_is_not_what_its_client_selected_count_as_touched() {
    for (refused, change) in [("select", "SELECT 1"), ("hello", "HELLO 3")] {
        let mut rig = Rig::new(&["a"]);
        let client = rig.client_told(&["WATCH k"]);
        rig.refusals.insert(refused.to_owned(), BUSY.to_owned());
        rig.say(client, [change, "MULTI", "SET k v", "EXEC"].map(request).concat());
        rig.settle();
        let got = rig.got(client);
        assert!(got.ends_with("+QUEUED\r\n*-1\r\n") || got.ends_with("+QUEUED\r\n_\r\n"), "{change}: {got}");
        assert_eq!((rig.set_in(), rig.core.private_count), (BTreeSet::new(), 0), "{change}");
    }
}

#[test]
fn a_node_that_does_not_know_no_touch_is_used_without() {
    let mut rig = Rig::new(&["a"]);
    let client = rig.client_told(&["WATCH k"]);
    rig.refusals.insert("client".to_owned(), "ERR unknown subcommand 'NO-TOUCH'. Try CLIENT HELP.".to_owned());
    let got = rig.tell(client, "CLIENT NO-TOUCH ON\nMULTI\nSET k v\nEXEC");
    assert!(got.starts_with("-ERR unknown subcommand") && got.ends_with("*1\r\n+OK\r\n"), "{got}");
}

#[test]
fn a_connection_that_is_being_opened_comes_up_in_the_database_selected_meanwhile() {
    let mut rig = Rig::new(&["a"]);
    let client = rig.client_told(&NOLOOP);
    rig.kill("a");
    rig.say(client, request("SET k v"));
    rig.settle_as_far_as_it_goes();
    rig.pass(TIMEOUT_MS + 1);
    rig.write_to_clients(usize::MAX);
    assert!(rig.got(client).contains("nothing was sent"));
    assert_eq!(rig.wanted.len() + rig.core.backends.iter().filter(|of| of.state == backend::State::Connecting).count(), 1);
    rig.say(client, request("SELECT 1"));
    rig.reachable.insert("a".to_owned());
    rig.settle();
    rig.tell(client, "SET k v");
    assert_eq!(rig.set_in(), BTreeSet::from([1]));
}

#[test]
fn a_select_that_was_not_sent_yet_outlasts_a_change_of_the_map() {
    let mut rig = Rig::new(&THREE);
    let on_a = rig.key_of("a", 0);
    let client = rig.client_told(&NOLOOP);
    rig.say(client, [request("SELECT 1"), request(&format!("SET {on_a} v"))].concat());
    rig.core.set_topology(topology(2, &[("a", true), ("b", true), ("c", false)]));
    rig.settle();
    assert!(rig.got(client).ends_with("+OK\r\n"));
    assert_eq!(rig.set_in(), BTreeSet::from([1]));
}

#[test]
fn a_select_that_was_not_sent_is_not_said_to_the_next_connection() {
    let mut rig = Rig::new(&["a"]);
    let client = rig.client_told(&NOLOOP);
    rig.say(client, request("SELECT 1"));
    // Not a byte of it is written when the connection breaks.
    rig.kill("a");
    rig.reachable.insert("a".to_owned());
    rig.settle();
    rig.tell(client, "SELECT 2\nSET k v");
    assert_eq!(rig.set_in(), BTreeSet::from([2]));
    assert!(rig.nodes.values().all(|node| !node.seen.contains(&"select".to_owned())), "it was opened as what it is");
}
