//! Producer ids of this node: blocks from the metadata group, handed out one by one.
//!
//! Invariant: an id is handed out once in the life of the cluster. What is left of a block when the node stops is
//! never used; there are 2^63 of them.

use std::collections::BTreeSet;

use crate::{ids::ProducerId, session::RequestId};

/// Ids asked for at once.
pub(super) const BLOCK: u32 = 1000;
/// The next block is asked for when so few are left.
const REFILL_BELOW: i64 = 100;

#[derive(Debug, Default)]
pub(super) struct ProducerIds {
    next: i64,
    end: i64,
    reserve: Option<(i64, i64)>,
    asked: bool,
    waiting: BTreeSet<RequestId>,
}

impl ProducerIds {
    pub(super) fn take(&mut self) -> Option<ProducerId> {
        if self.next == self.end {
            (self.next, self.end) = self.reserve.take()?;
        }
        let id = ProducerId(self.next);
        self.next += 1;
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
    pub(super) fn should_ask(&mut self) -> bool {
        let left = self.end - self.next + self.reserve.map_or(0, |(next, end)| end - next);
        let ask = !self.asked && left < REFILL_BELOW;
        self.asked |= ask;
        ask
    }

    /// The requests to go on with.
    pub(super) fn arrived(&mut self, first: ProducerId, count: u32) -> BTreeSet<RequestId> {
        assert!(self.reserve.is_none(), "a block is asked for only when the last one is nearly used up");
        self.asked = false;
        self.reserve = Some((first.0, first.0 + i64::from(count)));
        std::mem::take(&mut self.waiting)
    }

    /// Ask again later.
    pub(super) fn failed(&mut self) {
        self.asked = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_blocks_are_handed_out_once_each() {
        let mut ids = ProducerIds::default();
        assert_eq!(ids.take(), None);
        assert!(ids.should_ask());
        assert!(!ids.should_ask(), "one block at a time");
        ids.arrived(ProducerId(5000), BLOCK);
        let mut taken = BTreeSet::new();
        for _ in 0..BLOCK {
            assert!(taken.insert(ids.take().unwrap()));
            if ids.should_ask() {
                ids.arrived(ProducerId(9000), BLOCK);
            }
        }
        assert_eq!(taken.first(), Some(&ProducerId(5000)));
        assert_eq!(taken.last(), Some(&ProducerId(5999)));
        assert_eq!(ids.take(), Some(ProducerId(9000)));
    }
}
