//! Which checkpoint a start begins with.
//!
//! The newest one that is whole is tried; whether it counts is known when the WAL behind it was read and a record there
//! names it. Otherwise it is the turn of the next older one, and of the beginning of the WAL in the end.
//!
//! Invariant: before segments are opened, every checkpoint newer than the one that is restored is gone for good, because
//! segments are cut to what that one and their side files prove.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use slog::{Logger, warn};

use crate::{
    broker::{CheckpointStart, Kept},
    ids::{CheckpointNumber, FileSequence, GroupId, OperationId},
    io::{Directory, DiskAction, DiskError, DiskOperation, DiskOutput, Effects, Exit, FileName, OperationIds},
    limits::CHECKPOINTS_KEPT,
    log::{
        checkpoint::{Checkpoint, CheckpointDone, MachineImage, Read, Reader, WalPosition},
        record::EntryFile,
        recovery::Base,
        wal::WalKey,
    },
    replication::group::GroupStart,
};

/// What is there to begin with.
#[derive(Debug)]
pub(super) struct Candidate {
    /// `None`: the WAL from its beginning.
    pub(super) checkpoint: Option<Checkpoint>,
    /// The next older one, should this one be damaged one day.
    older: Option<(CheckpointNumber, WalPosition)>,
}

/// See the module head. [`Candidates::poll`] must be called after any other call.
#[derive(Debug)]
pub(super) struct Candidates {
    key: WalKey,
    logger: Logger,
    step: Step,
    operation: Option<OperationId>,
    /// All that are on disk, newest first.
    found: Vec<CheckpointNumber>,
    images: Vec<FileName>,
    wal_files: BTreeSet<FileSequence>,
    /// How many of them were given up.
    given_up: usize,
}

#[derive(Debug)]
enum Step {
    ListCheckpoints,
    ListImages,
    ListWal,
    Read(Box<Reader>),
    /// The header of the next older one.
    Older {
        newest: Box<Checkpoint>,
        reader: Box<Reader>,
        place: usize,
    },
    Ready(Candidate),
    /// Handed out.
    Waiting,
    Discard(VecDeque<DiskAction>),
    Done,
}

impl Candidates {
    pub(super) fn new(key: WalKey, logger: Logger) -> Self {
        Self {
            key,
            logger,
            step: Step::ListCheckpoints,
            operation: None,
            found: Vec::new(),
            images: Vec::new(),
            wal_files: BTreeSet::new(),
            given_up: 0,
        }
    }

    /// The next candidate, once it was read.
    pub(super) fn poll(&mut self, effects: &mut Effects, ids: &mut OperationIds) -> Option<Candidate> {
        loop {
            if self.operation.is_some() {
                return None;
            }
            match &mut self.step {
                Step::ListCheckpoints => return self.list(Directory::Checkpoints, effects, ids),
                Step::ListImages => return self.list(Directory::Images, effects, ids),
                Step::ListWal => return self.list(Directory::Wal, effects, ids),
                Step::Read(reader) => match reader.poll(effects, ids) {
                    Read::Waiting => return None,
                    Read::Whole(newest) => self.step = self.look_for_older(newest, self.given_up + 1),
                    Read::Unusable(reason) => {
                        warn!(self.logger, "a checkpoint is passed over: it is not whole"; "reason" => %reason);
                        self.given_up += 1;
                        self.step = self.next_candidate();
                    }
                },
                Step::Older { reader, place, .. } => {
                    let read = reader.poll(effects, ids);
                    let (from, place) = (reader.from(), *place);
                    if from.is_none() && matches!(read, Read::Waiting) {
                        return None;
                    }
                    let Step::Older { newest, .. } = std::mem::replace(&mut self.step, Step::Waiting) else {
                        unreachable!("matched above")
                    };
                    self.step = match from {
                        Some(from) if self.wal_files.contains(&from.file) => {
                            let older = Some((self.found[place], from));
                            Step::Ready(Candidate { checkpoint: Some(*newest), older })
                        }
                        Some(_) | None => self.look_for_older(newest, place + 1),
                    };
                }
                Step::Ready(_) => {
                    let Step::Ready(candidate) = std::mem::replace(&mut self.step, Step::Waiting) else {
                        unreachable!("matched above")
                    };
                    return Some(candidate);
                }
                Step::Discard(actions) => {
                    let Some(action) = actions.pop_front() else {
                        self.step = Step::Done;
                        return None;
                    };
                    self.start(action, effects, ids);
                }
                Step::Waiting | Step::Done => return None,
            }
        }
    }

    fn list(&mut self, directory: Directory, effects: &mut Effects, ids: &mut OperationIds) -> Option<Candidate> {
        self.start(DiskAction::List { directory }, effects, ids);
        None
    }

    fn start(&mut self, action: DiskAction, effects: &mut Effects, ids: &mut OperationIds) {
        let id = ids.next_id();
        self.operation = Some(id);
        effects.disk.push(DiskOperation { id, action });
    }

    /// The one that was handed out last does not count: no record in the WAL names it.
    pub(super) fn give_up(&mut self) {
        assert!(matches!(self.step, Step::Waiting), "one was handed out");
        self.given_up += 1;
        self.step = self.next_candidate();
    }

    fn next_candidate(&self) -> Step {
        match self.found.get(self.given_up) {
            Some(number) => Step::Read(Box::new(Reader::new(self.key, *number))),
            None => Step::Ready(Candidate { checkpoint: None, older: None }),
        }
    }

    fn look_for_older(&self, newest: Box<Checkpoint>, place: usize) -> Step {
        match self.found.get(place) {
            Some(number) => {
                let reader = Box::new(Reader::new(self.key, *number));
                Step::Older { newest, reader, place }
            }
            None => Step::Ready(Candidate { checkpoint: Some(*newest), older: None }),
        }
    }

    /// The one that was handed out last is restored: those that are newer go now. [`Candidates::is_done`] says when.
    pub(super) fn settle(&mut self) {
        assert!(matches!(self.step, Step::Waiting), "one was handed out");
        let mut actions: VecDeque<DiskAction> = self.found[..self.given_up]
            .iter()
            .map(|number| DiskAction::Remove { file: FileName::Checkpoint(*number) })
            .collect();
        if !actions.is_empty() {
            actions.push_back(DiskAction::SyncDirectory { directory: Directory::Checkpoints });
        }
        self.step = Step::Discard(actions);
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.step, Step::Done)
    }

    /// Whether a file is on disk that entries may lie in.
    pub(super) fn has(&self, file: EntryFile) -> bool {
        match file {
            EntryFile::Wal(sequence) => self.wal_files.contains(&sequence),
            EntryFile::Checkpoint(number) => self.found.contains(&number),
        }
    }

    /// False if the operation is none of these.
    pub(super) fn handle(
        &mut self,
        operation: OperationId,
        result: &Result<DiskOutput, DiskError>,
    ) -> Result<bool, Exit> {
        if let Step::Read(reader) | Step::Older { reader, .. } = &mut self.step
            && reader.handle(operation, result)
        {
            return Ok(true);
        }
        if self.operation != Some(operation) {
            return Ok(false);
        }
        self.operation = None;
        let failed = |operation, path, error: &DiskError| Exit::DiskFailed { operation, file: path, error: *error };
        let list = match result {
            Ok(DiskOutput::List(list)) => list,
            Ok(DiskOutput::Done) => return Ok(true),
            Ok(DiskOutput::Read(_)) => panic!("nothing is read by itself"),
            Err(error) => {
                let (verb, directory) = match &self.step {
                    Step::ListImages => ("listing", Directory::Images),
                    Step::ListWal => ("listing", Directory::Wal),
                    Step::ListCheckpoints => ("listing", Directory::Checkpoints),
                    Step::Read(_)
                    | Step::Older { .. }
                    | Step::Ready(_)
                    | Step::Waiting
                    | Step::Discard(_)
                    | Step::Done => ("removal", Directory::Checkpoints),
                };
                return Err(failed(verb, directory.path(), error));
            }
        };
        let files = list.iter().map(|(file, _)| *file);
        match &self.step {
            Step::ListCheckpoints => {
                self.found = files
                    .filter_map(|file| match file {
                        FileName::Checkpoint(number) => Some(number),
                        FileName::Identity
                        | FileName::IdentityNew
                        | FileName::Wal(_)
                        | FileName::Image { .. }
                        | FileName::Segment { .. } => None,
                    })
                    .collect();
                self.found.sort_unstable_by(|a, b| b.cmp(a));
                self.step = Step::ListImages;
            }
            Step::ListImages => {
                self.images = files.collect();
                self.step = Step::ListWal;
            }
            Step::ListWal => {
                self.wal_files = files
                    .filter_map(|file| match file {
                        FileName::Wal(sequence) => Some(sequence),
                        FileName::Identity
                        | FileName::IdentityNew
                        | FileName::Checkpoint(_)
                        | FileName::Image { .. }
                        | FileName::Segment { .. } => None,
                    })
                    .collect();
                self.step = self.next_candidate();
            }
            Step::Read(_) | Step::Older { .. } | Step::Ready(_) | Step::Waiting | Step::Discard(_) | Step::Done => {
                panic!("nothing else is listed")
            }
        }
        Ok(true)
    }
}

impl Candidate {
    pub(super) fn done(&self) -> Option<CheckpointDone> {
        self.checkpoint.as_ref().map(|checkpoint| checkpoint.done)
    }

    /// From where on the WAL is read.
    pub(super) fn base(&self) -> Option<Base> {
        let from = self.done()?.from;
        Some(Base { file: from.file, write: from.write })
    }

    /// The oldest WAL file that this checkpoint or the older one needs, or that entries lie in which members may ask for.
    pub(super) fn needed_from(&self) -> Option<FileSequence> {
        let checkpoint = self.checkpoint.as_ref()?;
        let own = checkpoint.done.from.file;
        let older = self.older.map(|(_, from)| from.file);
        let entries = checkpoint.sections.iter().filter_map(|found| GroupStart::oldest_wal_file(&found.section)).min();
        [Some(own), older, entries].into_iter().flatten().min()
    }

    /// What a running node goes on from.
    pub(super) fn start(&self, candidates: &Candidates, newest_named: CheckpointNumber) -> CheckpointStart {
        // What the older one needs was not read. Its checkpoints are held, too, until it is not kept any more.
        let older = self.older.map(|(number, from)| Kept {
            number,
            from,
            done: None,
            images: None,
            entries: BTreeMap::new(),
            needs: BTreeSet::new(),
        });
        let own = self.checkpoint.as_ref().map(|checkpoint| Kept {
            number: checkpoint.done.number,
            from: checkpoint.done.from,
            done: Some(checkpoint.done),
            images: Some(images(checkpoint)),
            entries: BTreeMap::new(),
            needs: checkpoint.sections.iter().flat_map(|found| GroupStart::files_needed(&found.section)).collect(),
        });
        let kept: Vec<Kept> = older.into_iter().chain(own).collect();
        assert!(kept.len() <= CHECKPOINTS_KEPT, "this one and an older one");
        let newest = candidates.found.first().copied().unwrap_or_default().max(newest_named);
        let others = candidates.found[candidates.given_up..].iter();
        let held = others.filter(|number| kept.iter().all(|kept| kept.number != **number)).copied().collect();
        CheckpointStart {
            key: candidates.key,
            next: CheckpointNumber(newest.0 + 1),
            images: candidates.images.clone(),
            held,
            kept,
        }
    }
}

fn images(checkpoint: &Checkpoint) -> BTreeMap<GroupId, (crate::ids::LogIndex, crate::log::checkpoint::ImageFile)> {
    let sections = checkpoint.sections.iter().map(|found| &found.section);
    sections
        .filter_map(|section| match section.image {
            MachineImage::File(file) => Some((section.group, (section.applied, file))),
            MachineImage::Inline(_) => None,
        })
        .collect()
}
