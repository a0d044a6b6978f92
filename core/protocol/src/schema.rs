//! A description of every message as data: which fields, of which type, in which versions.
//!
//! The declarations in [`crate::messages`] produce it beside the code that encodes and decodes, so it cannot disagree
//! with them. Tests and fuzzers generate messages from it, and tools print it. Nothing on the path of a request reads
//! it.

/// An inclusive range of versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    pub min: i16,
    pub max: i16,
}

impl Versions {
    pub const ALL: Self = Self { min: 0, max: i16::MAX };
    pub const NONE: Self = Self { min: 0, max: -1 };

    #[inline]
    #[must_use]
    pub const fn contains(self, version: i16) -> bool {
        self.min <= version && version <= self.max
    }
}

/// When a field is on the wire, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Presence {
    pub versions: Versions,
    /// Versions in which null is allowed; without meaning for types that have no null.
    pub nullable: Versions,
    /// `Some` if the field is in the section of tagged fields (KIP-482), and only when it differs from its default.
    pub tag: Option<u32>,
    /// Whether a value other than the default is silently left out of versions that do not have the field. If not, it
    /// is an error.
    pub ignorable: bool,
}

impl Presence {
    #[must_use]
    pub const fn new(min: i16, max: i16) -> Self {
        Self { versions: Versions { min, max }, nullable: Versions::ALL, tag: None, ignorable: false }
    }

    #[must_use]
    pub const fn nullable(self, min: i16, max: i16) -> Self {
        Self { nullable: Versions { min, max }, ..self }
    }

    #[must_use]
    pub const fn tag(self, tag: u32) -> Self {
        Self { tag: Some(tag), ..self }
    }

    #[must_use]
    pub const fn ignorable(self) -> Self {
        Self { ignorable: true, ..self }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Bool,
    Int8,
    Int16,
    Uint16,
    Int32,
    Uint32,
    Int64,
    Float64,
    Uuid,
    String { nullable: bool },
    Bytes { nullable: bool },
    Array { element: &'static Self, nullable: bool },
    Struct(&'static Struct),
}

#[derive(Debug, PartialEq, Eq)]
pub struct Struct {
    pub name: &'static str,
    /// In wire order, tagged fields included.
    pub fields: &'static [Field],
}

#[derive(Debug, PartialEq, Eq)]
pub struct Field {
    pub name: &'static str,
    pub presence: Presence,
    pub type_: Type,
}
