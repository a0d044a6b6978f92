//! Where the replicas of a group are, as far as this node knows.
//!
//! The creation record of a group names the replicas it began with, the metadata name those it shall have. Invariant: a
//! replica that the newest metadata seen here do not place anywhere has no node: nothing is sent to it, nothing of it is
//! taken, and it counts as down, because the directory it lived in was replaced. Who is a member is the group's own
//! knowledge, and nothing here.

use crate::{
    ids::{NodeId, ReplicaId},
    metadata::{GroupCreation, GroupMember, topic::Partition},
};

/// In rank order: the preferred leader first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Places(Vec<(ReplicaId, NodeId)>);

impl Places {
    /// Until the metadata are known.
    pub(super) fn of_creation(creation: &GroupCreation) -> Self {
        Self::of_members(&creation.members)
    }

    pub(super) fn of_members(members: &[GroupMember]) -> Self {
        Self(members.iter().map(|member| (member.replica, member.node)).collect())
    }

    pub(super) fn of_partition(partition: &Partition) -> Self {
        Self(partition.replicas.iter().map(|replica| (replica.id, replica.node)).collect())
    }

    pub(super) fn node_of(&self, replica: ReplicaId) -> Option<NodeId> {
        self.0.iter().find(|(id, _)| *id == replica).map(|(_, node)| *node)
    }

    pub(super) fn ranked(&self) -> impl Iterator<Item = (ReplicaId, NodeId)> {
        self.0.iter().copied()
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.0.iter().map(|(_, node)| *node)
    }
}
