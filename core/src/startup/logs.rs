//! The files of all partitions, opened a bounded number at a time.
//!
//! Invariant: a completion goes to the one log that asked for it, so that a start costs the same per partition however
//! many there are.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    ids::{GroupId, OperationId},
    io::{DiskError, DiskOutput, Effects, Exit, OperationIds},
    limits::STARTUP_LOGS_MAX,
    log::segment::{LogRecovery, PartitionLog},
    time::Monotonic,
};

#[derive(Default)]
pub(super) struct OpeningLogs {
    /// Not begun yet.
    waiting: BTreeMap<GroupId, LogRecovery>,
    open: BTreeMap<GroupId, LogRecovery>,
    operations: BTreeMap<OperationId, GroupId>,
    /// Those of the open ones that can go on.
    due: BTreeSet<GroupId>,
}

impl OpeningLogs {
    pub(super) fn add(&mut self, group: GroupId, recovery: LogRecovery) {
        self.waiting.insert(group, recovery);
    }

    pub(super) fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.open.is_empty()
    }

    /// What is not the operation of one of these logs is passed over.
    pub(super) fn handle(&mut self, operation: OperationId, result: Result<DiskOutput, DiskError>) -> Result<(), Exit> {
        let Some(group) = self.operations.remove(&operation) else { return Ok(()) };
        let log = self.open.get_mut(&group).expect("a log stays open while an operation of it is under way");
        let is_its_own = log.handle(operation, result)?;
        assert!(is_its_own, "an operation belongs to the log that began it");
        self.due.insert(group);
        Ok(())
    }

    /// Begins and goes on; hands out the logs that are open now.
    pub(super) fn poll(
        &mut self,
        at: Monotonic,
        effects: &mut Effects,
        ids: &mut OperationIds,
    ) -> Result<Vec<(GroupId, PartitionLog)>, Exit> {
        let mut finished = Vec::new();
        loop {
            while self.open.len() < STARTUP_LOGS_MAX
                && let Some((group, recovery)) = self.waiting.pop_first()
            {
                self.open.insert(group, recovery);
                self.due.insert(group);
            }
            let Some(group) = self.due.pop_first() else { return Ok(finished) };
            let log = self.open.get_mut(&group).expect("what is due is open");
            let first = effects.disk.len();
            log.poll(effects, ids);
            self.operations.extend(effects.disk[first..].iter().map(|operation| (operation.id, group)));
            if let Some(log) = log.finish(at)? {
                self.open.remove(&group);
                finished.push((group, log));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ids::Offset, io::DiskAction, limits::SEGMENT_PROVE_CHUNKS, log::segment::LogSettings};

    #[test]
    fn many_logs_are_opened_a_few_at_a_time_whatever_the_order_of_completions() {
        const LOGS: u64 = 1_000;
        let mut opening = OpeningLogs::default();
        for group in (1..=LOGS).map(GroupId) {
            let settings =
                LogSettings { group, start: Offset(0), segment_bytes: 1 << 20, prove_chunks: SEGMENT_PROVE_CHUNKS };
            opening.add(group, PartitionLog::recover(settings));
        }
        let (mut effects, mut ids) = (Effects::default(), OperationIds::default());
        let mut under_way: Vec<OperationId> = Vec::new();
        let mut opened = BTreeSet::new();
        while !opening.is_done() {
            let finished = opening.poll(Monotonic(0), &mut effects, &mut ids).unwrap();
            opened.extend(finished.into_iter().map(|(group, _)| group));
            for operation in effects.disk.drain(..) {
                assert!(matches!(operation.action, DiskAction::List { .. }), "no partition has files");
                under_way.push(operation.id);
            }
            assert!(under_way.len() <= STARTUP_LOGS_MAX);
            // The last one that was begun is over first.
            if let Some(operation) = under_way.pop() {
                opening.handle(operation, Ok(DiskOutput::List(Vec::new()))).unwrap();
            }
        }
        assert_eq!(opened.len() as u64, LOGS);
    }
}
