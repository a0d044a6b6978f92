//! Replication: Raft groups, and what lies between two nodes below them. The only module that names the raft crate;
//! knows bytes, not Kafka.

pub mod group;
pub mod peer;

/// A message between two replicas, to be carried and not to be looked into.
pub type RaftMessage = raft::prelude::Message;
