//! The write-ahead log of a shard, as its writer sees it: records in, one write and one sync after the other out.
//!
//! Owns the order of writes, their numbers, the files they go to and the moment they become durable. Invariants: at
//! most one write is in flight, so the existence of a write proves that all before it were synced; the records of one
//! append lie in one write; a block that was synced is not written again before its file was released. Files form a
//! ring: what is released is used again under a new name, and live and released files together stay within the budget
//! whenever the live ones allow it. Does not read: that is [`super::recovery`] and [`super::read`]. Does not know what
//! is still needed: callers release files.

mod creation;
mod fill;
pub(in crate::log) mod format;
mod gathering;
mod pool;
mod removal;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

pub(in crate::log) use self::{creation::FileCreation, pool::Pool, removal::Removal};
pub use self::{
    fill::Fill,
    format::{WalKey, entry_crc},
};
use self::{
    format::PreviousWrite,
    gathering::{Gathering, Place},
};
use super::record::{WalEvent, WalRecord};
#[cfg(feature = "mutants")]
use crate::mutants::Mutant;
use crate::{
    ids::{FileSequence, OperationId, WriteNumber},
    io::{DiskAction, DiskError, DiskOperation, DiskOutput, Effects, Exit, FileName, OperationIds},
    limits::{WAL_FILES_MIN, WAL_FULL_RETRY, WAL_MARK_DELAY, WAL_RESERVED_FILES, WAL_WRITE_BYTES_MAX},
    time::{Monotonic, Now, earliest},
};

/// What a WAL must know from its start.
#[derive(Clone, Copy, Debug)]
pub struct WalConfig {
    /// Size of a file. A multiple of the block size.
    pub file_bytes: u64,
    /// What all files together may take; at least [`crate::limits::WAL_FILES_MIN`] of them.
    pub budget_bytes: u64,
    pub key: WalKey,
}

/// Where the first write of a [`Wal`] goes, and what it follows.
#[derive(Debug)]
pub(in crate::log) struct WalStart {
    /// A file that is ready, and where in it: its beginning, but for a planted bug.
    pub(in crate::log) file: FileSequence,
    pub(in crate::log) offset: u64,
    pub(in crate::log) file_bytes: u64,
    /// The number of the first write.
    pub(in crate::log) number: WriteNumber,
    pub(in crate::log) previous: PreviousWrite,
    pub(in crate::log) previous_directory: Bytes,
    /// What the first write holds; may be empty.
    pub(in crate::log) opening: Vec<WalRecord>,
    /// Older files that are needed, with their sizes.
    pub(in crate::log) older: BTreeMap<FileSequence, u64>,
    pub(in crate::log) pool: Pool,
}

/// The writer. Call [`Wal::poll`] after any number of calls of the others and before waiting.
#[derive(Debug)]
pub struct Wal {
    config: WalConfig,
    current: OpenFile,
    /// Files before the current one that were not released, with their sizes.
    older: BTreeMap<FileSequence, u64>,
    pool: Pool,
    spare: Spare,
    /// The first write of this start.
    opening: WriteNumber,
    previous: PreviousWrite,
    previous_directory: Bytes,
    /// In order of their numbers; only the last one takes records.
    queue: VecDeque<Gathering>,
    queued_bytes: usize,
    in_flight: Option<InFlight>,
    next_number: WriteNumber,
    durable: WriteNumber,
    /// The last write holds records and nothing proves yet that it was synced.
    mark_at: Option<Monotonic>,
    /// [`WalEvent::Full`] was told and [`WalEvent::Room`] not yet.
    full: bool,
}

#[derive(Debug)]
struct OpenFile {
    sequence: FileSequence,
    /// Where the next write goes.
    offset: u64,
    size: u64,
}

/// The file after the current one.
#[derive(Debug)]
enum Spare {
    /// A file of the pool if there is one, else a new one.
    Wanted {
        file: FileSequence,
    },
    Creating(FileCreation),
    Waiting {
        until: Monotonic,
        file: FileSequence,
    },
}

#[derive(Debug)]
struct InFlight {
    number: WriteNumber,
    since: Option<Monotonic>,
    bytes: usize,
    has_records: bool,
    file: FileSequence,
    /// Kept to write the very same bytes again should the disk be full.
    write: DiskAction,
    state: WriteState,
    /// It was refused for want of room at least once.
    had_no_room: bool,
}

#[derive(Debug)]
enum WriteState {
    Issued {
        write: Option<OperationId>,
        sync: Option<OperationId>,
        no_room: bool,
    },
    /// There was no room for the write; nothing was synced.
    Retry {
        at: Monotonic,
    },
}

impl Wal {
    pub(in crate::log) fn new(config: WalConfig, start: WalStart) -> Self {
        assert!(start.number.0 > 0, "writes are counted from 1");
        assert!(
            config.budget_bytes >= WAL_FILES_MIN * config.file_bytes,
            "a budget was checked with the configuration"
        );
        let mut opening = Gathering::new(start.number);
        for record in start.opening {
            opening.push(record);
        }
        Self {
            config,
            current: OpenFile { sequence: start.file, offset: start.offset, size: start.file_bytes },
            older: start.older,
            pool: start.pool,
            spare: Spare::Wanted { file: FileSequence(start.file.0 + 1) },
            opening: start.number,
            previous: start.previous,
            previous_directory: start.previous_directory,
            queued_bytes: opening.bytes(),
            queue: VecDeque::from([opening]),
            in_flight: None,
            next_number: WriteNumber(start.number.0 + 1),
            durable: WriteNumber(start.number.0 - 1),
            mark_at: None,
            full: false,
        }
    }

    /// All records go into one write: recovery keeps all or none of them. Returns the number of that write, which may
    /// be shared with other appends. Without records: the number of the last write so far.
    pub fn append(&mut self, records: impl IntoIterator<Item = WalRecord>) -> WriteNumber {
        let records: Vec<WalRecord> = records.into_iter().collect();
        if records.is_empty() {
            return WriteNumber(self.next_number.0 - 1);
        }
        // An append that is larger than a write may be gets one of its own.
        let bytes = records.iter().map(Gathering::cost).sum::<usize>();
        let fits = |open: &Gathering| open.is_empty() || open.bytes() + bytes <= WAL_WRITE_BYTES_MAX;
        if !self.queue.back().is_some_and(fits) {
            self.queue.push_back(Gathering::new(self.next_number));
            self.next_number.0 += 1;
        }
        let open = self.queue.back_mut().expect("one was just made sure of");
        for record in records {
            open.push(record);
        }
        self.queued_bytes += bytes;
        open.number
    }

    /// Starts the next write if none is in flight, creates the next file ahead of time, writes a mark when it is due.
    pub fn poll(&mut self, now: Now, effects: &mut Effects, ids: &mut OperationIds, events: &mut Vec<WalEvent>) {
        self.poll_spare(now, effects, ids, events);
        for gathering in &mut self.queue {
            gathering.since.get_or_insert(now.monotonic);
        }
        match &mut self.in_flight {
            Some(in_flight) => {
                if let WriteState::Retry { at } = in_flight.state
                    && at <= now.monotonic
                {
                    in_flight.issue(effects, ids);
                }
            }
            None => {
                if self.queue.is_empty() && self.mark_at.is_some_and(|at| at <= now.monotonic) {
                    self.queue.push_back(Gathering::new(self.next_number));
                    self.next_number.0 += 1;
                    self.mark_at = None;
                }
                self.start_write(effects, ids, events);
                // A write may have taken the spare file: make the next one at once, it takes a while.
                self.poll_spare(now, effects, ids, events);
            }
        }
    }

    fn poll_spare(&mut self, now: Now, effects: &mut Effects, ids: &mut OperationIds, events: &mut Vec<WalEvent>) {
        self.pool.shrink(self.disk_bytes().saturating_sub(self.config.budget_bytes));
        self.pool.poll(effects, ids);
        let (wanted, may_create) = match self.spare {
            // A write that does not fit into this file must not wait for a later one to prove the opening.
            Spare::Wanted { file } => (Some(file), !self.pool.is_waiting() || self.is_file_over()),
            Spare::Waiting { until, file } => (Some(file), until <= now.monotonic),
            Spare::Creating(_) => (None, false),
        };
        if let Some(file) = wanted {
            if let Some(from) = self.pool.take() {
                self.spare = Spare::Creating(FileCreation::reuse(from, file, self.config.file_bytes));
            } else if may_create {
                self.spare = Spare::Creating(FileCreation::new(file, self.config.file_bytes));
            }
        }
        let Spare::Creating(creation) = &mut self.spare else { return };
        creation.poll(effects, ids);
        if creation.has_no_room() {
            self.spare = Spare::Waiting { until: now.monotonic + WAL_FULL_RETRY, file: creation.file() };
            if !self.full {
                self.full = true;
                events.push(WalEvent::Full);
            }
        } else if creation.is_ready() && self.full && !self.in_flight.as_ref().is_some_and(|write| write.had_no_room) {
            self.full = false;
            events.push(WalEvent::Room);
        }
    }

    /// The next write does not fit into the current file. A write larger than a file goes to the start of one and
    /// extends it.
    fn is_file_over(&self) -> bool {
        let OpenFile { offset, size, .. } = self.current;
        let length = self.queue.front().map_or(0, |next| next.length_on_disk(&self.previous_directory));
        offset > 0 && offset + length > size
    }

    fn start_write(&mut self, effects: &mut Effects, ids: &mut OperationIds, events: &mut Vec<WalEvent>) {
        if self.queue.is_empty() {
            return;
        }
        if self.is_file_over() {
            let Spare::Creating(creation) = &self.spare else { return };
            if !creation.is_ready() {
                return;
            }
            let sequence = creation.file();
            let next = OpenFile { sequence, offset: 0, size: creation.size() };
            let full = std::mem::replace(&mut self.current, next);
            self.older.insert(full.sequence, full.bytes());
            self.spare = Spare::Wanted { file: FileSequence(sequence.0 + 1) };
        }
        let next = self.queue.pop_front().expect("looked at above");
        let (number, since, bytes, has_records) = (next.number, next.since, next.bytes(), !next.is_empty());
        let OpenFile { sequence: file, offset, size } = self.current;
        let place = Place { file, file_bytes: size, offset, opens: number == self.opening };
        let laid_out = next.lay_out(self.config.key, place, self.previous, &self.previous_directory, events);
        self.current.offset = laid_out.header.end();
        self.previous = laid_out.header.as_previous(laid_out.header_crc);
        self.previous_directory = laid_out.directory;
        self.mark_at = None;
        let write = DiskAction::Write { file: FileName::Wal(file), offset, slices: laid_out.slices };
        let state = WriteState::Issued { write: None, sync: None, no_room: false };
        let in_flight = self.in_flight.insert(InFlight {
            number,
            since,
            bytes,
            has_records,
            file,
            write,
            state,
            had_no_room: false,
        });
        in_flight.issue(effects, ids);
    }

    /// False if the operation is not the WAL's.
    ///
    /// # Errors
    ///
    /// [`Exit::DiskFailed`] if a write or sync failed: what is on the disk is unknown then, so nothing may be
    /// acknowledged any more.
    pub fn handle(
        &mut self,
        now: Now,
        operation: OperationId,
        result: &Result<DiskOutput, DiskError>,
        events: &mut Vec<WalEvent>,
    ) -> Result<bool, Exit> {
        if let Spare::Creating(creation) = &mut self.spare
            && creation.handle(operation, result)?
        {
            return Ok(true);
        }
        if self.pool.handle(operation, result)? {
            return Ok(true);
        }
        let Some(in_flight) = &mut self.in_flight else { return Ok(false) };
        if !in_flight.handle(operation, result)? {
            return Ok(false);
        }
        #[cfg(feature = "mutants")]
        if let WriteState::Issued { write: None, sync: Some(_), .. } = in_flight.state
            && Mutant::AcknowledgeBeforeSync.is_planted()
        {
            events.push(WalEvent::Durable(in_flight.number));
        }
        let WriteState::Issued { write: None, sync: None, no_room } = in_flight.state else { return Ok(true) };
        if no_room {
            in_flight.had_no_room = true;
            in_flight.state = WriteState::Retry { at: now.monotonic + WAL_FULL_RETRY };
            if !self.full {
                self.full = true;
                events.push(WalEvent::Full);
            }
            return Ok(true);
        }
        let done = self.in_flight.take().expect("it is in flight");
        assert_eq!(done.number.0, self.durable.0 + 1, "writes become durable in order");
        self.durable = done.number;
        self.queued_bytes -= done.bytes;
        events.push(WalEvent::Durable(done.number));
        // The write behind the opening proves it: what it took over from other files is not needed there any more.
        if done.number > self.opening {
            self.pool.release_held();
        }
        if (done.has_records || done.number == self.opening) && self.queue.is_empty() {
            self.mark_at = Some(now.monotonic + WAL_MARK_DELAY);
        }
        Ok(true)
    }

    /// Where the next write goes unless the file is full.
    pub(in crate::log) fn end(&self) -> (FileSequence, u64) {
        (self.current.sequence, self.current.offset)
    }

    pub fn next_deadline(&self) -> Option<Monotonic> {
        let spare = match self.spare {
            Spare::Waiting { until, .. } => Some(until),
            Spare::Wanted { .. } | Spare::Creating(_) => None,
        };
        let write = match &self.in_flight {
            Some(InFlight { state: WriteState::Retry { at }, .. }) => Some(*at),
            Some(InFlight { state: WriteState::Issued { .. }, .. }) => None,
            // A mark that waits for the next file starts when the file is ready, not at a time.
            None if self.queue.is_empty() => self.mark_at,
            None => None,
        };
        earliest(spare, write)
    }

    /// Every write up to this one is on disk.
    pub fn durable(&self) -> WriteNumber {
        self.durable
    }

    /// Since when the oldest write that is not durable yet has been waiting.
    pub fn oldest_waiting_since(&self) -> Option<Monotonic> {
        self.in_flight.as_ref().map_or_else(|| self.queue.front().and_then(|next| next.since), |write| write.since)
    }

    /// Directory and payload bytes that are not durable yet.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// The last write that was laid out; what is gathered and appended from now on comes behind it.
    pub fn last_sealed(&self) -> WriteNumber {
        WriteNumber(self.queue.front().map_or(self.next_number, |next| next.number).0 - 1)
    }

    /// The file of the last write that was laid out. The next write lies in it or in one that is newer.
    pub fn current_file(&self) -> FileSequence {
        self.current.sequence
    }

    /// Bytes from the beginning of all files to the current end, as if each file were full: grows with every write and
    /// every file.
    pub fn position(&self) -> u64 {
        self.current.sequence.0 * self.config.file_bytes + self.current.offset
    }

    /// The oldest file that was not released.
    pub fn oldest_file(&self) -> FileSequence {
        self.older.first_key_value().map_or(self.current.sequence, |(file, _)| *file)
    }

    /// Nothing in files before this one is needed any more, by no checkpoint that may be recovered from and by no log:
    /// they will be overwritten or removed. No read of them may be under way. The current file is never released.
    pub fn release_before(&mut self, file: FileSequence) {
        let needed = self.older.split_off(&file);
        for (released, size) in std::mem::replace(&mut self.older, needed) {
            self.pool.add(released, size);
        }
    }

    /// The device could not read some of this file: it is removed instead of used again once it is released.
    pub fn avoid(&mut self, file: FileSequence) {
        self.pool.avoid(file);
    }

    /// How much of what the budget leaves for data is taken, from the oldest file that is needed to the current end
    /// and what is queued behind it. Files that starts and the file made ahead need are set aside.
    pub fn fill(&self) -> Fill {
        Fill::new(self.used_bytes(), self.capacity_bytes())
    }

    /// What may be appended until [`Wal::fill`] is all.
    pub fn room_bytes(&self) -> u64 {
        self.capacity_bytes().saturating_sub(self.used_bytes())
    }

    fn used_bytes(&self) -> u64 {
        self.older.values().sum::<u64>() + self.current.offset + self.queued_bytes as u64
    }

    fn capacity_bytes(&self) -> u64 {
        self.config.budget_bytes - WAL_RESERVED_FILES * self.config.file_bytes
    }

    /// What all files take on disk: needed ones, the one made ahead, and those that wait to be used again.
    pub fn disk_bytes(&self) -> u64 {
        self.older.values().sum::<u64>() + self.current.bytes() + self.config.file_bytes + self.pool.bytes()
    }

    /// There is no room for a file after the spare one: produce must stop.
    pub fn is_full(&self) -> bool {
        self.full
    }
}

impl OpenFile {
    /// A write that is larger than a file extends it.
    fn bytes(&self) -> u64 {
        self.size.max(self.offset)
    }
}

impl InFlight {
    fn issue(&mut self, effects: &mut Effects, ids: &mut OperationIds) {
        let (write, sync) = (ids.next_id(), ids.next_id());
        self.state = WriteState::Issued { write: Some(write), sync: Some(sync), no_room: false };
        effects.wal.push(DiskOperation { id: write, action: self.write.clone() });
        effects.wal.push(DiskOperation { id: sync, action: DiskAction::Sync { file: FileName::Wal(self.file) } });
    }

    fn handle(&mut self, operation: OperationId, result: &Result<DiskOutput, DiskError>) -> Result<bool, Exit> {
        let WriteState::Issued { write, sync, no_room } = &mut self.state else { return Ok(false) };
        let failed = |operation, error| Exit::DiskFailed { operation, file: FileName::Wal(self.file).path(), error };
        if *write == Some(operation) {
            *write = None;
            match result {
                Ok(_) => {}
                // Nothing of it counts until it was written and synced without an error.
                Err(DiskError::Full) => *no_room = true,
                Err(error) => return Err(failed("write", *error)),
            }
        } else if *sync == Some(operation) {
            *sync = None;
            if let Err(error) = result {
                #[cfg(feature = "mutants")]
                if Mutant::SyncErrorIgnored.is_planted() {
                    return Ok(true);
                }
                return Err(failed("sync", *error));
            }
        } else {
            return Ok(false);
        }
        Ok(true)
    }
}
