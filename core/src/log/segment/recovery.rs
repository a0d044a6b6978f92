//! Finds out, at start-up, what of a partition's segments is proven, and cuts the rest.
//!
//! Two things prove bytes: the image that the log is restored from, and the side files, which may know more. Image and
//! write-ahead log lead to every applied batch again, so nothing that is cut is lost; but only what nothing proves is
//! cut, and anything that contradicts a proof is damage. No segment data is read, and no side file of a segment that is
//! complete: a start costs a listing and one read per partition. [`decide`] is the whole policy, without effects.

use std::collections::VecDeque;

use super::{
    LogSettings, PartitionLog,
    checksums::{self, Proof},
    damage::{Damage, DamageKind, RecoveryError},
    file::{Segment, chunks_in},
    image::{LogImage, SegmentImage},
    operations::Operations,
    position::Position,
};
use crate::{
    ids::{Offset, OperationId},
    io::{Directory, DiskAction, DiskError, DiskOutput, Effects, FileName, OperationIds, SegmentFile},
    time::Monotonic,
};

/// Recovery of one partition's segments. [`LogRecovery::poll`] must be called once, and after each `handle` that
/// returned true, until [`LogRecovery::finish`] yields the log.
#[derive(Debug)]
pub struct LogRecovery {
    settings: LogSettings,
    image: LogImage,
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
    Cutting(Kept, Vec<FileName>),
    Syncing(Kept),
    Done(Kept),
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

/// What is on disk and need not be written again.
#[derive(Debug, Default)]
struct Kept {
    /// Those of the image.
    restored: Vec<Segment>,
    /// Those behind them.
    proven: VecDeque<ProvenSegment>,
}

#[derive(Debug, Default)]
struct Decision {
    kept: Kept,
    truncate: Vec<(FileName, u64)>,
    remove: Vec<FileName>,
    /// Side files that must be durable as they are now before anything is written to one.
    sync: Vec<FileName>,
}

impl Decision {
    /// A file of which so many bytes are proven.
    fn cut(&mut self, file: FileName, found: Option<u64>, proven: u64) -> Result<(), Damage> {
        match found {
            None => return Err(Damage::whole(file, DamageKind::Missing)),
            Some(bytes) if bytes < proven => {
                let kind = DamageKind::Short { proven };
                return Err(Damage { file, offset: bytes, bytes: proven - bytes, kind });
            }
            Some(bytes) if bytes > proven => self.truncate.push((file, proven)),
            Some(_) => {}
        }
        Ok(())
    }
}

impl LogRecovery {
    pub(super) fn new(settings: LogSettings, image: LogImage) -> Self {
        Self { settings, image, found: VecDeque::new(), stage: Stage::Start, operations: Operations::default() }
    }

    /// The log, once everything is read and cut; `None` before, and after it was handed out. What the image carries in
    /// memory counts as appended now. Damage means that the image and the side files contradict each other.
    pub fn finish(&mut self, at: Monotonic) -> Result<Option<PartitionLog>, Damage> {
        match std::mem::replace(&mut self.stage, Stage::Finished) {
            Stage::Done(Kept { restored, proven }) => {
                let mut log = PartitionLog::with_segments(self.settings, &self.image, restored, proven);
                log.append_tail(at, &self.image)?;
                Ok(Some(log))
            }
            other => {
                self.stage = other;
                Ok(None)
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
            Stage::Cutting(kept, sync) => {
                for file in sync {
                    self.operations.start(DiskAction::Sync { file }, effects, ids);
                }
                Stage::Syncing(kept)
            }
            Stage::Syncing(kept) => Stage::Done(kept),
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
        Stage::Cutting(decision.kept, decision.sync)
    }

    /// Returns false if the operation is not one of these.
    pub fn handle(&mut self, id: OperationId, result: Result<DiskOutput, DiskError>) -> Result<bool, RecoveryError> {
        let Some(operation) = self.operations.take(id) else { return Ok(false) };
        match operation.check(result).map_err(RecoveryError::Disk)? {
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
                    let missing = self.found[number].checksum_bytes.unwrap_or(0).saturating_sub(bytes.len() as u64);
                    let kind = DamageKind::ReadShort;
                    return Err(Damage { file, offset: bytes.len() as u64, bytes: missing, kind }.into());
                }
                self.found[number].proof =
                    checksums::decode(group, base, &bytes).map_err(|error| Damage::side_file(file, error))?;
                self.next_read(number + 1)?;
            }
        }
        Ok(true)
    }

    /// Goes on with the first side file from segment `number` on that must be read, or decides.
    fn next_read(&mut self, number: usize) -> Result<(), Damage> {
        let settled = &self.image.segments[..self.image.settled()];
        let next = self.found.iter().skip(number).position(|found| {
            let is_settled = settled.binary_search_by_key(&found.base, |segment| segment.base).is_ok();
            found.checksum_bytes.is_some_and(|bytes| bytes > 0) && !is_settled
        });
        self.stage = match next {
            Some(skipped) => {
                let found = &self.found[number + skipped];
                if found.checksum_bytes > Some(checksums::FILE_BYTES_MAX) {
                    let file = self.file(found.base, SegmentFile::Checksums);
                    let kind = DamageKind::ChecksumLength;
                    return Err(Damage::whole(file, kind));
                }
                Stage::Reading(number + skipped)
            }
            None => Stage::Decided(decide(&self.settings, &self.image, std::mem::take(&mut self.found))?),
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

/// What to keep and what to cut. Segments that hold proven bytes are a prefix, and all but the last of them are closed.
fn decide(settings: &LogSettings, image: &LogImage, found: VecDeque<Found>) -> Result<Decision, Damage> {
    let mut decision = Decision::default();
    let mut known = image.segments.iter().peekable();
    let mut start = Position(0);
    let mut complete = true;
    let mut newest = None;
    let settled = image.settled();
    for found in found {
        let file = |kind| FileName::Segment { group: settings.group, base: found.base, kind };
        let (log, checksums) = (file(SegmentFile::Log), file(SegmentFile::Checksums));
        let named = known.next_if(|segment| segment.base == found.base);
        if let Some(missing) = known.peek().filter(|segment| segment.base < found.base) {
            return Err(missing_segment(settings, missing));
        }
        if let Some(named) = named.filter(|_| decision.kept.restored.len() < settled) {
            // Nothing but lengths is looked at; whoever reads the segment reads its side file first.
            let next_offset = known.peek().map_or(image.next_offset, |next| next.base);
            let segment = Segment::settled(settings.group, named, start, next_offset);
            if let Some(short) = found.checksum_bytes.filter(|bytes| *bytes < segment.side_file_bytes()) {
                let recorded = chunks_in(segment.bytes) + 1;
                return Err(Damage::lost_entries(checksums, recorded, checksums::entries_in(short)));
            }
            decision.cut(log, found.log_bytes, segment.bytes)?;
            decision.cut(checksums, found.checksum_bytes, segment.side_file_bytes())?;
            start = segment.end();
            decision.kept.restored.push(segment);
            continue;
        }
        let entries = found.proof.entries();
        if entries > 0 && !complete {
            return Err(Damage::entry(checksums, 0, DamageKind::ChecksumOrder));
        }
        if named.is_none() && entries == 0 {
            // Nothing is proven: whatever is there is written again, if the write-ahead log leads to it.
            decision.remove.extend(found.log_bytes.map(|_| log));
            decision.remove.extend(found.checksum_bytes.map(|_| checksums));
            complete &= known.peek().is_some();
            continue;
        }
        if named.is_none() && known.peek().is_some() {
            return Err(Damage::whole(log, DamageKind::SegmentUnknown));
        }
        if let Some(named) = named {
            check_image(named, known.peek().is_none(), &found, checksums)?;
        }
        let proven = found.proof.segment_bytes().max(named.map_or(0, |named| u64::from(named.bytes)));
        decision.cut(log, found.log_bytes, proven)?;
        let recorded = named.map_or(0, |named| named.proven_chunks as usize + usize::from(named.closed));
        if found.checksum_bytes > Some(found.proof.file_bytes()) {
            decision.truncate.push((checksums, found.proof.file_bytes()));
            decision.sync.push(checksums);
        }
        if entries > recorded {
            newest = Some(checksums);
        }
        complete = found.proof.closing.is_some();
        match named {
            Some(named) => {
                let next_offset = known.peek().map_or(image.next_offset, |next| next.base);
                let segment = Segment::restored(settings.group, named, start, next_offset, found.proof);
                start = segment.end();
                decision.kept.restored.push(segment);
            }
            None => decision.kept.proven.push_back(ProvenSegment { base: found.base, proof: found.proof }),
        }
    }
    if let Some(missing) = known.next() {
        return Err(missing_segment(settings, missing));
    }
    // After a crash of the process alone, the newest entries may not be on the disk yet, nor the cut: an entry of a
    // later segment, or in a place that was cut, must not become durable before them.
    decision.sync.extend(newest.filter(|newest| !decision.sync.contains(newest)));
    Ok(decision)
}

fn missing_segment(settings: &LogSettings, segment: &SegmentImage) -> Damage {
    let file = FileName::Segment { group: settings.group, base: segment.base, kind: SegmentFile::Log };
    Damage::whole(file, DamageKind::Missing)
}

/// Whether the side file of a segment holds what the image says, and contradicts none of it.
fn check_image(image: &SegmentImage, last: bool, found: &Found, file: FileName) -> Result<(), Damage> {
    let proof = &found.proof;
    let damage = |number, kind| Damage::entry(file, number, kind);
    match found.checksum_bytes {
        None => return Err(Damage::whole(file, DamageKind::Missing)),
        Some(bytes) if bytes < checksums::entry_offset(0) => {
            return Err(Damage::whole(file, DamageKind::ChecksumHeader));
        }
        Some(_) => {}
    }
    let recorded = image.proven_chunks as usize + usize::from(image.closed);
    if proof.entries() < recorded {
        return Err(Damage::lost_entries(file, recorded, proof.entries()));
    }
    let full = chunks_in(u64::from(image.bytes));
    let first = image.proven_chunks as usize;
    for (place, entry) in image.entries.iter().enumerate().take(full - first) {
        if proof.chunks.get(first + place).is_some_and(|chunk| chunk != entry) {
            return Err(damage(first + place, DamageKind::ChecksumContradiction));
        }
    }
    let (ends, bytes) = (proof.segment_bytes(), u64::from(image.bytes));
    let fits = match proof.closing {
        Some(closing) => {
            // A closed segment has no more bytes than it was closed with; another one may have grown since.
            let exact = image.closed || !last;
            let same = image.rest().filter(|_| ends == bytes).is_none_or(|rest| rest.closing() == closing.closing());
            same && if exact { ends == bytes } else { ends >= bytes }
        }
        None => last || ends <= bytes,
    };
    if fits { Ok(()) } else { Err(damage(full, DamageKind::ChecksumContradiction)) }
}
