//! Commands that only the nodes know.

use super::*;

/// A row of the reply to COMMAND.
fn row(name: &str, flag: &str, first: i64) -> String {
    let len = name.len();
    format!("*10\r\n${len}\r\n{name}\r\n:-2\r\n*1\r\n+{flag}\r\n:{first}\r\n:{first}\r\n:1\r\n*0\r\n*0\r\n*0\r\n*0\r\n")
}

fn commands(rows: &[String]) -> Option<Vec<u8>> {
    Some(format!("*{}\r\n{}", rows.len(), rows.concat()).into_bytes())
}

const UNKNOWN: &str = "-ERR unknown command 'T.NOTHING', with args beginning with: 'a' \r\n";

#[test]
fn a_command_that_only_the_nodes_know_goes_where_its_keys_are() {
    let mut rig = Rig::new(&THREE);
    rig.commands = commands(&[row("t.put", "write", 1), row("t.all", "write", 0)]);
    let key = rig.key_of("b", 0);
    // In the midst of a pipeline, which it holds up and does not change.
    let said = [format!("SET {key} 1"), format!("T.PUT {key} 2"), format!("GET {key}"), "T.ALL x".into(), "T.PUT".into()];
    let expect = "+OK\r\n+PUT\r\n$1\r\n2\r\n-ERR 't.all' is not supported by this proxy\r\n\
                  -ERR wrong number of arguments for 't.put' command\r\n";
    assert_eq!(rig.ask(said.clone().map(|text| request(&text)).concat()), expect);
    assert_eq!(rig.data["b"][key.as_bytes()], b"2");
    assert_eq!(rig.learned, 1);
    let block = ["MULTI".to_owned(), format!("T.PUT {key} 3"), format!("GET {key}"), "EXEC".into()];
    let done = "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+PUT\r\n$1\r\n3\r\n";
    assert_eq!(rig.ask(block.map(|text| request(&text)).concat()), done);
    assert_eq!(rig.ask(request(&format!("COMMAND GETKEYS T.PUT {key} 3"))), format!("*1\r\n${}\r\n{key}\r\n", key.len()));
    assert_eq!(rig.learned, 1, "once is enough");
    // What was not sent goes to the new owner.
    let client = rig.client();
    rig.kill("b");
    rig.say(client, request(&format!("T.PUT {key} 4")));
    rig.core.set_topology(topology(2, &[("a", true), ("b", false), ("c", true)]));
    rig.settle();
    assert_eq!(rig.got(client), "+PUT\r\n");
    // Other nodes may know others.
    assert_eq!(rig.ask(request(&format!("T.PUT {key} 5"))), "+PUT\r\n");
    assert!(rig.learned > 1);
}

#[test]
fn what_nobody_knows_is_asked_for_now_and_then() {
    let mut rig = Rig::new(&THREE);
    for _ in 0..3 {
        assert_eq!(rig.ask(request("T.NOTHING a")), UNKNOWN);
        assert_eq!(rig.ask(request("T.NEITHER")), "-ERR unknown command 'T.NEITHER', with args beginning with: \r\n");
    }
    assert_eq!(rig.learned, 1);
    rig.pass(crate::limits::LEARN_EVERY_MS + 1);
    assert_eq!(rig.ask(request("T.NOTHING a")), UNKNOWN);
    assert_eq!(rig.learned, 2);
    // A node that does not answer, and none at all.
    rig.commands = None;
    rig.core.set_topology(topology(2, &[("a", true)]));
    assert_eq!(
        rig.ask([request("T.NOTHING a"), request("T.NOTHING a"), request("PING")].concat()),
        format!("{UNKNOWN}{UNKNOWN}+PONG\r\n")
    );
    assert_eq!(rig.learned, 3);
    rig.core.set_topology(topology(3, &[("a", false)]));
    assert_eq!(rig.ask(request("T.NOTHING a")), UNKNOWN);
    assert_eq!(rig.learned, 3);
}

#[test]
fn a_client_that_leaves_while_a_node_is_asked_leaves_nothing_behind() {
    let mut rig = Rig::new(&THREE);
    let (gone, stays) = (rig.client(), rig.client());
    rig.say(gone, request("T.NOTHING a"));
    rig.say(stays, request("T.NOTHING a"));
    rig.core.session_closed(gone);
    rig.settle();
    assert_eq!(rig.got(stays), UNKNOWN);
}
