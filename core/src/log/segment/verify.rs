//! Checks the two files of one segment, offline.
//!
//! Invariant: a chunk is checked if anything says what its checksum is: the side file, or the image of the log in a
//! checkpoint. What lies behind is discarded by recovery and applied again, so nothing is said about it.

use super::{
    LogImage,
    checksums::{self, ChunkEntry},
    damage::DamageKind,
};
use crate::{
    ids::{GroupId, Offset},
    io::{FileName, SegmentFile},
    limits::SEGMENT_CHUNK_BYTES,
    log::offline::Finding,
};

/// One segment: read the chunks that [`SegmentCheck::wanted`] asks for, one after the other, then finish.
#[derive(Debug)]
pub struct SegmentCheck {
    log_file: FileName,
    chunks: Vec<ChunkEntry>,
    checked: usize,
    findings: Vec<Finding>,
}

impl SegmentCheck {
    /// `side`: the whole side file, if there is one; `log_bytes`: the length of the segment, if it is there; `named`:
    /// what a checkpoint says about this partition.
    pub fn new(
        group: GroupId,
        base: Offset,
        side: Option<&[u8]>,
        log_bytes: Option<u64>,
        named: Option<&LogImage>,
    ) -> Self {
        let file = |kind| FileName::Segment { group, base, kind };
        let mut check = Self { log_file: file(SegmentFile::Log), chunks: Vec::new(), checked: 0, findings: Vec::new() };
        let side_file = file(SegmentFile::Checksums);
        let damage =
            |offset, kind: DamageKind| Finding { file: side_file, offset, what: kind.to_string(), entry: None };
        match checksums::decode(group, base, side.unwrap_or_default()) {
            Ok(proof) => check.chunks.extend(proof.chunks.into_iter().chain(proof.closing)),
            Err((entry, kind)) => check.findings.push(damage(entry.map_or(0, checksums::entry_offset), kind)),
        }
        if let Some(image) = named.and_then(|image| image.segments.iter().find(|segment| segment.base == base)) {
            let proven = image.proven_chunks as usize;
            if check.chunks.len() < proven && check.findings.is_empty() {
                check.findings.push(damage(checksums::entry_offset(check.chunks.len()), DamageKind::ChecksumEntry));
            } else if check.chunks.len() >= proven {
                // What the side file holds by now counts; the image knows the chunk that was unfinished then.
                let known = check.chunks.len() - proven;
                check.chunks.extend(image.entries.iter().skip(known));
            }
        }
        let proven: u64 = check.chunks.iter().map(|chunk| u64::from(chunk.bytes)).sum();
        let missing = match log_bytes {
            None if proven > 0 => Some((0, DamageKind::Missing)),
            Some(bytes) if bytes < proven => Some((bytes, DamageKind::Short { proven })),
            None | Some(_) => None,
        };
        if let Some((offset, kind)) = missing {
            check.findings.push(Finding { file: check.log_file, offset, what: kind.to_string(), entry: None });
            let there = log_bytes.unwrap_or(0) / SEGMENT_CHUNK_BYTES as u64;
            check.chunks.truncate(usize::try_from(there).expect("fewer chunks than were recorded"));
        }
        check
    }

    /// Place and length of the next chunk to read; `None` when all were checked.
    pub fn wanted(&self) -> Option<(u64, usize)> {
        let chunk = self.chunks.get(self.checked)?;
        Some(((self.checked * SEGMENT_CHUNK_BYTES) as u64, chunk.bytes as usize))
    }

    /// What [`SegmentCheck::wanted`] asked for, or fewer bytes if the file ends before.
    pub fn chunk(&mut self, bytes: &[u8]) {
        let chunk = self.chunks[self.checked];
        if bytes.len() != chunk.bytes as usize || crc32c::crc32c(bytes) != chunk.crc {
            self.findings.push(Finding {
                file: self.log_file,
                offset: (self.checked * SEGMENT_CHUNK_BYTES) as u64,
                what: DamageKind::ChunkChecksum.to_string(),
                entry: None,
            });
        }
        self.checked += 1;
    }

    pub fn finish(self) -> Vec<Finding> {
        assert_eq!(self.checked, self.chunks.len(), "every chunk that can be checked is");
        self.findings
    }
}

impl LogImage {
    /// Base offsets of the segments that it names.
    pub fn segments(&self) -> impl Iterator<Item = Offset> + '_ {
        self.segments.iter().map(|segment| segment.base)
    }
}
