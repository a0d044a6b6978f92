//! The disk of one node: files, directories, and what a crash leaves of them.
//!
//! Each file has a durable content and a list of operations that were not synced; each directory likewise. Killing the
//! process keeps the page cache. A power loss keeps the durable content and, by the disk's [`PowerMode`], some of the
//! rest. Invariant: what a completed sync covered survives every crash, except what [`power`] says of sectors that were
//! written again. Sectors of 512 or 4096 bytes are atomic, nothing larger is. Does not own latencies or failures to
//! come: [`queue`] does.

pub(crate) mod damage;
mod directory;
mod file;
mod pages;
mod power;
#[cfg(test)]
mod power_tests;
pub mod queue;
#[cfg(test)]
mod tests;
mod trouble;
#[cfg(test)]
mod trouble_tests;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use kauri_core::io::{Directory, DiskAction, DiskError, DiskOutput, FileName};

use self::{
    directory::{Entries, Inode},
    file::{Change, File, Sequence},
    pages::Pages,
};
pub use self::{power::PowerMode, trouble::Trap};
use crate::{
    bites::{Bite, Bites},
    dice::Dice,
};

/// Removed files whose blocks may show up in others.
const REMAINS_MAX: usize = 4;

/// The files of one node.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    files: BTreeMap<Inode, File>,
    entries: Entries,
    next_inode: u64,
    sequence: Sequence,
    /// For its memory, once nobody else holds it.
    last_read: Option<Bytes>,
    /// What removed files held: their blocks are used again without being cleared.
    remains: VecDeque<Pages>,
}

impl Disk {
    /// The number of the newest operation: a sync covers what was done up to the one at which it was issued.
    pub(crate) fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// Carries an operation out. `through` is [`Disk::sequence`] at the time the operation was issued.
    pub(crate) fn perform(&mut self, action: DiskAction, through: Sequence) -> Result<DiskOutput, DiskError> {
        match action {
            DiskAction::Create { file, size } => {
                let inode = self.open_or_create(file);
                let sequence = self.next_sequence();
                self.file(inode).change(sequence, Change::Resize { size: 0 });
                let sequence = self.next_sequence();
                self.file(inode).change(sequence, Change::Zero { offset: 0, length: size });
            }
            DiskAction::Write { file, offset, slices } => {
                let inode = self.open_or_create(file);
                let sequence = self.next_sequence();
                self.file(inode).change(sequence, Change::write(offset, slices));
            }
            DiskAction::Sync { file } => {
                let inode = self.entries.find(file).ok_or(DiskError::NotFound)?;
                self.file(inode).sync(through);
            }
            DiskAction::SyncDirectory { directory } => {
                self.entries.sync(directory, through);
                self.forget_unlinked();
            }
            DiskAction::Read { file, offset, length } => {
                let inode = self.entries.find(file).ok_or(DiskError::NotFound)?;
                let file = self.file(inode);
                if file.has_unreadable(offset, length) {
                    return Err(trouble::DEVICE_ERROR);
                }
                // Recovery reads piece after piece and lets go of each before the next: they share one buffer.
                let buffer = self.last_read.take().and_then(|bytes| bytes.try_into_mut().ok()).unwrap_or_default();
                let bytes = self.file(inode).read_into(buffer, offset, length);
                self.last_read = Some(bytes.clone());
                return Ok(DiskOutput::Read(bytes));
            }
            DiskAction::Truncate { file, length } => {
                let inode = self.entries.find(file).ok_or(DiskError::NotFound)?;
                let sequence = self.next_sequence();
                self.file(inode).change(sequence, Change::Resize { size: length });
            }
            DiskAction::Rename { from, to } => {
                let inode = self.entries.find(from).ok_or(DiskError::NotFound)?;
                let sequence = self.next_sequence();
                self.entries.rename(sequence, from, to, inode);
            }
            DiskAction::Remove { file } => {
                if self.entries.find(file).is_some() {
                    let sequence = self.next_sequence();
                    self.entries.unlink(sequence, file);
                }
            }
            DiskAction::List { directory } => return Ok(DiskOutput::List(self.list(directory))),
        }
        Ok(DiskOutput::Done)
    }

    /// Carries out what a kill leaves of an operation in flight: nothing, all, or of a write its first bytes.
    pub(crate) fn perform_cut(&mut self, dice: &mut Dice, action: DiskAction, through: Sequence, bites: &mut Bites) {
        let action = match (dice.below(3), action) {
            (0, _) => None,
            (1, DiskAction::Write { file, offset, slices }) => {
                let change = Change::write(offset, slices);
                let kept = dice.range(0, change.length());
                change.prefix(kept).into_write(file)
            }
            (1, DiskAction::Create { file, size }) => Some(DiskAction::Create { file, size: dice.range(0, size) }),
            (_, action) => Some(action),
        };
        match action {
            // The process is gone: nobody hears the result.
            Some(action) => drop(self.perform(action, through)),
            None => bites.add(Bite::OperationCut),
        }
    }

    /// The files of a directory with their sizes, sorted by name.
    pub fn list(&self, directory: Directory) -> Vec<(FileName, u64)> {
        let mut files: Vec<(FileName, u64)> = self
            .entries
            .of(directory)
            .map(|(file, inode)| (file, self.files.get(&inode).map_or(0, File::size)))
            .collect();
        files.sort_by_key(|(file, _)| file.name());
        files
    }

    /// All files, as the page cache shows them.
    pub fn names(&self) -> impl Iterator<Item = FileName> + '_ {
        self.entries.all().map(|(file, _)| file)
    }

    /// What the page cache shows of a file.
    pub fn content(&self, file: FileName) -> Option<Bytes> {
        let inode = self.entries.find(file)?;
        Some(self.files.get(&inode)?.read(0, usize::MAX))
    }

    fn next_sequence(&mut self) -> Sequence {
        self.sequence += 1;
        self.sequence
    }

    fn open_or_create(&mut self, file: FileName) -> Inode {
        if let Some(inode) = self.entries.find(file) {
            return inode;
        }
        self.next_inode += 1;
        let inode = Inode(self.next_inode);
        self.files.insert(inode, File::default());
        let sequence = self.next_sequence();
        self.entries.link(sequence, file, inode);
        inode
    }

    fn file(&mut self, inode: Inode) -> &mut File {
        self.files.get_mut(&inode).expect("a linked file exists")
    }

    fn forget_unlinked(&mut self) {
        let Self { entries, files, remains, .. } = self;
        files.retain(|inode, file| {
            let is_known = entries.refers_to(*inode);
            if !is_known {
                power::keep_remains(remains, file);
            }
            is_known
        });
    }
}
