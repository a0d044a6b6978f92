//! What can be wrong with bytes that arrive, and with values that cannot be sent.

use thiserror::Error;

/// Why bytes are not the message they claim to be. The connection they came from is closed; nothing else is affected.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    #[error("{needed} bytes are needed but only {remaining} remain")]
    Truncated { needed: usize, remaining: usize },
    #[error("a length of {length} is not valid here")]
    InvalidLength { length: i64 },
    #[error("a count of {count} elements cannot fit into the {remaining} bytes that remain")]
    CountExceedsBytes { count: usize, remaining: usize },
    #[error("the message would take more than {budget_bytes} bytes of memory, out of proportion to its length")]
    OverBudget { budget_bytes: usize },
    #[error("a varint is longer than its type allows")]
    InvalidVarint,
    #[error("a string is not valid UTF-8")]
    InvalidUtf8,
    #[error("{field} is null, which its version does not allow")]
    UnexpectedNull { field: &'static str },
    #[error("tagged field {tag} does not fill the {length} bytes it announced")]
    TaggedFieldLength { tag: u32, length: usize },
    #[error("{count} bytes follow the end of the message")]
    TrailingBytes { count: usize },
    #[error("API key {key} is not known")]
    UnknownApiKey { key: i16 },
    #[error("version {version} of {api} is not supported")]
    UnsupportedVersion { api: &'static str, version: i16 },
}

/// Why a value cannot be written in the version asked for. Always the fault of the code that built the value or chose
/// the version.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EncodeError {
    #[error("version {version} of {api} is not supported")]
    UnsupportedVersion { api: &'static str, version: i16 },
    #[error("{field} has a value but version {version} cannot carry it")]
    FieldNotInVersion { field: &'static str, version: i16 },
    #[error("{field} must not be null in version {version}")]
    UnexpectedNull { field: &'static str, version: i16 },
    #[error("a length of {length} is more than its field can carry")]
    TooLong { length: usize },
}
