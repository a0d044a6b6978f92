//! What waits for the disk, in order.
//!
//! raft-rs hands out its work in numbered steps. A step's messages that speak for what it stores (votes,
//! acknowledgements) leave only when its records and those of every earlier step are durable; a step without records
//! waits for the earlier ones all the same, because it may acknowledge what they store.
//!
//! Invariant: first in, first out; nothing overtakes.

use std::collections::VecDeque;

use raft::prelude::Message;

use super::ReadyNumber;
use crate::ids::WriteNumber;

#[derive(Debug, Default)]
pub(super) struct PersistQueue {
    steps: VecDeque<Step>,
}

#[derive(Debug)]
struct Step {
    number: ReadyNumber,
    records: Records,
    /// The records change term or vote.
    changes_vote: bool,
    /// To be sent once this step is durable.
    messages: Vec<Message>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Records {
    None,
    HandedOut,
    Written(WriteNumber),
}

/// A step that is durable now.
#[derive(Debug)]
pub(super) struct Durable {
    pub(super) number: ReadyNumber,
    pub(super) messages: Vec<Message>,
}

impl PersistQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Whether a term or a vote still waits for the disk. Nothing may be sent in a term that is not durable.
    pub(super) fn holds_vote(&self) -> bool {
        self.steps.iter().any(|step| step.changes_vote)
    }

    /// Whether records were handed out that are not yet known to be in the WAL.
    pub(super) fn holds_unwritten(&self) -> bool {
        self.steps.iter().any(|step| step.records == Records::HandedOut)
    }

    pub(super) fn push(&mut self, number: ReadyNumber, has_records: bool, changes_vote: bool, messages: Vec<Message>) {
        assert!(has_records || !changes_vote, "a vote is a record");
        let records = if has_records { Records::HandedOut } else { Records::None };
        self.steps.push_back(Step { number, records, changes_vote, messages });
    }

    /// The records of `number` went into `write`.
    pub(super) fn wrote(&mut self, number: ReadyNumber, write: WriteNumber) {
        let step = self
            .steps
            .iter_mut()
            .find(|step| step.records == Records::HandedOut)
            .expect("only records that were handed out are written");
        assert_eq!(step.number, number, "records are written in the order they were handed out in");
        step.records = Records::Written(write);
    }

    /// The next step that is durable, given that every write up to `durable` is.
    pub(super) fn pop(&mut self, durable: WriteNumber) -> Option<Durable> {
        let front = self.steps.front()?;
        let is_durable = match front.records {
            Records::None => true,
            Records::HandedOut => false,
            Records::Written(write) => write <= durable,
        };
        if !is_durable {
            return None;
        }
        let step = self.steps.pop_front().expect("the front was just looked at");
        Some(Durable { number: step.number, messages: step.messages })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(queue: &mut PersistQueue, durable: u64) -> Vec<u64> {
        std::iter::from_fn(|| queue.pop(WriteNumber(durable))).map(|step| step.number.0).collect()
    }

    #[test]
    fn a_step_without_records_waits_for_the_earlier_ones() {
        let mut queue = PersistQueue::default();
        queue.push(ReadyNumber(1), true, false, vec![]);
        queue.push(ReadyNumber(2), false, false, vec![]);
        queue.push(ReadyNumber(3), true, true, vec![]);
        assert_eq!(numbers(&mut queue, 100), [0; 0], "what was not written is not durable");

        queue.wrote(ReadyNumber(1), WriteNumber(7));
        queue.wrote(ReadyNumber(3), WriteNumber(7));
        assert_eq!(numbers(&mut queue, 6), [0; 0]);
        assert!(queue.holds_vote());
        assert_eq!(numbers(&mut queue, 7), [1, 2, 3]);
        assert!(queue.is_empty() && !queue.holds_vote());
    }

    #[test]
    #[should_panic(expected = "in the order")]
    fn writes_are_reported_in_order() {
        let mut queue = PersistQueue::default();
        queue.push(ReadyNumber(1), true, false, vec![]);
        queue.push(ReadyNumber(2), true, false, vec![]);
        queue.wrote(ReadyNumber(2), WriteNumber(7));
    }
}
