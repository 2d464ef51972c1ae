//! `vrc proxy`.

use std::{net::SocketAddr, num::NonZeroUsize, time::Duration};

use clap::{ArgMatches, Error, FromArgMatches, builder::BoolishValueParser, error::ErrorKind};
use vrc_cluster::client::MasterUrl;
use vrc_proxy::{Config, FixedNode, ListenAddr, Proxy, ProxyAddress, Source, TIMEOUT_MIN};

use crate::{
    args::{Choice, PlacementArgs, choose, parse_admin, parse_time_from},
    log::Log,
    shutdown::Shutdown,
};

/// Where a proxy listens unless told otherwise.
pub(crate) const DEFAULT_LISTEN: &str = "127.0.0.1:7379";

/// Arguments of `vrc proxy`, checked.
#[derive(Debug)]
pub(crate) struct Args(Config);

#[derive(Debug, clap::Args)]
#[group(skip)]
struct Raw {
    /// Follow the node map in this master: redis[s]://[user:password@]host:port[/db], or
    /// redis-sentinel://[user:password@]sentinel:port,sentinel:port/name[?db=N]
    #[arg(long, value_name = "URL", env = "VRC_MASTER", hide_env_values = true)]
    master: Option<MasterUrl>,

    /// Serve these nodes, always: host:port or host:port@weight, separated by commas. No master, no coordinator
    #[arg(long, value_name = "NODES", env = "VRC_NODES", value_delimiter = ',')]
    nodes: Vec<FixedNode>,

    /// Where clients connect: address:port, or unix:/path. May be given several times, or several separated by commas
    #[arg(long, value_name = "ADDRESS", env = "VRC_LISTEN", value_delimiter = ',', default_value = DEFAULT_LISTEN)]
    listen: Vec<ListenAddr>,

    /// Where clients reach this proxy: host:port. Clients in cluster mode are told of all proxies of the master that have one;
    /// without, of this proxy alone, at the address that they connected to
    #[arg(long, value_name = "ADDRESS", env = "VRC_ANNOUNCE")]
    announce: Option<ProxyAddress>,

    /// Worker threads [default: one per core]
    #[arg(long, value_name = "N", env = "VRC_WORKERS")]
    workers: Option<NonZeroUsize>,

    #[command(flatten)]
    placement: PlacementArgs,

    /// How long a node may leave a command without an answer, connecting included; at least 10ms. A large value may take longer, for as
    /// long as more of it comes, and so may what waits behind it
    #[arg(long, value_name = "TIME", env = "VRC_TIMEOUT", value_parser = parse_timeout, default_value = "5s")]
    timeout: Duration,

    /// What clients must give to AUTH. An environment variable keeps it out of the list of processes
    #[arg(long, value_name = "PASSWORD", env = "VRC_PASSWORD", hide_env_values = true)]
    password: Option<String>,

    /// Let clients read and set the nodes' own settings by CONFIG GET, SET and RESETSTAT, on all nodes at once
    #[arg(long, env = "VRC_ALLOW_NODE_CONFIG", value_parser = BoolishValueParser::new())]
    allow_node_config: bool,

    /// Commands that take at least so many microseconds get into the proxy's slow log (SLOWLOG); 0: all, -1: none
    #[arg(long, value_name = "US", env = "VRC_SLOWLOG_LOG_SLOWER_THAN", default_value = "10000", allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..))]
    slowlog_log_slower_than: i64,

    /// How many commands the slow log keeps
    #[arg(long, value_name = "N", env = "VRC_SLOWLOG_MAX_LEN", default_value = "128", value_parser = clap::value_parser!(u32).range(..=100_000))]
    slowlog_max_len: u32,

    /// Count how long each command takes, for LATENCY HISTOGRAM and /metrics; costs a little CPU a command
    #[arg(long, env = "VRC_LATENCY_TRACKING", value_parser = BoolishValueParser::new())]
    latency_tracking: bool,

    /// Move bytes through an io_uring rather than by epoll: fewer system calls, but no less work for the machine as measured.
    /// Needs Linux 6.1, and a kernel that allows it
    #[arg(long, env = "VRC_IO_URING", value_parser = BoolishValueParser::new())]
    io_uring: bool,

    /// A worker with one client alone (no other has said anything for 100 ms) looks so many microseconds for the next reply or
    /// request before it sleeps. That takes up to a third off such a client's latency, and more CPU, a core a worker at most. 0:
    /// workers always sleep
    #[arg(long, value_name = "US", env = "VRC_BUSY_POLL", default_value = "50", value_parser = clap::value_parser!(u32).range(..=1_000))]
    busy_poll: u32,

    /// Most client connections at a time, over all workers
    #[arg(long, value_name = "N", env = "VRC_MAXCLIENTS", default_value = "10000")]
    maxclients: NonZeroUsize,

    /// Where to serve /metrics (for Prometheus), /health and /topology over HTTP. Whoever reaches it may look
    #[arg(long, value_name = "ADDRESS", env = "VRC_ADMIN", value_parser = parse_admin)]
    admin: Option<SocketAddr>,
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    parse_time_from(text, TIMEOUT_MIN)
}

impl FromArgMatches for Args {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let raw = Raw::from_arg_matches(matches)?;
        let source = match (choose(matches, &["master"], &["nodes"])?, raw.master) {
            (Choice::First, Some(master)) => Source::Master(master),
            (Choice::Second, _) => Source::Nodes(raw.nodes),
            _ => {
                let text = "where are the nodes? Give --master URL, or --nodes host:port,host:port";
                return Err(Error::raw(ErrorKind::MissingRequiredArgument, text));
            }
        };
        let placement = raw.placement.options(matches!(source, Source::Master(_)));
        let defaults = Config::new(source, ListenAddr::Unix("".into()));
        Ok(Args(Config {
            listen: raw.listen,
            workers: raw.workers.map_or(defaults.workers, NonZeroUsize::get),
            placement,
            timeout: raw.timeout,
            password: raw.password,
            allow_node_config: raw.allow_node_config,
            slowlog_slower_than_us: raw.slowlog_log_slower_than,
            slowlog_max: raw.slowlog_max_len as usize,
            latency_tracking: raw.latency_tracking,
            io_uring: raw.io_uring,
            busy_poll: Duration::from_micros(raw.busy_poll.into()),
            clients_max: raw.maxclients.get(),
            admin: raw.admin,
            announce: raw.announce,
            ..defaults
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

/// Serves clients until the program is to stop, or the proxy has lost a part.
pub(crate) async fn run(Args(config): Args, log: &Log, shutdown: &Shutdown) -> anyhow::Result<()> {
    log.begin_queued("info")?;
    let workers = config.workers;
    let proxy = Proxy::start(config).await?;
    for address in proxy.listening() {
        tracing::info!(%address, workers, "listening");
    }
    if let Some(address) = proxy.admin_address() {
        tracing::info!(%address, "metrics, health and topology over HTTP");
    }
    let token = shutdown.token();
    let outcome = tokio::select! {
        () = token.cancelled() => Ok(()),
        error = proxy.failed() => {
            tracing::error!("{error}; the proxy stops, so that another can be started in its place");
            Err(error)
        }
    };
    proxy.stop().await;
    tracing::info!("proxy stopped");
    outcome
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

    fn parse(line: &str) -> Result<Config, Error> {
        Program::try_parse_from(line.split(' ')).map(|Program { args: Args(config) }| config)
    }

    #[test]
    fn a_master() {
        let config = parse("proxy --master redis://m:7000 --listen :7379 --listen unix:/run/vrc.sock --workers 3").unwrap();
        assert!(matches!(&config.source, Source::Master(url) if url.to_string() == "redis://m:7000"));
        assert_eq!(config.listen, [":7379".parse().unwrap(), ListenAddr::Unix("/run/vrc.sock".into())]);
        assert_eq!((config.workers, config.placement.guest_databases), (3, true));
        assert!(!parse("proxy --master m --placement legacy").unwrap().placement.guest_databases);
    }

    #[test]
    fn a_fixed_list() {
        let config = parse("proxy --nodes 127.0.0.1:7401,127.0.0.1:7402@2").unwrap();
        let Source::Nodes(nodes) = &config.source else { panic!() };
        assert_eq!(nodes.iter().map(|node| node.weight).collect::<Vec<_>>(), [1.0, 2.0]);
        assert!(!config.placement.guest_databases, "nobody is there to flush them");
        assert_eq!(config.listen, [DEFAULT_LISTEN.parse().unwrap()]);
        assert_eq!(config.admin, None);
    }

    #[test]
    fn an_admin_address() {
        for (text, address) in [("127.0.0.1:9121", "127.0.0.1:9121"), (":9121", "0.0.0.0:9121"), ("[::1]:0", "[::1]:0")] {
            let config = parse(&format!("proxy --master m --admin {text}")).unwrap();
            assert_eq!(config.admin, Some(address.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "proxy",
            "proxy --master m --nodes 127.0.0.1:1",
            "proxy --nodes 127.0.0.1:1@0",
            "proxy --nodes 127.0.0.1",
            "proxy --master m --workers 0",
            "proxy --master m --placement ketama",
            "proxy --master m --timeout soon",
            "proxy --master m --timeout 0",
            "proxy --master m --timeout 9ms",
            "proxy --master m --listen nowhere",
            "proxy --master m --announce nowhere",
            "proxy --master m --announce :7379",
            "proxy --master m --admin nowhere",
            "proxy --master m --admin unix:/run/vrc.sock",
        ] {
            assert_eq!(parse(line).err().map(|error| error.exit_code()), Some(2), "{line}");
        }
    }
}
