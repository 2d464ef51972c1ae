//! Faults carried out, and noted.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use redis::RedisResult;
use tokio::time::{sleep_until, timeout};

use crate::{
    cluster::{COORDINATORS, Cluster, Role},
    history::{Clock, Flush},
    judge::Deed,
    network::Party,
    observer::connect,
    options::Kind,
    plan::{Fault, Plan, Step},
};

const RESET_PATIENCE: Duration = Duration::from_secs(1);
const FLUSH_PATIENCE: Duration = Duration::from_secs(12);
/// Within this the master has the map from whoever remembers it, and a coordinator from the master.
const LEARNT_WITHIN_US: u64 = 3_000_000;

/// A fault that was played.
#[derive(Debug, Clone)]
pub(crate) struct Played {
    pub(crate) kind: Kind,
    pub(crate) victim: Role,
    pub(crate) text: String,
    pub(crate) begin_us: u64,
    pub(crate) end_us: u64,
}

/// Plays faults.
pub(crate) struct Faults {
    plan: Plan,
    clock: Clock,
    at_once: usize,
    pause_ms: u64,
    under_way: Vec<UnderWay>,
    pub(crate) played: Vec<Played>,
    pub(crate) deeds: Vec<Deed>,
    pub(crate) flushes: Vec<tokio::task::JoinHandle<Flush>>,
    talkative: bool,
}

struct UnderWay {
    fault: Fault,
    begun: Instant,
    done: usize,
    /// Index in `played`.
    played: usize,
    /// Index in `deeds`.
    deed: usize,
}

impl UnderWay {
    fn due(&self) -> Instant {
        self.begun + self.fault.steps[self.done].0
    }
}

impl Faults {
    pub(crate) fn new(plan: Plan, clock: Clock, at_once: usize, pause_ms: u64, talkative: bool) -> Self {
        Faults {
            plan,
            clock,
            at_once,
            pause_ms,
            under_way: Vec::new(),
            played: Vec::new(),
            deeds: Vec::new(),
            flushes: Vec::new(),
            talkative,
        }
    }

    /// Plays for a while, and takes everything back.
    pub(crate) async fn play(&mut self, cluster: &mut Cluster, duration: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + duration;
        let mut next = Instant::now() + self.plan.pause(self.pause_ms);
        while Instant::now() < end {
            let due = self.under_way.iter().map(UnderWay::due).chain([next, end]).min().unwrap_or(end);
            sleep_until(due.into()).await;
            cluster.check()?;
            self.go_on(cluster, Instant::now()).await?;
            if Instant::now() >= next && Instant::now() < end {
                next += self.plan.pause(self.pause_ms);
                let busy: BTreeSet<Role> = self.under_way.iter().map(|under_way| under_way.fault.victim).collect();
                // Drawn even if there is no room, so that what follows depends on the seed alone.
                let fault = self.plan.next(|role| busy.contains(&role));
                if let Some(fault) =
                    fault.filter(|fault| busy.len() < self.at_once && self.leaves_the_map(fault, self.clock.now_us()))
                {
                    self.begin(fault);
                    self.go_on(cluster, Instant::now()).await?;
                }
            }
        }
        self.go_on(cluster, end + Duration::from_secs(3_600)).await
    }

    /// Whether somebody still knows the map: where it is lost all nodes join anew, empty, as they are meant to.
    fn leaves_the_map(&self, fault: &Fault, now_us: u64) -> bool {
        let is_well = |party| {
            let role = Role::Main(party);
            let struck = self.played.iter().filter(|played| played.victim == role);
            fault.victim != role
                && struck.map(|played| played.end_us).all(|end_us| end_us.saturating_add(LEARNT_WITHIN_US) < now_us)
        };
        let strikes_who_knows = matches!(fault.victim, Role::Main(Party::Master | Party::Coordinator(_)));
        !strikes_who_knows || is_well(Party::Master) || (0..COORDINATORS).any(|number| is_well(Party::Coordinator(number)))
    }

    fn begin(&mut self, fault: Fault) {
        let begin_us = self.clock.now_us();
        if self.talkative {
            println!("{:>9.3} s  {} for {} ms", begin_us as f64 / 1e6, fault.text, fault.lasts().as_millis());
        }
        self.played.push(Played { kind: fault.kind, victim: fault.victim, text: fault.text.clone(), begin_us, end_us: u64::MAX });
        self.deeds.push(deed(&fault, begin_us));
        let (played, deed) = (self.played.len() - 1, self.deeds.len() - 1);
        self.under_way.push(UnderWay { fault, begun: Instant::now(), done: 0, played, deed });
    }

    /// Takes all steps that are due.
    async fn go_on(&mut self, cluster: &mut Cluster, now: Instant) -> anyhow::Result<()> {
        let mut under_way = std::mem::take(&mut self.under_way);
        for one in &mut under_way {
            while one.done < one.fault.steps.len() && one.due() <= now {
                self.step(cluster, one.fault.steps[one.done].1).await?;
                one.done += 1;
            }
            if one.done == one.fault.steps.len() {
                let end_us = self.clock.now_us();
                self.played[one.played].end_us = end_us;
                self.deeds[one.deed].end_us = end_us;
            }
        }
        under_way.retain(|one| one.done < one.fault.steps.len());
        self.under_way = under_way;
        Ok(())
    }

    async fn step(&mut self, cluster: &mut Cluster, step: Step) -> anyhow::Result<()> {
        match step {
            Step::Kill(role) => cluster.process(role)?.kill().await,
            Step::Start(role) => cluster.restart(role).await?,
            Step::Signal(role, signal) => cluster.process(role)?.signal(signal),
            Step::Cut(one, other) => cluster.network.cut(one, other).await?,
            Step::Heal(one, other) => cluster.network.heal(one, other).await?,
            Step::Reset(node) => {
                let socket = cluster.socket(Party::Node(node));
                // One that cannot be reached has no connections worth resetting.
                let _ = timeout(RESET_PATIENCE, reset(&socket)).await;
            }
            Step::Flush(proxy) => {
                let (socket, clock) = (cluster.socket(Party::Proxy(proxy)), self.clock);
                self.flushes.push(tokio::spawn(async move {
                    let start_us = clock.now_us();
                    let acknowledged = matches!(timeout(FLUSH_PATIENCE, flush(&socket)).await, Ok(Ok(())));
                    Flush { start_us, end_us: clock.now_us(), acknowledged }
                }));
            }
        }
        Ok(())
    }
}

/// What the judge is to know of it.
fn deed(fault: &Fault, begin_us: u64) -> Deed {
    let nodes = fault.steps.iter().filter_map(|(_, step)| match step {
        Step::Kill(Role::Main(Party::Node(node))) | Step::Signal(Role::Main(Party::Node(node)), _) => Some(*node),
        Step::Kill(Role::Agent(node)) => Some(*node),
        // That one proxy does not reach a node is no reason to take it from all the others; nor is a reset, if it answers.
        Step::Cut(Party::Node(node), other) if !matches!(other, Party::Proxy(_)) || fault.steps.len() > 2 => Some(*node),
        _ => None,
    });
    let nodes: BTreeSet<usize> = nodes.collect();
    let name = |node: &usize| Party::Node(*node).to_string();
    let kills = matches!(fault.kind, Kind::NodeKill | Kind::NodeFlap);
    let silences = match fault.victim {
        Role::Main(Party::Proxy(proxy)) if matches!(fault.kind, Kind::ProxyKill | Kind::ProxyStop) => Some(proxy as u8),
        _ => None,
    };
    Deed {
        begin_us,
        end_us: u64::MAX,
        kills: nodes.first().filter(|_| kills).map(name),
        nodes: nodes.iter().map(name).collect(),
        silences,
    }
}

async fn reset(socket: &std::path::Path) -> RedisResult<()> {
    let mut connection = connect(socket).await?;
    redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").arg("SKIPME").arg("yes").exec_async(&mut connection).await
}

async fn flush(socket: &std::path::Path) -> RedisResult<()> {
    redis::cmd("FLUSHALL").exec_async(&mut connect(socket).await?).await
}

#[cfg(test)]
mod tests {
    use crate::{plan::Plan, random::Random};

    use super::*;

    #[test]
    fn the_map_is_not_taken_from_all_who_know_it() {
        let now_us = 60_000_000;
        let [master, one, other] = [Party::Master, Party::Coordinator(0), Party::Coordinator(1)].map(Role::Main);
        let cases = [
            (vec![], master, true),
            (vec![(one, u64::MAX)], master, true),
            (vec![(one, u64::MAX), (other, now_us - 1_000_000)], master, false),
            (vec![(one, u64::MAX), (other, now_us - 1_000_000)], Role::Main(Party::Node(0)), true),
            (vec![(master, now_us - 1_000_000), (one, u64::MAX)], other, false),
            (vec![(master, now_us - 10_000_000), (one, u64::MAX)], other, true),
        ];
        for (struck, victim, may_be) in cases {
            let plan = Plan::new(Random::new(1), vec![Kind::Flush], 1, true);
            let mut faults = Faults::new(plan, Clock::start(), 9, 1, false);
            faults.played = struck
                .iter()
                .map(|(victim, end_us)| Played {
                    kind: Kind::NodeKill,
                    victim: *victim,
                    text: String::new(),
                    begin_us: 0,
                    end_us: *end_us,
                })
                .collect();
            let fault = Fault { kind: Kind::NodeKill, victim, text: String::new(), steps: Vec::new() };
            assert_eq!(faults.leaves_the_map(&fault, now_us), may_be, "{struck:?}, {victim}");
        }
    }
}
