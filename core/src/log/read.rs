//! Reads one entry's payload back from the WAL or a checkpoint.
//!
//! Owns the way from an [`EntryLocation`] to a read operation and from the bytes to a checked payload. Invariant:
//! bytes leave only if they are the payload of this very group, index and term. Issues nothing itself.

use bytes::Bytes;

use super::{record::EntryLocation, wal::format::entry_payload_crc};
use crate::{
    ids::{GroupId, LogIndex, Term},
    io::{DiskAction, Exit},
};

/// One entry to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRead {
    pub group: GroupId,
    pub index: LogIndex,
    pub term: Term,
    pub location: EntryLocation,
}

/// The payload on disk is not the one that was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{file} is damaged at byte {offset}: the payload of entry {index} of group {group}, term {term}, is not what was written"
)]
pub struct DamagedEntry {
    pub file: String,
    pub offset: u64,
    pub group: GroupId,
    pub index: LogIndex,
    pub term: Term,
}

impl From<DamagedEntry> for Exit {
    fn from(damaged: DamagedEntry) -> Self {
        let DamagedEntry { file, offset, group, index, term } = damaged;
        Self::Damaged {
            file,
            offset,
            what: format!("the payload of entry {index} of group {group}, term {term}, is not what was written"),
        }
    }
}

impl EntryRead {
    /// Bytes of the payload.
    pub fn length(&self) -> usize {
        self.location.context_length as usize + self.location.data_length as usize
    }

    /// The operation to issue; `None` if the payload is empty and there is nothing to read.
    pub fn action(&self) -> Option<DiskAction> {
        let EntryLocation { file, offset, .. } = self.location;
        let length = self.length();
        (length > 0).then_some(DiskAction::Read { file: file.name(), offset, length })
    }

    /// Context and data, from what the operation read (nothing for an empty payload).
    ///
    /// # Errors
    ///
    /// [`DamagedEntry`] if the bytes are too few or fail their checksum.
    pub fn check(&self, mut payload: Bytes) -> Result<(Bytes, Bytes), DamagedEntry> {
        let Self { group, index, term, location } = *self;
        let crc = entry_payload_crc(group, index, term, location.context_length, &payload);
        if payload.len() != self.length() || crc != location.crc {
            let file = location.file.name().path();
            return Err(DamagedEntry { file, offset: location.offset, group, index, term });
        }
        let context = payload.split_to(location.context_length as usize);
        Ok((context, payload))
    }
}
