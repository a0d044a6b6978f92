//! Properties of the nodes from the inside, looked at while they run.
//!
//! Invariant: looking is read-only, and what a check remembers is bounded by groups, not by time.

pub mod acknowledged_is_intact;
pub mod bounded_memory;
pub mod committed_is_durable;
pub mod election_safety;
pub mod equal_state_hash;
pub mod positions_monotonic;
pub mod promoted_has_caught_up;

use self::{
    acknowledged_is_intact::AcknowledgedIsIntact, bounded_memory::BoundedMemory, election_safety::ElectionSafety,
    equal_state_hash::EqualStateHash, positions_monotonic::PositionsMonotonic,
    promoted_has_caught_up::PromotedHasCaughtUp,
};
use crate::{core::NodeView, failure::Failure};

/// All checks of this kind.
#[derive(Debug)]
pub struct Inside {
    election_safety: ElectionSafety,
    equal_state_hash: EqualStateHash,
    positions_monotonic: PositionsMonotonic,
    bounded_memory: BoundedMemory,
    promoted_has_caught_up: PromotedHasCaughtUp,
    pub acknowledged_is_intact: AcknowledgedIsIntact,
}

impl Inside {
    pub fn new(nodes: usize) -> Self {
        Self {
            election_safety: ElectionSafety::default(),
            equal_state_hash: EqualStateHash::default(),
            positions_monotonic: PositionsMonotonic::new(nodes),
            bounded_memory: BoundedMemory,
            promoted_has_caught_up: PromotedHasCaughtUp::default(),
            acknowledged_is_intact: AcknowledgedIsIntact::new(nodes),
        }
    }

    /// The process of a node starts: it may be behind what its predecessor had applied.
    pub fn node_started(&mut self, node: usize) {
        self.positions_monotonic.node_started(node);
        self.acknowledged_is_intact.node_started(node);
    }

    /// `is_damaged`: the disk of the node may have lost or hidden something since it was empty.
    pub fn look(&mut self, node: usize, view: &NodeView, is_damaged: bool) -> Result<(), Failure> {
        self.acknowledged_is_intact.look(node, view);
        self.election_safety.look(node, view)?;
        self.positions_monotonic.look(node, view)?;
        self.equal_state_hash.look(node, view)?;
        self.promoted_has_caught_up.look(node, view, is_damaged)?;
        self.bounded_memory.look(node, view)
    }
}

/// Views written by hand, for the tests of the checks.
#[cfg(test)]
mod story {
    use kauri_core::ids::{GroupId, LogIndex, Offset, ReplicaId, Term};

    use crate::core::{GroupView, NodeView, PartitionView};

    pub(super) fn group() -> GroupView {
        GroupView {
            group: GroupId(7),
            replica: ReplicaId(1),
            term: Term(2),
            is_leader: false,
            commit: LogIndex(10),
            applied: LogIndex(10),
            last: LogIndex(10),
            faulty: None,
            state_hash: None,
            partition: Some(PartitionView { log_start: Offset(0), next_offset: Offset(8) }),
        }
    }

    pub(super) fn node(group: GroupView) -> NodeView {
        NodeView { groups: vec![group], ..NodeView::default() }
    }
}
