//! Every segment is what its side file says, and every side file can be read: whatever was damaged in them was found and
//! repaired before the end of the run.

use kauri_core::{
    io::{FileName, SegmentFile},
    log::segment::SegmentCheck,
};

use crate::{disk::Disk, failure::Failure};

/// Checks the segments on these disks, which belong to the nodes of these numbers.
pub fn check<'a>(disks: impl Iterator<Item = (usize, &'a Disk)>) -> Result<(), Failure> {
    for (node, disk) in disks {
        for side_file in disk.names() {
            let FileName::Segment { group, base, kind: SegmentFile::Checksums } = side_file else { continue };
            let file = FileName::Segment { group, base, kind: SegmentFile::Log };
            // The files of a partition that is deleted go in any order.
            let (Some(side), Some(log)) = (disk.content(side_file), disk.content(file)) else { continue };
            let mut segment = SegmentCheck::new(group, base, Some(&side), Some(log.len() as u64), None);
            while let Some((at, length)) = segment.wanted() {
                let at = usize::try_from(at).expect("a file in memory");
                segment.chunk(log.get(at..at + length).unwrap_or_default());
            }
            if let Some(finding) = segment.finish().first() {
                let explanation =
                    format!("node {node}: {} at byte {}: {}", finding.file.path(), finding.offset, finding.what);
                return Err(Failure::new("segments_verify", explanation));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kauri_core::{
        ids::{GroupId, Offset},
        io::DiskAction,
    };

    use super::*;

    const SIDE: FileName =
        FileName::Segment { group: GroupId(7), base: Offset(1_234_567), kind: SegmentFile::Checksums };
    const LOG: FileName = FileName::Segment { group: GroupId(7), base: Offset(1_234_567), kind: SegmentFile::Log };

    /// The header of a side file from the page of the format, and the entry that closes a segment of three bytes.
    fn side(crc: u32) -> Vec<u8> {
        let mut bytes = b"KCRC\x02\0\0\0\0\0\x01\0\x07\0\0\0\0\0\0\0\x87\xd6\x12\0\0\0\0\0".to_vec();
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        let mut entry = [0, 3, crc, 0xffff_ffff, 0, 0, 0].map(u32::to_le_bytes).concat();
        let owner = [&7u64.to_le_bytes()[..], &1_234_567u64.to_le_bytes(), &[0; 4]].concat();
        let check = crc32c::crc32c_append(crc32c::crc32c(&owner), &entry);
        entry.extend(check.to_le_bytes());
        bytes.extend(entry);
        bytes
    }

    fn disk(crc: u32) -> Disk {
        let mut disk = Disk::default();
        for (file, bytes) in [(SIDE, side(crc)), (LOG, b"abc".to_vec())] {
            disk.perform(DiskAction::Write { file, offset: 0, slices: vec![Bytes::from(bytes)] }, 0).unwrap();
        }
        disk
    }

    #[test]
    fn other_bytes_than_the_side_file_says_caught_by() {
        let crc = crc32c::crc32c(b"abc");
        assert_eq!(check([(0, &disk(crc))].into_iter()), Ok(()));
        let failure = check([(0, &disk(crc)), (1, &disk(crc ^ 1))].into_iter()).unwrap_err();
        assert!(failure.explanation.starts_with("node 1: groups/7/00000000000001234567.log at byte 0"));
    }
}
