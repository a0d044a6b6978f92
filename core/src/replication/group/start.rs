//! What a group is started from: a creation, a recovery, or a state that was transferred.

use std::collections::BTreeSet;

use super::{LogView, Membership};
use crate::ids::{GroupId, LogIndex, ReplicaId, Term};

/// The term of every group's truncated index at its creation, and the term its first members start in. Equal for all
/// of them, or their logs would not match.
pub const TERM_AT_CREATION: Term = Term(1);

/// What a replica must never forget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    pub term: Term,
    /// Whom this replica voted for in `term`.
    pub vote: Option<ReplicaId>,
    /// A lower bound of what is committed.
    pub commit: LogIndex,
}

#[derive(Debug)]
pub struct GroupStart {
    pub group: GroupId,
    pub replica: ReplicaId,
    pub hard_state: HardState,
    pub log: LogView,
    /// Up to here the caller's state is applied.
    pub applied: LogIndex,
    /// The membership as of `applied`. Empty for a newcomer, which learns it by state transfer.
    pub membership: Membership,
    /// Replicas that may speak to this one although neither its membership nor its log names them yet.
    pub introduced: BTreeSet<ReplicaId>,
    /// Replicas that were members once. Their ids are never used again.
    pub removed: BTreeSet<ReplicaId>,
}

/// Why a group cannot be started from what was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    #[error("the log ends at {last} and continues at {index}")]
    Gap { last: LogIndex, index: LogIndex },
    #[error("the entry at {index} has term {term}, the one before it {before}")]
    TermDecreases { index: LogIndex, term: Term, before: Term },
    #[error("entries up to {commit} were committed, but the log ends at {last}")]
    CommitBehindLog { commit: LogIndex, last: LogIndex },
    #[error("entries up to {applied} were applied, but the log holds those behind {truncated} up to {last}")]
    AppliedOutsideLog { applied: LogIndex, truncated: LogIndex, last: LogIndex },
    #[error("the log ends in term {last}, but the hard state knows only term {term}")]
    TermBehindLog { term: Term, last: Term },
    #[error("the membership contradicts itself")]
    Membership,
    #[error("replica ids start at 1")]
    ReplicaZero,
}

impl GroupStart {
    /// A replica named by the creation of its group. All of them start alike.
    pub fn created(group: GroupId, replica: ReplicaId, membership: Membership) -> Self {
        let commit = LogIndex::TRUNCATED_AT_CREATION;
        Self {
            group,
            replica,
            hard_state: HardState { term: TERM_AT_CREATION, vote: None, commit },
            log: LogView::at_creation(),
            applied: commit,
            membership,
            introduced: BTreeSet::new(),
            removed: BTreeSet::new(),
        }
    }

    /// A replica that was added to a group later. It is empty and cannot campaign; `introduced` may send it their
    /// state.
    pub fn newcomer(group: GroupId, replica: ReplicaId, introduced: BTreeSet<ReplicaId>) -> Self {
        Self {
            group,
            replica,
            hard_state: HardState::default(),
            log: LogView::of_newcomer(),
            applied: LogIndex(0),
            membership: Membership::default(),
            introduced,
            removed: BTreeSet::new(),
        }
    }

    /// Keeps of the log that a transferred state replaces what lies behind it, if that log holds the very entry at which
    /// the state stands: it may have been acknowledged (Raft, section 7). Otherwise what the log held is in the state, or
    /// was never committed. Everything of that log is durable.
    pub fn keep_behind(&mut self, log: &LogView, commit: LogIndex) {
        let (index, term) = (self.log.truncated_index(), self.log.log_term(self.log.truncated_index()));
        if let Some(log) = log.behind(index, term) {
            self.hard_state.commit = self.hard_state.commit.max(commit.min(log.last_log_index()));
            self.log = log;
        }
    }

    /// The first entry that is not applied and whose payload is lost.
    pub fn first_faulty(&self) -> Option<LogIndex> {
        self.log.faulty().find(|index| *index > self.applied)
    }

    /// The commit index to start with: a checkpoint may have applied more than the last hard state says.
    pub(super) fn commit(&self) -> LogIndex {
        self.hard_state.commit.max(self.applied).max(self.log.truncated_index())
    }

    pub(super) fn check(&self) -> Result<(), StartError> {
        let (truncated, last) = (self.log.truncated_index(), self.log.last_log_index());
        if self.replica == ReplicaId(0) {
            return Err(StartError::ReplicaZero);
        }
        if self.applied < truncated || self.applied > last {
            return Err(StartError::AppliedOutsideLog { applied: self.applied, truncated, last });
        }
        if self.commit() > last {
            return Err(StartError::CommitBehindLog { commit: self.commit(), last });
        }
        let last_term = self.log.log_term(last);
        if last_term > self.hard_state.term {
            return Err(StartError::TermBehindLog { term: self.hard_state.term, last: last_term });
        }
        match Membership::from_conf_state(&self.membership.to_conf_state()) {
            Some(_) => Ok(()),
            None => Err(StartError::Membership),
        }
    }
}
