//! What a checkpoint keeps of a partition's log: where its files end, and the batches behind that.
//!
//! Invariant: an image names only bytes whose sync had completed when it was taken, and holds everything else of the
//! log itself. Files only grow, so whoever restores it finds at least what it names, however much was written since.
//! Taking one costs no I/O and copies no batch. The encoded form (version 1) is in docs/segment-format.md.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{
    Content,
    batch::{BatchHeader, batches},
    checksums::{ChunkEntry, ENTRY_FIELDS_BYTES},
    content::{self, ContentCrc},
    file::{CHUNK, chunks_in},
};
use crate::{
    ids::Offset,
    limits::{SEGMENT_BYTES_MAX, SEGMENT_CHUNK_BYTES},
};

const VERSION: u16 = 1;
const HEAD_BYTES: usize = 48;
const SEGMENT_BYTES: usize = 40;
const APPLIED_BYTES: usize = 20;
const APPLIED: u16 = 1;
const APPLIED_WITHOUT_CRC: u16 = 2;
const CLOSED: u32 = 1;
const HAS_TIMESTAMP: u32 = 2;

/// A partition's log at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogImage {
    pub(super) log_start: Offset,
    /// Base offset of the first batch that is not wholly in the files: of the tail's first one, or the log's end.
    pub(super) next_offset: Offset,
    /// Of all bytes up to the last full chunk of the last segment.
    pub(super) content_crc: ContentCrc,
    /// Of everything, tail included.
    pub(super) content: Content,
    pub(super) segments: Vec<SegmentImage>,
    /// Bytes of the tail's first batch that are in the files.
    pub(super) overlap: u32,
    /// Up to where batches are applied, if not all of them are.
    pub(super) applied: Option<AppliedImage>,
    /// Batches that are not wholly in the files, back to back.
    pub(super) tail: Vec<Bytes>,
}

/// What is on disk of one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentImage {
    pub(super) base: Offset,
    /// Synced bytes.
    pub(super) bytes: u32,
    /// Largest timestamp and the base offset of the first batch that has it.
    pub(super) max_timestamp: Option<(i64, Offset)>,
    /// The side file is complete.
    pub(super) closed: bool,
    /// Full chunks whose entries are in the side file.
    pub(super) proven_chunks: u32,
    /// Entries of the others, the unfinished one included.
    pub(super) entries: Vec<ChunkEntry>,
}

/// Where the state machine is, if its batches are here already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AppliedImage {
    pub(super) next_offset: Offset,
    /// In the bytes of the partition.
    pub(super) position: u64,
    /// CRC of the bytes before it in its chunk, if it is known.
    pub(super) rest_crc: Option<u32>,
}

/// These bytes are no image of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogImageError {
    #[error("the image of a log has version {version}, which this build does not know")]
    Version { version: u16 },
    #[error("the image of a log ends early")]
    Short,
    #[error("the image of a log has {bytes} bytes too many")]
    Surplus { bytes: usize },
    #[error("segment {number} of a log's image contradicts itself or the one before it")]
    Segment { number: usize },
    #[error("the tail of a log's image is no sequence of batches that continues the log")]
    Tail,
    #[error("the checksum of a log's image does not match its parts")]
    Content,
    #[error("a log's image has applied more than it holds")]
    Applied,
}

impl SegmentImage {
    /// The unfinished chunk, if its entry is not in the side file.
    pub(super) fn rest(&self) -> Option<ChunkEntry> {
        self.entries.last().copied().filter(|entry| (entry.bytes as usize) < SEGMENT_CHUNK_BYTES)
    }
}

impl LogImage {
    /// Of a log without a batch.
    pub fn empty(start: Offset) -> Self {
        Self {
            log_start: start,
            next_offset: start,
            content_crc: ContentCrc::default(),
            content: Content { next_offset: start, bytes: 0, crc: 0 },
            segments: Vec::new(),
            overlap: 0,
            applied: None,
            tail: Vec::new(),
        }
    }

    /// The first offset that may be read.
    pub fn log_start(&self) -> Offset {
        self.log_start
    }

    /// What the log holds, tail included.
    pub fn content(&self) -> Content {
        self.content
    }

    /// The offset up to which batches are applied.
    pub fn applied_offset(&self) -> Offset {
        self.applied.map_or(self.content.next_offset, |applied| applied.next_offset)
    }

    /// For a state machine that is replaced by one that has applied all batches: nothing will be compared any more.
    #[must_use]
    pub fn applied_to_end(self) -> Self {
        Self { applied: None, ..self }
    }

    /// The offset after the last record.
    pub fn end_offset(&self) -> Offset {
        self.content.next_offset
    }

    /// Whether batches are here that the state machine comes to later.
    pub fn is_ahead(&self) -> bool {
        self.applied.is_some()
    }

    /// Bytes of the batches that the image carries because segments do not hold them.
    pub fn tail_bytes(&self) -> usize {
        self.tail.iter().map(Bytes::len).sum()
    }

    /// Length of the encoded form.
    pub fn encoded_bytes(&self) -> usize {
        let applied = if self.applied.is_some() { APPLIED_BYTES } else { 0 };
        let entries: usize = self.segments.iter().map(|segment| segment.entries.len() * ENTRY_FIELDS_BYTES).sum();
        HEAD_BYTES + applied + self.segments.len() * SEGMENT_BYTES + entries + self.tail_bytes()
    }

    /// Adds the encoded form to `out`, the tail as the slices it is held in.
    pub fn encode(&self, out: &mut Vec<Bytes>) {
        let mut head = BytesMut::with_capacity(self.encoded_bytes() - self.tail_bytes());
        head.put_u16_le(VERSION);
        head.put_u16_le(match self.applied {
            None => 0,
            Some(AppliedImage { rest_crc: Some(_), .. }) => APPLIED,
            Some(AppliedImage { rest_crc: None, .. }) => APPLIED_WITHOUT_CRC,
        });
        head.put_u32_le(count(self.segments.len()));
        head.put_i64_le(self.log_start.0);
        head.put_i64_le(self.next_offset.0);
        head.put_u32_le(self.content_crc.value());
        head.put_u32_le(self.content.crc);
        head.put_u32_le(self.overlap);
        head.put_u32_le(0);
        head.put_u64_le(self.tail_bytes() as u64);
        if let Some(applied) = self.applied {
            head.put_i64_le(applied.next_offset.0);
            head.put_u64_le(applied.position);
            head.put_u32_le(applied.rest_crc.unwrap_or(0));
        }
        for segment in &self.segments {
            let flags = u32::from(segment.closed) * CLOSED + u32::from(segment.max_timestamp.is_some()) * HAS_TIMESTAMP;
            let (timestamp, offset) = segment.max_timestamp.unwrap_or((0, Offset(0)));
            head.put_i64_le(segment.base.0);
            head.put_u32_le(segment.bytes);
            head.put_u32_le(flags);
            head.put_i64_le(timestamp);
            head.put_i64_le(offset.0);
            head.put_u32_le(segment.proven_chunks);
            head.put_u32_le(count(segment.entries.len()));
            segment.entries.iter().for_each(|entry| entry.encode(&mut head));
        }
        out.push(head.freeze());
        out.extend(self.tail.iter().cloned());
    }

    /// Reads what [`LogImage::encode`] wrote, all of `bytes`; the tail stays a slice of them.
    pub fn decode(mut bytes: Bytes) -> Result<Self, LogImageError> {
        if bytes.len() < HEAD_BYTES {
            return Err(LogImageError::Short);
        }
        let version = bytes.get_u16_le();
        if version != VERSION {
            return Err(LogImageError::Version { version });
        }
        let applied = bytes.get_u16_le();
        let segments = bytes.get_u32_le() as usize;
        let (log_start, next_offset) = (Offset(bytes.get_i64_le()), Offset(bytes.get_i64_le()));
        let content_crc = ContentCrc::new(bytes.get_u32_le());
        let crc = bytes.get_u32_le();
        let overlap = bytes.get_u32_le();
        bytes.advance(4);
        let tail_bytes = bytes.get_u64_le();
        let applied = match applied {
            0 => None,
            APPLIED => Some(AppliedImage::decode(&mut bytes)?),
            APPLIED_WITHOUT_CRC => Some(AppliedImage { rest_crc: None, ..AppliedImage::decode(&mut bytes)? }),
            _ => return Err(LogImageError::Applied),
        };
        let segments = decode_segments(&mut bytes, segments, next_offset)?;
        match (bytes.len() as u64).checked_sub(tail_bytes) {
            None => return Err(LogImageError::Short),
            Some(0) => {}
            Some(more) => return Err(LogImageError::Surplus { bytes: usize::try_from(more).unwrap_or(usize::MAX) }),
        }
        let content = Content { next_offset, bytes: 0, crc };
        let tail = if bytes.is_empty() { Vec::new() } else { vec![bytes] };
        let mut image = Self { log_start, next_offset, content_crc, content, segments, overlap, applied, tail };
        image.check()?;
        Ok(image)
    }

    /// Finds the end of the log, and checks what the parts say about one another.
    fn check(&mut self) -> Result<(), LogImageError> {
        let on_disk: u64 = self.segments.iter().map(|segment| u64::from(segment.bytes)).sum();
        let overlap = self.overlap as usize;
        let tail = self.tail.first().cloned().unwrap_or_default();
        let mut next_offset = self.next_offset;
        let mut end = 0;
        for batch in batches(&tail) {
            let (place, header) = batch.map_err(|_| LogImageError::Tail)?;
            if header.base_offset != next_offset || place == 0 && overlap >= header.bytes {
                return Err(LogImageError::Tail);
            }
            next_offset = header.next_offset;
            end = place + header.bytes;
        }
        if end != tail.len() || overlap > 0 && (tail.is_empty() || overlap as u64 > on_disk) {
            return Err(LogImageError::Tail);
        }
        let bytes = on_disk + (tail.len() - overlap) as u64;
        let last = self.segments.last();
        // The CRC of a closed segment's rest is in its side file only.
        if last.is_none_or(|last| !last.closed) {
            let (rest_bytes, rest_crc) =
                last.and_then(SegmentImage::rest).map_or((0, 0), |rest| (rest.bytes as usize, rest.crc));
            let on_disk = crc32c::crc32c_combine(self.content_crc.value(), rest_crc, rest_bytes);
            if crc32c::crc32c_append(on_disk, &tail[overlap..]) != self.content.crc {
                return Err(LogImageError::Content);
            }
        }
        if self.log_start > next_offset {
            return Err(LogImageError::Content);
        }
        if self.applied.is_some_and(|applied| applied.next_offset >= next_offset || applied.position >= bytes) {
            return Err(LogImageError::Applied);
        }
        self.content = Content { next_offset, bytes, ..self.content };
        Ok(())
    }

    /// The CRC of the bytes of the last segment behind its last full chunk, as it follows from that of everything.
    pub(super) fn rest_crc(&self) -> u32 {
        let tail = self.tail.concat();
        let behind = &tail[self.overlap as usize..];
        let on_disk = content::without_end(self.content.crc, crc32c::crc32c(behind), behind.len());
        let rest = self.segments.last().map_or(0, |last| u64::from(last.bytes) % CHUNK);
        self.content_crc.rest_of(on_disk, usize::try_from(rest).expect("less than a chunk"))
    }

    /// How many of the first segments nobody appends to or compares with any more: all that is known of them is in
    /// their side files, which are read when it is needed.
    pub(super) fn settled(&self) -> usize {
        let compared_from = self.applied.map_or(u64::MAX, |applied| applied.position);
        let before_last = self.segments.len().saturating_sub(1);
        let mut end = 0;
        let settled = self.segments[..before_last].iter().take_while(|segment| {
            end += u64::from(segment.bytes);
            segment.closed && end <= compared_from
        });
        settled.count()
    }

    /// The tail, batch by batch. What is small beside the allocation it lies in is copied out of it later.
    pub(super) fn tail_batches(&self) -> impl Iterator<Item = (BatchHeader, Bytes)> + use<> {
        let tail = match self.tail.as_slice() {
            [] => Bytes::new(),
            [one] => one.clone(),
            many => many.concat().into(),
        };
        let places: Vec<_> = batches(&tail).map(|batch| batch.expect("an image holds whole batches")).collect();
        places.into_iter().map(move |(place, header)| (header, tail.slice(place..place + header.bytes)))
    }
}

impl AppliedImage {
    fn decode(bytes: &mut Bytes) -> Result<Self, LogImageError> {
        if bytes.len() < APPLIED_BYTES {
            return Err(LogImageError::Short);
        }
        let (next_offset, position) = (Offset(bytes.get_i64_le()), bytes.get_u64_le());
        Ok(Self { next_offset, position, rest_crc: Some(bytes.get_u32_le()) })
    }
}

fn decode_segments(
    bytes: &mut Bytes,
    segments: usize,
    next_offset: Offset,
) -> Result<Vec<SegmentImage>, LogImageError> {
    if bytes.len() / SEGMENT_BYTES < segments {
        return Err(LogImageError::Short);
    }
    let mut decoded: Vec<SegmentImage> = Vec::with_capacity(segments);
    for number in 0..segments {
        let segment = SegmentImage::decode(bytes, number)?;
        let follows = decoded.last().is_none_or(|last| last.base < segment.base);
        if !follows || segment.base > next_offset {
            return Err(LogImageError::Segment { number });
        }
        decoded.push(segment);
    }
    Ok(decoded)
}

impl SegmentImage {
    fn decode(bytes: &mut Bytes, number: usize) -> Result<Self, LogImageError> {
        if bytes.len() < SEGMENT_BYTES {
            return Err(LogImageError::Short);
        }
        let base = Offset(bytes.get_i64_le());
        let length = bytes.get_u32_le();
        let flags = bytes.get_u32_le();
        let (timestamp, offset) = (bytes.get_i64_le(), Offset(bytes.get_i64_le()));
        let proven_chunks = bytes.get_u32_le();
        let entries = bytes.get_u32_le() as usize;
        let invalid = LogImageError::Segment { number };
        let full = chunks_in(u64::from(length));
        let closed = flags & CLOSED != 0;
        let wanted = match full.checked_sub(proven_chunks as usize) {
            Some(0) if closed => 0,
            Some(missing) if !closed => missing + usize::from(!u64::from(length).is_multiple_of(CHUNK)),
            Some(_) | None => return Err(invalid),
        };
        if length == 0 || u64::from(length) > 2 * SEGMENT_BYTES_MAX || entries != wanted {
            return Err(invalid);
        }
        if bytes.len() / ENTRY_FIELDS_BYTES < entries {
            return Err(LogImageError::Short);
        }
        let decoded = (proven_chunks as usize..).take(entries).map(|chunk| {
            let fields = bytes.split_to(ENTRY_FIELDS_BYTES);
            let wanted = if chunk < full { CHUNK } else { u64::from(length) % CHUNK };
            ChunkEntry::decode(chunk, &fields).filter(|entry| u64::from(entry.bytes) == wanted)
        });
        let entries: Option<Vec<ChunkEntry>> = decoded.collect();
        Ok(Self {
            base,
            bytes: length,
            max_timestamp: (flags & HAS_TIMESTAMP != 0).then_some((timestamp, offset)),
            closed,
            proven_chunks,
            entries: entries.ok_or(invalid)?,
        })
    }
}

fn count(items: usize) -> u32 {
    u32::try_from(items).expect("fewer than 2^32 of anything")
}
