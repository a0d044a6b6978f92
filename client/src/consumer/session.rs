//! The fetch session with one broker (KIP-227): after a first full request only what changed is sent.
//!
//! Invariant: `known` is what the broker holds for the session, because a request that was not answered ends it.

use std::collections::BTreeMap;

use kauri_protocol::{
    messages::{
        FetchRequest,
        fetch::{FetchPartition, FetchTopic, ForgottenTopic},
    },
    wire::Str,
};

/// Topic and partition.
pub(super) type Place = (Str, i32);

/// What is fetched from a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Want {
    pub(super) offset: i64,
    pub(super) leader_epoch: i32,
    pub(super) bytes_max: i32,
}

#[derive(Debug, Default)]
pub(super) struct FetchSession {
    /// 0 as long as the broker has not given one.
    id: i32,
    /// Of the next request; 0 asks for a session.
    epoch: i32,
    known: BTreeMap<Place, Want>,
}

impl FetchSession {
    /// Fills in what the broker does not know yet.
    pub(super) fn fill(&mut self, request: &mut FetchRequest, wants: &BTreeMap<Place, Want>) {
        request.session_id = self.id;
        request.session_epoch = self.epoch;
        if self.id == 0 {
            self.known.clear();
        }
        let mut topics: BTreeMap<&Str, Vec<FetchPartition>> = BTreeMap::new();
        for (place, want) in wants {
            match self.known.get_mut(place) {
                Some(known) if known == want => continue,
                Some(known) => *known = *want,
                None => {
                    self.known.insert(place.clone(), *want);
                }
            }
            topics.entry(&place.0).or_default().push(FetchPartition {
                partition: place.1,
                current_leader_epoch: want.leader_epoch,
                fetch_offset: want.offset,
                partition_max_bytes: want.bytes_max,
                ..Default::default()
            });
        }
        let mut forgotten: BTreeMap<Str, Vec<i32>> = BTreeMap::new();
        self.known.retain(|place, _| {
            let is_wanted = wants.contains_key(place);
            if !is_wanted {
                forgotten.entry(place.0.clone()).or_default().push(place.1);
            }
            is_wanted
        });
        request.topics =
            topics.into_iter().map(|(topic, partitions)| FetchTopic { topic: topic.clone(), partitions }).collect();
        request.forgotten_topics_data =
            forgotten.into_iter().map(|(topic, partitions)| ForgottenTopic { topic, partitions }).collect();
    }

    /// The request was answered without an error.
    pub(super) fn advance(&mut self, session_id: i32) {
        if session_id == 0 {
            self.end();
        } else {
            self.id = session_id;
            self.epoch = self.epoch.checked_add(1).unwrap_or(1);
        }
    }

    /// The next request starts another session.
    pub(super) fn end(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wants(offsets: &[(i32, i64)]) -> BTreeMap<Place, Want> {
        let want = |offset| Want { offset, leader_epoch: 1, bytes_max: 100 };
        offsets.iter().map(|&(partition, offset)| ((Str::from("t"), partition), want(offset))).collect()
    }

    fn sent(session: &mut FetchSession, offsets: &[(i32, i64)]) -> (i32, i32, Vec<(i32, i64)>, Vec<i32>) {
        let mut request = FetchRequest::default();
        session.fill(&mut request, &wants(offsets));
        let partitions = request.topics.iter().flat_map(|topic| &topic.partitions);
        let forgotten = request.forgotten_topics_data.iter().flat_map(|topic| topic.partitions.clone());
        let partitions = partitions.map(|partition| (partition.partition, partition.fetch_offset)).collect();
        (request.session_id, request.session_epoch, partitions, forgotten.collect())
    }

    #[test]
    fn only_changes_are_sent_within_a_session() {
        let mut session = FetchSession::default();
        assert_eq!(sent(&mut session, &[(0, 5), (1, 5)]), (0, 0, vec![(0, 5), (1, 5)], vec![]));
        session.advance(9);
        assert_eq!(sent(&mut session, &[(0, 7), (1, 5)]), (9, 1, vec![(0, 7)], vec![]));
        session.advance(9);
        assert_eq!(sent(&mut session, &[(1, 5)]), (9, 2, vec![], vec![0]));
        session.advance(9);
        assert_eq!(sent(&mut session, &[(0, 8), (1, 5)]), (9, 3, vec![(0, 8)], vec![]));
        session.end();
        assert_eq!(sent(&mut session, &[(0, 8), (1, 5)]), (0, 0, vec![(0, 8), (1, 5)], vec![]));
    }

    #[test]
    fn a_broker_that_gives_no_session_gets_full_requests() {
        let mut session = FetchSession::default();
        for _ in 0..2 {
            assert_eq!(sent(&mut session, &[(0, 5)]), (0, 0, vec![(0, 5)], vec![]));
            session.advance(0);
        }
        assert_eq!(sent(&mut session, &[]), (0, 0, vec![], vec![]));
    }
}
