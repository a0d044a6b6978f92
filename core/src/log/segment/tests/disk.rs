//! A disk that completes operations in any order and forgets, on a crash, what was not synced.
//!
//! Per file: what is certain to survive, and the writes and cuts since; the same for the names in a directory. A sync
//! makes durable only what was complete when it was issued.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::{
    ids::OperationId,
    io::{Directory, DiskAction, DiskError, DiskOperation, DiskOutput, FileName},
    rng::Stream,
};

const SECTOR: usize = 512;

/// What a crash does to changes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Crash {
    /// kill -9: the page cache survives, and so does any part of what was issued.
    Process,
    /// All are lost.
    Nothing,
    /// The first so many survive.
    Prefix,
    /// Any of them survive, and names independently of contents.
    Subset,
    /// Any sectors of them survive; others hold what was there before, zeros or garbage.
    Torn,
}

pub(super) const CRASHES: [Crash; 5] = [Crash::Process, Crash::Nothing, Crash::Prefix, Crash::Subset, Crash::Torn];

#[derive(Clone, Default)]
pub(super) struct Disk {
    inodes: Vec<Inode>,
    names: BTreeMap<FileName, usize>,
    durable_names: BTreeMap<FileName, usize>,
    durable_directories: BTreeSet<Directory>,
    queue: Vec<Queued>,
    /// Bytes that writes may still take; unlimited if absent.
    pub(super) room: Option<u64>,
    /// Every operation that was carried out.
    pub(super) trace: Vec<DiskAction>,
}

#[derive(Clone, Default)]
struct Inode {
    current: Vec<u8>,
    durable: Vec<u8>,
    changes: Vec<Change>,
    /// Changes ever made; the last `changes.len()` of them are not durable.
    made: usize,
}

#[derive(Clone)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Truncate(usize),
}

#[derive(Clone)]
struct Queued {
    operation: DiskOperation,
    /// For a sync: how many changes the file had seen when it was issued.
    made: usize,
    /// For a directory sync: the names then.
    names: BTreeMap<FileName, usize>,
    directories: BTreeSet<Directory>,
}

impl Disk {
    pub(super) fn issue(&mut self, operations: impl IntoIterator<Item = DiskOperation>) {
        for operation in operations {
            let made = match &operation.action {
                DiskAction::Sync { file } => self.names.get(file).map_or(0, |&inode| self.inodes[inode].made),
                _ => 0,
            };
            let (names, directories) = (self.names.clone(), self.directories());
            self.queue.push(Queued { operation, made, names, directories });
        }
    }

    pub(super) fn pending(&self) -> usize {
        self.queue.len()
    }

    /// Carries out one of the operations in the queue.
    pub(super) fn step(&mut self, rng: &mut Stream) -> (OperationId, Result<DiskOutput, DiskError>) {
        let queued = self.queue.swap_remove(rng.below(self.queue.len() as u64) as usize);
        (queued.operation.id, self.run(queued))
    }

    pub(super) fn try_step(&mut self, rng: &mut Stream) -> Option<(OperationId, Result<DiskOutput, DiskError>)> {
        (!self.queue.is_empty()).then(|| self.step(rng))
    }

    /// A read by somebody who waits for it.
    pub(super) fn read(&mut self, action: DiskAction) -> Result<DiskOutput, DiskError> {
        let operation = DiskOperation { id: OperationId(0), action };
        self.run(Queued { operation, made: 0, names: BTreeMap::new(), directories: BTreeSet::new() })
    }

    pub(super) fn content(&self, file: FileName) -> Option<&[u8]> {
        self.names.get(&file).map(|&inode| self.inodes[inode].current.as_slice())
    }

    pub(super) fn files(&self) -> Vec<FileName> {
        self.names.keys().copied().collect()
    }

    /// Changes a file behind everybody's back.
    pub(super) fn corrupt(&mut self, file: FileName, change: impl FnOnce(&mut Vec<u8>)) {
        let inode = &mut self.inodes[self.names[&file]];
        assert!(inode.changes.is_empty(), "only what is synced is damaged");
        change(&mut inode.current);
        inode.durable = inode.current.clone();
    }

    pub(super) fn delete(&mut self, file: FileName) {
        self.names.remove(&file);
        self.durable_names.remove(&file);
    }

    pub(super) fn crash(&mut self, crash: Crash, rng: &mut Stream) {
        if crash == Crash::Process {
            while !self.queue.is_empty() && rng.below(4) > 0 {
                let queued = self.queue.swap_remove(rng.below(self.queue.len() as u64) as usize);
                self.run(queued).ok();
            }
            self.queue.clear();
            return;
        }
        self.queue.clear();
        for inode in &mut self.inodes {
            inode.crash(crash, rng);
        }
        let mut names = self.durable_names.clone();
        let every: BTreeSet<FileName> = self.names.keys().chain(names.keys()).copied().collect();
        for file in every {
            let durable = self.is_durable(file.directory());
            let old = names.get(&file).copied().filter(|_| durable);
            let new = self.names.get(&file).copied();
            let kept = match crash {
                Crash::Process | Crash::Nothing | Crash::Prefix => old,
                Crash::Subset | Crash::Torn => {
                    if rng.below(2) == 0 {
                        old
                    } else {
                        new
                    }
                }
            };
            match kept {
                Some(inode) => names.insert(file, inode),
                None => names.remove(&file),
            };
        }
        self.durable_names = names.clone();
        self.names = names;
        self.durable_directories = self.directories();
    }

    fn is_durable(&self, directory: Directory) -> bool {
        match directory {
            Directory::Root => true,
            Directory::Wal | Directory::Checkpoints | Directory::Images | Directory::Groups => {
                self.durable_directories.contains(&directory)
            }
            Directory::Group(_) => {
                self.durable_directories.contains(&directory) && self.durable_directories.contains(&Directory::Groups)
            }
        }
    }

    /// The directories that exist, because files do.
    fn directories(&self) -> BTreeSet<Directory> {
        let mut directories: BTreeSet<Directory> = self.names.keys().map(|file| file.directory()).collect();
        if directories.iter().any(|directory| matches!(directory, Directory::Group(_))) {
            directories.insert(Directory::Groups);
        }
        directories
    }

    fn inode(&mut self, file: FileName) -> &mut Inode {
        let number = *self.names.entry(file).or_insert_with(|| {
            self.inodes.push(Inode::default());
            self.inodes.len() - 1
        });
        &mut self.inodes[number]
    }

    fn existing(&mut self, file: FileName) -> Result<&mut Inode, DiskError> {
        let number = *self.names.get(&file).ok_or(DiskError::NotFound)?;
        Ok(&mut self.inodes[number])
    }

    fn run(&mut self, queued: Queued) -> Result<DiskOutput, DiskError> {
        self.trace.push(queued.operation.action.clone());
        match queued.operation.action {
            DiskAction::Write { file, offset, slices } => {
                let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
                if let Some(room) = &mut self.room {
                    *room = room.checked_sub(bytes.len() as u64).ok_or(DiskError::Full)?;
                }
                self.inode(file).change(Change::Write { offset: offset as usize, bytes });
            }
            DiskAction::Truncate { file, length } => self.existing(file)?.change(Change::Truncate(length as usize)),
            DiskAction::Sync { file } => self.existing(file)?.sync(queued.made),
            DiskAction::SyncDirectory { directory } => {
                self.durable_names.retain(|file, _| file.directory() != directory);
                self.durable_names.extend(queued.names.iter().filter(|(file, _)| file.directory() == directory));
                let inside = |child: &Directory| match child {
                    Directory::Root => false,
                    Directory::Wal | Directory::Checkpoints | Directory::Images | Directory::Groups => {
                        directory == Directory::Root
                    }
                    Directory::Group(_) => directory == Directory::Groups,
                };
                self.durable_directories.extend(queued.directories.into_iter().filter(inside));
            }
            DiskAction::Read { file, offset, length } => {
                let content = &self.existing(file)?.current;
                let start = (offset as usize).min(content.len());
                let end = (start + length).min(content.len());
                return Ok(DiskOutput::Read(Bytes::copy_from_slice(&content[start..end])));
            }
            DiskAction::Remove { file } => {
                self.names.remove(&file);
            }
            DiskAction::List { directory } => {
                let files = self.names.iter().filter(|(file, _)| file.directory() == directory);
                let sizes = files.map(|(&file, &inode)| (file, self.inodes[inode].current.len() as u64));
                return Ok(DiskOutput::List(sizes.collect()));
            }
            DiskAction::Create { .. } | DiskAction::Rename { .. } => unreachable!("segments never need this"),
        }
        Ok(DiskOutput::Done)
    }
}

impl Inode {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.current);
        self.changes.push(change);
        self.made += 1;
    }

    fn sync(&mut self, made: usize) {
        let durable_before = self.made - self.changes.len();
        for change in self.changes.drain(..made.saturating_sub(durable_before)) {
            change.apply(&mut self.durable);
        }
    }

    fn crash(&mut self, crash: Crash, rng: &mut Stream) {
        let changes = std::mem::take(&mut self.changes);
        let prefix = rng.below(changes.len() as u64 + 1) as usize;
        for (number, change) in changes.into_iter().enumerate() {
            match crash {
                Crash::Process => unreachable!("the page cache survives"),
                Crash::Nothing => {}
                Crash::Prefix if number < prefix => change.apply(&mut self.durable),
                Crash::Prefix => {}
                Crash::Subset if rng.below(2) == 0 => change.apply(&mut self.durable),
                Crash::Subset => {}
                Crash::Torn => change.tear(&mut self.durable, rng),
            }
        }
        self.current = self.durable.clone();
    }
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Truncate(length) => content.resize(*length, 0),
            Self::Write { offset, bytes } => {
                if content.len() < offset + bytes.len() {
                    content.resize(offset + bytes.len(), 0);
                }
                content[*offset..offset + bytes.len()].copy_from_slice(bytes);
            }
        }
    }

    /// Applies some sectors, and makes zeros or garbage of some others that the write touched.
    fn tear(&self, content: &mut Vec<u8>, rng: &mut Stream) {
        let Self::Write { offset, bytes } = self else {
            if rng.below(2) == 0 {
                self.apply(content);
            }
            return;
        };
        let mut at = 0;
        while at < bytes.len() {
            let end = ((offset + at) / SECTOR * SECTOR + SECTOR - offset).min(bytes.len());
            let sector = match rng.below(5) {
                0 | 1 => bytes[at..end].to_vec(),
                2 => vec![0; end - at],
                3 => (at..end).map(|_| rng.next_u64() as u8).collect(),
                _ => Vec::new(),
            };
            if !sector.is_empty() {
                Self::Write { offset: offset + at, bytes: sector }.apply(content);
            }
            at = end;
        }
    }
}
