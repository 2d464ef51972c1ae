//! `CLUSTER`: what clients in cluster mode are told, so that they connect unchanged.
//!
//! The cluster that they see is of proxies, and the nodes behind are nobody's business. Any proxy serves any slot, and none ever says
//! MOVED. So each tells its clients that it owns all slots, and that the other proxies are its replicas: a client that asks every master
//! for its part of something (DBSIZE, SCAN) gets the whole once, one that loses its master finds the others, and one that reads from
//! replicas spreads its reads over all. What would change the cluster is refused by the command table.

use sha1_smol::Sha1;
use vrc_cluster::{
    placement::slots::{SLOTS, slot_of},
    resp::{Args, encode},
};

use super::{Core, session::Peer};
use crate::config::ProxyAddress;

const HELP: [&str; 24] = [
    "CLUSTER <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "INFO",
    "    Return information about the cluster of proxies.",
    "KEYSLOT <key>",
    "    Return the hash slot for <key>.",
    "LINKS",
    "    Return information about network links between nodes: proxies have none.",
    "MYID",
    "    Return the node id.",
    "MYSHARDID",
    "    Return the node's shard id.",
    "NODES",
    "    Return cluster configuration seen by node. Output format:",
    "    <id> <ip:port@bus-port[,hostname]> <flags> <master> <pings> <pongs> <epoch> <link> <slot> ...",
    "REPLICAS <node-id>",
    "    Return the other proxies, for the id of this one.",
    "SLOTS",
    "    Return information about slots range mappings. Each range is made of:",
    "    start, end, master and replicas IP addresses, ports and ids",
    "SHARDS",
    "    Return information about slot range mappings and the nodes associated with them.",
    "HELP",
    "    Print this help.",
    "Commands that would change the cluster are refused.",
];

/// The last slot: a master has all.
const LAST_SLOT: i64 = SLOTS as i64 - 1;

/// 40 hexadecimal digits that a proxy's address decides, so that all proxies give it the same.
fn id_of(proxy: &ProxyAddress) -> String {
    Sha1::from(format!("vrc proxy {proxy}")).digest().to_string()
}

impl Core {
    /// A subcommand of CLUSTER that the proxy answers, by its own name.
    pub(super) fn cluster(&mut self, index: u32, subcommand: &str, args: Args<'_>) {
        match subcommand {
            "info" => self.cluster_info(index),
            "keyslot" => {
                let slot = slot_of(&args[2]);
                self.answer_now(index, |out| encode::integer(out, i64::from(slot)));
            }
            "links" => self.answer_now(index, |out| encode::array(out, 0)),
            "myid" | "myshardid" => self.answer_with_my_id(index),
            "nodes" => self.cluster_nodes(index),
            "replicas" | "slaves" => self.cluster_replicas(index, &args[2]),
            "shards" => self.cluster_shards(index),
            "slots" => self.cluster_slots(index),
            _ => self.answer_now(index, |out| {
                encode::array(out, HELP.len());
                HELP.iter().for_each(|line| encode::simple(out, line));
            }),
        }
    }

    /// All proxies, this one first.
    fn members(&self, index: u32) -> Vec<ProxyAddress> {
        let me = self.own_address(index);
        let peers = self.settings.peers.load();
        let others = peers.iter().filter(|peer| **peer != me).cloned();
        std::iter::once(me.clone()).chain(others).collect()
    }

    /// Where the client may reach this proxy: as announced, or else where it has.
    fn own_address(&self, index: u32) -> ProxyAddress {
        if let Some(announced) = &self.settings.announce {
            return announced.clone();
        }
        match &self.sessions[index as usize].peer {
            Some(Peer::Tcp { local, .. }) => ProxyAddress { host: local.ip().to_canonical().to_string(), port: local.port() },
            _ => ProxyAddress { host: "127.0.0.1".to_owned(), port: self.settings.identity.port },
        }
    }

    fn answer_with_my_id(&mut self, index: u32) {
        let id = id_of(&self.own_address(index));
        self.answer_now(index, |out| encode::bulk(out, id.as_bytes()));
    }

    fn cluster_info(&mut self, index: u32) {
        let members = self.members(index).len();
        let (state, ok) = if self.up.is_empty() { ("fail", 0) } else { ("ok", SLOTS) };
        let epoch = self.topology.epoch();
        let text = format!(
            "cluster_state:{state}\r\ncluster_slots_assigned:{SLOTS}\r\ncluster_slots_ok:{ok}\r\ncluster_slots_pfail:0\r\n\
             cluster_slots_fail:{}\r\ncluster_known_nodes:{members}\r\ncluster_size:1\r\ncluster_current_epoch:{epoch}\r\n\
             cluster_my_epoch:{epoch}\r\ncluster_stats_messages_sent:0\r\ncluster_stats_messages_received:0\r\n\
             total_cluster_links_buffer_limit_exceeded:0\r\n",
            SLOTS - ok
        );
        let proto = self.sessions[index as usize].proto;
        self.answer_now(index, |out| encode::verbatim(out, proto, &text));
    }

    fn cluster_nodes(&mut self, index: u32) {
        let members = self.members(index);
        let lines: String = (0..members.len()).map(|at| self.node_line(&members, at) + "\n").collect();
        let proto = self.sessions[index as usize].proto;
        self.answer_now(index, |out| encode::verbatim(out, proto, &lines));
    }

    /// A member as CLUSTER NODES shows it. There is no cluster bus, so its port is 0.
    fn node_line(&self, members: &[ProxyAddress], at: usize) -> String {
        let (ProxyAddress { host, port }, id, epoch) = (&members[at], id_of(&members[at]), self.topology.epoch());
        match at {
            0 => format!("{id} {host}:{port}@0 myself,master - 0 0 {epoch} connected 0-{LAST_SLOT}"),
            _ => format!("{id} {host}:{port}@0 slave {} 0 0 {epoch} connected", id_of(&members[0])),
        }
    }

    fn cluster_replicas(&mut self, index: u32, id: &[u8]) {
        let members = self.members(index);
        match members.iter().position(|member| id_of(member).as_bytes() == id) {
            Some(0) => {
                let lines: Vec<_> = (1..members.len()).map(|at| self.node_line(&members, at)).collect();
                self.answer_now(index, |out| {
                    encode::array(out, lines.len());
                    lines.iter().for_each(|line| encode::bulk(out, line.as_bytes()));
                });
            }
            Some(_) => self.refuse(index, "ERR The specified node is not a master"),
            None => self.refuse(index, [b"ERR Unknown node ", id].concat()),
        }
    }

    fn cluster_shards(&mut self, index: u32) {
        let members = self.members(index);
        let proto = self.sessions[index as usize].proto;
        self.answer_now(index, |out| {
            encode::array(out, 1);
            encode::map(out, proto, 2);
            encode::bulk(out, b"slots");
            encode::array(out, 2);
            encode::integer(out, 0);
            encode::integer(out, LAST_SLOT);
            encode::bulk(out, b"nodes");
            encode::array(out, members.len());
            for (at, member) in members.iter().enumerate() {
                let role = if at == 0 { "master" } else { "replica" };
                encode::map(out, proto, 7);
                encode::bulk(out, b"id");
                encode::bulk(out, id_of(member).as_bytes());
                encode::bulk(out, b"port");
                encode::integer(out, i64::from(member.port));
                for (name, value) in [("ip", member.host.as_str()), ("endpoint", &member.host), ("role", role)] {
                    encode::bulk(out, name.as_bytes());
                    encode::bulk(out, value.as_bytes());
                }
                encode::bulk(out, b"replication-offset");
                encode::integer(out, 0);
                encode::bulk(out, b"health");
                encode::bulk(out, b"online");
            }
        });
    }

    fn cluster_slots(&mut self, index: u32) {
        let members = self.members(index);
        let proto = self.sessions[index as usize].proto;
        self.answer_now(index, |out| {
            encode::array(out, 1);
            encode::array(out, 2 + members.len());
            encode::integer(out, 0);
            encode::integer(out, LAST_SLOT);
            for member in &members {
                encode::array(out, 4);
                encode::bulk(out, member.host.as_bytes());
                encode::integer(out, i64::from(member.port));
                encode::bulk(out, id_of(member).as_bytes());
                // Further names of the host.
                encode::map(out, proto, 0);
            }
        });
    }
}
