//! What goes wrong, and when it all is well again.

use super::{CALM_MS, Coordinator, HEAL_MS, Profile, What, World};
use crate::{
    contract::AgentBusMessage,
    membership::{MapWrite, Now},
};

impl World {
    pub(super) fn nodes_fail(&self) -> bool {
        self.faulty() && self.profile != Profile::ControlOnly
    }

    pub(super) fn faulty(&self) -> bool {
        (CALM_MS..HEAL_MS).contains(&self.now_ms) && !self.is_scripted()
    }

    pub(super) fn fault(&mut self) {
        if !self.faulty() {
            return self.heal();
        }
        let next_ms = self.now_ms + self.random.below(self.paces.fault_every_ms);
        self.after(next_ms.min(HEAL_MS), 0, What::Fault);
        let left_ms = HEAL_MS - self.now_ms;
        let until_ms = self.now_ms + 1 + self.random.below(self.paces.fault_lasts_ms).min(left_ms);
        let mut one_of = |count: usize| self.random.below(count as u64) as usize;
        let (number, node, proxy) = (one_of(self.coordinators.len()), one_of(self.nodes.len()), one_of(self.proxies.len()));
        let loses_memory = self.profile != Profile::WrongClocks;
        match self.random.below(27) {
            20..=23 if self.profile != Profile::ControlOnly => self.operate(node, until_ms),
            0..=5 if self.profile == Profile::ControlOnly => {}
            0 | 1 => self.kill(node, until_ms),
            2 => {
                // Faster than anybody notices.
                let at_ms = self.now_ms + self.random.below(3);
                self.kill(node, at_ms);
            }
            3 => {
                self.note(|| format!("n{node} is paused until {until_ms}"));
                lengthen(&mut self.nodes[node].paused_until_ms, until_ms);
            }
            4 => {
                self.note(|| format!("c{number} is cut from n{node} until {until_ms}"));
                lengthen(&mut self.nodes[node].cut_until_ms[number], until_ms);
            }
            5 => {
                self.note(|| format!("agent of n{node} is silent until {until_ms}"));
                lengthen(&mut self.nodes[node].silent_until_ms, until_ms);
                if self.random.below(2) == 0 {
                    let (name, run_id) = (self.nodes[node].name.clone(), self.nodes[node].run_id.clone());
                    self.say(AgentBusMessage::NodeLeaving { name, run_id });
                }
            }
            // One whose connections are cut again and again before it can answer a PING counts as one that fails.
            6 if self.profile == Profile::ControlOnly
                && self.now_ms < self.nodes[node].reset_at_ms + self.options.ping_timeout_ms => {}
            6 => {
                self.nodes[node].reset_at_ms = self.now_ms;
                self.note(|| format!("connections to n{node} are cut"));
                self.reset_links(|_, other| other == node);
            }
            7 | 8 => {
                self.note(|| format!("c{number} is paused until {until_ms}"));
                lengthen(&mut self.coordinators[number].paused_until_ms, until_ms);
            }
            9 if loses_memory && self.profile != Profile::ControlOnly => {
                self.coordinator_dies(number, until_ms);
            }
            10 => {
                self.note(|| format!("c{number} is cut from the master until {until_ms}"));
                lengthen(&mut self.coordinators[number].cut_from_master_until_ms, until_ms);
                self.bus_falls_silent(number);
            }
            11 => {
                self.note(|| format!("the master hangs until {until_ms}"));
                lengthen(&mut self.master.hung_until_ms, until_ms);
                (0..self.coordinators.len()).for_each(|number| self.bus_falls_silent(number));
            }
            12 if loses_memory && self.random.below(3) == 0 => self.master_fails_over(),
            12 if loses_memory => {
                let at_ms = if self.random.below(2) == 0 { self.now_ms } else { until_ms };
                self.master_dies(at_ms);
            }
            24 if loses_memory && self.blind.is_none() => self.master_dies_with_leader(),
            25 | 26 if self.paces.is_patient() => {
                self.note(|| format!("p{proxy} is slow until {until_ms}"));
                lengthen(&mut self.proxies[proxy].slow_until_ms, until_ms);
            }
            25 | 26 => {}
            13 => {
                self.note(|| format!("c{number} loses its connection to the master"));
                self.lose_master(number, "reset");
            }
            14 => self.lose_bus(number),
            16 => {
                self.note(|| format!("p{proxy} is cut from the master until {until_ms}"));
                lengthen(&mut self.proxies[proxy].cut_from_master_until_ms, until_ms);
            }
            17 if self.random.below(2) == 0 => {
                self.note(|| format!("p{proxy} is paused until {until_ms}"));
                lengthen(&mut self.proxies[proxy].paused_until_ms, until_ms);
            }
            17 => self.proxy_dies(proxy, until_ms),
            18 if self.profile != Profile::ControlOnly => {
                self.note(|| format!("p{proxy} is cut from n{node} until {until_ms}"));
                lengthen(&mut self.proxies[proxy].cut_from_node_until_ms[node], until_ms);
            }
            19 if self.random.below(2) == 0 => self.say_nonsense(node),
            // One that remembers nothing either would have all to itself what it cannot see.
            19 if self.profile == Profile::ControlOnly && self.may_be_blinded() => {
                self.note(|| format!("c{number} sees no node any more"));
                self.blind = Some(number);
                for node in &mut self.nodes {
                    node.cut_until_ms[number] = u64::MAX;
                }
            }
            19 if self.profile != Profile::ControlOnly => {
                self.note(|| format!("c{number} is cut from all nodes until {until_ms}"));
                for node in &mut self.nodes {
                    lengthen(&mut node.cut_until_ms[number], until_ms);
                }
            }
            15 if self.profile == Profile::WrongClocks => {
                self.coordinators[number].clock_offset_ms = self.random.signed(100_000);
            }
            _ if self.profile == Profile::ControlOnly => {}
            _ => {
                self.note(|| "somebody empties the node set".to_owned());
                self.master.hash.clear();
                self.master.emptied_at_ms = Some(self.now_ms);
            }
        }
    }

    pub(super) fn master_dies(&mut self, until_ms: u64) {
        self.note(|| format!("the master dies until {until_ms}, and loses everything"));
        self.master.die(self.now_ms);
        self.after(until_ms, 0, What::MasterStarts);
        for number in 0..self.coordinators.len() {
            self.lose_master(number, "reset");
            self.lose_bus(number);
        }
    }

    pub(super) fn leader(&self) -> Option<usize> {
        let now = Now { mono_ms: self.now_ms, unix_ms: 0 };
        let leads = |coordinator: &Coordinator| coordinator.running && coordinator.membership.status(now).leading;
        self.coordinators.iter().position(leads)
    }

    pub(super) fn coordinator_dies(&mut self, number: usize, until_ms: u64) {
        self.note(|| format!("c{number} dies until {until_ms}"));
        self.coordinators[number].running = false;
        self.after(until_ms, number, What::CoordinatorStarts);
    }

    /// Master and leader die together, and both are back in a moment and know nothing.
    fn master_dies_with_leader(&mut self) {
        let Some(leader) = self.leader() else { return };
        let at_ms = self.now_ms + self.random.below(200);
        self.coordinator_dies(leader, at_ms);
        let at_ms = self.now_ms + self.random.below(200);
        self.master_dies(at_ms);
    }

    fn none_has_restarted(&self) -> bool {
        let count = self.coordinators.len() as u64;
        self.coordinators.iter().all(|coordinator| coordinator.running && coordinator.life <= count)
    }

    /// A replica takes the master's place, which lacks what had not reached it.
    fn master_fails_over(&mut self) {
        let lost = self.master.fail_over(self.now_ms);
        self.note(|| format!("a replica takes the master's place{}", if lost { ", and lacks the last map" } else { "" }));
        for number in 0..self.coordinators.len() {
            self.lose_master(number, "reset");
            self.lose_bus(number);
        }
    }

    pub(super) fn kill(&mut self, node: usize, until_ms: u64) {
        if let Some(run_id) = self.nodes[node].run_id.take() {
            self.note(|| format!("n{node} dies, {run_id}, until {until_ms}"));
            self.after(until_ms, 0, What::Restart { node });
            self.may_lose_keys(node);
            self.reset_links(|_, other| other == node);
            if self.random.below(2) == 0 {
                let (name, reason) = (self.nodes[node].name.clone(), "died".to_owned());
                self.say(AgentBusMessage::NodeDown { name, run_id: Some(run_id), reason });
            }
        }
    }

    /// A node that a map on its way shows otherwise restarts just now, or falls silent.
    pub(super) fn strike_while_writing(&mut self, write: &MapWrite) {
        if !self.nodes_fail() || write.changed.is_empty() || self.random.below(12) > 0 {
            return;
        }
        let name = &write.changed[self.random.below(write.changed.len() as u64) as usize];
        let Some(node) = self.nodes.iter().position(|node| node.name == *name) else { return };
        let at_ms = self.now_ms + self.random.below(4);
        self.kill(node, at_ms);
    }

    fn may_be_blinded(&self) -> bool {
        self.blind.is_none() && self.none_has_restarted() && self.checker.counts.lost_maps == 0
    }

    pub(super) fn end_blindness(&mut self) {
        if let Some(number) = self.blind.take() {
            self.note(|| format!("c{number} sees nodes again"));
            for node in &mut self.nodes {
                node.cut_until_ms[number] = 0;
            }
        }
    }

    fn heal(&mut self) {
        self.note(|| "everything is well again".to_owned());
        for number in 0..self.coordinators.len() {
            self.coordinators[number].paused_until_ms = 0;
            self.coordinators[number].cut_from_master_until_ms = 0;
        }
        for node in 0..self.nodes.len() {
            self.nodes[node].paused_until_ms = 0;
            self.nodes[node].silent_until_ms = 0;
            let blind = self.blind;
            let cuts = self.nodes[node].cut_until_ms.iter_mut().enumerate();
            cuts.filter(|(number, _)| blind != Some(*number)).for_each(|(_, until_ms)| *until_ms = 0);
        }
        for proxy in &mut self.proxies {
            (proxy.paused_until_ms, proxy.cut_from_master_until_ms, proxy.slow_until_ms) = (0, 0, 0);
            proxy.cut_from_node_until_ms.fill(0);
        }
        self.master.hung_until_ms = 0;
        self.let_all_be_up();
    }
}

/// What was held up until then stays so: nothing overtakes it.
fn lengthen(until_ms: &mut u64, to_ms: u64) {
    *until_ms = to_ms.max(*until_ms);
}
