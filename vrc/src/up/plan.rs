//! What cluster to bring up.

use std::{net::SocketAddr, num::NonZeroUsize};

use clap::{ArgMatches, Error, FromArgMatches, error::ErrorKind};
use vrc_agent::spawn::SpawnOptions;
use vrc_cluster::topology::PlacementOptions;
use vrc_proxy::ListenAddr;

use crate::{
    args::{PlacementArgs, ServerArgs, parse_admin, parse_memory, parse_weight},
    proxy::DEFAULT_LISTEN,
};

const DEFAULT_NODES: u16 = 4;
/// More servers than this is a typing error on one machine.
const NODES_MAX: u16 = 256;

/// Arguments of `vrc up`, checked.
#[derive(Debug)]
pub(crate) struct Args(pub(super) Plan);

/// What cluster to bring up.
#[derive(Debug)]
pub(super) struct Plan {
    /// One a node.
    pub(super) weights: Vec<f64>,
    pub(super) listen: Vec<ListenAddr>,
    pub(super) workers: Option<usize>,
    pub(super) admin: Option<SocketAddr>,
    pub(super) placement: PlacementOptions,
    /// How a node's redis is started.
    pub(super) node_server: SpawnOptions,
    /// How the master is started.
    pub(super) master_server: SpawnOptions,
}

#[derive(Debug, clap::Args)]
#[group(skip)]
struct Raw {
    /// How many nodes [default: 4, or as many as there are weights]
    #[arg(long, value_name = "N", env = "VRC_UP_NODES", value_parser = clap::value_parser!(u16).range(1..=i64::from(NODES_MAX)))]
    nodes: Option<u16>,

    /// The nodes' shares of the keys relative to each other, each from 0.01 to 100, separated by commas [default: all 1]
    #[arg(long, value_name = "WEIGHTS", env = "VRC_WEIGHTS", value_delimiter = ',', value_parser = parse_weight)]
    weights: Vec<f64>,

    /// Where the proxy listens: address:port, or unix:/path. May be given several times, or several separated by commas
    #[arg(long, value_name = "ADDRESS", env = "VRC_LISTEN", value_delimiter = ',', default_value = DEFAULT_LISTEN)]
    listen: Vec<ListenAddr>,

    /// Worker threads of the proxy [default: one per core]
    #[arg(long, value_name = "N", env = "VRC_WORKERS")]
    workers: Option<NonZeroUsize>,

    /// Memory of each node, such as 256mb or 1g; 0 for no limit
    #[arg(long, value_name = "BYTES", env = "VRC_MAXMEMORY", value_parser = parse_memory, default_value = "256mb")]
    maxmemory: String,

    /// Where the proxy serves /metrics (for Prometheus), /health and /topology over HTTP. Whoever reaches it may look
    #[arg(long, value_name = "ADDRESS", env = "VRC_ADMIN", value_parser = parse_admin)]
    admin: Option<SocketAddr>,

    #[command(flatten)]
    server: ServerArgs,

    #[command(flatten)]
    placement: PlacementArgs,
}

impl FromArgMatches for Args {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let raw = Raw::from_arg_matches(matches)?;
        let weights = match (raw.nodes, raw.weights.len()) {
            (nodes, 0) => vec![1.0; usize::from(nodes.unwrap_or(DEFAULT_NODES))],
            (Some(nodes), count) if usize::from(nodes) != count => {
                let text = format!("{count} weights for {nodes} nodes");
                return Err(Error::raw(ErrorKind::ValueValidation, text));
            }
            _ => raw.weights,
        };
        // The master is no cache: what it holds is small, and nothing of it may be evicted.
        let mut master_server = raw.server.options(None);
        "noeviction".clone_into(&mut master_server.maxmemory_policy);
        Ok(Args(Plan {
            weights,
            listen: raw.listen,
            workers: raw.workers.map(NonZeroUsize::get),
            admin: raw.admin,
            placement: raw.placement.options(true),
            node_server: raw.server.options(Some(raw.maxmemory)),
            master_server,
        }))
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    #[command(disable_help_flag = true)]
    struct Program {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn nodes_and_weights() {
        let check = |line: &str, expect: Option<&[f64]>| {
            let parsed = Program::try_parse_from(line.split(' ')).ok();
            assert_eq!(parsed.map(|program| program.args.0.weights).as_deref(), expect, "{line}");
        };
        check("up", Some(&[1.0; 4]));
        check("up --nodes 2", Some(&[1.0; 2]));
        check("up --weights 1,2,0.5", Some(&[1.0, 2.0, 0.5]));
        check("up --nodes 3 --weights 1,2,0.5", Some(&[1.0, 2.0, 0.5]));
        check("up --nodes 2 --weights 1,2,0.5", None);
        check("up --nodes 0", None);
        check("up --weights 1,0", None);
    }
}
