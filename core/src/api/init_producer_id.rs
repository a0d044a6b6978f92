//! InitProducerId: a producer id nobody had before (KIP-98). Epoch bumps of idempotent producers (KIP-360) get a new
//! id too, as in Kafka: without a transactional id nothing needs fencing.

use std::time::Duration;

use kauri_protocol::{
    error::ErrorCode,
    messages::{InitProducerIdRequest, InitProducerIdResponse},
};

use super::{Event, Exchange, Progress, done};
use crate::{broker::Broker, ids::ProducerId, time::Now};

/// Ids come in blocks from the metadata group; a client that finds the block empty waits this long for the next.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Waits for the next block of ids.
#[derive(Debug)]
pub struct Pending;

pub(super) fn start(broker: &mut Broker, now: Now, exchange: Exchange, request: InitProducerIdRequest) -> Progress {
    if request.transactional_id.is_some() {
        // Of all codes this is the one that every client treats as fatal at once.
        return refuse(exchange, ErrorCode::TransactionalIdAuthorizationFailed);
    }
    match broker.take_producer_id() {
        Some(id) => accept(exchange, id),
        None => {
            broker.wait_for_producer_ids(exchange.id);
            broker.set_deadline(exchange.id, now.monotonic + WAIT_MAX);
            Progress::Waiting(super::Pending::InitProducerId(Pending))
        }
    }
}

pub(super) fn resume(broker: &mut Broker, exchange: Exchange, pending: Pending, event: Event) -> Progress {
    match event {
        Event::ProducerIds => match broker.take_producer_id() {
            Some(id) => accept(exchange, id),
            None => {
                broker.wait_for_producer_ids(exchange.id);
                Progress::Waiting(super::Pending::InitProducerId(pending))
            }
        },
        Event::Deadline => refuse(exchange, ErrorCode::CoordinatorNotAvailable),
        Event::Appended { .. }
        | Event::Confirmed { .. }
        | Event::Read { .. }
        | Event::Controller { .. }
        | Event::Woken => unreachable!("InitProducerId waits for producer ids only"),
    }
}

fn accept(exchange: Exchange, id: ProducerId) -> Progress {
    done(exchange, &InitProducerIdResponse { producer_id: id.0, producer_epoch: 0, ..Default::default() })
}

fn refuse(exchange: Exchange, error_code: ErrorCode) -> Progress {
    done(exchange, &InitProducerIdResponse { error_code, producer_id: -1, producer_epoch: -1, ..Default::default() })
}
