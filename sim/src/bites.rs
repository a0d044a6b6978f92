//! How often each kind of fault changed an outcome.
//!
//! Invariant: a count grows only when something went another way than it would have gone without the fault: a
//! partition that holds no byte back does not count. A fault that never bites is a defect of the simulator.

use std::collections::BTreeMap;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// One kind of fault, or one way in which a fault bites.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Bite {
            $($(#[$doc])* $kind,)*
        }

        impl Bite {
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// As summaries print it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }
    };
}

kinds! {
    /// A way between two sites was cut while bytes were on it.
    Partition = "partition",
    /// Bytes waited because their way was clogged.
    Clog = "clog",
    /// A segment was lost, and all behind it waited for its retransmission.
    Loss = "loss",
    /// A connection with bytes in flight was reset.
    Reset = "reset",
    /// A connection ended after a part of a frame.
    TornFrame = "torn_frame",
    /// An end gave up because its bytes were not acknowledged for too long.
    SendTimeout = "send_timeout",
    /// Bytes of a connection arrived after its sender had closed it.
    LateBytes = "late_bytes",
    /// A dial found nobody.
    DialFailed = "dial_failed",
    /// A sender had to wait because the buffer of its connection was full.
    BufferFull = "buffer_full",
    /// A frame waited because its receiver had given no credit.
    CreditExhausted = "credit_exhausted",
    /// A process was killed while it was running.
    ProcessCrash = "process_crash",
    /// A node lost its power.
    PowerLoss = "power_loss",
    /// A crash fell on an operation of the disk that it had been aimed at.
    AimedCrash = "aimed_crash",
    /// All nodes crashed at once.
    CrashAll = "crash_all",
    /// Inputs waited for a paused process.
    Pause = "pause",
    /// A turn took longer because its node was slow.
    SlowNode = "slow_node",
    /// A turn found more than 100 inputs.
    Backlog = "backlog",
    /// An operation was in flight when its process was killed, and was carried out only in part.
    OperationCut = "operation_cut",
    /// Unsynced operations were lost with the power.
    UnsyncedLost = "unsynced_lost",
    /// An operation survived a power loss although an earlier one did not.
    Reordered = "reordered",
    /// A write survived a power loss in part.
    TornWrite = "torn_write",
    /// A sector that was being written when the power went holds neither the old nor the new.
    SectorGarbage = "sector_garbage",
    /// A file had grown when the power went, and what it had grown by is not what was written.
    SizeWithoutData = "size_without_data",
    /// The bytes that made a file grow survived a power loss, and its size did not.
    DataWithoutSize = "data_without_size",
    /// A change of a directory survived a power loss although an earlier one in it did not.
    NamesReordered = "names_reordered",
    /// An unsynced entry of a directory was lost with the power.
    DirectoryEntryLost = "directory_entry_lost",
    /// An operation waited for a stalled disk.
    DiskStall = "disk_stall",
    /// An operation took longer because its disk was slow.
    SlowDisk = "slow_disk",
    /// A sync failed, and what it had to make durable was dropped.
    SyncError = "sync_error",
    /// A sync reported what an earlier one had dropped.
    LateSyncError = "late_sync_error",
    /// A broken or read-only disk refused to change.
    BrokenDisk = "broken_disk",
    /// A full disk refused to take more.
    FullDisk = "full_disk",
    /// A read met a sector that cannot be read.
    SectorError = "sector_error",
    /// Bits of a file flipped.
    BitRot = "bit_rot",
    /// A write landed elsewhere.
    MisdirectedWrite = "misdirected_write",
    /// A read returned what lies elsewhere.
    MisdirectedRead = "misdirected_read",
    /// A sync succeeded and made nothing durable.
    PhantomWrite = "phantom_write",
    /// A read returned what was there once.
    StaleRead = "stale_read",
    /// A disk was empty when its node started again.
    Wipe = "wipe",
    /// A disk was an older one when its node started again.
    Rollback = "rollback",
    /// A replica missed so much that it had to fetch the state.
    StateTransfer = "state_transfer",
    /// A replica got an entry that its disk had lost from another one.
    EntryRepaired = "entry_repaired",
    /// A replica was held before an entry that its build could not apply.
    Held = "held",
    /// A wall clock jumped.
    ClockJump = "clock_jump",
}

/// One count for each [`Bite`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bites(BTreeMap<Bite, u64>);

impl Bites {
    pub fn add(&mut self, bite: Bite) {
        *self.0.entry(bite).or_default() += 1;
    }

    pub fn add_if(&mut self, bit: bool, bite: Bite) {
        if bit {
            self.add(bite);
        }
    }

    pub fn of(&self, bite: Bite) -> u64 {
        self.0.get(&bite).copied().unwrap_or_default()
    }

    pub fn merge(&mut self, other: &Self) {
        for (bite, count) in &other.0 {
            *self.0.entry(*bite).or_default() += count;
        }
    }
}
