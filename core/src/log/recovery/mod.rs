//! Start-up: finds what earlier processes made durable, tells it record by record, and leaves a writer behind.
//!
//! Two halves. [`Recovery`] lists the files, surveys them for the exact end of the log and reads everything that is
//! proven, checking every byte. [`Opening`] then makes a file and writes into it, first of all, what is to be written
//! once more: the one write that was whole but not proven, and the few records of a start that came to nothing, under
//! a header that names the exact end of the file before; sync. Only then may anything run.
//!
//! Invariants: nothing on disk changes before everything that is proven was read and the caller went on. A file that
//! was written to is never continued. A crash at any moment leaves a log from which the same records are recovered, and
//! no sequence of crashes takes more than a bounded number of files. Does not interpret records.

mod decision;
mod opening;
mod reader;
mod repair;
mod replay;
mod survey;
mod window;

use std::collections::{BTreeMap, BTreeSet};

use self::{
    decision::{Checksum, Decision, Header, Proof, decide},
    reader::{Next, Reader, Stretch, Tail},
    survey::{Findings, Survey},
};
pub use self::{
    opening::{Opening, Recovered},
    replay::{Replay, ReplayPlan},
};
use super::{
    record::{PayloadState, RecoveredRecord, WalRecord},
    wal::{WalConfig, WalKey, format::Header as LogHeader},
};
#[cfg(feature = "mutants")]
use crate::mutants::Mutant;
use crate::{
    ids::{FileSequence, OperationId, WriteNumber},
    io::{Directory, DiskAction, DiskError, DiskOperation, DiskOutput, Effects, Exit, FileName, OperationIds},
    limits::WAL_READ_BYTES,
};

/// Whether a [`Recovery`], an [`Opening`] or a [`Replay`] has more to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Take the records and poll again at once.
    More,
    /// A disk operation is under way; poll after it was handled.
    Waiting,
    Done,
}

/// From where on the log is needed: what came before is in a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// A file that is read from its beginning.
    pub file: FileSequence,
    /// The first write whose records are wanted. It lies in that file or in a later one.
    pub write: WriteNumber,
}

/// What recovery goes by.
#[derive(Clone, Copy, Debug)]
struct Rules {
    key: WalKey,
    must_exist: bool,
    base: Option<Base>,
    /// [`decide`], except in the test that plants a wrong table.
    decide: fn(Proof, Header, Checksum, Checksum) -> Decision,
    /// Whether a header was written for its place in this life of the file; [`LogHeader::belongs`] but for planted bugs.
    belongs: fn(&LogHeader, FileSequence, u64) -> bool,
}

/// The half that reads. Changes nothing: it may be dropped at any moment, and another one, with another base, begun.
#[derive(Debug)]
pub struct Recovery {
    config: WalConfig,
    rules: Rules,
    files: BTreeMap<FileSequence, u64>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    List { operation: Option<OperationId> },
    Survey(Survey),
    Read(Reading),
    Done(End),
}

/// Everything proven goes out to the caller; what is to be written once more is kept back.
#[derive(Debug)]
struct Reading {
    reader: Reader,
    findings: Findings,
    part: Part,
    /// What the last start wrote, if it is carried into the next one.
    carried: Vec<RecoveredRecord>,
    unproven: Vec<RecoveredRecord>,
}

#[derive(Debug)]
enum Part {
    Proven,
    /// The file of the last start, which may be carried. `before`: the end of the log without it.
    Carried {
        before: Tail,
    },
    /// `tail`: the end of what is proven. `before`: as above, if the file is carried.
    Unproven {
        before: Option<Tail>,
        tail: Tail,
    },
}

/// The log as it was found.
#[derive(Debug)]
struct End {
    /// What stays where it is, oldest first.
    stretches: Vec<Stretch>,
    /// The next write follows this one.
    tail: Tail,
    /// The number of the next write.
    number: WriteNumber,
    /// What the next write holds.
    kept_back: Vec<RecoveredRecord>,
    last: WriteNumber,
    never_opened: Option<FileSequence>,
    free: Vec<FileSequence>,
    held: Vec<FileSequence>,
    /// Files of which the device could not read everything.
    unreadable: BTreeSet<FileSequence>,
}

impl Recovery {
    /// `must_exist`: this data directory is known to have had a WAL, so finding none is damage. `base`: without one
    /// the log is read from its very beginning.
    pub fn new(config: WalConfig, must_exist: bool, base: Option<Base>) -> Self {
        let rules = Rules { key: config.key, must_exist, base, decide, belongs: LogHeader::belongs };
        #[cfg(feature = "mutants")]
        let rules =
            if Mutant::StaleRecordAccepted.is_planted() { Rules { belongs: at_its_offset, ..rules } } else { rules };
        Self { config, rules, files: BTreeMap::new(), phase: Phase::List { operation: None } }
    }

    /// Plants a bug: what an earlier life of a file left counts as well.
    #[cfg(test)]
    pub(in crate::log) fn with_stale_records(config: WalConfig, base: Option<Base>) -> Self {
        let mut recovery = Self::new(config, true, base);
        recovery.rules.belongs = at_its_offset;
        recovery
    }

    /// Plants a bug: damage ends the log as if the write had been torn.
    #[cfg(test)]
    pub(in crate::log) fn with_damage_taken_for_torn(config: WalConfig) -> Self {
        let mut recovery = Self::new(config, true, None);
        recovery.rules.decide = |proof, header, directory, payload| match decide(proof, header, directory, payload) {
            Decision::Damage(decision::Part::Header) => Decision::Seal,
            Decision::Damage(decision::Part::Directory | decision::Part::Payload) => Decision::DiscardTorn,
            decision => decision,
        };
        recovery
    }

    /// Issues the next operations and appends recovered records, in order, about [`WAL_READ_BYTES`] of them at once.
    /// A record may share memory with its neighbours: who keeps a small part of one for long should copy it. After
    /// [`Progress::Done`]: [`Recovery::open`].
    ///
    /// # Errors
    ///
    /// [`Exit::Damaged`] if anything that was durable is not intact, unless it is the payload of an entry, or if the
    /// log does not reach back to the base; [`Exit::Refused`] if it needs a newer build.
    pub fn poll(
        &mut self,
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
                    self.phase = Phase::Read(Reading::new(self.rules, findings));
                }
                Phase::Read(reading) => match reading.advance(records)? {
                    Advance::End(end) => self.phase = Phase::Done(*end),
                    Advance::Pending => {
                        reading.reader.poll(effects, ids);
                        return Ok(Progress::Waiting);
                    }
                    Advance::Enough => return Ok(Progress::More),
                },
                Phase::Done(_) => return Ok(Progress::Done),
            }
        }
    }

    /// False if the operation is not recovery's.
    pub fn handle(&mut self, operation: OperationId, result: &Result<DiskOutput, DiskError>) -> Result<bool, Exit> {
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
                        FileName::Identity
                        | FileName::IdentityNew
                        | FileName::Checkpoint(_)
                        | FileName::Image { .. }
                        | FileName::Segment { .. } => None,
                    })
                    .collect();
                self.phase = Phase::Survey(Survey::new(self.rules, self.config.file_bytes, self.files.clone()));
                Ok(true)
            }
            Phase::Survey(survey) => survey.handle(operation, result),
            Phase::Read(reading) => reading.reader.handle(operation, result),
            Phase::Done(_) => Ok(false),
        }
    }

    /// After [`Progress::Done`]: the records that come once more from [`Opening`], behind all others. Until then they
    /// are not durable for certain.
    pub fn kept_back(&self) -> impl Iterator<Item = &WalRecord> {
        let Phase::Done(end) = &self.phase else { panic!("recovery has not read everything") };
        end.kept_back.iter().map(|found| &found.record)
    }

    /// After [`Progress::Done`], for who only looks: the records that are kept back, with where they lie until now.
    pub fn into_kept_back(self) -> Vec<RecoveredRecord> {
        let Phase::Done(end) = self.phase else { panic!("recovery has not read everything") };
        end.kept_back
    }

    /// After [`Progress::Done`]: goes on, and changes the disk from here on. `needed_from`: no checkpoint needs files
    /// before this one; without it all files before the base stay until [`super::wal::Wal::release_before`].
    pub fn open(self, needed_from: Option<FileSequence>) -> Opening {
        let Phase::Done(end) = self.phase else { panic!("recovery has not read everything") };
        Opening::new(self.config, self.rules, self.files, needed_from, end)
    }
}

enum Advance {
    Enough,
    Pending,
    End(Box<End>),
}

impl Reading {
    fn new(rules: Rules, findings: Findings) -> Self {
        let apart = usize::from(findings.may_be_carried);
        let stretches = &findings.proven[..findings.proven.len() - apart];
        let reader = Reader::new(rules, stretches.iter().copied());
        Self { reader, findings, part: Part::Proven, carried: Vec::new(), unproven: Vec::new() }
    }

    fn advance(&mut self, records: &mut Vec<RecoveredRecord>) -> Result<Advance, Exit> {
        let mut bytes = 0;
        while bytes < WAL_READ_BYTES {
            match self.reader.next()? {
                Next::Record(record) => match &self.part {
                    Part::Proven => {
                        bytes += replay::cost(&record);
                        records.push(record);
                    }
                    Part::Carried { .. } if can_be_carried(&record) => self.carried.push(record),
                    Part::Carried { .. } => {
                        records.append(&mut self.carried);
                        records.push(record);
                        self.findings.may_be_carried = false;
                        self.part = Part::Proven;
                    }
                    // At most one write: what the writer that wrote it held in memory, too.
                    Part::Unproven { .. } => self.unproven.push(record),
                },
                Next::Pending => return Ok(Advance::Pending),
                Next::End => {
                    if let Some(end) = self.end_part(records) {
                        return Ok(Advance::End(Box::new(end)));
                    }
                }
            }
        }
        Ok(Advance::Enough)
    }

    /// A part was read: begins the next one.
    fn end_part(&mut self, records: &mut Vec<RecoveredRecord>) -> Option<End> {
        let tail = self.reader.tail().clone();
        let before = match std::mem::replace(&mut self.part, Part::Proven) {
            Part::Proven if self.findings.may_be_carried => {
                let last = *self.findings.proven.last().expect("it may be carried");
                self.reader.extend(last);
                self.part = Part::Carried { before: tail };
                return None;
            }
            Part::Proven => None,
            Part::Carried { before } => Some(before),
            Part::Unproven { before, tail: proven } => return Some(self.end(before, proven, tail.number, records)),
        };
        if let Some(header) = self.findings.unproven {
            self.reader.extend(Stretch { file: header.file, start: header.offset, end: header.end() });
        }
        self.part = Part::Unproven { before, tail };
        None
    }

    fn end(
        &mut self,
        before: Option<Tail>,
        proven: Tail,
        last: WriteNumber,
        records: &mut Vec<RecoveredRecord>,
    ) -> End {
        let mut stretches = std::mem::take(&mut self.findings.proven);
        let mut held = std::mem::take(&mut self.findings.held);
        let mut kept_back = std::mem::take(&mut self.carried);
        let carried_from = before.filter(|_| self.unproven.iter().all(can_be_carried));
        let (tail, number) = match carried_from {
            Some(before) => {
                held.push(stretches.pop().expect("it is carried").file);
                (before, WriteNumber(last.0 + 1))
            }
            None => {
                records.append(&mut kept_back);
                // What is copied keeps its number, which the start before may have told to others.
                let number = WriteNumber(last.0.max(proven.number.0 + 1));
                (proven, number)
            }
        };
        kept_back.append(&mut self.unproven);
        let (never_opened, free) = (self.findings.never_opened, std::mem::take(&mut self.findings.free));
        let mut unreadable = std::mem::take(&mut self.findings.unreadable);
        unreadable.extend(self.reader.unreadable());
        End { stretches, tail, number, kept_back, last, never_opened, free, held, unreadable }
    }
}

/// A planted bug: any life of the file will do.
#[cfg(any(test, feature = "mutants"))]
fn at_its_offset(header: &LogHeader, _file: FileSequence, offset: u64) -> bool {
    header.offset == offset
}

/// A checkpoint names writes by their numbers, and carried records get another one. So what a start wrote is carried
/// only if no checkpoint can have taken it in. A payload that is gone cannot be written again.
fn can_be_carried(record: &RecoveredRecord) -> bool {
    match record.record {
        WalRecord::CheckpointDone { .. } => false,
        WalRecord::Entry(_)
        | WalRecord::HardState { .. }
        | WalRecord::Fill(_)
        | WalRecord::Create { .. }
        | WalRecord::Destroy { .. }
        | WalRecord::Switch { .. }
        | WalRecord::Quarantine { .. } => record.payload == PayloadState::Intact,
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
