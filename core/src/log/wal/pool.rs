//! WAL files whose content nobody needs any more: each is used again, under a new name, or removed.
//!
//! Invariants: a file leaves the pool once; it keeps its old name until then. A file of which the opening write of this
//! start took something over is held until a later write proves that opening. Only files of the configured size are
//! used again, and none that the device could not read everywhere: behind its last write, a start could not tell what
//! an earlier life left from a write that is lost. Does not decide which files are needed, nor how many bytes are too many.

use std::collections::{BTreeMap, BTreeSet};

use super::Removal;
use crate::{
    ids::{FileSequence, OperationId},
    io::{DiskError, DiskOutput, Effects, Exit, OperationIds},
};

#[derive(Debug)]
pub(in crate::log) struct Pool {
    file_bytes: u64,
    free: BTreeSet<FileSequence>,
    /// With their sizes.
    held: BTreeMap<FileSequence, u64>,
    useless: BTreeMap<FileSequence, u64>,
    /// Files that are never used again, wherever they are now.
    avoided: BTreeSet<FileSequence>,
    removal: Option<(Removal, u64)>,
}

impl Pool {
    pub(in crate::log) fn new(file_bytes: u64) -> Self {
        Self {
            file_bytes,
            free: BTreeSet::new(),
            held: BTreeMap::new(),
            useless: BTreeMap::new(),
            avoided: BTreeSet::new(),
            removal: None,
        }
    }

    /// A file that may be overwritten at once.
    pub(in crate::log) fn add(&mut self, file: FileSequence, size: u64) {
        if size == self.file_bytes && !self.avoided.remove(&file) {
            self.free.insert(file);
        } else {
            self.useless.insert(file, size);
        }
    }

    /// The device could not read some of this file, which is needed yet or is here already.
    pub(in crate::log) fn avoid(&mut self, file: FileSequence) {
        if self.free.remove(&file) {
            self.useless.insert(file, self.file_bytes);
        } else {
            self.avoided.insert(file);
        }
    }

    /// A file that may be overwritten after [`Pool::release_held`].
    pub(in crate::log) fn hold(&mut self, file: FileSequence, size: u64) {
        self.held.insert(file, size);
    }

    pub(in crate::log) fn release_held(&mut self) {
        for (file, size) in std::mem::take(&mut self.held) {
            self.add(file, size);
        }
    }

    /// A file for its next life.
    pub(in crate::log) fn take(&mut self) -> Option<FileSequence> {
        self.free.pop_first()
    }

    /// There is none to take now, but there will be.
    pub(in crate::log) fn is_waiting(&self) -> bool {
        let is_usable = |(file, size): (&FileSequence, &u64)| *size == self.file_bytes && !self.avoided.contains(file);
        self.free.is_empty() && self.held.iter().any(is_usable)
    }

    /// What all of its files take on disk, those under removal included.
    pub(in crate::log) fn bytes(&self) -> u64 {
        let free = self.free.len() as u64 * self.file_bytes;
        let sizes = self.held.values().chain(self.useless.values());
        free + sizes.sum::<u64>() + self.removal.as_ref().map_or(0, |(_, bytes)| *bytes)
    }

    /// Files are on their way out.
    pub(in crate::log) fn is_removing(&self) -> bool {
        !self.useless.is_empty() || self.removal.as_ref().is_some_and(|(removal, _)| !removal.is_done())
    }

    /// Gives up files until so many bytes less are taken, or none is left to give up.
    pub(in crate::log) fn shrink(&mut self, bytes: u64) {
        let mut going = self.useless.values().sum::<u64>() + self.removal.as_ref().map_or(0, |(_, bytes)| *bytes);
        while going < bytes
            && let Some(file) = self.free.pop_first()
        {
            self.useless.insert(file, self.file_bytes);
            going += self.file_bytes;
        }
    }

    pub(in crate::log) fn poll(&mut self, effects: &mut Effects, ids: &mut OperationIds) {
        if self.removal.as_ref().is_some_and(|(removal, _)| removal.is_done()) {
            self.removal = None;
        }
        if self.removal.is_none() && !self.useless.is_empty() {
            let useless = std::mem::take(&mut self.useless);
            let bytes = useless.values().sum();
            self.removal = Some((Removal::new(useless.into_keys().collect()), bytes));
        }
        if let Some((removal, _)) = &mut self.removal {
            removal.poll(effects, ids);
        }
    }

    /// False if the operation is not one of a removal.
    pub(in crate::log) fn handle(
        &mut self,
        operation: OperationId,
        result: &Result<DiskOutput, DiskError>,
    ) -> Result<bool, Exit> {
        match &mut self.removal {
            Some((removal, _)) => removal.handle(operation, result),
            None => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE_BYTES: u64 = 1 << 20;

    #[test]
    fn a_file_with_a_bad_sector_is_never_used_again() {
        let [bad, bad_and_free, bad_and_held, good] = [1, 2, 3, 4].map(FileSequence);
        let mut pool = Pool::new(FILE_BYTES);
        pool.avoid(bad);
        pool.add(bad, FILE_BYTES);
        pool.add(bad_and_free, FILE_BYTES);
        pool.avoid(bad_and_free);
        pool.hold(bad_and_held, FILE_BYTES);
        pool.avoid(bad_and_held);
        assert!(!pool.is_waiting());
        pool.release_held();
        assert_eq!(pool.take(), None);
        pool.add(good, FILE_BYTES);
        assert_eq!(pool.take(), Some(good));
        assert_eq!(pool.bytes(), 3 * FILE_BYTES, "until they are gone");

        let (mut effects, mut ids) = (Effects::default(), OperationIds::default());
        while pool.is_removing() {
            pool.poll(&mut effects, &mut ids);
            for operation in std::mem::take(&mut effects.disk) {
                assert!(pool.handle(operation.id, &Ok(DiskOutput::Done)).unwrap());
            }
        }
        pool.poll(&mut effects, &mut ids);
        assert_eq!((pool.take(), pool.bytes()), (None, 0));
    }
}
