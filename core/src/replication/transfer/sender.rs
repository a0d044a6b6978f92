//! The side that has the state: what a leader remembers of the replicas that fetch from it.
//!
//! Invariant: an announcement ends in exactly one outcome, [`Ended::Installed`] or [`Ended::Failed`], because until it is told
//! Raft sends nothing to that replica. Of a snapshot the image and the place are kept, and the log above the place is
//! asked to stay, for as long as its receiver is heard of.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::message::{SnapshotHead, SnapshotNumber};
use crate::{
    ids::{LogIndex, ReplicaId},
    limits::TRANSFER_SILENCE,
    replication::group::SnapshotPosition,
    time::{Monotonic, earliest},
};

/// The replicas of one group that fetch from this one, while it leads.
#[derive(Debug, Default)]
pub struct Sender {
    receivers: BTreeMap<ReplicaId, Receiver>,
}

#[derive(Debug)]
struct Receiver {
    heard: Monotonic,
    /// Raft waits for the outcome.
    announced: bool,
    snapshot: Option<Kept>,
}

#[derive(Debug)]
struct Kept {
    number: SnapshotNumber,
    position: SnapshotPosition,
    image: Bytes,
}

/// How a transfer ended, for Raft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The replica has everything up to here, durably.
    Installed(SnapshotPosition),
    Failed,
}

impl Sender {
    /// Raft's message that starts a transfer was handed out.
    pub fn announced(&mut self, now: Monotonic, to: ReplicaId) {
        self.heard(now, to).announced = true;
    }

    /// A replica asked something.
    pub fn asked(&mut self, now: Monotonic, by: ReplicaId) {
        self.heard(now, by);
    }

    fn heard(&mut self, now: Monotonic, replica: ReplicaId) -> &mut Receiver {
        let receiver =
            self.receivers.entry(replica).or_insert(Receiver { heard: now, announced: false, snapshot: None });
        receiver.heard = now;
        receiver
    }

    /// Keeps a snapshot for a replica, in place of an earlier one.
    pub fn keep(&mut self, now: Monotonic, replica: ReplicaId, head: &SnapshotHead, image: Bytes) {
        assert_eq!(head.image_bytes, image.len() as u64, "the head of a snapshot describes its image");
        self.heard(now, replica).snapshot = Some(Kept { number: head.snapshot, position: head.position, image });
    }

    /// A part of the image of a snapshot that is kept for this replica; nothing if it is another one or has no such
    /// place.
    pub fn image(&self, replica: ReplicaId, number: SnapshotNumber, offset: u64, bytes_max: usize) -> Option<Bytes> {
        let kept = self.receivers.get(&replica)?.snapshot.as_ref().filter(|kept| kept.number == number)?;
        let start = usize::try_from(offset).ok().filter(|start| *start <= kept.image.len())?;
        Some(kept.image.slice(start..kept.image.len().min(start.saturating_add(bytes_max))))
    }

    /// The replica told how it ended. Nothing to do for Raft unless it was announced or installed.
    pub fn ended(&mut self, replica: ReplicaId, ended: Ended) -> Option<Ended> {
        let announced = self.receivers.remove(&replica).is_some_and(|receiver| receiver.announced);
        match ended {
            // What a replica has counts, whoever sent it.
            Ended::Installed(_) => Some(ended),
            Ended::Failed => announced.then_some(ended),
        }
    }

    /// Replicas that were not heard of for too long: their transfers failed. Only those that Raft waits for.
    pub fn expire(&mut self, now: Monotonic) -> Vec<ReplicaId> {
        let mut failed = Vec::new();
        self.receivers.retain(|replica, receiver| {
            let alive = now.since(receiver.heard) < TRANSFER_SILENCE;
            if !alive && receiver.announced {
                failed.push(*replica);
            }
            alive
        });
        failed
    }

    pub fn next_deadline(&self) -> Option<Monotonic> {
        self.receivers
            .values()
            .map(|receiver| receiver.heard + TRANSFER_SILENCE)
            .fold(None, |a, b| earliest(a, Some(b)))
    }

    /// Entries behind this index are wanted by a replica that is about to switch to a snapshot.
    pub fn pinned(&self) -> Option<LogIndex> {
        self.receivers.values().filter_map(|receiver| receiver.snapshot.as_ref()).map(|kept| kept.position.index).min()
    }

    /// Whether this replica fetches, or was told to.
    pub fn serves(&self, replica: ReplicaId) -> bool {
        self.receivers.contains_key(&replica)
    }

    /// Bytes of the images that are kept.
    pub fn image_bytes(&self) -> usize {
        self.receivers.values().filter_map(|receiver| receiver.snapshot.as_ref()).map(|kept| kept.image.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.receivers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use super::*;
    use crate::{
        ids::{Offset, Term},
        replication::{group::Membership, transfer::message::LogEnd},
    };

    const LAGGARD: ReplicaId = ReplicaId(3);
    const AT: Monotonic = Monotonic(1_000_000_000);

    fn head(number: u64, index: u64, image: &Bytes) -> SnapshotHead {
        SnapshotHead {
            snapshot: SnapshotNumber(number),
            position: SnapshotPosition { index: LogIndex(index), term: Term(1) },
            membership: Membership::new([ReplicaId(1), LAGGARD], []),
            removed: BTreeSet::new(),
            log_start: Offset(0),
            end: LogEnd::default(),
            image_bytes: image.len() as u64,
            image_crc: crc32c::crc32c(image),
        }
    }

    #[test]
    fn silence_after_an_announcement_is_a_failure_that_is_told_once() {
        let mut sender = Sender::default();
        sender.announced(AT, LAGGARD);
        sender.asked(AT, ReplicaId(4));
        assert_eq!(sender.next_deadline(), Some(AT + TRANSFER_SILENCE));
        assert_eq!(sender.expire(AT + TRANSFER_SILENCE - Duration::from_nanos(1)), []);
        sender.asked(AT + Duration::from_secs(1), LAGGARD);
        assert_eq!(sender.expire(AT + TRANSFER_SILENCE), [], "it was heard of; and of the other, Raft expects nothing");
        assert!(!sender.serves(ReplicaId(4)));
        assert_eq!(sender.expire(AT + TRANSFER_SILENCE + Duration::from_secs(1)), [LAGGARD]);
        assert_eq!(sender.expire(AT + Duration::from_secs(60)), []);
        assert!(sender.is_empty());
    }

    #[test]
    fn an_outcome_is_for_raft_if_it_waits_or_if_the_replica_has_more() {
        let mut sender = Sender::default();
        sender.announced(AT, LAGGARD);
        assert_eq!(sender.ended(LAGGARD, Ended::Failed), Some(Ended::Failed));
        assert_eq!(sender.ended(LAGGARD, Ended::Failed), None, "a duplicate");
        let installed = Ended::Installed(SnapshotPosition { index: LogIndex(9), term: Term(2) });
        assert_eq!(sender.ended(LAGGARD, installed), Some(installed), "fetched from an earlier leader");
    }

    #[test]
    fn a_snapshot_is_served_in_parts_and_replaced_by_a_later_one() {
        let mut sender = Sender::default();
        let image = Bytes::from_static(b"0123456789");
        sender.keep(AT, LAGGARD, &head(1, 50, &image), image.clone());
        let part = |sender: &Sender, number, offset| sender.image(LAGGARD, SnapshotNumber(number), offset, 4);
        assert_eq!(part(&sender, 1, 0).as_deref(), Some(&b"0123"[..]));
        assert_eq!(part(&sender, 1, 8).as_deref(), Some(&b"89"[..]));
        assert_eq!(part(&sender, 1, 10).as_deref(), Some(&b""[..]));
        assert_eq!(part(&sender, 1, 11), None, "behind its end");
        assert_eq!(part(&sender, 1, u64::MAX), None);
        assert_eq!(sender.image(ReplicaId(4), SnapshotNumber(1), 0, 4), None, "it was made for another");
        assert_eq!((sender.pinned(), sender.image_bytes()), (Some(LogIndex(50)), 10));
        sender.keep(AT, LAGGARD, &head(2, 60, &image), image.clone());
        assert_eq!(part(&sender, 1, 0), None);
        assert_eq!((sender.pinned(), sender.image_bytes()), (Some(LogIndex(60)), 10));
        sender.expire(AT + TRANSFER_SILENCE);
        assert_eq!((sender.pinned(), sender.image_bytes()), (None, 0));
    }
}
