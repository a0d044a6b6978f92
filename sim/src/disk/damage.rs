//! What media do to bytes that were safe: rot, unreadable sectors, writes that land elsewhere or nowhere, older states.
//!
//! Invariant: damage to the platter shows at once wherever the page cache has nothing newer under way, as if the page
//! had just been evicted; what a sync dropped shows in the cache until that is forgotten. Does not choose what is hit
//! nor whether it may be.

use std::ops::Range;

use bytes::Bytes;
use kauri_core::io::FileName;

use super::{
    Disk,
    file::{Change, File, Pending, Sequence},
    pages::PAGE_BYTES,
};
use crate::{dice::Dice, plan::Place};

/// In this unit sectors become unreadable, whatever the disk's own are.
pub(crate) const UNREADABLE_BYTES: u64 = 512;

impl File {
    /// The cache again as a kernel that has just read everything would show it.
    fn read_platter_again(&mut self) {
        self.cache = self.durable.clone();
        for Pending { change, .. } in &self.pending {
            change.apply(&mut self.cache);
        }
        self.is_false = false;
    }

    fn is_unreadable(&self, range: &Range<u64>) -> bool {
        let sectors = range.start / UNREADABLE_BYTES..range.end.div_ceil(UNREADABLE_BYTES);
        self.unreadable.range(sectors).next().is_some()
    }

    /// Whether a read of this range meets a sector that cannot be read.
    pub(super) fn has_unreadable(&self, offset: u64, length: usize) -> bool {
        !self.unreadable.is_empty() && self.is_unreadable(&(offset..self.size().min(offset + length as u64)))
    }

    /// A device gives a sector that is written another place.
    pub(super) fn written(&mut self, offset: u64, length: u64) {
        if !self.unreadable.is_empty() {
            let sectors = offset / UNREADABLE_BYTES..(offset + length).div_ceil(UNREADABLE_BYTES);
            self.unreadable.retain(|sector| !sectors.contains(sector));
        }
    }
}

impl Disk {
    /// Bytes that all files take.
    pub(super) fn used(&self) -> u64 {
        self.entries.all().filter_map(|(_, inode)| self.files.get(&inode)).map(File::size).sum()
    }

    pub(crate) fn room_used(&self) -> u64 {
        self.used()
    }

    pub(super) fn size(&self, file: FileName) -> u64 {
        self.of(file).map_or(0, File::size)
    }

    fn of(&self, file: FileName) -> Option<&File> {
        self.files.get(&self.entries.find(file)?)
    }

    fn of_mut(&mut self, file: FileName) -> Option<&mut File> {
        self.files.get_mut(&self.entries.find(file)?)
    }

    /// The files of a kind that would be there after a power loss now, with their sizes.
    pub(crate) fn durable_files(&self, place: Place) -> Vec<(FileName, u64)> {
        let durable = self.entries.durable().filter(|(file, _)| place.holds(*file));
        durable.filter_map(|(file, inode)| Some((file, self.files.get(&inode)?.platter().size()))).collect()
    }

    /// What is on the platter. None if the file has no durable name.
    pub(crate) fn platter(&self, file: FileName, offset: u64, length: usize) -> Option<Bytes> {
        let (_, inode) = self.entries.durable().find(|(name, _)| *name == file)?;
        Some(self.files.get(&inode)?.platter().read(offset, length))
    }

    /// The platter's bytes unless some sector of them cannot be read.
    pub(crate) fn readable(&self, file: FileName, offset: u64, length: usize) -> Option<Bytes> {
        let (_, inode) = self.entries.durable().find(|(name, _)| *name == file)?;
        let file = self.files.get(&inode)?;
        (!file.is_unreadable(&(offset..offset + length as u64))).then(|| file.platter().read(offset, length))
    }

    pub(super) fn peek(&self, file: FileName, offset: u64, length: usize) -> Option<Bytes> {
        Some(self.of(file)?.read(offset, length))
    }

    pub(super) fn has_unsynced(&self, file: FileName, through: Sequence) -> bool {
        self.of(file).is_some_and(|file| file.pending.first().is_some_and(|pending| pending.sequence <= through))
    }

    /// A sync went wrong: what it had to make durable counts as clean, and is on the platter only where `reached` says
    /// so.
    pub(super) fn drop_unsynced(
        &mut self,
        file: FileName,
        through: Sequence,
        mut reached: impl FnMut(&Change) -> bool,
    ) {
        let Some(file) = self.of_mut(file) else { return };
        let dropped = file.pending.partition_point(|pending| pending.sequence <= through);
        for Pending { change, .. } in file.pending.drain(..dropped) {
            if reached(&change) {
                change.apply(&mut file.durable);
            }
        }
        file.is_false |= dropped > 0;
    }

    /// One of the writes that a sync makes durable lands elsewhere, all others where they belong. False if there is
    /// no such write.
    pub(super) fn misdirect(&mut self, dice: &mut Dice, file: FileName, through: Sequence) -> bool {
        let victims: Vec<(FileName, u64)> =
            self.durable_files(Place::Any).into_iter().filter(|(_, size)| *size > 0).collect();
        let Some(own) = self.of_mut(file) else { return false };
        let dropped = own.pending.partition_point(|pending| pending.sequence <= through);
        let astray = own.pending[..dropped].iter().position(|pending| matches!(pending.change, Change::Write { .. }));
        let Some(astray) = astray.filter(|_| !victims.is_empty()) else { return false };
        let mut bytes = Vec::new();
        for (place, Pending { change, .. }) in own.pending.drain(..dropped).enumerate() {
            match change {
                Change::Write { slices, .. } if place == astray => bytes = slices.concat(),
                change => change.apply(&mut own.durable),
            }
        }
        own.is_false = true;
        let (victim, size) = *dice.pick(&victims);
        let page = PAGE_BYTES as u64;
        let at = dice.below(size.div_ceil(page)) * page;
        // A device has no notion of files: what does not fit into this one hits nothing that matters here.
        bytes.truncate(usize::try_from(size - at).expect("simulated files fit into memory"));
        self.overwrite(victim, at, &bytes);
        true
    }

    /// Bytes from some other place of this disk.
    pub(super) fn elsewhere(&self, dice: &mut Dice, not: FileName, length: usize) -> Bytes {
        let files: Vec<(FileName, u64)> =
            self.durable_files(Place::Any).into_iter().filter(|(file, _)| *file != not).collect();
        if files.is_empty() {
            return Bytes::new();
        }
        let (file, size) = *dice.pick(&files);
        let page = PAGE_BYTES as u64;
        let at = dice.below(size.div_ceil(page) + 1) * page;
        self.platter(file, at, length).unwrap_or_default()
    }

    /// Puts other bytes on the platter. The name must be durable.
    pub(crate) fn overwrite(&mut self, file: FileName, offset: u64, bytes: &[u8]) {
        let Some((_, inode)) = self.entries.durable().find(|(name, _)| *name == file) else { return };
        let Some(file) = self.files.get_mut(&inode) else { return };
        file.durable.write(offset, bytes);
        file.read_platter_again();
    }

    /// Makes the sector at this place unreadable.
    pub(crate) fn make_unreadable(&mut self, file: FileName, offset: u64) {
        let Some((_, inode)) = self.entries.durable().find(|(name, _)| *name == file) else { return };
        if let Some(file) = self.files.get_mut(&inode) {
            file.unreadable.insert(offset / UNREADABLE_BYTES);
        }
    }

    /// The kernel forgets every page that is clean.
    pub(crate) fn forget_false_pages(&mut self) {
        self.files.values_mut().filter(|file| file.is_false).for_each(File::read_platter_again);
    }

    /// The disk as a power loss that loses everything would leave it.
    pub(crate) fn durable_state(&self) -> Self {
        let mut copy = self.clone();
        for file in copy.files.values_mut() {
            file.lose_power(|_, _| {});
        }
        copy.entries.lose_power(|_| super::directory::Surviving::First(0));
        copy
    }

    /// Everything is gone, or as it once was.
    pub(crate) fn replace_by(&mut self, other: Option<Self>) {
        let sequence = self.sequence;
        *self = other.unwrap_or_default();
        self.sequence = self.sequence.max(sequence);
    }
}
