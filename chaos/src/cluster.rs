//! A cluster of real processes.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use anyhow::ensure;
use tempfile::TempDir;

use crate::{
    network::{Network, Party},
    process::{Process, Recipe},
};

pub(crate) const COORDINATORS: usize = 2;
pub(crate) const PROXIES: usize = 2;
/// How long a proxy may take to answer.
pub(crate) const TIMEOUT_MS: u64 = 3_000;

/// A process of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Role {
    /// The redis of a party, a coordinator, or a proxy.
    Main(Party),
    /// The agent of a node.
    Agent(usize),
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Role::Main(party) => party.fmt(f),
            Role::Agent(number) => write!(f, "agent-{number}"),
        }
    }
}

/// All processes and the network between them. Dropped, they end.
pub(crate) struct Cluster {
    pub(crate) network: Network,
    processes: HashMap<Role, Process>,
    pub(crate) dir: TempDir,
}

impl Cluster {
    /// Starts every process; whether they serve is for others to find out.
    pub(crate) async fn start(nodes: usize, network: Network, vrc: &Path) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("vrc-chaos-").tempdir()?;
        let mut cluster = Cluster { network, processes: HashMap::new(), dir };
        let redis = redis_program();
        let mut roles = vec![Role::Main(Party::Master)];
        roles.extend((0..COORDINATORS).map(|number| Role::Main(Party::Coordinator(number))));
        roles.extend((0..nodes).flat_map(|number| [Role::Main(Party::Node(number)), Role::Agent(number)]));
        roles.extend((0..PROXIES).map(|number| Role::Main(Party::Proxy(number))));
        for role in roles {
            let recipe = cluster.recipe(role, redis, &vrc.display().to_string());
            cluster.processes.insert(role, Process::start(recipe).await?);
        }
        Ok(cluster)
    }

    /// Where a redis or a proxy is reached by those who look on, faults or not.
    pub(crate) fn socket(&self, party: Party) -> PathBuf {
        self.dir.path().join(format!("{party}.sock"))
    }

    pub(crate) fn proxy_sockets(&self) -> Vec<PathBuf> {
        (0..PROXIES).map(|number| self.socket(Party::Proxy(number))).collect()
    }

    pub(crate) fn process(&mut self, role: Role) -> anyhow::Result<&mut Process> {
        self.processes.get_mut(&role).ok_or_else(|| anyhow::anyhow!("there is no {role}"))
    }

    pub(crate) async fn restart(&mut self, role: Role) -> anyhow::Result<()> {
        if let Role::Main(party) = role {
            let _ = std::fs::remove_file(self.socket(party));
        }
        self.process(role)?.restart().await
    }

    /// Fails if a process has ended that nobody killed.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        self.processes.values_mut().try_for_each(Process::check)
    }

    /// Which coordinator each instance was that ever ran, by what it said at its start.
    pub(crate) fn instances(&self) -> HashMap<String, usize> {
        let logs = (0..COORDINATORS).map(|number| {
            let path = self.dir.path().join(format!("{}.log", Role::Main(Party::Coordinator(number))));
            (number, std::fs::read_to_string(path).unwrap_or_default())
        });
        let named = |(number, log): (usize, String)| {
            let words = log.split_whitespace().filter_map(|word| word.strip_prefix("instance="));
            words.map(|instance| (instance.to_owned(), number)).collect::<Vec<_>>()
        };
        logs.flat_map(named).collect()
    }

    fn recipe(&self, role: Role, redis: &str, vrc: &str) -> Recipe {
        let (party, line) = match role {
            Role::Main(party @ (Party::Master | Party::Node(_))) => (party, self.redis_line(party, redis)),
            Role::Main(party @ Party::Coordinator(_)) => (party, self.coordinator_line(party, vrc)),
            Role::Main(party @ Party::Proxy(_)) => (party, self.proxy_line(party, vrc)),
            Role::Agent(number) => (Party::Node(number), self.agent_line(number, vrc)),
        };
        Recipe::new(&role.to_string(), self.network.at(party, line), self.dir.path())
    }

    fn redis_line(&self, party: Party, redis: &str) -> Vec<String> {
        let ((host, port), socket) = (self.network.listens(party), self.socket(party));
        // The agent beside it may say 127.0.0.1 or its address: both are its own.
        let bind = if host == "127.0.0.1" { host } else { "0.0.0.0".to_owned() };
        line(&format!(
            "{redis} --bind {bind} --port {port} --unixsocket {} --protected-mode no --save '' --appendonly no --dir {}",
            socket.display(),
            self.dir.path().display()
        ))
    }

    fn coordinator_line(&self, party: Party, vrc: &str) -> Vec<String> {
        let (host, port) = self.network.finds(party, Party::Master);
        line(&format!(
            "{vrc} coordinator -h {host} -p {port} --ping-interval 250ms --ping-timeout 2s --recheck 2s \
             --guest-flush-timeout 5s --agent-timeout 6s --flap-pause 200ms --flap-pause-max 2s"
        ))
    }

    fn agent_line(&self, number: usize, vrc: &str) -> Vec<String> {
        let node = Party::Node(number);
        let (host, port) = self.network.listens(node);
        let (announced_host, announced_port) = self.network.finds(Party::Proxy(0), node);
        let (master_host, master_port) = self.network.finds(node, Party::Master);
        line(&format!(
            "{vrc} agent -h {host} -p {port} --name {node} --announce-host {announced_host} --announce-port {announced_port} \
             -H {master_host} -P {master_port} --announce-interval 1s --ping-timeout 2s"
        ))
    }

    fn proxy_line(&self, party: Party, vrc: &str) -> Vec<String> {
        let (host, port) = self.network.finds(party, Party::Master);
        line(&format!(
            "{vrc} proxy --master redis://{host}:{port} --listen unix:{} --workers 1 --timeout {TIMEOUT_MS}ms",
            self.socket(party).display()
        ))
    }
}

/// Words between spaces; '' is an empty one.
fn line(text: &str) -> Vec<String> {
    text.split_whitespace().map(|word| if word == "''" { String::new() } else { word.to_owned() }).collect()
}

fn redis_program() -> &'static str {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has = |name: &str| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    if has("redis-server") || !has("valkey-server") { "redis-server" } else { "valkey-server" }
}

/// The program: given, or beside this one.
pub(crate) fn vrc_program(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let path = match given {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name("vrc"),
    };
    ensure!(path.is_file(), "{} is not there: build it, or say where it is by --vrc", path.display());
    Ok(path.canonicalize()?)
}
