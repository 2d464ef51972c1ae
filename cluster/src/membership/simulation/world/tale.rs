//! Histories that are told: what takes too many mishaps at once for a random one. They are played in the same world, with clients that do as
//! they like, and judged by the same checkers.

use super::{CALM_MS, Profile, Request, What, World, script::SMALL};
use crate::contract::Wish;

/// How long a history lasts after the last that is told of it.
const LASTS_MS: u64 = 9_000;

/// When a step of a tale is taken: before an event, once all steps before it have been.
#[derive(Debug, Clone, Copy)]
enum Cue {
    /// The first that is so late, counted from when it is calm.
    At(u64),
    /// A map arrives at the master that shows the first node up, where it is not shown so.
    ShowsUp,
    /// A map arrives at the master.
    Writes,
}

/// What is done then.
type Deed = fn(&mut World);

/// Steps, one after the other.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Tale {
    profile: Profile,
    steps: &'static [(Cue, Deed)],
}

/// The first node gets slots of the second.
fn takes_slots(world: &mut World) {
    world.wish(0, Wish::Weight { weight: 3.0 });
}

/// They go back.
fn gives_slots_back(world: &mut World) {
    world.wish(0, Wish::Weight { weight: 1.0 });
}

/// One who was not there when a node lost slots comes to lead before it is told to purge them, and gives them back.
pub(in super::super) const LEADER_DIES_BEFORE_PURGE: Tale = Tale {
    profile: Profile::Anything,
    steps: &[
        (Cue::At(50), |world| world.coordinator_dies(world.standby(), world.now_ms + 250)),
        (Cue::At(100), takes_slots),
        (Cue::At(400), World::leader_dies),
        (Cue::At(1_500), gives_slots_back),
    ],
};

/// A proxy goes by the old homes for as long as it hears nothing of the new ones, which is longer than anybody waits for it. When it is back they
/// are restored.
pub(in super::super) const PROXY_OUT_OF_TOUCH: Tale = Tale {
    profile: Profile::Anything,
    steps: &[
        (Cue::At(100), |world| world.proxies[1].cut_from_master_until_ms = CALM_MS + 4_000),
        (Cue::At(200), takes_slots),
        (Cue::At(7_500), gives_slots_back),
    ],
};

/// The same, but it is back soon after the node has purged, and before that is known.
pub(in super::super) const PROXY_BACK_BEFORE_PURGE_IS_KNOWN: Tale = Tale {
    profile: Profile::Anything,
    steps: &[
        (Cue::At(100), |world| world.proxies[1].cut_from_master_until_ms = CALM_MS + 3_500),
        (Cue::At(200), takes_slots),
        (Cue::At(2_200), |world| world.nodes[1].silent_until_ms = world.now_ms + 2_300),
        (Cue::At(5_500), gives_slots_back),
    ],
};

/// A proxy cannot confirm the new homes for longer than anybody waits, since writes by the old ones are not answered. They are done when the
/// node has purged, and another comes to lead just then.
pub(in super::super) const PROXY_LAGS_AS_THE_LEADER_DIES: Tale = Tale {
    profile: Profile::Anything,
    steps: &[
        (Cue::At(100), |world| {
            world.paces.patience_ms = 4_000;
            world.proxies[1].cut_from_node_until_ms[1] = CALM_MS + 3_000;
        }),
        (Cue::At(800), takes_slots),
        (Cue::At(2_450), World::leader_dies),
        (Cue::At(5_000), gives_slots_back),
    ],
};

/// The master dies with a map on its way that shows a node up. The leader writes it to the empty master, which takes its time, and the node dies.
pub(in super::super) const NODE_DIES_WHILE_WRITTEN_BACK: Tale = Tale {
    profile: Profile::Anything,
    steps: &[
        (Cue::At(100), |world| {
            world.cut_standby_from_master(1_500);
            world.kill(0, world.now_ms + 2);
        }),
        (Cue::ShowsUp, |world| world.master_dies(world.now_ms)),
        (Cue::Writes, |world| {
            world.master.hung_until_ms = world.now_ms + 150;
            world.kill(0, world.now_ms + 400);
        }),
    ],
};

/// A leader whose clock is an hour fast publishes a map, and then it and the master lose their memory. The other has heard nothing of it, but
/// proxies have.
pub(in super::super) const MAP_OF_A_FAST_CLOCK: Tale = Tale {
    profile: Profile::WrongClocks,
    steps: &[
        (Cue::At(100), |world| {
            world.cut_standby_from_master(1_000);
            let leader = 1 - world.standby();
            world.coordinators[leader].clock_offset_ms = 3_600_000;
            world.kill(0, world.now_ms + 100);
        }),
        (Cue::At(900), |world| {
            world.leader_dies();
            world.master_dies(world.now_ms + 50);
        }),
    ],
};

/// For a while another redis answers where coordinators look for a node, which lives on, and whose agent says so.
pub(in super::super) const ANOTHER_ANSWERS: Tale = Tale {
    profile: Profile::Anything,
    steps: &[(Cue::At(100), |world| world.stranger_comes(1)), (Cue::At(4_000), |world| world.stranger_goes(1))],
};

impl World {
    /// A small world in which this is told, and clients do what the seed says.
    pub(in super::super) fn told(tale: Tale, seed: u64) -> Self {
        let mut world = World::with(seed, SMALL, Some(Vec::new()));
        world.profile = tale.profile;
        world.checker.clocks_are_wrong = tale.profile == Profile::WrongClocks;
        world.tale = Some((tale, 0));
        world
    }

    /// When the history ends, as far as a tale says so.
    pub(super) fn tale_end_ms(&self) -> Option<u64> {
        let (tale, _) = self.tale?;
        let last_ms = tale.steps.iter().filter_map(|(cue, _)| if let Cue::At(ms) = cue { Some(*ms) } else { None }).max();
        Some(CALM_MS + last_ms.unwrap_or(0) + LASTS_MS)
    }

    /// Takes the steps of the tale that are due before this event.
    pub(super) fn take_steps(&mut self, what: &What) {
        while let Some((tale, at)) = self.tale
            && let Some((cue, deed)) = tale.steps.get(at)
            && self.is_given(*cue, what)
        {
            self.note(|| format!("step {at}"));
            self.tale = Some((tale, at + 1));
            deed(self);
        }
    }

    /// Whether all that was to be told was.
    pub(in super::super) fn is_told(&self) -> bool {
        self.tale.is_none_or(|(tale, at)| at == tale.steps.len())
    }

    fn is_given(&self, cue: Cue, what: &What) -> bool {
        let written = match what {
            What::AtMaster { process, request: Request::Write { write, .. }, .. } if self.master.process == *process => {
                Some(write)
            }
            _ => None,
        };
        match cue {
            Cue::At(ms) => self.now_ms >= CALM_MS + ms,
            Cue::Writes => written.is_some(),
            Cue::ShowsUp => written.is_some_and(|write| {
                let name = &self.nodes[0].name;
                write.map.get(name).is_some_and(|node| node.up) && self.master.hash.get(name).is_none_or(|node| !node.up)
            }),
        }
    }

    /// The coordinator that does not lead.
    fn standby(&self) -> usize {
        1 - self.leader().unwrap_or(0)
    }

    fn cut_standby_from_master(&mut self, ms: u64) {
        let standby = self.standby();
        self.coordinators[standby].cut_from_master_until_ms = self.now_ms + ms;
        self.bus_falls_silent(standby);
    }

    /// It is back after a while, and remembers nothing.
    fn leader_dies(&mut self) {
        if let Some(leader) = self.leader() {
            self.coordinator_dies(leader, self.now_ms + 4_000);
        }
    }
}
