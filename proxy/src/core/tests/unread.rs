//! What clients leave unread: how much of it, and who is cut off for that.

use super::*;
use crate::limits::SUBSCRIBER_OUTPUT_MAX_BYTES;

/// A client that says this first, and reads no more.
fn client_that(rig: &mut Rig, says: &str) -> SessionId {
    let client = rig.client();
    rig.say(client, says.split(';').flat_map(request).collect::<Vec<_>>());
    rig.settle();
    client
}

fn invalidate(rig: &mut Rig, client: SessionId, key_len: usize) {
    let mut keys = Vec::new();
    encode::request(&mut keys, &["k".repeat(key_len)]);
    assert!(rig.core.take_invalidation(client, Some(&keys)));
}

/// Whether the client is cut off by what it was told.
fn is_cut_off(rig: &mut Rig, client: SessionId) -> bool {
    rig.core.take_effects().iter().any(|effect| matches!(effect, Effect::Close { session } if *session == client))
}

#[test]
fn one_that_asked_for_much_and_is_told_something_is_cut_off_only_if_it_listens() {
    for (says, expect) in
        [("HELLO 3;CLIENT TRACKING ON", false), ("HELLO 3;CLIENT TRACKING ON;SUBSCRIBE ch", true), ("HELLO 3", false)]
    {
        let mut rig = Rig::new(&["a"]);
        let client = client_that(&mut rig, says);
        rig.core.answer_now(client.index, |out| out.resize(SUBSCRIBER_OUTPUT_MAX_BYTES + 1, b'.'));
        invalidate(&mut rig, client, 1);
        assert_eq!(is_cut_off(&mut rig, client), expect, "{says}");
    }
}

#[test]
fn what_is_told_to_one_that_does_not_read_is_bounded() {
    const PIECE: usize = SUBSCRIBER_OUTPUT_MAX_BYTES / 16;
    let mut rig = Rig::new(&["a"]);
    let client = client_that(&mut rig, "HELLO 3;CLIENT TRACKING ON");
    // One that reads is told as much as there is.
    for _ in 0..40 {
        invalidate(&mut rig, client, PIECE);
        assert!(!is_cut_off(&mut rig, client));
        rig.core.session_written(client.index, PIECE);
    }
    let told = (0..40).take_while(|_| {
        invalidate(&mut rig, client, PIECE);
        !is_cut_off(&mut rig, client)
    });
    assert_eq!(told.count(), 15);
}

#[test]
fn what_is_told_while_a_value_is_passed_on_is_bounded() {
    const PIECE: usize = SUBSCRIBER_OUTPUT_MAX_BYTES / 16;
    let mut rig = Rig::new(&["a"]);
    rig.data.entry("a".into()).or_default().insert(b"k".to_vec(), vec![b'v'; 10 * READ_BYTES]);
    let client = client_that(&mut rig, "HELLO 3;SUBSCRIBE ch;GET other");
    rig.got(client);
    rig.say(client, request("GET k"));
    rig.write_to_nodes(usize::MAX);
    rig.answer(READ_BYTES);
    rig.write_to_clients(usize::MAX);
    assert_eq!(rig.got(client).len(), READ_BYTES, "the rest is to come");
    let told = (0..40).take_while(|_| {
        invalidate(&mut rig, client, PIECE);
        !is_cut_off(&mut rig, client)
    });
    assert_eq!(told.count(), 15);
}
