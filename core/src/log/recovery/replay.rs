//! The second pass over the log: entries with their payloads, in order, in bounded pieces.
//!
//! Recovery says what there is; only then does the caller know which entries are committed. Replay hands them out
//! again so that they can be applied without random reads. Invariant: it ends where recovery ended, whatever the
//! writer has added since. The caller skips entries that a later one of their group replaced.

use super::{
    Progress, Rules,
    reader::{Next, Reader, Stretch},
};
use crate::{
    ids::OperationId,
    io::{DiskError, DiskOutput, Effects, Exit, OperationIds},
    limits::WAL_READ_BYTES,
    log::record::{RecoveredRecord, WalRecord},
};

/// Which part of which files to read.
#[derive(Clone, Debug)]
pub struct ReplayPlan {
    rules: Rules,
    stretches: Vec<Stretch>,
}

impl ReplayPlan {
    pub(super) fn new(rules: Rules, stretches: Vec<Stretch>) -> Self {
        Self { rules, stretches }
    }
}

#[derive(Debug)]
pub struct Replay {
    reader: Reader,
}

impl Replay {
    pub fn new(plan: ReplayPlan) -> Self {
        Self { reader: Reader::new(plan.rules, plan.stretches) }
    }

    /// Appends about [`WAL_READ_BYTES`] of entries and fills; see [`super::Recovery::poll`] for the rest.
    ///
    /// # Errors
    ///
    /// [`Exit::Damaged`] if something changed since recovery read it.
    pub fn poll(
        &mut self,
        effects: &mut Effects,
        ids: &mut OperationIds,
        entries: &mut Vec<RecoveredRecord>,
    ) -> Result<Progress, Exit> {
        let mut bytes = 0;
        while bytes < WAL_READ_BYTES {
            match self.reader.next()? {
                Next::Record(record) => match &record.record {
                    WalRecord::Entry(_) | WalRecord::Fill(_) => {
                        bytes += cost(&record);
                        entries.push(record);
                    }
                    WalRecord::HardState { .. }
                    | WalRecord::Create { .. }
                    | WalRecord::Destroy { .. }
                    | WalRecord::Switch { .. }
                    | WalRecord::Quarantine { .. }
                    | WalRecord::CheckpointDone { .. } => {}
                },
                Next::Pending => {
                    self.reader.poll(effects, ids);
                    return Ok(Progress::Waiting);
                }
                Next::End => return Ok(Progress::Done),
            }
        }
        Ok(Progress::More)
    }

    /// False if the operation is not replay's.
    pub fn handle(&mut self, operation: OperationId, result: &Result<DiskOutput, DiskError>) -> Result<bool, Exit> {
        self.reader.handle(operation, result)
    }
}

/// About what a record takes in memory.
pub(super) fn cost(record: &RecoveredRecord) -> usize {
    let payload = match &record.record {
        WalRecord::Entry(entry) | WalRecord::Fill(entry) => entry.context.len() + entry.data.len(),
        WalRecord::Create { creation: payload, .. }
        | WalRecord::Switch { state: payload, .. }
        | WalRecord::Quarantine { build: payload, .. }
        | WalRecord::CheckpointDone { checkpoint: payload } => payload.len(),
        WalRecord::HardState { .. } | WalRecord::Destroy { .. } => 0,
    };
    size_of::<RecoveredRecord>() + payload
}
