//! `key=value` pairs of one line.

use std::{collections::BTreeMap, str::FromStr};

/// What is left of a line's pairs.
pub(super) struct Fields<'a>(BTreeMap<&'a str, &'a str>);

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    #[error("\"{0}\" is not KEY=VALUE")]
    NotAPair(String),
    #[error("\"{0}\" is missing")]
    Missing(&'static str),
    #[error("\"{0}\" has no place here")]
    Unknown(String),
    #[error("the value \"{value}\" of \"{key}\" cannot be read")]
    Value { key: &'static str, value: String },
    #[error("a line begins with \"{0}\", which means nothing")]
    Kind(String),
    #[error("the line ends too early")]
    Short,
}

impl<'a> Fields<'a> {
    pub(super) fn parse(words: impl Iterator<Item = &'a str>) -> Result<Self, LineError> {
        let pair = |word: &'a str| word.split_once('=').ok_or_else(|| LineError::NotAPair(word.to_owned()));
        Ok(Self(words.map(pair).collect::<Result<_, _>>()?))
    }

    pub(super) fn take<T: FromStr>(&mut self, key: &'static str) -> Result<T, LineError> {
        self.take_with(key, |value| value.parse().ok())
    }

    pub(super) fn take_with<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, LineError> {
        let value = self.0.remove(key).ok_or(LineError::Missing(key))?;
        read(value).ok_or_else(|| LineError::Value { key, value: value.to_owned() })
    }

    pub(super) fn end(self) -> Result<(), LineError> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(key) => Err(LineError::Unknown((*key).to_owned())),
        }
    }
}
