//! Client connections: which requests wait, in which order answers leave, how much a client may have outstanding.
//!
//! Invariant: answers leave a connection in the order its requests came (Kafka's clients match them by position), and
//! neither unanswered requests nor unsent answers of a connection exceed their limits. What a request means is not
//! known here: [`crate::api`] answers it, now or later, by its [`RequestId`].

mod connection;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kauri_protocol::api::ApiKey;

use connection::Connection;
pub use connection::{CloseReason, Reply};

use crate::{
    ids::ConnectionId,
    io::{ClientSend, Effects},
    limits::ANSWER_BYTES_MAX,
};

/// One request of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId {
    pub connection: ConnectionId,
    /// Counted from zero per connection.
    pub sequence: u64,
}

/// A request whose header was understood; `body` starts behind the header.
#[derive(Debug)]
pub struct Request {
    pub id: RequestId,
    pub api: ApiKey,
    pub version: i16,
    pub correlation: i32,
    pub client: Option<kauri_protocol::wire::Str>,
    /// ApiVersions of a version that is not supported: answered in version 0 (KIP-511); the body is not read.
    pub unknown_version: bool,
    pub body: kauri_protocol::wire::Reader,
}

/// All client connections of a shard.
#[derive(Debug, Default)]
pub struct Sessions {
    connections: BTreeMap<ConnectionId, Connection>,
    /// Bytes of answers of all connections that sockets have not taken.
    unsent_bytes: usize,
    /// Connections that may have requests to start.
    ready: BTreeSet<ConnectionId>,
    /// Connections that may have answers to send or credit to return.
    touched: BTreeSet<ConnectionId>,
}

impl Sessions {
    pub fn connected(&mut self, id: ConnectionId) {
        let previous = self.connections.insert(id, Connection::new(id));
        assert!(previous.is_none(), "the driver gives each connection an id of its own");
    }

    /// The next request of a connection that is about to be forgotten.
    pub fn next_request_of(&mut self, id: ConnectionId) -> Option<Request> {
        self.connections.get_mut(&id)?.start_next()
    }

    /// Forgets the connection. Requests of it that are still being worked on answer into the void.
    pub fn closed(&mut self, id: ConnectionId) {
        self.remove(id);
    }

    fn remove(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.remove(&id) {
            self.unsent_bytes -= connection.unsent_bytes();
        }
    }

    /// Bytes of answers that sockets have not taken.
    pub fn unsent_bytes(&self) -> usize {
        self.unsent_bytes
    }

    pub fn frame(&mut self, id: ConnectionId, frame: Bytes) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.receive(frame);
            self.ready.insert(id);
        }
    }

    pub fn written(&mut self, id: ConnectionId, bytes: usize) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.written(bytes);
            self.unsent_bytes -= bytes;
            self.ready.insert(id);
        }
    }

    /// Gives the answer to a request.
    pub fn reply(&mut self, id: RequestId, reply: Reply) {
        if let Some(connection) = self.connections.get_mut(&id.connection) {
            let before = connection.unsent_bytes();
            connection.reply(id.sequence, reply);
            self.unsent_bytes += connection.unsent_bytes() - before;
            self.ready.insert(id.connection);
            self.touched.insert(id.connection);
        }
    }

    pub fn is_open(&self, id: ConnectionId) -> bool {
        self.connections.contains_key(&id)
    }

    pub fn len(&self) -> usize {
        self.connections.len()
    }

    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// The next request that may start, if any. To be called until it returns `None`; answering in between may make
    /// room for more.
    pub fn next_request(&mut self) -> Option<Request> {
        while let Some(id) = self.ready.first().copied() {
            let crowded = self.unsent_bytes >= ANSWER_BYTES_MAX;
            let connection =
                self.connections.get_mut(&id).filter(|connection| !crowded || connection.unsent_bytes() == 0);
            if let Some(request) = connection.and_then(Connection::start_next) {
                return Some(request);
            }
            self.ready.remove(&id);
            // It may have been found to be malformed.
            self.touched.insert(id);
        }
        None
    }

    /// Sends what is ready and returns credit. The connections that are closed by it are forgotten; whatever they
    /// asked after the request that closed them is not answered.
    pub fn flush(&mut self, effects: &mut Effects) -> Vec<ConnectionId> {
        let mut closed = Vec::new();
        for id in std::mem::take(&mut self.touched) {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            let out = connection.flush();
            if !out.slices.is_empty() {
                effects.client_sends.push(ClientSend { connection: id, slices: out.slices });
            }
            if out.credit > 0 {
                effects.client_credits.push((id, out.credit));
            }
            if out.close {
                effects.client_closes.push(id);
                self.remove(id);
                closed.push(id);
            } else if connection.can_start() && (connection.unsent_bytes() == 0 || self.unsent_bytes < ANSWER_BYTES_MAX)
            {
                // Answers that left made room.
                self.ready.insert(id);
            }
        }
        closed
    }

    /// Whether [`Sessions::next_request`] may have something.
    pub fn may_start(&self) -> bool {
        !self.ready.is_empty()
    }
}
