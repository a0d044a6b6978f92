//! The files of the repository.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Directories that hold what is built or downloaded.
const SKIPPED: [&str; 6] = [".git", "target", "node_modules", "__pycache__", "failures", "proptest-regressions"];

#[derive(Debug)]
pub(super) struct File {
    /// From the root of the repository.
    pub(super) path: PathBuf,
    pub(super) bytes: usize,
    /// Empty if it is no text.
    pub(super) text: String,
}

impl File {
    pub(super) fn is_rust(&self) -> bool {
        self.path.extension().is_some_and(|found| found == "rs")
    }

    pub(super) fn is_below(&self, directory: &str) -> bool {
        self.path.starts_with(directory)
    }

    pub(super) fn has_component(&self, name: &str) -> bool {
        self.path.iter().any(|component| component == name)
    }

    /// Whether it holds nothing but tests.
    pub(super) fn is_test(&self) -> bool {
        self.path
            .iter()
            .any(|part| part == "tests" || part == "tests.rs" || part.to_string_lossy().ends_with("_tests.rs"))
    }

    /// Lines that are compiled into what users run, with their numbers: no comments, no tests behind the code.
    pub(super) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .enumerate()
            .take_while(|(_, line)| !line.starts_with("#[cfg(test)]"))
            .map(|(number, line)| (number + 1, line.split("//").next().expect("a line has a first part")))
    }
}

pub(super) fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().expect("the package lies in the repository").to_owned()
}

/// Every file, in the order of their paths.
pub(super) fn repository() -> Vec<File> {
    let root = root();
    let mut files = Vec::new();
    let mut directories = vec![root.clone()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("a directory of the repository can be read") {
            let entry = entry.expect("a directory of the repository can be read");
            let kind = entry.file_type().expect("an entry has a type");
            if kind.is_dir() && !SKIPPED.iter().any(|skipped| entry.file_name() == *skipped) {
                directories.push(entry.path());
            } else if kind.is_file() {
                let bytes = fs::read(entry.path()).expect("a file of the repository can be read");
                let path = entry.path().strip_prefix(&root).expect("it lies below the root").to_owned();
                files.push(File { path, bytes: bytes.len(), text: String::from_utf8(bytes).unwrap_or_default() });
            }
        }
    }
    files.sort_by(|one, other| one.path.cmp(&other.path));
    files
}
