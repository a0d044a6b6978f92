//! Kafka's wire protocol for Kauri: frames, messages, record batches and error codes.
//!
//! The crate is pure: bytes in, bytes out, no socket, clock or thread. It works in both directions, because brokers,
//! clients and the simulator share it. [`api`] holds the one table of APIs and their versions; everything that depends
//! on a version asks that table.
//!
//! Invariant: whatever bytes arrive, decoding ends in a value or a typed error, and what it allocates is bounded by a
//! small multiple of the bytes that really arrived ([`wire::Reader`]). Payloads are never copied: decoding slices the
//! frame, encoding gathers segments.

#[macro_use]
mod declare;
pub mod api;
pub mod error;
pub mod frame;
pub mod header;
pub mod messages;
pub mod records;
pub mod schema;
pub mod wire;

pub use api::{API_TABLE, Api, ApiKey};
pub use error::ErrorCode;
pub use header::{RequestHeader, ResponseHeader};
pub use messages::{Message, RequestMessage};
pub use wire::{DecodeError, EncodeError, Reader, Str, Uuid, Writer};
