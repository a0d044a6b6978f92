//! Durable bytes: the write-ahead log that all groups of a shard share, and the segments that applied batches live in.
//!
//! Knows groups, indexes and offsets as positions; not what an entry means, and not Kafka beyond the header of a
//! record batch.

pub mod read;
pub mod record;
<<<<<<< HEAD
pub mod segment;
=======
pub mod recovery;
pub mod wal;

#[cfg(test)]
mod tests;
>>>>>>> log
