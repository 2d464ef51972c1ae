//! The command table beside a live server: what the server says of its commands, of a request's keys, and of requests that name no
//! command.
//!
//! Any server of the family will do, but only redis 7.0 is the one that the table describes, and has to agree with it in everything.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use support::{Connection, Reply, Server};
use vrc_cluster::command::{Command, CommandId, Unresolved, Way, describe, find_keys, resolve};
use vrc_cluster::resp::{ArgRange, Args, Proto};

/// A request's arguments, and where they are.
struct Request {
    bytes: Vec<u8>,
    ranges: Vec<ArgRange>,
}

impl Request {
    fn new<A: AsRef<[u8]>>(args: &[A]) -> Request {
        let mut request = Request { bytes: Vec::new(), ranges: Vec::new() };
        for arg in args {
            request.ranges.push(ArgRange { start: request.bytes.len() as u32, len: arg.as_ref().len() as u32 });
            request.bytes.extend(arg.as_ref());
        }
        request
    }

    fn args(&self) -> Args<'_> {
        Args::new(&self.bytes, &self.ranges)
    }
}

/// Our reply to a request of COMMAND.
fn ours<A: AsRef<[u8]>>(args: &[A], proto: Proto) -> Reply {
    let mut out = Vec::new();
    assert!(describe::reply(Request::new(args).args(), proto, &mut out));
    Reply::parse(&out)
}

/// What the server calls its version, major and minor. Forks give the version of redis that they are compatible with.
fn version(connection: &mut Connection) -> (u32, u32) {
    let info = connection.call(&["INFO", "server"]).text();
    let mut numbers = info.split_once("redis_version:").unwrap().1.split('.').map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

fn is_redis_7_0(connection: &mut Connection) -> bool {
    version(connection) == (7, 0)
}

fn every_row() -> impl Iterator<Item = &'static Command> {
    CommandId::all().map(CommandId::command)
}

/// Puts into one order what redis gives in any, and takes out its notes.
fn normal(mut reply: Reply) -> Reply {
    fn walk(reply: &mut Reply) {
        if reply.children.first().is_some_and(|first| first.bytes == b"notes") {
            reply.children.drain(..2);
        }
        reply.children.iter_mut().for_each(walk);
        if reply.children.iter().all(|child| child.children.len() == 10 || child.kind == b'$') {
            reply.children.sort();
        }
        // Counts follow from the children.
        if matches!(reply.kind, b'*' | b'~' | b'%') {
            reply.bytes.clear();
        }
    }
    walk(&mut reply);
    reply
}

#[test]
fn rows_are_what_the_server_says() {
    let server = Server::start();
    let mut connection = server.connect();
    if is_redis_7_0(&mut connection) {
        for (proto, hello) in [(Proto::Resp2, "2"), (Proto::Resp3, "3")] {
            connection.call(&["HELLO", hello]);
            for command in every_row() {
                let request = ["COMMAND", "INFO", command.name];
                assert_eq!(normal(ours(&request, proto)), normal(connection.call(&request)), "{}", command.name);
            }
            // And it has none that we lack.
            for request in [&["COMMAND"][..], &["COMMAND", "INFO"], &["COMMAND", "LIST"], &["COMMAND", "COUNT"]] {
                assert_eq!(normal(ours(request, proto)), normal(connection.call(request)), "{request:?}");
            }
        }
    } else if version(&mut connection) > (7, 0) {
        // A later server: what it has in common with redis 7.0 still takes the same keys and changes the same data.
        let theirs: BTreeMap<String, Reply> =
            connection.call(&["COMMAND"]).children.into_iter().map(|row| (row.children[0].text(), row)).collect();
        for ours in ours(&["COMMAND"], Proto::Resp2).children {
            let Some(theirs) = theirs.get(&ours.children[0].text()) else { continue };
            let writes = |row: &Reply| row.children[2].children.iter().any(|flag| flag.bytes == b"write");
            assert_eq!(writes(theirs), writes(&ours), "{}", ours.children[0].text());
            assert_eq!(theirs.children[3..6], ours.children[3..6], "{}", ours.children[0].text());
        }
    }
}

#[test]
fn command_replies_are_the_server_s() {
    let server = Server::start();
    let mut connection = server.connect();
    if !is_redis_7_0(&mut connection) {
        return;
    }
    let long = "x".repeat(300);
    let requests: &[&[&str]] = &[
        &["COMMAND", "INFO", "get", "nothing", "config|get", "CONFIG|GET", "config", "config|", "config|get|x", "get|x", "|", ""],
        &["COMMAND", "LIST", "FILTERBY", "ACLCAT", "hash"],
        &["COMMAND", "LIST", "filterby", "aclcat", "HyperLogLog"],
        &["COMMAND", "LIST", "FILTERBY", "ACLCAT", "@hash"],
        &["COMMAND", "LIST", "FILTERBY", "ACLCAT", "nonsense"],
        &["COMMAND", "LIST", "FILTERBY", "PATTERN", "*"],
        &["COMMAND", "LIST", "FILTERBY", "PATTERN", "X*|[a-d]*"],
        &["COMMAND", "LIST", "FILTERBY", "PATTERN", "[^x-z]r*e?"],
        &["COMMAND", "LIST", "FILTERBY", "PATTERN", "\\get"],
        &["COMMAND", "LIST", "FILTERBY", "PATTERN", ""],
        &["COMMAND", "LIST", "FILTERBY", "MODULE", "nonsense"],
        &["COMMAND", "LIST", "FILTERBY", "NONSENSE", "x"],
        &["COMMAND", "LIST", "FILTERBY", "PATTERN"],
        &["COMMAND", "LIST", "PATTERN", "x"],
        &["COMMAND", "LIST", "FILTERBY", "PATTERN", "x", "y"],
        &["COMMAND", "COUNT", "x"],
        &["COMMAND", "nonsense"],
        &["COMMAND", &long],
        &["COMMAND", "GETKEYS"],
        &["COMMAND", "GETKEYS", "get"],
        &["COMMAND", "GETKEYS", "nonsense", "x"],
        &["COMMAND", "GETKEYS", "config", "nonsense"],
        &["COMMAND", "GETKEYS", "config", "get", "x"],
        &["COMMAND", "GETKEYS", "ping", "x"],
        &["COMMAND", "GETKEYS", "get", "x", "y"],
        &["COMMAND", "GETKEYS", "spublish", "channel", "message"],
        &["COMMAND", "GETKEYS", "memory", "usage", "key"],
        &["COMMAND", "GETKEYS", "OBJECT", "ENCODING", "key"],
        &["COMMAND", "GETKEYS", "object", "help", "key"],
        &["COMMAND", "GETKEYSANDFLAGS", "set", "k", "v", "gEt"],
        &["COMMAND", "GETKEYSANDFLAGS", "set", "k", "v"],
    ];
    for (proto, hello) in [(Proto::Resp2, "2"), (Proto::Resp3, "3")] {
        connection.call(&["HELLO", hello]);
        for request in requests {
            assert_eq!(normal(ours(request, proto)), normal(connection.call(request)), "{request:?}");
        }
    }
    for request in [&["COMMAND", "DOCS"][..], &["COMMAND", "HELP"], &["GET", "x"]] {
        assert!(!describe::reply(Request::new(request).args(), Proto::Resp2, &mut Vec::new()), "{request:?}");
    }
}

/// Words that stand among the arguments of some command or other and tell where its keys are.
const WORDS: &[&str] = &[
    "STORE",
    "STOREDIST",
    "STREAMS",
    "BLOCK",
    "COUNT",
    "GROUP",
    "NOACK",
    "KEYS",
    "COPY",
    "REPLACE",
    "AUTH",
    "AUTH2",
    "BY",
    "GET",
    "LIMIT",
    "ASC",
    "DESC",
    "ALPHA",
    "SET",
    "INCRBY",
    "OVERFLOW",
    "WEIGHTS",
    "DB",
    "LEFT",
    "MIN",
    "streams",
    "store",
    "get",
    "Keys",
];
/// Numbers and what is none, for numbers of keys. None is so great that the server would make room for so many keys.
const NUMBERS: &[&str] = &["0", "1", "2", "3", "4", "5", "12", "-1", "-0", "+2", " 2", "02", "2x", "x", "", "3.0", "1000"];

fn arg() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => "[a-c{}*]{1,3}",
        3 => prop::sample::select(WORDS).prop_map(str::to_owned),
        3 => prop::sample::select(NUMBERS).prop_map(str::to_owned),
    ]
}

/// A request of this command with a number of arguments that it takes.
fn request(command: &'static Command) -> impl Strategy<Value = Vec<String>> {
    let name: Vec<String> = command.name.split('|').map(str::to_owned).collect();
    let least = usize::from(command.arity.unsigned_abs()) - name.len();
    let most = if command.arity < 0 { least + 8 } else { least };
    prop::collection::vec(arg(), least..=most).prop_map(move |args| [name.clone(), args].concat())
}

#[test]
fn reported_keys_are_the_server_s() {
    let server = Server::start();
    let mut connection = server.connect();
    if !is_redis_7_0(&mut connection) {
        return;
    }
    let mut runner = TestRunner::deterministic();
    let mut found = 0;
    for command in every_row().filter(|command| command.may_have_keys()) {
        let request = request(command);
        let cases = if command.only_key().is_some() { 5 } else { 300 };
        for case in 0..cases {
            let request = request.new_tree(&mut runner).unwrap().current();
            let ask = ["GETKEYS", "GETKEYSANDFLAGS"][case % 2];
            let ask: Vec<String> = ["COMMAND", ask].into_iter().map(str::to_owned).chain(request.iter().cloned()).collect();
            let theirs = connection.call(&ask);
            assert_eq!(ours(&ask, Proto::Resp2), theirs, "{ask:?}");
            found += theirs.children.len();
            if case % 2 == 0 {
                check_routed_keys(command, &request, &theirs);
            }
        }
    }
    assert!(found > 10_000, "the requests are too bad to prove anything: {found} keys");
}

/// What requests are routed by: what redis reports, unless the request is one that redis itself refuses, or the command reads its
/// arguments otherwise than redis's report.
fn check_routed_keys(command: &Command, request: &[String], reported: &Reply) {
    let mut keys = Vec::new();
    let found = find_keys(command, Request::new(request).args(), &mut keys);
    let reads_otherwise = ["sort", "sort_ro", "georadius", "georadiusbymember", "xread", "xreadgroup"].contains(&command.name);
    if found.is_err() || reads_otherwise {
        return;
    }
    let mut routed: Vec<&[u8]> = keys.iter().map(|index| request[*index as usize].as_bytes()).collect();
    let mut reported: Vec<&[u8]> = reported.children.iter().map(|key| key.bytes.as_slice()).collect();
    if command.name == "pfmerge" && request.len() == 2 {
        // Redis's report fails for want of sources, but the command does not.
        reported = vec![request[1].as_bytes()];
    } else if command.way == Way::PubSub {
        // Channels are not reported, but routed.
        reported = request[1..].iter().map(String::as_bytes).take(if command.arity > 0 { 1 } else { usize::MAX }).collect();
    }
    routed.sort_unstable();
    reported.sort_unstable();
    assert_eq!(routed, reported, "{request:?}");
}

/// Requests that cannot be routed are ones that redis refuses, in whatever words.
#[test]
fn what_cannot_be_routed_is_refused() {
    let server = Server::start();
    let mut connection = server.connect();
    let mut runner = TestRunner::deterministic();
    for command in every_row().filter(|command| command.may_have_keys() && command.only_key().is_none()) {
        let request = request(command);
        for _ in 0..150 {
            let request = request.new_tree(&mut runner).unwrap().current();
            let found = find_keys(command, Request::new(&request).args(), &mut Vec::new());
            // An error comes at once even from a command that would wait.
            if found.is_err_and(|error| error.is_redis_own()) {
                let reply = connection.call(&request);
                assert_eq!(reply.kind, b'-', "{request:?} {}", reply.text());
            }
        }
    }
}

/// A node of a Redis Cluster sees the same keys: it finds those of one request in several slots just where we do.
#[test]
fn routed_keys_are_a_cluster_s() {
    if version(&mut Server::start().connect()) < (7, 0) {
        return;
    }
    let server = Server::start_cluster();
    let mut connection = server.connect();
    let mut runner = TestRunner::deterministic();
    let (mut same_slot, mut several_slots) = (0, 0);
    for command in every_row().filter(|command| command.may_have_keys() && command.only_key().is_none()) {
        let request = request(command);
        for _ in 0..200 {
            let request = request.new_tree(&mut runner).unwrap().current();
            let mut keys = Vec::new();
            // How SORT reads its arguments not even redis's own look for keys knows, see the tests beside ours.
            if command.name.starts_with("sort") || find_keys(command, Request::new(&request).args(), &mut keys).is_err() {
                continue;
            }
            let slots: BTreeSet<Reply> =
                keys.iter().map(|key| connection.call(&["CLUSTER", "KEYSLOT", request[*key as usize].as_str()])).collect();
            // In a transaction it is only looked at, and neither changes anything nor waits; but WATCH is refused there, whatever it names.
            let [before, after] = if command.name == "watch" { ["PING", "UNWATCH"] } else { ["MULTI", "DISCARD"] };
            connection.call(&[before]);
            let reply = connection.call(&request).text();
            connection.call(&[after]);
            assert_eq!(reply.starts_with("CROSSSLOT"), slots.len() > 1, "{request:?} {reply}");
            *if slots.len() > 1 { &mut several_slots } else { &mut same_slot } += 1;
        }
    }
    assert!(same_slot > 500 && several_slots > 500, "{same_slot} {several_slots}");
}

#[test]
fn errors_are_the_server_s() {
    let server = Server::start();
    let mut connection = server.connect();
    if !is_redis_7_0(&mut connection) {
        return;
    }
    let mut check = |args: &[&[u8]]| {
        let request = Request::new(args);
        let unresolved = resolve(request.args()).expect_err("no such request");
        let reply = connection.call(args);
        assert_eq!(reply.kind, b'-');
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(text(&unresolved.error(request.args())), text(&reply.bytes), "{args:?}");
        unresolved
    };
    let (long, nearly) = (vec![b'x'; 300], vec![b'y'; 125]);
    check(&[b"foo"]);
    check(&[b""]);
    check(&[b"foo", b"a", b"b"]);
    check(&[b"FOO", b"", b"b\r\nc", b"d\0e"]);
    check(&[b"fo\r\no\xff", b"\xfe"]);
    check(&[b"\0get", b"a"]);
    check(&[&long, b"a"]);
    check(&[b"foo", &long, b"a"]);
    check(&[b"foo", &nearly, b"abc", b"d"]);
    check(&[b"foo", &nearly[1..], b"abc", b"d"]);
    check(&[b"foo", &nearly[2..], b"abc", b"d"]);
    check(&[b"foo", b"a", &nearly, b"b"]);
    check(&[b"config", b"foo", b"a"]);
    check(&[b"CONFIG", b"fo\no"]);
    check(&[b"Config", b""]);
    check(&[b"config", &long]);
    for command in every_row() {
        let name: Vec<&[u8]> = command.name.split('|').map(str::as_bytes).collect();
        let least = usize::from(command.arity.unsigned_abs());
        let mut wrong = Vec::new();
        // Without its own name a subcommand is another command.
        if least > name.len() {
            wrong.push(least - 1);
        }
        if command.arity > 0 {
            wrong.push(least + 1);
        }
        for argc in wrong {
            let args: Vec<&[u8]> = name.iter().copied().chain(std::iter::repeat(&b"x"[..])).take(argc).collect();
            // COMMAND x and CONFIG are no wrong numbers of arguments, but a wrong subcommand.
            let unresolved = check(&args);
            assert_eq!(unresolved, Unresolved::Arity(command), "{args:?}");
        }
    }
}

proptest! {
    #![proptest_config(Config { cases: 2_000, failure_persistence: None, ..Config::default() })]

    /// Whatever a client sends, keys are found within the arguments, or none are added.
    #[test]
    fn no_arguments_are_too_odd(args in prop::collection::vec(prop_oneof![arg(), ".{0,3}"], 0..12)) {
        let request = Request::new(&args);
        let args = request.args();
        for command in every_row() {
            let mut keys = vec![u32::MAX];
            let found = find_keys(command, args, &mut keys);
            prop_assert_eq!(keys[0], u32::MAX);
            prop_assert!(keys[1..].iter().all(|key| (1..args.len()).contains(&(*key as usize))), "{} {:?}", command.name, keys);
            prop_assert!(found.is_ok() || keys.len() == 1);
            command.waits(args);
            prop_assert!(command.other_database(args).is_none_or(|index| index < args.len().max(3)));
            vrc_cluster::command::sort_pattern(command, args);
        }
        if let Err(unresolved) = resolve(args) {
            prop_assert!(!unresolved.error(args).contains(&b'\n'));
        }
        describe::reply(args, Proto::Resp3, &mut Vec::new());
    }
}
