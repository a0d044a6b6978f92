//! Reads of files in bounded pieces.
//!
//! Invariant: at most one piece is held and one read is under way. A piece is as long as the window was made for, or as
//! the one range asked for if that is longer; callers ask for long ranges only after a checksum vouched for the length.
//! Does not interpret what is read, nor decide what a failed read means.

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
}

#[derive(Debug)]
struct Piece {
    file: FileName,
    start: u64,
    bytes: Bytes,
    /// The file ends with this piece.
    is_last: bool,
}

#[derive(Debug)]
struct Wanted {
    file: FileName,
    offset: u64,
    length: usize,
    operation: Option<OperationId>,
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
        Self { piece_bytes, piece: None, wanted: None, failed: None }
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
            self.wanted = Some(Wanted { file, offset, length, operation: None });
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
        let Wanted { file, offset, length, .. } = *wanted;
        effects.disk.push(DiskOperation { id, action: DiskAction::Read { file, offset, length } });
        // Not needed while the next one is on its way.
        self.piece = None;
    }

    /// False if the operation is not the window's.
    pub(super) fn handle(&mut self, operation: OperationId, result: &Result<DiskOutput, DiskError>) -> bool {
        let Some(wanted) = self.wanted.take_if(|wanted| wanted.operation == Some(operation)) else { return false };
        match result {
            Ok(DiskOutput::Read(bytes)) => {
                assert!(bytes.len() <= wanted.length, "a read returns no more than was asked for");
                let is_last = bytes.len() < wanted.length;
                self.piece = Some(Piece { file: wanted.file, start: wanted.offset, bytes: bytes.clone(), is_last });
            }
            Ok(DiskOutput::Done | DiskOutput::List(_)) => panic!("a read is answered by bytes"),
            Err(error) => self.failed = Some((wanted.file, *error)),
        }
        true
    }

    /// The read that failed last, for who ends because of it.
    pub(super) fn take_failure(&mut self) -> Option<(FileName, DiskError)> {
        self.failed.take()
    }
}
