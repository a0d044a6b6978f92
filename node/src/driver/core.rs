//! What the driver drives.
//!
//! The product's only core is the shard of `kauri_core`; the trait exists so that the driver's own tests can script
//! what a core asks for.

use kauri_core::{
    io::{Effects, Input},
    shard::Shard,
    time::{Monotonic, Now},
};

/// A state machine behind the surface of [`kauri_core::io`]. Lives on one thread from its first to its last moment,
/// so it need not be `Send`.
pub trait Core {
    /// Takes in one thing that happened. Called any number of times before [`Core::poll`].
    fn handle(&mut self, now: Now, input: Input);

    /// Says what to do about everything handled so far, and about time that has passed. `effects` is empty before.
    fn poll(&mut self, now: Now, effects: &mut Effects);

    /// When [`Core::poll`] wants to be called again even if nothing happens. Asked after each poll.
    fn next_deadline(&self) -> Option<Monotonic>;
}

impl Core for Shard {
    fn handle(&mut self, now: Now, input: Input) {
        Self::handle(self, now, input);
    }

    fn poll(&mut self, now: Now, effects: &mut Effects) {
        Self::poll(self, now, effects);
    }

    fn next_deadline(&self) -> Option<Monotonic> {
        Self::next_deadline(self)
    }
}
