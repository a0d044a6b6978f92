//! What must hold: one property per file, and the file has the property's name.

pub mod inside;
