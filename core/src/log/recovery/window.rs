//! Reads of WAL files, where a read that fails ends the start, unless it is of a few sectors and their reader can tell.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::{
    ids::{FileSequence, OperationId},
    io::{DiskError, DiskOutput, Effects, Exit, FileName, OperationIds},
    limits::{SECTOR_BYTES, WAL_READ_BYTES, WAL_UNREADABLE_SECTORS_MAX},
    log::window::{self, Fetched},
};

/// See [`window::Window`].
#[derive(Debug)]
pub(super) struct Window {
    window: window::Window,
    /// Files of which the device could not read everything that was asked for.
    unreadable: BTreeSet<FileSequence>,
}

impl Default for Window {
    fn default() -> Self {
        let window = window::Window::new(WAL_READ_BYTES).with_rescue(SECTOR_BYTES, WAL_UNREADABLE_SECTORS_MAX);
        Self { window, unreadable: BTreeSet::new() }
    }
}

impl Window {
    /// The bytes of the range, fewer only at the end of the file; `None` until a read completed. Zeros where the device
    /// cannot read: for callers to whom that is damage like any other.
    pub(super) fn bytes(&mut self, file: FileSequence, offset: u64, length: usize) -> Option<Bytes> {
        match self.window.bytes(FileName::Wal(file), offset, length) {
            Fetched::Bytes(bytes) => {
                if self.window.unreadable(offset, bytes.len()).is_some() {
                    self.unreadable.insert(file);
                }
                Some(bytes)
            }
            Fetched::Wait => None,
            Fetched::Failed(error) => unreachable!("a failed read ended the start: {error}"),
        }
    }

    /// As [`Window::bytes`], for callers to whom missing bytes would look like bytes that were never written.
    ///
    /// # Errors
    ///
    /// [`Exit::DiskFailed`] if some of the range cannot be read.
    pub(super) fn readable_bytes(
        &mut self,
        file: FileSequence,
        offset: u64,
        length: usize,
    ) -> Result<Option<Bytes>, Exit> {
        let Some(bytes) = self.bytes(file, offset, length) else { return Ok(None) };
        match self.window.unreadable(offset, bytes.len()) {
            Some(error) => Err(Exit::DiskFailed { operation: "read", file: FileName::Wal(file).path(), error }),
            None => Ok(Some(bytes)),
        }
    }

    pub(super) fn poll(&mut self, effects: &mut Effects, ids: &mut OperationIds) {
        self.window.poll(effects, ids);
    }

    /// Whether the device could not read all of what was just returned.
    pub(super) fn is_unreadable(&self, offset: u64, length: usize) -> bool {
        self.window.unreadable(offset, length).is_some()
    }

    pub(super) fn unreadable(&self) -> &BTreeSet<FileSequence> {
        &self.unreadable
    }

    /// False if the operation is not the window's.
    pub(super) fn handle(
        &mut self,
        operation: OperationId,
        result: &Result<DiskOutput, DiskError>,
    ) -> Result<bool, Exit> {
        if !self.window.handle(operation, result) {
            return Ok(false);
        }
        match self.window.take_failure() {
            Some((file, error)) => Err(Exit::DiskFailed { operation: "read", file: file.path(), error }),
            None => Ok(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;
    use crate::io::DiskAction;

    const FILE: FileSequence = FileSequence(1);
    const FAILED: Result<DiskOutput, DiskError> = Err(DiskError::Io { errno: 5 });

    /// Answers every read with sevens, but for one block.
    fn run(window: &mut Window, unreadable: Range<u64>, file_bytes: u64) -> Result<(), Exit> {
        let mut ids = OperationIds::default();
        loop {
            let mut effects = Effects::default();
            window.poll(&mut effects, &mut ids);
            let Some(operation) = effects.disk.pop() else { return Ok(()) };
            let DiskAction::Read { offset, length, .. } = operation.action else { panic!("it reads") };
            let end = file_bytes.min(offset + length as u64);
            let result = if offset < unreadable.end && unreadable.start < end {
                FAILED
            } else {
                Ok(DiskOutput::Read(Bytes::from(vec![7; (end - offset) as usize])))
            };
            assert!(window.handle(operation.id, &result)?);
        }
    }

    #[test]
    fn around_a_bad_sector_everything_is_read() {
        let block = SECTOR_BYTES as u64;
        let mut window = Window::default();
        assert_eq!(window.bytes(FILE, 100, 50), None);
        run(&mut window, 3 * block..4 * block, 8 * block).unwrap();
        assert_eq!(window.bytes(FILE, 100, 50), Some(Bytes::from(vec![7; 50])));
        let around = window.bytes(FILE, 3 * block - 1, SECTOR_BYTES + 2).unwrap();
        let sevens = around.iter().filter(|byte| **byte == 7).count();
        assert_eq!((sevens, around[0], around[SECTOR_BYTES + 1]), (2, 7, 7), "zeros in between");
        assert_eq!(window.bytes(FILE, 8 * block - 10, 50).unwrap().len(), 10, "the file ends");

        let readable = window.readable_bytes(FILE, 3 * block - 100, 100);
        assert_eq!(readable, Ok(Some(Bytes::from(vec![7; 100]))));
        let unreadable = window.readable_bytes(FILE, 3 * block - 100, 101);
        assert!(matches!(unreadable, Err(Exit::DiskFailed { operation: "read", .. })), "{unreadable:?}");
    }

    #[test]
    fn a_device_that_reads_nothing_is_broken() {
        let mut window = Window::default();
        window.bytes(FILE, 0, 4 * WAL_UNREADABLE_SECTORS_MAX * SECTOR_BYTES);
        let failed = run(&mut window, 0..u64::MAX, 1 << 40);
        assert!(matches!(failed, Err(Exit::DiskFailed { operation: "read", .. })), "{failed:?}");
    }
}
