//! Looking for damage before anybody meets it: a slow walk over the segments of all partitions, and the newest
//! checkpoint.
//!
//! One read at a time, at a rate that is configured, and none while clients, peers or the WAL keep the node busy. What is
//! damaged is marked and repaired ([`super::segment_repair`]); of a damaged checkpoint a new one is taken at once. A closed
//! segment that is whole has a digest, which the other members of its group are asked to confirm. Invariant: replicas
//! that differ although each is whole are reported, and nothing is written because of it.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use slog::{debug, error};

use super::{Broker, segment_repair};
use crate::{
    config::NodeConfig,
    ids::{CheckpointNumber, GroupId, OperationId, ReplicaId},
    io::{DiskAction, DiskError, DiskOperation, DiskOutput, FileName},
    limits::{
        SCRUB_BUSY_PAUSE, SCRUB_FIRST_AFTER, SCRUB_READ_BYTES, SCRUB_WAL_QUEUED_BYTES_MAX,
        SEGMENT_REPAIR_ANSWER_TIMEOUT,
    },
    log::{
        checkpoint::CheckpointDone,
        segment::{ScrubCursor, ScrubPlan, Scrubbed, SegmentDigest},
    },
    replication::segment_repair::{Ask, Question, Reply},
    rng::Stream,
    time::{Monotonic, Now},
};

/// What was looked at since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubCounts {
    pub bytes: u64,
    /// Walks over everything.
    pub rounds: u64,
    /// Segments that another replica has, too, and in the same state.
    pub confirmed: u64,
    /// Segments of which whole replicas differ.
    pub differences: u64,
    pub damaged_checkpoints: u64,
}

#[derive(Debug)]
pub(super) struct Scrub {
    /// Bytes per second; zero: nobody looks.
    rate: u64,
    interval: Duration,
    stage: Stage,
    /// The next read begins at this time at the earliest.
    begin_at: Monotonic,
    /// The groups before this one, with which the round began, come last.
    before_first: Option<GroupId>,
    /// The round ends before this group.
    end: Option<GroupId>,
    /// A read of a segment is under way.
    reading: bool,
    comparison: Option<Comparison>,
    /// Where the first round begins.
    random: Stream,
    pub(super) counts: ScrubCounts,
}

#[derive(Debug)]
enum Stage {
    /// Until the next round begins.
    Resting,
    Segments(GroupId, ScrubCursor),
    Checkpoint(CheckpointWalk),
}

/// A checkpoint that is read once more.
#[derive(Debug)]
struct CheckpointWalk {
    done: CheckpointDone,
    at: u64,
    crc: u32,
    operation: Option<OperationId>,
}

/// A digest that others are asked to confirm.
#[derive(Debug)]
struct Comparison {
    group: GroupId,
    digest: SegmentDigest,
    number: u64,
    asked: Vec<ReplicaId>,
    answers: BTreeMap<ReplicaId, u32>,
    until: Monotonic,
}

impl Scrub {
    pub(super) fn new(now: Monotonic, config: &NodeConfig, random: Stream) -> Self {
        let (rate, interval) = (config.scrub_bytes_per_second, config.scrub_interval);
        Self {
            rate,
            interval,
            stage: Stage::Resting,
            begin_at: now + SCRUB_FIRST_AFTER.min(interval),
            before_first: None,
            end: None,
            reading: false,
            comparison: None,
            random,
            counts: ScrubCounts::default(),
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Monotonic> {
        let is_reading = match &self.stage {
            Stage::Checkpoint(walk) => walk.operation.is_some(),
            Stage::Resting | Stage::Segments(..) => self.reading,
        };
        let read = (self.rate > 0 && !is_reading).then_some(self.begin_at);
        let comparison = self.comparison.as_ref().map(|comparison| comparison.until);
        crate::time::earliest(read, comparison)
    }

    /// So many bytes were read.
    fn pay(&mut self, now: Monotonic, bytes: usize) {
        self.counts.bytes += bytes as u64;
        let nanos = bytes as u128 * 1_000_000_000 / u128::from(self.rate.max(1));
        self.begin_at = self.begin_at.max(now) + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
    }

    fn rest(&mut self, now: Monotonic) {
        self.counts.rounds += 1;
        self.stage = Stage::Resting;
        self.begin_at = now + self.interval;
    }
}

impl Broker {
    /// Called every turn.
    pub(super) fn advance_scrub(&mut self, now: Now) {
        self.judge_comparison(now);
        let scrub = &self.scrub;
        if scrub.reading || scrub.rate == 0 || now.monotonic < scrub.begin_at {
            return;
        }
        let is_busy = !self.takes_requests()
            || self.wal.queued_bytes() > SCRUB_WAL_QUEUED_BYTES_MAX
            || self.tails_full
            || self.reads.fetch_bytes() > 0
            || self.transfers.receiving() > 0
            || self.shutdown.has_begun();
        if is_busy {
            self.scrub.begin_at = now.monotonic + SCRUB_BUSY_PAUSE;
            return;
        }
        match std::mem::replace(&mut self.scrub.stage, Stage::Resting) {
            Stage::Resting => {
                // Wherever the last process stopped: all groups get their turn, however often it starts.
                let groups: Vec<GroupId> = self.replicas.keys().copied().collect();
                let first = groups.get(self.scrub.random.below(groups.len().max(1) as u64) as usize).copied();
                self.scrub.before_first = first;
                self.walk(now, first.unwrap_or_default(), ScrubCursor::default());
            }
            Stage::Segments(group, cursor) => self.walk(now, group, cursor),
            Stage::Checkpoint(walk) => self.read_checkpoint(now, walk),
        }
    }

    /// Goes on with the partition, or the next one that there is.
    fn walk(&mut self, now: Now, group: GroupId, mut cursor: ScrubCursor) {
        let mut from = group;
        loop {
            let end = self.scrub.end.unwrap_or(GroupId(u64::MAX));
            let mut rest = self.replicas.range_mut(from..end.max(from));
            let next = rest.find_map(|(id, replica)| Some((*id, replica.partition_mut()?)));
            let Some((id, partition)) = next else {
                let Some(first) = self.scrub.before_first.take() else {
                    self.scrub.end = None;
                    return self.begin_checkpoint_walk(now);
                };
                self.scrub.end = Some(first);
                from = GroupId(0);
                continue;
            };
            if id != group {
                cursor = ScrubCursor::default();
            }
            if let Some(plan) = partition.log.scrub(&mut cursor) {
                self.scrub.reading = true;
                self.scrub.stage = Stage::Segments(id, cursor);
                self.start_scrub(id, plan);
                return;
            }
            from = GroupId(id.0 + 1);
        }
    }

    /// A read of the walk is over.
    pub(super) fn scrubbed(
        &mut self,
        now: Now,
        group: GroupId,
        plan: ScrubPlan,
        result: Result<DiskOutput, DiskError>,
    ) {
        self.scrub.reading = false;
        self.scrub.pay(now.monotonic, plan.bytes());
        let partition = self.replicas.get_mut(&group).and_then(|replica| replica.partition_mut());
        let partition = partition.expect("the caller looked it up");
        let Stage::Segments(_, cursor) = &mut self.scrub.stage else { unreachable!("a read of the walk was open") };
        let Scrubbed { damage, digest } = partition.log.complete_scrub(cursor, plan, result);
        if let Some(damage) = damage {
            self.damage_found(group, &damage);
        }
        if let Some(digest) = digest {
            self.compare(now, group, digest);
        }
    }

    /// The partition is gone from this node: the walk goes on with the next one.
    pub(super) fn scrub_of_removed(&mut self) {
        self.scrub.reading = false;
        if let Stage::Segments(_, cursor) = &mut self.scrub.stage {
            *cursor = ScrubCursor::default();
        }
    }

    /// Asks the other members of a group whether they have the same.
    fn compare(&mut self, now: Now, group: GroupId, digest: SegmentDigest) {
        if self.scrub.comparison.is_some() {
            return;
        }
        let replica = &self.replicas[&group];
        let own = replica.group.replica();
        let number = self.segment_repairs.next_number();
        let mut asked = Vec::new();
        for to in replica.group.membership().members().into_iter().filter(|member| *member != own) {
            let SegmentDigest { position, bytes, .. } = digest;
            let question = Question { group, from: own, to, number, position, bytes, ask: Ask::Digest };
            let node = replica.node_of(to);
            if node.is_some_and(|node| {
                self.peers.send_control(now, node, segment_repair::QUESTION, question.encode()).is_ok()
            }) {
                asked.push(to);
            }
        }
        if !asked.is_empty() {
            let (answers, until) = (BTreeMap::new(), now.monotonic + SEGMENT_REPAIR_ANSWER_TIMEOUT);
            self.scrub.comparison = Some(Comparison { group, digest, number, asked, answers, until });
        }
    }

    /// A member says what it has, or that it does not know.
    pub(super) fn heard_digest(&mut self, group: GroupId, from: ReplicaId, number: u64, reply: &Reply) {
        let comparison = self.scrub.comparison.as_mut();
        let Some(comparison) = comparison.filter(|open| (open.group, open.number) == (group, number)) else { return };
        if !comparison.asked.contains(&from) {
            return;
        }
        comparison.asked.retain(|asked| *asked != from);
        match reply {
            Reply::Digest(crc) => {
                comparison.answers.insert(from, *crc);
            }
            Reply::Bytes(_) | Reply::Unavailable | Reply::Busy => {}
        }
    }

    fn judge_comparison(&mut self, now: Now) {
        let is_over = |open: &mut Comparison| open.asked.is_empty() || now.monotonic >= open.until;
        let Some(Comparison { group, digest, answers, .. }) = self.scrub.comparison.take_if(is_over) else { return };
        let others = || answers.iter().filter(|(_, crc)| **crc != digest.crc);
        if others().next().is_none() {
            self.scrub.counts.confirmed += u64::from(!answers.is_empty());
            return;
        }
        self.scrub.counts.differences += 1;
        let agree = answers.len() - others().count();
        let verdict = match (agree, others().count()) {
            (0, 2..) if others().all(|(_, crc)| Some(crc) == answers.values().next()) => {
                "this replica differs from two that agree"
            }
            (1.., 1) => "one other replica differs from two that agree",
            _ => "which one is wrong cannot be told",
        };
        let found: Vec<String> = answers.iter().map(|(replica, crc)| format!("{replica}: {crc:08x}")).collect();
        error!(self.logger, "replicas of a segment differ although each is whole: {verdict}"; "group" => group.0,
            "position" => digest.position, "bytes" => digest.bytes, "own" => format!("{:08x}", digest.crc),
            "others" => found.join(", "));
    }

    fn begin_checkpoint_walk(&mut self, now: Now) {
        match self.checkpoints.newest_done() {
            Some(done) => self.read_checkpoint(now, CheckpointWalk { done, at: 0, crc: 0, operation: None }),
            None => self.scrub.rest(now.monotonic),
        }
    }

    fn read_checkpoint(&mut self, now: Now, walk: CheckpointWalk) {
        if walk.operation.is_some() {
            self.scrub.stage = Stage::Checkpoint(walk);
            return;
        }
        if self.checkpoints.newest() != Some(walk.done.number) {
            // A newer one is done; this one's file may be gone.
            return self.scrub.rest(now.monotonic);
        }
        let length = (walk.done.length - walk.at).min(SCRUB_READ_BYTES as u64);
        let operation = self.ids.next_id();
        let action = DiskAction::Read {
            file: FileName::Checkpoint(walk.done.number),
            offset: walk.at,
            length: usize::try_from(length).expect("a read is bounded"),
        };
        self.reads.issue(DiskOperation { id: operation, action });
        self.scrub.stage = Stage::Checkpoint(CheckpointWalk { operation: Some(operation), ..walk });
    }

    /// False if the operation is no read of a checkpoint.
    pub(super) fn finish_checkpoint_read(
        &mut self,
        now: Now,
        operation: OperationId,
        result: &Result<DiskOutput, DiskError>,
    ) -> bool {
        let Stage::Checkpoint(walk) = &mut self.scrub.stage else { return false };
        if walk.operation.take_if(|open| *open == operation).is_none() {
            return false;
        }
        let none = Bytes::new();
        let bytes = match result {
            Ok(DiskOutput::Read(bytes)) => bytes,
            Ok(DiskOutput::Done | DiskOutput::List(_)) => unreachable!("a read returns bytes"),
            Err(_) => &none,
        };
        walk.crc = crc32c::crc32c_append(walk.crc, bytes);
        walk.at += bytes.len() as u64;
        let is_short = bytes.is_empty();
        let is_over = walk.at >= walk.done.length || is_short;
        let number: CheckpointNumber = walk.done.number;
        let is_whole = !is_short && walk.crc == walk.done.crc;
        self.scrub.pay(now.monotonic, bytes.len());
        if is_over {
            if !is_whole && self.checkpoints.newest() == Some(number) {
                error!(self.logger, "the newest checkpoint is damaged: another one is taken"; "number" => number.0);
                self.scrub.counts.damaged_checkpoints += 1;
                self.checkpoints.want_another();
            }
            debug!(self.logger, "everything was looked at"; "bytes" => self.scrub.counts.bytes);
            self.scrub.rest(now.monotonic);
        }
        true
    }
}
