//! The messages of a repair, as bytes.
//!
//! They travel as control messages; large ones take the bulk lane. Invariant: what is decoded is bounded by the bytes
//! that came, and by what an entry may have. The payload of an answer is a slice of the frame it came in.

use bytes::Bytes;

use crate::{
    codec::{CodecError, Decoder, Encode},
    ids::{GroupId, LogIndex, ReplicaId, Term},
    limits::RAFT_ENTRY_BYTES_MAX,
    replication::group::{FaultyEntry, Payload},
};

const VERSION: u8 = 1;

/// Asks a member for the payload of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub group: GroupId,
    /// Who asks.
    pub from: ReplicaId,
    /// Who is asked.
    pub to: ReplicaId,
    /// The answer repeats it.
    pub number: u64,
    pub entry: FaultyEntry,
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
    Payload(Payload),
    Refused(Refusal),
}

/// Why there is no payload in the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The state of that replica holds what the entry did.
    #[error("the entry is applied and no longer in the log")]
    Compacted,
    #[error("the payload is lost here, too")]
    Lost,
    #[error("the log holds no such entry")]
    Absent,
    #[error("too much is under way already")]
    Busy,
}

impl Refusal {
    fn number(self) -> u8 {
        match self {
            Self::Compacted => 1,
            Self::Lost => 2,
            Self::Absent => 3,
            Self::Busy => 4,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        [Self::Compacted, Self::Lost, Self::Absent, Self::Busy].into_iter().find(|refusal| refusal.number() == number)
    }
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
        out.put_u64(self.entry.index.0);
        out.put_u64(self.entry.term.0);
        out.put_u32(self.entry.crc);
        Bytes::from(out)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut from = Decoder::new(bytes);
        from.version("a question for a payload", VERSION)?;
        let (group, asking, to, number) =
            (GroupId(from.u64()?), ReplicaId(from.u64()?), ReplicaId(from.u64()?), from.u64()?);
        let entry = FaultyEntry { index: LogIndex(from.u64()?), term: Term(from.u64()?), crc: from.u32()? };
        if !(1..1 << 60).contains(&entry.index.0) || !(1..=i32::MAX as u64).contains(&entry.term.0) {
            return Err(CodecError::Value("a place in a log"));
        }
        from.finish()?;
        Ok(Self { group, from: asking, to, number, entry })
    }
}

impl Answer {
    /// The parts to be sent one after the other; a payload is behind the first of them and not copied.
    pub fn encode(self) -> Vec<Bytes> {
        let mut out = Vec::new();
        put_head(&mut out, self.group, self.from, self.to, self.number);
        let payload = match self.reply {
            Reply::Payload(Payload { context, data }) => {
                out.put_u8(1);
                out.put_u32(u32::try_from(context.len()).expect("an entry is far below 4 GiB"));
                vec![context, data]
            }
            Reply::Refused(refusal) => {
                out.put_u8(2);
                out.put_u8(refusal.number());
                Vec::new()
            }
        };
        let payload = payload.into_iter().filter(|slice| !slice.is_empty());
        std::iter::once(Bytes::from(out)).chain(payload).collect()
    }

    pub fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        let mut from = Decoder::new(bytes);
        from.version("an answer with a payload", VERSION)?;
        let (group, answering, to, number) =
            (GroupId(from.u64()?), ReplicaId(from.u64()?), ReplicaId(from.u64()?), from.u64()?);
        let reply = match from.u8()? {
            1 => {
                let context_length = from.u32()? as usize;
                if from.remaining() > RAFT_ENTRY_BYTES_MAX {
                    return Err(CodecError::Value("the length of a payload"));
                }
                let context = bytes.slice_ref(from.take(context_length)?);
                let data = bytes.slice_ref(from.take(from.remaining())?);
                Reply::Payload(Payload { context, data })
            }
            2 => Reply::Refused(Refusal::from_number(from.u8()?).ok_or(CodecError::Value("a refusal"))?),
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

    fn question() -> Question {
        let entry = FaultyEntry { index: LogIndex(5), term: Term(6), crc: 7 };
        Question { group: GroupId(1), from: ReplicaId(2), to: ReplicaId(3), number: 4, entry }
    }

    fn answer(reply: Reply) -> Answer {
        Answer { group: GroupId(1), from: ReplicaId(3), to: ReplicaId(2), number: 4, reply }
    }

    fn payload() -> Reply {
        Reply::Payload(Payload { context: Bytes::from_static(b"ctx"), data: Bytes::from_static(b"data") })
    }

    /// Nodes of different builds speak this: a change needs a new version.
    #[test]
    fn the_encoding_of_version_1_is_this_for_ever() {
        let eight = u64::to_be_bytes;
        let head = [&[1][..], &eight(1), &eight(2), &eight(3), &eight(4)].concat();
        let golden = [&head[..], &eight(5), &eight(6), &[0, 0, 0, 7]].concat();
        assert_eq!(question().encode(), golden);
        assert_eq!(Question::decode(&golden), Ok(question()));

        let head = [&[1][..], &eight(1), &eight(3), &eight(2), &eight(4)].concat();
        let golden = Bytes::from([&head[..], &[1, 0, 0, 0, 3], b"ctxdata"].concat());
        assert_eq!(answer(payload()).encode().concat(), golden);
        assert_eq!(Answer::decode(&golden), Ok(answer(payload())));
        for (refusal, number) in [(Refusal::Compacted, 1), (Refusal::Lost, 2), (Refusal::Absent, 3), (Refusal::Busy, 4)]
        {
            let golden = Bytes::from([&head[..], &[2, number]].concat());
            assert_eq!(answer(Reply::Refused(refusal)).encode().concat(), golden);
            assert_eq!(Answer::decode(&golden), Ok(answer(Reply::Refused(refusal))));
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let bytes = question().encode();
        for end in 0..bytes.len() {
            assert!(Question::decode(&bytes[..end]).is_err());
        }
        assert!(Question::decode(&[&bytes[..], &[0]].concat()).is_err());
        let nowhere = Question { entry: FaultyEntry { index: LogIndex(0), ..question().entry }, ..question() };
        assert!(Question::decode(&nowhere.encode()).is_err());
        let long = Payload { context: Bytes::new(), data: Bytes::from(vec![0; RAFT_ENTRY_BYTES_MAX + 1]) };
        assert!(Answer::decode(&answer(Reply::Payload(long)).encode().concat().into()).is_err());
    }

    proptest! {
        #[test]
        fn damaged_bytes_never_panic(at in 0usize..50, value: u8, cut in 0usize..60) {
            let mut bytes = answer(payload()).encode().concat();
            let place = at % bytes.len();
            bytes[place] = value;
            bytes.truncate(cut);
            let _ = Answer::decode(&bytes.clone().into());
            let _ = Question::decode(&bytes);
        }
    }
}
