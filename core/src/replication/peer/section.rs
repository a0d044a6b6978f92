//! The sections of a frame: who speaks on a link, Raft messages of groups, and opaque control messages.
//!
//! A Raft message is encoded without the payloads of its entries; these follow as they are, so that neither side
//! copies them. Invariant: a decoded message says of sender and receiver what its envelope says, and its entries
//! hold exactly the payloads that came with it. Whether the message makes sense in its group is checked by the group.

use bytes::{BufMut, Bytes};
use prost::{Message as _, encoding};
use raft::prelude::{Entry, Message, MessageType};

use crate::{
    config::Endpoint,
    ids::{DirectoryId, GroupId, LinkId, LogIndex, ReplicaId, Uuid, WriteNumber},
    limits,
    replication::peer::frame::{Cursor, FrameBuilder, SECTION_HEADER_BYTES},
};

/// What a section is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SectionKind {
    Hello,
    Raft,
    Control,
}

/// One section of a frame.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "sections are decoded one at a time and nearly all are Raft messages")]
pub enum Section {
    Hello(Hello),
    Raft(Envelope, Message),
    Control(ControlKind, Bytes),
}

/// The first section of the first frame on every link: what its dialler says about itself beyond every header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The sender's data directory.
    pub directory: DirectoryId,
    /// The dialler's number of this link. Later links of the same process have higher numbers.
    pub link: LinkId,
    /// A hash of what the configuration says about the cluster's formation; opaque here.
    pub configuration: u64,
    /// Where clients reach the sender.
    pub advertised: Endpoint,
    pub rack: Option<String>,
    /// The sender's data directory holds no cluster yet.
    pub empty: bool,
    /// The highest position that the receiver of this hello ever told the sender to be durable.
    pub seen: Option<Seen>,
}

/// A position of a WAL in the past, of the data directory it belongs to: another directory counts anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub directory: DirectoryId,
    pub durable: WriteNumber,
}

/// Which replica speaks to which; checked before a message gets to raft-rs, which has none of these checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    pub group: GroupId,
    pub from: ReplicaId,
    pub to: ReplicaId,
    /// Tells incarnations of the group's replicas apart: a number that the sender's group got with its creation
    /// record and raises with every membership change it applies. Carried, not compared, here.
    pub epoch: u32,
}

/// What a control message is about. The modules that use control messages own the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ControlKind(pub u16);

/// Why the body of a section is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SectionError {
    #[error("it ends too early")]
    Cut,
    #[error("{0} bytes follow its end")]
    Trailing(usize),
    #[error("a text is not UTF-8")]
    Text,
    #[error("{0} is neither 0 nor 1")]
    Bool(u8),
    #[error("{0} entries are more than a message may have")]
    Entries(u32),
    #[error("a message of {0} bytes without payloads is longer than allowed")]
    Message(u32),
    #[error("the Raft message is no protocol buffer")]
    Encoding,
    #[error("it announces {announced} entries and has {present}")]
    EntryCount { announced: u32, present: u32 },
    #[error("an entry has a payload within the message")]
    PayloadInMessage,
    #[error("message and envelope name different replicas")]
    Envelope,
}

impl SectionKind {
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Hello => 1,
            Self::Raft => 2,
            Self::Control => 3,
        }
    }

    pub(super) fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Hello),
            2 => Some(Self::Raft),
            3 => Some(Self::Control),
            _ => None,
        }
    }
}

impl Section {
    /// What a replica says with it to hold durably: its log up to and including this entry.
    pub fn acknowledges(&self) -> Option<(Envelope, LogIndex)> {
        let Self::Raft(envelope, message) = self else { return None };
        let accepts = message.msg_type == MessageType::MsgAppendResponse as i32 && !message.reject;
        accepts.then_some((*envelope, LogIndex(message.index)))
    }

    pub(super) fn decode(kind: SectionKind, body: Bytes) -> Result<Self, SectionError> {
        let mut cursor = Cursor::new(body);
        let section = match kind {
            SectionKind::Hello => Self::Hello(Hello::decode(&mut cursor)?),
            SectionKind::Raft => {
                let (envelope, message) = decode_raft(&mut cursor)?;
                Self::Raft(envelope, message)
            }
            SectionKind::Control => {
                let kind = ControlKind(cursor.u16().ok_or(SectionError::Cut)?);
                Self::Control(kind, rest(&mut cursor))
            }
        };
        match cursor.remaining() {
            0 => Ok(section),
            trailing => Err(SectionError::Trailing(trailing)),
        }
    }
}

fn rest(cursor: &mut Cursor) -> Bytes {
    let count = cursor.remaining();
    cursor.bytes(count).expect("as many bytes as remain")
}

const UUID_BYTES: usize = 16;

impl Hello {
    pub fn encode(&self, frame: &mut FrameBuilder) {
        let rack = self.rack.as_ref();
        let length = UUID_BYTES
            + 8
            + 8
            + (4 + self.advertised.host.len() + 2)
            + (1 + rack.map_or(0, |rack| 4 + rack.len()))
            + 1
            + (1 + self.seen.map_or(0, |_| UUID_BYTES + 8));
        frame.section(SectionKind::Hello, length);
        let out = frame.reserve(length);
        let before = out.len();
        out.put_slice(&self.directory.0.0);
        out.put_u64(self.link.0);
        out.put_u64(self.configuration);
        put_text(out, &self.advertised.host);
        out.put_u16(self.advertised.port);
        out.put_u8(u8::from(rack.is_some()));
        if let Some(rack) = rack {
            put_text(out, rack);
        }
        out.put_u8(u8::from(self.empty));
        out.put_u8(u8::from(self.seen.is_some()));
        if let Some(seen) = self.seen {
            out.put_slice(&seen.directory.0.0);
            out.put_u64(seen.durable.0);
        }
        assert_eq!(out.len() - before, length, "the length of a hello is computed as it is written");
    }

    fn decode(cursor: &mut Cursor) -> Result<Self, SectionError> {
        let cut = SectionError::Cut;
        Ok(Self {
            directory: DirectoryId(Uuid(cursor.array().ok_or(cut)?)),
            link: LinkId(cursor.u64().ok_or(cut)?),
            configuration: cursor.u64().ok_or(cut)?,
            advertised: Endpoint { host: text(cursor)?, port: cursor.u16().ok_or(cut)? },
            rack: if boolean(cursor)? { Some(text(cursor)?) } else { None },
            empty: boolean(cursor)?,
            seen: if boolean(cursor)? {
                let directory = DirectoryId(Uuid(cursor.array().ok_or(cut)?));
                Some(Seen { directory, durable: WriteNumber(cursor.u64().ok_or(cut)?) })
            } else {
                None
            },
        })
    }
}

fn put_text(out: &mut impl BufMut, text: &str) {
    out.put_u32(u32::try_from(text.len()).expect("texts of the configuration are short"));
    out.put_slice(text.as_bytes());
}

fn text(cursor: &mut Cursor) -> Result<String, SectionError> {
    let length = cursor.u32().ok_or(SectionError::Cut)?;
    let bytes = usize::try_from(length).ok().and_then(|length| cursor.bytes(length)).ok_or(SectionError::Cut)?;
    String::from_utf8(bytes.to_vec()).map_err(|_| SectionError::Text)
}

fn boolean(cursor: &mut Cursor) -> Result<bool, SectionError> {
    match cursor.u8().ok_or(SectionError::Cut)? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(SectionError::Bool(other)),
    }
}

/// group, from, to, epoch, length of the message, count of entries
const RAFT_FIXED_BYTES: usize = 8 + 8 + 8 + 4 + 4 + 4;

/// A Raft message taken apart, so that its size is known before anything is written.
#[derive(Debug)]
pub struct RaftSection {
    envelope: Envelope,
    /// Its entries' data are empty.
    message: Message,
    message_bytes: usize,
    payloads: Vec<Bytes>,
    payload_bytes: usize,
}

impl RaftSection {
    /// Takes the message apart. `None` if it is larger than any frame may be, or has more entries than a message.
    ///
    /// # Panics
    /// If message and envelope name different replicas.
    pub fn new(envelope: Envelope, mut message: Message) -> Option<Self> {
        assert!(
            (message.from, message.to) == (envelope.from.0, envelope.to.0),
            "the envelope of a message names its sender and receiver"
        );
        let payloads: Vec<Bytes> = message.entries.iter_mut().map(Entry::take_data).collect();
        let payload_bytes = payloads.iter().map(Bytes::len).sum();
        let section = Self { envelope, message_bytes: message.encoded_len(), message, payloads, payload_bytes };
        (section.payloads.len() <= limits::RAFT_MESSAGE_ENTRIES_MAX
            && section.message_bytes <= limits::RAFT_MESSAGE_STRIPPED_BYTES_MAX
            && section.bytes() <= SECTION_BYTES_MAX)
            .then_some(section)
    }

    /// Bytes of the section in a frame.
    pub fn bytes(&self) -> usize {
        SECTION_HEADER_BYTES + self.body_bytes()
    }

    /// Bytes of entries' data and of a snapshot's data.
    pub fn payload_bytes(&self) -> usize {
        self.payload_bytes + self.message.snapshot.as_ref().map_or(0, |snapshot| snapshot.data.len())
    }

    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    fn body_bytes(&self) -> usize {
        RAFT_FIXED_BYTES + 4 * self.payloads.len() + self.message_bytes + self.payload_bytes
    }

    pub fn encode(self, frame: &mut FrameBuilder) {
        frame.section(SectionKind::Raft, self.body_bytes());
        let out = frame.reserve(RAFT_FIXED_BYTES + 4 * self.payloads.len() + self.message_bytes);
        out.put_u64(self.envelope.group.0);
        out.put_u64(self.envelope.from.0);
        out.put_u64(self.envelope.to.0);
        out.put_u32(self.envelope.epoch);
        out.put_u32(self.message_bytes as u32);
        out.put_u32(self.payloads.len() as u32);
        for payload in &self.payloads {
            out.put_u32(payload.len() as u32);
        }
        self.message.encode(out).expect("a chunk has the room that was reserved");
        for payload in self.payloads {
            frame.payload(payload);
        }
    }
}

/// Largest section of a frame.
pub(super) const SECTION_BYTES_MAX: usize = limits::PEER_FRAME_BYTES_MAX - super::frame::HEADER_BYTES;

/// Bytes of a control message's section in a frame, if it says so many bytes.
pub(super) fn control_bytes(bytes: usize) -> usize {
    SECTION_HEADER_BYTES + 2 + bytes
}

/// The message is the parts one after the other; large ones are not copied.
pub(super) fn encode_control(kind: ControlKind, parts: impl IntoIterator<Item = Bytes>, frame: &mut FrameBuilder) {
    let parts: Vec<Bytes> = parts.into_iter().collect();
    frame.section(SectionKind::Control, 2 + parts.iter().map(Bytes::len).sum::<usize>());
    frame.reserve(2).put_u16(kind.0);
    parts.into_iter().for_each(|part| frame.payload(part));
}

fn decode_raft(cursor: &mut Cursor) -> Result<(Envelope, Message), SectionError> {
    let cut = SectionError::Cut;
    let envelope = Envelope {
        group: GroupId(cursor.u64().ok_or(cut)?),
        from: ReplicaId(cursor.u64().ok_or(cut)?),
        to: ReplicaId(cursor.u64().ok_or(cut)?),
        epoch: cursor.u32().ok_or(cut)?,
    };
    let message_bytes = cursor.u32().ok_or(cut)?;
    let announced = cursor.u32().ok_or(cut)?;
    if announced as usize > limits::RAFT_MESSAGE_ENTRIES_MAX {
        return Err(SectionError::Entries(announced));
    }
    if message_bytes as usize > limits::RAFT_MESSAGE_STRIPPED_BYTES_MAX {
        return Err(SectionError::Message(message_bytes));
    }
    let mut lengths = Cursor::new(cursor.bytes(4 * announced as usize).ok_or(cut)?);
    let message = cursor.bytes(message_bytes as usize).ok_or(cut)?;
    // Counted before anything is allocated for them: an entry takes two bytes here and a hundred in memory.
    let present = count_entries(message.clone()).ok_or(SectionError::Encoding)?;
    if present != announced {
        return Err(SectionError::EntryCount { announced, present });
    }
    let mut message = Message::decode(message).map_err(|_| SectionError::Encoding)?;
    for entry in &mut message.entries {
        if !entry.data.is_empty() {
            return Err(SectionError::PayloadInMessage);
        }
        let length = lengths.u32().expect("one length per entry was cut out");
        entry.data = cursor.bytes(length as usize).ok_or(cut)?;
    }
    if (message.from, message.to) != (envelope.from.0, envelope.to.0) {
        return Err(SectionError::Envelope);
    }
    Ok((envelope, message))
}

/// How often field 7 (`entries`) occurs at the top level of an encoded message; `None` if it is none.
fn count_entries(mut message: Bytes) -> Option<u32> {
    const ENTRIES: u32 = 7;
    let mut count = 0;
    while !message.is_empty() {
        let (field, wire) = encoding::decode_key(&mut message).ok()?;
        encoding::skip_field(wire, field, &mut message, encoding::DecodeContext::default()).ok()?;
        count += u32::from(field == ENTRIES);
    }
    Some(count)
}
