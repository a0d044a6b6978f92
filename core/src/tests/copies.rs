//! What becomes of a producer's bytes on their way: large batches are shared, small ones copied twice.

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

/// Produces a batch in a frame of its own memory, fetches it, and says where its body was, and what went out.
fn produce_and_fetch(bytes: usize) -> (Bytes, Range<usize>, Seen) {
    let mut world = World::formed(3);
    let leader = world.create_topic(3);
    let batch = batch_of_bytes(bytes, 0x5a);
    let frame = request_frame(&produce_request(-1, batch.clone()), 9, 1, Some(Str::from("story"))).unwrap().concat();
    let frame = Bytes::from(frame).slice(4..);
    let at = frame.windows(batch.len()).position(|window| window == batch).unwrap();
    let body = addresses(&frame[at + HEADER_BYTES..at + batch.len()]);
    let (writer, reader) = (world.connect(leader), world.connect(leader));
    world.seen = Some((leader, Seen::default()));
    world.clients.get_mut(&writer).unwrap().asked.push_back((1, 9));
    world.send_frame(writer, frame.clone());
    assert_eq!(only_part(world.wait::<ProduceRequest>(writer)).base_offset, 0);
    assert_eq!(values_of(&world.fetch(reader, 0)), ["Z".repeat(bytes)]);
    let (_, seen) = world.seen.take().unwrap();
    (frame, body, seen)
}

#[test]
fn a_batch_of_32_kib_is_never_copied() {
    let (_frame, body, seen) = produce_and_fetch(BATCH_SHARED_BYTES_MIN);
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

/// On its way to the WAL not at all, if most of its frame is it; to another node once, into a frame; to a reader twice:
/// into the tail of the log, from where an answer shares it unless the whole answer is tiny.
#[test]
fn a_small_batch_is_copied_twice_at_most() {
    let (frame, _, seen) = produce_and_fetch(1000);
    let place = |slice: &Bytes| {
        let at = slice.windows(1000).position(|window| window.iter().all(|byte| *byte == 0x5a))?;
        Some(slice.as_ptr() as usize + at)
    };
    let places = |slices: &[Bytes]| slices.iter().filter_map(place).collect::<BTreeSet<usize>>();
    assert_eq!(places(&seen.wal), BTreeSet::from([place(&frame).unwrap()]));
    assert_eq!(places(&seen.peers).len(), 2, "one for each follower");
    assert_eq!(places(&seen.clients).len(), 1);
}
