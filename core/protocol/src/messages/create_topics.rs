//! CreateTopics (19).

use crate::error::ErrorCode;
use crate::wire::{Str, Uuid};

message! {
    CreateTopics request -> CreateTopicsResponse
    pub struct CreateTopicsRequest {
        topics: Vec<CreatableTopic> [0..],
        timeout_ms: i32 [0..] = 60_000,
        /// Check only, create nothing.
        validate_only: bool [1..],
    }
}

structure! {
    pub struct CreatableTopic {
        name: Str [0..],
        /// -1 if there are assignments, or for the broker's default (version 4, KIP-464).
        num_partitions: i32 [0..],
        /// As `num_partitions`.
        replication_factor: i16 [0..],
        assignments: Vec<CreatableReplicaAssignment> [0..],
        configs: Vec<CreatableTopicConfig> [0..],
    }
}

structure! {
    pub struct CreatableReplicaAssignment {
        partition_index: i32 [0..],
        broker_ids: Vec<i32> [0..],
    }
}

structure! {
    pub struct CreatableTopicConfig {
        name: Str [0..],
        value: Option<Str> [0..],
    }
}

message! {
    CreateTopics response
    pub struct CreateTopicsResponse {
        throttle_time_ms: i32 [2.., ignorable],
        topics: Vec<CreatableTopicResult> [0..],
    }
}

structure! {
    pub struct CreatableTopicResult {
        name: Str [0..],
        topic_id: Uuid [7.., ignorable],
        error_code: ErrorCode [0..],
        error_message: Option<Str> [1.., ignorable],
        /// Why `configs` is missing although the topic was created.
        topic_config_error_code: ErrorCode [5.., tag 0, ignorable],
        num_partitions: i32 [5.., ignorable] = -1,
        replication_factor: i16 [5.., ignorable] = -1,
        configs: Option<Vec<CreatableTopicConfigs>> [5.., ignorable] = Some(Vec::new()),
    }
}

structure! {
    pub struct CreatableTopicConfigs {
        name: Str [5..],
        value: Option<Str> [5..],
        read_only: bool [5..],
        /// As in [`super::describe_configs`].
        config_source: i8 [5.., ignorable] = -1,
        is_sensitive: bool [5..],
    }
}
