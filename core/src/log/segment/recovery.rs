//! Finds out, at start-up, what of a partition's segments is proven, and cuts the rest.
//!
//! The write-ahead log leads to every applied batch again, so nothing that is cut is lost; but only what no side file
//! proves is cut, and anything that contradicts a proof is damage. [`decide`] is the whole policy, without effects.

use std::collections::VecDeque;

use super::{
    LogSettings, PartitionLog,
    checksums::{self, Proof},
    damage::{Damage, DamageKind},
    operations::Operations,
};
use crate::{
    ids::{Offset, OperationId},
    io::{Directory, DiskAction, DiskError, DiskOutput, Effects, Exit, FileName, OperationIds, SegmentFile},
};

/// Recovery of one partition's segments. [`LogRecovery::poll`] must be called once, and after each `handle` that
/// returned true, until [`LogRecovery::finish`] yields the log.
#[derive(Debug)]
pub struct LogRecovery {
    settings: LogSettings,
    found: VecDeque<Found>,
    stage: Stage,
    operations: Operations,
}

#[derive(Debug)]
enum Stage {
    Start,
    Listing,
    /// The side file of this segment is read.
    Reading(usize),
    Decided(Decision),
    Cutting {
        proven: VecDeque<ProvenSegment>,
        sync: Option<FileName>,
    },
    Syncing(VecDeque<ProvenSegment>),
    Done(VecDeque<ProvenSegment>),
    Finished,
}

/// A segment as found in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    base: Offset,
    log_bytes: Option<u64>,
    checksum_bytes: Option<u64>,
    proof: Proof,
}

/// A segment whose bytes, as far as its proof goes, need not be written again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProvenSegment {
    pub(super) base: Offset,
    pub(super) proof: Proof,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Decision {
    proven: VecDeque<ProvenSegment>,
    truncate: Vec<(FileName, u64)>,
    remove: Vec<FileName>,
}

impl LogRecovery {
    pub(super) fn new(settings: LogSettings) -> Self {
        Self { settings, found: VecDeque::new(), stage: Stage::Start, operations: Operations::default() }
    }

    /// The log, once everything is read and cut; `None` before, and after it was handed out.
    pub fn finish(&mut self) -> Option<PartitionLog> {
        match std::mem::replace(&mut self.stage, Stage::Finished) {
            Stage::Done(proven) => Some(PartitionLog::with_proven(self.settings, proven)),
            other => {
                self.stage = other;
                None
            }
        }
    }

    pub fn poll(&mut self, effects: &mut Effects, ids: &mut OperationIds) {
        while self.operations.is_empty() && !matches!(self.stage, Stage::Done(_) | Stage::Finished) {
            self.advance(effects, ids);
        }
    }

    /// The next stage, now that every operation of this one is over.
    fn advance(&mut self, effects: &mut Effects, ids: &mut OperationIds) {
        let directory = Directory::Group(self.settings.group);
        self.stage = match std::mem::replace(&mut self.stage, Stage::Finished) {
            Stage::Start => {
                self.operations.start(DiskAction::List { directory }, effects, ids);
                Stage::Listing
            }
            Stage::Reading(number) => self.read(number, effects, ids),
            Stage::Decided(decision) => self.cut(decision, effects, ids),
            Stage::Cutting { proven, sync } => match sync {
                Some(file) => {
                    // After a crash of the process alone, the newest entries may not be on the disk yet, nor the cut:
                    // an entry of a later segment, or in a place that was cut, must not become durable before them.
                    self.operations.start(DiskAction::Sync { file }, effects, ids);
                    Stage::Syncing(proven)
                }
                None => Stage::Done(proven),
            },
            Stage::Syncing(proven) => Stage::Done(proven),
            other @ (Stage::Listing | Stage::Done(_) | Stage::Finished) => other,
        };
    }

    fn read(&mut self, number: usize, effects: &mut Effects, ids: &mut OperationIds) -> Stage {
        let found = &self.found[number];
        let length = usize::try_from(found.checksum_bytes.unwrap_or(0)).expect("checked against its largest length");
        let file = self.file(found.base, SegmentFile::Checksums);
        self.operations.start(DiskAction::Read { file, offset: 0, length }, effects, ids);
        Stage::Reading(number)
    }

    fn cut(&mut self, decision: Decision, effects: &mut Effects, ids: &mut OperationIds) -> Stage {
        for (file, length) in decision.truncate {
            self.operations.start(DiskAction::Truncate { file, length }, effects, ids);
        }
        for file in decision.remove {
            self.operations.start(DiskAction::Remove { file }, effects, ids);
        }
        let sync = decision.proven.back().map(|last| self.file(last.base, SegmentFile::Checksums));
        Stage::Cutting { proven: decision.proven, sync }
    }

    /// Returns false if the operation is not one of these.
    pub fn handle(&mut self, id: OperationId, result: Result<DiskOutput, DiskError>) -> Result<bool, Exit> {
        let Some(operation) = self.operations.take(id) else { return Ok(false) };
        match operation.check(result)? {
            DiskOutput::Done => {}
            DiskOutput::List(files) => {
                self.found = by_segment(files);
                self.next_read(0)?;
            }
            DiskOutput::Read(bytes) => {
                let Stage::Reading(number) = self.stage else { unreachable!("a read is in flight") };
                let group = self.settings.group;
                let base = self.found[number].base;
                let file = self.file(base, SegmentFile::Checksums);
                if bytes.len() as u64 != self.found[number].checksum_bytes.unwrap_or(0) {
                    let kind = DamageKind::ReadShort;
                    return Err(Damage { file, offset: bytes.len() as u64, kind }.into());
                }
                self.found[number].proof = checksums::decode(group, base, &bytes)
                    .map_err(|(offset, kind)| Exit::from(Damage { file, offset, kind }))?;
                self.next_read(number + 1)?;
            }
        }
        Ok(true)
    }

    /// Goes on with the first side file from segment `number` on, or decides.
    fn next_read(&mut self, number: usize) -> Result<(), Exit> {
        let next = self.found.iter().skip(number).position(|found| found.checksum_bytes.is_some_and(|bytes| bytes > 0));
        self.stage = match next {
            Some(skipped) => {
                let found = &self.found[number + skipped];
                if found.checksum_bytes > Some(checksums::FILE_BYTES_MAX) {
                    let file = self.file(found.base, SegmentFile::Checksums);
                    let kind = DamageKind::ChecksumLength;
                    return Err(Damage { file, offset: checksums::FILE_BYTES_MAX, kind }.into());
                }
                Stage::Reading(number + skipped)
            }
            None => Stage::Decided(decide(&self.settings, std::mem::take(&mut self.found))?),
        };
        Ok(())
    }

    fn file(&self, base: Offset, kind: SegmentFile) -> FileName {
        FileName::Segment { group: self.settings.group, base, kind }
    }
}

/// Joins the two files of each segment, ordered by base offset.
fn by_segment(files: Vec<(FileName, u64)>) -> VecDeque<Found> {
    let mut segments = std::collections::BTreeMap::<Offset, Found>::new();
    for (file, bytes) in files {
        let FileName::Segment { base, kind, .. } = file else { continue };
        let found = segments.entry(base).or_insert_with(|| Found {
            base,
            log_bytes: None,
            checksum_bytes: None,
            proof: Proof::default(),
        });
        match kind {
            SegmentFile::Log => found.log_bytes = Some(bytes),
            SegmentFile::Checksums => found.checksum_bytes = Some(bytes),
        }
    }
    segments.into_values().collect()
}

/// What to keep and what to cut. The proven segments are a prefix: all but the last of them were closed.
fn decide(settings: &LogSettings, found: VecDeque<Found>) -> Result<Decision, Damage> {
    let mut decision = Decision::default();
    let mut complete = true;
    for Found { base, log_bytes, checksum_bytes, proof } in found {
        let file = |kind| FileName::Segment { group: settings.group, base, kind };
        let (log, checksums) = (file(SegmentFile::Log), file(SegmentFile::Checksums));
        if proof.entries() == 0 {
            // Nothing is proven: whatever is there is written again, if the write-ahead log leads to it.
            decision.remove.extend(log_bytes.map(|_| log));
            decision.remove.extend(checksum_bytes.map(|_| checksums));
            complete = false;
            continue;
        }
        if !complete {
            return Err(Damage {
                file: checksums,
                offset: checksums::entry_offset(0),
                kind: DamageKind::ChecksumOrder,
            });
        }
        let proven = proof.segment_bytes();
        match log_bytes {
            None => return Err(Damage { file: log, offset: 0, kind: DamageKind::Missing }),
            Some(bytes) if bytes < proven => {
                return Err(Damage { file: log, offset: bytes, kind: DamageKind::Short { proven } });
            }
            Some(bytes) if bytes > proven => decision.truncate.push((log, proven)),
            Some(_) => {}
        }
        if checksum_bytes > Some(proof.file_bytes()) {
            decision.truncate.push((checksums, proof.file_bytes()));
        }
        complete = proof.closing.is_some();
        decision.proven.push_back(ProvenSegment { base, proof });
    }
    Ok(decision)
}
