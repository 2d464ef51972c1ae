//! One look at the node map, for the commands that tell of it.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, bail};
use vrc_cluster::{
    client::{MasterUrl, connect, within},
    contract::{
        EPOCH_KEY, Epoch, LEASE_KEY, NODE_SET_KEY, NOTES_KEY, Node, NodeMap, Notes, PLACEMENT_KEY, PROXIES_KEY, PURGE_KEY,
        PURGED_KEY, PurgeProgress,
    },
    topology::PlacementKind,
};

/// What stands in the master.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) map: NodeMap,
    /// None where only a coordinator of the old system writes.
    pub(crate) epoch: Option<Epoch>,
    /// The token of the coordinator that leads.
    pub(crate) leader: Option<String>,
    /// Orders to purge, by node name.
    pub(crate) orders: BTreeMap<String, Epoch>,
    /// How far nodes have come with that.
    pub(crate) purges: BTreeMap<String, PurgeProgress>,
    /// What the leader has to tell of nodes.
    pub(crate) notes: Notes,
    /// How many proxies confirm maps.
    pub(crate) proxies: usize,
    /// How the coordinator that leads takes keys to be given to nodes, if it says so.
    placement: Option<String>,
}

/// The keys that a snapshot is made of, as they are read.
type Read = (
    Vec<(String, String)>,
    Option<Epoch>,
    Option<String>,
    BTreeMap<String, Epoch>,
    BTreeMap<String, String>,
    usize,
    Option<String>,
);

impl Snapshot {
    /// Reads it.
    pub(crate) async fn read(master: &MasterUrl, limit: Duration) -> anyhow::Result<Self> {
        let cannot = || format!("cannot read the node map from the master {master}");
        let client = master.client().await.with_context(cannot)?;
        let work = async {
            let mut connection = connect(&client, limit).await?;
            let mut pipe = redis::pipe();
            pipe.atomic().hgetall(NODE_SET_KEY).get(EPOCH_KEY).get(LEASE_KEY);
            pipe.hgetall(PURGE_KEY).hgetall(PURGED_KEY).hlen(PROXIES_KEY).get(NOTES_KEY);
            let read = pipe.query_async::<Read>(&mut connection).await?;
            // By itself: some master may not permit a key that older versions do not know.
            let placement = redis::cmd("GET").arg(PLACEMENT_KEY).query_async::<Option<String>>(&mut connection).await;
            Ok((read, placement.ok().flatten()))
        };
        let (read, placement) = within(limit, work).await.with_context(cannot)?;
        let (fields, epoch, leader, orders, purges, proxies, notes) = read;
        let nodes = fields.into_iter().map(|(name, text)| match serde_json::from_str::<Node>(&text) {
            Ok(node) => Ok((name, node)),
            Err(error) => Err(error).with_context(|| format!("the node map in {master} is damaged at node {name:?}")),
        });
        // What cannot be read is of no use, and of no harm.
        let purges = purges.into_iter().filter_map(|(name, text)| Some((name, serde_json::from_str(&text).ok()?))).collect();
        let notes = notes.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        Ok(Snapshot { map: nodes.collect::<anyhow::Result<_>>()?, epoch, leader, orders, purges, notes, proxies, placement })
    }

    /// # Errors
    /// If the cluster's placement is known to be another: what is worked out by this one would be wrong.
    pub(crate) fn check_placement(&self, ours: PlacementKind) -> anyhow::Result<()> {
        match &self.placement {
            Some(theirs) if *theirs != ours.to_string() => {
                bail!("this cluster's placement is {theirs:?}: say --placement {theirs}, or VRC_PLACEMENT={theirs}")
            }
            _ => Ok(()),
        }
    }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
