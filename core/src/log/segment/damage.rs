//! What can be wrong with the files of a segment.
//!
//! Damage is reported with the file and the byte where it begins; nothing is changed or cut because of it.

use std::fmt;

use crate::{
    io::{DiskError, Exit, FileName},
    limits::SEGMENT_CHUNK_BYTES,
};

/// A file of a segment does not hold what was written to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    pub file: FileName,
    /// Byte of the file at which the damaged part begins.
    pub offset: u64,
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
    #[error("checksums of this segment exist although the segment before it was never completed")]
    ChecksumOrder,
    #[error("the checksum file is longer than any segment needs")]
    ChecksumLength,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is damaged at byte {}: {}", self.file.path(), self.offset, self.kind)
    }
}

impl std::error::Error for Damage {}

impl Damage {
    pub(super) fn chunk(file: FileName, chunk: usize, kind: DamageKind) -> Self {
        Self { file, offset: (chunk * SEGMENT_CHUNK_BYTES) as u64, kind }
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
