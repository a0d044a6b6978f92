//! What comes out of a consumer.

use bytes::Bytes;
use kauri_protocol::{
    error::ErrorCode,
    records::{BatchError, Headers, Record, RecordIter},
    wire::Str,
};

use crate::{connection::SendError, io::Monotonic, offsets::OffsetError};

/// A record; key, value and headers are slices of what the broker sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumedRecord {
    pub topic: Str,
    pub partition: i32,
    pub offset: i64,
    /// -1 if the broker does not say.
    pub leader_epoch: i32,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Headers,
}

/// The records of one batch, decoded one by one.
#[derive(Clone, Debug)]
pub struct ConsumedBatch {
    pub topic: Str,
    pub partition: i32,
    pub leader_epoch: i32,
    /// The position after the batch.
    pub next_offset: i64,
    pub(super) records: RecordIter,
    /// Records before this one were not asked for.
    pub(super) from: i64,
}

impl ConsumedBatch {
    /// The next record without what all records of the batch have in common.
    pub fn next_plain(&mut self) -> Option<Result<Record, BatchError>> {
        let from = self.from;
        self.records.find(|record| !matches!(record, Ok(record) if record.offset < from))
    }
}

impl Iterator for ConsumedBatch {
    type Item = Result<ConsumedRecord, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        let record = match self.next_plain()? {
            Ok(record) => record,
            Err(error) => return Some(Err(error)),
        };
        Some(Ok(ConsumedRecord {
            topic: self.topic.clone(),
            partition: self.partition,
            offset: record.offset,
            leader_epoch: self.leader_epoch,
            timestamp: record.timestamp,
            key: record.key,
            value: record.value,
            headers: record.headers,
        }))
    }
}

/// Something is wrong with one partition; the others go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("partition {partition} of topic {topic}: {error}")]
pub struct PartitionError {
    pub topic: Str,
    pub partition: i32,
    pub error: ConsumeError,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConsumeError {
    /// Told once; the consumer goes on trying.
    #[error("the topic or partition does not exist; waiting for it")]
    Missing,
    #[error("offset {offset} is not in the log")]
    OutOfRange { offset: i64 },
    #[error(transparent)]
    Refused(ErrorCode),
    #[error(transparent)]
    Unsendable(#[from] SendError),
    #[error("the start position could not be found: {0}")]
    Start(#[from] OffsetError),
    #[error("the batch at or after offset {offset} is damaged: {error}")]
    Damaged { offset: i64, error: BatchError },
    #[error("the broker sent less than one batch at offset {offset}, which will not change")]
    Incomplete { offset: i64 },
}

/// A partition is not read at present, and the consumer goes on trying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    /// Since then nothing that was asked about the partition was answered well.
    pub since: Monotonic,
    /// What happened last, for people.
    pub last: String,
}

impl ConsumeError {
    /// Whether the partition is stopped until it is assigned again or its position is set.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Missing => false,
            Self::OutOfRange { .. }
            | Self::Refused(_)
            | Self::Unsendable(_)
            | Self::Start(_)
            | Self::Damaged { .. }
            | Self::Incomplete { .. } => true,
        }
    }
}
