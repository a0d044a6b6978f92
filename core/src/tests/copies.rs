//! What becomes of a producer's bytes on their way: large batches are shared, small ones copied twice at most.

use std::{collections::BTreeSet, ops::Range};

use bytes::Bytes;
use kauri_protocol::{header::request_frame, messages::ProduceRequest, records::HEADER_BYTES, wire::Str};

use super::{
    client::*,
    world::{Seen, World},
};
use crate::limits::BATCH_SHARED_BYTES_MIN;

fn addresses(bytes: &[u8]) -> Range<usize> {
    let range = bytes.as_ptr_range();
    range.start as usize..range.end as usize
}

fn contains(outer: &Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

/// What a batch in a frame of its own memory became.
struct Journey {
    frame: Bytes,
    body: Range<usize>,
    /// What went out.
    seen: Seen,
}

/// Produces a batch, beside others that are refused because nobody has their partitions, and fetches it twice.
fn produce_and_fetch(bytes: usize, beside: &[Bytes]) -> Journey {
    let mut world = World::formed(3);
    let leader = world.create_topic(3);
    let batch = batch_of_bytes(bytes, 0x5a);
    let parts = [batch.clone()].into_iter().chain(beside.iter().cloned());
    let parts = (0..).zip(parts).collect();
    let frame = request_frame(&produce_parts(-1, parts), 9, 1, Some(Str::from("story"))).unwrap().concat();
    let frame = Bytes::from(frame).slice(4..);
    let at = frame.windows(batch.len()).position(|window| window == batch).unwrap();
    let body = addresses(&frame[at + HEADER_BYTES..at + batch.len()]);
    let (writer, reader) = (world.connect(leader), world.connect(leader));
    world.seen = Some((leader, Seen::default()));
    world.clients.get_mut(&writer).unwrap().asked.push_back((1, 9));
    world.send_frame(writer, frame.clone());
    assert_eq!(only_part(world.wait::<ProduceRequest>(writer)).base_offset, 0);
    for _ in 0..2 {
        assert_eq!(values_of(&world.fetch(reader, 0)), ["Z".repeat(bytes)]);
    }
    let (_, seen) = world.seen.take().unwrap();
    Journey { frame, body, seen }
}

#[test]
fn a_batch_of_32_kib_is_never_copied() {
    let Journey { frame: _frame, body, seen } = produce_and_fetch(BATCH_SHARED_BYTES_MIN, &[]);
    for (what, slices) in [("WAL", &seen.wal), ("peers", &seen.peers), ("clients", &seen.clients)] {
        let shared = slices.iter().any(|slice| contains(&addresses(slice), &body));
        assert!(shared, "{what}: the body goes out from the frame that it came in");
        let copied = slices.iter().any(|slice| {
            !contains(&addresses(slice), &body)
                && slice.windows(1024).any(|window| window.iter().all(|byte| *byte == 0x5a))
        });
        assert!(!copied, "{what}: and from nowhere else");
    }
}

/// Where the body of a small batch lies in these slices: a place for each copy that was made.
fn places<'a>(slices: impl IntoIterator<Item = &'a Bytes>) -> BTreeSet<usize> {
    let place = |slice: &Bytes| {
        let at = slice.windows(1000).position(|window| window.iter().all(|byte| *byte == 0x5a))?;
        Some(slice.as_ptr() as usize + at)
    };
    slices.into_iter().filter_map(place).collect()
}

/// On its way to the WAL not at all, if most of its frame is it; to another node once, into a frame; to readers once,
/// into the tail of the log, from where all answers share it.
#[test]
fn a_small_batch_is_copied_once_for_all_readers() {
    let Journey { frame, seen, .. } = produce_and_fetch(1000, &[]);
    assert_eq!(places(&seen.wal), places([&frame]));
    assert_eq!(places(&seen.peers).len(), 2, "one for each follower");
    let read = places(&seen.clients);
    assert_eq!(read.len(), 1, "two answers share one copy");
    assert!(read.is_disjoint(&places(&seen.wal)));
}

/// Out of a frame that is much larger it is copied first, so that it does not keep the frame alive.
#[test]
fn a_small_batch_in_a_larger_frame_is_copied_twice_at_most() {
    let Journey { frame, seen, .. } = produce_and_fetch(1000, &[batch_of_bytes(5000, 1)]);
    let (came, written, read) = (places([&frame]), places(&seen.wal), places(&seen.clients));
    assert_eq!((came.len(), written.len(), read.len()), (1, 1, 1), "two answers share one copy");
    assert!(came.is_disjoint(&written) && written.is_disjoint(&read) && came.is_disjoint(&read));
    assert_eq!(places(&seen.peers).len(), 2, "one for each follower");
}
