//! Reads a write-ahead log off a platter, as `docs/wal-format.md` describes it, to know what lies where.
//!
//! Written from the page and not with the core's own code: what judges the core must not share its mistakes. Invariant:
//! an entry is called intact only if its payload is readable and has its checksum. Lenient everywhere else: what cannot
//! be read is not there.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use bytes::Bytes;
use kauri_core::{
    ids::{FileSequence, GroupId, LogIndex, Term},
    io::FileName,
    log::checkpoint::{GroupSection, SectionPayload},
};

use super::checkpoint;
use crate::{disk::Disk, plan::Place};

const HEADER_BYTES: usize = 128;
const BLOCK_BYTES: u64 = 4_096;

/// An entry as a directory names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) group: GroupId,
    pub(super) index: LogIndex,
    pub(super) term: Term,
    pub(super) crc: u32,
    context_length: u32,
    file: FileSequence,
    payload: Range<u64>,
    /// It lies in a checkpoint whose checksums hold, and not in the log.
    in_checkpoint: bool,
}

/// What an item of a directory is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    Entry(Entry),
    /// The same bytes once more; replaces nothing.
    Fill(Entry),
    /// Of no group in particular if there is none.
    Other {
        group: Option<GroupId>,
        what: Other,
        payload: Range<u64>,
    },
}

/// Records that are no entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Other {
    HardState,
    Create,
    Destroy,
    Switch,
    Quarantine,
    CheckpointDone,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) file: FileSequence,
    pub(super) offset: u64,
    /// Exact, blocks included.
    pub(super) end: u64,
    pub(super) number: u64,
    pub(super) items: Vec<Item>,
    /// Header and both directories.
    pub(super) head_end: u64,
    previous: (FileSequence, u64),
}

/// The log of one node.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    /// In order.
    pub(super) writes: Vec<Write>,
    /// For each group the entries that nothing later replaced, and copies of them.
    groups: BTreeMap<GroupId, BTreeMap<LogIndex, Vec<Entry>>>,
    /// Up to where the state of a group that a checkpoint or a switch names holds everything.
    states: BTreeMap<GroupId, LogIndex>,
}

impl Log {
    pub(super) fn read(disk: &Disk) -> Self {
        let mut writes: Vec<Write> = Vec::new();
        for (file, size) in disk.durable_files(Place::Wal) {
            let FileName::Wal(sequence) = file else { continue };
            for write in read_file(disk, sequence, size) {
                if write.offset == 0 {
                    // What lies behind the end that it names does not belong to the log, nor do files in between.
                    let end = write.previous;
                    writes.retain(|before| before.file < end.0 || (before.file == end.0 && before.offset < end.1));
                }
                writes.push(write);
            }
        }
        let mut log = Self { writes, ..Self::default() };
        let mut sections = checkpoint::sections(disk, &log.finished(disk));
        let writes = std::mem::take(&mut log.writes);
        for write in &writes {
            let later = sections.split_off(&write.number);
            sections.into_values().flatten().for_each(|section| log.take_section(&section));
            sections = later;
            write.items.iter().for_each(|item| log.take_item(disk, write.file, item));
        }
        sections.into_values().flatten().for_each(|section| log.take_section(&section));
        log.writes = writes;
        log
    }

    /// The numbers of the checkpoints that the log says are finished.
    fn finished(&self, disk: &Disk) -> BTreeSet<u64> {
        let items = self.writes.iter().flat_map(|write| write.items.iter().map(|item| (write.file, item)));
        let payloads = items.filter_map(|(file, item)| match item {
            Item::Other { what: Other::CheckpointDone, payload, .. } => read(disk, file, payload),
            Item::Entry(_) | Item::Fill(_) | Item::Other { .. } => None,
        });
        // The version takes the first byte.
        payloads.filter_map(|payload| Some(u64::from_le_bytes(*payload.get(1..)?.first_chunk()?))).collect()
    }

    fn take_item(&mut self, disk: &Disk, file: FileSequence, item: &Item) {
        match item {
            Item::Entry(entry) => {
                let entries = self.groups.entry(entry.group).or_default();
                entries.split_off(&entry.index);
                entries.insert(entry.index, vec![entry.clone()]);
            }
            Item::Fill(entry) => {
                self.groups.entry(entry.group).or_default().entry(entry.index).or_default().push(entry.clone());
            }
            Item::Other { group: Some(group), what, payload } => {
                let entries = self.groups.entry(*group).or_default();
                match what {
                    Other::Create => {
                        entries.clear();
                        self.states.insert(*group, LogIndex::TRUNCATED_AT_CREATION);
                    }
                    Other::Destroy => {
                        entries.clear();
                        self.states.remove(group);
                    }
                    Other::Switch => {
                        let state = read(disk, file, payload).and_then(|state| GroupSection::decode(&state).ok());
                        let Some((section, _)) = state else {
                            entries.clear();
                            return;
                        };
                        // What lies behind the state stays if the log holds the very entry at which it stands.
                        let is_same =
                            |copies: &Vec<Entry>| copies.iter().any(|copy| copy.term == section.truncated_term);
                        let goes_on = entries.get(&section.applied).is_some_and(is_same);
                        let rest = entries.split_off(&LogIndex(section.applied.0 + 1));
                        *entries = if goes_on { rest } else { BTreeMap::new() };
                        self.states.insert(*group, section.applied);
                    }
                    Other::HardState | Other::Quarantine | Other::CheckpointDone => {}
                }
            }
            Item::Other { group: None, .. } => {}
        }
    }

    fn take_section(&mut self, section: &GroupSection) {
        let covered = self.states.entry(section.group).or_default();
        *covered = (*covered).max(section.applied);
        let entries = self.groups.entry(section.group).or_default();
        for (index, entry) in (section.truncated.0 + 1..).zip(&section.entries) {
            if let SectionPayload::Inline { context, crc, .. } = &entry.payload {
                entries.entry(LogIndex(index)).or_default().push(Entry {
                    group: section.group,
                    index: LogIndex(index),
                    term: entry.term,
                    crc: *crc,
                    context_length: u32::try_from(context.len()).expect("an entry is far below 4 GiB"),
                    file: FileSequence(0),
                    payload: 0..0,
                    in_checkpoint: true,
                });
            }
        }
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.groups.keys().copied()
    }

    pub(super) fn holds_group(&self, group: GroupId) -> bool {
        self.groups.contains_key(&group)
    }

    /// Whether something later has replaced the entry.
    pub(super) fn is_live(&self, entry: &Entry) -> bool {
        self.groups
            .get(&entry.group)
            .and_then(|entries| entries.get(&entry.index))
            .is_some_and(|copies| copies.iter().any(|copy| copy.term == entry.term && copy.crc == entry.crc))
    }

    /// Whether the same entry is here, whole.
    pub(super) fn has_intact(&self, disk: &Disk, entry: &Entry) -> bool {
        let copies = self.groups.get(&entry.group).and_then(|entries| entries.get(&entry.index));
        copies
            .into_iter()
            .flatten()
            .any(|copy| copy.term == entry.term && copy.crc == entry.crc && copy.is_intact(disk))
    }

    /// Term and checksum of each intact copy of an entry here.
    pub(super) fn intact(&self, disk: &Disk, group: GroupId, index: LogIndex) -> impl Iterator<Item = (Term, u32)> {
        let copies = self.groups.get(&group).and_then(|entries| entries.get(&index));
        copies.into_iter().flatten().filter(|copy| copy.is_intact(disk)).map(|copy| (copy.term, copy.crc))
    }

    /// Whether a state that is on the disk holds what the group did up to an index.
    pub(super) fn begins_behind(&self, group: GroupId, index: LogIndex) -> bool {
        self.states.get(&group).is_some_and(|covered| *covered >= index)
    }
}

impl Entry {
    pub(super) fn is_intact(&self, disk: &Disk) -> bool {
        if self.in_checkpoint {
            return true;
        }
        let length = usize::try_from(self.payload.end - self.payload.start).expect("simulated files fit into memory");
        let Some(payload) = disk.readable(FileName::Wal(self.file), self.payload.start, length) else { return false };
        let mut crc = crc32c::crc32c(&self.group.0.to_le_bytes());
        crc = crc32c::crc32c_append(crc, &self.index.0.to_le_bytes());
        crc = crc32c::crc32c_append(crc, &self.term.0.to_le_bytes());
        crc = crc32c::crc32c_append(crc, &self.context_length.to_le_bytes());
        payload.len() == length && crc32c::crc32c_append(crc, &payload) == self.crc
    }

    #[cfg(test)]
    pub(super) fn file(&self) -> FileSequence {
        self.file
    }

    pub(super) fn payload(&self) -> &Range<u64> {
        &self.payload
    }
}

fn read(disk: &Disk, file: FileSequence, range: &Range<u64>) -> Option<Bytes> {
    let length = usize::try_from(range.end - range.start).expect("simulated files fit into memory");
    disk.readable(FileName::Wal(file), range.start, length).filter(|payload| payload.len() == length)
}

/// The writes of one life of a file.
fn read_file(disk: &Disk, file: FileSequence, size: u64) -> Vec<Write> {
    let mut writes: Vec<Write> = Vec::new();
    let mut at = 0;
    while at < size {
        let last = writes.last().map_or(0, |write| write.number);
        match read_write(disk, file, at).filter(|write| write.number > last) {
            Some(write) => {
                at = write.end.max(at + BLOCK_BYTES);
                writes.push(write);
            }
            // A header that is damaged hides one write, not those behind it.
            None => at += BLOCK_BYTES,
        }
    }
    writes
}

fn read_write(disk: &Disk, file: FileSequence, offset: u64) -> Option<Write> {
    let header = disk.readable(FileName::Wal(file), offset, HEADER_BYTES)?;
    let u16_at = |at: usize| u16::from_le_bytes(header[at..at + 2].try_into().expect("two bytes"));
    let u32_at = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let u64_at = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    if header.len() < HEADER_BYTES || header[..8] != *b"KauriWAL" || u16_at(8) != 1 {
        return None;
    }
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..]);
    if crc != u32_at(12) || u64_at(24) != file.0 || u64_at(32) != offset {
        return None;
    }
    let own = u64::from(u32_at(80));
    let previous = u64::from(u32_at(88));
    let directory_at = offset + HEADER_BYTES as u64;
    let head_end = directory_at + own + previous;
    let end = (head_end + u64_at(96)).next_multiple_of(BLOCK_BYTES);
    let directory = disk.readable(FileName::Wal(file), directory_at, usize::try_from(own).ok()?);
    let directory = directory.filter(|bytes| bytes.len() as u64 == own && crc32c::crc32c(bytes) == u32_at(84))?;
    let items = read_directory(&directory, file, head_end);
    let previous = (FileSequence(u64_at(56)), u64_at(64));
    Some(Write { file, offset, end, number: u64_at(40), items, head_end, previous })
}

/// As many items as make sense.
fn read_directory(mut bytes: &[u8], file: FileSequence, payloads_at: u64) -> Vec<Item> {
    let mut items = Vec::new();
    while let Some(item) = read_item(&mut bytes, file, payloads_at) {
        items.push(item);
    }
    items
}

fn read_item(bytes: &mut &[u8], file: FileSequence, payloads_at: u64) -> Option<Item> {
    let kind = take::<1>(bytes)?[0];
    let number = |bytes: &mut &[u8]| take(bytes).map(u64::from_le_bytes);
    let small = |bytes: &mut &[u8]| take(bytes).map(u32::from_le_bytes);
    let range = |place: u32, length: u64| {
        let start = payloads_at + u64::from(place);
        start..start + length
    };
    let blob = |bytes: &mut &[u8]| {
        let (place, length) = (small(bytes)?, small(bytes)?);
        small(bytes)?;
        Some(range(place, u64::from(length)))
    };
    let other = |group, payload, what| Some(Item::Other { group, what, payload });
    let nothing = payloads_at..payloads_at;
    match kind {
        1 | 3 => {
            take::<1>(bytes)?;
            let (group, index, term) = (GroupId(number(bytes)?), LogIndex(number(bytes)?), Term(number(bytes)?));
            let (place, context_length, data_length) = (small(bytes)?, small(bytes)?, small(bytes)?);
            let crc = small(bytes)?;
            let payload = range(place, u64::from(context_length) + u64::from(data_length));
            let entry = Entry { group, index, term, crc, context_length, file, payload, in_checkpoint: false };
            Some(if kind == 1 { Item::Entry(entry) } else { Item::Fill(entry) })
        }
        2 => {
            let group = GroupId(number(bytes)?);
            take::<32>(bytes)?;
            other(Some(group), nothing, Other::HardState)
        }
        4 | 6 => {
            let group = GroupId(number(bytes)?);
            number(bytes)?;
            other(Some(group), blob(bytes)?, if kind == 4 { Other::Create } else { Other::Switch })
        }
        5 => {
            let group = GroupId(number(bytes)?);
            number(bytes)?;
            other(Some(group), nothing, Other::Destroy)
        }
        7 => {
            let group = GroupId(number(bytes)?);
            take::<16>(bytes)?;
            other(Some(group), blob(bytes)?, Other::Quarantine)
        }
        8 => other(None, blob(bytes)?, Other::CheckpointDone),
        _ => None,
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}
