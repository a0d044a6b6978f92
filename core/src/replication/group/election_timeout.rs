//! The randomized election timeout.
//!
//! raft-rs draws it from the operating system's randomness whenever its term, role or leader changes. That value is
//! overwritten after every call with one of our own stream, drawn anew under the same condition, so that a run is
//! reproducible. raft-rs reads the value only at the start of a tick, before it could draw again.

use raft::StateRole;

use crate::{limits::ELECTION_TICKS, rng::Stream};

#[derive(Debug)]
pub(super) struct ElectionTimeout {
    stream: Stream,
    seen: Option<(u64, StateRole, u64)>,
    ticks: usize,
}

impl ElectionTimeout {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, seen: None, ticks: ELECTION_TICKS }
    }

    /// The timeout that holds for this term, role and leader: between one and two election timeouts.
    pub(super) fn ticks(&mut self, term: u64, role: StateRole, leader: u64) -> usize {
        if self.seen != Some((term, role, leader)) {
            self.seen = Some((term, role, leader));
            let extra = self.stream.below(ELECTION_TICKS as u64);
            self.ticks = ELECTION_TICKS + usize::try_from(extra).expect("below the number of election ticks");
        }
        self.ticks
    }
}
