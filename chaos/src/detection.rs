//! How soon a fault was known to all: from its beginning to when every proxy went by a map that says so, or to when another led.
//! While the master, a coordinator or a proxy has a fault of its own, not all can know: time counts from the end of the last of these
//! that had ended by then, and for nodes from when the coordinator led that published it.

use std::collections::{BTreeMap, HashMap};

use crate::{
    cluster::Role,
    fault::Played,
    judge::Deed,
    network::Party,
    observer::{Observed, SeenMap},
    options::Kind,
};

/// Known later than this after its end, it was something else that was found.
const LATE_US: u64 = 2_000_000;
/// A coordinator that has died leads no more; whoever leads so much later does so for another reason.
const TAKEN_OVER_WITHIN_US: u64 = 10_000_000;

/// How long all faults of a kind took to be known.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DetectionLine {
    pub(crate) kind: Kind,
    pub(crate) count: usize,
    pub(crate) median_us: u64,
    pub(crate) worst_us: u64,
    /// When the worst one began.
    pub(crate) worst_at_us: u64,
}

/// What there was to be known, and when it was. A node that was back before anybody could notice, and a coordinator that did not lead,
/// count for nothing. `coordinators` tells which coordinator an instance that led was.
pub(crate) fn detection(
    observed: &Observed,
    played: &[Played],
    deeds: &[Deed],
    coordinators: &HashMap<String, usize>,
) -> Vec<DetectionLine> {
    let mut by_kind: BTreeMap<Kind, Vec<(u64, u64)>> = BTreeMap::new();
    for (fault, deed) in played.iter().zip(deeds) {
        let known_us = match fault.kind {
            Kind::NodeKill | Kind::NodeStop | Kind::NodeCut | Kind::NodeFlap => all_know(observed, fault, deed),
            Kind::CoordinatorKill | Kind::CoordinatorStop | Kind::CoordinatorCut => another_leads(observed, fault, coordinators),
            _ => None,
        };
        if let Some(known_us) = known_us {
            let from_us = knowable_from(observed, played, fault, known_us);
            by_kind.entry(fault.kind).or_default().push((known_us - from_us, fault.begin_us));
        }
    }
    let line = |(kind, mut times): (Kind, Vec<(u64, u64)>)| {
        times.sort_unstable();
        let ((median_us, _), (worst_us, worst_at_us)) = (times[times.len() / 2], times[times.len() - 1]);
        DetectionLine { kind, count: times.len(), median_us, worst_us, worst_at_us }
    };
    by_kind.into_iter().map(line).collect()
}

/// When the last of what kept some from knowing was over.
fn knowable_from(observed: &Observed, played: &[Played], fault: &Played, known_us: u64) -> u64 {
    let during = fault.begin_us..known_us;
    let is_of_coordinator = matches!(fault.victim, Role::Main(Party::Coordinator(_)));
    let hinders = |other: &&Played| match other.victim {
        _ if other.kind == Kind::Flush || std::ptr::eq(*other, fault) => false,
        Role::Main(Party::Master | Party::Coordinator(_)) => true,
        // It does not matter for who leads.
        Role::Main(Party::Proxy(_)) => !is_of_coordinator,
        Role::Main(Party::Node(_)) | Role::Agent(_) => false,
    };
    let ends = played.iter().filter(hinders).map(|other| other.end_us);
    let led = observed.leaders.iter().map(|(at_us, _)| *at_us).filter(|_| !is_of_coordinator);
    ends.chain(led).filter(|at_us| during.contains(at_us)).max().unwrap_or(fault.begin_us)
}

/// When the last proxy was first seen to go by a map that shows the node down.
fn all_know(observed: &Observed, fault: &Played, deed: &Deed) -> Option<u64> {
    let node = deed.nodes.first()?;
    let was_up = observed.maps.values().rfind(|seen| seen.seen_us < fault.begin_us)?.map.get(node)?.up;
    let until_us = fault.end_us.saturating_add(LATE_US);
    let says_so =
        |seen: &SeenMap| (fault.begin_us..until_us).contains(&seen.seen_us) && seen.map.get(node).is_some_and(|node| !node.up);
    let (epoch, _) = observed.maps.iter().find(|(_, seen)| says_so(seen)).filter(|_| was_up)?;
    let times = observed.samples.iter().map(|samples| {
        let first = samples.iter().find(|sample| sample.sent_us >= fault.begin_us && sample.epoch >= *epoch)?;
        Some(first.got_us)
    });
    times.collect::<Option<Vec<u64>>>()?.into_iter().max()
}

/// When the lease was first seen in other hands, if it was in the victim's.
fn another_leads(observed: &Observed, fault: &Played, coordinators: &HashMap<String, usize>) -> Option<u64> {
    let (_, before) = observed.leaders.iter().rfind(|(at_us, _)| *at_us < fault.begin_us)?;
    coordinators.get(before).filter(|number| fault.victim == Role::Main(Party::Coordinator(**number)))?;
    // Who was only stopped or cut off, and has gone on since, lost the lease to something else.
    let until_us = match fault.kind {
        Kind::CoordinatorKill => fault.begin_us + TAKEN_OVER_WITHIN_US,
        _ => fault.end_us.saturating_add(LATE_US),
    };
    let during = fault.begin_us..until_us;
    let other = observed.leaders.iter().find(|(at_us, leader)| during.contains(at_us) && leader != before)?;
    Some(other.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::observer::Sample;

    fn seen(seen_us: u64, up: bool) -> SeenMap {
        let node = json!({"config": {"host": "h", "port": 1}, "weight": 1, "up": up, "name": "node-0"});
        SeenMap { seen_us, map: [("node-0".to_owned(), serde_json::from_value(node).unwrap())].into() }
    }

    fn played(kind: Kind, party: Party, (begin_us, end_us): (u64, u64)) -> (Played, Deed) {
        let deed = Deed { begin_us, end_us, nodes: vec!["node-0".to_owned()], kills: None, silences: None };
        (Played { kind, victim: Role::Main(party), text: String::new(), begin_us, end_us }, deed)
    }

    #[test]
    fn a_death_is_known_when_the_last_proxy_knows() {
        let sample = |at_us, epoch| Sample { sent_us: at_us, got_us: at_us + 10, epoch };
        let observed = Observed {
            maps: [(1, seen(50, true)), (2, seen(300, false)), (3, seen(900, true)), (4, seen(2_200, false))].into(),
            samples: vec![
                vec![sample(150, 1), sample(310, 2), sample(2_210, 4)],
                vec![sample(320, 1), sample(400, 3), sample(2_220, 4)],
            ],
            leaders: vec![(10, "a".to_owned()), (2_000, "b".to_owned()), (4_000, "a".to_owned())],
        };
        let (node, one, other) = (Party::Node(0), Party::Coordinator(0), Party::Coordinator(1));
        let faults = [
            played(Kind::NodeKill, node, (100, 1_100)),
            // It was down.
            played(Kind::NodeKill, node, (2_250, 2_300)),
            // By a coordinator that leads since 2,000 only.
            played(Kind::NodeStop, node, (1_450, 2_450)),
            played(Kind::CoordinatorStop, one, (1_500, 2_500)),
            // It did not lead.
            played(Kind::CoordinatorStop, other, (1_600, 2_600)),
            // Nobody could take over before the master was back.
            played(Kind::CoordinatorKill, other, (3_000, 3_100)),
            played(Kind::MasterKill, Party::Master, (3_200, 3_900)),
        ];
        let coordinators = [("a".to_owned(), 0), ("b".to_owned(), 1)].into();
        let (played, deeds): (Vec<_>, Vec<_>) = faults.into_iter().unzip();
        let line = |kind, us, worst_at_us| DetectionLine { kind, count: 1, median_us: us, worst_us: us, worst_at_us };
        assert_eq!(
            detection(&observed, &played, &deeds, &coordinators),
            [
                line(Kind::NodeKill, 310, 100),
                line(Kind::NodeStop, 230, 1_450),
                line(Kind::CoordinatorKill, 100, 3_000),
                line(Kind::CoordinatorStop, 500, 1_500)
            ],
        );
    }
}
