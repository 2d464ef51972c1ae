//! Whatever is said, in whatever pieces, and whatever becomes of the nodes.

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Several clients, each with keys of its own, every kind of cut and delay: each gets its own values in its own order.
    #[test]
    fn every_client_gets_its_own_replies_in_order(
        steps in prop::collection::vec((0usize..4, 0usize..5, 1usize..60, 0usize..4), 1..120),
        pieces in 1usize..40,
    ) {
        let mut rig = Rig::new(&THREE);
        let clients: Vec<_> = (0..4).map(|_| rig.client()).collect();
        let mut expect = vec![String::new(); 4];
        let mut pending = vec![Vec::new(); 4];
        for (number, (who, key, most, what)) in steps.into_iter().enumerate() {
            let (a, b) = (format!("c{who}k{key}"), format!("c{who}k{}", key + 1));
            let (bytes, reply) = match what {
                0 => (request(&format!("SET {a} {number}")), "+OK\r\n".to_owned()),
                1 => (request(&format!("ECHO {who}.{number}")), {
                    let text = format!("{who}.{number}");
                    format!("${}\r\n{text}\r\n", text.len())
                }),
                2 => (request(&format!("MSET {a} {number} {b} {number}")), "+OK\r\n".to_owned()),
                _ => {
                    let text = number.to_string();
                    let element = format!("${}\r\n{text}\r\n", text.len());
                    (
                        [request(&format!("MSET {a} {number} {b} {number}")), request(&format!("MGET {b} {a}"))].concat(),
                        format!("+OK\r\n*2\r\n{element}{element}"),
                    )
                }
            };
            expect[who].push_str(&reply);
            pending[who].extend(bytes);
            let len = pending[who].len().min(pieces);
            let piece: Vec<u8> = pending[who].drain(..len).collect();
            rig.say(clients[who], piece);
            rig.effects();
            rig.connect();
            rig.write_to_nodes(most);
            rig.answer(most / 2 + 1);
            rig.write_to_clients(most);
        }
        for (who, client) in clients.iter().enumerate() {
            rig.say(*client, &pending[who]);
        }
        rig.settle();
        for (who, client) in clients.into_iter().enumerate() {
            prop_assert_eq!(rig.got(client), expect[who].clone());
        }
    }

    /// Nodes die and come back at any time: every command still gets exactly one answer, its own or an error.
    #[test]
    fn every_command_gets_one_answer_whatever_becomes_of_the_nodes(
        steps in prop::collection::vec((0usize..8, 0usize..20, 1usize..80), 1..150),
    ) {
        let mut rig = Rig::new(&THREE);
        let client = rig.client();
        let (mut asked, mut epoch) = (0, 1);
        for (what, key, most) in steps {
            match what {
                0 => rig.kill(THREE[key % 3]),
                1 => {
                    rig.reachable.insert(THREE[key % 3].to_owned());
                }
                2 => {
                    epoch += 1;
                    rig.core.set_topology(topology(epoch, &[("a", key & 1 == 0), ("b", key & 2 == 0), ("c", key & 4 == 0)]));
                }
                3 => {
                    rig.say(client, request(&format!("MGET k{key} k{} k{} k{}", key + 1, key + 2, key + 3)));
                    asked += 1;
                }
                _ => {
                    rig.say(client, request(&format!("GET k{key}")));
                    asked += 1;
                }
            }
            rig.effects();
            rig.connect();
            rig.write_to_nodes(most);
            rig.answer(most);
            rig.write_to_clients(usize::MAX);
        }
        for _ in 0..20 {
            rig.effects();
            rig.connect();
            rig.write_to_nodes(usize::MAX);
            rig.answer(usize::MAX);
            rig.pass(TIMEOUT_MS / 4);
        }
        rig.settle();
        let got = rig.got(client);
        let mut framer = ReplyFramer::default();
        let (mut at, mut answers) = (0, 0);
        while let Ok(Some(len)) = framer.advance(&got.as_bytes()[at..]) {
            at += len;
            answers += 1;
        }
        prop_assert_eq!((answers, at), (asked, got.len()));
    }

    /// Whatever a node sends, nothing panics, and the clients' commands are answered.
    #[test]
    fn survives_any_reply(bytes in prop::collection::vec(prop_oneof![Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), Just(b'>'), b'0'..=b'3', any::<u8>()], 0..80)) {
        let mut rig = Rig::new(&THREE);
        let client = rig.client();
        rig.say(client, [request("GET k"), request("MGET a b c d e f g")].concat());
        rig.effects();
        rig.connect();
        rig.write_to_nodes(usize::MAX);
        for backend in rig.nodes.keys().copied().collect::<Vec<_>>() {
            let incarnation = rig.core.backend_incarnation(backend);
            rig.core.backend_input(backend, incarnation, &bytes);
        }
        rig.effects();
        rig.pass(TIMEOUT_MS * 2);
        rig.pass(TIMEOUT_MS * 2);
        rig.write_to_clients(usize::MAX);
        prop_assert_eq!(rig.core.sessions[client.index as usize].replies.pending(), 0);
    }

    /// Whatever a client sends, nothing panics.
    #[test]
    fn survives_any_request(bytes in prop::collection::vec(prop_oneof![Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), b'0'..=b'3', any::<u8>()], 0..120)) {
        let mut rig = Rig::new(&THREE);
        let client = rig.client();
        rig.say(client, &bytes);
        rig.effects();
    }
}
