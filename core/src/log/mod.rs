//! Durable bytes: the WAL that all groups of a shard share, its recovery, checkpoints, the segments of partitions, and who this data
//! directory belongs to.
//!
//! Knows records, files and checksums; knows neither Raft's rules nor Kafka's APIs. Reaches the disk only through
//! [`crate::io::Effects`], so that a simulated disk sees every operation in its real order.

pub mod checkpoint;
pub mod identity;
pub mod offline;
pub mod read;
pub mod record;
pub mod recovery;
pub mod segment;
pub mod wal;
mod window;

#[cfg(test)]
mod tests;
