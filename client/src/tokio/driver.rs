//! The task that drives a state machine, and what it shares with handles.
//!
//! Invariant: the machine is locked only for short, synchronous turns, never across an await.

use std::sync::{Arc, Mutex, MutexGuard};

use ::tokio::sync::{Notify, mpsc};

use super::{
    clock::Clock,
    socket::{INPUTS_MAX, Sockets},
};
use crate::io::{Effects, Input, Monotonic, Now};

/// How many inputs are taken in one turn.
const INPUTS_PER_TURN: usize = 64;

/// A state machine together with those who wait for it.
pub(super) trait Machine: Send + 'static {
    fn handle(&mut self, now: Now, input: Input);
    fn poll(&mut self, now: Now, effects: &mut Effects);
    fn next_deadline(&self) -> Option<Monotonic>;
    /// Wakes who waits for what there is now.
    fn wake_waiters(&mut self);
    /// The task is gone, and whoever waits now or later waits in vain.
    fn end(&mut self);
    /// Whether there is nothing to do for a client whose handles are all gone.
    fn may_end(&mut self, now: Now) -> bool;
}

#[derive(Debug)]
pub(super) struct Shared<M> {
    state: Mutex<State<M>>,
    pub(super) clock: Clock,
    wake: Arc<Notify>,
}

#[derive(Debug)]
struct State<M> {
    machine: M,
    handles_gone: bool,
    ended: bool,
}

/// Tells those who wait that the task ends, also if the runtime drops it.
#[derive(Debug)]
struct End<M: Machine>(Arc<Shared<M>>);

impl<M: Machine> Drop for End<M> {
    fn drop(&mut self) {
        // After a panic in a turn, handles learn of it by the lock.
        if let Ok(mut state) = self.0.state.lock() {
            state.ended = true;
            state.machine.end();
        }
    }
}

/// What a handle holds; when the last clone is gone, the task ends.
#[derive(Debug)]
pub(super) struct Owner<M: Machine> {
    shared: Arc<Shared<M>>,
}

impl<M: Machine> Drop for Owner<M> {
    fn drop(&mut self) {
        self.shared.lock_state().handles_gone = true;
        self.shared.wake();
    }
}

impl<M: Machine> std::ops::Deref for Owner<M> {
    type Target = Shared<M>;

    fn deref(&self) -> &Shared<M> {
        &self.shared
    }
}

impl<M: Machine> Shared<M> {
    /// Starts the task on the current runtime; panics outside of one.
    pub(super) fn start(machine: M) -> Owner<M> {
        let shared = Arc::new(Self {
            state: Mutex::new(State { machine, handles_gone: false, ended: false }),
            clock: Clock::start(),
            wake: Arc::default(),
        });
        ::tokio::spawn(drive(Arc::clone(&shared)));
        Owner { shared }
    }

    fn lock_state(&self) -> MutexGuard<'_, State<M>> {
        self.state.lock().expect("a turn that panicked leaves nothing to go on with")
    }

    pub(super) fn with<R>(&self, act: impl FnOnce(&mut M, Now) -> R) -> R {
        let mut state = self.lock_state();
        let result = act(&mut state.machine, self.clock.now());
        if state.ended {
            state.machine.end();
        }
        result
    }

    /// Has the machine polled soon.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }
}

async fn drive<M: Machine>(shared: Arc<Shared<M>>) {
    let _end = End(Arc::clone(&shared));
    let (sender, mut inputs) = mpsc::channel(INPUTS_MAX);
    let mut sockets = Sockets::new(sender, Arc::clone(&shared.wake));
    let mut effects = Effects::default();
    let mut first = None;
    loop {
        let deadline = {
            let mut state = shared.lock_state();
            let now = shared.clock.now();
            let mut taken = 0;
            while let Some(input) = first.take().or_else(|| inputs.try_recv().ok()) {
                if let Input::Closed(connection) | Input::Unreachable(connection, _) = input {
                    sockets.forget(connection);
                }
                state.machine.handle(now, input);
                taken += 1;
                if taken == INPUTS_PER_TURN {
                    break;
                }
            }
            if sockets.have_room() {
                state.machine.poll(now, &mut effects);
            }
            state.machine.wake_waiters();
            if state.handles_gone && state.machine.may_end(now) {
                break;
            }
            // What is due is done when there is room; that is told by a wake-up.
            if sockets.have_room() { state.machine.next_deadline() } else { None }
        };
        sockets.apply(&mut effects);
        ::tokio::select! {
            input = inputs.recv() => first = input,
            () = shared.wake.notified() => {}
            () = shared.clock.sleep_until(deadline) => {}
        }
    }
    sockets.apply(&mut effects);
    sockets.finish().await;
}
