//! What a data directory holds, read without changing anything: for a decision about directories of nodes that do not run.
//!
//! The same checkpoint is chosen and the same records are taken in as by a start, so that whoever decides by this decides
//! by what a start will find. Beside that it keeps what a start leaves to the running groups: changes of membership, and
//! everything of the metadata group; and how many records a batch has.
//!
//! Invariant: issues reads and lists only. Does not judge what it found.

use std::collections::BTreeMap;

use bytes::Bytes;
use slog::Logger;

use super::{
    BaseFound,
    checkpoints::{Candidate, Candidates},
    found::{Found, FoundGroup},
    names_checkpoint,
};
use crate::{
    command::CommandHeader,
    ids::{GroupId, LogIndex, OperationId, Term},
    io::{DiskError, DiskOutput, Effects, Exit, OperationIds},
    log::{
        identity::Identity,
        record::{EntryKind, PayloadState, RecoveredRecord, WalRecord},
        recovery::{Progress, Recovery},
        segment::LogImage,
        wal::WalConfig,
    },
    metadata::GroupCreation,
    partition::PartitionCommand,
    replication::group::{GroupStart, Payload},
};

/// See the module head. [`Survey::poll`] must be called after any number of calls of [`Survey::handle`].
pub(crate) struct Survey {
    wal: WalConfig,
    has_wal: bool,
    logger: Logger,
    ids: OperationIds,
    stage: Stage,
    kept: Kept,
    /// What was found first to be damaged.
    damage: Option<Exit>,
}

enum Stage {
    Checkpoints(Box<Candidates>),
    Wal { recovery: Box<Recovery>, base: Box<BaseFound> },
    Done,
}

/// One replica as a start would find it.
#[derive(Debug)]
pub(crate) struct SurveyedGroup {
    pub(crate) creation: GroupCreation,
    pub(crate) start: GroupStart,
    /// The state machine as of `start.applied`; `None`: it begins empty.
    pub(crate) machine: Option<Bytes>,
    /// The log of batches as of that.
    pub(crate) log: Option<LogImage>,
    /// Entries whose payload was kept, see the module head; each may have been replaced since by one of another term.
    pub(crate) kept: BTreeMap<LogIndex, KeptEntry>,
    /// Records of batches whose payload is intact; the same holds for these.
    pub(crate) records: BTreeMap<LogIndex, u32>,
}

#[derive(Clone, Debug)]
pub(crate) struct KeptEntry {
    pub(crate) term: Term,
    pub(crate) payload: Payload,
}

#[derive(Debug, Default)]
struct Kept(BTreeMap<GroupId, KeptOfGroup>);

#[derive(Debug, Default)]
struct KeptOfGroup {
    entries: BTreeMap<LogIndex, KeptEntry>,
    records: BTreeMap<LogIndex, u32>,
}

impl KeptOfGroup {
    /// Nothing that was there before is replaced.
    fn take_in(&mut self, group: GroupId, index: LogIndex, term: Term, kind: EntryKind, payload: &Payload) {
        if group == GroupId::METADATA || kind != EntryKind::Normal {
            self.entries.entry(index).or_insert_with(|| KeptEntry { term, payload: payload.clone().detached() });
        } else if let Ok(header) = CommandHeader::decode(&payload.context) {
            let count = PartitionCommand::record_count(header.kind, &payload.data);
            if count > 0 {
                self.records.entry(index).or_insert(count);
            }
        }
    }
}

impl Kept {
    fn take_in(&mut self, recovered: &RecoveredRecord) {
        match &recovered.record {
            WalRecord::Entry(entry) | WalRecord::Fill(entry) => {
                let of_group = self.0.entry(entry.group).or_default();
                if matches!(recovered.record, WalRecord::Entry(_)) {
                    drop(of_group.entries.split_off(&entry.index));
                    drop(of_group.records.split_off(&entry.index));
                }
                if recovered.payload == PayloadState::Intact {
                    let payload = Payload { context: entry.context.clone(), data: entry.data.clone() };
                    of_group.take_in(entry.group, entry.index, entry.term, entry.kind, &payload);
                }
            }
            WalRecord::Create { group, .. } | WalRecord::Destroy { group, .. } => drop(self.0.remove(group)),
            WalRecord::HardState { .. }
            | WalRecord::Switch { .. }
            | WalRecord::Quarantine { .. }
            | WalRecord::CheckpointDone { .. } => {}
        }
    }
}

impl Survey {
    /// `wal`: only its key matters.
    pub(crate) fn new(identity: &Identity, wal: WalConfig, logger: Logger) -> Self {
        let candidates = Box::new(Candidates::new(identity.wal_key, logger.clone()));
        Self {
            wal,
            has_wal: identity.has_wal,
            logger,
            ids: OperationIds::default(),
            stage: Stage::Checkpoints(candidates),
            kept: Kept::default(),
            damage: None,
        }
    }

    pub(crate) fn handle(
        &mut self,
        operation: OperationId,
        result: &Result<DiskOutput, DiskError>,
    ) -> Result<(), Exit> {
        match &mut self.stage {
            Stage::Checkpoints(candidates) => candidates.handle(operation, result).map(drop),
            Stage::Wal { recovery, .. } => recovery.handle(operation, result).map(drop),
            Stage::Done => Ok(()),
        }
    }

    /// Goes on as far as possible; everything, once it was read.
    ///
    /// # Errors
    ///
    /// As of a start: what refuses to be read by one is of no use.
    pub(crate) fn poll(&mut self, effects: &mut Effects) -> Result<Option<BTreeMap<GroupId, SurveyedGroup>>, Exit> {
        loop {
            self.stage = match std::mem::replace(&mut self.stage, Stage::Done) {
                Stage::Checkpoints(mut candidates) => match candidates.poll(effects, &mut self.ids) {
                    Some(candidate) => self.begin_with(*candidates, candidate)?,
                    None => {
                        self.stage = Stage::Checkpoints(candidates);
                        return Ok(None);
                    }
                },
                Stage::Wal { mut recovery, mut base } => match self.read(&mut recovery, &mut base.found, effects) {
                    Ok(Progress::More) => Stage::Wal { recovery, base },
                    Ok(Progress::Waiting) => {
                        self.stage = Stage::Wal { recovery, base };
                        return Ok(None);
                    }
                    Ok(Progress::Done) if names_checkpoint(&recovery, &base) => {
                        for record in recovery.into_kept_back() {
                            self.kept.take_in(&record);
                            base.found.take_in(record)?;
                        }
                        return Ok(Some(self.finish(base.found)));
                    }
                    Ok(Progress::Done) => {
                        base.candidates.give_up();
                        Stage::Checkpoints(Box::new(base.candidates))
                    }
                    Err(exit) => {
                        let is_damage = matches!(exit, Exit::Damaged { .. });
                        let first = if is_damage { self.damage.get_or_insert(exit).clone() } else { exit };
                        if !is_damage || base.candidate.done().is_none() {
                            return Err(first);
                        }
                        base.candidates.give_up();
                        Stage::Checkpoints(Box::new(base.candidates))
                    }
                },
                Stage::Done => unreachable!("a survey is polled until it is done"),
            };
        }
    }

    fn begin_with(&mut self, candidates: Candidates, mut candidate: Candidate) -> Result<Stage, Exit> {
        self.kept = Kept::default();
        let found = match &mut candidate.checkpoint {
            Some(checkpoint) => Found::from_checkpoint(checkpoint, |file| candidates.has(file))?,
            None => Found::default(),
        };
        slog::debug!(self.logger, "a directory is read"; "checkpoint" => candidate.done().map(|done| done.number.0));
        let recovery = Box::new(Recovery::new(self.wal, self.has_wal, candidate.base()));
        Ok(Stage::Wal { recovery, base: Box::new(BaseFound { candidates, candidate, found }) })
    }

    fn read(&mut self, recovery: &mut Recovery, found: &mut Found, effects: &mut Effects) -> Result<Progress, Exit> {
        let mut records: Vec<RecoveredRecord> = Vec::new();
        let progress = recovery.poll(effects, &mut self.ids, &mut records)?;
        for record in records {
            self.kept.take_in(&record);
            found.take_in(record)?;
        }
        Ok(progress)
    }

    fn finish(&mut self, found: Found) -> BTreeMap<GroupId, SurveyedGroup> {
        let mut kept = std::mem::take(&mut self.kept).0;
        let groups = found.groups.into_iter().map(|(id, mut group)| {
            let log = group.take_log();
            let FoundGroup { creation, start, restored, inline, .. } = group;
            let mut of_group = kept.remove(&id).unwrap_or_default();
            // What came in the WAL is newer than what a checkpoint held.
            for entry in &inline {
                of_group.take_in(id, entry.index, entry.term, entry.kind, &entry.payload);
            }
            let machine = restored.map(|restored| restored.machine);
            let KeptOfGroup { entries: kept, records } = of_group;
            (id, SurveyedGroup { creation, start, machine, log, kept, records })
        });
        groups.collect()
    }
}
