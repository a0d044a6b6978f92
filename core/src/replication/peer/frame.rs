//! Frames between nodes: a header that every frame has, then sections.
//!
//! Owns the bytes on the wire (docs/peer-protocol.md): big-endian, versioned, with a CRC-32C over everything but
//! itself. Invariant: what [`Frame::decode`] accepts came out of [`FrameBuilder`] unchanged; whatever else arrives is
//! a [`FrameError`], never a panic, and costs no more memory than a fixed multiple of its own size. Payloads of
//! [`limits::BATCH_SHARED_BYTES_MIN`] and more are never copied, neither here nor when they are decoded: they are
//! slices of what was given, and of the frame that arrived.
//!
//! Does not know what a frame means, which link it belongs to, or whether its sender is who it says.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    ids::{BootNumber, ClusterId, LinkId, NodeId, Uuid, WriteNumber},
    limits,
    replication::peer::{
        detector::{Echo, Ping},
        section::{Section, SectionError, SectionKind},
    },
    time::Wall,
};

#[cfg(test)]
mod tests;

/// "KAUR"
pub const MAGIC: u32 = 0x4b41_5552;
/// The one version there is. A node closes a link on which it meets another one.
pub const VERSION: u16 = 1;
/// Bytes of a header.
pub const HEADER_BYTES: usize = 132;
/// Bytes of the length in front of a frame, which a driver takes off again.
pub const PREFIX_BYTES: usize = 4;
/// Kind and length in front of a section's body.
pub(super) const SECTION_HEADER_BYTES: usize = 5;

const CHECKSUM_AT: usize = 8;
const CHECKSUM_END: usize = CHECKSUM_AT + 4;
const FLAG_CLUSTER: u8 = 1;
const FLAG_ECHO: u8 = 2;

/// The two links that each node keeps to each other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Raft messages without large payloads, short control messages, and what failure detection needs.
    Raft,
    /// Large appends and transfers, so that none of these delays a heartbeat.
    Bulk,
}

/// How much of what the receiver of a frame sent on one of its links has arrived at the sender of the frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// The link by the number that its dialler gave it (see [`super::section::Hello::link`]); 0 for none.
    pub link: LinkId,
    /// The highest number of a frame that arrived on it; 0 for none.
    pub frame: u64,
}

/// What every frame says about its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub lane: Lane,
    /// None until the sender's cluster is formed.
    pub cluster: Option<ClusterId>,
    pub from: NodeId,
    pub to: NodeId,
    /// Of the sender.
    pub boot: BootNumber,
    /// The number of this frame on its link, counted from 1.
    pub number: u64,
    /// The sender's wall clock.
    pub wall: Wall,
    /// The sender's WAL is durable up to and including this write; 0 for none.
    pub durable: WriteNumber,
    pub ping: Ping,
    pub echo: Option<Echo>,
    /// Per lane.
    pub received: [Received; 2],
}

/// A frame whose header and checksum are good.
#[derive(Clone, Debug)]
pub struct Frame {
    pub header: Header,
    body: Bytes,
}

/// Why bytes are not a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {0} bytes is shorter than its header")]
    Short(usize),
    #[error("a frame of {0} bytes is longer than allowed")]
    Long(usize),
    #[error("it does not start like a frame of a Kauri node but with {0:#010x}")]
    Magic(u32),
    #[error("version {0} of the peer protocol is unknown")]
    Version(u16),
    #[error("the checksum does not match")]
    Checksum,
    #[error("there is no lane {0}")]
    Lane(u8),
    #[error("flags {0:#04x} are unknown")]
    Flags(u8),
    #[error("node id {0} is negative")]
    Node(i32),
    #[error("a section is cut off")]
    Cut,
    #[error("section kind {0} is unknown")]
    Kind(u8),
    #[error("a section of kind {kind:?} is malformed: {error}")]
    Section { kind: SectionKind, error: SectionError },
}

impl Lane {
    pub const ALL: [Self; 2] = [Self::Raft, Self::Bulk];

    pub(super) fn index(self) -> usize {
        match self {
            Self::Raft => 0,
            Self::Bulk => 1,
        }
    }
}

impl Header {
    fn put(&self, out: &mut [u8]) {
        let mut out: &mut [u8] = out;
        out.put_u32(MAGIC);
        out.put_u16(VERSION);
        out.put_u8(self.lane.index() as u8);
        let flags =
            if self.cluster.is_some() { FLAG_CLUSTER } else { 0 } | if self.echo.is_some() { FLAG_ECHO } else { 0 };
        out.put_u8(flags);
        out.put_u32(0);
        out.put_slice(&self.cluster.unwrap_or_default().0.0);
        out.put_i32(self.from.0);
        out.put_i32(self.to.0);
        out.put_u64(self.boot.0);
        out.put_u64(self.number);
        out.put_i64(self.wall.0);
        out.put_u64(self.durable.0);
        out.put_u64(self.ping.0);
        let echo = self.echo.unwrap_or(Echo { boot: BootNumber(0), ping: Ping(0), hold: Duration::ZERO });
        out.put_u64(echo.boot.0);
        out.put_u64(echo.ping.0);
        out.put_u64(u64::try_from(echo.hold.as_nanos()).unwrap_or(u64::MAX));
        for received in self.received {
            out.put_u64(received.link.0);
            out.put_u64(received.frame);
        }
        assert!(out.is_empty(), "a header has exactly HEADER_BYTES");
    }
}

impl Frame {
    /// Checks header and checksum of a frame without its length prefix.
    pub fn decode(frame: Bytes) -> Result<Self, FrameError> {
        if frame.len() > limits::PEER_FRAME_BYTES_MAX {
            return Err(FrameError::Long(frame.len()));
        }
        let short = FrameError::Short(frame.len());
        let mut cursor = Cursor::new(frame.clone());
        let mut read = || -> Option<Result<Header, FrameError>> {
            let magic = cursor.u32()?;
            if magic != MAGIC {
                return Some(Err(FrameError::Magic(magic)));
            }
            let version = cursor.u16()?;
            if version != VERSION {
                return Some(Err(FrameError::Version(version)));
            }
            let (lane, flags, checksum) = (cursor.u8()?, cursor.u8()?, cursor.u32()?);
            let cluster = ClusterId(Uuid(cursor.array()?));
            let (from, to) = (NodeId(cursor.i32()?), NodeId(cursor.i32()?));
            let boot = BootNumber(cursor.u64()?);
            let number = cursor.u64()?;
            let wall = Wall(cursor.i64()?);
            let durable = WriteNumber(cursor.u64()?);
            let ping = Ping(cursor.u64()?);
            let echo = Echo {
                boot: BootNumber(cursor.u64()?),
                ping: Ping(cursor.u64()?),
                hold: Duration::from_nanos(cursor.u64()?),
            };
            let mut received = [Received::default(); 2];
            for received in &mut received {
                *received = Received { link: LinkId(cursor.u64()?), frame: cursor.u64()? };
            }
            let actual = crc32c::crc32c_append(crc32c::crc32c(&frame[..CHECKSUM_AT]), &frame[CHECKSUM_END..]);
            if actual != checksum {
                return Some(Err(FrameError::Checksum));
            }
            let lane = match lane {
                0 => Lane::Raft,
                1 => Lane::Bulk,
                lane => return Some(Err(FrameError::Lane(lane))),
            };
            if flags & !(FLAG_CLUSTER | FLAG_ECHO) != 0 {
                return Some(Err(FrameError::Flags(flags)));
            }
            if let Some(node) = [from, to].into_iter().find(|node| node.0 < 0) {
                return Some(Err(FrameError::Node(node.0)));
            }
            Some(Ok(Header {
                lane,
                cluster: (flags & FLAG_CLUSTER != 0).then_some(cluster),
                from,
                to,
                boot,
                number,
                wall,
                durable,
                ping,
                echo: (flags & FLAG_ECHO != 0).then_some(echo),
                received,
            }))
        };
        let header = read().ok_or(short)??;
        Ok(Self { header, body: frame.slice(HEADER_BYTES..) })
    }

    /// The sections in order, each decoded when it is asked for. Nothing follows an error.
    pub fn sections(&self) -> Sections {
        Sections { rest: Some(Cursor::new(self.body.clone())) }
    }
}

/// Iterator over the sections of a frame.
#[derive(Debug)]
pub struct Sections {
    rest: Option<Cursor>,
}

impl Iterator for Sections {
    type Item = Result<Section, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut rest = self.rest.take().filter(|rest| rest.remaining() > 0)?;
        let section = Self::section(&mut rest);
        if section.is_ok() {
            self.rest = Some(rest);
        }
        Some(section)
    }
}

impl Sections {
    fn section(rest: &mut Cursor) -> Result<Section, FrameError> {
        let kind = rest.u8().ok_or(FrameError::Cut)?;
        let kind = SectionKind::from_number(kind).ok_or(FrameError::Kind(kind))?;
        let length = rest.u32().ok_or(FrameError::Cut)?;
        let body = usize::try_from(length).ok().and_then(|length| rest.bytes(length)).ok_or(FrameError::Cut)?;
        Section::decode(kind, body).map_err(|error| FrameError::Section { kind, error })
    }
}

/// One frame under construction. Small parts are gathered in chunks that never move; large payloads lie between them
/// as they are.
#[derive(Debug, Default)]
pub struct FrameBuilder {
    /// Complete parts behind the header, in order.
    parts: Vec<Bytes>,
    parts_bytes: usize,
    /// The chunk that small parts are added to, which follows `parts`.
    chunk: BytesMut,
}

impl FrameBuilder {
    /// Smallest and largest size of a chunk.
    const CHUNK_BYTES: (usize, usize) = (512, 64 << 10);

    /// An empty frame: nothing but a header.
    pub fn new() -> Self {
        Self::default()
    }

    /// Length of the frame so far, prefix included.
    pub fn bytes(&self) -> usize {
        PREFIX_BYTES + HEADER_BYTES + self.parts_bytes + self.chunk.len()
    }

    /// Starts a section whose body will have exactly `length` bytes.
    pub(super) fn section(&mut self, kind: SectionKind, length: usize) {
        let out = self.reserve(SECTION_HEADER_BYTES);
        out.put_u8(kind.number());
        out.put_u32(u32::try_from(length).expect("sections fit into a frame"));
    }

    /// Room for exactly `length` further small bytes of the section started last.
    pub(super) fn reserve(&mut self, length: usize) -> &mut BytesMut {
        if self.chunk.capacity() - self.chunk.len() < length {
            self.seal();
            let (smallest, largest) = Self::CHUNK_BYTES;
            // Chunks grow with the frame: most frames are small.
            self.chunk = BytesMut::with_capacity(self.parts_bytes.clamp(smallest, largest).max(length));
        }
        &mut self.chunk
    }

    /// Adds bytes to the section started last.
    pub(super) fn payload(&mut self, payload: Bytes) {
        if payload.len() < limits::BATCH_SHARED_BYTES_MIN {
            self.reserve(payload.len()).put_slice(&payload);
        } else {
            self.seal();
            self.parts_bytes += payload.len();
            self.parts.push(payload);
        }
    }

    fn seal(&mut self) {
        if !self.chunk.is_empty() {
            self.parts_bytes += self.chunk.len();
            self.parts.push(self.chunk.split().freeze());
        }
    }

    /// The frame with its length prefix, as slices to be written in order.
    ///
    /// # Panics
    /// If the frame is longer than [`limits::PEER_FRAME_BYTES_MAX`]: whoever adds sections looks at their size first.
    pub fn finish(mut self, header: &Header) -> Vec<Bytes> {
        self.seal();
        let length = self.bytes() - PREFIX_BYTES;
        assert!(length <= limits::PEER_FRAME_BYTES_MAX, "a frame of {length} bytes was built");
        let mut head = [0; PREFIX_BYTES + HEADER_BYTES];
        let (prefix, fields) = head.split_at_mut(PREFIX_BYTES);
        prefix.copy_from_slice(&(length as u32).to_be_bytes());
        header.put(fields);
        let mut checksum = crc32c::crc32c(&fields[..CHECKSUM_AT]);
        checksum = crc32c::crc32c_append(checksum, &fields[CHECKSUM_END..]);
        for part in &self.parts {
            checksum = crc32c::crc32c_append(checksum, part);
        }
        fields[CHECKSUM_AT..CHECKSUM_END].copy_from_slice(&checksum.to_be_bytes());
        self.parts.insert(0, Bytes::copy_from_slice(&head));
        self.parts
    }
}

/// Reads integers and slices off the front of bytes that came from outside; `None` when they do not suffice.
#[derive(Debug)]
pub(super) struct Cursor {
    rest: Bytes,
}

impl Cursor {
    pub(super) fn new(rest: Bytes) -> Self {
        Self { rest }
    }

    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn bytes(&mut self, count: usize) -> Option<Bytes> {
        (count <= self.rest.len()).then(|| self.rest.split_to(count))
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let array = *self.rest.first_chunk()?;
        let _ = self.rest.split_to(N);
        Some(array)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }
}
