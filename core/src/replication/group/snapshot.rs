//! Snapshots: a member whose end of the log is no longer in the leader's needs the state instead.
//!
//! raft-rs only starts a transfer and is told its outcome. Its own way of installing a snapshot is not used: a received
//! one becomes an offer, the replica goes on ticking and voting on its old state, and when the caller has fetched the
//! state and switched to it, the group is built anew from there.

use std::collections::BTreeSet;

use bytes::Bytes;
use raft::{
    SnapshotStatus,
    prelude::{Message, MessageType, Snapshot, SnapshotMetadata},
};

use super::{Group, GroupStart, HardState, Invalid, LogView, Membership, Refused};
use crate::ids::{LogIndex, ReplicaId, Term};

/// A leader wants to send its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotOffer {
    pub from: ReplicaId,
    pub position: SnapshotPosition,
    /// The membership at the snapshot's index; names this replica.
    pub membership: Membership,
    /// What the leader's caller attached.
    pub data: Bytes,
}

/// Where in the log a snapshot stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotPosition {
    pub index: LogIndex,
    pub term: Term,
}

/// How a transfer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotOutcome {
    Installed,
    Failed,
}

/// Why no snapshot can be provided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    #[error("this replica does not lead its group")]
    NotLeader { leader: Option<ReplicaId> },
    /// It would refuse a snapshot that does not name it.
    #[error("replica {0} is not in the applied membership")]
    NotMember(ReplicaId),
}

impl Group {
    /// Answers [`super::GroupOutput::snapshots_wanted`]: the state as of the applied index, described by `data`. It goes
    /// out with the member's next answer. Its membership is the applied one, so it always names its receiver.
    pub fn provide_snapshot(&mut self, to: ReplicaId, data: Bytes) -> Result<SnapshotPosition, SnapshotError> {
        if !self.is_leader() {
            return Err(SnapshotError::NotLeader { leader: self.leader() });
        }
        if !self.membership.contains(to) {
            return Err(SnapshotError::NotMember(to));
        }
        let position = SnapshotPosition { index: self.applied, term: self.log().log_term(self.applied) };
        let metadata = SnapshotMetadata {
            conf_state: Some(self.membership.to_conf_state()),
            index: position.index.0,
            term: position.term.0,
        };
        self.node.mut_store().provide_snapshot(to, Snapshot { data, metadata: Some(metadata) });
        Ok(position)
    }

    /// How the transfer to a member ended. Until this is told, nothing is sent to it: it has to be told always.
    pub fn report_snapshot(&mut self, to: ReplicaId, outcome: SnapshotOutcome) {
        let status = match outcome {
            SnapshotOutcome::Installed => SnapshotStatus::Finish,
            SnapshotOutcome::Failed => SnapshotStatus::Failure,
        };
        self.raft(|node| node.report_snapshot(to.0, status));
    }

    /// A snapshot that this log already covers is answered by raft-rs. Any other becomes an offer; its sender still
    /// counts as a leader that was heard of. So does one that has applied an entry which is lost here: the leader's log
    /// begins behind it.
    pub(super) fn step_snapshot(&mut self, message: Message) -> Result<(), Refused> {
        let metadata = message.get_snapshot().get_metadata();
        let position = SnapshotPosition { index: LogIndex(metadata.index), term: Term(metadata.term) };
        let raft_log = &self.node.raft.raft_log;
        let matches = raft_log.match_term(position.index.0, position.term.0);
        let repairs = matches && self.first_faulty().is_some_and(|first| first <= position.index);
        let is_old = message.term < self.term().0;
        let is_covered = position.index.0 < raft_log.committed || matches;
        if is_old || (is_covered && !repairs) {
            return self.step_checked(message);
        }
        if position.index.0 == raft_log.committed && !repairs {
            return Err(Invalid::Snapshot.into());
        }
        let mut heartbeat = Message { from: message.from, to: message.to, term: message.term, ..Message::default() };
        heartbeat.set_msg_type(MessageType::MsgHeartbeat);
        self.step_checked(heartbeat)?;
        if self.leader() == Some(ReplicaId(message.from)) {
            let membership = Membership::from_conf_state(metadata.get_conf_state()).expect("the message was checked");
            self.snapshot_offer = Some(SnapshotOffer {
                from: ReplicaId(message.from),
                position,
                membership,
                data: message.get_snapshot().data.clone(),
            });
        }
        Ok(())
    }

    /// Whether the state at `position` may replace this one: it is newer than what is committed here and its entry is not
    /// in the log already, or it has applied an entry that is lost here; this replica knows of its term, and everything
    /// that was handed out for writing is in the WAL before the record of the switch.
    pub fn may_switch(&self, position: SnapshotPosition) -> bool {
        let matches = self.node.raft.raft_log.match_term(position.index.0, position.term.0);
        let is_news = position.index > self.commit_index() && !matches;
        let repairs = matches && self.first_faulty().is_some_and(|first| first <= position.index);
        (is_news || repairs) && position.term <= self.written.term && !self.queue.holds_unwritten() && !self.is_leader()
    }

    /// What to start in place of this group, once the state at `position` is here and the record of the switch is
    /// durable behind everything this group handed out for writing; until then the group is left alone. The old log is
    /// gone, but for what [`GroupStart::keep_behind`] keeps. `removed` are replicas that were members once, as far
    /// as the sender knows.
    pub fn switch(
        &self,
        position: SnapshotPosition,
        membership: Membership,
        removed: &BTreeSet<ReplicaId>,
    ) -> GroupStart {
        assert!(self.may_switch(position), "the caller asked whether it may");
        let mut removed = removed | &self.removed;
        removed.extend(self.membership.members());
        removed.retain(|member| !membership.contains(*member));
        let introduced = &self.known - &removed;
        GroupStart {
            group: self.group,
            replica: self.replica,
            hard_state: HardState { commit: position.index, ..self.written },
            log: LogView::new(position.index, position.term),
            applied: position.index,
            membership,
            introduced,
            removed,
        }
    }

    /// Goes on under the leader that the replaced group followed in this term: it counts as heard of, and is told how far
    /// this log goes.
    pub fn resume_under(&mut self, leader: ReplicaId) {
        if leader == self.replica || !self.known.contains(&leader) {
            return;
        }
        // What lies behind may not be the leader's.
        let end = self.commit_index();
        let mut append = Message {
            from: leader.0,
            to: self.replica.0,
            term: self.term().0,
            index: end.0,
            log_term: self.log().log_term(end).0,
            commit: end.0,
            ..Message::default()
        };
        append.set_msg_type(MessageType::MsgAppend);
        // An append without entries that agrees with this log changes nothing of it.
        self.step_checked(append).expect("a message of a leader is stepped whoever is a member");
    }

    /// A member says that it switched to the state at `position`: its log is known to reach so far, and it is sent what
    /// follows. Ignored unless this replica leads and has the entry.
    pub fn installed(&mut self, replica: ReplicaId, position: SnapshotPosition) {
        let holds = position.index <= self.log().truncated_index()
            || position.index <= self.log().last_log_index() && self.log().log_term(position.index) == position.term;
        if !self.is_leader() || !holds || self.progress_of(replica).is_none() {
            return;
        }
        let mut response = Message {
            from: replica.0,
            to: self.replica.0,
            term: self.term().0,
            index: position.index.0,
            commit: position.index.0,
            ..Message::default()
        };
        response.set_msg_type(MessageType::MsgAppendResponse);
        self.step_checked(response).expect("it was just found to be a member");
        // A state that was announced and overtaken by another way may still be waited for.
        self.report_snapshot(replica, SnapshotOutcome::Installed);
    }
}
