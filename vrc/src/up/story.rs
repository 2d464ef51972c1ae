//! What `vrc up` tells.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use vrc_agent::spawn::SpawnEvent;
use vrc_cluster::{client::RedisUrl, topology::Topology};
use vrc_proxy::ListenAddr;

use crate::output::{self, Align, Colour, Table, percent};

/// Tells what happens from the first line to the last.
#[derive(Debug)]
pub(super) struct Story {
    started: Instant,
    /// Whether each node was up in the last topology.
    up: BTreeMap<String, bool>,
    is_ready: bool,
}

impl Story {
    pub(super) fn begin(nodes: usize) -> Self {
        output::line(format_args!("Starting a cluster of {nodes} {}", if nodes == 1 { "node" } else { "nodes" }));
        Story { started: Instant::now(), up: BTreeMap::new(), is_ready: false }
    }

    /// A part runs.
    pub(super) fn started(&self, name: &str, address: &str, note: &str) {
        let text = format!("  {} {name:<12} {address:<22} {note}", Colour::Green.paint("+"));
        output::line(text.trim_end());
    }

    /// The nodes of `names` that have not joined.
    pub(super) fn missing<'a>(&self, names: &'a [String]) -> Vec<&'a str> {
        names.iter().filter(|name| self.up.get(*name) != Some(&true)).map(String::as_str).collect()
    }

    /// The proxy has another topology.
    pub(super) fn topology(&mut self, topology: &Topology) {
        let now: BTreeMap<String, bool> = topology.nodes().iter().map(|node| (node.name.to_string(), node.up)).collect();
        let up = now.values().filter(|up| **up).count();
        let count = format!("{up} of {} nodes are up", now.len());
        for (name, is_up) in &now {
            match (self.up.get(name).copied().unwrap_or(false), *is_up) {
                (false, true) if !self.is_ready => self.started(name, "", "joined"),
                (false, true) => self.event(Colour::Green, format_args!("{name} is back, empty: {count}")),
                (true, false) => self.event(Colour::Red, format_args!("{name} left, the others serve its keys: {count}")),
                _ => {}
            }
        }
        self.up = now;
    }

    /// Something happened to a redis server.
    pub(super) fn server(&self, name: &str, event: &SpawnEvent) {
        match event {
            SpawnEvent::Started { pid, .. } => {
                self.event(Colour::Green, format_args!("{name}: its redis runs again (pid {pid})"))
            }
            SpawnEvent::Died { pid, status, restart_in, .. } => self.event(
                Colour::Red,
                format_args!("{name}: its redis (pid {pid}) ended ({status}) and is started again in {}", rounded(*restart_in)),
            ),
            SpawnEvent::RestartFailed { error, retry_in, .. } => {
                self.event(
                    Colour::Red,
                    format_args!("{name}: its redis cannot be started, next attempt in {}: {error}", rounded(*retry_in)),
                );
            }
            SpawnEvent::Stopped { .. } => {}
        }
    }

    fn event(&self, colour: Colour, text: impl std::fmt::Display) {
        output::line(format_args!("[{:>7.1} s] {}", self.started.elapsed().as_secs_f64(), colour.paint(&text.to_string())));
    }

    /// All is up: who listens where, and what to try.
    pub(super) fn ready(&mut self, topology: &Topology, listening: &[ListenAddr], master: &RedisUrl) {
        self.is_ready = true;
        let mut table = Table::new([
            ("", Align::Left),
            ("ADDRESS", Align::Left),
            ("WEIGHT", Align::Right),
            ("SHARE OF THE KEYS", Align::Right),
        ]);
        for address in listening {
            table.row(["proxy".to_owned(), address.to_string(), String::new(), String::new()]);
        }
        table.row(["master".to_owned(), format!("{}:{}", master.host(), master.port()), String::new(), String::new()]);
        for (node, share) in topology.nodes().iter().zip(topology.shares()) {
            table.row([node.name.to_string(), node.endpoint.address(), node.weight.to_string(), percent(share)]);
        }
        output::line(format_args!("\nReady after {:.1} s\n\n{table}\n", self.started.elapsed().as_secs_f64()));
        output::line("Try it:");
        if let Some(address) = listening.first() {
            output::line(format_args!("  {} set greeting hello", redis_cli(address)));
        }
        let (program, port) = (program(), master.port());
        output::line(format_args!("  {program} where greeting -p {port}"));
        output::line(format_args!("  {program} status -p {port}"));
        output::line("\nCtrl-C stops everything and leaves nothing behind.");
    }
}

fn rounded(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// How to reach the proxy by hand, with what is installed.
fn redis_cli(address: &ListenAddr) -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |name: &str| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    let program = if !is_there("redis-cli") && is_there("valkey-cli") { "valkey-cli" } else { "redis-cli" };
    match address {
        ListenAddr::Tcp(address) if address.ip().is_unspecified() || address.ip() == std::net::Ipv4Addr::LOCALHOST => {
            format!("{program} -p {}", address.port())
        }
        ListenAddr::Tcp(address) => format!("{program} -h {} -p {}", address.ip(), address.port()),
        ListenAddr::Unix(path) => format!("{program} -s {}", path.display()),
    }
}

/// This program, as it was called.
fn program() -> String {
    let called = std::env::args().next().unwrap_or_else(|| "vrc".to_owned());
    // Found on PATH or called by its path: both can be copied. A path with spaces needs quotes.
    if Path::new(&called).to_string_lossy().contains(char::is_whitespace) { format!("'{called}'") } else { called }
}
