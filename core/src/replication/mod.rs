//! Replication: Raft groups, and what lies between two nodes below them. Knows bytes, not Kafka.

pub mod peer;
