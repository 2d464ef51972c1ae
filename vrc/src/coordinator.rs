//! `vrc coordinator`.

use std::{net::SocketAddr, time::Duration};

use clap::builder::BoolishValueParser;
use serde_json::json;
use vrc_cluster::topology::PlacementKind;
use vrc_coordinator::{Config, Coordinator, Status};

use crate::{
    admin::{self, Health},
    args::{MasterArgs, parse_admin, parse_time},
    log::Log,
    shutdown::Shutdown,
};

/// Arguments of `vrc coordinator`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    master: MasterArgs,

    /// How the proxies of this cluster give keys to nodes: `slots` or `legacy`. With `legacy` no guest databases are flushed, for the
    /// old clients know none
    #[arg(long, value_name = "KIND", env = "VRC_PLACEMENT", default_value_t = PlacementKind::Slots)]
    placement: PlacementKind,

    /// Let the master's own redis serve as a node too; when it joins, all it holds but the cluster's own keys is flushed
    #[arg(long, env = "VRC_ALLOW_MASTER", value_parser = BoolishValueParser::new())]
    allow_master: bool,

    /// Where to serve /health over HTTP: well is who leads or sees another lead, and hears agents
    #[arg(long, value_name = "ADDRESS", env = "VRC_ADMIN", value_parser = parse_admin)]
    admin: Option<SocketAddr>,

    /// Never send whole node maps on the channel of the Node.js clients. Without this it is done for as long as somebody listens
    /// there; no program of this system needs to
    #[arg(long, env = "VRC_NO_LEGACY_BUS", value_parser = BoolishValueParser::new())]
    no_legacy_bus: bool,

    /// Pause between two PINGs to a node
    #[arg(long, value_name = "TIME", env = "VRC_PING_INTERVAL", value_parser = parse_time, default_value = "1s")]
    ping_interval: Duration,

    /// A node that leaves a PING unanswered this long is down
    #[arg(long, value_name = "TIME", env = "VRC_PING_TIMEOUT", value_parser = parse_time, default_value = "3s")]
    ping_timeout: Duration,

    /// A node whose connection broke may take this long to answer on a new one before it is down
    #[arg(long, value_name = "TIME", env = "VRC_RECHECK", value_parser = parse_time, default_value = "200ms")]
    recheck: Duration,

    /// A node whose agent has been silent this long is down
    #[arg(long, value_name = "TIME", env = "VRC_AGENT_TIMEOUT", value_parser = parse_time, default_value = "45s")]
    agent_timeout: Duration,

    /// A node that has been down this long is forgotten, and its keys get a new home
    #[arg(long, value_name = "TIME", env = "VRC_FORGET_AFTER", value_parser = parse_time, default_value = "20m")]
    forget_after: Duration,

    /// Another coordinator leads when the leader has been silent this long
    #[arg(long, value_name = "TIME", env = "VRC_LEASE", value_parser = parse_time, default_value = "2s")]
    lease: Duration,

    /// How often the leader says that it leads; at most half of --lease
    #[arg(long, value_name = "TIME", env = "VRC_LEASE_INTERVAL", value_parser = parse_time, default_value = "500ms")]
    lease_interval: Duration,

    /// Where the master has lost the node map: how long one that does not remember it lets others lead first; 0s if it is the only one
    #[arg(long, value_name = "TIME", env = "VRC_YIELD", value_parser = parse_time, default_value = "2s")]
    r#yield: Duration,

    /// How long a request to the master may take
    #[arg(long, value_name = "TIME", env = "VRC_MASTER_TIMEOUT", value_parser = parse_time, default_value = "1s")]
    master_timeout: Duration,

    /// How long emptying a node that joins may take
    #[arg(long, value_name = "TIME", env = "VRC_JOIN_FLUSH_TIMEOUT", value_parser = parse_time, default_value = "60s")]
    join_flush_timeout: Duration,

    /// How long the other nodes may take to flush their guest databases when one goes down; a slower one is down too
    #[arg(long, value_name = "TIME", env = "VRC_GUEST_FLUSH_TIMEOUT", value_parser = parse_time, default_value = "1s")]
    guest_flush_timeout: Duration,

    /// A proxy that has not confirmed a map for this long, or not said anything, is not waited for any more
    #[arg(long, value_name = "TIME", env = "VRC_PROXY_GRACE", value_parser = parse_time, default_value = "10s")]
    proxy_grace: Duration,

    /// When keys get new homes: how long after that nodes begin to purge those that they lost
    #[arg(long, value_name = "TIME", env = "VRC_PURGE_AFTER", value_parser = parse_time, default_value = "10s")]
    purge_after: Duration,

    /// How long readers are given to take up a map before what it changed is built upon
    #[arg(long, value_name = "TIME", env = "VRC_SETTLE", value_parser = parse_time, default_value = "100ms")]
    settle: Duration,

    /// First pause before a node that goes down again and again is let back; doubled each time
    #[arg(long, value_name = "TIME", env = "VRC_FLAP_PAUSE", value_parser = parse_time, default_value = "1s")]
    flap_pause: Duration,

    /// Longest such pause
    #[arg(long, value_name = "TIME", env = "VRC_FLAP_PAUSE_MAX", value_parser = parse_time, default_value = "60s")]
    flap_pause_max: Duration,

    /// A node that has stayed up this long is forgiven its past
    #[arg(long, value_name = "TIME", env = "VRC_FLAP_FORGIVEN_AFTER", value_parser = parse_time, default_value = "5m")]
    flap_forgiven_after: Duration,
}

impl Args {
    fn config(self) -> Config {
        Config {
            master: self.master.url,
            allow_master: self.allow_master,
            guest_databases: self.placement == PlacementKind::Slots,
            legacy_bus: !self.no_legacy_bus,
            ping_interval: self.ping_interval,
            ping_timeout: self.ping_timeout,
            agent_timeout: self.agent_timeout,
            forget_after: self.forget_after,
            lease: self.lease,
            lease_interval: self.lease_interval,
            yields: self.r#yield,
            recheck: self.recheck,
            master_timeout: self.master_timeout,
            join_flush_timeout: self.join_flush_timeout,
            guest_flush_timeout: self.guest_flush_timeout,
            proxy_grace: self.proxy_grace,
            purge_after: self.purge_after,
            settle: self.settle,
            flap_pause: self.flap_pause,
            flap_pause_max: self.flap_pause_max,
            flap_forgiven_after: self.flap_forgiven_after,
        }
    }
}

/// Coordinates until the program is to stop.
pub(crate) async fn run(args: Args, log: &Log, shutdown: &Shutdown) -> anyhow::Result<()> {
    log.begin_queued("info")?;
    let admin = args.admin;
    let config = args.config();
    tracing::info!(master = %config.master, "coordinator started");
    let coordinator = Coordinator::start(&config, shutdown.token())?;
    let status = coordinator.status();
    let _admin = admin::serve(admin, shutdown.token(), move || health(&status.borrow())).await?;
    coordinator.finished().await?;
    tracing::info!("coordinator stopped");
    Ok(())
}

fn health(status: &Status) -> Health {
    // It has begun, and not looked yet.
    let unwell = status.unwell.clone().or_else(|| (!status.master_up).then(|| "the master does not answer".to_owned()));
    let mut body = json!({
        "healthy": unwell.is_none(),
        "leading": status.leading,
        "epoch": status.epoch,
    });
    if status.leading {
        // A standby's nodes are not up to date.
        body["nodes_known"] = status.nodes.len().into();
        body["nodes_up"] = status.published_up().into();
    }
    let is_healthy = unwell.is_none();
    if let Some(reason) = unwell {
        body["reason"] = reason.into();
    }
    Health { is_healthy, body }
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
    fn tells_why_it_is_not_well() {
        let of = |master_up, unwell: Option<&str>| {
            let health = health(&Status { master_up, unwell: unwell.map(str::to_owned), ..Status::default() });
            assert_eq!(health.body["healthy"], health.is_healthy);
            health.body["reason"].as_str().map(str::to_owned)
        };
        assert_eq!(of(true, None), None);
        assert_eq!(of(false, None).as_deref(), Some("the master does not answer"));
        assert_eq!(of(true, Some("nobody leads")).as_deref(), Some("nobody leads"));
    }

    #[test]
    fn the_defaults_are_the_librarys_own() {
        let config = Program::parse_from(["coordinator", "-h", "cache.internal", "-p", "7000"]).args.config();
        assert_eq!(config.master.to_string(), "redis://cache.internal:7000");
        assert_eq!(format!("{config:?}"), format!("{:?}", Config::new(config.master.clone())));
    }
}
