<<<<<<< HEAD
//! Durable bytes: the WAL that all groups of a shard share, its recovery, and who this data directory belongs to.
//!
//! Knows records, files and checksums; knows neither Raft's rules nor Kafka's formats. Reaches the disk only through
//! [`crate::io::Effects`], so that a simulated disk sees every operation in its real order.

pub mod record;
=======
//! Durable bytes: the write-ahead log of a shard, and the segments of its partitions.
//!
//! Nothing here knows Raft's rules or Kafka's APIs. Every disk operation is an effect with a completion.

pub mod segment;
>>>>>>> segment
