//! Which clients do not take what they are given, and since when.
//!
//! Invariant: a connection stands here exactly while the driver has bytes for it that its socket has not taken; the time
//! is that of the last byte it took, or of the first that was given to it.

use std::collections::{BTreeMap, BTreeSet};

use crate::{ids::ConnectionId, time::Monotonic};

#[derive(Debug, Default)]
pub(super) struct Stalls {
    by_time: BTreeSet<(Monotonic, ConnectionId)>,
    by_connection: BTreeMap<ConnectionId, Monotonic>,
}

impl Stalls {
    /// The connection was given bytes. One that has some already is not younger for it.
    pub(super) fn given(&mut self, id: ConnectionId, at: Monotonic) {
        if let std::collections::btree_map::Entry::Vacant(place) = self.by_connection.entry(id) {
            place.insert(at);
            self.by_time.insert((at, id));
        }
    }

    /// The connection took some bytes and has others left.
    pub(super) fn took(&mut self, id: ConnectionId, at: Monotonic) {
        self.remove(id);
        self.given(id, at);
    }

    /// The connection has taken everything, or is gone.
    pub(super) fn remove(&mut self, id: ConnectionId) {
        if let Some(since) = self.by_connection.remove(&id) {
            self.by_time.remove(&(since, id));
        }
    }

    /// The connection that has taken nothing for the longest time.
    pub(super) fn first(&self) -> Option<(Monotonic, ConnectionId)> {
        self.by_time.first().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_taking_bytes_makes_younger() {
        let (one, other) = (ConnectionId(1), ConnectionId(2));
        let mut stalls = Stalls::default();
        stalls.given(one, Monotonic(10));
        stalls.given(other, Monotonic(20));
        stalls.given(one, Monotonic(30));
        assert_eq!(stalls.first(), Some((Monotonic(10), one)));
        stalls.took(one, Monotonic(40));
        assert_eq!(stalls.first(), Some((Monotonic(20), other)));
        stalls.remove(other);
        assert_eq!(stalls.first(), Some((Monotonic(40), one)));
        stalls.remove(one);
        assert_eq!(stalls.first(), None);
        assert!(stalls.by_connection.is_empty());
    }
}
