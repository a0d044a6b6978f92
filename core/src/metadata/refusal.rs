//! Why a metadata command changed nothing.
//!
//! A refusal is decided at apply and therefore the same on every replica. It travels between nodes (the node that a
//! client asked forwards to the leader of group 0), so it has an encoding; and it becomes a Kafka error code with a
//! sentence for the client.

use kauri_protocol::ErrorCode;

use crate::{
    codec::{CodecError, Decoder, Encode},
    ids::{BootNumber, ClusterId, DirectoryId, NodeId, TopicId},
};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the cluster is not formed yet")]
    NotFormed,
    #[error("the cluster is formed already; its id is {0}")]
    AlreadyFormed(ClusterId),
    #[error("the members of the new cluster contradict each other")]
    InvalidMembers,
    #[error("node {0} is not a member of this cluster")]
    UnknownNode(NodeId),
    #[error(
        "node {node} is registered with directory {registered}, not with {offered}: its data directory was replaced"
    )]
    UnknownDirectory { node: NodeId, registered: DirectoryId, offered: DirectoryId },
    #[error(
        "node {node} has data directory {registered} by now: {offered} was replaced and never comes back; remove that directory and start the node with an empty one"
    )]
    ReplacedDirectory { node: NodeId, registered: DirectoryId, offered: DirectoryId },
    #[error(
        "node {node} is up with data directory {registered}, so {offered} does not take its place: is another process running with this node id?"
    )]
    DirectoryInUse { node: NodeId, registered: DirectoryId, offered: DirectoryId },
    #[error(
        "the data directory of node {0} was replaced {max} times, and each is remembered: give the node another id",
        max = crate::limits::NODE_REPLACEMENTS_MAX
    )]
    TooManyReplacements(NodeId),
    #[error("node {node} is registered with boot number {registered}, so what boot {offered} asked for is outdated")]
    StaleBoot { node: NodeId, registered: BootNumber, offered: BootNumber },
    #[error("the address or rack of a node must have 1 to 255 bytes")]
    InvalidEndpoint,
    #[error("a topic name has 1 to 249 characters out of a-z, A-Z, 0-9, '.', '_' and '-', and is not '.' or '..'")]
    InvalidTopicName,
    #[error("the topic name collides with '{0}': names must differ in more than '.' and '_'")]
    TopicNameCollision(String),
    #[error("a topic of this name exists already")]
    TopicExists,
    #[error("the topic id {0} is in use already")]
    TopicIdInUse(TopicId),
    #[error("there is no topic with id {0}")]
    UnknownTopic(TopicId),
    #[error("a topic has 1 to {} partitions", crate::limits::TOPIC_PARTITIONS_MAX)]
    InvalidPartitions,
    #[error("a cluster has at most {} partitions", crate::limits::CLUSTER_PARTITIONS_MAX)]
    TooManyPartitions,
    #[error(
        "a replication factor of {asked} is not possible: {live} nodes are up, and at most {} replicas are allowed",
        crate::limits::REPLICAS_MAX
    )]
    InvalidReplicationFactor { asked: i32, live: i32 },
    #[error(
        "a replica assignment names each of its nodes once, all nodes are members, and all partitions have the same number of replicas"
    )]
    InvalidReplicaAssignment,
    #[error("'{0}' is not a topic configuration")]
    UnknownConfig(String),
    #[error("the value of '{0}' is not allowed")]
    InvalidConfigValue(String),
    #[error("a block of producer ids has 1 to {} ids", crate::limits::PRODUCER_ID_BLOCK_MAX)]
    InvalidProducerIdBlock,
    #[error("all producer ids are used up")]
    ProducerIdsExhausted,
}

impl Refusal {
    /// What a Kafka client is told.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotFormed => ErrorCode::NotController,
            Self::AlreadyFormed(_) | Self::InvalidMembers => ErrorCode::InconsistentClusterId,
            Self::UnknownNode(_) => ErrorCode::BrokerIdNotRegistered,
            Self::UnknownDirectory { .. } | Self::ReplacedDirectory { .. } | Self::TooManyReplacements(_) => {
                ErrorCode::DuplicateBrokerRegistration
            }
            // The other process may be about to be found dead.
            Self::DirectoryInUse { .. } => ErrorCode::BrokerNotAvailable,
            Self::StaleBoot { .. } => ErrorCode::StaleBrokerEpoch,
            Self::InvalidEndpoint => ErrorCode::InvalidRegistration,
            Self::InvalidTopicName | Self::TopicNameCollision(_) => ErrorCode::InvalidTopicException,
            Self::TopicExists | Self::TopicIdInUse(_) => ErrorCode::TopicAlreadyExists,
            Self::UnknownTopic(_) => ErrorCode::UnknownTopicId,
            Self::InvalidPartitions | Self::TooManyPartitions => ErrorCode::InvalidPartitions,
            Self::InvalidReplicationFactor { .. } => ErrorCode::InvalidReplicationFactor,
            Self::InvalidReplicaAssignment => ErrorCode::InvalidReplicaAssignment,
            Self::UnknownConfig(_) | Self::InvalidConfigValue(_) => ErrorCode::InvalidConfig,
            Self::InvalidProducerIdBlock => ErrorCode::InvalidRequest,
            Self::ProducerIdsExhausted => ErrorCode::UnknownServerError,
        }
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::NotFormed => out.put_u8(1),
            Self::AlreadyFormed(cluster) => {
                out.put_u8(2);
                out.put_uuid(cluster.0);
            }
            Self::InvalidMembers => out.put_u8(3),
            Self::UnknownNode(node) => {
                out.put_u8(4);
                out.put_i32(node.0);
            }
            Self::UnknownDirectory { node, registered, offered } => {
                out.put_u8(5);
                out.put_i32(node.0);
                out.put_uuid(registered.0);
                out.put_uuid(offered.0);
            }
            Self::StaleBoot { node, registered, offered } => {
                out.put_u8(6);
                out.put_i32(node.0);
                out.put_u64(registered.0);
                out.put_u64(offered.0);
            }
            Self::InvalidEndpoint => out.put_u8(7),
            Self::InvalidTopicName => out.put_u8(8),
            Self::TopicNameCollision(other) => {
                out.put_u8(9);
                out.put_text(other);
            }
            Self::TopicExists => out.put_u8(10),
            Self::TopicIdInUse(topic) => {
                out.put_u8(11);
                out.put_uuid(topic.0);
            }
            Self::UnknownTopic(topic) => {
                out.put_u8(12);
                out.put_uuid(topic.0);
            }
            Self::InvalidPartitions => out.put_u8(13),
            Self::TooManyPartitions => out.put_u8(14),
            Self::InvalidReplicationFactor { asked, live } => {
                out.put_u8(15);
                out.put_i32(*asked);
                out.put_i32(*live);
            }
            Self::InvalidReplicaAssignment => out.put_u8(16),
            Self::UnknownConfig(name) => {
                out.put_u8(17);
                out.put_text(name);
            }
            Self::InvalidConfigValue(name) => {
                out.put_u8(18);
                out.put_text(name);
            }
            Self::InvalidProducerIdBlock => out.put_u8(19),
            Self::ProducerIdsExhausted => out.put_u8(20),
            Self::ReplacedDirectory { node, registered, offered } => {
                out.put_u8(21);
                out.put_i32(node.0);
                out.put_uuid(registered.0);
                out.put_uuid(offered.0);
            }
            Self::DirectoryInUse { node, registered, offered } => {
                out.put_u8(22);
                out.put_i32(node.0);
                out.put_uuid(registered.0);
                out.put_uuid(offered.0);
            }
            Self::TooManyReplacements(node) => {
                out.put_u8(23);
                out.put_i32(node.0);
            }
        }
    }

    pub fn decode(from: &mut Decoder<'_>) -> Result<Self, CodecError> {
        Ok(match from.u8()? {
            1 => Self::NotFormed,
            2 => Self::AlreadyFormed(ClusterId(from.uuid()?)),
            3 => Self::InvalidMembers,
            4 => Self::UnknownNode(NodeId(from.i32()?)),
            5 => Self::UnknownDirectory {
                node: NodeId(from.i32()?),
                registered: DirectoryId(from.uuid()?),
                offered: DirectoryId(from.uuid()?),
            },
            6 => Self::StaleBoot {
                node: NodeId(from.i32()?),
                registered: BootNumber(from.u64()?),
                offered: BootNumber(from.u64()?),
            },
            7 => Self::InvalidEndpoint,
            8 => Self::InvalidTopicName,
            9 => Self::TopicNameCollision(from.text()?.to_owned()),
            10 => Self::TopicExists,
            11 => Self::TopicIdInUse(TopicId(from.uuid()?)),
            12 => Self::UnknownTopic(TopicId(from.uuid()?)),
            13 => Self::InvalidPartitions,
            14 => Self::TooManyPartitions,
            15 => Self::InvalidReplicationFactor { asked: from.i32()?, live: from.i32()? },
            16 => Self::InvalidReplicaAssignment,
            17 => Self::UnknownConfig(from.text()?.to_owned()),
            18 => Self::InvalidConfigValue(from.text()?.to_owned()),
            19 => Self::InvalidProducerIdBlock,
            20 => Self::ProducerIdsExhausted,
            21 => Self::ReplacedDirectory {
                node: NodeId(from.i32()?),
                registered: DirectoryId(from.uuid()?),
                offered: DirectoryId(from.uuid()?),
            },
            22 => Self::DirectoryInUse {
                node: NodeId(from.i32()?),
                registered: DirectoryId(from.uuid()?),
                offered: DirectoryId(from.uuid()?),
            },
            23 => Self::TooManyReplacements(NodeId(from.i32()?)),
            _ => return Err(CodecError::Value("a refusal")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Uuid;

    #[test]
    fn every_refusal_survives_the_way_between_nodes() {
        let id = Uuid([3; 16]);
        let node = NodeId(3);
        let refusals = [
            Refusal::NotFormed,
            Refusal::AlreadyFormed(ClusterId(id)),
            Refusal::InvalidMembers,
            Refusal::UnknownNode(node),
            Refusal::UnknownDirectory { node, registered: DirectoryId(id), offered: DirectoryId(Uuid([4; 16])) },
            Refusal::StaleBoot { node, registered: BootNumber(2), offered: BootNumber(1) },
            Refusal::InvalidEndpoint,
            Refusal::InvalidTopicName,
            Refusal::TopicNameCollision("a.b".to_owned()),
            Refusal::TopicExists,
            Refusal::TopicIdInUse(TopicId(id)),
            Refusal::UnknownTopic(TopicId(id)),
            Refusal::InvalidPartitions,
            Refusal::TooManyPartitions,
            Refusal::InvalidReplicationFactor { asked: 3, live: 2 },
            Refusal::InvalidReplicaAssignment,
            Refusal::UnknownConfig("x".to_owned()),
            Refusal::InvalidConfigValue("y".to_owned()),
            Refusal::InvalidProducerIdBlock,
            Refusal::ProducerIdsExhausted,
            Refusal::ReplacedDirectory { node, registered: DirectoryId(id), offered: DirectoryId(Uuid([4; 16])) },
            Refusal::DirectoryInUse { node, registered: DirectoryId(id), offered: DirectoryId(Uuid([4; 16])) },
            Refusal::TooManyReplacements(node),
        ];
        for (tag, refusal) in refusals.iter().enumerate() {
            let mut bytes = Vec::new();
            refusal.encode(&mut bytes);
            assert_eq!(usize::from(bytes[0]), tag + 1, "tags are dense, and each is in this list");
            let mut decoder = Decoder::new(&bytes);
            assert_eq!(Refusal::decode(&mut decoder).as_ref(), Ok(refusal));
            assert_eq!(decoder.finish(), Ok(()));
            assert_ne!(refusal.code(), ErrorCode::None);
        }
        assert!(Refusal::decode(&mut Decoder::new(&[refusals.len() as u8 + 1])).is_err());
    }
}
