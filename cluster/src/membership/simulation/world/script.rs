//! Histories in which nothing is left to chance: every message takes a millisecond, and what goes wrong is said beforehand.

use super::{CALM_MS, Due, SHAPE, Shape, What, World};

/// Two nodes and what it takes to serve them.
pub(super) const SMALL: Shape = Shape { nodes: 2, ..SHAPE };

/// How long a history lasts once it is calm: enough for all to be well again.
const LASTS_MS: u64 = 6_000;

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Strike {
    /// A node dies and is back before anybody notices.
    Restart,
    /// A node dies, and is back after a while.
    Death,
    /// A node stands still for longer than is waited for it.
    Pause,
    /// All connections to a node are cut.
    Cut,
    /// The first coordinator stands still for longer than its lease lasts.
    LeaderPause,
    /// It loses its connection to the master.
    MasterLost,
    /// The master restarts empty.
    MasterDeath,
    /// A proxy does not hear the master for a while.
    Laggard,
    /// What was to happen now happens later than what comes after it.
    Late,
}

pub(in super::super) const STRIKES: [Strike; 9] = [
    Strike::Restart,
    Strike::Death,
    Strike::Pause,
    Strike::Cut,
    Strike::LeaderPause,
    Strike::MasterLost,
    Strike::MasterDeath,
    Strike::Laggard,
    Strike::Late,
];

/// What goes wrong, and before which of the events that follow when it is calm.
pub(in super::super) type Script = Vec<(usize, Strike)>;

impl World {
    /// A small world in which this happens and nothing else.
    pub(in super::super) fn scripted(script: Script) -> Self {
        World::with(0, SMALL, Some(script))
    }

    pub(super) fn is_scripted(&self) -> bool {
        self.script.is_some()
    }

    pub(super) fn script_end_ms() -> u64 {
        CALM_MS + LASTS_MS
    }

    /// Plays what is due before the next event. That one is taken back if it is late.
    pub(super) fn strike(&mut self, due: Due) -> Option<Due> {
        let Some(script) = self.script.as_ref().filter(|_| self.now_ms > CALM_MS) else { return Some(due) };
        let now = self.events;
        self.events += 1;
        let strikes: Vec<Strike> = script.iter().filter(|(at, _)| *at == now).map(|(_, strike)| *strike).collect();
        let mut due = Some(due);
        for strike in strikes {
            self.note(|| format!("{strike:?}"));
            match strike {
                Strike::Restart => self.kill(0, self.now_ms + 2),
                Strike::Death => self.kill(0, self.now_ms + 700),
                Strike::Pause => self.nodes[0].paused_until_ms = self.now_ms + 1_000,
                Strike::Cut => self.reset_links(|_, node| node == 0),
                Strike::LeaderPause => self.coordinators[0].paused_until_ms = self.now_ms + 1_200,
                Strike::MasterLost => self.lose_master(0, "reset"),
                Strike::MasterDeath => self.master_dies(self.now_ms + 20),
                Strike::Laggard => self.proxies[0].cut_from_master_until_ms = self.now_ms + 600,
                // A tick is not a message: time is on time.
                Strike::Late => match due.take() {
                    Some(tick @ (_, _, What::Tick(_))) => due = Some(tick),
                    Some(late) => self.queue.push(self.now_ms + 15, late),
                    None => {}
                },
            }
        }
        due
    }
}
