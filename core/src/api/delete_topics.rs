//! DeleteTopics: by name or id; the topic is gone for this node's readers when the answer is given, and its files
//! follow on every node.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kauri_protocol::{
    error::ErrorCode,
    messages::{
        DeleteTopicsRequest, DeleteTopicsResponse,
        delete_topics::{DeletableTopicResult, DeleteTopicState},
    },
    wire::{Str, Uuid},
};

use super::{Event, Exchange, Progress, Waiter, done};
use crate::{
    broker::{Broker, controller::ControllerError},
    ids::TopicId,
    time::Now,
};

#[derive(Debug)]
pub struct Pending {
    response: DeleteTopicsResponse,
    open: BTreeSet<u32>,
}

/// How often a request names a topic and was not answered about it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Times {
    Never,
    Once,
    More,
}

pub(super) fn start(broker: &mut Broker, now: Now, exchange: Exchange, request: DeleteTopicsRequest) -> Progress {
    let asked: Vec<DeleteTopicState> = if exchange.version >= 6 {
        request.topics
    } else {
        let by_name = |name| DeleteTopicState { name: Some(name), ..Default::default() };
        request.topic_names.into_iter().map(by_name).collect()
    };
    let mut pending = Pending { response: DeleteTopicsResponse::default(), open: BTreeSet::new() };
    let mut times: BTreeMap<(Option<Str>, Uuid), Times> = BTreeMap::new();
    for topic in &asked {
        let known = times.entry((topic.name.clone(), topic.topic_id)).or_insert(Times::Never);
        *known = if *known == Times::Never { Times::Once } else { Times::More };
    }
    for topic in asked {
        let mut result =
            DeletableTopicResult { name: topic.name.clone(), topic_id: topic.topic_id, ..Default::default() };
        let times = times.get_mut(&(topic.name.clone(), topic.topic_id)).expect("it was counted");
        match times {
            Times::Once => {}
            Times::More => {
                // As in Kafka: what was meant is not clear, so nothing happens, and that is said once.
                *times = Times::Never;
                let error = ControllerError::new(ErrorCode::InvalidRequest, "the topic is named more than once");
                fail(exchange, &mut result, &error);
                pending.response.responses.push(result);
                continue;
            }
            Times::Never => continue,
        }
        let part = u32::try_from(pending.response.responses.len()).expect("a frame holds fewer than 2^32 topics");
        let waiter = Waiter { request: exchange.id, part };
        let started = find(broker, &topic).and_then(|(id, name)| {
            result.topic_id = id.0;
            result.name = Some(name);
            broker.delete_topic(now, id, waiter)
        });
        match started {
            Ok(()) => {
                pending.open.insert(part);
            }
            Err(error) => fail(exchange, &mut result, &error),
        }
        pending.response.responses.push(result);
    }
    if pending.open.is_empty() {
        return done(exchange, &pending.response);
    }
    let timeout = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    broker.set_deadline(exchange.id, now.monotonic + timeout);
    Progress::Waiting(super::Pending::DeleteTopics(pending))
}

pub(super) fn resume(exchange: Exchange, mut pending: Pending, event: Event) -> Progress {
    match event {
        Event::Controller { part, outcome } => {
            if pending.open.remove(&part)
                && let Err(error) = outcome
            {
                fail(exchange, &mut pending.response.responses[part as usize], &error);
            }
            if !pending.open.is_empty() {
                return Progress::Waiting(super::Pending::DeleteTopics(pending));
            }
        }
        Event::Deadline => {
            let error = ControllerError::new(ErrorCode::RequestTimedOut, "the topic may still be deleted");
            for part in std::mem::take(&mut pending.open) {
                fail(exchange, &mut pending.response.responses[part as usize], &error);
            }
        }
        Event::Appended { .. } | Event::Confirmed { .. } | Event::Read { .. } | Event::ProducerIds | Event::Woken => {
            unreachable!("DeleteTopics waits for the metadata group only")
        }
    }
    done(exchange, &pending.response)
}

fn find(broker: &Broker, asked: &DeleteTopicState) -> Result<(TopicId, Str), ControllerError> {
    let image = broker.image();
    let topic = match &asked.name {
        Some(_) if asked.topic_id != Uuid::ZERO => {
            return Err(ControllerError::new(ErrorCode::InvalidRequest, "name a topic or its id, not both"));
        }
        Some(name) => image.topic_by_name(name).ok_or(ErrorCode::UnknownTopicOrPartition),
        None => image.topic(TopicId(asked.topic_id)).ok_or(ErrorCode::UnknownTopicId),
    };
    match topic {
        Ok(topic) => Ok((topic.id, Str::from(topic.name.as_str()))),
        Err(code) => Err(ControllerError::from(code)),
    }
}

fn fail(exchange: Exchange, result: &mut DeletableTopicResult, error: &ControllerError) {
    result.error_code = error.code;
    if exchange.version >= 5 {
        result.error_message = Some(Str::from(error.message.as_str()));
    }
}
