//! The power cut: which changes that were not synced survive.
//!
//! Invariant: what was synced survives whatever is chosen, and the same seed after the same changes chooses the same.

use std::{fmt, mem, str::FromStr};

use super::{Change, Disk, DiskError, EntryChange, Kind, NodeId, Sequence, content::Reach};
use crate::random::Random;

/// What a cut leaves of changes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Nothing.
    Nothing,
    /// All up to some moment, with the write at that moment up to some sector: a drive and a file system that keep the
    /// order of everything.
    Prefix,
    /// Any of them, and of writes any sectors: drives and file systems keep no order without a sync.
    Torn,
}

/// What a cut did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CutReport {
    /// Changes of files and of directories that were not synced.
    pub(crate) unsynced: usize,
    /// How many of them survived at least in part.
    pub(crate) survived: usize,
}

#[derive(Debug)]
enum Unsynced {
    File(NodeId, Change),
    Entry(EntryChange),
}

impl FromStr for Keep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "nothing" => Ok(Self::Nothing),
            "prefix" => Ok(Self::Prefix),
            "torn" => Ok(Self::Torn),
            _ => Err(format!("a cut keeps nothing, prefix or torn, not {text}")),
        }
    }
}

impl fmt::Display for CutReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "unsynced={} survived={}", self.unsynced, self.survived)
    }
}

impl Disk {
    /// Cuts the power: everything in memory is gone, but for what `keep` and the seed choose. All nodes but the root are
    /// new ones, and of no use before the power is on again.
    pub(crate) fn cut(&mut self, keep: Keep, seed: u64) -> Result<CutReport, DiskError> {
        // Whatever a disk without power is asked, it has nothing more to lose.
        self.powered = true;
        let mut random = Random::new(seed);
        let unsynced = self.take_unsynced();
        let mut report = CutReport { unsynced: unsynced.len(), survived: 0 };
        let whole = match keep {
            Keep::Nothing => 0,
            Keep::Prefix => random.below(unsynced.len() as u64 + 1) as usize,
            Keep::Torn => unsynced.len(),
        };
        for change in &unsynced[..whole] {
            let torn = (keep == Keep::Torn).then_some(&mut random);
            report.survived += usize::from(self.survive(change, torn)?);
        }
        if keep == Keep::Prefix
            && let Some(Unsynced::File(node, change)) = unsynced.get(whole)
        {
            let sectors = random.below(change.sectors() + 1);
            report.survived += usize::from(self.make_in_file(*node, change, Reach::Sectors(sectors))?);
        }
        self.load()?;
        self.powered = false;
        Ok(report)
    }

    pub(crate) fn switch_on(&mut self) {
        self.powered = true;
    }

    /// In their order.
    fn take_unsynced(&mut self) -> Vec<Unsynced> {
        let mut all: Vec<(Sequence, Unsynced)> = mem::take(&mut self.entry_changes)
            .into_iter()
            .map(|(sequence, change)| (sequence, Unsynced::Entry(change)))
            .collect();
        for (id, node) in &self.nodes {
            if let Kind::File(content) = &node.kind {
                let changes = content.changes().iter();
                all.extend(changes.map(|(sequence, change)| (*sequence, Unsynced::File(*id, change.clone()))));
            }
        }
        all.sort_by_key(|(sequence, _)| *sequence);
        all.into_iter().map(|(_, change)| change).collect()
    }

    /// Whether any of it arrived.
    fn survive(&mut self, change: &Unsynced, torn: Option<&mut Random>) -> Result<bool, DiskError> {
        match (change, torn) {
            (Unsynced::File(node, change), None) => self.make_in_file(*node, change, Reach::Whole),
            (Unsynced::File(node, change), Some(random)) => self.make_in_file(*node, change, Reach::Torn(random)),
            (Unsynced::Entry(change), None) => self.make_alone(change).map(|()| true),
            (Unsynced::Entry(change), Some(random)) => {
                let arrives = random.coin();
                if arrives {
                    self.make_alone(change)?;
                }
                Ok(arrives)
            }
        }
    }

    fn make_in_file(&mut self, id: NodeId, change: &Change, reach: Reach<'_>) -> Result<bool, DiskError> {
        self.give_home(id)?;
        self.open_backing(id)?;
        let backing = self.content(id)?.backing.as_ref().expect("a node with a home has a backing file");
        Ok(change.make(backing, reach)?)
    }
}
