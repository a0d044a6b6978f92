//! What can be wrong with a record batch.

use thiserror::Error;

use super::Compression;

/// Why bytes are not a valid record batch, or why values cannot become one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BatchError {
    #[error("a batch needs {needed} bytes but only {available} are there")]
    Truncated { needed: usize, available: usize },
    #[error("{count} bytes follow the end of the batch")]
    TrailingBytes { count: usize },
    #[error("magic {magic} is not supported, only 2 is")]
    UnsupportedMagic { magic: i8 },
    #[error("a batch length of {length} is not valid")]
    InvalidLength { length: i32 },
    #[error("a last offset delta of {delta} is not valid at base offset {base_offset}")]
    InvalidOffsets { base_offset: i64, delta: i32 },
    #[error("a count of {count} records cannot be in a body of {body_bytes} bytes")]
    InvalidRecordCount { count: i32, body_bytes: usize },
    #[error("the checksum is {computed:#010x} but the header says {stored:#010x}")]
    ChecksumMismatch { stored: u32, computed: u32 },
    #[error("compression code {code} is not known")]
    UnknownCompression { code: i16 },
    #[error("this program was built without {compression} compression")]
    CompressionNotBuilt { compression: Compression },
    #[error("the {compression} data are damaged")]
    DamagedCompression { compression: Compression },
    #[error("the records take more than {limit_bytes} bytes uncompressed")]
    OverLimit { limit_bytes: usize },
    #[error("a varint is longer than its type allows")]
    InvalidVarint,
    #[error("a length of {length} inside a record is not valid")]
    InvalidRecordLength { length: i64 },
    #[error("an offset delta of {delta} does not fit its batch")]
    InvalidOffsetDelta { delta: i32 },
    #[error("a timestamp of {base} plus {delta} milliseconds is out of range")]
    InvalidTimestamp { base: i64, delta: i64 },
    #[error("the batch would be longer than its length field allows")]
    TooLarge,
}
