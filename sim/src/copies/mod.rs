//! The fault budget: which damage leaves an intact copy of everything, and which partitions may stop because one did not.
//!
//! A cluster must serve everything after the chaos as long as (1) of every entry and every byte of a segment that
//! damage hit, another node holds an intact durable copy, and (2) no more than `disks` nodes of the plan had damage that
//! leaves unknown how far they got: hard states, the last write, identities, wiped, rolled back and lying disks. Such
//! nodes are *spent*: they count for nothing from then on. What would break one of the two rules is held back in
//! ordinary runs. In runs over budget it is dealt all the same, and the groups that it breaks are *forfeited*, with the
//! reason: these and no others may stop, and none may answer wrongly.
//!
//! Invariant: what is intact is read off the platters whenever it is asked for, never remembered, so that repair counts
//! as soon as it is durable. Does not damage anything.

mod checkpoint;
#[cfg(test)]
mod tests;
mod wal;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use bytes::Bytes;
use kauri_core::{
    ids::{GroupId, LogIndex},
    io::{Directory, FileName, SegmentFile},
};

use self::wal::{Entry, Item, Log, Write};
use crate::{dice::Dice, disk::Disk, plan::DiskBudget};

/// So many of a log's newest payloads are new.
const NEW_PAYLOADS: usize = 12;

/// Something that must stay readable on some node.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Entry(Entry),
    /// Bytes of a segment, as they were.
    Segment {
        group: GroupId,
        file: FileName,
        offset: u64,
        bytes: Bytes,
    },
}

/// What damage to a place would mean.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Hit {
    /// Nothing that anyone needs lies there.
    Nothing,
    Pieces(Vec<Piece>),
    /// How far this node got becomes unknown.
    Node(&'static str),
}

/// Damage that may not be dealt, and what it would break.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Excess {
    pub(crate) groups: BTreeSet<GroupId>,
    pub(crate) reason: String,
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups: Vec<String> = self.groups.iter().map(ToString::to_string).collect();
        write!(f, "groups {}: {}", groups.join(", "), self.reason)
    }
}

/// See the module head.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    budget: DiskBudget,
    spent: BTreeSet<usize>,
    /// Nodes that damage was dealt to, of any kind.
    hurt: BTreeSet<usize>,
    /// What pinpoint damage hit, by node.
    pieces: Vec<(usize, Piece)>,
    forfeited: BTreeMap<GroupId, String>,
}

/// All platters at one moment.
pub(crate) struct Platters<'a> {
    disks: Vec<&'a Disk>,
    logs: Vec<Log>,
}

impl<'a> Platters<'a> {
    pub(crate) fn read(disks: Vec<&'a Disk>) -> Self {
        let logs = disks.iter().map(|disk| Log::read(disk)).collect();
        Self { disks, logs }
    }

    /// What lies at a byte of a file of a node.
    fn hit(&self, node: usize, file: FileName, at: u64) -> Hit {
        let sector = at / 512 * 512..(at / 512 + 1) * 512;
        match file {
            FileName::Wal(sequence) => {
                let log = &self.logs[node];
                let touched =
                    log.writes.iter().enumerate().find(|(_, write)| {
                        write.file == sequence && write.offset < sector.end && sector.start < write.end
                    });
                match touched {
                    Some((place, write)) => self.hit_write(node, log, place, write, &sector),
                    None => Hit::Nothing,
                }
            }
            FileName::Segment { group, kind: SegmentFile::Log, .. } => {
                let bytes = self.disks[node].platter(file, sector.start, 512).unwrap_or_default();
                Hit::Pieces(vec![Piece::Segment { group, file, offset: sector.start, bytes }])
            }
            FileName::Segment { group, base, kind: SegmentFile::Checksums } => {
                // They can be made again only from the bytes that they vouch for.
                let log = FileName::Segment { group, base, kind: SegmentFile::Log };
                let bytes = self.disks[node].platter(log, 0, usize::MAX).unwrap_or_default();
                Hit::Pieces(vec![Piece::Segment { group, file: log, offset: 0, bytes }])
            }
            // An older one may do instead, but what this budget knows of a node's entries comes from its WAL alone.
            FileName::Checkpoint(_) | FileName::Image { .. } => Hit::Node("a checkpoint is damaged"),
            FileName::Identity | FileName::IdentityNew => Hit::Node("its identity is damaged"),
        }
    }

    fn hit_write(&self, node: usize, log: &Log, place: usize, write: &Write, sector: &std::ops::Range<u64>) -> Hit {
        let Some(next) = log.writes.get(place + 1) else {
            return Hit::Node("the last write of its log is damaged");
        };
        let is_head = sector.start < write.head_end;
        if is_head && next.number != write.number + 1 {
            return Hit::Node("both copies of a directory are damaged");
        }
        let overlaps = |range: &std::ops::Range<u64>| range.start < sector.end && sector.start < range.end;
        let mut pieces = Vec::new();
        for item in &write.items {
            match item {
                Item::Entry(entry) | Item::Fill(entry) => {
                    if log.is_live(entry) && (is_head || overlaps(entry.payload())) && entry.is_intact(self.disks[node])
                    {
                        pieces.push(Piece::Entry(entry.clone()));
                    }
                }
                Item::Other { payload, .. } => {
                    if overlaps(payload) {
                        return Hit::Node("the payload of a record that is no entry is damaged");
                    }
                }
            }
        }
        // The head also holds the directory of the write before: if that one's head is gone, too, nothing names its
        // records any more.
        let before = place.checked_sub(1).map(|before| &log.writes[before]);
        if is_head && before.is_some_and(|before| before.number + 1 != write.number) {
            return Hit::Node("both copies of a directory are damaged");
        }
        if pieces.is_empty() { Hit::Nothing } else { Hit::Pieces(pieces) }
    }

    /// A byte of the payload of some entry in the log of a node, in a whole unit of it, none in its last write. Most are new: what is old is in
    /// some checkpoint.
    pub(crate) fn pick_payload(&self, node: usize, unit_bytes: u64, dice: &mut Dice) -> Option<(FileName, u64)> {
        let log = &self.logs[node];
        let proven = log.writes.len().saturating_sub(1);
        let payloads: Vec<(FileName, std::ops::Range<u64>)> = log.writes[..proven]
            .iter()
            .flat_map(|write| write.items.iter().map(|item| (write.file, item)))
            .filter_map(|(file, item)| match item {
                Item::Entry(entry) | Item::Fill(entry) if log.is_live(entry) => {
                    let start = entry.payload().start.next_multiple_of(unit_bytes);
                    let end = entry.payload().end / unit_bytes * unit_bytes;
                    (start < end).then_some((FileName::Wal(file), start..end))
                }
                Item::Entry(_) | Item::Fill(_) | Item::Other { .. } => None,
            })
            .collect();
        if payloads.is_empty() {
            return None;
        }
        let from = if dice.below(4) > 0 { payloads.len().saturating_sub(NEW_PAYLOADS) } else { 0 };
        let (file, payload) = dice.pick(&payloads[from..]);
        Some((*file, payload.start + dice.below(payload.end - payload.start)))
    }

    /// Whether a node holds an intact copy.
    fn has(&self, node: usize, piece: &Piece) -> bool {
        match piece {
            Piece::Entry(entry) => {
                let (disk, log) = (self.disks[node], &self.logs[node]);
                log.has_intact(disk, entry) || log.begins_behind(entry.group, entry.index)
            }
            Piece::Segment { file, offset, bytes, .. } => {
                self.disks[node].readable(*file, *offset, bytes.len()).is_some_and(|found| found == *bytes)
            }
        }
    }

    /// How many nodes hold the entry that most of them hold at this index.
    pub(crate) fn copies(&self, group: GroupId, index: LogIndex) -> usize {
        let mut behind = 0;
        let mut held: BTreeMap<_, usize> = BTreeMap::new();
        for (disk, log) in self.disks.iter().zip(&self.logs) {
            if log.begins_behind(group, index) {
                behind += 1;
            } else if let Some(entry) = log.intact(disk, group, index).next() {
                *held.entry(entry).or_default() += 1;
            }
        }
        behind + held.into_values().max().unwrap_or_default()
    }

    /// Nodes with a replica of a group, as far as their platters tell.
    fn holders(&self, group: GroupId) -> impl Iterator<Item = usize> + '_ {
        (0..self.disks.len()).filter(move |node| {
            self.logs[*node].holds_group(group) || !self.disks[*node].list(Directory::Group(group)).is_empty()
        })
    }
}

impl Piece {
    fn group(&self) -> GroupId {
        match self {
            Self::Entry(entry) => entry.group,
            Self::Segment { group, .. } => *group,
        }
    }
}

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entry(entry) => write!(f, "entry {} of group {}", entry.index, entry.group),
            Self::Segment { file, offset, bytes, .. } => {
                write!(f, "{} from byte {offset} to {}", file.path(), offset + bytes.len() as u64)
            }
        }
    }
}

impl Copies {
    pub(crate) fn new(budget: DiskBudget) -> Self {
        Self { budget, ..Self::default() }
    }

    /// Asks whether one byte of a file may be damaged; if so, or if the run is over budget, it counts as done.
    pub(crate) fn deal_place(
        &mut self,
        platters: &Platters<'_>,
        node: usize,
        file: FileName,
        at: u64,
    ) -> Result<(), Excess> {
        match platters.hit(node, file, at) {
            Hit::Nothing => Ok(()),
            Hit::Pieces(pieces) => {
                let excess = self.missing(platters, node, &pieces);
                self.settle(excess)?;
                self.hurt.insert(node);
                self.pieces.extend(pieces.into_iter().map(|piece| (node, piece)));
                Ok(())
            }
            Hit::Node(reason) => self.deal_node(platters, node, reason),
        }
    }

    /// Asks whether a node may become unknown to itself; as [`Copies::deal_place`].
    pub(crate) fn deal_node(&mut self, platters: &Platters<'_>, node: usize, reason: &str) -> Result<(), Excess> {
        if !self.spent.contains(&node) {
            let excess = self.overdrawn(platters, node, reason);
            self.settle(excess)?;
        }
        self.spent.insert(node);
        self.hurt.insert(node);
        Ok(())
    }

    /// A disk that was dealt to is empty now: what was damaged on it is gone, too, and what will be there is intact.
    pub(crate) fn wiped(&mut self, node: usize) {
        assert!(self.spent.contains(&node), "a node that loses its disk counts for nothing any more");
        self.hurt.remove(&node);
        self.pieces.retain(|(hurt, _)| *hurt != node);
    }

    fn settle(&mut self, excess: Option<Excess>) -> Result<(), Excess> {
        match excess {
            None => Ok(()),
            Some(Excess { groups, reason }) if self.budget.over => {
                for group in groups {
                    self.forfeited.entry(group).or_insert_with(|| reason.clone());
                }
                Ok(())
            }
            Some(excess) => Err(excess),
        }
    }

    /// Pieces of which no other node would be left with an intact copy.
    fn missing(&self, platters: &Platters<'_>, node: usize, pieces: &[Piece]) -> Option<Excess> {
        let is_missing = |piece: &&Piece| {
            !(0..platters.disks.len())
                .any(|other| other != node && !self.spent.contains(&other) && platters.has(other, piece))
        };
        let missing: Vec<&Piece> = pieces.iter().filter(is_missing).collect();
        let first = missing.first()?;
        Some(Excess {
            groups: missing.iter().map(|piece| piece.group()).collect(),
            reason: format!("no other node has an intact copy of {first}"),
        })
    }

    fn overdrawn(&self, platters: &Platters<'_>, node: usize, reason: &str) -> Option<Excess> {
        let mut groups = BTreeSet::new();
        let mut why = String::new();
        let spent = |other: usize| other == node || self.spent.contains(&other);
        for group in platters.logs[node].groups() {
            let holders: Vec<usize> = platters.holders(group).collect();
            let left = holders.iter().filter(|holder| !spent(**holder)).count();
            if left * 2 <= holders.len() {
                groups.insert(group);
                why = format!("node {node}: {reason}, and {left} of {} replicas are left", holders.len());
            }
        }
        // What was damaged elsewhere needs a copy that does not lie here.
        for (hurt, piece) in &self.pieces {
            let is_left = |other: usize| !spent(other) && platters.has(other, piece);
            if *hurt != node && platters.has(node, piece) && !(0..platters.disks.len()).any(is_left) {
                groups.insert(piece.group());
                why = format!("node {node}: {reason}, and it has the last intact copy of {piece}");
            }
        }
        let count = self.spent.len() + 1;
        if count > self.budget.disks as usize && groups.is_empty() && !self.budget.over {
            why = format!("node {node}: {reason}, and it would be number {count} of {}", self.budget.disks);
            return Some(Excess { groups, reason: why });
        }
        (!groups.is_empty()).then_some(Excess { groups, reason: why })
    }

    /// Whether a process of this node may find its disk damaged.
    pub(crate) fn is_hurt(&self, node: usize) -> bool {
        self.hurt.contains(&node)
    }

    /// Whether damage was dealt to a node that is more than damage of segments, or more than may be.
    pub(crate) fn is_hurt_beyond_segments(&self, node: usize) -> bool {
        let is_entry = |(hurt, piece): &(usize, Piece)| *hurt == node && matches!(piece, Piece::Entry(_));
        self.budget.over || self.spent.contains(&node) || self.pieces.iter().any(is_entry)
    }

    /// Whether anything but segments was damaged anywhere.
    pub(crate) fn is_anyone_hurt_beyond_segments(&self) -> bool {
        self.hurt.iter().chain(&self.spent).any(|node| self.is_hurt_beyond_segments(*node))
    }

    pub(crate) fn is_over_budget(&self) -> bool {
        self.budget.over
    }

    /// Groups that may stop, and why.
    pub(crate) fn forfeited(&self) -> &BTreeMap<GroupId, String> {
        &self.forfeited
    }
}
