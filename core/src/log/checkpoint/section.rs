//! What a checkpoint, or the record of a transferred state, says about one group.
//!
//! Owns the bytes of a section, versions 1 to 3; the same in words: docs/checkpoint-format.md. Numbers are
//! little-endian.
//!
//! Invariant: a decoder allocates nothing that the bytes do not pay for, and never panics. Whether the parts fit
//! together (membership, positions) is checked by who builds a group from them.

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes};

use crate::{
    ids::{CheckpointNumber, FileSequence, GroupId, LogIndex, ReplicaId, Term, WriteNumber},
    log::record::{EntryFile, EntryKind, EntryLocation},
};

const VERSION: u8 = 1;
/// Written only for a section that names a lost entry, which version 1 does not know.
const VERSION_WITH_LOST: u8 = 2;
/// Written only for a replica that is held before an entry; entries may be lost, too.
const VERSION_WITH_QUARANTINE: u8 = 3;

/// One replica, complete: with the files that it names, its group is built from this as by a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSection {
    pub group: GroupId,
    pub replica: ReplicaId,
    /// All records of the group in WAL writes up to this one are reflected here; replay skips them. Some of later
    /// writes may be too: taking them up again changes nothing.
    pub write: WriteNumber,
    /// A creation record, as in the WAL.
    pub creation: Bytes,
    pub term: Term,
    /// Zero: no vote in this term.
    pub vote: ReplicaId,
    pub commit: LogIndex,
    /// Up to here everything is in `image` and `log`.
    pub applied: LogIndex,
    /// The index before the first of `entries`, and its term. Not behind `applied`.
    pub truncated: LogIndex,
    pub truncated_term: Term,
    /// An encoded membership, the one as of `applied`.
    pub membership: Bytes,
    /// Replicas that may speak although the membership does not name them.
    pub introduced: BTreeSet<ReplicaId>,
    /// Replicas that were members once.
    pub removed: BTreeSet<ReplicaId>,
    /// The state machine.
    pub image: MachineImage,
    /// An encoded image of the log of batches, in slices; `None` for groups without segments.
    pub log: Option<Vec<Bytes>>,
    /// The Raft log from `truncated` on.
    pub entries: Vec<SectionEntry>,
    /// Behind `applied`, if the replica is held.
    pub quarantine: Option<Quarantine>,
}

/// A replica is held before an entry that a build could not apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantine {
    pub index: LogIndex,
    /// The name of that build.
    pub build: Bytes,
}

/// The state of a state machine as its image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MachineImage {
    Inline(Bytes),
    File(ImageFile),
}

/// A large image, in a file of its own that several checkpoints may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageFile {
    /// For which checkpoint it was written.
    pub checkpoint: CheckpointNumber,
    /// Of the image, without the file's header.
    pub length: u64,
    pub crc: u32,
}

/// An entry of the Raft log; its index is told by its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectionEntry {
    pub term: Term,
    pub kind: EntryKind,
    pub payload: SectionPayload,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SectionPayload {
    /// An applied entry that members may still need: it lies elsewhere, and may be gone.
    Located(EntryLocation),
    /// An entry that is not applied.
    Inline { context: Bytes, data: Bytes, crc: u32 },
    /// An entry that is not applied and whose payload is lost: it lay here, and is to be repaired.
    Lost(EntryLocation),
}

/// A section as bytes.
#[derive(Clone, Debug)]
pub struct EncodedSection {
    /// To be written one after the other; large payloads are shared, not copied.
    pub slices: Vec<Bytes>,
    pub length: usize,
    /// For each inline entry its place among the entries, and where its payload begins.
    pub payloads: Vec<(usize, u64)>,
}

/// Why bytes are not a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SectionError {
    #[error("sections of version {0} are unknown to this build")]
    Version(u8),
    #[error("the section ends too early, or a length in it is larger than what is left")]
    Truncated,
    #[error("bytes follow the end of the section")]
    Trailing,
    #[error("{0} has a value it cannot have")]
    Value(&'static str),
}

/// Slices below this size are gathered.
const GATHERED_BYTES_MAX: usize = 4 << 10;

const INLINE: u8 = 0;
const ELSEWHERE: u8 = 1;
const LOST: u8 = 2;

/// Bytes of an entry at least.
const ENTRY_BYTES_MIN: usize = 8 + 1 + 1 + 12;

#[derive(Debug, Default)]
struct Pieces {
    slices: Vec<Bytes>,
    open: Vec<u8>,
    length: usize,
}

impl Pieces {
    fn put(&mut self, bytes: &Bytes) {
        self.length += bytes.len();
        if bytes.len() < GATHERED_BYTES_MAX {
            self.open.extend_from_slice(bytes);
            return;
        }
        self.close();
        self.slices.push(bytes.clone());
    }

    fn write(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.open.len();
        write(&mut self.open);
        self.length += self.open.len() - before;
    }

    fn put_counted(&mut self, bytes: &Bytes) {
        self.write(|out| out.put_u32_le(length32(bytes.len())));
        self.put(bytes);
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.slices.push(std::mem::take(&mut self.open).into());
        }
    }
}

fn length32(length: usize) -> u32 {
    u32::try_from(length).expect("limits keep every part of a section below 4 GiB")
}

impl GroupSection {
    pub fn encode(&self) -> EncodedSection {
        let mut out = Pieces::default();
        out.write(|out| {
            out.put_u8(self.version());
            out.put_u64_le(self.group.0);
            out.put_u64_le(self.replica.0);
            out.put_u64_le(self.write.0);
            out.put_u64_le(self.term.0);
            out.put_u64_le(self.vote.0);
            out.put_u64_le(self.commit.0);
            out.put_u64_le(self.applied.0);
            out.put_u64_le(self.truncated.0);
            out.put_u64_le(self.truncated_term.0);
        });
        out.put_counted(&self.creation);
        out.put_counted(&self.membership);
        for replicas in [&self.introduced, &self.removed] {
            out.write(|out| {
                out.put_u32_le(length32(replicas.len()));
                replicas.iter().for_each(|replica| out.put_u64_le(replica.0));
            });
        }
        match &self.image {
            MachineImage::Inline(image) => {
                out.write(|out| out.put_u8(INLINE));
                out.put_counted(image);
            }
            MachineImage::File(file) => out.write(|out| {
                out.put_u8(ELSEWHERE);
                out.put_u64_le(file.checkpoint.0);
                out.put_u64_le(file.length);
                out.put_u32_le(file.crc);
            }),
        }
        match &self.log {
            None => out.write(|out| out.put_u8(0)),
            Some(slices) => {
                let length = slices.iter().map(Bytes::len).sum();
                out.write(|out| {
                    out.put_u8(1);
                    out.put_u32_le(length32(length));
                });
                slices.iter().for_each(|slice| out.put(slice));
            }
        }
        out.write(|out| out.put_u32_le(length32(self.entries.len())));
        let mut payloads = Vec::new();
        for (place, entry) in self.entries.iter().enumerate() {
            out.write(|out| {
                out.put_u64_le(entry.term.0);
                out.put_u8(kind_number(entry.kind));
            });
            match &entry.payload {
                SectionPayload::Inline { context, data, crc } => {
                    out.write(|out| {
                        out.put_u8(INLINE);
                        out.put_u32_le(length32(context.len()));
                        out.put_u32_le(length32(data.len()));
                        out.put_u32_le(*crc);
                    });
                    payloads.push((place, out.length as u64));
                    out.put(context);
                    out.put(data);
                }
                SectionPayload::Located(location) | SectionPayload::Lost(location) => out.write(|out| {
                    let is_lost = matches!(entry.payload, SectionPayload::Lost(_));
                    out.put_u8(if is_lost { LOST } else { ELSEWHERE });
                    out.put_u32_le(location.context_length);
                    out.put_u32_le(location.data_length);
                    out.put_u32_le(location.crc);
                    let (kind, number) = match location.file {
                        EntryFile::Wal(sequence) => (0, sequence.0),
                        EntryFile::Checkpoint(number) => (1, number.0),
                    };
                    out.put_u8(kind);
                    out.put_u64_le(number);
                    out.put_u64_le(location.offset);
                }),
            }
        }
        if let Some(Quarantine { index, build }) = &self.quarantine {
            out.write(|out| out.put_u64_le(index.0));
            out.put_counted(build);
        }
        out.close();
        EncodedSection { slices: out.slices, length: out.length, payloads }
    }

    /// The oldest one that can say it: one section has one encoding.
    fn version(&self) -> u8 {
        if self.quarantine.is_some() {
            VERSION_WITH_QUARANTINE
        } else if self.entries.iter().any(|entry| matches!(entry.payload, SectionPayload::Lost(_))) {
            VERSION_WITH_LOST
        } else {
            VERSION
        }
    }

    /// The section, and where the payload of each inline entry begins, as [`EncodedSection::payloads`] says it. What
    /// it holds shares the memory of `bytes`.
    pub fn decode(bytes: &Bytes) -> Result<(Self, Vec<(usize, u64)>), SectionError> {
        let mut from = Fields { bytes, at: 0 };
        let version = from.u8()?;
        if !(VERSION..=VERSION_WITH_QUARANTINE).contains(&version) {
            return Err(SectionError::Version(version));
        }
        let mut section = Self {
            group: GroupId(from.u64()?),
            replica: ReplicaId(from.u64()?),
            write: WriteNumber(from.u64()?),
            term: Term(from.u64()?),
            vote: ReplicaId(from.u64()?),
            commit: LogIndex(from.u64()?),
            applied: LogIndex(from.u64()?),
            truncated: LogIndex(from.u64()?),
            truncated_term: Term(from.u64()?),
            creation: from.counted()?,
            membership: from.counted()?,
            introduced: from.replicas()?,
            removed: from.replicas()?,
            image: from.image()?,
            log: from.flag("the presence of a log")?.then(|| from.counted()).transpose()?.map(|log| vec![log]),
            entries: Vec::new(),
            quarantine: None,
        };
        let count = from.count(ENTRY_BYTES_MIN)?;
        section.entries.reserve_exact(count);
        let mut payloads = Vec::new();
        for place in 0..count {
            let term = Term(from.u64()?);
            let kind = kind_of_number(from.u8()?)?;
            let place_kind = from.u8()?;
            if place_kind > if version == VERSION { ELSEWHERE } else { LOST } {
                return Err(SectionError::Value("the place of an entry"));
            }
            let (context_length, data_length, crc) = (from.u32()?, from.u32()?, from.u32()?);
            let payload = if place_kind != INLINE {
                let kind = from.flag("the file of an entry")?;
                let number = from.u64()?;
                if number == 0 || number >> 63 != 0 {
                    return Err(SectionError::Value("the number of a file"));
                }
                let file = match kind {
                    false => EntryFile::Wal(FileSequence(number)),
                    true => EntryFile::Checkpoint(CheckpointNumber(number)),
                };
                let location = EntryLocation { file, offset: from.u64()?, context_length, data_length, crc };
                if place_kind == LOST { SectionPayload::Lost(location) } else { SectionPayload::Located(location) }
            } else {
                payloads.push((place, from.at as u64));
                let context = from.take(context_length as usize)?;
                let data = from.take(data_length as usize)?;
                SectionPayload::Inline { context, data, crc }
            };
            section.entries.push(SectionEntry { term, kind, payload });
        }
        if version == VERSION_WITH_QUARANTINE {
            section.quarantine = Some(Quarantine { index: LogIndex(from.u64()?), build: from.counted()? });
        }
        if from.at != bytes.len() {
            return Err(SectionError::Trailing);
        }
        if section.version() != version {
            return Err(SectionError::Value("the version"));
        }
        if section.applied < section.truncated {
            return Err(SectionError::Value("the applied index"));
        }
        if section.quarantine.as_ref().is_some_and(|quarantine| quarantine.index <= section.applied) {
            return Err(SectionError::Value("the index of a quarantine"));
        }
        Ok((section, payloads))
    }
}

fn kind_number(kind: EntryKind) -> u8 {
    match kind {
        EntryKind::Normal => 0,
        EntryKind::ConfChange => 1,
        EntryKind::ConfChangeV2 => 2,
    }
}

fn kind_of_number(number: u8) -> Result<EntryKind, SectionError> {
    match number {
        0 => Ok(EntryKind::Normal),
        1 => Ok(EntryKind::ConfChange),
        2 => Ok(EntryKind::ConfChangeV2),
        _ => Err(SectionError::Value("the kind of an entry")),
    }
}

struct Fields<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl Fields<'_> {
    fn take(&mut self, length: usize) -> Result<Bytes, SectionError> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(SectionError::Truncated)?;
        let taken = self.bytes.slice(self.at..end);
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], SectionError> {
        let array = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk::<N>).ok_or(SectionError::Truncated)?;
        self.at += N;
        Ok(*array)
    }

    fn u8(&mut self) -> Result<u8, SectionError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32, SectionError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, SectionError> {
        self.array().map(u64::from_le_bytes)
    }

    /// Exactly 0 or 1: one value has one encoding.
    fn flag(&mut self, what: &'static str) -> Result<bool, SectionError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(SectionError::Value(what)),
        }
    }

    /// A number of things of at least `bytes_min` bytes each, which are there.
    fn count(&mut self, bytes_min: usize) -> Result<usize, SectionError> {
        let count = self.u32()? as usize;
        let bytes = count.checked_mul(bytes_min).ok_or(SectionError::Truncated)?;
        if bytes > self.bytes.len() - self.at {
            return Err(SectionError::Truncated);
        }
        Ok(count)
    }

    fn counted(&mut self) -> Result<Bytes, SectionError> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    /// In ascending order: one value has one encoding.
    fn replicas(&mut self) -> Result<BTreeSet<ReplicaId>, SectionError> {
        let count = self.count(8)?;
        let mut replicas = BTreeSet::new();
        for _ in 0..count {
            let replica = ReplicaId(self.u64()?);
            if replicas.last().is_some_and(|last| *last >= replica) {
                return Err(SectionError::Value("the order of replicas"));
            }
            replicas.insert(replica);
        }
        Ok(replicas)
    }

    fn image(&mut self) -> Result<MachineImage, SectionError> {
        if !self.flag("the place of an image")? {
            return Ok(MachineImage::Inline(self.counted()?));
        }
        let file = ImageFile { checkpoint: CheckpointNumber(self.u64()?), length: self.u64()?, crc: self.u32()? };
        Ok(MachineImage::File(file))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn replicas(numbers: &[u64]) -> BTreeSet<ReplicaId> {
        numbers.iter().map(|number| ReplicaId(*number)).collect()
    }

    fn section() -> GroupSection {
        let located = |file, offset| {
            SectionPayload::Located(EntryLocation { file, offset, context_length: 3, data_length: 4, crc: 0x0102_0304 })
        };
        let inline = SectionPayload::Inline {
            context: Bytes::from_static(b"ctx"),
            data: Bytes::from_static(b"data"),
            crc: 0x0506_0708,
        };
        let entry = |term, kind, payload| SectionEntry { term: Term(term), kind, payload };
        GroupSection {
            group: GroupId(1),
            replica: ReplicaId(2),
            write: WriteNumber(3),
            creation: Bytes::from_static(b"created"),
            term: Term(4),
            vote: ReplicaId(5),
            commit: LogIndex(6),
            applied: LogIndex(7),
            truncated: LogIndex(5),
            truncated_term: Term(2),
            membership: Bytes::from_static(b"members"),
            introduced: replicas(&[9]),
            removed: replicas(&[10, 11]),
            image: MachineImage::Inline(Bytes::from_static(b"image")),
            log: Some(vec![Bytes::from_static(b"log")]),
            entries: vec![
                entry(2, EntryKind::Normal, located(EntryFile::Wal(FileSequence(12)), 13)),
                entry(3, EntryKind::ConfChange, located(EntryFile::Checkpoint(CheckpointNumber(14)), 15)),
                entry(4, EntryKind::ConfChangeV2, inline),
            ],
            quarantine: None,
        }
    }

    fn bytes_of(section: &GroupSection) -> Bytes {
        let encoded = section.encode();
        let bytes = encoded.slices.concat();
        assert_eq!(bytes.len(), encoded.length);
        bytes.into()
    }

    /// These bytes are in checkpoints and in the WAL: a change of the format needs a new version.
    #[test]
    fn the_encoding_of_version_1_is_this_for_ever() {
        let eight = u64::to_le_bytes;
        #[rustfmt::skip]
        let golden: Vec<u8> = [
            &[1][..], &eight(1), &eight(2), &eight(3), &eight(4), &eight(5), &eight(6), &eight(7), &eight(5), &eight(2),
            &[7, 0, 0, 0], b"created", &[7, 0, 0, 0], b"members",
            &[1, 0, 0, 0], &eight(9), &[2, 0, 0, 0], &eight(10), &eight(11),
            &[0, 5, 0, 0, 0], b"image", &[1, 3, 0, 0, 0], b"log",
            &[3, 0, 0, 0],
            &eight(2), &[0, 1, 3, 0, 0, 0, 4, 0, 0, 0, 4, 3, 2, 1, 0], &eight(12), &eight(13),
            &eight(3), &[1, 1, 3, 0, 0, 0, 4, 0, 0, 0, 4, 3, 2, 1, 1], &eight(14), &eight(15),
            &eight(4), &[2, 0, 3, 0, 0, 0, 4, 0, 0, 0, 8, 7, 6, 5], b"ctxdata",
        ]
        .concat();
        assert_eq!(bytes_of(&section()), golden);
        let (decoded, payloads) = GroupSection::decode(&golden.clone().into()).unwrap();
        assert_eq!(decoded, section());
        assert_eq!(payloads, section().encode().payloads);
        let (place, at) = payloads[0];
        assert_eq!((place, &golden[at as usize..]), (2, &b"ctxdata"[..]));

        let file = ImageFile { checkpoint: CheckpointNumber(7), length: 8, crc: 9 };
        let large = GroupSection { image: MachineImage::File(file), log: None, ..section() };
        let golden = [&[1][..], &eight(7), &eight(8), &[9, 0, 0, 0], &[0]].concat();
        let bytes = bytes_of(&large);
        assert!(bytes.windows(golden.len()).any(|window| window == golden));
        assert_eq!(GroupSection::decode(&bytes).unwrap().0, large);
    }

    #[test]
    fn no_prefix_is_a_section_and_nothing_may_follow() {
        let bytes = bytes_of(&section());
        for end in 0..bytes.len() {
            assert!(GroupSection::decode(&bytes.slice(..end)).is_err());
        }
        let longer = Bytes::from([&bytes[..], &[0]].concat());
        assert_eq!(GroupSection::decode(&longer), Err(SectionError::Trailing));
        let newer = Bytes::from([&[4], &bytes[1..]].concat());
        assert_eq!(GroupSection::decode(&newer), Err(SectionError::Version(4)));
    }

    #[test]
    fn only_version_2_names_lost_entries() {
        let file = EntryFile::Wal(FileSequence(12));
        let lost = EntryLocation { file, offset: 13, context_length: 3, data_length: 4, crc: 0x0102_0304 };
        let entry = SectionEntry { term: Term(4), kind: EntryKind::Normal, payload: SectionPayload::Lost(lost) };
        let section = GroupSection { entries: vec![entry], ..section() };
        let bytes = bytes_of(&section);
        let golden =
            [&[0, 2, 3, 0, 0, 0, 4, 0, 0, 0, 4, 3, 2, 1, 0][..], &12u64.to_le_bytes(), &13u64.to_le_bytes()].concat();
        assert!(bytes[0] == 2 && bytes.ends_with(&golden));
        assert_eq!(GroupSection::decode(&bytes), Ok((section.clone(), Vec::new())));
        let older = Bytes::from([&[1], &bytes[1..]].concat());
        assert_eq!(GroupSection::decode(&older), Err(SectionError::Value("the place of an entry")));
        let none = GroupSection { entries: Vec::new(), ..section };
        let newer = Bytes::from([&[2], &bytes_of(&none)[1..]].concat());
        assert_eq!(GroupSection::decode(&newer), Err(SectionError::Value("the version")));
    }

    #[test]
    fn only_version_3_holds_a_replica() {
        let quarantine = Quarantine { index: LogIndex(8), build: Bytes::from_static(b"kauri") };
        let held = GroupSection { quarantine: Some(quarantine), ..section() };
        let bytes = bytes_of(&held);
        let golden = [&8u64.to_le_bytes()[..], &[5, 0, 0, 0], b"kauri"].concat();
        assert_eq!(bytes, [&[3], &bytes_of(&section())[1..], &golden].concat());
        assert_eq!(GroupSection::decode(&bytes), Ok((held.clone(), held.encode().payloads)));
        for end in 0..bytes.len() {
            assert!(GroupSection::decode(&bytes.slice(..end)).is_err());
        }
        let older = Bytes::from([&[1], &bytes[1..]].concat());
        assert_eq!(GroupSection::decode(&older), Err(SectionError::Trailing));
        let applied = Quarantine { index: LogIndex(7), build: Bytes::new() };
        let bytes = bytes_of(&GroupSection { quarantine: Some(applied), ..section() });
        assert_eq!(GroupSection::decode(&bytes), Err(SectionError::Value("the index of a quarantine")));
    }

    #[test]
    fn a_replica_twice_is_damage() {
        let bytes = bytes_of(&section());
        let twice = [replicas(&[10, 11]), replicas(&[11])];
        let [in_order, last] = twice.map(|set| set.iter().flat_map(|id| id.0.to_le_bytes()).collect::<Vec<u8>>());
        let at = bytes.windows(16).position(|window| window == in_order).unwrap();
        let damaged = [&bytes[..at], &last, &bytes[at + 8..]].concat();
        assert_eq!(GroupSection::decode(&damaged.into()), Err(SectionError::Value("the order of replicas")));
    }

    #[test]
    fn large_payloads_are_not_copied() {
        let data = Bytes::from(vec![7; 64 << 10]);
        let inline = SectionPayload::Inline { context: Bytes::from_static(b"c"), data: data.clone(), crc: 1 };
        let entry = SectionEntry { term: Term(4), kind: EntryKind::Normal, payload: inline };
        let section = GroupSection { entries: vec![entry], ..section() };
        let encoded = section.encode();
        assert!(encoded.slices.iter().any(|slice| slice.as_ptr() == data.as_ptr()));
        let bytes = bytes_of(&section);
        let (decoded, payloads) = GroupSection::decode(&bytes).unwrap();
        assert_eq!((&decoded, &payloads), (&section, &encoded.payloads));
        let SectionPayload::Inline { data, .. } = &decoded.entries[0].payload else { panic!() };
        assert_eq!(data.as_ptr(), bytes[payloads[0].1 as usize + 1..].as_ptr());
    }

    proptest! {
        #[test]
        fn damaged_bytes_never_panic(at in 0usize..400, value: u8, cut in 0usize..400) {
            let mut bytes = bytes_of(&section()).to_vec();
            let place = at % bytes.len();
            bytes[place] = value;
            bytes.truncate(cut.max(1));
            if let Ok((decoded, _)) = GroupSection::decode(&bytes.clone().into()) {
                prop_assert_eq!(bytes_of(&decoded).len(), bytes.len());
            }
        }
    }
}
