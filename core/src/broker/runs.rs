//! Entries that lie close together in one file: one read, not one for each.
//!
//! Invariant: a run is bounded, unless it is a single entry; and no small entry keeps the memory of a whole run.

use bytes::Bytes;

use crate::{
    io::DiskAction,
    log::{
        read::EntryRead,
        record::{EntryFile, EntryLocation},
    },
};

/// Entries of one group lie among those of others; so many bytes between two are read along.
const GAP_BYTES_MAX: u64 = 16 << 10;
const RUN_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct Run {
    pub(super) file: EntryFile,
    start: u64,
    end: u64,
    /// Each with its place among those that are wanted.
    pub(super) entries: Vec<(usize, EntryRead)>,
}

impl Run {
    pub(super) fn of(place: usize, read: EntryRead) -> Self {
        let EntryLocation { file, offset, .. } = read.location;
        Self { file, start: offset, end: offset + read.length() as u64, entries: vec![(place, read)] }
    }

    /// Whether the entry was taken in.
    pub(super) fn extend(&mut self, place: usize, read: EntryRead) -> bool {
        let EntryLocation { file, offset, .. } = read.location;
        let end = offset + read.length() as u64;
        let near = file == self.file && offset >= self.end && offset - self.end <= GAP_BYTES_MAX;
        if !near || end - self.start > RUN_BYTES_MAX {
            return false;
        }
        self.end = end;
        self.entries.push((place, read));
        true
    }

    pub(super) fn action(&self) -> DiskAction {
        let length = usize::try_from(self.end - self.start).expect("a run is bounded");
        DiskAction::Read { file: self.file.name(), offset: self.start, length }
    }

    /// The bytes of an entry, or fewer if fewer were read.
    pub(super) fn slice(&self, bytes: &Bytes, read: &EntryRead) -> Bytes {
        let from = usize::try_from(read.location.offset - self.start).expect("a run is bounded");
        let slice = bytes.slice(from.min(bytes.len())..(from + read.length()).min(bytes.len()));
        if slice.len() * 2 < bytes.len() { Bytes::copy_from_slice(&slice) } else { slice }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{FileSequence, GroupId, LogIndex, Term};

    fn read(index: u64, file: u64, offset: u64, length: u32) -> EntryRead {
        let file = EntryFile::Wal(FileSequence(file));
        let location = EntryLocation { file, offset, context_length: 0, data_length: length, crc: 0 };
        EntryRead { group: GroupId(1), index: LogIndex(index), term: Term(1), location }
    }

    #[test]
    fn neighbours_are_read_together_and_others_are_not() {
        let mut run = Run::of(0, read(5, 1, 4096, 100));
        assert!(run.extend(1, read(6, 1, 4196, 100)));
        assert!(run.extend(2, read(7, 1, 4296 + GAP_BYTES_MAX, 100)));
        assert!(!run.extend(3, read(8, 2, 30_000, 100)), "another file");
        assert!(!run.extend(3, read(8, 1, 100, 100)), "an entry that was written before");
        assert!(!run.extend(3, read(8, 1, 30_000, RUN_BYTES_MAX as u32)), "too many bytes");
        let DiskAction::Read { offset: 4096, length, .. } = run.action() else { panic!("{run:?}") };
        let bytes = Bytes::from((0..length).map(|at| at as u8).collect::<Vec<_>>());
        let second = run.slice(&bytes, &run.entries[1].1);
        assert_eq!(second, bytes.slice(100..200));
        assert_ne!(second.as_ptr(), bytes[100..].as_ptr(), "a small one is copied");
        assert_eq!(run.slice(&bytes.slice(..150), &run.entries[1].1).len(), 50);
    }
}
