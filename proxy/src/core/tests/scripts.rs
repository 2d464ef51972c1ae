//! Scripts: known on every node, whatever becomes of the nodes.

use super::*;

const NOSCRIPT: &str = "-NOSCRIPT No matching script. Please use EVAL.\r\n";

#[test]
fn a_script_that_was_loaded_runs_on_a_node_that_joins_later_or_restarts() {
    let mut rig = Rig::new(&["a"]);
    let id = sha1(b"s");
    assert_eq!(rig.ask(request(&format!("EVALSHA {id} 0"))), NOSCRIPT);
    assert_eq!(rig.ask(request("SCRIPT LOAD s")), format!("$40\r\n{id}\r\n"));
    rig.core.set_topology(topology(2, &[("a", true), ("b", true)]));
    rig.reachable.insert("b".to_owned());
    assert_eq!(rig.ask(request(&format!("SCRIPT EXISTS {id} {}", sha1(b"other")))), "*2\r\n:1\r\n:0\r\n");
    // Also in the midst of a pipeline, and inside a transaction.
    let key = rig.key_of("b", 0);
    let run = format!("EVALSHA {id} 1 {key}");
    let pipeline =
        [format!("SET {key} v"), run.clone(), format!("GET {key}"), run.clone(), "MULTI".into(), run.clone(), "EXEC".into()];
    let said = rig.ask(pipeline.map(|text| request(&text)).concat());
    assert_eq!(said, "+OK\r\n+RAN\r\n$1\r\nv\r\n+RAN\r\n+OK\r\n+QUEUED\r\n*1\r\n+RAN\r\n");
    let loads = |rig: &Rig| rig.nodes.values().flat_map(|node| &node.seen).filter(|name| *name == "script").count();
    let before = loads(&rig);
    assert_eq!(rig.ask(request(&run)), "+RAN\r\n");
    assert_eq!(loads(&rig), before, "once is enough");

    rig.kill("b");
    rig.scripts.clear();
    rig.reachable.insert("b".to_owned());
    assert_eq!(rig.ask([request("MULTI"), request(&run), request("EXEC")].concat()), "+OK\r\n+QUEUED\r\n*1\r\n+RAN\r\n");
    assert_eq!(rig.ask(request(&run)), "+RAN\r\n");

    assert_eq!(rig.ask(request("SCRIPT FLUSH")), "+OK\r\n");
    assert_eq!(rig.ask(request(&run)), NOSCRIPT);
    assert_eq!(rig.ask(request(&format!("SCRIPT EXISTS {id}"))), "*1\r\n:0\r\n");
}

#[test]
fn a_script_that_was_run_is_known_everywhere() {
    let mut rig = Rig::new(&THREE);
    let id = sha1(b"s");
    let [on_a, on_b] = ["a", "b"].map(|node| format!("EVALSHA {id} 1 {}", rig.key_of(node, 0)));
    assert_eq!(rig.ask(request(&on_b)), NOSCRIPT);
    assert_eq!(rig.ask(request(&format!("EVAL s 1 {}", rig.key_of("a", 0)))), "+RAN\r\n");
    assert_eq!(rig.ask([request(&on_a), request(&on_b), request(&on_b)].concat()), "+RAN\r\n+RAN\r\n+RAN\r\n");
    // Another proxy has the nodes forget.
    rig.scripts.clear();
    assert_eq!(rig.ask(request(&on_b)), NOSCRIPT);
    assert_eq!(rig.ask(request(&on_b)), "+RAN\r\n");
}

#[test]
fn a_script_goes_along_wherever_what_runs_it_goes() {
    let id = sha1(b"s");
    let mut rig = Rig::new(&["a", "b"]);
    rig.ask(request("SCRIPT LOAD s"));
    rig.scripts.clear();
    let run = format!("EVALSHA {id} 1 {}", rig.key_of("b", 0));
    let client = rig.client();
    // Queued for a connection that is lost before it is written to.
    rig.ask(request(&run));
    rig.say(client, [request(&run), request("MULTI"), request(&run), request("EXEC"), request(&run)].concat());
    rig.kill("b");
    rig.scripts.clear();
    rig.reachable.insert("b".to_owned());
    rig.settle();
    assert_eq!(rig.got(client), "+RAN\r\n+OK\r\n+QUEUED\r\n*1\r\n+RAN\r\n+RAN\r\n");
    // Or for a node that leaves.
    rig.kill("b");
    rig.settle();
    rig.say(client, [request(&run), request("MULTI"), request(&run), request("EXEC"), request(&run)].concat());
    rig.core.set_topology(topology(2, &[("a", true), ("b", false)]));
    rig.settle();
    assert_eq!(rig.got(client), "+RAN\r\n+OK\r\n+QUEUED\r\n*1\r\n+RAN\r\n+RAN\r\n");
}

#[test]
fn a_node_is_given_the_functions_of_the_others_before_one_is_called_there() {
    let mut rig = Rig::new(&["a", "b"]);
    let call = format!("FCALL f 1 {}", rig.key_of("b", 0));
    let all = [request("PING"), request(&call), request("PING"), request("MULTI"), request(&call), request("EXEC")].concat();
    let expect = "+PONG\r\n+CALLED\r\n+PONG\r\n+OK\r\n+QUEUED\r\n*1\r\n+CALLED\r\n";
    assert_eq!(rig.ask(&all), expect);
    assert_eq!(rig.seen_to, ["b"]);
    // Its process may be another after this.
    rig.kill("b");
    rig.reachable.insert("b".to_owned());
    let block = [request("MULTI"), request(&call), request("EXEC")].concat();
    assert_eq!(rig.ask(block), "+OK\r\n+QUEUED\r\n*1\r\n+CALLED\r\n");
    assert_eq!(rig.seen_to, ["b", "b"]);
    // Nobody is there who could have any.
    rig.core.set_topology(topology(2, &[("a", false), ("b", true)]));
    rig.kill("b");
    rig.reachable.insert("b".to_owned());
    assert_eq!(rig.ask(&all), expect);
    assert_eq!(rig.seen_to.len(), 2);
}
