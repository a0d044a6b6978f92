//! The one event heap of a run.
//!
//! Invariant: events come out in the order of (virtual time, number), and a number is given in the order in which events
//! went in. There is no global tick: an idle world holds no events.

use std::{cmp::Ordering, collections::BinaryHeap};

use crate::time::{Instant, Span};

/// What shall happen, and when.
#[derive(Debug)]
pub struct Schedule<E> {
    now: Instant,
    next_number: u64,
    heap: BinaryHeap<Entry<E>>,
}

#[derive(Debug)]
struct Entry<E> {
    at: Instant,
    number: u64,
    event: E,
}

impl<E> Default for Schedule<E> {
    fn default() -> Self {
        Self { now: Instant::default(), next_number: 0, heap: BinaryHeap::new() }
    }
}

impl<E> Schedule<E> {
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Events that came out so far and are still to come.
    pub fn scheduled(&self) -> u64 {
        self.next_number
    }

    /// An event at `at`, or now if that lies in the past.
    pub fn at(&mut self, at: Instant, event: E) {
        let entry = Entry { at: at.max(self.now), number: self.next_number, event };
        self.next_number += 1;
        self.heap.push(entry);
    }

    pub fn after(&mut self, span: Span, event: E) {
        self.at(self.now + span, event);
    }

    /// The next event not after `until`, to which time then jumps; without one, time jumps to `until`.
    pub fn next(&mut self, until: Instant) -> Option<E> {
        if self.heap.peek().is_some_and(|entry| entry.at <= until) {
            let entry = self.heap.pop().expect("peeked");
            self.now = entry.at;
            Some(entry.event)
        } else {
            self.now = self.now.max(until);
            None
        }
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap gives the greatest first: reversed.
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<E> Eq for Entry<E> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_order_of_time_and_then_of_arrival() {
        let mut schedule = Schedule::default();
        schedule.at(Instant(20), 'c');
        schedule.at(Instant(10), 'a');
        schedule.at(Instant(10), 'b');
        schedule.at(Instant(99), 'd');
        let mut seen = String::new();
        while let Some(event) = schedule.next(Instant(50)) {
            seen.push(event);
            if event == 'b' {
                schedule.at(Instant(3), 'p');
            }
        }
        assert_eq!(seen, "abpc");
        assert_eq!(schedule.now(), Instant(50));
    }
}
