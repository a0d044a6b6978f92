<<<<<<< HEAD
//! Durable bytes: the write-ahead log that all groups of a shard share, and the segments that applied batches live in.
//!
//! Knows groups, indexes and offsets as positions; not what an entry means, and not Kafka beyond the header of a
//! record batch.
=======
//! Durable bytes: the WAL that all groups of a shard share, its recovery, the segments of partitions, and who this data
//! directory belongs to.
//!
//! Knows records, files and checksums; knows neither Raft's rules nor Kafka's APIs. Reaches the disk only through
//! [`crate::io::Effects`], so that a simulated disk sees every operation in its real order.
>>>>>>> segment

pub mod read;
pub mod record;
<<<<<<< HEAD
<<<<<<< HEAD
pub mod segment;
=======
pub mod recovery;
pub mod wal;

#[cfg(test)]
mod tests;
>>>>>>> log
=======
pub mod segment;
>>>>>>> segment
