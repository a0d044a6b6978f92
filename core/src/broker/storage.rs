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
    time::{Monotonic, Now},
};

/// Partitions are looked at this often at most when nothing forces it.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Many partitions are looked at less often: a look at all of them takes the same share of time.
const LOOK_INTERVAL_PER_LOG: Duration = Duration::from_micros(20);
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
        for removal in &mut self.removals {
            removal.poll(effects, &mut self.ids);
        }
        self.removals.retain(|removal| !removal.is_done());
        if now.monotonic < self.flush_at {
            return;
        }
        self.flush_at = now.monotonic + LOOK_INTERVAL + LOOK_INTERVAL_PER_LOG * self.live_logs.len() as u32;
        let logs = || self.live_logs.keys().filter_map(|id| Some(&self.replicas.get(id)?.partition()?.log));
        let memory: usize = logs().map(|log| log.memory_bytes()).sum();
        let mut writing = logs().filter(|log| log.is_writing()).count();
        let frames = self.frames.bytes();
        let held = frames > FRAMES_BYTES_MAX;
        let pressed = held || memory > SHARD_TAIL_BYTES_MAX / 2;
        let unwritten: Vec<Unwritten> = logs().map(|log| log.unwritten()).collect();
        let due = writes_due(&unwritten, memory, held, now.monotonic);
        let Self { replicas, live_logs, segment_operations, sync_pace, ids, checkpoints, .. } = self;
        let mut files = Files { now: now.monotonic, operations: segment_operations, pace: sync_pace, ids, effects };
        // A checkpoint waits for what it shall not carry.
        let waited_for = checkpoints.flush.iter().map(|id| (*id, true));
        for (id, is_urgent) in waited_for.chain(due.groups.into_iter().map(|id| (id, due.urgent))) {
            if writing >= SEGMENT_FILES_MAX || !is_urgent && !files.pace.allows(now.monotonic) {
                break;
            }
            let Some(partition) = replicas.get_mut(&id).and_then(|replica| replica.partition_mut()) else { continue };
            if !partition.log.is_writing() && files.poll(&mut partition.log, SEGMENT_WRITE_BYTES_MAX) > 0 {
                writing += 1;
            }
        }
        live_logs.retain(|id, appended| {
            let Some(partition) = replicas.get_mut(id).and_then(|replica| replica.partition_mut()) else {
                return false;
            };
            let log = &mut partition.log;
            files.poll(log, 0);
            let idle = now.monotonic.since(*appended) >= IDLE_AFTER;
            log.release(if pressed || idle { 0 } else { TAIL_KEEP_BYTES });
            // Nothing is left to be written, followed or dropped: it costs nothing until the next batch.
            log.memory_bytes() > 0 || log.unsynced_bytes() > 0 || log.is_writing() || log.is_mending()
        });
        // Batches wait in the Raft log, whose own budget then holds producers back, until there is room for them here.
        let was_full = std::mem::replace(&mut self.tails_full, memory > SHARD_TAIL_BYTES_MAX);
        if was_full && !self.tails_full {
            self.dirty.extend(self.replicas.keys());
        }
        let beyond = frames.saturating_sub(FRAMES_BYTES_MAX);
        self.evict_entries(beyond);
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
        if let Some(group) = self.segment_operations.remove(&operation)
            && let Some(partition) = self.replicas.get_mut(&group).and_then(|replica| replica.partition_mut())
        {
            partition.log.handle(operation, result)?;
            self.live_logs.entry(group).or_default();
            self.flush_at = Monotonic(0);
            return Ok(());
        }
        for removal in &mut self.removals {
            if removal.handle(operation, result.clone())? {
                return Ok(());
            }
        }
        // The log of a partition that is gone; its removal has seen it or is over.
        Ok(())
    }
}
