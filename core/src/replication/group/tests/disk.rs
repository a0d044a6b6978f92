//! A WAL in memory: writes become durable in order, and a crash keeps any prefix of those that are not.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::super::{GroupStart, HardState, LogView, Membership, Payload};
use super::member::State;
use crate::{
    ids::{FileSequence, GroupId, LogIndex, ReplicaId, Term, WriteNumber},
    log::{
        record::{EntryFile, EntryLocation, WalRecord},
        wal::entry_crc,
    },
};

/// Small state of a replica as of an applied index, from where its log goes on.
#[derive(Clone, Debug)]
pub(super) struct Image {
    pub(super) applied: LogIndex,
    pub(super) truncated: LogIndex,
    pub(super) truncated_term: Term,
    pub(super) membership: Membership,
    pub(super) introduced: BTreeSet<ReplicaId>,
    pub(super) removed: BTreeSet<ReplicaId>,
    pub(super) state: State,
}

#[derive(Clone, Debug)]
enum Item {
    Records(Vec<(WalRecord, Option<EntryLocation>)>),
    /// The log before `truncated` may be forgotten.
    Checkpoint(Image),
    /// The log before is void.
    Switch(Image),
}

#[derive(Debug)]
pub(super) struct Disk {
    replica: ReplicaId,
    /// Written, durable up to `durable`.
    items: Vec<Item>,
    durable: usize,
    payloads: BTreeMap<u64, Payload>,
    /// Places whose bytes are not what was written any more.
    damaged: BTreeSet<u64>,
    next_offset: u64,
}

impl Disk {
    /// A disk with nothing but the image a replica starts from.
    pub(super) fn new(replica: ReplicaId, image: Image) -> Self {
        Self {
            replica,
            items: vec![Item::Switch(image)],
            durable: 1,
            payloads: BTreeMap::new(),
            damaged: BTreeSet::new(),
            next_offset: 4096,
        }
    }

    /// Queues a write; returns its number and where its entries lie.
    pub(super) fn append(&mut self, records: Vec<WalRecord>) -> (WriteNumber, Vec<(LogIndex, Term, EntryLocation)>) {
        let mut placed = Vec::new();
        let records = records
            .into_iter()
            .map(|record| {
                let location = self.place(&record);
                if let (WalRecord::Entry(entry) | WalRecord::Fill(entry), Some(location)) = (&record, location) {
                    placed.push((entry.index, entry.term, location));
                }
                (record, location)
            })
            .collect();
        self.items.push(Item::Records(records));
        (WriteNumber(self.items.len() as u64), placed)
    }

    fn place(&mut self, record: &WalRecord) -> Option<EntryLocation> {
        let (WalRecord::Entry(entry) | WalRecord::Fill(entry)) = record else { return None };
        let payload = Payload { context: entry.context.clone(), data: entry.data.clone() };
        let location = EntryLocation {
            file: EntryFile::Wal(FileSequence(1)),
            offset: self.next_offset,
            context_length: payload.context.len() as u32,
            data_length: payload.data.len() as u32,
            crc: entry_crc(entry.group, entry.index, entry.term, &entry.context, &entry.data),
        };
        self.next_offset += payload.bytes() as u64 + 1;
        self.payloads.insert(location.offset, payload);
        Some(location)
    }

    pub(super) fn checkpoint(&mut self, image: Image) {
        self.items.push(Item::Checkpoint(image));
    }

    pub(super) fn switch(&mut self, image: Image) {
        self.items.push(Item::Switch(image));
    }

    pub(super) fn unsynced(&self) -> usize {
        self.items.len() - self.durable
    }

    /// Makes the next `count` writes durable; returns the last one that is.
    pub(super) fn sync(&mut self, count: usize) -> WriteNumber {
        self.durable = (self.durable + count).min(self.items.len());
        WriteNumber(self.durable as u64)
    }

    /// Loses what is not durable but for the first `kept` writes, which happened to reach the disk.
    pub(super) fn crash(&mut self, kept: usize) {
        self.items.truncate(self.durable + kept);
        self.durable = self.items.len();
    }

    /// `None` if the bytes are damaged.
    pub(super) fn read(&self, location: &EntryLocation) -> Option<Payload> {
        (!self.damaged.contains(&location.offset)).then(|| self.payloads[&location.offset].clone())
    }

    /// Damages all places of an entry.
    pub(super) fn damage(&mut self, index: LogIndex) {
        for item in &self.items {
            if let Item::Records(records) = item {
                for (record, location) in records {
                    if let WalRecord::Entry(entry) | WalRecord::Fill(entry) = record
                        && entry.index == index
                    {
                        self.damaged.insert(location.expect("entries have a place").offset);
                    }
                }
            }
        }
    }

    /// What a restart finds.
    pub(super) fn recover(&self, group: GroupId) -> (GroupStart, State) {
        let mut image = None;
        let mut hard_state = HardState::default();
        for item in &self.items {
            match item {
                Item::Checkpoint(newer) | Item::Switch(newer) => image = Some(newer.clone()),
                Item::Records(records) => {
                    for (record, _) in records {
                        if let WalRecord::HardState { term, vote, commit, .. } = record {
                            let vote = (*vote != ReplicaId(0)).then_some(*vote);
                            hard_state = HardState { term: *term, vote, commit: *commit };
                        }
                    }
                }
            }
        }
        let image = image.expect("every disk starts with an image");
        if hard_state.term < image.truncated_term {
            hard_state = HardState { term: image.truncated_term, vote: None, commit: image.truncated };
        }
        let log =
            self.recover_log().behind(image.truncated, image.truncated_term).expect("it was applied, so it is there");
        let start = GroupStart {
            group,
            replica: self.replica,
            hard_state,
            log,
            applied: image.applied,
            membership: image.membership,
            introduced: image.introduced,
            removed: image.removed,
        };
        (start, image.state)
    }

    /// All of it, from the last switch on.
    fn recover_log(&self) -> LogView {
        let mut log: Option<LogView> = None;
        for item in &self.items {
            match item {
                // What lies behind it in the log before is kept.
                Item::Switch(image) => {
                    let (index, term) = (image.truncated, image.truncated_term);
                    log = log.and_then(|log| log.behind(index, term)).or_else(|| Some(LogView::new(index, term)));
                }
                Item::Records(records) => {
                    let log = log.as_mut().expect("every disk starts with an image");
                    for (record, location) in records {
                        match (record, location) {
                            (WalRecord::Entry(entry), Some(location)) => {
                                let (index, term, kind) = (entry.index, entry.term, entry.kind);
                                let taken = if self.damaged.contains(&location.offset) {
                                    log.recover_damaged(index, term, kind, *location)
                                } else {
                                    log.recover(index, term, kind, *location)
                                };
                                taken.expect("the WAL is in order");
                            }
                            (WalRecord::Fill(entry), Some(location)) if !self.damaged.contains(&location.offset) => {
                                log.fill(entry.index, entry.term, *location);
                            }
                            _ => {}
                        }
                    }
                }
                Item::Checkpoint(_) => {}
            }
        }
        log.expect("every disk starts with an image")
    }
}

/// Images travel in snapshots.
impl Image {
    pub(super) fn to_bytes(&self) -> Bytes {
        let mut bytes = Vec::new();
        bytes.extend(self.state.hash.to_le_bytes());
        bytes.extend(self.state.commands.to_le_bytes());
        Bytes::from(bytes)
    }

    pub(super) fn state_from_bytes(bytes: &[u8]) -> State {
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        State { hash: number(0), commands: number(8) }
    }
}
