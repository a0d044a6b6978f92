//! Reads checkpoints off a platter, as `docs/checkpoint-format.md` describes them.
//!
//! Invariant: a section is told only if the log says that its checkpoint was finished and every checksum of the file
//! holds. What a section says is decoded by the core: it is data that the core compares on all replicas anyway.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kauri_core::{
    io::{Directory, FileName},
    log::checkpoint::GroupSection,
};

use crate::disk::Disk;

const HEADER_BYTES: usize = 64;
const FRAME_HEADER_BYTES: usize = 9;
const GROUP: u8 = 1;
const CLOSING: u8 = 2;

/// The sections of all finished checkpoints, by the number of the first write of the log that they may not reflect.
pub(super) fn sections(disk: &Disk, finished: &BTreeSet<u64>) -> BTreeMap<u64, Vec<GroupSection>> {
    let mut sections: BTreeMap<u64, Vec<GroupSection>> = BTreeMap::new();
    for file in disk.list(Directory::Checkpoints) {
        if let FileName::Checkpoint(number) = file.0
            && finished.contains(&number.0)
            && let Some(bytes) = disk.platter(file.0, 0, usize::MAX)
        {
            for section in read(&bytes).unwrap_or_default() {
                sections.entry(section.write.0 + 1).or_default().push(section);
            }
        }
    }
    sections
}

/// `None` if anything about the file is not as it should be.
fn read(bytes: &Bytes) -> Option<Vec<GroupSection>> {
    let mut sections = Vec::new();
    let mut at = HEADER_BYTES;
    loop {
        let header = bytes.get(at..at + FRAME_HEADER_BYTES)?;
        let length = u32::from_le_bytes(*header.first_chunk()?);
        let crc = u32::from_le_bytes(*header[4..].first_chunk()?);
        let kind = header[8];
        at += FRAME_HEADER_BYTES;
        let end = at.checked_add(length as usize).filter(|end| *end <= bytes.len())?;
        let body = bytes.slice(at..end);
        let seed = crc32c::crc32c_append(crc32c::crc32c(&length.to_le_bytes()), &[kind]);
        if crc32c::crc32c_append(seed, &body) != crc {
            return None;
        }
        at = end;
        match kind {
            GROUP => sections.push(GroupSection::decode(&body).ok()?.0),
            CLOSING => return (at == bytes.len()).then_some(sections),
            _ => return None,
        }
    }
}
