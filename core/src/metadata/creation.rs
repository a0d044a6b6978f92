//! The creation record of a group: what a replica needs in order to exist.
//!
//! It is durable in the WAL before the replica does anything, and it is the only source of an initial membership: the
//! replicas it names start with exactly that membership, and nobody else ever does. It names directory ids, so that
//! a node whose disk was replaced does not take the place of the replica it lost.

use super::topic_config::TopicConfigs;
use crate::{
    codec::{CodecError, Decoder, Encode},
    ids::{DirectoryId, GroupId, NodeId, PartitionIndex, ReplicaId, TopicId},
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupCreation {
    pub group: GroupId,
    /// `None` for the metadata group.
    pub topic: Option<(TopicId, PartitionIndex)>,
    /// Ordered by preference: the first voter is the preferred leader.
    pub members: Vec<GroupMember>,
    /// What was configured when the topic was created. Only for matters of this replica alone, such as the size of
    /// its files, until it has an image; what influences apply comes as a command.
    pub configs: TopicConfigs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupMember {
    pub replica: ReplicaId,
    pub node: NodeId,
    pub directory: DirectoryId,
    /// Otherwise a learner.
    pub voter: bool,
}

const VERSION: u8 = 1;

impl GroupCreation {
    /// This node's replica, if the record names it with this data directory.
    pub fn replica_on(&self, node: NodeId, directory: DirectoryId) -> Option<ReplicaId> {
        self.members.iter().find(|member| member.node == node && member.directory == directory).map(|m| m.replica)
    }

    pub fn member(&self, replica: ReplicaId) -> Option<&GroupMember> {
        self.members.iter().find(|member| member.replica == replica)
    }

    /// The replica that should lead when all are well.
    pub fn preferred_leader(&self) -> Option<ReplicaId> {
        self.members.iter().find(|member| member.voter).map(|member| member.replica)
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_u8(VERSION);
        out.put_u64(self.group.0);
        out.put_bool(self.topic.is_some());
        if let Some((topic, partition)) = self.topic {
            out.put_uuid(topic.0);
            out.put_i32(partition.0);
        }
        out.put_count(self.members.len());
        for member in &self.members {
            member.encode(&mut out);
        }
        self.configs.encode(&mut out);
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut from = Decoder::new(bytes);
        from.version("a creation record", VERSION)?;
        let group = GroupId(from.u64()?);
        let topic = if from.bool()? { Some((TopicId(from.uuid()?), PartitionIndex(from.i32()?))) } else { None };
        let members = from.list(GroupMember::BYTES, GroupMember::decode)?;
        let configs = TopicConfigs::decode(&mut from)?;
        from.finish()?;
        Ok(Self { group, topic, members, configs })
    }
}

impl GroupMember {
    /// Of one member, encoded.
    pub const BYTES: usize = 29;

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.replica.0);
        out.put_i32(self.node.0);
        out.put_uuid(self.directory.0);
        out.put_bool(self.voter);
    }

    pub fn decode(from: &mut Decoder<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            replica: ReplicaId(from.u64()?),
            node: NodeId(from.i32()?),
            directory: DirectoryId(from.uuid()?),
            voter: from.bool()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Uuid;

    fn creation() -> GroupCreation {
        let member = |number: u8, voter| GroupMember {
            replica: ReplicaId(u64::from(number) + 10),
            node: NodeId(i32::from(number)),
            directory: DirectoryId(Uuid([number; 16])),
            voter,
        };
        GroupCreation {
            group: GroupId(7),
            topic: Some((TopicId(Uuid([9; 16])), PartitionIndex(3))),
            members: vec![member(2, false), member(1, true)],
            configs: TopicConfigs::new([("segment.bytes", "1048576")]).unwrap(),
        }
    }

    /// These bytes are in the WAL of every node: a change of the format needs a new version.
    #[test]
    fn golden_bytes() {
        #[rustfmt::skip]
        let golden = [
            &[1][..], &[0, 0, 0, 0, 0, 0, 0, 7], &[1], &[9; 16], &[0, 0, 0, 3],
            &[0, 0, 0, 2],
            &[0, 0, 0, 0, 0, 0, 0, 12], &[0, 0, 0, 2], &[2; 16], &[0],
            &[0, 0, 0, 0, 0, 0, 0, 11], &[0, 0, 0, 1], &[1; 16], &[1],
            &[0, 0, 0, 1], &[0, 13], b"segment.bytes", &[0, 7], b"1048576",
        ]
        .concat();
        assert_eq!(creation().encode(), golden);
        assert_eq!(GroupCreation::decode(&golden), Ok(creation()));
    }

    #[test]
    fn a_replica_is_named_with_its_directory() {
        let creation = creation();
        let directory = DirectoryId(Uuid([1; 16]));
        assert_eq!(creation.replica_on(NodeId(1), directory), Some(ReplicaId(11)));
        assert_eq!(creation.replica_on(NodeId(1), DirectoryId(Uuid([8; 16]))), None, "a replaced disk");
        assert_eq!(creation.replica_on(NodeId(2), directory), None);
        assert_eq!(creation.preferred_leader(), Some(ReplicaId(11)), "learners do not lead");
    }

    #[test]
    fn no_prefix_is_a_record() {
        let bytes = creation().encode();
        for end in 0..bytes.len() {
            assert!(GroupCreation::decode(&bytes[..end]).is_err());
        }
    }
}
