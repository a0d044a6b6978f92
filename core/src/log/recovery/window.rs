//! Reads of WAL files, where a read that fails ends the start.

use bytes::Bytes;

use crate::{
    ids::{FileSequence, OperationId},
    io::{DiskError, DiskOutput, Effects, Exit, FileName, OperationIds},
    limits::WAL_READ_BYTES,
    log::window::{self, Fetched},
};

/// See [`window::Window`].
#[derive(Debug)]
pub(super) struct Window(window::Window);

impl Default for Window {
    fn default() -> Self {
        Self(window::Window::new(WAL_READ_BYTES))
    }
}

impl Window {
    /// The bytes of the range, fewer only at the end of the file; `None` until a read completed.
    pub(super) fn bytes(&mut self, file: FileSequence, offset: u64, length: usize) -> Option<Bytes> {
        match self.0.bytes(FileName::Wal(file), offset, length) {
            Fetched::Bytes(bytes) => Some(bytes),
            Fetched::Wait => None,
            Fetched::Failed(error) => unreachable!("a failed read ended the start: {error}"),
        }
    }

    pub(super) fn poll(&mut self, effects: &mut Effects, ids: &mut OperationIds) {
        self.0.poll(effects, ids);
    }

    /// False if the operation is not the window's.
    pub(super) fn handle(
        &mut self,
        operation: OperationId,
        result: &Result<DiskOutput, DiskError>,
    ) -> Result<bool, Exit> {
        if !self.0.handle(operation, result) {
            return Ok(false);
        }
        match self.0.take_failure() {
            Some((file, error)) => Err(Exit::DiskFailed { operation: "read", file: file.path(), error }),
            None => Ok(true),
        }
    }
}
