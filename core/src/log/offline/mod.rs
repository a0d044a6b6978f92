//! Reads the files of a node that is not running, and says what they hold and where they are damaged.
//!
//! Invariant: changes nothing, trusts no length before the checksum that covers it, and goes on behind damage where a
//! later header shows how. Works on bytes that the caller read: it knows neither files nor clocks. What it calls
//! damage is what recovery would not get over by itself; the torn end of the last write is none, nor is a payload that
//! was replaced by another replica's.

pub mod checkpoint;
mod lost;
pub mod wal;

use crate::{
    ids::{GroupId, LogIndex},
    io::FileName,
};

/// Something in a file is not what was written there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub file: FileName,
    /// Byte of the file at which the damaged part begins.
    pub offset: u64,
    pub what: String,
    /// The Raft entry whose payload it is, if it is one.
    pub entry: Option<(GroupId, LogIndex)>,
}
