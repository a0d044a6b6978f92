//! A node came back with another data directory: its disk was wiped or replaced.

use std::sync::Arc;

use super::{MetadataOutcome, RegisterNode};
use crate::{
    codec::{CodecError, Decoder},
    ids::{ImageVersion, NodeId, ReplicaId},
    limits::NODE_REPLACEMENTS_MAX,
    metadata::{refusal::Refusal, state::MetadataState, topic::Replica},
};

/// Sent instead of [`RegisterNode`] by a node whose directory is not one of those that the cluster was formed with. The
/// directory takes the place of the registered one, if that is not in use: every replica of the node gets a new id, the
/// one of the metadata group too, because the old ones are gone and their ids voted and acknowledged. A directory that
/// was replaced is remembered and never comes back. The same command again registers the node as usual.
///
/// Fields and bytes are those of [`RegisterNode`]; that one keeps its meaning, which logs rely on: it replaces nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplaceNode(pub RegisterNode);

impl ReplaceNode {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Self, CodecError> {
        RegisterNode::decode(from).map(Self)
    }

    pub(super) fn apply(self, state: &mut MetadataState, version: ImageVersion) -> Result<MetadataOutcome, Refusal> {
        let Self(command) = self;
        let (node, directory) = (command.node, command.directory);
        let known = state.member(node)?;
        if known.directory == directory {
            return command.apply(state, version);
        }
        if known.replaced.contains(&directory) {
            return Err(Refusal::ReplacedDirectory { node, registered: known.directory, offered: directory });
        }
        if known.up {
            return Err(Refusal::DirectoryInUse { node, registered: known.directory, offered: directory });
        }
        if known.replaced.len() >= NODE_REPLACEMENTS_MAX {
            return Err(Refusal::TooManyReplacements(node));
        }
        if !command.registration.is_legal() {
            return Err(Refusal::InvalidEndpoint);
        }
        let metadata_replica = if keeps_ids() { known.metadata_replica } else { take_replica(state) };
        state.change_node(node, version, |node| {
            node.replaced.push(std::mem::replace(&mut node.directory, directory));
            node.metadata_replica = metadata_replica;
            node.registration = Some(command.registration);
            node.up = true;
        });
        replace_replicas(state, node, |id| Replica { id, node, directory });
        Ok(state.registered(node))
    }
}

/// A planted bug.
fn keeps_ids() -> bool {
    #[cfg(feature = "mutants")]
    return crate::mutants::Mutant::WipedKeepsReplicaIds.is_planted();
    #[cfg(not(feature = "mutants"))]
    false
}

fn take_replica(state: &mut MetadataState) -> ReplicaId {
    let id = ReplicaId(state.next_replica);
    state.next_replica += 1;
    id
}

/// Every partition with a replica on the node gets a new one there, in the order of topic ids and partitions.
fn replace_replicas(state: &mut MetadataState, node: NodeId, replica: impl Fn(ReplicaId) -> Replica) {
    let is_there = |topic: &crate::metadata::Topic| topic.partitions.iter().any(|partition| partition.is_on(node));
    if !state.image.topics.by_id.values().any(|topic| is_there(topic)) {
        return;
    }
    let mut next = state.next_replica;
    for topic in Arc::make_mut(&mut state.image.topics).by_id.values_mut().filter(|topic| is_there(topic)) {
        for partition in Arc::make_mut(topic).partitions.iter_mut().filter(|partition| partition.is_on(node)) {
            let old = partition.replicas.iter().find(|replica| replica.node == node);
            let kept = old.filter(|_| keeps_ids()).map(|replica| replica.id);
            partition.replace(replica(kept.unwrap_or(ReplicaId(next))));
            next += 1;
        }
    }
    state.next_replica = next;
}
