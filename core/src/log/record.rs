//! What the WAL stores: one record per fact that must survive a crash.
//!
//! Owns the shape of records as the rest of the core sees them, and where an entry's payload lies on disk. Does not
//! own their encoding (that is [`super::wal`]) nor their meaning: `creation`, `state`, `checkpoint` and `build` are
//! opaque bytes here.
//!
//! Invariant: records of one group are replayed in the order they were appended. An entry replaces every entry of its
//! group with the same or a higher index that came before it; nothing else truncates.

use bytes::Bytes;

use crate::{
    ids::{CheckpointNumber, FileSequence, GroupId, LogIndex, ReplicaId, Term, WriteNumber},
    io::FileName,
};

/// One fact to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalRecord {
    /// A Raft entry. Truncates its group's log from its index on.
    Entry(EntryRecord),
    /// A Raft hard state; the newest one of a group counts.
    HardState {
        group: GroupId,
        replica: ReplicaId,
        term: Term,
        /// Zero: no vote in this term.
        vote: ReplicaId,
        commit: LogIndex,
    },
    /// The payload of an entry whose copy on this disk was damaged, fetched from another replica: same index, term
    /// and payload as the entry it repairs. Truncates nothing.
    Fill(EntryRecord),
    /// A replica came to be on this node.
    Create { group: GroupId, replica: ReplicaId, creation: Bytes },
    /// A replica is gone from this node for good.
    Destroy { group: GroupId, replica: ReplicaId },
    /// The group's state was replaced by a transferred one.
    Switch { group: GroupId, replica: ReplicaId, state: Bytes },
    /// Apply of the entry at `index` failed in this build; the replica is held there.
    Quarantine { group: GroupId, replica: ReplicaId, index: LogIndex, build: Bytes },
    /// A checkpoint, and everything it names, is on disk.
    CheckpointDone { checkpoint: Bytes },
}

/// A Raft entry as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryRecord {
    pub group: GroupId,
    pub index: LogIndex,
    pub term: Term,
    pub kind: EntryKind,
    pub context: Bytes,
    pub data: Bytes,
}

/// Raft's type of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    Normal,
    ConfChange,
    ConfChangeV2,
}

/// The file that holds the payload of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryFile {
    Wal(FileSequence),
    /// An entry that was not applied when the checkpoint was taken.
    Checkpoint(CheckpointNumber),
}

impl EntryFile {
    pub fn name(self) -> FileName {
        match self {
            Self::Wal(sequence) => FileName::Wal(sequence),
            Self::Checkpoint(number) => FileName::Checkpoint(number),
        }
    }
}

/// Where the payload of an entry lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryLocation {
    pub file: EntryFile,
    /// Byte offset of context ++ data in the file.
    pub offset: u64,
    pub context_length: u32,
    pub data_length: u32,
    /// CRC-32C over group, index, term, the length of the context, context and data: the same on every replica.
    pub crc: u32,
}

/// One record as recovery found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredRecord {
    /// The write it belongs to. Records of one write are all there or none is.
    pub write: WriteNumber,
    /// Entries carry their payload if it is intact, and none if it is damaged.
    pub record: WalRecord,
    /// Set for entries and fills. Names length and CRC of the payload, whether it is intact or not.
    pub location: Option<EntryLocation>,
    /// Only entries and fills are ever handed out with a damaged payload.
    pub payload: PayloadState,
}

/// Whether a payload is what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadState {
    Intact,
    /// It was durable, and its checksum does not hold any more. Group, index, term, length and CRC are known.
    Damaged,
}

/// What the WAL tells about its progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalEvent {
    /// Where an entry (or fill) lies, told when its write is laid out, before it is durable.
    Placed { group: GroupId, index: LogIndex, term: Term, location: EntryLocation },
    /// Every write up to this one is on disk.
    Durable(WriteNumber),
    /// No room for another WAL file: what is queued still fits, but produce must stop until [`WalEvent::Room`].
    Full,
    /// There is room again.
    Room,
}
