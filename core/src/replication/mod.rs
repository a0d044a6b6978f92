<<<<<<< HEAD
//! Replication: Raft groups, and what lies between two nodes below them. Knows bytes, not Kafka.

pub mod peer;
=======
//! Raft. The only module that names the raft crate; knows bytes, not Kafka.

pub mod group;
>>>>>>> raft
