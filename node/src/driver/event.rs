//! What the threads and tasks of a node tell the core's thread.
//!
//! Invariant: whoever opens a connection or a link announces its end exactly once, however it ends; [`Farewell`] sees
//! to it even when a task is aborted or panics.

use std::sync::mpsc;

use kauri_core::{
    ids::{ConnectionId, LinkId},
    io::Input,
};

use super::{
    clients::Client,
    links::{Link, LinkFrame},
};

/// The queue into the core's thread. Unbounded: see the invariant of [`super`].
pub(crate) type Events = mpsc::Sender<Event>;

pub(crate) enum Event {
    /// Passed to the core as it is.
    Input(Input),
    /// A client connected; becomes [`Input::ClientConnected`].
    ClientConnected { connection: ConnectionId, client: Client },
    /// A peer opened a link; becomes [`Input::LinkAccepted`].
    LinkAccepted { id: LinkId, link: Link },
    /// Becomes [`Input::LinkFrame`].
    LinkFrame(LinkFrame),
    /// A thread of the node is gone, so the node cannot go on.
    Panicked { thread: String },
    /// Whoever asked for a clean end waits for it no longer.
    Abandon,
}

/// Sends an input when it is dropped.
pub(crate) struct Farewell {
    events: Events,
    input: Option<Input>,
}

impl Farewell {
    pub(crate) fn new(events: Events, input: Input) -> Self {
        Self { events, input: Some(input) }
    }
}

impl Drop for Farewell {
    fn drop(&mut self) {
        if let Some(input) = self.input.take() {
            tell(&self.events, input);
        }
    }
}

/// Queues an input. Once the core's thread has ended nobody is interested in it any more.
pub(crate) fn tell(events: &Events, input: Input) {
    drop(events.send(Event::Input(input)));
}
