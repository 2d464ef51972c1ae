//! A change of the node map.

use std::sync::Arc;

use vrc_cluster::topology::{NodeIndex, Topology};

use super::{Core, NO_BACKEND, backend::State, lane::Lane};
use crate::limits::RETIRE_MS;

impl Core {
    /// Membership changed: connections of nodes that are out are retired, and what was not sent yet goes to whoever owns it now.
    pub(crate) fn set_topology(&mut self, topology: Arc<Topology>) {
        self.up.clear();
        self.up.extend((0..topology.nodes().len()).filter(|node| topology.nodes()[*node].up).map(|node| node as NodeIndex));
        let hosts = topology.hosts_of_guests();
        self.hosts.clear();
        self.hosts.extend(self.up.iter().map(|node| hosts[usize::from(*node)]));
        self.lanes.clear();
        self.lanes.resize(topology.nodes().len() * Lane::COUNT, NO_BACKEND);
        self.own_lanes.clear();
        self.topology = topology;
        self.maps += 1;
        self.learning.map_changed();
        self.functions.map_changed(&self.topology);
        self.taken_up_ms = self.now_ms;
        self.unsettled = true;
        let mut moved = Vec::new();
        for index in 0..self.backends.len() as u32 {
            let backend = &mut self.backends[index as usize];
            if matches!(backend.state, State::Free | State::Retired { .. }) || backend.hold.is_some() {
                continue;
            }
            let (unsent, lane, state) = (backend.take_unsent(), backend.lane, backend.state);
            match self.node_of(index) {
                Some(node) => {
                    match lane.index() {
                        Some(of_node) => self.lanes[usize::from(node) * Lane::COUNT + of_node] = index,
                        None => drop(self.own_lanes.insert((node, lane), index)),
                    }
                    moved.push((Some(index), lane, unsent));
                    continue;
                }
                None if state == State::Up => {
                    self.lose_tracked(index);
                    let backend = &mut self.backends[index as usize];
                    backend.state = State::Retired { until_ms: self.now_ms + RETIRE_MS };
                    self.retire_if_done(index);
                }
                None => {
                    let backend = &mut self.backends[index as usize];
                    backend.incarnation = backend.incarnation.wrapping_add(1);
                    self.free_backend(index);
                }
            }
            moved.push((None, lane, unsent));
        }
        for (backend, lane, unsent) in moved {
            self.forward_again(backend, lane, unsent);
        }
        self.recheck_tracked();
        self.check_private();
        self.move_topics();
        self.move_broadcasts();
    }
}
