//! What a run is told.

use std::{path::PathBuf, time::Duration};

/// What is done to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub enum Kind {
    /// SIGKILL of a node's redis, which starts again later, sometimes at once.
    NodeKill,
    /// SIGSTOP of a node's redis for a while.
    NodeStop,
    /// A node's redis dies and comes back several times within seconds.
    NodeFlap,
    /// All connections to a node are reset.
    NodeReset,
    /// A node cannot be reached: by anybody, or (with namespaces) by one coordinator or one proxy only.
    NodeCut,
    /// SIGKILL of an agent.
    AgentKill,
    /// SIGKILL of a coordinator.
    CoordinatorKill,
    /// SIGSTOP of a coordinator for a while.
    CoordinatorStop,
    /// A coordinator does not reach the master.
    CoordinatorCut,
    /// SIGKILL of the master, which comes back empty.
    MasterKill,
    /// SIGSTOP of the master for a while.
    MasterStop,
    /// A proxy does not reach the master.
    ProxyCut,
    /// SIGKILL of a proxy.
    ProxyKill,
    /// SIGSTOP of a proxy for a while.
    ProxyStop,
    /// A client empties the cluster by FLUSHALL.
    Flush,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = clap::ValueEnum::to_possible_value(self);
        f.pad(value.as_ref().map_or("?", |value| value.get_name()))
    }
}

/// What carries the bytes between the processes, and can be made to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum NetworkKind {
    /// Namespaces where that is allowed, else relays.
    Auto,
    /// A network namespace for each process, and a bridge between them: packets of any two can be dropped. Needs root.
    Namespaces,
    /// TCP relays before the master and before each node. A cut node is cut from all; a new connection through a cut is
    /// taken, and then silent.
    Relays,
}

/// A run's settings.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Decides the faults [default: from the clock, and told]
    #[arg(long)]
    pub seed: Option<u64>,

    /// For how long faults are played, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub duration: Duration,

    /// Redis servers that hold data
    #[arg(long, default_value = "4", value_parser = clap::value_parser!(u16).range(2..=32))]
    pub nodes: u16,

    /// Which faults [default: all]
    #[arg(long, value_name = "KIND,…", value_delimiter = ',')]
    pub kinds: Vec<Kind>,

    /// Longest pause between the beginnings of two faults, in ms
    #[arg(long, value_name = "MS", default_value = "2500", value_parser = clap::value_parser!(u64).range(10..))]
    pub pause: u64,

    /// Faults under way at a time; with 1, times that keys were unavailable are told to the right fault for sure
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u16).range(1..))]
    pub at_once: u16,

    /// What carries the bytes between the processes
    #[arg(long, default_value = "auto")]
    pub network: NetworkKind,

    /// The program [default: `vrc` beside this one]
    #[arg(long, value_name = "PATH")]
    pub vrc: Option<PathBuf>,

    /// Keep the processes' logs even if all is well
    #[arg(long)]
    pub keep: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
        _ => Err("not a number of seconds from 1 to 86400".to_owned()),
    }
}

impl Options {
    /// A short run.
    pub fn short(seed: u64, seconds: u64, vrc: PathBuf) -> Self {
        Options {
            seed: Some(seed),
            duration: Duration::from_secs(seconds),
            nodes: 4,
            kinds: Vec::new(),
            pause: 1_500,
            at_once: 3,
            network: NetworkKind::Auto,
            vrc: Some(vrc),
            keep: false,
        }
    }
}
