//! What operators want: weights, drains, and nodes forgotten.

use super::{What, World};
use crate::contract::{AgentBusMessage, Wish};

impl World {
    /// Something is wanted of a node, and taken back later if it would keep it from being up.
    pub(super) fn operate(&mut self, node: usize, until_ms: u64) {
        let wish = match self.random.below(8) {
            0 => Wish::Drain { force: false },
            1 => Wish::Forget { force: false },
            _ => Wish::Weight { weight: 1.0 + self.random.below(3) as f64 },
        };
        self.wish(node, wish);
        // As often as not they think better of it at once.
        let soon_ms = self.now_ms + 20 + self.random.below(400);
        let at_ms = if self.random.below(2) == 0 { soon_ms } else { until_ms };
        match wish {
            Wish::Drain { .. } => self.after(at_ms, 0, What::Wish { node, wish: Wish::Undrain }),
            Wish::Weight { .. } if at_ms == soon_ms => {
                self.after(at_ms, 0, What::Wish { node, wish: Wish::Weight { weight: 1.0 } })
            }
            _ => {}
        }
    }

    /// It is said once, and heard or not.
    pub(super) fn wish(&mut self, node: usize, wish: Wish) {
        if !self.master.up {
            return;
        }
        self.note(|| format!("wanted of n{node}: {wish:?}"));
        self.numbers += 1;
        let (id, name) = (self.numbers.to_string(), self.nodes[node].name.clone());
        self.say(AgentBusMessage::NodeWish { id, name, wish });
    }

    /// Whatever was drained is undrained, whoever leads by then.
    pub(super) fn let_all_be_up(&mut self) {
        for pause_ms in [1_500, 3_000, 4_500] {
            for node in 0..self.nodes.len() {
                self.after(self.now_ms + pause_ms, 0, What::Wish { node, wish: Wish::Undrain });
            }
        }
    }
}
