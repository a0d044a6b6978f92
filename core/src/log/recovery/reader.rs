//! Reads writes that are known to be whole, in order, and checks every byte of them that means anything.
//!
//! Invariant: a record comes out only if the chain of headers from the first write on and its directory are intact, or
//! can be restored from the next write; and its payload, unless it is that of an entry, which then comes out without
//! it and is marked. Whatever else is not intact is damage, with file and offset. What lies before the write
//! that a checkpoint needs is not read but for the chain. Holds one piece of a file and one directory at a time.
//! Does not look for the end of the log: [`super::survey`] does.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;

use super::{
    damaged,
    decision::{Checksum, Decision, Header as HeaderState, Proof},
    not_readable_by_this_build,
    repair::rebuild,
    window::Window,
};
use crate::{
    ids::{FileSequence, OperationId, WriteNumber},
    io::{DiskError, DiskOutput, Effects, Exit, OperationIds},
    limits::WAL_BLOCK_BYTES,
    log::{
        record::{PayloadState, RecoveredRecord},
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
    pub(super) directory_extent: Extent,
}

#[derive(Debug)]
pub(super) struct Reader {
    rules: Rules,
    window: Window,
    stretches: VecDeque<Stretch>,
    /// `None` until the first header was read, if what comes before it is not known.
    tail: Option<Tail>,
    /// What the last header said about its file's size.
    file_bytes: Option<u64>,
    step: Step,
}

#[derive(Debug)]
enum Step {
    Header,
    /// There is no header where one should be: the next one is at `offset` or behind it.
    Search {
        offset: u64,
        damage: Exit,
    },
    /// The write without a header is put together again from this one, which stands at the place.
    Rebuild {
        next: Header,
        damage: Exit,
    },
    Directory {
        header: Header,
        crc: u32,
    },
    /// The directory is damaged: which write has a copy of it?
    FindCopy {
        header: Header,
        crc: u32,
        behind: Behind,
    },
    Copy {
        header: Header,
        crc: u32,
        next: Header,
    },
    Payloads {
        header: Header,
        crc: u32,
        directory_bytes: Bytes,
        directory: Directory,
        item: Option<Item>,
    },
}

/// Where the next write is looked for.
#[derive(Clone, Copy, Debug)]
enum Behind {
    /// Also behind the end of what is proven: the write there may not count, but its copy has a checksum.
    InThisFile,
    InTheNext,
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
            tail: rules.base.is_none().then(Tail::default),
            file_bytes: None,
            step: Step::Header,
        }
    }

    /// After [`Next::End`]: goes on with a stretch.
    pub(super) fn extend(&mut self, stretch: Stretch) {
        self.stretches.push_back(stretch);
    }

    /// After [`Next::End`].
    pub(super) fn tail(&self) -> &Tail {
        self.tail.as_ref().expect("a base names a write, and so a file that was read")
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

    /// Files of which the device could not read everything.
    pub(super) fn unreadable(&self) -> &BTreeSet<FileSequence> {
        self.window.unreadable()
    }

    pub(super) fn next(&mut self) -> Result<Next, Exit> {
        loop {
            let Some(&stretch) = self.stretches.front() else { return Ok(Next::End) };
            if stretch.start == stretch.end {
                self.stretches.pop_front();
                continue;
            }
            let flow = match &self.step {
                Step::Header => self.read_header(stretch)?,
                Step::Search { .. } => self.search(stretch)?,
                Step::Rebuild { .. } => self.rebuild(stretch)?,
                Step::Directory { header, crc } => self.read_directory(stretch, *header, *crc)?,
                Step::FindCopy { header, crc, behind } => self.find_copy(stretch, *header, *crc, *behind)?,
                Step::Copy { header, crc, next } => self.read_copy(stretch, *header, *crc, *next)?,
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
        let number = self.tail.as_ref().map_or("which comes first".to_owned(), |tail| (tail.number.0 + 1).to_string());
        let (header, crc) = match Header::decode(&bytes, self.rules.key) {
            Ok((header, crc)) if (self.rules.belongs)(&header, file, start) => (Header { file, ..header }, crc),
            Err(HeaderError::Version(version)) => {
                return Err(not_readable_by_this_build(file, start, &format!("format version {version}")));
            }
            Ok(_) | Err(HeaderError::Absent | HeaderError::Foreign) => {
                let what = format!("the header of write {number} is not readable, though a later write proves it");
                return match self.reject(HeaderState::Absent, Checksum::Fails, stretch, start, what) {
                    // Nothing names the number or predecessor of the first write of a file but its header.
                    Err(damage @ Exit::Damaged { .. }) if start > 0 && self.file_bytes.is_some() => {
                        self.step = Step::Search { offset: start + WAL_BLOCK_BYTES as u64, damage };
                        Ok(Flow::Continue)
                    }
                    rejected => rejected,
                };
            }
        };
        let tail = self.tail.get_or_insert_with(|| Tail {
            number: WriteNumber(header.number.0.saturating_sub(1)),
            previous: header.previous,
            directory: Bytes::new(),
            directory_extent: header.previous_directory,
        });
        // A start skips the numbers of writes that it takes over.
        let counts_on = header.number.0 == tail.number.0 + 1 || (header.opens && header.number > tail.number);
        let follows = counts_on
            && header.synced.0 + 1 == header.number.0
            && header.previous == tail.previous
            && header.previous_directory == tail.directory_extent;
        if !follows {
            let what = format!("write {} does not follow write {}, which stands before it", header.number, tail.number);
            return Err(damaged(file, start, what));
        }
        if header.end() > end {
            let what = format!(
                "write {} runs past byte {end}, where a later write says the log ends in this file",
                header.number
            );
            return Err(damaged(file, start, what));
        }
        self.file_bytes = Some(header.file_bytes);
        self.step = Step::Directory { header, crc };
        Ok(Flow::Continue)
    }

    /// Looks for the write behind the one whose header is damaged.
    fn search(&mut self, stretch: Stretch) -> Result<Flow, Exit> {
        let Step::Search { offset, damage } = &mut self.step else { panic!("called in this step only") };
        loop {
            // What stands behind the end of what is proven may not count, but can be checked.
            let (file, at) = if *offset <= stretch.end {
                (stretch.file, *offset)
            } else {
                match self.stretches.get(1) {
                    Some(next) => (next.file, next.start),
                    None => return Err(damage.clone()),
                }
            };
            let Some(bytes) = self.window.bytes(file, at, HEADER_BYTES) else { return Ok(Flow::Wait) };
            match Header::decode(&bytes, self.rules.key) {
                Ok((next, _)) if (self.rules.belongs)(&next, file, at) => {
                    self.step = Step::Rebuild { next, damage: damage.clone() };
                    return Ok(Flow::Continue);
                }
                Ok(_) | Err(_) if file != stretch.file => return Err(damage.clone()),
                Ok(_) | Err(_) => *offset += WAL_BLOCK_BYTES as u64,
            }
        }
    }

    fn rebuild(&mut self, stretch: Stretch) -> Result<Flow, Exit> {
        let Step::Rebuild { next, damage } = &self.step else { panic!("called in this step only") };
        let start = next.directory_start() + u64::from(next.directory.length);
        let length = next.previous_directory.length as usize;
        let Some(bytes) = self.window.bytes(next.file, start, length) else { return Ok(Flow::Wait) };
        let tail = self.tail.as_ref().expect("it is not the first write that was read");
        let file_bytes = self.file_bytes.expect("a header of this file was read");
        match rebuild(tail, (stretch.file, stretch.start, file_bytes), next, &bytes) {
            Some((header, crc)) => {
                self.has_directory(header, crc, &bytes);
                Ok(Flow::Continue)
            }
            None => Err(damage.clone()),
        }
    }

    fn read_directory(&mut self, stretch: Stretch, header: Header, crc: u32) -> Result<Flow, Exit> {
        let length = usize::try_from(header.directories_length()).expect("a write lies within its file");
        let Some(bytes) = self.window.bytes(stretch.file, header.directory_start(), length) else {
            return Ok(Flow::Wait);
        };
        let own = header.directory.length as usize;
        // The copy of the previous directory was not needed: that directory was read before.
        match bytes.get(..own).filter(|bytes| header.directory.matches(bytes)) {
            Some(directory) => self.has_directory(header, crc, directory),
            None => self.step = Step::FindCopy { header, crc, behind: Behind::InThisFile },
        }
        Ok(Flow::Continue)
    }

    fn has_directory(&mut self, header: Header, crc: u32, bytes: &[u8]) {
        // The directory outlives the piece it was read in; a copy keeps that piece from living as long.
        let directory_bytes = Bytes::copy_from_slice(bytes);
        let directory = Directory::new(directory_bytes.clone(), &header);
        self.step = Step::Payloads { header, crc, directory_bytes, directory, item: None };
    }

    /// The directory is damaged; the next write has it once more. It stands behind this one, or begins another file.
    fn find_copy(&mut self, stretch: Stretch, header: Header, crc: u32, behind: Behind) -> Result<Flow, Exit> {
        let place = match behind {
            Behind::InThisFile => Some((stretch.file, header.end())),
            Behind::InTheNext => self.stretches.get(1).map(|next| (next.file, next.start)),
        };
        let Some((file, offset)) = place else { return self.reject_directory(stretch, &header) };
        let Some(bytes) = self.window.bytes(file, offset, HEADER_BYTES) else { return Ok(Flow::Wait) };
        let next = Header::decode(&bytes, self.rules.key).ok().map(|(next, _)| next).filter(|next| {
            (self.rules.belongs)(next, file, offset)
                && next.previous == header.as_previous(crc)
                && next.previous_directory == header.directory
        });
        self.step = match (next, behind) {
            (Some(next), _) => Step::Copy { header, crc, next },
            (None, Behind::InThisFile) => Step::FindCopy { header, crc, behind: Behind::InTheNext },
            (None, Behind::InTheNext) => return self.reject_directory(stretch, &header),
        };
        Ok(Flow::Continue)
    }

    fn read_copy(&mut self, stretch: Stretch, header: Header, crc: u32, next: Header) -> Result<Flow, Exit> {
        let start = next.directory_start() + u64::from(next.directory.length);
        let length = next.previous_directory.length as usize;
        let Some(bytes) = self.window.bytes(next.file, start, length) else { return Ok(Flow::Wait) };
        if header.directory.matches(&bytes) {
            self.has_directory(header, crc, &bytes);
        } else if next.file == header.file {
            self.step = Step::FindCopy { header, crc, behind: Behind::InTheNext };
        } else {
            return self.reject_directory(stretch, &header);
        }
        Ok(Flow::Continue)
    }

    fn reject_directory(&mut self, stretch: Stretch, header: &Header) -> Result<Flow, Exit> {
        let what = format!("the directory of write {} is damaged", header.number);
        self.reject(HeaderState::Valid, Checksum::Fails, stretch, header.directory_start(), what)
    }

    fn read_record(&mut self, stretch: Stretch) -> Result<Flow, Exit> {
        let Step::Payloads { header, crc, directory_bytes, directory, item } = &mut self.step else {
            panic!("called in this step only")
        };
        if item.is_none() {
            *item = directory.next_item().map_err(|error| unusable(stretch.file, header, error))?;
        }
        let Some(found) = *item else {
            self.tail = Some(Tail {
                number: header.number,
                previous: header.as_previous(*crc),
                directory: std::mem::take(directory_bytes),
                directory_extent: header.directory,
            });
            self.stretches[0].start = header.end();
            self.step = Step::Header;
            return Ok(Flow::Continue);
        };
        if self.rules.base.is_some_and(|base| header.number < base.write) {
            *item = None;
            return Ok(Flow::Continue);
        }
        let (place, length) = found.payload().unwrap_or((0, 0));
        let offset = header.payload_start() + u64::from(place);
        let length = usize::try_from(length).expect("a write lies within its file");
        let payload = if length == 0 { Some(Bytes::new()) } else { self.window.bytes(stretch.file, offset, length) };
        let Some(payload) = payload else { return Ok(Flow::Wait) };
        let (expected, seed) = found.checksum();
        let (write, location) = (header.number, found.location(stretch.file, header.payload_start()));
        if payload.len() == length && crc32c::crc32c_append(seed, &payload) == expected {
            *item = None;
            let record = found.into_record(payload);
            return Ok(Flow::Record(RecoveredRecord { write, record, location, payload: PayloadState::Intact }));
        }
        let what = format!("a payload of write {write} is damaged: {found:?}");
        let rejected = self.reject(HeaderState::Valid, Checksum::Holds, stretch, offset, what);
        match (rejected, found.without_payload()) {
            // What is missing is known exactly, so it can be repaired.
            (Err(Exit::Damaged { .. }), Some(record)) => {
                let Step::Payloads { item, .. } = &mut self.step else { panic!("called in this step only") };
                *item = None;
                Ok(Flow::Record(RecoveredRecord { write, record, location, payload: PayloadState::Damaged }))
            }
            (rejected, _) => rejected,
        }
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
