//! CreateTopics: placement is chosen here, everything else is decided when the command is applied to the metadata.
//!
//! The answer is given when this node's own image shows the topic, so that a client that asks it next sees the topic.

use std::{collections::BTreeSet, time::Duration};

use kauri_protocol::{
    error::ErrorCode,
    messages::{
        CreateTopicsRequest, CreateTopicsResponse,
        create_topics::{CreatableTopic, CreatableTopicConfigs, CreatableTopicResult},
    },
    wire::Str,
};

use super::{Event, Exchange, Progress, Waiter, done};
use crate::{
    broker::{Broker, controller::ControllerError},
    metadata::{MetadataOutcome, TopicConfigs, placement::Demand},
    time::Now,
};

#[derive(Debug)]
pub struct Pending {
    response: CreateTopicsResponse,
    /// Place in the response of each part that is still open.
    open: BTreeSet<u32>,
}

pub(super) fn start(broker: &mut Broker, now: Now, exchange: Exchange, request: CreateTopicsRequest) -> Progress {
    let mut pending = Pending { response: CreateTopicsResponse::default(), open: BTreeSet::new() };
    let mut names = BTreeSet::new();
    let twice: BTreeSet<Str> = request
        .topics
        .iter()
        .filter(|topic| !names.insert(topic.name.clone()))
        .map(|topic| topic.name.clone())
        .collect();
    for (topic, part) in request.topics.into_iter().zip(0..) {
        let waiter = Waiter { request: exchange.id, part };
        let mut result = CreatableTopicResult { name: topic.name.clone(), ..Default::default() };
        let started = if twice.contains(&topic.name) {
            Err(ControllerError::new(ErrorCode::InvalidRequest, "the request names the topic twice"))
        } else {
            demand(broker, exchange, &topic).and_then(|demand| {
                result.num_partitions = demand.partitions();
                result.replication_factor = demand.replication_factor();
                let configs = topic.configs.iter().map(|config| {
                    (config.name.to_string(), config.value.as_ref().map(Str::to_string).unwrap_or_default())
                });
                let configs: Vec<_> = configs.collect();
                result.configs = Some(describe_configs(&configs)?);
                broker.create_topic(now, &topic.name, demand, configs, request.validate_only, waiter)
            })
        };
        match started {
            Ok(()) if request.validate_only => {}
            Ok(()) => {
                pending.open.insert(part);
            }
            Err(error) => fail(&mut result, &error),
        }
        pending.response.topics.push(result);
    }
    if pending.open.is_empty() {
        return done(exchange, &pending.response);
    }
    let timeout = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    broker.set_deadline(exchange.id, now.monotonic + timeout);
    Progress::Waiting(super::Pending::CreateTopics(pending))
}

pub(super) fn resume(exchange: Exchange, mut pending: Pending, event: Event) -> Progress {
    match event {
        Event::Controller { part, outcome } => {
            if pending.open.remove(&part) {
                let result = &mut pending.response.topics[part as usize];
                match outcome {
                    Ok(MetadataOutcome::TopicCreated(id)) => {
                        result.topic_id = id.0;
                    }
                    Ok(other) => unreachable!("CreateTopic is answered with the topic's id, not with {other:?}"),
                    Err(error) => fail(result, &error),
                }
            }
            if !pending.open.is_empty() {
                return Progress::Waiting(super::Pending::CreateTopics(pending));
            }
        }
        Event::Deadline => {
            let error = ControllerError::new(ErrorCode::RequestTimedOut, "the topic may still be created");
            for part in std::mem::take(&mut pending.open) {
                fail(&mut pending.response.topics[part as usize], &error);
            }
        }
        Event::Appended { .. } | Event::Confirmed { .. } | Event::Read { .. } | Event::ProducerIds | Event::Woken => {
            unreachable!("CreateTopics waits for the metadata group only")
        }
    }
    done(exchange, &pending.response)
}

/// Which replicas are asked for: an assignment of the client's own, or numbers, or the defaults (KIP-464).
fn demand(broker: &Broker, exchange: Exchange, topic: &CreatableTopic) -> Result<Demand, ControllerError> {
    if !topic.assignments.is_empty() {
        if topic.num_partitions != -1 || topic.replication_factor != -1 {
            return Err(ControllerError::new(
                ErrorCode::InvalidRequest,
                "with an assignment, partitions and replication factor must be -1",
            ));
        }
        let mut partitions: Vec<_> = topic.assignments.iter().collect();
        partitions.sort_by_key(|assignment| assignment.partition_index);
        if !partitions.iter().zip(0..).all(|(assignment, index)| assignment.partition_index == index) {
            return Err(ControllerError::new(
                ErrorCode::InvalidReplicaAssignment,
                "the assignment must name the partitions from 0 on, each once",
            ));
        }
        return Ok(Demand::assigned(partitions.iter().map(|assignment| assignment.broker_ids.as_slice())));
    }
    let defaults_allowed = exchange.version >= 4;
    let partitions = match topic.num_partitions {
        -1 if defaults_allowed => broker.config.default_partitions,
        number => number,
    };
    let replication_factor = match topic.replication_factor {
        -1 if defaults_allowed => broker.config.default_replication_factor,
        number => number,
    };
    Ok(Demand::numbers(partitions, replication_factor))
}

/// The configuration of the new topic, defaults included (KIP-525).
fn describe_configs(configs: &[(String, String)]) -> Result<Vec<CreatableTopicConfigs>, ControllerError> {
    let configs = TopicConfigs::new(configs.iter().map(|(name, value)| (name.as_str(), value.as_str())))?;
    let described = configs.describe().map(|config| CreatableTopicConfigs {
        name: Str::from(config.name),
        value: Some(Str::from(config.value)),
        config_source: config.source,
        ..Default::default()
    });
    Ok(described.collect())
}

fn fail(result: &mut CreatableTopicResult, error: &ControllerError) {
    result.error_code = error.code;
    result.error_message = Some(Str::from(error.message.as_str()));
    result.num_partitions = -1;
    result.replication_factor = -1;
    result.configs = Some(Vec::new());
}
