//! One connection to one broker: versions, correlation, order.
//!
//! Invariant: responses are matched to requests by position, and a correlation id that does not fit ends the
//! connection, because nothing that follows can be trusted. The first request is ApiVersions; every other request is
//! encoded in the highest version that both sides speak.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use kauri_protocol::{
    api::ApiKey,
    error::ErrorCode,
    header::{RequestHeader, ResponseHeader},
    messages::{ApiVersionsRequest, ApiVersionsResponse, Message, Request, Response},
    schema::Versions,
    wire::{EncodeError, Reader, Str, Writer},
};

use crate::cluster::CallId;

/// Why the connection must be closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionError {
    #[error("the broker answered a request that was not sent, or in another order")]
    OutOfOrder,
    #[error("the broker's answer cannot be decoded: {0}")]
    Malformed(String),
    #[error("the broker and this client have no version of ApiVersions in common")]
    NoCommonVersion,
}

/// Why a request cannot be sent on this connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    #[error("the broker does not support {0} in a version this client speaks")]
    Unsupported(ApiKey),
    #[error("the broker's version of the request cannot express it: {0}")]
    Inexpressible(String),
}

/// See the module head.
#[derive(Debug)]
pub struct Connection {
    client_id: Str,
    next_correlation: i32,
    waiting: VecDeque<Waiting>,
    /// What both sides speak, once the handshake is over.
    versions: Option<BTreeMap<ApiKey, Versions>>,
}

#[derive(Debug)]
struct Waiting {
    correlation: i32,
    api: ApiKey,
    version: i16,
    /// `None` for the handshake.
    call: Option<CallId>,
}

/// What a frame turned out to be.
#[derive(Debug)]
pub enum Received {
    /// The handshake is over; requests can be sent.
    Ready,
    /// The broker does not know the version of ApiVersions that was tried: this is the next attempt.
    Again(Vec<Bytes>),
    Answer(CallId, Response),
}

impl Connection {
    pub fn new(client_id: Str) -> Self {
        Self { client_id, next_correlation: 0, waiting: VecDeque::new(), versions: None }
    }

    /// The first frame of the connection.
    pub fn hello(&mut self) -> Vec<Bytes> {
        self.hello_in(ApiKey::ApiVersions.api().supported.max)
    }

    fn hello_in(&mut self, version: i16) -> Vec<Bytes> {
        let request = ApiVersionsRequest {
            client_software_name: Str::from("kauri-client"),
            client_software_version: Str::from(env!("CARGO_PKG_VERSION")),
        };
        self.encode(&Request::ApiVersions(request), version, None)
            .expect("every version has these fields or ignores them")
    }

    pub fn is_ready(&self) -> bool {
        self.versions.is_some()
    }

    /// Requests sent and not answered.
    pub fn in_flight(&self) -> usize {
        self.waiting.len()
    }

    /// The call that waits for longest.
    pub fn oldest(&self) -> Option<CallId> {
        self.waiting.front().and_then(|waiting| waiting.call)
    }

    /// The highest version of an API that both sides speak.
    pub fn version(&self, api: ApiKey) -> Option<i16> {
        let theirs = self.versions.as_ref()?.get(&api)?;
        let ours = api.api().supported;
        let version = ours.max.min(theirs.max);
        (version >= ours.min && version >= theirs.min).then_some(version)
    }

    /// The frame of a request. With `expects_answer` unset (Produce without acknowledgement) the broker sends none.
    pub fn send(&mut self, call: CallId, request: &Request, expects_answer: bool) -> Result<Vec<Bytes>, SendError> {
        let api = request.api_key();
        let version = self.version(api).ok_or(SendError::Unsupported(api))?;
        let frame =
            self.encode(request, version, Some(call)).map_err(|error| SendError::Inexpressible(error.to_string()))?;
        if !expects_answer {
            self.waiting.pop_back();
        }
        Ok(frame)
    }

    fn encode(&mut self, request: &Request, version: i16, call: Option<CallId>) -> Result<Vec<Bytes>, EncodeError> {
        let api = request.api_key();
        let correlation = self.next_correlation;
        let mut writer = Writer::for_frame();
        let header = RequestHeader {
            api_key: api,
            api_version: version,
            correlation_id: correlation,
            client_id: Some(self.client_id.clone()),
        };
        header.encode(&mut writer)?;
        request.encode(&mut writer, version)?;
        let frame = writer.into_frame()?;
        self.next_correlation = correlation.wrapping_add(1);
        self.waiting.push_back(Waiting { correlation, api, version, call });
        Ok(frame)
    }

    /// Takes one frame from the broker. After an error the request it was meant for is still among the abandoned.
    pub fn receive(&mut self, frame: Bytes) -> Result<Received, ConnectionError> {
        let waiting = self.waiting.pop_front().ok_or(ConnectionError::OutOfOrder)?;
        let received = self.interpret(&waiting, frame);
        if received.is_err() {
            self.waiting.push_front(waiting);
        }
        received
    }

    fn interpret(&mut self, waiting: &Waiting, frame: Bytes) -> Result<Received, ConnectionError> {
        let mut reader = Reader::new(frame.clone());
        let malformed = |error: kauri_protocol::wire::DecodeError| ConnectionError::Malformed(error.to_string());
        let header = ResponseHeader::decode(&mut reader, waiting.api, waiting.version).map_err(malformed)?;
        if header.correlation_id != waiting.correlation {
            return Err(ConnectionError::OutOfOrder);
        }
        let Some(call) = waiting.call else {
            return self.receive_versions(reader, frame, waiting.version);
        };
        let response = Response::decode(waiting.api, &mut reader, waiting.version).map_err(malformed)?;
        Ok(Received::Answer(call, response))
    }

    fn receive_versions(
        &mut self,
        mut reader: Reader,
        frame: Bytes,
        version: i16,
    ) -> Result<Received, ConnectionError> {
        let malformed = |error: kauri_protocol::wire::DecodeError| ConnectionError::Malformed(error.to_string());
        let response = match ApiVersionsResponse::decode(&mut reader, version) {
            // A broker that does not know the version answers in version 0, which may or may not decode as ours.
            Ok(response) if response.error_code != ErrorCode::UnsupportedVersion => response,
            Ok(_) | Err(_) => {
                let mut reader = Reader::new(frame);
                ResponseHeader::decode(&mut reader, ApiKey::ApiVersions, 0).map_err(malformed)?;
                let response = ApiVersionsResponse::decode(&mut reader, 0).map_err(malformed)?;
                if response.error_code != ErrorCode::UnsupportedVersion {
                    return Err(ConnectionError::Malformed(response.error_code.to_string()));
                }
                let ours = ApiKey::ApiVersions.api().supported;
                let theirs = response.api_keys.iter().find(|range| range.api_key == i16::from(ApiKey::ApiVersions));
                let next = theirs.map_or(0, |range| range.max_version.min(ours.max));
                if next >= version || next < ours.min {
                    return Err(ConnectionError::NoCommonVersion);
                }
                return Ok(Received::Again(self.hello_in(next)));
            }
        };
        if response.error_code != ErrorCode::None {
            return Err(ConnectionError::Malformed(response.error_code.to_string()));
        }
        let versions = response.api_keys.iter().filter_map(|range| {
            let api = ApiKey::try_from(range.api_key).ok()?;
            Some((api, Versions { min: range.min_version, max: range.max_version }))
        });
        self.versions = Some(versions.collect());
        Ok(Received::Ready)
    }

    /// The calls that will not be answered any more.
    pub fn abandon(&mut self) -> impl Iterator<Item = CallId> + '_ {
        self.waiting.drain(..).filter_map(|waiting| waiting.call)
    }
}
