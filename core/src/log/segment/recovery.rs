//! Finds out, at start-up, what of a partition's segments is proven, and cuts the rest.
//!
//! Two things prove bytes: the image that the log is restored from, and the side files, which may know more. Image and
//! write-ahead log lead to every applied batch again, so nothing that is cut is lost. What the image names stays: damage
//! in it is marked, to be repaired while the log is in use. What only side files know of is written again if anything of
//! it is damaged. What contradicts an image is refused. No segment data is read, and no side file of a segment that is
//! complete: a start costs a listing and one read per partition. [`decide`] is the whole policy, without effects.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{
    LogSettings, PartitionLog,
    checksums::{self, Proof, Salvaged},
    damage::{Damage, DamageKind, RecoveryError},
    file::{CHUNK, Segment, chunks_in},
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
    side: Salvaged,
}

impl Found {
    /// Nothing of a segment is there.
    fn nothing(base: Offset) -> Self {
        Self { base, log_bytes: None, checksum_bytes: None, side: Salvaged::default() }
    }
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
    fn cut(&mut self, file: FileName, found: Option<u64>, proven: u64) {
        if found.is_some_and(|bytes| bytes > proven) {
            self.truncate.push((file, proven));
        }
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
        let bytes = found.checksum_bytes.unwrap_or(0).min(checksums::FILE_BYTES_MAX);
        let length = usize::try_from(bytes).expect("a side file has a largest length");
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
        if let Stage::Reading(number) = self.stage {
            // What cannot be read is as lost as what is damaged.
            let bytes = match result {
                Ok(DiskOutput::Read(bytes)) => bytes,
                Ok(DiskOutput::Done | DiskOutput::List(_)) => unreachable!("a read returns bytes"),
                Err(_) => Bytes::new(),
            };
            let base = self.found[number].base;
            let file = self.file(base, SegmentFile::Checksums);
            self.found[number].side =
                checksums::salvage(self.settings.group, base, &bytes).map_err(|kind| Damage::whole(file, kind))?;
            self.next_read(number + 1)?;
            return Ok(true);
        }
        match operation.check(result).map_err(RecoveryError::Disk)? {
            DiskOutput::Done => {}
            DiskOutput::List(files) => {
                self.found = by_segment(files);
                self.next_read(0)?;
            }
            DiskOutput::Read(_) => unreachable!("no read is in flight"),
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
            Some(skipped) => Stage::Reading(number + skipped),
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
        let found = segments.entry(base).or_insert_with(|| Found::nothing(base));
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
    for found in with_missing(image, found) {
        let Some(named) = known.next_if(|segment| segment.base == found.base) else {
            if known.peek().is_some() && found.side.entries.iter().any(Option::is_some) {
                let file = FileName::Segment { group: settings.group, base: found.base, kind: SegmentFile::Log };
                return Err(Damage::whole(file, DamageKind::SegmentUnknown));
            }
            let waits = known.peek().is_some();
            complete = decision.keep_unnamed(settings, found, complete, &mut newest) || waits && complete;
            continue;
        };
        let next_offset = known.peek().map_or(image.next_offset, |next| next.base);
        let mut segment = if decision.kept.restored.len() < image.settled() {
            decision.keep_settled(settings, named, start, next_offset, &found)
        } else {
            let (segment, is_closed) =
                decision.keep_named(settings, image, named, (start, next_offset), &found, &mut newest)?;
            complete = is_closed;
            segment
        };
        // What the file lacks is damaged like any other bytes.
        let there = chunks_in(found.log_bytes.unwrap_or(0));
        (there..segment.disk_chunks()).filter(|_| found.log_bytes.unwrap_or(0) < segment.disk_bytes).for_each(
            |chunk| {
                segment.marks.damage(chunk);
            },
        );
        start = segment.end();
        decision.kept.restored.push(segment);
    }
    // After a crash of the process alone, the newest entries may not be on the disk yet, nor the cut: an entry of a
    // later segment, or in a place that was cut, must not become durable before them.
    decision.sync.extend(newest.filter(|newest| !decision.sync.contains(newest)));
    Ok(decision)
}

/// What was found, with what an image names and of which nothing is there.
fn with_missing(image: &LogImage, found: VecDeque<Found>) -> Vec<Found> {
    let mut all: Vec<Found> = found.into();
    for named in &image.segments {
        if let Err(place) = all.binary_search_by_key(&named.base, |found| found.base) {
            all.insert(place, Found::nothing(named.base));
        }
    }
    all
}

impl Decision {
    /// A segment of the image that nobody appends to or compares with: nothing but lengths is looked at, and whoever
    /// reads the segment reads its side file first.
    fn keep_settled(
        &mut self,
        settings: &LogSettings,
        named: &SegmentImage,
        start: Position,
        next_offset: Offset,
        found: &Found,
    ) -> Segment {
        let mut segment = Segment::settled(settings.group, named, start, next_offset);
        if found.checksum_bytes.is_none_or(|bytes| bytes < segment.side_file_bytes()) {
            segment.marks.suspect();
        }
        self.cut(segment.log_file(), found.log_bytes, segment.bytes);
        self.cut(segment.checksum_file(), found.checksum_bytes, segment.side_file_bytes());
        segment
    }

    /// Another segment of the image; also whether its side file is complete.
    fn keep_named(
        &mut self,
        settings: &LogSettings,
        image: &LogImage,
        named: &SegmentImage,
        (start, next_offset): (Position, Offset),
        found: &Found,
        newest: &mut Option<FileName>,
    ) -> Result<(Segment, bool), Damage> {
        let file = |kind| FileName::Segment { group: settings.group, base: named.base, kind };
        let (log, checksums) = (file(SegmentFile::Log), file(SegmentFile::Checksums));
        let last = image.segments.last().is_some_and(|last| last.base == named.base);
        let recorded = named.proven_chunks as usize + usize::from(named.closed);
        let rest = u32::try_from(u64::from(named.bytes) % CHUNK).expect("less than a chunk");
        let (mut proof, lost) = found.side.fill(recorded, named.closed.then_some(rest));
        if let Some(closing) = proof.closing.as_mut().filter(|_| named.closed && last && lost.contains(&(recorded - 1)))
        {
            // The log's own checksum goes on from here, so it is needed at once.
            closing.crc = image.rest_crc();
        }
        if proof.segment_bytes() > found.log_bytes.unwrap_or(0) {
            // What the image does not name and is not there is written again.
            let bytes = found.log_bytes.unwrap_or(0).max(u64::from(named.bytes));
            proof.shorten(chunks_in(bytes), named.closed);
        }
        check_image(named, last, &proof, checksums)?;
        let proven = proof.segment_bytes().max(u64::from(named.bytes));
        self.cut(log, found.log_bytes, proven);
        if found.checksum_bytes > Some(proof.file_bytes()) {
            self.truncate.push((checksums, proof.file_bytes()));
            self.sync.push(checksums);
        }
        if proof.entries() > recorded {
            *newest = Some(checksums);
        }
        let is_closed = proof.closing.is_some();
        let mut segment = Segment::restored(settings.group, named, start, next_offset, proof);
        segment.lose(&lost, found.side.has_header);
        Ok((segment, is_closed))
    }

    /// A segment that the image does not know: what is sound from its beginning on is kept, and compared with what the
    /// write-ahead log leads to; it is removed if that is nothing. Also whether its side file is complete.
    fn keep_unnamed(
        &mut self,
        settings: &LogSettings,
        found: Found,
        complete: bool,
        newest: &mut Option<FileName>,
    ) -> bool {
        let file = |kind| FileName::Segment { group: settings.group, base: found.base, kind };
        let (log, checksums) = (file(SegmentFile::Log), file(SegmentFile::Checksums));
        let (mut proof, _) = found.side.fill(0, None);
        if proof.segment_bytes() > found.log_bytes.unwrap_or(0) {
            proof.shorten(chunks_in(found.log_bytes.unwrap_or(0)), false);
        }
        if proof.entries() == 0 || !complete || !found.side.has_header {
            self.remove.extend(found.log_bytes.map(|_| log));
            self.remove.extend(found.checksum_bytes.map(|_| checksums));
            return false;
        }
        self.cut(log, found.log_bytes, proof.segment_bytes());
        if found.checksum_bytes > Some(proof.file_bytes()) {
            self.truncate.push((checksums, proof.file_bytes()));
            self.sync.push(checksums);
        }
        *newest = Some(checksums);
        let is_closed = proof.closing.is_some();
        self.kept.proven.push_back(ProvenSegment { base: found.base, proof });
        is_closed
    }
}

/// Whether what a side file proves contradicts what the image says.
fn check_image(image: &SegmentImage, last: bool, proof: &Proof, file: FileName) -> Result<(), Damage> {
    let damage = |number, kind| Damage::entry(file, number, kind);
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
