//! `vrc agent`.

use std::{net::SocketAddr, num::NonZeroUsize, str::FromStr, time::Duration};

use clap::{ArgMatches, Error, FromArgMatches, builder::BoolishValueParser, error::ErrorKind, parser::ValueSource};
use redis::ConnectionAddr;
use serde_json::json;
use vrc_agent::{Config, FleetConfig, Health, NodeHealth, NodeTarget};
use vrc_cluster::client::{MasterUrl, RedisUrl};

use crate::{
    admin,
    args::{Choice, ServerArgs, choose, parse_admin, parse_memory, parse_time, parse_weight, url_of},
    log::Log,
    shutdown::Shutdown,
};

/// Arguments of `vrc agent`, checked.
#[derive(Debug)]
pub(crate) struct Args {
    task: Task,
    /// Where to serve health.
    admin: Option<SocketAddr>,
}

#[derive(Debug)]
enum Task {
    /// Register a server that runs.
    Watch(Box<Config>),
    /// Start servers and register them.
    Spawn(Box<FleetConfig>),
}

#[derive(Debug, clap::Args)]
#[group(skip)]
struct Raw {
    /// Host of the redis to register, as the other machines reach it
    #[arg(short = 'h', long, value_name = "HOST", env = "VRC_HOST", default_value = "127.0.0.1")]
    host: String,

    /// Port of the redis to register; with --spawn the first of the ports to use [default: 6379; free ports with --spawn]
    #[arg(short = 'p', long, value_name = "PORT", env = "VRC_PORT")]
    port: Option<u16>,

    /// The redis to register, instead of -h and -p: redis[s]://[user:password@]host:port. With rediss:// (TLS) no proxy can use
    /// it, only programs that talk to nodes themselves
    #[arg(long, value_name = "URL", env = "VRC_NODE", hide_env_values = true)]
    node: Option<RedisUrl>,

    /// Share of the keys relative to the other nodes, from 0.01 to 100
    #[arg(short = 'w', long, value_name = "WEIGHT", env = "VRC_WEIGHT", value_parser = parse_weight, default_value = "1")]
    weight: f64,

    /// Host of the master
    #[arg(short = 'H', long, value_name = "HOST", env = "VRC_MASTER_HOST", default_value = "127.0.0.1")]
    master_host: String,

    /// Port of the master
    #[arg(short = 'P', long, value_name = "PORT", env = "VRC_MASTER_PORT", default_value_t = 6379)]
    master_port: u16,

    /// The master, instead of -H and -P: redis[s]://[user:password@]host:port[/db], or
    /// redis-sentinel://[user:password@]sentinel:port,sentinel:port/name[?db=N]
    #[arg(long, value_name = "URL", env = "VRC_MASTER", hide_env_values = true)]
    master: Option<MasterUrl>,

    /// Name of the node, which decides where its keys live: a node that moves keeps its place with its name. Several spawned
    /// nodes are NAME-1, NAME-2 … [default: host:port]
    #[arg(long, value_name = "NAME", env = "VRC_NAME")]
    name: Option<String>,

    /// Host by which the others reach the node, where it is not the one the agent uses
    #[arg(long, value_name = "HOST", env = "VRC_ANNOUNCE_HOST")]
    announce_host: Option<String>,

    /// Port by which the others reach the node, likewise
    #[arg(long, value_name = "PORT", env = "VRC_ANNOUNCE_PORT")]
    announce_port: Option<u16>,

    /// Take the redis even if it holds keys that this cluster did not put there. Joining destroys them
    #[arg(long, env = "VRC_FLUSH", value_parser = BoolishValueParser::new())]
    flush: bool,

    /// Start N redis servers here, keep them running, and register them; they keep nothing on disk. Give -p or --name too, so that
    /// the nodes keep their names, and with these their slots, when this is restarted [default N: one per core]
    #[arg(long, value_name = "N", env = "VRC_SPAWN", num_args = 0..=1, default_missing_value = "cores")]
    spawn: Option<SpawnCount>,

    /// With --spawn: the address that the servers listen on [default: the host of -h]
    #[arg(long, value_name = "ADDRESS", env = "VRC_BIND")]
    bind: Option<String>,

    /// With --spawn: memory of each server, such as 256mb or 1g [default: no limit]
    #[arg(long, value_name = "BYTES", env = "VRC_MAXMEMORY", value_parser = parse_memory)]
    maxmemory: Option<String>,

    #[command(flatten)]
    server: ServerArgs,

    /// When it is stopped: how long it waits until no proxy uses the node any more
    #[arg(long, value_name = "TIME", env = "VRC_LEAVE_WAIT", value_parser = parse_time, default_value = "5s")]
    leave_wait: Duration,

    /// How many keys a second are scanned while those that moved to other nodes are purged
    #[arg(long, value_name = "KEYS", env = "VRC_PURGE_RATE", default_value_t = 20_000)]
    purge_rate: u32,

    /// Where to serve /health over HTTP: well is an agent whose nodes answer and have been announced to the master
    #[arg(long, value_name = "ADDRESS", env = "VRC_ADMIN", value_parser = parse_admin)]
    admin: Option<SocketAddr>,

    /// How often the node is announced; at most half of the coordinators' --agent-timeout
    #[arg(long, value_name = "TIME", env = "VRC_ANNOUNCE_INTERVAL", value_parser = parse_time, default_value = "5s")]
    announce_interval: Duration,

    /// How often the node is asked whether it answers
    #[arg(long, value_name = "TIME", env = "VRC_PING_INTERVAL", value_parser = parse_time, default_value = "1s")]
    ping_interval: Duration,

    /// How long its answer may take before it counts as stalled
    #[arg(long, value_name = "TIME", env = "VRC_PING_TIMEOUT", value_parser = parse_time, default_value = "3s")]
    ping_timeout: Duration,
}

/// How many servers to start.
#[derive(Debug, Clone, Copy)]
enum SpawnCount {
    Cores,
    These(NonZeroUsize),
}

impl FromStr for SpawnCount {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "cores" => Ok(SpawnCount::Cores),
            _ => text.parse().map(SpawnCount::These).map_err(|_| "not a number of servers, 1 or more, nor `cores`"),
        }
    }
}

impl FromArgMatches for Args {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let raw = Raw::from_arg_matches(matches)?;
        let master = match (raw.master, choose(matches, &["master"], &["master_host", "master_port"])?) {
            (Some(url), Choice::First) => url,
            _ => url_of(&raw.master_host, raw.master_port)?,
        };
        let (node, port) = match (raw.node, choose(matches, &["node"], &["host", "port"])?) {
            (Some(url), Choice::First) => (target(&url)?, Some(url.port())),
            _ => (NodeTarget::new(raw.host, raw.port.unwrap_or(6379)), raw.port),
        };
        let config = Config {
            announced_host: raw.announce_host,
            announced_port: raw.announce_port,
            name: raw.name,
            weight: raw.weight,
            flush: raw.flush,
            announce_interval: raw.announce_interval,
            ping_interval: raw.ping_interval,
            ping_timeout: raw.ping_timeout,
            leave_wait: raw.leave_wait,
            purge_keys_per_s: raw.purge_rate,
            ..Config::new(node, master)
        };
        config.check().map_err(|error| invalid(error.to_string()))?;
        let Some(spawn) = raw.spawn else {
            for id in ["bind", "maxmemory", "maxmemory_policy", "redis_server"] {
                if matches.value_source(id) == Some(ValueSource::CommandLine) {
                    let flag = id.replace('_', "-");
                    return Err(invalid(format!("--{flag} says how to start a server, which is done with --spawn only")));
                }
            }
            return Ok(Args { task: Task::Watch(Box::new(config)), admin: raw.admin });
        };
        if config.node.tls || config.node.username.is_some() {
            return Err(invalid("servers started here have no TLS and no users: --node cannot ask for them with --spawn".into()));
        }
        let mut options = raw.server.options(raw.maxmemory);
        options.bind = raw.bind.unwrap_or_else(|| config.node.host.clone());
        options.port = port;
        options.password.clone_from(&config.node.password);
        let count = match spawn {
            SpawnCount::Cores => None,
            SpawnCount::These(count) => Some(count),
        };
        let fleet = FleetConfig { agent: config, spawn: options, count };
        Ok(Args { task: Task::Spawn(Box::new(fleet)), admin: raw.admin })
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

fn invalid(text: String) -> Error {
    Error::raw(ErrorKind::ValueValidation, text)
}

fn target(url: &RedisUrl) -> Result<NodeTarget, Error> {
    let client = url.client().map_err(|error| invalid(error.to_string()))?;
    let info = client.get_connection_info();
    let redis = info.redis_settings();
    Ok(NodeTarget {
        host: url.host().to_owned(),
        port: url.port(),
        username: redis.username().map(str::to_owned),
        password: redis.password().map(str::to_owned),
        tls: matches!(info.addr(), ConnectionAddr::TcpTls { .. }),
    })
}

/// Keeps nodes registered until the program is to stop.
pub(crate) async fn run(args: Args, log: &Log, shutdown: &Shutdown) -> anyhow::Result<()> {
    log.begin_queued("info")?;
    let health = Health::default();
    let shown = health.clone();
    let _admin = admin::serve(args.admin, shutdown.token(), move || show(&shown.nodes())).await?;
    match args.task {
        Task::Watch(config) => {
            tracing::info!(node = config.node_name(), redis = %config.node, master = %config.master, "agent started");
            vrc_agent::run(*config, health, shutdown.token()).await?;
        }
        // What happens to the servers is in the log already.
        Task::Spawn(fleet) => vrc_agent::run_fleet(*fleet, health, shutdown.token(), drop).await?,
    }
    tracing::info!("agent stopped");
    Ok(())
}

/// Well is an agent all of whose nodes are.
fn show(nodes: &[NodeHealth]) -> admin::Health {
    let is_healthy = !nodes.is_empty() && nodes.iter().all(|node| node.healthy);
    let mut body = json!({ "healthy": is_healthy, "nodes": nodes });
    if nodes.is_empty() {
        body["reason"] = "no node has been started yet".into();
    }
    admin::Health { is_healthy, body }
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

    fn parse(line: &str) -> Result<Task, Error> {
        Program::try_parse_from(line.split(' ')).map(|program| program.args.task)
    }

    #[test]
    fn the_old_flags() {
        let Task::Watch(config) = parse("agent -h 10.0.0.1 -p 7303 -w 3 -H 10.0.0.9 -P 7000").unwrap() else { panic!() };
        assert_eq!((config.node_name().as_str(), config.weight), ("10.0.0.1:7303", 3.0));
        assert_eq!(config.master.to_string(), "redis://10.0.0.9:7000");
    }

    #[test]
    fn urls() {
        let line = "agent --node rediss://ops:secret@10.0.0.1:7303 --master redis://:pw@m:7000/2";
        let Task::Watch(config) = parse(line).unwrap() else { panic!() };
        let node = NodeTarget {
            username: Some("ops".into()),
            password: Some("secret".into()),
            tls: true,
            ..NodeTarget::new("10.0.0.1", 7303)
        };
        assert_eq!(config.node, node);
        assert_eq!(config.master.to_string(), "redis://m:7000/2");
    }

    #[test]
    fn spawning() {
        let Task::Spawn(fleet) = parse("agent --spawn -H m").unwrap() else { panic!() };
        assert_eq!((fleet.count, fleet.spawn.port, fleet.spawn.bind.as_str()), (None, None, "127.0.0.1"));
        let Task::Spawn(fleet) = parse("agent --spawn 3 -h 10.0.0.1 -p 7401 --maxmemory 64mb").unwrap() else { panic!() };
        assert_eq!((fleet.count, fleet.spawn.port), (NonZeroUsize::new(3), Some(7401)));
        assert_eq!((fleet.spawn.bind.as_str(), fleet.spawn.maxmemory.as_deref()), ("10.0.0.1", Some("64mb")));
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "agent -w 0",
            "agent -w 101",
            "agent --node redis://h:1 -p 2",
            "agent --node http://h:1",
            "agent --maxmemory 1g",
            "agent --spawn 0",
            "agent --spawn --node rediss://h:1",
            "agent --spawn --maxmemory-policy oldest",
            "agent -h  -p 1",
        ] {
            assert_eq!(parse(line).err().map(|error| error.exit_code()), Some(2), "{line}");
        }
    }
}
