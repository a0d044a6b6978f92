//! Reads writes that are known to be whole, in order, and checks every byte of them that means anything.
//!
//! Invariant: a record comes out only if the chain of headers from the first write on, its directory and its payload
//! are intact; whatever is not is damage, with file and offset. Holds one piece of a file and one directory at a time.
//! Does not look for the end of the log: [`super::survey`] does.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{
    damaged,
    decision::{Checksum, Decision, Header as HeaderState, Proof},
    not_readable_by_this_build,
    window::Window,
};
use crate::{
    ids::{FileSequence, OperationId, WriteNumber},
    io::{DiskError, DiskOutput, Effects, Exit, OperationIds},
    log::{
        record::RecoveredRecord,
        recovery::Rules,
        wal::format::{Directory, DirectoryError, Extent, HEADER_BYTES, Header, HeaderError, Item, PreviousWrite},
    },
};

/// Writes of one file that follow each other without a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) file: FileSequence,
    pub(super) start: u64,
    /// Exact: a write ends here.
    pub(super) end: u64,
}

/// The end of what was read: what the next write must name.
#[derive(Clone, Debug, Default)]
pub(super) struct Tail {
    /// The last write; 0 before the first.
    pub(super) number: WriteNumber,
    pub(super) previous: PreviousWrite,
    pub(super) directory: Bytes,
}

#[derive(Debug)]
pub(super) struct Reader {
    rules: Rules,
    window: Window,
    stretches: VecDeque<Stretch>,
    tail: Tail,
    step: Step,
}

#[derive(Debug)]
enum Step {
    Header,
    Directory { header: Header, crc: u32 },
    Payloads { header: Header, crc: u32, directory_bytes: Bytes, directory: Directory, item: Option<Item> },
}

enum Flow {
    Continue,
    Record(RecoveredRecord),
    Wait,
}

#[derive(Debug)]
pub(super) enum Next {
    Record(RecoveredRecord),
    /// Waits for the disk.
    Pending,
    /// All stretches were read.
    End,
}

impl Reader {
    pub(super) fn new(rules: Rules, stretches: impl IntoIterator<Item = Stretch>) -> Self {
        Self {
            rules,
            window: Window::default(),
            stretches: stretches.into_iter().collect(),
            tail: Tail::default(),
            step: Step::Header,
        }
    }

    /// After [`Next::End`]: goes on with a stretch.
    pub(super) fn extend(&mut self, stretch: Stretch) {
        self.stretches.push_back(stretch);
    }

    pub(super) fn tail(&self) -> &Tail {
        &self.tail
    }

    pub(super) fn poll(&mut self, effects: &mut Effects, ids: &mut OperationIds) {
        self.window.poll(effects, ids);
    }

    pub(super) fn handle(
        &mut self,
        operation: OperationId,
        result: &Result<DiskOutput, DiskError>,
    ) -> Result<bool, Exit> {
        self.window.handle(operation, result)
    }

    pub(super) fn next(&mut self) -> Result<Next, Exit> {
        loop {
            let Some(&stretch) = self.stretches.front() else { return Ok(Next::End) };
            if stretch.start == stretch.end {
                self.stretches.pop_front();
                continue;
            }
            let flow = match self.step {
                Step::Header => self.read_header(stretch)?,
                Step::Directory { header, crc } => self.read_directory(stretch, header, crc)?,
                Step::Payloads { .. } => self.read_record(stretch)?,
            };
            match flow {
                Flow::Continue => {}
                Flow::Record(record) => return Ok(Next::Record(record)),
                Flow::Wait => return Ok(Next::Pending),
            }
        }
    }

    fn read_header(&mut self, stretch: Stretch) -> Result<Flow, Exit> {
        let Stretch { file, start, end } = stretch;
        let Some(bytes) = self.window.bytes(file, start, HEADER_BYTES) else { return Ok(Flow::Wait) };
        let number = WriteNumber(self.tail.number.0 + 1);
        let (header, crc) = match Header::decode(&bytes, self.rules.key) {
            Ok((header, crc)) if header.belongs(file, start) => (header, crc),
            Err(HeaderError::Version(version)) => {
                return Err(not_readable_by_this_build(file, start, &format!("format version {version}")));
            }
            Ok(_) | Err(HeaderError::Absent | HeaderError::Foreign) => {
                let what = format!("the header of write {number} is not readable, though a later write proves it");
                return self.reject(HeaderState::Absent, Checksum::Fails, stretch, start, what);
            }
        };
        let follows = header.number == number
            && header.synced.0 + 1 == header.number.0
            && header.previous == self.tail.previous
            && header.previous_directory == Extent::of(&self.tail.directory);
        if !follows {
            let what =
                format!("write {} does not follow write {}, which stands before it", header.number, self.tail.number);
            return Err(damaged(file, start, what));
        }
        if header.end() > end {
            let what =
                format!("write {number} runs past byte {end}, where a later write says the log ends in this file");
            return Err(damaged(file, start, what));
        }
        self.step = Step::Directory { header, crc };
        Ok(Flow::Continue)
    }

    fn read_directory(&mut self, stretch: Stretch, header: Header, crc: u32) -> Result<Flow, Exit> {
        let length = usize::try_from(header.directories_length()).expect("a write lies within its file");
        let Some(bytes) = self.window.bytes(stretch.file, header.directory_start(), length) else {
            return Ok(Flow::Wait);
        };
        let own = header.directory.length as usize;
        if bytes.len() != length
            || !header.directory.matches(&bytes[..own])
            || !header.previous_directory.matches(&bytes[own..])
        {
            let what = format!("the directory of write {} is damaged", header.number);
            return self.reject(HeaderState::Valid, Checksum::Fails, stretch, header.directory_start(), what);
        }
        // The directory outlives the piece it was read in; a copy keeps that piece from living as long.
        let directory_bytes = Bytes::copy_from_slice(&bytes[..own]);
        let directory = Directory::new(directory_bytes.clone(), &header);
        self.step = Step::Payloads { header, crc, directory_bytes, directory, item: None };
        Ok(Flow::Continue)
    }

    fn read_record(&mut self, stretch: Stretch) -> Result<Flow, Exit> {
        let Step::Payloads { header, crc, directory_bytes, directory, item } = &mut self.step else {
            panic!("called in this step only")
        };
        if item.is_none() {
            *item = directory.next_item().map_err(|error| unusable(stretch.file, header, error))?;
        }
        let Some(found) = *item else {
            self.tail = Tail {
                number: header.number,
                previous: header.as_previous(*crc),
                directory: std::mem::take(directory_bytes),
            };
            self.stretches[0].start = header.end();
            self.step = Step::Header;
            return Ok(Flow::Continue);
        };
        let (place, length) = found.payload().unwrap_or((0, 0));
        let offset = header.payload_start() + u64::from(place);
        let length = usize::try_from(length).expect("a write lies within its file");
        let payload = if length == 0 { Some(Bytes::new()) } else { self.window.bytes(stretch.file, offset, length) };
        let Some(payload) = payload else { return Ok(Flow::Wait) };
        let (expected, seed) = found.checksum();
        if payload.len() != length || crc32c::crc32c_append(seed, &payload) != expected {
            let what = format!("a payload of write {} is damaged: {found:?}", header.number);
            return self.reject(HeaderState::Valid, Checksum::Holds, stretch, offset, what);
        }
        *item = None;
        Ok(Flow::Record(RecoveredRecord {
            write: header.number,
            location: found.location(stretch.file, header.payload_start()),
            record: found.into_record(payload),
        }))
    }

    /// Everything read here is proven, so the table says damage. (Rules planted by a test may say otherwise; then
    /// the log ends here.)
    fn reject(
        &mut self,
        header: HeaderState,
        directory: Checksum,
        stretch: Stretch,
        offset: u64,
        what: String,
    ) -> Result<Flow, Exit> {
        match (self.rules.decide)(Proof::Proven, header, directory, Checksum::Fails) {
            Decision::Damage(_) => Err(damaged(stretch.file, offset, what)),
            Decision::Seal | Decision::DiscardTorn => {
                self.stretches.clear();
                self.step = Step::Header;
                Ok(Flow::Continue)
            }
            Decision::Keep | Decision::CopyForward => panic!("what is not intact is never kept"),
        }
    }
}

/// A directory that has the right checksum but makes no sense to this build.
pub(super) fn unusable(file: FileSequence, header: &Header, error: DirectoryError) -> Exit {
    match error {
        DirectoryError::UnknownKind(_) | DirectoryError::UnknownEntryKind(_) => {
            not_readable_by_this_build(file, header.directory_start(), &error.to_string())
        }
        DirectoryError::Length | DirectoryError::Place => {
            damaged(file, header.directory_start(), format!("the directory of write {}: {error}", header.number))
        }
    }
}
