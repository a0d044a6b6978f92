//! Kinds of fault that damage what a disk holds, or lie about it, and which of them a seed may draw; and builds that
//! cannot apply what others can, which are switched on and off as they are.
//!
//! They are kept apart from the other kinds because they need copies: how many nodes may lose how much is the plan's
//! [`DiskBudget`]. Invariant: a kind that is switched on or off leaves everything else of a plan as it was, except that
//! topics of plans with such faults have copies enough.

use std::{collections::BTreeSet, str::FromStr};

use super::{
    CrashKind, DiskFault, Fault, Place, Plan, TimedFault,
    draw::{CHAOS, LAST_END, QUIET_START},
};
use crate::{dice::Dice, time::Span};

/// One kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MediaKind {
    LateSyncError,
    FullDisk,
    SectorError,
    BitRot,
    /// Bits flip in payloads of the write-ahead log, or sectors of them cannot be read, and the node starts anew.
    EntryRot,
    MisdirectedWrite,
    MisdirectedRead,
    PhantomWrite,
    StaleRead,
    Wipe,
    Rollback,
    /// Bit rot in segments and their side files, and nowhere else.
    SegmentRot,
    /// Nodes run a build for a while that cannot apply some records.
    Poison,
}

impl MediaKind {
    pub const ALL: [Self; 13] = [
        Self::LateSyncError,
        Self::FullDisk,
        Self::SectorError,
        Self::BitRot,
        Self::EntryRot,
        Self::MisdirectedWrite,
        Self::MisdirectedRead,
        Self::PhantomWrite,
        Self::StaleRead,
        Self::Wipe,
        Self::Rollback,
        Self::SegmentRot,
        Self::Poison,
    ];

    /// Kinds that the product is to survive today. Add one here when it does.
    pub const DRAWN: [Self; 5] = [Self::FullDisk, Self::EntryRot, Self::SegmentRot, Self::Wipe, Self::Poison];

    pub fn name(self) -> &'static str {
        match self {
            Self::LateSyncError => "late-sync-error",
            Self::FullDisk => "full-disk",
            Self::SectorError => "sector-error",
            Self::BitRot => "bit-rot",
            Self::EntryRot => "entry-rot",
            Self::MisdirectedWrite => "misdirected-write",
            Self::MisdirectedRead => "misdirected-read",
            Self::PhantomWrite => "phantom-write",
            Self::StaleRead => "stale-read",
            Self::Wipe => "wipe",
            Self::Rollback => "rollback",
            Self::SegmentRot => "segment-rot",
            Self::Poison => "poison",
        }
    }
}

/// What disks may do in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskBudget {
    /// Nodes whose disk may lose or hide how far the node got, all at once and over the whole run.
    pub disks: u32,
    /// Damage is dealt whatever it breaks: then some partitions may stop, and none may answer wrongly.
    pub over: bool,
}

/// Which kinds a seed may draw at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swarm {
    pub media: BTreeSet<MediaKind>,
    /// One of so many seeds with such a fault is over budget; zero: none is.
    pub one_over_budget_in: u64,
}

impl Default for Swarm {
    fn default() -> Self {
        Self { media: MediaKind::DRAWN.into_iter().collect(), one_over_budget_in: 4 }
    }
}

/// A name that is no kind of fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no kind of fault \"{name}\"; there are: {known}")]
pub struct UnknownKind {
    name: String,
    known: String,
}

impl FromStr for Swarm {
    type Err = UnknownKind;

    /// `all`, `none`, `default`, or names with commas between them; with `+over` behind it all seeds are over budget,
    /// with `+within` none.
    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        let (kinds, one_over_budget_in) = match (text.strip_suffix("+over"), text.strip_suffix("+within")) {
            (Some(kinds), _) => (kinds, 1),
            (None, Some(kinds)) => (kinds, 0),
            (None, None) => (text, Self::default().one_over_budget_in),
        };
        let media = match kinds {
            "all" => MediaKind::ALL.into_iter().collect(),
            "none" => BTreeSet::new(),
            "default" => Self::default().media,
            names => names
                .split(',')
                .map(|name| {
                    MediaKind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
                        let known: Vec<&str> = MediaKind::ALL.iter().map(|kind| kind.name()).collect();
                        UnknownKind { name: name.to_owned(), known: known.join(", ") }
                    })
                })
                .collect::<Result<_, _>>()?,
        };
        Ok(Self { media, one_over_budget_in })
    }
}

impl Plan {
    /// Draws the faults of these kinds and what they need.
    pub(super) fn add_media_faults(&mut self, swarm: &Swarm) {
        let mut faults = Vec::new();
        for kind in &swarm.media {
            faults.extend(self.draw_media_faults(*kind));
        }
        // A full disk damages nothing, nor does a build.
        let is_damage = |fault: &TimedFault| {
            !matches!(fault.fault, Fault::Disk { fault: DiskFault::Full { .. }, .. } | Fault::Poison { .. })
        };
        let needs_copies = faults.iter().any(is_damage);
        self.faults.extend(faults);
        // Stable: faults of other kinds at the same moment keep their order.
        self.faults.sort_by_key(|fault| fault.at);
        if !needs_copies {
            return;
        }
        let nodes = u32::try_from(self.nodes.len()).expect("few nodes");
        for topic in &mut self.workload.topics {
            topic.replicas = topic.replicas.max(nodes.min(3));
        }
        let voters = u32::try_from(self.nodes.iter().filter(|node| node.voter).count()).expect("few nodes");
        let fewest = self.workload.topics.iter().map(|topic| topic.replicas).fold(voters, u32::min);
        let mut dice = Dice::new(self.seed, "plan disk budget", 0, 0);
        // A cluster that lost most of its disks can say nothing about its partitions: it is broken only on demand.
        let loses_disks =
            self.faults.iter().any(|fault| matches!(fault.fault, Fault::Disk { fault: DiskFault::Wipe { .. }, .. }));
        let one_in = if loses_disks && swarm.one_over_budget_in > 1 { 0 } else { swarm.one_over_budget_in };
        let over = one_in > 0 && dice.below(one_in) == 0;
        self.budget = DiskBudget { disks: (fewest - 1) / 2, over };
    }

    fn draw_media_faults(&self, kind: MediaKind) -> Vec<TimedFault> {
        let mut dice = Dice::new(self.seed, "plan media", 0, kind as usize);
        let mut faults = Vec::new();
        if dice.below(3) > 0 {
            return faults;
        }
        let mean = Span::seconds(*dice.pick(&[8, 20, 40]));
        let mut at = QUIET_START + dice.exponential(mean);
        while at < CHAOS - Span::seconds(10) {
            if kind == MediaKind::Poison {
                faults.push(TimedFault { at, fault: draw_poison(&mut dice, self.nodes.len(), at) });
                at += Span::seconds(5) + dice.exponential(mean);
                continue;
            }
            let node = dice.index(self.nodes.len());
            let fault = draw_fault(kind, &mut dice, CHAOS - LAST_END - at);
            faults.push(TimedFault { at, fault: Fault::Disk { node, fault } });
            if kind == MediaKind::EntryRot {
                // What is in memory hides what became of the disk.
                let down = dice.exponential(Span::milliseconds(800)).min(CHAOS - LAST_END - at);
                let crash = Fault::Crash { nodes: vec![node], kind: CrashKind::Process, down };
                faults.push(TimedFault { at, fault: crash });
            }
            at += Span::milliseconds(1) + dice.exponential(mean);
        }
        faults
    }
}

/// Some, one or all nodes cannot apply records whose turn is about now.
fn draw_poison(dice: &mut Dice, nodes: usize, at: Span) -> Fault {
    let lasting = dice.heavy_tail(Span::seconds(2), Span::seconds(40)).min(CHAOS - LAST_END - at);
    let first = dice.index(nodes);
    let count = *dice.pick(&[1, 1, 2, nodes]);
    let nodes = (0..count.min(nodes)).map(|next| (first + next) % nodes).collect();
    // A producer writes a record every 30 to 120 milliseconds.
    let tenths = u32::try_from(at.0 / Span::milliseconds(100).0).expect("a run lasts minutes");
    Fault::Poison { nodes, number: tenths + u32::try_from(dice.below(300)).expect("few"), lasting }
}

fn draw_fault(kind: MediaKind, dice: &mut Dice, left: Span) -> DiskFault {
    let place = *dice.pick(&[Place::Any, Place::Wal, Place::Wal, Place::Log, Place::Log, Place::Checksums]);
    let within = Span::seconds(10).min(left);
    let down = dice.exponential(Span::milliseconds(800)).min(left);
    let lasting = dice.heavy_tail(Span::seconds(1), Span::seconds(30)).min(left);
    let draw = dice.next_u64();
    match kind {
        MediaKind::LateSyncError => DiskFault::LateSyncError { within, draw },
        MediaKind::FullDisk => DiskFault::Full { room: *dice.pick(&[0, 5_000, 200_000, 2_000_000]), lasting },
        MediaKind::SectorError => {
            DiskFault::SectorError { place, sectors: u32::try_from(dice.range(1, 4)).expect("few"), draw }
        }
        MediaKind::BitRot => DiskFault::BitRot { place, bits: u32::try_from(dice.range(1, 6)).expect("few"), draw },
        MediaKind::EntryRot => {
            let hits = u32::try_from(dice.range(1, 12)).expect("few");
            if dice.coin() {
                DiskFault::BitRot { place: Place::Entries, bits: hits, draw }
            } else {
                DiskFault::SectorError { place: Place::Entries, sectors: hits, draw }
            }
        }
        MediaKind::SegmentRot => DiskFault::BitRot {
            place: *dice.pick(&[Place::Log, Place::Log, Place::Checksums]),
            bits: u32::try_from(dice.range(1, 6)).expect("few"),
            draw,
        },
        MediaKind::Poison => unreachable!("it is no fault of a disk"),
        MediaKind::MisdirectedWrite => DiskFault::MisdirectedWrite { place, within, draw },
        MediaKind::MisdirectedRead => DiskFault::MisdirectedRead { place, within, draw },
        MediaKind::PhantomWrite => DiskFault::PhantomWrite { place, within, draw },
        MediaKind::StaleRead => DiskFault::StaleRead { place, within, draw },
        MediaKind::Wipe => DiskFault::Wipe { down },
        MediaKind::Rollback => {
            let age = dice.exponential(Span::seconds(5)).min(left - down);
            DiskFault::Rollback { age, down }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switching_a_kind_on_leaves_all_other_faults_as_they_were() {
        let none: Swarm = "none".parse().unwrap();
        let rot: Swarm = "bit-rot,wipe".parse().unwrap();
        let mut drawn = 0;
        for seed in 0..60 {
            let without = Plan::draw_with(seed, &none);
            let mut with = Plan::draw_with(seed, &rot);
            let is_media = |fault: &TimedFault| {
                matches!(fault.fault, Fault::Disk { fault: DiskFault::BitRot { .. } | DiskFault::Wipe { .. }, .. })
            };
            drawn += with.faults.iter().filter(|fault| is_media(fault)).count();
            with.faults.retain(|fault| !is_media(fault));
            assert_eq!(with.faults, without.faults, "seed {seed}");
            assert_eq!(with.nodes, without.nodes);
        }
        assert!(drawn > 60, "{drawn}");
    }

    #[test]
    fn poison_is_drawn_and_read_back_as_it_was_written() {
        let swarm: Swarm = "poison".parse().unwrap();
        let mut sizes = BTreeSet::new();
        for seed in 0..60 {
            let plan = Plan::draw_with(seed, &swarm);
            for TimedFault { at, fault } in &plan.faults {
                let Fault::Poison { nodes, lasting, .. } = fault else { continue };
                sizes.insert(nodes.len());
                assert!(*at + *lasting < plan.chaos && nodes.iter().all(|node| *node < plan.nodes.len()));
            }
            assert_eq!(plan.budget, DiskBudget::default(), "no disk loses anything");
            assert_eq!(plan.to_string().parse(), Ok(plan));
        }
        assert!(sizes.contains(&1) && sizes.contains(&3), "{sizes:?}");
    }

    #[test]
    fn a_plan_with_damage_has_copies_and_a_budget() {
        let swarm: Swarm = "all+within".parse().unwrap();
        for seed in 0..100 {
            let plan = Plan::draw_with(seed, &swarm);
            let nodes = plan.nodes.len() as u32;
            assert!(plan.workload.topics.iter().all(|topic| topic.replicas >= nodes.min(3)), "seed {seed}");
            assert!(!plan.budget.over && plan.budget.disks * 2 < nodes, "seed {seed}");
            assert_eq!(plan.to_string().parse(), Ok(plan));
        }
        let over: Swarm = "all+over".parse().unwrap();
        assert!((0..100).any(|seed| Plan::draw_with(seed, &over).budget.over));
        assert!("rot".parse::<Swarm>().unwrap_err().to_string().contains("bit-rot"));
    }
}
