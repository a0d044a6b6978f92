//! Writing applied batches behind, and removing the files of deleted partitions.
//!
//! Invariant: few files are synced, a few per second unless memory runs short, and those with the most to write first
//! (see [`writes_due`]). The WAL holds every batch until then and after.

use std::{collections::BTreeMap, time::Duration};

use super::Broker;
use crate::{
    ids::{GroupId, OperationId},
    io::{DiskAction, DiskError, DiskOutput, Effects, Exit, FileName, OperationIds, SegmentFile},
    limits::{FRAMES_BYTES_MAX, SEGMENT_FILES_MAX, SEGMENT_WRITE_BYTES_MAX, SHARD_TAIL_BYTES_MAX, TAIL_KEEP_BYTES},
    log::segment::{PartitionLog, SyncPace, Unwritten, writes_due},
    time::{Monotonic, Now, earliest},
};

/// A partition without new batches for so long keeps nothing in memory for readers.
const IDLE_AFTER: Duration = Duration::from_secs(30);

/// Where operations of partitions' files go, and what their syncs are charged to.
struct Files<'a> {
    now: Monotonic,
    operations: &'a mut BTreeMap<OperationId, GroupId>,
    pace: &'a mut SyncPace,
    ids: &'a mut OperationIds,
    effects: &'a mut Effects,
}

impl Files<'_> {
    /// Bytes of the write that was begun.
    fn poll(&mut self, log: &mut PartitionLog, budget: usize) -> u64 {
        let first = self.effects.disk.len();
        let bytes = log.poll(budget, self.effects, self.ids);
        let begun = &self.effects.disk[first..];
        self.operations.extend(begun.iter().map(|operation| (operation.id, log.group())));
        // The sync of what is written follows, and is paid for at once.
        let syncs = usize::from(bytes > 0) + begun.iter().filter(|operation| is_other_sync(&operation.action)).count();
        if syncs > 0 {
            self.pace.spend(self.now, syncs);
        }
        bytes
    }
}

/// A sync of anything but a segment's data.
fn is_other_sync(action: &DiskAction) -> bool {
    match action {
        DiskAction::Sync { file } => !matches!(file, FileName::Segment { kind: SegmentFile::Log, .. }),
        DiskAction::SyncDirectory { .. } => true,
        DiskAction::Create { .. }
        | DiskAction::Write { .. }
        | DiskAction::Read { .. }
        | DiskAction::Truncate { .. }
        | DiskAction::Rename { .. }
        | DiskAction::Remove { .. }
        | DiskAction::List { .. } => false,
    }
}

impl Broker {
    pub(super) fn write_behind(&mut self, now: Now, effects: &mut Effects) {
        self.reads.take_operations(effects);
        self.removals.poll(self.wal.durable(), effects, &mut self.ids);
        self.settle_logs(now, effects);
        if now.monotonic >= self.live_logs.look_at() {
            self.look_at_logs(now, effects);
        }
        self.begin_writes(now, effects);
        // Batches wait in the Raft log, whose own budget then holds producers back, until there is room for them here.
        self.tails_full = self.live_logs.is_full();
        if !self.tails_full {
            self.dirty.append(&mut self.held_back);
        } else if !self.live_logs.is_urgent() {
            self.live_logs.look_soon();
        }
    }

    /// Goes on with what changed in this turn.
    pub(super) fn settle_logs(&mut self, now: Now, effects: &mut Effects) {
        let Self { replicas, live_logs, segment_operations, sync_pace, ids, frames_held, .. } = self;
        let mut files = Files { now: now.monotonic, operations: segment_operations, pace: sync_pace, ids, effects };
        let pressed = *frames_held || live_logs.memory() > SHARD_TAIL_BYTES_MAX / 2;
        for id in live_logs.take_touched() {
            let mut log = replicas.get_mut(&id).and_then(|replica| replica.partition_mut()).map(|own| &mut own.log);
            if let Some(log) = &mut log {
                files.poll(log, 0);
                let last = live_logs.last_append(id);
                let idle = last.is_some_and(|at| now.monotonic.since(at) >= IDLE_AFTER);
                log.release(if pressed || idle { 0 } else { TAIL_KEEP_BYTES });
            }
            live_logs.settle(id, log.as_deref());
        }
    }

    /// Looks at all logs that have something, and chooses what is written next.
    fn look_at_logs(&mut self, now: Now, effects: &mut Effects) {
        let frames = self.frames.bytes();
        self.frames_held = frames > FRAMES_BYTES_MAX;
        let groups: Vec<GroupId> = self.live_logs.groups().collect();
        groups.into_iter().for_each(|group| self.live_logs.touch(group));
        self.settle_logs(now, effects);
        let logs = self.live_logs.groups().filter_map(|id| Some(&self.replicas.get(&id)?.partition()?.log));
        let unwritten: Vec<Unwritten> = logs.map(|log| log.unwritten()).collect();
        let writes = writes_due(&unwritten, self.live_logs.memory(), self.frames_held, now.monotonic);
        self.live_logs.looked(now.monotonic, self.replicas.len(), writes);
        self.evict_entries(frames.saturating_sub(FRAMES_BYTES_MAX));
    }

    /// When [`Broker::write_behind`] has something to do, if nothing changes until then.
    pub(super) fn write_deadline(&self) -> Option<Monotonic> {
        // What is in memory is looked at now and then: it is written, or no longer kept.
        let look = (!self.live_logs.is_empty()).then_some(self.live_logs.look_at());
        let waits_for_pace = self.live_logs.has_chosen() && self.live_logs.writing() < SEGMENT_FILES_MAX;
        earliest(look, waits_for_pace.then_some(self.sync_pace.allowed_at()))
    }

    /// Begins to write what was chosen, and first what a checkpoint waits for, which shall not carry it, and what a state
    /// transfer does.
    fn begin_writes(&mut self, now: Now, effects: &mut Effects) {
        let Self { replicas, live_logs, segment_operations, sync_pace, ids, checkpoints, .. } = self;
        let mut files = Files { now: now.monotonic, operations: segment_operations, pace: sync_pace, ids, effects };
        while live_logs.writing() < SEGMENT_FILES_MAX {
            let may_be_chosen = live_logs.is_next_at_once() || files.pace.allows(now.monotonic);
            let waited_for = checkpoints.flush.pop_front().or_else(|| live_logs.next_wanted());
            let Some(id) = waited_for.or_else(|| if may_be_chosen { live_logs.next_chosen() } else { None }) else {
                break;
            };
            let Some(partition) = replicas.get_mut(&id).and_then(|replica| replica.partition_mut()) else { continue };
            if !partition.log.is_writing() && files.poll(&mut partition.log, SEGMENT_WRITE_BYTES_MAX) > 0 {
                live_logs.settle(id, Some(&partition.log));
            }
        }
    }

    /// Raft entries are kept in memory for followers and apply, within a budget for all groups.
    fn evict_entries(&mut self, beyond: usize) {
        let cached: usize = self.replicas.values().map(|replica| replica.group.cached_bytes()).sum();
        let mut excess = cached.saturating_sub(crate::limits::ENTRY_CACHE_BYTES).max(beyond.min(cached));
        if excess == 0 {
            return;
        }
        // The largest holders first: they are the busy ones, whose followers are fed from memory anyway.
        let mut holders: Vec<_> =
            self.replicas.iter().map(|(id, replica)| (replica.group.cached_bytes(), *id)).collect();
        holders.sort_unstable_by(|a, b| b.cmp(a));
        for (_, id) in holders {
            if excess == 0 {
                break;
            }
            if let Some(replica) = self.replicas.get_mut(&id) {
                excess = excess.saturating_sub(replica.group.evict(excess));
            }
        }
    }

    pub(super) fn finish_storage(
        &mut self,
        operation: OperationId,
        result: Result<DiskOutput, DiskError>,
    ) -> Result<(), Exit> {
        let Some(group) = self.segment_operations.remove(&operation) else {
            return self.removals.handle(operation, result);
        };
        let Some(partition) = self.replicas.get_mut(&group).and_then(|replica| replica.partition_mut()) else {
            // The log of a partition that is gone.
            return self.removals.handle_of(group, operation, result);
        };
        partition.log.handle(operation, result)?;
        self.live_logs.wake(group);
        Ok(())
    }
}
