//! Durable bytes: the write-ahead log of a shard, and the segments of its partitions.
//!
//! Nothing here knows Raft's rules or Kafka's APIs. Every disk operation is an effect with a completion.

pub mod segment;
