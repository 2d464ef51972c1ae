//! What is to happen, by time.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::What;

/// What happens to whom: a coordinator, in which of its lives, where it is for one.
pub(super) type Due = (usize, u64, What);

/// In the order of time, and of what was put in first. Events are large: only their places are moved about.
#[derive(Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Reverse<(u64, u64, u32)>>,
    places: Vec<Option<Due>>,
    free: Vec<u32>,
    sequence: u64,
}

impl Queue {
    pub(super) fn push(&mut self, at_ms: u64, due: Due) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() as u32 - 1
        });
        self.places[place as usize] = Some(due);
        self.sequence += 1;
        self.heap.push(Reverse((at_ms, self.sequence, place)));
    }

    pub(super) fn pop(&mut self) -> Option<(u64, Due)> {
        let Reverse((at_ms, _, place)) = self.heap.pop()?;
        self.free.push(place);
        Some((at_ms, self.places[place as usize].take()?))
    }
}
