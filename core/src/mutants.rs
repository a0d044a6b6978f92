//! Planted bugs, to see whether the simulator finds them. Compiled only with the feature `mutants`, which no release has.
//!
//! Invariant: at most one bug is planted in a process, and none unless someone asked for it by name. A bug is one guarded
//! branch at the place that it breaks.

use std::sync::atomic::{AtomicU8, Ordering};

/// One bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// The WAL calls a write durable when it is done and its sync is not.
    AcknowledgeBeforeSync,
    /// A failed sync of the WAL is taken for one that succeeded.
    SyncErrorIgnored,
    /// A checkpoint says that a group has no members.
    CheckpointWithoutMembership,
    /// A checkpoint forgets where a partition's log ends.
    CheckpointWithoutNextOffset,
    /// A checkpoint forgets the batches that idempotent producers may repeat.
    CheckpointWithoutProducers,
    /// A checkpoint names bytes of segments that were never synced.
    CheckpointAheadOfSync,
    /// WAL files are used again although entries that are not applied lie in them.
    WalReleasedUnderTail,
    /// A state transfer ends without the last batches that its state has applied.
    TransferLosesLastChunk,
    /// A transferred state takes its place before its record is on disk.
    SwitchBeforeSync,
    /// Recovery takes what an earlier life of a WAL file left for a write of this one.
    StaleRecordAccepted,
    /// A node with a new disk gets the replica ids that the old one had.
    WipedKeepsReplicaIds,
    /// A replica takes the place of another before it has caught up.
    SwapBeforeCatchUp,
    /// A replica that joins later starts with the first membership of its group.
    LaterReplicaStartsAsMember,
    /// Recovery goes on in the file that a crash cut short instead of in another one.
    ContinueCutFile,
    /// A replica acknowledges entries whose payload it has lost.
    FaultyAcknowledged,
    /// A lost payload is replaced by that of another entry with the same index.
    FillOfAnotherTerm,
    /// Another replica's bytes are sent, and written over damaged ones, without a look at their checksums.
    RepairUnverified,
    /// Nobody looks for damage in the last finished chunk of a segment.
    ScrubSkipsLastChunk,
    /// A replica passes over an entry that it cannot apply.
    PoisonSkipped,
}

/// The place in [`Mutant::ALL`] counted from 1; zero is none.
static PLANTED: AtomicU8 = AtomicU8::new(0);

impl Mutant {
    pub const ALL: &'static [Self] = &[
        Self::AcknowledgeBeforeSync,
        Self::SyncErrorIgnored,
        Self::CheckpointWithoutMembership,
        Self::CheckpointWithoutNextOffset,
        Self::CheckpointWithoutProducers,
        Self::CheckpointAheadOfSync,
        Self::WalReleasedUnderTail,
        Self::TransferLosesLastChunk,
        Self::SwitchBeforeSync,
        Self::StaleRecordAccepted,
        Self::ContinueCutFile,
        Self::FaultyAcknowledged,
        Self::FillOfAnotherTerm,
        Self::WipedKeepsReplicaIds,
        Self::SwapBeforeCatchUp,
        Self::LaterReplicaStartsAsMember,
        Self::RepairUnverified,
        Self::ScrubSkipsLastChunk,
        Self::PoisonSkipped,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::AcknowledgeBeforeSync => "acknowledge-before-sync",
            Self::SyncErrorIgnored => "sync-error-ignored",
            Self::CheckpointWithoutMembership => "checkpoint-without-membership",
            Self::CheckpointWithoutNextOffset => "checkpoint-without-next-offset",
            Self::CheckpointWithoutProducers => "checkpoint-without-producers",
            Self::CheckpointAheadOfSync => "checkpoint-ahead-of-sync",
            Self::WalReleasedUnderTail => "wal-released-under-tail",
            Self::TransferLosesLastChunk => "transfer-loses-last-chunk",
            Self::SwitchBeforeSync => "switch-before-sync",
            Self::StaleRecordAccepted => "stale-record-accepted",
            Self::ContinueCutFile => "continue-cut-file",
            Self::FaultyAcknowledged => "faulty-acknowledged",
            Self::FillOfAnotherTerm => "fill-of-another-term",
            Self::WipedKeepsReplicaIds => "wiped-keeps-replica-ids",
            Self::SwapBeforeCatchUp => "swap-before-catch-up",
            Self::LaterReplicaStartsAsMember => "later-replica-starts-as-member",
            Self::RepairUnverified => "repair-unverified",
            Self::ScrubSkipsLastChunk => "scrub-skips-last-chunk",
            Self::PoisonSkipped => "poison-skipped",
        }
    }

    /// Plants this bug instead of any other.
    pub fn plant(self) {
        PLANTED.store(self.number(), Ordering::Relaxed);
    }

    pub fn is_planted(self) -> bool {
        PLANTED.load(Ordering::Relaxed) == self.number()
    }

    fn number(self) -> u8 {
        let place = Self::ALL.iter().position(|known| *known == self).expect("every bug is listed");
        u8::try_from(place + 1).expect("few bugs")
    }
}
