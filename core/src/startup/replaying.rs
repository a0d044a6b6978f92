//! Applies what was committed before the start: what the checkpoint carries, then the WAL once from front to back.
//!
//! Invariant: an entry is applied only if its group's log still holds it at this very place, which a later truncation
//! would have changed, and only up to the commit index that was durable, and up to the first one that is lost. Memory stays bounded: batches that segments do
//! not prove yet are written behind meanwhile, and reading waits for that.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use slog::Logger;

use super::found::FoundGroup;
use crate::{
    broker::{ApplyFailure, Hold, Machine, Met, Partition, Replica, apply_entry, entry_of},
    command::{ImageError, StateMachine},
    config::NodeConfig,
    ids::{GroupId, OperationId, ReplicaId},
    io::{DiskError, DiskOutput, Effects, Exit, OperationIds},
    limits::{SEGMENT_FILES_MAX, SEGMENT_WRITE_BYTES_MAX, STARTUP_TAIL_BYTES_MAX},
    log::{
        record::{EntryKind, EntryLocation, EntryRecord, PayloadState, WalRecord},
        recovery::{Progress, Recovered, Replay},
        segment::{PartitionLog, fewest_to_write},
        wal::Wal,
    },
    metadata::MetadataState,
    partition::PartitionState,
    replication::group::{Group, InlineEntry, Payload},
    rng::Stream,
    time::{Monotonic, Now},
};

#[derive(Default)]
pub(super) struct Replaying {
    groups: BTreeMap<GroupId, (FoundGroup, Machine)>,
    wal: Option<Wal>,
    replay: Option<Replay>,
    /// See [`NodeConfig::build`] and [`NodeConfig::poison`].
    build: String,
    poison: Option<Bytes>,
    /// Everything was read; what remains is nothing.
    done: bool,
    removed: BTreeSet<(GroupId, ReplicaId)>,
    /// Operations of partitions' files.
    writing: BTreeMap<OperationId, GroupId>,
    /// Partitions whose logs changed since they were looked at: what a turn costs depends on what it changed, not on how
    /// many partitions there are.
    touched: BTreeSet<GroupId>,
    /// What logs held in memory when they were looked at; those that held nothing are not here.
    held: BTreeMap<GroupId, usize>,
    memory: usize,
}

/// What a node runs with.
pub(super) struct Replayed {
    pub(super) wal: Wal,
    pub(super) replicas: BTreeMap<GroupId, Replica>,
    /// Replicas that were removed; files of them may be left.
    pub(super) destroyed: BTreeSet<(GroupId, ReplicaId)>,
    pub(super) segment_operations: BTreeMap<OperationId, GroupId>,
}

impl Replaying {
    pub(super) fn add_partition(&mut self, group: FoundGroup, log: PartitionLog) -> Result<(), Exit> {
        let state: PartitionState = restore(&group)?.unwrap_or_default();
        if state.next_offset() != log.applied_offset() {
            let what = format!("the state ends at offset {}, the log at {}", state.next_offset(), log.applied_offset());
            return Err(contradiction(&group, &what));
        }
        let machine = Machine::Partition(Box::new(Partition { state, log }));
        self.touched.insert(group.creation.group);
        self.groups.insert(group.creation.group, (group, machine));
        Ok(())
    }

    pub(super) fn add_metadata(&mut self, group: FoundGroup) -> Result<(), Exit> {
        let state: MetadataState = restore(&group)?.unwrap_or_default();
        self.groups.insert(group.creation.group, (group, Machine::Metadata(state)));
        Ok(())
    }

    /// Applies what a checkpoint holds and was committed since, and begins with the WAL.
    pub(super) fn begin(
        &mut self,
        now: Now,
        recovered: Recovered,
        removed: BTreeSet<(GroupId, ReplicaId)>,
        config: &NodeConfig,
    ) -> Result<(), Exit> {
        self.wal = Some(recovered.wal);
        self.replay = Some(Replay::new(recovered.replay));
        self.removed = removed;
        self.build = config.build.clone();
        self.poison = config.poison.clone();
        for (found, machine) in self.groups.values_mut() {
            found.judge_quarantine(&self.build);
            for InlineEntry { index, term, kind, location, payload } in std::mem::take(&mut found.inline) {
                let record = EntryRecord {
                    group: found.creation.group,
                    index,
                    term,
                    kind,
                    context: payload.context,
                    data: payload.data,
                };
                let build = (self.build.as_str(), self.poison.as_ref());
                apply(now, build, found, machine, record, location)?;
            }
        }
        Ok(())
    }

    pub(super) fn handle(
        &mut self,
        now: Now,
        operation: OperationId,
        result: Result<DiskOutput, DiskError>,
    ) -> Result<(), Exit> {
        let wal = self.wal.as_mut().expect("the replay has begun");
        if wal.handle(now, operation, &result, &mut Vec::new())? {
            return Ok(());
        }
        let replay = self.replay.as_mut().expect("the replay has begun");
        if replay.handle(operation, &result)? {
            return Ok(());
        }
        if let Some(group) = self.writing.remove(&operation)
            && let Some((_, Machine::Partition(partition))) = self.groups.get_mut(&group)
        {
            partition.log.handle(operation, result)?;
            self.touched.insert(group);
        }
        Ok(())
    }

    pub(super) fn poll(&mut self, now: Now, effects: &mut Effects, ids: &mut OperationIds) -> Result<Progress, Exit> {
        let wal = self.wal.as_mut().expect("the replay has begun");
        wal.poll(now, effects, ids, &mut Vec::new());
        let memory = self.write_behind(effects, ids);
        if memory > STARTUP_TAIL_BYTES_MAX && !self.writing.is_empty() {
            return Ok(Progress::Waiting);
        }
        if self.done {
            return Ok(Progress::Done);
        }
        let mut records = Vec::new();
        let progress = self.replay.as_mut().expect("the replay has begun").poll(effects, ids, &mut records)?;
        for recovered in records {
            let (WalRecord::Entry(record) | WalRecord::Fill(record)) = recovered.record else { continue };
            let location = recovered.location.expect("recovery locates every entry");
            // A group that was removed later is not there any more.
            let Some((found, machine)) = self.groups.get_mut(&record.group) else { continue };
            let is_here = recovered.payload == PayloadState::Intact;
            if is_here && recovered.write > found.write {
                self.touched.insert(record.group);
                let build = (self.build.as_str(), self.poison.as_ref());
                apply(now, build, found, machine, record, location)?;
            }
        }
        match progress {
            Progress::More | Progress::Waiting => Ok(progress),
            Progress::Done => {
                self.done = true;
                Ok(Progress::Done)
            }
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Monotonic> {
        self.wal.as_ref().and_then(Wal::next_deadline)
    }

    /// Writes what is enough to be worth it; returns the bytes held in memory.
    fn write_behind(&mut self, effects: &mut Effects, ids: &mut OperationIds) -> usize {
        for id in std::mem::take(&mut self.touched) {
            let wants_flush = self.log(id).is_some_and(|log| log.wants_flush());
            self.look_at(id, if wants_flush { SEGMENT_WRITE_BYTES_MAX } else { 0 }, effects, ids);
        }
        // What is on its way frees room when it has arrived: until then nobody needs to look for more.
        if self.memory > STARTUP_TAIL_BYTES_MAX / 2 && self.writing.len() < SEGMENT_FILES_MAX {
            let excess = (self.memory - STARTUP_TAIL_BYTES_MAX / 2) as u64;
            let candidates = self.held.keys().filter_map(|id| Some((*id, self.log(*id)?.unwritten_bytes())));
            for id in fewest_to_write(candidates, excess) {
                self.look_at(id, SEGMENT_WRITE_BYTES_MAX, effects, ids);
            }
        }
        self.memory
    }

    /// Goes on with what a log writes, begins a write if there is a budget, and forgets what is on disk.
    fn look_at(&mut self, id: GroupId, budget: usize, effects: &mut Effects, ids: &mut OperationIds) {
        let Some((_, Machine::Partition(partition))) = self.groups.get_mut(&id) else { return };
        let log = &mut partition.log;
        let first = effects.disk.len();
        log.poll(budget, effects, ids);
        self.writing.extend(effects.disk[first..].iter().map(|operation| (operation.id, id)));
        log.release(0);
        let bytes = log.memory_bytes();
        let before = if bytes > 0 { self.held.insert(id, bytes) } else { self.held.remove(&id) };
        self.memory = self.memory - before.unwrap_or(0) + bytes;
    }

    fn log(&self, id: GroupId) -> Option<&PartitionLog> {
        match self.groups.get(&id) {
            Some((_, Machine::Partition(partition))) => Some(&partition.log),
            Some((_, Machine::Metadata(_))) | None => None,
        }
    }

    /// The replicas of this node, ready to run.
    pub(super) fn finish(self, config: &NodeConfig, logger: &Logger) -> Result<Replayed, Exit> {
        let mut replicas = BTreeMap::new();
        for (id, (mut found, machine)) in self.groups {
            let (transferred, hold) = (found.transferred(), found.hold.take());
            let timeouts = Stream::new(config.seed, config.node, "election", id.0);
            let group = Group::new(found.start, timeouts, logger).map_err(|error| Exit::Damaged {
                file: "wal".to_owned(),
                offset: 0,
                what: format!("group {id}: {error}"),
            })?;
            let mut replica = Replica::new(config.node, group, found.creation, machine);
            replica.found_at_start(hold, transferred);
            replicas.insert(id, replica);
        }
        Ok(Replayed {
            wal: self.wal.expect("the replay has begun"),
            replicas,
            destroyed: self.removed,
            segment_operations: self.writing,
        })
    }
}

/// Applies an entry, or keeps it in memory for later, as it was before the restart.
fn apply(
    now: Now,
    (build, poison): (&str, Option<&Bytes>),
    found: &mut FoundGroup,
    machine: &mut Machine,
    record: EntryRecord,
    location: EntryLocation,
) -> Result<(), Exit> {
    let start = &mut found.start;
    if record.index <= start.applied || !start.log.holds(record.index, record.term, location) {
        return Ok(());
    }
    if found.hold.as_ref().is_some_and(|hold| record.index >= hold.index) {
        // Behind where the replica is held, too: checkpoints carry it, so that it keeps no file of the WAL.
        start.supply(record.index, record.term, Payload { context: record.context, data: record.data });
        return Ok(());
    }
    let is_next = record.index == start.applied.next() && record.index <= start.hard_state.commit;
    match record.kind {
        EntryKind::Normal if is_next => {
            let (index, term) = (record.index, record.term);
            if !(record.context.is_empty() && record.data.is_empty()) {
                let met = match entry_of(index, term, &record.context, record.data.clone()) {
                    Ok(entry) => match apply_entry(machine, now, &entry, poison) {
                        Ok(_) => None,
                        Err(ApplyFailure::Poisonous(poisonous)) => Some(Met { poisonous, is_intact: false }),
                        Err(ApplyFailure::Exit(exit)) => return Err(exit),
                    },
                    Err(poisonous) => Some(Met { poisonous, is_intact: true }),
                };
                if met.is_some() {
                    let build = Bytes::copy_from_slice(build.as_bytes());
                    found.hold = Some(Hold { index, build, found: met });
                    start.supply(index, term, Payload { context: record.context, data: record.data });
                    return Ok(());
                }
            }
            start.applied = index;
        }
        // What follows a change of the membership is left to the running group, which alone applies it. So is what follows
        // a payload that is lost, or that was repaired and comes late; there may be much of it, so it is read again.
        EntryKind::Normal if record.index <= start.hard_state.commit => {}
        EntryKind::Normal | EntryKind::ConfChange | EntryKind::ConfChangeV2 => {
            let payload = Payload { context: record.context, data: record.data };
            start.supply(record.index, record.term, payload);
        }
    }
    Ok(())
}

/// The state that a checkpoint or a transfer brought, if one did.
fn restore<M: StateMachine>(group: &FoundGroup) -> Result<Option<M>, Exit> {
    let Some(restored) = &group.restored else { return Ok(None) };
    M::restore_image(&restored.machine).map(Some).map_err(|error| match error {
        ImageError::Version(_) => Exit::Refused(format!(
            "{}: group {}: {error}; start a build that understands it",
            restored.file.path(),
            group.creation.group
        )),
        ImageError::Damaged { .. } => contradiction(group, &error.to_string()),
    })
}

fn contradiction(group: &FoundGroup, what: &str) -> Exit {
    let file = group.restored.as_ref().map_or("wal".to_owned(), |restored| restored.file.path());
    Exit::Damaged { file, offset: 0, what: format!("group {}: {what}", group.creation.group) }
}
