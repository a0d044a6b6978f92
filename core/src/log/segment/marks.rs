//! What of a segment is known to be damaged.
//!
//! Invariant: a marked chunk is never handed to a reader. A mark is made by whoever finds the damage and cleared by
//! whoever reads the chunk and finds it sound, or by a repair that is durable. Marks live in memory only: damage that a
//! restart forgets is found again where it was found before.

use std::{collections::BTreeSet, ops::Range};

#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Chunks whose bytes are not what their checksum says, or cannot be read.
    data: BTreeSet<usize>,
    /// Chunks of which nothing says what their checksum is.
    unknown: BTreeSet<usize>,
    /// Entries of the side file that are to be written again from what is known.
    entries: BTreeSet<usize>,
    /// The header of the side file is to be written again.
    header: bool,
    /// The side file is not what it should be, and was not read yet.
    suspect: bool,
}

impl Marks {
    pub(super) fn is_empty(&self) -> bool {
        self.data.is_empty() && self.unknown.is_empty() && !self.has_lost_entries() && !self.suspect
    }

    /// Chunks that readers do not get.
    pub(super) fn chunks(&self) -> usize {
        self.data.union(&self.unknown).count()
    }

    /// The first marked chunk from `chunk` on.
    pub(super) fn next_marked(&self, chunk: usize) -> Option<usize> {
        let data = self.data.range(chunk..).next();
        let unknown = self.unknown.range(chunk..).next();
        data.into_iter().chain(unknown).min().copied()
    }

    /// The first chunks whose bytes are damaged, from `chunk` on: at most `most` that follow one another, of all of which
    /// the checksum is known, or of none.
    pub(super) fn damaged_run(&self, chunk: usize, most: usize, is_known: bool) -> Option<Range<usize>> {
        let is_one = |chunk: &usize| self.data.contains(chunk) && self.knows_checksum(*chunk) == is_known;
        let first = *self.data.range(chunk..).find(|chunk| is_one(chunk))?;
        let more = (first..first + most).take_while(is_one).count();
        Some(first..first + more)
    }

    pub(super) fn has_damaged_bytes(&self) -> bool {
        !self.data.is_empty()
    }

    pub(super) fn damage(&mut self, chunk: usize) {
        self.data.insert(chunk);
    }

    /// The bytes of a chunk are what they should be.
    pub(super) fn is_sound(&mut self, chunk: usize) {
        self.data.remove(&chunk);
    }

    pub(super) fn forget_checksum(&mut self, chunk: usize) {
        self.unknown.insert(chunk);
    }

    pub(super) fn knows_checksum(&self, chunk: usize) -> bool {
        !self.unknown.contains(&chunk)
    }

    /// The first chunk of which nothing says what its checksum is.
    pub(super) fn first_unknown(&self) -> Option<usize> {
        self.unknown.first().copied()
    }

    /// The checksum of a chunk is known again; its entry is still to be written.
    pub(super) fn learn_checksum(&mut self, chunk: usize) {
        self.unknown.remove(&chunk);
    }

    /// The side file has to be looked at.
    pub(super) fn suspect(&mut self) {
        self.suspect = true;
    }

    pub(super) fn is_suspect(&self) -> bool {
        self.suspect
    }

    /// The side file was looked at.
    pub(super) fn looked_at(&mut self) {
        self.suspect = false;
    }

    pub(super) fn lose_entry(&mut self, entry: usize) {
        self.entries.insert(entry);
    }

    pub(super) fn lose_header(&mut self) {
        self.header = true;
    }

    pub(super) fn has_lost_entries(&self) -> bool {
        self.header || !self.entries.is_empty()
    }

    pub(super) fn has_lost_header(&self) -> bool {
        self.header
    }

    pub(super) fn lost_entries(&self) -> impl Iterator<Item = usize> {
        self.entries.iter().copied()
    }

    /// Entries of this range are in the side file again, and the header, if it begins with the first.
    pub(super) fn restored(&mut self, entries: Range<usize>) {
        self.header &= entries.start > 0;
        self.entries.retain(|entry| !entries.contains(entry));
    }
}
