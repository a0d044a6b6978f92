//! Record batches of Kafka's format 2 (KIP-98), the only format of Kauri's log and of its wire.
//!
//! A batch is looked at through its 61-byte header ([`BatchView`]); its records are decoded only by those who need
//! them: clients and the compactor. The broker assigns offset, epoch and append time by writing a new header and
//! keeping the body as it came.
//!
//! Invariant: every position, count and length is checked before it is used, so hostile bytes give an error.
//! Decompression stops at a limit that the caller sets.

mod batch;
mod builder;
mod checksum;
mod compression;
mod failure;
mod header;
mod record;
mod varint;

pub use batch::{BatchView, Batches};
pub use builder::{BatchBuilder, BatchKind};
pub use checksum::combine;
pub use compression::Compression;
pub use failure::BatchError;
pub use header::{Attributes, BatchHeader, HEADER_BYTES, NO_PRODUCER, Producer, TimestampType};
pub use record::{Header, Headers, Record, RecordIter};
