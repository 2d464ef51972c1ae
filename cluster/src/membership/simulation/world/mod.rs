//! The world: a queue of what is to happen, and who it happens to.

mod coordinator;
mod fault;
mod master;
mod node;
mod operator;
mod paces;
mod proxy;
mod purge;
mod queue;
mod script;
mod shown;
pub(super) mod tale;

use coordinator::Coordinator;
use master::{Master, Request};
use node::{Command, Node};
use paces::Paces;
use proxy::{Bulletin, Clients, Op, Proxy};
use queue::{Due, Queue};
pub(super) use script::{STRIKES, Script};
pub(super) use tale::Tale;

use super::{
    checker::{Checker, Counts, Healed, Violation},
    homes::KeyHomes,
    random::Random,
    reads::{Reads, Seq},
};
use crate::{
    contract::{AgentBusMessage, Epoch, Wish},
    membership::{Event, LinkId, Now, Options, RequestId},
};

/// How many there are of each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) coordinators: usize,
    pub(super) nodes: usize,
    pub(super) proxies: usize,
}

const SHAPE: Shape = Shape { coordinators: 2, nodes: 4, proxies: 2 };
const START_UNIX_MS: i64 = 1_795_000_000_000;
const CALM_MS: u64 = 1_500;
const FAULTS_MS: u64 = 8_000;
/// From then on all is well.
const HEAL_MS: u64 = CALM_MS + FAULTS_MS;
const HEALING_MS: u64 = 9_000;
const MASTER_TIMEOUT_MS: u64 = 300;
/// Who listens at the master asks it now and then whether it is there, and waits as long for the answer as for any.
const BUS_TIMEOUT_MS: u64 = MASTER_TIMEOUT_MS + 200;

/// Longer than anybody takes to connect and be heard, once the master can be reached.
const YIELD_MS: u64 = 400;
const PROXY_GRACE_MS: u64 = 1_500;
const RECHECK_MS: u64 = 250;

/// Few slots, so that giving them out takes no time.
const SLOTS: u64 = 24;

/// Rendezvous hashing with weights that are whole numbers: each unit of weight bids.
fn homes(nodes: &[(&str, f64)]) -> Box<[u16]> {
    let bid = |name: &str, slot: u64, unit: u64| {
        let seed = name.bytes().fold(slot << 8 | unit, |seed, byte| seed.wrapping_mul(31) ^ u64::from(byte));
        Random(seed).next()
    };
    let best = |slot: u64, (name, weight): &(&str, f64)| (0..*weight as u64).map(|unit| bid(name, slot, unit)).max();
    let home = |slot| (0..nodes.len() as u16).max_by_key(|index| best(slot, &nodes[usize::from(*index)])).unwrap_or(0);
    (0..SLOTS).map(home).collect()
}

fn options(paces: &Paces) -> Options {
    Options {
        homes,
        proxy_grace_ms: PROXY_GRACE_MS,
        proxies_interval_ms: 100,
        purge_after_ms: paces.purge_after_ms,
        ping_interval_ms: 250,
        ping_timeout_ms: 600,
        recheck_ms: RECHECK_MS,
        agent_timeout_ms: 2_500,
        forget_after_ms: 4_000,
        lease_ms: 900,
        lease_interval_ms: 250,
        yield_ms: YIELD_MS,
        join_flush_timeout_ms: 1_000,
        guest_flush_timeout_ms: 300,
        settle_ms: 30,
        flap_pause_ms: 50,
        flap_pause_max_ms: 800,
        flap_forgiven_after_ms: 3_000,
        ..Options::default()
    }
}

/// Which faults a seed plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Profile {
    /// Everything, with clocks that are right.
    Anything,
    /// Clocks are wrong and jump. Nothing loses its memory: the clock is what such a loss is made up for with.
    WrongClocks,
    /// Master, coordinators and the channels fail, and no node does: then nothing may happen to the nodes.
    ControlOnly,
}

#[derive(Debug, Clone)]
enum What {
    Step(Event),
    Tick(u64),
    AtMaster { connection: u64, process: u64, request: Request, late: bool },
    MasterAnswers { connection: u64, request: RequestId, event: Event },
    MasterSilent { connection: u64, request: RequestId },
    ConnectMaster,
    BusBack,
    BusSilent { bus: u64 },
    Published { bus: u64, event: Event },
    Said { process: u64, message: AgentBusMessage },
    Connecting { node: usize, link: LinkId },
    AtNode { node: usize, link: LinkId, run_id: String, command: Command },
    NodeAnswers { link: LinkId, event: Event },
    LinkReset { link: LinkId },
    Announce { node: usize },
    Restart { node: usize },
    Wish { node: usize, wish: Wish },
    PurgeLooks { node: usize, run_id: String, order: Epoch, key: usize },
    PurgeRemoves { node: usize, run_id: String, order: Epoch, key: usize, by: Option<Epoch> },
    MasterStarts,
    CoordinatorStarts,
    ProxyHears { proxy: usize, life: u64, bulletin: Bulletin },
    ProxyReads { proxy: usize },
    ProxyCatchesUp { proxy: usize, life: u64 },
    ProxyIsBehind { proxy: usize, life: u64, epoch: Epoch, process: u64, since_ms: u64 },
    ProxyStarts { proxy: usize },
    ClientsAct,
    AtProxy { number: u64 },
    CommandAtNode { number: u64, proxy: usize, node: usize, run_id: String, op: Op, guest: bool },
    CommandAnswered { number: u64, node: usize, value: Seq },
    Fault,
}

impl What {
    /// It happens to a coordinator, while that lives.
    fn is_for_coordinator(&self) -> bool {
        matches!(
            self,
            What::Step(_)
                | What::Tick(_)
                | What::MasterAnswers { .. }
                | What::MasterSilent { .. }
                | What::ConnectMaster
                | What::BusBack
                | What::BusSilent { .. }
                | What::Connecting { .. }
                | What::NodeAnswers { .. }
                | What::LinkReset { .. }
        )
    }
}

pub(super) struct World {
    seed: u64,
    random: Random,
    profile: Profile,
    paces: Paces,
    /// What coordinators are told.
    options: Options,
    now_ms: u64,
    queue: Queue,
    numbers: u64,
    coordinators: Vec<Coordinator>,
    nodes: Vec<Node>,
    proxies: Vec<Proxy>,
    clients: Clients,
    master: Master,
    checker: Checker,
    reads: Reads,
    key_homes: KeyHomes,
    /// When a map was last published that gave keys new homes.
    rehomed_at_ms: u64,
    /// The last map that was written where those before it were lost.
    lost_epoch: Epoch,
    /// A coordinator that sees no node, to the end, or until a map is lost: who cannot vouch for nodes has to empty them.
    blind: Option<usize>,
    script: Option<Script>,
    /// A tale, and how many of its steps were taken.
    tale: Option<(Tale, usize)>,
    /// How many happened since it was calm, where there is a script.
    events: usize,
    violation: Option<Violation>,
    log: Vec<String>,
    logging: bool,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        World::with(seed, SHAPE, None)
    }

    /// Its history can be read afterwards.
    pub(super) fn logging(mut self) -> Self {
        self.logging = true;
        self
    }

    fn with(seed: u64, shape: Shape, script: Option<Script>) -> Self {
        let mut random = Random(seed);
        let profile = match random.below(4) {
            _ if script.is_some() => Profile::Anything,
            0 => Profile::WrongClocks,
            1 => Profile::ControlOnly,
            _ => Profile::Anything,
        };
        let paces = if script.is_some() { Paces::EVEN } else { Paces::drawn(&mut random) };
        let options = options(&paces);
        let checker = Checker::new(options.settle_ms, profile == Profile::ControlOnly);
        let mut world = World {
            seed,
            profile,
            paces,
            options,
            random,
            now_ms: 0,
            queue: Queue::default(),
            numbers: 0,
            coordinators: Vec::new(),
            nodes: Vec::new(),
            proxies: Vec::new(),
            clients: Clients::default(),
            master: Master::new(),
            checker,
            reads: Reads::new(shape.proxies + 1, profile == Profile::ControlOnly),
            key_homes: KeyHomes::default(),
            rehomed_at_ms: 0,
            lost_epoch: 0,
            blind: None,
            script,
            tale: None,
            events: 0,
            violation: None,
            log: Vec::new(),
            logging: false,
        };
        for number in 0..shape.coordinators {
            let coordinator = world.coordinator(number);
            world.coordinators.push(coordinator);
            world.begin(number);
        }
        for node in 0..shape.nodes {
            let run_id = world.new_process();
            world.nodes.push(Node::new(node, run_id, shape.coordinators));
            let at_ms = world.random.below(200);
            world.after(at_ms, 0, What::Announce { node });
        }
        for proxy in 0..shape.proxies {
            world.numbers += 1;
            world.proxies.push(Proxy::new(world.numbers, shape.nodes));
            world.after(world.now_ms, 0, What::ProxyReads { proxy });
        }
        world.after(CALM_MS, 0, What::ClientsAct);
        world.after(CALM_MS, 0, What::Fault);
        world
    }

    fn after(&mut self, at_ms: u64, coordinator: usize, what: What) {
        let life = self.coordinators.get(coordinator).map_or(0, |coordinator| coordinator.life);
        self.queue.push(at_ms.max(self.now_ms), (coordinator, life, what));
    }

    fn latency(&mut self) -> u64 {
        let most_ms = if self.random.below(self.paces.tail_one_in) == 0 { self.paces.tail_ms } else { self.paces.latency_ms };
        self.random.between(1, most_ms)
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if self.logging {
            let line = format!("{:>6} {}", self.now_ms, line());
            self.log.push(line);
        }
    }

    /// The first thing that should not have happened ends the history.
    fn check(&mut self, outcome: Result<(), Violation>) {
        if let Err(what) = outcome
            && self.violation.is_none()
        {
            let what = format!("seed {} ({:?}) at {} ms: {what}", self.seed, self.profile, self.now_ms);
            self.note(|| what.clone());
            self.violation = Some(what);
        }
    }

    /// What happened that should not have.
    pub(super) fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    pub(super) fn counts(&self) -> Counts {
        let purges = self.nodes.iter().map(|node| node.purges).sum();
        Counts { reads: self.reads.judged, purges, ..self.checker.counts }
    }

    /// What happened, a line each.
    pub(super) fn log(&self) -> &[String] {
        &self.log
    }

    // ---- the course of time ----

    /// Lets everything happen, or all up to what should not.
    pub(super) fn run(mut self) -> Self {
        let script_end_ms = self.is_scripted().then(World::script_end_ms);
        let end_ms = self.tale_end_ms().or(script_end_ms).unwrap_or(HEAL_MS + HEALING_MS);
        while let Some((at_ms, due)) = self.queue.pop() {
            if at_ms > end_ms {
                break;
            }
            self.now_ms = at_ms;
            self.take_steps(&due.2);
            let Some((coordinator, life, what)) = self.strike(due) else { continue };
            self.happen(coordinator, life, what);
            if self.violation.is_some() {
                return self;
            }
        }
        let outcome = self.checker.healed(&self.healed());
        self.check(outcome);
        self
    }

    fn healed(&self) -> Healed<'_> {
        let now = Now { mono_ms: self.now_ms, unix_ms: 0 };
        Healed {
            leading: self.coordinators.iter().map(|coordinator| coordinator.membership.status(now).leading).collect(),
            stored: self.master.stored(),
            nodes: self.nodes.iter().map(|node| (node.name.as_str(), node.run_id.as_deref())).collect(),
            readers: self.proxies.iter().map(Proxy::epoch).collect(),
            nodes_were_well: self.profile == Profile::ControlOnly,
        }
    }

    fn happen(&mut self, number: usize, life: u64, what: What) {
        if what.is_for_coordinator() {
            let coordinator = &self.coordinators[number];
            if coordinator.life != life || !coordinator.running {
                return;
            }
            if coordinator.paused_until_ms > self.now_ms {
                // It lies in a socket's buffer until the process runs again. What was only waited for is over at once.
                let until_ms = coordinator.paused_until_ms + u64::from(!matches!(what, What::Tick(_)));
                return self.after(until_ms, number, what);
            }
        }
        match what {
            What::Step(event) => {
                // It is tried anew when the loss is known, however long it stood still.
                let next = match event {
                    Event::MasterDown { .. } => Some((50, What::ConnectMaster)),
                    Event::BusDown => Some((400, What::BusBack)),
                    _ => None,
                };
                self.step(number, event);
                if let Some((within_ms, what)) = next {
                    let at_ms = self.now_ms + self.random.below(within_ms);
                    self.after(at_ms, number, what);
                }
            }
            What::Tick(ticks) => {
                if self.coordinators[number].ticks == ticks {
                    self.step(number, Event::Tick);
                }
            }
            What::ConnectMaster => self.connect_master(number),
            What::BusBack => self.open_bus(number),
            What::BusSilent { bus } => self.bus_silent(number, bus),
            What::Published { bus, event } => self.published(number, life, bus, event),
            What::Said { process, message } => self.said(process, message),
            What::AtMaster { connection, process, request, late } => {
                self.at_master(number, life, connection, process, request, late)
            }
            What::MasterAnswers { connection, request, event } => {
                let coordinator = &mut self.coordinators[number];
                if coordinator.master == Some(connection) && coordinator.asked.remove(&request) {
                    self.step(number, event);
                }
            }
            What::MasterSilent { connection, request } => {
                let coordinator = &self.coordinators[number];
                if coordinator.master == Some(connection) && coordinator.asked.contains(&request) {
                    self.lose_master(number, "no answer");
                }
            }
            What::Connecting { node, link } => self.connecting(number, node, link),
            What::AtNode { node, link, run_id, command } => self.at_node(number, life, node, link, run_id, command),
            What::NodeAnswers { link, event } => {
                if self.coordinators[number].links.contains_key(&link) {
                    self.step(number, event);
                }
            }
            What::LinkReset { link } => self.link_reset(number, link),
            What::Announce { node } => self.announce(node),
            What::Restart { node } => self.restart(node),
            What::Wish { node, wish } => self.wish(node, wish),
            What::PurgeLooks { node, run_id, order, key } => self.purge_looks(node, run_id, order, key),
            What::PurgeRemoves { node, run_id, order, key, by } => self.purge_removes(node, &run_id, order, key, by),
            What::MasterStarts => {
                self.note(|| "master starts".to_owned());
                self.master.up = true;
                self.master.started_at_ms = self.now_ms;
            }
            What::CoordinatorStarts => {
                if !self.coordinators[number].running {
                    self.note(|| format!("c{number} starts"));
                    self.coordinators[number] = self.coordinator(number);
                    self.begin(number);
                }
            }
            What::ProxyHears { proxy, life, bulletin } => self.proxy_hears(proxy, life, bulletin),
            What::ProxyReads { proxy } => self.proxy_reads(proxy),
            What::ProxyCatchesUp { proxy, life } => self.proxy_catches_up(proxy, life),
            What::ProxyIsBehind { proxy, life, epoch, process, since_ms } => {
                self.proxy_is_behind(proxy, life, epoch, process, since_ms);
            }
            What::ProxyStarts { proxy } => self.proxy_starts(proxy),
            What::ClientsAct => self.clients_act(),
            What::AtProxy { number } => self.at_proxy(number),
            What::CommandAtNode { number, proxy, node, run_id, op, guest } => {
                self.command_at_node(number, proxy, node, run_id, op, guest);
            }
            What::CommandAnswered { number, node, value } => self.command_answered(number, node, value),
            What::Fault => self.fault(),
        }
    }
}
