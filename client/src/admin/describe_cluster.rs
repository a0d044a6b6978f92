//! Describes the cluster: its id, its brokers and the controller.

use std::collections::BTreeMap;

use kauri_protocol::{messages::DescribeClusterResponse, wire::Str};

use super::AdminError;
use crate::metadata::Node;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterDescription {
    pub cluster_id: Str,
    pub controller: Option<i32>,
    pub nodes: BTreeMap<i32, Node>,
}

pub(super) fn take(response: DescribeClusterResponse) -> Result<ClusterDescription, AdminError> {
    if response.error_code.is_error() {
        let message = response.error_message.as_ref().map(Str::detached);
        return Err(AdminError::Refused { error: response.error_code, message });
    }
    let nodes = response.brokers.into_iter().filter_map(|broker| {
        let port = u16::try_from(broker.port).ok()?;
        let rack = broker.rack.as_ref().map(Str::detached);
        Some((broker.broker_id, Node { id: broker.broker_id, host: broker.host.to_string(), port, rack }))
    });
    Ok(ClusterDescription {
        cluster_id: response.cluster_id.detached(),
        controller: Some(response.controller_id).filter(|id| *id >= 0),
        nodes: nodes.collect(),
    })
}
