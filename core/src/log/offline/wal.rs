//! One WAL file after the other: its writes, their records, and what of them is not intact.
//!
//! Invariant: a record is reported as intact only if the chain header, directory, payload holds for it. Whether a
//! missing write is damage or the end of the log is decided by [`damage`], which sees all files: a write that a later
//! one names as its predecessor was there.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{
    Finding,
    checkpoint::CheckpointFile,
    lost::{EntryKey, Lost, Mark, Marks},
};
use crate::{
    ids::{FileSequence, GroupId, LogIndex, ReplicaId, Term, WriteNumber},
    io::FileName,
    limits::WAL_BLOCK_BYTES,
    log::wal::{
        WalKey,
        format::{Directory, Header, HeaderError, Item, PreviousWrite},
    },
};

/// What one file holds.
#[derive(Clone, Debug)]
pub struct WalFile {
    pub file: FileSequence,
    pub bytes: u64,
    /// Writes of this life of the file, in the order of their places.
    pub writes: Vec<WalWrite>,
    /// Why a header could not be read at all, with its place: another data directory's, or a newer build's.
    pub unreadable: Option<(u64, String)>,
}

/// One write, as far as it can be read.
#[derive(Clone, Debug)]
pub struct WalWrite {
    pub number: WriteNumber,
    pub offset: u64,
    /// Where the next write starts.
    pub end: u64,
    pub records: u32,
    header_crc: u32,
    previous: PreviousWrite,
    damage: Vec<Finding>,
    marks: Vec<Mark>,
    /// There is no readable header between the write before and this one, from here on.
    gap: Option<u64>,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalItem {
    pub write: WriteNumber,
    /// Where its payload lies, or its write if it has none.
    pub offset: u64,
    /// Bytes of payload.
    pub length: u64,
    pub intact: bool,
    pub kind: WalItemKind,
    /// Empty if it is not intact.
    pub payload: Bytes,
}

/// What a record says, without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalItemKind {
    Entry { group: GroupId, index: LogIndex, term: Term },
    HardState { group: GroupId, replica: ReplicaId, term: Term, vote: ReplicaId, commit: LogIndex },
    Fill { group: GroupId, index: LogIndex, term: Term },
    Create { group: GroupId, replica: ReplicaId },
    Destroy { group: GroupId, replica: ReplicaId },
    Switch { group: GroupId, replica: ReplicaId },
    Quarantine { group: GroupId, replica: ReplicaId, index: LogIndex },
    CheckpointDone,
}

impl WalItemKind {
    /// The group it belongs to; none for what concerns all.
    pub fn group(self) -> Option<GroupId> {
        match self {
            Self::Entry { group, .. }
            | Self::HardState { group, .. }
            | Self::Fill { group, .. }
            | Self::Create { group, .. }
            | Self::Destroy { group, .. }
            | Self::Switch { group, .. }
            | Self::Quarantine { group, .. } => Some(group),
            Self::CheckpointDone => None,
        }
    }

    fn of(item: Item) -> Self {
        match item {
            Item::Entry(entry) => Self::Entry { group: entry.group, index: entry.index, term: entry.term },
            Item::Fill(entry) => Self::Fill { group: entry.group, index: entry.index, term: entry.term },
            Item::HardState { group, replica, term, vote, commit } => {
                Self::HardState { group, replica, term, vote, commit }
            }
            Item::Create { group, replica, .. } => Self::Create { group, replica },
            Item::Destroy { group, replica } => Self::Destroy { group, replica },
            Item::Switch { group, replica, .. } => Self::Switch { group, replica },
            Item::Quarantine { group, replica, index, .. } => Self::Quarantine { group, replica, index },
            Item::CheckpointDone { .. } => Self::CheckpointDone,
        }
    }
}

/// Reads a whole file. `each` is told every record that a directory names.
pub fn scan(key: WalKey, file: FileSequence, bytes: &Bytes, mut each: impl FnMut(&WalItem)) -> WalFile {
    let mut found = WalFile { file, bytes: bytes.len() as u64, writes: Vec::new(), unreadable: None };
    let (mut at, mut gap) = (0, None);
    let mut marks = Marks::default();
    while at < bytes.len() {
        match Header::decode(&bytes[at..], key) {
            Ok((header, crc)) if header.belongs(file, at as u64) => {
                let write = check_write(&header, crc, bytes, gap.take(), &mut marks, &mut each);
                at = usize::try_from(write.end).unwrap_or(usize::MAX);
                found.writes.push(write);
            }
            Err(HeaderError::Foreign) if at == 0 => {
                found.unreadable = Some((0, "it was written for another data directory".to_owned()));
                break;
            }
            Err(HeaderError::Version(version)) => {
                let what = format!("format version {version} is of a newer build, which has to be asked");
                found.unreadable = Some((at as u64, what));
                break;
            }
            // Not written yet, of an earlier life of the file, a payload, or damaged: what comes later will tell.
            Ok(_) | Err(HeaderError::Absent | HeaderError::Foreign) => {
                gap.get_or_insert(at as u64);
                at += WAL_BLOCK_BYTES;
            }
        }
    }
    found
}

fn check_write(
    header: &Header,
    header_crc: u32,
    bytes: &Bytes,
    gap: Option<u64>,
    marks: &mut Marks,
    each: &mut impl FnMut(&WalItem),
) -> WalWrite {
    let mut write = WalWrite {
        number: header.number,
        offset: header.offset,
        end: header.end().max(header.offset + WAL_BLOCK_BYTES as u64),
        records: header.items,
        header_crc,
        previous: header.previous,
        damage: Vec::new(),
        marks: Vec::new(),
        gap,
    };
    let finding = |offset: u64, what: String| Finding { file: FileName::Wal(header.file), offset, what, entry: None };
    if (bytes.len() as u64) < header.file_bytes {
        let what = format!("the file ends here, but had {} bytes before its first write", header.file_bytes);
        write.damage.push(finding(bytes.len() as u64, what));
    }
    let place = |start: u64, length: u64| -> Option<Bytes> {
        let end = start.checked_add(length)?;
        (end <= bytes.len() as u64).then(|| bytes.slice(to_usize(start)..to_usize(end)))
    };
    let start = header.directory_start();
    let own = u64::from(header.directory.length);
    let directory = place(start, own).filter(|directory| header.directory.matches(directory));
    let copy = place(start + own, u64::from(header.previous_directory.length));
    if !copy.is_some_and(|copy| header.previous_directory.matches(&copy)) {
        let what = format!("the copy of the previous directory in write {} is damaged", header.number);
        // Where recovery reports it, too: it takes both directories for one.
        write.damage.push(finding(start, what));
    }
    let Some(directory) = directory else {
        write.damage.push(finding(start, format!("the directory of write {} is damaged", header.number)));
        return write;
    };
    let mut items = Directory::new(directory, header);
    loop {
        let item = match items.next_item() {
            Ok(Some(item)) => item,
            Ok(None) => break,
            Err(error) => {
                write.damage.push(finding(start, format!("the directory of write {}: {error}", header.number)));
                break;
            }
        };
        let (behind, length) = item.payload().unwrap_or((0, 0));
        let offset = header.payload_start().saturating_add(u64::from(behind));
        let (expected, seed) = item.checksum();
        let payload = place(offset, length).filter(|payload| {
            // Without a payload there is nothing to be wrong.
            item.payload().is_none() || crc32c::crc32c_append(seed, payload) == expected
        });
        let intact = payload.is_some() || item.payload().is_none();
        let kind = WalItemKind::of(item);
        if !intact {
            let entry = match kind {
                WalItemKind::Entry { group, index, .. } | WalItemKind::Fill { group, index, .. } => {
                    Some((group, index))
                }
                WalItemKind::HardState { .. }
                | WalItemKind::Create { .. }
                | WalItemKind::Destroy { .. }
                | WalItemKind::Switch { .. }
                | WalItemKind::Quarantine { .. }
                | WalItemKind::CheckpointDone => None,
            };
            let what = format!("a payload of write {} is damaged", header.number);
            write.damage.push(Finding { entry, ..finding(offset, what) });
        }
        let payload = payload.unwrap_or_default();
        mark(kind, expected, (offset, intact), &payload, marks, &mut write.marks);
        let offset = if item.payload().is_some() { offset } else { header.offset };
        each(&WalItem { write: header.number, offset, length, intact, kind, payload });
    }
    write
}

/// What a record means for lost payloads.
fn mark(
    kind: WalItemKind,
    crc: u32,
    (offset, intact): (u64, bool),
    payload: &Bytes,
    marks: &mut Marks,
    out: &mut Vec<Mark>,
) {
    match kind {
        WalItemKind::Entry { group, index, term } => {
            marks.entry(EntryKey { group, index, term, crc }, offset, intact, out);
        }
        WalItemKind::Fill { group, index, term } => {
            if intact {
                out.push(Mark::Filled { key: EntryKey { group, index, term, crc } });
            }
        }
        WalItemKind::Create { group, .. } | WalItemKind::Destroy { group, .. } => out.push(Mark::Gone { group }),
        WalItemKind::Switch { group, .. } => Marks::switch(group, payload, out),
        WalItemKind::HardState { .. } | WalItemKind::Quarantine { .. } | WalItemKind::CheckpointDone => {}
    }
}

fn to_usize(place: u64) -> usize {
    usize::try_from(place).expect("it lies within bytes in memory")
}

/// What is wrong with the log that these files form. `base`: the oldest file that recovery needs, if a checkpoint says
/// so; without one the log must reach back to its very first write. `newest`: the checkpoint that a start begins with,
/// if there is one.
pub fn damage(files: &[WalFile], base: Option<FileSequence>, newest: Option<&CheckpointFile>) -> Vec<Finding> {
    let by_sequence: BTreeMap<FileSequence, &WalFile> = files.iter().map(|file| (file.file, file)).collect();
    let mut findings = Vec::new();
    // The end of a file that its successor names; until one does, the last intact header ends it.
    let mut ends: BTreeMap<FileSequence, u64> = BTreeMap::new();
    let mut needed = None;
    for file in by_sequence.values().rev() {
        if base.is_some_and(|base| file.file < base) {
            break;
        }
        if let Some((offset, what)) = &file.unreadable {
            let file = FileName::Wal(file.file);
            findings.push(Finding { file, offset: *offset, what: what.clone(), entry: None });
        }
        let end = ends.get(&file.file).copied();
        if end.is_none() && needed.is_some() {
            // No newer file leads here: it is kept for reuse.
            continue;
        }
        check_file(file, end, &mut findings);
        let Some(first) = file.writes.first() else { continue };
        if first.offset > 0 {
            // What the first header said of the file before it is lost; nothing newer than that file leads there.
            break;
        }
        // A torn first write says where the file before it ends, whether it counts itself or not.
        needed = Some(first.previous.file);
        if first.previous.file.0 == 0 || base.is_some_and(|base| first.previous.file < base) {
            break;
        }
        match by_sequence.get(&first.previous.file) {
            Some(_) => {
                ends.insert(first.previous.file, first.previous.end);
            }
            None => {
                findings.push(Finding {
                    file: FileName::Wal(first.previous.file),
                    offset: 0,
                    what: format!(
                        "the file is missing, though a later file names byte {} as its end",
                        first.previous.end
                    ),
                    entry: None,
                });
                break;
            }
        }
    }
    findings.reverse();
    let lost = lost(by_sequence.values().copied(), newest);
    let is_lost = |finding: &Finding| match finding.file {
        FileName::Wal(sequence) => lost.contains(&(sequence, finding.offset)),
        FileName::Identity
        | FileName::IdentityNew
        | FileName::Checkpoint(_)
        | FileName::Image { .. }
        | FileName::Segment { .. } => true,
    };
    findings.retain(|finding| finding.entry.is_none() || is_lost(finding));
    findings
}

/// Places of damaged payloads that the node cannot do without. `files`: in their order.
fn lost<'a>(
    files: impl Iterator<Item = &'a WalFile>,
    newest: Option<&CheckpointFile>,
) -> BTreeSet<(FileSequence, u64)> {
    let mut lost = Lost::default();
    for file in files {
        file.writes.iter().flat_map(|write| &write.marks).for_each(|mark| lost.take(file.file, *mark));
    }
    if let Some(newest) = newest {
        newest.applied.iter().for_each(|(group, index)| lost.is_applied(*group, *index));
        newest.entries.iter().for_each(|(group, index)| lost.is_elsewhere(*group, *index));
    }
    lost.places()
}

/// `end`: where the next file says this one ends.
fn check_file(file: &WalFile, end: Option<u64>, findings: &mut Vec<Finding>) {
    let name = FileName::Wal(file.file);
    let mut found = Vec::new();
    let proven = |write: &WalWrite| end.is_none_or(|end| write.offset < end);
    let writes: Vec<&WalWrite> = file.writes.iter().filter(|write| proven(write)).collect();
    let mut before: Option<&WalWrite> = None;
    for (number, write) in writes.iter().enumerate() {
        if let Some(gap) = write.gap {
            let what = format!("there is no readable header here, but the log goes on at byte {}", write.offset);
            found.push(Finding { file: name, offset: gap, what, entry: None });
        } else if let Some(before) = before {
            let named = PreviousWrite { file: file.file, end: before.end, header_crc: before.header_crc };
            if write.previous != named || write.number.0 != before.number.0 + 1 {
                let what = format!("write {} does not follow what stands before it", write.number);
                found.push(Finding { file: name, offset: write.offset, what, entry: None });
            }
        }
        // The last write of the newest file may have been torn by a crash: nothing proves that it was synced.
        let last = number + 1 == writes.len() && end.is_none();
        if !last {
            found.extend(write.damage.iter().cloned());
        }
        before = Some(write);
    }
    if let Some(end) = end {
        let reached = before.map_or(0, |write| write.end);
        if reached < end {
            let what = format!("there is no readable header here, but a later file names byte {end} as the end");
            found.push(Finding { file: name, offset: reached, what, entry: None });
        }
    }
    // The caller turns the order of everything around.
    findings.extend(found.into_iter().rev());
}
