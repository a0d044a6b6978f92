//! Brings a partition's bytes from memory to its segments.
//!
//! Two lanes, each a fixed sequence with one step in flight. Data: write, then sync (for a new segment of both its
//! files and their directories), then the bytes count as synced. Proof: once enough of them wait, the entries of synced
//! chunks are written to the side file, then synced. Invariant: an entry is written only after its chunk was synced, and an entry of a segment
//! only after every entry of the segments before it was synced.
//!
//! It decides the order of operations, not when to begin: that is the budget the caller gives.

use bytes::Bytes;

use super::{
    LogSettings,
    checksums::{self, Closing},
    file::{CHUNK, Segment},
    operations::Operations,
    position::Position,
    tail::Tail,
};
use crate::{
    ids::{GroupId, OperationId},
    io::{Directory, DiskAction, DiskError, DiskOutput, Effects, Exit, OperationIds},
    limits::SEGMENT_WRITE_BYTES_MAX,
};

#[derive(Debug)]
pub(super) struct Writeback {
    group: GroupId,
    /// Behind the last byte that is on disk or on its way there; may lie ahead of the appended bytes while what is
    /// proven is appended again.
    synced: Position,
    data: Data,
    data_operations: Operations,
    /// Entries that are worth a write.
    pub(super) prove_chunks: usize,
    proof: Proof,
    proof_operations: Operations,
    /// The directories above the segments are durable.
    directories_synced: bool,
    /// The last write found the disk full: nothing is tried again without a budget.
    disk_full: bool,
}

/// What makes the bytes of a segment durable.
fn sync_of(segment: &Segment) -> DiskAction {
    #[cfg(feature = "mutants")]
    if crate::mutants::Mutant::CheckpointAheadOfSync.is_planted() {
        return DiskAction::List { directory: Directory::Root };
    }
    DiskAction::Sync { file: segment.log_file() }
}

#[derive(Debug)]
enum Data {
    Idle,
    /// `full` if one of the writes found no room.
    Writing {
        job: Job,
        full: bool,
    },
    Syncing(Job),
}

/// Bytes of one segment on their way to the disk.
#[derive(Clone, Copy, Debug)]
struct Job {
    segment: usize,
    target: Position,
    /// CRC of the bytes before `target` behind the last full chunk.
    rest_crc: u32,
    new_file: bool,
}

#[derive(Debug)]
enum Proof {
    Idle,
    Writing(Entries),
    Syncing(Entries),
}

#[derive(Clone, Copy, Debug)]
struct Entries {
    segment: usize,
    chunks: usize,
    closing: Option<Closing>,
}

impl Writeback {
    /// `synced` is where the files end.
    pub(super) fn new(settings: &LogSettings, synced: Position, directories_synced: bool) -> Self {
        Self {
            group: settings.group,
            prove_chunks: settings.prove_chunks,
            synced,
            data: Data::Idle,
            data_operations: Operations::default(),
            proof: Proof::Idle,
            proof_operations: Operations::default(),
            directories_synced,
            disk_full: false,
        }
    }

    pub(super) fn synced(&self) -> Position {
        self.synced
    }

    pub(super) fn disk_full(&self) -> bool {
        self.disk_full
    }

    /// A segment that is proven up to here was opened.
    pub(super) fn adopt(&mut self, disk_end: Position) {
        assert!(disk_end >= self.synced, "segments follow one another");
        self.synced = disk_end;
    }

    pub(super) fn in_flight(&self) -> bool {
        !self.data_operations.is_empty() || !self.proof_operations.is_empty()
    }

    /// Bytes on their way to the disk.
    pub(super) fn writing(&self) -> u64 {
        match &self.data {
            Data::Idle => 0,
            Data::Writing { job, .. } | Data::Syncing(job) => job.target - self.synced,
        }
    }

    /// Starts a write of about `budget` bytes if none is under way, and whatever follows earlier ones; returns the
    /// bytes of the write.
    pub(super) fn poll(
        &mut self,
        segments: &[Segment],
        tail: &mut Tail,
        budget: usize,
        effects: &mut Effects,
        ids: &mut OperationIds,
    ) -> u64 {
        self.sync_data(segments, effects, ids);
        let written = if budget > 0 { self.write_data(segments, tail, budget, effects, ids) } else { 0 };
        self.sync_entries(segments, effects, ids);
        if budget > 0 || !self.disk_full {
            self.write_entries(segments, effects, ids);
        }
        written
    }

    fn write_data(
        &mut self,
        segments: &[Segment],
        tail: &mut Tail,
        budget: usize,
        effects: &mut Effects,
        ids: &mut OperationIds,
    ) -> u64 {
        let Data::Idle = self.data else { return 0 };
        let number = segments.partition_point(|segment| segment.end() <= self.synced);
        let Some(segment) = segments.get(number) else { return 0 };
        let from = self.synced;
        assert_eq!(from, segment.disk_end(), "a write begins where the file ends");
        let job = job(number, segment, from, budget);
        let slices = tail.slices(from..job.target);
        let mut start = |action| self.data_operations.start(action, effects, ids);
        start(DiskAction::Write { file: segment.log_file(), offset: from - segment.start, slices });
        if job.new_file {
            let header = checksums::encode_header(self.group, segment.base);
            start(DiskAction::Write { file: segment.checksum_file(), offset: 0, slices: vec![header] });
        }
        self.data = Data::Writing { job, full: false };
        job.target - from
    }

    fn sync_data(&mut self, segments: &[Segment], effects: &mut Effects, ids: &mut OperationIds) {
        let Data::Writing { job, .. } = self.data else { return };
        if !self.data_operations.is_empty() {
            return;
        }
        let segment = &segments[job.segment];
        let mut start = |action| self.data_operations.start(action, effects, ids);
        start(sync_of(segment));
        if job.new_file {
            start(DiskAction::Sync { file: segment.checksum_file() });
            start(DiskAction::SyncDirectory { directory: Directory::Group(self.group) });
            if !self.directories_synced {
                start(DiskAction::SyncDirectory { directory: Directory::Groups });
                start(DiskAction::SyncDirectory { directory: Directory::Root });
            }
        }
        self.data = Data::Syncing(job);
    }

    fn write_entries(&mut self, segments: &[Segment], effects: &mut Effects, ids: &mut OperationIds) {
        let Proof::Idle = self.proof else { return };
        // Segments are completed in order, so the first one without a closing entry is the only candidate.
        let number = segments.partition_point(|segment| segment.proven_closing.is_some());
        let Some(segment) = segments.get(number) else { return };
        let (entries, closing) = segment.unproven(self.prove_chunks);
        if entries.is_empty() {
            return;
        }
        let chunks = entries.len() - usize::from(closing.is_some());
        let slice: Bytes = checksums::encode_entries(self.group, segment.base, segment.proven_chunks, &entries);
        let offset = checksums::entry_offset(segment.proven_chunks);
        let action = DiskAction::Write { file: segment.checksum_file(), offset, slices: vec![slice] };
        self.proof_operations.start(action, effects, ids);
        self.proof = Proof::Writing(Entries { segment: number, chunks, closing });
    }

    fn sync_entries(&mut self, segments: &[Segment], effects: &mut Effects, ids: &mut OperationIds) {
        let Proof::Writing(entries) = self.proof else { return };
        if !self.proof_operations.is_empty() {
            return;
        }
        let file = segments[entries.segment].checksum_file();
        self.proof_operations.start(DiskAction::Sync { file }, effects, ids);
        self.proof = Proof::Syncing(entries);
    }

    /// Returns false if the operation is not one of these. [`Writeback::poll`] must follow.
    pub(super) fn handle(
        &mut self,
        segments: &mut [Segment],
        id: OperationId,
        result: Result<DiskOutput, DiskError>,
    ) -> Result<bool, Exit> {
        if let Some(operation) = self.data_operations.take(id) {
            match (&mut self.data, result) {
                (Data::Writing { full, .. }, Err(DiskError::Full)) => *full = true,
                (Data::Idle | Data::Writing { .. } | Data::Syncing(_), result) => {
                    operation.check(result)?;
                }
            }
            if self.data_operations.is_empty() {
                self.data_step_done(segments);
            }
            return Ok(true);
        }
        let Some(operation) = self.proof_operations.take(id) else { return Ok(false) };
        match (&self.proof, result) {
            (Proof::Writing(_), Err(DiskError::Full)) => {
                self.disk_full = true;
                self.proof = Proof::Idle;
            }
            (Proof::Idle | Proof::Writing(_) | Proof::Syncing(_), result) => {
                operation.check(result)?;
                self.entries_step_done(segments);
            }
        }
        Ok(true)
    }

    /// For a log that is removed: its operations are waited for, and lead to no further ones.
    pub(super) fn abandon(&mut self, id: OperationId, result: Result<DiskOutput, DiskError>) -> Result<bool, Exit> {
        let operation = self.data_operations.take(id).or_else(|| self.proof_operations.take(id));
        let Some(operation) = operation else { return Ok(false) };
        match result {
            Err(DiskError::Full) => {}
            result => {
                operation.check(result)?;
            }
        }
        Ok(true)
    }

    fn data_step_done(&mut self, segments: &mut [Segment]) {
        match self.data {
            Data::Idle => unreachable!("an operation was in flight"),
            // The same bytes are written again later; what of them reached the file does no harm.
            Data::Writing { full: true, .. } => {
                self.disk_full = true;
                self.data = Data::Idle;
            }
            Data::Writing { full: false, .. } => self.disk_full = false,
            Data::Syncing(job) => {
                let segment = &mut segments[job.segment];
                segment.synced(job.target - segment.start, job.rest_crc);
                segment.created = true;
                self.directories_synced = true;
                self.synced = job.target;
                self.data = Data::Idle;
            }
        }
    }

    fn entries_step_done(&mut self, segments: &mut [Segment]) {
        if let Proof::Syncing(entries) = self.proof {
            let segment = &mut segments[entries.segment];
            segment.proven_chunks += entries.chunks;
            segment.proven_closing = entries.closing;
            self.proof = Proof::Idle;
        }
    }
}

/// Up to the end of the segment if the budget allows, else up to the last chunk boundary within the budget: these are
/// the places where the CRC of the unfinished chunk is known.
fn job(number: usize, segment: &Segment, from: Position, budget: usize) -> Job {
    let budget = budget.min(SEGMENT_WRITE_BYTES_MAX) as u64;
    let rest = segment.end() - from;
    let begin = from - segment.start;
    let (target, rest_crc) = if rest <= budget {
        (segment.end(), segment.rest().crc)
    } else {
        let boundary = ((begin + budget) / CHUNK).max(begin / CHUNK + 1) * CHUNK;
        if boundary >= segment.bytes { (segment.end(), segment.rest().crc) } else { (segment.start + boundary, 0) }
    };
    Job { segment: number, target, rest_crc, new_file: !segment.created }
}
