//! `vrc up`: it comes up, tells what happens, and leaves nothing behind.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::{LONG, Process, connect, eventually, is_running, pid, redis_program, try_connect, vrc};

/// A running `vrc up`, and the directory that it makes its temporary files in.
struct Up {
    process: Process,
    temp: TempDir,
}

impl Up {
    fn start(args: &[&str]) -> Self {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let mut command = vrc(&["up"]);
        command.args(args).env("TMPDIR", temp.path());
        Up { process: Process::start("vrc up", command), temp }
    }

    fn ready(args: &[&str]) -> Self {
        let up = Up::start(args);
        up.process.line_with("Ctrl-C", LONG);
        up
    }

    /// What stands behind the first word of a line that is the same: `+ node-1 127.0.0.1:1234 …`.
    fn part(&self, name: &str) -> Part {
        let output = self.process.output();
        let words = output.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let line = words.into_iter().find(|words| words.len() > 2 && words[0] == "+" && words[1] == name);
        let line = line.unwrap_or_else(|| panic!("no line of {name}"));
        let port = line[2].rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("a port");
        Part { port, pid: line.last().and_then(|word| word.parse().ok()) }
    }

    fn server_pids(&self) -> Vec<u32> {
        let output = self.process.output();
        output.lines().filter_map(|line| line.rsplit_once("pid ")?.1.trim_end_matches(')').parse().ok()).collect()
    }

    #[track_caller]
    fn assert_nothing_left(&self) {
        for pid in self.server_pids() {
            eventually(&format!("the end of process {pid}"), LONG, || (!is_running(pid)).then_some(()));
        }
        assert_eq!(entries(self.temp.path()), Vec::<String>::new());
    }
}

struct Part {
    port: u16,
    pid: Option<u32>,
}

fn entries(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn comes_up_serves_and_stops() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut up = Up::ready(&["--nodes", "3", "--listen", "127.0.0.1:0"]);
        let port = up.part("proxy").port;
        let output = up.process.output();
        for expected in ["node-1 ", "node-2 ", "node-3 ", " %", &format!("-cli -p {port} set greeting hello")] {
            assert!(output.contains(expected), "{expected:?}");
        }
        let mut client = connect(port);
        for number in 0..100 {
            redis::cmd("SET").arg(format!("key:{number}")).arg(number).exec(&mut client).unwrap();
        }
        for number in 0..100 {
            assert_eq!(redis::cmd("GET").arg(format!("key:{number}")).query(&mut client), Ok(number));
        }
        assert_eq!(up.server_pids().len(), 4);
        up.process.signal(signal);
        assert_eq!(up.process.end(LONG).code(), Some(0));
        up.assert_nothing_left();
    }
}

#[test]
fn a_taken_address_is_told_and_nothing_is_left() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut up = Up::start(&["--listen", &address]);
    assert_eq!(up.process.end(LONG).code(), Some(1));
    let output = up.process.output();
    let told: Vec<_> = output.lines().filter(|line| line.starts_with("vrc: ")).collect();
    assert_eq!(told.len(), 1, "{output}");
    assert!(told[0].contains(&address) && told[0].contains("--listen"), "{}", told[0]);
    up.assert_nothing_left();
}

#[test]
fn a_server_that_cannot_start_is_told_and_nothing_is_left() {
    let temp = tempfile::tempdir().unwrap();
    let program = temp.path().join("redis-server");
    // The first server is the master's, so that the failure meets a cluster that is half there.
    let script =
        format!("#!/bin/sh\n[ -e {0}/once ] && exit 3\n: > {0}/once\nexec {1} \"$@\"\n", temp.path().display(), redis_program());
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut up = Up::start(&["--listen", "127.0.0.1:0", "--redis-server", program.to_str().unwrap()]);
    assert_eq!(up.process.end(LONG).code(), Some(1));
    let output = up.process.output();
    assert!(output.lines().any(|line| line.starts_with("vrc: node-") && line.contains("exit status: 3")), "{output}");
    up.assert_nothing_left();
}

#[test]
fn a_killed_node_is_seen_leaving_and_coming_back() {
    let mut up = Up::ready(&["--nodes", "2", "--listen", "127.0.0.1:0"]);
    let node = up.part("node-2");
    rustix::process::kill_process(pid(node.pid.unwrap()), Signal::KILL).unwrap();
    up.process.line_with("node-2 left", LONG);
    // The other one may be away for a moment, too, on a busy machine.
    eventually("both are up again", LONG, || {
        let output = up.process.output();
        output.split_once("node-2 is back")?.1.contains("2 of 2 nodes are up").then_some(())
    });
    // On its old port, and empty.
    assert_eq!(redis::cmd("DBSIZE").query(&mut connect(node.port)), Ok(0));
    up.process.signal(Signal::TERM);
    assert_eq!(up.process.end(LONG).code(), Some(0));
    up.assert_nothing_left();
}

#[test]
fn a_signal_while_it_comes_up_leaves_nothing() {
    for pause_ms in [5, 30, 60, 100, 150] {
        let mut up = Up::start(&["--listen", "127.0.0.1:0"]);
        up.process.line_with("Starting", LONG);
        std::thread::sleep(Duration::from_millis(pause_ms));
        up.process.signal(Signal::INT);
        assert_eq!(up.process.end(LONG).code(), Some(0));
        up.assert_nothing_left();
        // Its pid was not told yet, but it runs in its directory.
        eventually("the end of a server that was just starting", LONG, || {
            let mut processes = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
            let is_ours = |process: fs::DirEntry| {
                fs::read_link(process.path().join("cwd")).is_ok_and(|dir| dir.starts_with(up.temp.path()))
            };
            (!processes.any(is_ours)).then_some(())
        });
    }
}

/// Whoever presses Ctrl-C twice wants out; what was started goes all the same.
#[cfg(target_os = "linux")]
#[test]
fn a_second_signal_ends_it_at_once() {
    let mut up = Up::ready(&["--nodes", "1", "--listen", "127.0.0.1:0"]);
    // Servers that do not react make a stop in good order last for two seconds.
    for id in up.server_pids() {
        rustix::process::kill_process(pid(id), Signal::STOP).unwrap();
    }
    up.process.signal(Signal::INT);
    up.process.line_with("Stopping", LONG);
    up.process.signal(Signal::INT);
    assert_eq!(up.process.end(LONG).code(), Some(130));
    up.assert_nothing_left();
}

#[test]
fn a_killed_master_is_restarted_and_the_map_written_back() {
    let mut up = Up::ready(&["--nodes", "2", "--listen", "127.0.0.1:0"]);
    let (master, port) = (up.part("master"), up.part("proxy").port);
    let mut client = connect(port);
    redis::cmd("SET").arg("key").arg("value").exec(&mut client).unwrap();
    rustix::process::kill_process(pid(master.pid.unwrap()), Signal::KILL).unwrap();
    up.process.line_with("master: its redis runs again", LONG);
    eventually("the map", LONG, || {
        let nodes = redis::cmd("HLEN").arg("rvolcluster:nodeset").query::<usize>(&mut try_connect(master.port).ok()?).ok();
        nodes.filter(|nodes| *nodes == 2)
    });
    assert_eq!(redis::cmd("GET").arg("key").query(&mut client), Ok("value".to_owned()));
    assert!(!up.process.output().contains(" left"), "no node has anything to do with it");
    up.process.signal(Signal::TERM);
    assert_eq!(up.process.end(LONG).code(), Some(0));
    up.assert_nothing_left();
}

/// Only Linux can tell a child of its parent's end.
#[cfg(target_os = "linux")]
#[test]
fn servers_die_with_a_program_that_is_killed() {
    let mut up = Up::ready(&["--nodes", "2", "--listen", "127.0.0.1:0"]);
    let pids = up.server_pids();
    assert_eq!(pids.len(), 3);
    up.process.kill();
    for pid in pids {
        eventually(&format!("the end of process {pid}"), LONG, || (!is_running(pid)).then_some(()));
    }
}
