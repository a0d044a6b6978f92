//! The thread that owns a node's core: takes what happened out of the queue, hands it in, carries out what comes out.
//!
//! Invariant: nothing here blocks except waiting for the next event or deadline, and both clocks are read once per
//! turn, after the waiting.

use std::{collections::BTreeMap, sync::mpsc, time::Duration};

use kauri_core::{
    ids::{ConnectionId, LinkId},
    io::{Effects, Exit, Input, Notice},
    time::{Monotonic, Now},
};
use slog::Logger;
use tokio::{runtime::Handle, sync::watch, task::AbortHandle};

use super::{
    clients::Client,
    clock::Clock,
    core::Core,
    disk_threads::DiskQueues,
    event::{Event, Events},
    links::{Link, LinkFrame},
    node::{NodeEnd, NodeState},
};

/// Events of one turn at most: what came first should not wait for its effects until the queue is empty.
const EVENTS_PER_TURN_MAX: usize = 4096;

/// Everything the core's effects reach.
pub(crate) struct World {
    pub(crate) events: Events,
    pub(crate) disk: DiskQueues,
    pub(crate) runtime: Handle,
    pub(crate) state: watch::Sender<NodeState>,
    pub(crate) clients: BTreeMap<ConnectionId, Client>,
    pub(crate) links: BTreeMap<LinkId, Link>,
    pub(crate) logger: Logger,
    /// Nothing is accepted for a core that is gone.
    pub(crate) _listeners: [AbortOnDrop; 2],
}

pub(crate) struct AbortOnDrop(pub(crate) AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs until the core, or whoever owns the node, wants an end.
pub(crate) fn run(mut core: impl Core, queue: &mpsc::Receiver<Event>, mut world: World) -> NodeEnd {
    let clock = Clock::new();
    let mut effects = Effects::default();
    let mut now = clock.now();
    loop {
        core.poll(now, &mut effects);
        if let Some(end) = world.carry_out(&mut effects) {
            return end;
        }
        let first = wait(queue, core.next_deadline(), clock);
        now = clock.now();
        let further = std::iter::from_fn(|| queue.try_recv().ok());
        for event in first.into_iter().chain(further).take(EVENTS_PER_TURN_MAX) {
            if let Err(end) = world.hand_in(&mut core, now, event) {
                return end;
            }
        }
    }
}

/// The next event, or nothing once the deadline has come.
fn wait(queue: &mpsc::Receiver<Event>, deadline: Option<Monotonic>, clock: Clock) -> Option<Event> {
    match deadline {
        // Senders exist as long as the world does, so this is never the end of the queue.
        None => queue.recv().ok(),
        Some(deadline) => match queue.try_recv() {
            Ok(event) => Some(event),
            Err(_) => match deadline.since(clock.monotonic()) {
                Duration::ZERO => None,
                patience => queue.recv_timeout(patience).ok(),
            },
        },
    }
}

impl World {
    fn hand_in(&mut self, core: &mut impl Core, now: Now, event: Event) -> Result<(), NodeEnd> {
        let input = match event {
            Event::Input(input) => {
                self.forget(&input);
                input
            }
            Event::ClientConnected { connection, client } => {
                self.clients.insert(connection, client);
                Input::ClientConnected { connection }
            }
            Event::LinkAccepted { id, link } => {
                self.links.insert(id, link);
                Input::LinkAccepted { link: id }
            }
            Event::LinkFrame(LinkFrame { link, frame, _room }) => Input::LinkFrame { link, frame },
            Event::Panicked { thread } => return Err(NodeEnd::Panicked { thread }),
            Event::Abandon => return Err(NodeEnd::Abandoned),
        };
        core.handle(now, input);
        Ok(())
    }

    /// A connection or link that reports its end is over on both sides.
    fn forget(&mut self, input: &Input) {
        match input {
            Input::ClientClosed { connection } => drop(self.clients.remove(connection)),
            Input::LinkDown { link } => drop(self.links.remove(link)),
            Input::ClientConnected { .. }
            | Input::ClientFrame { .. }
            | Input::ClientWritten { .. }
            | Input::LinkUp { .. }
            | Input::LinkAccepted { .. }
            | Input::LinkFrame { .. }
            | Input::LinkWritten { .. }
            | Input::Disk { .. }
            | Input::Shutdown => {}
        }
    }

    /// Empties `effects`. What concerns connections and links that are gone is dropped: the core learns of their end
    /// by an event that is already queued.
    fn carry_out(&mut self, effects: &mut Effects) -> Option<NodeEnd> {
        if let Some(exit) = effects.exit.take() {
            return Some(NodeEnd::Exit(exit));
        }
        for operation in effects.wal.drain(..) {
            if self.disk.wal.send(operation).is_err() {
                return Some(NodeEnd::Panicked { thread: "wal".to_owned() });
            }
        }
        for operation in effects.disk.drain(..) {
            if self.disk.disk.send(operation).is_err() {
                return Some(NodeEnd::Panicked { thread: "disk".to_owned() });
            }
        }
        for send in effects.client_sends.drain(..) {
            if let Some(client) = self.clients.get(&send.connection) {
                client.send(send.slices);
            }
        }
        for (connection, bytes) in effects.client_credits.drain(..) {
            if let Some(client) = self.clients.get(&connection) {
                client.credit(bytes);
            }
        }
        for connection in effects.client_closes.drain(..) {
            if let Some(client) = self.clients.get_mut(&connection) {
                client.close();
            }
        }
        for connection in effects.client_aborts.drain(..) {
            if let Some(client) = self.clients.get(&connection) {
                client.abort();
            }
        }
        for dial in effects.peer_dials.drain(..) {
            let id = dial.link;
            let link = Link::dial(dial, self.events.clone(), &self.runtime, &self.logger);
            self.links.insert(id, link);
        }
        for send in effects.peer_sends.drain(..) {
            if let Some(link) = self.links.get(&send.link) {
                link.send(send.slices);
            }
        }
        for link in effects.peer_closes.drain(..) {
            self.links.remove(&link);
        }
        for notice in effects.notices.drain(..) {
            self.state.send_modify(|state| match notice {
                Notice::Recovered => state.recovered = true,
                Notice::Serving => state.serving = true,
            });
        }
        None
    }
}

impl From<Exit> for NodeEnd {
    fn from(exit: Exit) -> Self {
        Self::Exit(exit)
    }
}
