//! Repair of damaged segments: which replica is asked for what was lost, and what others are told.
//!
//! One run of chunks at a time for the whole shard, so memory is bounded whatever is damaged: look at it once more, ask
//! one member after the other until one sends bytes that have the recorded checksum, write them where they were. If
//! nobody has them, all are asked for what they can read, and it is put together of what is sound in each.
//! Invariant: nothing is installed that [`PartitionLog::mend`](crate::log::segment::PartitionLog::mend) did not accept,
//! and bytes that were not verified are sent only to whoever asks for such. Identities, votes and positions are not
//! touched by any of this.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use slog::{debug, error, info, warn};

use super::Broker;
use crate::{
    ids::{GroupId, NodeId, ReplicaId},
    limits::{
        SEGMENT_REPAIR_ANSWER_BYTES_MAX, SEGMENT_REPAIR_ANSWER_TIMEOUT, SEGMENT_REPAIR_PAUSE_MAX,
        SEGMENT_REPAIR_PAUSE_MIN, SEGMENT_REPAIR_RATE, SEGMENT_REPAIR_READS_MAX,
    },
    log::segment::{Care, ChunkRead, Look, Mended, ReadError, Serving, Want},
    replication::{
        peer::ControlKind,
        segment_repair::{Answer, Ask, Question, Reply},
    },
    time::{Monotonic, Now},
};

pub(super) const QUESTION: ControlKind = ControlKind(40);
pub(super) const ANSWER: ControlKind = ControlKind(41);

/// What was found and repaired since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RepairCounts {
    /// Times that damage was met.
    pub found: u64,
    /// Chunks that were fetched from other replicas and written again.
    pub repaired: u64,
    /// Entries of side files that were found out from the bytes that they are for.
    pub rebuilt: u64,
}

#[derive(Debug, Default)]
pub(super) struct SegmentRepairs {
    /// Groups with damage that is not repaired yet.
    damaged: BTreeSet<GroupId>,
    job: Option<Job>,
    /// Where to look for damage next, so that what cannot be repaired does not hold up what can.
    cursor: Option<(GroupId, u64)>,
    /// Nothing is begun before.
    begin_at: Monotonic,
    pause: Duration,
    last_number: u64,
    /// Answers to be sent.
    answers: Vec<(NodeId, Answer)>,
    /// Reads from the disk for answers.
    reads: usize,
    pub(super) counts: RepairCounts,
}

#[derive(Debug)]
struct Job {
    group: GroupId,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// At the disk, once more.
    Looking,
    Fetching(Fetching),
    /// On its way to the disk; so many chunks.
    Mending(u64),
}

#[derive(Debug)]
struct Fetching {
    want: Want,
    got: Vec<Bytes>,
    got_bytes: usize,
    /// Nobody has it as it was.
    as_it_is: bool,
    /// Members that were asked and did not help.
    tried: BTreeSet<ReplicaId>,
    asked: Option<Asked>,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    replica: ReplicaId,
    number: u64,
    until: Monotonic,
}

impl Fetching {
    fn drop_received(&mut self) {
        self.got.clear();
        self.got_bytes = 0;
    }

    /// The member that was asked does not help.
    fn pass_on(&mut self) {
        if self.as_it_is {
            self.drop_received();
        }
        if let Some(asked) = self.asked.take() {
            self.tried.insert(asked.replica);
        }
    }
}

impl SegmentRepairs {
    /// What a start found to be damaged.
    pub(super) fn new(damaged: BTreeSet<GroupId>) -> Self {
        let found = damaged.len() as u64;
        Self { damaged, counts: RepairCounts { found, ..RepairCounts::default() }, ..Self::default() }
    }

    pub(super) fn next_deadline(&self) -> Option<Monotonic> {
        match &self.job {
            None => (!self.damaged.is_empty()).then_some(self.begin_at),
            Some(Job { stage: Stage::Fetching(fetching), .. }) => fetching.asked.map(|asked| asked.until),
            Some(Job { stage: Stage::Looking | Stage::Mending(_), .. }) => None,
        }
    }

    /// Somebody wanted what is known to be damaged, or may have found it so.
    pub(super) fn damage_met(&mut self, group: GroupId) {
        self.damaged.insert(group);
    }

    /// The group is gone from this node.
    pub(super) fn forget(&mut self, group: GroupId) {
        self.damaged.remove(&group);
        self.job.take_if(|job| job.group == group);
    }

    /// A number for the next question.
    pub(super) fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Groups with damage that is not repaired yet.
    pub(super) fn damaged(&self) -> usize {
        self.damaged.len()
    }

    /// Nobody could help: other damage comes first, after a while.
    fn give_up(&mut self, now: Monotonic) {
        self.job = None;
        self.pause = (self.pause * 2).clamp(SEGMENT_REPAIR_PAUSE_MIN, SEGMENT_REPAIR_PAUSE_MAX);
        self.begin_at = self.begin_at.max(now + self.pause);
    }
}

/// The time that so many bytes may take.
fn cost(bytes: usize) -> Duration {
    Duration::from_nanos(bytes as u64 * 1_000_000_000 / SEGMENT_REPAIR_RATE)
}

impl Broker {
    /// A read of a partition's files failed. What it was to read is marked.
    pub(super) fn damage_found(&mut self, group: GroupId, what: &ReadError) {
        error!(self.logger, "a segment is damaged"; "group" => group.0, "what" => %what);
        self.segment_repairs.counts.found += 1;
        self.damage_met(group);
    }

    /// Somebody wanted what is known to be damaged.
    pub(super) fn damage_met(&mut self, group: GroupId) {
        self.segment_repairs.damage_met(group);
    }

    pub(super) fn advance_segment_repairs(&mut self, now: Now) {
        self.send_repair_answers(now);
        match &mut self.segment_repairs.job {
            None => {}
            Some(Job { stage: Stage::Looking, .. }) => return,
            Some(Job { group, stage: Stage::Mending(chunks) }) => {
                let (group, chunks) = (*group, *chunks);
                let log = self.replicas[&group].partition().map(|partition| &partition.log);
                if log.is_some_and(|log| log.is_mending()) {
                    return;
                }
                info!(self.logger, "damage of a segment is repaired"; "group" => group.0, "chunks" => chunks);
                self.segment_repairs.counts.repaired += chunks;
                self.segment_repairs.job = None;
            }
            Some(Job { stage: Stage::Fetching(fetching), .. }) => {
                if fetching.asked.is_some_and(|asked| now.monotonic >= asked.until) {
                    fetching.pass_on();
                }
                if fetching.asked.is_none() {
                    self.ask_next(now);
                }
                if self.segment_repairs.job.is_some() {
                    return;
                }
            }
        }
        if now.monotonic >= self.segment_repairs.begin_at {
            self.begin_repair(now.monotonic);
        }
    }

    /// Looks at the next damage.
    fn begin_repair(&mut self, now: Monotonic) {
        use std::ops::Bound::{Excluded, Unbounded};
        let (cursor, from) = self.segment_repairs.cursor.unwrap_or_default();
        let damaged = &self.segment_repairs.damaged;
        let here = damaged.contains(&cursor).then_some(cursor);
        let next = here.or_else(|| damaged.range((Excluded(cursor), Unbounded)).next().copied());
        let Some(group) = next.or_else(|| damaged.first().copied()) else { return };
        let from = if group == cursor { from } else { 0 };
        let partition = self.replicas.get_mut(&group).and_then(|replica| replica.partition_mut());
        let Some(partition) = partition.filter(|partition| partition.log.is_damaged()) else {
            self.segment_repairs.damaged.remove(&group);
            return;
        };
        match partition.log.look_again(from) {
            Look::Chunks { plan, position, is_last } => {
                // The next group's turn comes when this one was gone through.
                self.segment_repairs.cursor = Some(if is_last { (GroupId(group.0 + 1), 0) } else { (group, position) });
                self.segment_repairs.job = Some(Job { group, stage: Stage::Looking });
                self.start_look(group, plan);
            }
            Look::Learn(plan) => {
                self.segment_repairs.job = Some(Job { group, stage: Stage::Looking });
                self.start_learn(group, plan);
            }
            Look::Rebuild(plan) => {
                self.segment_repairs.begin_at = self.segment_repairs.begin_at.max(now) + cost(plan.bytes());
                self.segment_repairs.job = Some(Job { group, stage: Stage::Looking });
                self.start_rebuild(group, plan);
            }
            Look::Nothing => {
                // What is known and was lost of side files is written with the next look at the logs.
                self.live_logs.wake(group);
                self.segment_repairs.begin_at = now + SEGMENT_REPAIR_PAUSE_MIN;
                self.segment_repairs.cursor = Some((GroupId(group.0 + 1), 0));
            }
        }
    }

    /// The second look is over.
    pub(super) fn looked_again(&mut self, group: GroupId, read: &ChunkRead) {
        let log = self.replicas[&group].partition().map(|partition| &partition.log);
        let want = log.and_then(|log| log.want(read));
        let Some(job) = self.segment_repairs.job.as_mut().filter(|job| job.group == group) else { return };
        match want {
            Some(want) => {
                let (got, tried) = Default::default();
                let fetching = Fetching { want, got, got_bytes: 0, as_it_is: false, tried, asked: None };
                job.stage = Stage::Fetching(fetching);
            }
            // The read had gone wrong, not the bytes.
            None => self.segment_repairs.job = None,
        }
    }

    /// A side file was read because it is damaged, or may be.
    pub(super) fn learnt(&mut self, group: GroupId) {
        self.segment_repairs.job.take_if(|job| job.group == group);
    }

    /// Some of the bytes were read from which entries of a side file are found out; their number, if that is over.
    pub(super) fn rebuilt(&mut self, now: Now, group: GroupId, entries: Option<usize>) {
        if self.segment_repairs.job.take_if(|job| job.group == group).is_none() {
            return;
        }
        match entries {
            None => {}
            Some(0) => self.segment_repairs.give_up(now.monotonic),
            Some(entries) => {
                info!(self.logger, "what a damaged checksum file said is known again"; "group" => group.0,
                    "entries" => entries);
                self.segment_repairs.counts.rebuilt += entries as u64;
                self.live_logs.wake(group);
            }
        }
    }

    /// Asks the next member for what is still missing.
    fn ask_next(&mut self, now: Now) {
        let Some(Job { group, stage: Stage::Fetching(fetching) }) = &mut self.segment_repairs.job else { return };
        let group = *group;
        let replica = &self.replicas[&group];
        let own = replica.group.replica();
        let members = replica.group.membership().members();
        // The one that leads has everything, so it is asked last: it is busy already.
        let leader = replica.group.leader();
        let mut candidates: Vec<ReplicaId> =
            members.into_iter().filter(|member| *member != own && !fetching.tried.contains(member)).collect();
        candidates.sort_by_key(|member| (Some(*member) == leader, *member < own, *member));
        for to in candidates {
            let number = self.segment_repairs.last_number + 1;
            self.segment_repairs.last_number = number;
            let question = Question {
                group,
                from: own,
                to,
                number,
                position: fetching.want.position + fetching.got_bytes as u64,
                bytes: (fetching.want.bytes - fetching.got_bytes) as u64,
                ask: if fetching.as_it_is { Ask::BytesAsTheyAre } else { Ask::Bytes },
            };
            let node = replica.node_of(to);
            let sent = node.is_some_and(|node| self.peers.send_control(now, node, QUESTION, question.encode()).is_ok());
            if sent {
                let until = now.monotonic + SEGMENT_REPAIR_ANSWER_TIMEOUT;
                fetching.asked = Some(Asked { replica: to, number: question.number, until });
                return;
            }
            fetching.tried.insert(to);
        }
        if !fetching.as_it_is && fetching.want.witnesses.is_empty() {
            debug!(self.logger, "no replica has what is lost of a segment as it was"; "group" => group.0,
                "position" => fetching.want.position);
            fetching.as_it_is = true;
            fetching.tried.clear();
            fetching.drop_received();
            return self.ask_next(now);
        }
        warn!(self.logger, "no replica could help to repair a segment"; "group" => group.0,
            "position" => fetching.want.position);
        self.segment_repairs.give_up(now.monotonic);
    }

    pub(super) fn heard_segment_answer(&mut self, now: Now, from: NodeId, bytes: &Bytes) {
        let answer = match Answer::decode(bytes) {
            Ok(answer) => answer,
            Err(error) => {
                warn!(self.logger, "an answer of a repair cannot be read"; "from" => from.0, "reason" => %error);
                return;
            }
        };
        let Some(replica) = self.replicas.get(&answer.group) else { return };
        if replica.node_of(answer.from) != Some(from) || answer.to != replica.group.replica() {
            return;
        }
        self.heard_digest(answer.group, answer.from, answer.number, &answer.reply);
        let Some(replica) = self.replicas.get_mut(&answer.group) else { return };
        let Some(job) = self.segment_repairs.job.as_mut().filter(|job| job.group == answer.group) else { return };
        let Stage::Fetching(fetching) = &mut job.stage else { return };
        let is_answer = |asked: &Asked| (asked.replica, asked.number) == (answer.from, answer.number);
        if !fetching.asked.as_ref().is_some_and(is_answer) {
            return;
        }
        let slices = match answer.reply {
            Reply::Bytes(slices) => slices,
            // Its log ends before.
            Reply::Unavailable if fetching.as_it_is && fetching.got_bytes > 0 => Vec::new(),
            Reply::Digest(_) | Reply::Unavailable | Reply::Busy => {
                fetching.pass_on();
                return;
            }
        };
        let bytes: usize = slices.iter().map(Bytes::len).sum();
        if bytes > fetching.want.bytes - fetching.got_bytes {
            warn!(self.logger, "an answer of a repair has more than was asked for"; "from" => from.0);
            fetching.pass_on();
            return;
        }
        fetching.got.extend(slices);
        fetching.got_bytes += bytes;
        self.segment_repairs.begin_at = self.segment_repairs.begin_at.max(now.monotonic) + cost(bytes);
        if fetching.got_bytes < fetching.want.bytes && bytes > 0 {
            // The rest is asked of the same one, who has it in its next segment.
            fetching.asked = None;
            return;
        }
        let mut whole = Bytes::from(fetching.got.concat());
        let is_only_other = replica.group.membership().members().len() <= 2;
        let partition = replica.partition_mut().expect("only segments are repaired");
        let chunks = fetching.want.chunks.len() as u64;
        if fetching.as_it_is {
            fetching.want.copies.push(whole);
            let Some(merged) = partition.log.merge(&fetching.want) else {
                fetching.pass_on();
                return;
            };
            info!(self.logger, "what is lost of a segment is put together of damaged copies"; "group" => answer.group.0,
                "position" => fetching.want.position);
            whole = merged;
        }
        match partition.log.mend(&fetching.want, &whole, is_only_other) {
            Mended::Accepted => {
                job.stage = Stage::Mending(chunks);
                self.segment_repairs.pause = Duration::ZERO;
                self.live_logs.wake(answer.group);
            }
            Mended::Mismatch => {
                warn!(self.logger, "what a replica sent is not what was lost here"; "group" => answer.group.0,
                    "from" => from.0, "position" => fetching.want.position);
                fetching.drop_received();
                fetching.pass_on();
            }
            Mended::NeedsWitness => {
                fetching.want.witnesses.push(whole);
                fetching.drop_received();
                fetching.pass_on();
            }
            Mended::Moot => {
                debug!(self.logger, "what was to be repaired has changed meanwhile"; "group" => answer.group.0);
                self.segment_repairs.job = None;
            }
        }
    }

    pub(super) fn heard_segment_question(&mut self, from: NodeId, bytes: &Bytes) {
        let question = match Question::decode(bytes) {
            Ok(question) => question,
            Err(error) => {
                warn!(self.logger, "a question of a repair cannot be read"; "from" => from.0, "reason" => %error);
                return;
            }
        };
        let Some(replica) = self.replicas.get_mut(&question.group) else { return };
        if replica.node_of(question.from) != Some(from) || question.to != replica.group.replica() {
            return;
        }
        let is_busy = self.segment_repairs.reads >= SEGMENT_REPAIR_READS_MAX;
        let is_member = replica.group.membership().contains(question.from);
        let Some(partition) = replica.partition_mut().filter(|_| is_member) else { return };
        let serving = match question.ask {
            Ask::Bytes | Ask::BytesAsTheyAre => {
                let care = if question.ask == Ask::Bytes { Care::Verified } else { Care::AsItIs };
                let length = usize::try_from(question.bytes).unwrap_or(usize::MAX).min(SEGMENT_REPAIR_ANSWER_BYTES_MAX);
                partition.log.serve(question.position, length, care)
            }
            Ask::Digest => {
                let digest = partition.log.digest(question.position, question.bytes);
                return self.answer_segment_question(from, &question, digest.map_or(Reply::Unavailable, Reply::Digest));
            }
        };
        match serving {
            Serving::NeedsDisk(plan) if is_busy => {
                partition.log.cancel_serve(plan);
                self.answer_segment_question(from, &question, Reply::Busy);
            }
            Serving::NeedsDisk(plan) => {
                self.segment_repairs.reads += 1;
                self.start_serve(from, question, plan);
            }
            Serving::Ready(slices) => self.answer_segment_question(from, &question, Reply::Bytes(slices)),
            Serving::Unavailable => {
                self.answer_segment_question(from, &question, Reply::Unavailable);
            }
        }
    }

    /// A read for another replica's repair is over.
    pub(super) fn served(&mut self, node: NodeId, question: Question, serving: Serving) {
        let reply = match serving {
            Serving::NeedsDisk(plan) => return self.start_serve(node, question, plan),
            Serving::Ready(slices) => Reply::Bytes(slices),
            Serving::Unavailable => {
                // It may be this read that found the damage.
                let group = question.group;
                let partition = self.replicas.get(&group).and_then(|replica| replica.partition());
                if partition.is_some_and(|partition| partition.log.is_damaged()) {
                    self.damage_met(group);
                }
                Reply::Unavailable
            }
        };
        self.serve_ended();
        self.answer_segment_question(node, &question, reply);
    }

    pub(super) fn serve_ended(&mut self) {
        self.segment_repairs.reads -= 1;
    }

    fn answer_segment_question(&mut self, node: NodeId, question: &Question, reply: Reply) {
        let Question { group, from, to, number, .. } = *question;
        self.segment_repairs.answers.push((node, Answer { group, from: to, to: from, number, reply }));
    }

    fn send_repair_answers(&mut self, now: Now) {
        for (node, answer) in std::mem::take(&mut self.segment_repairs.answers) {
            // If it gets lost, another replica is asked.
            let _ = self.peers.send_control_parts(now, node, ANSWER, answer.encode());
        }
    }
}
