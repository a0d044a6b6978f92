//! Why a run failed.

use std::fmt;

use crate::time::Instant;

/// The first property that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The property's name: the file under `check` that owns it.
    pub checker: &'static str,
    /// None if it was found after the run.
    pub at: Option<Instant>,
    /// The shortest explanation there is.
    pub explanation: String,
}

impl Failure {
    pub fn new(checker: &'static str, explanation: impl Into<String>) -> Self {
        Self { checker, at: None, explanation: explanation.into() }
    }

    pub fn at(self, at: Instant) -> Self {
        Self { at: Some(at), ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.checker)?;
        if let Some(at) = self.at {
            write!(f, " at {at} s")?;
        }
        write!(f, ": {}", self.explanation)
    }
}
