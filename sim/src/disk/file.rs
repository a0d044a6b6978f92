//! One file: what the page cache shows, what the platter holds, and the operations between the two.
//!
//! Invariant: the cache is the platter with all pending changes applied in order. A sync moves changes over; a power
//! loss takes the cache away.

use bytes::{Bytes, BytesMut};

use super::{SECTOR_BYTES, pages::Pages};
use crate::dice::Dice;

/// The place of an operation in the order of its disk.
pub(super) type Sequence = u64;

#[derive(Clone, Debug, Default)]
pub(super) struct File {
    cache: Pages,
    durable: Pages,
    pending: Vec<Pending>,
}

#[derive(Clone, Debug)]
struct Pending {
    sequence: Sequence,
    change: Change,
}

#[derive(Clone, Debug)]
pub(super) enum Change {
    Write { offset: u64, slices: Vec<Bytes>, length: u64 },
    Zero { offset: u64, length: u64 },
    Resize { size: u64 },
}

impl Change {
    pub(super) fn write(offset: u64, slices: Vec<Bytes>) -> Self {
        let length = slices.iter().map(|slice| slice.len() as u64).sum();
        Self::Write { offset, slices, length }
    }

    /// The first `length` bytes of a change: what a kill may leave of it.
    pub(super) fn prefix(self, length: u64) -> Self {
        match self {
            Self::Write { offset, slices, .. } => {
                let mut left = length;
                let mut kept = Vec::new();
                for slice in slices {
                    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(slice.len());
                    kept.push(slice.slice(..taken));
                    left -= taken as u64;
                }
                Self::write(offset, kept)
            }
            Self::Zero { offset, length: all } => Self::Zero { offset, length: length.min(all) },
            Self::Resize { size } => Self::Resize { size },
        }
    }

    pub(super) fn length(&self) -> u64 {
        match self {
            Self::Write { length, .. } | Self::Zero { length, .. } => *length,
            Self::Resize { .. } => 0,
        }
    }

    fn offset(&self) -> u64 {
        match self {
            Self::Write { offset, .. } | Self::Zero { offset, .. } => *offset,
            Self::Resize { .. } => 0,
        }
    }

    fn apply(&self, pages: &mut Pages) {
        match self {
            Self::Write { offset, slices, .. } => {
                let mut position = *offset;
                for slice in slices {
                    pages.write(position, slice);
                    position += slice.len() as u64;
                }
            }
            Self::Zero { offset, length } => pages.zero(*offset, *length),
            Self::Resize { size } => pages.resize(*size),
        }
    }

    /// Applies the part of the change that lies in `start..end` of its own bytes.
    fn apply_range(&self, pages: &mut Pages, start: u64, end: u64) {
        match self {
            Self::Write { offset, slices, .. } => {
                let mut at = 0;
                for slice in slices {
                    let (from, to) = (start.max(at), end.min(at + slice.len() as u64));
                    if from < to {
                        let within = |position: u64| usize::try_from(position - at).expect("within a slice");
                        pages.write(offset + from, &slice[within(from)..within(to)]);
                    }
                    at += slice.len() as u64;
                }
            }
            Self::Zero { offset, .. } => pages.zero(offset + start, end - start),
            Self::Resize { .. } => unreachable!("only changes with bytes are torn"),
        }
    }
}

/// How a change comes through a power loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Lost,
    Survives,
    /// An arbitrary subset of its sectors survives.
    Torn,
}

impl File {
    pub(super) fn size(&self) -> u64 {
        self.cache.size()
    }

    pub(super) fn read(&self, offset: u64, length: usize) -> Bytes {
        self.cache.read(offset, length)
    }

    pub(super) fn read_into(&self, buffer: BytesMut, offset: u64, length: usize) -> Bytes {
        self.cache.read_into(buffer, offset, length)
    }

    pub(super) fn change(&mut self, sequence: Sequence, change: Change) {
        change.apply(&mut self.cache);
        self.pending.push(Pending { sequence, change });
    }

    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Makes every change up to `through` durable.
    pub(super) fn sync(&mut self, through: Sequence) {
        let synced = self.pending.partition_point(|pending| pending.sequence <= through);
        if synced == self.pending.len() {
            // The platter becomes what the cache shows: share its pages instead of writing them twice.
            let shrunk = self.pending.iter().any(|pending| matches!(pending.change, Change::Resize { .. }));
            if shrunk {
                self.durable = self.cache.clone();
            } else {
                for Pending { change, .. } in &self.pending {
                    self.durable.share(&self.cache, change.offset(), change.length());
                }
                self.durable.resize(self.cache.size());
            }
        } else {
            for Pending { change, .. } in &self.pending[..synced] {
                change.apply(&mut self.durable);
            }
        }
        self.pending.drain(..synced);
    }

    /// The power is gone: `fate` is asked once for each change that was not synced, in order. Returns how many
    /// changes were lost.
    pub(super) fn lose_power(&mut self, dice: &mut Dice, mut fate: impl FnMut(&mut Dice, Sequence, u64) -> Fate) {
        for Pending { sequence, change } in std::mem::take(&mut self.pending) {
            match fate(dice, sequence, change.length()) {
                Fate::Lost => {}
                Fate::Survives => change.apply(&mut self.durable),
                Fate::Torn => tear(dice, &change, &mut self.durable),
            }
        }
        self.cache = self.durable.clone();
    }
}

/// Applies an arbitrary subset of the sectors of a change: runs of random length, each kept or lost by a coin.
fn tear(dice: &mut Dice, change: &Change, pages: &mut Pages) {
    let sectors = change.length().div_ceil(SECTOR_BYTES);
    let longest_run = 1 + dice.below(sectors.clamp(1, 32));
    // The first sector may start in the middle, as the file's sectors do not move with the write.
    let misalignment = change.offset() % SECTOR_BYTES;
    let mut sector = 0;
    while sector <= sectors {
        let run = dice.range(1, longest_run);
        if dice.coin() {
            let start = (sector * SECTOR_BYTES).saturating_sub(misalignment);
            let end = ((sector + run) * SECTOR_BYTES - misalignment).min(change.length());
            if start < end {
                change.apply_range(pages, start, end);
            }
        }
        sector += run;
    }
}
