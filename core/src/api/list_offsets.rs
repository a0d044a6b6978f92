//! ListOffsets: where a log starts and ends, and which record is the first at or after a time.
//!
//! The end of a log is linearizable: a majority confirms that this node still leads (ReadIndex) after the request
//! came, and the answer waits until everything committed by then is applied. Searches by time wait for the same, so
//! that a record acknowledged before is always found.

use std::time::Duration;

use kauri_protocol::{
    error::ErrorCode,
    messages::{
        ListOffsetsRequest, ListOffsetsResponse,
        list_offsets::{
            EARLIEST_LOCAL_TIMESTAMP, EARLIEST_TIMESTAMP, LATEST_TIMESTAMP, ListOffsetsPartitionResponse,
            ListOffsetsTopicResponse, MAX_TIMESTAMP,
        },
    },
    wire::Str,
};

use super::{Event, Exchange, Progress, Waiter, done};
use crate::{
    broker::{
        Broker,
        reads::{Found, ReadOutcome, SearchStart, TimeQuery},
    },
    ids::{GroupId, LeaderEpoch, Offset},
    time::{Now, Wall},
};

/// The request names no time limit; this is the default of Kafka's clients for a request.
const WAIT_MAX: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Pending {
    response: ListOffsetsResponse,
    parts: Vec<Part>,
    open: usize,
}

#[derive(Debug)]
struct Part {
    topic: Str,
    topic_place: usize,
    place: usize,
    group: GroupId,
    leader_epoch: LeaderEpoch,
    timestamp: i64,
    open: bool,
}

pub(super) fn start(broker: &mut Broker, now: Now, exchange: Exchange, request: ListOffsetsRequest) -> Progress {
    let mut pending = Pending { response: ListOffsetsResponse::default(), parts: Vec::new(), open: 0 };
    for topic in request.topics {
        let topic_place = pending.response.topics.len();
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in topic.partitions {
            let mut answer =
                ListOffsetsPartitionResponse { partition_index: partition.partition_index, ..Default::default() };
            let leader_epoch = LeaderEpoch(partition.current_leader_epoch);
            let part = u32::try_from(pending.parts.len()).expect("a frame holds fewer than 2^32 partitions");
            let started = check_timestamp(exchange.version, partition.timestamp).and_then(|()| {
                let view = broker
                    .fetch_view(&topic.name, partition.partition_index, leader_epoch)
                    .map_err(|refusal| not_available(exchange.version, refusal.error))?;
                broker.confirm(view.group, Waiter { request: exchange.id, part })?;
                Ok(view.group)
            });
            match started {
                Ok(group) => {
                    pending.open += 1;
                    pending.parts.push(Part {
                        topic: topic.name.clone(),
                        topic_place,
                        place: partitions.len(),
                        group,
                        leader_epoch,
                        timestamp: partition.timestamp,
                        open: true,
                    });
                }
                Err(error) => answer.error_code = error,
            }
            partitions.push(answer);
        }
        pending.response.topics.push(ListOffsetsTopicResponse { name: topic.name, partitions });
    }
    if pending.open == 0 {
        return done(exchange, &pending.response);
    }
    broker.set_deadline(exchange.id, now.monotonic + WAIT_MAX);
    Progress::Waiting(super::Pending::ListOffsets(pending))
}

pub(super) fn resume(
    broker: &mut Broker,
    now: Now,
    exchange: Exchange,
    mut pending: Pending,
    event: Event,
) -> Progress {
    match event {
        Event::Confirmed { part, result } => match result {
            Ok(high_watermark) => pending.answer(broker, now, exchange, part, high_watermark),
            Err(error) => pending.close(part, |answer| answer.error_code = error),
        },
        Event::Read { part, outcome } => match outcome {
            ReadOutcome::Found(found) => pending.close_found(part, found),
            ReadOutcome::Failed(error) => pending.close(part, |answer| answer.error_code = error),
            ReadOutcome::Records(_) => unreachable!("a search reads to find, not to send"),
        },
        Event::Deadline => {
            for part in 0..pending.parts.len() {
                let part = u32::try_from(part).expect("counted in u32");
                pending.close(part, |answer| answer.error_code = ErrorCode::RequestTimedOut);
            }
        }
        Event::Appended { .. } | Event::Controller { .. } | Event::ProducerIds | Event::Woken => {
            unreachable!("ListOffsets waits for confirmations and reads only")
        }
    }
    if pending.open == 0 {
        return done(exchange, &pending.response);
    }
    Progress::Waiting(super::Pending::ListOffsets(pending))
}

impl Pending {
    /// Answers a part whose leader was confirmed, or starts the search it needs.
    fn answer(&mut self, broker: &mut Broker, now: Now, exchange: Exchange, part: u32, high_watermark: Offset) {
        let asked = &self.parts[part as usize];
        // Leadership may have changed between the confirmation and now: then the group fails the read, and the view
        // is refused here as well.
        let view = match broker.fetch_view_of(asked.group, asked.leader_epoch) {
            Ok(view) => view,
            Err(refusal) => {
                let error = not_available(exchange.version, refusal.error);
                return self.close(part, |answer| answer.error_code = error);
            }
        };
        let query = match asked.timestamp {
            LATEST_TIMESTAMP => {
                return self.close(part, |answer| {
                    answer.offset = high_watermark.0;
                    answer.leader_epoch = view.leader_epoch.0;
                });
            }
            EARLIEST_TIMESTAMP | EARLIEST_LOCAL_TIMESTAMP => {
                return self.close(part, |answer| {
                    answer.offset = view.log_start.0;
                    answer.leader_epoch = view.log_start_epoch.0;
                });
            }
            MAX_TIMESTAMP => TimeQuery::Max,
            timestamp => TimeQuery::AtLeast(Wall(timestamp)),
        };
        match broker.search(now, asked.group, query, Waiter { request: exchange.id, part }) {
            SearchStart::Found(found) => self.close_found(part, found),
            SearchStart::Waiting => {}
            SearchStart::Failed(error) => self.close(part, |answer| answer.error_code = error),
        }
    }

    fn close_found(&mut self, part: u32, found: Option<Found>) {
        self.close(part, |answer| {
            if let Some(found) = found {
                answer.timestamp = found.timestamp.0;
                answer.offset = found.offset.0;
                answer.leader_epoch = found.leader_epoch.0;
            }
        });
    }

    fn close(&mut self, part: u32, fill: impl FnOnce(&mut ListOffsetsPartitionResponse)) {
        let part = &mut self.parts[part as usize];
        if std::mem::take(&mut part.open) {
            self.open -= 1;
            let topic = &mut self.response.topics[part.topic_place];
            debug_assert_eq!(topic.name, part.topic);
            let answer = &mut topic.partitions[part.place];
            fill(answer);
        }
    }
}

/// Special times exist since certain versions; below them they are errors, as in Kafka.
fn check_timestamp(version: i16, timestamp: i64) -> Result<(), ErrorCode> {
    let since = match timestamp {
        MAX_TIMESTAMP => 7,
        EARLIEST_LOCAL_TIMESTAMP => 8,
        timestamp if timestamp < EARLIEST_LOCAL_TIMESTAMP => return Err(ErrorCode::UnsupportedVersion),
        _ => 1,
    };
    if version >= since { Ok(()) } else { Err(ErrorCode::UnsupportedVersion) }
}

/// A new leader that does not know its high watermark yet says so in the words the version has.
fn not_available(version: i16, error: ErrorCode) -> ErrorCode {
    if error == ErrorCode::OffsetNotAvailable && version < 5 { ErrorCode::LeaderNotAvailable } else { error }
}
