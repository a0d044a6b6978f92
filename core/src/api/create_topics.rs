//! CreateTopics: placement is chosen here, everything else is decided when the command is applied to the metadata.
//!
//! The answer is given when this node's own image shows the topic and knows the leaders of its partitions (for these it
//! does not wait long), so that a client that asks it next can produce.

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
    ids::GroupId,
    limits::TOPIC_PARTITIONS_MAX,
    metadata::{
        MetadataOutcome, TopicConfigs,
        placement::{Demand, Placer},
    },
    time::{Monotonic, Now},
};

/// How long the answer waits for leaders of partitions that exist already.
const LEADERS_WAIT_MAX: Duration = Duration::from_secs(2);
/// A cluster that was just formed is looked at this often for nodes that are still to register.
const REGISTRATION_LOOK: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub enum Pending {
    /// Not started: there are too few nodes so far, and more are coming.
    Early(Early),
    Creating(Creating),
}

#[derive(Debug)]
pub struct Early {
    request: CreateTopicsRequest,
    give_up: Monotonic,
}

#[derive(Debug)]
pub struct Creating {
    response: CreateTopicsResponse,
    /// Place in the response of each part that is still open.
    open: BTreeSet<u32>,
    /// Groups of topics that were created, and that had no leader when this was looked at last.
    leaderless: BTreeSet<GroupId>,
    give_up: Monotonic,
}

pub(super) fn start(broker: &mut Broker, now: Now, exchange: Exchange, request: CreateTopicsRequest) -> Progress {
    let timeout = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    start_in_time(broker, now, exchange, request, now.monotonic + timeout)
}

/// Starts as soon as there are enough nodes. A cluster that was just formed lacks some for a moment, and clients take
/// INVALID_REPLICATION_FACTOR for final.
fn start_in_time(
    broker: &mut Broker,
    now: Now,
    exchange: Exchange,
    request: CreateTopicsRequest,
    give_up: Monotonic,
) -> Progress {
    if now.monotonic < give_up && lacks_nodes(broker, exchange, &request) {
        broker.set_deadline(exchange.id, give_up.min(now.monotonic + REGISTRATION_LOOK));
        return Progress::Waiting(super::Pending::CreateTopics(Pending::Early(Early { request, give_up })));
    }
    create(broker, now, exchange, request, give_up)
}

/// Whether a topic wants more replicas than there are nodes, and the nodes that are still to register would do.
fn lacks_nodes(broker: &Broker, exchange: Exchange, request: &CreateTopicsRequest) -> bool {
    let (live, expected) = (broker.live_nodes(), broker.expected_nodes());
    expected > 0
        && request.topics.iter().any(|topic| {
            let wanted = if topic.assignments.is_empty() { replication_factor(broker, exchange, topic) } else { 0 };
            usize::try_from(wanted).is_ok_and(|wanted| live < wanted && wanted <= live + expected)
        })
}

fn create(
    broker: &mut Broker,
    now: Now,
    exchange: Exchange,
    request: CreateTopicsRequest,
    give_up: Monotonic,
) -> Progress {
    let mut pending = Creating {
        response: CreateTopicsResponse::default(),
        open: BTreeSet::new(),
        leaderless: BTreeSet::new(),
        give_up,
    };
    let mut placer = Placer::new(broker.image());
    let mut partitions = 0;
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
                partitions += i64::from(demand.partitions().max(1));
                if partitions > i64::from(TOPIC_PARTITIONS_MAX) {
                    let message = format!("a request creates at most {TOPIC_PARTITIONS_MAX} partitions");
                    return Err(ControllerError::new(ErrorCode::InvalidPartitions, message));
                }
                result.num_partitions = demand.partitions();
                result.replication_factor = demand.replication_factor();
                let configs = topic.configs.iter().map(|config| {
                    (config.name.to_string(), config.value.as_ref().map(Str::to_string).unwrap_or_default())
                });
                let configs: Vec<_> = configs.collect();
                result.configs = Some(describe_configs(&configs)?);
                let command = broker.plan_topic(&mut placer, &topic.name, &demand, configs)?;
                if request.validate_only {
                    broker.check_topic(&command)
                } else {
                    broker.create_topic(now, command, waiter)
                }
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
    broker.set_deadline(exchange.id, pending.give_up);
    Progress::Waiting(super::Pending::CreateTopics(Pending::Creating(pending)))
}

pub(super) fn resume(broker: &mut Broker, now: Now, exchange: Exchange, pending: Pending, event: Event) -> Progress {
    match pending {
        // It waits for its time only.
        Pending::Early(Early { request, give_up }) => start_in_time(broker, now, exchange, request, give_up),
        Pending::Creating(creating) => go_on(broker, now, exchange, creating, event),
    }
}

fn go_on(broker: &mut Broker, now: Now, exchange: Exchange, mut pending: Creating, event: Event) -> Progress {
    let expired = matches!(event, Event::Deadline);
    match event {
        Event::Controller { part, outcome } => {
            if pending.open.remove(&part) {
                let result = &mut pending.response.topics[part as usize];
                match outcome {
                    Ok(MetadataOutcome::TopicCreated(id)) => {
                        result.topic_id = id.0;
                        pending.leaderless.extend(broker.watch_topic(id, exchange.id));
                    }
                    Ok(other) => unreachable!("calls end with an outcome that fits, not with {other:?}"),
                    Err(error) => fail(result, &error),
                }
            }
            if pending.open.is_empty() && pending.wants_leaders(broker) {
                broker.set_deadline(exchange.id, pending.give_up.min(now.monotonic + LEADERS_WAIT_MAX));
            }
        }
        Event::Woken => {}
        Event::Deadline => {
            let error = ControllerError::new(ErrorCode::RequestTimedOut, "the topic may still be created");
            for part in std::mem::take(&mut pending.open) {
                fail(&mut pending.response.topics[part as usize], &error);
            }
        }
        Event::Appended { .. } | Event::Confirmed { .. } | Event::Read { .. } | Event::ProducerIds => {
            unreachable!("CreateTopics waits for the metadata group and for leaders only")
        }
    }
    if !expired && (!pending.open.is_empty() || pending.wants_leaders(broker)) {
        return Progress::Waiting(super::Pending::CreateTopics(Pending::Creating(pending)));
    }
    done(exchange, &pending.response)
}

impl Creating {
    /// Whether a partition that was created has no leader that this node knows.
    fn wants_leaders(&mut self, broker: &Broker) -> bool {
        self.leaderless.retain(|group| !broker.is_led(*group));
        !self.leaderless.is_empty()
    }
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
    let partitions = match topic.num_partitions {
        -1 if defaults_allowed(exchange) => broker.config.default_partitions,
        number => number,
    };
    Ok(Demand::numbers(partitions, replication_factor(broker, exchange, topic)))
}

fn replication_factor(broker: &Broker, exchange: Exchange, topic: &CreatableTopic) -> i16 {
    match topic.replication_factor {
        -1 if defaults_allowed(exchange) => broker.config.default_replication_factor,
        number => number,
    }
}

fn defaults_allowed(exchange: Exchange) -> bool {
    exchange.version >= 4
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
