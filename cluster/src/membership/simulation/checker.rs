//! What must hold of maps and of what is done to nodes. Told what really happened, it knows nothing of how the world plays it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::{
    contract::{Epoch, Node, NodeMap},
    membership::{MapWrite, RequestId, Scope},
};

/// What should not have happened, in words.
pub(super) type Violation = String;

/// Which coordinator, and which of its lives.
pub(super) type Author = (usize, u64);

/// Sees every write that the master carries out, and every flush that a node does.
#[derive(Default)]
pub(super) struct Checker {
    /// How long readers are given to take up a map before what it changed is built upon.
    settle_ms: u64,
    /// Coordinators whose last map, as far as they heard or read one with nodes, shows some up.
    knowing: BTreeSet<Author>,
    /// No node fails, and nobody has reason to believe so.
    nodes_are_well: bool,
    /// A lost map may have a later epoch than the next, since its author's clock was fast.
    pub(super) clocks_are_wrong: bool,
    published: Published,
    /// All that were published.
    maps: HashMap<Epoch, NodeMap>,
    /// By run id.
    processes: HashMap<String, Process>,
    /// Processes that no agent watches.
    strangers: BTreeSet<String>,
    /// Processes that were emptied after they had been shown up.
    emptied_again: usize,
    pub(super) counts: Counts,
}

/// How much happened: a simulation in which nothing does proves nothing.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Counts {
    /// Maps written.
    pub(super) writes: usize,
    /// Nodes emptied.
    pub(super) flushes: usize,
    /// Maps that neither the master nor anybody who came to lead remembered.
    pub(super) lost_maps: usize,
    /// Reads of clients that were judged.
    pub(super) reads: usize,
    /// Purges carried out.
    pub(super) purges: usize,
}

/// What readers may hold: the greatest epoch that was ever published, and what its map says.
#[derive(Default)]
struct Published {
    epoch: Epoch,
    map: NodeMap,
    author: Author,
    at_ms: u64,
    /// Since when each node has been shown up without a break, or not up.
    since_ms: BTreeMap<String, u64>,
}

impl Published {
    fn is_up(&self, name: &str) -> bool {
        is_up(&self.map, name)
    }
}

#[derive(Default)]
struct Process {
    emptied_at_ms: Option<u64>,
    guests_flushed_at_ms: Option<u64>,
    /// Readers have used it.
    was_shown_up: bool,
}

/// The master's keys.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stored<'a> {
    pub(super) hash: &'a NodeMap,
    pub(super) epoch: Option<Epoch>,
    /// Whose token the lease holds.
    pub(super) lease: Option<&'a str>,
    /// By which of their requests it was gained, and when that arrived.
    pub(super) gained: (RequestId, u64),
}

/// The world when everything has been well for a while.
pub(super) struct Healed<'a> {
    /// For each coordinator, whether it believes to lead.
    pub(super) leading: Vec<bool>,
    pub(super) stored: Stored<'a>,
    /// Names and run ids of the nodes that are there.
    pub(super) nodes: Vec<(&'a str, Option<&'a str>)>,
    /// The epoch of each reader's map.
    pub(super) readers: Vec<Epoch>,
    /// No node ever failed.
    pub(super) nodes_were_well: bool,
}

impl Checker {
    pub(super) fn new(settle_ms: u64, nodes_are_well: bool) -> Self {
        Checker { settle_ms, nodes_are_well, ..Checker::default() }
    }

    /// A coordinator knows of nodes.
    pub(super) fn knows(&mut self, author: Author, map: &NodeMap) {
        if map.values().any(|node| node.up) {
            self.knowing.insert(author);
        } else {
            self.knowing.remove(&author);
        }
    }

    /// A coordinator knows the map of this epoch.
    pub(super) fn knows_map_of(&mut self, author: Author, epoch: Epoch) {
        if let Some(map) = self.maps.get(&epoch).filter(|map| !map.is_empty()).cloned() {
            self.knows(author, &map);
        }
    }

    /// Whether a coordinator knows of nodes that are up.
    pub(super) fn is_known_to(&self, author: Author) -> bool {
        self.knowing.contains(&author)
    }

    /// Whether the map of this epoch has nodes: readers take no other.
    pub(super) fn has_nodes(&self, epoch: Epoch) -> bool {
        self.maps.get(&epoch).is_some_and(|map| !map.is_empty())
    }

    /// A process is no node's.
    pub(super) fn is_nobodys(&mut self, run_id: &str) {
        self.strangers.insert(run_id.to_owned());
    }

    /// A process of a node flushed, as it was asked to at `sent_ms`.
    pub(super) fn flushed(&mut self, name: &str, run_id: &str, scope: Scope, sent_ms: u64, now_ms: u64) -> Result<(), Violation> {
        if self.strangers.contains(run_id) {
            return Err(format!("{run_id} is flushed as {name}, and no agent watches it"));
        }
        let shown = self.published.map.get(name).filter(|node| node.up && node.run_id.as_deref() == Some(run_id));
        let in_use_since_ms = shown.and_then(|_| self.published.since_ms.get(name));
        if scope == Scope::All && in_use_since_ms.is_some_and(|since_ms| *since_ms < sent_ms) {
            return Err(format!("{name} is emptied, and has been in use since {in_use_since_ms:?}"));
        }
        let process = self.processes.entry(run_id.to_owned()).or_default();
        if !matches!(scope, Scope::Clients | Scope::ClientsButCoordination) {
            process.guests_flushed_at_ms = Some(now_ms);
        }
        if scope == Scope::All {
            process.emptied_at_ms = Some(now_ms);
            self.counts.flushes += 1;
            self.emptied_again += usize::from(process.was_shown_up);
        }
        Ok(())
    }

    /// The master carried out a write of `sent_ms`: the one place where everybody sees what was decided. `before` is what stood there, and
    /// `hash` what does now.
    pub(super) fn wrote(
        &mut self,
        write: &MapWrite,
        author: Author,
        sent_ms: u64,
        before: Stored<'_>,
        hash: &NodeMap,
        now_ms: u64,
    ) -> Result<(), Violation> {
        self.counts.writes += 1;
        if before.lease != Some(write.token.as_str()) {
            return Err(format!("{} writes, and the lease is {:?}'s", write.token, before.lease));
        }
        let (gained_by, gained_ms) = before.gained;
        // What was sent before it asked for the lease only looks so: it was held up on its way, and overtaken.
        if sent_ms < gained_ms && gained_by < write.request {
            return Err(format!(
                "{} writes what it decided at {sent_ms} ms, and the lease may have been another's until {gained_ms} ms",
                write.token
            ));
        }
        if !same_but_for_pings(hash, &write.map) {
            let shown = |map: &NodeMap, name: &String| map.get(name).map(|node| (node.up, node.weight, node.run_id.clone()));
            let names: BTreeSet<_> = hash.keys().chain(write.map.keys()).collect();
            let differing = names.into_iter().filter(|name| shown(hash, name) != shown(&write.map, name));
            return Err(format!("hash and message differ: {:?}", differing.collect::<Vec<_>>()));
        }
        let lost_maps = self.counts.lost_maps;
        if before.epoch.is_none_or(|epoch| epoch < self.published.epoch)
            && write.expected.is_none()
            && self.published.author != author
            && !same_but_for_pings(&write.map, &self.published.map)
        {
            // The master lost its memory, or some of it, and whoever had the last map is not there to write it back. A map from the memory of
            // one who was out of touch is the best there is; what it gets wrong cannot be known.
            self.counts.lost_maps += 1;
            self.nodes_are_well = false;
            self.published.map = write.map.clone();
            self.published.since_ms.clear();
        }
        // That the next is greater all the same is what clocks are for.
        let is_unknowable = self.clocks_are_wrong && self.counts.lost_maps > lost_maps;
        if write.epoch <= self.published.epoch && !is_unknowable {
            return Err(format!("epoch {} after {}", write.epoch, self.published.epoch));
        }
        if let Some(drained) = write.map.values().find(|node| node.up && node.upkeep.drained.is_some()) {
            return Err(format!("{} is drained, and shown up", drained.name));
        }
        self.empty_only_if_nothing_is_known(&write.map, author)?;
        self.down_for_a_reason(&write.map)?;
        self.emptied_before_shown_up(&write.map)?;
        self.guests_flushed_before_shown_down(&write.map)?;
        self.publish(write, author, now_ms);
        Ok(())
    }

    fn publish(&mut self, write: &MapWrite, author: Author, now_ms: u64) {
        for name in write.map.keys().chain(self.published.map.keys()).cloned().collect::<BTreeSet<_>>() {
            if is_up(&write.map, &name) != self.published.is_up(&name) {
                self.published.since_ms.insert(name, now_ms);
            }
        }
        for node in write.map.values().filter(|node| node.up) {
            self.processes.entry(run_id(node).to_owned()).or_default().was_shown_up = true;
        }
        self.maps.insert(write.epoch, write.map.clone());
        self.published.epoch = write.epoch;
        self.published.map = write.map.clone();
        self.published.author = author;
        self.published.at_ms = now_ms;
    }

    /// Nobody who has known nodes writes that there are none, where some are up.
    fn empty_only_if_nothing_is_known(&self, map: &NodeMap, author: Author) -> Result<(), Violation> {
        if map.is_empty() && self.published.map.values().any(|node| node.up) && self.knowing.contains(&author) {
            return Err(format!("{author:?} has known nodes, and writes an empty map"));
        }
        Ok(())
    }

    fn down_for_a_reason(&self, map: &NodeMap) -> Result<(), Violation> {
        let goes = |name: &&String| self.published.is_up(name) && !is_up(map, name);
        match self.published.map.keys().find(goes).filter(|_| self.nodes_are_well) {
            Some(name) => Err(format!("{name} is shown down, and nothing was done to it")),
            None => Ok(()),
        }
    }

    /// A node is shown up only as a process that was emptied, and emptied after readers had been told not to use it.
    fn emptied_before_shown_up(&self, map: &NodeMap) -> Result<(), Violation> {
        for node in map.values().filter(|node| node.up) {
            let run_id = run_id(node);
            let Some(emptied_at_ms) = self.processes.get(run_id).and_then(|process| process.emptied_at_ms) else {
                return Err(format!("{} is shown up as {run_id}, which was never emptied", node.name));
            };
            let was_up = self.published.is_up(&node.name);
            let down_since_ms = self.published.since_ms.get(&node.name).filter(|_| !was_up);
            if down_since_ms.is_some_and(|since_ms| emptied_at_ms < since_ms + self.settle_ms) {
                return Err(format!("{} is shown up as it was before readers moved its keys", node.name));
            }
        }
        Ok(())
    }

    /// A node is shown down only when all that stay have flushed their guests since readers began to use it.
    fn guests_flushed_before_shown_down(&self, map: &NodeMap) -> Result<(), Violation> {
        for name in self.published.map.keys().filter(|name| self.published.is_up(name) && !is_up(map, name)) {
            let since_ms = self.published.since_ms.get(name).copied().unwrap_or(0);
            for guest in map.values().filter(|node| node.up) {
                let flushed_at_ms = self.processes.get(run_id(guest)).and_then(|process| process.guests_flushed_at_ms);
                if flushed_at_ms.is_none_or(|at_ms| at_ms < since_ms + self.settle_ms) {
                    return Err(format!("{name} is shown down before the guests of {} were flushed", guest.name));
                }
            }
        }
        Ok(())
    }

    /// The epoch of the last map, and when it was published.
    pub(super) fn published(&self) -> (Epoch, u64) {
        (self.published.epoch, self.published.at_ms)
    }

    /// Since when the last map, and those before it, have shown a node down.
    pub(super) fn down_since_ms(&self, name: &str) -> Option<u64> {
        self.published.since_ms.get(name).copied().filter(|_| !self.published.is_up(name))
    }

    /// A reader took a map in place of another: epoch and number of nodes of both, and the map.
    pub(super) fn reader_took(&self, before: (Epoch, usize), after: (Epoch, usize), map: &NodeMap) -> Result<(), Violation> {
        if after.0 <= before.0 || (after.1 == 0 && before.1 > 0) {
            return Err(format!("a reader has map {} of {} nodes, and takes {} of {}", before.0, before.1, after.0, after.1));
        }
        // Somebody may have emptied the hash, and one who had no map yet takes what it finds.
        if !map.is_empty() && !self.maps.get(&after.0).is_some_and(|published| same_but_for_pings(map, published)) {
            return Err(format!("a reader goes by map {}, and it is not the one that was published", after.0));
        }
        Ok(())
    }

    /// Everything has been well for a while: one leads, the map is true and stands in the master, and nothing was emptied in vain.
    pub(super) fn healed(&self, healed: &Healed<'_>) -> Result<(), Violation> {
        let Healed { leading, stored, nodes, readers, nodes_were_well } = healed;
        if leading.iter().filter(|leading| **leading).count() != 1 {
            return Err(format!("leading: {leading:?}"));
        }
        for (name, run_id) in nodes {
            let shown = stored.hash.get(*name);
            if !shown.is_some_and(|shown| shown.up && shown.run_id.as_deref() == *run_id) {
                return Err(format!("{name} is up as {run_id:?}, and shown as {shown:?}"));
            }
        }
        if stored.epoch != Some(self.published.epoch) || stored.hash.len() != nodes.len() {
            return Err("the master does not have the last map".to_owned());
        }
        if readers.iter().any(|epoch| *epoch != self.published.epoch) {
            return Err(format!("readers go by {readers:?}, and the last map is {}", self.published.epoch));
        }
        // Who led knew that there had been a map that was lost, and could vouch for nobody.
        let was_lost = self.counts.lost_maps > 0;
        if *nodes_were_well && self.emptied_again > 0 && !was_lost {
            return Err(format!("{} nodes were emptied that readers used, and none ever failed", self.emptied_again));
        }
        Ok(())
    }
}

fn is_up(map: &NodeMap, name: &str) -> bool {
    map.get(name).is_some_and(|node| node.up)
}

fn run_id(node: &Node) -> &str {
    node.run_id.as_deref().unwrap_or("")
}

/// Fields that did not change are as they were, but for the time of the last announcement.
fn same_but_for_pings(one: &NodeMap, other: &NodeMap) -> bool {
    let plain = |map: &NodeMap| map.values().map(|node| Node { last_ping: None, ..node.clone() }).collect::<Vec<_>>();
    plain(one) == plain(other)
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        let Counts { writes, flushes, lost_maps, reads, purges } = other;
        self.writes += writes;
        self.flushes += flushes;
        self.lost_maps += lost_maps;
        self.reads += reads;
        self.purges += purges;
    }
}
