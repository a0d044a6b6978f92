//! Faults of disks: begins and ends those of a plan, and says what a process must make of an error.
//!
//! Invariant: after a failed write or sync (for any reason but a full disk) the process ends in the turn in which it
//! hears of it, and the next one reads the disk, not the cache of a kernel that gave up. Does not own what an operation
//! returns: the disk does.

use std::collections::BTreeMap;

use kauri_core::{
    ids::{GroupId, LogIndex},
    io::{DiskError, Exit, FileName},
};

use crate::{
    bites::Bite,
    check::{
        inside::committed_is_durable::{self, Found},
        may_stop::Stopped,
        refilled,
    },
    copies::Platters,
    core::{Core, Depth},
    dice::Dice,
    disk::{Disk, Trap, damage::UNREADABLE_BYTES},
    failure::Failure,
    node::Node,
    plan::{CrashKind, DiskFault, Place},
    time::Span,
    workload,
    world::{World, trace},
};

/// Places that are tried before a fault finds nothing to hit.
const PICKS_MAX: usize = 32;
/// Of each group the newest entries, when what is committed is compared with what is durable.
const AUDITED_ENTRIES: u64 = 16;
/// A process that ended because of its disk is started again after this, as a supervisor would.
const RESTART: Span = Span::seconds(1);
const RESTART_DAMAGED: Span = Span::seconds(5);

impl<C: Core> World<C> {
    /// How long it lasts, if it does not end by itself.
    pub(crate) fn disk_fault_begins(&mut self, entry: usize, node: usize, fault: DiskFault) -> Option<Span> {
        let now = self.schedule.now();
        let name = fault.name();
        let dice = |draw| Dice::new(draw, name, node, 0);
        let spends = match &fault {
            DiskFault::LateSyncError { .. } | DiskFault::PhantomWrite { .. } => Some("its disk lies about a sync"),
            DiskFault::MisdirectedWrite { .. } => Some("a write goes astray"),
            DiskFault::MisdirectedRead { .. } | DiskFault::StaleRead { .. } => Some("its disk returns other bytes"),
            DiskFault::Wipe { .. } => Some("its disk is empty"),
            // When the copy is put in its place.
            DiskFault::Rollback { .. }
            | DiskFault::SyncError { .. }
            | DiskFault::Broken { .. }
            | DiskFault::Full { .. }
            | DiskFault::SectorError { .. }
            | DiskFault::BitRot { .. } => None,
        };
        if let Some(reason) = spends
            && !self.may_spend(node, reason)
        {
            return None;
        }
        let queue = &mut self.nodes[node].queue;
        match fault {
            DiskFault::SyncError { within, draw } => queue.arm(Trap::SyncError, now + within, dice(draw)),
            DiskFault::LateSyncError { within, draw } => queue.arm(Trap::LateSyncError, now + within, dice(draw)),
            DiskFault::PhantomWrite { place, within, draw } => {
                queue.arm(Trap::PhantomWrite(place), now + within, dice(draw));
            }
            DiskFault::MisdirectedWrite { place, within, draw } => {
                queue.arm(Trap::MisdirectedWrite(place), now + within, dice(draw));
            }
            DiskFault::MisdirectedRead { place, within, draw } => {
                queue.arm(Trap::MisdirectedRead(place), now + within, dice(draw));
            }
            DiskFault::StaleRead { place, within, draw } => {
                let before = Box::new(queue.disk().durable_state());
                queue.arm(Trap::StaleRead(place, before), now + within, dice(draw));
            }
            DiskFault::Broken { read_only, lasting } => {
                queue.set_broken(Some(read_only));
                return Some(lasting);
            }
            DiskFault::Full { room, lasting } => {
                queue.set_room(Some(room));
                return Some(lasting);
            }
            DiskFault::SectorError { place, sectors, draw } => {
                let mut dice = dice(draw);
                for _ in 0..sectors {
                    if let Some((file, at)) = self.deal_place(node, place, UNREADABLE_BYTES, &mut dice) {
                        self.nodes[node].queue.disk_mut().make_unreadable(file, at);
                    }
                }
            }
            DiskFault::BitRot { place, bits, draw } => {
                let mut dice = dice(draw);
                for _ in 0..bits {
                    if let Some((file, at)) = self.deal_place(node, place, 1, &mut dice) {
                        let disk = self.nodes[node].queue.disk_mut();
                        let byte = disk.platter(file, at, 1).expect("it has a durable name")[0];
                        disk.overwrite(file, at, &[byte ^ (1 << dice.below(8))]);
                        self.bites.add(Bite::BitRot);
                    }
                }
            }
            DiskFault::Wipe { down } => {
                self.bites.add(Bite::Wipe);
                self.crash(node, CrashKind::Power, down);
                self.nodes[node].queue.disk_mut().replace_by(None);
                self.copies.wiped(node);
                let lost = self.nodes[node].view.groups.iter().map(|group| (group.group, group.replica));
                self.lost.extend(lost);
                self.deliver();
            }
            DiskFault::Rollback { age, .. } => {
                let copy = queue.disk().durable_state();
                self.nodes[node].copies.insert(entry, copy);
                return Some(age);
            }
        }
        None
    }

    pub(crate) fn disk_fault_ends(&mut self, entry: usize, node: usize, fault: &DiskFault) {
        let queue = &mut self.nodes[node].queue;
        match fault {
            DiskFault::Broken { .. } => queue.set_broken(None),
            DiskFault::Full { .. } => queue.set_room(None),
            DiskFault::Rollback { down, .. } => {
                let copy = self.nodes[node].copies.remove(&entry).expect("made when the fault began");
                if self.may_spend(node, "its disk is an older one") {
                    self.bites.add(Bite::Rollback);
                    self.crash(node, CrashKind::Power, *down);
                    self.nodes[node].queue.disk_mut().replace_by(Some(copy));
                    self.deliver();
                }
            }
            DiskFault::SyncError { .. }
            | DiskFault::LateSyncError { .. }
            | DiskFault::SectorError { .. }
            | DiskFault::BitRot { .. }
            | DiskFault::MisdirectedWrite { .. }
            | DiskFault::MisdirectedRead { .. }
            | DiskFault::PhantomWrite { .. }
            | DiskFault::StaleRead { .. }
            | DiskFault::Wipe { .. } => unreachable!("these end by themselves"),
        }
    }

    /// Whether a node may become unknown to itself, by the budget.
    fn may_spend(&mut self, node: usize, reason: &str) -> bool {
        let platters = Platters::read(self.nodes.iter().map(|node| node.queue.disk()).collect());
        match self.copies.deal_node(&platters, node, reason) {
            Ok(()) => true,
            Err(excess) => {
                trace!(self, "held back: {excess}");
                false
            }
        }
    }

    /// A place in the files of a node that may be damaged, with everything in the same unit. None if there is none, or
    /// none was found.
    fn deal_place(&mut self, node: usize, place: Place, unit_bytes: u64, dice: &mut Dice) -> Option<(FileName, u64)> {
        let platters = Platters::read(self.nodes.iter().map(|node| node.queue.disk()).collect());
        for _ in 0..PICKS_MAX {
            let (file, at) = match place {
                Place::Entries => platters.pick_payload(node, unit_bytes, dice)?,
                Place::Any | Place::Identity | Place::Wal | Place::Log | Place::Checksums => {
                    pick_place(self.nodes[node].queue.disk(), place, dice)?
                }
            };
            match self.copies.deal_place(&platters, node, file, at) {
                Ok(()) => {
                    trace!(self, "node {node}: byte {at} of {} is damaged", file.path());
                    return Some((file, at));
                }
                Err(excess) => trace!(self, "held back: {excess}"),
            }
        }
        None
    }

    /// Whether a process may end like this: its disk failed, as it was told, or is damaged, as it found.
    pub(crate) fn may_end(&self, index: usize, exit: &Exit) -> bool {
        let process = self.nodes[index].process.as_ref().expect("it ends now");
        let is_hurt = self.copies.is_hurt(index);
        match exit {
            Exit::DiskFailed { error: DiskError::Io { .. }, .. } => process.told_errors.io,
            Exit::DiskFailed { error: DiskError::Full, .. } => process.told_errors.full,
            Exit::DiskFailed { error: DiskError::NotFound, .. } | Exit::Damaged { .. } | Exit::Refused(_) => is_hurt,
            Exit::Stopped => false,
        }
    }

    /// After a turn in which a process heard that a write or sync had failed.
    pub(crate) fn must_have_ended(&mut self, index: usize, start: u32) -> Result<(), Failure> {
        if self.nodes[index].starts == start && self.nodes[index].process.is_some() {
            let explanation = format!("node {index} goes on although a write or sync of it failed");
            return Err(Failure::new("disk_failure_ends_process", explanation).at(self.schedule.now()));
        }
        Ok(())
    }

    /// The process of a node ended because of its disk; returns after which time it starts again.
    pub(crate) fn disk_failed(&mut self, index: usize, exit: &Exit) -> Span {
        let node = &mut self.nodes[index];
        node.queue.disk_mut().forget_false_pages();
        node.loud = Some(exit.to_string());
        match exit {
            Exit::DiskFailed { .. } | Exit::Stopped => RESTART,
            // A supervisor gives up more and more; what is damaged stays so until someone else repairs it.
            Exit::Damaged { .. } | Exit::Refused(_) => RESTART_DAMAGED,
        }
    }

    /// What there is to judge when the chaos is over, besides what clients saw.
    pub(crate) fn stopped(&self) -> Stopped<'_> {
        let partitions =
            self.nodes.iter().filter_map(|node| node.process.as_ref()).map(|process| process.core.partitions());
        let mut groups = BTreeMap::new();
        for (topic, index, group) in partitions.flatten() {
            if let Some(partition) = workload::partition(&self.plan, &topic, index) {
                groups.insert(partition, group);
            }
        }
        Stopped {
            forfeited: self.copies.forfeited().clone(),
            groups,
            said: self.nodes.iter().flat_map(|node| node.view.lost.iter().copied()).collect(),
            stuck: self.clients_are_stuck_at(),
            loud: self.nodes.iter().filter_map(|node| Some((node.index, node.loud.as_deref()?))).collect(),
        }
    }

    /// Looks at what is committed and at what lies on the platters.
    pub(crate) fn audit(&mut self) -> Result<(), Failure> {
        if self.copies.is_anyone_hurt_beyond_segments() {
            return Ok(());
        }
        let mut committed: BTreeMap<GroupId, LogIndex> = BTreeMap::new();
        let mut voters: BTreeMap<GroupId, usize> = BTreeMap::new();
        voters.insert(GroupId::METADATA, self.plan.nodes.iter().filter(|node| node.voter).count());
        for node in &mut self.nodes {
            let Some(process) = &node.process else { continue };
            process.core.view(Depth::Shallow, &mut node.view);
            for group in &node.view.groups {
                let newest = committed.entry(group.group).or_default();
                *newest = (*newest).max(group.commit);
            }
            for (topic, _, group) in process.core.partitions() {
                if let Some(topic) = self.plan.workload.topics.iter().find(|known| known.name == topic) {
                    voters.insert(group, topic.replicas as usize);
                }
            }
        }
        let platters = Platters::read(self.nodes.iter().map(|node| node.queue.disk()).collect());
        let found = committed.into_iter().flat_map(|(group, newest)| {
            let voters = voters.get(&group).copied();
            // At the index of its creation a log has no entry.
            let oldest = newest.0.saturating_sub(AUDITED_ENTRIES).max(LogIndex::TRUNCATED_AT_CREATION.next().0);
            let platters = &platters;
            (oldest..=newest.0).map(LogIndex).filter_map(move |index| {
                Some(Found { group, index, copies: platters.copies(group, index), voters: voters? })
            })
        });
        committed_is_durable::check(found).map_err(|failure| failure.at(self.schedule.now()))
    }

    /// Whether every node that lost its disk has its replicas again.
    pub(crate) fn is_refilled(&self) -> Result<(), Failure> {
        if self.lost.is_empty() {
            return Ok(());
        }
        let members = |node: &Node<C>| node.process.as_ref().map(|process| process.core.members()).unwrap_or_default();
        let nodes: Vec<_> = self.nodes.iter().map(members).collect();
        refilled::check(&nodes, &self.lost)
    }

    /// Nodes whose disks were never damaged, or only where it was repaired.
    pub(crate) fn unhurt(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.nodes.len()).filter(|node| !self.copies.is_hurt_beyond_segments(*node))
    }

    /// Nodes that run, and whose segments are to be whole whatever was damaged.
    pub(crate) fn repairable(&self) -> impl Iterator<Item = usize> + '_ {
        let runs = |node: &usize| self.nodes[*node].process.is_some();
        (0..self.nodes.len()).filter(runs).filter(|node| !self.copies.is_hurt_beyond_segments(*node))
    }

    pub(crate) fn is_over_budget(&self) -> bool {
        self.copies.is_over_budget()
    }
}

/// A place in the files of a disk where something is written.
fn pick_place(disk: &Disk, place: Place, dice: &mut Dice) -> Option<(FileName, u64)> {
    let files: Vec<(FileName, u64)> = disk.durable_files(place).into_iter().filter(|(_, size)| *size > 0).collect();
    if files.is_empty() {
        return None;
    }
    (0..PICKS_MAX).find_map(|_| {
        let (file, size) = *dice.pick(&files);
        let at = dice.below(size);
        // Most of a WAL file is zeros that nobody wrote over yet: damage there changes nothing.
        let sector = disk.platter(file, at / UNREADABLE_BYTES * UNREADABLE_BYTES, UNREADABLE_BYTES as usize)?;
        sector.iter().any(|byte| *byte != 0).then_some((file, at))
    })
}
