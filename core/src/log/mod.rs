//! Durable bytes: the write-ahead log that all groups of a shard share, and the segments that applied batches live in.
//!
//! Knows groups, indexes and offsets as positions; not what an entry means, and not Kafka beyond the header of a
//! record batch.

pub mod record;
pub mod segment;
