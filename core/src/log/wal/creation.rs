//! Makes one WAL file ready for use: a new one, filled with zeros, or one of an earlier life under a new name; synced,
//! and its name synced in the directory.
//!
//! Invariant: a file is ready only after all three completed, so that a write into it needs no change of metadata and
//! can never be lost with the file's name. A file that is used again keeps its old blocks: they are on the disk already,
//! and every header says which life it belongs to. Owns no file that holds a write the log needs.

use crate::{
    ids::{FileSequence, OperationId},
    io::{Directory, DiskAction, DiskError, DiskOperation, DiskOutput, Effects, Exit, FileName, OperationIds},
};

#[derive(Debug)]
pub(in crate::log) struct FileCreation {
    file: FileSequence,
    size: u64,
    stage: Stage,
    operation: Option<OperationId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Create,
    /// The file of an earlier life gets its new name.
    Rename {
        from: FileSequence,
    },
    Sync,
    SyncDirectory,
    Ready,
    /// There was no room; what was created of the file goes first.
    Remove,
    NoRoom,
}

impl FileCreation {
    pub(in crate::log) fn new(file: FileSequence, size: u64) -> Self {
        Self { file, size, stage: Stage::Create, operation: None }
    }

    /// Takes over a file that was created but never written to, for example by a process that crashed. Whether it was
    /// synced is unknown.
    pub(in crate::log) fn adopt(file: FileSequence, size: u64) -> Self {
        Self { file, size, stage: Stage::Sync, operation: None }
    }

    /// Gives a file that nothing is needed of a new life.
    pub(in crate::log) fn reuse(from: FileSequence, file: FileSequence, size: u64) -> Self {
        assert!(from < file, "a file gets newer with each life");
        Self { file, size, stage: Stage::Rename { from }, operation: None }
    }

    pub(in crate::log) fn file(&self) -> FileSequence {
        self.file
    }

    pub(in crate::log) fn size(&self) -> u64 {
        self.size
    }

    pub(in crate::log) fn is_ready(&self) -> bool {
        self.stage == Stage::Ready
    }

    /// The disk is full and nothing is left of the file.
    pub(in crate::log) fn has_no_room(&self) -> bool {
        self.stage == Stage::NoRoom
    }

    pub(in crate::log) fn poll(&mut self, effects: &mut Effects, ids: &mut OperationIds) {
        if self.operation.is_some() {
            return;
        }
        let file = FileName::Wal(self.file);
        let action = match self.stage {
            Stage::Create => DiskAction::Create { file, size: self.size },
            Stage::Rename { from } => DiskAction::Rename { from: FileName::Wal(from), to: file },
            Stage::Sync => DiskAction::Sync { file },
            Stage::SyncDirectory => DiskAction::SyncDirectory { directory: Directory::Wal },
            Stage::Remove => DiskAction::Remove { file },
            Stage::Ready | Stage::NoRoom => return,
        };
        let id = ids.next_id();
        self.operation = Some(id);
        effects.disk.push(DiskOperation { id, action });
    }

    /// False if the operation is not one of this creation.
    pub(in crate::log) fn handle(
        &mut self,
        operation: OperationId,
        result: &Result<DiskOutput, DiskError>,
    ) -> Result<bool, Exit> {
        if self.operation != Some(operation) {
            return Ok(false);
        }
        self.operation = None;
        let failed = |operation, error| Exit::DiskFailed { operation, file: FileName::Wal(self.file).path(), error };
        self.stage = match (self.stage, result) {
            (Stage::Create | Stage::Rename { .. }, Ok(_)) => Stage::Sync,
            (Stage::Sync, Ok(_)) => Stage::SyncDirectory,
            (Stage::SyncDirectory, Ok(_)) => Stage::Ready,
            (Stage::Remove, Ok(_)) => Stage::NoRoom,
            // Nothing that anyone relies on is in the file yet, so a full disk is no reason to end.
            (Stage::Create | Stage::Sync, Err(DiskError::Full)) => Stage::Remove,
            (Stage::Create, Err(error)) => return Err(failed("creation", *error)),
            (Stage::Rename { .. }, Err(error)) => return Err(failed("renaming", *error)),
            (Stage::Sync | Stage::SyncDirectory, Err(error)) => return Err(failed("sync", *error)),
            (Stage::Remove, Err(error)) => return Err(failed("removal", *error)),
            (Stage::Ready | Stage::NoRoom, Ok(_) | Err(_)) => panic!("no operation is under way in these stages"),
        };
        Ok(true)
    }
}
