//! Everything between two nodes below Raft.

pub mod campaign;
pub mod detector;
