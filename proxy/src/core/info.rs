//! `INFO`: what the proxy says of itself, in redis's sections.

use std::fmt::Write;

use vrc_cluster::resp::{Args, encode};

use super::Core;

const SECTIONS: [&str; 6] = ["server", "clients", "stats", "replication", "cluster", "vrc"];

impl Core {
    pub(super) fn info(&mut self, index: u32, args: Args<'_>) {
        let wanted = |section: &str| {
            args.len() == 1
                || args.iter().skip(1).any(|arg| {
                    arg.eq_ignore_ascii_case(section.as_bytes())
                        || [b"all".as_slice(), b"default", b"everything"].iter().any(|all| arg.eq_ignore_ascii_case(all))
                })
        };
        let mut text = String::new();
        for section in SECTIONS.into_iter().filter(|section| wanted(section)) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            self.section(section, &mut text);
        }
        let proto = self.sessions[index as usize].proto;
        self.answer_now(index, |out| encode::verbatim(out, proto, &text));
    }

    fn section(&self, section: &str, text: &mut String) {
        let mut field = |name: &str, value: &dyn std::fmt::Display| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{name}:{value}\r\n");
        };
        let identity = &self.settings.identity;
        let sum = self.all_stats.sum();
        match section {
            "server" => {
                let uptime = identity.started_at.elapsed().unwrap_or_default().as_secs();
                field("# Server\r\nredis_version", &self.redis_version());
                field("redis_mode", &"standalone");
                field("os", &std::env::consts::OS);
                field("arch_bits", &usize::BITS);
                field("process_id", &std::process::id());
                field("run_id", &identity.run_id);
                field("tcp_port", &identity.port);
                field("uptime_in_seconds", &uptime);
                field("uptime_in_days", &(uptime / 86_400));
                field("vrc_version", &env!("CARGO_PKG_VERSION"));
            }
            "clients" => {
                field("# Clients\r\nconnected_clients", &sum.clients);
                field("blocked_clients", &sum.blocked);
                field("paused_clients", &sum.paused);
            }
            "stats" => {
                field("# Stats\r\ntotal_connections_received", &sum.connections_total);
                field("total_commands_processed", &sum.commands_total);
                field("total_net_input_bytes", &sum.bytes_in);
                field("total_net_output_bytes", &sum.bytes_out);
                field("total_error_replies", &sum.errors_total);
                field("client_output_buffer_limit_disconnections", &sum.cut_off_total);
            }
            "replication" => {
                field("# Replication\r\nrole", &"master");
                field("connected_slaves", &0);
            }
            "cluster" => field("# Cluster\r\ncluster_enabled", &0),
            _ => {
                field("# Vrc\r\nvrc_placement", &identity.placement);
                field("vrc_epoch", &self.topology.epoch());
                field("vrc_nodes_known", &self.topology.nodes().len());
                field("vrc_nodes_up", &self.up.len());
                field("vrc_workers", &identity.workers);
                field("vrc_node_connections", &sum.backends_up);
                field("vrc_requests_forwarded", &sum.forwarded_total);
                field("vrc_commands_split", &sum.split_total);
                field("vrc_requests_rerouted", &sum.rerouted_total);
                field("vrc_client_pauses", &sum.pauses_total);
                field("vrc_client_protocol_errors", &sum.protocol_errors);
                for (node, share) in self.topology.nodes().iter().zip(self.topology.shares()) {
                    let state = if node.up { "up" } else { "down" };
                    field(
                        &format!("vrc_node_{}", node.name.replace([':', '='], "_")),
                        &format!(
                            "name={},address={},state={state},weight={},share={share:.4}",
                            node.name,
                            node.endpoint.address(),
                            node.weight
                        ),
                    );
                }
            }
        }
    }
}
