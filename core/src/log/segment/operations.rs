//! The disk operations one part of a partition waits for.

use crate::{
    ids::OperationId,
    io::{Directory, DiskAction, DiskError, DiskOperation, DiskOutput, Effects, Exit, FileName, OperationIds},
};

#[derive(Debug, Default)]
pub(super) struct Operations(Vec<Operation>);

#[derive(Debug)]
pub(super) struct Operation {
    id: OperationId,
    verb: &'static str,
    place: Place,
}

#[derive(Debug)]
enum Place {
    File(FileName),
    Directory(Directory),
}

impl Operations {
    pub(super) fn start(&mut self, action: DiskAction, effects: &mut Effects, ids: &mut OperationIds) {
        let (verb, place) = match &action {
            DiskAction::Create { file, .. } => ("creation", Place::File(*file)),
            DiskAction::Write { file, .. } => ("write", Place::File(*file)),
            DiskAction::Sync { file } => ("sync", Place::File(*file)),
            DiskAction::SyncDirectory { directory } => ("sync", Place::Directory(*directory)),
            DiskAction::Read { file, .. } => ("read", Place::File(*file)),
            DiskAction::Truncate { file, .. } => ("truncation", Place::File(*file)),
            DiskAction::Rename { from, .. } => ("rename", Place::File(*from)),
            DiskAction::Remove { file } => ("removal", Place::File(*file)),
            DiskAction::List { directory } => ("listing", Place::Directory(*directory)),
        };
        let id = ids.next_id();
        self.0.push(Operation { id, verb, place });
        effects.disk.push(DiskOperation { id, action });
    }

    /// The operation with this id, which is over; `None` if it is not one of these.
    pub(super) fn take(&mut self, id: OperationId) -> Option<Operation> {
        let place = self.0.iter().position(|operation| operation.id == id)?;
        Some(self.0.swap_remove(place))
    }

    pub(super) fn holds(&self, id: OperationId) -> bool {
        self.0.iter().any(|operation| operation.id == id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Operation {
    pub(super) fn failed(&self, error: DiskError) -> Exit {
        let file = match self.place {
            Place::File(file) => file.path(),
            Place::Directory(directory) => format!("{}/", directory.path()),
        };
        Exit::DiskFailed { operation: self.verb, file, error }
    }

    /// For operations whose failure ends the process.
    pub(super) fn check(&self, result: Result<DiskOutput, DiskError>) -> Result<DiskOutput, Exit> {
        result.map_err(|error| self.failed(error))
    }
}
