//! Kafka's APIs, one file each: what a request means, and the answer.
//!
//! Invariant: every started request ends in exactly one [`Reply`]. A handler either answers at once or leaves a
//! [`Pending`] that says what it still waits for; it is resumed with an [`Event`] for each. Handlers decide nothing
//! that must survive: that is proposed through the [`Broker`] and decided when it is applied.
//!
//! This is the one place where an API key meets its handler ([`start`]); keys and versions are in
//! [`kauri_protocol::api`].

mod api_versions;
mod create_topics;
mod delete_topics;
mod describe_cluster;
mod describe_configs;
mod fetch;
mod find_coordinator;
mod init_producer_id;
mod list_offsets;
mod metadata;
mod produce;

use kauri_protocol::{
    api::ApiKey,
    error::ErrorCode,
    header::ResponseHeader,
    messages::Message,
    wire::{Reader, Writer},
};

pub use fetch::FetchSessions;

use crate::{
    broker::{
        Broker,
        controller::{ControllerError, ControllerOutcome},
        reads::ReadOutcome,
    },
    ids::Offset,
    partition::AppendOutcome,
    session::{CloseReason, Reply, Request, RequestId},
    time::Now,
};

/// A request that is being answered: all that its response frame needs besides the body.
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    pub id: RequestId,
    pub api: ApiKey,
    pub version: i16,
    pub correlation: i32,
    /// Of the whole request, whose slices its fields are.
    pub frame_bytes: usize,
}

/// One part of a request that waits, for example one partition of a produce request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Waiter {
    pub request: RequestId,
    pub part: u32,
}

/// Where a handler stands.
#[derive(Debug)]
pub enum Progress {
    Done(Reply),
    Waiting(Pending),
}

/// What a request that is not answered yet waits for.
#[derive(Debug)]
pub enum Pending {
    CreateTopics(create_topics::Pending),
    DeleteTopics(delete_topics::Pending),
    Fetch(Box<fetch::Pending>),
    InitProducerId(init_producer_id::Pending),
    ListOffsets(list_offsets::Pending),
    Metadata(metadata::Pending),
    Produce(produce::Pending),
}

/// Something a pending request waited for.
#[derive(Debug)]
pub enum Event {
    /// A proposed batch was applied, or will not be as far as this node knows.
    Appended { part: u32, outcome: Result<AppendOutcome, ErrorCode> },
    /// The partition's high watermark, read after a majority confirmed the leader (ReadIndex).
    Confirmed { part: u32, result: Result<Offset, ErrorCode> },
    /// Bytes came from the disk.
    Read { part: u32, outcome: ReadOutcome },
    /// The metadata group's leader answered, and this node's image shows what it answered.
    Controller { part: u32, outcome: Result<ControllerOutcome, ControllerError> },
    /// Producer ids arrived.
    ProducerIds,
    /// The high watermark of a partition it waits for has moved, or the partition is led elsewhere now.
    Woken,
    /// The time the client gave is over.
    Deadline,
}

/// What an answer needs to know of a request whose body is not read yet.
pub(crate) fn exchange(request: &Request) -> Exchange {
    Exchange {
        id: request.id,
        api: request.api,
        version: request.version,
        correlation: request.correlation,
        frame_bytes: request.body.position() + request.body.remaining(),
    }
}

/// Starts a request.
pub(crate) fn start(broker: &mut Broker, now: Now, mut request: Request) -> Progress {
    let exchange = exchange(&request);
    if request.unknown_version {
        return Progress::Done(api_versions::unsupported(exchange));
    }
    let body = &mut request.body;
    let started = match request.api {
        ApiKey::ApiVersions => decode(body, exchange).map(|body| api_versions::start(exchange, body)),
        ApiKey::CreateTopics => decode(body, exchange).map(|body| create_topics::start(broker, now, exchange, body)),
        ApiKey::DeleteTopics => decode(body, exchange).map(|body| delete_topics::start(broker, now, exchange, body)),
        ApiKey::DescribeCluster => decode(body, exchange).map(|body| describe_cluster::start(broker, exchange, body)),
        ApiKey::DescribeConfigs => decode(body, exchange).map(|body| describe_configs::start(broker, exchange, body)),
        ApiKey::Fetch => decode(body, exchange).map(|body| fetch::start(broker, now, exchange, body)),
        ApiKey::FindCoordinator => decode(body, exchange).map(|body| find_coordinator::start(exchange, body)),
        ApiKey::InitProducerId => {
            decode(body, exchange).map(|body| init_producer_id::start(broker, now, exchange, body))
        }
        ApiKey::ListOffsets => decode(body, exchange).map(|body| list_offsets::start(broker, now, exchange, body)),
        ApiKey::Metadata => decode(body, exchange).map(|body| metadata::start(broker, now, exchange, body)),
        ApiKey::Produce => decode(body, exchange).map(|body| produce::start(broker, now, exchange, body)),
    };
    started.unwrap_or_else(|reason| Progress::Done(Reply::Close(reason)))
}

/// Goes on with a request that waited.
pub(crate) fn resume(broker: &mut Broker, now: Now, exchange: Exchange, pending: Pending, event: Event) -> Progress {
    match pending {
        Pending::CreateTopics(pending) => create_topics::resume(broker, now, exchange, pending, event),
        Pending::DeleteTopics(pending) => delete_topics::resume(exchange, pending, event),
        Pending::Fetch(pending) => fetch::resume(broker, now, exchange, pending, event),
        Pending::InitProducerId(pending) => init_producer_id::resume(broker, exchange, pending, event),
        Pending::ListOffsets(pending) => list_offsets::resume(broker, now, exchange, pending, event),
        Pending::Metadata(pending) => metadata::resume(broker, exchange, pending, event),
        Pending::Produce(pending) => produce::resume(broker, exchange, pending, event),
    }
}

/// Bytes behind the end of a request are ignored, as Kafka does: librdkafka sends three when it asks for all topics.
fn decode<M: Message>(body: &mut Reader, exchange: Exchange) -> Result<M, CloseReason> {
    M::decode(body, exchange.version).map_err(|_| CloseReason::Malformed)
}

/// The frame that answers `exchange`.
fn respond<M: Message>(exchange: Exchange, body: &M) -> Reply {
    respond_in_version(exchange, body, exchange.version)
}

/// Its records keep `beside_bytes` alive that they are not made of.
fn respond_with_records<M: Message>(exchange: Exchange, body: &M, beside_bytes: usize) -> Reply {
    match respond(exchange, body) {
        Reply::Frame { slices, beside_bytes: own } => Reply::Frame { slices, beside_bytes: own + beside_bytes },
        reply @ (Reply::Silent | Reply::Close(_)) => reply,
    }
}

fn respond_in_version<M: Message>(exchange: Exchange, body: &M, version: i16) -> Reply {
    let mut writer = Writer::for_frame();
    ResponseHeader { correlation_id: exchange.correlation }.encode(&mut writer, exchange.api, version);
    body.encode(&mut writer, version).expect("a handler fills only what the version has");
    let slices = writer.into_frame().expect("answers are bounded far below 2 GiB");
    Reply::Frame { slices, beside_bytes: 0 }
}

fn done<M: Message>(exchange: Exchange, body: &M) -> Progress {
    Progress::Done(respond(exchange, body))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kauri_protocol::messages::MetadataRequest;

    use super::*;
    use crate::ids::ConnectionId;

    #[test]
    fn librdkafka_may_ask_for_all_topics() {
        // The body of Metadata 12 as librdkafka 2.16 sends it: room for a wider count is left behind the fields.
        let mut body = Reader::new(Bytes::from_static(&[0, 0, 0, 0, 1, 0, 0]));
        let id = RequestId { connection: ConnectionId(1), sequence: 0 };
        let exchange = Exchange { id, api: ApiKey::Metadata, version: 12, correlation: 3, frame_bytes: 7 };
        let request: MetadataRequest = decode(&mut body, exchange).unwrap();
        assert_eq!(request.topics, None);
    }
}
