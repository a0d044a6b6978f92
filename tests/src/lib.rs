//! Black-box tests: clusters of real `kauri server` processes, real sockets, third-party clients.
//!
//! Owns the processes it starts and the scenarios that run against them; the binary `kauri-tests` runs each by name, in
//! a quick form for every change and a full one for evidence. Invariant: only processes that were started here are ever
//! signalled, by their id. What goes wrong panics with a sentence, because everything here is a test; the data and logs
//! of a cluster that was running then are kept.
#![forbid(unsafe_code)]
#![expect(clippy::disallowed_methods, reason = "processes are watched in real time, from threads of our own")]

pub mod cluster;
pub mod kafka;
pub mod patience;
pub mod rate;
pub mod scenario;
#[cfg(test)]
mod tidy;
