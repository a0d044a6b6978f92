//! Entries whose payload was lost on this disk: everything of them is known but the bytes.
//!
//! Such an entry was durable here once and may have been counted, so the replica votes by the true end of its log. But a
//! commit counts intact copies: acknowledgements at or behind the first faulty entry are held back until it is repaired,
//! and the replica neither campaigns nor leads, because a leader counts itself and has to send what it has. Truncation
//! by a leader ends it, too. Nothing faulty is applied or sent.
//!
//! Invariant: a payload takes the place of a lost one only if the log still holds the entry with this index, term and
//! CRC, and counts once it is durable. Does not fetch payloads: its caller asks other members.

use std::collections::BTreeMap;

use raft::{
    INVALID_ID,
    prelude::{Message, MessageType},
};

#[cfg(feature = "mutants")]
use crate::mutants::Mutant;

use super::{Group, Payload, Role};
use crate::{
    ids::{LogIndex, Term, WriteNumber},
    limits,
    log::{
        read::EntryRead,
        record::{EntryRecord, WalRecord},
        wal::entry_crc,
    },
};

/// An entry without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultyEntry {
    pub index: LogIndex,
    pub term: Term,
    pub crc: u32,
}

/// What this replica has of an entry that another one misses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Copy {
    Payload(Payload),
    OnDisk(EntryRead),
    /// It is applied here and no longer in the log.
    Compacted,
    /// It is lost here, too.
    Faulty,
    /// The log holds another entry there, or none.
    Absent,
}

/// What it means that the bytes of an entry are not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Nothing: the log does not need this place any more.
    Needless,
    /// It is applied: the log begins behind it from now on.
    Compacted,
    /// It has to be repaired.
    Faulty,
}

/// What is known about lost payloads beside the marks in the log.
#[derive(Debug, Default)]
pub(super) struct Faulty {
    /// Payloads that came from other members, until they are durable here.
    repairs: BTreeMap<LogIndex, Repair>,
    /// The furthest acknowledgement that was held back.
    held: Option<Held>,
}

#[derive(Debug)]
struct Repair {
    term: Term,
    payload: Payload,
    /// `None`: not yet handed to the WAL.
    write: Option<WriteNumber>,
}

#[derive(Debug)]
struct Held {
    response: Message,
    /// What of it was sent.
    sent: u64,
}

impl Group {
    /// Whether some payload of this replica's log is lost. While it is, the replica does not campaign.
    pub fn is_faulty(&self) -> bool {
        self.log().first_faulty().is_some()
    }

    pub fn first_faulty(&self) -> Option<LogIndex> {
        self.log().first_faulty()
    }

    /// Entries whose payload is to be asked for, in order; not those that are being repaired.
    pub fn faulty(&self) -> impl Iterator<Item = FaultyEntry> + '_ {
        let log = self.log();
        log.faulty().filter(|index| !self.faulty.repairs.contains_key(index)).map(|index| FaultyEntry {
            index,
            term: log.log_term(index),
            crc: log.location(index).expect("what was damaged lay somewhere").crc,
        })
    }

    /// The only voter has lost an entry, and nobody else could have committed without it.
    pub fn is_lost_alone(&self) -> bool {
        self.is_faulty() && self.is_single_voter()
    }

    /// The bytes that were read for an entry are not what was written. A leader that has to repair its own log steps
    /// down.
    pub fn damaged(&mut self, read: &EntryRead) -> Damage {
        let log = self.log();
        if !log.holds(read.index, read.term, read.location) || log.payload(read.index).is_some() {
            return Damage::Needless;
        }
        if read.index <= self.applied {
            self.node.mut_store().compact(read.index);
            return Damage::Compacted;
        }
        if self.role() != Role::Follower {
            self.raft(|node| {
                let term = node.raft.term;
                node.raft.become_follower(term, INVALID_ID);
            });
        }
        self.node.mut_store().mark_faulty(read.index);
        Damage::Faulty
    }

    /// Takes a payload that another member holds for a lost one. The record is to be appended to the WAL, and
    /// [`Group::wrote_repair`] to be told of it. `None` if it is not, or no longer, what is missing.
    pub fn repair(&mut self, index: LogIndex, term: Term, payload: Payload) -> Option<WalRecord> {
        let log = self.log();
        if !log.is_faulty(index) || self.faulty.repairs.contains_key(&index) {
            return None;
        }
        let location = log.location(index).expect("what was damaged lay somewhere");
        let crc = entry_crc(self.group, index, term, &payload.context, &payload.data);
        let lengths = (payload.context.len(), payload.data.len());
        let is_it = log.log_term(index) == term
            && crc == location.crc
            && lengths == (location.context_length as usize, location.data_length as usize);
        if !is_it && !accepts_any_fill() {
            return None;
        }
        let kind = log.kind(index);
        let payload = payload.detached();
        let (context, data) = (payload.context.clone(), payload.data.clone());
        self.faulty.repairs.insert(index, Repair { term, payload, write: None });
        Some(WalRecord::Fill(EntryRecord { group: self.group, index, term, kind, context, data }))
    }

    /// The record of a repair is in the WAL's write `write`, which may not be durable yet.
    pub fn wrote_repair(&mut self, index: LogIndex, write: WriteNumber) {
        let repair = self.faulty.repairs.get_mut(&index).expect("what was handed out is written");
        repair.write = Some(write);
    }

    /// The payload of a repair that is on its way to the disk.
    pub(super) fn payload_of_repair(&self, index: LogIndex) -> Option<&Payload> {
        self.faulty.repairs.get(&index).map(|repair| &repair.payload)
    }

    /// Writes of the WAL became durable: what they repair is whole again.
    pub(super) fn settle_repairs(&mut self) {
        if self.faulty.repairs.is_empty() {
            return;
        }
        let durable = self.durable;
        let done: Vec<LogIndex> = self
            .faulty
            .repairs
            .iter()
            .filter(|(_, repair)| repair.write.is_some_and(|write| write <= durable))
            .map(|(index, _)| *index)
            .collect();
        for index in done {
            let repair = self.faulty.repairs.remove(&index).expect("its key was just listed");
            let log = self.node.mut_store();
            // A leader may have truncated it meanwhile.
            if log.is_faulty(index) && log.log_term(index) == repair.term {
                log.repaired(index);
                log.supply(index, repair.term, repair.payload);
            }
        }
    }

    /// What this replica can give to one that lost an entry.
    pub fn copy_of(&self, index: LogIndex, term: Term, crc: u32) -> Copy {
        let log = self.log();
        if index <= log.truncated_index() {
            return Copy::Compacted;
        }
        if index > log.last_log_index() || (log.log_term(index) != term && !accepts_any_fill()) {
            return Copy::Absent;
        }
        if log.is_faulty(index) {
            return Copy::Faulty;
        }
        if let Some(payload) = log.payload(index) {
            let is_it = entry_crc(self.group, index, term, &payload.context, &payload.data) == crc;
            return if is_it || accepts_any_fill() { Copy::Payload(payload) } else { Copy::Absent };
        }
        let location = log.location(index).expect("an entry whose payload is not in memory has a place on disk");
        if location.crc != crc {
            return Copy::Absent;
        }
        Copy::OnDisk(EntryRead { group: self.group, index, term, location })
    }

    /// Lets time pass for a replica that must not campaign: a leader that was heard of long ago is no reason to refuse
    /// votes, but no timeout is ever reached.
    pub(super) fn tick_without_campaign(&mut self) {
        self.raft(|node| {
            let elapsed = &mut node.raft.election_elapsed;
            *elapsed = (*elapsed + 1).min(limits::ELECTION_TICKS);
        });
    }

    /// Whether an acknowledgement waits that may be sent now.
    pub(super) fn has_held_back(&self) -> bool {
        let limit = self.acknowledged_at_most();
        self.faulty.held.as_ref().is_some_and(|held| held.sent < held.response.index.min(limit))
    }

    /// No acknowledgement leaves that counts a copy which is not intact. What was held back goes out as far as repairs
    /// went since.
    pub(super) fn hold_back(&mut self) {
        if self.faulty.held.is_none() && !self.is_faulty() {
            return;
        }
        let (term, limit) = (self.term().0, self.acknowledged_at_most());
        self.faulty.held.take_if(|held| held.response.term != term);
        for message in &mut self.outbox {
            let acknowledges = message.msg_type == MessageType::MsgAppendResponse as i32 && !message.reject;
            if !acknowledges || message.index <= limit || acknowledges_anyway() {
                continue;
            }
            let sent = self.faulty.held.as_ref().map_or(0, |held| held.sent).max(limit);
            if self.faulty.held.as_ref().is_none_or(|held| held.response.index <= message.index) {
                self.faulty.held = Some(Held { response: message.clone(), sent });
            }
            message.index = limit;
        }
        let Some(held) = &mut self.faulty.held else { return };
        let now = held.response.index.min(limit);
        if now > held.sent {
            held.sent = now;
            self.outbox.push(Message { index: now, ..held.response.clone() });
        }
        self.faulty.held.take_if(|held| held.sent >= held.response.index);
    }

    /// The last index that an acknowledgement may name.
    fn acknowledged_at_most(&self) -> u64 {
        self.first_faulty().map_or(u64::MAX, |first| first.0 - 1)
    }
}

/// A planted bug: what is lost here is acknowledged all the same.
fn acknowledges_anyway() -> bool {
    #[cfg(feature = "mutants")]
    return Mutant::FaultyAcknowledged.is_planted();
    #[cfg(not(feature = "mutants"))]
    false
}

/// A planted bug: a payload of this index will do, whatever its term.
fn accepts_any_fill() -> bool {
    #[cfg(feature = "mutants")]
    return Mutant::FillOfAnotherTerm.is_planted();
    #[cfg(not(feature = "mutants"))]
    false
}
