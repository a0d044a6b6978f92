//! A running node seen from the inside: for the simulator's checks, metrics and tools. Never for decisions.

use super::{Broker, RepairCounts, ScrubCounts, replica::Machine};
use crate::{
    ids::{BootNumber, CheckpointNumber, GroupId, LogIndex, NodeId, Offset, PartitionIndex, ReplicaId, Term, TopicId},
    log::segment::Content,
    replication::group::{Membership, Role},
};

/// One node.
#[derive(Clone, Debug)]
pub struct Inspection {
    pub node: NodeId,
    pub boot: BootNumber,
    pub groups: Vec<GroupInspection>,
    /// Payload bytes of Raft entries in memory.
    pub entry_bytes: usize,
    /// Bytes of applied batches in memory.
    pub tail_bytes: usize,
    /// Bytes of commands that groups led here have queued, or proposed and not applied.
    pub proposed_bytes: usize,
    /// Bytes that wait for the WAL.
    pub wal_queued_bytes: usize,
    /// Replicas that fetch a state which they missed, and how many did so since the start.
    pub receiving: usize,
    pub received: u64,
    /// Entries whose payload was lost on this node's disk and replaced by another replica's, since the start.
    pub repaired: u64,
    /// Groups that stand still because no replica holds an entry any more, as far as this node knows.
    pub lost: Vec<GroupId>,
    /// Groups with damage that is not repaired yet, and what was found and repaired since the start.
    pub damaged: usize,
    pub repairs: RepairCounts,
    pub scrub: ScrubCounts,
    /// The newest checkpoint that counts.
    pub checkpoint: Option<CheckpointNumber>,
    pub outstanding: Outstanding,
}

/// How much waits for something, by what remembers it. All zero on a node that nobody asks anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outstanding {
    /// Requests of clients that are started and not answered.
    pub requests: usize,
    /// Requests that a partition wakes.
    pub watched: usize,
    /// Requests with a time limit.
    pub deadlines: usize,
    /// Calls to the metadata group.
    pub calls: usize,
    /// Commands that are queued or proposed and that somebody waits for.
    pub commands: usize,
    /// Confirmations of leadership.
    pub confirmations: usize,
    /// Reads from the disk.
    pub reads: usize,
    /// Requests that wait for producer ids.
    pub producer_ids: usize,
}

/// How closely to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Positions and roles: cheap enough for every turn.
    Shallow,
    /// Hashes of states and contents as well, which read all of them.
    Deep,
}

/// One replica of it.
#[derive(Clone, Debug)]
pub struct GroupInspection {
    pub group: GroupId,
    pub replica: ReplicaId,
    pub topic: Option<(TopicId, PartitionIndex)>,
    pub role: Role,
    pub term: Term,
    pub leader: Option<ReplicaId>,
    /// Who belongs to the group as of `applied`. Only of a leader, or if looked at deeply.
    pub membership: Option<Membership>,
    /// A change of members is proposed and not in force, or joint.
    pub changing: bool,
    /// A leader that has applied its own first entry.
    pub serving: bool,
    pub commit: LogIndex,
    pub applied: LogIndex,
    pub last: LogIndex,
    /// The first entry that was lost on this disk and is not repaired yet.
    pub faulty: Option<LogIndex>,
    /// The entry before which the replica is held, because this build cannot apply it.
    pub held: Option<LogIndex>,
    /// Equal on replicas that applied the same entries. Only if looked at deeply.
    pub state_hash: Option<u64>,
    pub log_start: Offset,
    pub next_offset: Offset,
    /// Equal on replicas with the same next offset. Only if looked at deeply.
    pub content: Option<Content>,
}

impl Broker {
    /// `requests`: how many are started and not answered.
    pub(crate) fn inspect(&self, depth: Depth, requests: usize) -> Inspection {
        let groups = self.replicas.iter().map(|(id, replica)| {
            let group = &replica.group;
            let is_rebuilding = replica.is_rebuilding();
            let deep = depth == Depth::Deep;
            let of_state = deep && !is_rebuilding;
            let (state_hash, log_start, next_offset, content) = match &replica.machine {
                Machine::Metadata(state) => (of_state.then(|| state.state_hash()), Offset(0), Offset(0), None),
                Machine::Partition(partition) => (
                    of_state.then(|| partition.state.state_hash()),
                    partition.state.log_start(),
                    if is_rebuilding { partition.log.applied_offset() } else { partition.state.next_offset() },
                    deep.then(|| partition.log.content()),
                ),
            };
            GroupInspection {
                group: *id,
                replica: group.replica(),
                topic: replica.creation.topic,
                role: group.role(),
                term: group.term(),
                leader: group.leader(),
                membership: (deep || group.is_leader()).then(|| group.membership().clone()),
                changing: group.is_changing(),
                serving: replica.is_serving(),
                commit: group.commit_index(),
                applied: group.applied(),
                last: group.last_index(),
                faulty: group.first_faulty(),
                held: replica.hold.as_ref().map(|hold| hold.index),
                state_hash,
                log_start,
                next_offset,
                content,
            }
        });
        let partitions = || self.replicas.values().filter_map(|replica| replica.partition());
        Inspection {
            node: self.config.node,
            boot: self.identity.boot,
            groups: groups.collect(),
            entry_bytes: self.replicas.values().map(|replica| replica.group.cached_bytes()).sum(),
            tail_bytes: partitions().map(|partition| partition.log.memory_bytes()).sum(),
            proposed_bytes: self.proposed_bytes.total(),
            wal_queued_bytes: self.wal.queued_bytes(),
            receiving: self.transfers.receiving(),
            received: self.transfers.received,
            repaired: self.repairs.repaired,
            lost: self.repairs.lost().collect(),
            damaged: self.segment_repairs.damaged(),
            repairs: self.segment_repairs.counts,
            scrub: self.scrub.counts,
            checkpoint: self.checkpoints.newest(),
            outstanding: Outstanding {
                requests,
                watched: self.watch.len(),
                deadlines: self.deadlines.len(),
                calls: self.calls.len(),
                commands: self.replicas.values().map(|replica| replica.queue.len() + replica.proposed.len()).sum(),
                confirmations: self.replicas.values().map(|replica| replica.confirming.len()).sum(),
                reads: self.reads.len(),
                producer_ids: self.producer_ids.waiting(),
            },
        }
    }
}
