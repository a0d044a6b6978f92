//! The segment files of a partition are byte for byte the same on all replicas, as far as each has written them.

use std::collections::BTreeMap;

use bytes::Bytes;
use kauri_core::{
    ids::{GroupId, Offset},
    io::{FileName, SegmentFile},
};

use crate::{disk::Disk, failure::Failure};

/// What precedes the length of a batch, and that length itself: offset and length of Kafka's record batch.
const HEADER_BYTES: usize = 12;

/// Compares the segments on these disks, which belong to the nodes of these numbers.
pub fn check<'a>(disks: impl Iterator<Item = (usize, &'a Disk)>) -> Result<(), Failure> {
    let mut longest: BTreeMap<(GroupId, Offset), (usize, Bytes)> = BTreeMap::new();
    for (node, disk) in disks {
        for file in disk.names() {
            let FileName::Segment { group, base, kind: SegmentFile::Log } = file else { continue };
            let content = disk.content(file).expect("a file with a name has a content");
            let batches = batches(&content, base);
            let Some((other, before)) = longest.get(&(group, base)) else {
                longest.insert((group, base), (node, batches));
                continue;
            };
            let common = before.len().min(batches.len());
            if let Some(at) = (0..common).find(|at| before[*at] != batches[*at]) {
                let explanation = format!(
                    "byte {at} of the segment {base} of group {group} is {:02x} on node {other} and {:02x} on node {node}",
                    before[at], batches[at]
                );
                return Err(Failure::new("equal_segment_bytes", explanation));
            }
            if batches.len() > before.len() {
                longest.insert((group, base), (node, batches));
            }
        }
    }
    Ok(())
}

/// The part of a file that holds whole batches in order: behind it lies what was allocated and not yet written, or was
/// not synced before a crash and is written again.
fn batches(content: &Bytes, base: Offset) -> Bytes {
    let mut position = 0;
    let mut next = base.0;
    while let Some(header) = content.get(position..position + HEADER_BYTES) {
        let offset = i64::from_be_bytes(header[..8].try_into().expect("eight bytes"));
        let length = i32::from_be_bytes(header[8..].try_into().expect("four bytes"));
        let end = usize::try_from(length).ok().and_then(|length| position.checked_add(HEADER_BYTES + length));
        let Some(end) = end.filter(|end| length > 0 && *end <= content.len() && offset >= next) else { break };
        position = end;
        next = offset + 1;
    }
    content.slice(..position)
}

#[cfg(test)]
mod tests {
    use kauri_core::io::DiskAction;

    use super::*;

    const LOG: FileName = FileName::Segment { group: GroupId(4), base: Offset(10), kind: SegmentFile::Log };

    fn batch(offset: i64, payload: &[u8]) -> Vec<u8> {
        let mut bytes = offset.to_be_bytes().to_vec();
        bytes.extend((payload.len() as i32).to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn disk(content: &[Vec<u8>]) -> Disk {
        let mut disk = Disk::default();
        let slices = vec![Bytes::from(content.concat())];
        disk.perform(DiskAction::Write { file: LOG, offset: 0, slices }, 0).unwrap();
        disk
    }

    #[test]
    fn a_replica_that_is_behind_or_has_allocated_more_passes() {
        let all = disk(&[batch(10, b"one"), batch(12, b"three")]);
        let behind = disk(&[batch(10, b"one"), vec![0; 100]]);
        let torn = disk(&[batch(10, b"one"), batch(12, b"three")[..14].to_vec()]);
        assert_eq!(check([(0, &all), (1, &behind), (2, &torn)].into_iter()), Ok(()));
    }

    #[test]
    fn another_byte_caught_by() {
        let one = disk(&[batch(10, b"one"), batch(12, b"three")]);
        let other = disk(&[batch(10, b"one"), batch(12, b"thREe")]);
        let failure = check([(0, &one), (2, &other)].into_iter()).unwrap_err();
        assert_eq!(failure.explanation, "byte 29 of the segment 10 of group 4 is 72 on node 0 and 52 on node 2");
    }
}
