//! Fetch: committed records of partitions led here, as byte ranges of their logs.
//!
//! A request that finds less than it asked for waits: it registers once for each partition, is evaluated again at
//! most once per turn when a high watermark moved, and answers with what there is when its time is over. Records that
//! are no longer in memory are read from segments in bounded pieces; the shard does not wait for that.

mod sessions;

use std::{collections::BTreeMap, time::Duration};

use kauri_protocol::{
    error::ErrorCode,
    messages::{
        FetchRequest, FetchResponse,
        fetch::{FetchPartitionData, FetchableTopicResponse},
        leader::LeaderIdAndEpoch,
    },
    wire::{Records, Str},
};

pub use sessions::FetchSessions;
use sessions::{Session, Target};

use super::{Event, Exchange, Progress, Waiter, done, respond_with_records};
use crate::{
    broker::{
        Broker, Room,
        reads::{ReadOutcome, ReadStart},
    },
    ids::{ImageVersion, LeaderEpoch, Offset},
    limits::FETCH_BYTES_MAX,
    time::{Monotonic, Now},
};

/// A fetch that waits for records, or for the disk.
#[derive(Debug)]
pub struct Pending {
    session: Session,
    targets: Vec<Target>,
    answers: Vec<FetchPartitionData>,
    /// Memory that the records in `answers` keep alive.
    held_bytes: usize,
    bytes_min: usize,
    bytes_max: usize,
    read_committed: bool,
    deadline: Monotonic,
    phase: Phase,
    /// The image by which it was registered for its partitions.
    watched: Option<ImageVersion>,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Too few bytes so far.
    Polling,
    /// This many disk reads and confirmations are under way; the answer follows the last.
    Reading(usize),
}

pub(super) fn start(broker: &mut Broker, now: Now, exchange: Exchange, mut request: FetchRequest) -> Progress {
    let (session, targets) = match broker.fetch_sessions.open(now.monotonic, &mut request) {
        Ok(opened) => opened,
        Err(error_code) => return done(exchange, &FetchResponse { error_code, ..Default::default() }),
    };
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let mut pending = Pending {
        session,
        targets,
        answers: Vec::new(),
        held_bytes: 0,
        bytes_min: usize::try_from(request.min_bytes).unwrap_or(0),
        bytes_max: usize::try_from(request.max_bytes).unwrap_or(0).min(FETCH_BYTES_MAX),
        read_committed: request.isolation_level == 1,
        deadline: now.monotonic + wait,
        phase: Phase::Polling,
        watched: None,
    };
    let evaluated = pending.evaluate(broker, exchange);
    if pending.is_complete(&evaluated, now) {
        return pending.finish(broker, exchange);
    }
    if evaluated.reads == 0 {
        pending.watch(broker, exchange);
        broker.set_deadline(exchange.id, pending.deadline);
    }
    pending.wait(broker, exchange, &evaluated);
    Progress::Waiting(super::Pending::Fetch(Box::new(pending)))
}

pub(super) fn resume(
    broker: &mut Broker,
    now: Now,
    exchange: Exchange,
    mut pending: Box<Pending>,
    event: Event,
) -> Progress {
    match (event, pending.phase) {
        (Event::Read { part, outcome }, Phase::Reading(outstanding)) => {
            pending.fill(broker, exchange, part, outcome);
            if outstanding > 1 {
                pending.phase = Phase::Reading(outstanding - 1);
            } else if pending.is_starved(broker, now) {
                // What there was room for is less than one batch: to be asked again at once would read it in vain again.
                pending.phase = Phase::Polling;
                pending.watch(broker, exchange);
                broker.set_deadline(exchange.id, pending.deadline);
                broker.wait_for_room(exchange.id);
            } else {
                return pending.finish(broker, exchange);
            }
        }
        (Event::Confirmed { part, result }, Phase::Reading(outstanding)) => {
            pending.judge(part, result);
            if outstanding == 1 {
                return pending.finish(broker, exchange);
            }
            pending.phase = Phase::Reading(outstanding - 1);
        }
        (Event::Woken, Phase::Polling) => {
            let evaluated = pending.evaluate(broker, exchange);
            if pending.is_complete(&evaluated, now) {
                return pending.finish(broker, exchange);
            }
            pending.wait(broker, exchange, &evaluated);
            // A topic may have been deleted and created again: other groups then.
            pending.watch(broker, exchange);
        }
        (Event::Deadline, Phase::Polling) => {
            // What is there now, even if it is less than asked for. Reads may start; the answer then follows them.
            let evaluated = pending.evaluate(broker, exchange);
            if evaluated.reads == 0 {
                return pending.finish(broker, exchange);
            }
            pending.wait(broker, exchange, &evaluated);
        }
        // The disk decides when an answer that needs it is complete.
        (Event::Woken | Event::Deadline, Phase::Reading(_)) => {}
        (Event::Read { .. } | Event::Confirmed { .. }, Phase::Polling)
        | (Event::Appended { .. } | Event::Controller { .. } | Event::ProducerIds, _) => {
            unreachable!("a fetch waits for records, its reads, confirmations and its deadline only")
        }
    }
    Progress::Waiting(super::Pending::Fetch(pending))
}

/// The sum of one evaluation.
struct Evaluated {
    room: Room,
    /// Bytes that could be returned.
    limit: usize,
    bytes: usize,
    /// Memory that the reads under way will take.
    read_bytes: usize,
    reads: usize,
    failed: bool,
}

impl Pending {
    /// What was found is not enough, or waits for reads.
    fn wait(&mut self, broker: &mut Broker, exchange: Exchange, sum: &Evaluated) {
        if sum.reads > 0 {
            broker.keep_part(exchange.id, self.held_bytes);
            self.phase = Phase::Reading(sum.reads);
            return;
        }
        self.phase = Phase::Polling;
        if !sum.room.at_least_one {
            broker.wait_for_room(exchange.id);
        }
    }

    fn watch(&mut self, broker: &mut Broker, exchange: Exchange) {
        let version = broker.image().version();
        if self.watched.replace(version) == Some(version) {
            return;
        }
        for target in &self.targets {
            broker.watch(&target.place.0, target.place.1, exchange.id);
        }
    }

    /// Looks at every partition in order, within the byte limits. The first that has records gives at least one
    /// batch, however large (KIP-74).
    fn evaluate(&mut self, broker: &mut Broker, exchange: Exchange) -> Evaluated {
        let room = broker.answer_room();
        let limit = self.bytes_max.min(room.bytes);
        let mut sum = Evaluated { room, limit, bytes: 0, read_bytes: 0, reads: 0, failed: false };
        self.answers.clear();
        self.held_bytes = 0;
        for (part, target) in self.targets.iter().enumerate() {
            let waiter = Waiter {
                request: exchange.id,
                part: u32::try_from(part).expect("a frame holds fewer than 2^32 partitions"),
            };
            let mut answer =
                FetchPartitionData { partition_index: target.place.1, high_watermark: -1, ..Default::default() };
            let view = broker.fetch_view(&target.place.0, target.place.1, LeaderEpoch(target.leader_epoch));
            match view {
                Err(refusal) => {
                    answer.error_code = refusal.error;
                    if let Some(leader) = refusal.leader.filter(|_| exchange.version >= 12) {
                        answer.current_leader =
                            LeaderIdAndEpoch { leader_id: leader.node.0, leader_epoch: leader.epoch.0 };
                    }
                    // A leader that does not serve yet will in a moment, and wakes who waits.
                    sum.failed |= refusal.error != ErrorCode::OffsetNotAvailable;
                }
                Ok(view) => {
                    answer.high_watermark = view.high_watermark.0;
                    answer.last_stable_offset = view.high_watermark.0;
                    answer.log_start_offset = view.log_start.0;
                    if self.read_committed {
                        answer.aborted_transactions = Some(Vec::new());
                    }
                    let left = limit.saturating_sub(sum.bytes);
                    // Reads return whole chunks of files, however few bytes are wanted.
                    let held = self.held_bytes + sum.read_bytes;
                    let left = if sum.read_bytes < FETCH_BYTES_MAX && held < room.held_bytes { left } else { 0 };
                    let bytes_max = usize::try_from(target.bytes_max).unwrap_or(0).min(left);
                    let first = sum.bytes == 0 && room.at_least_one;
                    match broker.read(view.group, Offset(target.offset), bytes_max, first, waiter) {
                        ReadStart::Ready(batches) => {
                            sum.bytes += batches.bytes;
                            self.held_bytes += batches.held_bytes;
                            answer.records = Some(batches.slices.into_iter().collect());
                        }
                        ReadStart::Waiting { bytes, read_bytes } => {
                            sum.bytes += bytes;
                            sum.read_bytes += read_bytes;
                            sum.reads += 1;
                        }
                        ReadStart::Empty => {}
                        // A leader that was deposed and does not know it yet has an older end. Only a majority's
                        // word makes an offset behind the end wrong: clients reset their position on this error.
                        ReadStart::OutOfRange if target.offset > view.high_watermark.0 => {
                            match broker.confirm(view.group, waiter) {
                                Ok(()) => sum.reads += 1,
                                Err(error) => {
                                    answer.error_code = error;
                                    sum.failed = true;
                                }
                            }
                        }
                        ReadStart::OutOfRange => {
                            answer.error_code = ErrorCode::OffsetOutOfRange;
                            sum.failed = true;
                        }
                        ReadStart::Failed(error) => {
                            answer.error_code = error;
                            sum.failed = true;
                        }
                    }
                }
            }
            self.answers.push(answer);
        }
        sum
    }

    fn is_complete(&self, sum: &Evaluated, now: Now) -> bool {
        sum.reads == 0
            && (sum.failed
                || sum.bytes >= self.bytes_min.min(sum.limit.max(1))
                || self.targets.is_empty() && self.session == Session::None
                || now.monotonic >= self.deadline)
    }

    /// There is nothing to tell, there is no room for more, and there is time to wait for it.
    fn is_starved(&self, broker: &Broker, now: Now) -> bool {
        let has_news = |answer: &FetchPartitionData| {
            answer.error_code != ErrorCode::None || answer.records.as_ref().is_some_and(|records| !records.is_empty())
        };
        now.monotonic < self.deadline && !broker.answer_room().at_least_one && !self.answers.iter().any(has_news)
    }

    /// An offset behind the end that this node knew, now that a majority said whether it leads.
    fn judge(&mut self, part: u32, high_watermark: Result<Offset, ErrorCode>) {
        let asked = self.targets[part as usize].offset;
        let answer = &mut self.answers[part as usize];
        match high_watermark {
            Ok(high_watermark) if asked > high_watermark.0 => answer.error_code = ErrorCode::OffsetOutOfRange,
            // The record has come meanwhile: the client's next fetch gets it.
            Ok(high_watermark) => answer.high_watermark = high_watermark.0,
            Err(error) => answer.error_code = error,
        }
    }

    fn fill(&mut self, broker: &mut Broker, exchange: Exchange, part: u32, outcome: ReadOutcome) {
        let answer = &mut self.answers[part as usize];
        match outcome {
            ReadOutcome::Records(batches) => {
                broker.keep_part(exchange.id, batches.held_bytes);
                self.held_bytes += batches.held_bytes;
                answer.records = Some(batches.slices.into_iter().collect());
            }
            ReadOutcome::Failed(error) => answer.error_code = error,
            ReadOutcome::Found(_) => unreachable!("a fetch reads to send, not to find"),
        }
    }

    fn finish(self, broker: &mut Broker, exchange: Exchange) -> Progress
    where
        Self: Sized,
    {
        let mut response = FetchResponse {
            session_id: match self.session {
                Session::None => 0,
                Session::Created(id) | Session::Incremental(id) => id,
            },
            ..Default::default()
        };
        let mut record_bytes = 0;
        let mut places: BTreeMap<Str, usize> = BTreeMap::new();
        for (target, answer) in self.targets.into_iter().zip(self.answers) {
            let bytes = answer.records.as_ref().map_or(0, Records::len);
            record_bytes += bytes;
            let has_records = bytes > 0;
            let has_news = answer.error_code != ErrorCode::None;
            let ends = (answer.high_watermark, answer.log_start_offset);
            if !broker.fetch_sessions.tell(self.session, &target.place, has_news, has_records, ends) {
                continue;
            }
            let topic = *places.entry(target.place.0.clone()).or_insert_with(|| {
                response.responses.push(FetchableTopicResponse { topic: target.place.0, ..Default::default() });
                response.responses.len() - 1
            });
            response.responses[topic].partitions.push(answer);
        }
        Progress::Done(respond_with_records(exchange, &response, self.held_bytes.saturating_sub(record_bytes)))
    }
}
