//! What a client may say, and have held for it, before it has logged in and after.

use super::*;
use crate::limits::CLIENT_OUTPUT_PAUSE_BYTES;

const ARGUMENTS: &str = "-ERR Protocol error: unauthenticated multibulk length\r\n";
const LENGTH: &str = "-ERR Protocol error: unauthenticated bulk length\r\n";

fn rig() -> Rig {
    Rig::with(&["a"], |settings| {
        settings.live = Arc::new(LiveSettings::new(Live { password: Some(b"secret".to_vec()), ..Live::default() }));
    })
}

fn set(len: usize) -> Vec<u8> {
    request(&format!("SET k {}", "v".repeat(len)))
}

#[test]
fn who_has_not_logged_in_may_say_no_more_than_that_takes() {
    for (said, expect) in [
        (set(16 * 1024), "-NOAUTH Authentication required.\r\n"),
        (set(16 * 1024 + 1), LENGTH),
        (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870912\r\n".to_vec(), LENGTH),
        (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870913\r\n".to_vec(), "-ERR Protocol error: invalid bulk length\r\n"),
        (request("MSET 1 2 3 4 5 6 7 8 9"), "-NOAUTH Authentication required.\r\n"),
        (b"*11\r\n".to_vec(), ARGUMENTS),
        (b"*1000000\r\n".to_vec(), ARGUMENTS),
        (vec![b'x'; 64 * 1024 + 1], "-ERR Protocol error: too big inline request\r\n"),
    ] {
        let mut rig = rig();
        let client = rig.client();
        for piece in said.chunks(1000) {
            rig.say(client, piece);
        }
        rig.settle();
        assert_eq!(rig.got(client), expect);
        let may_go_on = expect.starts_with("-NOAUTH");
        assert_eq!(rig.core.is_open(client), may_go_on, "{expect}");
    }
}

#[test]
fn who_has_logged_in_may_say_more_from_the_next_command_on() {
    let many = request(&format!("DEL{}", " k".repeat(20)));
    for login in ["AUTH secret", "HELLO 2 AUTH default secret"] {
        let mut rig = rig();
        let said = [request(login), set(20 * 1024), many.clone()].concat();
        let got = rig.ask(said);
        assert!(got.ends_with("+OK\r\n:1\r\n"), "{got}");
        // Nor does one who has not concern others.
        let (inside, outside) = (rig.client(), rig.client());
        rig.say(inside, request(login));
        rig.say(outside, request("PING"));
        rig.say(inside, set(20 * 1024));
        rig.say(outside, &many);
        rig.settle();
        assert!(rig.got(inside).ends_with("+OK\r\n"));
        assert!(rig.got(outside).ends_with(ARGUMENTS));
    }
    let mut rig = rig();
    assert_eq!(rig.ask([request("AUTH wrong"), set(20 * 1024)].concat()).lines().last(), Some(LENGTH.trim_end()));
    let script = [request("AUTH secret"), request("RESET"), set(20 * 1024)].concat();
    assert_eq!(rig.ask(script), format!("+OK\r\n+RESET\r\n{LENGTH}"));
}

#[test]
fn who_has_not_logged_in_and_does_not_read_is_not_heard_out() {
    let mut rig = rig();
    let client = rig.client();
    let error = "-NOAUTH Authentication required.\r\n".len();
    let said = request("GET k").repeat(CLIENT_OUTPUT_PAUSE_BYTES / error + 10);
    rig.say(client, &said);
    assert!(rig.core.is_paused(client));
    for tick in 1..4 {
        rig.core.tick(tick * TICK_MS * 1000);
        assert!(rig.core.is_paused(client));
    }
    rig.settle();
    assert_eq!(rig.got(client).len(), error * (CLIENT_OUTPUT_PAUSE_BYTES / error + 10));
}
