//! The messages of a state transfer, as bytes: what a leader attaches to a Raft snapshot, questions and answers.
//!
//! Questions and answers travel as control messages; large ones take the bulk lane. Invariant: what is decoded is
//! bounded by the bytes that came, and holds nothing that its receiver could not have asked for. The payload of an answer
//! is a slice of the frame it came in.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::{
    codec::{CodecError, Decoder, Encode},
    ids::{GroupId, LogIndex, Offset, ReplicaId, Term},
    limits::TRANSFER_IMAGE_BYTES_MAX,
    replication::group::{Membership, SnapshotPosition},
};

const VERSION: u8 = 1;

/// Where the log of a partition ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogEnd {
    pub next_offset: Offset,
    /// Of all batches: equal on all replicas at equal next offset.
    pub bytes: u64,
}

/// What a leader attaches to the Raft message that starts a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    pub log_start: Offset,
    /// The end of the leader's applied batches; zeros for a group without segments.
    pub end: LogEnd,
}

/// Names a snapshot that a replica keeps for another one, for as long as its process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotNumber(pub u64);

/// A question of a replica to the one that it takes for its leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub group: GroupId,
    /// Who asks.
    pub from: ReplicaId,
    /// Who is asked.
    pub to: ReplicaId,
    /// The answer repeats it.
    pub number: u64,
    pub ask: Ask,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Whole applied batches from the one at `from` on, none that ends behind `upper`: about so many bytes, at least one
    /// batch if there is one.
    Batches { from: Offset, upper: Offset, bytes_max: u32 },
    /// A snapshot of the state as it is now. Replaces one that was made before for the same replica.
    Snapshot,
    /// A part of the image of a snapshot.
    Image { snapshot: SnapshotNumber, offset: u64, bytes_max: u32 },
    /// The replica switched to the state at `position`, durably.
    Installed { position: SnapshotPosition },
    /// The replica does not go on with the transfer.
    GaveUp,
}

/// An answer; it repeats what the question said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub group: GroupId,
    /// Who answers.
    pub from: ReplicaId,
    /// Who asked.
    pub to: ReplicaId,
    pub number: u64,
    pub reply: Reply,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Whole batches in slices, none if the log ends at `from` or before it.
    Batches {
        from: Offset,
        end: LogEnd,
        batches: Vec<Bytes>,
    },
    Snapshot(Box<SnapshotHead>),
    Image {
        snapshot: SnapshotNumber,
        offset: u64,
        bytes: Bytes,
    },
    /// What was reported is known.
    Noted,
    Refused(Refusal),
}

/// Everything of a snapshot but its image and its batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotHead {
    pub snapshot: SnapshotNumber,
    pub position: SnapshotPosition,
    /// The membership at `position`; names the replica that asked.
    pub membership: Membership,
    /// Replicas that were members once.
    pub removed: BTreeSet<ReplicaId>,
    pub log_start: Offset,
    /// Where the log ends at `position`; zeros for a group without segments.
    pub end: LogEnd,
    pub image_bytes: u64,
    /// CRC-32C of the whole image.
    pub image_crc: u32,
}

/// Why a question is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the replica does not lead, or does not serve yet")]
    NotLeader,
    #[error("too much is under way already")]
    Busy,
    #[error("the snapshot is not kept any more")]
    Gone,
    #[error("the replica that asks is not a member")]
    NotMember,
    /// Offsets below the start of the log, beyond its end, or of a group without segments.
    #[error("there are no batches at this offset")]
    NoBatches,
    #[error("the batches cannot be read from the disk")]
    Unreadable,
    #[error("the state is larger than what can be transferred")]
    TooLarge,
}

impl Announcement {
    pub fn encode(&self) -> Bytes {
        let mut out = vec![VERSION];
        out.put_i64(self.log_start.0);
        self.end.encode(&mut out);
        Bytes::from(out)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut from = Decoder::new(bytes);
        from.version("the announcement of a state transfer", VERSION)?;
        let announcement = Self { log_start: offset(&mut from)?, end: LogEnd::decode(&mut from)? };
        from.finish()?;
        Ok(announcement)
    }
}

impl LogEnd {
    fn encode(self, out: &mut Vec<u8>) {
        out.put_i64(self.next_offset.0);
        out.put_u64(self.bytes);
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, CodecError> {
        Ok(Self { next_offset: offset(from)?, bytes: from.u64()? })
    }
}

fn offset(from: &mut Decoder<'_>) -> Result<Offset, CodecError> {
    match from.i64()? {
        offset if offset >= 0 => Ok(Offset(offset)),
        _ => Err(CodecError::Value("an offset")),
    }
}

fn put_position(out: &mut Vec<u8>, position: SnapshotPosition) {
    out.put_u64(position.index.0);
    out.put_u64(position.term.0);
}

fn position(from: &mut Decoder<'_>) -> Result<SnapshotPosition, CodecError> {
    let position = SnapshotPosition { index: LogIndex(from.u64()?), term: Term(from.u64()?) };
    let is_place = (1..1 << 60).contains(&position.index.0) && (1..=i32::MAX as u64).contains(&position.term.0);
    if is_place { Ok(position) } else { Err(CodecError::Value("a place in a log")) }
}

/// Group, sender, receiver and number: the head of questions and answers alike.
fn put_head(out: &mut Vec<u8>, group: GroupId, from: ReplicaId, to: ReplicaId, number: u64) {
    out.put_u8(VERSION);
    out.put_u64(group.0);
    out.put_u64(from.0);
    out.put_u64(to.0);
    out.put_u64(number);
}

impl Question {
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        put_head(&mut out, self.group, self.from, self.to, self.number);
        match self.ask {
            Ask::Batches { from, upper, bytes_max } => {
                out.put_u8(1);
                out.put_i64(from.0);
                out.put_i64(upper.0);
                out.put_u32(bytes_max);
            }
            Ask::Snapshot => out.put_u8(2),
            Ask::Image { snapshot, offset, bytes_max } => {
                out.put_u8(3);
                out.put_u64(snapshot.0);
                out.put_u64(offset);
                out.put_u32(bytes_max);
            }
            Ask::Installed { position } => {
                out.put_u8(4);
                put_position(&mut out, position);
            }
            Ask::GaveUp => out.put_u8(5),
        }
        Bytes::from(out)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut from = Decoder::new(bytes);
        from.version("a question of a state transfer", VERSION)?;
        let (group, asking, to, number) =
            (GroupId(from.u64()?), ReplicaId(from.u64()?), ReplicaId(from.u64()?), from.u64()?);
        let ask = match from.u8()? {
            1 => Ask::Batches { from: offset(&mut from)?, upper: offset(&mut from)?, bytes_max: from.u32()? },
            2 => Ask::Snapshot,
            3 => Ask::Image { snapshot: SnapshotNumber(from.u64()?), offset: from.u64()?, bytes_max: from.u32()? },
            4 => Ask::Installed { position: position(&mut from)? },
            5 => Ask::GaveUp,
            _ => return Err(CodecError::Value("the kind of a question")),
        };
        from.finish()?;
        Ok(Self { group, from: asking, to, number, ask })
    }
}

impl Answer {
    /// The parts to be sent one after the other; a payload is behind the first of them and not copied.
    pub fn encode(self) -> Vec<Bytes> {
        let mut out = Vec::new();
        put_head(&mut out, self.group, self.from, self.to, self.number);
        let payload = match self.reply {
            Reply::Batches { from, end, batches } => {
                out.put_u8(1);
                out.put_i64(from.0);
                end.encode(&mut out);
                batches
            }
            Reply::Snapshot(head) => {
                out.put_u8(2);
                head.encode(&mut out);
                Vec::new()
            }
            Reply::Image { snapshot, offset, bytes } => {
                out.put_u8(3);
                out.put_u64(snapshot.0);
                out.put_u64(offset);
                vec![bytes]
            }
            Reply::Noted => {
                out.put_u8(4);
                Vec::new()
            }
            Reply::Refused(refusal) => {
                out.put_u8(5);
                out.put_u8(refusal.number());
                Vec::new()
            }
        };
        let payload = payload.into_iter().filter(|slice| !slice.is_empty());
        std::iter::once(Bytes::from(out)).chain(payload).collect()
    }

    pub fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        let mut from = Decoder::new(bytes);
        from.version("an answer of a state transfer", VERSION)?;
        let (group, answering, to, number) =
            (GroupId(from.u64()?), ReplicaId(from.u64()?), ReplicaId(from.u64()?), from.u64()?);
        let reply = match from.u8()? {
            1 => {
                let (at, end) = (offset(&mut from)?, LogEnd::decode(&mut from)?);
                let batches = rest(bytes, &mut from)?;
                Reply::Batches { from: at, end, batches: if batches.is_empty() { Vec::new() } else { vec![batches] } }
            }
            2 => Reply::Snapshot(Box::new(SnapshotHead::decode(&mut from)?)),
            3 => {
                let (snapshot, offset) = (SnapshotNumber(from.u64()?), from.u64()?);
                Reply::Image { snapshot, offset, bytes: rest(bytes, &mut from)? }
            }
            4 => Reply::Noted,
            5 => Reply::Refused(Refusal::from_number(from.u8()?).ok_or(CodecError::Value("a refusal"))?),
            _ => return Err(CodecError::Value("the kind of an answer")),
        };
        from.finish()?;
        Ok(Self { group, from: answering, to, number, reply })
    }
}

/// Everything that is left, as a slice of the message.
fn rest(bytes: &Bytes, from: &mut Decoder<'_>) -> Result<Bytes, CodecError> {
    Ok(bytes.slice_ref(from.take(from.remaining())?))
}

impl SnapshotHead {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.snapshot.0);
        put_position(out, self.position);
        out.put_counted(&self.membership.encode());
        out.put_count(self.removed.len());
        for replica in &self.removed {
            out.put_u64(replica.0);
        }
        out.put_i64(self.log_start.0);
        self.end.encode(out);
        out.put_u64(self.image_bytes);
        out.put_u32(self.image_crc);
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, CodecError> {
        let (snapshot, position) = (SnapshotNumber(from.u64()?), position(from)?);
        let membership =
            Membership::decode(from.counted()?).map_err(|_| CodecError::Value("the membership of a snapshot"))?;
        let removed: BTreeSet<_> = from.list(8, |from| Ok(ReplicaId(from.u64()?)))?.into_iter().collect();
        if removed.iter().any(|replica| membership.contains(*replica)) {
            return Err(CodecError::Value("a member that was removed"));
        }
        let (log_start, end) = (offset(from)?, LogEnd::decode(from)?);
        let (image_bytes, image_crc) = (from.u64()?, from.u32()?);
        if image_bytes > TRANSFER_IMAGE_BYTES_MAX as u64 || log_start > end.next_offset {
            return Err(CodecError::Value("the bounds of a snapshot"));
        }
        Ok(Self { snapshot, position, membership, removed, log_start, end, image_bytes, image_crc })
    }
}

impl Refusal {
    const ALL: [Self; 7] =
        [Self::NotLeader, Self::Busy, Self::Gone, Self::NotMember, Self::NoBatches, Self::Unreadable, Self::TooLarge];

    fn number(self) -> u8 {
        match self {
            Self::NotLeader => 1,
            Self::Busy => 2,
            Self::Gone => 3,
            Self::NotMember => 4,
            Self::NoBatches => 5,
            Self::Unreadable => 6,
            Self::TooLarge => 7,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|refusal| refusal.number() == number)
    }
}

#[cfg(test)]
mod tests;
