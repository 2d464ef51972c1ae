//! Nodes that run a script for too long.

use super::*;

const BUSY: &str = "-BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.\r\n";

/// Three nodes, one of which has been sent a script without keys that never ends; its other connections answer BUSY if `says_busy`.
struct Stuck {
    rig: Rig,
    runner: SessionId,
    script: u32,
}

impl Stuck {
    fn new() -> Self {
        let mut rig = Rig::new(&THREE);
        let runner = rig.client();
        rig.ask(request("SET {06S}1 x"));
        rig.say(runner, request("EVAL s 0"));
        let waits = |backend: &usize| rig.core.backends[*backend].pending() > 0;
        let script = (0..rig.core.backends.len()).find(waits).unwrap() as u32;
        let written = rig.core.backend_output(script).len();
        rig.core.backend_written(script, written);
        Stuck { rig, runner, script }
    }

    /// The connection beside the others, once it has been asked something.
    fn beside(&mut self) -> Option<u32> {
        self.rig.effects();
        self.rig.connect();
        let core = &self.rig.core;
        (0..core.backends.len() as u32).find(|backend| core.backends[*backend as usize].lane.is_beside())
    }

    fn say_beside(&mut self, reply: &str) {
        let beside = self.beside().expect("it has been asked");
        let asked = self.rig.core.backend_output(beside);
        assert!(asked.ends_with(b"PING\r\n"), "{}", asked.escape_ascii());
        let (len, incarnation) = (asked.len(), self.rig.core.backend_incarnation(beside));
        self.rig.core.backend_written(beside, len);
        self.rig.core.backend_input(beside, incarnation, reply.as_bytes());
    }

    fn end_script(&mut self) {
        let incarnation = self.rig.core.backend_incarnation(self.script);
        self.rig.core.backend_input(self.script, incarnation, b"-ERR killed\r\n");
    }

    /// What a client gets at once.
    fn at_once(&mut self, text: &str) -> String {
        let client = self.rig.client();
        self.rig.say(client, request(text));
        self.rig.write_to_clients(usize::MAX);
        self.rig.got(client)
    }
}

#[test]
fn what_would_wait_behind_a_script_is_told_busy_and_so_is_ping() {
    let mut stuck = Stuck::new();
    stuck.rig.pass(ASK_AFTER_MS);
    assert_eq!(stuck.beside(), None, "it may still answer");
    assert_eq!(stuck.at_once("PING"), "+PONG\r\n");
    stuck.rig.pass(ASK_AFTER_MS + 1);
    stuck.say_beside(BUSY);
    assert_eq!(stuck.at_once("PING"), BUSY);
    assert_eq!(stuck.at_once("GET {06S}1"), BUSY);
    let elsewhere = ["a", "b", "c"].map(|node| stuck.rig.key_of(node, 0));
    let busy = elsewhere.iter().filter(|key| stuck.at_once(&format!("GET {key}")) == BUSY).count();
    assert_eq!(busy, 1, "the other nodes' keys can be had");
    let client = stuck.rig.client();
    stuck.rig.say(client, [request("MULTI"), request("GET {06S}1"), request("EXEC")].concat());
    stuck.rig.write_to_clients(usize::MAX);
    let aborted = "-EXECABORT Transaction discarded because of previous errors.\r\n";
    assert_eq!(stuck.rig.got(client), format!("+OK\r\n{BUSY}{aborted}"));

    stuck.end_script();
    stuck.rig.write_to_clients(usize::MAX);
    let runner = stuck.runner;
    assert_eq!(stuck.rig.got(runner), "-ERR killed\r\n");
    assert_eq!((stuck.at_once("GET {06S}1"), stuck.at_once("PING")), (String::new(), "+PONG\r\n".to_owned()), "at once");
}

#[test]
fn a_node_that_is_slow_but_not_busy_is_waited_for() {
    let mut stuck = Stuck::new();
    stuck.rig.pass(ASK_AFTER_MS + 1);
    stuck.say_beside("+PONG\r\n");
    assert_eq!((stuck.at_once("GET {06S}1"), stuck.at_once("PING")), (String::new(), "+PONG\r\n".to_owned()));
}

#[test]
fn a_kill_does_not_wait_behind_the_script_that_it_is_to_end() {
    let mut stuck = Stuck::new();
    stuck.at_once("SCRIPT KILL");
    let beside = stuck.beside().expect("it goes there");
    let asked = stuck.rig.core.backend_output(beside);
    assert!(asked.windows(6).any(|part| part == b"SCRIPT"), "{}", asked.escape_ascii());
}

#[test]
fn a_busy_node_that_leaves_keeps_nobody_from_a_ping() {
    let mut stuck = Stuck::new();
    stuck.rig.pass(ASK_AFTER_MS + 1);
    stuck.say_beside(BUSY);
    let node = stuck.rig.core.backends[stuck.script as usize].node.to_string();
    let left: Vec<_> = THREE.iter().map(|name| (*name, *name != node)).collect();
    stuck.rig.core.set_topology(topology(2, &left));
    stuck.rig.pass(1);
    assert_eq!(stuck.at_once("PING"), "+PONG\r\n");
}

#[test]
fn scripts_without_keys_run_at_one_node() {
    let mut rig = Rig::new(&THREE);
    for _ in 0..12 {
        assert_eq!(rig.ask(request("EVAL s 0")), "+RAN\r\n");
    }
    let ran = rig.nodes.values().filter(|node| node.seen.contains(&"eval".to_owned())).count();
    assert_eq!(ran, 1);
}
