//! The names in directories: how they change, and how the changes become durable.
//!
//! Invariant: a rename is durable in both directories or in none. Therefore the sync of a directory also makes those
//! names in other directories durable that are tied to it by renames, and what lies in a directory that it removes.

use std::{collections::BTreeSet, ffi::OsStr, mem, time::SystemTime};

use super::{Content, Disk, DiskError, Home, Kind, LIMBO, Likeness, Names, Node, NodeId, NodeKind, Place};

/// One change of names. `replaced` is who had the name before.
#[derive(Clone, Debug)]
pub(super) enum EntryChange {
    Create { node: NodeId, place: Place },
    Remove { node: NodeId, place: Place },
    Move { node: NodeId, from: Place, to: Place, replaced: Option<NodeId> },
}

impl EntryChange {
    fn places(&self) -> impl Iterator<Item = &Place> {
        let (one, other) = match self {
            Self::Create { place, .. } | Self::Remove { place, .. } => (place, None),
            Self::Move { from, to, .. } => (from, Some(to)),
        };
        std::iter::once(one).chain(other)
    }

    /// Who loses a name.
    fn removed(&self) -> Option<NodeId> {
        match self {
            Self::Create { .. } => None,
            Self::Remove { node, .. } => Some(*node),
            Self::Move { replaced, .. } => *replaced,
        }
    }

    /// Everybody whom it names, directories included.
    fn nodes(&self) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> = self.places().map(|place| place.directory).collect();
        match self {
            Self::Create { node, .. } | Self::Remove { node, .. } => nodes.push(*node),
            Self::Move { node, replaced, .. } => {
                nodes.push(*node);
                nodes.extend(replaced);
            }
        }
        nodes
    }
}

impl Disk {
    pub(crate) fn create(
        &mut self,
        directory: NodeId,
        name: &OsStr,
        kind: NodeKind,
        mode: u32,
    ) -> Result<NodeId, DiskError> {
        let place = self.free_place(directory, name)?;
        let kind = match kind {
            NodeKind::File => Kind::File(Content::default()),
            NodeKind::Directory => Kind::Directory { entries: Names::new(), durable: Names::new() },
        };
        let node = self.insert(Node {
            kind,
            mode: mode & 0o7777,
            modified: SystemTime::now(),
            place: Some(place.clone()),
            home: Home::Nowhere,
            uses: 0,
            named: 0,
        });
        self.entries_mut(directory)?.insert(place.name.clone(), node);
        self.note(EntryChange::Create { node, place });
        Ok(node)
    }

    /// Removes a file, or an empty directory.
    pub(crate) fn remove(&mut self, directory: NodeId, name: &OsStr, kind: NodeKind) -> Result<(), DiskError> {
        let node = self.lookup(directory, name)?;
        match (&self.node(node)?.kind, kind) {
            (Kind::File(_), NodeKind::File) => {}
            (Kind::File(_), NodeKind::Directory) => return Err(DiskError::NotADirectory),
            (Kind::Directory { .. }, NodeKind::File) => return Err(DiskError::IsADirectory),
            (Kind::Directory { entries, .. }, NodeKind::Directory) => {
                if !entries.is_empty() {
                    return Err(DiskError::NotEmpty);
                }
            }
        }
        let place = Place { directory, name: name.to_owned() };
        self.entries_mut(directory)?.remove(name);
        self.node_mut(node)?.place = None;
        self.note(EntryChange::Remove { node, place });
        Ok(())
    }

    /// Moves an entry, over another one unless `keep`.
    pub(crate) fn rename(&mut self, from: (NodeId, &OsStr), to: (NodeId, &OsStr), keep: bool) -> Result<(), DiskError> {
        let node = self.lookup(from.0, from.1)?;
        let replaced = match self.lookup(to.0, to.1) {
            Ok(_) if keep => return Err(DiskError::Exists),
            Ok(same) if same == node => return Ok(()),
            Ok(other) => {
                match (&self.node(node)?.kind, &self.node(other)?.kind) {
                    (Kind::File(_), Kind::File(_)) => {}
                    (Kind::File(_), Kind::Directory { .. }) => return Err(DiskError::IsADirectory),
                    (Kind::Directory { .. }, Kind::File(_)) => return Err(DiskError::NotADirectory),
                    (Kind::Directory { .. }, Kind::Directory { entries, .. }) => {
                        if !entries.is_empty() {
                            return Err(DiskError::NotEmpty);
                        }
                    }
                }
                Some(other)
            }
            Err(DiskError::NotFound) => {
                self.free_place(to.0, to.1)?;
                None
            }
            Err(error) => return Err(error),
        };
        if self.lies_in(to.0, node) {
            return Err(DiskError::Invalid);
        }
        let from = Place { directory: from.0, name: from.1.to_owned() };
        let to = Place { directory: to.0, name: to.1.to_owned() };
        self.entries_mut(from.directory)?.remove(&from.name);
        self.entries_mut(to.directory)?.insert(to.name.clone(), node);
        self.node_mut(node)?.place = Some(to.clone());
        if let Some(replaced) = replaced {
            self.node_mut(replaced)?.place = None;
        }
        self.note(EntryChange::Move { node, from, to, replaced });
        let replaces_file = replaced.is_some() && matches!(self.node(node)?.kind, Kind::File(_));
        if replaces_file && self.like == Likeness::Ext4 {
            self.sync_content(node)?;
        }
        Ok(())
    }

    /// A name that is not taken, in a directory that was not removed.
    fn free_place(&self, directory: NodeId, name: &OsStr) -> Result<Place, DiskError> {
        if directory == NodeId::ROOT && name == LIMBO {
            return Err(DiskError::Invalid);
        }
        if directory != NodeId::ROOT && self.node(directory)?.place.is_none() {
            return Err(DiskError::NotFound);
        }
        match self.lookup(directory, name) {
            Ok(_) => Err(DiskError::Exists),
            Err(DiskError::NotFound) => Ok(Place { directory, name: name.to_owned() }),
            Err(error) => Err(error),
        }
    }

    /// Whether a directory is `other` or lies somewhere below it, as processes see it.
    fn lies_in(&self, directory: NodeId, other: NodeId) -> bool {
        let mut at = directory;
        loop {
            if at == other {
                return true;
            }
            match self.nodes.get(&at).and_then(|node| node.place.as_ref()) {
                Some(place) => at = place.directory,
                None => return false,
            }
        }
    }

    fn note(&mut self, change: EntryChange) {
        for node in change.nodes() {
            self.nodes.get_mut(&node).expect("changes name nodes that exist").named += 1;
        }
        let sequence = self.sequence();
        for place in change.places() {
            let directory = self.nodes.get_mut(&place.directory).expect("changes name nodes that exist");
            directory.modified = SystemTime::now();
        }
        self.entry_changes.push((sequence, change));
    }

    /// Makes all entries of all directories durable.
    pub(crate) fn sync_all_entries(&mut self) -> Result<(), DiskError> {
        let changes = mem::take(&mut self.entry_changes).into_iter().map(|(_, change)| change).collect();
        self.make_durable(changes)
    }

    pub(super) fn sync_entries(&mut self, directory: NodeId) -> Result<(), DiskError> {
        let mut directories = BTreeSet::from([directory]);
        let mut places: BTreeSet<Place> = BTreeSet::new();
        let mut taken = vec![false; self.entry_changes.len()];
        loop {
            let before = taken.iter().filter(|taken| **taken).count();
            for ((_, change), taken) in self.entry_changes.iter().zip(&mut taken).filter(|(_, taken)| !**taken) {
                if change.places().any(|place| directories.contains(&place.directory) || places.contains(place)) {
                    *taken = true;
                    places.extend(change.places().cloned());
                    directories.extend(change.removed());
                }
            }
            if before == taken.iter().filter(|taken| **taken).count() {
                break;
            }
        }
        let mut changes = Vec::new();
        let mut taken = taken.into_iter();
        self.entry_changes.retain(|(_, change)| {
            let taken = taken.next().expect("one for each change");
            if taken {
                changes.push(change.clone());
            }
            !taken
        });
        self.make_durable(changes)
    }

    /// Gives every place that these changes touch, durably, the node that processes find there.
    fn make_durable(&mut self, changes: Vec<EntryChange>) -> Result<(), DiskError> {
        let places: BTreeSet<&Place> = changes.iter().flat_map(EntryChange::places).collect();
        let wanted: Vec<(&Place, Option<NodeId>)> = places
            .into_iter()
            .map(|place| Ok((place, self.entries_of(place.directory)?.get(&place.name).copied())))
            .collect::<Result<_, DiskError>>()?;
        // Away with the old first: a node that moves has one home at any time.
        for (place, node) in &wanted {
            if let Some(old) = self.durable_at(place)?
                && Some(old) != *node
            {
                self.detach(old)?;
            }
        }
        for (place, node) in &wanted {
            if let Some(node) = node {
                self.attach(*node, place)?;
            }
        }
        for change in &changes {
            for node in change.nodes() {
                let named = &mut self.nodes.get_mut(&node).expect("a node that is named is kept").named;
                *named = named.checked_sub(1).expect("every name was counted");
            }
        }
        changes.iter().flat_map(EntryChange::nodes).try_for_each(|node| self.collect(node))
    }

    /// Makes one change durable by itself, whatever became of those before it.
    pub(super) fn make_alone(&mut self, change: &EntryChange) -> Result<(), DiskError> {
        match change {
            EntryChange::Create { node, place } => self.attach(*node, place),
            EntryChange::Remove { node, place } => {
                if self.durable_at(place)? == Some(*node) {
                    self.detach(*node)?;
                }
                Ok(())
            }
            EntryChange::Move { node, to, .. } => {
                // Without the moves in between, a directory might come to lie in itself.
                if self.home_lies_in(to.directory, *node) { Ok(()) } else { self.attach(*node, to) }
            }
        }
    }

    fn durable_at(&self, place: &Place) -> Result<Option<NodeId>, DiskError> {
        Ok(self.durable_of(place.directory)?.get(&place.name).copied())
    }

    fn durable_of(&self, id: NodeId) -> Result<&Names, DiskError> {
        match &self.node(id)?.kind {
            Kind::Directory { durable, .. } => Ok(durable),
            Kind::File(_) => Err(DiskError::NotADirectory),
        }
    }
}
