//! A topic, its partitions and where their replicas live.
//!
//! Invariant: a [`TopicName`] is legal by Kafka's rules from the moment it exists. Everything here is immutable inside
//! an image; a change makes a new value.

use std::{borrow::Borrow, fmt, sync::Arc};

use super::{refusal::Refusal, topic_config::TopicConfigs};
use crate::{
    codec::{CodecError, Decoder, Encode},
    ids::{DirectoryId, GroupId, ImageVersion, NodeId, PartitionIndex, ReplicaId, TopicId},
    limits::TOPIC_NAME_BYTES_MAX,
};

/// A legal topic name. Cloning shares the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    pub id: TopicId,
    pub name: TopicName,
    /// The image in which `configs` last changed: the version that the partitions' groups compare with their own.
    pub configs_version: ImageVersion,
    pub configs: TopicConfigs,
    /// In the order of their index.
    pub partitions: Vec<Partition>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    pub group: GroupId,
    /// Where its replicas shall be; the first one is the preferred leader. The group's own membership says where they
    /// are. Replica ids only grow over the whole cluster, so that of two such lists the one with the higher highest id
    /// is the newer one.
    pub replicas: Vec<Replica>,
    /// The replicas that the group was created with, if `replicas` names others by now; empty otherwise.
    pub created: Vec<Replica>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replica {
    pub id: ReplicaId,
    pub node: NodeId,
    pub directory: DirectoryId,
}

impl Partition {
    /// The replicas that the group was created with: they, and nobody else, start with that membership.
    pub fn created_with(&self) -> &[Replica] {
        if self.created.is_empty() { &self.replicas } else { &self.created }
    }

    /// Its replicas shall not all be those that the group was created with.
    pub fn has_moved(&self) -> bool {
        !self.created.is_empty()
    }

    pub fn is_on(&self, node: NodeId) -> bool {
        self.replicas.iter().any(|replica| replica.node == node)
    }

    /// A new replica takes the place of the one on its node.
    pub(super) fn replace(&mut self, new: Replica) {
        if self.created.is_empty() {
            self.created = self.replicas.clone();
        }
        let old = self.replicas.iter_mut().find(|replica| replica.node == new.node);
        *old.expect("the caller asked whether there is one") = new;
    }
}

impl TopicName {
    /// Kafka's rules: 1 to 249 characters out of `[a-zA-Z0-9._-]`, and neither `.` nor `..`.
    pub fn new(name: &str) -> Result<Self, Refusal> {
        let characters_legal = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if name.is_empty() || name.len() > TOPIC_NAME_BYTES_MAX || name == "." || name == ".." || !characters_legal {
            return Err(Refusal::InvalidTopicName);
        }
        Ok(Self(name.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Two names with the same key cannot both exist: Kafka's metric names do not tell '.' from '_'.
    pub fn collision_key(&self) -> Arc<str> {
        if self.0.contains('.') { self.0.replace('.', "_").into() } else { Arc::clone(&self.0) }
    }
}

impl Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Topic {
    pub fn partition(&self, index: PartitionIndex) -> Option<&Partition> {
        self.partitions.get(usize::try_from(index.0).ok()?)
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_uuid(self.id.0);
        out.put_text(self.name.as_str());
        out.put_u64(self.configs_version.0);
        self.configs.encode(out);
        out.put_count(self.partitions.len());
        for partition in &self.partitions {
            out.put_u64(partition.group.0);
            for replicas in [&partition.replicas, &partition.created] {
                out.put_count(replicas.len());
                for replica in replicas {
                    out.put_u64(replica.id.0);
                    out.put_i32(replica.node.0);
                    out.put_uuid(replica.directory.0);
                }
            }
        }
    }

    pub fn decode(from: &mut Decoder<'_>) -> Result<Self, CodecError> {
        let id = TopicId(from.uuid()?);
        let name = TopicName::new(from.text()?).map_err(|_| CodecError::Value("a topic name"))?;
        let configs_version = ImageVersion(from.u64()?);
        let configs = TopicConfigs::decode(from)?;
        let replica = |from: &mut Decoder<'_>| {
            Ok(Replica { id: ReplicaId(from.u64()?), node: NodeId(from.i32()?), directory: DirectoryId(from.uuid()?) })
        };
        let partitions = from.list(16, |from| {
            let group = GroupId(from.u64()?);
            Ok(Partition { group, replicas: from.list(28, replica)?, created: from.list(28, replica)? })
        })?;
        Ok(Self { id, name, configs_version, configs, partitions })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_kafkas_rules() {
        for legal in ["a", "A-b_c.9", "...", "__consumer_offsets", &"x".repeat(249)] {
            assert!(TopicName::new(legal).is_ok(), "{legal}");
        }
        for illegal in ["", ".", "..", "a b", "a/b", "größe", "a\0", &"x".repeat(250)] {
            assert_eq!(TopicName::new(illegal), Err(Refusal::InvalidTopicName), "{illegal}");
        }
    }

    #[test]
    fn names_that_differ_in_dots_only_collide() {
        let key = |name| TopicName::new(name).unwrap().collision_key();
        assert_eq!(key("a.b_c"), key("a_b.c"));
        assert_ne!(key("a.b"), key("a-b"));
    }
}
