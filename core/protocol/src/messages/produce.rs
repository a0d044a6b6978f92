//! Produce (0): record batches for partitions.

use bytes::Bytes;

use super::leader::{LeaderIdAndEpoch, NodeEndpoint};
use crate::error::ErrorCode;
use crate::wire::Str;

message! {
    Produce request -> ProduceResponse
    pub struct ProduceRequest {
        transactional_id: Option<Str> [3..],
        /// -1 or 1: answer when the records are safe. 0: no response at all.
        acks: i16 [0..],
        timeout_ms: i32 [0..],
        topic_data: Vec<TopicProduceData> [0..],
    }
}

structure! {
    pub struct TopicProduceData {
        name: Str [0..=12, ignorable],
        partition_data: Vec<PartitionProduceData> [0..],
    }
}

structure! {
    pub struct PartitionProduceData {
        index: i32 [0..],
        /// Exactly one batch of format 2, see [`crate::records`]; a slice of the request's frame.
        records: Option<Bytes> [0..],
    }
}

message! {
    Produce response
    pub struct ProduceResponse {
        responses: Vec<TopicProduceResponse> [0..],
        throttle_time_ms: i32 [1.., ignorable],
        /// A hint, so it may be left out of older versions.
        node_endpoints: Vec<NodeEndpoint> [10.., tag 0, ignorable],
    }
}

structure! {
    pub struct TopicProduceResponse {
        name: Str [0..=12, ignorable],
        partition_responses: Vec<PartitionProduceResponse> [0..],
    }
}

structure! {
    pub struct PartitionProduceResponse {
        index: i32 [0..],
        error_code: ErrorCode [0..],
        base_offset: i64 [0..],
        /// -1 if the topic keeps the producer's timestamps.
        log_append_time_ms: i64 [2.., ignorable] = -1,
        log_start_offset: i64 [5.., ignorable] = -1,
        record_errors: Vec<BatchIndexAndErrorMessage> [8.., ignorable],
        error_message: Option<Str> [8.., ignorable],
        /// A hint, so it may be left out of older versions.
        current_leader: LeaderIdAndEpoch [10.., tag 0, ignorable],
    }
}

structure! {
    /// A record that made its whole batch fail (KIP-467).
    pub struct BatchIndexAndErrorMessage {
        batch_index: i32 [8..],
        batch_index_error_message: Option<Str> [8..],
    }
}
