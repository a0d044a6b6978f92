//! What one file holds, and what of it would survive.
//!
//! The backing file holds what was synced. Everything since lies in memory twice, sharing its bytes: as extents over the
//! backing file, which answer reads, and as the list of changes in their order, from which a cut chooses. Invariant:
//! the backing file with all changes made is what reads return.

use std::{collections::BTreeMap, fs::File, io, ops::Range, os::unix::fs::FileExt};

use bytes::Bytes;

use super::Sequence;
use crate::random::Random;

/// What a drive writes wholly or not at all.
pub(crate) const SECTOR_BYTES: u64 = 512;

static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// One change of a file.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Write { offset: u64, bytes: Bytes },
    SetLength(u64),
}

/// How much of a change reaches the disk.
#[derive(Debug)]
pub(super) enum Reach<'random> {
    Whole,
    /// So many sectors from its beginning.
    Sectors(u64),
    /// Each sector for itself, or none at all; and the length of the file perhaps without the sectors.
    Torn(&'random mut Random),
}

#[derive(Debug, Default)]
pub(super) struct Content {
    length: u64,
    /// Bytes of the backing file below this belong to the file, unless an extent lies over them. Never above `length`.
    solid: u64,
    /// By their first byte; they do not overlap.
    extents: BTreeMap<u64, Bytes>,
    changes: Vec<(Sequence, Change)>,
    /// Since the last sync it was cut down to nothing.
    emptied: bool,
    /// The backing file, once it was needed and as long as the file is used.
    pub(super) backing: Option<File>,
}

impl Change {
    /// Writes of zeros that together cover a range.
    pub(crate) fn zeros(range: Range<u64>) -> Vec<Self> {
        let mut changes = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let piece = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(ZEROS.len());
            changes.push(Self::Write { offset: at, bytes: Bytes::from_static(&ZEROS[..piece]) });
            at += piece as u64;
        }
        changes
    }

    /// How many sectors it touches; none if it writes nothing.
    pub(super) fn sectors(&self) -> u64 {
        match self {
            Self::Write { bytes, .. } if bytes.is_empty() => 0,
            Self::Write { offset, bytes } => {
                (offset + bytes.len() as u64).div_ceil(SECTOR_BYTES) - offset / SECTOR_BYTES
            }
            Self::SetLength(_) => 0,
        }
    }

    /// Makes the change in the backing file, as far as it reaches. Whether any of it arrived.
    pub(super) fn make(&self, file: &File, reach: Reach<'_>) -> io::Result<bool> {
        match (self, reach) {
            (Self::SetLength(length), Reach::Whole) => file.set_len(*length).map(|()| true),
            (Self::SetLength(_), Reach::Sectors(_)) => Ok(false),
            (Self::SetLength(length), Reach::Torn(random)) => {
                let arrives = random.coin();
                if arrives {
                    file.set_len(*length)?;
                }
                Ok(arrives)
            }
            (Self::Write { offset, bytes }, Reach::Whole) => file.write_all_at(bytes, *offset).map(|()| true),
            (Self::Write { offset, bytes }, Reach::Sectors(count)) => {
                let end = (offset / SECTOR_BYTES + count) * SECTOR_BYTES;
                let length = usize::try_from(end.saturating_sub(*offset)).unwrap_or(usize::MAX).min(bytes.len());
                file.write_all_at(&bytes[..length], *offset)?;
                Ok(length > 0)
            }
            (Self::Write { offset, bytes }, Reach::Torn(random)) => write_torn(file, *offset, bytes, random),
        }
    }
}

/// A third of all writes arrives, a third does not, and of the rest each sector arrives or not. The file may get longer
/// although the bytes that made it longer did not arrive: it has zeros there then.
fn write_torn(file: &File, offset: u64, bytes: &Bytes, random: &mut Random) -> io::Result<bool> {
    let kind = random.below(3);
    let end = offset + bytes.len() as u64;
    let mut arrived = false;
    let mut at = offset;
    while at < end {
        let next = ((at / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
        if kind == 1 || kind == 2 && random.coin() {
            let range = (at - offset) as usize..(next - offset) as usize;
            file.write_all_at(&bytes[range], at)?;
            arrived = true;
        }
        at = next;
    }
    if random.coin() && file.metadata()?.len() < end {
        file.set_len(end)?;
    }
    Ok(arrived)
}

impl Content {
    /// Of a backing file with this length.
    pub(super) fn durable(length: u64) -> Self {
        Self { length, solid: length, ..Self::default() }
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn was_emptied(&self) -> bool {
        self.emptied
    }

    /// What was not synced, in order.
    pub(super) fn changes(&self) -> &[(Sequence, Change)] {
        &self.changes
    }

    pub(super) fn change(&mut self, sequence: Sequence, change: Change) {
        match &change {
            Change::Write { offset, bytes } => self.lay_over(*offset, bytes.clone()),
            Change::SetLength(length) => {
                self.clear(*length..u64::MAX);
                self.emptied |= *length == 0 && self.length > 0;
                self.length = *length;
                self.solid = self.solid.min(*length);
            }
        }
        self.changes.push((sequence, change));
    }

    /// Up to `length` bytes, fewer at the end of the file.
    pub(super) fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let end = self.length.min(offset.saturating_add(length as u64));
        let Some(count) = end.checked_sub(offset) else { return Ok(Vec::new()) };
        let mut bytes = vec![0; count as usize];
        let solid = self.solid.clamp(offset, end);
        if solid > offset {
            let backing = self.backing.as_ref().expect("whoever reads has opened the backing file");
            backing.read_exact_at(&mut bytes[..(solid - offset) as usize], offset)?;
        }
        // The last extent that begins before the range may reach into it.
        let first = self.extents.range(..=offset).next_back().map_or(offset, |(start, _)| *start);
        for (start, extent) in self.extents.range(first..end) {
            let from = (*start).max(offset);
            let to = (start + extent.len() as u64).min(end);
            if from < to {
                let source = &extent[(from - start) as usize..(to - start) as usize];
                bytes[(from - offset) as usize..(to - offset) as usize].copy_from_slice(source);
            }
        }
        Ok(bytes)
    }

    /// Makes all changes in the backing file, which must be open if there are any.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.changes.is_empty() {
            return Ok(());
        }
        let backing = self.backing.as_ref().expect("whoever syncs changes has opened the backing file");
        for (_, change) in &self.changes {
            change.make(backing, Reach::Whole)?;
        }
        self.changes.clear();
        self.extents.clear();
        self.emptied = false;
        self.solid = self.length;
        Ok(())
    }

    fn lay_over(&mut self, offset: u64, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len() as u64;
        self.clear(offset..end);
        self.extents.insert(offset, bytes);
        self.length = self.length.max(end);
    }

    /// Takes extents away from a range, cutting those that reach over its ends.
    fn clear(&mut self, range: Range<u64>) {
        if let Some((&start, extent)) = self.extents.range_mut(..range.start).next_back() {
            let end = start + extent.len() as u64;
            if end > range.start {
                let rest = extent.split_off((range.start - start) as usize);
                if end > range.end {
                    self.extents.insert(range.end, rest.slice((range.end - range.start) as usize..));
                }
            }
        }
        while let Some((&start, _)) = self.extents.range(range.clone()).next() {
            let extent = self.extents.remove(&start).expect("it was just found");
            if start + extent.len() as u64 > range.end {
                self.extents.insert(range.end, extent.slice((range.end - start) as usize..));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Content over a backing file of ones, and the same as a plain vector.
    struct Pair {
        content: Content,
        plain: Vec<u8>,
        directory: tempfile::TempDir,
    }

    impl Pair {
        fn new(length: usize) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("file");
            std::fs::write(&path, vec![1; length]).unwrap();
            let mut content = Content::durable(length as u64);
            content.backing = Some(File::options().read(true).write(true).open(path).unwrap());
            Self { content, plain: vec![1; length], directory }
        }

        fn change(&mut self, change: Change) {
            match &change {
                Change::Write { offset, bytes } => {
                    let end = *offset as usize + bytes.len();
                    if self.plain.len() < end && !bytes.is_empty() {
                        self.plain.resize(end, 0);
                    }
                    self.plain[*offset as usize..end].copy_from_slice(bytes);
                }
                Change::SetLength(length) => self.plain.resize(*length as usize, 0),
            }
            self.content.change(Sequence(0), change);
        }

        fn backing(&self) -> Vec<u8> {
            std::fs::read(self.directory.path().join("file")).unwrap()
        }
    }

    #[test]
    fn reads_see_every_change_and_the_backing_file_only_after_a_sync() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let mut pair = Pair::new(random.below(3000) as usize);
            let before = pair.plain.clone();
            for number in 0..random.below(40) {
                let offset = random.below(4000);
                let change = match random.below(5) {
                    0 => Change::SetLength(offset),
                    _ => {
                        let offset = offset.min(pair.plain.len() as u64 + 600);
                        let bytes = vec![number as u8 + 2; random.below(1500) as usize + 1];
                        Change::Write { offset, bytes: bytes.into() }
                    }
                };
                pair.change(change);
                let (from, length) = (random.below(5000), random.below(3000) as usize);
                let from_plain = (from as usize).min(pair.plain.len());
                let to_plain = (from as usize + length).clamp(from_plain, pair.plain.len());
                assert_eq!(pair.content.read(from, length).unwrap(), pair.plain[from_plain..to_plain], "seed {seed}");
            }
            assert_eq!(pair.content.length(), pair.plain.len() as u64);
            assert_eq!(pair.backing(), before, "nothing arrives before a sync");
            pair.content.sync().unwrap();
            assert_eq!(pair.backing(), pair.plain, "seed {seed}");
            assert_eq!(pair.content.read(0, usize::MAX).unwrap(), pair.plain);
        }
    }

    #[test]
    fn a_torn_write_arrives_sector_by_sector() {
        let mut kinds = [0; 3];
        for seed in 0..100 {
            let pair = Pair::new(8192);
            let change = Change::Write { offset: 700, bytes: vec![2; 4000].into() };
            change.make(pair.content.backing.as_ref().unwrap(), Reach::Torn(&mut Random::new(seed))).unwrap();
            let found = pair.backing();
            assert_eq!(found.len(), 8192);
            let twos = found.iter().filter(|byte| **byte == 2).count();
            kinds[match twos {
                0 => 0,
                4000 => 1,
                _ => 2,
            }] += 1;
            for sector in (700_usize / 512 + 1)..4700 / 512 {
                let sector = &found[sector * 512..(sector + 1) * 512];
                assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is written wholly or not at all");
            }
        }
        assert!(kinds.iter().all(|count| *count > 15), "nothing, everything and something: {kinds:?}");
    }

    #[test]
    fn zeros_cover_a_range() {
        let mut pair = Pair::new(5000);
        Change::zeros(100..(3 << 20)).into_iter().for_each(|change| pair.change(change));
        assert_eq!(pair.plain.len(), 3 << 20);
        assert_eq!(pair.content.read(0, usize::MAX).unwrap(), pair.plain);
        assert_eq!(Change::Write { offset: 511, bytes: Bytes::from_static(b"ab") }.sectors(), 2);
    }
}
