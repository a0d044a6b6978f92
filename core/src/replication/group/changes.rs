//! Changing who belongs to a group.
//!
//! Invariant: one change at a time; a leader never removes itself; a replica learns before it votes; an id that was a
//! member once never comes back. A change is in force when it is applied. A joint membership is always left, by
//! whoever leads: raft-rs may lose its own attempt when leadership changes.

use prost::Message as _;
use raft::{
    INVALID_ID,
    prelude::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, Entry, EntryType},
};

use super::{Group, Membership, MembershipApplied, ProposeError, ReplicationState, Role, ready::membership_change};
#[cfg(feature = "mutants")]
use crate::mutants::Mutant;
use crate::{
    ids::{LogIndex, ReplicaId, Term},
    limits,
};

/// One step of a change. Several steps become one joint change, so that replicas may be swapped at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MembershipStep {
    AddLearner(ReplicaId),
    /// A learner that has caught up becomes a voter.
    Promote(ReplicaId),
    Remove(ReplicaId),
}

/// Why a change is not proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    #[error("this replica does not lead its group")]
    NotLeader { leader: Option<ReplicaId> },
    #[error("leadership is being handed over")]
    Transferring,
    #[error("an earlier change is not finished")]
    InProgress,
    #[error("there is nothing to change")]
    Empty,
    #[error("replica {0} stands in the change twice")]
    Twice(ReplicaId),
    #[error("replica {0} is already a member")]
    Member(ReplicaId),
    #[error("replica {0} was a member once, and ids are never used again")]
    Reused(ReplicaId),
    #[error("replica {0} is not a learner")]
    NotLearner(ReplicaId),
    #[error("replica {0} is not a member")]
    NotMember(ReplicaId),
    #[error("replica {0} has not caught up")]
    NotCaughtUp(ReplicaId),
    #[error("a leader does not remove itself")]
    RemovesLeader,
    #[error("a group has at most {max} voters", max = VOTERS_MAX)]
    TooManyVoters,
}

const VOTERS_MAX: usize =
    if limits::REPLICAS_MAX > limits::METADATA_VOTERS_MAX { limits::REPLICAS_MAX } else { limits::METADATA_VOTERS_MAX };

impl Group {
    /// Proposes a change. It is in force when [`super::GroupOutput::memberships`] says so; a joint one is left by
    /// itself, and is finished when a membership is reported that is not joint.
    pub fn propose_membership(&mut self, steps: &[MembershipStep]) -> Result<(Term, LogIndex), MembershipError> {
        if !self.is_leader() {
            return Err(MembershipError::NotLeader { leader: self.leader() });
        }
        if self.is_changing() {
            return Err(MembershipError::InProgress);
        }
        self.check_steps(steps)?;
        let single = |&step: &MembershipStep| {
            let (change_type, replica) = match step {
                MembershipStep::AddLearner(replica) => (ConfChangeType::AddLearnerNode, replica),
                MembershipStep::Promote(replica) => (ConfChangeType::AddNode, replica),
                MembershipStep::Remove(replica) => (ConfChangeType::RemoveNode, replica),
            };
            ConfChangeSingle { change_type: change_type as i32, node_id: replica.0 }
        };
        let transition = if steps.len() == 1 { ConfChangeTransition::Auto } else { ConfChangeTransition::Explicit };
        let change = ConfChangeV2 {
            transition: transition as i32,
            changes: steps.iter().map(single).collect(),
            ..ConfChangeV2::default()
        };
        self.append_change(&change).map_err(|error| match error {
            ProposeError::NotLeader { leader } => MembershipError::NotLeader { leader },
            ProposeError::Transferring | ProposeError::Busy | ProposeError::TooLarge(_) => {
                MembershipError::Transferring
            }
        })
    }

    fn check_steps(&self, steps: &[MembershipStep]) -> Result<(), MembershipError> {
        if steps.is_empty() {
            return Err(MembershipError::Empty);
        }
        let members = &self.membership;
        let mut named = std::collections::BTreeSet::new();
        let mut voters = members.voters.clone();
        for &step in steps {
            let (MembershipStep::AddLearner(replica)
            | MembershipStep::Promote(replica)
            | MembershipStep::Remove(replica)) = step;
            if !named.insert(replica) {
                return Err(MembershipError::Twice(replica));
            }
            match step {
                MembershipStep::AddLearner(_) if members.contains(replica) => {
                    return Err(MembershipError::Member(replica));
                }
                MembershipStep::AddLearner(_) if self.removed.contains(&replica) || replica == ReplicaId(0) => {
                    return Err(MembershipError::Reused(replica));
                }
                MembershipStep::AddLearner(_) => {}
                MembershipStep::Promote(_) if !members.learners.contains(&replica) => {
                    return Err(MembershipError::NotLearner(replica));
                }
                MembershipStep::Promote(_) if !self.has_caught_up(replica) => {
                    return Err(MembershipError::NotCaughtUp(replica));
                }
                MembershipStep::Promote(_) => {
                    voters.insert(replica);
                }
                MembershipStep::Remove(_) if replica == self.replica => return Err(MembershipError::RemovesLeader),
                MembershipStep::Remove(_) if !members.contains(replica) => {
                    return Err(MembershipError::NotMember(replica));
                }
                MembershipStep::Remove(_) => {
                    voters.remove(&replica);
                }
            }
        }
        if voters.len() > VOTERS_MAX { Err(MembershipError::TooManyVoters) } else { Ok(()) }
    }

    /// Whether a member follows closely enough to vote: it takes entries as they come, or has all there are, and has
    /// everything that was applied here.
    pub fn has_caught_up(&self, replica: ReplicaId) -> bool {
        #[cfg(feature = "mutants")]
        if Mutant::SwapBeforeCatchUp.is_planted() {
            return true;
        }
        self.progress_of(replica).is_some_and(|progress| {
            let takes_entries = match progress.state {
                ReplicationState::Replicate => true,
                // After a state transfer it is probed with the next entry, whenever that comes.
                ReplicationState::Probe => progress.matched >= self.last_index(),
                ReplicationState::Snapshot => false,
            };
            takes_entries && progress.recently_active && progress.matched >= self.applied
        })
    }

    /// Whether a change of members is under way as far as this replica knows: proposed and not applied, or not ended.
    pub fn is_changing(&self) -> bool {
        self.membership.is_joint() || self.node.raft.has_pending_conf()
    }

    fn append_change(&mut self, change: &ConfChangeV2) -> Result<(Term, LogIndex), ProposeError> {
        let mut entry = Entry { data: change.encode_to_vec().into(), ..Entry::default() };
        entry.set_entry_type(EntryType::EntryConfChangeV2);
        self.append_proposal(vec![entry])
    }

    /// A leader in a joint membership sees to its end. One that will not be a member afterwards first tries to hand
    /// over to one that will.
    pub(super) fn tend_membership(&mut self) {
        if !self.membership.is_joint()
            || !self.is_leader()
            || self.node.raft.has_pending_conf()
            || self.node.raft.lead_transferee.is_some()
        {
            return;
        }
        if !self.membership.voters.contains(&self.replica) && self.handed_over_in != Some(self.term()) {
            // Whoever has not applied the joint membership would decline; it is about to when it knows it committed.
            let successor = self
                .progress()
                .into_iter()
                .filter(|member| self.membership.voters.contains(&member.replica) && member.recently_active)
                .filter(|member| member.committed >= self.membership_since)
                .max_by_key(|member| member.matched);
            if let Some(successor) = successor {
                self.handed_over_in = Some(self.term());
                self.transfer_leader(successor.replica).expect("a voter, and not this leader");
            }
            return;
        }
        // Refused only while leadership is handed over; tried again afterwards.
        let _ = self.append_change(&ConfChangeV2::default());
    }

    /// Applies the change in a committed entry.
    pub(super) fn apply_membership(&mut self, index: LogIndex, entry_type: EntryType, data: &[u8]) {
        let term = self.log().log_term(index);
        let Some(change) = membership_change(entry_type, data) else {
            slog::error!(self.logger, "an entry is no membership change although its type says so"; "index" => index.0);
            return;
        };
        let conf_state = match self.raft(|node| node.apply_conf_change(&change)) {
            Ok(conf_state) => conf_state,
            // The same on every replica: it depends on the log alone.
            Err(error) => {
                slog::error!(self.logger, "a membership change is refused"; "index" => index.0, "error" => %error);
                return;
            }
        };
        let membership = Membership::from_conf_state(&conf_state).expect("raft-rs keeps its members in order");
        for member in self.membership.members() {
            if !membership.contains(member) {
                self.removed.insert(member);
                self.known.remove(&member);
            }
        }
        self.known.extend(membership.members());
        self.membership = membership;
        self.membership_since = index;
        // raft-rs lets a leader that is no longer a voter go on, and panics when it next counts itself.
        if self.role() == Role::Leader && !self.node.raft.promotable() {
            self.raft(|node| node.raft.become_follower(node.raft.term, INVALID_ID));
        }
        self.applied_memberships.push(MembershipApplied {
            index,
            term,
            membership: self.membership.clone(),
            removed: !self.membership.contains(self.replica),
        });
    }
}
