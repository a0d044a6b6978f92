//! The operations that a node has given to its disk: their order, how long they take, and what a crash cuts short.
//!
//! Invariant: operations on the WAL are carried out one after the other; all others overtake each other freely. An
//! operation changes the disk at the moment it completes, and its result reaches the core after that.

use std::collections::{BTreeMap, VecDeque};

use kauri_core::{
    ids::OperationId,
    io::{DiskAction, DiskError, DiskOperation, DiskOutput},
};

use super::{Disk, PowerMode, Trap, file::Sequence, trouble::Troubles};
use crate::{
    bites::{Bite, Bites},
    dice::Dice,
    time::{Instant, Span},
};

/// How fast a disk is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSpeed {
    /// Mean of a write, a read, and any operation on names.
    pub operation: Span,
    /// Mean of a sync of a file or directory.
    pub sync: Span,
    pub bytes_per_microsecond: u64,
    /// Operations besides those on the WAL that are carried out at once.
    pub depth: usize,
    /// The unit of atomicity: 512 or 4096.
    pub sector_bytes: u64,
}

/// Names an operation that was started, for [`Queue::complete`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(pub u32);

/// A moment around an operation of the disk, at which a crash is worth aiming.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Boundary {
    /// A write to a WAL file was done, and its sync was not.
    WalWritten,
    /// The sync of a WAL file was done, and the core does not know yet.
    WalSynced,
    /// Any other operation that changes the disk was done.
    OtherDone,
    /// An operation that changes the disk is under way.
    Begun,
}

/// A disk and its operations in flight.
#[derive(Debug)]
pub struct Queue {
    disk: Disk,
    speed: DiskSpeed,
    dice: Dice,
    wal_waiting: VecDeque<DiskOperation>,
    wal_busy: bool,
    waiting: VecDeque<DiskOperation>,
    busy: usize,
    in_flight: BTreeMap<Slot, InFlight>,
    next_slot: u32,
    slow_factor: u64,
    stalled_until: Instant,
    troubles: Troubles,
}

#[derive(Debug)]
struct InFlight {
    operation: DiskOperation,
    through: Sequence,
    wal: bool,
}

/// An operation that ended.
#[derive(Debug)]
pub struct Completion {
    pub operation: OperationId,
    pub result: Result<DiskOutput, DiskError>,
    /// None if the operation cannot change the disk.
    pub boundary: Option<Boundary>,
    /// After this the process must end: what is on the disk is unknown.
    pub must_end: bool,
}

impl Queue {
    pub fn new(speed: DiskSpeed, dice: Dice) -> Self {
        assert!(speed.depth > 0 && speed.bytes_per_microsecond > 0, "a disk gets on");
        Self {
            disk: Disk::default(),
            speed,
            dice,
            wal_waiting: VecDeque::new(),
            wal_busy: false,
            waiting: VecDeque::new(),
            busy: 0,
            in_flight: BTreeMap::new(),
            next_slot: 0,
            slow_factor: 1,
            stalled_until: Instant::default(),
            troubles: Troubles::default(),
        }
    }

    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Takes operations from the core.
    pub fn submit(
        &mut self,
        wal: impl IntoIterator<Item = DiskOperation>,
        other: impl IntoIterator<Item = DiskOperation>,
    ) {
        self.wal_waiting.extend(wal);
        self.waiting.extend(other);
    }

    /// Starts what can start; `started` is told when each will be done. To be called after [`Queue::submit`] and
    /// [`Queue::complete`].
    pub fn start(&mut self, now: Instant, bites: &mut Bites, mut started: impl FnMut(Instant, Slot)) {
        while !self.wal_busy
            && let Some(operation) = self.wal_waiting.pop_front()
        {
            self.wal_busy = true;
            let (done, slot) = self.launch(now, operation, true, bites);
            started(done, slot);
        }
        while self.busy < self.speed.depth
            && let Some(operation) = self.waiting.pop_front()
        {
            self.busy += 1;
            let (done, slot) = self.launch(now, operation, false, bites);
            started(done, slot);
        }
    }

    fn launch(&mut self, now: Instant, operation: DiskOperation, wal: bool, bites: &mut Bites) -> (Instant, Slot) {
        let (mean, bytes) = match &operation.action {
            DiskAction::Create { size, .. } => (self.speed.operation, *size),
            DiskAction::Write { slices, .. } => {
                (self.speed.operation, slices.iter().map(|slice| slice.len() as u64).sum())
            }
            DiskAction::Read { length, .. } => (self.speed.operation, *length as u64),
            DiskAction::Sync { .. } | DiskAction::SyncDirectory { .. } => (self.speed.sync, 0),
            DiskAction::Truncate { .. }
            | DiskAction::Rename { .. }
            | DiskAction::Remove { .. }
            | DiskAction::List { .. } => (self.speed.operation, 0),
        };
        let transfer = Span::microseconds(bytes / self.speed.bytes_per_microsecond);
        if self.slow_factor > 1 {
            bites.add(Bite::SlowDisk);
        }
        let mut done = now + (self.dice.exponential(mean) + transfer) * self.slow_factor;
        if done < self.stalled_until {
            bites.add(Bite::DiskStall);
            done = self.stalled_until;
        }
        let slot = Slot(self.next_slot);
        self.next_slot += 1;
        let through = self.disk.sequence();
        self.in_flight.insert(slot, InFlight { operation, through, wal });
        (done, slot)
    }

    /// An operation is done.
    pub fn complete(&mut self, now: Instant, slot: Slot, bites: &mut Bites) -> Completion {
        let InFlight { operation, through, wal } = self.in_flight.remove(&slot).expect("started and not yet completed");
        if wal {
            self.wal_busy = false;
        } else {
            self.busy -= 1;
        }
        let boundary = boundary(&operation.action, wal);
        let result = self.troubles.perform(now, &mut self.disk, operation.action, through, bites);
        let must_end = boundary.is_some() && matches!(result, Err(DiskError::Io { .. }));
        Completion { operation: operation.id, result, boundary, must_end }
    }

    /// Whether an operation that was started changes the disk.
    pub fn is_change(&self, slot: Slot) -> bool {
        self.in_flight.get(&slot).is_some_and(|started| boundary(&started.operation.action, started.wal).is_some())
    }

    /// The process is gone: what was in flight is carried out in part, what waited never.
    pub fn kill(&mut self, dice: &mut Dice, bites: &mut Bites) {
        self.wal_waiting.clear();
        self.waiting.clear();
        self.wal_busy = false;
        self.busy = 0;
        self.troubles.process_ended();
        for InFlight { operation, through, .. } in std::mem::take(&mut self.in_flight).into_values() {
            if self.troubles.is_broken() {
                continue;
            }
            self.disk.perform_cut(dice, operation.action, through, bites);
        }
    }

    /// The power is gone, after the process.
    pub fn lose_power(&mut self, dice: &mut Dice, mode: PowerMode, bites: &mut Bites) {
        self.disk.lose_power(dice, mode, self.speed.sector_bytes, bites);
        self.stalled_until = Instant::default();
    }

    /// Every operation takes `factor` times as long from now on.
    pub fn slow_down(&mut self, factor: u64) {
        self.slow_factor = factor;
    }

    /// No operation that starts before `until` is done before.
    pub fn stall(&mut self, until: Instant) {
        self.stalled_until = until;
    }

    pub(crate) fn disk_mut(&mut self) -> &mut Disk {
        &mut self.disk
    }

    /// Something goes wrong at the next operation that it can hit, until then.
    pub fn arm(&mut self, trap: Trap, until: Instant, dice: Dice) {
        self.troubles.arm(trap, until, dice);
    }

    /// Nothing can be written from now on (with EROFS if `Some(true)`, else EIO), or everything again (`None`).
    pub fn set_broken(&mut self, read_only: Option<bool>) {
        self.troubles.set_broken(read_only);
    }

    /// All files together can grow by so many bytes from now on, or without bound.
    pub fn set_room(&mut self, room: Option<u64>) {
        let used = self.disk.room_used();
        self.troubles.set_capacity(room.map(|room| used + room));
    }
}

/// The moment at which the operation is done; None if it cannot change the disk.
fn boundary(action: &DiskAction, wal: bool) -> Option<Boundary> {
    match action {
        DiskAction::Read { .. } | DiskAction::List { .. } => None,
        DiskAction::Write { .. } if wal => Some(Boundary::WalWritten),
        DiskAction::Sync { .. } if wal => Some(Boundary::WalSynced),
        DiskAction::Create { .. }
        | DiskAction::Write { .. }
        | DiskAction::Sync { .. }
        | DiskAction::SyncDirectory { .. }
        | DiskAction::Truncate { .. }
        | DiskAction::Rename { .. }
        | DiskAction::Remove { .. } => Some(Boundary::OtherDone),
    }
}
