//! Makes replicas go on alone, for groups that lost a majority for good.
//!
//! Works on what a start left, instead of a running node: applies what the log holds up to where it shall end, writes the
//! batches behind, and appends, in one write of the WAL per group, what rebuilds the group from that state with one
//! voter: a hard state, an empty entry of a new term that ends the log, and the record of a switch.
//!
//! Invariants: a group is as it was, or rebuilt; no crash shows anything between. Everything that the new state contains is
//! on the disk before the record of it. Does not decide which replica, nor where its log ends.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::{ApplyFailure, Machine, Replica, Start, apply_entry, checkpoint::encode_image};
use crate::{
    command::{CommandHeader, Entry, HeaderError},
    ids::{GroupId, LogIndex, Offset, OperationId, ReplicaId, Term, WriteNumber},
    io::{DiskError, DiskOperation, DiskOutput, Effects, Exit},
    limits::SEGMENT_WRITE_BYTES_MAX,
    log::{
        checkpoint::{GroupSection, MachineImage},
        read::{DamagedEntry, EntryRead},
        record::{EntryKind, EntryLocation, EntryRecord, WalRecord},
    },
    replication::group::Membership,
    time::Now,
};

/// Batches that are held in memory before they are written.
const UNSYNCED_MAX: u64 = 4 * SEGMENT_WRITE_BYTES_MAX as u64;

/// What shall become of one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RebuildOrder {
    pub(crate) group: GroupId,
    pub(crate) replica: ReplicaId,
    /// The last entry that is kept, and its term.
    pub(crate) end: (LogIndex, Term),
    /// The term that the group goes on in: above every term it ever had.
    pub(crate) term: Term,
    /// Payloads that are lost here: in which other directory they lie, and where.
    pub(crate) fills: BTreeMap<LogIndex, (usize, EntryLocation)>,
    /// Replicas that were members once and never speak again.
    pub(crate) removed: BTreeSet<ReplicaId>,
}

/// What a replica was rebuilt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rebuilt {
    /// Everything up to this entry is kept.
    pub end: LogIndex,
    /// Of a partition: the offset after its last record.
    pub next_offset: Option<Offset>,
}

/// Why a replica was left as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRebuilt {
    #[error("its log is not the one that was planned with")]
    Changed,
    #[error("{0}")]
    Damaged(#[from] DamagedEntry),
    #[error("{file} cannot be read: {error}")]
    Unreadable { file: String, error: DiskError },
    #[error("the command at {index}: {error}; recover with a build that understands it")]
    Command { index: LogIndex, error: HeaderError },
    #[error(
        "it was being filled by another replica and has batches up to offset {stored}, but its state ends at {applied}"
    )]
    Unfinished { stored: Offset, applied: Offset },
    #[error("the command at {index} cannot be applied: {what}; recover with a build that can")]
    Poisonous { index: LogIndex, what: String },
    #[error("{0}")]
    Apply(Exit),
}

/// What [`Rebuild::poll`] waits for.
#[derive(Debug)]
pub(crate) enum RebuildStep {
    /// The operations that it issued, or time.
    Waiting,
    /// [`Rebuild::supply`] with what this read finds in another directory.
    Elsewhere {
        directory: usize,
        read: EntryRead,
    },
    Done(BTreeMap<GroupId, Result<Rebuilt, NotRebuilt>>),
}

/// See the module head.
pub(crate) struct Rebuild {
    start: Start,
    orders: VecDeque<RebuildOrder>,
    stage: Stage,
    done: BTreeMap<GroupId, Result<Rebuilt, NotRebuilt>>,
    last_write: WriteNumber,
}

enum Stage {
    Next,
    Applying { order: RebuildOrder, applied: LogIndex },
    Reading { order: RebuildOrder, read: EntryRead, operation: Option<OperationId> },
    Over,
}

impl Rebuild {
    pub(crate) fn new(start: Start, orders: impl IntoIterator<Item = RebuildOrder>) -> Self {
        let last_write = start.wal.durable();
        Self { start, orders: orders.into_iter().collect(), stage: Stage::Next, done: BTreeMap::new(), last_write }
    }

    /// # Errors
    ///
    /// [`Exit`] if the disk fails: groups that were rebuilt before stay so.
    pub(crate) fn handle(
        &mut self,
        now: Now,
        operation: OperationId,
        result: Result<DiskOutput, DiskError>,
    ) -> Result<(), Exit> {
        if self.start.wal.handle(now, operation, &result, &mut Vec::new())? {
            return Ok(());
        }
        if let Stage::Reading { operation: Some(own), .. } = &self.stage
            && *own == operation
        {
            match result {
                Ok(DiskOutput::Read(bytes)) => self.supply(now, Ok(bytes)),
                Ok(DiskOutput::Done | DiskOutput::List(_)) => panic!("a read is answered by bytes"),
                Err(error) => self.supply(now, Err(error)),
            }
            return Ok(());
        }
        if let Some(group) = self.start.segment_operations.remove(&operation)
            && let Some(Machine::Partition(partition)) =
                self.start.replicas.get_mut(&group).map(|replica| &mut replica.machine)
        {
            partition.log.handle(operation, result)?;
        }
        Ok(())
    }

    /// What lies where [`RebuildStep::Elsewhere`] said.
    pub(crate) fn supply(&mut self, now: Now, bytes: Result<Bytes, DiskError>) {
        let Stage::Reading { order, read, .. } = std::mem::replace(&mut self.stage, Stage::Next) else {
            panic!("nothing is read")
        };
        let replica = self.start.replicas.get_mut(&order.group).expect("it was looked up when its turn began");
        let file = read.location.file.name().path();
        let applied = bytes
            .map_err(|error| NotRebuilt::Unreadable { file, error })
            .and_then(|bytes| Ok(read.check(bytes)?))
            .and_then(|(context, data)| apply(replica, now, &read, &context, data));
        match applied {
            Ok(()) => self.stage = Stage::Applying { order, applied: read.index },
            Err(reason) => drop(self.done.insert(order.group, Err(reason))),
        }
    }

    /// Goes on as far as possible. To be called after any number of calls of the others.
    pub(crate) fn poll(&mut self, now: Now, effects: &mut Effects) -> Result<RebuildStep, Exit> {
        loop {
            let waits = match std::mem::replace(&mut self.stage, Stage::Over) {
                Stage::Next => {
                    self.stage = match self.orders.pop_front() {
                        Some(order) => self.begin(order),
                        None => Stage::Over,
                    };
                    false
                }
                Stage::Applying { order, applied } => self.advance(order, applied, effects)?,
                Stage::Reading { order, read, operation: None } => {
                    let (directory, _) = order.fills[&read.index];
                    self.stage = Stage::Reading { order, read, operation: None };
                    return Ok(RebuildStep::Elsewhere { directory, read });
                }
                Stage::Reading { order, read, operation } => {
                    self.stage = Stage::Reading { order, read, operation };
                    true
                }
                Stage::Over => {
                    let Start { wal, ids, .. } = &mut self.start;
                    wal.poll(now, effects, ids, &mut Vec::new());
                    // The write behind it proves the last one, so that no later damage is taken for a torn end.
                    if wal.durable() > self.last_write || self.done.values().all(Result::is_err) {
                        return Ok(RebuildStep::Done(std::mem::take(&mut self.done)));
                    }
                    if wal.is_full() {
                        return Err(full("the write-ahead log".to_owned()));
                    }
                    true
                }
            };
            if waits {
                return Ok(RebuildStep::Waiting);
            }
        }
    }

    fn begin(&mut self, order: RebuildOrder) -> Stage {
        let (end, term) = order.end;
        let is_planned = self.start.replicas.get(&order.group).filter(|replica| {
            let (group, log) = (&replica.group, replica.group.log());
            group.replica() == order.replica
                && log.truncated_index() <= end
                && end <= log.last_log_index()
                && log.log_term(end) == term
                && group.applied() <= end
        });
        match is_planned.map(|replica| replica.group.applied()) {
            Some(applied) => Stage::Applying { order, applied },
            None => {
                self.done.insert(order.group, Err(NotRebuilt::Changed));
                Stage::Next
            }
        }
    }

    /// Applies what needs no read, and begins the next read, or ends. Whether it has to wait for the disk.
    fn advance(&mut self, order: RebuildOrder, mut applied: LogIndex, effects: &mut Effects) -> Result<bool, Exit> {
        let Start { replicas, ids, segment_operations, .. } = &mut self.start;
        let replica = replicas.get_mut(&order.group).expect("it was looked up when its turn began");
        let is_end = applied == order.end.0;
        if let Machine::Partition(partition) = &mut replica.machine {
            let log = &mut partition.log;
            if log.unsynced_bytes() > if is_end { 0 } else { UNSYNCED_MAX } {
                let first = effects.disk.len();
                log.poll(SEGMENT_WRITE_BYTES_MAX, effects, ids);
                segment_operations.extend(effects.disk[first..].iter().map(|operation| (operation.id, order.group)));
                log.release(0);
                if log.disk_full() {
                    return Err(full(format!("a segment of group {}", order.group)));
                }
                if log.is_writing() || log.unsynced_bytes() > 0 {
                    self.stage = Stage::Applying { order, applied };
                    return Ok(true);
                }
            }
        }
        if is_end {
            let outcome = self.append(&order);
            self.done.insert(order.group, outcome);
            self.stage = Stage::Next;
            return Ok(false);
        }
        let log = replica.group.log();
        applied = applied.next();
        let term = log.log_term(applied);
        let elsewhere = order.fills.get(&applied).map(|(_, location)| *location);
        let location = elsewhere.or_else(|| log.location(applied)).expect("everything that a start finds has a place");
        let read = EntryRead { group: order.group, index: applied, term, location };
        // Changes of membership are overruled; empty entries mean nothing.
        let is_command = log.kind(applied) == EntryKind::Normal && read.length() > 0;
        if !is_command {
            self.stage = Stage::Applying { order, applied };
            return Ok(false);
        }
        let operation = elsewhere.is_none().then(|| ids.next_id());
        if let Some(id) = operation {
            let action = read.action().expect("its payload is not empty");
            effects.disk.push(DiskOperation { id, action });
        }
        self.stage = Stage::Reading { order, read, operation };
        Ok(operation.is_some())
    }

    /// Everything is applied and on the disk: the record of it.
    fn append(&mut self, order: &RebuildOrder) -> Result<Rebuilt, NotRebuilt> {
        let replica = self.start.replicas.get_mut(&order.group).expect("it was looked up when its turn began");
        let mut next_offset = None;
        if let Machine::Partition(partition) = &replica.machine {
            let (stored, applied) = (partition.log.next_offset(), partition.state.next_offset());
            if stored != applied {
                return Err(NotRebuilt::Unfinished { stored, applied });
            }
            next_offset = Some(applied);
        }
        let log = replica.partition_mut().map(|partition| {
            let mut slices = Vec::new();
            partition.log.image().applied_to_end().encode(&mut slices);
            slices
        });
        let (end, end_term) = order.end;
        let section = GroupSection {
            group: order.group,
            replica: order.replica,
            // Everything up to the record that holds this section is reflected: whoever reads it knows its place.
            write: WriteNumber(0),
            creation: replica.creation.encode().into(),
            term: order.term,
            vote: ReplicaId(0),
            commit: end,
            applied: end,
            truncated: end,
            truncated_term: end_term,
            membership: Membership::new([order.replica], []).encode().into(),
            introduced: BTreeSet::new(),
            removed: order.removed.clone(),
            image: MachineImage::Inline(encode_image(&replica.machine)),
            log,
            entries: Vec::new(),
            quarantine: None,
        };
        let state = section.encode().slices.concat().into();
        let (group, replica) = (order.group, order.replica);
        let entry = EntryRecord {
            group,
            index: end.next(),
            term: order.term,
            kind: EntryKind::Normal,
            context: Bytes::new(),
            data: Bytes::new(),
        };
        let hard_state =
            WalRecord::HardState { group, replica, term: order.term, vote: ReplicaId(0), commit: end.next() };
        // In this order: the entry cuts off what is not kept, and the new state keeps the entry.
        let records = [hard_state, WalRecord::Entry(entry), WalRecord::Switch { group, replica, state }];
        self.last_write = self.start.wal.append(records);
        Ok(Rebuilt { end, next_offset })
    }
}

fn apply(replica: &mut Replica, now: Now, read: &EntryRead, context: &[u8], data: Bytes) -> Result<(), NotRebuilt> {
    let EntryRead { index, term, .. } = *read;
    let header = CommandHeader::decode(context).map_err(|error| NotRebuilt::Command { index, error })?;
    match apply_entry(&mut replica.machine, now, &Entry { index, term, header, data }, None) {
        Ok(_) => Ok(()),
        Err(ApplyFailure::Exit(exit)) => Err(NotRebuilt::Apply(exit)),
        Err(ApplyFailure::Poisonous(poisonous)) => Err(NotRebuilt::Poisonous { index, what: poisonous.what }),
    }
}

fn full(file: String) -> Exit {
    Exit::DiskFailed { operation: "write", file, error: DiskError::Full }
}
