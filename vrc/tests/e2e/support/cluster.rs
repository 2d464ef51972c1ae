//! A cluster of real processes: one of each agent, and as many proxies as wanted.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use vrc_cluster::{
    contract::{EPOCH_KEY, NODE_SET_KEY, Node, NodeMap},
    topology::{PlacementKind, PlacementOptions, Topology},
};

use super::{LONG, Process, RedisServer, connect, eventually};

/// A coordinator that gives nodes long, as their agents do: one that a busy machine keeps waiting is not to be taken for dead.
pub(crate) const PATIENT: [&str; 6] = ["--ping-timeout", "20s", "--recheck", "20s", "--guest-flush-timeout", "20s"];
/// Likewise an agent.
pub(crate) const PATIENT_AGENT: [&str; 2] = ["--ping-timeout", "20s"];

/// What a cluster consists of.
#[derive(Debug, Clone)]
pub(crate) struct Fleet {
    /// One a node.
    pub(crate) weights: Vec<f64>,
    pub(crate) proxies: usize,
    /// Further arguments of the coordinator.
    pub(crate) coordinator: Vec<&'static str>,
    /// Further arguments of each agent.
    pub(crate) agent: Vec<&'static str>,
    /// Further arguments of each proxy.
    pub(crate) proxy: Vec<&'static str>,
    /// What the arguments say of that.
    pub(crate) placement: &'static str,
}

impl Default for Fleet {
    fn default() -> Self {
        Fleet {
            weights: vec![1.0; 4],
            proxies: 1,
            coordinator: Vec::new(),
            agent: Vec::new(),
            proxy: Vec::new(),
            placement: "slots",
        }
    }
}

/// A running cluster. Fields are dropped in order: proxies first, servers last.
pub(crate) struct Cluster {
    pub(crate) proxies: Vec<Proxy>,
    pub(crate) coordinator: Process,
    /// By node name.
    pub(crate) nodes: BTreeMap<String, ClusterNode>,
    pub(crate) master: RedisServer,
    placement: PlacementKind,
}

pub(crate) struct Proxy {
    pub(crate) port: u16,
    pub(crate) process: Process,
}

pub(crate) struct ClusterNode {
    pub(crate) agent: Process,
    pub(crate) redis: RedisServer,
}

/// Who holds a key, as the library tells from the master's map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) home: String,
    pub(crate) holder: String,
    pub(crate) is_guest: bool,
}

impl Cluster {
    /// Starts one, and waits till every proxy serves every node.
    pub(crate) fn start(fleet: &Fleet) -> Self {
        let master = RedisServer::start();
        let url = format!("redis://127.0.0.1:{}", master.port());
        Cluster::start_at(fleet, master, &url)
    }

    /// Likewise, with a master that all find by this URL.
    pub(crate) fn start_at(fleet: &Fleet, master: RedisServer, url: &str) -> Self {
        let mut args = vec!["coordinator", "--master", url, "--yield", "0s"];
        args.extend(PATIENT);
        args.extend(&fleet.coordinator);
        let coordinator = Process::vrc(&args);
        let nodes = fleet.weights.iter().map(|weight| {
            let redis = RedisServer::start();
            let (port, weight) = (redis.port().to_string(), weight.to_string());
            let mut args = vec!["agent", "-h", "127.0.0.1", "-p", &port, "-w", &weight, "--master", url];
            args.extend(PATIENT_AGENT);
            args.extend(&fleet.agent);
            let agent = Process::vrc(&args);
            (format!("127.0.0.1:{port}"), ClusterNode { agent, redis })
        });
        let nodes: BTreeMap<_, _> = nodes.collect();
        let proxies = (0..fleet.proxies)
            .map(|_| Proxy::start(&[&["--master", url, "--timeout", "20s"], &fleet.proxy[..]].concat()))
            .collect();
        let placement = fleet.placement.parse().expect("a placement");
        let cluster = Cluster { proxies, coordinator, nodes, master, placement };
        cluster.await_up(fleet.weights.len());
        for proxy in &cluster.proxies {
            cluster.await_served(proxy, LONG);
        }
        cluster
    }

    /// The port of the first proxy.
    pub(crate) fn port(&self) -> u16 {
        self.proxies[0].port
    }

    /// Waits till the master's map shows so many nodes up.
    pub(crate) fn await_up(&self, count: usize) {
        eventually(&format!("{count} nodes up"), LONG, || {
            (self.topology().nodes().iter().filter(|node| node.up).count() == count).then_some(())
        });
    }

    /// Waits till a proxy sends keys where the master's map wants them, of every node's keys one.
    pub(crate) fn await_served(&self, proxy: &Proxy, limit: Duration) {
        let topology = self.topology();
        let mut client = connect(proxy.port);
        for name in
            self.nodes.keys().filter(|name| topology.index_of(name).is_some_and(|index| topology.nodes()[usize::from(index)].up))
        {
            let key = (0..).map(|number| format!("probe:{number}")).find(|key| locate(&topology, key.as_bytes()).holder == *name);
            let key = key.expect("every node has keys");
            eventually(&format!("{name} served by the proxy"), limit, || {
                redis::cmd("SET").arg(&key).arg(1).query::<String>(&mut client).ok()?;
                let database = if locate(&topology, key.as_bytes()).is_guest { 8 } else { 0 };
                self.nodes[name].redis.keys(database).contains(&key.clone().into_bytes()).then_some(())
            });
            // A proxy that did not know this node yet may have written it to another as well.
            self.nodes.values().filter(|node| node.redis.is_running()).for_each(|node| node.redis.delete(&key));
        }
    }

    /// What the library makes of the master's map.
    pub(crate) fn topology(&self) -> Topology {
        let mut master = connect(self.master.port());
        let (fields, epoch): (BTreeMap<String, String>, Option<u64>) =
            redis::pipe().hgetall(NODE_SET_KEY).get(EPOCH_KEY).query(&mut master).expect("the node map");
        let map: NodeMap = fields
            .into_iter()
            .map(|(name, text)| (name, serde_json::from_str::<Node>(&text).expect("a node of the map")))
            .collect();
        let guest_databases = self.placement == PlacementKind::Slots;
        let options = PlacementOptions { kind: self.placement, guest_databases, ..PlacementOptions::default() };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
        Topology::build(&map, epoch.unwrap_or(0), &options, now.as_millis() as u64)
    }
}

impl Proxy {
    /// Starts one on a free port.
    pub(crate) fn start(source: &[&str]) -> Self {
        let mut args = vec!["proxy", "--listen", "127.0.0.1:0"];
        args.extend(source);
        let process = Process::vrc(&args);
        let line = process.line_with("listening address=127.0.0.1:", LONG);
        let port = line.split("address=127.0.0.1:").nth(1).and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        Proxy { port: port.expect("a port"), process }
    }
}

/// Who holds a key.
pub(crate) fn locate(topology: &Topology, key: &[u8]) -> Key {
    let location = topology.locate(key);
    let name = |index: u16| topology.nodes()[usize::from(index)].name.to_string();
    let owner = location.owner.expect("a node is up");
    Key { home: name(location.home.expect("a home")), holder: name(owner.node), is_guest: owner.guest }
}
