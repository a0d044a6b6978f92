//! Metadata: brokers, topics, partitions and who leads them, as this node's image and gossip have it.
//!
//! The answer never goes backwards on one node: the image is versioned and leaders are ordered by term. A topic that
//! does not exist may be created on the way, if client and configuration both allow it; the answer then waits for it.

use std::{collections::BTreeSet, time::Duration};

use kauri_protocol::{
    error::ErrorCode,
    messages::{
        MetadataRequest, MetadataResponse,
        metadata::{MetadataRequestTopic, MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic},
    },
    wire::{Str, Uuid},
};

use super::{Event, Exchange, Progress, Waiter, done};
use crate::{
    broker::Broker,
    ids::{NodeId, TopicId},
    limits::AUTO_CREATED_TOPICS_MAX,
    metadata::{Topic, TopicName, placement::Placer, topic::Partition},
    time::Now,
};

/// A client that waits for a topic to be created asks again anyway: its own timeout is longer than this.
const CREATE_WAIT_MAX: Duration = Duration::from_secs(5);

/// Waits for topics that are being created.
#[derive(Debug)]
pub struct Pending {
    request: MetadataRequest,
    open: BTreeSet<u32>,
}

pub(super) fn start(broker: &mut Broker, now: Now, exchange: Exchange, mut request: MetadataRequest) -> Progress {
    if let Some(topics) = &mut request.topics {
        // Once each: a name costs a few bytes, and the answer to it may be long.
        let mut seen = BTreeSet::new();
        topics.retain(|topic| seen.insert((topic.name.clone(), TopicId(topic.topic_id))));
    }
    let mut open = BTreeSet::new();
    if broker.config.auto_create_topics && (exchange.version < 4 || request.allow_auto_topic_creation) {
        let missing: BTreeSet<&Str> = request
            .topics
            .iter()
            .flatten()
            .filter_map(|topic| topic.name.as_ref())
            .filter(|name| broker.image().topic_by_name(name).is_none() && TopicName::new(name).is_ok())
            .collect();
        // Most requests name only what exists.
        let mut placer = (!missing.is_empty()).then(|| Placer::new(broker.image()));
        for (name, part) in missing.into_iter().take(AUTO_CREATED_TOPICS_MAX).zip(0..) {
            let waiter = Waiter { request: exchange.id, part };
            let placer = placer.as_mut().expect("there is one if a topic is missing");
            if broker.create_default_topic(now, placer, name, waiter).is_ok() {
                open.insert(part);
            }
        }
    }
    if open.is_empty() {
        return done(exchange, &answer(broker, exchange, request));
    }
    broker.set_deadline(exchange.id, now.monotonic + CREATE_WAIT_MAX);
    Progress::Waiting(super::Pending::Metadata(Pending { request, open }))
}

pub(super) fn resume(broker: &mut Broker, exchange: Exchange, mut pending: Pending, event: Event) -> Progress {
    match event {
        Event::Controller { part, .. } => {
            // Whatever became of it, the image says what there is now.
            pending.open.remove(&part);
            if !pending.open.is_empty() {
                return Progress::Waiting(super::Pending::Metadata(pending));
            }
        }
        Event::Deadline => {}
        Event::Appended { .. } | Event::Confirmed { .. } | Event::Read { .. } | Event::ProducerIds | Event::Woken => {
            unreachable!("Metadata waits for the creation of topics only")
        }
    }
    done(exchange, &answer(broker, exchange, pending.request))
}

fn answer(broker: &Broker, exchange: Exchange, request: MetadataRequest) -> MetadataResponse {
    let image = broker.image();
    let all = match &request.topics {
        None => true,
        // Version 0 has no null; an empty list asks for everything there.
        Some(topics) => exchange.version == 0 && topics.is_empty(),
    };
    let topics = if all {
        image.topics().map(|topic| describe(broker, topic)).collect()
    } else {
        request.topics.into_iter().flatten().map(|asked| describe_asked(broker, exchange, asked)).collect()
    };
    MetadataResponse {
        brokers: brokers(broker),
        cluster_id: broker.cluster_id().map(|id| Str::from(id.to_string())),
        // Any node may be asked to administer the cluster: it forwards. Naming the one that was asked saves a hop.
        controller_id: broker.config.node.0,
        topics,
        ..Default::default()
    }
}

/// Every node that takes part. Nodes that are down for long are left out, because clients would try to reach them.
fn brokers(broker: &Broker) -> Vec<MetadataResponseBroker> {
    broker
        .listed_nodes()
        .map(|(node, endpoint, rack)| MetadataResponseBroker {
            node_id: node.0,
            host: Str::from(endpoint.host.as_str()),
            port: i32::from(endpoint.port),
            rack: rack.map(Str::from),
        })
        .collect()
}

fn describe_asked(broker: &Broker, exchange: Exchange, asked: MetadataRequestTopic) -> MetadataResponseTopic {
    let image = broker.image();
    match asked.name {
        Some(name) => match image.topic_by_name(&name) {
            Some(topic) => describe(broker, topic),
            None => {
                let legal = TopicName::new(&name).is_ok();
                let error_code =
                    if legal { ErrorCode::UnknownTopicOrPartition } else { ErrorCode::InvalidTopicException };
                MetadataResponseTopic { error_code, name: Some(name), ..Default::default() }
            }
        },
        None => match image.topic(TopicId(asked.topic_id)) {
            Some(topic) if asked.topic_id != Uuid::ZERO => describe(broker, topic),
            Some(_) | None => MetadataResponseTopic {
                error_code: ErrorCode::UnknownTopicId,
                name: if exchange.version >= 12 { None } else { Some(Str::default()) },
                topic_id: asked.topic_id,
                ..Default::default()
            },
        },
    }
}

fn describe(broker: &Broker, topic: &Topic) -> MetadataResponseTopic {
    let partitions =
        topic.partitions.iter().zip(0..).map(|(partition, index)| describe_partition(broker, partition, index));
    MetadataResponseTopic {
        name: Some(Str::from(topic.name.as_str())),
        topic_id: topic.id.0,
        partitions: partitions.collect(),
        ..Default::default()
    }
}

fn describe_partition(broker: &Broker, partition: &Partition, partition_index: i32) -> MetadataResponsePartition {
    let nodes = |filter: &dyn Fn(NodeId) -> bool| {
        partition.replicas.iter().map(|replica| replica.node).filter(|node| filter(*node)).map(|node| node.0).collect()
    };
    let known = broker.leader_of(partition.group);
    // A leader on a node that is gone is one that will be replaced in a moment.
    let leader = known.as_ref().filter(|known| broker.is_live(known.node) && broker.can_lead(known.node));
    MetadataResponsePartition {
        error_code: if leader.is_some() { ErrorCode::None } else { ErrorCode::LeaderNotAvailable },
        partition_index,
        leader_id: leader.map_or(-1, |leader| leader.node.0),
        // -1 would make clients forget the epochs they know.
        leader_epoch: known.as_ref().map_or(0, |known| known.epoch.0),
        replica_nodes: nodes(&|_| true),
        isr_nodes: match &known {
            Some(known) => known.in_sync.iter().map(|node| node.0).collect(),
            None => nodes(&|node| broker.is_live(node)),
        },
        offline_replicas: nodes(&|node| !broker.is_live(node)),
    }
}
