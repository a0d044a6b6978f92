//! Starting the threads of a node so that none of them dies unnoticed.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    thread::{Builder, JoinHandle},
};

use super::event::{Event, Events};

/// Runs `body` on a thread of its own. A panic in it ends the node: the core waits for what the thread owed it.
pub(crate) fn spawn(name: String, events: Events, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    Builder::new().name(name.clone()).spawn(move || {
        // Whatever `body` left half done is not looked at again: the node ends.
        if catch_unwind(AssertUnwindSafe(body)).is_err() {
            drop(events.send(Event::Panicked { thread: name }));
        }
    })
}
