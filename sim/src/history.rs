//! What clients did and saw.
//!
//! Invariant: entries are only added, and an outcome once known does not change. An operation without an answer keeps
//! the outcome unknown for ever: it may have happened, it may still happen.

use std::{collections::BTreeMap, fmt};

use kauri_core::ids::Offset;

use crate::time::Instant;

/// A partition of the workload, counted over all topics of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(pub u32);

/// A value that no two sends share: the producer and the number of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value {
    pub producer: u32,
    pub number: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No answer yet, or none that says what happened.
    Unknown,
    Acknowledged {
        offset: Offset,
        at: Instant,
    },
    /// The cluster or the client said that the record was not and will not be written.
    Failed {
        at: Instant,
    },
}

/// One record that a producer sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Send {
    pub partition: Partition,
    pub value: Value,
    pub invoked: Instant,
    pub outcome: Outcome,
}

/// The records of one answer to one consumer, in the order in which it gave them out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    pub consumer: u32,
    pub partition: Partition,
    pub at: Instant,
    pub records: Vec<(Offset, Value)>,
    pub high_watermark: Option<Offset>,
    pub source: Source,
}

/// Who answered a read, as far as the consumer could know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A client that never goes back to an older leader epoch (KIP-320).
    Followed,
    /// The leader of exactly this epoch: the request named it.
    Leader { epoch: i32 },
    /// A node that took itself for the leader; the client's version of the protocol knows no epochs.
    Node(usize),
}

/// One question for the latest offset, asked with a linearizable read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    pub partition: Partition,
    pub invoked: Instant,
    pub answer: Option<(Instant, Offset)>,
}

/// Names a send, for its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SendNumber(usize);

/// Names a probe, for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProbeNumber(usize);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    sends: Vec<Send>,
    reads: Vec<Read>,
    probes: Vec<Probe>,
    refusals: Vec<String>,
    acknowledged_ends: BTreeMap<Partition, Offset>,
    /// Lines for a trace, if someone listens. No part of what is judged.
    notes: Option<Vec<String>>,
}

impl Value {
    /// How a value stands in a record: these bytes, and behind them as many as the workload likes.
    pub const BYTES: usize = 8;

    pub fn encode(self) -> [u8; Self::BYTES] {
        (u64::from(self.producer) << 32 | u64::from(self.number)).to_be_bytes()
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let number = u64::from_be_bytes(bytes.get(..Self::BYTES)?.try_into().ok()?);
        Some(Self { producer: (number >> 32) as u32, number: (number & u64::from(u32::MAX)) as u32 })
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}-{}", self.producer, self.number)
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "partition {}", self.0)
    }
}

impl History {
    pub fn send(&mut self, partition: Partition, value: Value, invoked: Instant) -> SendNumber {
        self.sends.push(Send { partition, value, invoked, outcome: Outcome::Unknown });
        SendNumber(self.sends.len() - 1)
    }

    pub fn acknowledge(&mut self, send: SendNumber, offset: Offset, at: Instant) {
        self.conclude(send, Outcome::Acknowledged { offset, at });
        let end = self.acknowledged_ends.entry(self.sends[send.0].partition).or_default();
        *end = offset.plus(1).max(*end);
    }

    pub fn fail(&mut self, send: SendNumber, at: Instant) {
        self.conclude(send, Outcome::Failed { at });
    }

    fn conclude(&mut self, send: SendNumber, outcome: Outcome) {
        let known = &mut self.sends[send.0].outcome;
        assert_eq!(*known, Outcome::Unknown, "an outcome is told once");
        *known = outcome;
    }

    pub fn read(&mut self, read: Read) {
        self.reads.push(read);
    }

    pub fn probe(&mut self, partition: Partition, invoked: Instant) -> ProbeNumber {
        self.probes.push(Probe { partition, invoked, answer: None });
        ProbeNumber(self.probes.len() - 1)
    }

    pub fn answer(&mut self, probe: ProbeNumber, offset: Offset, at: Instant) {
        self.probes[probe.0].answer = Some((at, offset));
    }

    /// From now on clients may tell what they do.
    pub(crate) fn listen(&mut self) {
        self.notes = Some(Vec::new());
    }

    /// A line for the trace, made only if someone listens.
    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(notes) = &mut self.notes {
            notes.push(line());
        }
    }

    pub(crate) fn take_notes(&mut self) -> Vec<String> {
        self.notes.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// A client was told something that no correct client should be told.
    pub fn refuse(&mut self, what: String) {
        self.note(|| format!("refused: {what}"));
        self.refusals.push(what);
    }

    pub fn refusals(&self) -> &[String] {
        &self.refusals
    }

    /// The offset behind the last acknowledged record of a partition.
    pub fn acknowledged_end(&self, partition: Partition) -> Offset {
        self.acknowledged_ends.get(&partition).copied().unwrap_or_default()
    }

    pub fn sends(&self) -> &[Send] {
        &self.sends
    }

    pub fn reads(&self) -> &[Read] {
        &self.reads
    }

    pub fn probes(&self) -> &[Probe] {
        &self.probes
    }

    pub fn acknowledged(&self) -> impl Iterator<Item = (&Send, Offset)> {
        self.sends.iter().filter_map(|send| match send.outcome {
            Outcome::Acknowledged { offset, .. } => Some((send, offset)),
            Outcome::Unknown | Outcome::Failed { .. } => None,
        })
    }
}
