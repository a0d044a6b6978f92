//! When checkpoints are taken, what goes into them, and what may go once they are done.
//!
//! A checkpoint is due when the WAL has grown by a part of its budget, when some time has passed and anything changed,
//! at the end of a start, and before a clean end. Applied batches are written to segments first, so that little is
//! carried, but not for ever. Groups are added in the order of their ids, a bounded number of bytes per turn, each as it
//! is at that moment.
//!
//! Invariants: a checkpoint counts once the record that names it is durable, which is appended when everything it names
//! is on disk. Then the oldest of three goes, and the WAL before the older remaining one; nothing that a log still
//! refers to goes with them. A checkpoint that finds no room is given up and tried again.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use slog::{debug, info, warn};

use super::{Broker, Hold, Machine, Replica};
#[cfg(feature = "mutants")]
use crate::mutants::Mutant;
use crate::{
    command::StateMachine,
    ids::{CheckpointNumber, FileSequence, GroupId, LogIndex, OperationId, ReplicaId, WriteNumber},
    io::{DiskAction, DiskError, DiskOperation, DiskOutput, Effects, Exit, FileName},
    limits::{
        CHECKPOINT_GROWTH_BYTES, CHECKPOINT_GROWTH_INTERVAL, CHECKPOINT_TAIL_BYTES_MAX, CHECKPOINTS_KEPT,
        IMAGE_INLINE_BYTES_MAX,
    },
    log::{
        checkpoint::{CheckpointDone, ImageFile, MachineImage, PlacedEntry, Reader, WalPosition, Writer},
        record::{EntryFile, EntryLocation, WalRecord},
        segment::fewest_to_write,
        wal::WalKey,
    },
    replication::group::{GroupStart, SectionParts},
    time::{Monotonic, Now},
};

/// How long segments are waited for before a checkpoint is taken.
const FLUSH_MAX: Duration = Duration::from_secs(5);
/// After a checkpoint that found no room.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Members that are behind are looked at this often while they keep something from going.
const RELEASE_INTERVAL: Duration = Duration::from_millis(100);
/// The share of the WAL's budget, in thousandths, that may be kept for members that are behind, although no recovery
/// needs it.
const KEPT_FOR_MEMBERS: u32 = 500;
/// Beyond this share members that need so much get the state instead.
const KEPT_FOR_LAGGING_MEMBERS: u32 = 700;

/// What start-up found.
#[derive(Debug)]
pub(crate) struct CheckpointStart {
    pub(crate) key: WalKey,
    /// Oldest first.
    pub(crate) kept: Vec<Kept>,
    pub(crate) next: CheckpointNumber,
    /// Images on disk; those that no kept checkpoint names will go.
    pub(crate) images: Vec<FileName>,
    /// Checkpoints that are not kept; entries may still lie in them.
    pub(crate) held: BTreeSet<CheckpointNumber>,
}

/// A checkpoint that recovery can start from.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) number: CheckpointNumber,
    pub(crate) from: WalPosition,
    /// What its record says; `None` if that was not read.
    pub(crate) done: Option<CheckpointDone>,
    /// The images it names, and the index whose state they hold; `None` if that was not read.
    pub(crate) images: Option<BTreeMap<GroupId, (LogIndex, ImageFile)>>,
    /// Entries that were not applied when it was taken.
    pub(crate) entries: BTreeMap<GroupId, Vec<PlacedEntry>>,
    /// Files that hold others of that kind, which were not in memory then.
    pub(crate) needs: BTreeSet<EntryFile>,
}

/// See the module head.
#[derive(Debug)]
pub(super) struct Checkpoints {
    key: WalKey,
    kept: Vec<Kept>,
    next: CheckpointNumber,
    stage: Stage,
    /// One is wanted whatever has changed.
    wanted: bool,
    /// The first one of this start was taken, or given up.
    has_begun: bool,
    /// Something was appended to the WAL since the last one began.
    pub(super) changed: bool,
    /// When and where in the WAL the last one began.
    last_at: Monotonic,
    last_position: u64,
    retry_at: Monotonic,
    /// Until then nothing more can go than what went already.
    release_at: Monotonic,
    /// Segments that are to be written before the next one.
    pub(super) flush: VecDeque<GroupId>,
    /// Images that were on disk at the start.
    found_images: Vec<FileName>,
    /// Checkpoints that were on disk at the start and are not kept: they go when no entry lies in them any more.
    held: BTreeSet<CheckpointNumber>,
    /// Files that are no longer needed.
    useless: Vec<FileName>,
    removals: BTreeMap<OperationId, FileName>,
}

#[derive(Debug)]
enum Stage {
    Idle,
    Flushing {
        until: Monotonic,
        carried_max: u64,
    },
    Capturing(Capture),
    /// Everything was added.
    Writing(Capture),
    /// The record that names it is under way.
    Recording {
        capture: Capture,
        write: WriteNumber,
    },
}

#[derive(Debug)]
struct Capture {
    writer: Writer,
    /// Groups up to this one were added.
    reached: Option<GroupId>,
    entries: BTreeMap<GroupId, Vec<PlacedEntry>>,
    images: BTreeMap<GroupId, (LogIndex, ImageFile)>,
    needs: BTreeSet<EntryFile>,
    /// Replicas that were removed since it began.
    gone: BTreeSet<(GroupId, ReplicaId)>,
}

impl Checkpoints {
    pub(super) fn new(now: Now, start: CheckpointStart) -> Self {
        let CheckpointStart { key, kept, next, images, held } = start;
        Self {
            key,
            kept,
            next,
            stage: Stage::Idle,
            wanted: true,
            has_begun: false,
            changed: true,
            last_at: now.monotonic,
            last_position: 0,
            retry_at: now.monotonic,
            release_at: now.monotonic,
            flush: VecDeque::new(),
            found_images: images,
            held,
            useless: Vec::new(),
            removals: BTreeMap::new(),
        }
    }

    /// The newest one that counts.
    pub(super) fn newest(&self) -> Option<CheckpointNumber> {
        self.kept.last().map(|kept| kept.number)
    }

    /// The newest one is damaged.
    pub(super) fn want_another(&mut self) {
        self.wanted = true;
    }

    /// Reads the newest one.
    pub(super) fn reader_of_newest(&self) -> Option<Reader> {
        self.newest().map(|number| Reader::new(self.key, number))
    }

    /// What the record of the newest one says.
    pub(super) fn newest_done(&self) -> Option<CheckpointDone> {
        self.kept.last().and_then(|kept| kept.done)
    }

    /// Clients are served only after the first one of a start: a start that came so far gives back what it takes.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    pub(super) fn replica_removed(&mut self, group: GroupId, replica: ReplicaId) {
        match &mut self.stage {
            Stage::Capturing(capture) => drop(capture.gone.insert((group, replica))),
            Stage::Idle | Stage::Flushing { .. } | Stage::Writing(_) | Stage::Recording { .. } => {}
        }
    }
}

impl Broker {
    /// One is taken next, whatever has changed.
    pub(super) fn checkpoint_soon(&mut self) {
        self.checkpoints.wanted = true;
    }

    /// Asks for one more checkpoint, unless nothing changed since the last one. False once there is nothing to wait for.
    pub(super) fn checkpoint_before_end(&mut self) -> bool {
        let checkpoints = &mut self.checkpoints;
        let is_idle = matches!(checkpoints.stage, Stage::Idle);
        if is_idle && checkpoints.changed {
            checkpoints.wanted = true;
        }
        !is_idle || checkpoints.wanted
    }

    pub(super) fn checkpoint_deadline(&self) -> Option<Monotonic> {
        let checkpoints = &self.checkpoints;
        match &checkpoints.stage {
            Stage::Flushing { until, .. } => Some(*until),
            Stage::Idle if checkpoints.wanted => Some(checkpoints.retry_at),
            Stage::Idle if checkpoints.changed => {
                Some((checkpoints.last_at + self.config.checkpoint_interval).max(checkpoints.retry_at))
            }
            Stage::Idle | Stage::Capturing(_) | Stage::Writing(_) | Stage::Recording { .. } => None,
        }
    }

    /// Called once a turn, before the WAL's next write.
    pub(super) fn advance_checkpoint(&mut self, now: Now, effects: &mut Effects) {
        loop {
            let stage = std::mem::replace(&mut self.checkpoints.stage, Stage::Idle);
            let (stage, goes_on) = match stage {
                Stage::Idle if self.is_checkpoint_due(now) => {
                    let carried_max = self.carried_max(now);
                    (Stage::Flushing { until: now.monotonic + FLUSH_MAX, carried_max }, true)
                }
                Stage::Idle => (Stage::Idle, false),
                Stage::Flushing { until, carried_max } => {
                    if now.monotonic < until && self.wants_flush(carried_max) {
                        (Stage::Flushing { until, carried_max }, false)
                    } else {
                        (Stage::Capturing(self.begin_checkpoint(now)), true)
                    }
                }
                Stage::Capturing(capture) => self.capture(now, capture, effects),
                Stage::Writing(capture) => self.record_checkpoint(now, capture, effects),
                Stage::Recording { capture, write } if self.wal.durable() >= write => {
                    self.checkpoint_done(now, capture);
                    (Stage::Idle, true)
                }
                Stage::Recording { capture, write } => (Stage::Recording { capture, write }, false),
            };
            self.checkpoints.stage = stage;
            if !goes_on {
                break;
            }
        }
        self.release_logs(now);
        let Self { checkpoints, ids, .. } = self;
        for file in checkpoints.useless.drain(..) {
            let id = ids.next_id();
            checkpoints.removals.insert(id, file);
            effects.disk.push(DiskOperation { id, action: DiskAction::Remove { file } });
        }
    }

    /// False if the operation belongs to no checkpoint.
    pub(super) fn finish_checkpoint_operation(
        &mut self,
        operation: OperationId,
        result: &Result<DiskOutput, DiskError>,
    ) -> Result<bool, Exit> {
        if let Some(file) = self.checkpoints.removals.remove(&operation) {
            let failed =
                |error: &DiskError| Exit::DiskFailed { operation: "removal", file: file.path(), error: *error };
            return result.as_ref().map(|_| true).map_err(failed);
        }
        match &mut self.checkpoints.stage {
            Stage::Capturing(capture) | Stage::Writing(capture) => capture.writer.handle(operation, result),
            Stage::Idle | Stage::Flushing { .. } | Stage::Recording { .. } => Ok(false),
        }
    }

    fn is_checkpoint_due(&self, now: Now) -> bool {
        let checkpoints = &self.checkpoints;
        if now.monotonic < checkpoints.retry_at {
            return false;
        }
        let grown = self.wal.position().saturating_sub(checkpoints.last_position);
        let waited = now.monotonic.since(checkpoints.last_at);
        let is_time = grown >= self.config.checkpoint_after_bytes()
            || waited >= self.config.checkpoint_interval
            || grown >= CHECKPOINT_GROWTH_BYTES && waited >= CHECKPOINT_GROWTH_INTERVAL;
        checkpoints.wanted || (checkpoints.changed && is_time) || self.would_free_wal(now)
    }

    /// The WAL has little room left, and another checkpoint lets files of it go: large writes may fill files before it
    /// has grown by what is due, and nothing grows in a WAL that is full.
    fn would_free_wal(&self, now: Now) -> bool {
        if self.wal.fill().0 <= KEPT_FOR_MEMBERS {
            return false;
        }
        let kept = &self.checkpoints.kept;
        let Some(first) = kept.len().checked_sub(CHECKPOINTS_KEPT) else { return true };
        kept[first].from.file < self.wal.current_file()
            || now.monotonic >= self.checkpoints.release_at && self.has_outlived_needs(&kept[first..])
    }

    /// Checkpoints that will stay keep files of the WAL for entries that are applied by now: another one does not.
    fn has_outlived_needs(&self, remaining: &[Kept]) -> bool {
        let is_wal = |file: &&EntryFile| matches!(file, EntryFile::Wal(_));
        let mut needs: BTreeSet<EntryFile> =
            remaining.iter().flat_map(|kept| kept.needs.iter().filter(is_wal)).copied().collect();
        let mut replicas = self.replicas.values();
        while !needs.is_empty()
            && let Some(replica) = replicas.next()
        {
            for file in replica.group.files_from(replica.group.applied().next()) {
                needs.remove(&file);
            }
        }
        !needs.is_empty()
    }

    /// Whether more is carried in memory than a checkpoint should hold; says which segments shall be written.
    fn wants_flush(&mut self, carried_max: u64) -> bool {
        let excess = self.live_logs.unsynced().saturating_sub(carried_max);
        let flush = &mut self.checkpoints.flush;
        if excess == 0 {
            flush.clear();
        } else if flush.is_empty() && self.live_logs.writing() == 0 {
            // What was chosen before is written, and others got more meanwhile.
            flush.extend(fewest_to_write(self.live_logs.unsynced_each(), excess));
        }
        excess > 0
    }

    /// What a checkpoint may carry that is due now. One that is taken because time has passed may carry all that waits
    /// in memory: that costs less than many syncs. One that the growth of the WAL asks for adds no more than a part of
    /// what was written since the last one.
    fn carried_max(&self, now: Now) -> u64 {
        let checkpoints = &self.checkpoints;
        // Clients wait for the first one of a start, and what it carries is in memory already.
        if !checkpoints.has_begun {
            return u64::MAX;
        }
        let is_time = now.monotonic.since(checkpoints.last_at) >= self.config.checkpoint_interval;
        if checkpoints.wanted || is_time {
            return CHECKPOINT_TAIL_BYTES_MAX;
        }
        let grown = self.wal.position().saturating_sub(checkpoints.last_position);
        (grown / 4).clamp(CHECKPOINT_TAIL_BYTES_MAX / 4, CHECKPOINT_TAIL_BYTES_MAX)
    }

    fn begin_checkpoint(&mut self, now: Now) -> Capture {
        let from = WalPosition { file: self.wal.current_file(), write: WriteNumber(self.wal.last_sealed().0 + 1) };
        let position = self.wal.position();
        let checkpoints = &mut self.checkpoints;
        let number = checkpoints.next;
        checkpoints.next = CheckpointNumber(number.0 + 1);
        checkpoints.flush.clear();
        checkpoints.wanted = false;
        checkpoints.changed = false;
        checkpoints.last_at = now.monotonic;
        checkpoints.last_position = position;
        debug!(self.logger, "a checkpoint begins"; "number" => number.0, "from" => from.write.0);
        Capture {
            writer: Writer::new(checkpoints.key, number, from),
            reached: None,
            entries: BTreeMap::new(),
            images: BTreeMap::new(),
            needs: BTreeSet::new(),
            gone: BTreeSet::new(),
        }
    }

    /// Adds groups as long as the disk keeps up.
    fn capture(&mut self, now: Now, mut capture: Capture, effects: &mut Effects) -> (Stage, bool) {
        use std::ops::Bound::{Excluded, Unbounded};
        let mut is_whole = false;
        while capture.writer.has_room() {
            let from = capture.reached.map_or(Unbounded, Excluded);
            let Some(id) = self.replicas.range((from, Unbounded)).next().map(|(id, _)| *id) else {
                is_whole = true;
                break;
            };
            // Its record may be in writes that this checkpoint counts as reflected: it is added when it is the new one.
            if self.replicas[&id].suspended {
                break;
            }
            self.capture_group(id, &mut capture);
            capture.reached = Some(id);
        }
        if is_whole {
            let destroyed = self.destroyed.union(&capture.gone).copied().collect();
            capture.writer.close(destroyed);
            return (Stage::Writing(capture), true);
        }
        capture.writer.poll(effects, &mut self.ids);
        if capture.writer.is_abandoned() {
            return (self.checkpoint_without_room(now), false);
        }
        (Stage::Capturing(capture), false)
    }

    fn capture_group(&mut self, id: GroupId, capture: &mut Capture) {
        let write = self.wal.last_sealed();
        let newest = self.checkpoints.kept.last().and_then(|kept| kept.images.as_ref());
        let replica = self.replicas.get_mut(&id).expect("it was just found");
        let applied = replica.group.applied();
        let known = newest.and_then(|images| images.get(&id)).filter(|(index, _)| *index == applied);
        let image = match known {
            // The state is the one that the file holds.
            Some((_, file)) => MachineImage::File(*file),
            None => {
                let bytes = encode_image(&replica.machine);
                if bytes.len() > IMAGE_INLINE_BYTES_MAX {
                    MachineImage::File(capture.writer.add_image(id, bytes))
                } else {
                    MachineImage::Inline(bytes)
                }
            }
        };
        if let MachineImage::File(file) = image {
            capture.images.insert(id, (applied, file));
        }
        if let Some(transferred) = &mut replica.transferred {
            transferred.captured = Some(capture.writer.number());
        }
        let section = section(replica, write, image);
        capture.needs.extend(GroupStart::files_needed(&section));
        let entries = capture.writer.add(&section);
        if !entries.is_empty() {
            capture.entries.insert(id, entries);
        }
    }

    fn record_checkpoint(&mut self, now: Now, mut capture: Capture, effects: &mut Effects) -> (Stage, bool) {
        capture.writer.poll(effects, &mut self.ids);
        if capture.writer.is_abandoned() {
            return (self.checkpoint_without_room(now), false);
        }
        let Some(done) = capture.writer.done() else { return (Stage::Writing(capture), false) };
        let write = self.wal.append([WalRecord::CheckpointDone { checkpoint: done.encode() }]);
        (Stage::Recording { capture, write }, false)
    }

    fn checkpoint_without_room(&mut self, now: Now) -> Stage {
        warn!(self.logger, "there is no room for a checkpoint: it will be tried again");
        let checkpoints = &mut self.checkpoints;
        checkpoints.retry_at = now.monotonic + RETRY_AFTER;
        checkpoints.wanted = true;
        checkpoints.has_begun = true;
        Stage::Idle
    }

    /// The record is durable: from now on recovery starts here.
    fn checkpoint_done(&mut self, now: Now, capture: Capture) {
        let Capture { writer, entries, images, needs, .. } = capture;
        let (number, from, done) = (writer.number(), writer.from(), writer.done());
        info!(self.logger, "a checkpoint is done"; "number" => number.0, "groups" => self.replicas.len(), "from" => from.write.0);
        for replica in self.replicas.values_mut() {
            replica.transferred.take_if(|transferred| transferred.captured == Some(number));
        }
        let checkpoints = &mut self.checkpoints;
        checkpoints.has_begun = true;
        checkpoints.release_at = now.monotonic;
        checkpoints.kept.push(Kept { number, from, done, images: Some(images), entries, needs });
        // Only the newest one says where entries that are not applied lie.
        let older = checkpoints.kept.len() - 1;
        checkpoints.kept[..older].iter_mut().for_each(|kept| kept.entries.clear());
    }

    /// Lets go what neither a kept checkpoint nor a log needs: the oldest of three checkpoints, and WAL files.
    fn release_logs(&mut self, now: Now) {
        let kept = &self.checkpoints.kept;
        if kept.len() < CHECKPOINTS_KEPT {
            return;
        }
        let first = kept.len() - CHECKPOINTS_KEPT;
        let is_full = self.wal.fill().0 > KEPT_FOR_MEMBERS;
        let mut wal = if is_full { kept[first].from.file } else { self.wal.oldest_file() };
        #[cfg(feature = "mutants")]
        if Mutant::WalReleasedUnderTail.is_planted() {
            wal = self.wal.current_file();
        }
        let mut checkpoint = kept[first].number;
        let is_due = now.monotonic >= self.checkpoints.release_at;
        let nothing_goes = first == 0 && wal <= self.wal.oldest_file() && self.checkpoints.held.is_empty();
        if !is_due || nothing_goes {
            return;
        }
        self.checkpoints.release_at = now.monotonic + RELEASE_INTERVAL;
        for file in self.pinned_files(wal, checkpoint) {
            match file {
                EntryFile::Wal(sequence) => wal = wal.min(sequence),
                EntryFile::Checkpoint(number) => checkpoint = checkpoint.min(number),
            }
        }
        self.move_logs(wal, checkpoint);
        if wal > self.wal.oldest_file() {
            debug!(self.logger, "the write-ahead log is released"; "before" => wal.0);
            self.wal.release_before(wal);
        }
        let checkpoints = &mut self.checkpoints;
        let dropped = checkpoints.kept.iter().position(|kept| kept.number >= checkpoint).unwrap_or(0).min(first);
        if dropped > 0 {
            let useless = checkpoints.kept.drain(..dropped).map(|kept| FileName::Checkpoint(kept.number));
            checkpoints.useless.extend(useless);
            self.forget_images();
        }
        let Checkpoints { held, useless, .. } = &mut self.checkpoints;
        let still_held = held.split_off(&checkpoint);
        useless.extend(std::mem::replace(held, still_held).into_iter().map(FileName::Checkpoint));
    }

    /// Files before these bounds that something still refers to and cannot do without.
    fn pinned_files(&self, wal: FileSequence, checkpoint: CheckpointNumber) -> BTreeSet<EntryFile> {
        let is_released = |file: &EntryFile| is_released(*file, wal, checkpoint);
        let mut pinned: BTreeSet<EntryFile> = self.reads.entry_files().filter(is_released).collect();
        // What a kept checkpoint names may be behind what is applied by now: a start from it needs it all the same.
        let kept = &self.checkpoints.kept;
        let remaining = &kept[kept.len().saturating_sub(CHECKPOINTS_KEPT)..];
        pinned.extend(remaining.iter().flat_map(|kept| &kept.needs).copied().filter(is_released));
        let keeps_for_members = self.wal.fill().0 <= KEPT_FOR_LAGGING_MEMBERS;
        let newest = self.checkpoints.kept.last().expect("two are kept");
        for (id, replica) in &self.replicas {
            let group = &replica.group;
            let wanted =
                self.transfers.pinned(*id).map(LogIndex::next).into_iter().chain(group.first_needed_by_members());
            if keeps_for_members && let Some(first) = wanted.min() {
                pinned.extend(group.files_from(first).into_iter().filter(is_released));
            }
            // What is not applied was taken into the newest checkpoint, unless it was not in memory then.
            let unapplied = group.files_from(group.applied().next());
            if unapplied.iter().any(is_released) {
                let inline = newest.entries.get(id).map_or(&[][..], Vec::as_slice);
                let known: BTreeMap<LogIndex, EntryLocation> =
                    inline.iter().map(|entry| (entry.index, entry.location)).collect();
                let missing = (group.applied().0 + 1..=group.log().last_log_index().0)
                    .map(LogIndex)
                    .filter(|index| !known.contains_key(index))
                    .filter_map(|index| group.file_of(index));
                pinned.extend(missing.filter(is_released));
            }
        }
        #[cfg(feature = "mutants")]
        if Mutant::WalReleasedUnderTail.is_planted() {
            pinned.clear();
        }
        pinned
    }

    /// Nothing before these bounds will be there: what is not applied lies in the newest checkpoint from now on.
    fn move_logs(&mut self, wal: FileSequence, checkpoint: CheckpointNumber) {
        let newest = self.checkpoints.kept.last().expect("two are kept");
        for (id, replica) in &mut self.replicas {
            let group = &mut replica.group;
            for entry in newest.entries.get(id).into_iter().flatten() {
                if entry.index > group.applied()
                    && group.file_of(entry.index).is_some_and(|file| is_released(file, wal, checkpoint))
                {
                    group.placed(entry.index, entry.term, entry.location);
                }
            }
            group.release(|file| is_released(file, wal, checkpoint));
        }
    }

    /// Images that no kept checkpoint names go.
    fn forget_images(&mut self) {
        let Checkpoints { kept, found_images, useless, .. } = &mut self.checkpoints;
        if kept.iter().any(|kept| kept.images.is_none()) {
            return;
        }
        let named: BTreeSet<FileName> = kept
            .iter()
            .flat_map(|kept| kept.images.iter().flatten())
            .map(|(group, (_, file))| FileName::Image { group: *group, checkpoint: file.checkpoint })
            .collect();
        let (keep, go) = std::mem::take(found_images).into_iter().partition(|image| named.contains(image));
        *found_images = keep;
        let go: Vec<FileName> = go;
        useless.extend(go);
        // Those that were written since are found among the next ones.
        for image in named {
            if !found_images.contains(&image) {
                found_images.push(image);
            }
        }
    }
}

fn is_released(file: EntryFile, wal: FileSequence, checkpoint: CheckpointNumber) -> bool {
    match file {
        EntryFile::Wal(sequence) => sequence < wal,
        EntryFile::Checkpoint(number) => number < checkpoint,
    }
}

pub(super) fn encode_image(machine: &Machine) -> Bytes {
    let mut image = Vec::new();
    match machine {
        Machine::Metadata(state) => state.encode_image(&mut image),
        #[cfg(feature = "mutants")]
        Machine::Partition(partition) if Mutant::CheckpointWithoutProducers.is_planted() => {
            partition.state.without_producers().encode_image(&mut image);
        }
        Machine::Partition(partition) => partition.state.encode_image(&mut image),
    }
    image.into()
}

/// A replica as a checkpoint holds it.
fn section(replica: &mut Replica, write: WriteNumber, image: MachineImage) -> crate::log::checkpoint::GroupSection {
    let log = replica.partition_mut().map(|partition| {
        let mut slices = Vec::new();
        partition.log.image().encode(&mut slices);
        slices
    });
    #[cfg(feature = "mutants")]
    let log = log.filter(|_| !Mutant::CheckpointWithoutNextOffset.is_planted());
    let quarantine = replica.hold.as_ref().map(Hold::quarantine);
    let parts = SectionParts { creation: replica.creation.encode().into(), image, log, quarantine };
    #[cfg_attr(not(feature = "mutants"), allow(unused_mut, reason = "a planted bug changes it"))]
    let mut section = replica.group.section(write, parts);
    #[cfg(feature = "mutants")]
    {
        if Mutant::CheckpointWithoutMembership.is_planted() {
            section.membership = crate::replication::group::Membership::default().encode().into();
        }
    }
    section
}
