//! A write that is still being gathered: records in, slices for the disk out.
//!
//! Invariant: payloads are kept as the slices they came in and never copied; their order in the write is the order of
//! the directory, without gaps. Does not know files, numbers in flight or durability.

use bytes::Bytes;

use super::format::{Extent, HEADER_BYTES, Header, Item, PreviousWrite, WalKey, block_end};
use crate::{
    ids::{FileSequence, WriteNumber},
    limits::WAL_BLOCK_BYTES,
    log::record::{WalEvent, WalRecord},
    time::Monotonic,
};

static ZEROS: [u8; WAL_BLOCK_BYTES] = [0; WAL_BLOCK_BYTES];

#[derive(Debug)]
pub(super) struct Gathering {
    pub(super) number: WriteNumber,
    /// When the first record was seen waiting.
    pub(super) since: Option<Monotonic>,
    items: Vec<Item>,
    directory: Vec<u8>,
    payloads: Vec<Bytes>,
    payload_length: usize,
}

/// Where a write goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) file: FileSequence,
    /// Size of the file before its first write.
    pub(super) file_bytes: u64,
    pub(super) offset: u64,
    /// It is the first write of a start.
    pub(super) opens: bool,
}

/// A write ready for the disk.
#[derive(Debug)]
pub(super) struct LaidOut {
    pub(super) header: Header,
    pub(super) header_crc: u32,
    pub(super) directory: Bytes,
    /// Whole blocks, header first.
    pub(super) slices: Vec<Bytes>,
}

impl Gathering {
    pub(super) fn new(number: WriteNumber) -> Self {
        Self { number, since: None, items: Vec::new(), directory: Vec::new(), payloads: Vec::new(), payload_length: 0 }
    }

    pub(super) fn push(&mut self, record: WalRecord) {
        let place = u32::try_from(self.payload_length).expect("a write holds less than 4 GiB");
        let item = Item::of(&record, place);
        let expected = self.bytes() + Self::cost(&record);
        item.encode(&mut self.directory);
        self.items.push(item);
        match record {
            WalRecord::Entry(entry) | WalRecord::Fill(entry) => {
                self.push_payload(entry.context);
                self.push_payload(entry.data);
            }
            WalRecord::Create { creation: payload, .. }
            | WalRecord::Switch { state: payload, .. }
            | WalRecord::Quarantine { build: payload, .. }
            | WalRecord::CheckpointDone { checkpoint: payload } => self.push_payload(payload),
            WalRecord::HardState { .. } | WalRecord::Destroy { .. } => {}
        }
        assert_eq!(self.bytes(), expected, "a record costs what was reckoned");
    }

    fn push_payload(&mut self, payload: Bytes) {
        self.payload_length += payload.len();
        if !payload.is_empty() {
            self.payloads.push(payload);
        }
    }

    /// What a record adds to [`Gathering::bytes`].
    pub(super) fn cost(record: &WalRecord) -> usize {
        let (item, payload) = match record {
            WalRecord::Entry(entry) | WalRecord::Fill(entry) => (42, entry.context.len() + entry.data.len()),
            WalRecord::HardState { .. } => (41, 0),
            WalRecord::Create { creation: payload, .. } | WalRecord::Switch { state: payload, .. } => {
                (29, payload.len())
            }
            WalRecord::Destroy { .. } => (17, 0),
            WalRecord::Quarantine { build, .. } => (37, build.len()),
            WalRecord::CheckpointDone { checkpoint } => (13, checkpoint.len()),
        };
        item + payload
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Directory and payload bytes.
    pub(super) fn bytes(&self) -> usize {
        self.directory.len() + self.payload_length
    }

    /// Bytes the write takes on disk behind a write with this directory.
    pub(super) fn length_on_disk(&self, previous_directory: &Bytes) -> u64 {
        block_end((HEADER_BYTES + previous_directory.len() + self.bytes()) as u64)
    }

    pub(super) fn lay_out(
        self,
        key: WalKey,
        Place { file, file_bytes, offset, opens }: Place,
        previous: PreviousWrite,
        previous_directory: &Bytes,
        events: &mut Vec<WalEvent>,
    ) -> LaidOut {
        assert!(offset.is_multiple_of(WAL_BLOCK_BYTES as u64), "a write starts on a new block");
        let length = self.length_on_disk(previous_directory);
        let header = Header {
            key,
            opens,
            file,
            offset,
            number: self.number,
            // At most one write is in flight: this one is issued after the one before was synced.
            synced: WriteNumber(self.number.0 - 1),
            previous,
            items: u32::try_from(self.items.len()).expect("an item takes more than a byte of a write below 4 GiB"),
            directory: Extent::of(&self.directory),
            previous_directory: Extent::of(previous_directory),
            payload_length: self.payload_length as u64,
            file_bytes,
        };
        let (header_bytes, header_crc) = header.encode();
        for item in &self.items {
            if let Item::Entry(entry) | Item::Fill(entry) = item {
                let location = item.location(file, header.payload_start()).expect("entries have a location");
                events.push(WalEvent::Placed { group: entry.group, index: entry.index, term: entry.term, location });
            }
        }
        let directory = Bytes::from(self.directory);
        let mut slices = Vec::with_capacity(self.payloads.len() + 4);
        slices.push(Bytes::copy_from_slice(&header_bytes));
        slices.extend([&directory, previous_directory].into_iter().filter(|bytes| !bytes.is_empty()).cloned());
        slices.extend(self.payloads);
        let used = slices.iter().map(|slice| slice.len() as u64).sum::<u64>();
        // Zeros up to the next block: blocks are always written whole, so no stale byte survives in them.
        let padding = usize::try_from(length - used).expect("less than a block");
        if padding > 0 {
            slices.push(Bytes::from_static(&ZEROS[..padding]));
        }
        assert_eq!(header.end(), offset + length, "the header says where the next write starts");
        LaidOut { header, header_crc, directory, slices }
    }
}
