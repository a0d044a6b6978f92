//! Raft. The only module that names the raft crate; knows bytes, not Kafka.

pub mod group;
