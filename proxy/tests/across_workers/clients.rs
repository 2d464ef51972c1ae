//! CLIENT across workers, in front of real redis servers: waits that are ended from outside, pauses, and the end of connections.

use tokio::time::Instant;

use super::support::{Client, Cluster, PATIENCE, until_reply};

impl Cluster {
    /// Waits until CLIENT LIST shows a client with these flags.
    async fn until_flags(&self, asker: &mut Client, of: &Client, flags: &str) {
        let flags = format!(" flags={flags} ");
        until_reply(asker, &format!("CLIENT LIST ID {}", of.id), |list| list.contains(&flags)).await;
    }
}

#[tokio::test]
async fn waits_are_ended_as_by_their_time_or_with_an_error() {
    let cluster = Cluster::start(|_| {}).await;
    let mut asker = cluster.client().await;
    for (wait, timed_out) in [
        ("BLPOP q 0", "*-1\r\n"),
        ("BLMOVE {q}a {q}b LEFT LEFT 0", "*-1\r\n"),
        ("BZPOPMIN z 0", "*-1\r\n"),
        ("XREAD BLOCK 0 STREAMS s $", "*-1\r\n"),
        ("WAIT 1 0", ":0\r\n"),
    ] {
        let mut waiter = cluster.client().await;
        for (reason, reply) in
            [("", timed_out), (" TIMEOUT", timed_out), (" ERROR", "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n")]
        {
            waiter.say(wait).await;
            cluster.until_flags(&mut asker, &waiter, "b").await;
            assert_eq!(asker.ask(&format!("CLIENT UNBLOCK {}{reason}", waiter.id)).await, ":1\r\n");
            assert_eq!(waiter.hear().await, reply, "{wait}{reason}");
            assert_eq!(asker.ask(&format!("CLIENT UNBLOCK {}{reason}", waiter.id)).await, ":0\r\n");
        }
    }
    cluster.stop().await;
}

/// However an element and the end of a wait meet, the element is either with the client or still in its list.
#[tokio::test]
async fn no_element_is_lost_when_a_wait_is_ended() {
    let cluster = Cluster::start(|_| {}).await;
    let (mut asker, mut pusher, mut waiter) = (cluster.client().await, cluster.client().await, cluster.client().await);
    for round in 0..100 {
        waiter.say("BLPOP q 0").await;
        cluster.until_flags(&mut asker, &waiter, "b").await;
        let unblock = format!("CLIENT UNBLOCK {}", waiter.id);
        let push = format!("RPUSH q {round}");
        tokio::join!(pusher.ask(&push), asker.ask(&unblock));
        let got = waiter.hear().await;
        let left = asker.ask("LPOP q").await;
        let value = format!("\r\n{round}\r\n");
        assert!(got.ends_with(&value) ^ left.ends_with(&value), "got {got:?}, left {left:?}");
    }
    cluster.stop().await;
}

#[tokio::test]
async fn a_pause_is_for_the_clients_of_all_workers_and_ends_in_time() {
    let cluster = Cluster::start(|_| {}).await;
    let mut admin = cluster.client().await;
    assert_eq!(admin.ask("CLIENT PAUSE 100000 WRITE").await, "+OK\r\n");
    let mut writers = Vec::new();
    for number in 0..4 {
        let mut writer = cluster.client().await;
        assert_eq!(writer.ask("GET k").await, "$-1\r\n");
        writer.say(&format!("SET k{number} v")).await;
        cluster.until_flags(&mut admin, &writer, "b").await;
        writers.push(writer);
    }
    assert_eq!(admin.ask(&format!("CLIENT UNBLOCK {}", writers[0].id)).await, ":0\r\n", "that is no wait of its own");
    assert_eq!(admin.ask("CLIENT UNPAUSE").await, "+OK\r\n");
    for writer in &mut writers {
        assert_eq!(writer.hear().await, "+OK\r\n");
    }
    // One that ends by itself.
    assert_eq!(admin.ask("CLIENT PAUSE 20").await, "+OK\r\n");
    assert_eq!(writers[0].ask("SET k v").await, "+OK\r\n");
    cluster.stop().await;
}

#[tokio::test]
async fn clients_of_all_workers_are_killed() {
    let cluster = Cluster::start(|_| {}).await;
    let mut admin = cluster.client().await;
    let mut others = Vec::new();
    for _ in 0..4 {
        others.push(cluster.client().await);
    }
    others[0].say("BLPOP q 0").await;
    cluster.until_flags(&mut admin, &others[0], "b").await;
    let address = others[1].stream.local_addr().unwrap();
    assert_eq!(admin.ask(&format!("CLIENT KILL {address}")).await, "+OK\r\n");
    assert_eq!(others[1].hear().await, "");
    assert_eq!(admin.ask(&format!("CLIENT KILL ID {}", others[2].id)).await, ":1\r\n");
    assert_eq!(others[2].hear().await, "");
    assert_eq!(admin.ask("CLIENT KILL TYPE normal").await, ":2\r\n");
    assert_eq!(others[0].hear().await, "");
    assert_eq!(others[3].hear().await, "");
    assert_eq!(admin.ask("RPUSH q x").await, ":1\r\n");
    assert_eq!(admin.ask("LLEN q").await, ":1\r\n", "nobody waits for it any more");
    assert_eq!(admin.ask("CLIENT KILL SKIPME no USER default").await, ":1\r\n");
    assert_eq!(admin.hear().await, "");
    cluster.stop().await;
}

/// Who is told that a client is dead may count on it that nothing is given to it any more. What it was given at the same moment it gets.
#[tokio::test]
async fn no_element_is_lost_when_a_waiting_client_is_killed() {
    let cluster = Cluster::start(|_| {}).await;
    let (mut asker, mut pusher) = (cluster.client().await, cluster.client().await);
    for round in 0..60 {
        let mut waiter = cluster.client().await;
        waiter.say("BLPOP q 0").await;
        cluster.until_flags(&mut asker, &waiter, "b").await;
        let kill = format!("CLIENT KILL ID {}", waiter.id);
        let push = format!("RPUSH q {round}");
        if round % 2 == 0 {
            assert_eq!(asker.ask(&kill).await, ":1\r\n");
            assert_eq!(pusher.ask(&push).await, ":1\r\n");
        } else {
            tokio::join!(pusher.ask(&push), asker.ask(&kill));
        }
        let got = waiter.hear().await;
        let left = asker.ask("LPOP q").await;
        let value = format!("\r\n{round}\r\n");
        assert!(got.ends_with(&value) ^ left.ends_with(&value), "round {round}: got {got:?}, left {left:?}");
        assert!(round % 2 == 1 || got.is_empty(), "round {round}: got {got:?}, left {left:?}");
    }
    cluster.stop().await;
}

#[tokio::test]
async fn the_commands_of_all_workers_are_shown() {
    let cluster = Cluster::start(|_| {}).await;
    let mut watchers = [cluster.client().await, cluster.client().await, cluster.client().await];
    for watcher in &mut watchers {
        assert_eq!(watcher.ask("MONITOR").await, "+OK\r\n");
    }
    for number in 0..4 {
        let mut other = cluster.client().await;
        assert_eq!(other.ask(&format!("SET k{number} v")).await, "+OK\r\n");
        let address = other.stream.local_addr().unwrap();
        for watcher in &mut watchers {
            let expect = format!("[0 {address}] \"SET\" \"k{number}\" \"v\"\r\n");
            let mut shown = String::new();
            while !shown.ends_with(&expect) {
                shown += &watcher.hear().await;
                assert!(shown.len() < 1000, "{shown}");
            }
        }
    }
    let [mut first, second, third] = watchers;
    assert_eq!(first.ask("RESET").await, "+RESET\r\n");
    drop((second, third));
    until_reply(&mut first, "CLIENT LIST", |list| !list.contains(" flags=O ")).await;
    assert_eq!(first.ask("SET k v").await, "+OK\r\n");
    assert_eq!(first.ask("PING").await, "+PONG\r\n", "nobody is shown anything any more");
    cluster.stop().await;
}

/// Asks until the answer begins like this.
async fn until(asker: &mut Client, line: &str, start: &str) -> String {
    until_reply(asker, line, |reply| reply.starts_with(start)).await
}

#[tokio::test]
async fn a_script_that_runs_for_ever_is_told_of_and_killed_by_whoever_wants() {
    let cluster = Cluster::start(|_| {}).await;
    for node in &cluster.nodes {
        let mut direct = Client::connect((node.host(), node.port())).await;
        assert_eq!(direct.ask("CONFIG SET busy-reply-threshold 1").await, "+OK\r\n");
    }
    // A key of the slot that scripts without keys go by, 0.
    let key = "06S";
    let mut runner = cluster.client().await;
    // One of them is served by the worker that also serves the first, over the same connections.
    for mut other in [cluster.client().await, cluster.client().await] {
        runner.say("EVAL \"while true do end\" 0").await;
        assert!(until(&mut other, "PING", "-BUSY").await.contains("You can only call SCRIPT KILL"));
        assert!(other.ask("FUNCTION STATS").await.starts_with("-BUSY"));
        assert!(other.ask("FUNCTION KILL").await.starts_with("-BUSY"));
        until(&mut other, &format!("GET {key}"), "-BUSY").await;
        assert_eq!(other.ask("SCRIPT KILL").await, "+OK\r\n");
        assert!(runner.hear().await.contains("killed by user"));
        until(&mut other, "PING", "+PONG").await;
        assert_eq!(other.ask(&format!("GET {key}")).await, "$-1\r\n");
        assert!(other.ask("SCRIPT KILL").await.starts_with("-NOTBUSY"));
    }
    cluster.stop().await;
}

/// Nodes know CLIENT NO-TOUCH from redis 7.2 on; what they say of it is what one server says.
#[tokio::test]
async fn who_is_not_to_touch_keys_leaves_them_idle_where_nodes_know_of_that() {
    let cluster = Cluster::start(|_| {}).await;
    let mut node = Client::connect((cluster.nodes[0].host(), cluster.nodes[0].port())).await;
    let (mut client, mut other) = (cluster.client().await, cluster.client().await);
    client.ask("SET k v").await;
    for line in ["CLIENT NO-TOUCH on", "CLIENT no-touch maybe", "CLIENT NO-TOUCH"] {
        assert_eq!(client.ask(line).await, node.ask(line).await, "{line}");
    }
    let knows = node.ask("CLIENT NO-TOUCH off").await == "+OK\r\n";
    assert_eq!(client.ask("CLIENT INFO").await.contains(" flags=T "), knows);
    let idle =
        async |client: &mut Client| client.ask("OBJECT IDLETIME k").await.trim_start_matches(':').trim().parse::<u64>().unwrap();
    until_reply(&mut other, "OBJECT IDLETIME k", |reply| reply != ":0\r\n").await;
    // The second by which nodes tell may end just after a key was touched, but not each time.
    let until_touched = async |client: &mut Client, other: &mut Client| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert_eq!(client.ask("GET k").await, "$1\r\nv\r\n");
            if idle(other).await == 0 {
                return;
            }
            assert!(Instant::now() < deadline, "the key stays idle");
        }
    };
    if knows {
        assert_eq!(client.ask("GET k").await, "$1\r\nv\r\n");
        assert!(idle(&mut other).await > 0);
    } else {
        until_touched(&mut client, &mut other).await;
    }
    assert_eq!(client.ask("CLIENT NO-TOUCH off").await == "+OK\r\n", knows);
    until_touched(&mut client, &mut other).await;
    cluster.stop().await;
}
