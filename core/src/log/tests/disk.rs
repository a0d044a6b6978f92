//! A disk in memory that keeps apart what was written and what is durable.
//!
//! Model: a file's bytes become durable by a sync of the file, its name by a sync of its directory. A power cut keeps
//! an arbitrary choice, by [`Mode`], of everything that was not synced. A killed process loses nothing, but what it
//! wrote stays unsynced.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{
    io::{Directory, DiskAction, DiskError, DiskOutput, FileName},
    rng::Stream,
};

const SECTOR: usize = 512;

/// What survives of unsynced operations when the power is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Nothing.
    None,
    /// What was done before some moment.
    Prefix,
    /// Any of them.
    Subset,
    /// Any of them, and of each write any of its sectors.
    TornSectors,
}

pub(super) const MODES: [Mode; 4] = [Mode::None, Mode::Prefix, Mode::Subset, Mode::TornSectors];

#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    names: BTreeMap<FileName, usize>,
    durable_names: BTreeMap<FileName, usize>,
    /// What the operating system shows.
    bytes: Vec<Vec<u8>>,
    durable_bytes: Vec<Vec<u8>>,
    unsynced: Vec<Unsynced>,
    /// Files that were created, and all operations that change anything.
    created: u64,
    changes: u64,
    /// Bytes that all files together may take; creations and extensions beyond it fail.
    pub(super) capacity: Option<usize>,
    /// The device cannot read the sector that holds this byte.
    pub(super) unreadable: Option<(FileName, usize)>,
}

#[derive(Clone, Debug)]
enum Unsynced {
    Write { node: usize, offset: usize, bytes: Bytes },
    Truncate { node: usize, length: usize },
    Link { name: FileName, node: usize },
    Unlink { name: FileName },
    Rename { from: FileName, to: FileName, node: usize },
}

impl Disk {
    pub(super) fn run(&mut self, action: DiskAction) -> Result<DiskOutput, DiskError> {
        self.changes += u64::from(!matches!(action, DiskAction::Read { .. } | DiskAction::List { .. }));
        match action {
            DiskAction::Create { file, size } => {
                self.created += 1;
                let size = usize::try_from(size).unwrap();
                let node = self.link(file);
                let new_size = self.bytes[node].len().max(size);
                let fits = self.used() - self.bytes[node].len() + new_size <= self.capacity.unwrap_or(usize::MAX);
                // A full disk is noticed in the middle.
                let zeros = Bytes::from(vec![0; if fits { size } else { size / 2 }]);
                self.write(node, 0, zeros);
                if !fits {
                    return Err(DiskError::Full);
                }
                Ok(DiskOutput::Done)
            }
            DiskAction::Write { file, offset, slices } => {
                let node = self.link(file);
                let bytes = Bytes::from(slices.concat());
                let offset = usize::try_from(offset).unwrap();
                let growth = (offset + bytes.len()).saturating_sub(self.bytes[node].len());
                if growth > 0 && self.used() + growth > self.capacity.unwrap_or(usize::MAX) {
                    return Err(DiskError::Full);
                }
                self.write(node, offset, bytes);
                Ok(DiskOutput::Done)
            }
            DiskAction::Sync { file } => {
                let node = *self.names.get(&file).ok_or(DiskError::NotFound)?;
                self.durable_bytes[node] = self.bytes[node].clone();
                self.unsynced.retain(|operation| operation.node_of_data() != Some(node));
                Ok(DiskOutput::Done)
            }
            DiskAction::SyncDirectory { directory } => {
                let (now, later) =
                    std::mem::take(&mut self.unsynced).into_iter().partition(|o| o.directory() == Some(directory));
                self.unsynced = later;
                let now: Vec<Unsynced> = now;
                now.into_iter().for_each(|operation| self.survive(&operation));
                Ok(DiskOutput::Done)
            }
            DiskAction::Read { file, offset, length } => {
                let node = *self.names.get(&file).ok_or(DiskError::NotFound)?;
                let bytes = &self.bytes[node];
                let from = usize::try_from(offset).unwrap().min(bytes.len());
                let to = from.saturating_add(length).min(bytes.len());
                if let Some((_, byte)) = self.unreadable.filter(|(bad, _)| *bad == file) {
                    let start = byte / SECTOR * SECTOR;
                    if start < to && from < start + SECTOR {
                        return Err(DiskError::Io { errno: 5 });
                    }
                }
                Ok(DiskOutput::Read(Bytes::copy_from_slice(&bytes[from..to])))
            }
            DiskAction::Truncate { file, length } => {
                let node = *self.names.get(&file).ok_or(DiskError::NotFound)?;
                let length = usize::try_from(length).unwrap();
                self.bytes[node].resize(length, 0);
                self.unsynced.push(Unsynced::Truncate { node, length });
                Ok(DiskOutput::Done)
            }
            DiskAction::Rename { from, to } => {
                let node = self.names.remove(&from).ok_or(DiskError::NotFound)?;
                self.names.insert(to, node);
                self.unsynced.push(Unsynced::Rename { from, to, node });
                Ok(DiskOutput::Done)
            }
            DiskAction::Remove { file } => {
                if self.names.remove(&file).is_some() {
                    self.unsynced.push(Unsynced::Unlink { name: file });
                }
                Ok(DiskOutput::Done)
            }
            DiskAction::List { directory } => Ok(DiskOutput::List(
                self.names
                    .iter()
                    .filter(|(name, _)| name.directory() == directory)
                    .map(|(name, node)| (*name, self.bytes[*node].len() as u64))
                    .collect(),
            )),
        }
    }

    /// The process was killed while it wrote: some bytes from the start of the write reached the operating system.
    pub(super) fn interrupt(&mut self, action: &DiskAction, random: &mut Stream) {
        if let DiskAction::Write { file, offset, slices } = action {
            let bytes = Bytes::from(slices.concat());
            let written = random.below(bytes.len() as u64 + 1) as usize;
            let node = self.link(*file);
            self.write(node, usize::try_from(*offset).unwrap(), bytes.slice(..written));
        }
    }

    /// The power is cut.
    pub(super) fn cut_power(&mut self, mode: Mode, random: &mut Stream) {
        let unsynced = std::mem::take(&mut self.unsynced);
        let cut = random.below(unsynced.len() as u64 + 1) as usize;
        for (at, operation) in unsynced.iter().enumerate() {
            match mode {
                Mode::None => {}
                Mode::Prefix if at < cut => self.survive(operation),
                Mode::Prefix => {}
                Mode::Subset if random.below(2) == 0 => self.survive(operation),
                Mode::Subset => {}
                Mode::TornSectors => match operation {
                    Unsynced::Write { node, offset, bytes } => {
                        for (sector, bytes) in bytes.chunks(SECTOR).enumerate() {
                            if random.below(4) > 0 {
                                place(&mut self.durable_bytes[*node], offset + sector * SECTOR, bytes);
                            }
                        }
                    }
                    operation if random.below(2) == 0 => self.survive(operation),
                    _ => {}
                },
            }
        }
        self.names = self.durable_names.clone();
        self.bytes = self.durable_bytes.clone();
    }

    fn link(&mut self, name: FileName) -> usize {
        if let Some(node) = self.names.get(&name) {
            return *node;
        }
        let node = self.bytes.len();
        self.bytes.push(Vec::new());
        self.durable_bytes.push(Vec::new());
        self.names.insert(name, node);
        self.unsynced.push(Unsynced::Link { name, node });
        node
    }

    fn write(&mut self, node: usize, offset: usize, bytes: Bytes) {
        place(&mut self.bytes[node], offset, &bytes);
        self.unsynced.push(Unsynced::Write { node, offset, bytes });
    }

    fn survive(&mut self, operation: &Unsynced) {
        match *operation {
            Unsynced::Write { node, offset, ref bytes } => place(&mut self.durable_bytes[node], offset, bytes),
            Unsynced::Truncate { node, length } => self.durable_bytes[node].resize(length, 0),
            Unsynced::Link { name, node } => {
                self.durable_names.insert(name, node);
            }
            Unsynced::Unlink { name } => {
                self.durable_names.remove(&name);
            }
            Unsynced::Rename { from, to, node } => {
                self.durable_names.remove(&from);
                self.durable_names.insert(to, node);
            }
        }
    }

    pub(super) fn created(&self) -> u64 {
        self.created
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    pub(super) fn used(&self) -> usize {
        self.names.values().map(|node| self.bytes[*node].len()).sum()
    }

    pub(super) fn files(&self) -> Vec<FileName> {
        self.names.keys().copied().collect()
    }

    /// The bytes of a file, to look at or to damage: durable at once.
    pub(super) fn file(&self, name: FileName) -> &[u8] {
        &self.bytes[self.names[&name]]
    }

    pub(super) fn flip(&mut self, name: FileName, byte: usize, bit: u8) {
        let node = self.names[&name];
        self.bytes[node][byte] ^= 1 << bit;
        self.durable_bytes[node][byte] ^= 1 << bit;
    }

    /// Puts a durable file there.
    pub(super) fn put(&mut self, name: FileName, bytes: Vec<u8>) {
        let node = self.link(name);
        self.bytes[node] = bytes.clone();
        self.durable_bytes[node] = bytes;
        self.durable_names.insert(name, node);
    }
}

impl Unsynced {
    fn node_of_data(&self) -> Option<usize> {
        match *self {
            Self::Write { node, .. } | Self::Truncate { node, .. } => Some(node),
            Self::Link { .. } | Self::Unlink { .. } | Self::Rename { .. } => None,
        }
    }

    fn directory(&self) -> Option<Directory> {
        match *self {
            Self::Link { name, .. } | Self::Unlink { name } => Some(name.directory()),
            Self::Rename { to, .. } => Some(to.directory()),
            Self::Write { .. } | Self::Truncate { .. } => None,
        }
    }
}

fn place(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    if file.len() < offset + bytes.len() {
        file.resize(offset + bytes.len(), 0);
    }
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
}
