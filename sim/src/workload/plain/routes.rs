//! Which node leads which partition, as a client learned from Metadata.
//!
//! Invariant: what is known of a partition never goes back to an older leader epoch.

use kauri_protocol::{
    ErrorCode,
    messages::{
        MetadataRequest, MetadataResponse,
        metadata::{MetadataRequestTopic, MetadataResponseTopic},
    },
};

use super::super::partitions::Partitions;
use crate::{
    client::node_of,
    history::Partition,
    time::{Instant, Span},
};

/// A leader is asked for again after this although nothing is wrong.
const REFRESH: Span = Span::seconds(20);
/// After an error, not before this.
const BACKOFF: Span = Span::milliseconds(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leader {
    pub(super) node: usize,
    pub(super) epoch: i32,
}

#[derive(Debug)]
pub(super) struct Routes {
    leaders: Vec<Option<Leader>>,
    /// The newest epoch that was heard of, also while there was no leader.
    epochs: Vec<i32>,
    refresh_at: Instant,
    asked: bool,
}

impl Routes {
    pub(super) fn new(partitions: &Partitions) -> Self {
        let count = partitions.count() as usize;
        Self { leaders: vec![None; count], epochs: vec![-1; count], refresh_at: Instant::default(), asked: false }
    }

    pub(super) fn leader(&self, partition: Partition) -> Option<Leader> {
        self.leaders[partition.0 as usize]
    }

    /// What is known turned out to be wrong.
    pub(super) fn doubt(&mut self, now: Instant) {
        self.refresh_at = self.refresh_at.min(now + BACKOFF);
    }

    /// Whether to ask now; then the answer, or its loss, must be told.
    pub(super) fn ask(&mut self, now: Instant) -> bool {
        let due = !self.asked && now >= self.refresh_at;
        self.asked |= due;
        due
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        (!self.asked).then_some(self.refresh_at)
    }

    pub(super) fn lost(&mut self, now: Instant) {
        self.asked = false;
        self.refresh_at = now + BACKOFF;
    }

    pub(super) fn request(partitions: &Partitions) -> MetadataRequest {
        let topics =
            partitions.topics().map(|name| MetadataRequestTopic { name: Some(name.clone()), ..Default::default() });
        MetadataRequest { topics: Some(topics.collect()), allow_auto_topic_creation: false, ..Default::default() }
    }

    pub(super) fn learn(&mut self, now: Instant, partitions: &Partitions, answer: &MetadataResponse) {
        self.asked = false;
        for MetadataResponseTopic { error_code, name, partitions: told, .. } in &answer.topics {
            let Some(name) = name.as_ref().filter(|_| *error_code == ErrorCode::None) else { continue };
            for told in told {
                let Some(partition) = partitions.find(name, told.partition_index) else { continue };
                let place = partition.0 as usize;
                // Versions below 7 tell no epoch, and are believed.
                if told.leader_epoch >= 0 && told.leader_epoch < self.epochs[place] {
                    continue;
                }
                self.epochs[place] = self.epochs[place].max(told.leader_epoch);
                let node = answer
                    .brokers
                    .iter()
                    .find(|broker| broker.node_id == told.leader_id)
                    .and_then(|broker| node_of(&broker.host));
                self.leaders[place] = node.map(|node| Leader { node, epoch: told.leader_epoch });
            }
        }
        let complete = self.leaders.iter().all(Option::is_some);
        self.refresh_at = now + if complete { REFRESH } else { BACKOFF };
    }
}
