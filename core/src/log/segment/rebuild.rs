//! Makes lost entries of a side file again from the bytes of the segment.
//!
//! Each batch proves itself: its own checksum, an offset that continues the one before, a leader epoch that does not go
//! back. Invariant: an entry is made only when every batch that lies in its chunk, in whole or in part, is proven so,
//! from a batch whose place is recorded to the next such batch, or to the end of the segment. What is not proven so
//! needs another replica's copy.

use std::ops::Range;

use bytes::Bytes;
use kauri_protocol::records::{self, HEADER_BYTES};

use super::{
    batch::BatchHeader,
    checksums::ChunkEntry,
    file::{CHUNK, Segment, chunks_in},
    index::Stretch,
};
use crate::{
    ids::{LeaderEpoch, Offset},
    limits::{BATCH_BYTES_MAX, SEGMENT_CHUNK_BYTES},
};

/// Bytes of a batch before those that its checksum covers, which begin with the attributes.
const UNCOVERED_BYTES: u64 = 21;

/// A walk over the batches of a segment, chunk by chunk.
#[derive(Debug)]
pub(super) struct Rebuild {
    pub(super) segment: usize,
    /// The next chunk to be given.
    pub(super) chunk: usize,
    /// The first chunk whose checksum is lost, and the first behind it whose is not.
    first: usize,
    end: usize,
    next: Offset,
    /// Where the next batch begins.
    place: u64,
    epoch: LeaderEpoch,
    /// A header that lies in two chunks.
    header: Vec<u8>,
    batch: Option<Open>,
    made: Vec<(usize, ChunkEntry)>,
}

/// A batch whose end has not come yet.
#[derive(Debug)]
struct Open {
    end: u64,
    crc: u32,
    expected: u32,
}

/// What came of a chunk.
#[derive(Debug)]
pub(super) enum Step {
    More,
    /// The entries of the chunks that were lost.
    Done(Vec<(usize, ChunkEntry)>),
    /// Something between the first and the last of them is not what was written.
    Unproven,
}

impl Rebuild {
    /// For the first chunks of a segment whose checksums are lost; `None` if none are.
    pub(super) fn new(number: usize, segment: &Segment) -> Option<Self> {
        let first = segment.marks.first_unknown()?;
        let end = (first..).find(|chunk| segment.marks.knows_checksum(*chunk)).expect("a segment ends");
        // A batch that begins in the first of them is known only by the one before.
        let known = segment.index.before_chunk(first);
        let (place, next) = known
            .map_or((0, segment.base), |stretch| (u64::from(stretch.place), segment.base.plus(stretch.offset_delta)));
        Some(Self {
            segment: number,
            chunk: chunks_in(place),
            first,
            end,
            next,
            place,
            epoch: LeaderEpoch(i32::MIN),
            header: Vec::new(),
            batch: None,
            made: Vec::new(),
        })
    }

    /// The chunks that it is for.
    pub(super) fn lost(&self) -> Range<usize> {
        self.first..self.end
    }

    /// The next chunk, which has its checksum if that is known.
    pub(super) fn take(&mut self, segment: &Segment, bytes: &Bytes) -> Step {
        let start = self.chunk as u64 * CHUNK;
        let mut stretch: Option<Stretch> = None;
        let mut at = start.max(if self.batch.is_some() || !self.header.is_empty() { start } else { self.place });
        let end = start + bytes.len() as u64;
        while at < end {
            let rest = &bytes[usize::try_from(at - start).expect("inside the chunk")..];
            match &mut self.batch {
                None => {
                    let missing = HEADER_BYTES - self.header.len();
                    let taken = missing.min(rest.len());
                    if self.header.is_empty() {
                        self.place = at;
                    }
                    self.header.extend_from_slice(&rest[..taken]);
                    at += taken as u64;
                    if self.header.len() < HEADER_BYTES {
                        break;
                    }
                    let Some((header, open)) = self.open() else { return Step::Unproven };
                    if self.place >= start {
                        note(&mut stretch, segment.base, self.place, &header);
                    } else if let Some((_, before)) = self.made.last_mut() {
                        // It began in the chunk before.
                        note(&mut before.stretch, segment.base, self.place, &header);
                    }
                    (self.next, self.epoch) = (header.next_offset, header.leader_epoch);
                    self.batch = Some(open);
                    self.header.clear();
                }
                Some(open) => {
                    let taken = usize::try_from((open.end - at).min(rest.len() as u64)).expect("inside the chunk");
                    open.crc = crc32c::crc32c_append(open.crc, &rest[..taken]);
                    at += taken as u64;
                }
            }
            if let Some(open) = self.batch.take_if(|open| open.end == at) {
                if open.crc != open.expected {
                    return Step::Unproven;
                }
                self.place = at;
            }
        }
        let fields =
            ChunkEntry { bytes: u32::try_from(bytes.len()).expect("a chunk"), crc: crc32c::crc32c(bytes), stretch };
        self.made.push((self.chunk, fields));
        self.chunk += 1;
        self.arrive(segment, end)
    }

    /// Whether the walk is where the rest is known.
    fn arrive(&mut self, segment: &Segment, at: u64) -> Step {
        // A batch whose place is recorded may begin in this chunk, or in one that follows.
        let known = segment.index.stretch_from(self.end);
        if let Some(known) = known.filter(|known| u64::from(known.place) < at) {
            let (_, last) = self.made.last().expect("a chunk was just taken");
            let is_it = last
                .stretch
                .is_some_and(|found| (found.place, found.offset_delta) == (known.place, known.offset_delta));
            return if is_it { self.finish() } else { Step::Unproven };
        }
        if at < segment.disk_bytes {
            return Step::More;
        }
        // What is written of a segment that still grows may end within a batch.
        let is_between = self.batch.is_none() && self.header.is_empty();
        let is_whole = is_between && (!segment.rolled || self.next == segment.next_offset);
        if is_whole { self.finish() } else { Step::Unproven }
    }

    fn finish(&mut self) -> Step {
        let mut made = std::mem::take(&mut self.made);
        made.retain(|(chunk, _)| *chunk < self.end);
        Step::Done(made)
    }

    /// Checks a header that is complete.
    fn open(&self) -> Option<(BatchHeader, Open)> {
        let parsed = records::BatchHeader::parse(&self.header).ok()?;
        let header = BatchHeader::of(&parsed).ok()?;
        let is_next = header.base_offset == self.next && header.leader_epoch >= self.epoch;
        if !is_next || header.bytes < HEADER_BYTES || header.bytes > BATCH_BYTES_MAX {
            return None;
        }
        let covered = &self.header[UNCOVERED_BYTES as usize..];
        let open =
            Open { end: self.place + header.bytes as u64, crc: crc32c::crc32c(covered), expected: parsed.checksum };
        Some((header, open))
    }
}

fn note(stretch: &mut Option<Stretch>, base: Offset, place: u64, header: &BatchHeader) {
    match stretch {
        Some(stretch) => stretch.max_timestamp = stretch.max_timestamp.max(header.max_timestamp),
        None => {
            *stretch = Some(Stretch {
                offset_delta: u32::try_from(header.base_offset.0 - base.0).unwrap_or(u32::MAX),
                place: u32::try_from(place).expect("a segment is smaller than 4 GiB"),
                max_timestamp: header.max_timestamp,
            });
        }
    }
}

const _: () = assert!(HEADER_BYTES < SEGMENT_CHUNK_BYTES);
