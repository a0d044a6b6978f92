//! Deterministic simulation of complete Kauri clusters.
#![forbid(unsafe_code)]

pub mod bites;
pub mod check;
pub mod client;
mod client_site;
pub mod clock;
pub mod cluster;
mod copies;
pub mod core;
pub mod dice;
pub mod digest;
pub mod disk;
mod disk_faults;
pub mod failure;
mod faults;
pub mod history;
pub mod mutant;
pub mod network;
mod node;
mod panic;
pub mod plan;
pub mod run;
pub mod schedule;
mod sent;
pub mod summary;
pub mod time;
pub mod trace;
pub mod workload;
pub mod world;
