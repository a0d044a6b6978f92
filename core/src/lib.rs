//! Kauri's broker as a state machine.
//!
//! Owns every decision of the product: sessions, Kafka APIs, partitions, metadata, replication, the format of the
//! log. Does not own a clock, a socket, a file, a thread or OS randomness: those belong to a driver (the node or the
//! simulator), which talks to [`shard::Shard`] through [`io::Input`] and [`io::Effects`] only.
#![forbid(unsafe_code)]

pub mod api;
pub mod broker;
pub mod codec;
pub mod command;
pub mod config;
pub mod ids;
pub mod io;
pub mod limits;
pub mod log;
pub mod metadata;
#[cfg(feature = "mutants")]
pub mod mutants;
pub mod partition;
pub mod recover;
pub mod replication;
pub mod rng;
pub mod session;
pub mod shard;
mod startup;
#[cfg(test)]
mod tests;
pub mod time;
