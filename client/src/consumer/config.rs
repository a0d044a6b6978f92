//! What a consumer can be told. The defaults are meant to stay.

use std::time::Duration;

use crate::offsets::OffsetAt;

/// Where reading starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    Earliest,
    /// Only what is written from now on.
    Latest,
    Offset(i64),
    /// At the first record whose timestamp is at or after this one, in milliseconds since 1970; at the end if there is
    /// none.
    Timestamp(i64),
}

impl Start {
    /// What has to be found out first.
    pub(super) fn search(self) -> Option<OffsetAt> {
        match self {
            Self::Earliest => Some(OffsetAt::Earliest),
            Self::Latest => Some(OffsetAt::Latest),
            Self::Timestamp(timestamp) => Some(OffsetAt::Timestamp(timestamp)),
            Self::Offset(_) => None,
        }
    }
}

/// What to do when the log has no record at the position any more, or not yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OffsetReset {
    /// Report it and stop the partition.
    #[default]
    Fail,
    Earliest,
    Latest,
}

#[derive(Clone, Debug)]
pub struct ConsumerConfig {
    /// How long a broker may wait for records before it answers that there are none.
    pub wait_max: Duration,
    /// A broker answers once it has this many bytes.
    pub bytes_min: i32,
    /// A broker's answer ends with the batch that brings it to this length.
    pub fetch_bytes: usize,
    /// As `fetch_bytes`, for one partition.
    pub partition_bytes: usize,
    /// Records that were fetched and not taken may take this much memory, one answer more at most.
    pub prefetch_bytes: usize,
    /// A batch whose records take more than this uncompressed is an error.
    pub batch_bytes_max: usize,
    pub check_crc: bool,
    /// Whether records of open and aborted transactions are left out.
    pub read_committed: bool,
    pub reset: OffsetReset,
    /// Pause after an error that may pass; doubles up to `retry_pause_max`.
    pub retry_pause: Duration,
    pub retry_pause_max: Duration,
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        Self {
            wait_max: Duration::from_millis(500),
            bytes_min: 1,
            fetch_bytes: 8 << 20,
            partition_bytes: 2 << 20,
            prefetch_bytes: 32 << 20,
            batch_bytes_max: 128 << 20,
            check_crc: true,
            read_committed: false,
            reset: OffsetReset::Fail,
            retry_pause: Duration::from_millis(20),
            retry_pause_max: Duration::from_secs(1),
        }
    }
}
