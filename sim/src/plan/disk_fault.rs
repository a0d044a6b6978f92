//! Faults of a disk beyond slowness: failed syncs, a full disk, damage and lies.
//!
//! Invariant: a fault holds everything that decides what it does: where many places could be hit, `draw` is the seed of
//! the choice, so that removing one entry of a plan leaves what the others hit as it was.

use std::fmt;

use kauri_core::io::{FileName, SegmentFile};

use super::fields::{Fields, LineError};
use crate::time::Span;

/// Which files a fault may hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Any,
    Identity,
    Wal,
    /// Payloads of entries in the write-ahead log, and nothing around them.
    Entries,
    /// Record batches.
    Log,
    /// The side files of segments.
    Checksums,
}

/// One fault of one disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// F1: the next sync that has something to make durable fails. What it had to is dropped and counts as clean: the
    /// page cache shows it, the disk does not have it (or only parts), and the next sync succeeds.
    SyncError { within: Span, draw: u64 },
    /// F2: as F1, but that sync succeeds, and the error is reported by the next sync of whichever file.
    LateSyncError { within: Span, draw: u64 },
    /// F3: nothing can be written any more, or made durable; reads succeed.
    Broken { read_only: bool, lasting: Span },
    /// Files cannot grow by more than `room` bytes in all.
    Full { room: u64, lasting: Span },
    /// Sectors that cannot be read until they are written again.
    SectorError { place: Place, sectors: u32, draw: u64 },
    /// Bits that flipped.
    BitRot { place: Place, bits: u32, draw: u64 },
    /// The next write of such a file goes to another place, and its own keeps what it held.
    MisdirectedWrite { place: Place, within: Span, draw: u64 },
    /// A part of what the next read of such a file returns comes from another place.
    MisdirectedRead { place: Place, within: Span, draw: u64 },
    /// The next sync of such a file succeeds, and what it had to make durable never is.
    PhantomWrite { place: Place, within: Span, draw: u64 },
    /// The next read of such a file returns what some of its sectors held when the fault began.
    StaleRead { place: Place, within: Span, draw: u64 },
    /// The node crashes, and its disk is empty when it starts again.
    Wipe { down: Span },
    /// The disk is copied now; after `age` the node crashes, and starts again from the copy.
    Rollback { age: Span, down: Span },
}

impl Place {
    pub const ALL: [Self; 6] = [Self::Any, Self::Identity, Self::Wal, Self::Entries, Self::Log, Self::Checksums];

    pub fn holds(self, file: FileName) -> bool {
        match self {
            Self::Any => true,
            Self::Identity => matches!(file, FileName::Identity | FileName::IdentityNew),
            Self::Wal | Self::Entries => matches!(file, FileName::Wal(_)),
            Self::Log => matches!(file, FileName::Segment { kind: SegmentFile::Log, .. }),
            Self::Checksums => matches!(file, FileName::Segment { kind: SegmentFile::Checksums, .. }),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Identity => "identity",
            Self::Wal => "wal",
            Self::Entries => "entries",
            Self::Log => "log",
            Self::Checksums => "checksums",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|place| place.name() == text)
    }
}

impl DiskFault {
    /// From when it begins to when all of it is over.
    pub fn lasting(&self) -> Span {
        match self {
            Self::SyncError { within, .. }
            | Self::LateSyncError { within, .. }
            | Self::MisdirectedWrite { within, .. }
            | Self::MisdirectedRead { within, .. }
            | Self::PhantomWrite { within, .. }
            | Self::StaleRead { within, .. } => *within,
            Self::Broken { lasting, .. } | Self::Full { lasting, .. } => *lasting,
            Self::SectorError { .. } | Self::BitRot { .. } => Span::ZERO,
            Self::Wipe { down } => *down,
            Self::Rollback { age, down } => *age + *down,
        }
    }

    /// The first word of a line of a plan.
    pub fn name(&self) -> &'static str {
        match self {
            Self::SyncError { .. } => "sync-error",
            Self::LateSyncError { .. } => "late-sync-error",
            Self::Broken { .. } => "broken-disk",
            Self::Full { .. } => "full-disk",
            Self::SectorError { .. } => "sector-error",
            Self::BitRot { .. } => "bit-rot",
            Self::MisdirectedWrite { .. } => "misdirected-write",
            Self::MisdirectedRead { .. } => "misdirected-read",
            Self::PhantomWrite { .. } => "phantom-write",
            Self::StaleRead { .. } => "stale-read",
            Self::Wipe { .. } => "wipe",
            Self::Rollback { .. } => "rollback",
        }
    }

    /// None if no fault has this name.
    pub(super) fn parse(name: &str, f: &mut Fields<'_>) -> Result<Option<Self>, LineError> {
        Ok(Some(match name {
            "sync-error" => Self::SyncError { within: f.take("within")?, draw: f.take("draw")? },
            "late-sync-error" => Self::LateSyncError { within: f.take("within")?, draw: f.take("draw")? },
            "broken-disk" => Self::Broken { read_only: f.take("read_only")?, lasting: f.take("for")? },
            "full-disk" => Self::Full { room: f.take("room")?, lasting: f.take("for")? },
            "sector-error" => {
                Self::SectorError { place: place(f)?, sectors: f.take("sectors")?, draw: f.take("draw")? }
            }
            "bit-rot" => Self::BitRot { place: place(f)?, bits: f.take("bits")?, draw: f.take("draw")? },
            "misdirected-write" => {
                Self::MisdirectedWrite { place: place(f)?, within: f.take("within")?, draw: f.take("draw")? }
            }
            "misdirected-read" => {
                Self::MisdirectedRead { place: place(f)?, within: f.take("within")?, draw: f.take("draw")? }
            }
            "phantom-write" => {
                Self::PhantomWrite { place: place(f)?, within: f.take("within")?, draw: f.take("draw")? }
            }
            "stale-read" => Self::StaleRead { place: place(f)?, within: f.take("within")?, draw: f.take("draw")? },
            "wipe" => Self::Wipe { down: f.take("down")? },
            "rollback" => Self::Rollback { age: f.take("age")?, down: f.take("down")? },
            _ => return Ok(None),
        }))
    }
}

fn place(f: &mut Fields<'_>) -> Result<Place, LineError> {
    f.take_with("place", Place::parse)
}

/// A fault and the node whose disk it is, as a line of a plan.
pub(super) struct Of<'a>(pub(super) usize, pub(super) &'a DiskFault);

impl fmt::Display for Of<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(node, fault) = self;
        write!(f, "{} node={node}", fault.name())?;
        match fault {
            DiskFault::SyncError { within, draw } | DiskFault::LateSyncError { within, draw } => {
                write!(f, " within={within} draw={draw}")
            }
            DiskFault::Broken { read_only, lasting } => write!(f, " read_only={read_only} for={lasting}"),
            DiskFault::Full { room, lasting } => write!(f, " room={room} for={lasting}"),
            DiskFault::SectorError { place, sectors, draw } => {
                write!(f, " place={} sectors={sectors} draw={draw}", place.name())
            }
            DiskFault::BitRot { place, bits, draw } => write!(f, " place={} bits={bits} draw={draw}", place.name()),
            DiskFault::MisdirectedWrite { place, within, draw }
            | DiskFault::MisdirectedRead { place, within, draw }
            | DiskFault::PhantomWrite { place, within, draw }
            | DiskFault::StaleRead { place, within, draw } => {
                write!(f, " place={} within={within} draw={draw}", place.name())
            }
            DiskFault::Wipe { down } => write!(f, " down={down}"),
            DiskFault::Rollback { age, down } => write!(f, " age={age} down={down}"),
        }
    }
}
