//! A disk in memory that loses nothing: crashes of disks are the simulator's affair.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{
    ids::{GroupId, Offset},
    io::{Directory, DiskAction, DiskError, DiskOutput, FileName, SegmentFile},
};

#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    files: BTreeMap<FileName, Vec<u8>>,
    /// Syncs of files of partitions, and of their directories.
    pub(super) partition_syncs: u32,
    /// There is room for everything else.
    pub(super) has_no_room_for_checkpoints: bool,
}

impl Disk {
    pub(super) fn run(&mut self, action: DiskAction) -> Result<DiskOutput, DiskError> {
        let place = |at: u64| usize::try_from(at).unwrap();
        match action {
            DiskAction::Create { file: FileName::Checkpoint(_), .. }
            | DiskAction::Write { file: FileName::Checkpoint(_), .. }
                if self.has_no_room_for_checkpoints =>
            {
                return Err(DiskError::Full);
            }
            DiskAction::Create { file, size } => {
                self.files.insert(file, vec![0; place(size)]);
            }
            DiskAction::Write { file, offset, slices } => {
                let bytes = self.files.entry(file).or_default();
                let mut at = place(offset);
                for slice in slices {
                    if bytes.len() < at + slice.len() {
                        bytes.resize(at + slice.len(), 0);
                    }
                    bytes[at..at + slice.len()].copy_from_slice(&slice);
                    at += slice.len();
                }
            }
            DiskAction::Sync { file } => {
                self.files.get(&file).ok_or(DiskError::NotFound)?;
                self.partition_syncs += u32::from(matches!(file, FileName::Segment { .. }));
            }
            DiskAction::SyncDirectory { directory } => {
                self.partition_syncs += u32::from(matches!(directory, Directory::Group(_) | Directory::Groups));
            }
            DiskAction::Read { file, offset, length } => {
                let bytes = self.files.get(&file).ok_or(DiskError::NotFound)?;
                let from = place(offset).min(bytes.len());
                let to = from.saturating_add(length).min(bytes.len());
                return Ok(DiskOutput::Read(Bytes::copy_from_slice(&bytes[from..to])));
            }
            DiskAction::Truncate { file, length } => {
                self.files.get_mut(&file).ok_or(DiskError::NotFound)?.resize(place(length), 0);
            }
            DiskAction::Rename { from, to } => {
                let bytes = self.files.remove(&from).ok_or(DiskError::NotFound)?;
                self.files.insert(to, bytes);
            }
            DiskAction::Remove { file } => {
                self.files.remove(&file);
            }
            DiskAction::List { directory } => {
                let files = self.files.iter().filter(|(name, _)| name.directory() == directory);
                return Ok(DiskOutput::List(files.map(|(name, bytes)| (*name, bytes.len() as u64)).collect()));
            }
        }
        Ok(DiskOutput::Done)
    }

    pub(super) fn sizes(&self) -> impl Iterator<Item = (FileName, u64)> {
        self.files.iter().map(|(file, bytes)| (*file, bytes.len() as u64))
    }

    pub(super) fn bytes(&self, file: FileName) -> Bytes {
        Bytes::copy_from_slice(&self.files[&file])
    }

    pub(super) fn content(&self, file: FileName) -> &[u8] {
        &self.files[&file]
    }

    /// Gives the first chunk of a segment another checksum in its side file.
    pub(super) fn forge_first_entry(&mut self, group: GroupId, base: Offset, crc: u32) {
        let entry = 32..64;
        let file = FileName::Segment { group, base, kind: SegmentFile::Checksums };
        let fields = &mut self.files.get_mut(&file).unwrap()[entry];
        fields[8..12].copy_from_slice(&crc.to_le_bytes());
        let owner = [&group.0.to_le_bytes()[..], &base.0.to_le_bytes(), &0u32.to_le_bytes()].concat();
        let check = crc32c::crc32c_append(crc32c::crc32c(&owner), &fields[..28]);
        fields[28..].copy_from_slice(&check.to_le_bytes());
    }

    /// Damages a byte.
    pub(super) fn flip(&mut self, file: FileName, byte: usize) {
        self.files.get_mut(&file).unwrap()[byte] ^= 0x40;
    }

    /// Bytes of all files of the write-ahead log.
    pub(super) fn wal_bytes(&self) -> u64 {
        let files = self.files.iter().filter(|(name, _)| matches!(name, FileName::Wal(_)));
        files.map(|(_, bytes)| bytes.len() as u64).sum()
    }

    pub(super) fn files(&self) -> impl Iterator<Item = FileName> {
        self.files.keys().copied()
    }
}
