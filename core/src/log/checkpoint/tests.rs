//! Checkpoints on a disk in memory, written and read.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{
    Checkpoint, GroupSection, MachineImage, PlacedEntry, Read, Reader, SectionEntry, SectionPayload, Unusable, Writer,
    format::FormatError, format::WalPosition,
};
use crate::{
    ids::{CheckpointNumber, FileSequence, GroupId, LogIndex, ReplicaId, Term, WriteNumber},
    io::{DiskAction, DiskError, DiskOutput, Effects, FileName, OperationIds},
    limits::{CHECKPOINT_READ_BYTES, CHECKPOINT_SLICE_BYTES},
    log::{
        read::EntryRead,
        record::EntryKind,
        wal::{WalKey, entry_crc},
    },
};

const KEY: WalKey = WalKey(77);
const NUMBER: CheckpointNumber = CheckpointNumber(3);
const FROM: WalPosition = WalPosition { file: FileSequence(4), write: WriteNumber(5) };
const FILE: FileName = FileName::Checkpoint(NUMBER);

#[derive(Default)]
struct Disk {
    files: BTreeMap<FileName, Vec<u8>>,
    synced: BTreeSet<FileName>,
    ids: OperationIds,
    largest_write: usize,
    room: Option<usize>,
}

impl Disk {
    fn run(&mut self, action: DiskAction) -> Result<DiskOutput, DiskError> {
        match action {
            DiskAction::Write { file, offset, slices } => {
                let bytes = slices.concat();
                if let Some(room) = &mut self.room {
                    *room = room.checked_sub(bytes.len()).ok_or(DiskError::Full)?;
                }
                self.largest_write = self.largest_write.max(bytes.len());
                self.synced.remove(&file);
                let content = self.files.entry(file).or_default();
                assert_eq!(content.len() as u64, offset, "a checkpoint grows without gaps");
                content.extend(bytes);
            }
            DiskAction::Sync { file } => drop(self.synced.insert(file)),
            DiskAction::SyncDirectory { .. } => {}
            DiskAction::Remove { file } => drop(self.files.remove(&file)),
            DiskAction::Read { file, offset, length } => {
                let content = self.files.get(&file).ok_or(DiskError::NotFound)?;
                let from = (offset as usize).min(content.len());
                let to = (from + length).min(content.len());
                return Ok(DiskOutput::Read(Bytes::copy_from_slice(&content[from..to])));
            }
            other => panic!("{other:?}"),
        }
        Ok(DiskOutput::Done)
    }

    /// Carries out what the writer wants until it wants nothing.
    fn drive(&mut self, writer: &mut Writer) {
        loop {
            let mut effects = Effects::default();
            writer.poll(&mut effects, &mut self.ids);
            let Some(operation) = effects.disk.pop() else { return };
            assert!(effects.disk.is_empty(), "one after the other");
            let result = self.run(operation.action);
            assert!(writer.handle(operation.id, &result).unwrap());
        }
    }

    fn read(&mut self) -> Result<Checkpoint, Unusable> {
        let mut reader = Reader::new(KEY, NUMBER);
        loop {
            let mut effects = Effects::default();
            match reader.poll(&mut effects, &mut self.ids) {
                Read::Whole(checkpoint) => return Ok(*checkpoint),
                Read::Unusable(unusable) => return Err(unusable),
                Read::Waiting => {}
            }
            let operation = effects.disk.pop().expect("it waits for the disk");
            let result = self.run(operation.action);
            assert!(reader.handle(operation.id, &result));
        }
    }
}

fn section(group: u64, payload: &Bytes) -> GroupSection {
    let (group, index, term) = (GroupId(group), LogIndex(8), Term(4));
    let context = Bytes::from_static(b"context");
    let crc = entry_crc(group, index, term, &context, payload);
    let payload = SectionPayload::Inline { context, data: payload.clone(), crc };
    GroupSection {
        group,
        replica: ReplicaId(2),
        write: WriteNumber(6),
        creation: Bytes::from_static(b"created"),
        term: Term(4),
        vote: ReplicaId(5),
        commit: LogIndex(6),
        applied: LogIndex(7),
        truncated: LogIndex(7),
        truncated_term: Term(2),
        membership: Bytes::from_static(b"members"),
        introduced: BTreeSet::new(),
        removed: BTreeSet::new(),
        image: MachineImage::Inline(Bytes::from_static(b"image")),
        log: None,
        entries: vec![SectionEntry { term, kind: EntryKind::Normal, payload }],
        quarantine: None,
    }
}

/// A checkpoint of three groups, the second with an image in a file of its own.
fn written(disk: &mut Disk, large: &Bytes) -> (Writer, Vec<PlacedEntry>) {
    let mut writer = Writer::new(KEY, NUMBER, FROM);
    let mut placed = Vec::new();
    for group in 1..=3 {
        assert!(writer.has_room());
        let mut section = section(group, large);
        if group == 2 {
            section.image = MachineImage::File(writer.add_image(GroupId(2), large.clone()));
        }
        placed.extend(writer.add(&section));
        disk.drive(&mut writer);
    }
    writer.close(BTreeSet::from([(GroupId(9), ReplicaId(4))]));
    disk.drive(&mut writer);
    (writer, placed)
}

#[test]
fn what_was_written_is_read_and_its_entries_are_where_they_were_said_to_be() {
    let mut disk = Disk::default();
    let large = Bytes::from(vec![7; 3 * CHECKPOINT_SLICE_BYTES / 2]);
    let (writer, placed) = written(&mut disk, &large);
    let done = writer.done().unwrap();
    assert_eq!(done.length, disk.files[&FILE].len() as u64);
    assert_eq!(done.crc, crc32c::crc32c(&disk.files[&FILE]));
    assert_eq!(disk.synced, disk.files.keys().copied().collect(), "everything is synced");

    let read = disk.read().unwrap();
    assert_eq!(read.done, done);
    assert_eq!(read.destroyed, BTreeSet::from([(GroupId(9), ReplicaId(4))]));
    assert_eq!(read.sections.len(), 3);
    assert_eq!(read.sections[1].image, large);
    assert_eq!(read.sections[2].image, "image");
    assert_eq!(read.sections[2].section, section(3, &large));
    let found: Vec<_> = read.sections.iter().flat_map(|found| found.placed.clone()).collect();
    assert_eq!(found, placed);
    for PlacedEntry { group, index, term, location } in placed {
        let read = EntryRead { group, index, term, location };
        let Ok(DiskOutput::Read(bytes)) = disk.run(read.action().unwrap()) else { panic!() };
        assert_eq!(read.check(bytes).unwrap(), (Bytes::from_static(b"context"), large.clone()));
    }
}

#[test]
fn an_image_is_written_in_slices() {
    let mut disk = Disk::default();
    let large = Bytes::from(vec![7; 5 * CHECKPOINT_READ_BYTES / 2]);
    let mut writer = Writer::new(KEY, NUMBER, FROM);
    let image = writer.add_image(GroupId(2), large.clone());
    assert!(!writer.has_room(), "the section waits for it");
    let section = GroupSection { image: MachineImage::File(image), ..section(2, &Bytes::new()) };
    disk.drive(&mut writer);
    writer.add(&section);
    writer.close(BTreeSet::new());
    disk.drive(&mut writer);
    assert!(disk.largest_write <= CHECKPOINT_SLICE_BYTES);
    assert_eq!(disk.read().unwrap().sections[0].image, large);
}

#[test]
fn a_checkpoint_with_any_bit_flipped_or_any_byte_missing_is_unusable() {
    let mut disk = Disk::default();
    written(&mut disk, &Bytes::from_static(b"small"));
    let files: Vec<FileName> = disk.files.keys().copied().collect();
    assert_eq!(files.len(), 2);
    for file in files {
        let whole = disk.files[&file].clone();
        for at in 0..whole.len() {
            disk.files.get_mut(&file).unwrap()[at] ^= 1 << (at % 8);
            disk.read().unwrap_err();
            disk.files.insert(file, whole[..at].to_vec());
            disk.read().unwrap_err();
            disk.files.insert(file, whole.clone());
        }
        disk.read().unwrap();
    }
    disk.files.get_mut(&FILE).unwrap().push(0);
    let unusable = disk.read().unwrap_err();
    assert!(matches!(unusable, Unusable::Format { error: FormatError::Length, .. }), "{unusable}");
    disk.files.remove(&FILE);
    let unusable = disk.read().unwrap_err();
    assert_eq!(unusable, Unusable::Disk { file: FILE.path(), error: DiskError::NotFound });
}

#[test]
fn a_full_disk_leaves_nothing_of_a_checkpoint() {
    let large = Bytes::from(vec![7; CHECKPOINT_SLICE_BYTES]);
    for room in [0, 100, CHECKPOINT_SLICE_BYTES, 3 * CHECKPOINT_SLICE_BYTES] {
        let mut disk = Disk { room: Some(room), ..Disk::default() };
        let mut writer = Writer::new(KEY, NUMBER, FROM);
        for group in 1..=5 {
            if !writer.has_room() {
                break;
            }
            let image = writer.add_image(GroupId(group), large.clone());
            writer.add(&GroupSection { image: MachineImage::File(image), ..section(group, &large) });
            disk.drive(&mut writer);
        }
        assert!(writer.is_abandoned());
        assert_eq!(writer.done(), None);
        assert!(disk.files.is_empty());
    }
}
