//! What goes into a producer and what comes out.

use bytes::Bytes;
use kauri_protocol::{error::ErrorCode, records::BatchError, wire::Str};

use crate::connection::SendError as CallSendError;

/// A header of a record: key and value.
pub type RecordHeader<'a> = (&'a [u8], Option<&'a [u8]>);

/// A record to be written; its bytes are copied once, into the batch.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProducerRecord<'a> {
    pub topic: &'a str,
    /// Chosen by the key's hash if not given, and for a record without a key so that batches get large.
    pub partition: Option<i32>,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: &'a [RecordHeader<'a>],
    /// Milliseconds since 1970; the time of `send` if not given.
    pub timestamp: Option<i64>,
}

/// A record that was taken for sending; numbers ascend in the order of `send`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SendId(pub u64);

/// Why a record is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Try again after a result was taken.
    #[error("the producer holds as much as it may")]
    QueueFull,
    #[error("a record of {bytes} bytes is over the limit of {bytes_max}")]
    RecordTooLarge { bytes: usize, bytes_max: usize },
    #[error("{0} is no partition")]
    InvalidPartition(i32),
    #[error(transparent)]
    Record(#[from] BatchError),
}

/// Where a record is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    pub topic: Str,
    pub partition: i32,
    /// Not told without acknowledgements, nor by a broker that only says that it has had the record already.
    pub offset: Option<i64>,
    /// Milliseconds since 1970, as in the log.
    pub timestamp: i64,
}

/// Whether a record that failed may be in the log nevertheless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// It is not in the log and will not be.
    NotWritten,
    /// It is or gets into the log once, or not at all; without idempotence perhaps several times.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}{}", match .outcome { Outcome::NotWritten => "", Outcome::Unknown => " (the record may have been written)" })]
pub struct ProduceFailure {
    pub outcome: Outcome,
    pub reason: FailureReason,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FailureReason {
    #[error("{}", match .message { Some(message) => format!("{} ({}): {message}", error.name(), error.code()), None => error.to_string() })]
    Refused { error: ErrorCode, message: Option<Str> },
    #[error("not written in time: {last}")]
    TimedOut { last: String },
    /// The broker lost what it knew of this producer, so the record cannot be repeated without risk.
    #[error("the broker cannot tell any more whether the record was written: {0}")]
    SequenceLost(ErrorCode),
    #[error(transparent)]
    Unsendable(#[from] CallSendError),
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error("the producer was closed")]
    Closed,
}

/// A record that waits for its topic's partitions to be known.
#[derive(Debug)]
pub(super) struct Unplaced {
    pub(super) id: SendId,
    pub(super) key: Option<Bytes>,
    pub(super) value: Option<Bytes>,
    pub(super) headers: Vec<(Bytes, Option<Bytes>)>,
    pub(super) timestamp: i64,
    pub(super) charge: usize,
}

impl Unplaced {
    pub(super) fn new(id: SendId, record: &ProducerRecord<'_>, timestamp: i64, charge: usize) -> Self {
        let own = Bytes::copy_from_slice;
        Self {
            id,
            key: record.key.map(own),
            value: record.value.map(own),
            headers: record.headers.iter().map(|(key, value)| (own(key), value.map(own))).collect(),
            timestamp,
            charge,
        }
    }
}
