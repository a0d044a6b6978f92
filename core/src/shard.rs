//! A shard: the one thing a driver talks to. Routes inputs to where they belong; decides nothing.
//!
//! Contract with the driver: any number of [`Shard::handle`], then one [`Shard::poll`], whose effects are carried out;
//! then wait for inputs, but not past [`Shard::next_deadline`]. After [`crate::io::Effects::exit`] the shard is over.

use std::collections::BTreeMap;

use kauri_protocol::api::ApiKey;
use slog::Logger;

use crate::{
    api::{self, Event, Exchange, Pending, Progress},
    broker::{Broker, Depth, Inspection},
    config::NodeConfig,
    ids::{ConnectionId, LinkId, OperationId},
    io::{DiskError, DiskOutput, Effects, Exit, Input},
    metadata::MetadataImage,
    session::{Reply, RequestId, Sessions},
    startup::Startup,
    time::{Monotonic, Now, earliest},
};

/// See the module head.
pub struct Shard {
    phase: Phase,
    sessions: Sessions,
    requests: BTreeMap<RequestId, (Exchange, Pending)>,
    /// Links that peers opened before this node can listen to them; they try again.
    too_early: Vec<LinkId>,
}

enum Phase {
    Starting(Box<Startup>),
    Running(Box<Broker>),
    Over(Exit),
}

impl Shard {
    /// A node that starts from whatever its data directory holds. Polling it reads the directory first.
    pub fn new(config: NodeConfig, logger: Logger) -> Self {
        Self {
            phase: Phase::Starting(Box::new(Startup::new(config, logger))),
            sessions: Sessions::default(),
            requests: BTreeMap::new(),
            too_early: Vec::new(),
        }
    }

    pub fn handle(&mut self, now: Now, input: Input) {
        match input {
            Input::ClientConnected { connection } => self.sessions.connected(connection),
            Input::ClientFrame { connection, frame } => {
                if let Phase::Running(broker) = &mut self.phase {
                    broker.watch_frame(&frame);
                }
                self.sessions.frame(connection, frame);
            }
            Input::ClientWritten { connection, bytes } => self.sessions.written(now, connection, bytes),
            Input::ClientClosed { connection } => self.client_closed(now, connection),
            Input::Disk { operation, result } => self.disk(now, operation, result),
            Input::LinkUp { .. }
            | Input::LinkAccepted { .. }
            | Input::LinkFrame { .. }
            | Input::LinkWritten { .. }
            | Input::LinkDown { .. }
            | Input::Shutdown => match &mut self.phase {
                Phase::Running(broker) => broker.handle(now, input),
                Phase::Starting(_) => {
                    if let Input::Shutdown = input {
                        self.phase = Phase::Over(Exit::Stopped);
                    } else if let Input::LinkAccepted { link } = input {
                        self.too_early.push(link);
                    }
                }
                Phase::Over(_) => {}
            },
        }
    }

    fn disk(&mut self, now: Now, operation: OperationId, result: Result<DiskOutput, DiskError>) {
        match &mut self.phase {
            Phase::Running(broker) => broker.handle(now, Input::Disk { operation, result }),
            Phase::Starting(startup) => {
                if let Err(exit) = startup.handle(now, operation, result) {
                    self.phase = Phase::Over(exit);
                }
            }
            Phase::Over(_) => {}
        }
    }

    fn client_closed(&mut self, now: Now, connection: ConnectionId) {
        if let Phase::Running(broker) = &mut self.phase {
            // What it wrote without wanting an answer arrived before it left: often in the very turn that it leaves in.
            while let Some(request) = self.sessions.next_request_of(connection) {
                let id = request.id;
                if request.api == ApiKey::Produce {
                    // Nobody is left to be told what becomes of it.
                    drop(api::start(broker, now, request));
                    broker.abandon(id);
                }
                self.sessions.reply(id, Reply::Silent);
            }
        }
        self.sessions.closed(connection);
        if let Phase::Running(broker) = &mut self.phase {
            forget(&mut self.requests, broker, connection);
        }
    }

    /// Carries on with everything the inputs made possible. Must be called after any number of [`Shard::handle`], and
    /// when [`Shard::next_deadline`] has come.
    pub fn poll(&mut self, now: Now, effects: &mut Effects) {
        if let Phase::Starting(startup) = &mut self.phase {
            match startup.poll(now, effects) {
                Ok(None) => {
                    effects.peer_closes.append(&mut self.too_early);
                    return;
                }
                Ok(Some(start)) => {
                    effects.peer_closes.append(&mut self.too_early);
                    self.phase = match Broker::new(now, start) {
                        Ok(broker) => Phase::Running(Box::new(broker)),
                        Err(exit) => Phase::Over(exit),
                    };
                }
                Err(exit) => self.phase = Phase::Over(exit),
            }
        }
        match &mut self.phase {
            Phase::Over(exit) => effects.exit = Some(exit.clone()),
            Phase::Starting(_) => unreachable!("a start that goes on has returned"),
            Phase::Running(_) => self.run(now, effects),
        }
    }

    /// Requests and what they wait for take turns until nothing moves; then everything leaves at once.
    fn run(&mut self, now: Now, effects: &mut Effects) {
        let Phase::Running(broker) = &mut self.phase else { unreachable!("the caller looked") };
        for (connection, reason) in self.sessions.close_stalled(now, effects) {
            broker.client_closed(connection, reason);
            forget(&mut self.requests, broker, connection);
        }
        broker.advance(now, effects);
        loop {
            let mut moved = false;
            broker.set_unsent(self.sessions.held_bytes());
            while let Some((request, event)) = broker.next_event() {
                moved = true;
                broker.set_unsent(self.sessions.held_bytes());
                resume(&mut self.requests, &mut self.sessions, broker, now, request, event);
            }
            while broker.takes_requests()
                && let Some(request) = self.sessions.next_request(broker.has_proposal_room())
            {
                moved = true;
                broker.set_unsent(self.sessions.held_bytes());
                let id = request.id;
                let exchange = api::exchange(&request);
                match api::start(broker, now, request) {
                    Progress::Done(reply) => {
                        broker.forget(id);
                        self.sessions.reply(id, reply);
                    }
                    Progress::Waiting(pending) => {
                        self.requests.insert(id, (exchange, pending));
                    }
                }
            }
            for (connection, reason) in self.sessions.flush(now, effects) {
                broker.client_closed(connection, reason);
                forget(&mut self.requests, broker, connection);
            }
            let may_start = broker.takes_requests() && self.sessions.may_start(broker.has_proposal_room());
            if !moved && !may_start {
                break;
            }
            broker.advance(now, effects);
        }
        broker.finish(now, effects);
    }

    /// When [`Shard::poll`] has to be called if no input comes before.
    pub fn next_deadline(&self) -> Option<Monotonic> {
        match &self.phase {
            Phase::Starting(startup) => startup.next_deadline(),
            Phase::Running(broker) => earliest(broker.next_deadline(), self.sessions.next_deadline()),
            Phase::Over(_) => None,
        }
    }

    /// What this node is and has, for checks and tools; `None` unless it runs.
    pub fn inspect(&self, depth: Depth) -> Option<Inspection> {
        match &self.phase {
            Phase::Running(broker) => Some(broker.inspect(depth, self.requests.len())),
            Phase::Starting(_) | Phase::Over(_) => None,
        }
    }

    /// The metadata that this node serves, for checks and tools; `None` unless it runs.
    pub fn image(&self) -> Option<&MetadataImage> {
        match &self.phase {
            Phase::Running(broker) => Some(broker.image()),
            Phase::Starting(_) | Phase::Over(_) => None,
        }
    }

    #[cfg(test)]
    pub(crate) fn broker_mut(&mut self) -> Option<&mut Broker> {
        match &mut self.phase {
            Phase::Running(broker) => Some(broker),
            Phase::Starting(_) | Phase::Over(_) => None,
        }
    }

    #[cfg(test)]
    pub(crate) fn broker(&self) -> Option<&Broker> {
        match &self.phase {
            Phase::Running(broker) => Some(broker),
            Phase::Starting(_) | Phase::Over(_) => None,
        }
    }
}

/// Nobody is there to be answered any more.
fn forget(requests: &mut BTreeMap<RequestId, (Exchange, Pending)>, broker: &mut Broker, connection: ConnectionId) {
    let first = RequestId { connection, sequence: 0 };
    let last = RequestId { connection, sequence: u64::MAX };
    let gone: Vec<RequestId> = requests.range(first..=last).map(|(id, _)| *id).collect();
    for request in gone {
        requests.remove(&request);
        broker.abandon(request);
    }
}

fn resume(
    requests: &mut BTreeMap<RequestId, (Exchange, Pending)>,
    sessions: &mut Sessions,
    broker: &mut Broker,
    now: Now,
    request: RequestId,
    event: Event,
) {
    // Answered meanwhile, or its connection is gone.
    let Some((exchange, pending)) = requests.remove(&request) else { return };
    match api::resume(broker, now, exchange, pending, event) {
        Progress::Done(reply) => {
            broker.forget(request);
            sessions.reply(request, reply);
        }
        Progress::Waiting(pending) => {
            requests.insert(request, (exchange, pending));
        }
    }
}
