//! Produce: each partition's batch is checked for what needs no state, proposed to the partition's group, and
//! answered when it is applied. acks=1 and acks=all are the same promise: on disk on a majority. acks=0 answers
//! nothing; if such a request fails, the connection is closed, the only way to say so.

use std::time::Duration;

use kauri_protocol::{
    error::ErrorCode,
    messages::{
        ProduceRequest, ProduceResponse,
        leader::{LeaderIdAndEpoch, NodeEndpoint},
        produce::{PartitionProduceResponse, TopicProduceResponse},
    },
    wire::Str,
};

use super::{Event, Exchange, Progress, Waiter, done};
use crate::{
    broker::{Broker, Refusal},
    partition::AppendOutcome,
    session::{CloseReason, Reply},
    time::Now,
};

/// The response as far as it is known, and which places are still open.
#[derive(Debug)]
pub struct Pending {
    response: ProduceResponse,
    /// (topic, partition) place of each part in the response; `None` once answered.
    open: Vec<Option<(usize, usize)>>,
    open_count: usize,
    /// acks=0: nothing is sent. The request waits all the same, so that a client cannot queue more than its window.
    silent: bool,
    failed: bool,
}

pub(super) fn start(broker: &mut Broker, now: Now, exchange: Exchange, request: ProduceRequest) -> Progress {
    let refused = match request.acks {
        -1..=1 if request.transactional_id.is_some() => Some(ErrorCode::TransactionalIdAuthorizationFailed),
        -1..=1 => None,
        _ => Some(ErrorCode::InvalidRequiredAcks),
    };
    let silent = request.acks == 0;
    let mut response = ProduceResponse::default();
    let mut open = Vec::new();
    let mut failed = false;
    for topic in request.topic_data {
        let mut partitions = Vec::with_capacity(topic.partition_data.len());
        for partition in topic.partition_data {
            let part = u32::try_from(open.len()).expect("a frame holds fewer than 2^32 partitions");
            let waiter = Waiter { request: exchange.id, part };
            let result = match refused {
                Some(error) => Err(Refusal::from(error)),
                None => {
                    let records = partition.records.unwrap_or_default();
                    broker.append(now, exchange, (&topic.name, partition.index), records, waiter)
                }
            };
            let mut answer = PartitionProduceResponse { index: partition.index, base_offset: -1, ..Default::default() };
            match result {
                Ok(()) => open.push(Some((response.responses.len(), partitions.len()))),
                Err(refusal) => {
                    failed = true;
                    fill_refusal(exchange, &mut response.node_endpoints, &mut answer, broker, &refusal);
                    open.push(None);
                }
            }
            partitions.push(answer);
        }
        response.responses.push(TopicProduceResponse { name: topic.name, partition_responses: partitions });
    }
    let open_count = open.iter().flatten().count();
    let pending = Pending { response, open, open_count, silent, failed };
    if open_count == 0 || (silent && failed) {
        return pending.finish(exchange);
    }
    if !silent {
        let timeout = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
        broker.set_deadline(exchange.id, now.monotonic + timeout);
    }
    Progress::Waiting(super::Pending::Produce(pending))
}

pub(super) fn resume(broker: &mut Broker, exchange: Exchange, mut pending: Pending, event: Event) -> Progress {
    match event {
        Event::Appended { part, outcome } => {
            pending.fill(part, outcome);
            if pending.open_count > 0 {
                return Progress::Waiting(super::Pending::Produce(pending));
            }
        }
        Event::Deadline => {
            // The batch may still be committed: the outcome is unknown, which is what this code means.
            broker.withdraw(exchange.id);
            for part in 0..pending.open.len() {
                pending.fill(u32::try_from(part).expect("counted in u32"), Err(ErrorCode::RequestTimedOut));
            }
        }
        Event::Confirmed { .. } | Event::Read { .. } | Event::Controller { .. } | Event::ProducerIds | Event::Woken => {
            unreachable!("Produce waits for its batches only")
        }
    }
    pending.finish(exchange)
}

impl Pending {
    fn finish(self, exchange: Exchange) -> Progress {
        match (self.silent, self.failed) {
            (false, _) => done(exchange, &self.response),
            (true, false) => Progress::Done(Reply::Silent),
            (true, true) => Progress::Done(Reply::Close(CloseReason::SilentFailure)),
        }
    }

    fn fill(&mut self, part: u32, outcome: Result<AppendOutcome, ErrorCode>) {
        let Some((topic, partition)) = self.open[part as usize].take() else { return };
        self.open_count -= 1;
        let answer = &mut self.response.responses[topic].partition_responses[partition];
        match outcome {
            Ok(appended) => {
                answer.base_offset = appended.base_offset.0;
                answer.log_append_time_ms = appended.log_append_time.map_or(-1, |time| time.0);
                answer.log_start_offset = appended.log_start_offset.0;
            }
            Err(error) => {
                self.failed = true;
                answer.error_code = error;
            }
        }
    }
}

fn fill_refusal(
    exchange: Exchange,
    endpoints: &mut Vec<NodeEndpoint>,
    answer: &mut PartitionProduceResponse,
    broker: &Broker,
    refusal: &Refusal,
) {
    answer.error_code = refusal.error;
    if exchange.version >= 8 {
        answer.error_message = refusal.message.as_deref().map(Str::from);
    }
    if let Some(leader) = refusal.leader.filter(|_| exchange.version >= 10) {
        // KIP-951: saves the client a metadata request.
        answer.current_leader = LeaderIdAndEpoch { leader_id: leader.node.0, leader_epoch: leader.epoch.0 };
        if let Some(endpoint) = broker.node_endpoint(leader.node)
            && !endpoints.iter().any(|known| known.node_id == endpoint.node_id)
        {
            endpoints.push(endpoint);
        }
    }
}
