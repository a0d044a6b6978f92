//! One checkpoint file: what it names, and whether it is whole.
//!
//! A file that no record of the WAL names was never finished, and nobody will miss it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::Finding;
use crate::{
    ids::{GroupId, LogIndex},
    io::FileName,
    log::{
        checkpoint::{
            CheckpointDone, GroupSection, ImageFile, MachineImage, SectionPayload, WalPosition,
            format::{FRAME_HEADER_BYTES, Frame, FrameHeader, HEADER_BYTES, Header, IMAGE_HEADER_BYTES, ImageHeader},
        },
        segment::LogImage,
        wal::WalKey,
    },
};

/// What a checkpoint says, as far as it can be read.
#[derive(Debug, Default)]
pub struct CheckpointFile {
    /// What of the WAL is needed beside it.
    pub from: Option<WalPosition>,
    /// Logs of partitions.
    pub logs: BTreeMap<GroupId, LogImage>,
    /// Groups whose state lies in a file of its own.
    pub images: BTreeMap<GroupId, ImageFile>,
    pub groups: u64,
    /// Up to where the state of each group holds everything.
    pub applied: BTreeMap<GroupId, LogIndex>,
    /// Entries behind that whose payload is here.
    pub entries: BTreeSet<(GroupId, LogIndex)>,
    pub findings: Vec<Finding>,
}

/// Checks a whole file against what the WAL says of it.
pub fn check(key: WalKey, done: &CheckpointDone, bytes: &Bytes) -> CheckpointFile {
    let name = FileName::Checkpoint(done.number);
    let mut found = CheckpointFile::default();
    let finding = |offset: usize, what: String| Finding { file: name, offset: offset as u64, what, entry: None };
    match Header::decode(bytes, key) {
        Ok(header) if header.number == done.number && header.from == done.from => found.from = Some(header.from),
        Ok(_) => found.findings.push(finding(0, "the header is that of another checkpoint".to_owned())),
        Err(error) => found.findings.push(finding(0, error.to_string())),
    }
    let mut at = HEADER_BYTES;
    let mut closed = false;
    while at < bytes.len() && !closed {
        let opened = FrameHeader::decode(&bytes[at..]).and_then(|header| {
            let start = at + FRAME_HEADER_BYTES;
            let end = start.saturating_add(header.length as usize);
            let body = bytes.slice(start..end.min(bytes.len()));
            Ok((header.open(&body)?, end))
        });
        match opened {
            Ok((Frame::Group(section), end)) => {
                match GroupSection::decode(&section) {
                    Ok((section, _)) => {
                        if let Some(what) = found.take(section) {
                            found.findings.push(finding(at, what));
                        }
                    }
                    Err(error) => found.findings.push(finding(at, error.to_string())),
                }
                at = end;
            }
            Ok((Frame::Closing(closing), end)) => {
                if closing.groups != found.groups {
                    let what = format!("it holds {} groups, but says {}", found.groups, closing.groups);
                    found.findings.push(finding(at, what));
                }
                closed = true;
                at = end;
            }
            // The length cannot be believed, so nothing behind can be found.
            Err(error) => {
                found.findings.push(finding(at, error.to_string()));
                return found;
            }
        }
    }
    let whole = bytes.len() as u64 == done.length && crc32c::crc32c(bytes) == done.crc;
    if found.findings.is_empty() && !(closed && at == bytes.len() && whole) {
        let what = format!("the file is not the one of {} bytes that was finished", done.length);
        found.findings.push(finding(at.min(bytes.len()), what));
    }
    found
}

impl CheckpointFile {
    fn take(&mut self, section: GroupSection) -> Option<String> {
        self.groups += 1;
        self.applied.insert(section.group, section.applied);
        for (entry, index) in section.entries.iter().zip(section.truncated.0 + 1..) {
            if matches!(entry.payload, SectionPayload::Inline { .. }) {
                self.entries.insert((section.group, LogIndex(index)));
            }
        }
        if let MachineImage::File(image) = section.image {
            self.images.insert(section.group, image);
        }
        let log = Bytes::from(section.log?.concat());
        match LogImage::decode(log) {
            Ok(log) => {
                self.logs.insert(section.group, log);
                None
            }
            Err(error) => Some(format!("the log of group {}: {error}", section.group)),
        }
    }
}

/// Checks an image file that a checkpoint names.
pub fn check_image(key: WalKey, group: GroupId, image: &ImageFile, bytes: Option<&Bytes>) -> Option<Finding> {
    let file = FileName::Image { group, checkpoint: image.checkpoint };
    let what = match bytes {
        None => "the file is missing, though a checkpoint names it".to_owned(),
        Some(bytes) => match ImageHeader::decode(bytes, key) {
            Err(error) => error.to_string(),
            Ok(header) if header.group != group || header.checkpoint != image.checkpoint => {
                "the header is that of another image".to_owned()
            }
            Ok(_) => {
                let body = bytes.slice(IMAGE_HEADER_BYTES..);
                if body.len() as u64 == image.length && crc32c::crc32c(&body) == image.crc {
                    return None;
                }
                "the bytes do not have the checksum that the checkpoint names".to_owned()
            }
        },
    };
    Some(Finding { file, offset: 0, what, entry: None })
}
