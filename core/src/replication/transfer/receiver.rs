//! The side that misses something: what it asks next, and of whom.
//!
//! Owns the order of a transfer (batches until little is missing, a snapshot, its image and the rest of its batches, the
//! report of the switch), time limits, the pace and the size of answers. Invariant: one question is open at a time, and only its answer is
//! taken; whatever is lost is asked again, of whoever leads then; what was appended is never fetched twice. So an
//! announcement that comes again, a new leader or a restart costs at most what was under way.
//!
//! Does not verify or store batches, nor judge whether the switch is possible: its caller does.

use bytes::Bytes;

use super::{
    message::{Answer, Ask, LogEnd, Question, Refusal, Reply, SnapshotHead},
    throttle::Throttle,
};
#[cfg(feature = "mutants")]
use crate::mutants::Mutant;
use crate::{
    ids::{GroupId, LogIndex, Offset, ReplicaId},
    limits::{
        BATCH_BYTES_MAX, TRANSFER_ANSWER_BYTES_MAX, TRANSFER_ANSWER_BYTES_MIN, TRANSFER_ANSWER_TIMEOUT,
        TRANSFER_DELTA_BYTES_MAX, TRANSFER_PAUSE, TRANSFER_REPORT, TRANSFER_STUCK,
    },
    replication::group::SnapshotPosition,
    time::{Monotonic, earliest},
};

/// One transfer to one replica.
#[derive(Debug)]
pub struct Receiver {
    group: GroupId,
    replica: ReplicaId,
    /// What was announced: once the log gets so far by itself, no transfer is needed.
    target: LogIndex,
    stage: Stage,
    open: Option<Open>,
    throttle: Throttle,
    /// What one answer may hold: less after each one that did not come in time, as on a path that others fill, too.
    answer_bytes_max: usize,
    pause_until: Monotonic,
    /// When it got on last, and where the log ended then.
    progressed: Monotonic,
    reached: Offset,
    /// Why the last question was not answered as asked.
    refusal: Option<Refusal>,
    wake: Option<Monotonic>,
}

#[derive(Debug)]
enum Stage {
    /// Much is missing, or it is not known how much.
    Behind,
    /// Little is missing: a snapshot is asked for.
    Snapshot,
    /// What belongs to the snapshot is fetched, then waits for the switch.
    Delta(Box<Delta>),
    /// The caller switches.
    Switching,
    /// The leader is told of the switch.
    Reporting { position: SnapshotPosition, until: Monotonic },
}

#[derive(Debug)]
struct Delta {
    /// Who keeps it.
    source: ReplicaId,
    head: SnapshotHead,
    image: Vec<u8>,
}

/// The question without an answer.
#[derive(Debug)]
struct Open {
    number: u64,
    to: ReplicaId,
    at: Monotonic,
}

/// What the replica knows of itself.
#[derive(Clone, Copy, Debug)]
pub struct Local {
    /// Who is asked: whoever leads, as far as it is known.
    pub source: Option<ReplicaId>,
    pub commit: LogIndex,
    /// Where its batches end; none for a group without segments.
    pub log: Option<LogEnd>,
    /// Whether there is memory for batches.
    pub room: bool,
}

/// What came of an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    Nothing,
    /// To be verified and appended ahead of the state machine: batches from this offset on.
    Append {
        from: Offset,
        batches: Bytes,
    },
}

/// How a transfer stands when nothing is to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    UnderWay,
    /// Everything of the snapshot is here: the caller switches when that is possible.
    Complete,
    /// Raft brought everything that was announced.
    Needless,
    /// The leader knows of the switch, or does not need to.
    Reported,
    /// It did not get on for too long.
    Stuck,
}

/// A state to switch to.
#[derive(Debug)]
pub struct Complete {
    pub head: SnapshotHead,
    pub image: Bytes,
}

impl Receiver {
    /// `target` is where the announced state stands.
    pub fn new(now: Monotonic, group: GroupId, replica: ReplicaId, target: LogIndex) -> Self {
        Self {
            group,
            replica,
            target,
            stage: Stage::Behind,
            open: None,
            throttle: Throttle::new(),
            answer_bytes_max: TRANSFER_ANSWER_BYTES_MAX,
            pause_until: now,
            progressed: now,
            reached: Offset(0),
            refusal: None,
            wake: None,
        }
    }

    /// A state was announced again, which changes nothing but what is aimed at.
    pub fn announced(&mut self, target: LogIndex) {
        self.target = self.target.max(target);
    }

    /// The next question, if it is time for one. `number` is counted over all transfers of this process.
    pub fn poll(&mut self, now: Monotonic, local: &Local, number: &mut u64) -> Option<Question> {
        self.wake = None;
        if let Some(log) = local.log
            && log.next_offset > self.reached
        {
            self.reached = log.next_offset;
            self.progressed = now;
        }
        self.follow(now, local);
        if let Some(open) = &self.open {
            self.wake = Some(open.at + TRANSFER_ANSWER_TIMEOUT);
            return None;
        }
        let source = local.source?;
        let ask = self.ask(local)?;
        let at = match ask {
            Ask::Batches { .. } | Ask::Image { .. } => self.pause_until.max(self.throttle.ready_at()),
            Ask::Snapshot | Ask::Installed { .. } | Ask::GaveUp => self.pause_until,
        };
        if at > now {
            self.wake = Some(at);
            return None;
        }
        *number += 1;
        self.open = Some(Open { number: *number, to: source, at: now });
        self.wake = Some(now + TRANSFER_ANSWER_TIMEOUT);
        Some(Question { group: self.group, from: self.replica, to: source, number: *number, ask })
    }

    /// Gives up what a former leader was asked, and what took too long.
    fn follow(&mut self, now: Monotonic, local: &Local) {
        let is_late = |open: &mut Open| now.since(open.at) >= TRANSFER_ANSWER_TIMEOUT;
        if let Some(late) = self.open.take_if(is_late)
            && local.source == Some(late.to)
        {
            self.answer_bytes_max = (self.answer_bytes_max / 2).max(TRANSFER_ANSWER_BYTES_MIN);
        }
        self.open.take_if(|open| local.source.is_some_and(|source| source != open.to));
        let Some(source) = local.source else { return };
        // What a former leader keeps is a state that was committed, but nobody holds the log behind it for us any more.
        if let Stage::Delta(delta) = &self.stage
            && delta.source != source
        {
            self.stage = Stage::Snapshot;
        }
    }

    fn ask(&self, local: &Local) -> Option<Ask> {
        let batches = |log: LogEnd, upper| {
            let bytes_max = self.answer_bytes_max as u32;
            local.room.then_some(Ask::Batches { from: log.next_offset, upper, bytes_max })
        };
        match &self.stage {
            Stage::Behind => match local.log {
                Some(log) => batches(log, Offset(i64::MAX)),
                None => Some(Ask::Snapshot),
            },
            Stage::Snapshot => Some(Ask::Snapshot),
            Stage::Delta(delta) => match local.log {
                _ if !delta.has_image() => Some(Ask::Image {
                    snapshot: delta.head.snapshot,
                    offset: delta.image.len() as u64,
                    bytes_max: self.answer_bytes_max as u32,
                }),
                Some(log) if !delta.has_batches(Some(log)) => batches(log, delta.head.end.next_offset),
                Some(_) | None => None,
            },
            Stage::Switching => None,
            Stage::Reporting { position, .. } => Some(Ask::Installed { position: *position }),
        }
    }

    /// Takes an answer; nothing if it is not the answer to the open question.
    pub fn answer(&mut self, now: Monotonic, local: &Local, answer: Answer) -> Option<Taken> {
        let open = self.open.as_ref()?;
        if (answer.group, answer.from, answer.to, answer.number) != (self.group, open.to, self.replica, open.number) {
            return None;
        }
        let asked = self.ask(local);
        let source = open.to;
        self.open = None;
        self.answer_bytes_max = (self.answer_bytes_max + TRANSFER_ANSWER_BYTES_MIN).min(TRANSFER_ANSWER_BYTES_MAX);
        match (answer.reply, asked) {
            (Reply::Batches { from, end, batches }, Some(Ask::Batches { from: asked, bytes_max, .. }))
                if from == asked =>
            {
                let batches = match <[Bytes; 1]>::try_from(batches) {
                    Ok([batches]) => batches,
                    Err(slices) => Bytes::from(slices.concat()),
                };
                if batches.len() > BATCH_BYTES_MAX.max(bytes_max as usize) {
                    self.reject(now);
                    return Some(Taken::Nothing);
                }
                Some(self.batches(now, local, from, end, batches))
            }
            (Reply::Snapshot(head), Some(Ask::Snapshot)) => {
                self.snapshot(now, local, source, *head);
                Some(Taken::Nothing)
            }
            (Reply::Image { snapshot, offset, bytes }, Some(Ask::Image { snapshot: of, offset: at, bytes_max }))
                if snapshot == of && offset == at && bytes.len() <= bytes_max as usize =>
            {
                self.image(now, &bytes);
                Some(Taken::Nothing)
            }
            (Reply::Noted, Some(Ask::Installed { position })) => {
                self.stage = Stage::Reporting { position, until: now };
                Some(Taken::Nothing)
            }
            (Reply::Refused(refusal), _) => {
                self.refused(now, refusal);
                Some(Taken::Nothing)
            }
            // The log moved on meanwhile, or the answer is nonsense: it is asked again.
            (Reply::Batches { .. } | Reply::Snapshot(_) | Reply::Image { .. } | Reply::Noted, _) => {
                self.pause_until = now + TRANSFER_PAUSE;
                Some(Taken::Nothing)
            }
        }
    }

    fn batches(&mut self, now: Monotonic, local: &Local, from: Offset, end: LogEnd, batches: Bytes) -> Taken {
        let log = local.log.expect("a group without segments asks for no batches");
        let gap = end.bytes.saturating_sub(log.bytes + batches.len() as u64);
        self.throttle.fetched(now, batches.len(), gap);
        match &self.stage {
            Stage::Behind if gap <= TRANSFER_DELTA_BYTES_MAX || batches.is_empty() => self.stage = Stage::Snapshot,
            // It promised more: whoever leads there knows why.
            Stage::Delta(_) if batches.is_empty() => self.pause_until = now + TRANSFER_PAUSE,
            Stage::Behind | Stage::Snapshot | Stage::Delta(_) | Stage::Switching | Stage::Reporting { .. } => {}
        }
        if batches.is_empty() { Taken::Nothing } else { Taken::Append { from, batches } }
    }

    fn snapshot(&mut self, now: Monotonic, local: &Local, source: ReplicaId, head: SnapshotHead) {
        // A leader that is behind what is committed here has just been elected, and will not stay behind. Batches that are
        // here already, because a former leader had applied more, are compared when the state machine comes to them.
        let behind = head.position.index <= local.commit;
        if behind || !head.membership.contains(self.replica) {
            self.pause_until = now + TRANSFER_PAUSE;
            return;
        }
        self.stage = Stage::Delta(Box::new(Delta { source, head, image: Vec::new() }));
        self.check_image(now);
    }

    fn image(&mut self, now: Monotonic, bytes: &Bytes) {
        let Stage::Delta(delta) = &mut self.stage else { unreachable!("an image is asked for only for a snapshot") };
        let left = delta.head.image_bytes - delta.image.len() as u64;
        if bytes.is_empty() || bytes.len() as u64 > left {
            self.again(now);
            return;
        }
        delta.image.extend_from_slice(bytes);
        let left = left - bytes.len() as u64;
        self.throttle.fetched(now, bytes.len(), left);
        self.progressed = now;
        self.check_image(now);
    }

    fn check_image(&mut self, now: Monotonic) {
        let Stage::Delta(delta) = &self.stage else { unreachable!("the caller just put it there") };
        if delta.has_image() && crc32c::crc32c(&delta.image) != delta.head.image_crc {
            self.again(now);
        }
    }

    fn refused(&mut self, now: Monotonic, refusal: Refusal) {
        self.refusal = Some(refusal);
        match refusal {
            Refusal::NotLeader
            | Refusal::Busy
            | Refusal::NotMember
            | Refusal::NoBatches
            | Refusal::Unreadable
            | Refusal::TooLarge => {
                self.pause_until = now + TRANSFER_PAUSE;
            }
            Refusal::Gone => self.again(now),
        }
    }

    /// From the question for a snapshot on.
    fn again(&mut self, now: Monotonic) {
        self.stage = Stage::Snapshot;
        self.pause_until = now + TRANSFER_PAUSE;
    }

    /// The question that was asked last did not leave this node.
    pub fn not_sent(&mut self, now: Monotonic) {
        self.open = None;
        self.reject(now);
    }

    /// The state that was complete cannot be switched to.
    pub fn discard(&mut self, now: Monotonic) {
        self.again(now);
    }

    /// What was to be appended is not what it should be.
    pub fn reject(&mut self, now: Monotonic) {
        self.pause_until = now + TRANSFER_PAUSE;
    }

    pub fn standing(&self, now: Monotonic, local: &Local) -> Standing {
        match &self.stage {
            Stage::Reporting { position, until } => {
                // Entries behind the place come from a leader that knows.
                if *until <= now || local.commit > position.index { Standing::Reported } else { Standing::UnderWay }
            }
            Stage::Behind | Stage::Snapshot | Stage::Delta(_) if local.commit >= self.target => Standing::Needless,
            Stage::Behind | Stage::Snapshot | Stage::Delta(_) if now.since(self.progressed) >= TRANSFER_STUCK => {
                Standing::Stuck
            }
            Stage::Delta(delta) if delta.has_image() && delta.has_batches(local.log) => Standing::Complete,
            Stage::Behind | Stage::Snapshot | Stage::Delta(_) | Stage::Switching => Standing::UnderWay,
        }
    }

    /// What it is at, for whoever looks for the reason why it does not get on: of the stage, of the open question, of the
    /// last refusal.
    pub fn describe(&self) -> String {
        let stage = match &self.stage {
            Stage::Behind => "fetches batches".to_owned(),
            Stage::Snapshot => "asks for a snapshot".to_owned(),
            Stage::Delta(delta) => {
                let SnapshotHead { position, end, image_bytes, .. } = &delta.head;
                let (index, image, to) = (position.index.0, delta.image.len(), end.next_offset.0);
                format!("fetches the snapshot of index {index}: {image} of {image_bytes} bytes, batches to {to}")
            }
            Stage::Switching => "switches".to_owned(),
            Stage::Reporting { .. } => "reports".to_owned(),
        };
        let open = self.open.as_ref().map_or("none", |_| "one");
        format!("{stage}; questions open: {open}; last refusal: {:?}", self.refusal)
    }

    /// The snapshot that is complete.
    pub fn head(&self) -> Option<&SnapshotHead> {
        match &self.stage {
            Stage::Delta(delta) => Some(&delta.head),
            Stage::Behind | Stage::Snapshot | Stage::Switching | Stage::Reporting { .. } => None,
        }
    }

    /// Takes out the state to switch to: nothing is asked until [`Receiver::installed`].
    ///
    /// # Panics
    /// If it is not complete.
    pub fn complete(&mut self) -> Complete {
        let Stage::Delta(delta) = std::mem::replace(&mut self.stage, Stage::Switching) else {
            panic!("a state is switched to when there is one")
        };
        self.wake = None;
        assert!(delta.has_image(), "a state is switched to when it is complete");
        Complete { head: delta.head, image: Bytes::from(delta.image) }
    }

    /// The switch is durable: the leader is told from now on.
    pub fn installed(&mut self, now: Monotonic, position: SnapshotPosition) {
        self.open = None;
        self.pause_until = now;
        self.stage = Stage::Reporting { position, until: now + TRANSFER_REPORT };
    }

    /// The message that ends a transfer that is not gone on with.
    pub fn give_up(&self, to: ReplicaId, number: &mut u64) -> Question {
        *number += 1;
        Question { group: self.group, from: self.replica, to, number: *number, ask: Ask::GaveUp }
    }

    /// When to poll if nothing else happens. Set by [`Receiver::poll`].
    pub fn next_deadline(&self) -> Option<Monotonic> {
        let end = match self.stage {
            Stage::Reporting { until, .. } => Some(until),
            Stage::Behind | Stage::Snapshot | Stage::Delta(_) | Stage::Switching => None,
        };
        earliest(self.wake, end)
    }
}

impl Delta {
    fn has_image(&self) -> bool {
        self.image.len() as u64 == self.head.image_bytes
    }

    fn has_batches(&self, log: Option<LogEnd>) -> bool {
        #[cfg(feature = "mutants")]
        if Mutant::TransferLosesLastChunk.is_planted() {
            return log.is_none_or(|log| log.bytes + TRANSFER_ANSWER_BYTES_MAX as u64 >= self.head.end.bytes);
        }
        log.is_none_or(|log| log.next_offset >= self.head.end.next_offset)
    }
}

#[cfg(test)]
mod tests;
