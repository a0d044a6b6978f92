//! The batches of a partition that are in memory: write buffer and fetch source in one.
//!
//! Invariant: the pieces hold the partition's last batches without a gap, and nothing leaves before it was synced. A
//! batch of less than [`BATCH_SHARED_BYTES_MIN`] was copied once, into a chunk that many share; a larger one is held
//! as the slices it came in. `bytes` charges every allocation that a slice here keeps alive, whole, but not what
//! responses and writes in flight keep alive after it left.

use std::{collections::VecDeque, ops::Range};

use bytes::{Bytes, BytesMut};
use kauri_protocol::records::HEADER_BYTES;

use super::{
    batch::{BatchHeader, batches},
    position::Position,
    selection::Selection,
};
use crate::{
    ids::Offset,
    limits::{BATCH_SHARED_BYTES_MIN, SEGMENT_CHUNK_BYTES, TAIL_CHUNK_BYTES_MIN},
    time::Monotonic,
};

#[derive(Debug)]
pub(super) struct Tail {
    pieces: VecDeque<Piece>,
    /// Size of the next chunk.
    chunk_bytes: usize,
    bytes: usize,
}

/// One allocation (or, for a shared batch, the two of its header and its body).
#[derive(Debug)]
struct Piece {
    start: Position,
    end: Position,
    base_offset: Offset,
    charge: usize,
    storage: Storage,
}

#[derive(Debug)]
enum Storage {
    Chunk(Chunk),
    Shared { header: Bytes, body: Bytes, since: Monotonic },
}

/// Whole batches, back to back in one allocation, all of one segment.
#[derive(Debug)]
struct Chunk {
    /// What was read or written so far, in runs of whole batches.
    runs: Vec<Run>,
    /// Batches nobody looked at yet, and the free rest of the allocation.
    open: BytesMut,
    open_start: Position,
    open_offset: Offset,
    open_since: Monotonic,
}

#[derive(Debug)]
struct Run {
    start: Position,
    base_offset: Offset,
    /// When the first of its batches came in.
    since: Monotonic,
    bytes: Bytes,
}

/// One batch as it is appended.
pub(super) struct Arrival {
    pub(super) header: Bytes,
    pub(super) body: Bytes,
    /// Bytes of the allocations that `header` and `body` keep alive.
    pub(super) allocation_bytes: usize,
    pub(super) position: Position,
    pub(super) base_offset: Offset,
    pub(super) at: Monotonic,
}

impl Arrival {
    fn bytes(&self) -> usize {
        self.header.len() + self.body.len()
    }

    fn end(&self) -> Position {
        self.position + self.bytes() as u64
    }
}

impl Default for Tail {
    fn default() -> Self {
        Self { pieces: VecDeque::new(), chunk_bytes: TAIL_CHUNK_BYTES_MIN, bytes: 0 }
    }
}

impl Tail {
    /// Memory kept alive.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The first offset in memory; `None` if no batch is.
    pub(super) fn first_offset(&self) -> Option<Offset> {
        self.pieces.front().map(|piece| piece.base_offset)
    }

    /// When the first byte at or behind `position` came in, or an earlier one that was read or written with it.
    pub(super) fn since(&self, position: Position) -> Option<Monotonic> {
        self.pieces.get(self.piece_behind(position)).map(|piece| match &piece.storage {
            Storage::Chunk(chunk) => chunk.since(position),
            Storage::Shared { since, .. } => *since,
        })
    }

    pub(super) fn append(&mut self, arrival: Arrival) {
        if let Some(last) = self.pieces.back() {
            assert_eq!(last.end, arrival.position, "the tail has no gap");
        }
        if arrival.bytes() < BATCH_SHARED_BYTES_MIN { self.copy(&arrival) } else { self.share(arrival) }
    }

    /// The next batch begins a new segment, and with it a new chunk.
    pub(super) fn seal(&mut self) {
        let Some(piece) = self.pieces.back_mut() else { return };
        self.bytes += piece.freeze();
        if let Storage::Chunk(chunk) = &mut piece.storage {
            chunk.open = BytesMut::new();
        }
    }

    fn copy(&mut self, arrival: &Arrival) {
        if !self.pieces.back().is_some_and(|piece| piece.has_room(arrival.bytes())) {
            self.seal();
            let capacity = self.chunk_bytes.max(arrival.bytes().next_power_of_two());
            self.chunk_bytes = (capacity * 2).min(SEGMENT_CHUNK_BYTES);
            self.bytes += capacity;
            self.pieces.push_back(Piece {
                start: arrival.position,
                end: arrival.position,
                base_offset: arrival.base_offset,
                charge: capacity,
                storage: Storage::Chunk(Chunk {
                    runs: Vec::new(),
                    open: BytesMut::with_capacity(capacity),
                    open_start: arrival.position,
                    open_offset: arrival.base_offset,
                    open_since: arrival.at,
                }),
            });
        }
        let piece = self.pieces.back_mut().expect("a chunk with room was found or pushed");
        let Storage::Chunk(chunk) = &mut piece.storage else { unreachable!("only a chunk has room") };
        if chunk.open.is_empty() {
            chunk.open_start = arrival.position;
            chunk.open_offset = arrival.base_offset;
            chunk.open_since = arrival.at;
        }
        chunk.open.extend_from_slice(&arrival.header);
        chunk.open.extend_from_slice(&arrival.body);
        piece.end = arrival.end();
    }

    fn share(&mut self, arrival: Arrival) {
        self.seal();
        let charge = arrival.allocation_bytes.max(arrival.bytes());
        self.bytes += charge;
        self.pieces.push_back(Piece {
            start: arrival.position,
            end: arrival.end(),
            base_offset: arrival.base_offset,
            charge,
            storage: Storage::Shared { header: arrival.header, body: arrival.body, since: arrival.at },
        });
    }

    /// The bytes of a range, shared.
    pub(super) fn slices(&mut self, range: Range<Position>) -> Vec<Bytes> {
        let mut slices = Vec::new();
        let first = self.piece_behind(range.start);
        for piece in self.pieces.range_mut(first..) {
            if piece.start >= range.end {
                break;
            }
            self.bytes += piece.freeze();
            piece.push_range(&range, &mut slices);
        }
        assert_eq!(
            slices.iter().map(|slice| slice.len() as u64).sum::<u64>(),
            range.end - range.start,
            "what is not on disk is in memory"
        );
        slices
    }

    /// Where the batch begins that holds the byte at `position`, and its base offset; `None` if it is not in memory.
    pub(super) fn batch_at(&self, position: Position) -> Option<(Position, Offset)> {
        let piece = self.pieces.get(self.piece_behind(position)).filter(|piece| piece.start <= position)?;
        Some(piece.batch_at(position))
    }

    /// The first batch in memory that ends behind `from`, ends before `until` begins, and has a timestamp of at least
    /// `timestamp`.
    pub(super) fn find_timestamp(&self, from: Offset, until: Offset, timestamp: i64) -> Option<Offset> {
        let first = self.pieces.partition_point(|piece| piece.base_offset <= from).saturating_sub(1);
        self.pieces
            .range(first..)
            .take_while(|piece| piece.base_offset < until)
            .flat_map(Piece::headers)
            .take_while(|header| header.next_offset <= until)
            .find(|header| header.next_offset > from && header.max_timestamp >= timestamp)
            .map(|header| header.base_offset)
    }

    /// Gives `selection` the batches in memory from the one that holds `from` on, until it wants no more.
    pub(super) fn select(&mut self, from: Offset, selection: &mut Selection) {
        let first = self.pieces.partition_point(|piece| piece.base_offset <= from).saturating_sub(1);
        for piece in self.pieces.range_mut(first..) {
            self.bytes += piece.freeze();
            let before = selection.taken();
            let more = piece.select(from, selection);
            if selection.taken() > before {
                selection.hold(piece.charge);
            }
            if !more {
                return;
            }
        }
    }

    /// Drops the oldest pieces that end at or before `synced` until at most `keep` bytes are held. The free rest of a
    /// chunk goes with it.
    pub(super) fn release(&mut self, synced: Position, keep: usize) {
        while self.bytes > keep && self.pieces.front().is_some_and(|piece| piece.end <= synced) {
            let piece = self.pieces.pop_front().expect("the front was looked at");
            self.bytes -= piece.charge;
        }
        if self.pieces.is_empty() {
            assert_eq!(self.bytes, 0, "every charge is returned");
            self.chunk_bytes = TAIL_CHUNK_BYTES_MIN;
        }
    }

    /// The first piece that ends behind `position`.
    fn piece_behind(&self, position: Position) -> usize {
        self.pieces.partition_point(|piece| piece.end <= position)
    }
}

impl Piece {
    fn has_room(&self, bytes: usize) -> bool {
        match &self.storage {
            Storage::Chunk(chunk) => chunk.open.capacity() - chunk.open.len() >= bytes,
            Storage::Shared { .. } => false,
        }
    }

    /// Makes everything in the piece shareable; returns what that adds to the charge.
    fn freeze(&mut self) -> usize {
        match &mut self.storage {
            Storage::Chunk(chunk) => {
                let added = chunk.freeze();
                self.charge += added;
                added
            }
            Storage::Shared { .. } => 0,
        }
    }

    fn push_range(&self, range: &Range<Position>, slices: &mut Vec<Bytes>) {
        let mut push = |start: Position, bytes: &Bytes| {
            let end = start + bytes.len() as u64;
            let (from, to) = (start.max(range.start), end.min(range.end));
            if from < to {
                let place = |at: Position| usize::try_from(at - start).expect("inside a slice");
                slices.push(bytes.slice(place(from)..place(to)));
            }
        };
        match &self.storage {
            Storage::Chunk(chunk) => chunk.runs.iter().for_each(|run| push(run.start, &run.bytes)),
            Storage::Shared { header, body, .. } => {
                push(self.start, header);
                push(self.start + header.len() as u64, body);
            }
        }
    }

    fn batch_at(&self, position: Position) -> (Position, Offset) {
        let chunk = match &self.storage {
            Storage::Shared { .. } => return (self.start, self.base_offset),
            Storage::Chunk(chunk) => chunk,
        };
        let runs = chunk.runs.iter().map(|run| (run.start, &run.bytes[..]));
        let mut runs = runs.chain([(chunk.open_start, &chunk.open[..])]);
        let (start, bytes) =
            runs.find(|(start, bytes)| *start + bytes.len() as u64 > position).expect("the piece ends behind it");
        batches(bytes)
            .map(|batch| batch.expect(CHECKED))
            .map(|(place, header)| (start + place as u64, header))
            .find(|(place, header)| *place + header.bytes as u64 > position)
            .map(|(place, header)| (place, header.base_offset))
            .expect("a run holds whole batches")
    }

    fn headers(&self) -> impl Iterator<Item = BatchHeader> {
        let (runs, open, shared) = match &self.storage {
            Storage::Chunk(chunk) => (chunk.runs.as_slice(), &chunk.open[..], None),
            Storage::Shared { header, .. } => (&[][..], &[][..], Some(shared_header(header))),
        };
        let runs = runs.iter().map(|run| &run.bytes[..]);
        let copied = runs.chain([open]).flat_map(batches).map(|batch| batch.expect(CHECKED).1);
        copied.chain(shared)
    }

    /// Returns whether `selection` may want more.
    fn select(&self, from: Offset, selection: &mut Selection) -> bool {
        match &self.storage {
            Storage::Chunk(chunk) => {
                let first = chunk.runs.partition_point(|run| run.base_offset <= from).saturating_sub(1);
                chunk.runs[first..].iter().all(|run| select_run(&run.bytes, from, selection))
            }
            Storage::Shared { header, body, .. } => {
                let view = shared_header(header);
                if view.next_offset <= from {
                    return true;
                }
                let wanted = selection.wants(&view);
                if wanted {
                    selection.take(header.clone());
                    selection.take(body.clone());
                }
                wanted
            }
        }
    }
}

/// Why no header in memory can be unreadable.
const CHECKED: &str = "headers were checked when they were appended";

fn shared_header(header: &[u8]) -> BatchHeader {
    BatchHeader::read(header).ok().flatten().expect(CHECKED)
}

fn select_run(run: &Bytes, from: Offset, selection: &mut Selection) -> bool {
    let mut taken: Option<Range<usize>> = None;
    let mut more = true;
    for batch in batches(run) {
        let (place, header) = batch.expect(CHECKED);
        if header.next_offset <= from {
            continue;
        }
        if !selection.wants(&header) {
            more = false;
            break;
        }
        let start = taken.map_or(place, |range| range.start);
        taken = Some(start..place + header.bytes);
    }
    if let Some(range) = taken {
        selection.take(run.slice(range));
    }
    more
}

impl Chunk {
    fn since(&self, position: Position) -> Monotonic {
        let behind = self.runs.partition_point(|run| run.start + run.bytes.len() as u64 <= position);
        self.runs.get(behind).map_or(self.open_since, |run| run.since)
    }

    /// Makes a run of what was appended since the last one; returns what the bookkeeping adds to the charge.
    fn freeze(&mut self) -> usize {
        if self.open.is_empty() {
            return 0;
        }
        assert!(self.open.len() >= HEADER_BYTES, "a chunk holds whole batches");
        let (start, base_offset, since) = (self.open_start, self.open_offset, self.open_since);
        self.runs.push(Run { start, base_offset, since, bytes: self.open.split().freeze() });
        size_of::<Run>()
    }
}
