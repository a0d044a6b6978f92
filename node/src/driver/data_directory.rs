//! One data directory, held by one process at a time.
//!
//! Invariant: while a value lives, no other process has the same directory, on pain of two nodes writing one WAL.
//! Knows nothing about what the files mean.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

/// An open, locked data directory.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    /// Locked until it is closed.
    _lock: File,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirectoryError {
    #[error("{path} is in use by another process")]
    Locked { path: PathBuf },
    #[error("{path} is not a directory")]
    NotADirectory { path: PathBuf },
    #[error("{path} holds files that are not Kauri's, such as {found}")]
    Foreign { path: PathBuf, found: String },
    #[error("{path} cannot be used: {error}")]
    Unusable { path: PathBuf, error: io::Error },
}

const LOCK: &str = "lock";
/// What a data directory may hold at its top. `lost+found` is what an ext4 volume mounted there brings along.
const KNOWN: [&str; 8] = [LOCK, "identity", "identity.new", "wal", "checkpoints", "images", "groups", "lost+found"];

impl DataDirectory {
    /// Opens the directory, creating it if there is none, and locks it. A directory with foreign files is refused
    /// before anything is created in it: the flag most likely names the wrong one.
    pub fn open(path: &Path) -> Result<Self, DataDirectoryError> {
        let unusable = |error| DataDirectoryError::Unusable { path: path.to_owned(), error };
        if !Self::check(path)? {
            create_durably(path).map_err(unusable)?;
        }
        for entry in fs::read_dir(path).map_err(unusable)? {
            let name = entry.map_err(unusable)?.file_name();
            if !KNOWN.iter().any(|known| name == *known) {
                let found = name.to_string_lossy().into_owned();
                return Err(DataDirectoryError::Foreign { path: path.to_owned(), found });
            }
        }
        let lock = File::options().create(true).truncate(false).write(true).open(path.join(LOCK)).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DataDirectoryError::Locked { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
        }
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Whether there is such a directory. What is there and is none is an error.
    pub fn check(path: &Path) -> Result<bool, DataDirectoryError> {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => Ok(true),
            Ok(_) => Err(DataDirectoryError::NotADirectory { path: path.to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            // A part of the path is a file.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                Err(DataDirectoryError::NotADirectory { path: path.to_owned() })
            }
            Err(error) => Err(DataDirectoryError::Unusable { path: path.to_owned(), error }),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Creates a directory and its missing ancestors so that they survive a power loss: a new directory is an entry of
/// its parent, and the parent must be synced for it to last.
pub(crate) fn create_durably(path: &Path) -> io::Result<()> {
    let mut missing = Vec::new();
    let mut at = path;
    while !at.as_os_str().is_empty() && !at.exists() {
        missing.push(at);
        match at.parent() {
            Some(parent) => at = parent,
            None => break,
        }
    }
    for directory in missing.into_iter().rev() {
        match fs::create_dir(directory) {
            Ok(()) => {}
            // Another thread was faster. It syncs the parent as well, but perhaps only after we have returned.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let parent = match directory.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            Some(_) | None => Path::new("."),
        };
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_created_with_its_ancestors_and_found_again() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b/c");
        drop(DataDirectory::open(&path).unwrap());
        assert!(path.is_dir());
        DataDirectory::open(&path).unwrap();
    }

    #[test]
    fn two_cannot_have_the_same_directory() {
        let root = tempfile::tempdir().unwrap();
        let first = DataDirectory::open(root.path()).unwrap();
        let error = DataDirectory::open(root.path()).unwrap_err();
        assert_eq!(error.to_string(), format!("{} is in use by another process", root.path().display()));
        drop(first);
        DataDirectory::open(root.path()).unwrap();
    }

    #[test]
    fn the_wrong_directory_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("thesis.tex"), "x").unwrap();
        let error = DataDirectory::open(root.path()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{} holds files that are not Kauri's, such as thesis.tex", root.path().display())
        );
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "nothing was created in it");

        let file = root.path().join("thesis.tex");
        let error = DataDirectory::open(&file).unwrap_err();
        assert_eq!(error.to_string(), format!("{} is not a directory", file.display()));
    }
}
