//! A producer's batch on its way into a partition's log.

use bytes::Bytes;
use kauri_protocol::error::ErrorCode;

use super::{Broker, Replica, proposals::Proposal, replica::Owner, views::Leader};
use crate::{
    api::{Exchange, Waiter},
    ids::{GroupId, LeaderEpoch},
    limits::BATCH_SHARED_BYTES_MIN,
    partition::{PartitionCommand, Rules, validate},
    session::RequestId,
    time::Now,
};

/// Why a request about a partition is refused, for its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub error: ErrorCode,
    pub message: Option<String>,
    /// Whom to ask instead, if that is known (KIP-951).
    pub leader: Option<Leader>,
}

impl From<ErrorCode> for Refusal {
    fn from(error: ErrorCode) -> Self {
        Self { error, message: None, leader: None }
    }
}

impl Broker {
    /// Checks a batch and queues it for its partition's group. The waiter hears of it when it is applied.
    pub(crate) fn append(
        &mut self,
        now: Now,
        exchange: Exchange,
        (topic, index): (&str, i32),
        records: Bytes,
        waiter: Waiter,
    ) -> Result<(), Refusal> {
        let group = self.led_group(topic, index, LeaderEpoch::UNKNOWN).map_err(not_leading_yet)?;
        let topic = self.image.topic_by_name(topic).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        let rules = Rules::of(&topic.configs);
        if self.wal_full {
            return Err(Refusal {
                error: ErrorCode::KafkaStorageError,
                message: Some("the disk of this broker is full".to_owned()),
                leader: None,
            });
        }
        let batch = validate(records, exchange.version, rules, now.wall).map_err(|invalid| Refusal {
            error: invalid.code,
            message: Some(invalid.message),
            leader: None,
        })?;
        // A small batch must not keep a frame alive that is much larger.
        let shared = batch.len() >= BATCH_SHARED_BYTES_MIN || batch.len() * 2 >= exchange.frame_bytes;
        let batch = if shared { batch } else { Bytes::copy_from_slice(&batch) };
        let command = PartitionCommand::Append(batch);
        let owner = Owner::Produce(waiter);
        let replica = self.replicas.get_mut(&group).expect("it was just found to lead");
        replica.queue.push(Proposal { kind: command.kind(), data: command.into_data(), owner });
        self.report_proposed(group);
        self.mark(group);
        Ok(())
    }

    /// Whether a produce request may start. A node that refuses it at once needs no room for that.
    pub(crate) fn has_proposal_room(&self) -> bool {
        self.wal_full || self.proposed_bytes.has_room()
    }

    /// To be called when a group's queue, its log or its role may have changed.
    pub(super) fn report_proposed(&mut self, group: GroupId) {
        let bytes = self.replicas.get(&group).map_or(0, Replica::proposed_bytes);
        self.proposed_bytes.report(group, bytes);
    }

    /// Takes back what was not proposed of a request that is answered: its client may send as much again, and what
    /// waits for a group that does not move must not grow with every attempt.
    pub(crate) fn withdraw(&mut self, request: RequestId) {
        for (group, replica) in self.replicas.iter_mut().filter(|(_, replica)| !replica.queue.is_empty()) {
            replica.queue.retain(|proposal| match proposal.owner {
                Owner::Produce(waiter) => waiter.request != request,
                Owner::Nobody | Owner::Call(_) | Owner::Liveness(_) | Owner::Forwarded { .. } => true,
            });
            self.proposed_bytes.report(*group, replica.proposed_bytes());
        }
    }

    /// A client is gone. What it sent is written all the same, unless too much waits already.
    pub(super) fn withdraw_if_crowded(&mut self, request: RequestId) {
        if !self.proposed_bytes.has_room() {
            self.withdraw(request);
        }
    }
}

/// A leader that has not applied its own first entry takes no batches. Producers repeat what NOT_LEADER_OR_FOLLOWER
/// refuses; OFFSET_NOT_AVAILABLE is for readers, and librdkafka gives a batch up on it.
fn not_leading_yet(refusal: Refusal) -> Refusal {
    match refusal.error {
        ErrorCode::OffsetNotAvailable => ErrorCode::NotLeaderOrFollower.into(),
        _ => refusal,
    }
}
