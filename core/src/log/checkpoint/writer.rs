//! Writes one checkpoint, and the images it needs, through effects.
//!
//! Invariant: operations are carried out one after the other, and [`Writer::done`] says something only after a sync of
//! every file written and of their directories. A full disk is no reason to end: what was written is removed, and the
//! checkpoint is abandoned. Does not decide what goes into a checkpoint.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;

use super::{
    format::{CheckpointDone, Closing, FRAME_HEADER_BYTES, FrameHeader, Header, ImageHeader, WalPosition},
    section::{GroupSection, ImageFile, SectionPayload},
};
use crate::{
    ids::{CheckpointNumber, GroupId, LogIndex, OperationId, ReplicaId, Term},
    io::{Directory, DiskAction, DiskError, DiskOperation, DiskOutput, Effects, Exit, FileName, OperationIds},
    limits::CHECKPOINT_SLICE_BYTES,
    log::{
        record::{EntryFile, EntryLocation},
        wal::WalKey,
    },
};

/// An entry that a checkpoint holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlacedEntry {
    pub group: GroupId,
    pub index: LogIndex,
    pub term: Term,
    pub location: EntryLocation,
}

/// See the module head. [`Writer::poll`] must be called after any other call.
#[derive(Debug)]
pub struct Writer {
    key: WalKey,
    number: CheckpointNumber,
    from: WalPosition,
    /// What was added and not yet given to the disk.
    open: Vec<Bytes>,
    open_bytes: usize,
    /// Of everything that was added.
    length: u64,
    crc: u32,
    groups: u64,
    images: BTreeSet<FileName>,
    /// Writes of images, and what follows the last write.
    actions: VecDeque<DiskAction>,
    under_way: Option<UnderWay>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    Closing,
    Done,
    /// There was no room; what was written goes.
    Removing,
    Abandoned,
}

#[derive(Debug)]
struct UnderWay {
    id: OperationId,
    verb: &'static str,
    path: String,
}

impl Writer {
    pub fn new(key: WalKey, number: CheckpointNumber, from: WalPosition) -> Self {
        let mut writer = Self {
            key,
            number,
            from,
            open: Vec::new(),
            open_bytes: 0,
            length: 0,
            crc: 0,
            groups: 0,
            images: BTreeSet::new(),
            actions: VecDeque::new(),
            under_way: None,
            stage: Stage::Open,
        };
        let header = Header { key, number, from }.encode();
        writer.append(Bytes::copy_from_slice(&header));
        writer
    }

    pub fn number(&self) -> CheckpointNumber {
        self.number
    }

    pub fn from(&self) -> WalPosition {
        self.from
    }

    /// Whether the next section may be added now: the disk keeps up.
    pub fn has_room(&self) -> bool {
        self.stage == Stage::Open && self.actions.is_empty() && self.open_bytes < CHECKPOINT_SLICE_BYTES
    }

    /// Writes the image of a group's machine to a file of its own, for its section to name.
    pub fn add_image(&mut self, group: GroupId, image: Bytes) -> ImageFile {
        assert_eq!(self.stage, Stage::Open, "nothing is added after the end");
        let file = FileName::Image { group, checkpoint: self.number };
        let header = ImageHeader { key: self.key, group, checkpoint: self.number }.encode();
        let image_file = ImageFile { checkpoint: self.number, length: image.len() as u64, crc: crc32c::crc32c(&image) };
        assert!(self.images.insert(file), "a group is added once");
        let mut offset = header.len() as u64;
        let slices = vec![Bytes::copy_from_slice(&header)];
        self.actions.push_back(DiskAction::Write { file, offset: 0, slices });
        let mut rest = image;
        while !rest.is_empty() {
            let slice = rest.split_to(rest.len().min(CHECKPOINT_SLICE_BYTES));
            let next = offset + slice.len() as u64;
            self.actions.push_back(DiskAction::Write { file, offset, slices: vec![slice] });
            offset = next;
        }
        image_file
    }

    /// Adds a group. Returns where its inline entries will lie.
    pub fn add(&mut self, section: &GroupSection) -> Vec<PlacedEntry> {
        assert_eq!(self.stage, Stage::Open, "nothing is added after the end");
        let encoded = section.encode();
        let body = self.length + FRAME_HEADER_BYTES as u64;
        let placed = encoded
            .payloads
            .iter()
            .map(|&(place, at)| placed_entry(section, place, EntryFile::Checkpoint(self.number), body + at))
            .collect();
        self.append_frame(&FrameHeader::of_group(&encoded.slices), encoded.slices);
        self.groups += 1;
        placed
    }

    /// Ends the checkpoint. `destroyed`: replicas that are gone for good, though the metadata may still show them.
    pub fn close(&mut self, destroyed: BTreeSet<(GroupId, ReplicaId)>) {
        let body = vec![Closing { groups: self.groups, destroyed }.encode()];
        self.append_frame(&FrameHeader::of_closing(&body), body);
        self.stage = Stage::Closing;
    }

    fn append_frame(&mut self, header: &FrameHeader, body: Vec<Bytes>) {
        self.append(Bytes::copy_from_slice(&header.encode()));
        body.into_iter().for_each(|slice| self.append(slice));
    }

    fn append(&mut self, slice: Bytes) {
        self.length += slice.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, &slice);
        self.open_bytes += slice.len();
        self.open.push(slice);
    }

    pub fn poll(&mut self, effects: &mut Effects, ids: &mut OperationIds) {
        if self.under_way.is_some() {
            return;
        }
        if self.actions.is_empty() {
            match self.stage {
                Stage::Open | Stage::Closing if !self.open.is_empty() => {
                    let offset = self.length - self.open_bytes as u64;
                    let slices = std::mem::take(&mut self.open);
                    self.open_bytes = 0;
                    self.actions.push_back(DiskAction::Write { file: self.file(), offset, slices });
                    if self.stage == Stage::Closing {
                        self.sync_all();
                    }
                }
                Stage::Closing => self.stage = Stage::Done,
                Stage::Removing => self.stage = Stage::Abandoned,
                Stage::Open | Stage::Done | Stage::Abandoned => {}
            }
        }
        let Some(action) = self.actions.pop_front() else { return };
        let id = ids.next_id();
        self.under_way = Some(under_way(id, &action));
        effects.disk.push(DiskOperation { id, action });
    }

    fn sync_all(&mut self) {
        self.actions.extend(self.images.iter().map(|image| DiskAction::Sync { file: *image }));
        if !self.images.is_empty() {
            self.actions.push_back(DiskAction::SyncDirectory { directory: Directory::Images });
        }
        self.actions.push_back(DiskAction::Sync { file: self.file() });
        self.actions.push_back(DiskAction::SyncDirectory { directory: Directory::Checkpoints });
    }

    /// False if the operation is not the writer's.
    ///
    /// # Errors
    ///
    /// [`Exit::DiskFailed`] for everything but a full disk.
    pub fn handle(&mut self, operation: OperationId, result: &Result<DiskOutput, DiskError>) -> Result<bool, Exit> {
        let Some(done) = self.under_way.take_if(|under_way| under_way.id == operation) else { return Ok(false) };
        match result {
            Ok(_) => {}
            Err(DiskError::Full) if self.stage != Stage::Removing => self.abandon(),
            Err(error) => return Err(Exit::DiskFailed { operation: done.verb, file: done.path, error: *error }),
        }
        Ok(true)
    }

    /// Gives up; what was written so far goes.
    pub fn abandon(&mut self) {
        if matches!(self.stage, Stage::Removing | Stage::Abandoned) {
            return;
        }
        self.stage = Stage::Removing;
        self.open.clear();
        let file = self.file();
        self.actions = self.images.iter().copied().chain([file]).map(|file| DiskAction::Remove { file }).collect();
    }

    pub fn is_abandoned(&self) -> bool {
        self.stage == Stage::Abandoned
    }

    /// What the record in the WAL must say, once everything is on disk.
    pub fn done(&self) -> Option<CheckpointDone> {
        (self.stage == Stage::Done).then_some(CheckpointDone {
            number: self.number,
            length: self.length,
            crc: self.crc,
            from: self.from,
        })
    }

    fn file(&self) -> FileName {
        FileName::Checkpoint(self.number)
    }
}

/// The inline entry at `place` of a section, whose payload begins at `offset` of `file`.
pub(super) fn placed_entry(section: &GroupSection, place: usize, file: EntryFile, offset: u64) -> PlacedEntry {
    let entry = &section.entries[place];
    let SectionPayload::Inline { context, data, crc } = &entry.payload else { panic!("only these have a place here") };
    let length = |bytes: &Bytes| u32::try_from(bytes.len()).expect("limits keep entries far below 4 GiB");
    PlacedEntry {
        group: section.group,
        index: LogIndex(section.truncated.0 + 1 + place as u64),
        term: entry.term,
        location: EntryLocation { file, offset, context_length: length(context), data_length: length(data), crc: *crc },
    }
}

fn under_way(id: OperationId, action: &DiskAction) -> UnderWay {
    let (verb, path) = match action {
        DiskAction::Write { file, .. } => ("write", file.path()),
        DiskAction::Sync { file } => ("sync", file.path()),
        DiskAction::SyncDirectory { directory } => ("sync", directory.path()),
        DiskAction::Remove { file } => ("removal", file.path()),
        DiskAction::Create { .. }
        | DiskAction::Read { .. }
        | DiskAction::Truncate { .. }
        | DiskAction::Rename { .. }
        | DiskAction::List { .. } => panic!("a checkpoint is written, synced and removed"),
    };
    UnderWay { id, verb, path }
}
