//! ListOffsets (2): offsets by timestamp, and the ends of the log.

use crate::error::ErrorCode;
use crate::wire::Str;

/// Asks for the end of the log, or for the last stable offset when reading committed records.
pub const LATEST_TIMESTAMP: i64 = -1;
/// Asks for the start of the log.
pub const EARLIEST_TIMESTAMP: i64 = -2;
/// Asks for the record with the largest timestamp (version 7, KIP-734).
pub const MAX_TIMESTAMP: i64 = -3;
/// Asks for the start of the part of the log that is on local disks (version 8, KIP-405).
pub const EARLIEST_LOCAL_TIMESTAMP: i64 = -4;

message! {
    ListOffsets request -> ListOffsetsResponse
    pub struct ListOffsetsRequest {
        /// -1 for consumers.
        replica_id: i32 [0..] = -1,
        /// 0 is read uncommitted, 1 is read committed.
        isolation_level: i8 [2..],
        topics: Vec<ListOffsetsTopic> [0..],
    }
}

structure! {
    pub struct ListOffsetsTopic {
        name: Str [0..],
        partitions: Vec<ListOffsetsPartition> [0..],
    }
}

structure! {
    pub struct ListOffsetsPartition {
        partition_index: i32 [0..],
        current_leader_epoch: i32 [4.., ignorable] = -1,
        /// Milliseconds since 1970, or one of the negative constants of this module.
        timestamp: i64 [0..],
    }
}

message! {
    ListOffsets response
    pub struct ListOffsetsResponse {
        throttle_time_ms: i32 [2.., ignorable],
        topics: Vec<ListOffsetsTopicResponse> [0..],
    }
}

structure! {
    pub struct ListOffsetsTopicResponse {
        name: Str [0..],
        partitions: Vec<ListOffsetsPartitionResponse> [0..],
    }
}

structure! {
    pub struct ListOffsetsPartitionResponse {
        partition_index: i32 [0..],
        error_code: ErrorCode [0..],
        timestamp: i64 [1..] = -1,
        offset: i64 [1..] = -1,
        /// Left out of versions whose clients do not check epochs.
        leader_epoch: i32 [4.., ignorable] = -1,
    }
}
