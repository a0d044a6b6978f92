//! The sparse offset and time index of one segment.
//!
//! Invariant: a stretch is [`SEGMENT_INDEX_INTERVAL_BYTES`] of the file in which at least one batch begins; the index
//! names the first such batch of each, and the largest timestamp of all of them. It is derived from the batches while
//! they are appended, live or from the write-ahead log, and never persisted: 16 bytes per 64 KiB of log.

use crate::{ids::Offset, limits::SEGMENT_INDEX_INTERVAL_BYTES};

#[derive(Debug, Default)]
pub(super) struct Index {
    stretches: Vec<Stretch>,
}

#[derive(Clone, Copy, Debug)]
struct Stretch {
    /// First batch that begins in the stretch: offset above the segment's base, place in the file.
    offset_delta: u32,
    place: u32,
    /// Largest timestamp of the batches that begin in the stretch.
    max_timestamp: i64,
}

/// Where to begin looking for a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Base offset of a batch.
    pub(super) offset: Offset,
    /// Its place in the file.
    pub(super) place: u64,
}

impl Index {
    /// Notes a batch that was appended at `place` of the file of the segment with base offset `base`.
    pub(super) fn append(&mut self, base: Offset, offset: Offset, place: u64, max_timestamp: i64) {
        let interval = SEGMENT_INDEX_INTERVAL_BYTES as u64;
        match self.stretches.last_mut() {
            Some(last) if u64::from(last.place) / interval == place / interval => {
                last.max_timestamp = last.max_timestamp.max(max_timestamp);
            }
            Some(_) | None => self.stretches.push(Stretch {
                offset_delta: u32::try_from(offset.0 - base.0)
                    .expect("a segment rolls before its offsets leave 32 bits"),
                place: u32::try_from(place).expect("a segment is smaller than 4 GiB"),
                max_timestamp,
            }),
        }
    }

    /// The first batch of the stretch in which the batch with `offset` begins.
    pub(super) fn at_or_before(&self, base: Offset, offset: Offset) -> Entry {
        self.stretches[self.stretch_of(base, offset)].entry(base)
    }

    /// Where to begin looking for the first batch that ends behind `from` and has a timestamp of at least
    /// `timestamp`; `None` if no stretch from there on holds one.
    pub(super) fn timestamp(&self, base: Offset, from: Offset, timestamp: i64) -> Option<Entry> {
        let later = &self.stretches[self.stretch_of(base, from)..];
        later.iter().find(|stretch| stretch.max_timestamp >= timestamp).map(|stretch| stretch.entry(base))
    }

    fn stretch_of(&self, base: Offset, offset: Offset) -> usize {
        let behind = self.stretches.partition_point(|stretch| base.0 + i64::from(stretch.offset_delta) <= offset.0);
        // An offset below the first batch (a gap before it) is looked for from the first batch on.
        behind.saturating_sub(1)
    }
}

impl Stretch {
    fn entry(&self, base: Offset) -> Entry {
        Entry { offset: Offset(base.0 + i64::from(self.offset_delta)), place: u64::from(self.place) }
    }
}
