//! Who belongs to a group.
//!
//! Owns the membership as data: four sets, their translation to and from raft-rs's form, and their bytes. Does not
//! decide on changes.

use std::collections::BTreeSet;

use prost::Message as _;
use raft::prelude::ConfState;

use crate::ids::ReplicaId;

/// A membership, joint while there are outgoing voters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    pub voters: BTreeSet<ReplicaId>,
    pub learners: BTreeSet<ReplicaId>,
    /// The voters before a joint change: while it lasts, their majority is needed as well.
    pub voters_outgoing: BTreeSet<ReplicaId>,
    /// Outgoing voters that become learners when the joint change ends.
    pub learners_next: BTreeSet<ReplicaId>,
}

/// Why bytes are not a membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipDecodeError {
    #[error("memberships of version {0} are unknown to this build")]
    Version(u8),
    #[error("the bytes are not a membership")]
    Malformed,
    #[error("a replica stands in two places of a membership, or has the id zero")]
    Contradiction,
}

impl Membership {
    const VERSION: u8 = 1;

    pub fn new(voters: impl IntoIterator<Item = ReplicaId>, learners: impl IntoIterator<Item = ReplicaId>) -> Self {
        Self { voters: voters.into_iter().collect(), learners: learners.into_iter().collect(), ..Self::default() }
    }

    pub fn is_joint(&self) -> bool {
        !self.voters_outgoing.is_empty()
    }

    pub fn contains(&self, replica: ReplicaId) -> bool {
        self.is_voter(replica) || self.learners.contains(&replica)
    }

    /// Whether the replica's vote counts, in either half of a joint membership.
    pub fn is_voter(&self, replica: ReplicaId) -> bool {
        self.voters.contains(&replica) || self.voters_outgoing.contains(&replica)
    }

    /// All members, ordered by id.
    pub fn members(&self) -> BTreeSet<ReplicaId> {
        self.voters.iter().chain(&self.learners).chain(&self.voters_outgoing).copied().collect()
    }

    /// Version, then raft-rs's message with members in order: equal memberships have equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![Self::VERSION];
        self.to_conf_state().encode(&mut bytes).expect("a vector has room");
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, MembershipDecodeError> {
        let (&version, message) = bytes.split_first().ok_or(MembershipDecodeError::Malformed)?;
        if version != Self::VERSION {
            return Err(MembershipDecodeError::Version(version));
        }
        let conf_state = ConfState::decode(message).map_err(|_| MembershipDecodeError::Malformed)?;
        Self::from_conf_state(&conf_state).ok_or(MembershipDecodeError::Contradiction)
    }

    pub(super) fn to_conf_state(&self) -> ConfState {
        let numbers = |replicas: &BTreeSet<ReplicaId>| replicas.iter().map(|replica| replica.0).collect();
        ConfState {
            voters: numbers(&self.voters),
            learners: numbers(&self.learners),
            voters_outgoing: numbers(&self.voters_outgoing),
            learners_next: numbers(&self.learners_next),
            auto_leave: false,
        }
    }

    /// None if the sets contradict each other in a way that raft-rs would panic on.
    pub(super) fn from_conf_state(conf_state: &ConfState) -> Option<Self> {
        let set = |numbers: &[u64]| -> Option<BTreeSet<ReplicaId>> {
            let set: BTreeSet<_> = numbers.iter().map(|&number| ReplicaId(number)).collect();
            (set.len() == numbers.len() && !set.contains(&ReplicaId(0))).then_some(set)
        };
        let membership = Self {
            voters: set(&conf_state.voters)?,
            learners: set(&conf_state.learners)?,
            voters_outgoing: set(&conf_state.voters_outgoing)?,
            learners_next: set(&conf_state.learners_next)?,
        };
        let consistent = !conf_state.auto_leave
            && membership.learners.iter().all(|replica| !membership.is_voter(*replica))
            && membership.learners_next.is_subset(&membership.voters_outgoing)
            && membership.learners_next.is_disjoint(&membership.voters)
            && (!membership.voters.is_empty() || membership == Self::default());
        consistent.then_some(membership)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(numbers: &[u64]) -> BTreeSet<ReplicaId> {
        numbers.iter().map(|&number| ReplicaId(number)).collect()
    }

    #[test]
    fn the_encoding_of_version_1_is_this_for_ever() {
        let membership = Membership {
            voters: set(&[2, 3]),
            learners: set(&[9]),
            voters_outgoing: set(&[1, 2]),
            learners_next: set(&[1]),
        };
        let golden = [1, 0x0a, 2, 2, 3, 0x12, 1, 9, 0x1a, 2, 1, 2, 0x22, 1, 1];
        assert_eq!(membership.encode(), golden);
        assert_eq!(Membership::decode(&golden), Ok(membership));
        assert_eq!(Membership::decode(&[1]), Ok(Membership::default()));
    }

    #[test]
    fn what_raft_would_panic_on_is_refused() {
        let contradiction = Err(MembershipDecodeError::Contradiction);
        let bytes = |membership: Membership| membership.encode();
        let voter_and_learner = Membership { voters: set(&[1]), learners: set(&[1]), ..Membership::default() };
        assert_eq!(Membership::decode(&bytes(voter_and_learner)), contradiction);
        let no_voters = Membership { learners: set(&[1]), ..Membership::default() };
        assert_eq!(Membership::decode(&bytes(no_voters)), contradiction);
        let zero = Membership { voters: set(&[0]), ..Membership::default() };
        assert_eq!(Membership::decode(&bytes(zero)), contradiction);
        assert_eq!(Membership::decode(&[1, 0x0a, 2, 7, 7]), contradiction, "twice the same voter");
        assert_eq!(Membership::decode(&[]), Err(MembershipDecodeError::Malformed));
        assert_eq!(Membership::decode(&[1, 0x0a, 200]), Err(MembershipDecodeError::Malformed));
        assert_eq!(Membership::decode(&[2]), Err(MembershipDecodeError::Version(2)));
    }
}
