//! One plain redis and the proxy with four nodes are told the same, in RESP2 and in RESP3, and have to answer with the same bytes.
//!
//! What is told is a table of commands (`commands.txt`), requests generated from the command table, random sequences of commands
//! (`sequences.txt`), and bytes that are no requests at all. Nothing here decodes a reply: what stands before the answer to a marker
//! that follows each request is its reply, so an answer too many or too few is found as well. The differences that are known are
//! listed, with their reasons, in `known`.

mod generated;
mod known;
mod peer;
mod sequences;
#[path = "../clients/servers.rs"]
#[allow(dead_code, reason = "each test program uses a part of it")]
mod servers;
mod tracking;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use vrc_agent::spawn::RedisProcess;

use crate::{
    generated::Generator,
    known::{Difference, explain},
    peer::{End, Peer},
    sequences::Step,
    servers::{FixedCluster, plain_redis},
};

/// Differences shown at most; there is hardly ever more to be learnt from the rest.
const SHOWN_MAX: usize = 60;
/// Bytes shown before the first that differs.
const SHOWN_BEFORE: usize = 60;

/// A plain redis and a proxy, and what differed between them.
struct Pair {
    redis: Peer,
    proxy: Peer,
    in_transaction: bool,
    differences: Vec<String>,
    compared: usize,
    explained: BTreeMap<&'static str, Vec<String>>,
    servers: (RedisProcess, FixedCluster),
}

impl Pair {
    async fn start(greeting: &str) -> Self {
        let (redis, cluster) = tokio::join!(plain_redis(), FixedCluster::start());
        Pair {
            redis: Peer::new(redis.port(), greeting),
            proxy: Peer::new(cluster.port, greeting),
            in_transaction: false,
            differences: Vec::new(),
            compared: 0,
            explained: BTreeMap::new(),
            servers: (redis, cluster),
        }
    }

    /// Says the same to both and compares. `words` are the request's, if it is one, and `shown` is what to call it.
    async fn compare(&mut self, request: &[u8], words: &[Vec<u8>], shown: &str) {
        match words {
            [name] if name == b"MULTI" => self.in_transaction = true,
            [name] if name == b"EXEC" || name == b"DISCARD" => self.in_transaction = false,
            _ => {}
        }
        let end = if self.in_transaction { End::Line } else { End::Marker };
        let (redis, proxy) = tokio::join!(self.redis.ask(request, end), self.proxy.ask(request, end));
        self.compared += 1;
        match explain(words, &redis, &proxy) {
            Difference::None => {}
            Difference::Known(reason) => self.explained.entry(reason).or_default().push(shown.to_owned()),
            Difference::Unknown => {
                let same = redis.iter().zip(&proxy).take_while(|(redis, proxy)| redis == proxy).count();
                let from = same.saturating_sub(SHOWN_BEFORE);
                let (redis, proxy) = (escape(&redis[from..]), escape(&proxy[from..]));
                self.differences.push(format!("{shown}\n    from byte {from}\n    redis: {redis}\n    proxy: {proxy}"));
            }
        }
    }

    async fn command(&mut self, words: &[Vec<u8>]) {
        let shown: Vec<_> = words.iter().map(|word| escape(word)).collect();
        self.compare(&request(words), words, &shown.join(" ")).await;
    }

    /// Says something to both that is not compared.
    async fn prepare(&mut self, request: &[u8]) {
        tokio::join!(self.redis.ask(request, End::Marker), self.proxy.ask(request, End::Marker));
    }

    /// Waits until both have noticed that earlier connections are closed: what they listened to is counted, and so are those whom a
    /// client ends.
    async fn until_alone(&mut self) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        for peer in [&mut self.redis, &mut self.proxy] {
            let mut until = async |request: &[u8], is_so: &dyn Fn(&[u8]) -> bool| {
                while !is_so(&peer.ask(request, End::Marker).await) {
                    assert!(tokio::time::Instant::now() < deadline, "an earlier connection is still there");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            until(b"PUBSUB CHANNELS\r\nPUBSUB NUMPAT\r\n", &|reply| reply == b"*0\r\n:0\r\n").await;
            until(b"CLIENT LIST\r\n", &|reply| {
                reply.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"id=") || line.starts_with(b"txt:id=")).count()
                    == 1
            })
            .await;
        }
    }

    async fn finish(self) {
        println!("compared {}; what differs for a reason: {:#?}", self.compared, self.explained);
        let shown = &self.differences[..self.differences.len().min(SHOWN_MAX)];
        assert!(shown.is_empty(), "{} differences:\n{}", self.differences.len(), shown.join("\n"));
        self.servers.1.stop().await;
    }
}

/// As much of some bytes as a person wants to see.
fn escape(bytes: &[u8]) -> String {
    const SHOWN_BYTES_MAX: usize = 300;
    let cut = if bytes.len() > SHOWN_BYTES_MAX { "…" } else { "" };
    format!("{}{cut}", bytes[..bytes.len().min(SHOWN_BYTES_MAX)].escape_ascii())
}

fn request(words: &[Vec<u8>]) -> Vec<u8> {
    let mut request = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        request.extend_from_slice(word);
        request.extend_from_slice(b"\r\n");
    }
    request
}

/// A line of the table: words parted by spaces; a word in double quotes may have spaces, and `\r`, `\n` and `\xHH` in it.
fn words(line: &str) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let mut word = Vec::new();
        let quoted = rest.starts_with('"');
        let mut bytes = rest.bytes().enumerate().skip(usize::from(quoted));
        let mut end = rest.len();
        while let Some((at, byte)) = bytes.next() {
            match byte {
                b'"' if quoted => {
                    end = at + 1;
                    break;
                }
                b' ' if !quoted => {
                    end = at;
                    break;
                }
                b'\\' if quoted => match bytes.next().unwrap().1 {
                    b'r' => word.push(b'\r'),
                    b'n' => word.push(b'\n'),
                    b'x' => {
                        let digits = [bytes.next().unwrap().1, bytes.next().unwrap().1];
                        word.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
                    }
                    other => word.push(other),
                },
                other => word.push(other),
            }
        }
        words.push(word);
        rest = rest[end..].trim_start();
    }
    words
}

#[test]
fn words_of_a_line() {
    assert_eq!(words(r#"a "b c" "\x00\r\"" "" d"#), [b"a".as_slice(), b"b c", b"\0\r\"", b"", b"d"]);
}

async fn table(greeting: &str) {
    let mut pair = Pair::start(greeting).await;
    for line in include_str!("commands.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        pair.command(&words(line)).await;
    }
    pair.finish().await;
}

#[tokio::test]
async fn table_resp2() {
    table("").await;
}

#[tokio::test]
async fn table_resp3() {
    table("HELLO 3\r\n").await;
}

async fn from_the_command_table(greeting: &str) {
    let mut pair = Pair::start(greeting).await;
    for case in Generator::new() {
        pair.command(&case.words).await;
        if case.may_write {
            pair.prepare(&generated::fixtures()).await;
        }
    }
    pair.finish().await;
}

#[tokio::test]
async fn generated_resp2() {
    from_the_command_table("").await;
}

#[tokio::test]
async fn generated_resp3() {
    from_the_command_table("HELLO 3\r\n").await;
}

/// How many commands a sequence has.
const SEQUENCE_COMMANDS: usize = 2_000;
/// How often parts of a sequence that failed are tried, to find a shorter one that fails.
const SHRINKS_MAX: usize = 300;

impl Pair {
    /// The same servers, empty and spoken to anew.
    async fn begin_anew(&mut self) {
        (self.redis, self.proxy) = (self.redis.anew(), self.proxy.anew());
        self.until_alone().await;
        self.prepare(b"FLUSHALL\r\n").await;
    }

    /// The first step that is answered differently, and how. Two clients say them in turns; if keys are `tracked`, the first one says so
    /// in these words.
    async fn play(&mut self, steps: &[Step], tracked: Option<&str>) -> Option<(usize, String)> {
        self.begin_anew().await;
        let mut others = (self.redis.anew(), self.proxy.anew());
        if let Some(words) = tracked {
            self.prepare(format!("{words}\r\n").as_bytes()).await;
        }
        let tracked = tracked.is_some();
        for (at, step) in steps.iter().enumerate() {
            let bytes = step.bytes();
            let (to_redis, to_proxy) =
                if step.by_other { (&mut others.0, &mut others.1) } else { (&mut self.redis, &mut self.proxy) };
            let end = if tracked { End::MarkerWithin } else { End::Marker };
            let (mut redis, mut proxy) = tokio::join!(to_redis.ask(&bytes, end), to_proxy.ask(&bytes, end));
            let mut told = (BTreeSet::new(), BTreeSet::new());
            if tracked {
                // Once that is answered, there is nothing more to be told.
                let rest = tokio::join!(self.redis.ask(b"PING\r\n", end), self.proxy.ask(b"PING\r\n", end));
                redis.extend(rest.0);
                proxy.extend(rest.1);
                told = (tracking::take_invalidated(&mut redis), tracking::take_invalidated(&mut proxy));
            }
            if told.0 != told.1 || !known::are_alike(step.commands(), &redis, &proxy) {
                let (redis, proxy) = (escape(&redis), escape(&proxy));
                return Some((at, format!("redis: {redis} {:?}\n    proxy: {proxy} {:?}", told.0, told.1)));
            }
        }
        None
    }

    /// Leaves out of a sequence that fails at its end whatever can be left out.
    async fn shrink(&mut self, mut steps: Vec<Step>, tracked: Option<&str>) -> Vec<Step> {
        let (mut tries, mut len) = (0, steps.len() / 2);
        while len > 0 && tries < SHRINKS_MAX {
            let mut at = 0;
            while at + len < steps.len() && tries < SHRINKS_MAX {
                tries += 1;
                let without = [&steps[..at], &steps[at + len..]].concat();
                match self.play(&without, tracked).await {
                    Some((failed, _)) => steps = without[..=failed].to_vec(),
                    None => at += len,
                }
            }
            len /= 2;
        }
        for at in 0..steps.len() {
            let mut line = 0;
            while at < steps.len() && line < steps[at].lines.len() && tries < SHRINKS_MAX {
                tries += 1;
                let mut without = steps.clone();
                without[at].lines.remove(line);
                match self.play(&without, tracked).await {
                    Some((failed, _)) => steps = without[..=failed].to_vec(),
                    None => line += 1,
                }
            }
        }
        steps
    }
}

/// As `VRC_SEED` says, or the same in every run.
fn seed() -> u64 {
    std::env::var("VRC_SEED").map_or(1, |seed| seed.parse().expect("VRC_SEED is a number"))
}

/// What is not about keys alone: a client that tracks is to go on with that, and both to stay in one database. And what is read over a
/// connection that nothing is tracked on: of such keys a client is told at once.
const NOT_TRACKED: &[&str] = &["HELLO", "RESET", "CLIENT", "SELECT", "MOVE", "COPY", "FLUSHDB", "BLOCK", "WATCH"];
/// What a client that tracks does not say. What may change and then read the same key in one go (PFCOUNT keeps what it has counted): that
/// the client is told behind the reply is enough for the proxy, and redis will tell of the next change, too. And what goes over another
/// connection, by which the node does not know its own writes.
const NOT_BY_READER: &[&str] =
    &["EVAL", "MULTI", "PFCOUNT", "BLPOP", "BRPOP", "BLMOVE", "BRPOPLPUSH", "BLMPOP", "BZPOPMIN", "BZPOPMAX", "BZMPOP"];

async fn sequence(greeting: &str, tracked: Option<&str>) {
    let mut pair = Pair::start(greeting).await;
    let (seed, mut steps) = (seed(), sequences::steps(seed(), SEQUENCE_COMMANDS));
    steps.retain(|step| tracked.is_none() || !step.has(NOT_TRACKED) && (step.by_other || !step.has(NOT_BY_READER)));
    if let Some((at, difference)) = pair.play(&steps, tracked).await {
        steps.truncate(at + 1);
        let steps = pair.shrink(steps, tracked).await;
        let difference = pair.play(&steps, tracked).await.map_or(difference, |(_, difference)| difference);
        let shown: Vec<_> = steps.iter().map(|step| step.shown()).collect();
        panic!("VRC_SEED={seed}, step {at}; this is enough:\n    {}\n    {difference}", shown.join("\n    "));
    }
    pair.finish().await;
}

#[tokio::test]
async fn sequence_resp2() {
    sequence("", None).await;
}

#[tokio::test]
async fn sequence_resp3() {
    sequence("HELLO 3\r\n", None).await;
}

#[tokio::test]
async fn sequence_tracked() {
    sequence("HELLO 3\r\n", Some("CLIENT TRACKING ON")).await;
}

#[tokio::test]
async fn sequence_tracked_but_for_own_writes() {
    sequence("HELLO 3\r\n", Some("CLIENT TRACKING ON NOLOOP")).await;
}

#[tokio::test]
async fn sequence_of_changes_to_all_keys() {
    sequence("HELLO 3\r\n", Some("CLIENT TRACKING ON BCAST")).await;
}

/// Bytes that are no request, or an odd one. Each comes on a connection of its own.
const ODD_BYTES: &[&[u8]] = &[
    b"PING\r\n",
    b"PING\n",
    b"  ping  \r\n",
    b"\r\n\r\nPING\r\n",
    b"SET inline \"a b\\x00\\n\"\r\nGET inline\r\n",
    b"SET inline 'a \\' b'\r\nGET inline\r\n",
    b"GET \"unbalanced\r\n",
    b"GET 'un\r\n",
    b"GET \"a\"b\r\n",
    b"*0\r\n",
    b"*-1\r\n",
    b"*-100\r\n",
    b"*0\r\nPING\r\n",
    b"*\r\n",
    b"*x\r\n",
    b"*1\r\n",
    b"*1\r\n\r\n",
    b"*1\r\nPING\r\n",
    b"*1\r\n$x\r\n",
    b"*1\r\n$-1\r\n",
    b"*1\r\n$\r\n",
    b"*1\r\n:4\r\nPING\r\n",
    b"*1\r\n$4294967296\r\n",
    b"*1\r\n$536870913\r\n",
    b"*1048577\r\n",
    b"*2147483648\r\n",
    b"*99999999999999999999\r\n",
    b"*1\r\n$4\r\nPINGxx",
    b"*1\r\n$+4\r\nPING\r\n",
    b"*+1\r\n$4\r\nPING\r\n",
    b"*01\r\n$4\r\nPING\r\n",
    b"*1\r\n$04\r\nPING\r\n",
    b"* 1\r\n$4\r\nPING\r\n",
    b"*1\r\n$0\r\n\r\n",
    b"*1\r\n$3\r\n\0\r\n\r\n",
    b"$4\r\nPING\r\n",
    b"+OK\r\n",
    b"POST / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
    b"HELLO 3\r\nGET nothing\r\nHELLO 2\r\nGET nothing\r\n",
    b"HELLO 3\r\nHGETALL nothing\r\nRESET\r\nHGETALL nothing\r\n",
    b"HELLO 1\r\n",
    b"HELLO 4\r\n",
    b"HELLO x\r\n",
    b"HELLO 3 NONSENSE\r\n",
    b"HELLO 3 AUTH\r\n",
    b"HELLO 3 AUTH default\r\n",
    b"HELLO 3 AUTH someone secret\r\n",
    b"HELLO 3 SETNAME\r\n",
    b"HELLO 2 SETNAME \"a b\"\r\n",
    b"AUTH secret\r\n",
    b"AUTH default secret\r\n",
    b"AUTH someone secret\r\n",
    b"AUTH a b c\r\n",
    b"SELECT 1\r\nSELECT -1\r\nSELECT 16\r\nSELECT x\r\nSELECT 99999999999\r\n",
    b"SELECT 1\r\nSET odd 1\r\nSELECT 2\r\nGET odd\r\nSELECT 1\r\nGET odd\r\nDEL odd\r\n",
    b"QUIT\r\nPING\r\n",
    b"RESET\r\nPING\r\n",
    b"QUIT now\r\n",
    b"CLIENT SETNAME name\r\nCLIENT GETNAME\r\nRESET\r\nCLIENT GETNAME\r\n",
    // Replies that are not wanted.
    b"CLIENT REPLY OFF\r\nPING\r\nNONSENSE\r\nGET {o}1\r\nMGET a b c d\r\nSUBSCRIBE a\r\nUNSUBSCRIBE a\r\nCLIENT REPLY ON\r\n",
    b"CLIENT REPLY SKIP\r\nGET a\r\nPING 1\r\nCLIENT REPLY SKIP\r\nCLIENT REPLY SKIP\r\nPING 0\r\nPING 2\r\n",
    b"CLIENT REPLY OFF\r\nCLIENT REPLY SKIP\r\nPING 0\r\nCLIENT REPLY ON\r\nPING 1\r\nCLIENT REPLY maybe\r\n",
    b"CLIENT REPLY SKIP\r\nCLIENT REPLY ON\r\nPING 1\r\nCLIENT REPLY SKIP\r\nMULTI\r\nPING\r\nEXEC\r\n",
    b"HELLO 3\r\nCLIENT REPLY OFF\r\nSUBSCRIBE a\r\nPUBLISH a x\r\nPING\r\nUNSUBSCRIBE a\r\nCLIENT REPLY ON\r\n",
    b"CLIENT REPLY OFF\r\nMULTI\r\nSET {o}1 a\r\nPUBLISH a x\r\nEXEC\r\nCLIENT REPLY ON\r\nGET {o}1\r\n",
    b"CLIENT REPLY OFF\r\nRESET\r\nPING\r\n",
    b"CLIENT REPLY OFF\r\nPING\r\n*1\r\n$x\r\n",
    // Clients that end themselves.
    b"PING\r\nCLIENT KILL SKIPME no TYPE pubsub\r\nPING\r\n",
    b"SUBSCRIBE a\r\nCLIENT KILL 1:1\r\nPING\r\n",
    b"CLIENT KILL SKIPME no USER default\r\nPING\r\n",
    b"MULTI\r\nCLIENT SETNAME x\r\nCLIENT GETNAME\r\nCLIENT NO-EVICT on\r\nCLIENT UNBLOCK 0\r\nCLIENT PAUSE 0\r\nCLIENT UNPAUSE\r\nEXEC\r\n",
    // Transactions that come in one piece.
    b"MULTI\r\nSET {o}1 a\r\nGET {o}1\r\nINCR {o}2\r\nLPUSH {o}1 x\r\nMGET {o}1 {o}2\r\nEXEC\r\nGET {o}1\r\n",
    b"MULTI\r\nEXEC\r\nMULTI\r\nDISCARD\r\nEXEC\r\nDISCARD\r\n",
    b"MULTI\r\nSET {o}1 b\r\nDISCARD\r\nGET {o}1\r\n",
    b"MULTI\r\nSET {o}1 b\r\nNONSENSE\r\nGET\r\nEXEC\r\nGET {o}1\r\n",
    b"MULTI\r\nMULTI\r\nWATCH {o}1\r\nSET {o}1 c\r\nEXEC\r\nGET {o}1\r\n",
    b"WATCH {o}1\r\nGET {o}1\r\nMULTI\r\nSET {o}1 d\r\nEXEC\r\n",
    b"WATCH {o}1\r\nSET {o}1 e\r\nMULTI\r\nSET {o}1 f\r\nEXEC\r\nGET {o}1\r\n",
    b"MULTI\r\nSET {o}1 g\r\nRESET\r\nGET {o}1\r\n",
    b"MULTI\r\nBLPOP {o}list 0\r\nEXEC\r\n",
    b"MULTI\r\nPING\r\nECHO hello\r\nEXEC\r\n",
    // Transactions with commands that are not one node's alone.
    b"MULTI\r\nSET {o}1 h\r\nDBSIZE\r\nFLUSHALL\r\nGET {o}1\r\nDBSIZE\r\nSET {o}1 i\r\nRANDOMKEY\r\nKEYS *\r\nSCAN 0 COUNT x\r\nEXEC\r\nGET {o}1\r\n",
    b"FLUSHDB\r\nMULTI\r\nSELECT 1\r\nSET {o}1 j\r\nSELECT 2\r\nGET {o}1\r\nSELECT x\r\nSELECT 1\r\nDEL {o}1\r\nEXEC\r\nDEL {o}1\r\n",
    b"WATCH {o}1\r\nSET {o}1 k\r\nMULTI\r\nFLUSHALL\r\nEXEC\r\nGET {o}1\r\n",
    b"WATCH {o}1\r\nMULTI\r\nFLUSHALL\r\nSET {o}1 l\r\nEXEC\r\nGET {o}1\r\n",
    b"MULTI\r\nPUBLISH a x\r\nSET {o}1 m\r\nSCRIPT EXISTS abc\r\nPUBLISH a x\r\nINCR {o}1\r\nCLIENT GETNAME\r\nEXEC\r\n",
    b"MULTI\r\nSAVE\r\nEXEC\r\nMULTI\r\nSHUTDOWN\r\nEXEC\r\nMULTI\r\nPSYNC a b\r\nEXEC\r\nMULTI\r\nMONITOR\r\nDISCARD\r\n",
    b"MULTI\r\nHELLO 3\r\nHGETALL {o}h\r\nGET {o}nothing\r\nHELLO 2\r\nGET {o}nothing\r\nEXEC\r\n",
    b"SET {o}1 n\r\nMULTI\r\nGET {o}1\r\nCOPY {o}1 {o}1 DB 1\r\nMOVE {o}1 2\r\nGET {o}1\r\nFLUSHALL\r\nEXEC\r\n",
    b"HELLO 3\r\nMULTI\r\nHSET {o}h a 1\r\nHGETALL {o}h\r\nGET {o}nothing\r\nEXEC\r\nMULTI\r\nNONSENSE\r\nEXEC\r\n",
    // Subscriptions, which no reply may overtake.
    b"SUBSCRIBE a b a\r\nUNSUBSCRIBE a\r\nUNSUBSCRIBE\r\nUNSUBSCRIBE\r\nUNSUBSCRIBE a\r\n",
    b"PSUBSCRIBE a* b*\r\nSUBSCRIBE a\r\nPUNSUBSCRIBE\r\nUNSUBSCRIBE\r\n",
    b"SUBSCRIBE a\r\nGET k\r\nPING\r\nPING hello\r\nNONSENSE\r\nSUBSCRIBE\r\nUNSUBSCRIBE\r\nGET nothing\r\n",
    b"SUBSCRIBE a\r\nRESET\r\nGET nothing\r\n",
    b"SSUBSCRIBE a\r\nSUNSUBSCRIBE\r\n",
    b"HELLO 3\r\nSUBSCRIBE a\r\nGET nothing\r\nPING\r\nPING hello\r\nUNSUBSCRIBE\r\n",
    b"SUBSCRIBE a\r\nQUIT\r\n",
    b"MULTI\r\nSUBSCRIBE a\r\nPUBLISH a b\r\nDISCARD\r\n",
    b"MULTI\r\nSUBSCRIBE a b\r\nPUBLISH a x\r\nPUBLISH b y\r\nEXEC\r\nPING\r\n",
    b"MULTI\r\nUNSUBSCRIBE a\r\nSSUBSCRIBE a\r\nPUBSUB NUMSUB a b\r\nSET {o}1 1\r\nPUBLISH a x\r\nEXEC\r\n",
    b"MULTI\r\nPUBLISH a x\r\nGET\r\nEXEC\r\n",
    // Invalidations of a client's own doing, each behind the reply.
    b"HELLO 3\r\nCLIENT TRACKING ON\r\nGET {o}t\r\nSET {o}t 1\r\nSET {o}t 2\r\nGET {o}t\r\nMULTI\r\nINCR {o}t\r\nGET {o}t2\r\nEXEC\r\nDEL {o}t\r\n",
    b"HELLO 3\r\nCLIENT TRACKING ON OPTIN\r\nCLIENT CACHING YES\r\nMULTI\r\nGET {o}u\r\nEXEC\r\nGET {o}v\r\nMSET {o}u 1 {o}v 1\r\nGET {o}nothing\r\n",
    b"HELLO 3\r\nCLIENT TRACKING ON NOLOOP\r\nGET {o}w\r\nSET {o}w 1\r\nGET {o}w\r\nCLIENT TRACKING OFF\r\nSET {o}w 2\r\n",
    b"HELLO 3\r\nCLIENT TRACKING ON\r\nEVAL \"return redis.call('get', KEYS[1])\" 1 {o}x\r\nSET {o}x 1\r\nEVAL \"return 1\" 1 {o}x\r\nSET {o}x 2\r\n",
    b"HELLO 3\r\nCLIENT TRACKING ON\r\nGET {o}y\r\nRESET\r\nSET {o}y 1\r\nCLIENT TRACKINGINFO\r\n",
    b"HELLO 3\r\nSUBSCRIBE a\r\nPUBLISH a x\r\nPUBLISH b x\r\nGET nothing\r\nPUBSUB NUMSUB a b\r\nPUBSUB CHANNELS\r\nPUBSUB NUMPAT\r\n",
    b"HELLO 3\r\nPSUBSCRIBE a* b*\r\nSUBSCRIBE a\r\nMULTI\r\nPUBLISH a x\r\nPUBLISH a y\r\nEXEC\r\nPUBSUB NUMPAT\r\n",
    b"HELLO 3\r\nSSUBSCRIBE a\r\nSPUBLISH a x\r\nPUBLISH a y\r\nPUBSUB SHARDNUMSUB a\r\nPUBSUB SHARDCHANNELS\r\n",
    b"PING\r\nPING hello\r\nECHO hello\r\nPING a b\r\n*1\r\n$x\r\n",
];

#[tokio::test]
async fn odd_bytes() {
    let mut pair = Pair::start("").await;
    (pair.redis, pair.proxy) = (pair.redis.ending_if_in_doubt(), pair.proxy.ending_if_in_doubt());
    for bytes in ODD_BYTES {
        (pair.redis, pair.proxy) = (pair.redis.anew(), pair.proxy.anew());
        pair.until_alone().await;
        let words: Vec<_> = bytes.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).map(<[u8]>::to_vec).collect();
        pair.compare(bytes, &words, &escape(bytes)).await;
    }
    // Lines and counts just within and beyond what redis takes.
    let long = |len: usize| format!("ECHO {}\r\n", "x".repeat(len)).into_bytes();
    for bytes in [long(60_000), long(65_530), long(65_536), long(70_000), long(200_000), vec![b'x'; 70_000]] {
        (pair.redis, pair.proxy) = (pair.redis.anew(), pair.proxy.anew());
        pair.compare(&bytes, &[], &escape(&bytes)).await;
    }
    pair.finish().await;
}
