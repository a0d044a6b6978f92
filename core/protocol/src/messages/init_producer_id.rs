//! InitProducerId (22): an identity for an idempotent or transactional producer (KIP-98, KIP-360).

use crate::error::ErrorCode;
use crate::wire::Str;

message! {
    InitProducerId request -> InitProducerIdResponse
    pub struct InitProducerIdRequest {
        /// `None` for a producer that is idempotent only.
        transactional_id: Option<Str> [0..],
        transaction_timeout_ms: i32 [0..],
        /// The identity to continue with a higher epoch, or -1.
        producer_id: i64 [3..] = -1,
        producer_epoch: i16 [3..] = -1,
    }
}

message! {
    InitProducerId response
    pub struct InitProducerIdResponse {
        throttle_time_ms: i32 [0.., ignorable],
        error_code: ErrorCode [0..],
        producer_id: i64 [0..] = -1,
        producer_epoch: i16 [0..],
    }
}
