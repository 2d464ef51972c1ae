//! `vrc where KEY …`: who holds a key, told without asking a proxy.

use std::{ffi::OsString, os::unix::ffi::OsStringExt, time::Duration};

use anyhow::ensure;
use clap::{ArgMatches, Error, FromArgMatches};
use serde::Serialize;
use vrc_cluster::{
    client::MasterUrl,
    contract::CLIENT_DATABASES,
    topology::{NodeIndex, PlacementOptions, Topology, Unowned},
};
use vrc_proxy::FixedNode;

use crate::{
    args::{Choice, MasterArgs, PlacementArgs, choose, parse_limit},
    log::Log,
    node_map::{Snapshot, now_ms},
    output::{self, Align, Table},
};

/// Arguments of `vrc where`, checked.
#[derive(Debug)]
pub(crate) struct Args {
    keys: Vec<Vec<u8>>,
    database: u8,
    source: Source,
    placement: PlacementOptions,
    json: bool,
    timeout: Duration,
}

#[derive(Debug)]
enum Source {
    Master(MasterUrl),
    Nodes(Vec<FixedNode>),
}

#[derive(Debug, clap::Args)]
#[group(skip)]
struct Raw {
    /// The keys
    #[arg(value_name = "KEY", required = true)]
    keys: Vec<OsString>,

    #[command(flatten)]
    master: MasterArgs,

    /// A fixed list of nodes, as the proxy's: host:port or host:port@weight, separated by commas
    #[arg(long, value_name = "NODES", env = "VRC_NODES", value_delimiter = ',')]
    nodes: Vec<FixedNode>,

    /// The database that the client has selected
    #[arg(short = 'n', long, value_name = "N", env = "VRC_DATABASE", default_value_t = 0,
          value_parser = clap::value_parser!(u8).range(..i64::from(CLIENT_DATABASES)))]
    database: u8,

    #[command(flatten)]
    placement: PlacementArgs,

    /// Print JSON
    #[arg(long, env = "VRC_JSON", value_parser = clap::builder::BoolishValueParser::new())]
    json: bool,

    /// How long the master may take to answer
    #[arg(long, value_name = "TIME", env = "VRC_TIMEOUT", value_parser = parse_limit, default_value = "1s")]
    timeout: Duration,
}

impl FromArgMatches for Args {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let raw = Raw::from_arg_matches(matches)?;
        let source = match choose(matches, &["nodes"], &["master", "host", "port"])? {
            Choice::First => Source::Nodes(raw.nodes),
            _ => Source::Master(raw.master.url),
        };
        Ok(Args {
            keys: raw.keys.into_iter().map(OsString::into_vec).collect(),
            database: raw.database,
            placement: raw.placement.options(matches!(source, Source::Master(_))),
            source,
            json: raw.json,
            timeout: raw.timeout,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for Args {
    fn augment_args(command: clap::Command) -> clap::Command {
        Raw::augment_args(command)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Raw::augment_args_for_update(command)
    }
}

/// Where one key is.
#[derive(Debug, Serialize)]
struct Answer {
    key: String,
    /// None under `legacy`, which has no slots.
    slot: Option<u16>,
    /// Its owner among all known nodes.
    home: Option<String>,
    /// Its owner among the nodes that are up.
    holder: Option<String>,
    /// Where the holder listens.
    address: Option<String>,
    /// The holder's database that has it.
    database: Option<u8>,
    /// Why nobody holds it.
    unowned: Option<String>,
}

/// Prints where the keys are.
pub(crate) async fn run(args: Args, log: &Log) -> anyhow::Result<()> {
    log.begin("warn");
    let (map, epoch) = match &args.source {
        Source::Nodes(nodes) => (nodes.iter().map(|node| (node.name.clone(), node.into())).collect(), 0),
        Source::Master(master) => {
            let snapshot = Snapshot::read(master, args.timeout).await?;
            snapshot.check_placement(args.placement.kind)?;
            ensure!(!snapshot.map.is_empty(), "the master {master} knows of no nodes: is a coordinator at work?");
            (snapshot.map, snapshot.epoch.unwrap_or(0))
        }
    };
    let now_ms = now_ms();
    let topology = Topology::build(&map, epoch, &args.placement, now_ms);
    let answers: Vec<_> = args.keys.iter().map(|key| answer(&topology, key, args.database, now_ms)).collect();
    if args.json {
        return output::json(&answers);
    }
    output::line(table(&answers));
    Ok(())
}

fn answer(topology: &Topology, key: &[u8], database: u8, now_ms: u64) -> Answer {
    let node = |index: NodeIndex| &topology.nodes()[usize::from(index)];
    let name = |index: NodeIndex| node(index).name.to_string();
    let location = topology.locate(key);
    let owner = location.owner.ok();
    Answer {
        key: String::from_utf8_lossy(key).into_owned(),
        slot: location.slot,
        home: location.home.map(name),
        holder: owner.map(|owner| name(owner.node)),
        address: owner.map(|owner| node(owner.node).endpoint.address()),
        database: owner.map(|owner| if owner.guest { database + CLIENT_DATABASES } else { database }),
        unowned: location.owner.err().map(|unowned| match unowned {
            Unowned::NoNodeUp => "no node is up".to_owned(),
            Unowned::Withheld { node, until_ms } => {
                format!("{} changed its state; withheld for {} ms more", name(node), until_ms.saturating_sub(now_ms))
            }
        }),
    }
}

fn table(answers: &[Answer]) -> Table {
    let mut table = Table::new([
        ("KEY", Align::Left),
        ("SLOT", Align::Right),
        ("HOME", Align::Left),
        ("HOLDER", Align::Left),
        ("ADDRESS", Align::Left),
        ("DATABASE", Align::Right),
        ("", Align::Left),
    ]);
    for answer in answers {
        let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        table.row([
            // A key may hold anything; a terminal is not to act on it.
            answer.key.escape_debug().to_string(),
            answer.slot.map_or_else(String::new, |slot| slot.to_string()),
            text(&answer.home),
            text(&answer.holder),
            if answer.address == answer.holder { String::new() } else { text(&answer.address) },
            answer.database.map_or("-".to_owned(), |database| database.to_string()),
            answer.unowned.clone().unwrap_or_default(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use vrc_cluster::contract::{Endpoint, Node, NodeMap};

    use super::*;

    #[test]
    fn a_key_whose_home_is_down_is_a_guest_elsewhere() {
        let mut map = NodeMap::new();
        for name in ["a", "b"] {
            let fixed = FixedNode { name: name.into(), endpoint: Endpoint::new("10.0.0.1", 7401), weight: 1.0 };
            map.insert(name.into(), Node::from(&fixed));
        }
        let options = PlacementOptions { guest_databases: true, ..PlacementOptions::default() };
        let before = answer(&Topology::build(&map, 1, &options, 0), b"123456789", 3, 0);
        assert_eq!((before.slot, &before.home, before.database), (Some(0x31c3), &before.holder, Some(3)));
        let home = before.home.clone().unwrap();
        map.get_mut(&home).unwrap().up = false;
        let after = answer(&Topology::build(&map, 2, &options, 0), b"123456789", 3, 0);
        assert_eq!((&after.home, after.database), (&Some(home), Some(11)));
        assert_ne!(after.home, after.holder);
        map.values_mut().for_each(|node| node.up = false);
        let nowhere = answer(&Topology::build(&map, 3, &options, 0), b"k", 0, 0);
        assert_eq!((nowhere.holder, nowhere.unowned.as_deref()), (None, Some("no node is up")));
    }
}
