//! Repair of lost payloads: a replica whose disk damaged entries of its log asks the other members for them, one by
//! one, under the identity that it has.
//!
//! Pure. [`message`] owns the bytes, [`asking`] whom to ask next and what the answers mean together. Does not judge
//! payloads: [`super::group::Group::repair`] does.

pub mod asking;
pub mod message;
