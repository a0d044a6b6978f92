//! What the simulator drives, and what it may look at from the inside.
//!
//! Invariant: a core is reached through the same four calls that the real driver makes, and looking changes nothing.

use std::collections::BTreeSet;

use kauri_core::{
    config::NodeConfig,
    ids::{GroupId, LogIndex, Offset, ReplicaId, Term},
    io::{Effects, Input},
    time::{Monotonic, Now},
};
use slog::Logger;

/// A broker as a state machine: [`kauri_core::shard::Shard`], or something smaller in a test of the simulator itself.
pub trait Core: Sized {
    fn start(config: NodeConfig, logger: Logger) -> Self;
    fn handle(&mut self, now: Now, input: Input);
    fn poll(&mut self, now: Now, effects: &mut Effects);
    fn next_deadline(&self) -> Option<Monotonic>;
    /// What the checks see, into a value that is used again and again. A shallow look is taken after many turns, so it
    /// must cost less than a turn; a deep one may hash whole states.
    fn view(&self, depth: Depth, view: &mut NodeView);
    /// Topic, index and group of each partition that the node knows.
    fn partitions(&self) -> Vec<(String, i32, GroupId)>;
    /// The replicas of the node, and who belongs to their groups as far as they know.
    fn members(&self) -> Vec<Members>;
}

/// What a replica knows of its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    pub group: GroupId,
    pub replica: ReplicaId,
    pub voters: BTreeSet<ReplicaId>,
    pub learners: BTreeSet<ReplicaId>,
    /// A change of the voters has not ended.
    pub is_joint: bool,
}

/// How closely a check looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Without hashes of states.
    Shallow,
    Deep,
}

/// One node from the inside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Sorted by group.
    pub groups: Vec<GroupView>,
    /// Bytes in buffers and caches, by the node's own account.
    pub buffered_bytes: usize,
    /// Replicas that fetched a state which they missed, since the start of the process.
    pub states_received: u64,
    /// Entries that were lost on its disk and replaced by another node's, since the start of the process.
    pub entries_repaired: u64,
    /// Replicas that are held before an entry that the build cannot apply.
    pub held: u64,
    /// Groups of which the node says that an entry is nowhere any more.
    pub lost: Vec<GroupId>,
    /// Groups that the node leads.
    pub led: Vec<Led>,
}

/// One replica from the inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupView {
    pub group: GroupId,
    pub replica: ReplicaId,
    pub term: Term,
    pub is_leader: bool,
    pub commit: LogIndex,
    pub applied: LogIndex,
    /// Where the log ends.
    pub last: LogIndex,
    /// The first entry that was lost on the disk and is not repaired.
    pub faulty: Option<LogIndex>,
    /// Equal on all replicas that applied the same index.
    pub state_hash: Option<u64>,
    /// None for the metadata group.
    pub partition: Option<PartitionView>,
}

/// What the leader of a group knows of its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Led {
    pub group: GroupId,
    /// As of what it applied.
    pub voters: BTreeSet<ReplicaId>,
    /// A change is proposed and not in force, or joint.
    pub is_changing: bool,
}

/// What a replica of a partition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionView {
    pub log_start: Offset,
    pub next_offset: Offset,
}
