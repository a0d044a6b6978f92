//! A Kauri node: the thin driver that plugs [`kauri_core`]'s state machine into sockets, files, threads and clocks,
//! and everything around it that only a process needs: settings, logging, the command line.
//!
//! Invariant: nothing here knows Kafka's requests or Raft. What a node does is decided in the core; this crate carries
//! it out and reports what happened.
#![forbid(unsafe_code)]

pub mod command;
pub mod driver;
pub mod logging;
pub mod settings;
