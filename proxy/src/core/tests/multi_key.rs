//! Commands with several keys that cannot be split.

use super::*;

#[test]
fn keys_of_two_slots_are_refused_also_where_one_node_has_both() {
    // So that what works does not change with the nodes.
    let mut rig = Rig::new(&["a"]);
    for words in [
        "MSETNX a 1 b 2",
        "RENAME a b",
        "RENAMENX a b",
        "COPY a b",
        "SUNION a b",
        "SINTERSTORE {b}c a b",
        "SDIFF a b",
        "SINTERCARD 2 a b",
        "SMOVE a b m",
        "ZUNION 2 a b",
        "ZDIFFSTORE b 1 a",
        "ZRANGESTORE a b 0 -1",
        "LMOVE a b LEFT LEFT",
        "RPOPLPUSH a b",
        "LMPOP 2 a b LEFT",
        "BITOP AND a a b",
        "PFMERGE a b",
        "PFCOUNT a b",
        "SORT a STORE b",
        "GEORADIUS a 0 0 1 m STORE b",
        "GEOSEARCHSTORE a b FROMLONLAT 0 0 BYRADIUS 1 m",
        "LCS a b",
        "EVAL s 2 a b",
        "XREAD STREAMS a b 0 0",
        "BLPOP a b 0",
        "WATCH a b",
    ] {
        assert_eq!(rig.ask(request(words)), "-CROSSSLOT Keys in request don't hash to the same slot\r\n", "{words}");
    }
    // What can be split is.
    assert_eq!(rig.ask([request("MSET a 1 b 2"), request("DEL a b")].concat()), "+OK\r\n:2\r\n");
}
