//! The values of one source of configuration, each with the place it came from.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use super::key::Key;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    File { path: PathBuf, line: usize },
    Variable(String),
    Flag(String),
}

/// Values as they were written. Nodes are `ID=HOST:PORT`, with `/learner` for those that do not vote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer {
    pub(crate) values: BTreeMap<Key, Vec<(String, Origin)>>,
}

impl Layer {
    pub(crate) fn set(&mut self, key: Key, value: String, origin: Origin) {
        self.values.insert(key, vec![(value, origin)]);
    }

    /// Adds one to a list of values.
    pub(crate) fn add(&mut self, key: Key, value: String, origin: Origin) {
        self.values.entry(key).or_default().push((value, origin));
    }

    /// Lets the values of `upper` take the place of those here. Lists are replaced, not joined.
    pub(crate) fn overlay(&mut self, upper: Self) {
        self.values.extend(upper.values);
    }

    /// A value given as a flag.
    #[must_use]
    pub fn with_flag(mut self, key: Key, value: Option<String>) -> Self {
        if let Some(value) = value {
            self.set_text(key, &value, &Origin::Flag(key.flag()));
        }
        self
    }

    /// A value in the form of the environment and of flags: several nodes are separated by commas.
    pub(crate) fn set_text(&mut self, key: Key, value: &str, origin: &Origin) {
        match key {
            Key::Nodes => {
                self.values.remove(&key);
                for node in value.split(',') {
                    self.add(key, node.trim().to_owned(), origin.clone());
                }
            }
            _ => self.set(key, value.to_owned(), origin.clone()),
        }
    }
}

impl Origin {
    pub(crate) fn file(path: &Path, line: usize) -> Self {
        Self::File { path: path.to_owned(), line }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{} line {line}", path.display()),
            Self::Variable(name) | Self::Flag(name) => f.write_str(name),
        }
    }
}
