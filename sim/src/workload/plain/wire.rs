//! The connections of one client, and the requests that wait on them for their answers.
//!
//! Invariant: every request ends exactly once, with its answer or lost; a lost request may have been carried out.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use kauri_protocol::{Message, Reader, RequestMessage, ResponseHeader, Str, api::ApiKey, header::request_frame};

use crate::{
    client::{ClientEffects, ClientInput, ClientSocket, host},
    time::{Instant, Span},
};

/// What became of a request, which the client remembers as `what`.
#[derive(Debug)]
pub(super) enum Heard<T> {
    /// The body of the answer.
    Answer { what: T, version: i16, body: Reader },
    /// The connection ended first.
    Lost { what: T },
}

#[derive(Debug)]
pub(super) struct Wire<T> {
    name: Str,
    patience: Span,
    next_socket: u64,
    next_correlation: i32,
    connections: BTreeMap<usize, Connection<T>>,
    dials: Vec<(ClientSocket, String)>,
    sends: Vec<(ClientSocket, Vec<Bytes>)>,
    closes: Vec<ClientSocket>,
}

#[derive(Debug)]
struct Connection<T> {
    socket: ClientSocket,
    is_up: bool,
    unsent: Vec<Bytes>,
    pending: VecDeque<Pending<T>>,
}

#[derive(Debug)]
struct Pending<T> {
    correlation: i32,
    api: ApiKey,
    version: i16,
    deadline: Instant,
    what: T,
}

impl<T> Wire<T> {
    pub(super) fn new(name: &str, patience: Span) -> Self {
        Self {
            name: Str::from(name.to_owned()),
            patience,
            next_socket: 0,
            next_correlation: 0,
            connections: BTreeMap::new(),
            dials: Vec::new(),
            sends: Vec::new(),
            closes: Vec::new(),
        }
    }

    /// Sends a request to a node, over a new connection if there is none.
    pub(super) fn request<M: RequestMessage>(&mut self, now: Instant, node: usize, request: &M, version: i16, what: T) {
        let connection = self.connections.entry(node).or_insert_with(|| {
            let socket = ClientSocket(self.next_socket);
            self.next_socket += 1;
            self.dials.push((socket, host(node)));
            Connection { socket, is_up: false, unsent: Vec::new(), pending: VecDeque::new() }
        });
        let correlation = self.next_correlation;
        self.next_correlation += 1;
        let frame = request_frame(request, version, correlation, Some(self.name.clone()))
            .expect("clients send what the version has");
        if connection.is_up {
            self.sends.push((connection.socket, frame));
        } else {
            connection.unsent.extend(frame);
        }
        let deadline = now + self.patience;
        connection.pending.push_back(Pending { correlation, api: M::API.key, version, deadline, what });
    }

    /// Takes an input; what it ends goes to `heard`. An answer that breaks the protocol is an error.
    pub(super) fn handle(&mut self, input: ClientInput, heard: &mut Vec<Heard<T>>) -> Result<(), String> {
        match input {
            ClientInput::Connected { socket } => {
                if let Some((_, connection)) = self.find(socket) {
                    connection.is_up = true;
                    let unsent = std::mem::take(&mut connection.unsent);
                    self.sends.push((socket, unsent));
                }
                Ok(())
            }
            ClientInput::Frame { socket, frame } => {
                let Some((_, connection)) = self.find(socket) else { return Ok(()) };
                let pending = connection.pending.pop_front().ok_or("an answer came that nobody asked for")?;
                let mut body = Reader::new(frame);
                let header = ResponseHeader::decode(&mut body, pending.api, pending.version)
                    .map_err(|error| format!("the header of an answer to {} is malformed: {error}", pending.api))?;
                if header.correlation_id != pending.correlation {
                    return Err(format!("request {} was answered as {}", pending.correlation, header.correlation_id));
                }
                heard.push(Heard::Answer { what: pending.what, version: pending.version, body });
                Ok(())
            }
            ClientInput::Down { socket } => {
                if let Some((node, _)) = self.find(socket) {
                    self.lose(node, heard);
                }
                Ok(())
            }
            ClientInput::Heal => Ok(()),
        }
    }

    /// Closes connections on which an answer is overdue.
    pub(super) fn give_up(&mut self, now: Instant, heard: &mut Vec<Heard<T>>) {
        let overdue: Vec<usize> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.pending.front().is_some_and(|pending| pending.deadline <= now))
            .map(|(node, _)| *node)
            .collect();
        for node in overdue {
            self.closes.push(self.connections[&node].socket);
            self.lose(node, heard);
        }
    }

    /// Closes every connection, as a process that ends does.
    pub(super) fn close_all(&mut self, heard: &mut Vec<Heard<T>>) {
        let nodes: Vec<usize> = self.connections.keys().copied().collect();
        for node in nodes {
            self.closes.push(self.connections[&node].socket);
            self.lose(node, heard);
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.connections.values().filter_map(|connection| Some(connection.pending.front()?.deadline)).min()
    }

    pub(super) fn poll(&mut self, effects: &mut ClientEffects) {
        effects.dials.append(&mut self.dials);
        effects.sends.append(&mut self.sends);
        effects.closes.append(&mut self.closes);
    }

    fn lose(&mut self, node: usize, heard: &mut Vec<Heard<T>>) {
        let connection = self.connections.remove(&node).expect("found");
        heard.extend(connection.pending.into_iter().map(|pending| Heard::Lost { what: pending.what }));
    }

    fn find(&mut self, socket: ClientSocket) -> Option<(usize, &mut Connection<T>)> {
        self.connections
            .iter_mut()
            .find(|(_, connection)| connection.socket == socket)
            .map(|(node, connection)| (*node, connection))
    }
}

/// Reads the whole body of an answer.
pub(super) fn read<M: Message>(body: &mut Reader, version: i16) -> Result<M, String> {
    let answer =
        M::decode(body, version).map_err(|error| format!("an answer to {} is malformed: {error}", M::API.name))?;
    body.finish().map_err(|error| format!("an answer to {} is malformed: {error}", M::API.name))?;
    Ok(answer)
}
