//! Finds where the log ends and which files it consists of.
//!
//! Looks at the newest file first. Walks its headers until there is none, then looks at every later block of the file
//! for a header that says there should have been one. What the table of [`super::decision`] says about the last write
//! settles the end; the names of predecessors lead back to the first file, or to the one a checkpoint begins at.
//!
//! Invariant: changes nothing on disk. A file without a usable opening write is passed over only if nothing in it
//! says otherwise, and what a torn opening says about its predecessor is remembered as proof. A file is called free
//! only if whatever it holds was never relied on or is proven to be in the log elsewhere.

use std::collections::{BTreeMap, BTreeSet};

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
    limits::{WAL_BLOCK_BYTES, WAL_CARRIED_FILE_PART, WAL_READ_BYTES},
    log::wal::format::{Directory, HEADER_BYTES, Header, HeaderError, Item},
};

/// What the files hold.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Everything that is proven, oldest first.
    pub(super) proven: Vec<Stretch>,
    /// The one write behind it that is whole but not proven.
    pub(super) unproven: Option<Header>,
    /// The newest of all files, if nothing was ever written to it in this life.
    pub(super) never_opened: Option<FileSequence>,
    /// Files that may be overwritten at once.
    pub(super) free: Vec<FileSequence>,
    /// Files that the log passes over, but whose content may be durable nowhere else until the next start is proven.
    pub(super) held: Vec<FileSequence>,
    /// The last of the proven stretches is all that one start wrote, and little.
    pub(super) may_be_carried: bool,
    /// Files of which the device could not read everything.
    pub(super) unreadable: BTreeSet<FileSequence>,
}

#[derive(Debug)]
pub(super) struct Survey {
    rules: Rules,
    /// Size of a file, as configured.
    file_bytes: u64,
    files: BTreeMap<FileSequence, u64>,
    /// Files from this one on were looked at.
    looked_at: FileSequence,
    /// A torn opening named this end of a file: everything before it was synced.
    proven_end: (FileSequence, u64),
    findings: Findings,
    /// The newest file that holds a usable write.
    newest: Option<(FileSequence, Walked)>,
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
        hole: Hole,
        offset: u64,
        walked: Walked,
    },
    /// Check directory and payloads of the last write.
    Check {
        walked: Walked,
        check: Check,
    },
    /// Follow the names of predecessors; the list is newest first.
    Chain {
        next: (FileSequence, u64),
    },
    /// Files that are not part of the log: the next one to look at is the first from here on.
    Leftovers {
        from: FileSequence,
    },
    /// The file holds the first write of a start, which ends here. Is there another one?
    Leftover {
        file: FileSequence,
        end: u64,
    },
    Done,
}

/// Where a header would be, but none can be read.
#[derive(Clone, Copy, Debug)]
struct Hole {
    offset: u64,
    /// The device cannot read it: it may hold the last write of all.
    is_unreadable: bool,
}

/// The headers of a walk through one file, as far as they matter.
#[derive(Clone, Copy, Debug, Default)]
struct Walked {
    last: Option<(Header, u32)>,
    /// There is one before the last.
    has_before: bool,
    /// The first write of the file is the first of a start.
    opens: bool,
    /// What the directories and payloads take.
    bytes: u64,
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
    pub(super) fn new(rules: Rules, file_bytes: u64, files: BTreeMap<FileSequence, u64>) -> Self {
        Self {
            rules,
            file_bytes,
            files,
            looked_at: FileSequence(u64::MAX),
            proven_end: (FileSequence(0), 0),
            findings: Findings::default(),
            newest: None,
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
                Step::Leftovers { from } => self.look_at_leftover(*from)?,
                Step::Leftover { file, end } => self.look_behind_opening(*file, *end)?,
                Step::Done => {
                    self.findings.proven.reverse();
                    self.findings.unreadable.clone_from(self.window.unreadable());
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
        if self.rules.must_exist || self.rules.base.is_some() {
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
            found @ (Found::Nothing | Found::Unreadable) => {
                let offset = at.saturating_add(WAL_BLOCK_BYTES as u64);
                let hole = Hole { offset: at, is_unreadable: matches!(found, Found::Unreadable) };
                self.step = Step::Ahead { file, hole, offset, walked };
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
        let walked = Walked {
            last: Some((header, crc)),
            has_before: walked.last.is_some(),
            opens: if walked.last.is_some() { walked.opens } else { header.opens },
            bytes: walked.bytes + u64::from(header.directory.length) + header.payload_length,
        };
        self.step = Step::Walk { file, walked };
        Ok(Flow::Continue)
    }

    fn look_ahead(&mut self, file: FileSequence, hole: Hole, offset: u64, walked: Walked) -> Result<Flow, Exit> {
        let size = self.files[&file];
        let (proven_file, proven_end) = self.proven_end;
        let mut behind = (proven_file == file && hole.offset < proven_end).then_some(proven_end);
        let mut at = offset;
        while behind.is_none() && at < size {
            match self.header_at(file, at)? {
                Found::Wait => {
                    self.step = Step::Ahead { file, hole, offset: at, walked };
                    return Ok(Flow::Wait);
                }
                Found::Nothing | Found::Unreadable => at += WAL_BLOCK_BYTES as u64,
                Found::Header(next, crc) => {
                    // One header is missing, and what stands around it knows it: it is put together again when it is
                    // read. More than one, or the first of a file, is damage.
                    let is_one = walked.last.is_some_and(|(last, _)| next.number.0 == last.number.0 + 2);
                    if is_one && next.previous.file == file && next.previous.end == at {
                        let bytes =
                            walked.bytes + u64::from(next.directory.length) + next.payload_length + (at - hole.offset);
                        let walked = Walked { last: Some((next, crc)), has_before: true, bytes, ..walked };
                        self.step = Step::Walk { file, walked };
                        return Ok(Flow::Continue);
                    }
                    behind = Some(at);
                }
            }
        }
        let proof = if behind.is_some() { Proof::Proven } else { Proof::Last };
        match (self.rules.decide)(proof, HeaderState::Absent, Checksum::Fails, Checksum::Fails) {
            Decision::Damage(_) => {
                let behind = behind.expect("only what is proven can be damaged");
                let what = format!("there is no readable header here, but the log goes on to byte {behind} at least");
                Err(damaged(file, hole.offset, what))
            }
            Decision::Seal if hole.is_unreadable => {
                let what = "the device cannot read the place behind the last write that was found, so nobody can tell \
                    whether there is another one";
                Err(damaged(file, hole.offset, what.to_owned()))
            }
            Decision::Seal => {
                self.step = match walked.last {
                    Some(_) => Step::Check { walked, check: Check::Directory },
                    None => {
                        self.never_opened(file);
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
        let Step::Check { walked, check } = &mut self.step else { panic!("called in this step only") };
        let walked = *walked;
        let (last, _) = walked.last.expect("there is a last write to check");
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
        let end_before =
            if walked.has_before { (last.file, last.offset) } else { (last.previous.file, last.previous.end) };
        let decision = (self.rules.decide)(proof, HeaderState::Valid, directory, payload);
        self.newest = Some((last.file, walked));
        self.step = match decision {
            Decision::Keep => Step::Chain { next: (last.file, last.end()) },
            // Which payloads, and whether the log can do without them, is found out when all of it is read.
            Decision::Damage(Part::Payload) => Step::Chain { next: (last.file, last.end()) },
            Decision::CopyForward => {
                self.findings.unproven = Some(last);
                Step::Chain { next: end_before }
            }
            Decision::DiscardTorn if walked.has_before => Step::Chain { next: end_before },
            Decision::DiscardTorn => {
                // The first write of a file was interrupted. It proves the end that it names, but there may be a
                // whole write behind that end, which it was about to take over: the file before decides.
                self.proven_end = self.proven_end.max(end_before);
                self.findings.free.push(last.file);
                self.newest = None;
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

    fn never_opened(&mut self, file: FileSequence) {
        if self.files.last_key_value().is_some_and(|(newest, _)| *newest == file) {
            self.findings.never_opened = Some(file);
        } else {
            self.findings.free.push(file);
        }
    }

    fn follow_chain(&mut self, (file, end): (FileSequence, u64)) -> Result<Flow, Exit> {
        if let Some(base) = self.rules.base
            && file < base.file
        {
            let what = format!(
                "the log does not reach back to this file, though a checkpoint needs write {} of it",
                base.write
            );
            return Err(damaged(base.file, 0, what));
        }
        if file.0 == 0 {
            self.step = self.leftovers();
            return Ok(Flow::Continue);
        }
        if !self.files.contains_key(&file) {
            return Err(missing(file, end));
        }
        let header = match self.header_at(file, 0)? {
            Found::Wait => return Ok(Flow::Wait),
            Found::Header(header, _) => header,
            Found::Nothing | Found::Unreadable => {
                let what = "the header of the file's first write is not readable, though a later file names it";
                return Err(damaged(file, 0, what.to_owned()));
            }
        };
        if header.previous.file >= file {
            let what = format!("the file names file {}, which is not older, as its predecessor", header.previous.file);
            return Err(damaged(file, 0, what));
        }
        self.findings.proven.push(Stretch { file, start: 0, end });
        if let Some(base) = self.rules.base
            && file == base.file
        {
            if header.number > base.write {
                let what = format!(
                    "the file begins with write {}, though a checkpoint needs write {}",
                    header.number, base.write
                );
                return Err(damaged(file, 0, what));
            }
            self.step = self.leftovers();
            return Ok(Flow::Continue);
        }
        self.step = Step::Chain { next: (header.previous.file, header.previous.end) };
        Ok(Flow::Continue)
    }

    /// The chain is complete; it is still newest first.
    fn leftovers(&mut self) -> Step {
        let Some((newest, walked)) = self.newest else { return Step::Done };
        let is_proven = self.findings.proven.first().is_some_and(|stretch| stretch.file == newest);
        let bytes_max = self.file_bytes / WAL_CARRIED_FILE_PART;
        let base_is_before = self.rules.base.is_none_or(|base| base.file < newest);
        self.findings.may_be_carried = is_proven && walked.opens && walked.bytes <= bytes_max && base_is_before;
        Step::Leftovers { from: self.rules.base.map_or(FileSequence(0), |base| FileSequence(base.file.0 + 1)) }
    }

    /// A file that is neither part of the log nor newer than it: it was taken over, or released and not used again.
    fn look_at_leftover(&mut self, from: FileSequence) -> Result<Flow, Exit> {
        let (newest, _) = self.newest.expect("there is a chain");
        let is_proven = self.findings.proven.first().is_some_and(|stretch| stretch.file == newest);
        let in_log = |file: FileSequence| self.findings.proven.iter().any(|stretch| stretch.file == file);
        let mut older = self.files.range(from..).map(|(file, _)| *file).take_while(|file| *file <= newest);
        let Some(file) = older.find(|file| !in_log(*file)) else {
            self.step = Step::Done;
            return Ok(Flow::Continue);
        };
        // A start that wrote more than its opening was told by the disk that the opening is durable, and what it took
        // over with it. An opening alone may be in the page cache only. It holds nothing that the files it took over do
        // not hold, so of several starts that came no further only the newest is kept, and what all of them took over.
        if is_proven || file == newest {
            self.leftover(file, is_proven);
            return Ok(Flow::Continue);
        }
        match self.header_at(file, 0)? {
            Found::Wait => return Ok(Flow::Wait),
            // Its first write was lost, and so nothing follows it.
            Found::Nothing => self.leftover(file, true),
            Found::Unreadable => self.leftover(file, false),
            Found::Header(header, _) if header.opens => self.step = Step::Leftover { file, end: header.end() },
            Found::Header(..) => self.leftover(file, false),
        }
        Ok(Flow::Continue)
    }

    fn look_behind_opening(&mut self, file: FileSequence, end: u64) -> Result<Flow, Exit> {
        match self.header_at(file, end)? {
            Found::Wait => return Ok(Flow::Wait),
            Found::Nothing => self.leftover(file, true),
            Found::Header(..) | Found::Unreadable => self.leftover(file, false),
        }
        Ok(Flow::Continue)
    }

    fn leftover(&mut self, file: FileSequence, is_free: bool) {
        if is_free {
            self.findings.free.push(file);
        } else {
            self.findings.held.push(file);
        }
        self.step = Step::Leftovers { from: FileSequence(file.0 + 1) };
    }

    /// The header of this life of the file at an offset.
    fn header_at(&mut self, file: FileSequence, offset: u64) -> Result<Found, Exit> {
        if offset >= self.files[&file] {
            return Ok(Found::Nothing);
        }
        let Some(bytes) = self.window.bytes(file, offset, HEADER_BYTES) else { return Ok(Found::Wait) };
        if self.window.is_unreadable(offset, HEADER_BYTES) {
            return Ok(Found::Unreadable);
        }
        match Header::decode(&bytes, self.rules.key) {
            Ok((header, crc)) if (self.rules.belongs)(&header, file, offset) => {
                let size = self.files[&file];
                if size < header.file_bytes {
                    let what =
                        format!("the file ends here, but had {} bytes before its first write", header.file_bytes);
                    return Err(damaged(file, size, what));
                }
                Ok(Found::Header(Header { file, ..header }, crc))
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
    Unreadable,
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
                    let Some(bytes) = window.readable_bytes(file, start, length)? else { return Ok(None) };
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
                    let Some(bytes) = window.readable_bytes(file, partial.offset, wanted)? else { return Ok(None) };
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
