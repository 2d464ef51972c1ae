//! Redis servers of our own, each with its agent: `--spawn`.

use std::{num::NonZeroUsize, sync::Arc};

use anyhow::Context;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    Config, Health, NodeTarget,
    spawn::{SpawnEvent, SpawnOptions, Supervised},
};

/// What to start.
#[derive(Debug, Clone)]
pub struct FleetConfig {
    /// What each agent is told. Its node's host is the one that is announced; how the node is reached comes from `spawn`.
    /// If it has a name and there are several nodes, their names are that name with `-1`, `-2` and so on.
    pub agent: Config,
    /// How each server is started. With a port given, the servers take it and those that follow.
    pub spawn: SpawnOptions,
    /// How many; `None` is one per core.
    pub count: Option<NonZeroUsize>,
}

impl FleetConfig {
    /// Whether the nodes have other names each time they are started, though the cluster outlives them.
    fn names_change(&self) -> bool {
        let announces_one = self.agent.announced_port.is_some() && self.count == NonZeroUsize::new(1);
        let are_fixed = self.spawn.port.is_some() || self.agent.name.is_some() || announces_one;
        !are_fixed && !self.agent.has_local_master()
    }
}

/// Starts the servers, keeps them running, and runs an agent for each, until `shutdown`. Then the nodes say that they leave, and
/// the servers are stopped after that. `health` shows how they do meanwhile.
///
/// # Errors
/// If a server does not start, or an agent ends with an error. Nothing is left running then.
pub async fn run_fleet(
    fleet: FleetConfig,
    health: Health,
    shutdown: CancellationToken,
    on_event: impl Fn(SpawnEvent) + Send + Sync + 'static,
) -> anyhow::Result<()> {
    fleet.agent.check()?;
    if fleet.names_change() {
        warn!(
            "the nodes are called by free ports, which are others at each start: after a restart those of before stay known as down \
             nodes until they are forgotten, and keys move twice. Give -p or --name, so that nodes keep their names and slots over \
             restarts"
        );
    }
    let servers = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        servers = start_all(&fleet) => servers?,
    };
    let on_event = Arc::new(on_event);
    let (leave, stop) = (shutdown.child_token(), CancellationToken::new());
    let (mut agents, mut keepers) = (JoinSet::new(), JoinSet::new());
    let is_one = servers.len() == 1;
    for (index, server) in servers.into_iter().enumerate() {
        agents.spawn(crate::run(agent_config(&fleet, &server, index, is_one), health.clone(), leave.clone()));
        let (stop, on_event) = (stop.clone(), Arc::clone(&on_event));
        keepers.spawn(server.keep(stop, move |event| on_event(event)));
    }
    let mut outcome = Ok(());
    while let Some(ended) = agents.join_next().await {
        if let Err(error) = ended.map_err(anyhow::Error::from).and_then(|result| result) {
            leave.cancel();
            outcome = outcome.and(Err(error));
        }
    }
    stop.cancel();
    while keepers.join_next().await.is_some() {}
    outcome
}

async fn start_all(fleet: &FleetConfig) -> anyhow::Result<Vec<Supervised>> {
    let count = fleet.count.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
    let mut starting = JoinSet::new();
    for index in 0..count {
        let mut options = fleet.spawn.clone();
        if let Some(first) = options.port {
            let port = u16::try_from(index).ok().and_then(|offset| first.checked_add(offset));
            options.port = Some(port.with_context(|| format!("{count} ports from {first} on go beyond 65535"))?);
        }
        starting.spawn(async move { (index, Supervised::start(options).await) });
    }
    let mut servers = Vec::with_capacity(count);
    while let Some(started) = starting.join_next().await {
        let (index, server) = started?;
        servers.push((index, server?));
    }
    servers.sort_by_key(|(index, _)| *index);
    Ok(servers.into_iter().map(|(_, server)| server).collect())
}

fn agent_config(fleet: &FleetConfig, server: &Supervised, index: usize, is_one: bool) -> Config {
    let mut config = fleet.agent.clone();
    let announced_host = config.announced_host.take().unwrap_or(config.node.host);
    config.node =
        NodeTarget { password: fleet.spawn.password.clone(), ..NodeTarget::new(server.process().host(), server.port()) };
    config.announced_host = Some(announced_host);
    if !is_one {
        config.announced_port = None;
        config.name = config.name.map(|name| format!("{name}-{}", index + 1));
    }
    config
}

#[cfg(test)]
mod tests {
    use vrc_cluster::client::MasterUrl;

    use super::*;

    #[test]
    fn names_change_where_nothing_fixes_them() {
        let fleet = |master: &str, port, name: Option<&str>| {
            let agent = Config::new(NodeTarget::new("10.0.0.5", 6379), MasterUrl::new(master, 6379).unwrap());
            let spawn = SpawnOptions { port, ..SpawnOptions::default() };
            FleetConfig { agent: Config { name: name.map(str::to_owned), ..agent }, spawn, count: None }
        };
        assert!(fleet("10.0.0.1", None, None).names_change());
        assert!(!fleet("10.0.0.1", Some(7301), None).names_change());
        assert!(!fleet("10.0.0.1", None, Some("left")).names_change());
        assert!(!fleet("127.0.0.1", None, None).names_change(), "a trial on one machine");
    }
}
