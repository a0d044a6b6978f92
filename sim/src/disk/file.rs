//! One file: what the page cache shows, what the platter holds, and the operations between the two.
//!
//! Invariant: the cache is the platter with all pending changes applied in order, unless a sync dropped some. A sync
//! moves changes over; a power loss takes the cache away.

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};
use kauri_core::io::{DiskAction, FileName};

use super::pages::Pages;

/// The place of an operation in the order of its disk.
pub(super) type Sequence = u64;

#[derive(Clone, Debug, Default)]
pub(super) struct File {
    pub(super) cache: Pages,
    pub(super) durable: Pages,
    pub(super) pending: Vec<Pending>,
    /// The cache shows what is neither on the platter nor on its way there: a sync dropped it.
    pub(super) is_false: bool,
    /// Sectors that cannot be read, see [`super::damage`].
    pub(super) unreadable: BTreeSet<u64>,
}

/// A change that is not synced.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) sequence: Sequence,
    pub(super) change: Change,
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

    pub(super) fn into_write(self, file: FileName) -> Option<DiskAction> {
        match self {
            Self::Write { offset, slices, .. } => Some(DiskAction::Write { file, offset, slices }),
            Self::Zero { .. } | Self::Resize { .. } => None,
        }
    }

    pub(super) fn length(&self) -> u64 {
        match self {
            Self::Write { length, .. } | Self::Zero { length, .. } => *length,
            Self::Resize { .. } => 0,
        }
    }

    pub(super) fn offset(&self) -> u64 {
        match self {
            Self::Write { offset, .. } | Self::Zero { offset, .. } => *offset,
            Self::Resize { .. } => 0,
        }
    }

    pub(super) fn apply(&self, pages: &mut Pages) {
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
    pub(super) fn apply_range(&self, pages: &mut Pages, start: u64, end: u64) {
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
        self.written(change.offset(), change.length());
        self.pending.push(Pending { sequence, change });
    }

    /// Makes every change up to `through` durable.
    pub(super) fn sync(&mut self, through: Sequence) {
        let synced = self.pending.partition_point(|pending| pending.sequence <= through);
        if synced == self.pending.len() && !self.is_false {
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

    /// What is on the platter.
    pub(super) fn platter(&self) -> &Pages {
        &self.durable
    }

    /// The power is gone: `outage` decides about what was not synced.
    pub(super) fn lose_power(&mut self, outage: impl FnOnce(&mut Pages, Vec<Pending>)) {
        if !self.pending.is_empty() {
            outage(&mut self.durable, std::mem::take(&mut self.pending));
        }
        self.cache = self.durable.clone();
        self.is_false = false;
    }
}
