//! Committed entries, in order.
//!
//! Owns how far entries were handed out and applied. Raft's own entries are dealt with here: a new leader's empty
//! entry means nothing, a membership change is applied when everything before it is.

use raft::prelude::EntryType;

use super::Group;
use crate::{
    command::{CommandHeader, Entry, HeaderError},
    ids::LogIndex,
    log::record::EntryKind,
};

/// What [`Group::next_committed`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// Apply these, then tell [`Group::applied_to`]. Never empty.
    Entries(Vec<Entry>),
    /// The next entry is being read from disk; see [`super::GroupOutput::fetches`].
    Reading,
    /// Nothing is left that is committed and durable here, or what was handed out has to be applied first.
    None,
}

/// Why an entry cannot be applied: this replica has to be held before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    #[error("the command at {index} is not understood: {error}")]
    Header { index: LogIndex, error: HeaderError },
}

impl Group {
    /// The next committed entries, at most `bytes` of payload but at least one. Only what is durable on this replica
    /// too: an applied entry is never lost.
    pub fn next_committed(&mut self, bytes: usize) -> Result<Committed, ApplyError> {
        let end = self.commit_index().min(self.persisted_index());
        let mut entries = Vec::new();
        let mut size = 0;
        while self.delivered < end {
            let index = self.delivered.next();
            let log = self.node.store();
            if log.is_faulty(index) {
                break;
            }
            size += log.entry_bytes(index);
            if !entries.is_empty() && size > bytes {
                break;
            }
            let Some(payload) = log.payload(index) else {
                if entries.is_empty() {
                    self.fetch(index, None);
                    return Ok(Committed::Reading);
                }
                break;
            };
            let entry_type = match log.kind(index) {
                EntryKind::Normal if payload.bytes() == 0 => {
                    self.pass(index);
                    continue;
                }
                EntryKind::Normal => {
                    let header = match CommandHeader::decode_understood(&payload.context) {
                        Ok(header) => header,
                        Err(_) if !entries.is_empty() => break,
                        Err(error) => return Err(ApplyError::Header { index, error }),
                    };
                    let term = log.log_term(index);
                    entries.push(Entry { index, term, header, data: payload.data });
                    self.delivered = index;
                    continue;
                }
                EntryKind::ConfChange => EntryType::EntryConfChange,
                EntryKind::ConfChangeV2 => EntryType::EntryConfChangeV2,
            };
            if self.applied < self.delivered {
                break;
            }
            self.apply_membership(index, entry_type, &payload.data);
            self.pass(index);
        }
        Ok(if entries.is_empty() { Committed::None } else { Committed::Entries(entries) })
    }

    /// Everything that was handed out up to `index` is applied.
    pub fn applied_to(&mut self, index: LogIndex) {
        assert!(self.applied < index && index <= self.delivered, "apply follows what was handed out");
        self.applied = index;
        // Entries behind it that mean nothing are applied with it.
        while self.applied < self.delivered {
            let next = self.applied.next();
            let log = self.node.store();
            if log.kind(next) != EntryKind::Normal || log.entry_bytes(next) > 0 {
                break;
            }
            self.applied = next;
        }
        self.note_applied();
    }

    /// The entry at `index` needs no apply; it counts as applied when everything before it is.
    fn pass(&mut self, index: LogIndex) {
        let is_next = self.applied == self.delivered;
        self.delivered = index;
        if is_next {
            self.applied = index;
            self.note_applied();
        }
    }

    fn note_applied(&mut self) {
        let applied = self.applied;
        self.node.mut_store().apply_to(applied);
        self.raft(|node| node.advance_apply_to(applied.0));
    }
}
