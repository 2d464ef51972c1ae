//! `vrc up`: a whole cluster on this machine, for as long as the program runs.

mod parts;
mod plan;
mod story;

use std::{io, time::Duration};

use anyhow::{Context, bail};
use tokio::{
    sync::mpsc::UnboundedReceiver,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use vrc_agent::{Health, NodeTarget, spawn::Supervised};
use vrc_cluster::client::{MasterUrl, RedisUrl};
use vrc_proxy::{Config, Proxy, Source};

use crate::{log::Log, output, shutdown::Shutdown};

pub(crate) use plan::Args;

use parts::{Event, Parts};
use plan::Plan;
use story::Story;

/// How long the nodes may take to join once their servers run.
const JOIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Brings a cluster up, tells what happens to it, and takes it down when the program is to stop or a part fails.
pub(crate) async fn run(Args(plan): Args, log: &Log, shutdown: &Shutdown) -> anyhow::Result<()> {
    // What is worth telling is told here; the log would say it again.
    log.begin_queued("error")?;
    output::queue_lines()?;
    let dir = tempfile::Builder::new().prefix("vrc-up-").tempdir().context("cannot make a temporary directory")?;
    shutdown.remove_at_exit(dir.path().to_owned());
    let (mut parts, events) = Parts::new(dir.path());
    let stop = shutdown.token();
    let outcome = tokio::select! {
        // What is half started is dropped with the other branch, and dies of that.
        () = stop.cancelled() => Ok(()),
        outcome = live(&plan, &mut parts, events) => outcome,
    };
    output::line("\nStopping");
    parts.stop().await;
    dir.close().context("cannot remove the temporary directory")?;
    outcome
}

/// Ends only when something has failed.
async fn live(plan: &Plan, parts: &mut Parts, events: UnboundedReceiver<Event>) -> anyhow::Result<()> {
    let mut story = Story::begin(plan.weights.len());

    let server = Supervised::start(parts.server_options(&plan.master_server)).await.context("the master cannot start")?;
    let process = server.process();
    let address = RedisUrl::new(process.host(), process.port())?;
    let master = MasterUrl::from(address.clone());
    story.started("master", &format!("{}:{}", address.host(), address.port()), &about(&server));
    parts.keep("master", server);

    // The proxy comes first because it is the one that may find its address taken; until there are nodes it says so to clients.
    let mut config = Config::new(Source::Master(master.clone()), plan.listen[0].clone());
    config.listen.clone_from(&plan.listen);
    config.admin = plan.admin;
    config.workers = plan.workers.unwrap_or(config.workers);
    config.placement = plan.placement.clone();
    let workers = config.workers;
    start_proxy(parts, config, &story, workers).await?;

    let mut config = vrc_coordinator::Config::new(master.clone());
    config.guest_databases = plan.placement.guest_databases;
    // There is no other.
    config.yields = Duration::ZERO;
    parts.run("coordinator", |stop| vrc_coordinator::run(config, stop));
    story.started("coordinator", "", "");

    let nodes = start_nodes(plan, parts, &story, &master).await?;
    let proxy = parts.proxy().context("the proxy is gone")?;
    follow(proxy, events, &mut story, &nodes, &address).await
}

async fn start_proxy(parts: &mut Parts, config: Config, story: &Story, workers: usize) -> anyhow::Result<()> {
    let proxy = match parts.start_proxy(config).await {
        Err(error) if is_address_taken(&error) => {
            let words = output::words(&error);
            bail!("{words}; another program has the address: stop that one, or choose another address with --listen");
        }
        result => result?,
    };
    for address in proxy.listening() {
        let note = if workers == 1 { "1 worker".to_owned() } else { format!("{workers} workers") };
        story.started("proxy", &address.to_string(), &note);
    }
    Ok(())
}

fn is_address_taken(error: &anyhow::Error) -> bool {
    let mut io_errors = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    io_errors.any(|error| error.kind() == io::ErrorKind::AddrInUse)
}

/// The nodes that were started.
struct Nodes {
    names: Vec<String>,
    /// What their agents say.
    health: Health,
}

impl Nodes {
    /// Those that have not joined, each with what keeps it from that.
    fn missing(&self, story: &Story) -> String {
        let agents = self.health.nodes();
        let why = |name: &str| match agents.iter().find(|agent| agent.name == name) {
            None => "its agent does not run yet".to_owned(),
            Some(agent) => match agent.reason.as_ref().or(agent.master_trouble.as_ref()) {
                Some(reason) => reason.clone(),
                None => "the coordinator does not let it in, and says why with -v warn".to_owned(),
            },
        };
        let missing = story.missing(&self.names).into_iter().map(|name| format!("{name} ({})", why(name)));
        missing.collect::<Vec<_>>().join(", ")
    }
}

/// Starts the nodes' servers, all at once, and an agent for each as soon as it runs.
async fn start_nodes(plan: &Plan, parts: &mut Parts, story: &Story, master: &MasterUrl) -> anyhow::Result<Nodes> {
    let health = Health::default();
    let names: Vec<String> = (1..=plan.weights.len()).map(|number| format!("node-{number}")).collect();
    let mut starting = JoinSet::new();
    for (name, weight) in names.iter().cloned().zip(plan.weights.iter().copied()) {
        let options = parts.server_options(&plan.node_server);
        starting.spawn(async move { (name, weight, Supervised::start(options).await) });
    }
    while let Some(started) = starting.join_next().await {
        let (name, weight, server) = started?;
        let server = server.with_context(|| format!("{name} cannot start"))?;
        let (host, port) = (server.process().host().to_owned(), server.port());
        story.started(&name, &format!("{host}:{port}"), &about(&server));
        parts.keep(&name, server);
        let mut config = vrc_agent::Config::new(NodeTarget::new(host, port), master.clone());
        config.name = Some(name.clone());
        config.weight = weight;
        // The proxy is stopped before.
        config.leave_wait = Duration::ZERO;
        let health = health.clone();
        parts.run(&format!("the agent of {name}"), |stop| vrc_agent::run(config, health, stop));
    }
    Ok(Nodes { names, health })
}

fn about(server: &Supervised) -> String {
    format!("version {}, pid {}", server.process().version(), server.pid())
}

/// Tells what happens, until something fails.
async fn follow(
    proxy: &Proxy,
    mut events: UnboundedReceiver<Event>,
    story: &mut Story,
    nodes: &Nodes,
    address: &RedisUrl,
) -> anyhow::Result<()> {
    let mut changes = proxy.changes();
    changes.mark_changed();
    let deadline = Instant::now() + JOIN_TIMEOUT;
    let mut is_ready = false;
    loop {
        tokio::select! {
            changed = changes.changed() => {
                changed.context("the proxy has stopped")?;
                let topology = proxy.topology();
                story.topology(&topology);
                if !is_ready && story.missing(&nodes.names).is_empty() {
                    is_ready = true;
                    story.ready(&topology, proxy.listening(), address);
                }
            }
            error = proxy.failed() => return Err(error.context("the proxy failed")),
            Some(event) = events.recv() => match event {
                Event::Server { name, event } => story.server(&name, &event),
                Event::Ended { name, outcome } => {
                    outcome.with_context(|| format!("{name} failed"))?;
                    bail!("{name} has ended by itself");
                }
            },
            () = sleep_until(deadline), if !is_ready => {
                bail!("not joined within {} s: {}", JOIN_TIMEOUT.as_secs(), nodes.missing(story));
            }
        }
    }
}
