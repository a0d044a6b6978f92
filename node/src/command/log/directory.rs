//! The data directories that a command shall read, locked while it does.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use kauri_core::{
    io::{Directory, FileName},
    log::identity::Identity,
};

use crate::{
    command::failure::Failure,
    driver::{DataDirectory, DataDirectoryError, NodeEnd},
};

/// One node's data directory.
#[derive(Debug)]
pub(super) struct NodeDirectory {
    locked: DataDirectory,
    pub(super) identity: Identity,
}

impl NodeDirectory {
    /// See [`node_paths`].
    pub(super) fn open_all(path: &Path) -> Result<Vec<Self>, Failure> {
        node_paths(path)?.iter().map(|node| Self::open(node)).collect()
    }

    fn open(path: &Path) -> Result<Self, Failure> {
        let locked = DataDirectory::open(path)?;
        let bytes = read(&path.join(FileName::Identity.path()))?;
        let identity =
            Identity::decode(&bytes).map_err(|exit| Failure::NodeEnded { node: None, end: NodeEnd::Exit(exit) })?;
        Ok(Self { locked, identity })
    }

    pub(super) fn path(&self) -> &Path {
        self.locked.path()
    }

    /// Files of a directory, sorted by name, that the log knows.
    pub(super) fn list(&self, directory: Directory) -> Result<Vec<FileName>, Failure> {
        let path = self.path().join(directory.path());
        let mut files: Vec<FileName> =
            names(&path)?.iter().filter_map(|name| FileName::parse(directory, name)).collect();
        files.sort();
        Ok(files)
    }

    pub(super) fn exists(&self, file: FileName) -> bool {
        self.path().join(file.path()).exists()
    }

    /// A file to be read piece by piece, and its length.
    pub(super) fn open_file(&self, file: FileName) -> Result<(File, u64), Failure> {
        let path = self.path().join(file.path());
        let open = || {
            let file = File::open(&path)?;
            let length = file.metadata()?.len();
            Ok((file, length))
        };
        open().map_err(|error| Failure::File { path: path.clone(), error })
    }

    /// The next bytes of an open file; fewer than asked for at its end.
    pub(super) fn read_next(&self, name: FileName, file: &mut File, bytes: usize) -> Result<Vec<u8>, Failure> {
        let mut read = Vec::with_capacity(bytes);
        match file.take(bytes as u64).read_to_end(&mut read) {
            Ok(_) => Ok(read),
            Err(error) => Err(Failure::File { path: self.path().join(name.path()), error }),
        }
    }

    pub(super) fn read(&self, file: FileName) -> Result<Bytes, Failure> {
        read(&self.path().join(file.path()))
    }
}

/// The directory itself, or those of all nodes of a `kauri dev` that keeps them below it.
pub(in crate::command) fn node_paths(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let unusable = |error| DataDirectoryError::Unusable { path: path.to_owned(), error };
    if path.join("identity").exists() {
        return Ok(vec![path.to_owned()]);
    }
    let mut nodes: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(path).map_err(unusable)? {
        let entry = entry.map_err(unusable)?.path();
        if entry.join("identity").exists() {
            nodes.push(entry);
        }
    }
    nodes.sort();
    if nodes.is_empty() {
        let error = io::Error::new(io::ErrorKind::NotFound, "there is no file named identity in it or one level below");
        return Err(unusable(error).into());
    }
    Ok(nodes)
}

/// The names in a directory; none if it does not exist.
pub(super) fn names(path: &Path) -> Result<Vec<String>, Failure> {
    let failure = |error| Failure::File { path: path.to_owned(), error };
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failure(error)),
    };
    entries.map(|entry| Ok(entry.map_err(failure)?.file_name().to_string_lossy().into_owned())).collect()
}

fn read(path: &Path) -> Result<Bytes, Failure> {
    fs::read(path).map(Bytes::from).map_err(|error| Failure::File { path: path.to_owned(), error })
}
