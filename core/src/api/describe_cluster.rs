//! DescribeCluster: brokers and controller, for tools.

use kauri_protocol::{
    error::ErrorCode,
    messages::{DescribeClusterRequest, DescribeClusterResponse, describe_cluster::DescribeClusterBroker},
    wire::Str,
};

use super::{Exchange, Progress, done};
use crate::broker::Broker;

const BROKERS: i8 = 1;

pub(super) fn start(broker: &Broker, exchange: Exchange, request: DescribeClusterRequest) -> Progress {
    let endpoint_type = if exchange.version >= 1 { request.endpoint_type } else { BROKERS };
    if endpoint_type != BROKERS {
        // Controllers are not reachable by themselves: every broker forwards to them.
        return done(
            exchange,
            &DescribeClusterResponse {
                error_code: ErrorCode::MismatchedEndpointType,
                error_message: Some(Str::from("this is a broker; Kauri has no separate controllers")),
                endpoint_type: BROKERS,
                ..Default::default()
            },
        );
    }
    let brokers = broker.listed_nodes().map(|(node, endpoint, rack)| DescribeClusterBroker {
        broker_id: node.0,
        host: Str::from(endpoint.host.as_str()),
        port: i32::from(endpoint.port),
        rack: rack.map(Str::from),
    });
    done(
        exchange,
        &DescribeClusterResponse {
            endpoint_type: BROKERS,
            cluster_id: broker.cluster_id().map(|id| Str::from(id.to_string())).unwrap_or_default(),
            controller_id: broker.config.node.0,
            brokers: brokers.collect(),
            ..Default::default()
        },
    )
}
