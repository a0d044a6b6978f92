//! A group as a section of a checkpoint, and a start from one.
//!
//! Owns which part of the log goes into a section: everything that is not applied, with its payload, and the newest
//! applied entries by their places, because a member that is a little behind may still need them after a restart of
//! this replica. Does not own the state machine, which its caller adds.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{
    Group, GroupStart, HardState, LogView, Membership, MembershipDecodeError, Payload, ReplicationState, StartError,
};
use crate::{
    ids::{FileSequence, LogIndex, ReplicaId, Term, WriteNumber},
    limits,
    log::{
        checkpoint::{FoundSection, GroupSection, MachineImage, Quarantine, SectionEntry, SectionPayload},
        record::{EntryFile, EntryKind, EntryLocation},
        wal::entry_crc,
    },
};

/// What a group's caller adds to its section.
#[derive(Clone, Debug)]
pub struct SectionParts {
    pub creation: Bytes,
    pub image: MachineImage,
    pub log: Option<Vec<Bytes>>,
    pub quarantine: Option<Quarantine>,
}

/// An entry that a section held with its payload.
#[derive(Clone, Debug)]
pub struct InlineEntry {
    pub index: LogIndex,
    pub term: Term,
    pub kind: EntryKind,
    pub location: EntryLocation,
    pub payload: Payload,
}

/// Why a group cannot be built from a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SectionStartError {
    #[error(transparent)]
    Membership(#[from] MembershipDecodeError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("the entry {index} is not applied, and lies in {file}, which is gone")]
    Gone { index: LogIndex, file: EntryFileName },
}

/// For sentences about files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryFileName(pub EntryFile);

impl std::fmt::Display for EntryFileName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.name().path())
    }
}

impl Group {
    /// What a checkpoint says about this replica. `write`: everything of this group in writes of the WAL up to this one
    /// was handed out by now.
    pub fn section(&self, write: WriteNumber, parts: SectionParts) -> GroupSection {
        let log = self.log();
        let located = LogIndex(self.applied.0.saturating_sub(limits::CHECKPOINT_LOCATED_ENTRIES_MAX));
        // An applied entry is durable and has a place; should one have none, nothing up to it can be named.
        let truncated = (located.max(log.truncated_index()).0..self.applied.0)
            .map(|index| LogIndex(index + 1))
            .filter(|index| log.location(*index).is_none())
            .last()
            .unwrap_or(located.max(log.truncated_index()));
        let entries = (truncated.0 + 1..=log.last_log_index().0).map(|index| self.section_entry(LogIndex(index)));
        let members = self.membership.members();
        GroupSection {
            group: self.group,
            replica: self.replica,
            write,
            creation: parts.creation,
            term: self.written.term,
            vote: self.written.vote.unwrap_or(ReplicaId(0)),
            commit: self.written.commit.max(self.applied),
            applied: self.applied,
            truncated,
            truncated_term: log.log_term(truncated),
            membership: self.membership.encode().into(),
            introduced: self.known.difference(&members).copied().collect(),
            removed: self.removed.clone(),
            image: parts.image,
            log: parts.log,
            entries: entries.collect(),
            quarantine: parts.quarantine,
        }
    }

    fn section_entry(&self, index: LogIndex) -> SectionEntry {
        let log = self.log();
        let (term, kind, location) = (log.log_term(index), log.kind(index), log.location(index));
        let payload = match (location, log.payload(index).or_else(|| self.payload_of_repair(index).cloned())) {
            (Some(location), None) if log.is_faulty(index) => SectionPayload::Lost(location),
            (Some(location), _) if index <= self.applied => SectionPayload::Located(location),
            (Some(location), None) => SectionPayload::Located(location),
            (location, payload) => {
                let Payload { context, data } = payload.expect("what has no place on disk yet is in memory");
                let crc = location
                    .map_or_else(|| entry_crc(self.group, index, term, &context, &data), |location| location.crc);
                SectionPayload::Inline { context, data, crc }
            }
        };
        SectionEntry { term, kind, payload }
    }

    /// The first entry that a member needs to get from this log, if this replica leads. A member whose end lies before
    /// the log gets the state instead.
    pub fn first_needed_by_members(&self) -> Option<LogIndex> {
        let truncated = self.log().truncated_index();
        let behind = self.progress().into_iter().filter(|member| {
            member.replica != self.replica
                && member.state != ReplicationState::Snapshot
                && member.matched >= truncated
                && member.matched < self.last_index()
        });
        behind.map(|member| member.matched.next()).min()
    }

    /// The file in which an entry lies; `None` while it waits for its write, and for one that the log does not hold.
    pub fn file_of(&self, index: LogIndex) -> Option<EntryFile> {
        let log = self.log();
        let is_there = log.truncated_index() < index && index <= log.last_log_index();
        // Of what is lost, nothing is needed where it lay.
        (is_there && !log.is_faulty(index)).then(|| log.location(index)).flatten().map(|location| location.file)
    }

    /// The files in which the entries from `first` on lie.
    pub fn files_from(&self, first: LogIndex) -> BTreeSet<EntryFile> {
        self.log().files_from(first)
    }

    /// Everything in these files will be gone. Forgets the log up to the last applied entry that lies in one of them.
    /// What is not applied must lie elsewhere by now.
    pub fn release(&mut self, is_released: impl Fn(EntryFile) -> bool) {
        if let Some(index) = self.log().last_in(self.applied, is_released) {
            self.compact(index);
        }
    }
}

impl GroupStart {
    /// What a section says. `is_here`: whether a file that holds entries exists; applied entries in others, and all
    /// before them, count as compacted.
    pub fn from_section(
        found: &FoundSection,
        is_here: impl Fn(EntryFile) -> bool,
    ) -> Result<(Self, Vec<InlineEntry>), SectionStartError> {
        let section = &found.section;
        let index_of = |place: usize| LogIndex(section.truncated.0 + 1 + place as u64);
        let mut truncated = (section.truncated, section.truncated_term);
        for (place, entry) in section.entries.iter().enumerate() {
            let SectionPayload::Located(location) = &entry.payload else { continue };
            let index = index_of(place);
            if is_here(location.file) {
                continue;
            }
            if index > section.applied {
                return Err(SectionStartError::Gone { index, file: EntryFileName(location.file) });
            }
            truncated = (index, entry.term);
        }
        let mut log = LogView::new(truncated.0, truncated.1);
        let mut inline = Vec::new();
        let mut placed = found.placed.iter();
        for (place, entry) in section.entries.iter().enumerate() {
            let (index, term, kind) = (index_of(place), entry.term, entry.kind);
            let location = match &entry.payload {
                SectionPayload::Located(location) => *location,
                SectionPayload::Lost(location) => {
                    log.recover_damaged(index, term, kind, *location)?;
                    continue;
                }
                SectionPayload::Inline { context, data, .. } => {
                    let location = placed.next().expect("each inline entry has a place").location;
                    let payload = Payload { context: context.clone(), data: data.clone() };
                    inline.push(InlineEntry { index, term, kind, location, payload });
                    location
                }
            };
            log.recover(index, term, kind, location)?;
        }
        let start = Self {
            group: section.group,
            replica: section.replica,
            hard_state: HardState {
                term: section.term,
                vote: (section.vote != ReplicaId(0)).then_some(section.vote),
                commit: section.commit,
            },
            log,
            applied: section.applied,
            membership: Membership::decode(&section.membership)?,
            introduced: section.introduced.clone(),
            removed: section.removed.clone(),
        };
        start.check()?;
        Ok((start, inline))
    }

    /// A lost payload was replaced by one that lies here. Ignored if the log does not hold that entry.
    pub fn fill(&mut self, index: LogIndex, term: Term, location: EntryLocation) {
        self.log.fill(index, term, location);
    }

    /// The payload that lies here is lost. Ignored if the log does not hold that entry there.
    pub fn lose(&mut self, index: LogIndex, term: Term, location: EntryLocation) {
        if self.log.holds(index, term, location) && self.log.entry_bytes(index) > 0 {
            self.log.mark_faulty(index);
        }
    }

    /// Keeps the payload of an entry that is not applied, as it was kept before the restart.
    pub fn supply(&mut self, index: LogIndex, term: Term, payload: Payload) {
        self.log.supply(index, term, payload.detached());
    }

    /// The files that a start from this section needs, because entries that are not applied lie there.
    pub fn files_needed(section: &GroupSection) -> BTreeSet<EntryFile> {
        let indexes = (section.truncated.0 + 1..).map(LogIndex);
        let unapplied = section.entries.iter().zip(indexes).filter(|(_, index)| *index > section.applied);
        let files = unapplied.filter_map(|(entry, _)| match &entry.payload {
            SectionPayload::Located(location) => Some(location.file),
            SectionPayload::Inline { .. } | SectionPayload::Lost(_) => None,
        });
        files.collect()
    }

    /// The oldest WAL file that a section's entries lie in.
    pub fn oldest_wal_file(section: &GroupSection) -> Option<FileSequence> {
        let files = section.entries.iter().filter_map(|entry| match &entry.payload {
            SectionPayload::Located(location) => match location.file {
                EntryFile::Wal(sequence) => Some(sequence),
                EntryFile::Checkpoint(_) => None,
            },
            SectionPayload::Inline { .. } | SectionPayload::Lost(_) => None,
        });
        files.min()
    }
}
