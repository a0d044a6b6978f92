//! Fetches that wait for records: which requests to wake when a partition moves.
//!
//! Invariant: a request is registered at most once per group and woken at most once per turn, however many of its
//! partitions moved.

use std::collections::{BTreeMap, BTreeSet};

use crate::{ids::GroupId, session::RequestId};

#[derive(Debug, Default)]
pub(super) struct Watch {
    by_group: BTreeMap<GroupId, BTreeSet<RequestId>>,
    by_request: BTreeMap<RequestId, BTreeSet<GroupId>>,
    woken: BTreeSet<RequestId>,
}

impl Watch {
    pub(super) fn add(&mut self, group: GroupId, request: RequestId) {
        self.by_group.entry(group).or_default().insert(request);
        self.by_request.entry(request).or_default().insert(group);
    }

    /// The request is answered.
    pub(super) fn remove(&mut self, request: RequestId) {
        self.woken.remove(&request);
        for group in self.by_request.remove(&request).unwrap_or_default() {
            if let Some(requests) = self.by_group.get_mut(&group) {
                requests.remove(&request);
                if requests.is_empty() {
                    self.by_group.remove(&group);
                }
            }
        }
    }

    /// The group's high watermark moved, or it is led elsewhere.
    pub(super) fn wake(&mut self, group: GroupId) {
        if let Some(requests) = self.by_group.get(&group) {
            self.woken.extend(requests);
        }
    }

    /// Requests that wait.
    pub(super) fn len(&self) -> usize {
        self.by_request.len()
    }

    pub(super) fn take_woken(&mut self) -> BTreeSet<RequestId> {
        std::mem::take(&mut self.woken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ConnectionId;

    #[test]
    fn a_request_is_woken_once_and_not_after_it_was_answered() {
        let request = |sequence| RequestId { connection: ConnectionId(1), sequence };
        let mut watch = Watch::default();
        watch.add(GroupId(1), request(1));
        watch.add(GroupId(2), request(1));
        watch.add(GroupId(2), request(2));
        watch.wake(GroupId(1));
        watch.wake(GroupId(2));
        assert_eq!(watch.take_woken(), BTreeSet::from([request(1), request(2)]));
        assert_eq!(watch.take_woken(), BTreeSet::new());
        watch.wake(GroupId(2));
        watch.remove(request(1));
        assert_eq!(watch.take_woken(), BTreeSet::from([request(2)]));
        watch.remove(request(2));
        assert!(watch.by_group.is_empty() && watch.by_request.is_empty());
    }
}
