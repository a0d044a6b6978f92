//! Reads one checkpoint, with the images it names, and checks every byte of it.
//!
//! Invariant: a checkpoint comes out only if all of it is intact; anything else is [`Read::Unusable`], with the reason,
//! and the caller goes on with an older one. Whether it counts is said by the WAL, not here. Holds what it read: the
//! small state of a shard.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;

use super::{
    format::{
        CheckpointDone, Closing, FRAME_HEADER_BYTES, FormatError, Frame, FrameHeader, HEADER_BYTES, Header,
        IMAGE_HEADER_BYTES, ImageHeader, WalPosition,
    },
    section::{GroupSection, ImageFile, MachineImage, SectionError},
    writer::{PlacedEntry, placed_entry},
};
use crate::{
    ids::{CheckpointNumber, GroupId, OperationId, ReplicaId},
    io::{DiskError, DiskOutput, Effects, FileName, OperationIds},
    limits::CHECKPOINT_READ_BYTES,
    log::{
        record::EntryFile,
        wal::WalKey,
        window::{Fetched, Window},
    },
};

/// A whole checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    /// What the record in the WAL that makes it count says.
    pub done: CheckpointDone,
    pub sections: Vec<FoundSection>,
    pub destroyed: BTreeSet<(GroupId, ReplicaId)>,
}

#[derive(Debug)]
pub struct FoundSection {
    pub section: GroupSection,
    /// The image of the machine, wherever it lies.
    pub image: Bytes,
    /// Where the inline entries lie.
    pub placed: Vec<PlacedEntry>,
}

/// What [`Reader::poll`] has to say.
#[derive(Debug)]
pub enum Read {
    /// Poll again after an operation was handled.
    Waiting,
    Whole(Box<Checkpoint>),
    Unusable(Unusable),
}

/// Why a checkpoint cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error("{file} at byte {offset}: {error}")]
    Format { file: String, offset: u64, error: FormatError },
    #[error("{file} at byte {offset}: {error}")]
    Section { file: String, offset: u64, error: SectionError },
    #[error("{file} cannot be read: {error}")]
    Disk { file: String, error: DiskError },
}

/// See the module head.
#[derive(Debug)]
pub struct Reader {
    key: WalKey,
    number: CheckpointNumber,
    window: Window,
    offset: u64,
    crc: u32,
    from: Option<WalPosition>,
    frame: Option<FrameHeader>,
    sections: Vec<FoundSection>,
    closing: Option<Closing>,
    /// Nothing follows the closing frame.
    ended: bool,
    /// Images to read: the place of their sections.
    images: VecDeque<usize>,
    image: Vec<u8>,
}

impl Reader {
    pub fn new(key: WalKey, number: CheckpointNumber) -> Self {
        Self {
            key,
            number,
            window: Window::new(CHECKPOINT_READ_BYTES),
            offset: 0,
            crc: 0,
            from: None,
            frame: None,
            sections: Vec::new(),
            closing: None,
            ended: false,
            images: VecDeque::new(),
            image: Vec::new(),
        }
    }

    /// What its header says is needed of the WAL, as soon as that was read.
    pub fn from(&self) -> Option<WalPosition> {
        self.from
    }

    pub fn poll(&mut self, effects: &mut Effects, ids: &mut OperationIds) -> Read {
        match self.advance() {
            Ok(Some(checkpoint)) => Read::Whole(Box::new(checkpoint)),
            Ok(None) => {
                self.window.poll(effects, ids);
                Read::Waiting
            }
            Err(unusable) => Read::Unusable(unusable),
        }
    }

    /// False if the operation is not the reader's.
    pub fn handle(&mut self, operation: OperationId, result: &Result<DiskOutput, DiskError>) -> bool {
        self.window.handle(operation, result)
    }

    /// `None`: waits for the disk.
    fn advance(&mut self) -> Result<Option<Checkpoint>, Unusable> {
        let file = FileName::Checkpoint(self.number);
        while self.closing.is_none() {
            if self.from.is_none() {
                let Some(bytes) = self.take(file, HEADER_BYTES)? else { return Ok(None) };
                let header = Header::decode(&bytes, self.key).and_then(|header| match header.number == self.number {
                    true => Ok(header),
                    false => Err(FormatError::Foreign),
                });
                self.from = Some(header.map_err(|error| format_error(file, 0, error))?.from);
            }
            let Some(frame) = self.frame else {
                let Some(bytes) = self.take(file, FRAME_HEADER_BYTES)? else { return Ok(None) };
                let frame = FrameHeader::decode(&bytes).map_err(|error| format_error(file, self.offset, error))?;
                self.frame = Some(frame);
                continue;
            };
            let at = self.offset;
            let Some(body) = self.take(file, frame.length as usize)? else { return Ok(None) };
            self.frame = None;
            match frame.open(&body).map_err(|error| format_error(file, at, error))? {
                Frame::Group(body) => self.take_in(&body, at)?,
                Frame::Closing(closing) if closing.groups == self.sections.len() as u64 => {
                    self.closing = Some(closing);
                }
                Frame::Closing(_) => return Err(format_error(file, at, FormatError::Length)),
            }
        }
        // Nothing may follow.
        match if self.ended { Fetched::Bytes(Bytes::new()) } else { self.window.bytes(file, self.offset, 1) } {
            Fetched::Bytes(rest) if rest.is_empty() => self.ended = true,
            Fetched::Bytes(_) => return Err(format_error(file, self.offset, FormatError::Length)),
            Fetched::Wait => return Ok(None),
            Fetched::Failed(error) => return Err(Unusable::Disk { file: file.path(), error }),
        }
        while let Some(&place) = self.images.front() {
            if !self.read_image(place)? {
                return Ok(None);
            }
            self.images.pop_front();
        }
        let closing = self.closing.clone().expect("looked at above");
        let from = self.from.expect("a header was read");
        let done = CheckpointDone { number: self.number, length: self.offset, crc: self.crc, from };
        Ok(Some(Checkpoint { done, sections: std::mem::take(&mut self.sections), destroyed: closing.destroyed }))
    }

    /// The next bytes of the file; `None`: waits for the disk.
    fn take(&mut self, file: FileName, length: usize) -> Result<Option<Bytes>, Unusable> {
        match self.window.bytes(file, self.offset, length) {
            Fetched::Wait => Ok(None),
            Fetched::Failed(error) => Err(Unusable::Disk { file: file.path(), error }),
            Fetched::Bytes(bytes) if bytes.len() < length => Err(format_error(file, self.offset, FormatError::Length)),
            Fetched::Bytes(bytes) => {
                self.crc = crc32c::crc32c_append(self.crc, &bytes);
                self.offset += length as u64;
                Ok(Some(bytes))
            }
        }
    }

    fn take_in(&mut self, body: &Bytes, at: u64) -> Result<(), Unusable> {
        let file = FileName::Checkpoint(self.number);
        // A small section must not keep the piece alive that it was read in.
        let body = if body.len() < CHECKPOINT_READ_BYTES / 2 { &Bytes::copy_from_slice(body) } else { body };
        let (section, payloads) =
            GroupSection::decode(body).map_err(|error| Unusable::Section { file: file.path(), offset: at, error })?;
        let placed = payloads
            .into_iter()
            .map(|(place, from)| placed_entry(&section, place, EntryFile::Checkpoint(self.number), at + from))
            .collect();
        let image = match &section.image {
            MachineImage::Inline(image) => image.clone(),
            MachineImage::File(_) => {
                self.images.push_back(self.sections.len());
                Bytes::new()
            }
        };
        self.sections.push(FoundSection { section, image, placed });
        Ok(())
    }

    /// False: waits for the disk.
    fn read_image(&mut self, place: usize) -> Result<bool, Unusable> {
        let FoundSection { section, image, .. } = &mut self.sections[place];
        let MachineImage::File(ImageFile { checkpoint, length, crc }) = section.image else {
            panic!("only these are read")
        };
        let group = section.group;
        let file = FileName::Image { group, checkpoint };
        loop {
            let read = self.image.len() as u64;
            let total = length.saturating_add(IMAGE_HEADER_BYTES as u64);
            if read == total {
                break;
            }
            let wanted = usize::try_from(total - read).unwrap_or(usize::MAX).min(CHECKPOINT_READ_BYTES);
            match self.window.bytes(file, read, wanted) {
                Fetched::Wait => return Ok(false),
                Fetched::Failed(error) => return Err(Unusable::Disk { file: file.path(), error }),
                Fetched::Bytes(bytes) if bytes.len() < wanted => {
                    return Err(format_error(file, read, FormatError::Length));
                }
                Fetched::Bytes(bytes) => self.image.extend_from_slice(&bytes),
            }
        }
        let whole = Bytes::from(std::mem::take(&mut self.image));
        let header = ImageHeader::decode(&whole, self.key).map_err(|error| format_error(file, 0, error))?;
        if header != (ImageHeader { key: self.key, group, checkpoint }) {
            return Err(format_error(file, 0, FormatError::Foreign));
        }
        let bytes = whole.slice(IMAGE_HEADER_BYTES..);
        if crc32c::crc32c(&bytes) != crc {
            return Err(format_error(file, IMAGE_HEADER_BYTES as u64, FormatError::Checksum));
        }
        *image = bytes;
        Ok(true)
    }
}

fn format_error(file: FileName, offset: u64, error: FormatError) -> Unusable {
    Unusable::Format { file: file.path(), offset, error }
}
