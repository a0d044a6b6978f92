//! The one event heap of a run, and beside it the alarms: events that are moved more often than they happen.
//!
//! Invariant: events and alarms come out in the order of (virtual time, number), and a number is given in the order in
//! which they went in. An alarm that was moved happens at its new time only. There is no global tick: an idle world holds
//! no events.

use std::{cmp::Ordering, collections::BinaryHeap};

use crate::time::{Instant, Span};

/// What shall happen, and when.
#[derive(Debug)]
pub struct Schedule<E> {
    now: Instant,
    next_number: u64,
    heap: BinaryHeap<Entry<E>>,
    alarms: Vec<Slot<E>>,
    /// The alarm that happens first.
    first: Option<(Instant, u64, Alarm)>,
}

/// Names an alarm of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alarm(usize);

#[derive(Debug)]
struct Slot<E> {
    event: E,
    set: Option<(Instant, u64)>,
}

#[derive(Debug)]
struct Entry<E> {
    at: Instant,
    number: u64,
    event: E,
}

impl<E> Default for Schedule<E> {
    fn default() -> Self {
        Self { now: Instant::default(), next_number: 0, heap: BinaryHeap::new(), alarms: Vec::new(), first: None }
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

    /// A new alarm, not set. Few are meant: each costs a look whenever one of them moves.
    pub fn alarm(&mut self, event: E) -> Alarm {
        self.alarms.push(Slot { event, set: None });
        Alarm(self.alarms.len() - 1)
    }

    /// When an alarm happens, if it is set.
    pub fn alarm_at(&self, alarm: Alarm) -> Option<Instant> {
        self.alarms[alarm.0].set.map(|(at, _)| at)
    }

    /// Sets or moves an alarm to `at`, or to now if that lies in the past.
    pub fn set(&mut self, alarm: Alarm, at: Instant) {
        let (at, number) = (at.max(self.now), self.next_number);
        self.next_number += 1;
        self.alarms[alarm.0].set = Some((at, number));
        match self.first {
            // Only the first one's delay brings another to the front.
            Some((_, _, first)) if first == alarm => self.find_first(),
            Some((first, ..)) if first <= at => {}
            Some(_) | None => self.first = Some((at, number, alarm)),
        }
    }

    /// Makes sure that the alarm happens at `at` or before.
    pub fn set_by(&mut self, alarm: Alarm, at: Instant) {
        if self.alarm_at(alarm).is_none_or(|set| at.max(self.now) < set) {
            self.set(alarm, at);
        }
    }

    pub fn clear(&mut self, alarm: Alarm) {
        self.alarms[alarm.0].set = None;
        if self.first.is_some_and(|(_, _, first)| first == alarm) {
            self.find_first();
        }
    }

    fn find_first(&mut self) {
        let set = self.alarms.iter().enumerate().filter_map(|(alarm, slot)| {
            let (at, number) = slot.set?;
            Some((at, number, Alarm(alarm)))
        });
        self.first = set.min_by_key(|&(at, number, _)| (at, number));
    }
}

impl<E: Clone> Schedule<E> {
    /// The next event not after `until`, to which time then jumps; without one, time jumps to `until`.
    pub fn next(&mut self, until: Instant) -> Option<E> {
        let event = self.heap.peek().map(|entry| (entry.at, entry.number));
        if let Some((at, number, alarm)) = self.first
            && at <= until
            && event.is_none_or(|event| (at, number) < event)
        {
            self.now = at;
            let event = self.alarms[alarm.0].event.clone();
            self.clear(alarm);
            return Some(event);
        }
        if event.is_some_and(|(at, _)| at <= until) {
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

    #[test]
    fn an_alarm_happens_once_at_the_time_it_was_moved_to_and_in_order_with_events() {
        let mut schedule = Schedule::default();
        let (early, late, never) = (schedule.alarm('e'), schedule.alarm('l'), schedule.alarm('n'));
        schedule.set(early, Instant(40));
        schedule.at(Instant(20), 'a');
        schedule.set(late, Instant(10));
        schedule.set(never, Instant(15));
        schedule.set_by(early, Instant(20));
        schedule.set_by(late, Instant(99));
        schedule.set(late, Instant(30));
        schedule.at(Instant(20), 'b');
        schedule.clear(never);
        let mut seen = String::new();
        while let Some(event) = schedule.next(Instant(50)) {
            seen.push(event);
        }
        assert_eq!(seen, "aebl");
        assert_eq!(schedule.alarm_at(early), None);
    }
}
