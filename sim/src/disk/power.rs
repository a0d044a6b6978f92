//! What a power loss leaves of changes that were not synced, mode by mode.
//!
//! Invariant: a change that a completed sync covered survives, with one exception that real devices have, too: in mode E
//! the device was in the middle of a sector, and then the whole sector may be anything, also what was synced in it
//! before. So whoever needs a byte for ever must not write into its sector again. Does not own what is pending:
//! [`super::file`] does.

use super::{
    Disk, REMAINS_MAX,
    directory::Surviving,
    file::{Change, File, Pending, Sequence},
    pages::{PAGE_BYTES, Pages},
};
use crate::{
    bites::{Bite, Bites},
    dice::Dice,
};

/// Runs of sectors of one change that turn into garbage, at most: enough to hit everything that is small.
const GARBAGE_RUNS_MAX: u64 = 48;

/// What survives a power loss beyond what was synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PowerMode {
    /// A: nothing.
    None,
    /// B: a prefix of all operations in the order in which they were done, as with an ordered journal.
    Prefix,
    /// C: any subset of the writes.
    Subset,
    /// D: any subset of the writes, each torn to any subset of its sectors.
    Torn,
    /// E: as D, and sectors that did not survive hold zeros, random bytes or what another file once held.
    Garbage,
    /// F: files have grown, and what they have grown by holds zeros or what another file once held.
    SizeWithoutData,
    /// G: what was written survives, and the new size of the file does not: its tail is not there.
    DataWithoutSize,
    /// H: as D, and the changes of one directory survive independently of each other.
    NamesReordered,
}

impl PowerMode {
    pub const ALL: [Self; 8] = [
        Self::None,
        Self::Prefix,
        Self::Subset,
        Self::Torn,
        Self::Garbage,
        Self::SizeWithoutData,
        Self::DataWithoutSize,
        Self::NamesReordered,
    ];

    pub fn letter(self) -> char {
        match self {
            Self::None => 'A',
            Self::Prefix => 'B',
            Self::Subset => 'C',
            Self::Torn => 'D',
            Self::Garbage => 'E',
            Self::SizeWithoutData => 'F',
            Self::DataWithoutSize => 'G',
            Self::NamesReordered => 'H',
        }
    }
}

/// How a change comes through a power loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Lost,
    Survives,
    /// An arbitrary subset of its sectors survives.
    Torn,
}

/// One power loss of one disk.
pub(super) struct Outage<'a> {
    dice: &'a mut Dice,
    bites: &'a mut Bites,
    mode: PowerMode,
    sector_bytes: u64,
    /// For mode B: one point in the order of all operations.
    cut: Sequence,
    /// For the others a chance for each operation of its own.
    survive_percent: u64,
    lost_before: bool,
    /// What blocks may hold that were allocated and not written.
    remains: Vec<Pages>,
}

impl Disk {
    /// The power is gone, and the page cache with it.
    pub(crate) fn lose_power(&mut self, dice: &mut Dice, mode: PowerMode, sector_bytes: u64, bites: &mut Bites) {
        let oldest = self.sequence.saturating_sub(64);
        let cut = if dice.coin() { dice.range(oldest, self.sequence) } else { dice.range(0, self.sequence) };
        let survive_percent = *dice.pick(&[10u64, 50, 90]);
        let remains = match mode {
            PowerMode::Garbage | PowerMode::SizeWithoutData => {
                // What other files hold now lay somewhere else once, as far as anyone knows.
                self.remains.iter().cloned().chain(self.files.values().map(File::platter).cloned()).collect()
            }
            PowerMode::None
            | PowerMode::Prefix
            | PowerMode::Subset
            | PowerMode::Torn
            | PowerMode::DataWithoutSize
            | PowerMode::NamesReordered => Vec::new(),
        };
        let mut outage = Outage { dice, bites, mode, sector_bytes, cut, survive_percent, lost_before: false, remains };
        for file in self.files.values_mut() {
            file.lose_power(|durable, pending| outage.strike(durable, pending));
        }
        self.entries.lose_power(|sequences| outage.surviving_names(sequences));
        self.forget_unlinked();
    }
}

impl Outage<'_> {
    /// Decides about the unsynced changes of one file.
    fn strike(&mut self, durable: &mut Pages, pending: Vec<Pending>) {
        match self.mode {
            PowerMode::None
            | PowerMode::Prefix
            | PowerMode::Subset
            | PowerMode::Torn
            | PowerMode::Garbage
            | PowerMode::NamesReordered => {
                let mut hurt = Vec::new();
                for Pending { sequence, change } in pending {
                    let fate = self.fate(sequence, &change);
                    self.apply(durable, &change, fate);
                    if fate != Fate::Survives {
                        hurt.push(change);
                    }
                }
                if self.mode == PowerMode::Garbage {
                    hurt.iter().for_each(|change| self.spoil(durable, change));
                }
            }
            PowerMode::SizeWithoutData => {
                for Pending { sequence, change } in pending {
                    self.grow_without_data(durable, sequence, &change);
                }
            }
            PowerMode::DataWithoutSize => self.keep_size(durable, pending),
        }
    }

    fn fate(&mut self, sequence: Sequence, change: &Change) -> Fate {
        let fate = match self.mode {
            PowerMode::None => Fate::Lost,
            PowerMode::Prefix if sequence <= self.cut => Fate::Survives,
            PowerMode::Prefix => Fate::Lost,
            PowerMode::Subset
            | PowerMode::Torn
            | PowerMode::Garbage
            | PowerMode::SizeWithoutData
            | PowerMode::DataWithoutSize
            | PowerMode::NamesReordered => {
                if self.dice.below(100) >= self.survive_percent {
                    Fate::Lost
                } else if self.mode != PowerMode::Subset && change.length() > self.sector_bytes {
                    Fate::Torn
                } else {
                    Fate::Survives
                }
            }
        };
        match fate {
            Fate::Lost => {
                self.lost_before = true;
                self.bites.add(Bite::UnsyncedLost);
            }
            Fate::Torn => self.bites.add(Bite::TornWrite),
            Fate::Survives => self.bites.add_if(self.lost_before, Bite::Reordered),
        }
        fate
    }

    fn apply(&mut self, durable: &mut Pages, change: &Change, fate: Fate) {
        match fate {
            Fate::Lost => {}
            Fate::Survives => change.apply(durable),
            Fate::Torn => tear(self.dice, self.sector_bytes, change, durable),
        }
    }

    /// Turns some sectors of a change that did not survive as a whole into something else.
    fn spoil(&mut self, durable: &mut Pages, change: &Change) {
        let first = change.offset() / self.sector_bytes;
        let end = (change.offset() + change.length()).div_ceil(self.sector_bytes);
        let mut sector = first;
        let mut runs = 0;
        // A few sectors at a time, over the whole change even if that is large.
        let longest = 1 + (end - first) / 8;
        while sector < end && runs < GARBAGE_RUNS_MAX {
            let run = self.dice.range(1, longest).min(end - sector);
            if self.dice.coin() {
                let hit = run.min(self.dice.range(1, 16));
                self.fill_with_garbage(durable, sector * self.sector_bytes, hit * self.sector_bytes);
                runs += 1;
            }
            sector += run;
        }
    }

    /// Whatever lies in the range and within the file is anything from now on.
    fn fill_with_garbage(&mut self, durable: &mut Pages, offset: u64, length: u64) {
        let end = (offset + length).min(durable.size());
        if offset >= end {
            return;
        }
        let length = end - offset;
        self.bites.add(Bite::SectorGarbage);
        match self.dice.below(4) {
            0 => durable.zero(offset, length),
            1 => self.fill_with_remains(durable, offset, length),
            _ => {
                let mut bytes = vec![0; usize::try_from(length).expect("a few sectors")];
                for chunk in bytes.chunks_mut(8) {
                    chunk.copy_from_slice(&self.dice.next_u64().to_le_bytes()[..chunk.len()]);
                }
                durable.write(offset, &bytes);
            }
        }
    }

    /// What another file holds, or a removed one held, at some place.
    fn fill_with_remains(&mut self, durable: &mut Pages, offset: u64, length: u64) {
        durable.zero(offset, length);
        if self.remains.is_empty() {
            return;
        }
        let from = self.dice.index(self.remains.len());
        let from = &self.remains[from];
        let page = PAGE_BYTES as u64;
        // The very place the bytes would have in a file of the same kind, or any other.
        let at = if self.dice.coin() { offset } else { self.dice.below(from.size() / page + 1) * page + offset % page };
        let bytes = from.read(at, usize::try_from(length).expect("simulated files fit into memory"));
        durable.write(offset, &bytes);
    }

    /// Mode F. What a change adds to the file is there; what it holds is another matter.
    fn grow_without_data(&mut self, durable: &mut Pages, sequence: Sequence, change: &Change) {
        let (start, size) = (change.offset(), durable.size());
        let end = match change {
            Change::Write { .. } | Change::Zero { .. } => start + change.length(),
            Change::Resize { size } => *size,
        };
        if end <= size {
            let fate = self.fate(sequence, change);
            self.apply(durable, change, fate);
            return;
        }
        durable.resize(end);
        match self.dice.below(3) {
            // Blocks that were allocated and never written hold whatever they held before.
            0 => {
                self.bites.add(Bite::SizeWithoutData);
                let mut at = start.max(size);
                while at < end {
                    let page = PAGE_BYTES as u64;
                    let run = (self.dice.range(1, 64) * page - at % page).min(end - at);
                    if self.dice.coin() {
                        self.fill_with_remains(durable, at, run);
                    }
                    at += run;
                }
            }
            1 => self.bites.add(Bite::SizeWithoutData),
            _ => self.apply(durable, change, Fate::Survives),
        }
        assert!(durable.size() >= end, "in this mode files have grown");
    }

    /// Mode G. Sizes do not survive, or only older ones.
    fn keep_size(&mut self, durable: &mut Pages, pending: Vec<Pending>) {
        let mut sizes = vec![durable.size()];
        for Pending { sequence, change } in pending {
            match &change {
                Change::Resize { .. } => self.bites.add(Bite::UnsyncedLost),
                Change::Write { .. } | Change::Zero { .. } => {
                    let fate = self.fate(sequence, &change);
                    self.apply(durable, &change, fate);
                    sizes.push(durable.size());
                }
            }
        }
        let all = durable.size();
        let kept = if self.dice.below(4) > 0 { sizes[0] } else { *self.dice.pick(&sizes) };
        self.bites.add_if(kept < all, Bite::DataWithoutSize);
        durable.resize(kept);
    }

    /// Which of the unsynced changes of one directory survive.
    fn surviving_names(&mut self, sequences: &[Sequence]) -> Surviving {
        let surviving = match self.mode {
            PowerMode::None => Surviving::First(0),
            PowerMode::Prefix => Surviving::First(sequences.partition_point(|sequence| *sequence <= self.cut)),
            PowerMode::Subset
            | PowerMode::Torn
            | PowerMode::Garbage
            | PowerMode::SizeWithoutData
            | PowerMode::DataWithoutSize => Surviving::First(self.dice.index(sequences.len() + 1)),
            PowerMode::NamesReordered => {
                let kept: Vec<bool> = sequences.iter().map(|_| self.dice.coin()).collect();
                self.bites.add_if(kept.windows(2).any(|pair| !pair[0] && pair[1]), Bite::NamesReordered);
                Surviving::These(kept)
            }
        };
        for place in 0..sequences.len() {
            self.bites.add_if(!surviving.has(place), Bite::DirectoryEntryLost);
        }
        surviving
    }
}

/// Applies an arbitrary subset of the sectors of a change: runs of random length, each kept or lost by a coin.
pub(super) fn tear(dice: &mut Dice, sector_bytes: u64, change: &Change, pages: &mut Pages) {
    let sectors = change.length().div_ceil(sector_bytes);
    let longest_run = 1 + dice.below(sectors.clamp(1, 32));
    // The first sector may start in the middle, as the file's sectors do not move with the write.
    let misalignment = change.offset() % sector_bytes;
    let mut sector = 0;
    while sector <= sectors {
        let run = dice.range(1, longest_run);
        if dice.coin() {
            let start = (sector * sector_bytes).saturating_sub(misalignment);
            let end = ((sector + run) * sector_bytes - misalignment).min(change.length());
            if start < end {
                change.apply_range(pages, start, end);
            }
        }
        sector += run;
    }
}

/// Keeps what a removed file held, for [`PowerMode::Garbage`] and [`PowerMode::SizeWithoutData`].
pub(super) fn keep_remains(remains: &mut std::collections::VecDeque<Pages>, file: &File) {
    if file.platter().size() > 0 {
        remains.push_back(file.platter().clone());
        if remains.len() > REMAINS_MAX {
            remains.pop_front();
        }
    }
}
