//! The messages with which replicas repair each other's segments, as bytes.
//!
//! What is asked for is named by its position in the bytes of the partition, which are the same on all replicas.
//! Invariant: what is decoded is bounded by the bytes that came; bytes of segments are a slice of the frame they came in.

use bytes::Bytes;

use crate::{
    codec::{CodecError, Decoder, Encode},
    ids::{GroupId, ReplicaId},
};

const VERSION: u8 = 1;

/// A question of one replica to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub group: GroupId,
    /// Who asks.
    pub from: ReplicaId,
    /// Who is asked.
    pub to: ReplicaId,
    /// The answer repeats it.
    pub number: u64,
    /// In the bytes of the partition.
    pub position: u64,
    pub bytes: u64,
    pub ask: Ask,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The bytes themselves, or the first of them.
    Bytes,
    /// The same, also where they are damaged: nobody has them as they were.
    BytesAsTheyAre,
    /// The checksum of the segment that begins at the position and has so many bytes.
    Digest,
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
    /// In slices; at least one byte.
    Bytes(Vec<Bytes>),
    /// CRC-32C.
    Digest(u32),
    /// What was asked for is not here, not finished or not yet known, or damaged here, too.
    Unavailable,
    /// Too much is under way already.
    Busy,
}

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
        out.put_u8(match self.ask {
            Ask::Bytes => 1,
            Ask::Digest => 2,
            Ask::BytesAsTheyAre => 3,
        });
        out.put_u64(self.position);
        out.put_u64(self.bytes);
        Bytes::from(out)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut from = Decoder::new(bytes);
        from.version("a question of a repair", VERSION)?;
        let (group, asking, to, number) =
            (GroupId(from.u64()?), ReplicaId(from.u64()?), ReplicaId(from.u64()?), from.u64()?);
        let ask = match from.u8()? {
            1 => Ask::Bytes,
            2 => Ask::Digest,
            3 => Ask::BytesAsTheyAre,
            _ => return Err(CodecError::Value("the kind of a question")),
        };
        let (position, bytes) = (from.u64()?, from.u64()?);
        from.finish()?;
        if bytes == 0 || position.checked_add(bytes).is_none_or(|end| end > 1 << 62) {
            return Err(CodecError::Value("a place in a partition"));
        }
        Ok(Self { group, from: asking, to, number, position, bytes, ask })
    }
}

impl Answer {
    /// The parts to be sent one after the other; bytes of segments are behind the first of them and not copied.
    pub fn encode(self) -> Vec<Bytes> {
        let mut out = Vec::new();
        put_head(&mut out, self.group, self.from, self.to, self.number);
        let payload = match self.reply {
            Reply::Bytes(slices) => {
                out.put_u8(1);
                slices
            }
            Reply::Digest(crc) => {
                out.put_u8(2);
                out.put_u32(crc);
                Vec::new()
            }
            Reply::Unavailable => {
                out.put_u8(3);
                Vec::new()
            }
            Reply::Busy => {
                out.put_u8(4);
                Vec::new()
            }
        };
        std::iter::once(Bytes::from(out)).chain(payload.into_iter().filter(|slice| !slice.is_empty())).collect()
    }

    pub fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        let mut from = Decoder::new(bytes);
        from.version("an answer of a repair", VERSION)?;
        let (group, answering, to, number) =
            (GroupId(from.u64()?), ReplicaId(from.u64()?), ReplicaId(from.u64()?), from.u64()?);
        let reply = match from.u8()? {
            1 => {
                let slice = bytes.slice_ref(from.take(from.remaining())?);
                if slice.is_empty() {
                    return Err(CodecError::Value("an answer without bytes"));
                }
                Reply::Bytes(vec![slice])
            }
            2 => Reply::Digest(from.u32()?),
            3 => Reply::Unavailable,
            4 => Reply::Busy,
            _ => return Err(CodecError::Value("the kind of an answer")),
        };
        from.finish()?;
        Ok(Self { group, from: answering, to, number, reply })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn question(ask: Ask) -> Question {
        let (from, to) = (ReplicaId(2), ReplicaId(3));
        Question { group: GroupId(1), from, to, number: 4, position: 65_536, bytes: 131_072, ask }
    }

    fn answer(reply: Reply) -> Answer {
        Answer { group: GroupId(1), from: ReplicaId(3), to: ReplicaId(2), number: 4, reply }
    }

    #[test]
    fn golden_bytes() {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let head = "01000000000000000100000000000000020000000000000003000000000000000401";
        let place = "00000000000100000000000000020000";
        assert_eq!(hex(&question(Ask::Bytes).encode()), format!("{head}{place}"));
        let bytes = answer(Reply::Digest(0x0102_0304)).encode().concat();
        let head = "0100000000000000010000000000000003000000000000000200000000000000040201020304";
        assert_eq!(hex(&bytes), head);
    }

    #[test]
    fn what_was_said_is_heard() {
        for ask in [Ask::Bytes, Ask::Digest, Ask::BytesAsTheyAre] {
            assert_eq!(Question::decode(&question(ask).encode()), Ok(question(ask)));
        }
        let bytes = Reply::Bytes(vec![Bytes::from_static(b"chunk")]);
        for reply in [bytes, Reply::Digest(7), Reply::Unavailable, Reply::Busy] {
            let encoded = Bytes::from(answer(reply.clone()).encode().concat());
            assert_eq!(Answer::decode(&encoded), Ok(answer(reply)));
        }
        assert!(Answer::decode(&Bytes::from(answer(Reply::Bytes(Vec::new())).encode().concat())).is_err());
        let endless = Question { position: u64::MAX, ..question(Ask::Bytes) };
        assert!(Question::decode(&endless.encode()).is_err());
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_refused_or_mean_something(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let bytes = Bytes::from(bytes);
            if let Ok(question) = Question::decode(&bytes) {
                prop_assert_eq!(question.encode(), bytes.clone());
            }
            if let Ok(answer) = Answer::decode(&bytes) {
                prop_assert_eq!(answer.encode().concat(), bytes.to_vec());
            }
        }
    }
}
