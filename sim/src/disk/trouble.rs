//! Operations that fail, lie, or find no room.
//!
//! Invariant: a trouble that is not in force costs nothing and draws nothing. Each has a random stream of its own. Does
//! not know when one begins: the plan does; does not own what is on the disk: [`super::Disk`] does.

use kauri_core::io::{DiskAction, DiskError, DiskOutput, FileName};

use super::{Disk, file::Sequence};
use crate::{
    bites::{Bite, Bites},
    dice::Dice,
    plan::Place,
    time::Instant,
};

/// EIO.
pub(super) const DEVICE_ERROR: DiskError = DiskError::Io { errno: 5 };
/// EROFS.
const READ_ONLY: DiskError = DiskError::Io { errno: 30 };

/// Something that goes wrong once, at the next operation that it can hit.
#[derive(Debug)]
pub enum Trap {
    /// A sync fails and drops what it had to make durable.
    SyncError,
    /// A sync drops what it had to make durable; the next one reports it.
    LateSyncError,
    /// A sync drops what it had to make durable, and nobody is ever told.
    PhantomWrite(Place),
    /// A write that a sync makes durable lands elsewhere.
    MisdirectedWrite(Place),
    MisdirectedRead(Place),
    /// A read returns what the disk held once.
    StaleRead(Place, Box<Disk>),
}

#[derive(Debug)]
struct Armed {
    trap: Trap,
    until: Instant,
    dice: Dice,
}

/// Everything that is wrong with the operations of one disk.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    armed: Vec<Armed>,
    /// The error of every operation that changes something.
    broken: Option<DiskError>,
    /// What all files together may hold.
    capacity: Option<u64>,
    /// A sync failed, and nobody was told yet.
    unreported: bool,
}

impl Troubles {
    pub(super) fn arm(&mut self, trap: Trap, until: Instant, dice: Dice) {
        self.armed.push(Armed { trap, until, dice });
    }

    pub(super) fn set_broken(&mut self, read_only: Option<bool>) {
        self.broken = read_only.map(|read_only| if read_only { READ_ONLY } else { DEVICE_ERROR });
    }

    pub(super) fn set_capacity(&mut self, capacity: Option<u64>) {
        self.capacity = capacity;
    }

    /// The process is gone, and with it the descriptors that an error could be reported to.
    pub(super) fn process_ended(&mut self) {
        self.unreported = false;
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// Carries out an operation as well as it can be.
    pub(super) fn perform(
        &mut self,
        now: Instant,
        disk: &mut Disk,
        action: DiskAction,
        through: Sequence,
        bites: &mut Bites,
    ) -> Result<DiskOutput, DiskError> {
        if let Some(error) = self.broken
            && is_change(&action)
        {
            bites.add(Bite::BrokenDisk);
            if let DiskAction::Sync { file } = action {
                disk.drop_unsynced(file, through, |_| false);
            }
            return Err(error);
        }
        if let Some(capacity) = self.capacity
            && let Some(refused) = refuse(disk, &action, capacity)
        {
            bites.add(Bite::FullDisk);
            if let Some(part) = refused {
                disk.perform(part, through)?;
            }
            return Err(DiskError::Full);
        }
        if !self.armed.is_empty() || self.unreported {
            self.armed.retain(|armed| armed.until >= now);
            if let DiskAction::Sync { file } = action {
                if self.unreported {
                    self.unreported = false;
                    bites.add(Bite::LateSyncError);
                    return Err(DEVICE_ERROR);
                }
                if let Some(result) = self.spoil_sync(disk, file, through, bites) {
                    return result;
                }
            }
        }
        let read = match action {
            DiskAction::Read { file, offset, .. } => Some((file, offset)),
            DiskAction::Create { .. }
            | DiskAction::Write { .. }
            | DiskAction::Sync { .. }
            | DiskAction::SyncDirectory { .. }
            | DiskAction::Truncate { .. }
            | DiskAction::Rename { .. }
            | DiskAction::Remove { .. }
            | DiskAction::List { .. } => None,
        };
        let result = disk.perform(action, through);
        match (read, result) {
            (Some(_), Err(DiskError::Io { errno })) => {
                bites.add(Bite::SectorError);
                Err(DiskError::Io { errno })
            }
            (Some((file, offset)), Ok(DiskOutput::Read(bytes))) if !self.armed.is_empty() && !bytes.is_empty() => {
                Ok(DiskOutput::Read(self.spoil_read(disk, file, offset, bytes, bites)))
            }
            (Some(_) | None, result) => result,
        }
    }

    /// None if the sync is to go as any other.
    fn spoil_sync(
        &mut self,
        disk: &mut Disk,
        file: FileName,
        through: Sequence,
        bites: &mut Bites,
    ) -> Option<Result<DiskOutput, DiskError>> {
        if !disk.has_unsynced(file, through) {
            return None;
        }
        let place = self.armed.iter().position(|armed| match armed.trap {
            Trap::SyncError | Trap::LateSyncError => true,
            Trap::PhantomWrite(place) | Trap::MisdirectedWrite(place) => place.holds(file),
            Trap::MisdirectedRead(_) | Trap::StaleRead(..) => false,
        })?;
        let Armed { trap, mut dice, .. } = self.armed.remove(place);
        match trap {
            Trap::SyncError => {
                bites.add(Bite::SyncError);
                // Whether a page came to the disk before the error, nobody knows.
                disk.drop_unsynced(file, through, |_| dice.coin());
                Some(Err(DEVICE_ERROR))
            }
            Trap::LateSyncError => {
                self.unreported = true;
                disk.drop_unsynced(file, through, |_| dice.coin());
                Some(Ok(DiskOutput::Done))
            }
            Trap::PhantomWrite(_) => {
                bites.add(Bite::PhantomWrite);
                disk.drop_unsynced(file, through, |_| false);
                Some(Ok(DiskOutput::Done))
            }
            Trap::MisdirectedWrite(_) => {
                let hit = disk.misdirect(&mut dice, file, through);
                bites.add_if(hit, Bite::MisdirectedWrite);
                hit.then_some(Ok(DiskOutput::Done))
            }
            Trap::MisdirectedRead(_) | Trap::StaleRead(..) => unreachable!("these wait for a read"),
        }
    }

    fn spoil_read(
        &mut self,
        disk: &Disk,
        file: FileName,
        offset: u64,
        bytes: bytes::Bytes,
        bites: &mut Bites,
    ) -> bytes::Bytes {
        let place = self.armed.iter().position(|armed| match &armed.trap {
            Trap::MisdirectedRead(place) => place.holds(file),
            // Only if something was written since: before that, nothing is stale.
            Trap::StaleRead(place, before) => {
                place.holds(file) && before.peek(file, offset, bytes.len()).is_some_and(|then| then != bytes)
            }
            Trap::SyncError | Trap::LateSyncError | Trap::PhantomWrite(_) | Trap::MisdirectedWrite(_) => false,
        });
        let Some(place) = place else { return bytes };
        let Armed { trap, mut dice, .. } = self.armed.remove(place);
        let (bite, instead) = match trap {
            Trap::MisdirectedRead(_) => (Bite::MisdirectedRead, disk.elsewhere(&mut dice, file, bytes.len())),
            Trap::StaleRead(_, before) => {
                (Bite::StaleRead, before.peek(file, offset, bytes.len()).expect("seen above"))
            }
            Trap::SyncError | Trap::LateSyncError | Trap::PhantomWrite(_) | Trap::MisdirectedWrite(_) => {
                unreachable!("these wait for a sync")
            }
        };
        let mut spoilt = bytes.to_vec();
        // Some sectors of it; a device returns as many bytes as it was asked for.
        let sectors = bytes.len().div_ceil(512);
        let first = dice.index(sectors);
        let end = (first + 1 + dice.index(sectors - first)).min(sectors);
        let range = first * 512..(end * 512).min(bytes.len());
        for at in range {
            spoilt[at] = instead.get(at).copied().unwrap_or(0);
        }
        bites.add_if(spoilt != bytes, bite);
        spoilt.into()
    }
}

fn is_change(action: &DiskAction) -> bool {
    match action {
        DiskAction::Create { .. }
        | DiskAction::Write { .. }
        | DiskAction::Sync { .. }
        | DiskAction::SyncDirectory { .. }
        | DiskAction::Truncate { .. }
        | DiskAction::Rename { .. }
        | DiskAction::Remove { .. } => true,
        DiskAction::Read { .. } | DiskAction::List { .. } => false,
    }
}

/// Whether the operation would take more room than there is, and the part of it that happens anyway.
fn refuse(disk: &Disk, action: &DiskAction, capacity: u64) -> Option<Option<DiskAction>> {
    let (file, end) = match action {
        DiskAction::Create { file, size } => (*file, *size),
        DiskAction::Write { file, offset, slices } => {
            (*file, offset + slices.iter().map(|slice| slice.len() as u64).sum::<u64>())
        }
        DiskAction::Truncate { file, length } => (*file, *length),
        DiskAction::Sync { .. }
        | DiskAction::SyncDirectory { .. }
        | DiskAction::Read { .. }
        | DiskAction::Rename { .. }
        | DiskAction::Remove { .. }
        | DiskAction::List { .. } => return None,
    };
    let growth = end.saturating_sub(disk.size(file));
    let room = capacity.saturating_sub(disk.used());
    if growth <= room {
        return None;
    }
    // It is noticed in the middle.
    Some(match action {
        DiskAction::Create { file, size } => Some(DiskAction::Create { file: *file, size: room.min(*size) }),
        DiskAction::Write { file, offset, slices } => {
            let fits = (end - growth + room).saturating_sub(*offset);
            super::file::Change::write(*offset, slices.clone()).prefix(fits).into_write(*file)
        }
        DiskAction::Truncate { .. }
        | DiskAction::Sync { .. }
        | DiskAction::SyncDirectory { .. }
        | DiskAction::Read { .. }
        | DiskAction::Rename { .. }
        | DiskAction::Remove { .. }
        | DiskAction::List { .. } => None,
    })
}
