//! How keys are given to nodes.

use std::time::Duration;

use clap::Args;
use vrc_cluster::topology::{PlacementKind, PlacementOptions};

use super::parse_time;

/// How keys are given to nodes.
#[derive(Debug, Args)]
pub(crate) struct PlacementArgs {
    /// How keys are given to nodes: `slots` (16,384 of them, as in Redis Cluster, with hash tags) or `legacy` (exactly the ring of
    /// the Node.js clients, for a fleet that still has some). The same for all proxies, for coordinators, `vrc status` and `vrc where`
    #[arg(long, value_name = "KIND", env = "VRC_PLACEMENT", default_value_t = PlacementKind::Slots)]
    placement: PlacementKind,

    /// For so long after a node went down its keys are answered with an error before other nodes hold them, and for so long after it
    /// came up before it holds them again. Planned changes (drain, SIGTERM to its agent) are not delayed
    #[arg(long, value_name = "TIME", env = "VRC_DOWN_NODE_EXPIRY", value_parser = parse_time, default_value = "0")]
    down_node_expiry: Duration,

    /// With `legacy`: the clients' option bucketsPerNode
    #[arg(long, value_name = "N", env = "VRC_BUCKETS_PER_NODE", default_value_t = 16,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    buckets_per_node: u32,
}

impl PlacementArgs {
    pub(crate) fn kind(&self) -> PlacementKind {
        self.placement
    }

    /// With guest databases where the placement has them, provided that a coordinator flushes them.
    pub(crate) fn options(&self, is_coordinated: bool) -> PlacementOptions {
        PlacementOptions {
            kind: self.placement,
            down_node_expiry_ms: u64::try_from(self.down_node_expiry.as_millis()).unwrap_or(u64::MAX),
            guest_databases: is_coordinated && self.placement == PlacementKind::Slots,
            legacy_buckets_per_node: self.buckets_per_node,
        }
    }
}
