//! FindCoordinator (10): which broker coordinates a group or a transactional id.

use crate::error::ErrorCode;
use crate::wire::Str;

message! {
    FindCoordinator request -> FindCoordinatorResponse
    pub struct FindCoordinatorRequest {
        key: Str [0..=3],
        /// 0 is a group, 1 a transactional id.
        key_type: i8 [1..],
        /// From version 4 on, instead of `key` (KIP-699).
        coordinator_keys: Vec<Str> [4..],
    }
}

message! {
    FindCoordinator response
    pub struct FindCoordinatorResponse {
        throttle_time_ms: i32 [1.., ignorable],
        error_code: ErrorCode [0..=3],
        error_message: Option<Str> [1..=3, ignorable],
        node_id: i32 [0..=3],
        host: Str [0..=3],
        port: i32 [0..=3],
        /// From version 4 on, one per key, instead of the fields above.
        coordinators: Vec<Coordinator> [4..],
    }
}

structure! {
    pub struct Coordinator {
        key: Str [4..],
        node_id: i32 [4..],
        host: Str [4..],
        port: i32 [4..],
        error_code: ErrorCode [4..],
        error_message: Option<Str> [4.., ignorable],
    }
}
