//! `vrc drain`, `undrain`, `weight` and `forget`: what an operator wants of a node, said to the leading coordinator, and waited for
//! until the master's map says so.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::builder::BoolishValueParser;
use futures_util::{Stream, StreamExt};
use redis::{Msg, aio::MultiplexedConnection};
use vrc_cluster::{
    client::{connect, within},
    contract::{AGENT_BUS, ANSWER_BUS_PREFIX, AgentBusMessage, Epoch, Wish, WishAnswer},
};

use crate::{
    args::{MasterArgs, parse_limit, parse_weight},
    log::Log,
    node_map::Snapshot,
    output,
};

/// How often a wish is said again: the leader may change meanwhile.
const SAY_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for one answer of the master itself. Long, since a wish is the more urgent the busier all are.
const MASTER_TIMEOUT: Duration = Duration::from_secs(10);
/// Of the nodes there are, an error names so many.
const NAMES_MAX: usize = 8;

/// Which node, and how long it may take.
#[derive(Debug, clap::Args)]
pub(crate) struct NodeArgs {
    /// The node: its name, or host:port
    #[arg(value_name = "NODE")]
    node: String,

    #[command(flatten)]
    master: MasterArgs,

    /// How long it may take until the change is published
    #[arg(long, value_name = "TIME", env = "VRC_TIMEOUT", value_parser = parse_limit, default_value = "30s")]
    timeout: Duration,
}

/// Arguments of `vrc drain`.
#[derive(Debug, clap::Args)]
pub(crate) struct DrainArgs {
    #[command(flatten)]
    of: NodeArgs,

    /// Drain it even if it is the only node that is up
    #[arg(long, env = "VRC_FORCE", value_parser = BoolishValueParser::new())]
    force: bool,
}

/// Arguments of `vrc undrain`.
#[derive(Debug, clap::Args)]
pub(crate) struct UndrainArgs {
    #[command(flatten)]
    of: NodeArgs,
}

/// Arguments of `vrc weight`.
#[derive(Debug, clap::Args)]
pub(crate) struct WeightArgs {
    #[command(flatten)]
    of: NodeArgs,

    /// Its share of the keys relative to the other nodes, from 0.01 to 100
    #[arg(value_name = "WEIGHT", value_parser = parse_weight)]
    weight: f64,
}

/// Arguments of `vrc forget`.
#[derive(Debug, clap::Args)]
pub(crate) struct ForgetArgs {
    #[command(flatten)]
    of: NodeArgs,

    /// Forget it even if it is up, or its agent still announces it; it stays out until the agent has been stopped
    #[arg(long, env = "VRC_FORCE", value_parser = BoolishValueParser::new())]
    force: bool,
}

/// `vrc drain`.
pub(crate) async fn drain(args: DrainArgs, log: &Log) -> anyhow::Result<()> {
    carry_out(args.of, Wish::Drain { force: args.force }, log).await
}

/// `vrc undrain`.
pub(crate) async fn undrain(args: UndrainArgs, log: &Log) -> anyhow::Result<()> {
    carry_out(args.of, Wish::Undrain, log).await
}

/// `vrc weight`.
pub(crate) async fn weight(args: WeightArgs, log: &Log) -> anyhow::Result<()> {
    carry_out(args.of, Wish::Weight { weight: args.weight }, log).await
}

/// `vrc forget`.
pub(crate) async fn forget(args: ForgetArgs, log: &Log) -> anyhow::Result<()> {
    carry_out(args.of, Wish::Forget { force: args.force }, log).await
}

async fn carry_out(args: NodeArgs, wish: Wish, log: &Log) -> anyhow::Result<()> {
    log.begin("warn");
    let master = &args.master.url;
    let snapshot = Snapshot::read(master, MASTER_TIMEOUT).await?;
    let name = named(&snapshot, &args.node, wish)?;
    let cannot = || format!("cannot speak to the coordinator through the master {master}");
    let id = format!("{:016x}", rand::random::<u64>());
    let client = master.client().await.with_context(cannot)?;
    let mut answers = within(MASTER_TIMEOUT, async {
        let mut pubsub = client.get_async_pubsub().await?;
        pubsub.subscribe(format!("{ANSWER_BUS_PREFIX}{id}")).await?;
        Ok(pubsub.into_on_message())
    })
    .await
    .with_context(cannot)?;
    let mut connection = within(MASTER_TIMEOUT, connect(&client, MASTER_TIMEOUT)).await.with_context(cannot)?;
    let message = serde_json::to_string(&AgentBusMessage::NodeWish { id, name: name.clone(), wish })?;

    let deadline = Instant::now() + args.timeout;
    let mut last = None;
    while Instant::now() < deadline {
        say(&mut connection, &message).await.with_context(cannot)?;
        let pause = SAY_EVERY.min(deadline.saturating_duration_since(Instant::now()));
        match answer_within(&mut answers, pause).await.with_context(cannot)? {
            None => {}
            Some(WishAnswer::Taken { waits_for }) => {
                last = Some(waits_for);
                // It was just said.
                tokio::time::sleep(SAY_EVERY.min(deadline.saturating_duration_since(Instant::now()))).await;
            }
            Some(WishAnswer::Refused { reason }) => bail!("{reason}"),
            Some(WishAnswer::Done { epoch, took_ms, note }) => {
                output::line(told(&name, wish, epoch, took_ms, note.as_deref()));
                return Ok(());
            }
        }
    }
    let limit = args.timeout.as_secs_f64();
    match last {
        Some(waits_for) => bail!("not published within {limit} s: the leading coordinator waits for {waits_for}"),
        None => bail!("no coordinator leads at the master {master}: nobody answered within {limit} s"),
    }
}

/// The name of the node that is meant.
fn named(snapshot: &Snapshot, node: &str, wish: Wish) -> anyhow::Result<String> {
    if snapshot.map.contains_key(node) {
        return Ok(node.to_owned());
    }
    let at_address = snapshot.map.iter().find(|(_, known)| known.config.address() == node || known.config.default_name() == node);
    match at_address {
        Some((name, _)) => Ok(name.clone()),
        // One that was forgotten by force is not in the map, and may be let back.
        None if wish == Wish::Undrain => Ok(node.to_owned()),
        None if snapshot.map.is_empty() => bail!("no node is called {node}; the master's map has none at all"),
        None => {
            let names: Vec<&str> = snapshot.map.keys().take(NAMES_MAX).map(String::as_str).collect();
            let more = snapshot.map.len() - names.len();
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            bail!("no node is called {node}; there are {}{more}", names.join(", "))
        }
    }
}

async fn say(connection: &mut MultiplexedConnection, message: &str) -> redis::RedisResult<()> {
    within(MASTER_TIMEOUT, redis::cmd("PUBLISH").arg(AGENT_BUS).arg(message).exec_async(connection)).await
}

async fn answer_within(answers: &mut (impl Stream<Item = Msg> + Unpin), limit: Duration) -> anyhow::Result<Option<WishAnswer>> {
    match tokio::time::timeout(limit, answers.next()).await {
        Err(_) => Ok(None),
        Ok(None) => bail!("the connection was lost"),
        Ok(Some(message)) => Ok(Some(serde_json::from_slice(message.get_payload_bytes())?)),
    }
}

fn told(name: &str, wish: Wish, epoch: Epoch, took_ms: u64, note: Option<&str>) -> String {
    let done = match (wish, note) {
        (_, Some(note)) => format!("node {name}: {note}"),
        (Wish::Drain { .. }, None) => format!("node {name} is drained: others hold its keys"),
        (Wish::Undrain, None) => format!("node {name} was emptied and is up"),
        (Wish::Weight { weight }, None) => format!("node {name} has the weight {weight}"),
        (Wish::Forget { .. }, None) => format!("node {name} is forgotten: its keys have new homes"),
    };
    if took_ms == 0 {
        format!("{done} (already so in epoch {epoch})")
    } else {
        format!("{done} (epoch {epoch}, after {took_ms} ms)")
    }
}

#[cfg(test)]
mod tests {
    use vrc_cluster::contract::{Endpoint, Node};

    use super::*;

    #[test]
    fn a_node_is_meant_by_its_name_or_its_address() {
        let mut snapshot = Snapshot::default();
        for (name, port) in [("a", 7401), ("b", 7402)] {
            let text = format!(r#"{{"config":{{"host":"10.0.0.1","port":{port}}},"weight":1,"up":true,"name":"{name}"}}"#);
            let node: Node = serde_json::from_str(&text).unwrap();
            assert_eq!(node.config, Endpoint::new("10.0.0.1", port));
            snapshot.map.insert(name.to_owned(), node);
        }
        let drain = Wish::Drain { force: false };
        assert_eq!(named(&snapshot, "a", drain).unwrap(), "a");
        assert_eq!(named(&snapshot, "10.0.0.1:7402", drain).unwrap(), "b");
        assert_eq!(named(&snapshot, "c", drain).unwrap_err().to_string(), "no node is called c; there are a, b");
        assert_eq!(named(&snapshot, "c", Wish::Undrain).unwrap(), "c");
    }

    #[test]
    fn what_was_done_is_told_with_how_long_it_took() {
        let weight = Wish::Weight { weight: 2.0 };
        assert_eq!(told("a", weight, 7, 12, None), "node a has the weight 2 (epoch 7, after 12 ms)");
        assert_eq!(told("a", weight, 7, 0, None), "node a has the weight 2 (already so in epoch 7)");
    }
}
