//! The primitive types of the wire and how they are read and written.
//!
//! Owns the bounded [`Reader`], the gathering [`Writer`], and the [`Wire`] trait that every field type implements.
//! Numbers are big-endian. In a *flexible* version strings, byte strings and arrays carry an unsigned varint of their
//! length plus one, and every structure ends with a section of tagged fields (KIP-482); in older versions lengths are
//! fixed-width and -1 means null.
//!
//! Knows nothing of any particular message.

mod failure;
mod field;
mod reader;
mod slices;
mod string;
mod tagged;
mod uuid;
mod writer;

pub use failure::{DecodeError, EncodeError};
pub use field::{Context, Wire};
pub use reader::Reader;
pub use slices::Records;
pub use string::Str;
pub(crate) use tagged::{TaggedFields, decode_field, encode_field};
pub use uuid::{ParseUuidError, Uuid};
pub use writer::{SEGMENT_BYTES_MIN, Writer};
