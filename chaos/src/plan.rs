//! Which fault comes next: decided by the seed alone, and by who is well.

use std::time::Duration;

use rustix::process::Signal;

use crate::{
    cluster::{COORDINATORS, PROXIES, Role},
    network::Party,
    options::Kind,
    random::Random,
};

/// Something that is done at a moment of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Kill(Role),
    Start(Role),
    Signal(Role, Signal),
    Cut(Party, Party),
    Heal(Party, Party),
    /// All of a node's connections.
    Reset(usize),
    /// FLUSHALL through a proxy.
    Flush(usize),
}

/// What is done to whom, and when it is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) victim: Role,
    pub(crate) text: String,
    /// From its beginning on, in order; the last one ends it.
    pub(crate) steps: Vec<(Duration, Step)>,
}

impl Fault {
    pub(crate) fn lasts(&self) -> Duration {
        self.steps.last().map_or(Duration::ZERO, |(at, _)| *at)
    }
}

/// Draws faults.
pub(crate) struct Plan {
    random: Random,
    kinds: Vec<Kind>,
    nodes: usize,
    cuts_pairs: bool,
}

impl Plan {
    pub(crate) fn new(random: Random, kinds: Vec<Kind>, nodes: usize, cuts_pairs: bool) -> Self {
        Plan { random, kinds, nodes, cuts_pairs }
    }

    /// How long until the next one, at most `max_ms`.
    pub(crate) fn pause(&mut self, max_ms: u64) -> Duration {
        Duration::from_millis(self.random.between(1, max_ms))
    }

    /// The next one; `None` if whom it would have struck is `busy` with another.
    pub(crate) fn next(&mut self, busy: impl Fn(Role) -> bool) -> Option<Fault> {
        let kind = self.kinds[self.random.below(self.kinds.len())];
        let node = self.random.below(self.nodes);
        let (coordinator, proxy) = (self.random.below(COORDINATORS), self.random.below(PROXIES));
        let main = Role::Main;
        let (node_role, coordinator_role, proxy_role) =
            (main(Party::Node(node)), main(Party::Coordinator(coordinator)), main(Party::Proxy(proxy)));
        let master = main(Party::Master);
        let (victim, steps) = match kind {
            Kind::NodeKill => (node_role, self.kill(node_role, 4_000)),
            Kind::NodeStop => (node_role, self.stop(node_role, 4_000)),
            Kind::NodeFlap => (node_role, self.flap(node_role)),
            Kind::NodeReset => (node_role, vec![(Duration::ZERO, Step::Reset(node))]),
            Kind::NodeCut => (node_role, self.cut_node(node)),
            Kind::AgentKill => (Role::Agent(node), self.kill(Role::Agent(node), 9_000)),
            Kind::CoordinatorKill => (coordinator_role, self.kill(coordinator_role, 6_000)),
            Kind::CoordinatorStop => (coordinator_role, self.stop(coordinator_role, 6_000)),
            Kind::CoordinatorCut => (coordinator_role, self.cut(Party::Coordinator(coordinator), Party::Master)),
            Kind::MasterKill => (master, self.kill(master, 3_000)),
            Kind::MasterStop => (master, self.stop(master, 4_000)),
            Kind::ProxyCut => (proxy_role, self.cut(Party::Proxy(proxy), Party::Master)),
            Kind::ProxyKill => (proxy_role, self.kill(proxy_role, 1_500)),
            Kind::ProxyStop => (proxy_role, self.stop(proxy_role, 3_000)),
            Kind::Flush => (proxy_role, vec![(Duration::ZERO, Step::Flush(proxy))]),
        };
        let others = self.others(&steps);
        let fault = Fault { kind, victim, text: format!("{kind} {victim}{others}"), steps };
        (!busy(victim)).then_some(fault)
    }

    fn others(&self, steps: &[(Duration, Step)]) -> String {
        match steps {
            [(_, Step::Cut(_, other)), ..] if steps.len() == 2 => format!(" from {other}"),
            _ => String::new(),
        }
    }

    /// Often short, sometimes long.
    fn while_ms(&mut self, max_ms: u64) -> Duration {
        let max_ms = if self.random.chance(50) { max_ms / 8 } else { max_ms };
        Duration::from_millis(self.random.between(1, max_ms))
    }

    fn kill(&mut self, role: Role, max_ms: u64) -> Vec<(Duration, Step)> {
        vec![(Duration::ZERO, Step::Kill(role)), (self.while_ms(max_ms), Step::Start(role))]
    }

    fn stop(&mut self, role: Role, max_ms: u64) -> Vec<(Duration, Step)> {
        vec![(Duration::ZERO, Step::Signal(role, Signal::STOP)), (self.while_ms(max_ms), Step::Signal(role, Signal::CONT))]
    }

    fn cut(&mut self, one: Party, other: Party) -> Vec<(Duration, Step)> {
        vec![(Duration::ZERO, Step::Cut(one, other)), (self.while_ms(6_000), Step::Heal(one, other))]
    }

    fn flap(&mut self, role: Role) -> Vec<(Duration, Step)> {
        let mut at = Duration::ZERO;
        let mut steps = Vec::new();
        for _ in 0..self.random.between(2, 5) {
            steps.push((at, Step::Kill(role)));
            at += Duration::from_millis(self.random.between(1, 400));
            steps.push((at, Step::Start(role)));
            at += Duration::from_millis(self.random.between(50, 900));
        }
        steps
    }

    /// From everybody, or from one.
    fn cut_node(&mut self, node: usize) -> Vec<(Duration, Step)> {
        let node = Party::Node(node);
        let everybody: Vec<Party> =
            (0..COORDINATORS).map(Party::Coordinator).chain((0..PROXIES).map(Party::Proxy)).chain([Party::Master]).collect();
        let from = match self.random.below(2 + everybody.len()) {
            // One relay stands for all.
            _ if !self.cuts_pairs => vec![Party::Proxy(0), Party::Master],
            number if number < everybody.len() => vec![everybody[number]],
            _ => everybody,
        };
        let until = self.while_ms(5_000);
        let cuts = from.iter().map(|from| (Duration::ZERO, Step::Cut(node, *from)));
        cuts.chain(from.iter().map(|from| (until, Step::Heal(node, *from)))).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_kind_comes_and_is_taken_back() {
        for cuts_pairs in [true, false] {
            let mut plan = Plan::new(Random::new(1), Kind::value_variants().to_vec(), 4, cuts_pairs);
            let mut seen = Vec::new();
            for _ in 0..2_000 {
                let fault = plan.next(|_| false).unwrap();
                assert!(fault.steps.is_sorted_by_key(|(at, _)| *at), "{fault:?}");
                let count = |wanted: fn(&Step) -> bool| fault.steps.iter().filter(|(_, step)| wanted(step)).count();
                let begun = count(|step| {
                    matches!(
                        step,
                        Step::Kill(_) | Step::Signal(_, Signal::STOP) | Step::Cut(..) | Step::Reset(_) | Step::Flush(_)
                    )
                });
                let ended = count(|step| matches!(step, Step::Start(_) | Step::Signal(_, Signal::CONT) | Step::Heal(..)));
                assert!(begun == ended || fault.steps.len() == 1, "{fault:?}");
                seen.push(fault.kind);
            }
            assert!(Kind::value_variants().iter().all(|kind| seen.contains(kind)));
            assert!(plan.next(|_| true).is_none());
        }
    }

    #[test]
    fn a_seed_gives_the_same_faults() {
        let draw = || {
            let mut plan = Plan::new(Random::new(7), Kind::value_variants().to_vec(), 4, true);
            (0..50).map(|_| (plan.pause(2_000), plan.next(|_| false))).collect::<Vec<_>>()
        };
        assert_eq!(draw(), draw());
    }
}
