//! Producer ids of this node: blocks from the metadata group, handed out one by one.
//!
//! Invariant: an id is handed out once in the life of the cluster. What is left of a block when the node stops is
//! never used; there are 2^63 of them.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use crate::{ids::ProducerId, session::RequestId, time::Monotonic};

/// Ids asked for at once.
pub(super) const BLOCK: u32 = 1000;
/// The next block is asked for when so few are left.
const REFILL_BELOW: i64 = 100;
/// After a failure the next attempt waits for this long.
const RETRY: Duration = Duration::from_millis(200);

#[derive(Debug, Default)]
pub(super) struct ProducerIds {
    /// What is left of each block: the next id, and the one behind the last.
    blocks: VecDeque<(i64, i64)>,
    asked: bool,
    not_before: Monotonic,
    waiting: BTreeSet<RequestId>,
}

impl ProducerIds {
    pub(super) fn take(&mut self) -> Option<ProducerId> {
        let (next, end) = self.blocks.front_mut()?;
        let id = ProducerId(*next);
        *next += 1;
        if next == end {
            self.blocks.pop_front();
        }
        Some(id)
    }

    pub(super) fn wait(&mut self, request: RequestId) {
        self.waiting.insert(request);
    }

    pub(super) fn forget(&mut self, request: RequestId) {
        self.waiting.remove(&request);
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether a block should be asked for now; the caller does so and reports with `arrived` or `failed`.
    pub(super) fn should_ask(&mut self, now: Monotonic) -> bool {
        let left: i64 = self.blocks.iter().map(|(next, end)| end - next).sum();
        let ask = !self.asked && left < REFILL_BELOW && now >= self.not_before;
        self.asked |= ask;
        ask
    }

    /// The requests to go on with. A block that holds no ids, as only a broken leader could send, is a failure.
    pub(super) fn arrived(&mut self, now: Monotonic, first: ProducerId, count: u32) -> BTreeSet<RequestId> {
        match first.0.checked_add(i64::from(count)) {
            Some(end) if first.0 >= 0 && end > first.0 => {
                self.asked = false;
                self.blocks.push_back((first.0, end));
                std::mem::take(&mut self.waiting)
            }
            Some(_) | None => {
                self.failed(now);
                BTreeSet::new()
            }
        }
    }

    /// Ask again later.
    pub(super) fn failed(&mut self, now: Monotonic) {
        self.asked = false;
        self.not_before = now + RETRY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_blocks_are_handed_out_once_each() {
        let mut ids = ProducerIds::default();
        assert_eq!(ids.take(), None);
        let now = Monotonic(1);
        assert!(ids.should_ask(now));
        assert!(!ids.should_ask(now), "one block at a time");
        ids.failed(now);
        assert!(!ids.should_ask(now), "a failure is not repeated at once");
        let now = now + RETRY;
        assert!(ids.should_ask(now));
        ids.arrived(now, ProducerId(5000), BLOCK);
        let mut taken = BTreeSet::new();
        for _ in 0..BLOCK {
            assert!(taken.insert(ids.take().unwrap()));
            if ids.should_ask(now) {
                ids.arrived(now, ProducerId(9000), BLOCK);
            }
        }
        assert_eq!(taken.first(), Some(&ProducerId(5000)));
        assert_eq!(taken.last(), Some(&ProducerId(5999)));
        assert_eq!(ids.take(), Some(ProducerId(9000)));
    }
}
