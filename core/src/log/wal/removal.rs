//! Removes WAL files that hold nothing of the log, one after the other, and makes that durable.
//!
//! Invariant: it is done only after the directory was synced, so that none of the files comes back. Does not choose.

use crate::{
    ids::{FileSequence, OperationId},
    io::{Directory, DiskAction, DiskError, DiskOperation, DiskOutput, Effects, Exit, FileName, OperationIds},
};

#[derive(Debug)]
pub(in crate::log) struct Removal {
    files: Vec<FileSequence>,
    operation: Option<(OperationId, Option<FileSequence>)>,
    is_synced: bool,
}

impl Removal {
    pub(in crate::log) fn new(files: Vec<FileSequence>) -> Self {
        Self { is_synced: files.is_empty(), files, operation: None }
    }

    pub(in crate::log) fn is_done(&self) -> bool {
        self.is_synced
    }

    pub(in crate::log) fn poll(&mut self, effects: &mut Effects, ids: &mut OperationIds) {
        if self.is_synced || self.operation.is_some() {
            return;
        }
        let file = self.files.pop();
        let action = match file {
            Some(file) => DiskAction::Remove { file: FileName::Wal(file) },
            None => DiskAction::SyncDirectory { directory: Directory::Wal },
        };
        let id = ids.next_id();
        self.operation = Some((id, file));
        effects.disk.push(DiskOperation { id, action });
    }

    pub(in crate::log) fn handle(
        &mut self,
        operation: OperationId,
        result: &Result<DiskOutput, DiskError>,
    ) -> Result<bool, Exit> {
        let Some((_, file)) = self.operation.take_if(|(id, _)| *id == operation) else { return Ok(false) };
        if let Err(error) = result {
            let (operation, file) = match file {
                Some(file) => ("removal", FileName::Wal(file).path()),
                None => ("sync", Directory::Wal.path()),
            };
            return Err(Exit::DiskFailed { operation, file, error: *error });
        }
        self.is_synced = file.is_none();
        Ok(true)
    }
}
