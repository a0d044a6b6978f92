//! Finds where the log ends and which files it consists of.
//!
//! Looks at the newest file first. Walks its headers until there is none, then looks at every later block of the file
//! for a header that says there should have been one. What the table of [`super::decision`] says about the last write
//! settles the end; the names of predecessors lead back to the first file.
//!
//! Invariant: changes nothing on disk. A file without a usable opening write is passed over only if nothing in it
//! says otherwise, and what a torn opening says about its predecessor is remembered as proof.

use std::collections::BTreeMap;

use super::{
    Rules, damaged,
    decision::{Checksum, Decision, Header as HeaderState, Part, Proof},
    not_readable_by_this_build,
    reader::{Stretch, unusable},
    window::Window,
};
use crate::{
    ids::{FileSequence, OperationId},
    io::{DiskError, DiskOutput, Effects, Exit, FileName, OperationIds},
    limits::{WAL_BLOCK_BYTES, WAL_READ_BYTES},
    log::wal::format::{Directory, HEADER_BYTES, Header, HeaderError, Item},
};

/// What the files hold.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Everything that is proven, oldest first.
    pub(super) proven: Vec<Stretch>,
    /// The one write behind it that is whole but not proven.
    pub(super) unproven: Option<Header>,
    /// Files newer than the log that were created but hold no write.
    pub(super) never_opened: Vec<FileSequence>,
    /// Files newer than the log whose first write is torn.
    pub(super) torn: Vec<FileSequence>,
}

#[derive(Debug)]
pub(super) struct Survey {
    rules: Rules,
    files: BTreeMap<FileSequence, u64>,
    /// Files from this one on were looked at.
    looked_at: FileSequence,
    /// A torn opening named this end of a file: everything before it was synced.
    proven_end: (FileSequence, u64),
    findings: Findings,
    window: Window,
    step: Step,
}

#[derive(Debug)]
enum Step {
    /// Take the newest file that was not looked at.
    Candidate,
    /// Follow the headers.
    Walk {
        file: FileSequence,
        walked: Walked,
    },
    /// There is no header at `hole`; look whether one lies behind it.
    Ahead {
        file: FileSequence,
        hole: u64,
        offset: u64,
        walked: Walked,
    },
    /// Check directory and payloads of the last write.
    Check {
        last: Header,
        before: Option<Header>,
        check: Check,
    },
    /// Follow the names of predecessors; the list is newest first.
    Chain {
        next: (FileSequence, u64),
    },
    Done,
}

/// The last two headers of a walk.
#[derive(Clone, Copy, Debug, Default)]
struct Walked {
    last: Option<(Header, u32)>,
    before: Option<Header>,
}

#[derive(Debug)]
enum Check {
    Directory,
    Payloads { directory: Directory, item: Option<Partial> },
}

/// A payload of which the first bytes were hashed.
#[derive(Clone, Copy, Debug)]
struct Partial {
    item: Item,
    offset: u64,
    left: u64,
    crc: u32,
}

/// Whether to go on with the next step or to wait for the disk.
enum Flow {
    Continue,
    Wait,
}

impl Survey {
    pub(super) fn new(rules: Rules, files: BTreeMap<FileSequence, u64>) -> Self {
        Self {
            rules,
            files,
            looked_at: FileSequence(u64::MAX),
            proven_end: (FileSequence(0), 0),
            findings: Findings::default(),
            window: Window::default(),
            step: Step::Candidate,
        }
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

    /// The findings once there are; `None`: waits for the disk.
    pub(super) fn advance(&mut self) -> Result<Option<Findings>, Exit> {
        loop {
            let flow = match &self.step {
                Step::Candidate => self.next_candidate()?,
                Step::Walk { file, walked } => self.walk(*file, *walked)?,
                Step::Ahead { file, hole, offset, walked } => self.look_ahead(*file, *hole, *offset, *walked)?,
                Step::Check { .. } => self.check_last()?,
                Step::Chain { next } => self.follow_chain(*next)?,
                Step::Done => {
                    self.findings.proven.reverse();
                    return Ok(Some(std::mem::take(&mut self.findings)));
                }
            };
            match flow {
                Flow::Continue => {}
                Flow::Wait => return Ok(None),
            }
        }
    }

    fn next_candidate(&mut self) -> Result<Flow, Exit> {
        let Some((&file, _)) = self.files.range(..self.looked_at).next_back() else {
            return self.nothing_found();
        };
        self.looked_at = file;
        self.step = Step::Walk { file, walked: Walked::default() };
        Ok(Flow::Continue)
    }

    fn nothing_found(&mut self) -> Result<Flow, Exit> {
        let (file, end) = self.proven_end;
        if file.0 > 0 {
            return Err(missing(file, end));
        }
        if self.rules.must_exist {
            return Err(Exit::Damaged {
                file: crate::io::Directory::Wal.path(),
                offset: 0,
                what: "no file holds a write, but this data directory had a WAL".to_owned(),
            });
        }
        self.step = Step::Done;
        Ok(Flow::Continue)
    }

    fn walk(&mut self, file: FileSequence, walked: Walked) -> Result<Flow, Exit> {
        let at = walked.last.map_or(0, |(last, _)| last.end());
        let (header, crc) = match self.header_at(file, at)? {
            Found::Wait => return Ok(Flow::Wait),
            Found::Nothing => {
                let offset = at.saturating_add(WAL_BLOCK_BYTES as u64);
                self.step = Step::Ahead { file, hole: at, offset, walked };
                return Ok(Flow::Continue);
            }
            Found::Header(header, crc) => (header, crc),
        };
        let follows = match &walked.last {
            Some((last, last_crc)) => {
                header.previous == last.as_previous(*last_crc) && header.number.0 == last.number.0 + 1
            }
            None => header.previous.file < file,
        };
        if !follows {
            let what = format!("write {} does not follow what stands before it", header.number);
            return Err(damaged(file, at, what));
        }
        let walked = Walked { last: Some((header, crc)), before: walked.last.map(|(last, _)| last) };
        self.step = Step::Walk { file, walked };
        Ok(Flow::Continue)
    }

    fn look_ahead(&mut self, file: FileSequence, hole: u64, offset: u64, walked: Walked) -> Result<Flow, Exit> {
        let size = self.files[&file];
        let (proven_file, proven_end) = self.proven_end;
        let mut behind = (proven_file == file && hole < proven_end).then_some(proven_end);
        let mut at = offset;
        while behind.is_none() && at < size {
            match self.header_at(file, at)? {
                Found::Wait => {
                    self.step = Step::Ahead { file, hole, offset: at, walked };
                    return Ok(Flow::Wait);
                }
                Found::Nothing => at += WAL_BLOCK_BYTES as u64,
                Found::Header(..) => behind = Some(at),
            }
        }
        let proof = if behind.is_some() { Proof::Proven } else { Proof::Last };
        match (self.rules.decide)(proof, HeaderState::Absent, Checksum::Fails, Checksum::Fails) {
            Decision::Damage(_) => {
                let behind = behind.expect("only what is proven can be damaged");
                let what = format!("there is no readable header here, but the log goes on to byte {behind} at least");
                Err(damaged(file, hole, what))
            }
            Decision::Seal => {
                self.step = match walked.last {
                    Some((last, _)) => Step::Check { last, before: walked.before, check: Check::Directory },
                    None => {
                        self.findings.never_opened.push(file);
                        Step::Candidate
                    }
                };
                Ok(Flow::Continue)
            }
            Decision::Keep | Decision::CopyForward | Decision::DiscardTorn => {
                panic!("without a header there is nothing to keep or discard")
            }
        }
    }

    fn check_last(&mut self) -> Result<Flow, Exit> {
        let Step::Check { last, before, check } = &mut self.step else { panic!("called in this step only") };
        let (last, before) = (*last, *before);
        let Some((directory, payload, offset)) = check.advance(&last, &mut self.window, self.files[&last.file])? else {
            return Ok(Flow::Wait);
        };
        let (proven_file, proven_end) = self.proven_end;
        if proven_file > last.file {
            return Err(missing(proven_file, proven_end));
        }
        let is_proven = proven_file == last.file && last.end() <= proven_end;
        let proof = if is_proven { Proof::Proven } else { Proof::Last };
        // The end without this write: in this file, or in the one before if this write is the first of its file.
        let end_before = match before {
            Some(_) => (last.file, last.offset),
            None => (last.previous.file, last.previous.end),
        };
        self.step = match (self.rules.decide)(proof, HeaderState::Valid, directory, payload) {
            Decision::Keep => Step::Chain { next: (last.file, last.end()) },
            Decision::CopyForward => {
                self.findings.unproven = Some(last);
                Step::Chain { next: end_before }
            }
            Decision::DiscardTorn if before.is_some() => Step::Chain { next: end_before },
            Decision::DiscardTorn => {
                // The first write of a file was interrupted. It proves the end that it names, but there may be a
                // whole write behind that end, which it was about to take over: the file before decides.
                self.proven_end = self.proven_end.max(end_before);
                self.findings.torn.push(last.file);
                Step::Candidate
            }
            Decision::Damage(part) => {
                let part = match part {
                    Part::Header => "header",
                    Part::Directory => "directory",
                    Part::Payload => "payload",
                };
                return Err(damaged(last.file, offset, format!("the {part} of write {} is damaged", last.number)));
            }
            Decision::Seal => panic!("there is a header"),
        };
        Ok(Flow::Continue)
    }

    fn follow_chain(&mut self, (file, end): (FileSequence, u64)) -> Result<Flow, Exit> {
        if file.0 == 0 {
            self.step = Step::Done;
            return Ok(Flow::Continue);
        }
        if !self.files.contains_key(&file) {
            return Err(missing(file, end));
        }
        let header = match self.header_at(file, 0)? {
            Found::Wait => return Ok(Flow::Wait),
            Found::Header(header, _) => header,
            Found::Nothing => {
                let what = "the header of the file's first write is not readable, though a later file names it";
                return Err(damaged(file, 0, what.to_owned()));
            }
        };
        if header.previous.file >= file {
            let what = format!("the file names file {}, which is not older, as its predecessor", header.previous.file);
            return Err(damaged(file, 0, what));
        }
        self.findings.proven.push(Stretch { file, start: 0, end });
        self.step = Step::Chain { next: (header.previous.file, header.previous.end) };
        Ok(Flow::Continue)
    }

    /// The header of this life of the file at an offset.
    fn header_at(&mut self, file: FileSequence, offset: u64) -> Result<Found, Exit> {
        if offset >= self.files[&file] {
            return Ok(Found::Nothing);
        }
        let Some(bytes) = self.window.bytes(file, offset, HEADER_BYTES) else { return Ok(Found::Wait) };
        match Header::decode(&bytes, self.rules.key) {
            Ok((header, crc)) if header.belongs(file, offset) => {
                let size = self.files[&file];
                if size < header.file_bytes {
                    let what =
                        format!("the file ends here, but had {} bytes before its first write", header.file_bytes);
                    return Err(damaged(file, size, what));
                }
                Ok(Found::Header(header, crc))
            }
            // A first block always holds a header, of this life or an earlier one, unless the file was never used.
            Err(HeaderError::Foreign) if offset == 0 => {
                Err(Exit::Refused(format!("{} was written for another data directory", FileName::Wal(file).path())))
            }
            Err(HeaderError::Version(version)) => {
                Err(not_readable_by_this_build(file, offset, &format!("format version {version}")))
            }
            Ok(_) | Err(HeaderError::Absent | HeaderError::Foreign) => Ok(Found::Nothing),
        }
    }
}

enum Found {
    Header(Header, u32),
    Nothing,
    Wait,
}

impl Check {
    /// Checksums of directories and payloads, and where the first that fails lies; `None`: waits for the disk.
    fn advance(
        &mut self,
        header: &Header,
        window: &mut Window,
        file_size: u64,
    ) -> Result<Option<(Checksum, Checksum, u64)>, Exit> {
        let file = header.file;
        loop {
            match self {
                Self::Directory => {
                    let start = header.directory_start();
                    if header.payload_start().saturating_add(header.payload_length) > file_size {
                        // The file was cut, or never grew to hold the write.
                        return Ok(Some((Checksum::Fails, Checksum::Fails, file_size)));
                    }
                    let length = usize::try_from(header.directories_length()).expect("it lies within the file");
                    let Some(bytes) = window.bytes(file, start, length) else { return Ok(None) };
                    let own = header.directory.length as usize;
                    if bytes.len() != length
                        || !header.directory.matches(&bytes[..own])
                        || !header.previous_directory.matches(&bytes[own..])
                    {
                        return Ok(Some((Checksum::Fails, Checksum::Fails, start)));
                    }
                    *self = Self::Payloads { directory: Directory::new(bytes.slice(..own), header), item: None };
                }
                Self::Payloads { directory, item } => {
                    let Some(partial) = item else {
                        let next = directory.next_item().map_err(|error| unusable(file, header, error))?;
                        let Some(next) = next else { return Ok(Some((Checksum::Holds, Checksum::Holds, 0))) };
                        *item = Some(Partial::new(next, header));
                        continue;
                    };
                    if partial.left == 0 {
                        if partial.crc != partial.item.checksum().0 {
                            let (place, _) = partial.item.payload().unwrap_or((0, 0));
                            let offset = header.payload_start() + u64::from(place);
                            return Ok(Some((Checksum::Holds, Checksum::Fails, offset)));
                        }
                        *item = None;
                        continue;
                    }
                    let length = partial.left.min(WAL_READ_BYTES as u64);
                    let wanted = usize::try_from(length).expect("at most one piece");
                    let Some(bytes) = window.bytes(file, partial.offset, wanted) else { return Ok(None) };
                    if bytes.len() != wanted {
                        return Ok(Some((Checksum::Holds, Checksum::Fails, partial.offset)));
                    }
                    partial.crc = crc32c::crc32c_append(partial.crc, &bytes);
                    partial.offset += length;
                    partial.left -= length;
                }
            }
        }
    }
}

impl Partial {
    fn new(item: Item, header: &Header) -> Self {
        let (place, left) = item.payload().unwrap_or((0, 0));
        Self { item, offset: header.payload_start() + u64::from(place), left, crc: item.checksum().1 }
    }
}

fn missing(file: FileSequence, end: u64) -> Exit {
    damaged(file, 0, format!("the file is missing or empty, though a later file names byte {end} as its end"))
}
