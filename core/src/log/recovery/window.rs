//! Reads of WAL files in bounded pieces.
//!
//! Invariant: at most one piece is held and one read is under way. A piece is [`WAL_READ_BYTES`], or as long as the
//! one range asked for if that is longer; callers ask for long ranges only after a checksum vouched for the length.

use bytes::Bytes;

use crate::{
    ids::{FileSequence, OperationId},
    io::{DiskAction, DiskError, DiskOperation, DiskOutput, Effects, Exit, FileName, OperationIds},
    limits::WAL_READ_BYTES,
};

#[derive(Debug, Default)]
pub(super) struct Window {
    piece: Option<Piece>,
    wanted: Option<Wanted>,
}

#[derive(Debug)]
struct Piece {
    file: FileSequence,
    start: u64,
    bytes: Bytes,
    /// The file ends with this piece.
    is_last: bool,
}

#[derive(Debug)]
struct Wanted {
    file: FileSequence,
    offset: u64,
    length: usize,
    operation: Option<OperationId>,
}

impl Window {
    /// The bytes of the range, fewer only at the end of the file; `None` until a read completed.
    pub(super) fn bytes(&mut self, file: FileSequence, offset: u64, length: usize) -> Option<Bytes> {
        if let Some(piece) = &self.piece
            && piece.file == file
            && piece.start <= offset
        {
            let have = piece.bytes.len();
            let from = usize::try_from(offset - piece.start).unwrap_or(usize::MAX).min(have);
            let to = from.saturating_add(length).min(have);
            if to - from == length || piece.is_last {
                return Some(piece.bytes.slice(from..to));
            }
        }
        if self.wanted.is_none() {
            self.wanted = Some(Wanted { file, offset, length: length.max(WAL_READ_BYTES), operation: None });
        }
        None
    }

    pub(super) fn poll(&mut self, effects: &mut Effects, ids: &mut OperationIds) {
        let Some(wanted) = &mut self.wanted else { return };
        if wanted.operation.is_some() {
            return;
        }
        let id = ids.next_id();
        wanted.operation = Some(id);
        let (file, offset, length) = (FileName::Wal(wanted.file), wanted.offset, wanted.length);
        effects.disk.push(DiskOperation { id, action: DiskAction::Read { file, offset, length } });
        // Not needed while the next one is on its way.
        self.piece = None;
    }

    /// False if the operation is not the window's.
    pub(super) fn handle(
        &mut self,
        operation: OperationId,
        result: &Result<DiskOutput, DiskError>,
    ) -> Result<bool, Exit> {
        let Some(wanted) = self.wanted.take_if(|wanted| wanted.operation == Some(operation)) else {
            return Ok(false);
        };
        let bytes = match result {
            Ok(DiskOutput::Read(bytes)) => bytes.clone(),
            Ok(DiskOutput::Done | DiskOutput::List(_)) => panic!("a read is answered by bytes"),
            Err(error) => {
                let file = FileName::Wal(wanted.file).path();
                return Err(Exit::DiskFailed { operation: "read", file, error: *error });
            }
        };
        assert!(bytes.len() <= wanted.length, "a read returns no more than was asked for");
        let is_last = bytes.len() < wanted.length;
        self.piece = Some(Piece { file: wanted.file, start: wanted.offset, bytes, is_last });
        Ok(true)
    }
}
