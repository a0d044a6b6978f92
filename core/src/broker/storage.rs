//! Writing applied batches behind, and removing the files of deleted partitions.
//!
//! Invariant: few files are synced at a time, and only when enough waits for it: a partition's own bytes, or the bytes
//! of all partitions that are held in memory. The WAL holds every batch until then and after.

use std::{collections::BTreeSet, time::Duration};

use super::Broker;
use crate::{
    ids::{GroupId, OperationId},
    io::{DiskError, DiskOutput, Effects, Exit},
    limits::{FRAMES_BYTES_MAX, SEGMENT_FILES_MAX, SEGMENT_WRITE_BYTES_MAX, SHARD_TAIL_BYTES_MAX, TAIL_KEEP_BYTES},
    log::segment::fewest_to_write,
    time::Now,
};

/// Partitions are looked at this often at most when nothing forces it.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// A partition without new batches for so long keeps nothing in memory for readers.
const IDLE_AFTER: Duration = Duration::from_secs(30);
/// Bytes that wait longer than this are written even if they are few.
const DIRTY_MAX: Duration = Duration::from_secs(30);

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
        self.flush_at = now.monotonic + LOOK_INTERVAL;
        let logs = || self.live_logs.keys().filter_map(|id| Some((*id, &self.replicas.get(id)?.partition()?.log)));
        let memory: usize = logs().map(|(_, log)| log.memory_bytes()).sum();
        let mut writing = logs().filter(|(_, log)| log.is_writing()).count();
        let frames = self.frames.bytes();
        let held = frames > FRAMES_BYTES_MAX;
        let pressed = held || memory > SHARD_TAIL_BYTES_MAX / 2;
        let mut wanted: BTreeSet<GroupId> = logs()
            .filter(|(_, log)| {
                let old = log.dirty_since().is_some_and(|since| now.monotonic.since(since) >= DIRTY_MAX);
                log.wants_flush() || old
            })
            .map(|(id, _)| id)
            .collect();
        if held {
            wanted.extend(logs().filter(|(_, log)| log.unwritten_bytes() > 0).map(|(id, _)| id));
        } else if pressed {
            let excess = (memory - SHARD_TAIL_BYTES_MAX / 2) as u64;
            wanted.extend(fewest_to_write(logs().map(|(id, log)| (id, log.unwritten_bytes())), excess));
        }
        let Self { replicas, live_logs, segment_operations, ids, .. } = self;
        live_logs.retain(|id, appended| {
            let Some(partition) = replicas.get_mut(id).and_then(|replica| replica.partition_mut()) else {
                return false;
            };
            let log = &mut partition.log;
            let may_write = wanted.contains(id) && !log.is_writing() && writing < SEGMENT_FILES_MAX;
            let first = effects.disk.len();
            if log.poll(if may_write { SEGMENT_WRITE_BYTES_MAX } else { 0 }, effects, ids) > 0 {
                writing += 1;
            }
            segment_operations.extend(effects.disk[first..].iter().map(|operation| (operation.id, *id)));
            let idle = now.monotonic.since(*appended) >= IDLE_AFTER;
            log.release(if pressed || idle { 0 } else { TAIL_KEEP_BYTES });
            // Nothing is left to be written, followed or dropped: it costs nothing until the next batch.
            log.memory_bytes() > 0 || log.unsynced_bytes() > 0 || log.is_writing()
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
            self.flush_at = crate::time::Monotonic(0);
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
