//! The half of recovery that writes: a file for this start, and its first write.
//!
//! Invariants: the file is ready before it is written to; it is one that nothing is needed of, now or after a crash.
//! What the first write takes over is overwritten elsewhere only after a second write proves the first. Does not
//! decide what is taken over.

use std::collections::{BTreeMap, VecDeque};

use super::{End, Progress, ReplayPlan, Rules, reader::Stretch};
#[cfg(feature = "mutants")]
use crate::mutants::Mutant;
use crate::{
    ids::{FileSequence, OperationId, WriteNumber},
    io::{DiskError, DiskOutput, Effects, Exit, FileName, OperationIds},
    log::{
        record::{RecoveredRecord, WalEvent, WalRecord},
        wal::{FileCreation, Pool, Wal, WalConfig, WalStart},
    },
    time::{Monotonic, Now},
};

/// What a finished recovery leaves.
#[derive(Debug)]
pub struct Recovered {
    pub wal: Wal,
    /// The last write that survived. Below what a peer saw of this node: the disk lost something.
    pub last: WriteNumber,
    /// For the second pass, see [`super::Replay`].
    pub replay: ReplayPlan,
}

/// See the module head. [`Opening::poll`] must be called after any number of calls of [`Opening::handle`].
#[derive(Debug)]
pub struct Opening {
    config: WalConfig,
    rules: Rules,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// Files that cannot be used again make room.
    Discard {
        files: Files,
        end: End,
    },
    Create {
        creation: FileCreation,
        files: Files,
        end: End,
    },
    /// The first write of the new file.
    Open {
        wal: Wal,
        end: End,
        events: Vec<WalEvent>,
    },
    Opened {
        wal: Wal,
        last: WriteNumber,
        records: VecDeque<RecoveredRecord>,
        replay: ReplayPlan,
    },
    /// Only while a phase is exchanged.
    Between,
}

/// All files but the one for the first write.
#[derive(Debug)]
struct Files {
    needed: BTreeMap<FileSequence, u64>,
    pool: Pool,
    /// Made ahead by the last process and never written to.
    adopted: Option<FileSequence>,
    newest: FileSequence,
}

impl Opening {
    pub(super) fn new(
        config: WalConfig,
        rules: Rules,
        mut sizes: BTreeMap<FileSequence, u64>,
        needed_from: Option<FileSequence>,
        end: End,
    ) -> Self {
        let newest = sizes.last_key_value().map_or(FileSequence(0), |(file, _)| *file);
        let mut pool = Pool::new(config.file_bytes);
        end.unreadable.iter().for_each(|file| pool.avoid(*file));
        let mut adopted = None;
        if let Some(file) = end.never_opened {
            let size = sizes.remove(&file).expect("it was found");
            // The file that the last process made ahead saves the time to make another one.
            if size == config.file_bytes {
                adopted = Some(file);
            } else {
                pool.add(file, size);
            }
        }
        for file in &end.free {
            pool.add(*file, sizes.remove(file).expect("it was found"));
        }
        for file in &end.held {
            pool.hold(*file, sizes.remove(file).expect("it was found"));
        }
        if let Some(needed_from) = needed_from {
            let is_before_base = rules.base.is_some_and(|base| needed_from <= base.file);
            assert!(is_before_base, "what is read is needed");
            let needed = sizes.split_off(&needed_from);
            std::mem::replace(&mut sizes, needed).into_iter().for_each(|(file, size)| pool.add(file, size));
        }
        let files = Files { needed: sizes, pool, adopted, newest };
        Self { config, rules, phase: Phase::Discard { files, end } }
    }

    /// Goes on as far as possible; appends the records that were kept back, with where they lie now.
    pub fn poll(
        &mut self,
        now: Now,
        effects: &mut Effects,
        ids: &mut OperationIds,
        records: &mut Vec<RecoveredRecord>,
    ) -> Result<Progress, Exit> {
        loop {
            match &mut self.phase {
                Phase::Discard { files, .. } => {
                    files.pool.poll(effects, ids);
                    if files.pool.is_removing() {
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
                    if wal.durable() < end.number {
                        return Ok(Progress::Waiting);
                    }
                    self.opened();
                }
                Phase::Opened { records: opening, .. } => {
                    records.extend(opening.drain(..));
                    return Ok(Progress::Done);
                }
                Phase::Between => panic!("a phase follows another at once"),
            }
        }
    }

    fn create(&mut self) {
        let Phase::Discard { mut files, end } = std::mem::replace(&mut self.phase, Phase::Between) else {
            panic!("called in this phase only")
        };
        let next = FileSequence(files.newest.0 + 1);
        let creation = match files.adopted {
            Some(file) => FileCreation::adopt(file, self.config.file_bytes),
            None => match files.pool.take() {
                Some(from) => FileCreation::reuse(from, next, self.config.file_bytes),
                None => FileCreation::new(next, self.config.file_bytes),
            },
        };
        self.phase = Phase::Create { creation, files, end };
    }

    fn open(&mut self) {
        let Phase::Create { creation, files, end } = std::mem::replace(&mut self.phase, Phase::Between) else {
            panic!("called in this phase only")
        };
        let start = WalStart {
            file: creation.file(),
            offset: 0,
            file_bytes: creation.size(),
            number: end.number,
            previous: end.tail.previous,
            previous_directory: end.tail.directory.clone(),
            opening: end.kept_back.iter().map(|found| found.record.clone()).collect(),
            older: files.needed,
            pool: files.pool,
        };
        #[cfg(feature = "mutants")]
        let start = if Mutant::ContinueCutFile.is_planted() { continue_cut_file(start) } else { start };
        self.phase = Phase::Open { wal: Wal::new(self.config, start), end, events: Vec::new() };
    }

    /// The first write of the new file is durable.
    fn opened(&mut self) {
        let Phase::Open { wal, end, events } = std::mem::replace(&mut self.phase, Phase::Between) else {
            panic!("called in this phase only")
        };
        let mut locations = events.into_iter().filter_map(|event| match event {
            WalEvent::Placed { location, .. } => Some(location),
            WalEvent::Durable(_) | WalEvent::Full | WalEvent::Room => None,
        });
        // The records now lie in the new file.
        let mut records = VecDeque::from(end.kept_back);
        for found in &mut records {
            found.write = end.number;
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
        let mut stretches = end.stretches;
        stretches.push(Stretch { file, start: 0, end: written });
        let replay = ReplayPlan::new(self.rules, stretches);
        self.phase = Phase::Opened { wal, last: end.last, records, replay };
    }

    /// False if the operation is not one of this opening.
    pub fn handle(
        &mut self,
        now: Now,
        operation: OperationId,
        result: &Result<DiskOutput, DiskError>,
    ) -> Result<bool, Exit> {
        match &mut self.phase {
            Phase::Discard { files, .. } => files.pool.handle(operation, result),
            Phase::Create { creation, .. } => creation.handle(operation, result),
            Phase::Open { wal, events, .. } => wal.handle(now, operation, result, events),
            // What the writer tells here is about the file after the current one: `Wal::is_full` says it too.
            Phase::Opened { wal, .. } => wal.handle(now, operation, result, &mut Vec::new()),
            Phase::Between => panic!("a phase follows another at once"),
        }
    }

    /// Only a full disk makes an opening wait for a time instead of an operation.
    pub fn next_deadline(&self) -> Option<Monotonic> {
        match &self.phase {
            Phase::Open { wal, .. } | Phase::Opened { wal, .. } => wal.next_deadline(),
            Phase::Discard { .. } | Phase::Create { .. } | Phase::Between => None,
        }
    }

    /// After [`Progress::Done`].
    pub fn finish(self) -> Recovered {
        let Phase::Opened { wal, last, replay, .. } = self.phase else { panic!("the log is not open") };
        Recovered { wal, last, replay }
    }
}

/// A planted bug: goes on behind the end of what was found, in the same file.
#[cfg(feature = "mutants")]
fn continue_cut_file(mut start: WalStart) -> WalStart {
    if let Some(file_bytes) = start.older.remove(&start.previous.file) {
        (start.file, start.offset, start.file_bytes) = (start.previous.file, start.previous.end, file_bytes);
    }
    start
}
