//! More clients than the files that a shell lets a program have open.

use std::process::Command;

use crate::support::{LONG, Process, RedisServer, connect, eventually, free_port};

#[test]
fn a_low_soft_limit_of_open_files_does_not_limit_the_clients() {
    let redis = RedisServer::start();
    let port = free_port();
    let script = r#"ulimit -Sn 64; exec "$0" proxy --nodes "$1" --listen "$2" --maxclients 300"#;
    let mut command = Command::new("sh");
    let (node, listen) = (format!("127.0.0.1:{}", redis.port()), format!("127.0.0.1:{port}"));
    command.args(["-c", script, env!("CARGO_BIN_EXE_vrc"), &node, &listen]);
    let _proxy = Process::start("vrc proxy with few files", command);
    eventually("a proxy that listens", LONG, || std::net::TcpStream::connect(&listen).ok());
    let mut clients: Vec<_> = (0..200).map(|_| connect(port)).collect();
    for client in &mut clients {
        assert_eq!(redis::cmd("PING").query::<String>(client).as_deref(), Ok("PONG"));
    }
}
