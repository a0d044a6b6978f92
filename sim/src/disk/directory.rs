//! The entries of all directories: which name stands for which file, now and after a power loss.
//!
//! Invariant: a sync makes all changes of its directory durable that were done before it; what comes of the others, the
//! mode of a power loss decides. Directories themselves are created durably by the driver, as the real one does.

use std::collections::BTreeMap;

use kauri_core::io::{Directory, FileName};

use super::file::Sequence;

/// A file, whatever its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Inode(pub(super) u64);

#[derive(Clone, Debug, Default)]
pub(super) struct Entries {
    shown: BTreeMap<FileName, Inode>,
    durable: BTreeMap<FileName, Inode>,
    pending: Vec<(Sequence, Directory, Change)>,
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Link(FileName, Inode),
    Unlink(FileName),
    Rename(FileName, FileName, Inode),
}

/// Which changes of a directory come through a power loss, in the order in which they were done.
#[derive(Clone, Debug)]
pub(super) enum Surviving {
    First(usize),
    These(Vec<bool>),
}

impl Surviving {
    pub(super) fn has(&self, place: usize) -> bool {
        match self {
            Self::First(kept) => place < *kept,
            Self::These(kept) => kept[place],
        }
    }
}

fn apply(change: Change, names: &mut BTreeMap<FileName, Inode>) {
    match change {
        Change::Link(file, inode) => drop(names.insert(file, inode)),
        Change::Unlink(file) => drop(names.remove(&file)),
        Change::Rename(from, to, inode) => {
            names.remove(&from);
            names.insert(to, inode);
        }
    }
}

impl Entries {
    pub(super) fn find(&self, file: FileName) -> Option<Inode> {
        self.shown.get(&file).copied()
    }

    pub(super) fn of(&self, directory: Directory) -> impl Iterator<Item = (FileName, Inode)> + '_ {
        self.all().filter(move |(file, _)| file.directory() == directory)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (FileName, Inode)> + '_ {
        self.shown.iter().map(|(file, inode)| (*file, *inode))
    }

    pub(super) fn durable(&self) -> impl Iterator<Item = (FileName, Inode)> + '_ {
        self.durable.iter().map(|(file, inode)| (*file, *inode))
    }

    pub(super) fn link(&mut self, sequence: Sequence, file: FileName, inode: Inode) {
        self.change(sequence, file.directory(), Change::Link(file, inode));
    }

    pub(super) fn unlink(&mut self, sequence: Sequence, file: FileName) {
        self.change(sequence, file.directory(), Change::Unlink(file));
    }

    pub(super) fn rename(&mut self, sequence: Sequence, from: FileName, to: FileName, inode: Inode) {
        assert_eq!(from.directory(), to.directory(), "a file is renamed within its directory");
        self.change(sequence, from.directory(), Change::Rename(from, to, inode));
    }

    fn change(&mut self, sequence: Sequence, directory: Directory, change: Change) {
        apply(change, &mut self.shown);
        self.pending.push((sequence, directory, change));
    }

    pub(super) fn sync(&mut self, directory: Directory, through: Sequence) {
        let durable = &mut self.durable;
        self.pending.retain(|(sequence, of, change)| {
            let synced = *of == directory && *sequence <= through;
            if synced {
                apply(*change, durable);
            }
            !synced
        });
    }

    /// The power is gone: `surviving` is asked for each directory which of its unsynced changes come through.
    pub(super) fn lose_power(&mut self, mut surviving: impl FnMut(&[Sequence]) -> Surviving) {
        let mut by_directory: BTreeMap<Directory, (Vec<Sequence>, Vec<Change>)> = BTreeMap::new();
        for (sequence, directory, change) in std::mem::take(&mut self.pending) {
            let (sequences, changes) = by_directory.entry(directory).or_default();
            sequences.push(sequence);
            changes.push(change);
        }
        for (sequences, changes) in by_directory.into_values() {
            let surviving = surviving(&sequences);
            for (place, change) in changes.into_iter().enumerate() {
                if surviving.has(place) {
                    apply(change, &mut self.durable);
                }
            }
        }
        self.shown = self.durable.clone();
    }

    pub(super) fn refers_to(&self, inode: Inode) -> bool {
        self.shown.values().chain(self.durable.values()).any(|known| *known == inode)
            || self.pending.iter().any(|(_, _, change)| match change {
                Change::Link(_, linked) | Change::Rename(_, _, linked) => *linked == inode,
                Change::Unlink(_) => false,
            })
    }
}
