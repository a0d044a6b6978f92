//! Which batches a read returns.
//!
//! Invariant: whole batches only, in order and without a gap, each of them wholly below the upper bound; no more bytes
//! than allowed, except for the first batch of a read that must make progress.

use bytes::Bytes;

use super::batch::BatchHeader;
use crate::ids::Offset;

/// Batches, in order, as slices that are shared and not copied: concatenated they are what a client gets. A slice may
/// hold many batches or a part of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batches {
    pub slices: Vec<Bytes>,
    /// Sum of the slices' lengths. Zero means that the first batch is larger than the read allowed, or that it ends
    /// behind the upper bound.
    pub bytes: usize,
    /// What the slices keep alive: the whole of each allocation that one of them is a part of.
    pub held_bytes: usize,
    /// The offset behind the last batch, where the next read begins; `None` without a batch.
    pub next_offset: Option<Offset>,
}

/// What a read may return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allowance {
    pub(super) upper: Offset,
    pub(super) max_bytes: usize,
    pub(super) at_least_one: bool,
}

impl Allowance {
    /// Exactly the first batch, whatever its size.
    pub(super) fn one_batch(upper: Offset) -> Self {
        Self { upper, max_bytes: 0, at_least_one: true }
    }
}

/// Decides batch by batch, and collects the slices of those it wants.
#[derive(Debug)]
pub(super) struct Selection {
    allowance: Allowance,
    wanted_bytes: usize,
    batches: Batches,
}

impl Selection {
    pub(super) fn new(allowance: Allowance) -> Self {
        Self { allowance, wanted_bytes: 0, batches: Batches::default() }
    }

    /// Whether the next batch belongs to the result; if so its slices must be given to [`Selection::take`]. After the
    /// first "no" nothing more may be offered.
    pub(super) fn wants(&mut self, batch: &BatchHeader) -> bool {
        let first_of_all = self.wanted_bytes == 0 && self.allowance.at_least_one;
        let fits = self.wanted_bytes + batch.bytes <= self.allowance.max_bytes || first_of_all;
        let wanted = fits && batch.next_offset <= self.allowance.upper;
        if wanted {
            self.wanted_bytes += batch.bytes;
            self.batches.next_offset = Some(batch.next_offset);
        }
        wanted
    }

    pub(super) fn take(&mut self, slice: Bytes) {
        self.batches.bytes += slice.len();
        self.batches.slices.push(slice);
    }

    /// An allocation of this size has slices among those that were taken. To be called once for each.
    pub(super) fn hold(&mut self, allocation_bytes: usize) {
        self.batches.held_bytes += allocation_bytes;
    }

    /// How many slices were taken.
    pub(super) fn taken(&self) -> usize {
        self.batches.slices.len()
    }

    pub(super) fn finish(self) -> Batches {
        assert_eq!(self.batches.bytes, self.wanted_bytes, "every wanted batch was taken");
        self.batches
    }
}
