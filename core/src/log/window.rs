//! Reads of files in bounded pieces.
//!
//! Invariant: at most one piece is held and one read is under way. A piece is as long as the window was made for, or as
//! the one range asked for if that is longer; callers ask for long ranges only after a checksum vouched for the length.
//! Does not interpret what is read, nor decide what a failed read means.
//!
//! On demand, a piece that the device cannot read is read block by block, and zeros stand for what cannot be read at all:
//! for callers who check what they get, or ask first whether it could be read.

use std::ops::Range;

use bytes::Bytes;

use crate::{
    ids::OperationId,
    io::{DiskAction, DiskError, DiskOperation, DiskOutput, Effects, FileName, OperationIds},
};

#[derive(Debug)]
pub(super) struct Window {
    piece_bytes: usize,
    piece: Option<Piece>,
    wanted: Option<Wanted>,
    failed: Option<(FileName, DiskError)>,
    /// How pieces that cannot be read are read, if they are.
    rescue: Option<Rescue>,
}

#[derive(Debug)]
struct Rescue {
    block_bytes: usize,
    /// Blocks that may fail yet, before the device counts as broken.
    left: usize,
}

#[derive(Debug)]
struct Piece {
    file: FileName,
    start: u64,
    bytes: Bytes,
    /// The file ends with this piece.
    is_last: bool,
    unreadable: Vec<(Range<u64>, DiskError)>,
}

#[derive(Debug)]
struct Wanted {
    file: FileName,
    offset: u64,
    length: usize,
    operation: Option<OperationId>,
    /// It is read block by block.
    blocks: Option<Blocks>,
}

#[derive(Debug)]
struct Blocks {
    block_bytes: usize,
    bytes: Vec<u8>,
    unreadable: Vec<(Range<u64>, DiskError)>,
}

/// What [`Window::bytes`] has.
pub(super) enum Fetched {
    /// Fewer than asked for only at the end of the file.
    Bytes(Bytes),
    /// Poll, and ask again when the read is done.
    Wait,
    /// The last read failed; the next call begins another.
    Failed(DiskError),
}

impl Window {
    /// `piece_bytes`: what is read at once.
    pub(super) fn new(piece_bytes: usize) -> Self {
        Self { piece_bytes, piece: None, wanted: None, failed: None, rescue: None }
    }

    /// Pieces that cannot be read are read in blocks of so many bytes, until so many blocks could not be read.
    pub(super) fn with_rescue(self, block_bytes: usize, blocks_max: usize) -> Self {
        Self { rescue: Some(Rescue { block_bytes, left: blocks_max }), ..self }
    }

    /// Why some of these bytes, which were just returned, are zeros instead of what is on the disk.
    pub(super) fn unreadable(&self, offset: u64, length: usize) -> Option<DiskError> {
        let end = offset + length as u64;
        let unreadable = self.piece.iter().flat_map(|piece| &piece.unreadable);
        let mut hit = unreadable.filter(|(range, _)| range.start < end && offset < range.end);
        hit.next().map(|(_, error)| *error)
    }

    pub(super) fn bytes(&mut self, file: FileName, offset: u64, length: usize) -> Fetched {
        if let Some((_, error)) = self.failed.take() {
            return Fetched::Failed(error);
        }
        if let Some(piece) = &self.piece
            && piece.file == file
            && piece.start <= offset
        {
            let have = piece.bytes.len();
            let from = usize::try_from(offset - piece.start).unwrap_or(usize::MAX).min(have);
            let to = from.saturating_add(length).min(have);
            if to - from == length || piece.is_last {
                return Fetched::Bytes(piece.bytes.slice(from..to));
            }
        }
        if self.wanted.is_none() {
            let length = length.max(self.piece_bytes);
            self.wanted = Some(Wanted { file, offset, length, operation: None, blocks: None });
        }
        Fetched::Wait
    }

    pub(super) fn poll(&mut self, effects: &mut Effects, ids: &mut OperationIds) {
        let Some(wanted) = &mut self.wanted else { return };
        if wanted.operation.is_some() {
            return;
        }
        let id = ids.next_id();
        wanted.operation = Some(id);
        let file = wanted.file;
        let (offset, length) = wanted.next_read();
        effects.disk.push(DiskOperation { id, action: DiskAction::Read { file, offset, length } });
        // Not needed while the next one is on its way.
        self.piece = None;
    }

    /// False if the operation is not the window's.
    pub(super) fn handle(&mut self, operation: OperationId, result: &Result<DiskOutput, DiskError>) -> bool {
        let Some(mut wanted) = self.wanted.take_if(|wanted| wanted.operation == Some(operation)) else { return false };
        wanted.operation = None;
        let (at, asked) = wanted.next_read();
        let read = match result {
            Ok(DiskOutput::Read(bytes)) => {
                assert!(bytes.len() <= asked, "a read returns no more than was asked for");
                Ok(bytes)
            }
            Ok(DiskOutput::Done | DiskOutput::List(_)) => panic!("a read is answered by bytes"),
            Err(error) => Err(*error),
        };
        let (bytes, unreadable) = match (&mut wanted.blocks, read) {
            (None, Ok(bytes)) => (bytes.clone(), Vec::new()),
            (None, Err(error)) => {
                match (error, &self.rescue) {
                    (DiskError::Io { .. }, Some(rescue)) => {
                        let block_bytes = rescue.block_bytes;
                        wanted.blocks = Some(Blocks { block_bytes, bytes: Vec::new(), unreadable: Vec::new() });
                        self.wanted = Some(wanted);
                    }
                    (DiskError::Io { .. } | DiskError::NotFound | DiskError::Full, _) => {
                        self.failed = Some((wanted.file, error));
                    }
                }
                return true;
            }
            (Some(blocks), read) => {
                let is_last = read.is_ok_and(|bytes| bytes.len() < asked);
                match (read, &mut self.rescue) {
                    (Ok(bytes), _) => blocks.bytes.extend_from_slice(bytes),
                    (Err(error @ DiskError::Io { .. }), Some(rescue)) if rescue.left > 0 => {
                        rescue.left -= 1;
                        blocks.unreadable.push((at..at + asked as u64, error));
                        blocks.bytes.resize(blocks.bytes.len() + asked, 0);
                    }
                    (Err(error), _) => {
                        self.failed = Some((wanted.file, error));
                        return true;
                    }
                }
                if !is_last && blocks.bytes.len() < wanted.length {
                    self.wanted = Some(wanted);
                    return true;
                }
                (Bytes::from(std::mem::take(&mut blocks.bytes)), std::mem::take(&mut blocks.unreadable))
            }
        };
        let is_last = bytes.len() < wanted.length;
        self.piece = Some(Piece { file: wanted.file, start: wanted.offset, bytes, is_last, unreadable });
        true
    }

    /// The read that failed last, for who ends because of it.
    pub(super) fn take_failure(&mut self) -> Option<(FileName, DiskError)> {
        self.failed.take()
    }
}

impl Wanted {
    /// What the next operation reads.
    fn next_read(&self) -> (u64, usize) {
        let Some(blocks) = &self.blocks else { return (self.offset, self.length) };
        let at = self.offset + blocks.bytes.len() as u64;
        let in_block = usize::try_from(at % blocks.block_bytes as u64).expect("less than a block");
        (at, (blocks.block_bytes - in_block).min(self.length - blocks.bytes.len()))
    }
}
