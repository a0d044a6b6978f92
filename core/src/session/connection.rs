//! One client connection.

use std::collections::VecDeque;

use bytes::Bytes;
use kauri_protocol::{
    api::ApiKey,
    header::RequestHeader,
    wire::{DecodeError, Reader},
};

use super::{Request, RequestId, unsent::Unsent};
use crate::{
    ids::ConnectionId,
    limits::{CLIENT_REQUESTS_MAX, CLIENT_UNSENT_BYTES_MAX},
};

/// Key, version and correlation id.
const HEADER_BYTES_MIN: usize = 8;

/// What a request ends with.
#[derive(Debug)]
pub enum Reply {
    /// A complete response frame, length prefix included, and how much memory its slices keep alive beside themselves.
    Frame { slices: Vec<Bytes>, beside_bytes: usize },
    /// Nothing is sent (Produce with acks=0).
    Silent,
    /// The connection is closed, after the answers of earlier requests.
    Close(CloseReason),
}

/// Why a connection is closed by us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// As Kafka does: only ApiVersions gets an answer when the key or version is not known.
    #[error("the request's API or version is not supported")]
    UnsupportedRequest,
    #[error("the request cannot be decoded")]
    Malformed,
    /// acks=0 has no answer that could carry an error.
    #[error("a produce request without acknowledgement failed")]
    SilentFailure,
    #[error("it does not take its answers")]
    Stalled,
}

impl Reply {
    /// Memory that waits for the client.
    fn held_bytes(&self) -> usize {
        match self {
            Self::Frame { slices, beside_bytes } => slices.iter().map(Bytes::len).sum::<usize>() + beside_bytes,
            Self::Silent | Self::Close(_) => 0,
        }
    }
}

/// See the module head of [`crate::session`].
#[derive(Debug)]
pub(super) struct Connection {
    id: ConnectionId,
    /// Frames that were received and not started yet. Bounded by the credit given to the driver.
    waiting: VecDeque<Bytes>,
    /// Started requests in order, the first being `first_sequence`.
    started: VecDeque<Slot>,
    first_sequence: u64,
    unsent: Unsent,
    /// The fetch under way. As in Kafka nothing that follows it starts before it is answered, so that one connection
    /// holds the records of one fetch at most.
    fetching: Option<u64>,
    /// A frame came that is too short for a header: nothing behind it is taken, for frames without bytes cost no credit.
    ended: bool,
    /// Set by the first request that closes the connection; nothing is started any more.
    closing: bool,
    closed: bool,
}

#[derive(Debug)]
struct Slot {
    frame_bytes: usize,
    reply: Option<Reply>,
}

/// What leaves a connection at the end of a turn.
#[derive(Debug, Default)]
pub(super) struct Flushed {
    pub(super) slices: Vec<Bytes>,
    /// Bytes of frames that are answered, so that the driver may deliver as many again.
    pub(super) credit: usize,
    pub(super) close: Option<CloseReason>,
}

/// What the next request needs room for before it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// Its own bytes, which wait for a log.
    ProposalRoom,
    /// Its answer.
    AnswerRoom,
}

impl Connection {
    pub(super) fn new(id: ConnectionId) -> Self {
        Self {
            id,
            waiting: VecDeque::new(),
            started: VecDeque::new(),
            first_sequence: 0,
            unsent: Unsent::default(),
            fetching: None,
            ended: false,
            closing: false,
            closed: false,
        }
    }

    pub(super) fn receive(&mut self, frame: Bytes) {
        if !self.closing && !self.ended {
            self.ended = frame.len() < HEADER_BYTES_MIN;
            self.waiting.push_back(frame);
        }
    }

    pub(super) fn written(&mut self, bytes: usize) {
        self.unsent.take(bytes);
    }

    /// Gives a request its answer. A connection that is closed takes none.
    pub(super) fn reply(&mut self, sequence: u64, reply: Reply) {
        if self.closed {
            return;
        }
        let place = sequence.checked_sub(self.first_sequence).and_then(|place| usize::try_from(place).ok());
        let slot = place.and_then(|place| self.started.get_mut(place)).expect("a request is answered while it waits");
        assert!(slot.reply.is_none(), "a request is answered once");
        self.unsent.answered(reply.held_bytes());
        match &reply {
            Reply::Frame { .. } | Reply::Silent => {}
            Reply::Close(_) => {
                self.closing = true;
                self.waiting.clear();
            }
        }
        slot.reply = Some(reply);
        if self.fetching == Some(sequence) {
            self.fetching = None;
        }
    }

    /// Memory of answers that wait for earlier ones or for the socket.
    pub(super) fn held_bytes(&self) -> usize {
        self.unsent.held_bytes()
    }

    /// Whether the socket has taken everything that the driver has.
    pub(super) fn is_taken(&self) -> bool {
        self.unsent.is_taken()
    }

    /// What the next request needs; `None` if none may start.
    pub(super) fn next_needs(&self) -> Option<Needs> {
        let frame = self.waiting.front().filter(|_| self.can_start())?;
        let is_produce = frame.first_chunk() == Some(&i16::from(ApiKey::Produce).to_be_bytes());
        Some(if is_produce { Needs::ProposalRoom } else { Needs::AnswerRoom })
    }

    /// Whether a request waits that may start.
    pub(super) fn can_start(&self) -> bool {
        !self.waiting.is_empty()
            && !self.closing
            && self.fetching.is_none()
            && self.started.len() < CLIENT_REQUESTS_MAX
            && self.unsent.held_bytes() < CLIENT_UNSENT_BYTES_MAX
    }

    pub(super) fn start_next(&mut self) -> Option<Request> {
        if !self.can_start() {
            return None;
        }
        let frame = self.waiting.pop_front()?;
        let id = RequestId { connection: self.id, sequence: self.first_sequence + self.started.len() as u64 };
        let frame_bytes = frame.len();
        match parse(id, frame) {
            Ok(request) => {
                self.started.push_back(Slot { frame_bytes, reply: None });
                if request.api == ApiKey::Fetch {
                    self.fetching = Some(id.sequence);
                }
                Some(request)
            }
            Err(reason) => {
                self.started.push_back(Slot { frame_bytes, reply: Some(Reply::Close(reason)) });
                self.closing = true;
                self.waiting.clear();
                None
            }
        }
    }

    pub(super) fn flush(&mut self) -> Flushed {
        let mut out = Flushed::default();
        while !self.closed && self.started.front().is_some_and(|slot| slot.reply.is_some()) {
            let slot = self.started.pop_front().expect("it was just looked at");
            self.first_sequence += 1;
            out.credit += slot.frame_bytes;
            let reply = slot.reply.expect("it was just looked at");
            let held_bytes = reply.held_bytes();
            match reply {
                Reply::Frame { slices, .. } => {
                    self.unsent.give(slices.iter().map(Bytes::len).sum(), held_bytes);
                    out.slices.extend(slices);
                }
                Reply::Silent => {}
                Reply::Close(reason) => {
                    self.close();
                    out.close = Some(reason);
                }
            }
        }
        out
    }

    /// Nothing more is taken or sent. What the driver has counts until the socket has taken it.
    fn close(&mut self) {
        self.closed = true;
        for slot in self.started.drain(..) {
            self.unsent.dropped(slot.reply.map_or(0, |reply| reply.held_bytes()));
        }
    }
}

/// Reads the header of a request: everything that is needed to route it.
fn parse(id: RequestId, frame: Bytes) -> Result<Request, CloseReason> {
    let mut reader = Reader::new(frame);
    let header = RequestHeader::decode(&mut reader).map_err(|error| match error {
        DecodeError::UnknownApiKey { .. } | DecodeError::UnsupportedVersion { .. } => CloseReason::UnsupportedRequest,
        _ => CloseReason::Malformed,
    })?;
    Ok(Request {
        id,
        api: header.api_key,
        version: header.api_version,
        correlation: header.correlation_id,
        unknown_version: !header.version_is_supported(),
        client: header.client_id,
        body: reader,
    })
}

#[cfg(test)]
mod tests {
    use kauri_protocol::{api::ApiKey, wire::Writer};

    use super::*;

    fn metadata_frame(correlation: i32) -> Bytes {
        let mut writer = Writer::new();
        let header =
            RequestHeader { api_key: ApiKey::Metadata, api_version: 1, correlation_id: correlation, client_id: None };
        header.encode(&mut writer).unwrap();
        writer.put_i32(0);
        writer.into_bytes()
    }

    fn frame(bytes: &'static [u8]) -> Reply {
        Reply::Frame { slices: vec![Bytes::from_static(bytes)], beside_bytes: 0 }
    }

    #[test]
    fn answers_leave_in_the_order_of_requests() {
        let mut connection = Connection::new(ConnectionId(1));
        let length = metadata_frame(0).len();
        for correlation in 0..3 {
            connection.receive(metadata_frame(correlation));
        }
        let ids: Vec<u64> = std::iter::from_fn(|| connection.start_next()).map(|request| request.id.sequence).collect();
        assert_eq!(ids, [0, 1, 2]);
        connection.reply(2, frame(b"third"));
        assert!(connection.flush().slices.is_empty(), "earlier requests are still open");
        connection.reply(0, frame(b"first"));
        let out = connection.flush();
        assert_eq!(out.slices, [Bytes::from_static(b"first")]);
        assert_eq!(out.credit, length);
        connection.reply(1, Reply::Silent);
        let out = connection.flush();
        assert_eq!(out.slices, [Bytes::from_static(b"third")]);
        assert_eq!(out.credit, 2 * length);
    }

    #[test]
    fn a_client_that_does_not_read_starts_no_more_requests() {
        let mut connection = Connection::new(ConnectionId(1));
        connection.receive(metadata_frame(0));
        connection.receive(metadata_frame(1));
        let first = connection.start_next().unwrap();
        // Six bytes that keep much more alive, as a small batch that is a part of a large read does.
        let reply = Reply::Frame { slices: vec![Bytes::from_static(b"answer")], beside_bytes: CLIENT_UNSENT_BYTES_MAX };
        connection.reply(first.id.sequence, reply);
        assert!(connection.start_next().is_none());
        connection.flush();
        connection.written(5);
        assert!(connection.start_next().is_none());
        connection.written(1);
        assert!(connection.start_next().is_some());
    }

    #[test]
    fn answers_that_leave_without_bytes_make_room_for_requests() {
        let mut connection = Connection::new(ConnectionId(1));
        (0..=CLIENT_REQUESTS_MAX).for_each(|at| connection.receive(metadata_frame(at as i32)));
        let started = std::iter::from_fn(|| connection.start_next()).count();
        assert_eq!(started, CLIENT_REQUESTS_MAX);
        connection.reply(0, Reply::Silent);
        assert!(!connection.can_start());
        connection.flush();
        assert!(connection.can_start(), "no byte has to be written before");
    }

    #[test]
    fn nothing_behind_a_frame_without_a_header_is_kept() {
        let mut connection = Connection::new(ConnectionId(1));
        (0..1000).for_each(|_| connection.receive(Bytes::new()));
        assert_eq!(connection.waiting.len(), 1);
        assert!(connection.start_next().is_none());
        assert_eq!(connection.flush().close, Some(CloseReason::Malformed));
    }

    #[test]
    fn a_closed_connection_counts_what_its_socket_has_not_taken_and_nothing_else() {
        let mut connection = Connection::new(ConnectionId(1));
        (0..3).for_each(|correlation| connection.receive(metadata_frame(correlation)));
        while connection.start_next().is_some() {}
        connection.reply(0, frame(b"first"));
        connection.reply(2, frame(b"never sent"));
        connection.reply(1, Reply::Close(CloseReason::SilentFailure));
        assert_eq!(connection.flush().close, Some(CloseReason::SilentFailure));
        assert_eq!(connection.held_bytes(), b"first".len());
        connection.written(b"first".len());
        assert!(connection.held_bytes() == 0 && connection.is_taken());
    }

    #[test]
    fn an_unknown_request_closes_after_earlier_answers() {
        let mut connection = Connection::new(ConnectionId(1));
        connection.receive(metadata_frame(0));
        connection.receive(Bytes::from_static(&[0x7f, 0xff, 0, 0, 0, 0, 0, 1, 0xff, 0xff]));
        connection.receive(metadata_frame(2));
        let first = connection.start_next().unwrap();
        assert!(connection.start_next().is_none());
        assert_eq!(connection.flush().close, None, "the first request is not answered yet");
        connection.reply(first.id.sequence, frame(b"first"));
        let out = connection.flush();
        assert_eq!(out.slices, [Bytes::from_static(b"first")]);
        assert_eq!(out.close, Some(CloseReason::UnsupportedRequest));
    }
}
