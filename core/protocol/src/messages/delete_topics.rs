//! DeleteTopics (20).

use crate::error::ErrorCode;
use crate::wire::{Str, Uuid};

message! {
    DeleteTopics request -> DeleteTopicsResponse
    pub struct DeleteTopicsRequest {
        /// From version 6 on; older versions use `topic_names`.
        topics: Vec<DeleteTopicState> [6..],
        topic_names: Vec<Str> [0..=5, ignorable],
        timeout_ms: i32 [0..],
    }
}

structure! {
    /// A topic by name, or by id where the name is `None`.
    pub struct DeleteTopicState {
        name: Option<Str> [6..],
        topic_id: Uuid [6..],
    }
}

message! {
    DeleteTopics response
    pub struct DeleteTopicsResponse {
        throttle_time_ms: i32 [1.., ignorable],
        responses: Vec<DeletableTopicResult> [0..],
    }
}

structure! {
    pub struct DeletableTopicResult {
        /// `None` only if the topic was named by an id that does not exist.
        name: Option<Str> [0.., null 6..],
        topic_id: Uuid [6.., ignorable],
        error_code: ErrorCode [0..],
        error_message: Option<Str> [5.., ignorable],
    }
}
