//! The first command of every cluster: who belongs to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::MetadataOutcome;
use crate::{
    codec::{CodecError, Decoder, Encode},
    ids::{ClusterId, ImageVersion},
    limits::{CLUSTER_NODES_MAX, METADATA_VOTERS_MAX},
    metadata::{creation::GroupMember, node::Node, refusal::Refusal, state::MetadataState},
};

/// Proposed by the first leader of group 0, from the record its formation left. Proposed again by a leader that does
/// not know whether it was; only the first one counts, and the same one again is a success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormCluster {
    pub cluster: ClusterId,
    /// The replicas of group 0: every configured node.
    pub members: Vec<GroupMember>,
}

impl FormCluster {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_uuid(self.cluster.0);
        out.put_count(self.members.len());
        for member in &self.members {
            member.encode(out);
        }
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Self, CodecError> {
        Ok(Self { cluster: ClusterId(from.uuid()?), members: from.list(GroupMember::BYTES, GroupMember::decode)? })
    }

    pub(super) fn apply(self, state: &mut MetadataState, version: ImageVersion) -> Result<MetadataOutcome, Refusal> {
        if let Some(cluster) = state.image.cluster {
            return if cluster == self.cluster {
                Ok(MetadataOutcome::ClusterFormed)
            } else {
                Err(Refusal::AlreadyFormed(cluster))
            };
        }
        if !self.is_consistent() {
            return Err(Refusal::InvalidMembers);
        }
        let nodes = self.members.iter().map(|member| {
            let node = Node {
                id: member.node,
                voter: member.voter,
                directory: member.directory,
                replaced: Vec::new(),
                metadata_replica: member.replica,
                registration: None,
                up: false,
            };
            (member.node, Arc::new(node))
        });
        state.image.nodes = Arc::new(nodes.collect::<BTreeMap<_, _>>());
        state.image.cluster = Some(self.cluster);
        state.image.version = version;
        let last = self.members.iter().map(|member| member.replica.0).max();
        state.next_replica = last.expect("consistent members are not empty") + 1;
        Ok(MetadataOutcome::ClusterFormed)
    }

    /// Every node, directory and replica is named once, and the voters are a legal number.
    fn is_consistent(&self) -> bool {
        let nodes: BTreeSet<_> = self.members.iter().map(|member| member.node).collect();
        let directories: BTreeSet<_> = self.members.iter().map(|member| member.directory).collect();
        let replicas: BTreeSet<_> = self.members.iter().map(|member| member.replica).collect();
        let voters = self.members.iter().filter(|member| member.voter).count();
        nodes.len() == self.members.len()
            && directories.len() == self.members.len()
            && replicas.len() == self.members.len()
            && self.members.iter().all(|member| member.node.0 >= 0 && (1..u64::MAX).contains(&member.replica.0))
            && (1..=METADATA_VOTERS_MAX).contains(&voters)
            && self.members.len() <= CLUSTER_NODES_MAX
            && self.cluster != ClusterId::default()
    }
}
