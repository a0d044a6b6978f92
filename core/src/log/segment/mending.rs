//! Brings repaired chunks, and entries of side files that were lost, to the disk.
//!
//! One step in flight: write, sync, and the sync of the directory if the file may be new. Invariant: what is written is
//! what a checksum proves or what two copies agree on, in the place where it was before, and counts as sound only after
//! the sync. Nothing else is ever written over bytes that are on disk.

use std::ops::Range;

use bytes::Bytes;

use super::{
    checksums,
    file::{CHUNK, Segment},
    operations::Operations,
};
use crate::{
    ids::{GroupId, OperationId},
    io::{Directory, DiskAction, DiskError, DiskOutput, Effects, Exit, FileName, OperationIds},
};

/// Side files are written again in whole blocks of this size, as far as their entries are known.
const BLOCK_BYTES: u64 = 4096;

#[derive(Debug, Default)]
pub(super) struct Mending {
    stage: Stage,
    operations: Operations,
}

#[derive(Clone, Debug, Default)]
enum Stage {
    #[default]
    Idle,
    /// Verified, and about to be written.
    Wanted(Mend, Vec<Bytes>),
    Writing(Mend),
    Syncing(Mend),
    SyncingDirectory(Mend),
}

#[derive(Clone, Debug)]
struct Mend {
    segment: usize,
    file: FileName,
    offset: u64,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Chunks(Range<usize>),
    Entries(Range<usize>),
}

impl Stage {
    fn mend(&self) -> Option<&Mend> {
        match self {
            Self::Idle => None,
            Self::Wanted(mend, _) | Self::Writing(mend) | Self::Syncing(mend) | Self::SyncingDirectory(mend) => {
                Some(mend)
            }
        }
    }
}

impl Mending {
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Idle)
    }

    pub(super) fn in_flight(&self) -> bool {
        !self.operations.is_empty()
    }

    /// Whether a chunk is being written again.
    pub(super) fn is_mending(&self, segment: usize, chunk: usize) -> bool {
        self.stage.mend().is_some_and(|mend| {
            mend.segment == segment && matches!(&mend.what, What::Chunks(chunks) if chunks.contains(&chunk))
        })
    }

    /// These bytes are those of the chunks.
    pub(super) fn mend_chunks(&mut self, number: usize, segment: &Segment, chunks: Range<usize>, bytes: Vec<Bytes>) {
        assert!(self.is_idle(), "one repair at a time");
        let offset = chunks.start as u64 * CHUNK;
        let mend = Mend { segment: number, file: segment.log_file(), offset, what: What::Chunks(chunks) };
        self.stage = Stage::Wanted(mend, bytes);
    }

    pub(super) fn poll(&mut self, group: GroupId, segments: &[Segment], effects: &mut Effects, ids: &mut OperationIds) {
        if !self.operations.is_empty() {
            return;
        }
        if self.is_idle()
            && let Some((mend, slice)) =
                segments.iter().enumerate().find_map(|(number, segment)| entries_of(number, segment))
        {
            self.stage = Stage::Wanted(mend, vec![slice]);
        }
        self.stage = match std::mem::take(&mut self.stage) {
            Stage::Idle => Stage::Idle,
            Stage::Wanted(mend, slices) => {
                let Mend { file, offset, .. } = mend;
                self.operations.start(DiskAction::Write { file, offset, slices }, effects, ids);
                Stage::Writing(mend)
            }
            Stage::Writing(mend) => {
                self.operations.start(DiskAction::Sync { file: mend.file }, effects, ids);
                Stage::Syncing(mend)
            }
            Stage::Syncing(mend) => {
                // The file may have been gone, and this write have made it anew.
                let directory = Directory::Group(group);
                self.operations.start(DiskAction::SyncDirectory { directory }, effects, ids);
                Stage::SyncingDirectory(mend)
            }
            Stage::SyncingDirectory(_) => unreachable!("it ends with its only operation"),
        };
    }

    pub(super) fn owns(&self, id: OperationId) -> bool {
        self.operations.holds(id)
    }

    /// An operation that is [owned](Self::owns) is over. [`Mending::poll`] must follow.
    pub(super) fn handle(
        &mut self,
        segments: &mut [Segment],
        id: OperationId,
        result: Result<DiskOutput, DiskError>,
    ) -> Result<(), Exit> {
        let operation = self.operations.take(id).expect("the caller asked whose it is");
        match (&self.stage, result) {
            // It stays marked and is tried again.
            (Stage::Writing(_), Err(DiskError::Full)) => self.stage = Stage::Idle,
            (_, result) => {
                operation.check(result)?;
            }
        }
        if let Stage::SyncingDirectory(mend) = &self.stage {
            let marks = &mut segments[mend.segment].marks;
            match mend.what.clone() {
                What::Chunks(chunks) => chunks.for_each(|chunk| marks.is_sound(chunk)),
                What::Entries(entries) => marks.restored(entries),
            }
            self.stage = Stage::Idle;
        }
        Ok(())
    }

    /// For a log that is removed: what is under way is waited for, and leads to nothing.
    pub(super) fn abandon(&mut self, id: OperationId, result: Result<DiskOutput, DiskError>) -> Result<(), Exit> {
        let operation = self.operations.take(id).expect("the caller asked whose it is");
        match result {
            Err(DiskError::Full) => Ok(()),
            result => operation.check(result).map(drop),
        }
    }
}

/// A write of lost entries whose chunks are known, with those beside them in the same block.
fn entries_of(number: usize, segment: &Segment) -> Option<(Mend, Bytes)> {
    if !segment.known || !segment.marks.has_lost_entries() {
        return None;
    }
    let entries = segment.recorded_entries();
    let is_known = |entry: usize| entry < entries && segment.marks.knows_checksum(entry);
    let has_header = segment.marks.has_lost_header();
    let lost = if has_header { 0 } else { segment.marks.lost_entries().find(|entry| is_known(*entry))? };
    let block = |entry: usize| checksums::entry_offset(entry) / BLOCK_BYTES;
    let beside = |entry: &usize| is_known(*entry) && block(*entry) == block(lost);
    let first = (0..lost).rev().take_while(beside).last().unwrap_or(lost);
    let end = (lost..entries).take_while(beside).last().map_or(lost, |last| last + 1);
    let mut slice = Vec::new();
    if first == 0 {
        slice.extend_from_slice(&checksums::encode_header(segment.group, segment.base));
    }
    // Each counts as a write of its own: the bytes that it proves are on disk, whatever becomes of the others.
    for entry in first..end {
        let bytes = checksums::encode_entries(segment.group, segment.base, entry, &[segment.side_entry(entry)]);
        slice.extend_from_slice(&bytes);
    }
    let offset = if first == 0 { 0 } else { checksums::entry_offset(first) };
    let mend = Mend { segment: number, file: segment.checksum_file(), offset, what: What::Entries(first..end) };
    Some((mend, slice.into()))
}
