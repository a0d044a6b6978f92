//! DescribeCluster (60): brokers and controller, for administration (KIP-700).

use super::metadata::AUTHORIZED_OPERATIONS_OMITTED;
use crate::error::ErrorCode;
use crate::wire::Str;

message! {
    DescribeCluster request -> DescribeClusterResponse
    pub struct DescribeClusterRequest {
        include_cluster_authorized_operations: bool [0..],
        /// 1 is brokers, 2 is controllers.
        endpoint_type: i8 [1..] = 1,
    }
}

message! {
    DescribeCluster response
    pub struct DescribeClusterResponse {
        throttle_time_ms: i32 [0..],
        error_code: ErrorCode [0..],
        error_message: Option<Str> [0..],
        endpoint_type: i8 [1..] = 1,
        cluster_id: Str [0..],
        controller_id: i32 [0..] = -1,
        brokers: Vec<DescribeClusterBroker> [0..],
        /// A bit set.
        cluster_authorized_operations: i32 [0..] = AUTHORIZED_OPERATIONS_OMITTED,
    }
}

structure! {
    pub struct DescribeClusterBroker {
        broker_id: i32 [0..],
        host: Str [0..],
        port: i32 [0..],
        rack: Option<Str> [0..],
    }
}
