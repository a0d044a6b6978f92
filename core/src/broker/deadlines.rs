//! Until when each waiting request may wait.
//!
//! Invariant: a request has at most one deadline; finishing it removes the deadline.

use std::collections::{BTreeMap, BTreeSet};

use crate::{session::RequestId, time::Monotonic};

#[derive(Debug, Default)]
pub(super) struct Deadlines {
    by_time: BTreeSet<(Monotonic, RequestId)>,
    by_request: BTreeMap<RequestId, Monotonic>,
}

impl Deadlines {
    pub(super) fn set(&mut self, request: RequestId, at: Monotonic) {
        self.remove(request);
        self.by_time.insert((at, request));
        self.by_request.insert(request, at);
    }

    pub(super) fn remove(&mut self, request: RequestId) {
        if let Some(at) = self.by_request.remove(&request) {
            self.by_time.remove(&(at, request));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_request.len()
    }

    pub(super) fn next(&self) -> Option<Monotonic> {
        self.by_time.first().map(|&(at, _)| at)
    }

    /// Takes out one request whose time is over.
    pub(super) fn pop_due(&mut self, now: Monotonic) -> Option<RequestId> {
        let &(at, request) = self.by_time.first().filter(|(at, _)| *at <= now)?;
        self.by_time.remove(&(at, request));
        self.by_request.remove(&request);
        Some(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ConnectionId;

    #[test]
    fn requests_come_due_in_order_of_time_and_once() {
        let request = |sequence| RequestId { connection: ConnectionId(1), sequence };
        let mut deadlines = Deadlines::default();
        deadlines.set(request(1), Monotonic(30));
        deadlines.set(request(2), Monotonic(10));
        deadlines.set(request(3), Monotonic(20));
        deadlines.set(request(1), Monotonic(5));
        deadlines.remove(request(3));
        assert_eq!(deadlines.next(), Some(Monotonic(5)));
        assert_eq!(deadlines.pop_due(Monotonic(4)), None);
        assert_eq!(deadlines.pop_due(Monotonic(10)), Some(request(1)));
        assert_eq!(deadlines.pop_due(Monotonic(10)), Some(request(2)));
        assert_eq!(deadlines.pop_due(Monotonic(99)), None);
        assert_eq!(deadlines.next(), None);
    }
}
