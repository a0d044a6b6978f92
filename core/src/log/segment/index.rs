//! The sparse offset and time index of one segment.
//!
//! Invariant: a stretch is a chunk of the file in which at least one batch begins; the index names the first such batch
//! of each, and the largest timestamp of all of them. It is derived from the batches while they are appended, and
//! recorded in the side file with the chunk's checksum, so that a restored segment has it without reading its data.

use crate::{ids::Offset, limits::SEGMENT_CHUNK_BYTES};

#[derive(Debug, Default)]
pub(super) struct Index {
    stretches: Vec<Stretch>,
}

/// The batches that begin in one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    /// First of them: offset above the segment's base.
    pub(super) offset_delta: u32,
    /// Its place in the file.
    pub(super) place: u32,
    /// Largest timestamp of all of them, in milliseconds since 1970.
    pub(super) max_timestamp: i64,
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
        let place = u32::try_from(place).expect("a segment is smaller than 4 GiB");
        match self.stretches.last_mut() {
            Some(last) if last.chunk() == chunk_of(place) => last.max_timestamp = last.max_timestamp.max(max_timestamp),
            Some(_) | None => self.stretches.push(Stretch {
                offset_delta: u32::try_from(offset.0 - base.0)
                    .expect("a segment rolls before its offsets leave 32 bits"),
                place,
                max_timestamp,
            }),
        }
    }

    /// Adds what was recorded of the next chunk in which a batch begins.
    pub(super) fn restore(&mut self, stretch: Stretch) {
        assert!(
            self.stretches.last().is_none_or(|last| last.chunk() < stretch.chunk()),
            "chunks are restored in their order"
        );
        self.stretches.push(stretch);
    }

    /// Adds what was found out of a chunk of which nothing was recorded.
    pub(super) fn insert(&mut self, stretch: Stretch) {
        let place = self.stretches.partition_point(|known| known.chunk() < stretch.chunk());
        assert!(self.stretches.get(place).is_none_or(|known| known.chunk() != stretch.chunk()), "it is not known yet");
        self.stretches.insert(place, stretch);
    }

    /// The last stretch before a chunk.
    pub(super) fn before_chunk(&self, chunk: usize) -> Option<Stretch> {
        let behind = self.stretches.partition_point(|stretch| stretch.chunk() < chunk);
        self.stretches[..behind].last().copied()
    }

    /// The first stretch of a chunk or of one behind it.
    pub(super) fn stretch_from(&self, chunk: usize) -> Option<Stretch> {
        self.stretches.get(self.stretches.partition_point(|stretch| stretch.chunk() < chunk)).copied()
    }

    /// What begins in a chunk of the file.
    pub(super) fn of_chunk(&self, chunk: usize) -> Option<Stretch> {
        let place = self.stretches.binary_search_by_key(&chunk, Stretch::chunk).ok()?;
        Some(self.stretches[place])
    }

    /// The first batch of the stretch in which the batch with `offset` begins.
    pub(super) fn at_or_before(&self, base: Offset, offset: Offset) -> Entry {
        let behind = self.stretches.partition_point(|stretch| base.0 + i64::from(stretch.offset_delta) <= offset.0);
        // A segment begins with a batch, whether that is recorded or lost.
        self.stretches[..behind].last().map_or(Entry { offset: base, place: 0 }, |stretch| stretch.entry(base))
    }

    /// Where to begin looking for the first batch that ends behind `from` and has a timestamp of at least
    /// `timestamp`; `None` if no stretch from there on holds one.
    pub(super) fn timestamp(&self, base: Offset, from: Offset, timestamp: i64) -> Option<Entry> {
        let later = &self.stretches[self.stretch_of(base, from)..];
        later.iter().find(|stretch| stretch.max_timestamp >= timestamp).map(|stretch| stretch.entry(base))
    }

    fn stretch_of(&self, base: Offset, offset: Offset) -> usize {
        let behind = self.stretches.partition_point(|stretch| base.0 + i64::from(stretch.offset_delta) <= offset.0);
        behind.saturating_sub(1)
    }
}

impl Stretch {
    /// Number of the chunk.
    pub(super) fn chunk(&self) -> usize {
        chunk_of(self.place)
    }

    fn entry(&self, base: Offset) -> Entry {
        Entry { offset: Offset(base.0 + i64::from(self.offset_delta)), place: u64::from(self.place) }
    }
}

fn chunk_of(place: u32) -> usize {
    place as usize / SEGMENT_CHUNK_BYTES
}
