//! What can be wrong with the files of a segment.
//!
//! Damage is reported with the file and the bytes that are not what was written; nothing is changed or cut because of
//! it. Repair fetches the chunks it names from another replica, so they are named exactly.

use std::{fmt, ops::Range};

use super::checksums;
use crate::{
    ids::{GroupId, Offset},
    io::{DiskError, Exit, FileName, SegmentFile},
    limits::SEGMENT_CHUNK_BYTES,
};

/// A file of a segment does not hold what was written to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    pub file: FileName,
    /// Byte of the file at which the damaged part begins.
    pub offset: u64,
    /// Length of the damaged part; zero if the file as a whole is not what it should be.
    pub bytes: u64,
    pub kind: DamageKind,
}

/// How damage shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DamageKind {
    #[error("the bytes of this chunk do not have the checksum that was recorded for them")]
    ChunkChecksum,
    #[error("the write-ahead log leads to other bytes than the checksum recorded for this chunk")]
    ChunkRegenerated,
    #[error("the write-ahead log leads to a longer segment than the one that was closed here")]
    SegmentRegenerated,
    #[error("the write-ahead log continues at offset {expected}, which is not the segment that follows on the disk")]
    SegmentOrder { expected: i64 },
    #[error("the file ends here, but checksums of {proven} bytes were recorded")]
    Short { proven: u64 },
    #[error("checksums were recorded for a file that does not exist")]
    Missing,
    #[error("a read returned fewer bytes than the file holds")]
    ReadShort,
    #[error("there is no record batch at this byte")]
    NoBatch,
    #[error("the header of the checksum file is not ours")]
    ChecksumHeader,
    #[error("the checksum file belongs to another segment")]
    ChecksumOwner,
    #[error("the checksum file has version {version}, which this build does not know")]
    ChecksumVersion { version: u16 },
    #[error("a recorded checksum is damaged although a later one was written after it was safe")]
    ChecksumEntry,
    #[error("a checksum follows the one that closed the segment")]
    ChecksumBehindClosing,
    #[error("the checksum file contradicts a checkpoint")]
    ChecksumContradiction,
    #[error("there is a segment here that a checkpoint does not know")]
    SegmentUnknown,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is damaged at byte {}: {}", self.file.path(), self.offset, self.kind)
    }
}

impl std::error::Error for Damage {}

impl Damage {
    /// Something is wrong with a file as a whole.
    pub(super) fn whole(file: FileName, kind: DamageKind) -> Self {
        Self { file, offset: 0, bytes: 0, kind }
    }

    /// A chunk of a segment.
    pub(super) fn chunk(file: FileName, chunk: usize, kind: DamageKind) -> Self {
        Self::chunks(file, chunk..chunk + 1, kind)
    }

    pub(super) fn chunks(file: FileName, chunks: Range<usize>, kind: DamageKind) -> Self {
        let bytes = |chunks: usize| (chunks * SEGMENT_CHUNK_BYTES) as u64;
        Self { file, offset: bytes(chunks.start), bytes: bytes(chunks.len()), kind }
    }

    /// An entry of a side file.
    pub(super) fn entry(file: FileName, number: usize, kind: DamageKind) -> Self {
        let offset = checksums::entry_offset(number);
        Self { file, offset, bytes: checksums::ENTRY_BYTES as u64, kind }
    }

    /// The group and the base offset of the segment.
    pub fn segment(&self) -> (GroupId, Offset) {
        let FileName::Segment { group, base, .. } = self.file else { unreachable!("damage of a segment's files") };
        (group, base)
    }

    /// Chunks of the segment that are lost, or whose checksums are: numbers of [`SEGMENT_CHUNK_BYTES`] each, from the
    /// first byte of its file on. `None` if nothing of the segment can be told to be sound.
    pub fn lost_chunks(&self) -> Option<Range<u64>> {
        let FileName::Segment { kind, .. } = self.file else { unreachable!("damage of a segment's files") };
        let end = self.offset + self.bytes;
        match kind {
            SegmentFile::Log if self.bytes > 0 => {
                let chunk = SEGMENT_CHUNK_BYTES as u64;
                Some(self.offset / chunk..end.div_ceil(chunk))
            }
            SegmentFile::Checksums if self.bytes > 0 && self.offset >= checksums::entry_offset(0) => {
                let entry = |at: u64| (at - checksums::entry_offset(0)) / checksums::ENTRY_BYTES as u64;
                Some(entry(self.offset)..entry(end))
            }
            SegmentFile::Log | SegmentFile::Checksums => None,
        }
    }
}

/// Why a log could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryError {
    #[error(transparent)]
    Damaged(#[from] Damage),
    #[error("{0}")]
    Disk(Exit),
}

impl From<RecoveryError> for Exit {
    fn from(error: RecoveryError) -> Self {
        match error {
            RecoveryError::Damaged(damage) => damage.into(),
            RecoveryError::Disk(exit) => exit,
        }
    }
}

impl From<Damage> for Exit {
    fn from(damage: Damage) -> Self {
        Self::Damaged { file: damage.file.path(), offset: damage.offset, what: damage.kind.to_string() }
    }
}

/// Why a read from disk returned no batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Damaged(#[from] Damage),
    #[error("reading {} failed: {error}", file.path())]
    Disk { file: FileName, error: DiskError },
}
