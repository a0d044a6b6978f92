//! Disk reads on behalf of requests and groups.
//!
//! Invariant: every read plan is given back to its log, whether anybody still wants the bytes or not, because a file is
//! not removed before. The number of reads under way for clients is bounded by the requests that wait for them.

use std::collections::BTreeMap;

use bytes::Bytes;
use kauri_protocol::{
    error::ErrorCode,
    records::{BatchView, Batches as RecordBatches},
};

use super::{Broker, repair::AskedFor, runs::Run, transfer::PendingAnswer};
use crate::{
    api::{Event, Waiter},
    ids::{GroupId, LeaderEpoch, LogIndex, NodeId, Offset, OperationId},
    io::{DiskAction, DiskError, DiskOperation, DiskOutput, Effects, Exit},
    limits::SEARCH_RECORDS_BYTES_MAX,
    log::{
        read::EntryRead,
        record::EntryFile,
        segment::{Batches, ChunkPlan, Read, ReadError, ReadPlan, ReadResult, ScrubPlan, ServePlan},
    },
    replication::{
        group::{Fetch, Payload},
        segment_repair::Question,
    },
    time::{Now, Wall},
};

/// What a fetch finds.
#[derive(Debug)]
pub enum ReadStart {
    Ready(Batches),
    /// An [`Event::Read`] will follow: about so many bytes, in a buffer of so many.
    Waiting {
        bytes: usize,
        read_bytes: usize,
    },
    Empty,
    OutOfRange,
    Failed(ErrorCode),
}

/// What came from the disk.
#[derive(Debug)]
pub enum ReadOutcome {
    Records(Batches),
    Found(Option<Found>),
    Failed(ErrorCode),
}

/// A record found by its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub offset: Offset,
    pub timestamp: Wall,
    pub leader_epoch: LeaderEpoch,
}

/// Which record is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeQuery {
    /// The first with this timestamp or a later one.
    AtLeast(Wall),
    /// The first with the largest timestamp of all.
    Max,
}

#[derive(Debug)]
pub enum SearchStart {
    Found(Option<Found>),
    Waiting,
    Failed(ErrorCode),
}

#[derive(Debug, Default)]
pub(super) struct Reads {
    open: BTreeMap<OperationId, Purpose>,
    /// Issued, not yet handed to the driver.
    start: Vec<DiskOperation>,
    pub(super) last_token: u64,
    fetch_bytes: usize,
    /// Reads of entries that are not complete.
    entries: BTreeMap<(GroupId, LogIndex), EntryBatch>,
}

#[derive(Debug)]
pub(super) enum Purpose {
    Fetch {
        group: GroupId,
        plan: ReadPlan,
        waiter: Waiter,
    },
    Search {
        group: GroupId,
        plan: ReadPlan,
        waiter: Waiter,
        goal: i64,
    },
    Entries {
        group: GroupId,
        first: LogIndex,
        run: Run,
    },
    Transfer {
        group: GroupId,
        plan: ReadPlan,
        pending: Box<PendingAnswer>,
    },
    /// For a replica of another node that lost it.
    Repair {
        read: EntryRead,
        asked: Box<AskedFor>,
    },
    /// A second look at what was damaged.
    Look {
        group: GroupId,
        plan: ChunkPlan,
    },
    /// A side file that is damaged, or may be.
    Learn {
        group: GroupId,
        plan: ReadPlan,
    },
    /// Bytes from which lost entries of a side file are found out.
    Rebuild {
        group: GroupId,
        plan: ChunkPlan,
    },
    /// Of the walk that looks for damage.
    Scrub {
        group: GroupId,
        plan: ScrubPlan,
    },
    /// Bytes for another replica's repair.
    Serve {
        plan: ServePlan,
        node: NodeId,
        question: Question,
    },
}

/// Entries of a group that are wanted together.
#[derive(Debug)]
struct EntryBatch {
    /// None where it was not read yet, or is not what was written.
    payloads: Vec<Option<Payload>>,
    missing: usize,
}

impl Reads {
    /// Files from which entries are being read.
    pub(super) fn entry_files(&self) -> impl Iterator<Item = EntryFile> {
        self.open.values().filter_map(|purpose| match purpose {
            Purpose::Entries { run, .. } => Some(run.file),
            Purpose::Repair { read, .. } => Some(read.location.file),
            Purpose::Fetch { .. }
            | Purpose::Search { .. }
            | Purpose::Transfer { .. }
            | Purpose::Look { .. }
            | Purpose::Learn { .. }
            | Purpose::Rebuild { .. }
            | Purpose::Scrub { .. }
            | Purpose::Serve { .. } => None,
        })
    }

    pub(super) fn owns(&self, operation: OperationId) -> bool {
        self.open.contains_key(&operation)
    }

    /// Reads under way.
    pub(super) fn len(&self) -> usize {
        self.open.len() + self.entries.len()
    }

    pub(super) fn take_operations(&mut self, effects: &mut Effects) {
        effects.disk.append(&mut self.start);
    }

    /// Memory that reads under way for fetches will take.
    pub(super) fn fetch_bytes(&self) -> usize {
        self.fetch_bytes
    }

    /// Whether entries of a group's Raft log are being read.
    pub(super) fn reads_entries_of(&self, group: GroupId) -> bool {
        self.entries.range((group, LogIndex(0))..=(group, LogIndex(u64::MAX))).next().is_some()
    }

    /// For whoever takes the result itself.
    pub(super) fn issue(&mut self, operation: DiskOperation) {
        self.start.push(operation);
    }

    pub(super) fn start(&mut self, id: OperationId, action: DiskAction, purpose: Purpose) {
        if let Purpose::Fetch { plan, .. } = &purpose {
            self.fetch_bytes += plan.bytes();
        }
        self.open.insert(id, purpose);
        self.start.push(DiskOperation { id, action });
    }
}

impl Broker {
    /// Batches of a partition that this node leads, from `from` on.
    pub(crate) fn read(
        &mut self,
        group: GroupId,
        from: Offset,
        bytes_max: usize,
        at_least_one: bool,
        waiter: Waiter,
    ) -> ReadStart {
        let Some(partition) = self.replicas.get_mut(&group).and_then(|replica| replica.partition_mut()) else {
            return ReadStart::Failed(ErrorCode::NotLeaderOrFollower);
        };
        if bytes_max == 0 && !at_least_one {
            return ReadStart::Empty;
        }
        let upper = partition.state.next_offset();
        match partition.log.read(Read { from, upper, max_bytes: bytes_max, at_least_one }) {
            ReadResult::Ready(batches) if batches.bytes == 0 => ReadStart::Empty,
            ReadResult::Ready(batches) => ReadStart::Ready(batches),
            ReadResult::NeedsDisk(plan) => {
                let read_bytes = plan.bytes();
                let bytes = read_bytes.min(bytes_max.max(1));
                let id = self.ids.next_id();
                self.reads.start(id, plan.action(), Purpose::Fetch { group, plan, waiter });
                ReadStart::Waiting { bytes, read_bytes }
            }
            ReadResult::Empty => ReadStart::Empty,
            ReadResult::OutOfRange => ReadStart::OutOfRange,
            ReadResult::Damaged => {
                self.damage_met(group);
                ReadStart::Failed(ErrorCode::KafkaStorageError)
            }
        }
    }

    /// Looks for a record by its time, within what is committed.
    pub(crate) fn search(&mut self, _now: Now, group: GroupId, query: TimeQuery, waiter: Waiter) -> SearchStart {
        let Some(partition) = self.replicas.get_mut(&group).and_then(|replica| replica.partition_mut()) else {
            return SearchStart::Failed(ErrorCode::NotLeaderOrFollower);
        };
        let (from, goal) = match query {
            TimeQuery::AtLeast(at) => (partition.log.log_start(), at.0),
            TimeQuery::Max => match partition.log.max_timestamp() {
                Some((timestamp, offset)) => (offset, timestamp),
                None => return SearchStart::Found(None),
            },
        };
        match self.look(group, from, goal, waiter) {
            Ok(Some(outcome)) => match outcome {
                ReadOutcome::Found(found) => SearchStart::Found(found),
                ReadOutcome::Failed(error) => SearchStart::Failed(error),
                ReadOutcome::Records(_) => unreachable!("a search finds one record"),
            },
            Ok(None) => SearchStart::Waiting,
            Err(error) => SearchStart::Failed(error),
        }
    }

    /// Goes on with a search from an offset; `None` if it waits for the disk.
    fn look(
        &mut self,
        group: GroupId,
        mut from: Offset,
        goal: i64,
        waiter: Waiter,
    ) -> Result<Option<ReadOutcome>, ErrorCode> {
        loop {
            let partition = self
                .replicas
                .get_mut(&group)
                .and_then(|replica| replica.partition_mut())
                .ok_or(ErrorCode::NotLeaderOrFollower)?;
            let upper = partition.state.next_offset();
            match partition.log.find_timestamp(from, upper, goal) {
                ReadResult::Ready(batches) => match resolve(&batches, goal)? {
                    Ok(found) => return Ok(Some(ReadOutcome::Found(Some(found)))),
                    Err(next) => from = next,
                },
                ReadResult::NeedsDisk(plan) => {
                    let id = self.ids.next_id();
                    self.reads.start(id, plan.action(), Purpose::Search { group, plan, waiter, goal });
                    return Ok(None);
                }
                ReadResult::Empty | ReadResult::OutOfRange => return Ok(Some(ReadOutcome::Found(None))),
                ReadResult::Damaged => {
                    self.damage_met(group);
                    return Err(ErrorCode::KafkaStorageError);
                }
            }
        }
    }

    /// Entries that a follower, or apply, needs and that are no longer in memory.
    pub(super) fn read_entries(&mut self, group: GroupId, fetch: Fetch, _effects: &mut Effects) {
        if !self.replicas.contains_key(&group) {
            return;
        }
        let missing = fetch.locations.len();
        let mut batch = EntryBatch { payloads: vec![None; missing], missing };
        let mut runs: Vec<Run> = Vec::new();
        for (place, (location, term)) in fetch.locations.into_iter().zip(fetch.terms).enumerate() {
            let read = EntryRead { group, index: LogIndex(fetch.first.0 + place as u64), term, location };
            if read.length() == 0 {
                batch.payloads[place] = Some(Payload::default());
                batch.missing -= 1;
            } else if !runs.last_mut().is_some_and(|run| run.extend(place, read)) {
                runs.push(Run::of(place, read));
            }
        }
        for run in runs {
            let id = self.ids.next_id();
            self.reads.start(id, run.action(), Purpose::Entries { group, first: fetch.first, run });
        }
        self.reads.entries.insert((group, fetch.first), batch);
        self.finish_entries(group, fetch.first);
    }

    fn finish_entries(&mut self, group: GroupId, first: LogIndex) {
        if self.reads.entries.get(&(group, first)).is_none_or(|batch| batch.missing > 0) {
            return;
        }
        let batch = self.reads.entries.remove(&(group, first)).expect("looked at above");
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        replica.group.fetched_partly(first, batch.payloads);
        self.mark(group);
    }

    pub(super) fn finish_read(
        &mut self,
        now: Now,
        operation: OperationId,
        result: Result<DiskOutput, DiskError>,
    ) -> Result<(), Exit> {
        match self.reads.open.remove(&operation).expect("the caller asked whose it is") {
            Purpose::Entries { group, first, run } => {
                let bytes = match result {
                    Ok(DiskOutput::Read(bytes)) => bytes,
                    Ok(DiskOutput::Done | DiskOutput::List(_)) => unreachable!("a read returns bytes"),
                    // Of several entries, one may be the reason: each is read by itself.
                    Err(DiskError::Io { .. }) if run.entries.len() > 1 => {
                        for (place, read) in run.entries {
                            let run = Run::of(place, read);
                            let id = self.ids.next_id();
                            self.reads.start(id, run.action(), Purpose::Entries { group, first, run });
                        }
                        return Ok(());
                    }
                    Err(DiskError::Io { .. }) => Bytes::new(),
                    Err(error) => {
                        let file = run.file.name().path();
                        return Err(Exit::DiskFailed { operation: "read", file, error });
                    }
                };
                for (place, read) in &run.entries {
                    let payload = read.check(run.slice(&bytes, read)).ok();
                    if payload.is_none() {
                        self.entry_damaged(read);
                    }
                    if let Some(batch) = self.reads.entries.get_mut(&(group, first)) {
                        batch.payloads[*place] = payload.map(|(context, data)| Payload { context, data });
                        batch.missing -= 1;
                    }
                }
                self.finish_entries(group, first);
            }
            Purpose::Repair { read, asked } => {
                let payload = match result {
                    Ok(DiskOutput::Read(bytes)) => read.check(bytes).ok(),
                    Ok(DiskOutput::Done | DiskOutput::List(_)) => unreachable!("a read returns bytes"),
                    Err(DiskError::Io { .. }) => None,
                    Err(error) => {
                        let file = read.location.file.name().path();
                        return Err(Exit::DiskFailed { operation: "read", file, error });
                    }
                };
                let payload = payload.map(|(context, data)| Payload { context, data });
                self.repair_read_ended(&read, &asked, payload);
            }
            Purpose::Fetch { group, plan, waiter } => {
                self.reads.fetch_bytes -= plan.bytes();
                let Some(partition) = self.replicas.get_mut(&group).and_then(|replica| replica.partition_mut()) else {
                    self.read_of_removed(group, plan);
                    self.tell_read(waiter, ReadOutcome::Failed(ErrorCode::UnknownTopicOrPartition));
                    return Ok(());
                };
                let completed = partition.log.complete_read(plan, result);
                if partition.log.is_damaged() {
                    // Of a side file, perhaps, so that this read goes on all the same.
                    self.segment_repairs.damage_met(group);
                }
                match completed {
                    Ok(ReadResult::Ready(batches)) => self.tell_read(waiter, ReadOutcome::Records(batches)),
                    Ok(ReadResult::NeedsDisk(plan)) => {
                        let id = self.ids.next_id();
                        self.reads.start(id, plan.action(), Purpose::Fetch { group, plan, waiter });
                    }
                    Ok(ReadResult::Empty | ReadResult::OutOfRange) => {
                        self.tell_read(waiter, ReadOutcome::Records(Batches::default()));
                    }
                    Ok(ReadResult::Damaged) => {
                        self.damage_met(group);
                        self.tell_read(waiter, ReadOutcome::Failed(ErrorCode::KafkaStorageError));
                    }
                    Err(error) => {
                        self.damage_found(group, &error);
                        self.tell_read(waiter, ReadOutcome::Failed(ErrorCode::KafkaStorageError));
                    }
                }
            }
            Purpose::Transfer { group, plan, pending } => {
                let Some(partition) = self.replicas.get_mut(&group).and_then(|replica| replica.partition_mut()) else {
                    self.read_of_removed(group, plan);
                    self.transfer_read_ended(&pending, Err(None));
                    return Ok(());
                };
                match partition.log.complete_read(plan, result) {
                    Ok(ReadResult::Ready(batches)) => self.transfer_read_ended(&pending, Ok(batches.slices)),
                    Ok(ReadResult::NeedsDisk(plan)) => self.start_transfer_read(group, plan, pending),
                    Ok(ReadResult::Empty | ReadResult::OutOfRange) => {
                        self.transfer_read_ended(&pending, Ok(Vec::new()));
                    }
                    Ok(ReadResult::Damaged) => {
                        self.damage_met(group);
                        self.transfer_read_ended(&pending, Err(None));
                    }
                    Err(error) => {
                        self.damage_found(group, &error);
                        self.transfer_read_ended(&pending, Err(Some(error)));
                    }
                }
            }
            Purpose::Look { group, plan } => {
                match self.replicas.get_mut(&group).and_then(|replica| replica.partition_mut()) {
                    Some(partition) => {
                        let read = partition.log.complete_chunks(plan, result);
                        self.looked_again(group, &read);
                    }
                    None => self.chunks_of_removed(group, plan),
                }
            }
            Purpose::Learn { group, plan } => {
                match self.replicas.get_mut(&group).and_then(|replica| replica.partition_mut()) {
                    Some(partition) => {
                        let learnt = partition.log.complete_read(plan, result);
                        self.learnt(group);
                        // A version that is not known is nothing that a repair gets over.
                        learnt.map(drop).map_err(|error| match error {
                            ReadError::Damaged(damage) => Exit::from(damage),
                            ReadError::Disk { file, error } => {
                                Exit::DiskFailed { operation: "read", file: file.path(), error }
                            }
                        })?;
                    }
                    None => self.read_of_removed(group, plan),
                }
            }
            Purpose::Rebuild { group, plan } => {
                match self.replicas.get_mut(&group).and_then(|replica| replica.partition_mut()) {
                    Some(partition) => {
                        let entries = partition.log.complete_rebuild(plan, result);
                        self.rebuilt(now, group, entries);
                    }
                    None => self.chunks_of_removed(group, plan),
                }
            }
            Purpose::Scrub { group, plan } => {
                if self.replicas.get(&group).is_some_and(|replica| replica.partition().is_some()) {
                    self.scrubbed(now, group, plan, result);
                } else {
                    self.scrub_of_removed();
                    self.removals.read_ended(group, |removal| removal.scrub_ended(plan));
                }
            }
            Purpose::Serve { plan, node, question } => {
                match self.replicas.get_mut(&question.group).and_then(|replica| replica.partition_mut()) {
                    Some(partition) => {
                        let serving = partition.log.complete_serve(plan, result);
                        self.served(node, question, serving);
                    }
                    None => self.serve_of_removed(question.group, plan),
                }
            }
            Purpose::Search { group, plan, waiter, goal } => {
                let Some(partition) = self.replicas.get_mut(&group).and_then(|replica| replica.partition_mut()) else {
                    self.read_of_removed(group, plan);
                    self.tell_read(waiter, ReadOutcome::Failed(ErrorCode::UnknownTopicOrPartition));
                    return Ok(());
                };
                let outcome = match partition.log.complete_read(plan, result) {
                    Ok(ReadResult::Ready(batches)) => match resolve(&batches, goal) {
                        Ok(Ok(found)) => Some(ReadOutcome::Found(Some(found))),
                        Ok(Err(next)) => match self.look(group, next, goal, waiter) {
                            Ok(outcome) => outcome,
                            Err(error) => Some(ReadOutcome::Failed(error)),
                        },
                        Err(error) => Some(ReadOutcome::Failed(error)),
                    },
                    Ok(ReadResult::NeedsDisk(plan)) => {
                        let id = self.ids.next_id();
                        self.reads.start(id, plan.action(), Purpose::Search { group, plan, waiter, goal });
                        None
                    }
                    Ok(ReadResult::Empty | ReadResult::OutOfRange) => Some(ReadOutcome::Found(None)),
                    Ok(ReadResult::Damaged) => {
                        self.damage_met(group);
                        Some(ReadOutcome::Failed(ErrorCode::KafkaStorageError))
                    }
                    Err(error) => {
                        self.damage_found(group, &error);
                        Some(ReadOutcome::Failed(ErrorCode::KafkaStorageError))
                    }
                };
                if let Some(outcome) = outcome {
                    self.tell_read(waiter, outcome);
                }
            }
        }
        Ok(())
    }

    pub(super) fn start_transfer_read(&mut self, group: GroupId, plan: ReadPlan, pending: Box<PendingAnswer>) {
        let id = self.ids.next_id();
        self.reads.start(id, plan.action(), Purpose::Transfer { group, plan, pending });
    }

    fn tell_read(&mut self, waiter: Waiter, outcome: ReadOutcome) {
        self.events.push_back((waiter.request, Event::Read { part: waiter.part, outcome }));
    }

    /// A second look at what was damaged.
    pub(super) fn start_look(&mut self, group: GroupId, plan: ChunkPlan) {
        let id = self.ids.next_id();
        self.reads.start(id, plan.action(), Purpose::Look { group, plan });
    }

    /// A read of a side file that may be damaged.
    pub(super) fn start_learn(&mut self, group: GroupId, plan: ReadPlan) {
        let id = self.ids.next_id();
        self.reads.start(id, plan.action(), Purpose::Learn { group, plan });
    }

    /// A read from which lost entries of a side file are found out.
    pub(super) fn start_rebuild(&mut self, group: GroupId, plan: ChunkPlan) {
        let id = self.ids.next_id();
        self.reads.start(id, plan.action(), Purpose::Rebuild { group, plan });
    }

    /// A read of the walk that looks for damage.
    pub(super) fn start_scrub(&mut self, group: GroupId, plan: ScrubPlan) {
        let id = self.ids.next_id();
        self.reads.start(id, plan.action(), Purpose::Scrub { group, plan });
    }

    /// A read for another replica's repair.
    pub(super) fn start_serve(&mut self, node: NodeId, question: Question, plan: ServePlan) {
        let id = self.ids.next_id();
        self.reads.start(id, plan.action(), Purpose::Serve { plan, node, question });
    }

    fn chunks_of_removed(&mut self, group: GroupId, plan: ChunkPlan) {
        self.removals.read_ended(group, |removal| removal.chunks_ended(plan));
    }

    fn serve_of_removed(&mut self, group: GroupId, plan: ServePlan) {
        self.serve_ended();
        self.removals.read_ended(group, |removal| removal.serve_ended(plan));
    }

    /// The partition was deleted while its log was read.
    fn read_of_removed(&mut self, group: GroupId, plan: ReadPlan) {
        self.removals.read_ended(group, |removal| removal.read_ended(plan));
    }
}

/// The first record of a batch that is young enough; or the offset behind the batch, if against its header there is
/// none.
fn resolve(batches: &Batches, goal: i64) -> Result<Result<Found, Offset>, ErrorCode> {
    let bytes = match batches.slices.as_slice() {
        [one] => one.clone(),
        slices => Bytes::from(slices.concat()),
    };
    let mut next = Offset(0);
    for batch in RecordBatches::new(bytes) {
        let batch: BatchView = batch.map_err(|_| ErrorCode::CorruptMessage)?;
        let leader_epoch = LeaderEpoch(batch.header().partition_leader_epoch);
        // Of records that cannot be looked into, because they are too many or because their producer wrote nonsense, the
        // first is named: who starts there reads more than asked for, and misses nothing.
        let first_of_batch = Found {
            offset: Offset(batch.header().base_offset),
            timestamp: Wall(batch.header().max_timestamp),
            leader_epoch,
        };
        let Ok(records) = batch.records(SEARCH_RECORDS_BYTES_MAX) else { return Ok(Ok(first_of_batch)) };
        for record in records {
            let Ok(record) = record else { return Ok(Ok(first_of_batch)) };
            if record.timestamp >= goal {
                return Ok(Ok(Found {
                    offset: Offset(record.offset),
                    timestamp: Wall(record.timestamp),
                    leader_epoch,
                }));
            }
        }
        next = Offset(batch.header().next_offset());
    }
    Ok(Err(next))
}
