//! What can be done to the metadata: one file per command, with its fields, its encoding and what it does at apply.
//!
//! A command travels as a kind (in the header of its Raft entry) and bytes that start with a version. The kinds and
//! bytes are on every node's disk: a change needs a new version, and a higher level where old nodes would err.

mod allocate_producer_ids;
mod create_topic;
mod delete_topic;
mod form_cluster;
mod register_node;
mod replace_node;
mod set_node_liveness;

use bytes::Bytes;

pub use allocate_producer_ids::AllocateProducerIds;
pub use create_topic::CreateTopic;
pub use delete_topic::DeleteTopic;
pub use form_cluster::FormCluster;
pub use register_node::RegisterNode;
pub use replace_node::ReplaceNode;
pub use set_node_liveness::SetNodeLiveness;

use super::{refusal::Refusal, state::MetadataState};
use crate::{
    codec::{CodecError, Decoder, Encode},
    ids::{ImageVersion, ProducerId, ReplicaId, TopicId},
    metadata::creation::GroupMember,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataCommand {
    FormCluster(FormCluster),
    RegisterNode(RegisterNode),
    CreateTopic(CreateTopic),
    DeleteTopic(DeleteTopic),
    AllocateProducerIds(AllocateProducerIds),
    SetNodeLiveness(SetNodeLiveness),
    ReplaceNode(ReplaceNode),
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataOutcome {
    ClusterFormed,
    /// The node belongs to the cluster with its directory.
    NodeRegistered {
        /// Its replica of the metadata group.
        replica: ReplicaId,
        /// Where that group's replicas shall be, in the order of the nodes: who may speak to a replica that is empty.
        members: Vec<GroupMember>,
    },
    TopicCreated(TopicId),
    TopicDeleted(TopicId),
    /// `count` ids from `first` on belong to whoever asked, for ever.
    ProducerIds {
        first: ProducerId,
        count: u32,
    },
    LivenessSet,
}

/// The answer to a command. Whoever forwarded it to another node waits until its own image is at least `version`
/// before it answers its client, which then sees the change everywhere on that node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataResponse {
    pub version: ImageVersion,
    pub result: Result<MetadataOutcome, Refusal>,
}

/// The lowest feature level that understands the commands of this file's first version.
const LEVEL: u16 = 1;
const VERSION: u8 = 1;

mod kind {
    pub(super) const FORM_CLUSTER: u8 = 1;
    pub(super) const REGISTER_NODE: u8 = 2;
    pub(super) const CREATE_TOPIC: u8 = 3;
    pub(super) const DELETE_TOPIC: u8 = 4;
    pub(super) const ALLOCATE_PRODUCER_IDS: u8 = 5;
    pub(super) const SET_NODE_LIVENESS: u8 = 6;
    pub(super) const REPLACE_NODE: u8 = 7;
}

impl MetadataCommand {
    /// Goes into the header of the entry.
    pub fn kind(&self) -> u8 {
        match self {
            Self::FormCluster(_) => kind::FORM_CLUSTER,
            Self::RegisterNode(_) => kind::REGISTER_NODE,
            Self::CreateTopic(_) => kind::CREATE_TOPIC,
            Self::DeleteTopic(_) => kind::DELETE_TOPIC,
            Self::AllocateProducerIds(_) => kind::ALLOCATE_PRODUCER_IDS,
            Self::SetNodeLiveness(_) => kind::SET_NODE_LIVENESS,
            Self::ReplaceNode(_) => kind::REPLACE_NODE,
        }
    }

    /// Goes into the header of the entry.
    pub fn level(&self) -> u16 {
        LEVEL
    }

    /// The payload of the entry.
    pub fn encode(&self) -> Bytes {
        let mut out = vec![VERSION];
        match self {
            Self::FormCluster(command) => command.encode(&mut out),
            Self::RegisterNode(command) => command.encode(&mut out),
            Self::CreateTopic(command) => command.encode(&mut out),
            Self::DeleteTopic(command) => command.encode(&mut out),
            Self::AllocateProducerIds(command) => command.encode(&mut out),
            Self::SetNodeLiveness(command) => command.encode(&mut out),
            Self::ReplaceNode(command) => command.encode(&mut out),
        }
        Bytes::from(out)
    }

    /// Reads what [`MetadataCommand::encode`] wrote, from the log or from a node that forwards a command.
    pub fn decode(kind: u8, data: &[u8]) -> Result<Self, CodecError> {
        let mut from = Decoder::new(data);
        from.version("a metadata command", VERSION)?;
        let command = match kind {
            kind::FORM_CLUSTER => Self::FormCluster(FormCluster::decode(&mut from)?),
            kind::REGISTER_NODE => Self::RegisterNode(RegisterNode::decode(&mut from)?),
            kind::CREATE_TOPIC => Self::CreateTopic(CreateTopic::decode(&mut from)?),
            kind::DELETE_TOPIC => Self::DeleteTopic(DeleteTopic::decode(&mut from)?),
            kind::ALLOCATE_PRODUCER_IDS => Self::AllocateProducerIds(AllocateProducerIds::decode(&mut from)?),
            kind::SET_NODE_LIVENESS => Self::SetNodeLiveness(SetNodeLiveness::decode(&mut from)?),
            kind::REPLACE_NODE => Self::ReplaceNode(ReplaceNode::decode(&mut from)?),
            _ => return Err(CodecError::Value("the kind of a metadata command")),
        };
        from.finish()?;
        Ok(command)
    }

    pub(super) fn apply(self, state: &mut MetadataState, version: ImageVersion) -> Result<MetadataOutcome, Refusal> {
        match self {
            Self::FormCluster(command) => command.apply(state, version),
            Self::RegisterNode(command) => command.apply(state, version),
            Self::CreateTopic(command) => command.apply(state, version),
            Self::DeleteTopic(command) => command.apply(state, version),
            Self::AllocateProducerIds(command) => command.apply(state),
            Self::SetNodeLiveness(command) => command.apply(state, version),
            Self::ReplaceNode(command) => command.apply(state, version),
        }
    }
}

impl MetadataResponse {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.put_u64(self.version.0);
        match &self.result {
            Err(refusal) => {
                out.put_u8(0);
                refusal.encode(&mut out);
            }
            Ok(MetadataOutcome::ClusterFormed) => out.put_u8(1),
            Ok(MetadataOutcome::NodeRegistered { replica, members }) => {
                out.put_u8(2);
                out.put_u64(replica.0);
                out.put_count(members.len());
                for member in members {
                    member.encode(&mut out);
                }
            }
            Ok(MetadataOutcome::TopicCreated(topic)) => {
                out.put_u8(3);
                out.put_uuid(topic.0);
            }
            Ok(MetadataOutcome::TopicDeleted(topic)) => {
                out.put_u8(4);
                out.put_uuid(topic.0);
            }
            Ok(MetadataOutcome::ProducerIds { first, count }) => {
                out.put_u8(5);
                out.put_i64(first.0);
                out.put_u32(*count);
            }
            Ok(MetadataOutcome::LivenessSet) => out.put_u8(6),
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut from = Decoder::new(bytes);
        from.version("the answer to a metadata command", VERSION)?;
        let version = ImageVersion(from.u64()?);
        let result = match from.u8()? {
            0 => Err(Refusal::decode(&mut from)?),
            1 => Ok(MetadataOutcome::ClusterFormed),
            2 => Ok(MetadataOutcome::NodeRegistered {
                replica: ReplicaId(from.u64()?),
                members: from.list(GroupMember::BYTES, GroupMember::decode)?,
            }),
            3 => Ok(MetadataOutcome::TopicCreated(TopicId(from.uuid()?))),
            4 => Ok(MetadataOutcome::TopicDeleted(TopicId(from.uuid()?))),
            5 => Ok(MetadataOutcome::ProducerIds { first: ProducerId(from.i64()?), count: from.u32()? }),
            6 => Ok(MetadataOutcome::LivenessSet),
            _ => return Err(CodecError::Value("the outcome of a metadata command")),
        };
        from.finish()?;
        Ok(Self { version, result })
    }
}

#[cfg(test)]
mod tests;
