//! Deterministic simulation of complete Kauri clusters.
#![forbid(unsafe_code)]

pub mod bites;
pub mod clock;
pub mod dice;
pub mod digest;
pub mod disk;
pub mod network;
pub mod schedule;
pub mod time;
