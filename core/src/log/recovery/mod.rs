//! Start-up: finds what earlier processes made durable, tells it record by record, and leaves a writer behind.
//!
//! Steps: list the files; survey them for the exact end of the log; read everything that is proven, checking every
//! byte; make a new file; write into it, first of all, the one write that was whole but not proven, under a header
//! that names the exact end of the file before; sync. Only then is recovery over and only then may anything run.
//!
//! Invariants: nothing on disk changes before everything that is proven was found intact. A file that was written to
//! is never continued. A crash at any moment leaves a log from which the same records are recovered. Does not
//! interpret records.

mod decision;
mod reader;
mod removal;
mod replay;
mod survey;
mod window;

use std::collections::{BTreeMap, VecDeque};

pub use self::replay::{Replay, ReplayPlan};
use self::{
    decision::{Checksum, Decision, Header, Proof, decide},
    reader::{Next, Reader, Stretch, Tail},
    removal::Removal,
    survey::{Findings, Survey},
};
use super::{
    record::{RecoveredRecord, WalEvent, WalRecord},
    wal::{FileCreation, Wal, WalConfig, WalKey, WalStart},
};
use crate::{
    ids::{FileSequence, OperationId, WriteNumber},
    io::{Directory, DiskAction, DiskError, DiskOperation, DiskOutput, Effects, Exit, FileName, OperationIds},
    limits::WAL_READ_BYTES,
    time::{Monotonic, Now},
};

/// Whether [`Recovery`] or [`Replay`] has more to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Take the records and poll again at once.
    More,
    /// A disk operation is under way; poll after it was handled.
    Waiting,
    Done,
}

/// What a finished recovery leaves.
#[derive(Debug)]
pub struct Recovered {
    pub wal: Wal,
    /// The last write that survived. Below what a peer saw of this node: the disk lost something.
    pub last: WriteNumber,
    /// For the second pass, see [`Replay`].
    pub replay: ReplayPlan,
}

/// What recovery goes by.
#[derive(Clone, Copy, Debug)]
struct Rules {
    key: WalKey,
    must_exist: bool,
    /// [`decide`], except in the test that plants a wrong table.
    decide: fn(Proof, Header, Checksum, Checksum) -> Decision,
}

#[derive(Debug)]
pub struct Recovery {
    config: WalConfig,
    rules: Rules,
    files: BTreeMap<FileSequence, u64>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    List {
        operation: Option<OperationId>,
    },
    Survey(Survey),
    /// Everything proven goes out to the caller; the unproven write is kept back.
    Read {
        reader: Reader,
        findings: Findings,
        tail: Option<Tail>,
        unproven: Vec<RecoveredRecord>,
    },
    /// Files that were never opened, or whose first write is torn, make room.
    Discard {
        removal: Removal,
        end: End,
        adopted: Option<FileSequence>,
    },
    Create {
        creation: FileCreation,
        end: End,
    },
    /// The first write of the new file.
    Open {
        wal: Wal,
        end: End,
        events: Vec<WalEvent>,
    },
    /// Files that no longer belong to the log go.
    Clean {
        wal: Wal,
        removal: Removal,
        last: WriteNumber,
        records: VecDeque<RecoveredRecord>,
        replay: ReplayPlan,
    },
    Done,
}

/// The log as it was found.
#[derive(Debug)]
struct End {
    proven: Vec<Stretch>,
    tail: Tail,
    unproven: Vec<RecoveredRecord>,
    last: WriteNumber,
}

impl Recovery {
    /// `must_exist`: this data directory is known to have had a WAL, so finding none is damage.
    pub fn new(config: WalConfig, must_exist: bool) -> Self {
        let rules = Rules { key: config.key, must_exist, decide };
        Self { config, rules, files: BTreeMap::new(), phase: Phase::List { operation: None } }
    }

    /// Plants a bug: damage ends the log as if the write had been torn.
    #[cfg(test)]
    pub(in crate::log) fn with_damage_taken_for_torn(config: WalConfig) -> Self {
        let mut recovery = Self::new(config, true);
        recovery.rules.decide = |proof, header, directory, payload| match decide(proof, header, directory, payload) {
            Decision::Damage(decision::Part::Header) => Decision::Seal,
            Decision::Damage(decision::Part::Directory | decision::Part::Payload) => Decision::DiscardTorn,
            decision => decision,
        };
        recovery
    }

    /// Issues the next operations and appends recovered records, in order, about [`WAL_READ_BYTES`] of them at once.
    /// A record may share memory with its neighbours: who keeps a small part of one for long should copy it.
    ///
    /// # Errors
    ///
    /// [`Exit::Damaged`] if anything that was durable is not intact, [`Exit::Refused`] if it needs a newer build.
    pub fn poll(
        &mut self,
        now: Now,
        effects: &mut Effects,
        ids: &mut OperationIds,
        records: &mut Vec<RecoveredRecord>,
    ) -> Result<Progress, Exit> {
        loop {
            match &mut self.phase {
                Phase::List { operation } => {
                    if operation.is_none() {
                        let id = ids.next_id();
                        *operation = Some(id);
                        let action = DiskAction::List { directory: Directory::Wal };
                        effects.disk.push(DiskOperation { id, action });
                    }
                    return Ok(Progress::Waiting);
                }
                Phase::Survey(survey) => {
                    let Some(findings) = survey.advance()? else {
                        survey.poll(effects, ids);
                        return Ok(Progress::Waiting);
                    };
                    let reader = Reader::new(self.rules, findings.proven.iter().copied());
                    self.phase = Phase::Read { reader, findings, tail: None, unproven: Vec::new() };
                }
                Phase::Read { .. } => {
                    if let Some(progress) = self.read(effects, ids, records)? {
                        return Ok(progress);
                    }
                }
                Phase::Discard { removal, .. } => {
                    removal.poll(effects, ids);
                    if !removal.is_done() {
                        return Ok(Progress::Waiting);
                    }
                    self.create();
                }
                Phase::Create { creation, .. } => {
                    creation.poll(effects, ids);
                    if creation.has_no_room() {
                        let file = FileName::Wal(creation.file()).path();
                        return Err(Exit::DiskFailed { operation: "creation", file, error: DiskError::Full });
                    }
                    if !creation.is_ready() {
                        return Ok(Progress::Waiting);
                    }
                    self.open();
                }
                Phase::Open { wal, end, events } => {
                    wal.poll(now, effects, ids, events);
                    if wal.durable() == end.tail.number {
                        return Ok(Progress::Waiting);
                    }
                    self.opened();
                }
                Phase::Clean { wal, removal, records: opening, .. } => {
                    // What the writer tells here is about the file after the current one: `Wal::is_full` says it too.
                    wal.poll(now, effects, ids, &mut Vec::new());
                    removal.poll(effects, ids);
                    records.extend(opening.drain(..));
                    return Ok(if removal.is_done() { Progress::Done } else { Progress::Waiting });
                }
                Phase::Done => return Ok(Progress::Done),
            }
        }
    }

    /// `None`: the phase is over.
    fn read(
        &mut self,
        effects: &mut Effects,
        ids: &mut OperationIds,
        records: &mut Vec<RecoveredRecord>,
    ) -> Result<Option<Progress>, Exit> {
        let Phase::Read { reader, findings, tail, unproven } = &mut self.phase else {
            panic!("called in this phase only")
        };
        let mut bytes = 0;
        while bytes < WAL_READ_BYTES {
            match reader.next()? {
                // At most one write: what the writer that wrote it held in memory, too.
                Next::Record(record) if tail.is_some() => unproven.push(record),
                Next::Record(record) => {
                    bytes += replay::cost(&record);
                    records.push(record);
                }
                Next::Pending => {
                    reader.poll(effects, ids);
                    return Ok(Some(Progress::Waiting));
                }
                Next::End => {
                    let at_end = reader.tail().clone();
                    if tail.is_none() {
                        *tail = Some(at_end);
                        if let Some(header) = findings.unproven {
                            reader.extend(Stretch { file: header.file, start: header.offset, end: header.end() });
                        }
                        continue;
                    }
                    let end = End {
                        proven: std::mem::take(&mut findings.proven),
                        tail: tail.take().expect("set when the proven part ended"),
                        unproven: std::mem::take(unproven),
                        last: at_end.number,
                    };
                    let (never_opened, torn) = (&findings.never_opened, &findings.torn);
                    // The file that the last process made ahead saves the time to fill another one with zeros.
                    let newest = self.files.last_key_value().map(|(file, size)| (*file, *size));
                    let adopted = newest
                        .filter(|(file, size)| never_opened.contains(file) && *size == self.config.file_bytes)
                        .map(|(file, _)| file);
                    let useless =
                        never_opened.iter().chain(torn).copied().filter(|file| Some(*file) != adopted).collect();
                    self.phase = Phase::Discard { removal: Removal::new(useless), end, adopted };
                    return Ok(None);
                }
            }
        }
        Ok(Some(Progress::More))
    }

    fn create(&mut self) {
        let Phase::Discard { end, adopted, .. } = std::mem::replace(&mut self.phase, Phase::Done) else {
            panic!("called in this phase only")
        };
        let creation = match adopted {
            Some(file) => FileCreation::adopt(file, self.config.file_bytes),
            None => {
                let newest = self.files.last_key_value().map_or(0, |(file, _)| file.0);
                FileCreation::new(FileSequence(newest + 1), self.config.file_bytes)
            }
        };
        self.phase = Phase::Create { creation, end };
    }

    fn open(&mut self) {
        let Phase::Create { creation, end } = std::mem::replace(&mut self.phase, Phase::Done) else {
            panic!("called in this phase only")
        };
        let start = WalStart {
            file: creation.file(),
            file_bytes: creation.size(),
            number: WriteNumber(end.tail.number.0 + 1),
            previous: end.tail.previous,
            previous_directory: end.tail.directory.clone(),
            opening: end.unproven.iter().map(|found| found.record.clone()).collect(),
        };
        self.phase = Phase::Open { wal: Wal::new(self.config, start), end, events: Vec::new() };
    }

    /// The first write of the new file is durable.
    fn opened(&mut self) {
        let Phase::Open { wal, end, events } = std::mem::replace(&mut self.phase, Phase::Done) else {
            panic!("called in this phase only")
        };
        let mut locations = events.into_iter().filter_map(|event| match event {
            WalEvent::Placed { location, .. } => Some(location),
            WalEvent::Durable(_) | WalEvent::Full | WalEvent::Room => None,
        });
        // The records now lie in the new file.
        let mut records = VecDeque::from(end.unproven);
        for found in &mut records {
            found.location = match &found.record {
                WalRecord::Entry(_) | WalRecord::Fill(_) => {
                    Some(locations.next().expect("each entry of the first write was placed"))
                }
                WalRecord::HardState { .. }
                | WalRecord::Create { .. }
                | WalRecord::Destroy { .. }
                | WalRecord::Switch { .. }
                | WalRecord::Quarantine { .. }
                | WalRecord::CheckpointDone { .. } => None,
            };
        }
        let (file, written) = wal.end();
        let mut stretches = end.proven;
        stretches.push(Stretch { file, start: 0, end: written });
        let kept = |file: FileSequence| stretches.iter().any(|stretch| stretch.file == file);
        // Written for an earlier start and taken over since, or their removal was not durable.
        let useless = self.files.keys().copied().filter(|file| !kept(*file)).collect();
        let removal = Removal::new(useless);
        let replay = ReplayPlan::new(self.rules, stretches);
        self.phase = Phase::Clean { wal, removal, last: end.last, records, replay };
    }

    /// False if the operation is not recovery's.
    pub fn handle(
        &mut self,
        now: Now,
        operation: OperationId,
        result: &Result<DiskOutput, DiskError>,
    ) -> Result<bool, Exit> {
        match &mut self.phase {
            Phase::List { operation: listing } => {
                if *listing != Some(operation) {
                    return Ok(false);
                }
                let list = match result {
                    Ok(DiskOutput::List(list)) => list,
                    Ok(DiskOutput::Done | DiskOutput::Read(_)) => panic!("a listing is answered by a list"),
                    Err(error) => {
                        let file = Directory::Wal.path();
                        return Err(Exit::DiskFailed { operation: "listing", file, error: *error });
                    }
                };
                self.files = list
                    .iter()
                    .filter_map(|(file, size)| match file {
                        FileName::Wal(sequence) => Some((*sequence, *size)),
                        FileName::Identity | FileName::IdentityNew | FileName::Segment { .. } => None,
                    })
                    .collect();
                self.phase = Phase::Survey(Survey::new(self.rules, self.files.clone()));
                Ok(true)
            }
            Phase::Survey(survey) => survey.handle(operation, result),
            Phase::Read { reader, .. } => reader.handle(operation, result),
            Phase::Discard { removal, .. } => removal.handle(operation, result),
            Phase::Create { creation, .. } => creation.handle(operation, result),
            Phase::Open { wal, events, .. } => wal.handle(now, operation, result, events),
            Phase::Clean { wal, removal, .. } => {
                if removal.handle(operation, result)? {
                    return Ok(true);
                }
                wal.handle(now, operation, result, &mut Vec::new())
            }
            Phase::Done => Ok(false),
        }
    }

    /// Only a full disk makes recovery wait for a time instead of an operation.
    pub fn next_deadline(&self) -> Option<Monotonic> {
        match &self.phase {
            Phase::Open { wal, .. } | Phase::Clean { wal, .. } => wal.next_deadline(),
            Phase::List { .. }
            | Phase::Survey(_)
            | Phase::Read { .. }
            | Phase::Discard { .. }
            | Phase::Create { .. }
            | Phase::Done => None,
        }
    }

    /// After [`Progress::Done`].
    pub fn finish(self) -> Recovered {
        let Phase::Clean { wal, last, replay, removal, .. } = self.phase else { panic!("recovery is not done") };
        assert!(removal.is_done(), "recovery is not done");
        Recovered { wal, last, replay }
    }
}

fn damaged(file: FileSequence, offset: u64, what: String) -> Exit {
    Exit::Damaged { file: FileName::Wal(file).path(), offset, what }
}

fn not_readable_by_this_build(file: FileSequence, offset: u64, what: &str) -> Exit {
    let file = FileName::Wal(file).path();
    Exit::Refused(format!(
        "{file} at byte {offset}: {what}; it was written by a newer build of Kauri, nothing was changed"
    ))
}
