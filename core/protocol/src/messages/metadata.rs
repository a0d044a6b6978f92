//! Metadata (3): brokers, topics, partitions, leaders.

use crate::error::ErrorCode;
use crate::wire::{Str, Uuid};

message! {
    Metadata request -> MetadataResponse
    pub struct MetadataRequest {
        /// `None` asks for all topics. In version 0, which has no null, an empty list does.
        topics: Option<Vec<MetadataRequestTopic>> [0.., null 1..],
        allow_auto_topic_creation: bool [4..] = true,
        include_cluster_authorized_operations: bool [8..=10],
        include_topic_authorized_operations: bool [8..],
    }
}

structure! {
    /// A topic by name, or by id where the name is `None`. Only version 12 may ask by id.
    pub struct MetadataRequestTopic {
        topic_id: Uuid [10.., ignorable],
        name: Option<Str> [0.., null 10..],
    }
}

/// What the authorized operations are when they were not asked for.
pub const AUTHORIZED_OPERATIONS_OMITTED: i32 = i32::MIN;

message! {
    Metadata response
    pub struct MetadataResponse {
        throttle_time_ms: i32 [3.., ignorable],
        brokers: Vec<MetadataResponseBroker> [0..],
        cluster_id: Option<Str> [2.., ignorable],
        controller_id: i32 [1.., ignorable] = -1,
        topics: Vec<MetadataResponseTopic> [0..],
        /// A bit set.
        cluster_authorized_operations: i32 [8..=10] = AUTHORIZED_OPERATIONS_OMITTED,
    }
}

structure! {
    pub struct MetadataResponseBroker {
        node_id: i32 [0..],
        host: Str [0..],
        port: i32 [0..],
        rack: Option<Str> [1.., ignorable],
    }
}

structure! {
    pub struct MetadataResponseTopic {
        error_code: ErrorCode [0..],
        /// `None` only if the topic was asked for by an id that does not exist.
        name: Option<Str> [0.., null 12..],
        topic_id: Uuid [10.., ignorable],
        is_internal: bool [1.., ignorable],
        partitions: Vec<MetadataResponsePartition> [0..],
        /// A bit set.
        topic_authorized_operations: i32 [8..] = AUTHORIZED_OPERATIONS_OMITTED,
    }
}

structure! {
    pub struct MetadataResponsePartition {
        error_code: ErrorCode [0..],
        partition_index: i32 [0..],
        /// -1 if there is none.
        leader_id: i32 [0..],
        /// Clients drop answers with a lower epoch than they know; -1 makes them forget what they know.
        leader_epoch: i32 [7.., ignorable] = -1,
        replica_nodes: Vec<i32> [0..],
        isr_nodes: Vec<i32> [0..],
        offline_replicas: Vec<i32> [5.., ignorable],
    }
}
