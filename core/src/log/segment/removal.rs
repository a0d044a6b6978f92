//! The end of a partition's files.
//!
//! Invariant: nothing is removed before every operation and every read of the log that was removed is over. Files go in
//! any order, so a removal may begin only when its record in the write-ahead log is durable; after a crash it is
//! repeated from that record, which is harmless, and the log is not recovered (half of its files may be gone). The
//! empty directory stays.

use super::{
    chunks::{ChunkPlan, ServePlan},
    mending::Mending,
    operations::Operations,
    read::ReadPlan,
    scrub::ScrubPlan,
    writeback::Writeback,
};
use crate::{
    ids::{GroupId, OperationId},
    io::{Directory, DiskAction, DiskError, DiskOutput, Effects, Exit, FileName, OperationIds},
};

/// Removes every segment file of a group. [`Removal::poll`] must be called once, and after each `handle` or
/// `read_ended` that returned true, until [`Removal::is_done`].
#[derive(Debug)]
pub struct Removal {
    group: GroupId,
    /// Operations of the log that was removed.
    writeback: Option<Writeback>,
    mending: Mending,
    reads: usize,
    stage: Stage,
    operations: Operations,
}

#[derive(Debug)]
enum Stage {
    /// For the operations and reads of the log.
    Waiting,
    Listing,
    Removing(Vec<FileName>),
    RemovalStarted,
    Syncing,
    Done,
}

impl Removal {
    /// For a group without an open log: one whose deletion may have been interrupted by a crash.
    pub fn new(group: GroupId) -> Self {
        Self {
            group,
            writeback: None,
            mending: Mending::default(),
            reads: 0,
            stage: Stage::Waiting,
            operations: Operations::default(),
        }
    }

    pub(super) fn after(group: GroupId, writeback: Writeback, mending: Mending, reads: usize) -> Self {
        Self { writeback: Some(writeback), mending, reads, ..Self::new(group) }
    }

    pub fn group(&self) -> GroupId {
        self.group
    }

    pub fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Done)
    }

    pub fn poll(&mut self, effects: &mut Effects, ids: &mut OperationIds) {
        while self.operations.is_empty() && !self.is_done() && !self.is_waiting() {
            self.advance(effects, ids);
        }
    }

    fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Waiting)
            && (self.reads > 0 || self.mending.in_flight() || self.writeback.as_ref().is_some_and(Writeback::in_flight))
    }

    /// The next stage, now that every operation of this one is over.
    fn advance(&mut self, effects: &mut Effects, ids: &mut OperationIds) {
        let directory = Directory::Group(self.group);
        self.stage = match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Waiting => {
                self.operations.start(DiskAction::List { directory }, effects, ids);
                Stage::Listing
            }
            Stage::Removing(files) if !files.is_empty() => {
                for file in files {
                    self.operations.start(DiskAction::Remove { file }, effects, ids);
                }
                Stage::RemovalStarted
            }
            Stage::RemovalStarted => {
                self.operations.start(DiskAction::SyncDirectory { directory }, effects, ids);
                Stage::Syncing
            }
            Stage::Removing(_) | Stage::Syncing | Stage::Done => Stage::Done,
            Stage::Listing => unreachable!("the listing is in flight"),
        };
    }

    /// Returns false if the operation is not one of these.
    pub fn handle(&mut self, id: OperationId, result: Result<DiskOutput, DiskError>) -> Result<bool, Exit> {
        if let Some(operation) = self.operations.take(id) {
            match operation.check(result)? {
                DiskOutput::List(files) => {
                    let files = files.into_iter().map(|(file, _)| file).collect();
                    self.stage = Stage::Removing(files);
                }
                DiskOutput::Done | DiskOutput::Read(_) => {}
            }
            return Ok(true);
        }
        if self.mending.owns(id) {
            self.mending.abandon(id, result)?;
            return Ok(true);
        }
        match &mut self.writeback {
            Some(writeback) => writeback.abandon(id, result),
            None => Ok(false),
        }
    }

    /// A read that the removed log had planned is over, or will never be carried out.
    pub fn read_ended(&mut self, plan: ReadPlan) {
        self.ended(plan.file);
    }

    /// As [`Removal::read_ended`].
    pub fn chunks_ended(&mut self, plan: ChunkPlan) {
        self.ended(plan.file());
    }

    /// As [`Removal::read_ended`].
    pub fn serve_ended(&mut self, plan: ServePlan) {
        self.ended(plan.file());
    }

    /// As [`Removal::read_ended`].
    pub fn scrub_ended(&mut self, plan: ScrubPlan) {
        self.ended(plan.file());
    }

    fn ended(&mut self, file: FileName) {
        assert_eq!(file.directory(), Directory::Group(self.group), "a plan returns to the log that made it");
        self.reads = self.reads.checked_sub(1).expect("every plan is given back once");
    }
}
