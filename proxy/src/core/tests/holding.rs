//! What is held, and for how long: large values pass without a copy, and who says nothing holds next to nothing.

use super::*;
use crate::limits::WRITE_SOON_BYTES;

fn set(key: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode::request(&mut bytes, &[b"SET", key.as_bytes(), value]);
    bytes
}

fn say_in_pieces(rig: &mut Rig, client: SessionId, bytes: &[u8]) {
    bytes.chunks(READ_BYTES).for_each(|piece| rig.say(client, piece));
}

#[test]
fn a_large_value_goes_on_in_the_buffer_that_it_came_in() {
    let mut rig = Rig::new(&["a"]);
    rig.ask(request("GET k"));
    let value = vec![b'v'; 10 * READ_BYTES + 17];
    let ask = set("k", &value);
    let client = rig.client();
    say_in_pieces(&mut rig, client, &ask[..ask.len() - 1]);
    let held = rig.core.sessions[client.index as usize].input().as_ptr();
    say_in_pieces(&mut rig, client, &ask[ask.len() - 1..]);
    let backend = *rig.nodes.keys().next().unwrap();
    assert_eq!(rig.core.backends[backend as usize].output().as_ptr(), held, "copied");
    assert_eq!(rig.core.sessions[client.index as usize].input().capacity(), 0);
    // Another's end comes together with what follows.
    rig.settle();
    say_in_pieces(&mut rig, client, &[ask, request("GET k"), set("other", b"1")].concat());
    rig.settle();
    let text = String::from_utf8(value).unwrap();
    assert_eq!(rig.got(client), format!("+OK\r\n+OK\r\n${}\r\n{text}\r\n+OK\r\n", text.len()));
}

#[test]
fn of_a_pipeline_that_comes_in_pieces_no_more_is_held_than_what_is_unfinished() {
    let mut rig = Rig::new(&["a"]);
    rig.ask(request("GET k"));
    let client = rig.client();
    let ask = set("k", &[b'v'; 10 * 1024]);
    for piece in ask.repeat(16).chunks(READ_BYTES) {
        rig.say(client, piece);
        let input = rig.core.sessions[client.index as usize].input();
        assert!(input.len() < ask.len() && input.capacity() <= ask.len(), "{} bytes in {}", input.len(), input.capacity());
    }
    rig.settle();
    assert_eq!(rig.got(client), "+OK\r\n".repeat(16));
}

#[test]
fn what_is_much_is_to_be_written_before_all_have_been_heard() {
    let mut rig = Rig::new(&["a", "b"]);
    let keys = ["a", "b"].map(|name| rig.key_of(name, 0));
    keys.iter().for_each(|key| drop(rig.ask(request(&format!("GET {key}")))));
    let client = rig.client();
    rig.say(client, request(&format!("GET {}", keys[1])));
    let ask = set(&keys[0], &[b'v'; 10 * 1024]);
    while rig.core.take_much_output().is_empty() {
        rig.say(client, &ask);
    }
    let dirty = rig.core.take_dirty_backends();
    let name = |backend: u32| rig.core.backends[backend as usize].node.to_string();
    let unwritten = |name: &str| {
        let of = rig.core.backends.iter().filter(|backend| &*backend.node == name);
        of.map(|backend| backend.output().len()).sum::<usize>()
    };
    assert!((WRITE_SOON_BYTES..WRITE_SOON_BYTES + ask.len()).contains(&unwritten("a")), "{}", unwritten("a"));
    assert_eq!(dirty.iter().map(|backend| name(*backend)).collect::<Vec<_>>(), ["b"], "it may wait");
    rig.core.reuse_dirty_backends(dirty);
    rig.settle();
    assert!(rig.got(client).starts_with("$-1\r\n+OK\r\n"));
}

#[test]
fn a_large_value_waits_its_turn_behind_what_its_node_was_to_get_before() {
    let mut rig = Rig::new(&["a"]);
    rig.ask(request("GET k"));
    let value = vec![b'v'; 2 * READ_BYTES];
    let client = rig.client();
    rig.say(client, [set("k", b"before"), request("GET k")].concat());
    say_in_pieces(&mut rig, client, &[set("k", &value), request("GET k"), request("PING")].concat());
    rig.settle();
    let text = String::from_utf8(value).unwrap();
    assert_eq!(rig.got(client), format!("+OK\r\n$6\r\nbefore\r\n+OK\r\n${}\r\n{text}\r\n+PONG\r\n", text.len()));
}

#[test]
fn large_values_for_one_node_go_on_in_their_own_buffers_and_in_turn() {
    let mut rig = Rig::new(&["a"]);
    rig.ask(request("GET k"));
    let clients = [0; 3].map(|_| rig.client());
    let held = clients.map(|client| {
        let ask = [set("k", &vec![b'v'; 3 * READ_BYTES + 500 + client.index as usize]), request("GET k")].concat();
        // As a driver does that reads to where bytes belong.
        rig.say(client, &ask[..100]);
        let mut at = 100;
        while let Some(room) = rig.core.session_room(client) {
            let len = (room.capacity() - room.len()).min(READ_BYTES);
            room.extend_from_slice(&ask[at..at + len]);
            at += len;
            rig.core.session_filled(client, len);
        }
        let held = rig.core.sessions[client.index as usize].input().as_ptr();
        say_in_pieces(&mut rig, client, &ask[at..]);
        held
    });
    let backend = *rig.nodes.keys().next().unwrap();
    for (client, held) in clients.iter().zip(held) {
        let output = rig.core.backend_output(backend);
        assert_eq!(output.as_ptr(), held, "copied");
        let (len, most) = (output.len(), 3 * READ_BYTES + 500 + client.index as usize);
        assert!((most..most + 100).contains(&len), "{len}");
        // The large one, and what comes behind it.
        rig.write_to_nodes(usize::MAX);
        rig.write_to_nodes(usize::MAX);
    }
    assert!(rig.core.backend_output(backend).is_empty());
    rig.settle();
    for client in clients {
        let len = 3 * READ_BYTES + 500 + client.index as usize;
        assert_eq!(rig.got(client), format!("+OK\r\n${len}\r\n{}\r\n", "v".repeat(len)));
    }
}

#[test]
fn what_comes_behind_a_large_value_that_was_not_sent_goes_elsewhere_with_it() {
    let mut rig = Rig::new(&["a", "b"]);
    let key = rig.key_of("a", 0);
    rig.ask(request(&format!("GET {key}")));
    let (one, other) = (rig.client(), rig.client());
    let value = "v".repeat(3 * READ_BYTES);
    say_in_pieces(&mut rig, one, &[set(&key, b"1"), set(&key, value.as_bytes())].concat());
    rig.say(other, request(&format!("GET {key}")));
    rig.core.set_topology(topology(2, &[("a", false), ("b", true)]));
    rig.settle();
    assert_eq!((rig.got(one), rig.got(other)), ("+OK\r\n+OK\r\n".to_owned(), format!("${}\r\n{value}\r\n", value.len())));
}

/// Two clients who have asked for the same large value, and then for another key, and have got a part of it.
fn amid_a_large_reply() -> (Rig, [SessionId; 2], String) {
    let mut rig = Rig::new(&["a"]);
    let value = "v".repeat(4 * READ_BYTES);
    rig.ask([set("k", value.as_bytes()), set("other", b"1")].concat());
    let clients = [rig.client(), rig.client()];
    for client in clients {
        rig.say(client, [request("GET k"), request("GET other")].concat());
    }
    rig.write_to_nodes(usize::MAX);
    // Also where not all of its length has come.
    for most in [3, READ_BYTES] {
        rig.answer(most);
        rig.write_to_clients(usize::MAX);
    }
    let reply = format!("${}\r\n{value}\r\n", value.len());
    assert_eq!(rig.clients[&clients[0].index], reply.as_bytes()[..READ_BYTES + 3]);
    (rig, clients, format!("{reply}$1\r\n1\r\n"))
}

#[test]
fn a_large_reply_is_passed_on_as_it_comes() {
    let (mut rig, clients, reply) = amid_a_large_reply();
    while !rig.answer(READ_BYTES / 3) {
        let held = clients.map(|client| rig.core.sessions[client.index as usize].held_bytes()).iter().sum::<usize>();
        assert!(held < 3 * READ_BYTES, "{held}");
        rig.write_to_clients(usize::MAX);
    }
    assert_eq!(clients.map(|client| rig.got(client)), [reply.clone(), reply]);
}

#[test]
fn nothing_is_told_in_the_middle_of_a_reply() {
    let (mut rig, [client, _], reply) = amid_a_large_reply();
    rig.core.tell(client, None, |out| out.extend_from_slice(b"+told\r\n"));
    rig.settle();
    let (large, small) = reply.split_at(reply.len() - "$1\r\n1\r\n".len());
    assert_eq!(rig.got(client), format!("{large}+told\r\n{small}"));
}

#[test]
fn a_client_that_leaves_in_the_middle_of_its_reply_leaves_the_next_one_its_own() {
    let (mut rig, [client, next], reply) = amid_a_large_reply();
    rig.core.session_closed(client);
    rig.clients.remove(&client.index);
    let another = rig.client();
    assert_eq!(another.index, client.index);
    rig.settle();
    assert_eq!((rig.got(another), rig.got(next)), (String::new(), reply));
}

#[test]
fn a_reply_whose_node_is_lost_in_the_middle_of_it_ends_with_the_connection() {
    let (mut rig, [client, next], reply) = amid_a_large_reply();
    rig.kill("a");
    rig.settle_as_far_as_it_goes();
    assert!(!rig.core.is_open(client));
    assert!(reply.starts_with(&rig.got(client)), "something else was said in the middle of the reply");
    assert!(rig.got(next).starts_with("-NODEDOWN"));
}

#[test]
fn what_a_client_may_not_do_it_may_not_do_with_large_values_either() {
    let mut rig = Rig::new(&["a"]);
    let client = rig.client();
    rig.say(client, request("MULTI"));
    say_in_pieces(&mut rig, client, &set("k", &vec![b'v'; 2 * READ_BYTES]));
    rig.say(client, ["STRLEN k", "DISCARD"].map(request).concat());
    rig.settle();
    assert_eq!(rig.got(client), "+OK\r\n+QUEUED\r\n+QUEUED\r\n+OK\r\n");
}

#[test]
fn who_says_nothing_holds_no_buffers() {
    let mut rig = Rig::new(&THREE);
    let client = rig.client();
    for _ in 0..3 {
        rig.say(client, (0..40).map(|key| request(&format!("SET {key} v"))).collect::<Vec<_>>().concat());
        rig.settle();
    }
    let held = |rig: &Rig| rig.core.sessions[client.index as usize].held_bytes();
    assert!(held(&rig) > 0);
    rig.core.tick(IDLE_MS / 2 * 1000);
    assert!(held(&rig) > 0, "too early");
    rig.core.tick(2 * IDLE_MS * 1000);
    assert_eq!(held(&rig), 0);
    rig.got(client);
    rig.say(client, [request("SET k v"), request("GET k")].concat());
    rig.settle();
    assert_eq!(rig.got(client), "+OK\r\n$1\r\nv\r\n");
}
