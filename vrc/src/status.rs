//! `vrc status`: who is in, and how each node does.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::{self, Display},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use tokio::{sync::Semaphore, task::JoinSet};
use vrc_cluster::{
    client::{connect, node_client, within},
    contract::{CLIENT_DATABASES, Endpoint, Epoch, Node, NodeNote, Notes, PurgeProgress, Trouble},
    topology::Topology,
};

use crate::{
    args::{MasterArgs, PlacementArgs, parse_limit},
    log::Log,
    node_map::{Snapshot, now_ms},
    output::{self, Align, Table, age, bytes, percent},
};

/// Nodes that are asked at a time; the common limit of open files is 1,024.
const QUESTIONS_MAX: usize = 200;

/// Arguments of `vrc status`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    master: MasterArgs,

    #[command(flatten)]
    placement: PlacementArgs,

    /// Print JSON
    #[arg(long, env = "VRC_JSON", value_parser = clap::builder::BoolishValueParser::new())]
    json: bool,

    /// How long the master, and each node, may take to answer
    #[arg(long, value_name = "TIME", env = "VRC_TIMEOUT", value_parser = parse_limit, default_value = "1s")]
    timeout: Duration,
}

/// What is known of the cluster.
#[derive(Debug, Serialize)]
struct Report {
    master: String,
    epoch: Option<Epoch>,
    leader: Option<String>,
    /// Those that follow the map and say so.
    proxies: usize,
    nodes_up: usize,
    nodes: Vec<NodeReport>,
    /// What the leader has to tell of nodes that are not in the map.
    others: Notes,
}

/// What is known of a node.
#[derive(Debug, Serialize)]
struct NodeReport {
    name: String,
    address: String,
    up: bool,
    /// An operator drained it, or it left in good order.
    planned: Option<Planned>,
    /// When it went up or down, in ms since the Unix epoch; unknown of a node that has only ever been up.
    since_ms: Option<u64>,
    weight: f64,
    /// The weight that its agent announces, where an operator has given it another.
    announced_weight: Option<f64>,
    /// The part of all keys that it holds now.
    share: f64,
    /// Keys that have another home now are to be removed from it.
    purge: Option<Purge>,
    #[serde(flatten)]
    vitals: Option<Vitals>,
    /// Why it could not be asked.
    unreachable: Option<String>,
    /// What the leading coordinator has to tell of it.
    #[serde(flatten)]
    note: Note,
}

/// What the leading coordinator has to tell of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
struct Note {
    /// Its agent says that it is up, and the coordinator cannot use it.
    unreachable_from_coordinator: Option<Trouble>,
    /// Proxies that cannot use it, though the coordinator can.
    unreachable_from: BTreeMap<String, Trouble>,
    /// It went down too often of late, and may not be up again before then, in ms since the Unix epoch.
    held_back_until_ms: Option<u64>,
    /// How often that was.
    held_back_after: Option<u32>,
}

impl Note {
    fn of(note: NodeNote) -> Self {
        Note {
            unreachable_from_coordinator: note.unreachable,
            unreachable_from: note.unreachable_from,
            held_back_until_ms: note.held_back_until,
            held_back_after: note.times,
        }
    }

    /// In words; several, if there is so much to say.
    fn words(&self, now_ms: u64) -> Vec<String> {
        let ago = |ms: u64| age(Duration::from_millis(now_ms.saturating_sub(ms)));
        let mut words = Vec::new();
        if let (Some(until_ms), Some(times)) = (self.held_back_until_ms, self.held_back_after) {
            let left = age(Duration::from_millis(until_ms.saturating_sub(now_ms)));
            words.push(format!("held back for {left} more: it went down {times} times"));
        }
        if let Some(Trouble { since, reason }) = &self.unreachable_from_coordinator {
            words.push(format!(
                "unreachable from the coordinator since {}, though its agent says it is up: {reason}",
                ago(*since)
            ));
        }
        let proxies = self.unreachable_from.iter();
        words.extend(
            proxies.map(|(proxy, trouble)| format!("unreachable from {proxy} since {}: {}", ago(trouble.since), trouble.reason)),
        );
        words
    }
}

/// Why a node is down on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Planned {
    Drained,
    Left,
}

/// How far a node has come with removing keys that have another home now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Purge {
    /// Its agent has begun.
    begun: bool,
    /// Keys that there were when it began.
    keys: u64,
    /// Keys that it has looked at.
    scanned: u64,
    /// Keys that it has removed.
    removed: u64,
}

impl Purge {
    /// None if there is nothing to do, or no more.
    fn of(snapshot: &Snapshot, name: &str) -> Option<Self> {
        let order = snapshot.orders.get(name)?;
        match snapshot.purges.get(name).filter(|progress| progress.order >= *order) {
            Some(PurgeProgress { done: true, .. }) => None,
            Some(PurgeProgress { keys, scanned, removed, .. }) => {
                Some(Purge { begun: true, keys: *keys, scanned: *scanned, removed: *removed })
            }
            None => Some(Purge { begun: false, keys: 0, scanned: 0, removed: 0 }),
        }
    }
}

impl Display for Purge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.begun {
            true => {
                let part = (self.scanned as f64 / self.keys.max(1) as f64).min(1.0);
                write!(f, "purging: {}, {} keys removed", percent(part), self.removed)
            }
            false => write!(f, "to be purged"),
        }
    }
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
struct Vitals {
    /// Keys that are at home here.
    keys: u64,
    /// Keys of nodes that are down.
    guest_keys: u64,
    memory_bytes: u64,
    maxmemory_bytes: u64,
    ops_per_s: u64,
    clients: u64,
    uptime_s: u64,
    version: Option<String>,
}

/// Prints the report.
pub(crate) async fn run(args: Args, log: &Log) -> anyhow::Result<()> {
    log.begin("warn");
    let mut snapshot = Snapshot::read(&args.master.url, args.timeout).await?;
    snapshot.check_placement(args.placement.kind())?;
    let mut notes = std::mem::take(&mut snapshot.notes);
    let topology = Topology::build(&snapshot.map, snapshot.epoch.unwrap_or(0), &args.placement.options(true), now_ms());
    let shares: HashMap<&str, f64> =
        topology.nodes().iter().zip(topology.shares()).map(|(node, share)| (&*node.name, share)).collect();
    let mut answers = ask_all(&snapshot, args.timeout).await;
    let nodes: Vec<_> = snapshot
        .map
        .iter()
        .map(|(name, node)| {
            let share = shares.get(name.as_str()).copied().unwrap_or(0.0);
            let mut report = report(name, node, share, answers.remove(name).unwrap_or_else(|| Err("not asked".to_owned())));
            report.purge = Purge::of(&snapshot, name);
            report.note = notes.remove(name).map(Note::of).unwrap_or_default();
            report
        })
        .collect();
    let report = Report {
        master: args.master.url.to_string(),
        epoch: snapshot.epoch,
        leader: snapshot.leader,
        proxies: snapshot.proxies,
        nodes_up: nodes.iter().filter(|node| node.up).count(),
        nodes,
        others: notes,
    };
    if args.json {
        return output::json(&report);
    }
    show(&report);
    Ok(())
}

fn report(name: &str, node: &Node, share: f64, answer: Result<Vitals, String>) -> NodeReport {
    let (vitals, unreachable) = match answer {
        Ok(vitals) => (Some(vitals), None),
        Err(reason) => (None, Some(reason)),
    };
    NodeReport {
        name: name.to_owned(),
        address: node.config.address(),
        up: node.up,
        planned: match &node.upkeep {
            _ if node.up => None,
            upkeep if upkeep.drained.is_some() => Some(Planned::Drained),
            upkeep => upkeep.left.map(|_| Planned::Left),
        },
        // 1 stands for "only ever up" in the contract, and for a change that was planned.
        since_ms: Some(node.state_change_time).filter(|time| *time > 1).or(node.upkeep.drained).or(node.upkeep.left),
        weight: node.weight,
        announced_weight: node.upkeep.announced_weight,
        share,
        purge: None,
        vitals,
        unreachable,
        note: Note::default(),
    }
}

async fn ask_all(snapshot: &Snapshot, limit: Duration) -> HashMap<String, Result<Vitals, String>> {
    let permits = Arc::new(Semaphore::new(QUESTIONS_MAX));
    let mut questions = JoinSet::new();
    for (name, node) in &snapshot.map {
        let (name, endpoint, permits) = (name.clone(), node.config.clone(), Arc::clone(&permits));
        questions.spawn(async move {
            // The semaphore is never closed; without it the question would only be asked sooner.
            let _permit = permits.acquire().await;
            (name, ask(&endpoint, limit).await)
        });
    }
    questions.join_all().await.into_iter().collect()
}

async fn ask(endpoint: &Endpoint, limit: Duration) -> Result<Vitals, String> {
    let work = async {
        let mut connection = connect(&node_client(endpoint, 0)?, limit).await?;
        redis::cmd("INFO").query_async::<String>(&mut connection).await
    };
    within(limit, work).await.map(|info| vitals(&info)).map_err(|error| words(&error))
}

/// An error without the number that the system has for it.
fn words(error: &redis::RedisError) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// What is of interest in the text of INFO; a field that is not there counts as 0.
fn vitals(info: &str) -> Vitals {
    let fields: HashMap<&str, &str> = info.lines().filter_map(|line| line.trim_end().split_once(':')).collect();
    let number = |name: &str| fields.get(name).and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut vitals = Vitals {
        memory_bytes: number("used_memory"),
        maxmemory_bytes: number("maxmemory"),
        ops_per_s: number("instantaneous_ops_per_sec"),
        clients: number("connected_clients"),
        uptime_s: number("uptime_in_seconds"),
        version: fields.get("valkey_version").or(fields.get("redis_version")).map(|text| (*text).to_owned()),
        ..Vitals::default()
    };
    for (name, text) in &fields {
        let Some(database) = name.strip_prefix("db").and_then(|number| number.parse::<u32>().ok()) else { continue };
        let keys = text.split(',').find_map(|part| part.strip_prefix("keys=")?.parse::<u64>().ok()).unwrap_or(0);
        let is_guest = (u32::from(CLIENT_DATABASES)..2 * u32::from(CLIENT_DATABASES)).contains(&database);
        *(if is_guest { &mut vitals.guest_keys } else { &mut vitals.keys }) += keys;
    }
    vitals
}

fn show(report: &Report) {
    let epoch = report.epoch.map_or("none".to_owned(), |epoch| epoch.to_string());
    let leader = report.leader.as_deref().unwrap_or("none: no coordinator is at work");
    output::line(format_args!("master  {}\nleader  {leader}\nepoch   {epoch}", report.master));
    output::line(format_args!("nodes   {}, {} up", report.nodes.len(), report.nodes_up));
    output::line(format_args!("proxies {}", report.proxies));
    if !report.nodes.is_empty() {
        output::line(format_args!("\n{}", table(&report.nodes)));
    }
    let now_ms = now_ms();
    for (name, note) in &report.others {
        output::line(format_args!("not in the map: {name}, {}", Note::of(note.clone()).words(now_ms).join("; ")));
    }
}

fn table(nodes: &[NodeReport]) -> Table {
    let mut table = Table::new([
        ("NODE", Align::Left),
        ("ADDRESS", Align::Left),
        ("STATE", Align::Left),
        ("SINCE", Align::Right),
        ("WEIGHT", Align::Right),
        ("SHARE", Align::Right),
        ("KEYS", Align::Right),
        ("GUESTS", Align::Right),
        ("MEMORY", Align::Right),
        ("OPS/S", Align::Right),
        ("", Align::Left),
    ]);
    let has_guests = nodes.iter().any(|node| node.vitals.as_ref().is_some_and(|vitals| vitals.guest_keys > 0));
    let now_ms = now_ms();
    for node in nodes {
        let of_vitals = |show: &dyn Fn(&Vitals) -> String| node.vitals.as_ref().map_or("-".to_owned(), show);
        let since = match (node.since_ms, &node.vitals) {
            (Some(since_ms), _) => age(Duration::from_millis(now_ms.saturating_sub(since_ms))),
            // It has been up ever since it is known, so for as long as its redis runs at the most.
            (None, Some(vitals)) if node.up => age(Duration::from_secs(vitals.uptime_s)),
            _ => "-".to_owned(),
        };
        table.row([
            node.name.clone(),
            // Without a name of its own a node is named by its address.
            if node.name == node.address { String::new() } else { node.address.clone() },
            match node.planned {
                _ if node.up => "up",
                Some(Planned::Drained) => "drained",
                Some(Planned::Left) => "left",
                None => "down",
            }
            .to_owned(),
            since,
            node.announced_weight.map_or_else(|| node.weight.to_string(), |of_agent| format!("{} (not {of_agent})", node.weight)),
            percent(node.share),
            of_vitals(&|vitals| vitals.keys.to_string()),
            if has_guests { of_vitals(&|vitals| vitals.guest_keys.to_string()) } else { String::new() },
            of_vitals(&|vitals| bytes(vitals.memory_bytes)),
            of_vitals(&|vitals| vitals.ops_per_s.to_string()),
            remarks(node, now_ms),
        ]);
    }
    table
}

fn remarks(node: &NodeReport, now_ms: u64) -> String {
    let mut remarks: Vec<String> = node.unreachable.iter().map(|reason| format!("unreachable: {reason}")).collect();
    remarks.extend(node.purge.as_ref().filter(|_| node.unreachable.is_none()).map(Purge::to_string));
    remarks.extend(node.note.words(now_ms));
    remarks.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_info() {
        let info = "# Server\r\nredis_version:7.0.15\r\nuptime_in_seconds:9\r\nused_memory:1000\r\nmaxmemory:2000\r\n\
                    instantaneous_ops_per_sec:7\r\nconnected_clients:2\r\n# Keyspace\r\ndb0:keys=5,expires=1,avg_ttl=0\r\n\
                    db3:keys=2,expires=0,avg_ttl=0\r\ndb8:keys=4,expires=0,avg_ttl=0\r\n";
        let expect = Vitals {
            keys: 7,
            guest_keys: 4,
            memory_bytes: 1000,
            maxmemory_bytes: 2000,
            ops_per_s: 7,
            clients: 2,
            uptime_s: 9,
            version: Some("7.0.15".to_owned()),
        };
        assert_eq!(vitals(info), expect);
        assert_eq!(vitals("db0:what\nused_memory:-1\n:::"), Vitals::default());
    }
}
