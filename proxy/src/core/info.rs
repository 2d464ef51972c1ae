//! `INFO`: what the proxy says of itself and of the cluster, in redis's sections.
//!
//! What only the nodes know, all that are up are asked for, and it is merged to what one redis with all their keys would say. A node
//! that does not answer is named in each section that lacks its part: INFO has to work when something is wrong.

use std::fmt::{Display, Write};

use vrc_cluster::{
    info::{self, Info, OfNode},
    resp::{Args, Proto, encode, text_of},
    route::Refusal,
};

use super::{Core, Flow, backend::State, lane::Lane};

/// All sections in redis's order, and whether the proxy answers for itself.
const SECTIONS: [(&str, By); 14] = [
    ("server", By::Proxy),
    ("clients", By::Proxy),
    ("memory", By::Nodes),
    ("persistence", By::Nodes),
    ("stats", By::Nodes),
    ("replication", By::Proxy),
    ("cpu", By::Nodes),
    ("modules", By::Nodes),
    ("commandstats", By::Nodes),
    ("errorstats", By::Nodes),
    ("latencystats", By::Nodes),
    ("cluster", By::Proxy),
    ("keyspace", By::Nodes),
    ("vrc", By::Proxy),
];

/// Sections that only come when asked for, or with `all` and `everything`.
const ON_REQUEST: [&str; 2] = ["commandstats", "latencystats"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Proxy,
    Nodes,
}

/// Which field says that a section lacks some nodes' part.
const SILENT: &str = "vrc_silent_nodes";

/// An answer in the making.
struct Draft {
    proto: Proto,
    /// Every wanted section, with its text where that is there already.
    sections: Vec<(&'static str, Option<String>)>,
    /// Name and host of each node that was asked, in the order of the parts.
    asked: Vec<(String, String)>,
    /// Names of nodes that were not worth asking.
    silent: Vec<String>,
    guests: bool,
    /// What the proxy itself counts of the section `stats`.
    stats: Vec<(&'static str, u64)>,
    /// To be added to the nodes' own.
    errors: u64,
}

impl Core {
    /// `INFO [section …]`.
    pub(super) fn info(&mut self, index: u32, args: Args<'_>) -> Flow {
        let wanted: Vec<_> = SECTIONS.into_iter().filter(|(name, _)| is_wanted(name, args)).collect();
        let asks = wanted.iter().any(|(_, by)| *by == By::Nodes);
        if asks && self.up.is_empty() && wanted.iter().all(|(_, by)| *by == By::Nodes) {
            self.refuse(index, Refusal::NoNodeUp.to_string());
            return Flow::Next;
        }
        let (mut asked, mut silent, mut targets) = (Vec::new(), Vec::new(), Vec::new());
        for at in 0..if asks { self.up.len() } else { 0 } {
            let node = self.up[at];
            let backend = self.backend_of(node, Lane::new(self.sessions[index as usize].proto, 0, false));
            let of = &self.topology.nodes()[usize::from(node)];
            let (name, host) = (of.name.to_string(), of.endpoint.host.clone());
            if self.unreachable(backend).is_some() {
                silent.push(name);
                // So that it is found when it is back.
                if self.backends[backend as usize].state == State::Idle {
                    self.connect(backend);
                }
            } else {
                asked.push((name, host));
                targets.push((backend, 0));
            }
        }
        // What this worker's clients have just done shows.
        self.publish();
        let sum = self.all_stats.since_reset();
        let draft = Draft {
            proto: self.sessions[index as usize].proto,
            sections: wanted.into_iter().map(|(name, by)| (name, (by == By::Proxy).then(|| self.section(name)))).collect(),
            asked,
            silent,
            guests: self.topology.options().guest_databases,
            stats: vec![
                ("total_connections_received", sum.connections_total),
                ("total_commands_processed", sum.commands_total),
                ("total_net_input_bytes", sum.bytes_in),
                ("total_net_output_bytes", sum.bytes_out),
                ("client_output_buffer_limit_disconnections", sum.cut_off_total),
                ("tracking_total_keys", sum.tracking_keys),
                ("tracking_total_items", sum.tracking_items),
                ("tracking_total_prefixes", sum.tracking_prefixes),
            ],
            errors: sum.errors_total,
        };
        if targets.is_empty() {
            self.answer_now(index, |out| draft.finish(&[], out));
            return Flow::Next;
        }
        let count = targets.len();
        self.forward_to(index, &targets, args, |join| join.start_gather(count, |replies, out| draft.finish(replies, out)))
    }

    /// A section that is the proxy's own.
    fn section(&self, section: &str) -> String {
        match section {
            "server" => self.server_section(),
            "clients" => self.clients_section(),
            "replication" => self.replication_section(),
            "cluster" => Section::new("Cluster").with("cluster_enabled", 0).text,
            _ => self.vrc_section(),
        }
    }

    fn server_section(&self) -> String {
        let identity = &self.settings.identity;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let uptime_s = identity.started_at.elapsed().unwrap_or_default().as_secs();
        Section::new("Server")
            .with("redis_version", self.redis_version())
            .with("redis_git_sha1", "00000000")
            .with("redis_git_dirty", 0)
            .with("redis_mode", "standalone")
            .with("os", std::env::consts::OS)
            .with("arch_bits", usize::BITS)
            .with("process_id", std::process::id())
            .with("run_id", &identity.run_id)
            .with("tcp_port", identity.port)
            .with("server_time_usec", now.as_micros())
            .with("uptime_in_seconds", uptime_s)
            .with("uptime_in_days", uptime_s / 86_400)
            .with("config_file", "")
            .with("vrc_version", env!("CARGO_PKG_VERSION"))
            .text
    }

    fn clients_section(&self) -> String {
        let sum = self.all_stats.sum();
        Section::new("Clients")
            .with("connected_clients", sum.clients)
            .with("cluster_connections", 0)
            .with("maxclients", self.live.clients_max)
            .with("tracking_clients", sum.tracking_clients)
            .with("blocked_clients", sum.blocked)
            .with("paused_clients", sum.paused)
            .text
    }

    fn replication_section(&self) -> String {
        Section::new("Replication")
            .with("role", "master")
            .with("connected_slaves", 0)
            .with("master_failover_state", "no-failover")
            .with("master_replid", &self.settings.identity.run_id)
            .with("master_replid2", "0".repeat(40))
            .with("master_repl_offset", 0)
            .with("second_repl_offset", -1)
            .with("repl_backlog_active", 0)
            .with("repl_backlog_size", 0)
            .with("repl_backlog_first_byte_offset", 0)
            .with("repl_backlog_histlen", 0)
            .text
    }

    fn vrc_section(&self) -> String {
        let (identity, sum) = (&self.settings.identity, self.all_stats.sum());
        let mut section = Section::new("Vrc")
            .with("vrc_placement", identity.placement)
            .with("vrc_epoch", self.topology.epoch())
            .with("vrc_nodes_known", self.topology.nodes().len())
            .with("vrc_nodes_up", self.up.len())
            .with("vrc_proxies", self.settings.peers.load().len().max(1))
            .with("vrc_workers", identity.workers)
            .with("vrc_node_connections", sum.backends_up)
            .with("vrc_requests_forwarded", sum.forwarded_total)
            .with("vrc_commands_split", sum.split_total)
            .with("vrc_requests_rerouted", sum.rerouted_total)
            .with("vrc_client_pauses", sum.pauses_total)
            .with("vrc_client_protocol_errors", sum.protocol_errors)
            .with("vrc_slow_commands", sum.slow_total);
        for (number, (node, share)) in self.topology.nodes().iter().zip(self.topology.shares()).enumerate() {
            let (address, state) = (node.endpoint.address(), if node.up { "up" } else { "down" });
            let node = format!("name={},address={address},state={state},weight={},share={share:.4}", node.name, node.weight);
            section = section.with(&format!("vrc_node{number}"), node);
        }
        section.text
    }
}

/// A section of INFO as it is written.
struct Section {
    text: String,
}

impl Section {
    fn new(title: &str) -> Self {
        Section { text: format!("# {title}\r\n") }
    }

    fn with(mut self, name: &str, value: impl Display) -> Self {
        // Writing to a String cannot fail.
        let _ = write!(self.text, "{name}:{value}\r\n");
        self
    }
}

fn is_wanted(section: &str, args: Args<'_>) -> bool {
    let by_default = !ON_REQUEST.contains(&section);
    let asked_for = |arg: &[u8]| {
        let is = |word: &str| arg.eq_ignore_ascii_case(word.as_bytes());
        is(section) || is("all") || is("everything") || (by_default && is("default"))
    };
    if args.len() == 1 { by_default } else { args.iter().skip(1).any(asked_for) }
}

impl Draft {
    /// Appends the answer, given the replies of the nodes that were asked.
    fn finish(mut self, replies: &[&[u8]], out: &mut Vec<u8>) {
        let mut answered = Vec::new();
        for ((name, host), reply) in std::mem::take(&mut self.asked).into_iter().zip(replies) {
            match text_of(reply).map(String::from_utf8_lossy) {
                Some(text) => answered.push(OfNode { host, info: Info::parse(&text) }),
                None => self.silent.push(name),
            }
        }
        let mut merged = Info::merge(&answered, self.guests);
        for (name, value) in &self.stats {
            merged.set("stats", name, value);
        }
        let node_errors = merged.get("stats", "total_error_replies").and_then(|count| count.parse::<u64>().ok());
        merged.set("stats", "total_error_replies", node_errors.unwrap_or_default().saturating_add(self.errors));
        let mut all = String::new();
        for (name, own) in &self.sections {
            if !all.is_empty() {
                all.push_str("\r\n");
            }
            match own {
                Some(text) => all.push_str(text),
                None => self.write_merged(&mut merged, name, &mut all),
            }
        }
        encode::verbatim(out, self.proto, &all);
    }

    fn write_merged(&self, merged: &mut Info, name: &str, out: &mut String) {
        // An older redis does not have all sections; an empty one is as much as it could say.
        let spelled = info::SECTIONS.iter().find(|known| known.eq_ignore_ascii_case(name)).copied().unwrap_or_default();
        if !self.silent.is_empty() {
            merged.set(name, SILENT, self.silent.join(","));
        }
        if !merged.write(name, out) {
            let _ = write!(out, "# {spelled}\r\n");
            if !self.silent.is_empty() {
                let _ = write!(out, "{SILENT}:{}\r\n", self.silent.join(","));
            }
        }
    }
}
