//! Where nodes lie in the backing directory.
//!
//! Invariant: the durable entries of the directories in memory are those of the backing directory, and a node has one
//! home at most.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::PathBuf,
};

use super::{Disk, DiskError, Home, Kind, LIMBO, Names, NodeId, Place};

impl Disk {
    /// The maps of a directory: what processes see, and what is durable.
    pub(super) fn directory_maps(&mut self, id: NodeId) -> io::Result<(&mut Names, &mut Names)> {
        match self.nodes.get_mut(&id).map(|node| &mut node.kind) {
            Some(Kind::Directory { entries, durable }) => Ok((entries, durable)),
            Some(Kind::File(_)) | None => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    /// Opens the file in which a file's synced bytes lie, if there is one.
    pub(super) fn open_backing(&mut self, id: NodeId) -> Result<(), DiskError> {
        if self.content(id)?.backing.is_none() && self.node(id)?.home != Home::Nowhere {
            let file = File::options().read(true).write(true).open(self.path(id)?)?;
            self.content_mut(id)?.backing = Some(file);
        }
        Ok(())
    }

    /// Makes sure that a node lies somewhere in the backing directory.
    pub(super) fn give_home(&mut self, id: NodeId) -> Result<(), DiskError> {
        if self.node(id)?.home != Home::Nowhere {
            return Ok(());
        }
        let path = self.limbo(id);
        let node = self.node_mut(id)?;
        match node.kind {
            Kind::File(_) => {
                // Whatever its mode, it must be possible to open it again.
                File::options().write(true).create_new(true).mode(node.mode | 0o600).open(path)?;
            }
            Kind::Directory { .. } => DirBuilder::new().mode(node.mode | 0o700).create(path)?,
        }
        node.home = Home::Limbo;
        Ok(())
    }

    /// Brings a node to a place, away from wherever it lay, and over whatever lay there.
    pub(super) fn attach(&mut self, id: NodeId, place: &Place) -> Result<(), DiskError> {
        if let Home::At(home) = &self.node(id)?.home
            && home == place
        {
            return Ok(());
        }
        self.give_home(place.directory)?;
        self.give_home(id)?;
        self.detach(id)?;
        let (_, durable) = self.directory_maps(place.directory)?;
        if let Some(other) = durable.get(&place.name).copied() {
            self.detach(other)?;
        }
        fs::rename(self.limbo(id), self.path(place.directory)?.join(&place.name))?;
        self.node_mut(id)?.home = Home::At(place.clone());
        let (_, durable) = self.directory_maps(place.directory)?;
        durable.insert(place.name.clone(), id);
        Ok(())
    }

    /// Takes a node's name in the backing directory away, if it has one.
    pub(super) fn detach(&mut self, id: NodeId) -> Result<(), DiskError> {
        let Home::At(place) = self.node(id)?.home.clone() else { return Ok(()) };
        fs::rename(self.path(id)?, self.limbo(id))?;
        self.node_mut(id)?.home = Home::Limbo;
        let (_, durable) = self.directory_maps(place.directory)?;
        durable.remove(&place.name);
        Ok(())
    }

    /// Forgets a node that nobody can reach any more, now or after a cut.
    pub(super) fn collect(&mut self, id: NodeId) -> Result<(), DiskError> {
        let Some(node) = self.nodes.get(&id) else { return Ok(()) };
        let reachable = id == NodeId::ROOT
            || node.place.is_some()
            || matches!(node.home, Home::At(_))
            || node.uses > 0
            || node.named > 0;
        if reachable {
            return Ok(());
        }
        if node.home == Home::Limbo {
            match &node.kind {
                Kind::File(_) => fs::remove_file(self.limbo(id))?,
                Kind::Directory { durable, .. } => {
                    assert!(durable.is_empty(), "what lay in a removed directory went before it");
                    fs::remove_dir(self.limbo(id))?;
                }
            }
        }
        self.nodes.remove(&id);
        Ok(())
    }

    /// Whether a directory's home is `other` or lies somewhere below it.
    pub(super) fn home_lies_in(&self, directory: NodeId, other: NodeId) -> bool {
        let mut at = directory;
        loop {
            if at == other {
                return true;
            }
            match self.nodes.get(&at).map(|node| &node.home) {
                Some(Home::At(place)) => at = place.directory,
                Some(Home::Root | Home::Limbo | Home::Nowhere) | None => return false,
            }
        }
    }

    fn limbo(&self, id: NodeId) -> PathBuf {
        self.backing.join(LIMBO).join(id.0.to_string())
    }

    /// Where a node that has a home lies.
    pub(super) fn path(&self, id: NodeId) -> Result<PathBuf, DiskError> {
        let mut names = Vec::new();
        let mut at = id;
        let mut path = loop {
            match &self.node(at)?.home {
                Home::At(place) => {
                    names.push(&place.name);
                    at = place.directory;
                }
                Home::Root => break self.backing.clone(),
                Home::Limbo => break self.limbo(at),
                Home::Nowhere => panic!("node {} has no home", at.0),
            }
        };
        path.extend(names.into_iter().rev());
        Ok(path)
    }
}
