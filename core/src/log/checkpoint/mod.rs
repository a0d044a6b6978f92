//! Checkpoints: files that hold the small state of a shard, so that the WAL before them is not needed any more.
//!
//! Owns the bytes of a checkpoint ([`format`]), what one says about a group ([`GroupSection`], also the content of
//! [`WalRecord::Switch`](super::record::WalRecord::Switch)), and how they are written and read through effects. Does
//! not know what creations, memberships, images of machines or images of logs mean, nor when a checkpoint is due.
//!
//! Invariant: a checkpoint counts only if a record in the WAL names it with its length and checksum, and that record is
//! appended only after everything the checkpoint names is on disk.

pub(in crate::log) mod format;
mod reader;
mod section;
#[cfg(test)]
mod tests;
mod writer;

pub use self::{
    format::{CheckpointDone, FormatError, WalPosition},
    reader::{Checkpoint, FoundSection, Read, Reader, Unusable},
    section::{
        EncodedSection, GroupSection, ImageFile, MachineImage, Quarantine, SectionEntry, SectionError, SectionPayload,
    },
    writer::{PlacedEntry, Writer},
};
