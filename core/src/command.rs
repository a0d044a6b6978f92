//! What a Raft entry means to a state machine.
//!
//! Owns the header that every entry of ours carries beside its payload, and the trait that every replicated state
//! machine implements. The header travels as the entry's context and the payload as its data, so that a produced
//! batch stays the slice it arrived in.
//!
//! Invariant: apply is a pure function of (state, entry). It knows no clock, configuration, metadata image or
//! randomness; whatever it needs from outside was put into the command by the leader that proposed it.

use bytes::Bytes;

use crate::{
    ids::{LogIndex, ReplicaId, Term},
    log::segment::AppliedBatch,
    time::Wall,
};

/// The newest feature level this build understands. A command names the lowest level that understands it, and a
/// replica that meets one above its own halts rather than skip it.
pub const FEATURE_LEVEL: u16 = 1;

/// Names the request of a client that waits at the replica that proposed its command. Unique for that replica while
/// its process lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaiterToken(pub u64);

impl WaiterToken {
    /// Nobody waits for this command.
    pub const NONE: Self = Self(0);
}

/// What every command says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandHeader {
    /// Which command of its state machine it is; each state machine numbers its own.
    pub kind: u8,
    /// The lowest feature level that understands it.
    pub level: u16,
    /// The replica that proposed it.
    pub origin: ReplicaId,
    /// Whom to answer at `origin`.
    pub token: WaiterToken,
    /// The proposer's wall clock: the only time that apply ever sees.
    pub stamp: Wall,
}

/// Why the context of an entry is not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("{found} bytes are not a command header")]
    Length { found: usize },
    #[error("command headers of version {0} are unknown to this build")]
    Version(u8),
    #[error("it needs feature level {0}, and this build knows levels up to {FEATURE_LEVEL}")]
    Level(u16),
}

impl CommandHeader {
    /// Size of an encoded header.
    pub const BYTES: usize = 28;

    const VERSION: u8 = 1;

    /// Version, kind, level, origin, token and stamp; numbers little-endian.
    pub fn encode(&self) -> Bytes {
        let mut bytes = [0u8; Self::BYTES];
        bytes[0] = Self::VERSION;
        bytes[1] = self.kind;
        bytes[2..4].copy_from_slice(&self.level.to_le_bytes());
        bytes[4..12].copy_from_slice(&self.origin.0.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.token.0.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.stamp.0.to_le_bytes());
        Bytes::copy_from_slice(&bytes)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        match bytes.first() {
            Some(&version) if version != Self::VERSION => return Err(HeaderError::Version(version)),
            Some(_) | None => {}
        }
        let bytes: &[u8; Self::BYTES] = bytes.try_into().map_err(|_| HeaderError::Length { found: bytes.len() })?;
        let number = |at: usize| {
            let mut eight = [0u8; 8];
            eight.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(eight)
        };
        Ok(Self {
            kind: bytes[1],
            level: u16::from_le_bytes([bytes[2], bytes[3]]),
            origin: ReplicaId(number(4)),
            token: WaiterToken(number(12)),
            stamp: Wall(number(20).cast_signed()),
        })
    }

    /// The header of a command that is about to be applied: nothing of it may be skipped.
    ///
    /// # Errors
    ///
    /// Those of [`CommandHeader::decode`], and a level above [`FEATURE_LEVEL`].
    pub fn decode_understood(bytes: &[u8]) -> Result<Self, HeaderError> {
        let header = Self::decode(bytes)?;
        if header.level > FEATURE_LEVEL { Err(HeaderError::Level(header.level)) } else { Ok(header) }
    }
}

/// One committed entry as state machines see it. Raft's own entries (a new leader's empty entry, membership changes)
/// never reach apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub index: LogIndex,
    pub term: Term,
    pub header: CommandHeader,
    /// The command's payload; for a produce, the producer's record batch as it was sent.
    pub data: Bytes,
}

/// A replicated state machine.
pub trait StateMachine {
    /// What a client's request is answered with.
    type Response;

    /// Applies the next entry. Replicas, followers and recovery included, all call this in the order of the log;
    /// whoever is not the proposer discards `out`.
    fn apply(&mut self, entry: &Entry, out: &mut ApplyOutput<Self::Response>);

    /// The state as bytes, equal on all replicas at equal index.
    fn encode_image(&self, out: &mut Vec<u8>);

    fn restore_image(image: &[u8]) -> Result<Self, ImageError>
    where
        Self: Sized;
}

/// What applying entries tells the outside.
#[derive(Debug)]
pub struct ApplyOutput<R> {
    pub responses: Vec<Response<R>>,
    /// Batches that a partition accepted, in the order of their offsets.
    pub batches: Vec<AppliedBatch>,
}

/// The answer to a request; it reaches the client only if origin, term and token name a waiter of this replica.
#[derive(Debug, PartialEq, Eq)]
pub struct Response<R> {
    pub origin: ReplicaId,
    pub term: Term,
    pub token: WaiterToken,
    pub response: R,
}

impl<R> Default for ApplyOutput<R> {
    fn default() -> Self {
        Self { responses: Vec::new(), batches: Vec::new() }
    }
}

impl<R> ApplyOutput<R> {
    /// Answers the request that `entry` was proposed for, if anybody waits.
    pub fn respond(&mut self, entry: &Entry, response: R) {
        if entry.header.token != WaiterToken::NONE {
            self.responses.push(Response {
                origin: entry.header.origin,
                term: entry.term,
                token: entry.header.token,
                response,
            });
        }
    }
}

/// Why an image cannot be restored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    #[error("images of version {0} are unknown to this build")]
    Version(u16),
    #[error("the image is damaged at byte {offset}: {what}")]
    Damaged { offset: usize, what: &'static str },
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: CommandHeader = CommandHeader {
        kind: 3,
        level: 0x0102,
        origin: ReplicaId(0x1112_1314_1516_1718),
        token: WaiterToken(0x2122_2324_2526_2728),
        stamp: Wall(-2),
    };

    /// Entries on disk and replicas of other builds hold these bytes: a change of the format is a new version.
    #[test]
    fn the_encoding_of_version_1_is_this_for_ever() {
        let golden = [
            1, 3, 0x02, 0x01, 0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11, 0x28, 0x27, 0x26, 0x25, 0x24, 0x23, 0x22,
            0x21, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        ];
        assert_eq!(HEADER.encode(), golden.as_slice());
        assert_eq!(CommandHeader::decode(&golden), Ok(HEADER));
    }

    #[test]
    fn what_is_no_header_is_an_error() {
        let encoded = HEADER.encode();
        assert_eq!(CommandHeader::decode(&[]), Err(HeaderError::Length { found: 0 }));
        assert_eq!(CommandHeader::decode(&encoded[..27]), Err(HeaderError::Length { found: 27 }));
        assert_eq!(CommandHeader::decode(&[&encoded[..], &[0]].concat()), Err(HeaderError::Length { found: 29 }));
        assert_eq!(CommandHeader::decode(&[2, 0, 0]), Err(HeaderError::Version(2)), "a later version may be longer");
        assert_eq!(CommandHeader::decode_understood(&encoded), Err(HeaderError::Level(HEADER.level)));
        let known = CommandHeader { level: FEATURE_LEVEL, ..HEADER };
        assert_eq!(CommandHeader::decode_understood(&known.encode()), Ok(known));
    }

    #[test]
    fn only_those_who_wait_are_answered() {
        let entry = |token| Entry {
            index: LogIndex(5),
            term: Term(2),
            header: CommandHeader { token, ..HEADER },
            data: Bytes::new(),
        };
        let mut out = ApplyOutput::default();
        out.respond(&entry(WaiterToken::NONE), "nobody");
        out.respond(&entry(WaiterToken(9)), "somebody");
        assert_eq!(
            out.responses,
            [Response { origin: HEADER.origin, term: Term(2), token: WaiterToken(9), response: "somebody" }]
        );
    }
}
