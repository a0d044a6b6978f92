//! Client connections: which requests wait, in which order answers leave, how much a client may have outstanding.
//!
//! Invariant: answers leave a connection in the order its requests came (Kafka's clients match them by position), and
//! neither unanswered requests nor unsent answers of a connection exceed their limits; a client that takes nothing of
//! its answers for too long is closed, so that what it holds is needed by others for a bounded time. What a request
//! means is not known here: [`crate::api`] answers it, now or later, by its [`RequestId`].

mod connection;
mod stalls;
mod unsent;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kauri_protocol::api::ApiKey;

pub use connection::{CloseReason, Reply};
use connection::{Connection, Needs};
use stalls::Stalls;

use crate::{
    ids::ConnectionId,
    io::{ClientSend, Effects},
    limits::{ANSWER_BYTES_MAX, ANSWER_RESERVE_BYTES, CLIENT_STALL_CROWDED_MAX, CLIENT_STALL_MAX},
    time::{Monotonic, Now},
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
    /// Memory of answers of all connections that sockets have not taken.
    held_bytes: usize,
    /// Connections that may have requests to start.
    ready: BTreeSet<ConnectionId>,
    /// Connections whose next request waits for room for what it brings.
    await_proposal_room: BTreeSet<ConnectionId>,
    /// Connections whose next request waits for room for its answer.
    await_answer_room: BTreeSet<ConnectionId>,
    /// Connections that may have answers to send or credit to return.
    touched: BTreeSet<ConnectionId>,
    stalls: Stalls,
}

impl Sessions {
    pub fn connected(&mut self, id: ConnectionId) {
        let previous = self.connections.insert(id, Connection::new(id));
        assert!(previous.is_none(), "the driver gives each connection an id of its own");
    }

    /// The next request of a connection that is about to be forgotten, whatever there is room for.
    pub fn next_request_of(&mut self, id: ConnectionId) -> Option<Request> {
        self.connections.get_mut(&id)?.start_next()
    }

    /// Forgets the connection. Requests of it that are still being worked on answer into the void.
    pub fn closed(&mut self, id: ConnectionId) {
        self.remove(id);
    }

    fn remove(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.remove(&id) {
            self.held_bytes -= connection.held_bytes();
            self.stalls.remove(id);
        }
    }

    /// Memory of answers that sockets have not taken.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    pub fn frame(&mut self, id: ConnectionId, frame: Bytes) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.receive(frame);
            self.ready.insert(id);
        }
    }

    pub fn written(&mut self, now: Now, id: ConnectionId, bytes: usize) {
        if let Some(connection) = self.connections.get_mut(&id) {
            let before = connection.held_bytes();
            connection.written(bytes);
            self.held_bytes -= before - connection.held_bytes();
            if connection.is_taken() {
                self.stalls.remove(id);
            } else {
                self.stalls.took(id, now.monotonic);
            }
            self.ready.insert(id);
        }
    }

    /// Gives the answer to a request.
    pub fn reply(&mut self, id: RequestId, reply: Reply) {
        if let Some(connection) = self.connections.get_mut(&id.connection) {
            let before = connection.held_bytes();
            connection.reply(id.sequence, reply);
            self.held_bytes += connection.held_bytes() - before;
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

    /// Whether others wait for the memory that answers hold.
    fn is_crowded(&self) -> bool {
        self.held_bytes >= ANSWER_BYTES_MAX
    }

    /// Whether there is room for one more answer.
    fn has_answer_room(&self) -> bool {
        self.held_bytes < ANSWER_BYTES_MAX + ANSWER_RESERVE_BYTES
    }

    /// The next request that may start, if any; one that brings records only if there is room for them. To be called
    /// until it returns `None`; answering in between may make room for more.
    pub fn next_request(&mut self, has_proposal_room: bool) -> Option<Request> {
        if has_proposal_room {
            self.ready.append(&mut self.await_proposal_room);
        }
        let has_answer_room = self.has_answer_room();
        if has_answer_room {
            self.ready.append(&mut self.await_answer_room);
        }
        let crowded = self.is_crowded();
        while let Some(id) = self.ready.pop_first() {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            if crowded && connection.held_bytes() > 0 {
                continue;
            }
            match connection.next_needs() {
                None => {}
                Some(Needs::ProposalRoom) if !has_proposal_room => {
                    self.await_proposal_room.insert(id);
                }
                Some(Needs::AnswerRoom) if !has_answer_room => {
                    self.await_answer_room.insert(id);
                }
                Some(Needs::ProposalRoom | Needs::AnswerRoom) => match connection.start_next() {
                    Some(request) => {
                        self.ready.insert(id);
                        return Some(request);
                    }
                    // It was found to be malformed.
                    None => {
                        self.touched.insert(id);
                    }
                },
            }
        }
        None
    }

    /// Sends what is ready and returns credit. The connections that are closed by it are named with the reason; whatever
    /// they asked after the request that closed them is not answered. They count until the driver says that they are
    /// gone, for their last answers may take long.
    pub fn flush(&mut self, now: Now, effects: &mut Effects) -> Vec<(ConnectionId, CloseReason)> {
        let mut closed = Vec::new();
        for id in std::mem::take(&mut self.touched) {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            let before = connection.held_bytes();
            let out = connection.flush();
            self.held_bytes -= before - connection.held_bytes();
            if !out.slices.is_empty() {
                self.stalls.given(id, now.monotonic);
                effects.client_sends.push(ClientSend { connection: id, slices: out.slices });
            }
            if out.credit > 0 {
                effects.client_credits.push((id, out.credit));
            }
            if let Some(reason) = out.close {
                effects.client_closes.push(id);
                closed.push((id, reason));
            } else if connection.can_start() && (connection.held_bytes() == 0 || self.held_bytes < ANSWER_BYTES_MAX) {
                // Answers that left made room.
                self.ready.insert(id);
            }
        }
        closed
    }

    /// Closes clients that have taken nothing for too long: any for [`CLIENT_STALL_MAX`], and while others wait for the
    /// memory the slowest of those that have not for [`CLIENT_STALL_CROWDED_MAX`].
    pub fn close_stalled(&mut self, now: Now, effects: &mut Effects) -> Vec<(ConnectionId, CloseReason)> {
        let mut closed = Vec::new();
        while let Some((_, id)) = self.stalls.first().filter(|_| self.stall_deadline() <= Some(now.monotonic)) {
            effects.client_aborts.push(id);
            // What it held is dropped with it.
            self.remove(id);
            closed.push((id, CloseReason::Stalled));
        }
        closed
    }

    fn stall_deadline(&self) -> Option<Monotonic> {
        let patience = if self.is_crowded() { CLIENT_STALL_CROWDED_MAX } else { CLIENT_STALL_MAX };
        self.stalls.first().map(|(since, _)| since + patience)
    }

    /// When [`Sessions::close_stalled`] has something to do.
    pub fn next_deadline(&self) -> Option<Monotonic> {
        self.stall_deadline()
    }

    /// Whether [`Sessions::next_request`] may have something.
    pub fn may_start(&self, has_proposal_room: bool) -> bool {
        !self.ready.is_empty()
            || has_proposal_room && !self.await_proposal_room.is_empty()
            || self.has_answer_room() && !self.await_answer_room.is_empty()
    }
}
