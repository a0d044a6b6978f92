//! What a group wants done, and what it reports.

use raft::{StateRole, prelude::Message};

use super::{Membership, ReadToken, SnapshotOffer};
use crate::{
    ids::{LogIndex, ReplicaId, Term},
    log::record::{EntryLocation, WalRecord},
};

/// Filled by [`super::Group::poll`]; the caller empties and reuses it.
#[derive(Debug, Default)]
pub struct GroupOutput {
    /// Messages to send now. Ordered by receiver, and for one receiver in the order they have to be sent in.
    pub messages: Vec<Message>,
    /// Records to append to the WAL, in this order. Each is answered by [`super::Group::wrote`] at once.
    pub writes: Vec<Write>,
    /// Entries to read from disk; each is answered by [`super::Group::fetched`].
    pub fetches: Vec<Fetch>,
    /// Reads that may be answered from the applied state: everything up to the named index is applied.
    pub reads_ready: Vec<(ReadToken, LogIndex)>,
    /// Reads that will never be confirmed, because the role or the term changed.
    pub reads_failed: Vec<ReadToken>,
    /// Membership changes that were applied.
    pub memberships: Vec<MembershipApplied>,
    /// A leader wants to send its state to us, because its log no longer reaches back to the end of ours.
    pub snapshot_offer: Option<SnapshotOffer>,
    /// Members that need a snapshot of ours: see [`super::Group::provide_snapshot`].
    pub snapshots_wanted: Vec<ReplicaId>,
    /// Term, role or leader are not what they were at the last poll. Whoever waits for a proposal of another term or
    /// of a leadership that ended has to be told.
    pub role: Option<RoleChange>,
}

impl GroupOutput {
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
            && self.writes.is_empty()
            && self.fetches.is_empty()
            && self.reads_ready.is_empty()
            && self.reads_failed.is_empty()
            && self.memberships.is_empty()
            && self.snapshot_offer.is_none()
            && self.snapshots_wanted.is_empty()
            && self.role.is_none()
    }

    pub fn clear(&mut self) {
        self.messages.clear();
        self.writes.clear();
        self.fetches.clear();
        self.reads_ready.clear();
        self.reads_failed.clear();
        self.memberships.clear();
        self.snapshot_offer = None;
        self.snapshots_wanted.clear();
        self.role = None;
    }
}

/// Names one [`Write`] of a group, counted from 1 since the group was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadyNumber(pub u64);

/// Records that go into one write of the WAL, all or none.
#[derive(Debug)]
pub struct Write {
    pub number: ReadyNumber,
    /// Entries in the order of the log, then the hard state. Never empty.
    pub records: Vec<WalRecord>,
}

/// Entries to read from disk. Their indexes are contiguous and start at `first`; there is a term and a place for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    pub first: LogIndex,
    pub terms: Vec<Term>,
    pub locations: Vec<EntryLocation>,
}

/// What a replica is in its term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Follower,
    /// Asks whether it would be elected, without disturbing anybody.
    PreCandidate,
    Candidate,
    Leader,
}

impl From<StateRole> for Role {
    fn from(role: StateRole) -> Self {
        match role {
            StateRole::Follower => Self::Follower,
            StateRole::PreCandidate => Self::PreCandidate,
            StateRole::Candidate => Self::Candidate,
            StateRole::Leader => Self::Leader,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleChange {
    pub term: Term,
    pub role: Role,
    /// The leader of this term, as far as this replica knows.
    pub leader: Option<ReplicaId>,
}

/// A membership that has come into force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembershipApplied {
    /// The entry that changed it.
    pub index: LogIndex,
    pub term: Term,
    pub membership: Membership,
    /// This replica is no longer a member: its caller destroys it.
    pub removed: bool,
}
