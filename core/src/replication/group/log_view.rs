//! The log as raft-rs reads it: always in memory, always up to date.
//!
//! Owns, per entry, its term, kind, size and place on disk; the payloads of the newest entries; and payloads that were
//! read back from disk for a purpose under way. raft-rs asks for terms and bounds constantly and takes no errors, so
//! these never touch the disk. Payloads it needs only to send entries, and that may wait for a read.
//!
//! Invariant: entries are contiguous behind the truncated index, and an entry whose payload is not in memory has a
//! place on disk. Appending at an index replaces everything from there on. A payload that is marked as lost is not
//! looked for anywhere.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
};

use raft::{
    GetEntriesContext, RaftState, Storage, StorageError,
    prelude::{Entry, EntryType, Snapshot},
};

use super::{Payload, StartError, TERM_AT_CREATION, term_runs::TermRuns};
use crate::{
    ids::{CheckpointNumber, FileSequence, LogIndex, ReplicaId, Term},
    log::record::{EntryFile, EntryKind, EntryLocation},
};

/// What an entry costs in a message beside its payload, generously.
const ENTRY_OVERHEAD_BYTES: u64 = 32;

#[derive(Debug)]
pub struct LogView {
    truncated: LogIndex,
    terms: TermRuns,
    /// `items[i]` is the entry at `truncated + 1 + i`.
    items: VecDeque<Item>,
    /// Payloads of the newest entries: the last one belongs to the last entry.
    recent: VecDeque<Payload>,
    recent_bytes: usize,
    /// Payloads of older entries, read back for a delivery or for apply.
    fetched: BTreeMap<LogIndex, Payload>,
    /// Entries of which the place on disk does not hold the payload any more.
    faulty: BTreeSet<LogIndex>,
    applied: LogIndex,
    unapplied_bytes: usize,
    initial: RaftState,
    requests: RefCell<Requests>,
}

/// 32 bytes for every entry that the log keeps.
#[derive(Clone, Copy, Debug)]
struct Item {
    file: PackedFile,
    offset: u64,
    context_length: u32,
    data_length: u32,
    crc: u32,
    kind: EntryKind,
}

/// What raft-rs asked for and could not get at once. Behind a cell, because its trait for storage only reads.
#[derive(Debug, Default)]
struct Requests {
    reads: Vec<LogRead>,
    snapshots: BTreeMap<ReplicaId, Snapshot>,
    snapshots_wanted: BTreeSet<ReplicaId>,
}

/// raft-rs wants to send entries from `first` on.
#[derive(Debug)]
pub(super) struct LogRead {
    pub(super) first: LogIndex,
    pub(super) context: GetEntriesContext,
}

/// An [`EntryFile`] in eight bytes, for there are many items. Zero: not yet placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PackedFile(u64);

impl PackedFile {
    const NONE: Self = Self(0);
    const IS_CHECKPOINT: u64 = 1 << 63;

    fn new(file: EntryFile) -> Self {
        let (number, flag) = match file {
            EntryFile::Wal(sequence) => (sequence.0, 0),
            EntryFile::Checkpoint(number) => (number.0, Self::IS_CHECKPOINT),
        };
        assert!(number != 0 && number < Self::IS_CHECKPOINT, "files are counted from 1");
        Self(number | flag)
    }

    fn file(self) -> Option<EntryFile> {
        let number = self.0 & !Self::IS_CHECKPOINT;
        let is_checkpoint = self.0 != number;
        (self != Self::NONE).then_some(if is_checkpoint {
            EntryFile::Checkpoint(CheckpointNumber(number))
        } else {
            EntryFile::Wal(FileSequence(number))
        })
    }
}

impl Item {
    fn location(&self) -> Option<EntryLocation> {
        self.file.file().map(|file| EntryLocation {
            file,
            offset: self.offset,
            context_length: self.context_length,
            data_length: self.data_length,
            crc: self.crc,
        })
    }

    fn bytes(&self) -> usize {
        self.context_length as usize + self.data_length as usize
    }
}

impl LogView {
    /// A log that was truncated at `index`, where the term was `term`.
    pub fn new(index: LogIndex, term: Term) -> Self {
        Self {
            truncated: index,
            terms: TermRuns::starting_at(index, term),
            items: VecDeque::new(),
            recent: VecDeque::new(),
            recent_bytes: 0,
            fetched: BTreeMap::new(),
            faulty: BTreeSet::new(),
            applied: index,
            unapplied_bytes: 0,
            initial: RaftState::default(),
            requests: RefCell::default(),
        }
    }

    /// The log of a replica that its group was created with.
    pub fn at_creation() -> Self {
        Self::new(LogIndex::TRUNCATED_AT_CREATION, TERM_AT_CREATION)
    }

    /// The log of a replica that was added later: it knows nothing, not even the creation.
    pub fn of_newcomer() -> Self {
        Self::new(LogIndex(0), Term(0))
    }

    /// Adds an entry found on disk, in the order of the WAL. Entries that were already compacted are skipped; an entry
    /// at an index that is there replaces it and everything behind, as it did when it was written.
    pub fn recover(
        &mut self,
        index: LogIndex,
        term: Term,
        kind: EntryKind,
        location: EntryLocation,
    ) -> Result<(), StartError> {
        if index <= self.truncated {
            return Ok(());
        }
        if index > self.last_log_index().next() {
            return Err(StartError::Gap { last: self.last_log_index(), index });
        }
        self.truncate(index);
        let before = self.log_term(self.last_log_index());
        if term < before {
            return Err(StartError::TermDecreases { index, term, before });
        }
        assert!(self.recent.is_empty(), "a log is recovered before entries are appended to it");
        self.terms.push(index, term);
        self.items.push_back(Item {
            file: PackedFile::new(location.file),
            offset: location.offset,
            context_length: location.context_length,
            data_length: location.data_length,
            crc: location.crc,
            kind,
        });
        self.unapplied_bytes += location.context_length as usize + location.data_length as usize;
        Ok(())
    }

    /// Adds an entry found on disk whose payload there is damaged.
    pub fn recover_damaged(
        &mut self,
        index: LogIndex,
        term: Term,
        kind: EntryKind,
        location: EntryLocation,
    ) -> Result<(), StartError> {
        self.recover(index, term, kind, location)?;
        // What has no bytes cannot lose them.
        if index > self.truncated && self.item(index).bytes() > 0 {
            self.faulty.insert(index);
        }
        Ok(())
    }

    /// The payload at this place, which was found to be in the log, is lost.
    pub fn mark_faulty(&mut self, index: LogIndex) {
        assert!(self.payload(index).is_none(), "a payload in memory is not lost");
        self.item(index);
        self.faulty.insert(index);
    }

    /// The payload is where the entry's place says.
    pub(super) fn repaired(&mut self, index: LogIndex) {
        self.faulty.remove(&index);
    }

    pub fn is_faulty(&self, index: LogIndex) -> bool {
        self.faulty.contains(&index)
    }

    pub fn first_faulty(&self) -> Option<LogIndex> {
        self.faulty.first().copied()
    }

    /// Entries whose payload is lost, in order.
    pub fn faulty(&self) -> impl Iterator<Item = LogIndex> + '_ {
        self.faulty.iter().copied()
    }

    /// Lost payloads of entries up to `applied`, where the state holds what they did: the log begins behind them.
    pub(super) fn pass_faulty(&mut self, applied: LogIndex) {
        if let Some(last) = self.faulty.range(..=applied).next_back().copied() {
            self.compact(last);
        }
    }

    /// The index before the first entry.
    pub fn truncated_index(&self) -> LogIndex {
        self.truncated
    }

    pub fn last_log_index(&self) -> LogIndex {
        LogIndex(self.truncated.0 + self.items.len() as u64)
    }

    /// Term of an index within the log or of the truncated index.
    pub fn log_term(&self, index: LogIndex) -> Term {
        assert!(self.truncated <= index && index <= self.last_log_index(), "{index} lies in the log");
        self.terms.term(index)
    }

    /// Whether the entry at `index` is the one that lies at this place; not if a later one replaced it.
    pub fn holds(&self, index: LogIndex, term: Term, location: EntryLocation) -> bool {
        self.truncated < index
            && index <= self.last_log_index()
            && self.log_term(index) == term
            && self.item(index).location() == Some(location)
    }

    /// Whether a payload with this length and CRC is that of the entry at `index`, and is lost.
    fn misses(&self, index: LogIndex, term: Term, location: EntryLocation) -> bool {
        let key = |location: EntryLocation| (location.context_length, location.data_length, location.crc);
        self.is_faulty(index)
            && self.log_term(index) == term
            && self.item(index).location().is_some_and(|known| key(known) == key(location))
    }

    /// A lost payload was replaced by one that lies here. Ignored if the log does not miss that entry.
    pub(super) fn fill(&mut self, index: LogIndex, term: Term, location: EntryLocation) {
        if self.misses(index, term, location) {
            self.placed(index, term, location);
            self.repaired(index);
        }
    }

    pub(super) fn start(&mut self, initial: RaftState, applied: LogIndex) {
        self.initial = initial;
        self.apply_to(applied);
        self.pass_faulty(applied);
    }

    /// Adds entries that are about to be written, truncating what they overwrite.
    pub(super) fn append(&mut self, entries: &[Entry]) {
        for entry in entries {
            let index = LogIndex(entry.index);
            assert!(self.applied < index && index <= self.last_log_index().next(), "raft's entries continue the log");
            self.truncate(index);
            self.terms.push(index, Term(entry.term));
            let payload = Payload { context: entry.context.clone(), data: entry.data.clone() };
            let length = |length: usize| u32::try_from(length).expect("entries have a limit far below 4 GiB");
            self.items.push_back(Item {
                file: PackedFile::NONE,
                offset: 0,
                context_length: length(payload.context.len()),
                data_length: length(payload.data.len()),
                crc: 0,
                kind: kind_of(entry.get_entry_type()),
            });
            self.unapplied_bytes += payload.bytes();
            self.recent_bytes += payload.bytes();
            self.recent.push_back(payload);
        }
    }

    fn truncate(&mut self, index: LogIndex) {
        while self.last_log_index() >= index {
            self.fetched.remove(&self.last_log_index());
            let item = self.items.pop_back().expect("the log reaches beyond the truncated index");
            self.unapplied_bytes -= item.bytes();
            if let Some(payload) = self.recent.pop_back() {
                self.recent_bytes -= payload.bytes();
            }
        }
        drop(self.faulty.split_off(&index));
        self.terms.truncate(self.last_log_index().next());
    }

    /// What lies behind a place, if the log holds that very entry; for a state that has applied everything up to there.
    /// Everything is on disk.
    pub fn behind(&self, index: LogIndex, term: Term) -> Option<Self> {
        let holds = self.truncated <= index && index <= self.last_log_index() && self.log_term(index) == term;
        if !holds {
            return None;
        }
        let mut rest = Self::new(index, term);
        for index in (index.0 + 1..=self.last_log_index().0).map(LogIndex) {
            let item = self.item(index);
            let location = item.location().expect("everything is on disk");
            let taken = rest.recover(index, self.log_term(index), item.kind, location);
            taken.expect("a part of a log is a log");
            if self.is_faulty(index) {
                rest.faulty.insert(index);
            }
        }
        Some(rest)
    }

    /// Forgets everything up to `index`, which is applied.
    pub(super) fn compact(&mut self, index: LogIndex) {
        assert!(index <= self.applied, "only what is applied is compacted");
        if index <= self.truncated {
            return;
        }
        self.terms.compact(index);
        while self.truncated < index {
            if self.recent.len() == self.items.len() {
                let payload = self.recent.pop_front().expect("as many as there are entries");
                self.recent_bytes -= payload.bytes();
            }
            self.items.pop_front().expect("the log reaches up to what is applied");
            self.truncated = self.truncated.next();
        }
        self.faulty = self.faulty.split_off(&index.next());
        self.forget_fetched(index);
    }

    /// The entry's records were laid out in the WAL. Ignored for an entry that was overwritten since.
    pub(super) fn placed(&mut self, index: LogIndex, term: Term, location: EntryLocation) {
        if index <= self.truncated || index > self.last_log_index() || self.log_term(index) != term {
            return;
        }
        let item = self.item_mut(index);
        // An entry is named by index and term, so this is the same payload, even if it was overwritten in between.
        assert_eq!(
            (item.context_length, item.data_length),
            (location.context_length, location.data_length),
            "the WAL holds the entry {index} of term {term} as it was appended"
        );
        item.file = PackedFile::new(location.file);
        item.offset = location.offset;
        item.crc = location.crc;
    }

    pub(super) fn apply_to(&mut self, index: LogIndex) {
        assert!(self.applied <= index && index <= self.last_log_index(), "apply moves forwards within the log");
        while self.applied < index {
            self.applied = self.applied.next();
            let item = self.item(self.applied);
            self.unapplied_bytes -= item.bytes();
        }
        self.forget_fetched(index);
    }

    /// Payload bytes of entries that are not applied.
    pub(super) fn unapplied_bytes(&self) -> usize {
        self.unapplied_bytes
    }

    /// Payload bytes in memory.
    pub(super) fn cached_bytes(&self) -> usize {
        self.recent_bytes + self.fetched.values().map(Payload::bytes).sum::<usize>()
    }

    /// Drops payloads, oldest first, until `bytes` are freed. Those that are not applied stay; what is applied is
    /// durable.
    pub(super) fn evict(&mut self, bytes: usize) -> usize {
        let mut freed = 0;
        while freed < bytes && !self.recent.is_empty() {
            let index = LogIndex(self.last_log_index().0 + 1 - self.recent.len() as u64);
            if index > self.applied || self.item(index).location().is_none() {
                break;
            }
            let payload = self.recent.pop_front().expect("there is one");
            self.recent_bytes -= payload.bytes();
            freed += payload.bytes();
        }
        freed
    }

    pub fn kind(&self, index: LogIndex) -> EntryKind {
        self.item(index).kind
    }

    /// Where an entry of the log lies; `None` while it waits for its write.
    pub fn location(&self, index: LogIndex) -> Option<EntryLocation> {
        self.item(index).location()
    }

    /// The files in which the entries from `first` on lie.
    pub(super) fn files_from(&self, first: LogIndex) -> BTreeSet<EntryFile> {
        let skipped = first.0.saturating_sub(self.truncated.0 + 1);
        let items = self.items.iter().skip(usize::try_from(skipped).unwrap_or(usize::MAX));
        // Neighbours lie in the same file.
        let mut files = BTreeSet::new();
        let mut last = PackedFile::NONE;
        for (item, index) in items.zip(self.truncated.0 + 1 + skipped..) {
            // Of what is lost, nothing is needed where it lay.
            if item.file != last && !self.is_faulty(LogIndex(index)) {
                last = item.file;
                files.extend(item.file.file());
            }
        }
        files
    }

    /// The last entry up to `end` that lies in such a file.
    pub(super) fn last_in(&self, end: LogIndex, is_such: impl Fn(EntryFile) -> bool) -> Option<LogIndex> {
        let count = usize::try_from(end.0.saturating_sub(self.truncated.0)).unwrap_or(usize::MAX);
        let mut known = (PackedFile::NONE, false);
        for (place, item) in self.items.iter().enumerate().take(count).rev() {
            if item.file != known.0 {
                known = (item.file, item.file.file().is_some_and(&is_such));
            }
            if known.1 {
                return Some(LogIndex(self.truncated.0 + 1 + place as u64));
            }
        }
        None
    }

    pub(super) fn entry_bytes(&self, index: LogIndex) -> usize {
        self.item(index).bytes()
    }

    pub(super) fn payload(&self, index: LogIndex) -> Option<Payload> {
        if self.item(index).bytes() == 0 {
            return Some(Payload::default());
        }
        if self.is_faulty(index) {
            return None;
        }
        let first_recent = self.last_log_index().0 + 1 - self.recent.len() as u64;
        match index.0.checked_sub(first_recent) {
            Some(at) => Some(self.recent[usize::try_from(at).expect("as long as a deque")].clone()),
            None => self.fetched.get(&index).cloned(),
        }
    }

    /// Keeps a payload read from disk until it is applied, or for a delivery of an applied entry until
    /// [`LogView::release_fetched`]. Ignored if the entry was overwritten or compacted since, or is in memory.
    pub(super) fn supply(&mut self, index: LogIndex, term: Term, payload: Payload) {
        if index <= self.truncated
            || index > self.last_log_index()
            || self.log_term(index) != term
            || self.is_faulty(index)
            || self.payload(index).is_some()
        {
            return;
        }
        let item = self.item(index);
        assert_eq!(
            (item.context_length as usize, item.data_length as usize),
            (payload.context.len(), payload.data.len()),
            "what is read back was checked against the WAL's directory"
        );
        self.fetched.insert(index, payload);
    }

    /// Deliveries are made: payloads that apply does not need are dropped.
    pub(super) fn release_fetched(&mut self) {
        self.forget_fetched(self.applied);
    }

    fn forget_fetched(&mut self, to: LogIndex) {
        if !self.fetched.is_empty() {
            self.fetched = self.fetched.split_off(&to.next());
        }
    }

    /// Where the payloads from `first` on lie, up to the next one in memory and up to `bytes`; at least one.
    pub(super) fn locations(&self, first: LogIndex, bytes: u64) -> Vec<EntryLocation> {
        let mut locations = Vec::new();
        let mut total = 0;
        let mut index = first;
        while index <= self.last_log_index() && self.payload(index).is_none() && !self.is_faulty(index) {
            let location =
                self.item(index).location().expect("an entry whose payload is not in memory has a place on disk");
            total += self.item(index).bytes() as u64;
            if !locations.is_empty() && total > bytes {
                break;
            }
            locations.push(location);
            index = index.next();
        }
        locations
    }

    pub(super) fn take_reads(&mut self) -> Vec<LogRead> {
        std::mem::take(&mut self.requests.get_mut().reads)
    }

    pub(super) fn take_snapshots_wanted(&mut self) -> BTreeSet<ReplicaId> {
        std::mem::take(&mut self.requests.get_mut().snapshots_wanted)
    }

    /// `snapshot` is what raft-rs sends to `to` when it next tries.
    pub(super) fn provide_snapshot(&mut self, to: ReplicaId, snapshot: Snapshot) {
        self.requests.get_mut().snapshots.insert(to, snapshot);
    }

    pub(super) fn discard_snapshots(&mut self) {
        self.requests.get_mut().snapshots.clear();
    }

    fn position(&self, index: LogIndex) -> usize {
        assert!(self.truncated < index && index <= self.last_log_index(), "{index} lies in the log");
        usize::try_from(index.0 - self.truncated.0 - 1).expect("as long as a deque")
    }

    fn item(&self, index: LogIndex) -> &Item {
        &self.items[self.position(index)]
    }

    fn item_mut(&mut self, index: LogIndex) -> &mut Item {
        let position = self.position(index);
        &mut self.items[position]
    }

    fn raft_entry(&self, index: LogIndex, payload: Payload) -> Entry {
        let mut entry = Entry {
            index: index.0,
            term: self.log_term(index).0,
            context: payload.context,
            data: payload.data,
            ..Entry::default()
        };
        entry.set_entry_type(type_of(self.item(index).kind));
        entry
    }
}

pub(super) fn kind_of(entry_type: EntryType) -> EntryKind {
    match entry_type {
        EntryType::EntryNormal => EntryKind::Normal,
        EntryType::EntryConfChange => EntryKind::ConfChange,
        EntryType::EntryConfChangeV2 => EntryKind::ConfChangeV2,
    }
}

fn type_of(kind: EntryKind) -> EntryType {
    match kind {
        EntryKind::Normal => EntryType::EntryNormal,
        EntryKind::ConfChange => EntryType::EntryConfChange,
        EntryKind::ConfChangeV2 => EntryType::EntryConfChangeV2,
    }
}

impl Storage for LogView {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(self.initial.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.truncated.0 {
            return Err(StorageError::Compacted.into());
        }
        assert!(high <= self.last_log_index().0 + 1, "raft-rs knows where its log ends");
        let indexes = (low..high).map(LogIndex);
        if !context.can_async() {
            // raft-rs looks at terms and kinds only: it counts membership changes, and lists what is committed, which
            // we take from elsewhere. Payloads would have to be read synchronously.
            return Ok(indexes.map(|index| self.raft_entry(index, Payload::default())).collect());
        }
        let limit = max_size.into().unwrap_or(u64::MAX);
        let mut entries = Vec::new();
        let mut size = 0;
        for index in indexes {
            let Some(payload) = self.payload(index) else { break };
            size += payload.bytes() as u64 + ENTRY_OVERHEAD_BYTES;
            if !entries.is_empty() && size > limit {
                break;
            }
            entries.push(self.raft_entry(index, payload));
        }
        if entries.is_empty() && low < high {
            self.requests.borrow_mut().reads.push(LogRead { first: LogIndex(low), context });
            return Err(StorageError::LogTemporarilyUnavailable.into());
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.truncated.0 {
            Err(StorageError::Compacted.into())
        } else if index > self.last_log_index().0 {
            Err(StorageError::Unavailable.into())
        } else {
            Ok(self.log_term(LogIndex(index)).0)
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.truncated.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last_log_index().0)
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let mut requests = self.requests.borrow_mut();
        // Usable only if the log continues it.
        let fits = |snapshot: &Snapshot| {
            let index = snapshot.get_metadata().index;
            index >= request_index && index >= self.truncated.0
        };
        match requests.snapshots.remove(&ReplicaId(to)) {
            Some(snapshot) if fits(&snapshot) => Ok(snapshot),
            Some(_) | None => {
                requests.snapshots_wanted.insert(ReplicaId(to));
                Err(StorageError::SnapshotTemporarilyUnavailable.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn entry(index: u64, term: u64, data: &'static str) -> Entry {
        Entry { index, term, data: Bytes::from_static(data.as_bytes()), ..Entry::default() }
    }

    fn location(offset: u64, data: &str) -> EntryLocation {
        let data_length = data.len() as u32;
        EntryLocation { file: EntryFile::Wal(FileSequence(1)), offset, context_length: 0, data_length, crc: 7 }
    }

    fn read(log: &LogView, low: u64, high: u64, bytes: u64) -> Option<Vec<String>> {
        let entries = log.entries(low, high, bytes, GetEntriesContext::empty(true)).ok()?;
        Some(entries.iter().map(|entry| String::from_utf8(entry.data.to_vec()).unwrap()).collect())
    }

    /// Entries 2 to 5 applied and on disk; 2 to 4 no longer in memory.
    fn evicted() -> LogView {
        let mut log = LogView::at_creation();
        log.append(&[entry(2, 2, "two"), entry(3, 2, "three"), entry(4, 3, "four"), entry(5, 3, "five")]);
        for (index, term, data) in [(2, 2, "two"), (3, 2, "three"), (4, 3, "four"), (5, 3, "five")] {
            log.placed(LogIndex(index), Term(term), location(index * 100, data));
        }
        log.apply_to(LogIndex(5));
        assert_eq!(log.evict(12), 12);
        log
    }

    #[test]
    fn reads_go_on_as_far_as_payloads_are_in_memory() {
        let mut log = evicted();
        assert_eq!(read(&log, 5, 6, 0), Some(vec!["five".to_owned()]), "one at least");
        assert_eq!(read(&log, 2, 6, u64::MAX), None);
        assert_eq!(log.take_reads().len(), 1);
        let places = [location(200, "two"), location(300, "three"), location(400, "four")];
        assert_eq!(log.locations(LogIndex(2), u64::MAX), places);
        assert_eq!(log.locations(LogIndex(2), 8), places[..2]);

        log.supply(LogIndex(2), Term(2), Payload { context: Bytes::new(), data: Bytes::from_static(b"two") });
        log.supply(LogIndex(3), Term(2), Payload { context: Bytes::new(), data: Bytes::from_static(b"three") });
        assert_eq!(read(&log, 2, 6, u64::MAX), Some(vec!["two".to_owned(), "three".to_owned()]));
        assert_eq!(read(&log, 2, 6, 40), Some(vec!["two".to_owned()]));
        log.release_fetched();
        assert_eq!(read(&log, 2, 6, u64::MAX), None);
    }

    #[test]
    fn stubs_need_no_payload() {
        let log = evicted();
        let stubs = log.entries(2, 6, None, GetEntriesContext::empty(false)).unwrap();
        let terms: Vec<_> = stubs.iter().map(|entry| (entry.index, entry.term, entry.data.len())).collect();
        assert_eq!(terms, [(2, 2, 0), (3, 2, 0), (4, 3, 0), (5, 3, 0)]);
    }

    #[test]
    fn what_is_told_of_an_entry_that_was_overwritten_is_ignored() {
        let mut log = LogView::at_creation();
        log.append(&[entry(2, 2, "two"), entry(3, 2, "three")]);
        log.append(&[entry(2, 3, "other")]);
        assert_eq!(log.last_log_index(), LogIndex(2));
        assert_eq!(log.unapplied_bytes(), 5);
        log.placed(LogIndex(2), Term(2), location(200, "two"));
        log.placed(LogIndex(3), Term(2), location(300, "three"));
        assert_eq!(log.item(LogIndex(2)).location(), None);
        log.placed(LogIndex(2), Term(3), location(400, "other"));
        assert_eq!(log.item(LogIndex(2)).location(), Some(location(400, "other")));

        log.apply_to(LogIndex(2));
        log.evict(usize::MAX);
        log.supply(LogIndex(2), Term(2), Payload { context: Bytes::new(), data: Bytes::from_static(b"two") });
        assert_eq!(log.payload(LogIndex(2)), None);
    }

    #[test]
    fn a_compacted_log_still_knows_the_term_it_was_truncated_at() {
        let mut log = evicted();
        log.compact(LogIndex(4));
        assert_eq!((log.first_index(), log.last_index()), (Ok(5), Ok(5)));
        assert_eq!(log.term(4), Ok(3));
        assert_eq!(log.term(3), Err(StorageError::Compacted.into()));
        assert_eq!(log.term(6), Err(StorageError::Unavailable.into()));
        assert_eq!(log.cached_bytes(), 4);
        log.compact(LogIndex(5));
        assert_eq!((log.cached_bytes(), log.last_log_index()), (0, LogIndex(5)));
        log.append(&[entry(6, 4, "six")]);
        assert_eq!(read(&log, 6, 7, u64::MAX), Some(vec!["six".to_owned()]));
    }
}
