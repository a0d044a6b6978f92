//! The batches of one partition on their way to the broker, and the sequence numbers that they carry.
//!
//! Invariant: batches are sent in the order in which they were filled. A batch that was sent before is sent again only
//! at the head and alone, with the bytes it had, so that the broker recognises it. A batch gets another producer
//! identity only if every attempt so far was answered by a proof that it was not written; otherwise it is given up
//! with an unknown outcome, because sending it under another identity might write it twice.
//!
//! Brokers accept any sequence number from a producer they do not know. Therefore the first batch under an identity,
//! and the first after a long silence, travels alone: were it refused, the next one would take its place.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use kauri_protocol::{
    error::ErrorCode,
    records::{BatchBuilder, BatchError, BatchView, NO_PRODUCER, Producer},
    wire::Str,
};

use super::{
    config::ProducerConfig,
    record::{FailureReason, Outcome, ProduceFailure, RecordHeader, SendId},
    results::{Accepted, Finished, Results, Written},
};
use crate::{
    cluster::CallId,
    connection::SendError as CallSendError,
    io::{Monotonic, Now},
};

/// After this long without an acknowledgement a broker may have forgotten the producer.
const PROOF_AGE_MAX: Duration = Duration::from_secs(60);

const NEVER_SENT: &str = "it could not be sent to the partition's leader";

/// What a batch in memory takes beside its bytes, and what a record does.
const BATCH_OVERHEAD_BYTES: usize = 256;
const RECORD_OVERHEAD_BYTES: usize = size_of::<Accepted>();

/// What the broker knows an idempotent producer by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) id: i64,
    pub(super) epoch: i16,
}

/// How an attempt to write a batch ended.
#[derive(Debug)]
pub(super) enum Attempt {
    Written(Written),
    Refused {
        error: ErrorCode,
        message: Option<Str>,
        /// Whether the answer named a leader that was not known yet.
        leader_news: bool,
    },
    /// Nothing was sent.
    NotSent(String),
    /// Sent, and not answered.
    Unanswered(String),
    Unsendable(CallSendError),
}

#[derive(Debug)]
struct Open {
    builder: BatchBuilder,
    records: Vec<Accepted>,
    created: Monotonic,
    charge: usize,
    /// Whether it is sent as soon as possible, full or not.
    due: bool,
}

#[derive(Debug)]
enum Content {
    /// Never sent.
    Fresh(BatchBuilder),
    /// Carries the partition's identity, or none if the producer is not idempotent.
    Stamped { bytes: Bytes, producer: Producer },
    /// Was refused for certain under an identity that is not used any more.
    Unstamped(Bytes),
}

#[derive(Debug)]
struct Batch {
    content: Content,
    records: Vec<Accepted>,
    created: Monotonic,
    charge: usize,
    call: Option<CallId>,
    attempts: u32,
    /// Whether an attempt ended without a proof that nothing was written.
    may_be_written: bool,
    /// A batch behind this one is written: it must not be written any more.
    overtaken: bool,
    /// A batch before this one is not written for certain, so the broker will refuse this one.
    orphaned: bool,
    last_error: String,
}

/// See the module head.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) topic: Str,
    pub(super) index: i32,
    open: Option<Open>,
    queue: VecDeque<Batch>,
    in_flight: usize,
    in_flight_node: Option<i32>,
    identity: Option<Identity>,
    /// Nothing new gets the identity; it is dropped with the last batch that carries it.
    abandoned: bool,
    next_sequence: i32,
    /// When the broker last showed that it knows the identity.
    proven: Option<Monotonic>,
    not_before: Monotonic,
    pause: Duration,
    /// The entry of this partition in the producer's timers.
    pub(super) timer: Option<Monotonic>,
}

impl Batch {
    fn is_stamped(&self) -> bool {
        matches!(self.content, Content::Stamped { .. })
    }
}

impl Partition {
    pub(super) fn new(topic: Str, index: i32) -> Self {
        Self {
            topic,
            index,
            open: None,
            queue: VecDeque::new(),
            in_flight: 0,
            in_flight_node: None,
            identity: None,
            abandoned: false,
            next_sequence: 0,
            proven: None,
            not_before: Monotonic::default(),
            pause: Duration::ZERO,
            timer: None,
        }
    }

    /// Adds a record of about `bytes` to the open batch; returns how much memory that takes.
    #[allow(clippy::too_many_arguments, reason = "the parts of a record, which are not copied into a value first")]
    pub(super) fn append(
        &mut self,
        now: Now,
        config: &ProducerConfig,
        id: SendId,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[RecordHeader<'_>],
        bytes: usize,
    ) -> Result<usize, BatchError> {
        if self.open.as_ref().is_some_and(|open| open.builder.len() + bytes > config.batch_bytes) {
            self.seal();
        }
        let mut charge = RECORD_OVERHEAD_BYTES;
        let mut fresh = None;
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                charge += BATCH_OVERHEAD_BYTES;
                fresh.insert(Open {
                    builder: BatchBuilder::new(config.compression),
                    records: Vec::new(),
                    created: now.monotonic,
                    charge: 0,
                    due: config.linger.is_zero(),
                })
            }
        };
        let before = open.builder.len();
        open.builder.append(timestamp, key, value, headers)?;
        charge += open.builder.len() - before;
        open.charge += charge;
        open.records.push(Accepted { id, timestamp });
        if open.builder.len() >= config.batch_bytes {
            open.due = true;
        }
        if fresh.is_some() {
            self.open = fresh;
        }
        Ok(charge)
    }

    /// The open batch takes no more records.
    fn seal(&mut self) {
        let Some(open) = self.open.take() else { return };
        self.queue.push_back(Batch {
            content: Content::Fresh(open.builder),
            records: open.records,
            created: open.created,
            charge: open.charge,
            call: None,
            attempts: 0,
            may_be_written: false,
            overtaken: false,
            orphaned: false,
            last_error: String::new(),
        });
    }

    /// What is there is sent without waiting for more.
    pub(super) fn flush(&mut self) {
        if let Some(open) = &mut self.open {
            open.due = true;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_none() && self.queue.is_empty()
    }

    /// Whether something is to be sent as soon as that is possible.
    pub(super) fn is_due(&self) -> bool {
        self.queue.iter().any(|batch| batch.call.is_none()) || self.open.as_ref().is_some_and(|open| open.due)
    }

    /// Does what time brings: an open batch becomes due, old batches are given up. Returns an identity that is not
    /// used any more.
    pub(super) fn wake(&mut self, now: Now, config: &ProducerConfig, results: &mut Results) -> Option<Identity> {
        if let Some(open) = &mut self.open
            && open.created + config.linger <= now.monotonic
        {
            open.due = true;
        }
        let is_late = |created: Monotonic| created + config.delivery_timeout <= now.monotonic;
        while self.queue.front().is_some_and(|batch| batch.call.is_none() && is_late(batch.created)) {
            let batch = &self.queue[0];
            let last = if batch.last_error.is_empty() { NEVER_SENT } else { &batch.last_error }.to_owned();
            self.fail(0, FailureReason::TimedOut { last }, results);
        }
        if self.queue.is_empty() && self.open.as_ref().is_some_and(|open| is_late(open.created)) {
            self.seal();
            self.fail(0, FailureReason::TimedOut { last: NEVER_SENT.to_owned() }, results);
        }
        self.drop_identity_if_unused()
    }

    /// When `wake` has something to do.
    pub(super) fn next_wake(&self, now: Now, config: &ProducerConfig) -> Option<Monotonic> {
        let linger = self.open.as_ref().filter(|open| !open.due).map(|open| open.created + config.linger);
        let oldest = match self.queue.front() {
            Some(batch) => batch.call.is_none().then_some(batch.created),
            None => self.open.as_ref().map(|open| open.created),
        };
        let pause = (self.not_before > now.monotonic && self.is_due()).then_some(self.not_before);
        [linger, oldest.map(|at| at + config.delivery_timeout), pause].into_iter().flatten().min()
    }

    /// Whether a batch may be sent to the node now. If not, an answer or `wake` will change that.
    pub(super) fn may_send(&self, now: Now, config: &ProducerConfig) -> bool {
        if now.monotonic < self.not_before {
            return false;
        }
        let alone = self.in_flight == 0;
        let at = self.queue.iter().position(|batch| batch.call.is_none());
        if let Some(at) = at
            && self.queue[at].attempts > 0
        {
            return at == 0 && alone;
        }
        if at.is_none() && !self.open.as_ref().is_some_and(|open| open.due) {
            return false;
        }
        if self.abandoned {
            // The batch needs another identity, which it gets once no batch carries the old one.
            return false;
        }
        let proven =
            !config.is_idempotent() || self.proven.is_some_and(|proven| now.monotonic.since(proven) < PROOF_AGE_MAX);
        alone || (proven && self.in_flight < config.in_flight_max)
    }

    /// The node that must get the next batch, because it has not answered the previous one.
    pub(super) fn bound_to(&self) -> Option<i32> {
        self.in_flight_node.filter(|_| self.in_flight > 0)
    }

    /// Whether the next batch needs an identity that this partition does not have.
    pub(super) fn needs_identity(&self) -> bool {
        self.identity.is_none()
    }

    /// The bytes to send next; only after `may_send`. `current` is the producer's identity, `None` if it has none.
    /// If the batch cannot be built, it has failed.
    pub(super) fn encode(&mut self, current: Option<Identity>, results: &mut Results) -> Option<Bytes> {
        if self.queue.iter().all(|batch| batch.call.is_some()) {
            self.seal();
        }
        let at = self.queue.iter().position(|batch| batch.call.is_none()).expect("may_send found something to send");
        if current.is_some() && self.identity != current && !self.queue.iter().any(Batch::is_stamped) {
            self.identity = current;
            self.next_sequence = 0;
            self.proven = None;
        }
        let producer = match self.identity {
            Some(identity) => Producer { id: identity.id, epoch: identity.epoch, base_sequence: self.next_sequence },
            None => NO_PRODUCER,
        };
        let batch = &mut self.queue[at];
        let built = match std::mem::replace(&mut batch.content, Content::Unstamped(Bytes::new())) {
            Content::Stamped { bytes, producer } => {
                batch.content = Content::Stamped { bytes: bytes.clone(), producer };
                return Some(bytes);
            }
            Content::Fresh(builder) => builder.build(producer),
            Content::Unstamped(bytes) => BatchView::new(bytes).map(|view| {
                let header = view.restamp_producer(producer);
                Bytes::from([&header[..], &view.body()].concat())
            }),
        };
        match built {
            Ok(bytes) => {
                batch.content = Content::Stamped { bytes: bytes.clone(), producer };
                if self.identity.is_some() {
                    let count = i64::try_from(batch.records.len()).expect("a batch has fewer than 2^31 records");
                    let next = (i64::from(self.next_sequence) + count) & i64::from(i32::MAX);
                    self.next_sequence = i32::try_from(next).expect("cut to 31 bits");
                }
                Some(bytes)
            }
            Err(error) => {
                self.fail(at, error.into(), results);
                None
            }
        }
    }

    /// The bytes of the last `encode` were handed over.
    pub(super) fn sent(&mut self, call: CallId, node: i32) {
        let batch = self.queue.iter_mut().find(|batch| batch.call.is_none()).expect("it was just encoded");
        assert!(batch.is_stamped(), "only an encoded batch is sent");
        batch.call = Some(call);
        batch.attempts += 1;
        self.in_flight += 1;
        self.in_flight_node = Some(node);
    }

    /// An attempt ended. Returns an identity that is not used any more.
    pub(super) fn settle(
        &mut self,
        now: Now,
        config: &ProducerConfig,
        call: CallId,
        attempt: Attempt,
        results: &mut Results,
    ) -> Option<Identity> {
        let at = self.queue.iter().position(|batch| batch.call == Some(call)).expect("a batch is in flight until then");
        let batch = &mut self.queue[at];
        batch.call = None;
        self.in_flight -= 1;
        match attempt {
            Attempt::Written(written) => {
                self.finish(at, Ok(written), results);
                self.queue.iter_mut().take(at).for_each(|batch| batch.overtaken = true);
                self.proven = Some(now.monotonic);
                self.pause = Duration::ZERO;
            }
            Attempt::Unsendable(error) => self.fail(at, error.into(), results),
            Attempt::NotSent(error) => {
                batch.last_error = error;
                self.back_off(now, config);
            }
            Attempt::Unanswered(error) => {
                batch.may_be_written = true;
                batch.last_error = error;
                self.back_off(now, config);
            }
            Attempt::Refused { error, message, leader_news } => {
                batch.may_be_written |= !proves_absence(error);
                batch.last_error = error.to_string();
                self.refused(now, config, at, error, message, leader_news, results);
            }
        }
        self.give_up_orphans(results);
        self.drop_identity_if_unused()
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of an answer")]
    fn refused(
        &mut self,
        now: Now,
        config: &ProducerConfig,
        at: usize,
        error: ErrorCode,
        message: Option<Str>,
        leader_news: bool,
        results: &mut Results,
    ) {
        match error {
            // Only the head can tell that the sequence is lost: for others the batch before is merely not there yet.
            ErrorCode::OutOfOrderSequenceNumber if at > 0 && self.identity.is_some() => self.back_off(now, config),
            ErrorCode::OutOfOrderSequenceNumber
            | ErrorCode::UnknownProducerId
            | ErrorCode::InvalidProducerEpoch
            | ErrorCode::ProducerFenced
            | ErrorCode::InvalidProducerIdMapping
                if self.identity.is_some() =>
            {
                self.abandoned = true;
                self.queue
                    .iter_mut()
                    .skip(at)
                    .filter(|batch| batch.is_stamped())
                    .for_each(|batch| batch.orphaned = true);
                self.back_off(now, config);
            }
            _ if error.is_retriable() && leader_news => {}
            _ if error.is_retriable() => self.back_off(now, config),
            _ => self.fail(at, FailureReason::Refused { error, message }, results),
        }
    }

    /// Orphans that may have been written are given up; the others are written under another identity.
    fn give_up_orphans(&mut self, results: &mut Results) {
        let mut at = 0;
        while at < self.queue.len() {
            let batch = &mut self.queue[at];
            if !batch.orphaned || batch.call.is_some() {
                at += 1;
                continue;
            }
            if batch.may_be_written || batch.overtaken {
                self.fail(at, FailureReason::SequenceLost(ErrorCode::OutOfOrderSequenceNumber), results);
                continue;
            }
            batch.orphaned = false;
            let Content::Stamped { bytes, .. } = &batch.content else {
                unreachable!("only stamped batches are orphaned")
            };
            batch.content = Content::Unstamped(bytes.clone());
            at += 1;
        }
    }

    fn drop_identity_if_unused(&mut self) -> Option<Identity> {
        if !self.abandoned || self.queue.iter().any(Batch::is_stamped) {
            return None;
        }
        self.abandoned = false;
        self.identity.take()
    }

    fn back_off(&mut self, now: Now, config: &ProducerConfig) {
        self.pause =
            if self.pause.is_zero() { config.retry_pause } else { (self.pause * 2).min(config.retry_pause_max) };
        self.not_before = now.monotonic + self.pause;
    }

    /// Gives up a batch that is not in flight.
    fn fail(&mut self, at: usize, reason: FailureReason, results: &mut Results) {
        let batch = &self.queue[at];
        let outcome = if batch.may_be_written { Outcome::Unknown } else { Outcome::NotWritten };
        if let Content::Stamped { producer, .. } = &batch.content
            && self.identity.is_some()
            && outcome == Outcome::NotWritten
            && !batch.orphaned
        {
            if self.queue.iter().skip(at + 1).any(Batch::is_stamped) {
                self.abandoned = true;
                self.queue.iter_mut().skip(at + 1).filter(|batch| batch.is_stamped()).for_each(|b| b.orphaned = true);
            } else {
                // Nobody used its numbers.
                self.next_sequence = producer.base_sequence;
            }
        }
        // After an unknown outcome the broker's answer to the next batch tells whether there is a gap.
        self.finish(at, Err(ProduceFailure { outcome, reason }), results);
    }

    fn finish(&mut self, at: usize, outcome: Result<Written, ProduceFailure>, results: &mut Results) {
        let batch = self.queue.remove(at).expect("the caller found it there");
        results.push(Finished {
            topic: self.topic.clone(),
            partition: self.index,
            records: batch.records,
            outcome,
            charge: batch.charge,
        });
    }

    /// Fails what was never handed to a broker.
    pub(super) fn fail_unsent(&mut self, reason: &FailureReason, results: &mut Results) {
        self.seal();
        while let Some(at) = self.queue.iter().position(|batch| batch.call.is_none() && batch.attempts == 0) {
            self.fail(at, reason.clone(), results);
        }
    }

    /// Fails everything; answers that still come find nothing.
    pub(super) fn abort(&mut self, results: &mut Results) {
        self.seal();
        while let Some(batch) = self.queue.front_mut() {
            batch.may_be_written |= batch.call.take().is_some();
            self.fail(0, FailureReason::Closed, results);
        }
        self.in_flight = 0;
    }
}

/// Whether a broker that answers so has not written the batch in this attempt. Kept to codes that are decided before
/// the batch is appended, or instead of that; a leader that steps down, for one, may have appended it already.
fn proves_absence(error: ErrorCode) -> bool {
    matches!(
        error,
        ErrorCode::CorruptMessage
            | ErrorCode::UnknownTopicOrPartition
            | ErrorCode::MessageTooLarge
            | ErrorCode::InvalidTopicException
            | ErrorCode::RecordListTooLarge
            | ErrorCode::NotEnoughReplicas
            | ErrorCode::InvalidRequiredAcks
            | ErrorCode::TopicAuthorizationFailed
            | ErrorCode::ClusterAuthorizationFailed
            | ErrorCode::InvalidTimestamp
            | ErrorCode::UnsupportedVersion
            | ErrorCode::InvalidRequest
            | ErrorCode::UnsupportedForMessageFormat
            | ErrorCode::PolicyViolation
            | ErrorCode::OutOfOrderSequenceNumber
            | ErrorCode::InvalidProducerEpoch
            | ErrorCode::InvalidTxnState
            | ErrorCode::InvalidProducerIdMapping
            | ErrorCode::TransactionalIdAuthorizationFailed
            | ErrorCode::UnknownProducerId
            | ErrorCode::UnsupportedCompressionType
            | ErrorCode::InvalidRecord
            | ErrorCode::ThrottlingQuotaExceeded
            | ErrorCode::ProducerFenced
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_wrap() {
        let config = ProducerConfig { batch_bytes: 1, ..ProducerConfig::default() };
        let now = Now::default();
        let identity = Some(Identity { id: 7, epoch: 0 });
        let mut results = Results::default();
        let mut partition = Partition::new(Str::from("t"), 0);
        let mut sequences = Vec::new();
        for record in 0..4 {
            partition.append(now, &config, SendId(record), 0, None, Some(b"v"), &[], 10).unwrap();
            if record == 1 {
                partition.next_sequence = i32::MAX - 1;
            }
            let bytes = partition.encode(identity, &mut results).unwrap();
            sequences.push(BatchView::new(bytes).unwrap().header().producer.base_sequence);
            partition.sent(CallId(record), 1);
            let written = Written { base_offset: None, append_time: None };
            partition.settle(now, &config, CallId(record), Attempt::Written(written), &mut results);
        }
        assert_eq!(sequences, [0, i32::MAX - 1, i32::MAX, 0]);
    }
}
