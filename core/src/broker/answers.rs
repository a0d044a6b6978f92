//! How much of the node's memory answers may hold: what sockets have not taken, and what is read for more.
//!
//! A fetch takes at most a quarter of what is free, so that a few clients that do not read leave something to the
//! others. When nothing is free there is a reserve for answers of small batches; whoever wants more waits, and is woken
//! when something was freed. Clients that read nothing meanwhile are closed (see [`crate::session`]).
//!
//! Invariant: what is counted here reaches the limit plus the reserve, plus one batch: the first batch of an answer may
//! be larger than what is free.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    limits::{ANSWER_BYTES_MAX, ANSWER_RESERVE_BYTES, ANSWER_SMALL_BYTES},
    session::RequestId,
};

#[derive(Debug, Default)]
pub(super) struct Answers {
    /// Complete answers that sockets have not taken.
    unsent_bytes: usize,
    /// Parts of answers that wait for other parts.
    parts: BTreeMap<RequestId, usize>,
    parts_bytes: usize,
    /// Fetches that found too little room.
    starved: BTreeSet<RequestId>,
}

/// What an answer may have now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// Bytes of whole batches.
    pub(crate) bytes: usize,
    /// Memory that they, and reads for them, may keep alive. A small batch may be a part of a large allocation.
    pub(crate) held_bytes: usize,
    /// Whether the first batch may be larger.
    pub(crate) at_least_one: bool,
}

impl Answers {
    pub(super) fn set_unsent(&mut self, bytes: usize) {
        self.unsent_bytes = bytes;
    }

    /// `read_bytes` are on their way from the disk.
    pub(super) fn room(&self, read_bytes: usize) -> Room {
        let used = self.unsent_bytes + self.parts_bytes + read_bytes;
        match ANSWER_BYTES_MAX.saturating_sub(used) {
            0 if used < ANSWER_BYTES_MAX + ANSWER_RESERVE_BYTES => {
                Room { bytes: ANSWER_SMALL_BYTES, held_bytes: ANSWER_SMALL_BYTES, at_least_one: false }
            }
            0 => Room { bytes: 0, held_bytes: 0, at_least_one: false },
            free => Room { bytes: (free / 4).max(ANSWER_SMALL_BYTES), held_bytes: free, at_least_one: true },
        }
    }

    /// A part of an answer is there, and waits for the others.
    pub(super) fn keep(&mut self, request: RequestId, bytes: usize) {
        if bytes > 0 {
            *self.parts.entry(request).or_default() += bytes;
            self.parts_bytes += bytes;
        }
    }

    /// The request would have more if there were room.
    pub(super) fn starve(&mut self, request: RequestId) {
        self.starved.insert(request);
    }

    /// Whom to wake once there is room again.
    pub(super) fn take_starved(&mut self) -> BTreeSet<RequestId> {
        std::mem::take(&mut self.starved)
    }

    /// The request is answered, or nobody wants its answer any more.
    pub(super) fn remove(&mut self, request: RequestId) {
        self.parts_bytes -= self.parts.remove(&request).unwrap_or(0);
        self.starved.remove(&request);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ConnectionId;

    #[test]
    fn what_waits_for_other_parts_counts_until_its_request_is_over() {
        let request = |sequence| RequestId { connection: ConnectionId(1), sequence };
        let mut answers = Answers::default();
        let free = answers.room(0);
        assert_eq!(free, Room { bytes: ANSWER_BYTES_MAX / 4, held_bytes: ANSWER_BYTES_MAX, at_least_one: true });
        answers.keep(request(1), 1000);
        answers.keep(request(1), 200);
        answers.keep(request(2), ANSWER_BYTES_MAX / 2);
        answers.set_unsent(ANSWER_BYTES_MAX / 2);
        assert_eq!((answers.room(0).bytes, answers.room(0).at_least_one), (ANSWER_SMALL_BYTES, false));
        assert_eq!(answers.room(ANSWER_RESERVE_BYTES).bytes, 0);
        answers.remove(request(1));
        answers.remove(request(2));
        answers.set_unsent(0);
        assert_eq!(answers.room(0), free);
    }

    #[test]
    fn who_is_answered_is_not_woken() {
        let request = |sequence| RequestId { connection: ConnectionId(1), sequence };
        let mut answers = Answers::default();
        answers.starve(request(1));
        answers.starve(request(2));
        answers.remove(request(1));
        assert_eq!(answers.take_starved(), BTreeSet::from([request(2)]));
        assert!(answers.take_starved().is_empty());
    }
}
