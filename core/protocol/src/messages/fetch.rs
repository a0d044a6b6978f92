//! Fetch (1): record batches from partitions, with incremental sessions (KIP-227).

use super::leader::LeaderIdAndEpoch;
use crate::error::ErrorCode;
use crate::wire::{Records, Str};

message! {
    Fetch request -> FetchResponse
    pub struct FetchRequest {
        cluster_id: Option<Str> [12.., tag 0, ignorable],
        /// -1 for consumers.
        replica_id: i32 [0..=14] = -1,
        max_wait_ms: i32 [0..],
        min_bytes: i32 [0..],
        max_bytes: i32 [3.., ignorable] = i32::MAX,
        /// 0 is read uncommitted, 1 is read committed.
        isolation_level: i8 [4.., ignorable],
        /// 0 if there is no session yet.
        session_id: i32 [7.., ignorable],
        /// -1 wants no session, 0 asks for a new one.
        session_epoch: i32 [7.., ignorable] = -1,
        topics: Vec<FetchTopic> [0..],
        /// Partitions to take out of the session.
        forgotten_topics_data: Vec<ForgottenTopic> [7..],
        rack_id: Str [11.., ignorable],
    }
}

structure! {
    pub struct FetchTopic {
        topic: Str [0..=12, ignorable],
        partitions: Vec<FetchPartition> [0..],
    }
}

structure! {
    pub struct FetchPartition {
        partition: i32 [0..],
        /// -1 skips the check of the epoch (KIP-320).
        current_leader_epoch: i32 [9.., ignorable] = -1,
        fetch_offset: i64 [0..],
        last_fetched_epoch: i32 [12..] = -1,
        /// Of a follower; -1 for consumers.
        log_start_offset: i64 [5.., ignorable] = -1,
        partition_max_bytes: i32 [0..],
    }
}

structure! {
    pub struct ForgottenTopic {
        topic: Str [7..=12, ignorable],
        partitions: Vec<i32> [7..],
    }
}

message! {
    Fetch response
    pub struct FetchResponse {
        throttle_time_ms: i32 [1.., ignorable],
        error_code: ErrorCode [7.., ignorable],
        /// 0 if there is no session.
        session_id: i32 [7..],
        responses: Vec<FetchableTopicResponse> [0..],
    }
}

structure! {
    pub struct FetchableTopicResponse {
        topic: Str [0..=12, ignorable],
        partitions: Vec<FetchPartitionData> [0..],
    }
}

structure! {
    /// Kafka's schema calls this PartitionData.
    pub struct FetchPartitionData {
        partition_index: i32 [0..],
        error_code: ErrorCode [0..],
        high_watermark: i64 [0..],
        last_stable_offset: i64 [4.., ignorable] = -1,
        log_start_offset: i64 [5.., ignorable] = -1,
        /// Only for followers that sent their last epoch.
        diverging_epoch: EpochEndOffset [12.., tag 0],
        /// A hint, so it may be left out of older versions.
        current_leader: LeaderIdAndEpoch [12.., tag 1, ignorable],
        snapshot_id: SnapshotId [12.., tag 2],
        /// `None` unless the request reads committed records only.
        aborted_transactions: Option<Vec<AbortedTransaction>> [4.., ignorable],
        preferred_read_replica: i32 [11..] = -1,
        /// Empty by default, because some clients fail on null.
        records: Option<Records> [0..] = Some(Records::new()),
    }
}

structure! {
    pub struct EpochEndOffset {
        epoch: i32 [0..] = -1,
        end_offset: i64 [0..] = -1,
    }
}

structure! {
    pub struct SnapshotId {
        end_offset: i64 [0..] = -1,
        epoch: i32 [0..] = -1,
    }
}

structure! {
    pub struct AbortedTransaction {
        producer_id: i64 [4..],
        first_offset: i64 [4..],
    }
}
