//! A disk as processes see it, and as it will be after a power cut.
//!
//! Owns the tree of files and directories. Each node has a *place*, where processes find it, and a *home*, where the
//! backing directory has it. Invariant: the backing directory holds what was synced and nothing else: the data of a file
//! since the last sync of that file, and the entries of a directory since the last sync of that directory, are in memory
//! only. A node that is somewhere in one of both worlds and nowhere in the other lies in a limbo beside them.
//!
//! Knows nothing of FUSE. There are no hard links, and no symbolic ones.

mod content;
mod cut;
mod entries;
mod home;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs, io,
    path::PathBuf,
    time::SystemTime,
};

use bytes::Bytes;

pub(crate) use self::{content::SECTOR_BYTES, cut::Keep};
use self::{
    content::{Change, Content},
    entries::EntryChange,
};

/// Where the backing directory keeps nodes that have no name in it. Processes cannot use the name.
const LIMBO: &str = ".powerfs";

/// A file or directory. Never used again for another one, not even after a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NodeId(pub(crate) u64);

impl NodeId {
    pub(crate) const ROOT: Self = Self(1);
}

/// The place of a change in the order of all changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sequence(u64);

/// What a directory holds.
type Names = BTreeMap<OsString, NodeId>;

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    directory: NodeId,
    name: OsString,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodeKind {
    File,
    Directory,
}

/// What `stat` tells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attributes {
    pub(crate) node: NodeId,
    pub(crate) kind: NodeKind,
    pub(crate) length: u64,
    pub(crate) mode: u32,
    pub(crate) modified: SystemTime,
    /// 0 for a file that was removed.
    pub(crate) links: u32,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    #[error("there is no such entry")]
    NotFound,
    #[error("there is such an entry already")]
    Exists,
    #[error("it is not a directory")]
    NotADirectory,
    #[error("it is a directory")]
    IsADirectory,
    #[error("the directory is not empty")]
    NotEmpty,
    #[error("the name or the move is not possible")]
    Invalid,
    #[error("there is no power, or it was open when the power was cut")]
    Gone,
    #[error("the backing directory: {0}")]
    Backing(#[from] io::Error),
}

/// What lasts beyond what was synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Likeness {
    /// Nothing: an entry lasts after a sync of its directory, data after a sync of its file. What POSIX promises.
    Posix,
    /// What ext4 does for programs that rely on too much: any sync makes all entries last; and the data of a file lasts
    /// that is renamed over another one, or closed after it was emptied.
    Ext4,
}

#[derive(Debug)]
struct Node {
    kind: Kind,
    mode: u32,
    modified: SystemTime,
    place: Option<Place>,
    home: Home,
    /// References that the kernel and open handles hold.
    uses: u64,
    /// Entry changes that name this node.
    named: u64,
}

#[derive(Debug)]
enum Kind {
    File(Content),
    Directory {
        entries: Names,
        /// The entries that the backing directory has.
        durable: Names,
    },
}

/// Where a node lies in the backing directory.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Home {
    Nowhere,
    /// It is the backing directory.
    Root,
    Limbo,
    At(Place),
}

#[derive(Debug)]
pub(crate) struct Disk {
    backing: PathBuf,
    like: Likeness,
    /// Without power, no request succeeds.
    powered: bool,
    nodes: BTreeMap<NodeId, Node>,
    next_node: u64,
    next_sequence: u64,
    entry_changes: Vec<(Sequence, EntryChange)>,
    /// Changes from before this are old enough to be written back.
    old: Sequence,
}

/// What is in memory only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unsynced {
    pub(crate) file_changes: usize,
    pub(crate) bytes: usize,
    pub(crate) entry_changes: usize,
}

impl Disk {
    /// The disk that a backing directory holds.
    pub(crate) fn open(backing: PathBuf, like: Likeness) -> io::Result<Self> {
        let mut disk = Self {
            backing,
            like,
            powered: true,
            nodes: BTreeMap::new(),
            next_node: NodeId::ROOT.0 + 1,
            next_sequence: 0,
            entry_changes: Vec::new(),
            old: Sequence(0),
        };
        disk.load()?;
        Ok(disk)
    }

    /// Makes the tree anew from the backing directory.
    fn load(&mut self) -> io::Result<()> {
        let limbo = self.backing.join(LIMBO);
        match fs::remove_dir_all(&limbo) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir(&limbo)?,
        }
        self.nodes.clear();
        self.entry_changes.clear();
        let metadata = fs::metadata(&self.backing)?;
        let root = Self::loaded(&metadata, Home::Root)?;
        self.nodes.insert(NodeId::ROOT, root);
        let mut directories = vec![(NodeId::ROOT, self.backing.clone())];
        while let Some((directory, path)) = directories.pop() {
            for entry in fs::read_dir(&path)? {
                let entry = entry?;
                let name = entry.file_name();
                if directory == NodeId::ROOT && name == LIMBO {
                    continue;
                }
                let place = Place { directory, name };
                let node = Self::loaded(&entry.metadata()?, Home::At(place.clone()))?;
                let id = self.insert(node);
                if let Kind::Directory { .. } = self.nodes[&id].kind {
                    directories.push((id, entry.path()));
                }
                let (entries, durable) = self.directory_maps(directory)?;
                entries.insert(place.name.clone(), id);
                durable.insert(place.name, id);
            }
        }
        Ok(())
    }

    fn loaded(metadata: &fs::Metadata, home: Home) -> io::Result<Node> {
        use std::os::unix::fs::MetadataExt;
        let kind = if metadata.is_dir() {
            Kind::Directory { entries: Names::new(), durable: Names::new() }
        } else if metadata.is_file() {
            Kind::File(Content::durable(metadata.len()))
        } else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "neither a file nor a directory"));
        };
        let place = if let Home::At(place) = &home { Some(place.clone()) } else { None };
        Ok(Node {
            kind,
            mode: metadata.mode() & 0o7777,
            modified: metadata.modified()?,
            place,
            home,
            uses: 0,
            named: 0,
        })
    }

    fn insert(&mut self, node: Node) -> NodeId {
        let id = NodeId(self.next_node);
        self.next_node += 1;
        self.nodes.insert(id, node);
        id
    }

    // --- What processes ask ---------------------------------------------------------------------------------------

    pub(crate) fn lookup(&self, directory: NodeId, name: &OsStr) -> Result<NodeId, DiskError> {
        self.entries_of(directory)?.get(name).copied().ok_or(DiskError::NotFound)
    }

    pub(crate) fn attributes(&self, id: NodeId) -> Result<Attributes, DiskError> {
        let node = self.node(id)?;
        let (kind, length) = match &node.kind {
            Kind::File(content) => (NodeKind::File, content.length()),
            Kind::Directory { .. } => (NodeKind::Directory, 0),
        };
        let links = match (kind, node.place.is_some() || id == NodeId::ROOT) {
            (_, false) => 0,
            (NodeKind::File, true) => 1,
            (NodeKind::Directory, true) => 2,
        };
        Ok(Attributes { node: id, kind, length, mode: node.mode, modified: node.modified, links })
    }

    /// The entries of a directory, by name.
    pub(crate) fn list(&self, directory: NodeId) -> Result<Vec<(OsString, NodeId, NodeKind)>, DiskError> {
        let entries = self.entries_of(directory)?.iter();
        entries.map(|(name, id)| Ok((name.clone(), *id, self.attributes(*id)?.kind))).collect()
    }

    /// The directory that a directory lies in; the root lies in itself, and so does one that was removed.
    pub(crate) fn parent(&self, directory: NodeId) -> Result<NodeId, DiskError> {
        Ok(self.node(directory)?.place.as_ref().map_or(directory, |place| place.directory))
    }

    pub(crate) fn read(&mut self, id: NodeId, offset: u64, length: usize) -> Result<Vec<u8>, DiskError> {
        self.open_backing(id)?;
        Ok(self.content(id)?.read(offset, length)?)
    }

    // --- What processes change ------------------------------------------------------------------------------------

    pub(crate) fn write(&mut self, id: NodeId, offset: u64, bytes: Bytes) -> Result<(), DiskError> {
        self.change(id, Change::Write { offset, bytes })
    }

    /// At the end, wherever that is.
    pub(crate) fn append(&mut self, id: NodeId, bytes: Bytes) -> Result<(), DiskError> {
        let offset = self.content(id)?.length();
        self.change(id, Change::Write { offset, bytes })
    }

    pub(crate) fn set_length(&mut self, id: NodeId, length: u64) -> Result<(), DiskError> {
        self.change(id, Change::SetLength(length))
    }

    /// Zeros in a range; the file gets longer only if `extend`.
    pub(crate) fn zero(&mut self, id: NodeId, offset: u64, length: u64, extend: bool) -> Result<(), DiskError> {
        let mut end = offset.checked_add(length).ok_or(DiskError::Invalid)?;
        if !extend {
            end = end.min(self.content(id)?.length());
        }
        if offset < end {
            Change::zeros(offset..end).into_iter().try_for_each(|change| self.change(id, change))?;
        }
        Ok(())
    }

    pub(crate) fn set_mode(&mut self, id: NodeId, mode: u32) -> Result<(), DiskError> {
        self.node_mut(id)?.mode = mode & 0o7777;
        Ok(())
    }

    pub(crate) fn set_modified(&mut self, id: NodeId, modified: SystemTime) -> Result<(), DiskError> {
        self.node_mut(id)?.modified = modified;
        Ok(())
    }

    fn change(&mut self, id: NodeId, change: Change) -> Result<(), DiskError> {
        let sequence = self.sequence();
        let node = self.node_mut(id)?;
        let Kind::File(content) = &mut node.kind else { return Err(DiskError::IsADirectory) };
        content.change(sequence, change);
        node.modified = SystemTime::now();
        Ok(())
    }

    fn sequence(&mut self) -> Sequence {
        self.next_sequence += 1;
        Sequence(self.next_sequence)
    }

    // --- What makes changes durable -------------------------------------------------------------------------------

    /// Makes a file's data and length, or a directory's entries, durable.
    pub(crate) fn sync(&mut self, id: NodeId) -> Result<(), DiskError> {
        match &self.node(id)?.kind {
            Kind::File(_) => self.sync_content(id)?,
            Kind::Directory { .. } => self.sync_entries(id)?,
        }
        match self.like {
            Likeness::Posix => Ok(()),
            Likeness::Ext4 => self.sync_all_entries(),
        }
    }

    /// Makes data durable that was not synced for a while, as operating systems do. To be called again and again: what
    /// was changed before the last call is written back by this one.
    pub(crate) fn write_back(&mut self) -> Result<(), DiskError> {
        let is_old =
            |changes: &[(Sequence, Change)]| changes.first().is_some_and(|(sequence, _)| *sequence <= self.old);
        let files: Vec<NodeId> = self
            .nodes
            .iter()
            .filter(|(_, node)| matches!(&node.kind, Kind::File(content) if is_old(content.changes())))
            .map(|(id, _)| *id)
            .collect();
        self.old = Sequence(self.next_sequence);
        files.into_iter().try_for_each(|id| self.sync_content(id))
    }

    /// Notes that a file was closed.
    pub(crate) fn close(&mut self, id: NodeId) -> Result<(), DiskError> {
        let was_emptied = matches!(&self.node(id)?.kind, Kind::File(content) if content.was_emptied());
        if was_emptied && self.like == Likeness::Ext4 { self.sync_content(id) } else { Ok(()) }
    }

    fn sync_content(&mut self, id: NodeId) -> Result<(), DiskError> {
        if self.content(id)?.changes().is_empty() {
            return Ok(());
        }
        self.give_home(id)?;
        self.open_backing(id)?;
        self.content_mut(id)?.sync()?;
        if self.node(id)?.uses == 0 {
            self.content_mut(id)?.backing = None;
        }
        Ok(())
    }

    pub(crate) fn unsynced(&self) -> Unsynced {
        let mut found = Unsynced { entry_changes: self.entry_changes.len(), ..Unsynced::default() };
        for node in self.nodes.values() {
            let Kind::File(content) = &node.kind else { continue };
            found.file_changes += content.changes().len();
            for (_, change) in content.changes() {
                if let Change::Write { bytes, .. } = change {
                    found.bytes += bytes.len();
                }
            }
        }
        found
    }

    // --- Who holds what -------------------------------------------------------------------------------------------

    pub(crate) fn retain(&mut self, id: NodeId) {
        self.nodes.get_mut(&id).expect("whoever uses a node has just found it").uses += 1;
    }

    /// Gives back so many uses. A node from before a cut is not known, and nobody's business.
    pub(crate) fn release(&mut self, id: NodeId, uses: u64) -> Result<(), DiskError> {
        if id == NodeId::ROOT {
            // The kernel has it without having asked for it.
            return Ok(());
        }
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        node.uses = node.uses.checked_sub(uses).expect("nobody gives back what he did not take");
        if node.uses == 0
            && let Kind::File(content) = &mut node.kind
        {
            content.backing = None;
        }
        self.collect(id)
    }

    // --- Nodes ----------------------------------------------------------------------------------------------------

    fn node(&self, id: NodeId) -> Result<&Node, DiskError> {
        self.nodes.get(&id).filter(|_| self.powered).ok_or(DiskError::Gone)
    }

    fn node_mut(&mut self, id: NodeId) -> Result<&mut Node, DiskError> {
        self.nodes.get_mut(&id).filter(|_| self.powered).ok_or(DiskError::Gone)
    }

    fn content(&self, id: NodeId) -> Result<&Content, DiskError> {
        match &self.node(id)?.kind {
            Kind::File(content) => Ok(content),
            Kind::Directory { .. } => Err(DiskError::IsADirectory),
        }
    }

    fn content_mut(&mut self, id: NodeId) -> Result<&mut Content, DiskError> {
        match &mut self.node_mut(id)?.kind {
            Kind::File(content) => Ok(content),
            Kind::Directory { .. } => Err(DiskError::IsADirectory),
        }
    }

    fn entries_of(&self, id: NodeId) -> Result<&Names, DiskError> {
        match &self.node(id)?.kind {
            Kind::Directory { entries, .. } => Ok(entries),
            Kind::File(_) => Err(DiskError::NotADirectory),
        }
    }

    fn entries_mut(&mut self, id: NodeId) -> Result<&mut Names, DiskError> {
        match &mut self.node_mut(id)?.kind {
            Kind::Directory { entries, .. } => Ok(entries),
            Kind::File(_) => Err(DiskError::NotADirectory),
        }
    }
}
