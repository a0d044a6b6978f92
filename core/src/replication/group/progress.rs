//! What a leader knows of its members, and what the transport tells it.

use raft::{Progress, ProgressState};

use super::Group;
use crate::ids::{LogIndex, ReplicaId};

/// How a leader sends to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicationState {
    /// One message at a time, until it is known where the logs agree.
    Probe,
    /// Many at a time.
    Replicate,
    /// Nothing, until a snapshot's outcome is reported.
    Snapshot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaProgress {
    pub replica: ReplicaId,
    /// The member's log is known to hold everything up to here, durably.
    pub matched: LogIndex,
    pub next: LogIndex,
    /// The member is known to know that everything up to here is committed.
    pub committed: LogIndex,
    pub state: ReplicationState,
    /// Whether it was heard of within the last election timeout.
    pub recently_active: bool,
}

impl ReplicaProgress {
    fn new(replica: u64, progress: &Progress) -> Self {
        Self {
            replica: ReplicaId(replica),
            matched: LogIndex(progress.matched),
            next: LogIndex(progress.next_idx),
            committed: LogIndex(progress.committed_index),
            state: match progress.state {
                ProgressState::Probe => ReplicationState::Probe,
                ProgressState::Replicate => ReplicationState::Replicate,
                ProgressState::Snapshot => ReplicationState::Snapshot,
            },
            recently_active: progress.recent_active,
        }
    }
}

impl Group {
    /// All members ordered by id, this one included; empty if this replica does not lead.
    pub fn progress(&self) -> Vec<ReplicaProgress> {
        if !self.is_leader() {
            return Vec::new();
        }
        let mut members: Vec<_> =
            self.node.raft.prs().iter().map(|(&replica, progress)| ReplicaProgress::new(replica, progress)).collect();
        members.sort_by_key(|member| member.replica);
        members
    }

    pub fn progress_of(&self, replica: ReplicaId) -> Option<ReplicaProgress> {
        if !self.is_leader() {
            return None;
        }
        self.node.raft.prs().get(replica.0).map(|progress| ReplicaProgress::new(replica.0, progress))
    }

    /// Whether a member that has this log up to an index lacks at most so many entries, and so many bytes of payloads.
    pub fn lacks_at_most(&self, matched: LogIndex, entries: u64, bytes: usize) -> bool {
        let (last, log) = (self.last_index(), self.log());
        if matched >= last {
            return true;
        }
        if matched.0 + entries < last.0 || matched < log.truncated_index() {
            return false;
        }
        // What Raft has not handed to the log yet is of this turn.
        let stored = matched.0 + 1..=last.min(log.last_log_index()).0;
        let mut left = bytes;
        stored.map(LogIndex).all(|index| match left.checked_sub(log.entry_bytes(index)) {
            Some(rest) => {
                left = rest;
                true
            }
            None => false,
        })
    }

    /// Whether a member has not acknowledged everything: then heartbeats are due more often, because a lost message is
    /// only found by them.
    pub fn has_unacknowledged(&self) -> bool {
        self.is_leader() && {
            let last = self.last_index().0;
            self.node.raft.prs().iter().any(|(_, progress)| progress.matched < last)
        }
    }

    /// Messages to this replica were lost, or its link is gone.
    pub fn unreachable(&mut self, replica: ReplicaId) {
        self.raft(|node| node.report_unreachable(replica.0));
    }
}
