//! DescribeConfigs (32): the configuration of topics and brokers.

use crate::error::ErrorCode;
use crate::wire::Str;

message! {
    DescribeConfigs request -> DescribeConfigsResponse
    pub struct DescribeConfigsRequest {
        resources: Vec<DescribeConfigsResource> [0..],
        include_synonyms: bool [1..],
        include_documentation: bool [3..],
    }
}

structure! {
    pub struct DescribeConfigsResource {
        /// 2 is a topic, 4 a broker, 8 a broker's loggers.
        resource_type: i8 [0..],
        resource_name: Str [0..],
        /// `None` asks for all.
        configuration_keys: Option<Vec<Str>> [0..],
    }
}

message! {
    DescribeConfigs response
    pub struct DescribeConfigsResponse {
        throttle_time_ms: i32 [0..],
        results: Vec<DescribeConfigsResult> [0..],
    }
}

structure! {
    pub struct DescribeConfigsResult {
        error_code: ErrorCode [0..],
        error_message: Option<Str> [0..],
        resource_type: i8 [0..],
        resource_name: Str [0..],
        configs: Vec<DescribeConfigsResourceResult> [0..],
    }
}

structure! {
    pub struct DescribeConfigsResourceResult {
        name: Str [0..],
        value: Option<Str> [0..],
        read_only: bool [0..],
        /// 1 is set for the topic, 4 set in the broker's file, 5 the default.
        config_source: i8 [1.., ignorable] = -1,
        is_sensitive: bool [0..],
        synonyms: Vec<DescribeConfigsSynonym> [1.., ignorable],
        /// 1 boolean, 2 string, 3 int, 4 short, 5 long, 6 double, 7 list, 8 class, 9 password.
        config_type: i8 [3.., ignorable],
        documentation: Option<Str> [3.., ignorable],
    }
}

structure! {
    pub struct DescribeConfigsSynonym {
        name: Str [1..],
        value: Option<Str> [1..],
        /// As `config_source`.
        source: i8 [1..],
    }
}
